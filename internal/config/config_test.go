package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/suite"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/config/identity"
	"caponier/internal/config/problem"
	"caponier/internal/config/syntax"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func parseFull(t *testing.T) (*Config, []byte) {
	t.Helper()
	data, err := os.ReadFile("testdata/full.yaml")
	if err != nil {
		t.Fatal(err)
	}
	c, _, err := Parse("/etc/caponier/full.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return c, data
}

func TestErrors(t *testing.T) {
	files, err := filepath.Glob("testdata/errors/*.yaml")
	if err != nil || len(files) < 8 {
		t.Fatalf("files: %v, %v", files, err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			c, warnings, err := Parse(filepath.Base(f), data)
			if err == nil || c != nil {
				t.Fatal("accepted")
			}
			var text strings.Builder
			fmt.Fprintln(&text, err)
			for _, w := range warnings {
				fmt.Fprintln(&text, "warning:", w)
			}
			golden(t, strings.TrimSuffix(f, ".yaml")+".err", text.String())
		})
	}
}

func TestParseFull(t *testing.T) {
	c, _ := parseFull(t)
	agw := c.Connection("agw")
	lan := agw.Tunnel("lan")
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"name", c.Gateway.Name, "cloudgw"},
		{"log file", c.Gateway.Log.File, "/etc/caponier/caponier.log"},
		{"cert", agw.Local.Cert.Path, "/etc/caponier/cloudgw.pem"},
		{"addresses", agw.Local.Addresses, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::1/128")}},
		{"id kind", agw.Remote.ID.Kind, identity.DN},
		{"dpd", agw.DPD, 30 * time.Second},
		{"lifetime", lan.Lifetime, ipsec.Limit{Time: time.Hour, Bytes: 500 << 30, Packets: 4_000_000_000}},
		{"start", lan.Start, StartTrap},
		{"outer", lan.Outer, ipsec.Outer{DF: ipsec.ClearDF, DSCP: ipsec.DSCPBoth, NoECN: true}},
		{"fit", lan.Fit, ipsec.Fit{MSS: 1200, Fragment: ipsec.FragmentAfter}},
		{"aggfrag", lan.Aggfrag, ipsec.AggfragRequired},
		{"iptfs", lan.Pace, ipsec.Pace{Rate: 10_000, Size: 1400, DSCP: 46, LossLimit: 10, LossTime: time.Minute}},
		{"protocol", lan.Protocol, ipsec.ESP},
		{"selector", lan.Local[1].String(), "10.9.0.7/32:tcp/80"},
		{"words", lan.ProposalWords, []string{"aes256gcm16-x25519"}},
		{"local auth follows the remote's", c.Connection("legacy").Local.Auth, AuthPSK},
		{"both ends have the key file", c.Connection("legacy").Local.PSKFile, "/etc/caponier/legacy.psk"},
		{"priority", c.Policies[1].Priority, PriorityLow},
		{"action", c.Policies[1].Action, ipsec.Discard},
		{"shutdown", c.Gateway.Shutdown, ShutdownRelease},
		{"capture-keys", c.Gateway.CaptureKeys, CaptureKeysAllow},
	} {
		if diff := cmp.Diff(tt.want, tt.got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestNothingConfigured(t *testing.T) {
	c, _, err := Parse("x.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Gateway.Shutdown != ShutdownBlock || c.Gateway.Control != "/run/caponier/control.sock" {
		t.Errorf("defaults: %+v", c.Gateway)
	}
}

func TestNumbersStayText(t *testing.T) {
	c, _, err := Parse("x.yaml", []byte("connections:\n  1.10:\n    remote: {}\n  010: { remote: { auth: psk, psk-file: 1.10, id: 1.10 } }\n"))
	var p *problem.Problem
	if !errors.As(err, &p) || !strings.Contains(p.Text, "1.10:") || c != nil {
		t.Fatalf("a name with a dot: %v", err)
	}
	c, _, err = Parse("/x.yaml", []byte("connections:\n  010: { remote: { auth: psk, psk-file: 1.10, id: 0x10 } }\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := c.Connections[0]
	if got.Name != "010" || got.Remote.PSKFile != "/1.10" || got.Remote.ID.Text != "0x10" {
		t.Errorf("got %q, %q, %q", got.Name, got.Remote.PSKFile, got.Remote.ID.Text)
	}
}

func TestDiff(t *testing.T) {
	old, data := parseFull(t)
	text := string(data)
	if p := Diff(old, old); !p.Empty() {
		t.Errorf("to itself: %+v", p)
	}
	replace := func(pairs ...string) string {
		out := strings.NewReplacer(pairs...).Replace(text)
		if out == text {
			t.Fatal("nothing replaced")
		}
		return out
	}
	for name, yaml := range map[string]string{
		"same":   text,
		"rekey":  replace("aes256gcm16-x25519]", "aes128gcm16-x25519]", "level: warn", "level: info", "rate: 10M", "rate: 20M"),
		"peer":   replace("192.0.2.2", "192.0.2.3", "dpd: 30s", "dpd: 1m", "workers: 2", "workers: 4"),
		"rename": replace("legacy:", "other:", "      lan:", "      dmz:", "nothing-else", "nothing"),
	} {
		t.Run(name, func(t *testing.T) {
			c, _, err := Parse("/etc/caponier/full.yaml", []byte(yaml))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, "testdata/plans/"+name+".txt", planText(Diff(old, c)))
		})
	}
}

func TestReqIDs(t *testing.T) {
	parse := func(tunnels string) *Config {
		c, _, err := Parse("x.yaml", []byte("connections: { a: { remote: { auth: psk, psk-file: a }, tunnels: { "+tunnels+" } } }"))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := ReqIDs(parse("x: { local: 10.0.0.0/16, remote: 10.1.0.0/16 }, y: { local: 10.0.0.0/16, remote: 10.2.0.0/16, reqid: 5 }"), nil)
	if want := map[string]uint32{"a/x": maxReqID + 1, "a/y": 5}; !cmp.Equal(first, want) {
		t.Errorf("got %v, want %v", first, want)
	}
	second := ReqIDs(parse("w: { local: 10.0.0.0/16, remote: 10.3.0.0/16 }, x: { local: 10.0.0.0/16, remote: 10.1.0.0/16 }"), first)
	if second["a/x"] != first["a/x"] || second["a/w"] == second["a/x"] || second["a/w"] == 5 {
		t.Errorf("after a reload: %v, before: %v", second, first)
	}
}

func TestTruncated(t *testing.T) {
	_, data := parseFull(t)
	accepted := 0
	for i := range data {
		c, _, err := Parse("x.yaml", data[:i])
		if (c == nil) == (err == nil) {
			t.Fatalf("at %d: configuration %v, error %v", i, c, err)
		}
		if err == nil {
			accepted++
		}
	}
	if accepted > len(data)/3 {
		t.Errorf("%d of %d prefixes accepted", accepted, len(data))
	}
}

func TestHostileYAML(t *testing.T) {
	for name, text := range map[string]string{
		"flow depth":  strings.Repeat("[", 100_000),
		"block depth": strings.Repeat("- ", 100_000),
		"map depth":   strings.Repeat("{a: ", 10_000),
		"large":       strings.Repeat("#\n", syntax.MaxFileSize),
		"bomb":        "a: &a [x,x]\nb: &b [*a,*a]\n",
		"merge":       "a:\n  <<: {b: 1}\n",
		"tag":         "a: !!binary aGk=\n",
		"documents":   "a: 1\n---\nb: 2\n",
	} {
		start := time.Now()
		if _, _, err := Parse("x.yaml", []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
	}
}

func TestProblemShowsNoControlCharacters(t *testing.T) {
	_, _, err := Parse("x.yaml", []byte("gateway: { \"a\x1b[2Jb\": 1 }"))
	if err == nil || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("got %q", err)
	}
}

func TestParseIdentity(t *testing.T) {
	for _, tt := range []struct {
		text string
		kind uint8
		data string
	}{
		{"%any", identity.Any, ""},
		{"192.0.2.1", identity.IPv4, "\xc0\x00\x02\x01"},
		{"::1", identity.IPv6, strings.Repeat("\x00", 15) + "\x01"},
		{"gw.example.com", identity.FQDN, "gw.example.com"},
		{"@gw", identity.FQDN, "gw"},
		{"*.example.com", identity.FQDN, "*.example.com"},
		{"*@example.com", identity.Email, "*@example.com"},
		{"C=*", identity.DN, "0\x0c" + "1\x0a0\x08\x06\x03\x55\x04\x06\x0c\x01*"},
		{"user@example.com", identity.Email, "user@example.com"},
		{"keyid:0a0B", identity.KeyID, "\x0a\x0b"},
		{"@#ff", identity.KeyID, "\xff"},
		{"C=FI, CN=a", identity.DN, "0\x19" + "1\x0b0\x09\x06\x03\x55\x04\x06\x13\x02FI" + "1\x0a0\x08\x06\x03\x55\x04\x03\x0c\x01a"},
	} {
		id, err := identity.Parse(tt.text)
		if err != nil || id.Kind != tt.kind || id.Data != tt.data || id.Text != tt.text {
			t.Errorf("%q: got %d %x, %v; want %d %x", tt.text, id.Kind, id.Data, err, tt.kind, tt.data)
		}
	}
	for _, text := range []string{"", "a b", "@", "a@", "a@b@c", "keyid:", "keyid:0", "@#x", "fe80::1%eth0", "::ffff:1.2.3.4", "10.0.0.0/8", "*", "**", "*.", "*@", "a*", "*a", "a.*.b", "*.*", "*@*", "CN=", "C=FIN,=", strings.Repeat("a", 2000), "a\xff"} {
		if id, err := identity.Parse(text); err == nil {
			t.Errorf("%q: accepted as %+v", text, id)
		}
	}
}

func TestDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{"30s": 30 * time.Second, "1d": 24 * time.Hour, "2d12h": 60 * time.Hour, "0": 0, "1h30m": 90 * time.Minute} {
		got, err := parseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
		if back, err := parseDuration(FormatDuration(got)); err != nil || back != got {
			t.Errorf("%q: printed as %s", text, FormatDuration(got))
		}
	}
	for _, text := range []string{"", "d", "1", "-1d", "1d1", "99999999d", "5x"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%q: accepted as %s", text, got)
		}
	}
}

// ---- files ----

func writePair(t *testing.T, dir, name string, notAfter time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: notAfter.Add(-1000 * time.Hour), NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, name+".pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	write(t, dir, name+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), 0o600)
}

func write(t *testing.T, dir, name, text string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestLoadChecksFiles(t *testing.T) {
	const conf = "connections: { a: { local: { cert: a.pem, key: a.key, id: a.fi }, remote: { address: 192.0.2.1, id: b.fi, ca: b.pem }, tunnels: { t: { local: 10.1.0.0/16, remote: 10.2.0.0/16 } } } }"
	const psk = "connections: { a: { remote: { address: 192.0.2.1, auth: psk, psk-file: a.psk }, tunnels: { t: { local: 10.1.0.0/16, remote: 10.2.0.0/16 } } } }"
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, conf          string
		spoil               func(dir string)
		wantErr, wantWarned string
	}{
		{"good", conf, func(string) {}, "", ""},
		{"no key", conf, func(dir string) { os.Remove(filepath.Join(dir, "a.key")) }, "no such file", ""},
		{"key of another", conf, func(dir string) { writePair(t, dir, "x", now); os.Rename(dir+"/x.key", dir+"/a.key") }, "not that of the certificate", ""},
		{"open key", conf, func(dir string) { os.Chmod(dir+"/a.key", 0o644) }, "chmod 600", ""},
		{"group key", conf, func(dir string) { os.Chmod(dir+"/a.key", 0o640) }, "chmod 600", ""},
		{"not a certificate", conf, func(dir string) { write(t, dir, "b.pem", "hello", 0o644) }, "not a certificate", ""},
		{"a directory", conf, func(dir string) { os.Remove(dir + "/b.pem"); os.Mkdir(dir+"/b.pem", 0o755) }, "not a regular file", ""},
		{"expired", conf, func(dir string) { writePair(t, dir, "b", now.Add(-time.Hour)) }, "", "expired on 2029-12-31"},
		{"expires", conf, func(dir string) { writePair(t, dir, "b", now.Add(48*time.Hour)) }, "", "expires on 2030-01-03"},
		{"psk", psk, func(string) {}, "", ""},
		{"short psk", psk, func(dir string) { write(t, dir, "a.psk", "short\n", 0o600) }, "", "short enough to be guessed"},
		{"empty psk", psk, func(dir string) { write(t, dir, "a.psk", "\n", 0o600) }, "is empty", ""},
		{"open psk", psk, func(dir string) { os.Chmod(dir+"/a.psk", 0o604) }, "chmod 600", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			writePair(t, dir, "a", now.Add(900*time.Hour))
			writePair(t, dir, "b", now.Add(900*time.Hour))
			write(t, dir, "a.psk", "0123456789abcdef0123\n", 0o600)
			write(t, dir, "c.yaml", tt.conf, 0o644)
			tt.spoil(dir)
			c, warnings, err := Load(dir, Checks{Now: now})
			if got := fmt.Sprint(err); tt.wantErr == "" && err != nil || !strings.Contains(got, tt.wantErr) {
				t.Errorf("error %v, want %q", err, tt.wantErr)
			}
			warned := fmt.Sprint(warnings)
			if tt.wantWarned == "" && len(warnings) > 0 || !strings.Contains(warned, tt.wantWarned) {
				t.Errorf("warnings %v, want %q", warned, tt.wantWarned)
			}
			if strings.Contains(fmt.Sprint(err)+warned+fmt.Sprintf("%+v", c), "0123456789abcdef") {
				t.Error("the pre-shared key is shown")
			}
			if err == nil && tt.name == "psk" {
				got := c.Connections[0]
				if string(got.Local.PSK.Bytes()) != "0123456789abcdef0123" || !got.Local.PSK.Equal(got.Remote.PSK) {
					t.Error("the pre-shared key is not read")
				}
			}
		})
	}
}

func TestReplacedFilesAreAChange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a.psk", "0123456789abcdef0123", 0o600)
	write(t, dir, "c.yaml", "connections: { a: { remote: { auth: psk, psk-file: a.psk } } }", 0o644)
	load := func() *Config {
		c, _, err := Load(filepath.Join(dir, "c.yaml"), Checks{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before := load()
	if p := Diff(before, load()); !p.Empty() {
		t.Errorf("unchanged file: %+v", p)
	}
	write(t, dir, "a.psk", "another-0123456789abcdef", 0o600)
	got := Diff(before, load()).Connections[0]
	want := []KeyChange{{"local.psk-file", EffectReconnect}, {"remote.psk-file", EffectReconnect}}
	if diff := cmp.Diff(want, got.Keys); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDirectoryMerges(t *testing.T) {
	dir := t.TempDir()
	conn := "connections: { %s: { remote: { auth: psk, psk-file: k.psk, address: 192.0.2.1 } } }\n"
	write(t, dir, "k.psk", "0123456789abcdef0123", 0o600)
	write(t, dir, "10-a.yaml", "gateway: { name: gw }\n"+fmt.Sprintf(conn, "a"), 0o644)
	write(t, dir, "20-b.yml", "gateway: { workers: 2 }\n"+fmt.Sprintf(conn, "b"), 0o644)
	write(t, dir, "ignored.txt", "nonsense", 0o644)
	c, _, err := Load(dir, Checks{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Gateway.Name != "gw" || c.Gateway.Workers != 2 || len(c.Connections) != 2 || len(c.Files) != 2 {
		t.Errorf("got %+v", c)
	}
	write(t, dir, "30-c.yaml", "gateway: { name: other }\n"+fmt.Sprintf(conn, "a"), 0o644)
	_, _, err = Load(dir, Checks{})
	var all problem.Errors
	if !errors.As(err, &all) || len(all) != 2 {
		t.Fatalf("got %v", err)
	}
	for _, p := range all {
		if !strings.HasSuffix(p.File, "30-c.yaml") || p.Earlier == nil || !strings.HasSuffix(p.Earlier.File, "10-a.yaml") {
			t.Errorf("got %v", p)
		}
	}
	if _, _, err := Load(t.TempDir(), Checks{}); err == nil {
		t.Error("an empty directory is accepted")
	}
}

// ---- the reference document ----

func TestDocument(t *testing.T) {
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{} // rows by section
	section := ""
	for line := range strings.SplitSeq(string(data), "\n") {
		if s, ok := strings.CutPrefix(line, "## "); ok {
			section = strings.Trim(s, "`")
		}
		if strings.HasPrefix(line, "| `") {
			cells := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), "|")
			for i := range cells {
				cells[i] = strings.ReplaceAll(strings.TrimSpace(cells[i]), "\x00", "|")
			}
			if len(cells) < 7 || cells[4] == "" || cells[5] == "" {
				t.Errorf("row without example or meaning: %s", line)
				continue
			}
			documented[section] = append(documented[section], strings.Join(cells[1:4], " ; "))
		}
	}
	want := map[string][]string{
		"the file":                            rows(rootKeys),
		"gateway":                             rows(gatewayKeys),
		"gateway.ike":                         rows(ikeKeys),
		"gateway.log":                         rows(logKeys),
		"connections.NAME":                    rows(connectionKeys),
		"connections.NAME.gm":                 rows(gmKeys),
		"connections.NAME.local":              rows(localKeys),
		"connections.NAME.remote":             rows(remoteKeys),
		"connections.NAME.tunnels.NAME":       rows(tunnelKeys),
		"connections.NAME.tunnels.NAME.iptfs": rows(iptfsKeys),
		"policies":                            rows(policyKeys),
		"manual":                              rows(manualKeys),
		"manual.associations.NAME":            rows(associationKeys),
		"manual.policies.NAME":                rows(manualPolicyKeys),
	}
	for _, m := range []map[string][]string{want, documented} {
		for _, r := range m {
			slices.Sort(r)
		}
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("schema and docs/configuration.md differ (-schema +document):\n%s", diff)
	}
}

func rows[T any](keys []key[T]) []string {
	var out []string
	for _, k := range keys {
		if k.later || k.never != "" {
			continue
		}
		def := k.implied
		switch {
		case k.required:
			def = "required"
		case k.def != "":
			def = "`" + k.def + "`"
		case def == "":
			def = "none"
		}
		out = append(out, "`"+k.name+"` ; "+k.kind+" ; "+def)
	}
	return out
}

func TestDocumentExamples(t *testing.T) {
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, block := range strings.Split(string(data), "```") {
		text, ok := strings.CutPrefix(block, "yaml\n")
		if i%2 == 0 || !ok {
			continue
		}
		n++
		if _, _, err := Parse("configuration.md", []byte(text)); err != nil {
			t.Errorf("an example is refused: %v", err)
		}
	}
	if n == 0 {
		t.Error("no example")
	}
}

// ---- fuzzing ----

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.yaml", "testdata/errors/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, warnings, err := Parse("x.yaml", data)
		for _, w := range warnings {
			_ = w.Error()
		}
		if err != nil {
			if c != nil || err.Error() == "" {
				t.Fatalf("configuration %v with error %q", c, err)
			}
			return
		}
		again, _, err := Parse("x.yaml", data)
		if err != nil || !Diff(c, again).Empty() {
			t.Fatalf("read again: %v", err)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	for _, s := range []string{"%any", "192.0.2.1", "::1", "@gw", "a@b.fi", "keyid:0a", "@#0a", "C=FI, O=netsecvpn, CN=agw"} {
		for i := range len(s) + 1 {
			f.Add(s[:i])
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.Parse(s)
		if err != nil {
			return
		}
		if id.Text != s || (id.Data == "") != (id.Kind == identity.Any) {
			t.Fatalf("%q: %+v", s, id)
		}
	})
}

func TestWeakAlgorithmsAreNamed(t *testing.T) {
	data := []byte(`connections:
  old:
    local: { auth: psk, psk-file: x.psk }
    remote: { address: 192.0.2.2, auth: psk, psk-file: x.psk }
    proposals: [aes128-sha1-modp1024, aes256gcm16-prfsha512-x25519]
    tunnels:
      lan: { local: 10.1.0.0/16, remote: 10.2.0.0/16, proposals: aes128gcm8 }
`)
	_, warnings, err := Parse("old.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(warnings)
	for _, want := range []string{"5:17: sha1 is weak", "5:17: modp1024 is weak", "7:66: aes128gcm8 is weak"} {
		if !strings.Contains(got, want) {
			t.Errorf("no warning %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "x25519 is weak") || strings.Contains(got, "prfsha512 is weak") {
		t.Errorf("a strong algorithm is called weak:\n%s", got)
	}
}

func TestPrivateNumbers(t *testing.T) {
	parse := func(numbers string) (*Config, []*problem.Problem, error) {
		return Parse("c.yaml", []byte("gateway: { private-numbers: "+numbers+" }\n"))
	}
	cfg, _, err := parse("{ sm4cbc: 1024, sm3: 32906, sm3_128: 32905, signature-sm3: 2000 }")
	if err != nil {
		t.Fatal(err)
	}
	want := message.Numbers{
		{Registry: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}:       1024,
		{Registry: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3}:    32906,
		{Registry: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3128}: 32905,
		{Registry: message.SignatureHash, ID: suite.HashSM3}:   2000,
	}
	if diff := cmp.Diff(want, cfg.Gateway.Numbers); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for numbers, cause := range map[string]string{
		"{ sm4cbc: 20 }":               "1024 to 65534",
		"{ sm4: 1024 }":                "not a key",
		"{ sm4cbc: 32908 }":            "sm4gcm16",
		"{ sm4cbc: 99, sm4gcm16: 99 }": "1024 to 65534",
		"[1024]":                       "by name",
	} {
		if _, _, err := parse(numbers); err == nil || !strings.Contains(err.Error(), cause) {
			t.Errorf("%s: %v", numbers, err)
		}
	}
}

// planText is a plan in one line for each part that changes.
func planText(p *Plan) string {
	var b strings.Builder
	keys := func(list []KeyChange) string {
		words := make([]string, len(list))
		for i, k := range list {
			words[i] = k.Key + " (" + k.Effect.String() + ")"
		}
		return strings.Join(words, ", ")
	}
	line := func(kind string, x Part) {
		fmt.Fprintf(&b, "%s %s: %s", kind, x.Name, x.State)
		if len(x.Keys) > 0 {
			b.WriteString(": " + keys(x.Keys))
		}
		b.WriteByte('\n')
	}
	if len(p.Gateway) > 0 {
		fmt.Fprintf(&b, "gateway: changed: %s\n", keys(p.Gateway))
	}
	for _, c := range p.Connections {
		line("connection", c.Part)
		for _, t := range c.Tunnels {
			line("tunnel", Part{c.Name + "/" + t.Name, t.State, t.Keys})
		}
	}
	for _, x := range p.Policies {
		line("policy", x)
	}
	for _, x := range p.Associations {
		line("association", x)
	}
	if p.Empty() {
		b.WriteString("nothing to do\n")
	}
	return b.String()
}
