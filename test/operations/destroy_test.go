package operations

import (
	"errors"
	"io/fs"
	"os"
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
