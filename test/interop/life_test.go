package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// rekeyIKE has one side replace the IKE SA.
func (p *pair) rekeyIKE(t testing.TB, by string) {
	t.Helper()
	old := p.ike(t)
	if by == initiator {
		p.c.Rekey(t, connName)
	} else {
		p.s.RekeyIKE(t, connName)
	}
	Eventually(t, 10*time.Second, "the IKE SA is replaced", func() bool {
		own := p.ikeSAs(t)
		return len(own) == 1 && own[0].InitiatorSPI != old.InitiatorSPI && len(p.childSAs(t)) == 1 && p.settled(t)
	})
}

// streams is continuous traffic of both families, one begun from each side.
func (p *pair) streams(t testing.TB) (stop func()) {
	t.Helper()
	streams := []*Stream{
		StartStream(t, p.Near.Host, p.Far.Host, p.Far.HostAddr()),
		StartStream(t, p.Far.Host, p.Near.Host, p.Near.HostAddr6()),
	}
	return func() {
		t.Helper()
		for _, s := range streams {
			if sent, lost := s.Stop(); len(lost) != 0 || sent < 50 {
				t.Errorf("of %d packets these were lost: %v", sent, lost)
			}
		}
	}
}

// sides are who can begin something: caponier as initiator stands for caponier.
var sides = []struct{ name, role string }{{"caponier", initiator}, {"strongSwan", responder}}

func TestLife(t *testing.T) {
	t.Parallel()
	for _, by := range sides {
		for _, pfs := range []bool{true, false} {
			esp, name := "aes256gcm16-x25519", "with"
			if !pfs {
				esp, name = "aes256gcm16", "without"
			}
			t.Run(fmt.Sprintf("rekey-child-%s-pfs-by-%s", name, by.name), func(t *testing.T) {
				record(t, "the CHILD SA is rekeyed "+name+" PFS, three times, by "+by.name, "initiator, responder")
				t.Parallel()
				s := directSetup(t)
				s.propose(defaultIKE, esp)
				p := s.start(t)
				for _, role := range bothRoles {
					p.up(t, role)
					stop := p.streams(t)
					for range 3 {
						p.rekeyChild(t, by.role)
						time.Sleep(200 * time.Millisecond)
					}
					stop()
					p.agree(t, role, defaultIKE, esp)
					if proposal := p.childSA(t).Proposal; strings.Contains(proposal, "x25519") != pfs {
						t.Errorf("the CHILD SA has %s", proposal)
					}
					p.down(t, role)
				}
			})
		}
		t.Run("rekey-ike-by-"+by.name, func(t *testing.T) {
			record(t, "the IKE SA is rekeyed, three times, by "+by.name, "initiator, responder")
			t.Parallel()
			p := directSetup(t).start(t)
			for _, role := range bothRoles {
				p.up(t, role)
				stop := p.streams(t)
				for range 3 {
					p.rekeyIKE(t, by.role)
					time.Sleep(200 * time.Millisecond)
				}
				stop()
				p.exercise(t)
				p.down(t, role)
			}
		})
		t.Run("delete-by-"+by.name, func(t *testing.T) {
			record(t, "the CHILD SA is deleted by "+by.name+", and set up again; then the IKE SA is deleted", "initiator, responder")
			t.Parallel()
			p := directSetup(t).start(t)
			for _, role := range bothRoles {
				p.up(t, role)
				before := p.ike(t)
				if by.role == initiator {
					p.c.Disconnect(t, target)
				} else {
					p.s.TerminateChild(t, tunnelName)
				}
				Eventually(t, 5*time.Second, "no CHILD SA is left", func() bool {
					sas := p.s.SAs(t)
					return len(p.c.SAs(t)) == 0 && len(sas) == 1 && len(sas[0].Children) == 0
				})
				p.up(t, role)
				if after := p.ike(t); after.InitiatorSPI != before.InitiatorSPI {
					t.Error("the IKE SA is another one")
				}
				p.reachable(t)
				p.down(t, by.role)
			}
		})
	}
	t.Run("lifetimes-of-caponier", func(t *testing.T) {
		record(t, "caponier's lifetimes are 5 s and 7 s: everything is rekeyed in time", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.peer(func(p *Peer) { p.Lifetime = "7s" })
		s.tunnel(func(u *Tunnel) { u.Lifetime = "5s" })
		shortLives(t, s, initiator)
	})
	t.Run("lifetimes-of-strongSwan", func(t *testing.T) {
		record(t, "strongSwan's rekey_time is 3 s and 5 s: everything is rekeyed in time", "responder")
		t.Parallel()
		s := directSetup(t)
		strongSwanLives(s)
		shortLives(t, s, responder)
	})
	t.Run("lifetimes-of-both", func(t *testing.T) {
		record(t, "both have short lifetimes, so that rekeyings cross", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.peer(func(p *Peer) { p.Lifetime = "7s" })
		s.tunnel(func(u *Tunnel) { u.Lifetime = "5s" })
		strongSwanLives(s)
		shortLives(t, s, initiator)
	})
	t.Run("caponier-notices-death", func(t *testing.T) {
		record(t, "strongSwan dies: caponier finds out with `dpd: 1s`, and removes the SAs", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.peer(func(p *Peer) { p.DPD = "1s" })
		p := s.start(t)
		p.up(t, initiator)
		time.Sleep(2500 * time.Millisecond)
		if n := strings.Count(p.s.Log(), "parsed INFORMATIONAL request"); n == 0 {
			t.Error("strongSwan was not asked whether it lives")
		}
		p.s.Crash(t)
		// Retransmissions take about 45 s.
		Eventually(t, 90*time.Second, "caponier has removed the SAs", func() bool {
			return len(p.c.SAs(t)) == 0 && len(p.ikeSAs(t)) == 0
		})
		awaitCode(t, p.c, "peer-not-responding", time.Second)
		if Reaches(t, p.Near.Host, p.Far.HostAddr()) {
			t.Error("packets leave in clear")
		}
	})
	t.Run("strongSwan-notices-death", func(t *testing.T) {
		record(t, "caponier dies: strongSwan finds out with dpd_delay = 1s", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.conn().Extra = append(s.conn().Extra, "dpd_delay = 1s")
		s.StrongSwan.Settings = append(s.StrongSwan.Settings, "retransmit_tries = 1", "retransmit_timeout = 1")
		p := s.start(t)
		p.up(t, initiator)
		time.Sleep(2500 * time.Millisecond)
		if sas := p.s.SAs(t); len(sas) != 1 {
			t.Fatalf("while caponier lives, strongSwan has %+v", sas)
		}
		p.c.Crash(t)
		Eventually(t, 20*time.Second, "strongSwan has removed the SAs", func() bool { return len(p.s.SAs(t)) == 0 })
	})
	t.Run("strongSwan-restarts", func(t *testing.T) {
		record(t, "strongSwan crashes, starts again and calls: caponier forgets the old SAs", "responder")
		t.Parallel()
		s := directSetup(t)
		s.peer(func(p *Peer) { p.DPD = "1s" })
		p := s.start(t)
		p.up(t, initiator)
		old := p.ike(t)
		p.s.Crash(t)
		time.Sleep(2 * time.Second) // caponier asks whether it lives
		p.s = StartStrongSwan(t, p.Far.Gateway, p.StrongSwan)
		p.s.MustInitiate(t, tunnelName)
		p.reachable(t)
		// Nobody answers the check, which would go on for 45 s.
		Eventually(t, 10*time.Second, "only the new SAs are left", func() bool {
			sas := p.ikeSAs(t)
			return len(sas) == 1 && sas[0].InitiatorSPI != old.InitiatorSPI && len(p.c.SAs(t)) == 2
		})
		p.agree(t, responder, defaultIKE, defaultESP)
		p.exercise(t)
	})
	t.Run("strongSwan-stops", func(t *testing.T) {
		record(t, "strongSwan stops and starts again: `start: start` brings the tunnel back", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.tunnel(func(u *Tunnel) { u.Start = "start" })
		p := s.start(t)
		Eventually(t, 20*time.Second, "the tunnel is up", func() bool { return len(p.tunnel(t).SAs) == 1 })
		p.s.Stop(t)
		Eventually(t, 5*time.Second, "the tunnel is down", func() bool { return len(p.tunnel(t).SAs) == 0 })
		p.s = StartStrongSwan(t, p.Far.Gateway, p.StrongSwan)
		Eventually(t, 30*time.Second, "the tunnel is back", func() bool { return len(p.tunnel(t).SAs) == 1 })
		p.exercise(t)
	})
	t.Run("caponier-restarts", func(t *testing.T) {
		record(t, "caponier stops and starts again; then it crashes and starts again", "initiator")
		t.Parallel()
		p := directSetup(t).start(t)
		p.up(t, initiator)
		p.c.Restart(t)
		Eventually(t, 5*time.Second, "strongSwan has no SA", func() bool { return len(p.s.SAs(t)) == 0 })
		p.up(t, initiator)
		p.reachable(t)
		p.c.Crash(t)
		p.c.start(t)
		p.up(t, initiator)
		Eventually(t, 5*time.Second, "strongSwan forgets the old SAs", func() bool { return len(p.s.SAs(t)) == 1 })
		p.exercise(t)
	})
	t.Run("trap", func(t *testing.T) {
		record(t, "`start: trap`: the packets that set the tunnel up arrive too", "initiator")
		t.Parallel()
		s := directSetup(t)
		s.tunnel(func(u *Tunnel) { u.Start = "trap" })
		p := s.start(t)
		outside := StartCapture(t, p.Near.Gateway, Outside)
		Ping(t, p.Near.Host, p.Far.HostAddr())
		outside.Stop(t)
		if leaked := outside.Packets(t, inClear); len(leaked) > 0 {
			t.Errorf("in clear:\n%s", strings.Join(leaked, "\n"))
		}
		p.agree(t, initiator, defaultIKE, defaultESP)
		p.exercise(t)
	})
}

func strongSwanLives(s *setup) {
	s.conn().Extra = append(s.conn().Extra, "rekey_time = 5s", "rand_time = 1s", "over_time = 5s")
	s.child().Extra = append(s.child().Extra, "rekey_time = 3s", "rand_time = 1s", "life_time = 8s")
}

// shortLives runs traffic for as long as SAs are replaced several times.
func shortLives(t *testing.T, s *setup, role string) {
	t.Helper()
	p := s.start(t)
	p.up(t, role)
	first, firstChild := p.ike(t), p.childSA(t)
	stop := p.streams(t)
	time.Sleep(20 * time.Second)
	stop()
	for kind, least := range map[string]int{"IKE SA rekeyed": 2, "tunnel rekeyed": 3} {
		if n := strings.Count(p.c.Log(), kind); n < least {
			t.Errorf("%q stands %d times in caponier's log, not %d", kind, n, least)
		}
	}
	// Now and then two of a kind are there for a moment.
	Eventually(t, 5*time.Second, "one IKE SA and one CHILD SA are left", func() bool {
		return len(p.ikeSAs(t)) == 1 && len(p.childSAs(t)) == 1
	})
	if sa, child := p.ike(t), p.childSA(t); sa.InitiatorSPI == first.InitiatorSPI || child.In.SPI == firstChild.In.SPI {
		t.Errorf("caponier still has %+v and %+v", sa, child)
	}
	p.reachable(t)
}
