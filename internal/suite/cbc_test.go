package suite

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"caponier/internal/ipsec"
)

// TestCBC runs example 1 of GB/T 32907-2016, Appendix A, as the first block of CBC
// under an IV of zeros, and chains from there (RFC 2409, Appendix B).
func TestCBC(t *testing.T) {
	sm4cbc := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
	c, err := NewCBC(sm4cbc, unhex(sm4Key))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wipe()
	plain := append(unhex(sm4Key), make([]byte, 16)...)
	whole, parts := make([]byte, 32), make([]byte, 32)
	c.Encrypt(whole, make([]byte, 16), plain)
	c.Encrypt(parts[:16], make([]byte, 16), plain[:16])
	c.Encrypt(parts[16:], parts[:16], plain[16:])
	if hex.EncodeToString(whole[:16]) != "681edf34d206965e86b3e94f536e4246" || !bytes.Equal(whole, parts) {
		t.Errorf("%x, %x", whole, parts)
	}
	c.Decrypt(whole, make([]byte, 16), whole)
	if !bytes.Equal(whole, plain) || c.BlockSize() != 16 {
		t.Errorf("decrypted %x", whole)
	}
	for _, id := range []uint16{ipsec.EncrSM4GCM16, ipsec.EncrAESCTR, ipsec.EncrNull, 9999} {
		tr := ipsec.Transform{Type: ipsec.TypeEncr, ID: id}
		if id == ipsec.EncrAESCTR {
			tr.KeyBits = 128
		}
		for _, n := range []int{0, 16, 20} {
			if _, err := NewCBC(tr, make([]byte, n)); err == nil {
				t.Errorf("%s is a CBC", Name(tr))
			}
		}
	}
	if _, err := NewCBC(sm4cbc, make([]byte, 15)); !errors.Is(err, ErrKeyLength) {
		t.Errorf("a short key: %v", err)
	}
}

func TestNewHash(t *testing.T) {
	h, err := NewHash(ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3})
	if err != nil {
		t.Fatal(err)
	}
	sum := h()
	sum.Write([]byte("abc"))
	if got := hex.EncodeToString(sum.Sum(nil)); got != "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0" {
		t.Errorf("SM3 of abc is %s", got)
	}
	for _, id := range []uint16{ipsec.PRFAESXCBC, 9999} {
		if _, err := NewHash(ipsec.Transform{Type: ipsec.TypePRF, ID: id}); !errors.Is(err, ErrUnknown) {
			t.Errorf("PRF %d: %v", id, err)
		}
	}
}
