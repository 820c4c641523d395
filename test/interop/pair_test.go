package interop

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/ipsec"
)

// The default algorithms of these tests, in words that both gateways know.
const (
	defaultIKE = "aes256gcm16-prfsha512-x25519"
	defaultESP = "aes256gcm16-x25519"
)

// Names of the connection and of its tunnel, at both gateways, and who they are.
const (
	connName   = "gw"
	tunnelName = "net"
	target     = connName + "/" + tunnelName

	caponierID   = "caponier.example"
	strongSwanID = "strongswan.example"
)

// setup is a network with caponier at one site and strongSwan at the other. The
// gateways are configured for one tunnel of both families with a pre-shared key;
// a test changes what it is about before it starts them.
type setup struct {
	Network    *Network
	Near, Far  *Site // caponier's and strongSwan's
	Caponier   CaponierConfig
	StrongSwan Config
}

// pair is caponier and strongSwan, running.
type pair struct {
	setup
	c *Caponier
	s *StrongSwan
}

// newSetup has caponier at near.
func newSetup(n *Network, near, far *Site) *setup {
	s := &setup{Network: n, Near: near, Far: far}
	s.StrongSwan = pskConfig(far, near, strongSwanID, caponierID)
	s.Caponier = CaponierConfig{
		PSK: s.StrongSwan.PSKs[0].Secret,
		Connections: map[string]Peer{connName: {
			Local:     Party{Address: []string{near.Outside.String()}, ID: caponierID, Auth: "psk", PSKFile: PSKFile},
			Remote:    Party{Address: []string{far.Seen.String()}, ID: strongSwanID, Auth: "psk", PSKFile: PSKFile},
			Proposals: []string{defaultIKE},
			// kernel-libipsec sends and takes ESP in UDP only.
			Encapsulation: "always",
			Tunnels: map[string]Tunnel{tunnelName: {
				Local:     []string{near.LAN.String(), near.LAN6.String()},
				Remote:    []string{far.LAN.String(), far.LAN6.String()},
				Proposals: []string{defaultESP},
			}},
		}},
	}
	return s
}

// directSetup has no NAT.
func directSetup(t testing.TB) *setup {
	t.Helper()
	n := NewNetwork(t)
	return newSetup(n, n.A, n.B)
}

// peer changes caponier's connection.
func (s *setup) peer(change func(*Peer)) {
	p := s.Caponier.Connections[connName]
	change(&p)
	s.Caponier.Connections[connName] = p
}

// tunnel changes caponier's tunnel.
func (s *setup) tunnel(change func(*Tunnel)) {
	s.peer(func(p *Peer) {
		t := p.Tunnels[tunnelName]
		change(&t)
		p.Tunnels[tunnelName] = t
	})
}

// conn is strongSwan's connection.
func (s *setup) conn() *Connection { return &s.StrongSwan.Connections[0] }

// child is strongSwan's child.
func (s *setup) child() *Child { return &s.conn().Children[0] }

// propose has both gateways propose these algorithms.
func (s *setup) propose(ike, esp string) {
	s.peer(func(p *Peer) { p.Proposals = []string{ike} })
	s.tunnel(func(t *Tunnel) { t.Proposals = []string{esp} })
	s.conn().Proposals, s.child().Proposals = ike, esp
}

// start starts both gateways.
func (s *setup) start(t testing.TB) *pair {
	t.Helper()
	return &pair{setup: *s, c: StartCaponier(t, s.Near.Gateway, s.Caponier), s: StartStrongSwan(t, s.Far.Gateway, s.StrongSwan)}
}

// Roles of caponier.
const (
	initiator = "initiator"
	responder = "responder"
)

// bothRoles runs a test with caponier as initiator, then as responder, between
// the same daemons.
var bothRoles = []string{initiator, responder}

// up sets the tunnel up.
func (p *pair) up(t testing.TB, role string) {
	t.Helper()
	must(t, p.tryUp(t, role))
}

// tryUp sets the tunnel up and returns what the initiator says.
func (p *pair) tryUp(t testing.TB, role string) error {
	t.Helper()
	if role == initiator {
		return p.c.Connect(t, target)
	}
	if err := p.s.Initiate(t, tunnelName); err != nil {
		return err
	}
	// strongSwan has the response before caponier's SAs show in its status.
	Eventually(t, 5*time.Second, "caponier has the tunnel", func() bool { return len(p.tunnel(t).SAs) == 1 })
	return nil
}

// down has the initiator delete the IKE SA, and waits until both have.
func (p *pair) down(t testing.TB, role string) {
	t.Helper()
	if role == initiator {
		p.c.Disconnect(t, connName)
	} else {
		p.s.TerminateIKE(t, connName)
	}
	p.awaitNothing(t, 5*time.Second)
}

// awaitNothing waits until neither has an SA, but for those that caponier keeps
// for a moment to repeat its last response.
func (p *pair) awaitNothing(t testing.TB, within time.Duration) {
	t.Helper()
	Eventually(t, within, "no SA is left", func() bool {
		return len(p.s.SAs(t)) == 0 && len(p.c.SAs(t)) == 0 && len(p.ikeSAs(t)) == 0
	})
}

// ikeSAs are caponier's IKE SAs that are not on their way out.
func (p *pair) ikeSAs(t testing.TB) []control.IKESA {
	t.Helper()
	return slices.DeleteFunc(p.c.Connection(t, connName).IKE, func(sa control.IKESA) bool { return sa.State == control.IKEDeleting })
}

// ike is caponier's only IKE SA.
func (p *pair) ike(t testing.TB) control.IKESA {
	t.Helper()
	sas := p.ikeSAs(t)
	if len(sas) != 1 || sas[0].State != control.IKEEstablished {
		t.Fatalf("caponier's IKE SAs: %+v", sas)
	}
	return sas[0]
}

// tunnel is caponier's tunnel.
func (p *pair) tunnel(t testing.TB) control.Tunnel {
	t.Helper()
	c := p.c.Connection(t, connName)
	i := slices.IndexFunc(c.Tunnels, func(t control.Tunnel) bool { return t.Name == tunnelName })
	if i < 0 {
		t.Fatalf("caponier knows the tunnels %+v", c.Tunnels)
	}
	return c.Tunnels[i]
}

// childSAs are the CHILD SAs of caponier's tunnel that it sends with: of those
// that were replaced, it keeps the inbound half for a moment.
func (p *pair) childSAs(t testing.TB) []control.ChildSA {
	t.Helper()
	sas := p.c.SAs(t)
	return slices.DeleteFunc(p.tunnel(t).SAs, func(c control.ChildSA) bool {
		return !slices.ContainsFunc(sas, func(sa control.SA) bool { return sa.ID.Direction == ipsec.Out && sa.ID.SPI == c.Out.SPI })
	})
}

// childSA is the only one of them.
func (p *pair) childSA(t testing.TB) control.ChildSA {
	t.Helper()
	sas := p.childSAs(t)
	if len(sas) != 1 {
		t.Fatalf("caponier's CHILD SAs: %+v", sas)
	}
	return sas[0]
}

// agree checks that both gateways say the same of the tunnel, and that it has
// the algorithms.
func (p *pair) agree(t testing.TB, role, ike, esp string) (IKESA, ChildSA) {
	t.Helper()
	sas := p.s.SAs(t)
	if len(sas) != 1 || sas[0].State != "ESTABLISHED" {
		t.Fatalf("strongSwan's IKE SAs: %+v", sas)
	}
	theirs, ok := sas[0].Child(tunnelName)
	if !ok {
		t.Fatalf("strongSwan has no child: %+v", sas[0])
	}
	own, ownChild := p.ike(t), p.childSA(t)
	if own.Role != role || sas[0].Initiator == (role == initiator) ||
		own.InitiatorSPI != sas[0].InitiatorSPI || own.ResponderSPI != sas[0].ResponderSPI {
		t.Errorf("caponier's IKE SA is %+v,\nstrongSwan's is %+v", own, sas[0])
	}
	if own.Proposal != ike {
		t.Errorf("caponier's IKE SA has %s, not %s", own.Proposal, ike)
	}
	if withoutKE(ownChild.Proposal) != withoutKE(esp) {
		t.Errorf("caponier's CHILD SA has %s, not %s", ownChild.Proposal, esp)
	}
	if fmt.Sprintf("%08x", uint32(ownChild.In.SPI)) != theirs.SPIOut || fmt.Sprintf("%08x", uint32(ownChild.Out.SPI)) != theirs.SPIIn {
		t.Errorf("caponier's CHILD SA is %+v,\nstrongSwan's is %+v", ownChild, theirs)
	}
	return sas[0], theirs
}

// withoutKE leaves out what a CHILD SA has only after CREATE_CHILD_SA, and noesn.
func withoutKE(proposal string) string {
	var kept []string
	for _, w := range strings.Split(proposal, "-") {
		if !slices.Contains(keyExchanges, w) && w != "noesn" {
			kept = append(kept, w)
		}
	}
	return strings.Join(kept, "-")
}

// exercise sends traffic of both families and of many sizes through the tunnel,
// begun from both sides, and fails the test if any of it is lost, or is seen in
// clear outside.
func (p *pair) exercise(t testing.TB) {
	t.Helper()
	outside := StartCapture(t, p.Near.Gateway, Outside)
	near, far := p.Near, p.Far
	// An IPv6 host learns the path MTU from the first packet that is too long.
	_ = ping(t.Context(), far.Host, near.HostAddr6(), 1, 1452)
	_ = ping(t.Context(), near.Host, far.HostAddr6(), 1, 1452)
	for _, size := range []int{0, 56, 1300, 1472, 4000} {
		PingSize(t, near.Host, far.HostAddr(), size)
		PingSize(t, far.Host, near.HostAddr6(), size)
	}
	Ping(t, far.Host, near.HostAddr())
	Ping(t, near.Host, far.HostAddr6())
	Transfer(t, near.Host, far.Host, far.HostAddr(), 1<<20)
	Transfer(t, far.Host, near.Host, near.HostAddr6(), 1<<20)
	outside.Stop(t)
	if leaked := outside.Packets(t, inClear); len(leaked) > 0 {
		t.Errorf("in clear:\n%s", strings.Join(leaked[:min(10, len(leaked))], "\n"))
	}
	if esp := outside.Packets(t, "udp port 4500"); len(esp) < 100 {
		t.Errorf("only %d packets in UDP", len(esp))
	}
}

// reachable fails the test unless echo requests of one family get through from
// both sides.
func (p *pair) reachable(t testing.TB) {
	t.Helper()
	Ping(t, p.Near.Host, p.Far.HostAddr())
	Ping(t, p.Far.Host, p.Near.HostAddr())
}

func one(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }
