package cbcmac

import (
	"encoding/hex"
	"hash"
	"reflect"
	"strings"
	"testing"
)

const xcbcKey = "000102030405060708090a0b0c0d0e0f"

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// TestAESMACVectors runs the test cases of RFC 3566, Section 4, and the examples
// of RFC 4493, Section 4, before truncation.
func TestAESMACVectors(t *testing.T) {
	const cmacKey = "2b7e151628aed2a6abf7158809cf4f3c"
	const cmacData = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51" +
		"30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
	count := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		return hex.EncodeToString(b)
	}
	for _, tt := range []struct {
		name      string
		mac       func([]byte) (hash.Hash, error)
		key, data string
		want      string
	}{
		{"XCBC", NewXCBC, xcbcKey, "", "75f0251d528ac01c4573dfd584d79f29"},
		{"XCBC", NewXCBC, xcbcKey, count(3), "5b376580ae2f19afe7219ceef172756f"},
		{"XCBC", NewXCBC, xcbcKey, count(16), "d2a246fa349b68a79998a4394ff7a263"},
		{"XCBC", NewXCBC, xcbcKey, count(20), "47f51b4564966215b8985c63055ed308"},
		{"XCBC", NewXCBC, xcbcKey, count(32), "f54f0ec8d2b9f3d36807734bd5283fd4"},
		{"XCBC", NewXCBC, xcbcKey, count(34), "becbb3bccdb518a30677d5481fb6b4d8"},
		{"XCBC", NewXCBC, xcbcKey, strings.Repeat("00", 1000), "f0dafee895db30253761103b5d84528f"},
		{"CMAC", NewCMAC, cmacKey, "", "bb1d6929e95937287fa37d129b756746"},
		{"CMAC", NewCMAC, cmacKey, cmacData[:2*16], "070a16b46b4d4144f79bdd9dd04a287c"},
		{"CMAC", NewCMAC, cmacKey, cmacData[:2*40], "dfa66747de9ae63030ca32611497c827"},
		{"CMAC", NewCMAC, cmacKey, cmacData, "51f0bebf7e3b9d92fc49741779363cfe"},
	} {
		m, err := tt.mac(unhex(tt.key))
		if err != nil {
			t.Fatal(err)
		}
		m.Write([]byte("of before"))
		m.Reset()
		m.Write(unhex(tt.data))
		for range 2 { // Sum changes nothing
			if got := hex.EncodeToString(m.Sum(nil)); got != tt.want {
				t.Errorf("%s of %s: %s, want %s", tt.name, tt.data, got, tt.want)
			}
		}
	}
	for _, mac := range []func([]byte) (hash.Hash, error){NewXCBC, NewCMAC} {
		if m, err := mac(make([]byte, 15)); err == nil {
			t.Errorf("%T takes 15 octets of key", m)
		}
	}
}

func TestWipe(t *testing.T) {
	for _, mac := range []func([]byte) (hash.Hash, error){NewXCBC, NewCMAC} {
		m, err := mac(make([]byte, 16))
		if err != nil {
			t.Fatal(err)
		}
		m.Write(make([]byte, 100))
		m.(interface{ Wipe() }).Wipe()
		if !reflect.ValueOf(m).Elem().IsZero() {
			t.Errorf("something of %T is left", m)
		}
	}
}
