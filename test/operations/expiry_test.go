package operations

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestExpiringCertificate has a gateway with a certificate of ten days: it is
// warned of before it hurts, wherever an operator looks.
func TestExpiringCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := filepath.Join(s.dir, "pki")
	pki := func(args ...string) {
		t.Helper()
		out, err := exec.CommandContext(within(t, commandTimeout), program, append([]string{"pki"}, append(args, "--dir", dir)...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("pki %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	pki("init", "--subject", "C=FI, O=example, CN=root")
	pki("issue", "gw", "--subject", "C=FI, O=example, CN=gw", "--days", "10")
	s.gwA.write(fmt.Sprintf(`gateway: { name: gwA, state: state, control: sock }
connections:
  peer:
    local: { address: %q, cert: %[2]s/gw.pem, key: %[2]s/gw.key }
    remote: { address: %[3]q, id: "C=FI, O=example, CN=other", ca: %[2]s/rootca.pem }
    tunnels: { t: { local: 10.1.4.0/24, remote: 10.2.4.0/24 } }
`, outer4A, dir, outer4B))
	s.gwA.start()
	const what = "the certificate of CN=gw,O=example,C=FI expires on"
	check, err := exec.CommandContext(within(t, commandTimeout), program, "check", s.gwA.conf).CombinedOutput()
	if err != nil {
		t.Fatalf("check: %v\n%s", err, check)
	}
	for where, text := range map[string]string{
		"check": string(check), "status": s.gwA.do("status"), "status of the connection": s.gwA.do("status", "peer"),
		"log": s.gwA.logText(), "JSON": s.gwA.do("status", "--json"),
	} {
		if flat := strings.Join(strings.Fields(text), " "); !strings.Contains(flat, what) {
			t.Errorf("%s does not warn:\n%s", where, text)
		}
	}
	if text := s.gwA.do("status", "--json"); !strings.Contains(text, `"certificate-expires"`) {
		t.Errorf("no code in %s", text)
	}
}
