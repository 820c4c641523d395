package interop

import (
	"net/netip"
	"testing"

	"caponier/internal/lab/netns"
)

// NewDoubleNATNetwork makes a network where both gateways are behind a NAT. B's
// passes UDP 500 and 4500 on to B, so that A can call.
//
//	A 192.0.2.1 -- [NAT 192.0.2.254 | 198.51.100.1] -- [NAT 198.51.100.2 | 203.0.113.254] -- B 203.0.113.2
func NewDoubleNATNetwork(t testing.TB) *Network {
	t.Helper()
	n := newNetwork(t)
	a, b := n.A, n.B
	a.Outside, b.Outside = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("203.0.113.2")
	a.Outside6, b.Outside6 = netip.MustParseAddr("2001:db8:a::1"), netip.MustParseAddr("2001:db8:b::2")
	a.Seen, b.Seen = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	near, far := create(t, n.number, "nat"), create(t, n.number, "natB")
	n.NAT = &near
	must(t, netns.Link(near, "right", far, "left"))
	for _, side := range []struct {
		nat      netns.NS
		site     *Site
		in, out  string
		mid, via string
		to       string
	}{
		{near, a, "left", "right", "198.51.100.1/24", "192.0.2.254/24", ""},
		{far, b, "right", "left", "198.51.100.2/24", "203.0.113.254/24", "203.0.113.2"},
	} {
		must(t, side.nat.Forward())
		must(t, netns.Link(side.site.Gateway, Outside, side.nat, side.in))
		must(t, side.nat.Addr(side.out, netip.MustParsePrefix(side.mid)))
		via := netip.MustParsePrefix(side.via)
		must(t, side.nat.Addr(side.in, via))
		via6 := netip.PrefixFrom(nth(netip.PrefixFrom(side.site.Outside6, 64), 0xfe), 64)
		must(t, side.nat.Addr(side.in, via6))
		side.site.connect(t, via.Addr(), via6.Addr())
		rules := "chain post { type nat hook postrouting priority srcnat; oifname " + side.out + " masquerade; }; "
		if side.to != "" {
			rules += "chain pre { type nat hook prerouting priority dstnat; iifname " + side.out + " udp dport { 500, 4500 } dnat to " + side.to + "; }; "
		}
		_, err := side.nat.Run(t.Context(), "nft", "table ip nat { "+rules+"}")
		must(t, err)
	}
	return n
}

// AddClient adds a third site to a network where A is behind a NAT: a gateway
// behind the same NAT.
func (n *Network) AddClient(t testing.TB) *Site {
	t.Helper()
	c := newSite(t, n.number, "C", "10.3.0.0/24", "fd00:3::/64")
	c.Outside, c.Outside6 = netip.MustParseAddr("192.0.3.1"), netip.MustParseAddr("2001:db8:c::1")
	c.Seen = n.A.Seen
	must(t, netns.Link(c.Gateway, Outside, *n.NAT, "left2"))
	via, via6 := netip.MustParsePrefix("192.0.3.254/24"), netip.MustParsePrefix("2001:db8:c::fe/64")
	must(t, n.NAT.Addr("left2", via))
	must(t, n.NAT.Addr("left2", via6))
	c.connect(t, via.Addr(), via6.Addr())
	return c
}

// Remap has the NAT forget its mappings and make others, from another address and
// from other ports.
func (n *Network) Remap(t testing.TB) netip.Addr {
	t.Helper()
	before, now := netip.PrefixFrom(n.A.Seen, 24), netip.MustParsePrefix("198.51.100.77/24")
	_, err := n.NAT.Run(t.Context(), "nft", "flush chain ip nat post; add rule ip nat post oifname right meta l4proto udp masquerade to :20000-20999")
	must(t, err)
	// Masquerading ends with the address that it was by.
	must(t, n.NAT.IP("addr", "del", before.String(), "dev", "right"))
	must(t, n.NAT.Addr("right", now))
	n.A.Seen = now.Addr()
	return now.Addr()
}
