package dn

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func mustParse(t *testing.T, text string) []byte {
	t.Helper()
	der, err := ParseDN(text)
	if err != nil {
		t.Fatalf("ParseDN(%q): %v", text, err)
	}
	return der
}

func TestParseDN(t *testing.T) {
	tests := []struct{ text, der, back string }{
		// Encodings written down by hand from X.690.
		{"CN=a", "300c310a300806035504030c0161", ""},
		{"C=FI", "300d310b3009060355040613024649", ""},
		{" cn = a , commonName=b ", "3018310a300806035504030c0161310a300806035504030c0162", "CN=a, CN=b"},
		{"/CN=a/CN=b,c", "301a310a300806035504030c0161310c300a06035504030c03622c63", `CN=a, CN=b\,c`},
		{"2.5.4.3=a", "300c310a300806035504030c0161", "CN=a"},
		// The SET is sorted: OU's object identifier is above CN's.
		{"OU=b+CN=a", "301631143008" + "06035504030c0161" + "3008060355040b0c0162", "CN=a+OU=b"},
		{`CN=\,\+\"\\\<\>\;\=\ `, "301431123010" + "06035504030c09" + hex.EncodeToString([]byte(`,+"\<>;= `)), `CN=\,\+\"\\\<\>\;=\ `},
		{`CN=" a, b "`, "301131" + "0f300d06035504030c06" + hex.EncodeToString([]byte(" a, b ")), `CN=\ a\, b\ `},
		{`CN=\e4\bd\a0\0a`, "300f310d300b06035504030c04" + "e4bda00a", `CN=你\0a`},
		{"CN=#0c0161", "300c310a300806035504030c0161", "CN=a"},
		{"1.2.3=#020105", "300b3109300706022a03020105", ""},
		{"DC=fi", "3014" + "31123010060a0992268993f22c640119" + "1602" + "6669", ""},
	}
	for _, tt := range tests {
		der := mustParse(t, tt.text)
		if got := hex.EncodeToString(der); got != tt.der {
			t.Errorf("ParseDN(%q) = %s, want %s", tt.text, got, tt.der)
		}
		back := tt.back
		if back == "" {
			back = tt.text
		}
		if got := FormatDN(der); got != back {
			t.Errorf("FormatDN of %q = %q, want %q", tt.text, got, back)
		}
	}
}

func TestParseDNRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "expected TYPE=value",
		"agw":                 `found "agw"`,
		"CN=a,":               "expected TYPE=value",
		"CN=a, b":             `found " b"`,
		"CN=a, b, O=c":        `expected TYPE=value`,
		"CN=":                 "empty",
		"XY=a":                `unknown type "XY"`,
		"SN=a":                "ambiguous",
		"S=a":                 "ambiguous",
		"=a":                  "unknown type",
		"C=FIN":               "country code",
		"C=Ä":                 "not allowed",
		"DC=ä":                "not ASCII",
		`CN="a`:               "not closed",
		`CN="a"b`:             "before",
		`CN=a\`:               "backslash",
		`CN=a\x`:              "backslash",
		`CN=\ff`:              "not UTF-8",
		"CN=a;b":              "escaped",
		"CN=#zz":              "hexadecimal",
		"CN=#0c0261":          "one value",
		"CN=#0c016100":        "one value",
		"3.1=a":               "object identifier",
		"1.40=a":              "object identifier",
		"1=a":                 "object identifier",
		"1.2.03=a":            "object identifier",
		"2.5.4.99999999999=a": "object identifier",
	} {
		_, err := ParseDN(text)
		if !errors.Is(err, ErrSyntax) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDN(%q): error %v, want one with %q", text, err, want)
		}
	}
}

func TestEqual(t *testing.T) {
	utf8 := mustParse(t, "C=FI, O=netsecvpn, CN=agw")
	tests := []struct {
		name string
		a, b string
		want bool
	}{
		{"same", "C=FI, CN=agw", "C=FI, CN=agw", true},
		{"case", "C=fi, CN=AGW", "C=FI, CN=agw", true},
		{"case beyond ASCII", "CN=Ä", "CN=ä", false},
		{"string type", "CN=#13036167" + "77", "CN=agw", true},
		{"BMPString", "CN=#1e06006100670077", "CN=agw", true},
		{"T61String", "CN=#1403616777", "CN=agw", true},
		{"spaces", `CN=\ a  b\ `, "CN=a b", true},
		{"space that is missing", "CN=a b", "CN=ab", false},
		{"order", "CN=agw, C=FI", "C=FI, CN=agw", false},
		{"longer", "C=FI, CN=agw, CN=x", "C=FI, CN=agw", false},
		{"type", "OU=agw", "CN=agw", false},
		{"multi-valued", "CN=a+OU=b", "OU=B+CN=A", true},
		{"multi-valued or in sequence", "CN=a+OU=b", "CN=a, OU=b", false},
		{"no wildcard", "CN=*", "CN=agw", false},
		{"imitated attribute", "CN=a+OU=b", "CN=a\\+2.5.4.11:2\\=b", false},
		{"opaque values", "CN=#020105", "CN=#020105", true},
		{"opaque and text", "CN=#020161", "CN=a", false},
	}
	for _, tt := range tests {
		if got := Equal(mustParse(t, tt.a), mustParse(t, tt.b)); got != tt.want {
			t.Errorf("%s: Equal(%q, %q) = %v", tt.name, tt.a, tt.b, got)
		}
	}
	for n := range utf8 {
		if Equal(utf8[:n], utf8[:n]) {
			t.Errorf("prefix of %d octets equals itself", n)
		}
		if s := FormatDN(utf8[:n]); !strings.HasPrefix(s, "malformed name") {
			t.Errorf("prefix of %d octets is shown as %q", n, s)
		}
	}
	if long := append(bytes.Clone(utf8), 0); Equal(long, long) {
		t.Error("a name with an octet behind it equals itself")
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, name string
		want          bool
	}{
		{"C=FI, O=netsecvpn, CN=*", "C=FI, O=netsecvpn, CN=agw", true},
		{"C=FI, O=netsecvpn, CN=*", "C=fi, O=NetSecVPN, CN=anything at all", true},
		{"C=FI, O=netsecvpn, CN=*", "C=FI, O=other, CN=agw", false},
		{"C=FI, O=netsecvpn, CN=*", "C=FI, O=netsecvpn", false},
		{"C=FI, O=netsecvpn, CN=*", "C=FI, O=netsecvpn, CN=a, CN=b", false},
		{"C=FI, O=netsecvpn, CN=*", "C=FI, O=netsecvpn, OU=agw", false},
		{"C=FI, O=netsecvpn, CN=*", "C=FI, CN=agw, O=netsecvpn", false},
		{"C=FI, O=netsecvpn, CN=*", "C=FI, O=netsecvpn, CN=agw+OU=x", false},
		{"C=*, O=*, CN=*", "C=FI, O=x, CN=y", true},
		{"CN=*+OU=b", "OU=b+CN=a", true},
		{"CN=*+OU=b", "OU=c+CN=a", false},
		{"CN=*+CN=a", "CN=a+CN=b", true},
		{"CN=*+CN=a", "CN=c+CN=b", false},
		{"CN=agw*", "CN=agw1", false}, // only the whole value is a wildcard
		{"CN=agw", "CN=*", false},     // and only in the pattern
		{"CN=agw", "CN=AGW", true},
		{"CN=*", "CN=#020105", true},
	}
	for _, tt := range tests {
		pattern, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := Match(pattern, mustParse(t, tt.name)); got != tt.want {
			t.Errorf("Match(%q, %q) = %v", tt.pattern, tt.name, got)
		}
		if want := strings.Contains(tt.pattern, "=*"); IsPattern(pattern) != want {
			t.Errorf("IsPattern(%q) = %v", tt.pattern, !want)
		}
		if text := FormatDN(pattern); !strings.HasPrefix(tt.pattern, "C=*") && strings.Contains(text, "#") {
			t.Errorf("the pattern %q is shown as %q", tt.pattern, text)
		}
	}
	pattern, name := mustParse(t, "CN=*"), mustParse(t, "CN=agw")
	for n := range name {
		if Match(pattern, name[:n]) {
			t.Errorf("a prefix of %d octets matches", n)
		}
	}
	for n := range pattern {
		if Match(pattern[:n], name) || IsPattern(pattern[:n]) {
			t.Errorf("a prefix of %d octets matches", n)
		}
	}
	if _, err := ParseDN("C=*"); err == nil {
		t.Error("C=* is a name")
	}
}

// openssl judges the encoding.
func TestParseDNAgreesWithOpenSSL(t *testing.T) {
	out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", "/dev/null",
		"-utf8", "-subj", "/C=FI/O=netsecvpn oy/OU=a+CN=agw, 1/emailAddress=a@b.fi/serialNumber=7", "-outform", "DER").Output()
	if err != nil {
		t.Fatalf("openssl (apt install openssl): %v", err)
	}
	der := mustParse(t, `C=FI, O=netsecvpn oy, OU=a+CN="agw, 1", emailAddress=a@b.fi, serialNumber=7`)
	if !bytes.Contains(out, der) {
		t.Errorf("the certificate does not hold %x", der)
	}
}

func FuzzParseDN(f *testing.F) {
	for _, s := range []string{"C=FI, O=netsecvpn, CN=agw", "/CN=a/CN=b", `CN=" a, b "+OU=\,\e4`, "1.2.3=#020105", "CN=#0c0161"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		der, err := ParseDN(text)
		if err != nil {
			return
		}
		again, err := ParseDN(FormatDN(der))
		if err != nil {
			t.Fatalf("%q is shown as %q: %v", text, FormatDN(der), err)
		}
		if !Equal(der, again) {
			t.Fatalf("%q is shown as %q, which is another name: %x, %x", text, FormatDN(der), der, again)
		}
	})
}

func FuzzFormatDN(f *testing.F) {
	for _, s := range []string{"C=FI, O=netsecvpn, CN=agw", "CN=a+OU=b", "CN=#1e06006100670077"} {
		der, err := ParseDN(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		s := FormatDN(der)
		if strings.ContainsAny(s, "\n\r\x1b\x00") {
			t.Fatalf("%x is shown as %q", der, s)
		}
		if Equal(der, der) && !strings.HasPrefix(s, "malformed") && len(der) > 2 {
			again, err := ParseDN(s)
			if err != nil || !Equal(der, again) {
				t.Fatalf("%x is shown as %q: %v", der, s, err)
			}
		}
	})
}
