package suite

import (
	"bytes"
	"crypto/des"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"caponier/internal/ipsec"
)

// TestHMACMD5Vectors runs the test cases of RFC 2202, Section 2, whose keys and
// data HMAC-MD5 itself takes.
func TestHMACMD5Vectors(t *testing.T) {
	for _, tt := range []struct{ key, data, want string }{
		{strings.Repeat("0b", 16), hex.EncodeToString([]byte("Hi There")), "9294727a3638bb1c13f48ef8158bfc9d"},
		{hex.EncodeToString([]byte("Jefe")), hex.EncodeToString([]byte("what do ya want for nothing?")), "750c783e6ab0b503eaa86e310a5db738"},
		{strings.Repeat("aa", 16), strings.Repeat("dd", 50), "56be34521d144c88dbb8c733f0e8b3f6"},
		{"0102030405060708090a0b0c0d0e0f10111213141516171819", strings.Repeat("cd", 50), "697eaf0aca3a3aea3a75164746ffaa79"},
		{strings.Repeat("0c", 16), hex.EncodeToString([]byte("Test With Truncation")), "56461ef2342edc00f9bab995690efd4c"},
		{strings.Repeat("aa", 80), hex.EncodeToString([]byte("Test Using Larger Than Block-Size Key - Hash Key First")), "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"},
	} {
		prf, err := NewPRF(ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACMD5})
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(prf.Sum(unhex(tt.key), unhex(tt.data))); got != tt.want {
			t.Errorf("prf with key %s: %s, want %s", tt.key, got, tt.want)
		}
		if len(tt.key) != 32 {
			continue
		}
		mac, err := NewMAC(ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACMD596}, unhex(tt.key))
		if err != nil {
			t.Fatal(err)
		}
		mac.Write(unhex(tt.data))
		if !mac.Verify(unhex(tt.want[:24])) {
			t.Errorf("HMAC-MD5-96 with key %s: %x", tt.key, mac.ICV())
		}
	}
}

// TestDESRefusesWeakKeys finds the weak and semi-weak keys by what they do: for
// each there is one among them that undoes it.
func TestDESRefusesWeakKeys(t *testing.T) {
	var weak [][]byte
	for _, text := range []string{
		"0101010101010101", "fefefefefefefefe", "e0e0e0e0f1f1f1f1", "1f1f1f1f0e0e0e0e",
		"01fe01fe01fe01fe", "fe01fe01fe01fe01", "1fe01fe00ef10ef1", "e01fe01ff10ef10e",
		"01e001e001f101f1", "e001e001f101f101", "1ffe1ffe0efe0efe", "fe1ffe1ffe0efe0e",
		"011f011f010e010e", "1f011f010e010e01", "e0fee0fef1fef1fe", "fee0fee0fef1fef1",
	} {
		weak = append(weak, unhex(text))
	}
	plain, a, b := []byte("plaintxt"), make([]byte, 8), make([]byte, 8)
	for _, k := range weak {
		undone := 0
		for _, l := range weak {
			one, err1 := des.NewCipher(k)
			two, err2 := des.NewCipher(l)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			one.Encrypt(a, plain)
			two.Encrypt(b, a)
			if bytes.Equal(b, plain) {
				undone++
			}
		}
		if undone != 1 {
			t.Errorf("%x is undone by %d of the keys", k, undone)
		}
	}
	good, other := unhex("0123456789abcdef"), unhex("fedcba9876543210")
	refused := func(id uint16, keys ...[]byte) error {
		_, err := NewProtector(ipsec.Transform{Type: ipsec.TypeEncr, ID: id}, ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACMD596},
			bytes.Join(keys, nil), make([]byte, 16))
		return err
	}
	for _, k := range weak {
		even := bytes.Clone(k)
		for i := range even {
			even[i] ^= 1 // the parity does not hide it
		}
		for _, x := range [][]byte{k, even} {
			if err := refused(ipsec.EncrDES, x); !errors.Is(err, ErrWeakKey) {
				t.Errorf("DES takes %x: %v", x, err)
			}
			for i := range 3 {
				keys := [][]byte{good, other, good}
				keys[i] = x
				if err := refused(ipsec.Encr3DES, keys...); !errors.Is(err, ErrWeakKey) {
					t.Errorf("3DES takes %x: %v", keys, err)
				}
			}
		}
	}
	twin := bytes.Clone(good)
	twin[3] ^= 1
	for _, keys := range [][][]byte{{good, good, other}, {other, good, twin}, {good, good, good}} {
		if err := refused(ipsec.Encr3DES, keys...); !errors.Is(err, ErrWeakKey) {
			t.Errorf("3DES takes %x: %v", keys, err)
		}
	}
	for _, err := range []error{refused(ipsec.EncrDES, good), refused(ipsec.Encr3DES, good, other, good)} {
		if err != nil {
			t.Errorf("a good key: %v", err)
		}
	}
	if err := refused(ipsec.EncrDES, good[:7]); !errors.Is(err, ErrKeyLength) {
		t.Errorf("a key of 56 bits without parity: %v", err)
	}
}

// TestDESTakesAnyParity: keys that differ in parity only are one key.
func TestDESTakesAnyParity(t *testing.T) {
	seal := func(flip byte) []byte {
		key := unhex("0123456789abcdef")
		for i := range key {
			key[i] ^= flip
		}
		c, err := lookup(ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrDES}).encr.cipher(key)
		if err != nil {
			t.Fatal(err)
		}
		out := make([]byte, 16)
		c.encrypt(out, make([]byte, 8), make([]byte, 16))
		return out
	}
	if !bytes.Equal(seal(0), seal(1)) {
		t.Error("the parity bits change the ciphertext")
	}
}

// TestMAC compares every algorithm with its Protector beside the null cipher,
// which OpenSSL has judged.
func TestMAC(t *testing.T) {
	null := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrNull}
	for _, e := range registry {
		if e.integ == nil {
			continue
		}
		none, n, err := KeyLengths(ipsec.Transform{}, e.transform)
		if err != nil || none != 0 || n != e.integ.keyLen {
			t.Fatalf("%s: keys of %d and %d octets, %v", e.words[0], none, n, err)
		}
		key := bytes.Repeat([]byte{7}, n)
		p, err := NewProtector(null, e.transform, nil, key)
		if err != nil {
			t.Fatal(err)
		}
		m, err := NewMAC(e.transform, key)
		if err != nil {
			t.Fatal(err)
		}
		plain := bytes.Repeat([]byte("packet"), 30)
		sealed := make([]byte, len(plain)+p.ICVLen())
		p.Seal(sealed, nil, plain, []byte("header"), []byte("tail"))
		if m.ICVLen() != p.ICVLen() {
			t.Errorf("%s: ICV of %d octets, want %d", e.words[0], m.ICVLen(), p.ICVLen())
		}
		for range 2 {
			m.Reset()
			for _, part := range [][]byte{[]byte("header"), plain[:1], plain[1:], []byte("tail")} {
				m.Write(part)
			}
			if !bytes.Equal(m.ICV(), sealed[len(plain):]) || !m.Verify(sealed[len(plain):]) {
				t.Errorf("%s: %x, want %x", e.words[0], m.ICV(), sealed[len(plain):])
			}
			if m.Verify(sealed[len(plain):len(sealed)-1]) || m.Verify(nil) {
				t.Errorf("%s verifies a part of the ICV", e.words[0])
			}
		}
		if n := testing.AllocsPerRun(100, func() {
			m.Reset()
			m.Write(plain)
			m.Verify(sealed[len(plain):])
		}); n != 0 {
			t.Errorf("%s: %v allocations", e.words[0], n)
		}
		if _, err := NewMAC(e.transform, key[1:]); !errors.Is(err, ErrKeyLength) {
			t.Errorf("%s with a short key: %v", e.words[0], err)
		}
		m.Wipe()
	}
	for _, x := range []ipsec.Transform{{}, null, {Type: ipsec.TypeInteg, ID: ipsec.IntegNone}, {Type: ipsec.TypeInteg, ID: 3}} {
		if _, err := NewMAC(x, nil); !errors.Is(err, ErrUnknown) {
			t.Errorf("MAC of %v: %v", x, err)
		}
		if _, _, err := KeyLengths(ipsec.Transform{}, x); !errors.Is(err, ErrUnknown) {
			t.Errorf("key length of %v: %v", x, err)
		}
	}
	if _, err := NewProtector(ipsec.Transform{}, ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACMD596}, nil, make([]byte, md5.Size)); !errors.Is(err, ErrUnknown) {
		t.Errorf("a Protector without a cipher: %v", err)
	}
}
