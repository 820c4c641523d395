package operations

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDestroyKeys gives the order of the emergency while a tunnel carries
// traffic: afterwards there is no key in the files or the SAD, nothing leaves in
// clear, and neither a switch nor a restart without new keys changes that.
func TestDestroyKeys(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := peers(nil, through(net4in4))
	for _, g := range []*gateway{s.gwA, s.gwB} {
		g.configure(nil, c)
		g.start()
	}
	s.tap.arm()
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 2)
	psk := filepath.Join(filepath.Dir(s.gwA.conf), "psk")
	secret, err := os.ReadFile(psk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.gwA.try("destroy-keys"); err == nil || !strings.Contains(err.Error(), "--emergency") {
		t.Errorf("without --emergency: %v", err)
	}
	if _, err := os.Stat(psk); err != nil {
		t.Fatal(err)
	}
	out := s.gwA.do("destroy-keys", "--emergency")
	if !strings.Contains(out, psk) || strings.Contains(out, strings.TrimSpace(string(secret))) {
		t.Errorf("destroy-keys says\n%s", out)
	}
	if _, err := os.Lstat(psk); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", psk, err)
	}
	if all := s.gwA.sas(); len(all) != 0 {
		t.Errorf("%d SAs are left", len(all))
	}
	blocked := func(when string) {
		t.Helper()
		if n := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 1); n != 0 {
			t.Errorf("%s: traffic passes", when)
		}
	}
	blocked("after the order")
	if _, err := s.gwA.try("gateway", "on"); err == nil || !strings.Contains(err.Error(), "destroyed") {
		t.Errorf("gateway on: %v", err)
	}
	blocked("after gateway on")
	if _, err := s.gwA.try("reload"); err == nil {
		t.Error("a configuration without its keys is reloaded")
	}
	s.gwA.kill()
	blocked("after kill -9")
	s.tap.mustBeTight(t, "destroying the keys")

	// New keys, at both ends, bring it back when the operator says so.
	for _, g := range []*gateway{s.gwA, s.gwB} {
		if err := os.WriteFile(filepath.Join(filepath.Dir(g.conf), "psk"), []byte("0x00112233445566778899aabbccddeeff"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.gwB.do("reload")
	s.gwA.start()
	blocked("after a restart")
	s.gwA.do("gateway", "on")
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 2)
	s.tap.mustBeTight(t, "with new keys")
}

// TestDestroyKeysWithoutDaemon gives the order where no daemon runs: the files go, those
// too that a configuration with errors names, and the gateway starts switched off.
func TestDestroyKeysWithoutDaemon(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(names ...string) {
		t.Helper()
		for _, name := range names {
			if _, err := os.Lstat(file(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	destroy := func(args ...string) (string, error) {
		t.Helper()
		out, err := exec.CommandContext(within(t, commandTimeout), program, append([]string{"destroy-keys", "--emergency"}, args...)...).CombinedOutput()
		return string(out), err
	}
	conf := `gateway: { name: gw, state: state, control: sock }
connections:
  one:
    local: { address: 192.0.2.1, auth: psk, psk-file: one.psk }
    remote: { address: 192.0.2.2, auth: psk, psk-file: one.psk }
    tunnels: { lan: { local: 10.1.0.0/16, remote: 10.2.0.0/16 } }
  two:
    version: gm
    local: { address: 192.0.2.1, sign-cert: s.pem, sign-key: s.key, encrypt-cert: e.pem, encrypt-key: e.key }
    remote: { address: 192.0.2.3, id: "CN=two", ca: root.pem }
    tunnels: { lan: { local: 10.1.0.0/16, remote: 10.3.0.0/16 } }
`
	for _, broken := range []bool{false, true} {
		for _, name := range []string{"one.psk", "s.key", "e.key"} {
			write(name, "0x00112233445566778899aabbccddeeff")
		}
		text := conf
		if broken {
			text += "    lifetime: never\n"
		}
		write("caponier.yaml", text)
		if out, err := destroy("--control", file("sock")); err == nil || !strings.Contains(out, "-c") {
			t.Errorf("without a configuration: %v\n%s", err, out)
		}
		out, err := destroy("-c", file("caponier.yaml"))
		if (err != nil) != broken || strings.Contains(out, "00112233") || broken && !strings.Contains(out, "never") {
			t.Errorf("broken: %v: %v\n%s", broken, err, out)
		}
		gone("one.psk", "s.key", "e.key")
		if _, err := os.Stat(file("state/switched-off.json")); err != nil {
			t.Error(err)
		}
	}
}
