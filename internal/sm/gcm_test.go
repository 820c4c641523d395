package sm

import (
	"bytes"
	"crypto/cipher"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	gmsm4 "github.com/emmansun/gmsm/sm4"
)

// RFC 8998, Appendix A.1.
func TestGCMVector(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		g, err := newGCM(e, unhex("0123456789abcdeffedcba9876543210"))
		if err != nil {
			t.Fatal(err)
		}
		nonce, aad := unhex("00001234567800000000abcd"), unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
		plain := unhex("aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccddddddddddddddddeeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa")
		want := unhex("17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d" +
			"83de3541e4c2b58177e065a9bf7b62ec")
		if got := g.Seal(nil, nonce, plain, aad); !bytes.Equal(got, want) {
			t.Errorf("sealed\n%x, want\n%x", got, want)
		}
		if got, err := g.Open(nil, nonce, want, aad); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("opened %x, %v", got, err)
		}
	})
}

func peerGCM(t testing.TB, key []byte) cipher.AEAD {
	t.Helper()
	b, err := gmsm4.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cipher.NewGCM(b)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// judge returns another implementation of GCM than e: the peer, or for engines
// that are the peer the portable code, which the peer judges.
func judge(t testing.TB, e *engine, key []byte) cipher.AEAD {
	t.Helper()
	if e.gmsm == gmsmTables {
		return peerGCM(t, key)
	}
	g, err := newGCM(&portableEngine, key)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGCMAgainstPeer(t *testing.T) {
	lengths := []int{1023, 1024, 1025, 1279, 1280, 1400, 1504, 1519, 1520, 1521, 1535, 1536, 1537, 2048, 3000, 3055, 3056, 3057, 4600, 9000, 65537}
	step := 1
	if testing.Short() {
		step = 7
	}
	for n := 0; n < 600; n += step {
		lengths = append(lengths, n)
	}
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(9, 10))
		for _, n := range lengths {
			key, nonce, plain, aad := random(r, 16), random(r, 12), random(r, n), random(r, r.IntN(50))
			if n%50 == 0 {
				aad = random(r, r.IntN(5000))
			}
			want := judge(t, e, key).Seal(nil, nonce, plain, aad)
			g, err := newGCM(e, key)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.Seal(nil, nonce, plain, aad); !bytes.Equal(got, want) {
				t.Fatalf("%d octets, %d additional: wrong seal", n, len(aad))
			}
			buf := append(bytes.Clone(plain), make([]byte, 16)...)
			if got := g.Seal(buf[:0], nonce, buf[:n], aad); !bytes.Equal(got, want) {
				t.Fatalf("%d octets, %d additional: wrong seal in place", n, len(aad))
			}
			if got, err := g.Open(nil, nonce, want, aad); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d octets, %d additional: open: %v", n, len(aad), err)
			}
			if got, err := g.Open(buf[:0], nonce, buf, aad); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d octets, %d additional: open in place: %v", n, len(aad), err)
			}
			bad := bytes.Clone(want)
			bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
			if got, err := g.Open(bad[:0], nonce, bad, aad); err == nil || got != nil {
				t.Fatalf("%d octets: opened what was changed", n)
			}
			if !bytes.Equal(bad[:n], make([]byte, n)) {
				t.Fatalf("%d octets: plaintext left behind", n)
			}
		}
	})
}

func TestCBCDecryptAndECB(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(11, 12))
		for n := 16; n < 5000; n += 16 {
			key, iv, plain := random(r, 16), random(r, 16), random(r, n)
			rk := schedule(key)
			var k portableKey
			k.spread(&rk)
			sealed := make([]byte, n)
			k.encryptCBC(sealed, iv, plain)
			d, err := newCBCDecrypter(e, key)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n)
			d.Decrypt(got, iv, sealed)
			if !bytes.Equal(got, plain) {
				t.Fatalf("CBC of %d octets: wrong plaintext", n)
			}
			d.Decrypt(sealed, iv, sealed)
			if !bytes.Equal(sealed, plain) {
				t.Fatalf("CBC of %d octets in place: wrong plaintext", n)
			}
			c, err := newCipher(e, key)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, n)
			for i := 0; i < n; i += 256 {
				k.crypt(want[i:min(i+256, n)], plain[i:min(i+256, n)])
			}
			c.EncryptBlocks(got, plain)
			if !bytes.Equal(got, want) {
				t.Fatalf("ECB of %d octets: wrong ciphertext", n)
			}
			c.DecryptBlocks(got, got)
			if !bytes.Equal(got, plain) {
				t.Fatalf("ECB of %d octets: wrong plaintext", n)
			}
		}
	})
}

func TestCTRAgainstOpenSSL(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(13, 14))
		for _, n := range []int{1, 15, 16, 17, 255, 256, 257, 512, 1400, 3000} {
			key, iv, in := random(r, 16), random(r, 16), random(r, n)
			if n%2 == 0 {
				copy(iv[12:], []byte{0xff, 0xff, 0xff, 0xf9}) // carries into the first words
			}
			want := openssl(t, in, "enc", "-sm4-ctr", "-K", hex.EncodeToString(key), "-iv", hex.EncodeToString(iv))
			c, err := newCipher(e, key)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n)
			s := c.CTR(iv)
			for at, step := 0, 1; at < n; at, step = min(n, at+step), step*3 {
				s.XORKeyStream(got[at:min(n, at+step)], in[at:min(n, at+step)])
			}
			if !bytes.Equal(got, want) {
				t.Fatalf("%d octets: got %x, want %x", n, got, want)
			}
		}
	})
}

func TestGCMBatches(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(17, 18))
		l := newLanes(e)
		for round := range 60 {
			var keys []*GCM
			var peers []cipher.AEAD
			for range 2 {
				key := random(r, 16)
				g, _ := newGCM(e, key)
				keys, peers = append(keys, g), append(peers, judge(t, e, key))
			}
			var seal, open []GCMJob
			var plain, want [][]byte
			for range r.IntN(40) {
				k := r.IntN(8) / 7
				n := r.IntN(200)
				if r.IntN(5) == 0 {
					n = r.IntN(1600)
				}
				p := random(r, n)
				j := GCMJob{Key: keys[k], Nonce: random(r, 12), AAD: random(r, r.IntN(20)), Src: bytes.Clone(p)}
				if r.IntN(9) == 0 {
					j.AAD = random(r, 3000)
				}
				w := peers[k].Seal(nil, j.Nonce, p, j.AAD)
				j.Dst = make([]byte, n+16)
				if r.IntN(2) == 0 {
					copy(j.Dst, p)
					j.Src = j.Dst[:n]
				}
				seal, plain, want = append(seal, j), append(plain, p), append(want, w)
				o := GCMJob{Key: j.Key, Nonce: j.Nonce, AAD: j.AAD, Src: bytes.Clone(w), Dst: make([]byte, n)}
				if r.IntN(2) == 0 {
					o.Dst = o.Src[:n]
				}
				open = append(open, o)
			}
			l.SealGCM(seal)
			spoiled := -1
			if len(open) > 0 && round%2 == 0 {
				spoiled = r.IntN(len(open))
				open[spoiled].Src[r.IntN(len(open[spoiled].Src))] ^= 1
			}
			l.OpenGCM(open)
			for i := range seal {
				if !bytes.Equal(seal[i].Dst, want[i]) {
					t.Fatalf("round %d: packet %d of %d octets: wrong seal", round, i, len(plain[i]))
				}
				switch {
				case i == spoiled:
					if open[i].Err != ErrAuth || !bytes.Equal(open[i].Dst, make([]byte, len(open[i].Dst))) {
						t.Fatalf("round %d: changed packet %d opened", round, i)
					}
				case open[i].Err != nil || !bytes.Equal(open[i].Dst, plain[i]):
					t.Fatalf("round %d: packet %d: %v", round, i, open[i].Err)
				}
			}
		}
	})
}
