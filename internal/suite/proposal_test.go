package suite

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ipsec"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		parse    func(string) (ipsec.Proposal, error)
		in, want string
	}{
		{ParseIKE, "aes256gcm16-prfsha512-x25519", "aes256gcm16-prfsha512-x25519"},
		{ParseIKE, "aes128gcm128-prfsha256-curve25519", "aes128gcm16-prfsha256-x25519"},
		{ParseIKE, "aes128-sha256-modp2048", "aes128-sha256-prfsha256-modp2048"},
		{ParseIKE, "aes128-sha2_256-ecp256", "aes128-sha256-prfsha256-ecp256"},
		{ParseIKE, "aes256-aes128-sha512-sha384-ecp384-x25519", "aes256-aes128-sha512-sha384-prfsha512-prfsha384-ecp384-x25519"},
		{ParseIKE, "x25519-prfsha384-sha256-aes192", "aes192-sha256-prfsha384-x25519"},
		{ParseIKE, "aes128-aesxcbc-modp2048", "aes128-aesxcbc-prfaesxcbc-modp2048"},
		{ParseIKE, "aes128-aescmac-sha-modp2048", "aes128-aescmac-sha1-prfaescmac-prfsha1-modp2048"},
		{ParseIKE, "aes128ccm64-aes128ccm96-aes128ccm128-prfsha1-x25519", "aes128ccm8-aes128ccm12-aes128ccm16-prfsha1-x25519"},
		{ParseIKE, "aes192gcm64-aes192gcm96-chacha20poly1305-prfsha256-x25519", "aes192gcm8-aes192gcm12-chacha20poly1305-prfsha256-x25519"},
		{ParseIKE, "aes256ctr-sha256-x25519", "aes256ctr-sha256-prfsha256-x25519"},
		{ParseIKE, "sm4gcm16-prfsm3-x25519", "sm4gcm16-prfsm3-x25519"},
		{ParseIKE, "sm4-sm3-ecp256", "sm4cbc-sm3-prfsm3-ecp256"},
		{ParseESP, "sm4-sm3_96-sm3_128", "sm4cbc-sm3_96-sm3_128-noesn"},
		{ParseESP, "null-sha1", "null-sha1-noesn"},
		{ParseESP, "aes256gmac-esn", "aes256gmac-esn"},
		{ParseESP, "aes256gcm16", "aes256gcm16-noesn"},
		{ParseESP, "aes256gcm16-prfsha512-curve25519", "aes256gcm16-x25519-noesn"},
		{ParseESP, "aes128-sha256-esn", "aes128-sha256-esn"},
		{ParseESP, "aes128-sha256-esn-noesn", "aes128-sha256-esn-noesn"},
	} {
		p, err := tt.parse(tt.in)
		if err != nil {
			t.Errorf("%s: %v", tt.in, err)
			continue
		}
		if got := ProposalString(p); got != tt.want {
			t.Errorf("%s is %s, want %s", tt.in, got, tt.want)
		}
		again, err := tt.parse(ProposalString(p))
		if err != nil || !cmp.Equal(p, again) {
			t.Errorf("%s read again: %v, %v", tt.in, again, err)
		}
	}
	got, err := ParseIKE("aes192gcm16-prfsha384-ecp384")
	if err != nil {
		t.Fatal(err)
	}
	want := ipsec.Proposal{
		{Type: ipsec.TypeEncr, ID: 20, KeyBits: 192},
		{Type: ipsec.TypePRF, ID: 6},
		{Type: ipsec.TypeKE, ID: 20},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, tt := range []struct {
		parse       func(string) (ipsec.Proposal, error)
		in, message string
		word, near  string // of the WordError, if it is one
	}{
		{ParseIKE, "", "the proposal is empty", "", ""},
		{ParseIKE, "aes256gmc16-prfsha256-x25519", `did you mean "aes256gcm16"?`, "aes256gmc16", "aes256gcm16"},
		{ParseIKE, "AES128-sha256-x25519", `did you mean "aes128"?`, "AES128", "aes128"},
		{ParseIKE, "aes128-sha265-x25519", `did you mean "sha256"?`, "sha265", "sha256"},
		{ParseIKE, "aes128-sha256-x22519", `did you mean "x25519"?`, "x22519", "x25519"},
		{ParseIKE, "aes128--x25519", `"" is not an algorithm`, "", ""},
		{ParseIKE, "blowfish-sha256-x25519", `"blowfish" is not an algorithm`, "blowfish", ""},
		{ParseIKE, strings.Repeat("a", 1000), "is not an algorithm", strings.Repeat("a", 1000), ""},
		{ParseIKE, "aes128-aes128-sha256-x25519", "there already", "aes128", ""},
		{ParseIKE, "aes128-sha256", "a key exchange method is missing", "", ""},
		{ParseIKE, "aes128gcm16-x25519", "a pseudorandom function is missing", "", ""},
		{ParseIKE, "aes128gcm16-sha256-x25519", `did you mean "prfsha256"?`, "sha256", "prfsha256"},
		{ParseIKE, "aes128gcm16-aes128-sha256-x25519", "write two proposals", "aes128", ""},
		{ParseIKE, "aes128-sha256-x25519-esn", "no meaning for an IKE SA", "esn", ""},
		{ParseIKE, "sha256-x25519", "an encryption algorithm is missing", "", ""},
		{ParseIKE, "aes128-prfsha256-x25519", "needs an integrity algorithm", "aes128", ""},
		{ParseIKE, "null-sha256-x25519", "does not encrypt", "null", ""},
		{ParseIKE, "aes128-null-sha256-x25519", "does not encrypt", "null", ""},
		{ParseIKE, "aes128gcm16-aes128gmac-prfsha256-x25519", "does not encrypt", "aes128gmac", ""},
		{ParseESP, "null", "needs an integrity algorithm", "null", ""},
		{ParseESP, "aes128gmac-sha1", "has no place beside aes128gmac", "sha1", "prfsha1"},
		{ParseESP, "aes128", "needs an integrity algorithm", "aes128", ""},
		{ParseESP, "sha256", "an encryption algorithm is missing", "", ""},
		{ParseIKE, "aes128gcm16-sha-x25519", `did you mean "prfsha1"?`, "sha", "prfsha1"},
		{ParseESP, "aes256gcm16-sha256", "has no place beside aes256gcm16", "sha256", "prfsha256"},
	} {
		p, err := tt.parse(tt.in)
		if err == nil || p != nil || !strings.Contains(err.Error(), tt.message) {
			t.Errorf("%q: %v, %v, want %q", tt.in, p, err, tt.message)
			continue
		}
		var bad *WordError
		if errors.As(err, &bad) != (tt.word != "" || strings.Contains(tt.in, "--")) {
			t.Errorf("%q: %T", tt.in, err)
		}
		if bad != nil && (bad.Word != tt.word || bad.Nearest != tt.near) {
			t.Errorf("%q: word %q, nearest %q, want %q, %q", tt.in, bad.Word, bad.Nearest, tt.word, tt.near)
		}
	}
}

func TestParseAH(t *testing.T) {
	for _, tt := range []struct{ in, want, message string }{
		{"sha256", "sha256-noesn", ""},
		{"esn-md5-sha1-modp768-prfmd5", "md5-sha1-modp768-esn", ""},
		{"sha2_256-sm3", "sha256-sm3-noesn", ""},
		{"aescmac-aesxcbc-x25519", "aescmac-aesxcbc-x25519-noesn", ""},
		{"aes256-sha256", "", `"aes256" encrypts`},
		{"null-sha256", "", `"null" encrypts or stands`},
		{"x25519", "", "an integrity algorithm is missing"},
		{"sha256-sha2_256", "", `"sha2_256" names an algorithm that is there already`},
		{"sha265", "", `did you mean "sha256"`},
		{"", "", "empty"},
	} {
		p, err := ParseAH(tt.in)
		switch {
		case tt.message == "" && (err != nil || ProposalString(p) != tt.want):
			t.Errorf("%q: %s, %v, want %s", tt.in, ProposalString(p), err, tt.want)
		case tt.message != "" && (err == nil || p != nil || !strings.Contains(err.Error(), tt.message)):
			t.Errorf("%q: %v, %v, want %q", tt.in, p, err, tt.message)
		}
	}
}

func TestWordsAndNames(t *testing.T) {
	if got, want := Words(ipsec.TypeKE), []string{
		"x25519", "curve25519", "ecp256", "ecp384", "ecp521", "x448", "curve448",
		"modp2048", "modp3072", "modp4096", "modp6144", "modp8192", "modp1536", "modp1024", "modp768",
	}; !slices.Equal(got, want) {
		t.Errorf("key exchange words %q, want %q", got, want)
	}
	for _, tt := range []struct {
		t    ipsec.Transform
		want string
	}{
		{ipsec.Transform{Type: ipsec.TypeEncr, ID: 20, KeyBits: 256}, "aes256gcm16"},
		{ipsec.Transform{Type: ipsec.TypeEncr, ID: 20, KeyBits: 64}, "encr#20/64"},
		{ipsec.Transform{Type: ipsec.TypeKE, ID: 999}, "ke#999"},
		{ipsec.Transform{Type: 77, ID: 1}, "type77#1"},
	} {
		if got := Name(tt.t); got != tt.want {
			t.Errorf("%v is %s, want %s", tt.t, got, tt.want)
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, p := range slices.Concat(DefaultIKE(), DefaultESP(), DefaultAH()) {
		for _, x := range p {
			if !Supported(x) {
				t.Errorf("%s is not supported", Name(x))
			}
			if why, weak := Weak(x); weak {
				t.Errorf("%s is weak: %s", Name(x), why)
			}
			if x.ID >= 1024 {
				t.Errorf("%s has a private-use number", Name(x))
			}
		}
	}
	for _, p := range DefaultIKE() {
		if p.First(ipsec.TypeKE).ID != ipsec.KEX25519 || p.First(ipsec.TypePRF) == (ipsec.Transform{}) {
			t.Errorf("IKE: %s", ProposalString(p))
		}
	}
	for _, p := range DefaultAH() {
		if len(p.Of(ipsec.TypeEncr)) != 0 || len(p.Of(ipsec.TypeESN)) != 2 || p.First(ipsec.TypeInteg).ID != ipsec.IntegHMACSHA256128 {
			t.Errorf("AH: %s", ProposalString(p))
		}
	}
	// Perfect forward secrecy first, and what does without it last.
	for i, p := range DefaultESP() {
		pfs := p.First(ipsec.TypeKE).ID == ipsec.KEX25519
		if len(p.Of(ipsec.TypeESN)) != 2 || len(p.Of(ipsec.TypePRF)) != 0 || pfs != (i < 2) {
			t.Errorf("ESP: %s", ProposalString(p))
		}
	}
}

func FuzzParseProposal(f *testing.F) {
	for _, seed := range []string{"aes256gcm16-prfsha512-x25519", "aes128-sha256-modp2048", "aes256gcm16-x25519-esn", "-", "aes128gcm16-sha1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, words string) {
		for _, parse := range []func(string) (ipsec.Proposal, error){ParseIKE, ParseESP, ParseAH} {
			p, err := parse(words)
			if err != nil {
				if p != nil {
					t.Errorf("a proposal with an error: %v", p)
				}
				continue
			}
			again, err := parse(ProposalString(p))
			if err != nil || !cmp.Equal(p, again) {
				t.Errorf("%q read again: %v, %v", words, again, err)
			}
		}
	})
}
