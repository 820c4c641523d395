package interop

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestNAT(t *testing.T) {
	t.Parallel()
	for _, role := range bothRoles {
		t.Run("both-"+role, func(t *testing.T) {
			record(t, "a NAT before each gateway; that of the responder passes UDP 500 and 4500 on", role)
			t.Parallel()
			n := NewDoubleNATNetwork(t)
			s := newSetup(n, n.A, n.B)
			if role == responder {
				s = newSetup(n, n.B, n.A)
			}
			s.natted(n)
			p := s.start(t)
			p.up(t, role)
			p.agree(t, role, defaultIKE, defaultESP)
			if sa := p.ike(t); !sa.NATLocal || !sa.NATRemote {
				t.Errorf("caponier's IKE SA is %+v", sa)
			}
			p.exercise(t)
			for _, by := range bothRoles {
				p.rekeyChild(t, by)
				p.reachable(t)
			}
			p.down(t, role)
		})
	}
	for _, role := range bothRoles {
		behind := map[string]string{initiator: "caponier", responder: "strongSwan"}[role]
		t.Run("mapping-"+role, func(t *testing.T) {
			record(t, behind+" is behind a NAT that takes another address and other ports: the other follows", role)
			t.Parallel()
			n := NewNATNetwork(t)
			s := newSetup(n, n.A, n.B)
			if role == responder {
				s = newSetup(n, n.B, n.A)
			}
			s.natted(n)
			s.peer(func(p *Peer) { p.DPD = "2s" })
			s.conn().Extra = append(s.conn().Extra, "dpd_delay = 2")
			p := s.start(t)
			p.up(t, role)
			p.reachable(t)
			now := n.Remap(t)
			Eventually(t, 20*time.Second, "traffic passes again", func() bool {
				return Reaches(t, p.Near.Host, p.Far.HostAddr()) && Reaches(t, p.Far.Host, p.Near.HostAddr())
			})
			p.reachable(t)
			if role == responder {
				sa := p.ike(t)
				if sa.Remote.Addr() != now || sa.Remote.Port() < 20000 {
					t.Errorf("caponier's peer is at %v, and not at a new port of %v", sa.Remote, now)
				}
				return
			}
			if sas := p.s.SAs(t); len(sas) != 1 || sas[0].RemoteHost != now.String() {
				t.Errorf("strongSwan's peer is at %+v, and not at %v", sas, now)
			}
		})
	}
	t.Run("one-NAT", func(t *testing.T) {
		record(t, "caponier and strongSwan behind one NAT call a caponier", "initiator, responder")
		t.Parallel()
		n := NewNATNetwork(t)
		c := n.AddClient(t)
		s := newSetup(n, n.B, n.A) // the caponier outside, and strongSwan behind the NAT
		s.natted(n)
		const other = "second.example"
		party := Party{Address: []string{"%any"}, ID: other, Auth: "psk", PSKFile: PSKFile}
		first := s.Caponier.Connections[connName]
		second := first
		second.Remote = party
		second.Tunnels = map[string]Tunnel{tunnelName: {Local: []string{n.B.LAN.String()}, Remote: []string{c.LAN.String()}, Proposals: []string{defaultESP}}}
		s.Caponier.Connections["second"] = second
		p := s.start(t)
		client := StartCaponier(t, c.Gateway, CaponierConfig{PSK: s.Caponier.PSK, Connections: map[string]Peer{connName: {
			Local:     Party{Address: []string{c.Outside.String()}, ID: other, Auth: "psk", PSKFile: PSKFile},
			Remote:    Party{Address: []string{n.B.Outside.String()}, ID: caponierID, Auth: "psk", PSKFile: PSKFile},
			Proposals: []string{defaultIKE},
			Tunnels: map[string]Tunnel{tunnelName: {
				Local: []string{c.LAN.String()}, Remote: []string{n.B.LAN.String()}, Proposals: []string{defaultESP},
			}},
		}}})
		p.up(t, responder)
		client.MustConnect(t, target)
		for range 2 {
			p.reachable(t)
			Ping(t, c.Host, n.B.HostAddr())
			Ping(t, n.B.Host, c.HostAddr())
			client.Rekey(t, target)
		}
		ports := make(map[netip.AddrPort]bool)
		for _, sa := range p.c.SAs(t) {
			if sa.Remote.Addr() != n.A.Seen {
				t.Errorf("an SA is with %v", sa.Remote)
			}
			ports[sa.Remote] = true
		}
		if len(ports) != 2 {
			t.Errorf("the two peers are at %v", ports)
		}
	})
}

// natted lets both gateways find the NATs for themselves.
func (s *setup) natted(n *Network) {
	s.peer(func(p *Peer) {
		p.Encapsulation = "auto"
		if s.Near == n.B {
			p.Remote.Address = []string{"%any"}
		}
	})
	if s.Near == n.A {
		s.conn().RemoteAddrs = nil
	} else {
		s.conn().RemoteAddrs = []string{n.B.Seen.String()}
	}
	s.StrongSwan.Settings = append(s.StrongSwan.Settings, "keep_alive = 2")
}

func TestSelectors(t *testing.T) {
	t.Parallel()
	t.Run("ports", func(t *testing.T) {
		record(t, "TCP to a range of ports; what is for another port is not let through", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		near, far := s.Near.LAN.String(), s.Far.LAN.String()
		s.tunnel(func(u *Tunnel) { u.Local, u.Remote = []string{near + ":tcp"}, []string{far + ":tcp/5000-5100"} })
		s.child().LocalTS, s.child().RemoteTS = []string{far + "[tcp/5000-5100]"}, []string{near + "[tcp]"}
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.shows(t, near+":tcp", far+":tcp/5000-5100")
			p.connects(t, 5050, true)
			p.connects(t, 5101, false)
			p.down(t, role)
		}
	})
	t.Run("narrowed-ports", func(t *testing.T) {
		record(t, "each end has another range of ports: both narrow to what they have in common", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		near, far := s.Near.LAN.String(), s.Far.LAN.String()
		s.tunnel(func(u *Tunnel) { u.Local, u.Remote = []string{near + ":tcp"}, []string{far + ":tcp/5000-5100"} })
		s.child().LocalTS, s.child().RemoteTS = []string{far + "[tcp/5050-6000]"}, []string{near + "[tcp]"}
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.shows(t, near+":tcp", far+":tcp/5050-5100")
			p.connects(t, 5060, true)
			p.down(t, role)
		}
	})
	t.Run("icmp-types", func(t *testing.T) {
		record(t, "ICMP of some types: `icmp/0-8`, which strongSwan writes as the ports 0 to 2303 (the selectors; kernel-libipsec does not look at types)", "initiator, responder")
		t.Parallel()
		s := directSetup(t)
		near, far := s.Near.LAN.String(), s.Far.LAN.String()
		s.tunnel(func(u *Tunnel) { u.Local, u.Remote = []string{near + ":icmp/0-8"}, []string{far + ":icmp/0-8"} })
		s.child().LocalTS, s.child().RemoteTS = []string{far + "[icmp/0-2303]"}, []string{near + "[icmp/0-2303]"}
		p := s.start(t)
		for _, role := range bothRoles {
			p.up(t, role)
			p.shows(t, near+":icmp/0-8", far+":icmp/0-8")
			p.down(t, role)
		}
	})
}

// shows checks the selectors of caponier's CHILD SA.
func (p *pair) shows(t testing.TB, near, far string) {
	t.Helper()
	sa := p.childSA(t)
	if len(sa.LocalTS) != 1 || len(sa.RemoteTS) != 1 || sa.LocalTS[0].String() != near || sa.RemoteTS[0].String() != far {
		t.Errorf("caponier's CHILD SA has %v and %v, and strongSwan %+v", sa.LocalTS, sa.RemoteTS, p.s.SAs(t))
	}
}

// connects checks whether a connection from the near host reaches a port of the
// far one.
func (p *pair) connects(t testing.TB, port uint16, want bool) {
	t.Helper()
	at := netip.AddrPortFrom(p.Far.HostAddr(), port).String()
	l, err := p.Far.Host.Listen("tcp", at)
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
	out, err := p.Near.Host.Run(t.Context(), "timeout", "2", "bash", "-c", "cat < /dev/tcp/"+strings.Replace(at, ":", "/", 1))
	if (err == nil && strings.Contains(out, "hello")) != want {
		t.Errorf("port %d answers %q, %v", port, out, err)
	}
}
