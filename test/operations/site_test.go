package operations

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// site is two gateways with a host behind each, on a switch where a stranger
// sits too and the test listens:
//
//	hostA ── gwA ──┐            ┌── gwB ── hostB
//	               ├── switch ──┤
//	 stranger ─────┘   (tap)
//
// Inside, every host has an address in each subnet. Without the gateways'
// protection, plain routes lead from one inside to the other: what a policy does
// not stop crosses the switch in clear.
type site struct {
	t                           *testing.T
	hostA, hostB, wire, strange netns.NS
	gwA, gwB                    *gateway
	tap                         *tap
	dir                         string
}

// subnet is one pair of inner networks, and the outer family that is to carry it.
type subnet struct {
	name           string
	A, B           netip.Prefix
	hostA, hostB   netip.Addr
	outerA, outerB netip.Addr
}

var (
	outer4A, outer4B = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	outer6A, outer6B = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	stranger4        = netip.MustParseAddr("192.0.2.66")
)

var (
	net4in4 = makeSubnet("4in4", "10.1.4.0/24", "10.2.4.0/24", outer4A, outer4B)
	net6in4 = makeSubnet("6in4", "2001:db8:a4::/64", "2001:db8:b4::/64", outer4A, outer4B)
	net4in6 = makeSubnet("4in6", "10.1.6.0/24", "10.2.6.0/24", outer6A, outer6B)
	net6in6 = makeSubnet("6in6", "2001:db8:a6::/64", "2001:db8:b6::/64", outer6A, outer6B)
	// netMore is one more between the IPv4 addresses.
	netMore = makeSubnet("more", "10.1.8.0/24", "10.2.8.0/24", outer4A, outer4B)
	subnets = []subnet{net4in4, net6in4, net4in6, net6in6, netMore}
)

func makeSubnet(name, a, b string, outerA, outerB netip.Addr) subnet {
	s := subnet{name: name, A: netip.MustParsePrefix(a), B: netip.MustParsePrefix(b), outerA: outerA, outerB: outerB}
	s.hostA, s.hostB = nth(s.A, 2), nth(s.B, 2)
	return s
}

// nth is the n-th address of a prefix.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Addr()
	for range n {
		a = a.Next()
	}
	return a
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func isInner(a netip.Addr) bool {
	return slices.ContainsFunc(subnets, func(s subnet) bool { return s.A.Contains(a) || s.B.Contains(a) })
}

var sites atomic.Int32

// newSite builds the network. The gateways are not started.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t}
	var err error
	//nolint:usetesting // other users must reach it, and the path of a socket be short
	if s.dir, err = os.MkdirTemp("", "operations-site-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(s.dir) })
	if err := os.Chmod(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	prefix := fmt.Sprintf("op%d-%d-", os.Getpid(), sites.Add(1))
	create := func(name string) netns.NS {
		n, err := netns.Create(prefix + name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := n.Delete(); err != nil {
				t.Error(err)
			}
		})
		// Link-local addresses are to serve at once, too.
		err = n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/default/dad_transmits", []byte("0"), 0) })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	s.wire, s.strange, s.hostA, s.hostB = create("wire"), create("strange"), create("hosta"), create("hostb")
	s.gwA, s.gwB = newGateway(s, "gwA", create("gwa")), newGateway(s, "gwB", create("gwb"))
	if err := s.wireUp(); err != nil {
		t.Fatal(err)
	}
	s.tap = listen(t, s)
	s.settle()
	return s
}

// settle waits until the kernel has given every link its own address, so that
// nothing changes by itself any more.
func (s *site) settle() {
	s.t.Helper()
	for _, n := range []netns.NS{s.gwA.ns, s.gwB.ns, s.hostA, s.hostB} {
		eventually(s.t, 10*time.Second, "settled link-local address in "+n.Name, func() bool {
			out, err := n.Run(within(s.t, commandTimeout), "ip", "-6", "-o", "addr", "show", "scope", "link")
			links, errLinks := n.Run(within(s.t, commandTimeout), "ip", "-o", "link", "show", "type", "veth")
			if err := errors.Join(err, errLinks); err != nil {
				s.t.Fatal(err)
			}
			return !strings.Contains(out, "tentative") && strings.Count(out, "\n") == strings.Count(links, "\n")
		})
	}
}

// outside and inside are the names of a gateway's links.
const outside, inside = "out", "in"

func (s *site) wireUp() error {
	a, b := s.gwA.ns, s.gwB.ns
	errs := []error{
		s.wire.IP("link", "add", "br0", "type", "bridge", "mcast_snooping", "0"), s.wire.IP("link", "set", "br0", "up"),
		// Nobody is to speak on the switch by itself.
		s.wire.Do(func() error {
			return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
		}),
		netns.Link(a, outside, s.wire, "porta"), netns.Link(b, outside, s.wire, "portb"), netns.Link(s.strange, outside, s.wire, "ports"),
		netns.Link(a, inside, s.hostA, inside), netns.Link(b, inside, s.hostB, inside),
		a.Forward(), b.Forward(),
		a.Addr(outside, netip.PrefixFrom(outer4A, 24)), a.Addr(outside, netip.PrefixFrom(outer6A, 64)),
		b.Addr(outside, netip.PrefixFrom(outer4B, 24)), b.Addr(outside, netip.PrefixFrom(outer6B, 64)),
		s.strange.Addr(outside, netip.PrefixFrom(stranger4, 24)),
	}
	for _, port := range []string{"porta", "portb", "ports"} {
		errs = append(errs, s.wire.IP("link", "set", port, "master", "br0"))
	}
	for _, n := range subnets {
		errs = append(errs,
			a.Addr(inside, netip.PrefixFrom(nth(n.A, 1), n.A.Bits())), s.hostA.Addr(inside, netip.PrefixFrom(n.hostA, n.A.Bits())),
			b.Addr(inside, netip.PrefixFrom(nth(n.B, 1), n.B.Bits())), s.hostB.Addr(inside, netip.PrefixFrom(n.hostB, n.B.Bits())),
			s.hostA.Route(n.B, nth(n.A, 1)), s.hostB.Route(n.A, nth(n.B, 1)),
		)
	}
	errs = append(errs, s.routesInClear(a, b))
	return errors.Join(errs...)
}

// routesInClear are the ways by which unprotected packets would leave.
func (s *site) routesInClear(a, b netns.NS) error {
	var errs []error
	for _, n := range subnets {
		viaA, viaB := outer4A, outer4B
		if n.A.Addr().Is6() {
			viaA, viaB = outer6A, outer6B
		}
		errs = append(errs, a.Route(n.B, viaB), b.Route(n.A, viaA))
	}
	return errors.Join(errs...)
}

// snapshot is what the routing of a namespace looks like, and which links it has.
func snapshot(t *testing.T, n netns.NS) []string {
	t.Helper()
	var lines []string
	for _, args := range [][]string{
		{"-4", "rule"},
		{"-6", "rule"},
		{"-4", "route", "show", "table", "all"},
		{"-6", "route", "show", "table", "all"},
		{"-br", "link"},
	} {
		out, err := n.Run(within(t, commandTimeout), "ip", args...)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			lines = append(lines, args[0]+" "+strings.Join(strings.Fields(line), " "))
		}
	}
	slices.Sort(lines)
	return lines
}

// sameSystem fails where the snapshot differs.
func sameSystem(t *testing.T, when string, want, got []string) {
	t.Helper()
	for _, l := range got {
		if !slices.Contains(want, l) {
			t.Errorf("%s: left behind: %s", when, l)
		}
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("%s: missing: %s", when, l)
		}
	}
}

// indexOf is the index of a link.
func indexOf(n netns.NS, dev string) (index int, err error) {
	err = n.Do(func() error {
		i, err := net.InterfaceByName(dev)
		if err == nil {
			index = i.Index
		}
		return err
	})
	return index, err
}
