package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestPath(t *testing.T) {
	t.Parallel()
	t.Run("IPv6", func(t *testing.T) {
		record(t, "IPv6 outside, both families inside", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		s.peer(func(p *Peer) {
			p.Local.Address, p.Remote.Address = []string{s.Near.Outside6.String()}, []string{s.Far.Outside6.String()}
		})
		s.conn().LocalAddrs, s.conn().RemoteAddrs = []string{s.Far.Outside6.String()}, []string{s.Near.Outside6.String()}
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			if sa, _ := p.agree(t, role, defaultIKE, defaultESP); sa.LocalHost != s.Far.Outside6.String() {
				t.Errorf("IKE SA is %+v", sa)
			}
			p.exercise(t)
			p.down(t, role)
		}
	})
	t.Run("mobike", func(t *testing.T) {
		record(t, "strongSwan offers MOBIKE", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		s.conn().Extra = nil
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.agree(t, role, defaultIKE, defaultESP)
			p.rekeyChild(t, role)
			p.reachable(t)
			p.down(t, role)
		}
	})
	t.Run("caponier-behind-NAT", func(t *testing.T) {
		record(t, "caponier behind a NAT, `encapsulation: auto`, keepalives", "initiator")
		t.Parallel()
		n := NewNATNetwork(t)
		s := newSetup(n, n.A, n.B)
		s.peer(func(p *Peer) { p.Encapsulation = "auto" })
		s.conn().RemoteAddrs = nil
		p := s.start(t)
		p.up(t, initiator)
		p.throughNAT(t, initiator)
		if sa := p.ike(t); !sa.NATLocal {
			t.Errorf("caponier's IKE SA is %+v", sa)
		}
		keepalives(t, StartCapture(t, *n.NAT, "left"), n.A.Outside.String(), 25*time.Second)
		p.reachable(t)
		p.down(t, initiator)
	})
	t.Run("strongSwan-behind-NAT", func(t *testing.T) {
		record(t, "strongSwan behind a NAT, `encapsulation: auto`, keepalives", "responder")
		t.Parallel()
		n := NewNATNetwork(t)
		s := newSetup(n, n.B, n.A)
		s.peer(func(p *Peer) { p.Encapsulation, p.Remote.Address = "auto", []string{"%any"} })
		s.StrongSwan.Settings = append(s.StrongSwan.Settings, "keep_alive = 1")
		p := s.start(t)
		p.up(t, responder)
		p.throughNAT(t, responder)
		if sa := p.ike(t); !sa.NATRemote || sa.Remote.Addr() != n.A.Seen {
			t.Errorf("caponier's IKE SA is %+v", sa)
		}
		keepalives(t, StartCapture(t, *n.NAT, "left"), n.A.Outside.String(), 5*time.Second)
		p.reachable(t)
		p.down(t, responder)
	})
}

// throughNAT checks a tunnel through a NAT, with the rekeyings that only the
// side in front of it begins.
func (p *pair) throughNAT(t testing.TB, role string) {
	t.Helper()
	p.agree(t, role, defaultIKE, defaultESP)
	if sa := p.childSA(t); !sa.Encap {
		t.Errorf("caponier's CHILD SA is %+v", sa)
	}
	p.exercise(t)
	for _, by := range bothRoles {
		p.rekeyChild(t, by)
		p.rekeyIKE(t, by)
		p.reachable(t)
	}
}

// keepalives waits for a NAT keepalive from a host (RFC 3948, Section 2.3).
func keepalives(t testing.TB, c *Capture, from string, within time.Duration) {
	t.Helper()
	time.Sleep(within)
	c.Stop(t)
	filter := fmt.Sprintf("src host %s and udp dst port 4500 and udp[4:2] == 9 and udp[8] == 0xff", from)
	if seen := c.Packets(t, filter); len(seen) == 0 {
		t.Errorf("no keepalive within %v:\n%s", within, strings.Join(c.Packets(t, ""), "\n"))
	}
}
