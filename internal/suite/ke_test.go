package suite

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"math/big"
	"slices"
	"testing"
	"testing/iotest"

	"caponier/internal/ipsec"
)

func newKE(t *testing.T, id uint16) KeyExchange {
	t.Helper()
	k, err := NewKeyExchange(ipsec.Transform{Type: ipsec.TypeKE, ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestExchange(t *testing.T) {
	for _, tt := range []struct {
		id             uint16
		public, shared int
	}{
		{ipsec.KEX25519, 32, 32},
		{ipsec.KEECP256, 64, 32},
		{ipsec.KEECP384, 96, 48},
		{ipsec.KEECP521, 132, 66},
		{ipsec.KEX448, 56, 56},
		{ipsec.KEMODP768, 96, 96},
		{ipsec.KEMODP1024, 128, 128},
		{ipsec.KEMODP1536, 192, 192},
		{ipsec.KEMODP2048, 256, 256},
		{ipsec.KEMODP3072, 384, 384},
		{ipsec.KEMODP4096, 512, 512},
		{ipsec.KEMODP6144, 768, 768},
		{ipsec.KEMODP8192, 1024, 1024},
	} {
		k := newKE(t, tt.id)
		for range 5 {
			i, err := k.Initiate(rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			public, sharedR, err := k.Respond(rand.Reader, i.Public())
			if err != nil {
				t.Fatal(err)
			}
			sharedI, err := i.Finish(public)
			if err != nil {
				t.Fatal(err)
			}
			if !sharedI.Equal(sharedR) || sharedI.Len() != tt.shared || len(public) != tt.public || len(i.Public()) != tt.public {
				t.Errorf("group %d: %d octets of public value, %d of secret; equal: %v",
					tt.id, len(public), sharedI.Len(), sharedI.Equal(sharedR))
			}
		}
		broken := errors.New("broken")
		if _, err := k.Initiate(iotest.ErrReader(broken)); !errors.Is(err, broken) {
			t.Errorf("group %d, broken random source: %v", tt.id, err)
		}
		if _, _, err := k.Respond(bytes.NewReader(make([]byte, 7)), make([]byte, tt.public)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("group %d, short random source: %v", tt.id, err)
		}
	}
}

// zeros is a random source that has failed.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestStuckRandomSource(t *testing.T) {
	for _, id := range []uint16{ipsec.KEECP256, ipsec.KEECP384, ipsec.KEECP521} {
		if _, err := newKE(t, id).Initiate(zeros{}); err == nil {
			t.Errorf("group %d: a private key of zeros", id)
		}
	}
}

// x448Field returns p + v in the little-endian form of X448, with p = 2^448 -
// 2^224 - 1.
func x448Field(v int64) []byte {
	p := new(big.Int).Lsh(big.NewInt(1), 448)
	p.Sub(p, new(big.Int).Lsh(big.NewInt(1), 224))
	b := p.Add(p, big.NewInt(v-1)).FillBytes(make([]byte, 56))
	slices.Reverse(b)
	return b
}

func TestBadPublicValues(t *testing.T) {
	p := newKE(t, ipsec.KEMODP2048).(modpGroup).p
	modp := func(v *big.Int) []byte { return v.FillBytes(make([]byte, 256)) }
	one := big.NewInt(1)
	smallOrder := unhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
	for _, tt := range []struct {
		name string
		id   uint16
		peer []byte
	}{
		{"empty", ipsec.KEX25519, nil},
		{"short", ipsec.KEX25519, bytes.Repeat([]byte{9}, 31)},
		{"long", ipsec.KEX25519, bytes.Repeat([]byte{9}, 33)},
		{"zero", ipsec.KEX25519, make([]byte, 32)},
		{"one", ipsec.KEX25519, append([]byte{1}, make([]byte, 31)...)},
		{"of order 8", ipsec.KEX25519, smallOrder},
		{"empty", ipsec.KEX448, nil},
		{"short", ipsec.KEX448, bytes.Repeat([]byte{5}, 55)},
		{"long", ipsec.KEX448, bytes.Repeat([]byte{5}, 57)},
		{"zero", ipsec.KEX448, make([]byte, 56)},
		{"one", ipsec.KEX448, append([]byte{1}, make([]byte, 55)...)},
		{"minus one", ipsec.KEX448, x448Field(-1)},
		{"zero, not reduced", ipsec.KEX448, x448Field(0)},
		{"one, not reduced", ipsec.KEX448, x448Field(1)},
		{"empty", ipsec.KEECP256, nil},
		{"infinity", ipsec.KEECP256, make([]byte, 64)},
		{"off the curve", ipsec.KEECP256, bytes.Repeat([]byte{1}, 64)},
		{"above the field", ipsec.KEECP256, bytes.Repeat([]byte{0xff}, 64)},
		{"x alone", ipsec.KEECP256, bytes.Repeat([]byte{1}, 32)},
		{"with the prefix", ipsec.KEECP256, append([]byte{4}, bytes.Repeat([]byte{1}, 64)...)},
		{"empty", ipsec.KEECP384, nil},
		{"infinity", ipsec.KEECP384, make([]byte, 96)},
		{"off the curve", ipsec.KEECP384, bytes.Repeat([]byte{1}, 96)},
		{"of the other curve", ipsec.KEECP384, make([]byte, 64)},
		{"empty", ipsec.KEECP521, nil},
		{"infinity", ipsec.KEECP521, make([]byte, 132)},
		{"off the curve", ipsec.KEECP521, bytes.Repeat([]byte{1}, 132)},
		{"above the field", ipsec.KEECP521, bytes.Repeat([]byte{0xff}, 132)},
		{"without the zero bits", ipsec.KEECP521, make([]byte, 131)},
		{"of another group", ipsec.KEMODP3072, modp(big.NewInt(5))},
		{"empty", ipsec.KEMODP2048, nil},
		{"0", ipsec.KEMODP2048, modp(new(big.Int))},
		{"1", ipsec.KEMODP2048, modp(one)},
		{"p-1", ipsec.KEMODP2048, modp(new(big.Int).Sub(p, one))},
		{"p", ipsec.KEMODP2048, modp(p)},
		{"p+1", ipsec.KEMODP2048, modp(new(big.Int).Add(p, one))},
		{"all ones", ipsec.KEMODP2048, bytes.Repeat([]byte{0xff}, 256)},
		{"not padded", ipsec.KEMODP2048, []byte{5}},
		{"too long", ipsec.KEMODP2048, append([]byte{0}, modp(big.NewInt(5))...)},
	} {
		k := newKE(t, tt.id)
		public, shared, err := k.Respond(rand.Reader, tt.peer)
		if !errors.Is(err, ErrPublicValue) || public != nil || !shared.IsZero() {
			t.Errorf("group %d, %s: Respond: %v", tt.id, tt.name, err)
		}
		share, err := k.Initiate(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if shared, err := share.Finish(tt.peer); !errors.Is(err, ErrPublicValue) || !shared.IsZero() {
			t.Errorf("group %d, %s: Finish: %v", tt.id, tt.name, err)
		}
	}
	for _, y := range []*big.Int{big.NewInt(2), new(big.Int).Sub(p, big.NewInt(2))} {
		if _, _, err := newKE(t, ipsec.KEMODP2048).Respond(rand.Reader, modp(y)); err != nil {
			t.Errorf("a value at the border: %v", err)
		}
	}
}

// TestMODPPrimes computes each prime from its formula (RFC 2409, Section 6; RFC
// 3526).
func TestMODPPrimes(t *testing.T) {
	const precision = 8192
	pi := computePi(precision)
	one := big.NewInt(1)
	for _, tt := range []struct {
		id uint16
		n  uint
		k  int64
	}{
		{ipsec.KEMODP768, 768, 149686},
		{ipsec.KEMODP1024, 1024, 129093},
		{ipsec.KEMODP1536, 1536, 741804},
		{ipsec.KEMODP2048, 2048, 124476},
		{ipsec.KEMODP3072, 3072, 1690314},
		{ipsec.KEMODP4096, 4096, 240904},
		{ipsec.KEMODP6144, 6144, 929484},
		{ipsec.KEMODP8192, 8192, 4743158},
	} {
		group := newKE(t, tt.id).(modpGroup)
		want := new(big.Int).Rsh(pi, precision-(tt.n-130))
		want.Add(want, big.NewInt(tt.k)).Lsh(want, 64)
		want.Add(want, new(big.Int).Lsh(one, tt.n))
		want.Sub(want, new(big.Int).Lsh(one, tt.n-64)).Sub(want, one)
		if group.p.Cmp(want) != 0 {
			t.Errorf("modp%d: %x, want %x", tt.n, group.p, want)
		}
		q := new(big.Int).Rsh(group.p, 1)
		if tt.n <= 3072 && (!group.p.ProbablyPrime(1) || !q.ProbablyPrime(1)) {
			t.Errorf("modp%d: the prime is not safe", tt.n)
		}
		if new(big.Int).Exp(generator, q, group.p).Cmp(one) != 0 {
			t.Errorf("modp%d: 2 is not of order q", tt.n)
		}
		small := modpShare{group: group, x: big.NewInt(3)}.Public()
		if len(small) != int(tt.n/8) || small[len(small)-1] != 8 {
			t.Errorf("modp%d: a small value is not padded to the group: %x", tt.n, small)
		}
	}
}

// computePi returns floor(2^bits * pi), by Machin's formula: pi = 16 arctan(1/5)
// - 4 arctan(1/239).
func computePi(bits uint) *big.Int {
	const guard = 64
	arctan := func(inverse int64) *big.Int {
		term := new(big.Int).Lsh(big.NewInt(1), bits+guard)
		term.Quo(term, big.NewInt(inverse))
		sum := new(big.Int).Set(term)
		square := big.NewInt(inverse * inverse)
		for n := int64(3); term.Sign() != 0; n += 2 {
			term.Quo(term, square).Neg(term)
			sum.Add(sum, new(big.Int).Quo(term, big.NewInt(n)))
		}
		return sum
	}
	pi := new(big.Int).Lsh(arctan(5), 4)
	pi.Sub(pi, new(big.Int).Lsh(arctan(239), 2))
	return pi.Rsh(pi, guard)
}

func TestUnknownExchange(t *testing.T) {
	for _, id := range []uint16{ipsec.KENone, 3, 4, 22} {
		if _, err := NewKeyExchange(ipsec.Transform{Type: ipsec.TypeKE, ID: id}); !errors.Is(err, ErrUnknown) {
			t.Errorf("group %d: %v", id, err)
		}
	}
}
