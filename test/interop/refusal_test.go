package interop

import (
	"strings"
	"testing"
	"time"

	"caponier/internal/pki"
)

func TestRefusal(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, what string
		change     func(t *testing.T, s *setup)
		codes      map[string]string // by role; what the log has where the connection is not known
		keeps      bool              // the IKE SA stays
	}{
		{
			name: "psk", what: "different pre-shared keys",
			codes:  map[string]string{initiator: "refused-by-peer", responder: "psk-mismatch-or-id"},
			change: func(_ *testing.T, s *setup) { s.StrongSwan.PSKs[0].Secret += "!" },
		},
		{
			name: "ca", what: "certificates of different CAs",
			codes: map[string]string{initiator: "refused-by-peer", responder: "unknown-ca"},
			change: func(t *testing.T, s *setup) {
				t.Helper()
				s.certify(ownAuthority(t, pki.ECDSAP256), caponierDN, strongSwanDN)
				other := ownAuthority(t, pki.ECDSAP256)
				s.StrongSwan.CAs = []string{other.path("rootca.pem")}
				s.StrongSwan.Certs = []string{other.path("strongswan.pem")}
				s.StrongSwan.Keys = []string{other.path("strongswan.key")}
			},
		},
		{
			name: "ca-of-caponier", what: "caponier alone does not know the CA",
			codes: map[string]string{initiator: "unknown-ca", responder: "unknown-ca"},
			change: func(t *testing.T, s *setup) {
				t.Helper()
				s.certify(ownAuthority(t, pki.ECDSAP256), caponierDN, strongSwanDN)
				other := ownAuthority(t, pki.ECDSAP256)
				s.peer(func(p *Peer) { p.Remote.CA = other.path("rootca.pem") })
			},
		},
		{
			name: "identity", what: "strongSwan is not whom caponier expects",
			codes: map[string]string{initiator: "refused-by-peer", responder: "authentication-failed"},
			change: func(_ *testing.T, s *setup) {
				s.conn().Local.ID = "somebody.example"
				s.StrongSwan.PSKs[0].IDs = []string{"somebody.example", caponierID}
			},
		},
		{
			name: "own-identity", what: "caponier is not whom strongSwan expects",
			codes:  map[string]string{initiator: "refused-by-peer", responder: "authentication-failed"},
			change: func(_ *testing.T, s *setup) { s.peer(func(p *Peer) { p.Local.ID = "somebody.example" }) },
		},
		{
			name: "ike-proposal", what: "no IKE proposal in common",
			codes:  map[string]string{initiator: "no-proposal-chosen", responder: "no-proposal-chosen"},
			change: func(_ *testing.T, s *setup) { s.conn().Proposals = "aes128gcm16-prfsha512-x25519" },
		},
		{
			name: "esp-proposal", what: "no ESP proposal in common", keeps: true,
			codes:  map[string]string{initiator: "no-proposal-chosen", responder: "no-proposal-chosen"},
			change: func(_ *testing.T, s *setup) { s.child().Proposals = "aes128gcm16" },
		},
		{
			name: "selectors", what: "no traffic selectors in common", keeps: true,
			codes: map[string]string{initiator: "ts-unacceptable", responder: "ts-unacceptable"},
			change: func(_ *testing.T, s *setup) {
				s.child().LocalTS, s.child().RemoteTS = []string{"10.8.0.0/24"}, []string{"10.9.0.0/24"}
			},
		},
	}
	for _, r := range rows {
		for _, role := range bothRoles {
			t.Run(r.name+"-"+role, func(t *testing.T) {
				record(t, r.what+": `"+r.codes[role]+"`", role)
				t.Parallel()
				s := directSetup(t)
				r.change(t, s)
				p := s.start(t)
				err := p.tryUp(t, role)
				switch {
				case err == nil:
					t.Fatal("the tunnel came up")
				case role == initiator && CodeOf(err) != r.codes[role]:
					t.Errorf("connect fails with %v", err)
				}
				awaitCode(t, p.c, r.codes[role], 5*time.Second)
				if kept := len(p.ikeSAs(t)) == 1; kept != r.keeps {
					t.Errorf("the IKE SA is kept: %v", kept)
				}
				if sas := p.c.SAs(t); len(sas) != 0 {
					t.Errorf("caponier has %+v", sas)
				}
			})
		}
	}
}

// awaitCode waits until caponier's operator can see a code: in the status, or in
// the log where the peer has not shown which connection it wants.
func awaitCode(t testing.TB, c *Caponier, code string, within time.Duration) {
	t.Helper()
	Eventually(t, within, "caponier tells "+code, func() bool {
		last := c.Connection(t, connName).LastError
		return last != nil && last.Code == code || strings.Contains(c.Log(), "code="+code)
	})
}
