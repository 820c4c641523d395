package interop

import (
	"fmt"
	"strings"
	"testing"

	"caponier/internal/lab/netns"
)

// dropFragments drops IP fragments that arrive at a gateway, and counts them.
func dropFragments(t testing.TB, in netns.NS) (dropped func() string) {
	t.Helper()
	// Before connection tracking could put them together.
	for _, rule := range []string{
		"add table inet fragments",
		"add chain inet fragments arriving { type filter hook prerouting priority -450; }",
		"add rule inet fragments arriving ip frag-off & 0x3fff != 0 counter drop",
	} {
		_, err := in.Run(t.Context(), "nft", strings.Fields(rule)...)
		must(t, err)
	}
	return func() string {
		out, err := in.Run(t.Context(), "nft", "list", "table", "inet", "fragments")
		must(t, err)
		return out
	}
}

// TestFragmentation: certificates of 4096-bit RSA keys by way of an intermediate
// CA make IKE_AUTH longer than a datagram, on a way that loses IP fragments.
func TestFragmentation(t *testing.T) {
	t.Parallel()
	rsa4096 := func(t testing.TB) *setup {
		s := directSetup(t)
		s.certify(opensslAuthority(t, "genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:4096", "-out"), caponierDN, strongSwanDN)
		return s
	}
	t.Run("rsa-4096", func(t *testing.T) {
		record(t, "RSA 4096 by way of an intermediate CA, IP fragments dropped, RFC 7383", "initiator, responder")
		t.Parallel()
		s := rsa4096(t)
		near, far := dropFragments(t, s.Near.Gateway), dropFragments(t, s.Far.Gateway)
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.agree(t, role, defaultIKE, defaultESP)
			p.reachable(t)
			p.down(t, role)
		}
		for _, counted := range []string{near(), far()} {
			if !strings.Contains(counted, "counter packets 0 ") {
				t.Errorf("somebody sent IP fragments: %s", counted)
			}
		}
		log := p.s.Log()
		for _, want := range []string{"splitting IKE message", "received fragment #1 of", "reassembled fragmented IKE message"} {
			if n := strings.Count(log, want); n < 2 {
				t.Errorf("charon says %q %d times", want, n)
			}
		}
	})
	t.Run("small", func(t *testing.T) {
		record(t, "`fragment-size: 576` and strongSwan's of 400", "initiator, responder")
		t.Parallel()
		s := rsa4096(t)
		s.peer(func(p *Peer) { p.FragmentSize = 576 })
		s.StrongSwan.Settings = append(s.StrongSwan.Settings, "fragment_size = 400")
		dropFragments(t, s.Near.Gateway)
		dropFragments(t, s.Far.Gateway)
		outside := StartCapture(t, s.Near.Gateway, Outside)
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.agree(t, role, defaultIKE, defaultESP)
			p.down(t, role)
		}
		outside.Stop(t)
		if long := outside.Packets(t, fmt.Sprintf("udp and src host %s and ip[2:2] > 576", s.Near.Outside)); len(long) > 0 {
			t.Errorf("longer than 576 octets:\n%s", strings.Join(long, "\n"))
		}
	})
	// The way does lose what is not cut by IKE.
	t.Run("unfragmented", func(t *testing.T) {
		t.Parallel()
		s := rsa4096(t)
		s.conn().Extra = append(s.conn().Extra, "fragmentation = no")
		s.StrongSwan.Settings = append(s.StrongSwan.Settings, "retransmit_tries = 1", "retransmit_timeout = 1.0")
		dropped := dropFragments(t, s.Near.Gateway)
		p := s.start(t)
		if err := p.s.Initiate(t, tunnelName); err == nil {
			t.Error("the connection came up without fragmentation by IKE")
		}
		if strings.Contains(dropped(), "counter packets 0 ") {
			t.Error("no IP fragment was dropped")
		}
	})
}
