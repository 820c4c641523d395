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
		code       string
		keeps      bool // the IKE SA stays
	}{
		{
			name: "psk", what: "wrong pre-shared key", code: "authentication-failed",
			change: func(_ *testing.T, s *setup) { s.StrongSwan.PSKs[0].Secret += "!" },
		},
		{
			name: "ca", what: "certificates of different CAs", code: "authentication-failed",
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
			name: "identity", what: "strongSwan is somebody else than caponier expects", code: "authentication-failed",
			change: func(_ *testing.T, s *setup) {
				s.conn().Local.ID = "somebody.example"
				s.StrongSwan.PSKs[0].IDs = []string{"somebody.example", caponierID}
			},
		},
		{
			name: "own-identity", what: "caponier is somebody else than strongSwan expects", code: "authentication-failed",
			change: func(_ *testing.T, s *setup) { s.peer(func(p *Peer) { p.Local.ID = "somebody.example" }) },
		},
		{
			name: "ike-proposal", what: "no IKE proposal in common", code: "no-proposal-chosen",
			change: func(_ *testing.T, s *setup) { s.conn().Proposals = "aes128gcm16-prfsha512-x25519" },
		},
		{
			name: "esp-proposal", what: "no ESP proposal in common", code: "no-proposal-chosen", keeps: true,
			change: func(_ *testing.T, s *setup) { s.child().Proposals = "aes128gcm16" },
		},
		{
			name: "selectors", what: "no traffic selectors in common", code: "ts-unacceptable", keeps: true,
			change: func(_ *testing.T, s *setup) {
				s.child().LocalTS, s.child().RemoteTS = []string{"10.8.0.0/24"}, []string{"10.9.0.0/24"}
			},
		},
		{
			name: "silence", what: "strongSwan does not run", code: "peer-not-responding",
			change: nil,
		},
	}
	for _, r := range rows {
		for _, role := range bothRoles {
			if r.change == nil && role == responder {
				continue // nobody to respond to
			}
			t.Run(r.name+"-"+role, func(t *testing.T) {
				record(t, r.what+": `"+r.code+"`", role)
				t.Parallel()
				s := directSetup(t)
				if r.change == nil {
					c := StartCaponier(t, s.Near.Gateway, s.Caponier)
					c.order(t, "connect", target, "--no-wait")
					awaitCode(t, c, r.code, time.Minute)
					return
				}
				r.change(t, s)
				p := s.start(t)
				err := p.tryUp(t, role)
				switch {
				case err == nil:
					t.Fatal("the tunnel came up")
				case role == initiator && CodeOf(err) != r.code:
					t.Errorf("connect fails with %v", err)
				}
				awaitCode(t, p.c, r.code, 5*time.Second)
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
