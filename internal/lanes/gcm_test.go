package lanes

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"math/rand/v2"
	"testing"
)

// gcms returns AES-GCM twice, and Go's.
func gcms(t testing.TB, r *rand.Rand, keyLen int) (*GCM, cipher.AEAD) {
	key := random(r, keyLen)
	g, err := NewGCM(key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := aes.NewCipher(key)
	judge, _ := cipher.NewGCM(block)
	return g, judge
}

func TestGCM(t *testing.T) {
	if !require(t, AESGCM) {
		return
	}
	r := rand.New(rand.NewPCG(31, 32))
	for n := range 2200 {
		if n > 600 && n%7 != 0 {
			continue
		}
		g, judge := gcms(t, r, 16+8*(n%3))
		nonce, plain, aad := random(r, 12), random(r, n), random(r, n%70)
		want := judge.Seal([]byte("before"), nonce, plain, aad)
		if got := g.Seal([]byte("before"), nonce, plain, aad); !bytes.Equal(got, want) {
			t.Fatalf("%d octets, %d of additional data: sealed %x, want %x", n, len(aad), got, want)
		}
		sealed := want[6:]
		spoilt := bytes.Clone(sealed)
		spoilt[r.IntN(len(spoilt))] ^= 1 << r.IntN(8)
		buf := random(r, n+20)
		if _, err := g.Open(buf[:0], nonce, spoilt, aad); err == nil || !bytes.Equal(buf[:n], make([]byte, n)) {
			t.Fatalf("%d octets: a forgery opens: %v", n, err)
		}
		if got, err := g.Open(sealed[:0], nonce, sealed, aad); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d octets do not open: %v", n, err)
		}
		if n%3 == 0 { // in place
			buf := append(bytes.Clone(plain), make([]byte, TagSize)...)
			if got := g.Seal(buf[:0], nonce, buf[:n], aad); !bytes.Equal(got, judge.Seal(nil, nonce, plain, aad)) {
				t.Fatalf("%d octets in place: %x", n, got)
			}
		}
	}
}

// TestGCMRefuses is what crypto/cipher's GCM refuses.
func TestGCMRefuses(t *testing.T) {
	if !require(t, AESGCM) {
		return
	}
	g, _ := gcms(t, rand.New(rand.NewPCG(1, 1)), 16)
	buf := make([]byte, 100)
	for n := range TagSize {
		if _, err := g.Open(nil, buf[:12], buf[:n], nil); err == nil {
			t.Errorf("%d octets open", n)
		}
	}
	for name, f := range map[string]func(){
		"short nonce":          func() { g.Seal(nil, buf[:11], buf, nil) },
		"long nonce":           func() { g.Open(nil, buf[:13], buf, nil) },
		"overlap":              func() { g.Seal(buf[1:1], buf[:12], buf[:32], nil) },
		"overlap when opening": func() { g.Open(buf[:0], make([]byte, 12), buf[1:60], nil) },
		"data in output":       func() { g.Seal(buf[:0], make([]byte, 12), buf[:16], buf[20:24]) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	for _, n := range []int{0, 15, 33} {
		if _, err := NewGCM(make([]byte, n)); err == nil {
			t.Errorf("a key of %d octets is taken", n)
		}
	}
	out := make([]byte, 0, 1500)
	if n := testing.AllocsPerRun(10, func() {
		s := g.Seal(out, buf[:12], buf, buf[:8])
		_, _ = g.Open(s[:0], buf[:12], s, buf[:8])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzGCM compares AES-GCM with Go's.
func FuzzGCM(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("nonce nonce "), []byte("header"), []byte("payload"))
	f.Add(make([]byte, 32), make([]byte, 12), []byte{}, make([]byte, 1400))
	f.Add(make([]byte, 24), make([]byte, 12), make([]byte, 33), make([]byte, 505))
	f.Fuzz(func(t *testing.T, key, nonce, aad, plain []byte) {
		if n := len(key); !Supported(AESGCM) || n != 16 && n != 24 && n != 32 || len(nonce) != NonceSize {
			return
		}
		g, err := NewGCM(key)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := aes.NewCipher(key)
		judge, _ := cipher.NewGCM(block)
		want := judge.Seal(nil, nonce, plain, aad)
		if got := g.Seal(nil, nonce, plain, aad); !bytes.Equal(got, want) {
			t.Fatalf("sealed %x, want %x", got, want)
		}
		if got, err := g.Open(nil, nonce, want, aad); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("opened %x: %v", got, err)
		}
	})
}

func BenchmarkGCM(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, bits := range []int{128, 256} {
		g, judge := gcms(b, r, bits/8)
		nonce, aad := random(r, 12), random(r, 8)
		for _, n := range []int{64, 256, 512, 1400, 9000} {
			for name, a := range map[string]cipher.AEAD{"lanes": g, "go": judge} {
				buf := make([]byte, n, n+TagSize)
				b.Run(fmt.Sprintf("key=%d/do=seal/size=%d/impl=%s", bits, n, name), func(b *testing.B) {
					b.SetBytes(int64(n))
					for b.Loop() {
						a.Seal(buf[:0], nonce, buf, aad)
					}
				})
				sealed, out := a.Seal(nil, nonce, buf, aad), make([]byte, n)
				b.Run(fmt.Sprintf("key=%d/do=open/size=%d/impl=%s", bits, n, name), func(b *testing.B) {
					b.SetBytes(int64(n))
					for b.Loop() {
						if _, err := a.Open(out[:0], nonce, sealed, aad); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
