package suite

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"math/big"
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
		{ipsec.KEX25519, 32, 32}, {ipsec.KEECP256, 64, 32}, {ipsec.KEECP384, 96, 48}, {ipsec.KEMODP2048, 256, 256},
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
	for _, id := range []uint16{ipsec.KEECP256, ipsec.KEECP384} {
		if _, err := newKE(t, id).Initiate(zeros{}); err == nil {
			t.Errorf("group %d: a private key of zeros", id)
		}
	}
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

func TestMODPPrime(t *testing.T) {
	p := newKE(t, ipsec.KEMODP2048).(modpGroup).p
	q := new(big.Int).Rsh(p, 1)
	if p.BitLen() != 2048 || !p.ProbablyPrime(10) || !q.ProbablyPrime(10) {
		t.Error("the prime is not safe")
	}
	if new(big.Int).Exp(generator, q, p).Cmp(big.NewInt(1)) != 0 {
		t.Error("2 is not of order q")
	}
	shared := modpShare{group: newKE(t, ipsec.KEMODP2048).(modpGroup), x: big.NewInt(3)}.Public()
	if len(shared) != 256 || shared[255] != 8 {
		t.Errorf("a small value is not padded to the group: %x", shared)
	}
}

func TestUnknownExchange(t *testing.T) {
	for _, id := range []uint16{ipsec.KENone, 1, 2, 22} {
		if _, err := NewKeyExchange(ipsec.Transform{Type: ipsec.TypeKE, ID: id}); !errors.Is(err, ErrUnknown) {
			t.Errorf("group %d: %v", id, err)
		}
	}
}
