package interop

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync/atomic"
	"testing"

	"caponier/internal/lab/netns"
)

// Names of the interfaces of gateways.
const (
	Outside = "out" // towards the other gateway
	Inside  = "lan" // towards the host
)

// Network is one of the two networks in the package comment. The gateways'
// default routes lead to each other, and they forward: what a gateway fails to
// protect crosses the outside link in clear, where a Capture sees it.
type Network struct {
	A, B *Site
	// NAT is the router between the gateways, which masquerades A as its own
	// address in B's network; nil in a network without one. IPv6 is not translated.
	NAT *netns.NS

	number int32 // of the network in this process: part of its namespaces' names
}

// Site is a gateway and the host behind it.
type Site struct {
	Gateway, Host netns.NS
	// Outside are the addresses of the gateway's outside interface.
	Outside, Outside6 netip.Addr
	// Seen is the IPv4 address that the other gateway knows this one by.
	Seen netip.Addr
	// LAN are the networks inside. The gateway has the first address in them,
	// the host the tenth.
	LAN, LAN6 netip.Prefix
}

// HostAddr is the host's IPv4 address.
func (s *Site) HostAddr() netip.Addr { return nth(s.LAN, 10) }

// HostAddr6 is the host's IPv6 address.
func (s *Site) HostAddr6() netip.Addr { return nth(s.LAN6, 10) }

// GatewayAddr is the gateway's IPv4 address inside.
func (s *Site) GatewayAddr() netip.Addr { return nth(s.LAN, 1) }

// GatewayAddr6 is the gateway's IPv6 address inside.
func (s *Site) GatewayAddr6() netip.Addr { return nth(s.LAN6, 1) }

func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// networks numbers the networks of this process.
var networks atomic.Int32

// NewNetwork makes a network without NAT, and removes it when the test ends,
// however it ends.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := newNetwork(t)
	a, b := n.A, n.B
	a.Outside, b.Outside = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	a.Outside6, b.Outside6 = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	a.Seen, b.Seen = a.Outside, b.Outside
	must(t, netns.Link(a.Gateway, Outside, b.Gateway, Outside))
	a.connect(t, b.Outside, b.Outside6)
	b.connect(t, a.Outside, a.Outside6)
	return n
}

// NewNATNetwork makes a network where gateway A is behind a NAT, and removes it
// when the test ends.
func NewNATNetwork(t testing.TB) *Network {
	t.Helper()
	n := newNetwork(t)
	a, b := n.A, n.B
	a.Outside, b.Outside = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.2")
	a.Outside6, b.Outside6 = netip.MustParseAddr("2001:db8:a::1"), netip.MustParseAddr("2001:db8:b::2")
	left, right := netip.MustParsePrefix("192.0.2.254/24"), netip.MustParsePrefix("198.51.100.254/24")
	left6, right6 := netip.MustParsePrefix("2001:db8:a::fe/64"), netip.MustParsePrefix("2001:db8:b::fe/64")
	a.Seen, b.Seen = right.Addr(), b.Outside

	nat := create(t, n.number, "nat")
	n.NAT = &nat
	must(t, nat.Forward())
	must(t, netns.Link(a.Gateway, Outside, nat, "left"))
	must(t, netns.Link(b.Gateway, Outside, nat, "right"))
	for dev, addrs := range map[string][]netip.Prefix{"left": {left, left6}, "right": {right, right6}} {
		for _, p := range addrs {
			must(t, nat.Addr(dev, p))
		}
	}
	a.connect(t, left.Addr(), left6.Addr())
	b.connect(t, right.Addr(), right6.Addr())
	_, err := nat.Run(t.Context(), "nft", "table ip nat { chain post { type nat hook postrouting priority srcnat; oifname right masquerade; }; }")
	must(t, err)
	return n
}

// newNetwork makes the sites, not yet connected.
func newNetwork(t testing.TB) *Network {
	t.Helper()
	require(t)
	sweep(t)
	number := networks.Add(1)
	return &Network{
		number: number,

		A: newSite(t, number, "A", "10.1.0.0/24", "fd00:1::/64"),
		B: newSite(t, number, "B", "10.2.0.0/24", "fd00:2::/64"),
	}
}

// newSite makes a gateway and a host behind it.
func newSite(t testing.TB, number int32, letter, lan, lan6 string) *Site {
	t.Helper()
	s := &Site{LAN: netip.MustParsePrefix(lan), LAN6: netip.MustParsePrefix(lan6)}
	s.Gateway, s.Host = create(t, number, "gw"+letter), create(t, number, "host"+letter)
	must(t, s.Gateway.Forward())
	must(t, netns.Link(s.Gateway, Inside, s.Host, "eth0"))
	for _, p := range []netip.Prefix{s.LAN, s.LAN6} {
		must(t, s.Gateway.Addr(Inside, netip.PrefixFrom(nth(p, 1), p.Bits())))
		must(t, s.Host.Addr("eth0", netip.PrefixFrom(nth(p, 10), p.Bits())))
		must(t, s.Host.Route(defaultRoute(nth(p, 1)), nth(p, 1)))
	}
	return s
}

// connect gives the outside interface its addresses and routes.
func (s *Site) connect(t testing.TB, via, via6 netip.Addr) {
	t.Helper()
	must(t, s.Gateway.Addr(Outside, netip.PrefixFrom(s.Outside, 24)))
	must(t, s.Gateway.Addr(Outside, netip.PrefixFrom(s.Outside6, 64)))
	must(t, s.Gateway.Route(defaultRoute(via), via))
	must(t, s.Gateway.Route(defaultRoute(via6), via6))
}

func defaultRoute(via netip.Addr) netip.Prefix {
	if via.Is6() {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// create makes a namespace for the time of the test.
func create(t testing.TB, number int32, role string) netns.NS {
	t.Helper()
	ns, err := netns.Create(fmt.Sprintf("interop-%d-%d-%s", os.Getpid(), number, role))
	must(t, err)
	t.Cleanup(func() {
		if err := ns.Delete(); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	// Otherwise link-local addresses, from which neighbours are asked for, are
	// usable only after a second or two.
	must(t, ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	}))
	return ns
}

// remains matches the names of namespaces and directories; they have the
// process that made them.
var remains = regexp.MustCompile(`^interop-(\d+)-\w+(-\w+)?$`)

// sweep removes what test processes left behind that were killed.
func sweep(t testing.TB) {
	t.Helper()
	namespaces, err := filepath.Glob("/run/netns/interop-*")
	must(t, err)
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), "interop-*"))
	must(t, err)
	for _, path := range append(namespaces, dirs...) {
		m := remains.FindStringSubmatch(filepath.Base(path))
		if m == nil {
			continue
		}
		if _, err := os.Stat("/proc/" + m[1]); !os.IsNotExist(err) {
			continue
		}
		// Another test process may do the same at this moment.
		if filepath.Dir(path) == "/run/netns" {
			_ = netns.NS{Name: filepath.Base(path)}.Delete()
		} else {
			_ = os.RemoveAll(path)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
