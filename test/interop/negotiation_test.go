package interop

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestNegotiation(t *testing.T) {
	t.Parallel()
	// kernel-libipsec needs an address of its gateway inside: .1 is.
	const half = "10.2.0.0/25"
	t.Run("strongSwan-narrows", func(t *testing.T) {
		record(t, "caponier's selectors are wider: both narrow to strongSwan's", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		s.tunnel(func(u *Tunnel) { u.Local, u.Remote = []string{"10.1.0.0/16"}, []string{"10.2.0.0/16"} })
		s.child().LocalTS, s.child().RemoteTS = []string{half}, []string{s.Near.LAN.String()}
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.selectors(t, s.Near.LAN.String(), half)
			p.reachable(t)
			p.down(t, role)
		}
	})
	t.Run("caponier-narrows", func(t *testing.T) {
		record(t, "strongSwan's selectors are wider: both narrow to caponier's", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		s.tunnel(func(u *Tunnel) { u.Local, u.Remote = []string{one(s.Near.HostAddr())}, []string{s.Far.LAN.String()} })
		s.child().LocalTS, s.child().RemoteTS = []string{s.Far.LAN.String()}, []string{"10.1.0.0/16"}
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.selectors(t, one(s.Near.HostAddr()), s.Far.LAN.String())
			p.reachable(t)
			p.down(t, role)
		}
	})
	t.Run("several-tunnels", func(t *testing.T) {
		record(t, "three tunnels in one IKE SA, one of them for ICMP only", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		near, far := s.Near, s.Far
		s.peer(func(p *Peer) {
			p.Tunnels = map[string]Tunnel{
				tunnelName: {Local: []string{near.LAN.String()}, Remote: []string{far.LAN.String()}, Proposals: []string{defaultESP}},
				"six":      {Local: []string{near.LAN6.String()}, Remote: []string{far.LAN6.String()}, Proposals: []string{defaultESP}},
				"icmp": {
					Local: []string{near.LAN.String() + ":icmp"}, Remote: []string{far.LAN.String() + ":icmp"},
					Proposals: []string{defaultESP},
				},
			}
		})
		s.conn().Children = []Child{
			{Name: tunnelName, LocalTS: []string{far.LAN.String()}, RemoteTS: []string{near.LAN.String()}, Proposals: defaultESP},
			{Name: "six", LocalTS: []string{far.LAN6.String()}, RemoteTS: []string{near.LAN6.String()}, Proposals: defaultESP},
			{Name: "icmp", LocalTS: []string{far.LAN.String() + "[icmp]"}, RemoteTS: []string{near.LAN.String() + "[icmp]"}, Proposals: defaultESP},
		}
		p := s.start(t)
		for _, role := range bothRoles {
			if role == initiator {
				p.c.MustConnect(t, connName)
			} else {
				for _, c := range s.conn().Children {
					p.s.MustInitiate(t, c.Name)
				}
			}
			p.ike(t)
			p.exercise(t)
			if sas := p.s.SAs(t); len(sas) != 1 || len(sas[0].Children) != 3 {
				t.Fatalf("strongSwan has %+v", sas)
			}
			for _, u := range p.c.Connection(t, connName).Tunnels {
				if len(u.SAs) != 1 || u.SAs[0].In.Packets == 0 || u.SAs[0].Out.Packets == 0 {
					t.Errorf("with caponier as %s, tunnel %s has %+v", role, u.Name, u.SAs)
				}
			}
			p.down(t, role)
		}
	})
	// The responder takes a method other than the one the initiator guessed.
	const two, other = "x25519-ecp256", "ecp256"
	for _, role := range bothRoles {
		guesser := map[string]string{initiator: "caponier", responder: "strongSwan"}[role]
		t.Run("invalid-ke-"+role, func(t *testing.T) {
			record(t, "INVALID_KE_PAYLOAD: "+guesser+" guesses x25519, the other takes ecp256 only, for the IKE SA and at each rekeying", role)
			t.Parallel()
			s := directSetup(t)
			const ike, esp = "aes256gcm16-prfsha256-", "aes256gcm16-"
			s.propose(ike+other, esp+other)
			if role == initiator {
				s.peer(func(p *Peer) { p.Proposals = []string{ike + two} })
				s.tunnel(func(u *Tunnel) { u.Proposals = []string{esp + two} })
			} else {
				s.conn().Proposals, s.child().Proposals = ike+two, esp+two
			}
			p := s.start(t)
			p.up(t, role)
			p.agree(t, role, ike+other, esp+other)
			p.rekeyChild(t, role)
			p.rekeyIKE(t, role)
			p.exercise(t)
			// caponier guesses anew for the CHILD SA that it rekeys with the IKE SA;
			// strongSwan rekeys the IKE SA with the method that it has.
			want := map[string]int{initiator: 4, responder: 2}[role]
			if n := strings.Count(p.s.Log(), "[ N(INVAL_KE) ]"); n != want {
				t.Errorf("strongSwan's log has INVALID_KE_PAYLOAD %d times, not %d", n, want)
			}
		})
	}
	t.Run("optional-pfs", func(t *testing.T) {
		record(t, "caponier accepts rekeying without PFS in its second choice, strongSwan has none: rekeyed by either", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		s.tunnel(func(u *Tunnel) { u.Proposals = []string{"aes256gcm16-x25519", "aes256gcm16"} })
		s.child().Proposals = "aes256gcm16"
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			for _, by := range bothRoles {
				p.rekeyChild(t, by)
				p.reachable(t)
			}
			p.down(t, role)
		}
	})
	t.Run("defaults", func(t *testing.T) {
		record(t, "neither has proposals in its configuration: set up", "initiator, responder")
		t.Parallel()
		p := defaultsSetup(t).start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.exercise(t)
			p.down(t, role)
		}
	})
	t.Run("defaults-rekey", func(t *testing.T) {
		record(t, "neither has proposals in its configuration: rekeyed by either, without PFS, which strongSwan's default has not", "initiator, responder")
		t.Parallel()
		p := defaultsSetup(t).start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			for _, by := range bothRoles {
				p.rekeyChild(t, by)
				p.reachable(t)
			}
			p.down(t, role)
		}
	})
	t.Run("defaults-pfs", func(t *testing.T) {
		record(t, "caponier has no proposals in its configuration, strongSwan insists on PFS: rekeyed by either, with PFS", "initiator, responder")
		t.Parallel()
		s := defaultsSetup(t)
		s.child().Proposals = "aes256gcm16-ecp256"
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			for _, by := range bothRoles {
				p.rekeyChild(t, by)
				if sa := p.childSA(t); !strings.Contains(sa.Proposal, "ecp256") {
					t.Errorf("rekeyed by the %s, the CHILD SA has %s", by, sa.Proposal)
				}
				p.reachable(t)
			}
			p.down(t, role)
		}
	})
	t.Run("named-pfs", func(t *testing.T) {
		record(t, "caponier names proposals with PFS only, strongSwan has none: rekeying is refused (`no-proposal-chosen`), the tunnel stays", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.tunnel(func(u *Tunnel) { u.Proposals = []string{"aes256gcm16-x25519"} })
		s.child().Proposals = "aes256gcm16"
		p := s.start(t)
		p.up(t, initiator)
		if err := p.c.command(t.Context(), "rekey", target); CodeOf(err) != "no-proposal-chosen" {
			t.Errorf("rekeying gives %v", err)
		}
		p.reachable(t)
	})
}

// selectors checks what was negotiated, as both gateways say it.
func (p *pair) selectors(t testing.TB, near, far string) {
	t.Helper()
	own := p.childSA(t)
	theirs, ok := p.s.SAs(t)[0].Child(tunnelName)
	if !ok || !slices.Equal(theirs.LocalTS, []string{far}) || !slices.Equal(theirs.RemoteTS, []string{near}) {
		t.Errorf("strongSwan's CHILD SA is %+v", theirs)
	}
	inside := func(text string) netip.Prefix { return netip.MustParsePrefix(text) }
	if len(own.LocalTS) != 1 || len(own.RemoteTS) != 1 ||
		own.LocalTS[0].String() != inside(near).String() || own.RemoteTS[0].String() != inside(far).String() {
		t.Errorf("caponier's CHILD SA has %v and %v", own.LocalTS, own.RemoteTS)
	}
}

// defaultsSetup has both gateways propose what they do by default.
func defaultsSetup(t testing.TB) *setup {
	t.Helper()
	s := directSetup(t)
	s.peer(func(p *Peer) { p.Proposals = nil })
	s.tunnel(func(u *Tunnel) { u.Proposals = nil })
	s.conn().Proposals, s.child().Proposals = "", ""
	return s
}
