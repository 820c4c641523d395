package operations

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSM2Certificates lets two gateways prove themselves by certificates of SM2
// (RFC 7427, with sm2-with-SM3) under other private-use numbers than caponier's,
// and one fall out when its authority revokes it.
func TestSM2Certificates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := filepath.Join(t.TempDir(), "pki")
	pki := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(within(t, commandTimeout), program, append([]string{"pki"}, append(args, "--dir", dir)...)...).CombinedOutput(); err != nil {
			t.Fatalf("pki %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	pki("init", "--key", "sm2", "--subject", "C=CN, O=example, CN=root")
	for _, g := range []string{"gwA", "gwB"} {
		pki("issue", g, "--key", "sm2", "--subject", "C=CN, O=example, CN="+g)
	}
	pki("revoke") // a list of none
	configure := func(g *gateway, other string, local, remote netip.Addr, near, far netip.Prefix) {
		g.write(fmt.Sprintf(`gateway: { name: %[1]s, state: state, control: sock, private-numbers: { sm4gcm16: 1024, sm4cbc: 1025, sm3: 1024, signature-sm3: 2000 } }
connections:
  peer:
    proposals: [sm4gcm16-prfsm3-ecp256]
    local: { address: %[3]s, cert: %[7]s/%[1]s.pem, key: %[7]s/%[1]s.key }
    remote:
      address: %[4]s
      id: "C=CN, O=example, CN=%[2]s"
      ca: %[7]s/rootca.pem
      crl: %[7]s/rootca.crl
      revocation: strict
    tunnels:
      lan: { local: [%[5]s], remote: [%[6]s], proposals: [sm4cbc-sm3], start: trap }
`, g.name, other, local, remote, near, far, dir))
		g.start()
	}
	configure(s.gwA, "gwB", outer4A, outer4B, net4in4.A, net4in4.B)
	configure(s.gwB, "gwA", outer4B, outer4A, net4in4.B, net4in4.A)
	s.tap.arm()
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 3)
	s.tap.mustBeTight(t, "with certificates of SM2")

	pki("revoke", "gwB")
	s.gwA.do("reload")
	s.gwA.do("disconnect", "peer")
	if out, err := s.gwA.try("connect", "peer"); err == nil || !strings.Contains(err.Error(), "certificate-revoked") {
		t.Errorf("connect to a gateway whose certificate is revoked: %s, %v", out, err)
	}
	if out := s.gwA.do("why", "peer"); !strings.Contains(out, "certificate-revoked") || !strings.Contains(out, "CN=gwB") {
		t.Errorf("why says\n%s", out)
	}
}
