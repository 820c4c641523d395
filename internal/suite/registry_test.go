package suite

import (
	"errors"
	"strings"
	"testing"

	"caponier/internal/ipsec"
)

func TestSelfTest(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Fatal(err)
	}
}

// TestSelfTestNotices gives every algorithm the constructor of another one of
// its kind, or a vector that is off by a bit.
func TestSelfTestNotices(t *testing.T) {
	for i := range registry {
		for j := range registry {
			a, b := &registry[i], registry[j]
			if i == j || a.transform.Type != b.transform.Type || a.transform.Type == ipsec.TypeESN {
				continue
			}
			if a.encr != nil && (a.encr.combined == nil) != (b.encr.combined == nil) {
				continue
			}
			if a.encr != nil && a.encr.keyLen != b.encr.keyLen {
				continue // the AES of another key length is the same constructor
			}
			if err := a.check(&b); err == nil {
				t.Errorf("the vector of %s passes for %s", a.words[0], b.words[0])
			}
		}
	}
	for i := range registry {
		if e := &registry[i]; e.check == nil && e.transform.Type != ipsec.TypeESN {
			t.Errorf("%s has no known answer", e.words[0])
		}
	}
}

func TestRegistryIsSound(t *testing.T) {
	words, transforms := map[string]bool{}, map[ipsec.Transform]bool{}
	for _, e := range registry {
		if transforms[e.transform] {
			t.Errorf("%v is registered twice", e.transform)
		}
		transforms[e.transform] = true
		if !Supported(e.transform) {
			t.Errorf("%s is not supported", e.words[0])
		}
		for _, w := range e.words {
			if words[w] || w != strings.ToLower(w) || strings.Contains(w, "-") {
				t.Errorf("word %q is there twice, or not in form", w)
			}
			words[w] = true
		}
		set := 0
		for _, is := range []bool{e.encr != nil, e.integ != nil, e.prf != nil, e.ke != nil} {
			if is {
				set++
			}
		}
		want := 1
		if e.transform.Type == ipsec.TypeESN {
			want = 0
		}
		if set != want {
			t.Errorf("%s has %d algorithms, want %d", e.words[0], set, want)
		}
		if e.integ != nil && (!Supported(e.integ.prf) || e.integ.icvLen > maxMAC) {
			t.Errorf("%s: no PRF, or too long", e.words[0])
		}
	}
	if Supported(ipsec.Transform{Type: ipsec.TypeEncr, ID: 1}) {
		t.Error("DES with an IV of 64 bits that is not sent is supported")
	}
}

func TestWeak(t *testing.T) {
	for word, want := range map[string]bool{
		"sha1": true, "prfsha1": true, "null": true, "aes128gmac": true, "aes256gcm8": true, "aes256ccm8": true,
		"aes128ccm12": false, "aes128gcm12": false, "aes128ctr": false, "aesxcbc": false, "prfaescmac": false,
		"chacha20poly1305": false, "sm4gcm16": false, "sm4cbc": false, "sm3_96": false, "prfsm3": false, "esn": false, "modp768": true, "modp1024": true, "modp1536": true,
		"des": true, "3des": true, "md5": true, "prfmd5": true, "modp2048": false,
	} {
		e, err := parseWord(word)
		if err != nil {
			t.Fatal(err)
		}
		if why, weak := WeakWord(word); weak != want || weak != (why != "") {
			t.Errorf("word %s: weak: %v, %q", word, weak, why)
		}
		if why, weak := Weak(e.transform); weak != want || weak != (why != "") {
			t.Errorf("%s: weak: %v, %q", word, weak, why)
		}
	}
	if why, weak := Weak(ipsec.Transform{Type: ipsec.TypeEncr, ID: 999}); weak || why != "" {
		t.Errorf("an unknown transform is weak: %q", why)
	}
}

func TestPRF(t *testing.T) {
	for _, tt := range []struct {
		id   uint16
		size int
	}{
		{ipsec.PRFHMACMD5, 16},
		{ipsec.PRFHMACSHA1, 20},
		{ipsec.PRFHMACSHA256, 32},
		{ipsec.PRFHMACSHA384, 48},
		{ipsec.PRFHMACSHA512, 64},
		{ipsec.PRFHMACSM3, 32},
		{ipsec.PRFAESXCBC, 16},
		{ipsec.PRFAESCMAC, 16},
	} {
		p, err := NewPRF(ipsec.Transform{Type: ipsec.TypePRF, ID: tt.id})
		if err != nil {
			t.Fatal(err)
		}
		if special := p.SeedNonceLen() != 0; special != (tt.id == ipsec.PRFAESXCBC || tt.id == ipsec.PRFAESCMAC) {
			t.Errorf("PRF %d: %d octets of each nonce make SKEYSEED", tt.id, p.SeedNonceLen())
		}
		if p.Size() != tt.size || p.KeyLen() != tt.size || len(p.Sum(nil)) != tt.size {
			t.Errorf("PRF %d: size %d, key %d", tt.id, p.Size(), p.KeyLen())
		}
	}
	if _, err := NewPRF(ipsec.Transform{Type: ipsec.TypePRF, ID: 3}); !errors.Is(err, ErrUnknown) {
		t.Errorf("HMAC-Tiger: %v", err)
	}
}
