package interop

import (
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/pki"
)

// TestPeers is about what single kinds of peers need.
func TestPeers(t *testing.T) {
	t.Parallel()
	t.Run("rsa-pss", func(t *testing.T) {
		record(t, "RSASSA-PSS with `signature: rsa-pss`, `remote.id` with a wildcard", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		s.certify(ownAuthority(t, pki.RSA2048), caponierDN, strongSwanDN)
		s.peer(func(p *Peer) {
			p.Local.Signature = "rsa-pss"
			p.Remote.ID = "C=FI, O=netsecvpn, CN=*"
		})
		s.StrongSwan.Settings = append(s.StrongSwan.Settings, "rsa_pss = yes")
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.agree(t, role, defaultIKE, defaultESP)
			p.reachable(t)
			p.down(t, role)
		}
		if n := strings.Count(p.s.Log(), "with RSA_EMSA_PSS_SHA2_256"); n < 4 {
			t.Errorf("charon speaks %d times of RSASSA-PSS", n)
		}
	})
	t.Run("certificate-one-way", func(t *testing.T) {
		record(t, "caponier proves itself by certificate, strongSwan by a pre-shared key", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		keys := s.StrongSwan.PSKs
		s.certify(ownAuthority(t, pki.RSA2048), caponierDN, strongSwanID)
		s.StrongSwan.PSKs = []PSK{{IDs: []string{strongSwanID, caponierDN}, Secret: keys[0].Secret}}
		s.conn().Local = Auth{Auth: "psk", ID: strongSwanID}
		s.peer(func(p *Peer) {
			p.Local.Auth = "cert"
			p.Remote = Party{Address: p.Remote.Address, ID: strongSwanID, Auth: "psk", PSKFile: PSKFile}
		})
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.agree(t, role, defaultIKE, defaultESP)
			p.reachable(t)
			p.down(t, role)
		}
	})
	t.Run("vendor-id", func(t *testing.T) {
		record(t, "strongSwan says what it is (`send_vendor_id`): shown by status, and by why when it fails", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		s.StrongSwan.Settings = append(s.StrongSwan.Settings, "send_vendor_id = yes")
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			if sa := p.ike(t); !slices.Contains(sa.Vendors, "strongSwan") {
				t.Errorf("caponier as %s shows the vendors %q", role, sa.Vendors)
			}
			p.down(t, role)
		}
	})
	// strongSwan has a child for each family, caponier one tunnel for both. What the
	// first CHILD SA leaves out gets another.
	t.Run("narrowed", func(t *testing.T) {
		record(t, "one tunnel here, a child for each subnet there", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.tunnel(func(t *Tunnel) { t.Start = "trap" })
		first, second := *s.child(), *s.child()
		second.Name = "net6"
		first.LocalTS, first.RemoteTS = []string{s.Far.LAN.String()}, []string{s.Near.LAN.String()}
		second.LocalTS, second.RemoteTS = []string{s.Far.LAN6.String()}, []string{s.Near.LAN6.String()}
		s.conn().Children = []Child{first, second}
		p := s.start(t)
		// The packet that asks for an SA waits for it.
		Ping(t, s.Near.Host, s.Far.HostAddr())
		Eventually(t, 20*time.Second, "IPv6 has a CHILD SA of its own", func() bool { return Reaches(t, s.Near.Host, s.Far.HostAddr6()) })
		Ping(t, s.Far.Host, s.Near.HostAddr())
		if sas := p.tunnel(t).SAs; len(sas) != 2 {
			t.Errorf("CHILD SAs %+v", sas)
		}
		p.down(t, initiator)
	})
}
