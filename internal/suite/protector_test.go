package suite

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"reflect"
	"slices"
	"testing"

	"caponier/internal/ipsec"
)

type pair struct{ encr, integ ipsec.Transform }

func (p pair) String() string { return ProposalString(ipsec.Proposal{p.encr, p.integ}) }

// pairs are all combinations of the registry.
func pairs() []pair {
	var out []pair
	for _, e := range registry {
		switch {
		case e.encr == nil:
		case e.encr.combined != nil:
			out = append(out, pair{encr: e.transform})
		default:
			for _, i := range registry {
				if i.integ != nil {
					out = append(out, pair{e.transform, i.transform})
				}
			}
		}
	}
	return out
}

func random(rng *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = rng.Read(b)
	return b
}

func newTestProtector(t testing.TB, p pair, seed byte) Protector {
	t.Helper()
	e, i, err := KeyLengths(p.encr, p.integ)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte{seed})
	out, err := NewProtector(p.encr, p.integ, random(rng, e), random(rng, i))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// guard stands behind what may be written.
var guard = bytes.Repeat([]byte{0xee}, 16)

func TestSealOpen(t *testing.T) {
	for _, pair := range pairs() {
		t.Run(pair.String(), func(t *testing.T) {
			sender, receiver := newTestProtector(t, pair, 1), newTestProtector(t, pair, 1)
			rng := rand.NewChaCha8([32]byte{2})
			for blocks := range 40 {
				n := blocks * max(sender.BlockSize(), 7)
				plain, aad := random(rng, n), random(rng, 8+blocks%2*4)
				var tail []byte
				if !sender.Combined() && blocks%3 == 0 {
					tail = random(rng, 4)
				}
				iv := make([]byte, sender.IVLen())
				sender.NextIV(iv, uint64(blocks))

				apart := append(make([]byte, n+sender.ICVLen()), guard...)
				sender.Seal(apart, iv, plain, aad, tail)
				if !bytes.HasSuffix(apart, guard) {
					t.Fatal("Seal wrote behind the ICV")
				}
				sealed := apart[:n+sender.ICVLen()]
				inPlace := append(slices.Clone(plain), make([]byte, sender.ICVLen())...)
				sender.Seal(inPlace, iv, inPlace[:n], aad, tail)
				if !bytes.Equal(inPlace, sealed) {
					t.Fatalf("%d octets: in place %x, apart %x", n, inPlace, sealed)
				}

				opened := append(make([]byte, n), guard...)
				if err := receiver.Open(opened, iv, sealed, aad, tail); err != nil || !bytes.Equal(opened[:n], plain) {
					t.Fatalf("%d octets apart: %v, %x", n, err, opened)
				}
				if !bytes.HasSuffix(opened, guard) {
					t.Fatal("Open wrote behind the plaintext")
				}
				if err := receiver.Open(inPlace, iv, inPlace, aad, tail); err != nil || !bytes.Equal(inPlace[:n], plain) {
					t.Fatalf("%d octets in place: %v, %x", n, err, inPlace[:n])
				}
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, pair := range pairs() {
		t.Run(pair.String(), func(t *testing.T) {
			p := newTestProtector(t, pair, 1)
			plain := bytes.Repeat([]byte("sixteen octets. "), 4)
			iv, aad := make([]byte, p.IVLen()), []byte("spi and sequence")
			var tail []byte
			if !p.Combined() {
				tail = []byte{0, 0, 0, 1}
			}
			p.NextIV(iv, 1)
			sealed := make([]byte, len(plain)+p.ICVLen())
			p.Seal(sealed, iv, plain, aad, tail)

			refuse := func(what string, iv, sealed, aad, tail []byte) {
				t.Helper()
				dst := make([]byte, len(plain)+p.ICVLen())
				if err := p.Open(dst, iv, sealed, aad, tail); !errors.Is(err, ErrAuth) {
					t.Errorf("%s: %v", what, err)
				}
				if !bytes.Equal(dst, make([]byte, len(dst))) {
					t.Errorf("%s: octets left behind: %x", what, dst)
				}
				own := slices.Clone(sealed)
				if err := p.Open(own, iv, own, aad, tail); !errors.Is(err, ErrAuth) {
					t.Errorf("%s in place: %v", what, err)
				}
				if !lookup(pair.encr).encr.espOnly && len(own) > 16 && bytes.Contains(own, plain[:16]) {
					t.Errorf("%s in place: plaintext left behind", what)
				}
			}
			for n := range sealed {
				refuse(fmt.Sprintf("%d octets", n), iv, sealed[:n], aad, tail)
			}
			flip := func(b []byte, i int) []byte {
				b = slices.Clone(b)
				b[i] ^= 0x40
				return b
			}
			for i := range sealed {
				refuse(fmt.Sprintf("octet %d changed", i), iv, flip(sealed, i), aad, tail)
			}
			for i := range iv {
				refuse(fmt.Sprintf("octet %d of the IV changed", i), flip(iv, i), sealed, aad, tail)
			}
			for i := range aad {
				refuse(fmt.Sprintf("octet %d of the additional data changed", i), iv, sealed, flip(aad, i), tail)
			}
			if len(iv) > 0 {
				refuse("short IV", iv[1:], sealed, aad, tail)
			}
			refuse("long IV", append(slices.Clone(iv), 0), sealed, aad, tail)
			refuse("another tail", iv, sealed, aad, []byte{0, 0, 0, 2})
			if !p.Combined() {
				refuse("no tail", iv, sealed, aad, nil)
			}
			if err := p.Open(make([]byte, len(plain)), iv, sealed, aad, tail); err != nil {
				t.Errorf("the genuine one: %v", err)
			}
		})
	}
}

func TestProtectorsDoNotAllocate(t *testing.T) {
	for _, pair := range pairs() {
		p := newTestProtector(t, pair, 1)
		iv, aad := make([]byte, p.IVLen()), make([]byte, 8)
		buf, apart := make([]byte, 1408+p.ICVLen()), make([]byte, 1408+p.ICVLen())
		var tail []byte
		if !p.Combined() {
			tail = make([]byte, 4)
		}
		var seq uint64
		got := testing.AllocsPerRun(200, func() {
			seq++
			p.NextIV(iv, seq)
			p.Seal(apart, iv, buf[:1408], aad, tail)
			if p.Open(buf, iv, apart, aad, tail) != nil {
				t.Fatal("open apart")
			}
			p.Seal(buf, iv, buf[:1408], aad, tail)
			if p.Open(buf, iv, buf, aad, tail) != nil {
				t.Fatal("open in place")
			}
			buf[0]++
			if p.Open(apart, iv, buf, aad, tail) == nil {
				t.Fatal("open of rubbish")
			}
		})
		if got != 0 && poolKeeps {
			t.Errorf("%s: %v allocations", pair, got)
		}
	}
}

// TestWipe looks at what our own modes held, through pointers taken before.
func TestWipe(t *testing.T) {
	for _, pair := range pairs() {
		p := newTestProtector(t, pair, 1)
		buf, iv := make([]byte, 64+p.ICVLen()), make([]byte, p.IVLen())
		p.Seal(buf, iv, buf[:64], make([]byte, 8), nil)
		if err := p.Open(buf, iv, buf, make([]byte, 8), nil); err != nil {
			t.Fatal(err)
		}
		var held [][]byte
		var macs []any
		switch p := p.(type) {
		case *combined:
			held = append(held, p.nonce)
			switch aead := p.aead.(type) {
			case *ccm:
				held = append(held, aead.stream.counter[:], aead.tag[:])
				macs = append(macs, aead.mac)
			case *shortGCM:
				held = append(held, aead.scratch)
			case *gmac:
				held = append(held, aead.scratch)
			}
		case *composed:
			if p.mac.BlockSize() == aes.BlockSize {
				macs = append(macs, p.mac)
			}
			if mode, ok := p.cipherMode.(*ctr); ok {
				held = append(held, mode.counter[:], mode.stream[:], mode.end[:])
			}
		}
		p.Wipe()
		for i, b := range held {
			if !bytes.Equal(b, make([]byte, len(b))) {
				t.Errorf("%s: %x of secret %d is left", pair, b, i)
			}
		}
		for _, mac := range macs {
			if !reflect.ValueOf(mac).Elem().IsZero() {
				t.Errorf("%s: something of %T is left", pair, mac)
			}
		}
	}
}

func TestGCMNonceLayout(t *testing.T) {
	key := bytes.Repeat([]byte{3}, 16)
	salt := []byte{0xa, 0xb, 0xc, 0xd}
	p, err := NewProtector(ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
		ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegNone}, append(slices.Clone(key), salt...), nil)
	if err != nil {
		t.Fatal(err)
	}
	iv := make([]byte, 8)
	p.NextIV(iv, 0x0102030405060708)
	if !bytes.Equal(iv, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("IV %x", iv)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	want := aead.Seal(nil, append(slices.Clone(salt), iv...), []byte("plain"), []byte("aad"))
	got := make([]byte, len(want))
	p.Seal(got, iv, []byte("plain"), []byte("aad"), nil)
	if !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a tail was sealed")
			}
		}()
		p.Seal(got, iv, nil, nil, []byte{0})
	}()
}

func TestCBCIVs(t *testing.T) {
	transforms := pair{
		ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128},
		ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128},
	}
	p, other := newTestProtector(t, transforms, 1), newTestProtector(t, transforms, 9)
	seen := map[string]bool{}
	ones := 0
	iv := make([]byte, 16)
	for i := range uint64(4096) {
		p.NextIV(iv, i/2) // a sequence number may come twice
		if seen[string(iv)] {
			t.Fatalf("IV %d repeats", i)
		}
		seen[string(iv)] = true
		for _, b := range iv {
			for ; b != 0; b &= b - 1 {
				ones++
			}
		}
	}
	// 4096 * 128 fair bits have a standard deviation of 362.
	if mean := 4096 * 64; ones < mean-3000 || ones > mean+3000 {
		t.Errorf("%d bits of %d are set", ones, 2*mean)
	}
	for i := range uint64(100) {
		other.NextIV(iv, i)
		if seen[string(iv)] {
			t.Error("two keys make the same IV")
		}
	}
}

// TestAgainstOpenSSL has openssl encrypt what a CBC Protector sealed, and make
// its ICV.
func TestAgainstOpenSSL(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{4})
	key, macKey, iv := random(rng, 32), random(rng, 32), random(rng, 16)
	plain, aad, tail := random(rng, 160), random(rng, 8), random(rng, 4)
	p, err := NewProtector(ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 256},
		ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}, key, macKey)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(plain)+p.ICVLen())
	p.Seal(got, iv, plain, aad, tail)
	ciphertext := openssl(t, plain, "enc", "-aes-256-cbc", "-nopad", "-K", hex.EncodeToString(key), "-iv", hex.EncodeToString(iv))
	mac := openssl(t, slices.Concat(aad, iv, ciphertext, tail),
		"dgst", "-sha256", "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(macKey), "-binary")
	if want := slices.Concat(ciphertext, mac[:16]); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

func openssl(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl, which this test needs as its judge: %v", err)
	}
	return out
}

func TestNewProtectorRefuses(t *testing.T) {
	gcm := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}
	cbc := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128}
	mac := ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}
	for _, tt := range []struct {
		name             string
		encr, integ      ipsec.Transform
		encrLen, integLn int
		want             error
	}{
		{"no such cipher", ipsec.Transform{Type: ipsec.TypeEncr, ID: 999}, mac, 16, 32, ErrUnknown},
		{"no such key length", ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 512}, ipsec.Transform{}, 68, 0, ErrUnknown},
		{"integrity as cipher", mac, mac, 32, 32, ErrUnknown},
		{"cipher alone", cbc, ipsec.Transform{}, 16, 0, ErrUnknown},
		{"cipher as integrity", cbc, cbc, 16, 16, ErrUnknown},
		{"integrity beside combined mode", gcm, mac, 20, 32, ErrUnknown},
		{"key without salt", gcm, ipsec.Transform{}, 16, 0, ErrKeyLength},
		{"no key", cbc, mac, 0, 32, ErrKeyLength},
		{"short integrity key", cbc, mac, 16, 31, ErrKeyLength},
		{"integrity key beside combined mode", gcm, ipsec.Transform{}, 20, 32, ErrKeyLength},
	} {
		p, err := NewProtector(tt.encr, tt.integ, make([]byte, tt.encrLen), make([]byte, tt.integLn))
		if !errors.Is(err, tt.want) || p != nil {
			t.Errorf("%s: %v, %v", tt.name, p, err)
		}
	}
}

func TestMACResetsToKey(t *testing.T) {
	key := bytes.Repeat([]byte{5}, 32)
	mac, err := keyed(sha256.New)(key)
	if err != nil {
		t.Fatal(err)
	}
	mac.Write([]byte("before"))
	mac.Sum(nil)
	mac.Reset()
	mac.Write([]byte("data"))
	want := hmac.New(sha256.New, key)
	want.Write([]byte("data"))
	if !hmac.Equal(mac.Sum(nil), want.Sum(nil)) {
		t.Error("Reset does not return to the key")
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, pair := range pairs() {
		b.Run(pair.String(), func(b *testing.B) {
			p := newTestProtector(b, pair, 1)
			buf, iv, aad := make([]byte, 1408+p.ICVLen()), make([]byte, p.IVLen()), make([]byte, 8)
			b.SetBytes(1408)
			b.ReportAllocs()
			var seq uint64
			for b.Loop() {
				seq++
				binary.BigEndian.PutUint64(aad, seq)
				p.NextIV(iv, seq)
				p.Seal(buf, iv, buf[:1408], aad, nil)
			}
		})
	}
}
