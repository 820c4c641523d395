package config

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/config/problem"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

const manualFile = `manual:
  associations:
    to-b:
      direction: out
      spi: 0x2001
      local-address: 192.0.2.1
      remote-address: 192.0.2.9
      algorithms: ALGORITHMS
      encryption-key-file: enc
      integrity-key-file: int
      local: 10.1.0.0/16
      remote: 10.9.0.0/16
      reqid: 9
      soft-lifetime: 1h
      hard-lifetime: 2h
  policies:
    b: { action: protect, local: 10.1.0.0/16, remote: 10.9.0.0/16, reqid: 9 }
`

// loadManual loads a file with keys of so many octets.
func loadManual(t *testing.T, text string, encr, integ int, mode os.FileMode) (*Config, []*problem.Problem, error) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "enc", hexKey(encr), mode)
	write(t, dir, "int", hexKey(integ)+"\n", 0o600)
	write(t, dir, "x.yaml", text, 0o644)
	return Load(filepath.Join(dir, "x.yaml"), Checks{Now: time.Now()})
}

func hexKey(octets int) string {
	var b strings.Builder
	for i := range octets {
		fmt.Fprintf(&b, "%02x", i)
	}
	return b.String()
}

func TestManualAssociation(t *testing.T) {
	c, warnings, err := loadManual(t, strings.Replace(manualFile, "ALGORITHMS", "aes256-sha256", 1), 32, 32, 0o600)
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	a := c.Association("to-b")
	sa := a.SA()
	if sa.SPI != 0x2001 || sa.Direction != ipsec.Out || sa.Protocol != ipsec.ESP || sa.Mode != ipsec.Tunnel || sa.ReqID != 9 ||
		sa.Encr != (ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 256}) ||
		sa.Integ != (ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}) ||
		sa.Remote.Addr() != netip.MustParseAddr("192.0.2.9") || sa.Lifetime.Hard.Time != 2*time.Hour || sa.Lifetime.Soft.Time != time.Hour ||
		sa.EncrKey.Len() != 32 || sa.IntegKey.Len() != 32 {
		t.Errorf("SA is %+v", sa)
	}
	if sa.ID() != a.ID() {
		t.Errorf("names differ: %v, %v", sa.ID(), a.ID())
	}
	// A Backend wipes what it was given; the next SA still has keys.
	sa.EncrKey.Wipe()
	if again := a.SA(); uniform(again.EncrKey) {
		t.Error("the key is gone with the first SA")
	}
	p := c.Manual.Policies[0].Policy()
	if p.Name != "b" || p.Action != ipsec.Protect || p.ReqID != 9 || p.Protocol != ipsec.ESP || p.Acquire {
		t.Errorf("policy is %+v", p)
	}
}

// RFC 8221, Section 3: counter modes MUST NOT be used with manual keys. The
// operator can still say so, and is warned.
func TestCounterModesAreRefused(t *testing.T) {
	for _, words := range []string{"aes256gcm16", "aes128gcm8", "aes128ccm16", "chacha20poly1305", "sm4gcm16", "aes256gmac", "aes256ctr-sha256"} {
		text := strings.Replace(manualFile, "ALGORITHMS", words, 1)
		if _, _, err := Parse("x.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), "RFC 8221, Section 3") {
			t.Errorf("%s: %v", words, err)
		}
		text = strings.Replace(text, "reqid: 9\n", "reqid: 9\n      unsafe-counter-mode: yes\n", 1)
		_, warnings, err := Parse("x.yaml", []byte(text))
		if err != nil || !strings.Contains(fmt.Sprint(warnings), "only while no nonce is used twice") {
			t.Errorf("%s, allowed: %v, %v", words, err, warnings)
		}
	}
}

func TestManualKeyFiles(t *testing.T) {
	for _, tc := range []struct {
		name, algorithms string
		encr, integ      int
		mode             os.FileMode
		want             string // of the error; empty for none
		warning          string
	}{
		{"AES-128", "aes128-sha256", 16, 32, 0o600, "", ""},
		{"too short", "aes256-sha256", 16, 32, 0o600, "the encryption key of aes256 has 256 bits, and this one 128", ""},
		{"too long", "aes128-sha512", 16, 65, 0o600, "the integrity key of sha512 has 512 bits, and this one 520", ""},
		{"readable", "aes128-sha256", 16, 32, 0o644, "chmod 600", ""},
		{"not needed", "null-sha256", 16, 32, 0o600, "encryption-key-file has no meaning", "null is weak"},
		{"empty", "aes128-sha256", 0, 32, 0o600, "it is empty", ""},
	} {
		_, warnings, err := loadManual(t, strings.Replace(manualFile, "ALGORITHMS", tc.algorithms, 1), tc.encr, tc.integ, tc.mode)
		switch {
		case tc.want == "" && err != nil, tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v", tc.name, err)
		case !strings.Contains(fmt.Sprint(warnings), tc.warning):
			t.Errorf("%s: warnings %v", tc.name, warnings)
		}
		if err != nil && strings.Contains(err.Error(), hexKey(8)) {
			t.Errorf("%s: the error quotes the key: %v", tc.name, err)
		}
	}
	missing := strings.Replace(strings.Replace(manualFile, "ALGORITHMS", "aes128-sha256", 1), "      integrity-key-file: int\n", "", 1)
	if _, _, err := loadManual(t, missing, 16, 32, 0o600); err == nil || !strings.Contains(err.Error(), "integrity-key-file is missing: sha256 takes a key of 256 bits") {
		t.Errorf("missing: %v", err)
	}
}

// Two associations with one key: a warning, or the end for counter modes.
func TestSharedKeys(t *testing.T) {
	second := `    from-b:
      direction: in
      spi: 0x1001
      local-address: 192.0.2.1
      remote-address: 192.0.2.9
      algorithms: ALGORITHMS
      encryption-key-file: enc
      integrity-key-file: int
      local: 10.1.0.0/16
      remote: 10.9.0.0/16
      reqid: 9
  policies:
`
	text := strings.Replace(manualFile, "  policies:\n", second, 1)
	_, warnings, err := loadManual(t, strings.ReplaceAll(text, "ALGORITHMS", "aes256-sha256"), 32, 32, 0o600)
	if err != nil || !strings.Contains(fmt.Sprint(warnings), "association from-b has the same key") {
		t.Errorf("%v, %v", err, warnings)
	}
	text = strings.ReplaceAll(text, "ALGORITHMS", "aes256ctr-sha256")
	text = strings.ReplaceAll(text, "reqid: 9\n", "reqid: 9\n      unsafe-counter-mode: yes\n")
	if _, _, err := loadManual(t, text, 36, 32, 0o600); err == nil || !strings.Contains(err.Error(), "both would use the same nonces") {
		t.Errorf("counter mode: %v", err)
	}
}

func TestDiffOfManual(t *testing.T) {
	text := strings.Replace(manualFile, "ALGORITHMS", "aes256-sha256", 1)
	read := func(text string, encr int) *Config {
		t.Helper()
		c, _, err := loadManual(t, text, encr, 32, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		// Every load has a folder of its own.
		c.Manual.Associations[0].EncrKeyFile, c.Manual.Associations[0].IntegKeyFile = "enc", "int"
		return c
	}
	old := read(text, 32)
	if p := Diff(old, read(text, 32)); !p.Empty() {
		t.Errorf("the same is different: %+v", p)
	}
	p := Diff(old, read(strings.Replace(text, "reqid: 9 }", "reqid: 9, priority: high }", 1), 32))
	if p.Empty() || p.Policies[0].State != Changed || p.Associations[0].State != Unchanged {
		t.Errorf("policy: %+v", p)
	}
	p = Diff(old, read(strings.Replace(text, "aes256-", "aes128-", 1), 16))
	if a := p.Associations[0]; a.State != Changed || a.Effect() != EffectReplace || len(a.Keys) != 2 || p.Policies[0].State != Unchanged {
		t.Errorf("association: %+v", p)
	}
	if p := Diff(old, &Config{Gateway: old.Gateway}); p.Associations[0].State != Removed || p.Policies[0].State != Removed {
		t.Errorf("removed: %+v", p)
	}
}

func TestParseAssociation(t *testing.T) {
	values := map[string]string{
		"direction": "out", "spi": "0x2001", "local-address": "192.0.2.1", "remote-address": "192.0.2.9", "algorithms": "aes128-sha256",
		"local": "10.1.0.0/16, 10.3.0.0/16", "remote": "10.9.0.0/16", "reqid": "9",
	}
	key := func(octets int) secret.Key { return secret.New(make([]byte, octets)) }
	a, warnings, err := ParseAssociation("to-b", values, key(16), key(32), DataPlaneUserspace)
	if err != nil || len(a.Local) != 2 || a.SPI != 0x2001 || a.Protocol != ipsec.ESP || a.Name != "to-b" {
		t.Fatalf("%+v, %v", a, err)
	}
	if !strings.Contains(fmt.Sprint(warnings), "all octets of the key are the same") {
		t.Errorf("warnings %v", warnings)
	}
	for _, tc := range []struct{ key, value, want string }{
		{"spi", "255", `--spi: "255" is not an SPI`},
		{"spi", "0x1", "--spi: SPIs below 0x100 are reserved"},
		{"direction", "Out", "--direction: \"Out\" is not valid here; valid: in, out\n    did you mean \"out\"?"},
		{"algorithms", "aes128gcm16", "RFC 8221"},
		{"reqid", "", "--reqid: the value is empty"},
		{"mark", "1", "--mark: mark is for dataplane: kernel"},
		{"modus", "tunnel", `--modus: "modus" is not a key`},
		{"encryption-key-file", "/etc/x", "is not a key of this section"},
	} {
		changed := map[string]string{tc.key: tc.value}
		for k, v := range values {
			if k != tc.key {
				changed[k] = v
			}
		}
		if _, _, err := ParseAssociation("to-b", changed, key(16), key(32), DataPlaneUserspace); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s=%s: %v", tc.key, tc.value, err)
		}
	}
	if _, _, err := ParseAssociation("to-b", values, key(15), key(32), DataPlaneUserspace); err == nil ||
		!strings.Contains(err.Error(), "--encryption-key-file: the encryption key of aes128 has 128 bits, and this one 120") {
		t.Errorf("short key: %v", err)
	}
	delete(values, "spi")
	if _, _, err := ParseAssociation("to-b", values, key(16), key(32), DataPlaneUserspace); err == nil || !strings.Contains(err.Error(), "to-b: spi is missing") {
		t.Errorf("without SPI: %v", err)
	}
	if _, _, err := ParseAssociation("to b", values, key(16), key(32), DataPlaneUserspace); err == nil || !strings.Contains(err.Error(), "a name has") {
		t.Errorf("bad name: %v", err)
	}
	if _, _, err := ParsePolicy("b", map[string]string{"action": "protect", "local": "10.1.0.0/16", "remote": "10.9.0.0/16"}, DataPlaneUserspace); err == nil ||
		!strings.Contains(err.Error(), "reqid is missing") {
		t.Errorf("policy without reqid: %v", err)
	}
}

func TestParseSPI(t *testing.T) {
	for _, tc := range []struct {
		text string
		want ipsec.SPI
	}{{"0x100", 256}, {"0xffffffff", 0xffffffff}, {"c0ffee01", 0xc0ffee01}, {"00001001", 0x1001}, {"C0FFEE01", 0xc0ffee01}} {
		if got, err := ParseSPI(tc.text); err != nil || got != tc.want {
			t.Errorf("%s: %s, %v", tc.text, got, err)
		}
	}
	for _, text := range []string{"", "0x", "0", "1001", "0x0", "0xff", "000000ff", "0x100000000", "-0000001", "0x+100", "0x_100", "c0ffee0g"} {
		if got, err := ParseSPI(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}

func FuzzParseAssociation(f *testing.F) {
	f.Add("out", "0x2001", "192.0.2.1", "192.0.2.9", "aes128-sha256", "10.1.0.0/16,10.3.0.0/16", "9")
	f.Add("in", "c0ffee01", "2001:db8::1", "2001:db8::2", "null-sha256", "2001:db8::/32", "1")
	f.Fuzz(func(t *testing.T, direction, spi, local, remote, algorithms, selectors, reqid string) {
		values := map[string]string{
			"direction": direction, "spi": spi, "local-address": local, "remote-address": remote, "algorithms": algorithms,
			"local": selectors, "remote": selectors, "reqid": reqid,
		}
		a, _, err := ParseAssociation("x", values, secret.New(make([]byte, 16)), secret.New(make([]byte, 32)), DataPlaneUserspace)
		if (a == nil) != (err != nil) || a != nil && (a.SPI < ipsec.MinSPI || len(a.Local) == 0 || a.ReqID == 0) {
			t.Fatalf("%+v, %v", a, err)
		}
	})
}
