package operations

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGM runs two gateways by GM/T 0022: traffic in both directions through
// rekeyings of both phases, an explained refusal where the two write otherwise
// than each other understands, and no key left after the emergency.
func TestGM(t *testing.T) {
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
		pki("issue", g, "--dual", "--subject", "C=CN, O=example, CN="+g)
	}
	configure := func(g *gateway, other, keys string, local, remote netip.Addr, near, far netip.Prefix) {
		g.write(fmt.Sprintf(`gateway: { name: %[1]s, state: state, control: sock, capture-keys: allow }
connections:
  peer:
    version: gm
    local: { address: %[3]s, sign-cert: %[7]s/%[1]s-sign.pem, sign-key: %[7]s/%[1]s-sign.key, encrypt-cert: %[7]s/%[1]s-encrypt.pem, encrypt-key: %[7]s/%[1]s-encrypt.key }
    remote: { address: %[4]s, id: "C=CN, O=example, CN=%[2]s", ca: %[7]s/rootca.pem }
%[8]s    tunnels:
      lan: { local: [%[5]s], remote: [%[6]s], start: trap }
`, g.name, other, local, remote, near, far, dir, keys))
	}
	configure(s.gwA, "gwB", "", outer4A, outer4B, net4in4.A, net4in4.B)
	configure(s.gwB, "gwA", "", outer4B, outer4A, net4in4.B, net4in4.A)
	s.gwA.start()
	s.gwB.start()
	s.tap.arm()
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 3)
	talk(t, s.hostB, net4in4.hostB, s.hostA, net4in4.hostA)
	s.gwA.do("rekey", "peer/lan")
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 3)
	s.gwB.do("rekey", "peer")
	mustPing(t, s.hostB, net4in4.hostB, net4in4.hostA, 3)
	for _, sa := range s.gwA.sas() {
		if !strings.Contains(sa.Algorithms, "sm4cbc-sm3") {
			t.Errorf("an SA has %s", sa.Algorithms)
		}
	}
	if out := s.gwA.do("status", "peer"); !strings.Contains(out, ", gm") {
		t.Errorf("status says\n%s", out)
	}
	// Wireshark decrypts nothing of this, so that no key is given out.
	c := s.gwA.record(filepath.Join(s.dir, "gm.pcapng"), "peer", "--keys")
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 1)
	if said := c.interrupt(); !strings.Contains(said, "the keys of 0 SAs") || !strings.Contains(said, " SAs are not among them") {
		t.Errorf("a capture with keys says %q", said)
	}
	s.tap.mustBeTight(t, "by GM/T 0022")

	// Both ends say what both offer, where that has nothing in common.
	mine := s.gwA.read()
	s.gwA.write(strings.Replace(mine, "start: trap }", "proposals: sm4gcm16, start: trap }", 1))
	s.gwA.do("reload")
	s.gwA.do("disconnect", "peer")
	if out, err := s.gwA.try("connect", "peer"); err == nil {
		t.Errorf("connect with other algorithms for the tunnel: %s", out)
	}
	for g, wants := range map[*gateway][]string{
		s.gwA: {"no-proposal-chosen", "the peer accepts none of our proposals for tunnel lan", "SM4-GCM (130)", "gm.key-length to yes"},
		s.gwB: {"no-proposal-chosen", "for tunnel lan the peer offers SM4-GCM (130) where this gateway has SM4-CBC (127), HMAC-SM3 (20)", "1h0m0s"},
	} {
		out := g.do("why", "peer")
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s: why does not say %q:\n%s", g.name, want, out)
			}
		}
	}

	// The certificate of a stranger's authority is refused, and said so.
	pki("revoke", "gwB-encrypt")
	configure(s.gwA, "gwB", "", outer4A, outer4B, net4in4.A, net4in4.B)
	s.gwA.write(strings.Replace(s.gwA.read(), "ca: "+dir+"/rootca.pem", "ca: "+dir+"/rootca.pem, crl: "+dir+"/rootca.crl", 1))
	s.gwA.do("reload")
	s.gwA.do("disconnect", "peer")
	if out, err := s.gwA.try("connect", "peer"); err == nil || !strings.Contains(err.Error(), "certificate-revoked") {
		t.Errorf("connect to a gateway whose encryption certificate is revoked: %s, %v", out, err)
	}
	s.gwA.do("destroy-keys", "--emergency")
	for _, name := range []string{"sign", "encrypt"} {
		if out, err := exec.CommandContext(within(t, commandTimeout), program, "pki", "show", filepath.Join(dir, "gwA-"+name+".key")).CombinedOutput(); err == nil {
			t.Errorf("the key for %s is still there:\n%s", name, out)
		}
	}
	s.tap.mustBeTight(t, "without keys")
}

func (g *gateway) read() string {
	g.t.Helper()
	data, err := os.ReadFile(g.conf)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(data)
}
