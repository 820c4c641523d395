package interop

import (
	"net/netip"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
)

// TestAggfragBetweenGateways has two caponiers share payloads (RFC 9347), which
// each asks the other for: packets of every length cross, rekeyings by either end
// lose none, and both ends' status says so.
func TestAggfragBetweenGateways(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t)
	a, b := startSharing(t, n, Tunnel{Aggfrag: "required"})
	exchange := func() {
		t.Helper()
		for _, to := range []netip.Addr{n.B.HostAddr(), n.B.HostAddr6()} {
			for _, size := range []int{0, 56, 1300} {
				PingSize(t, n.A.Host, to, size)
			}
			Transfer(t, n.A.Host, n.B.Host, to, 1<<20)
		}
	}
	exchange()
	stream := StartStream(t, n.A.Host, n.B.Host, n.B.HostAddr())
	for _, c := range []*Caponier{a, b} { // what each has set up carries something
		c.Rekey(t, target)
		exchange()
	}
	if sent, lost := stream.Stop(); len(lost) > 0 {
		t.Errorf("%d of %d packets were lost", len(lost), sent)
	}
	for _, c := range []*Caponier{a, b} {
		for _, sa := range c.Connection(t, connName).Tunnels[0].SAs {
			if !sa.Aggfrag || sa.In.Packets == 0 {
				t.Errorf("an SA is %+v", sa)
			}
		}
	}
}

// startSharing starts a caponier at both sites, with the same settings of the
// tunnel, which A has set up.
func startSharing(t testing.TB, n *Network, tunnel Tunnel) (a, b *Caponier) {
	t.Helper()
	config := func(near, far *Site, id, peer string) CaponierConfig {
		x := tunnel
		x.Local, x.Remote = []string{near.LAN.String(), near.LAN6.String()}, []string{far.LAN.String(), far.LAN6.String()}
		x.Start = "trap"
		return CaponierConfig{
			PSK: "correct horse battery staple",
			Connections: map[string]Peer{connName: {
				Local:   Party{Address: []string{near.Outside.String()}, ID: id, Auth: "psk", PSKFile: PSKFile},
				Remote:  Party{Address: []string{far.Outside.String()}, ID: peer, Auth: "psk", PSKFile: PSKFile},
				Tunnels: map[string]Tunnel{tunnelName: x},
			}},
		}
	}
	a = StartCaponier(t, n.A.Gateway, config(n.A, n.B, "a.example", "b.example"))
	b = StartCaponier(t, n.B.Gateway, config(n.B, n.A, "b.example", "a.example"))
	a.MustConnect(t, target)
	return a, b
}

// TestConstantRate: with iptfs, what a third party sees of ESP is packets of one
// length in either direction, also while nothing crosses, and everything crosses.
func TestConstantRate(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t)
	a, b := startSharing(t, n, Tunnel{IPTFS: &IPTFS{Rate: "4M", PacketSize: 1000}})
	for _, s := range []*Site{n.A, n.B} {
		// The device cuts trains, so that the capture sees what a wire would carry.
		_, err := s.Gateway.Run(t.Context(), "ip", "link", "set", Outside, "gso_max_segs", "1")
		must(t, err)
	}
	outside := StartCapture(t, n.A.Gateway, Outside)
	for _, size := range []int{0, 56, 1300} {
		PingSize(t, n.A.Host, n.B.HostAddr(), size)
		PingSize(t, n.B.Host, n.A.HostAddr6(), size)
	}
	a.Rekey(t, target)
	b.Rekey(t, target)
	Transfer(t, n.A.Host, n.B.Host, n.B.HostAddr(), 1<<17)
	outside.Stop(t)
	for _, from := range []netip.Addr{n.A.Outside, n.B.Outside} {
		all := "udp port 4500 and udp[8:4] != 0 and src host " + from.String()
		esp, other := outside.Packets(t, all), outside.Packets(t, all+" and ip[2:2] != 1000")
		if len(esp) < 100 || len(other) != 0 {
			t.Errorf("%s sends %d packets, and %d of other lengths, such as %q", from, len(esp), len(other), other[:min(2, len(other))])
		}
	}
	for _, c := range []*Caponier{a, b} {
		for _, sa := range c.Connection(t, connName).Tunnels[0].SAs {
			if !sa.Aggfrag {
				t.Errorf("an SA is %+v", sa)
			}
		}
	}
}

// TestCircuitBreaker: where a third of the packets of a constant rate is lost on the
// way, the sender hears of it and switches the tunnel off, and a rekeying begins
// anew (RFC 9347, Section 2.4.2.1).
func TestCircuitBreaker(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t)
	a, _ := startSharing(t, n, Tunnel{IPTFS: &IPTFS{Rate: "1M", PacketSize: 1000, LossLimit: 10, LossTime: "5s"}})
	tripped := func() bool {
		for _, sa := range a.Connection(t, connName).Tunnels[0].SAs {
			if sa.Tripped {
				return true
			}
		}
		return false
	}
	for range 7 {
		Ping(t, n.A.Host, n.B.HostAddr())
		time.Sleep(time.Second)
	}
	if tripped() {
		t.Fatal("switched off, and nothing is lost")
	}
	nft := func(rules string) {
		t.Helper()
		_, err := n.B.Gateway.Run(t.Context(), "nft", rules)
		must(t, err)
	}
	nft("table ip lossy { chain in { type filter hook input priority -300; udp dport 4500 @th,64,32 != 0 numgen random mod 100 < 33 drop; }; }")
	Eventually(t, time.Minute, "the tunnel is switched off", tripped)
	nft("delete table ip lossy")
	if pings(t, n.A.Host, n.B.HostAddr()) {
		t.Error("a packet crosses a tunnel that is switched off")
	}
	a.Rekey(t, target)
	Eventually(t, 20*time.Second, "packets cross the next SA", func() bool { return pings(t, n.A.Host, n.B.HostAddr()) })
	if tripped() {
		t.Error("the next SA is switched off")
	}
}

// pings reports whether a packet of ICMP is answered.
func pings(t *testing.T, from netns.NS, to netip.Addr) bool {
	t.Helper()
	return ping(t.Context(), from, to, 1, 56) == nil
}

// TestAggfragIsDeclined: a peer that does not know AGGFRAG mode gets a tunnel
// without, unless that is not wanted.
func TestAggfragIsDeclined(t *testing.T) {
	t.Parallel()
	for _, role := range bothRoles {
		t.Run("on-"+role, func(t *testing.T) {
			t.Parallel()
			s := directSetup(t)
			s.tunnel(func(t *Tunnel) { t.Aggfrag = "on" })
			p := s.start(t)
			p.up(t, role)
			p.exchange(t)
			p.c.Rekey(t, target)
			p.exchange(t)
			for _, sa := range p.childSAs(t) {
				if sa.Aggfrag || sa.Mode != ipsec.Tunnel {
					t.Errorf("an SA is %+v", sa)
				}
			}
		})
		t.Run("required-"+role, func(t *testing.T) {
			t.Parallel()
			s := directSetup(t)
			s.tunnel(func(t *Tunnel) { t.Aggfrag = "required" })
			p := s.start(t)
			err := p.tryUp(t, role)
			if err == nil {
				t.Fatal("the tunnel came up")
			}
			if role == initiator && CodeOf(err) != "aggfrag-mismatch" {
				t.Errorf("connect fails with %v", err)
			}
			awaitCode(t, p.c, "aggfrag-mismatch", 5*time.Second)
			Eventually(t, 5*time.Second, "no SA is left", func() bool { return len(p.c.SAs(t)) == 0 })
		})
	}
}

// exchange sends packets both ways.
func (p *pair) exchange(t testing.TB) {
	t.Helper()
	for _, to := range []netip.Addr{p.Far.HostAddr(), p.Far.HostAddr6()} {
		Ping(t, p.Near.Host, to)
	}
	Ping(t, p.Far.Host, p.Near.HostAddr())
}
