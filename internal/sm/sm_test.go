package sm

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"os/exec"
	"testing"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// forEach runs a test on every implementation of this machine.
func forEach(t *testing.T, f func(t *testing.T, e *engine)) {
	for _, e := range engines() {
		t.Run(e.name, func(t *testing.T) { f(t, e) })
	}
}

func openssl(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %v: %v", args, err)
	}
	return out
}

var r = rand.New(rand.NewPCG(1, 2))

// GB/T 32907-2016, Appendix A.
func TestBlockVectors(t *testing.T) {
	key := unhex("0123456789abcdeffedcba9876543210")
	rk := schedule(key)
	var k portableKey
	k.spread(&rk)
	b := bytes.Clone(key)
	k.crypt(b, b)
	if want := unhex("681edf34d206965e86b3e94f536e4246"); !bytes.Equal(b, want) {
		t.Fatalf("got %x, want %x", b, want)
	}
	b = bytes.Clone(key)
	for range 1000000 {
		k.crypt(b, b)
	}
	if want := unhex("595298c7c6fd271f0402f804c33d3f66"); !bytes.Equal(b, want) {
		t.Fatalf("after 1,000,000 times got %x, want %x", b, want)
	}
}

// GB/T 32905-2016, Appendix A.
func TestHashVectors(t *testing.T) {
	for _, v := range []struct{ in, want string }{
		{"abc", "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"},
		{"abcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcdabcd", "debe9ff92275b8a138604889c18e5a4d6fdb70e5387e5765293dcba39c0c5732"},
	} {
		if got := Sum([]byte(v.in)); !bytes.Equal(got[:], unhex(v.want)) {
			t.Errorf("SM3(%q) = %x, want %s", v.in, got, v.want)
		}
	}
}

func TestHashAgainstOpenSSL(t *testing.T) {
	for n := range 200 {
		if n > 70 && n%13 != 0 {
			continue
		}
		in := random(r, n)
		want := openssl(t, in, "dgst", "-sm3", "-binary")
		h := New()
		h.Write(in[:n/3])
		h.Write(in[n/3:])
		if got := h.Sum(nil); !bytes.Equal(got, want) {
			t.Fatalf("SM3 of %d octets: got %x, want %x", n, got, want)
		}
		key := random(r, 1+n)
		want = openssl(t, in, "dgst", "-sm3", "-binary", "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(key))
		var got [HashSize]byte
		NewHMACKey(key).Sum(&got, in[:n/2], in[n/2:])
		if !bytes.Equal(got[:], want) {
			t.Fatalf("HMAC-SM3 of %d octets: got %x, want %x", n, got, want)
		}
	}
}

func TestCBCEncryptAgainstOpenSSL(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		for _, n := range []int{16, 32, 48, 64, 80, 112, 128, 144, 256, 1408} {
			key, iv, in := random(r, 16), random(r, 16), random(r, n)
			want := openssl(t, in, "enc", "-sm4-cbc", "-nopad", "-K", hex.EncodeToString(key), "-iv", hex.EncodeToString(iv))
			c, err := newCBCEncrypter(e, key)
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, n)
			newLanes(e).EncryptCBC([]CBCJob{{Key: c, IV: iv, Dst: got, Src: in}})
			if !bytes.Equal(got, want) {
				t.Fatalf("%d octets:\n got %x\nwant %x", n, got, want)
			}
		}
	})
}

func TestSelfTest(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Fatal(err)
	}
	if len(engines()) != len(candidates()) {
		t.Errorf("only %v are used", Implementations())
	}
	answer := known.sealed
	defer func() { known.sealed = answer }()
	known.sealed = "00"
	if SelfTest() == nil {
		t.Error("a wrong answer passes")
	}
}

func BenchmarkSelfTest(b *testing.B) {
	for b.Loop() {
		SelfTest()
	}
}

func TestCBCEncryptOfOnePacket(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		key, iv, in := random(r, 16), random(r, 16), random(r, 96)
		c, _ := newCBCEncrypter(e, key)
		d, _ := newCBCDecrypter(&portableEngine, key)
		out := make([]byte, len(in))
		c.Encrypt(out, iv, in)
		d.Decrypt(out, iv, out)
		if !bytes.Equal(out, in) {
			t.Fatal("decrypts to something else")
		}
	})
}
