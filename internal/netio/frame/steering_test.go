package frame

import (
	"net/netip"
	"testing"

	"caponier/internal/packet"
)

var steering = Steering{
	Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.2.0.1")},
	Port:      4500,
	Take:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:2::/48")},
	Pass:      []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")},
}

// to makes a packet to dst.
func to(dst string, protocol, ttl uint8, payload ...byte) []byte {
	a := netip.MustParseAddr(dst)
	if a.Is4() {
		b := make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: netip.MustParseAddr("10.1.0.7"), Dst: a, TotalLen: len(b) + len(payload), TTL: ttl, Protocol: protocol,
		})
		return append(b, payload...)
	}
	b := make([]byte, packet.IPv6HeaderLen)
	packet.PutIPv6(b, &packet.IPv6Header{
		Src: netip.MustParseAddr("2001:db8:1::7"), Dst: a, PayloadLen: len(payload), NextHeader: protocol, HopLimit: ttl,
	})
	return append(b, payload...)
}

// udp makes the start of a datagram.
func udp(port uint16, payload ...byte) []byte {
	b := make([]byte, packet.UDPHeaderLen)
	packet.PutUDP(b, 4500, port, len(b)+len(payload), 0)
	return append(b, payload...)
}

func with(b []byte, at int, x byte) []byte {
	b[at] = x
	return b
}

func TestOurs(t *testing.T) {
	plain := Header{Dst: macA, Src: macB}
	for name, x := range map[string]struct {
		h      Header
		packet []byte
		want   Kind
	}{
		"ESP":                      {plain, to("192.0.2.1", 50, 1, 0, 0, 1, 0), OuterESP},
		"AH over IPv6":             {plain, to("2001:db8::1", 51, 64), OuterAH},
		"ESP in UDP":               {plain, to("192.0.2.1", 17, 64, udp(4500, 0, 0, 1, 0)...), OuterUDP},
		"ESP in UDP over IPv6":     {plain, to("2001:db8::1", 17, 64, udp(4500, 1, 0, 0, 0)...), OuterUDP},
		"IKE":                      {plain, to("192.0.2.1", 17, 64, udp(4500, 0, 0, 0, 0, 1)...), Other},
		"a keepalive":              {plain, to("192.0.2.1", 17, 64, udp(4500, 0xff)...), Other},
		"another port":             {plain, to("192.0.2.1", 17, 64, udp(500, 1, 1, 1, 1)...), Other},
		"to the gateway, inside":   {plain, to("10.2.0.1", 6, 64), Other},
		"a first fragment of ESP":  {plain, with(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x20), Other},
		"a later fragment of ESP":  {plain, with(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 7, 1), Other},
		"ESP with DF":              {plain, with(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x40), OuterESP},
		"ESP to somebody else":     {plain, to("192.0.2.2", 50, 64, 0, 0, 1, 0), Other},
		"a protected packet":       {plain, to("10.2.0.7", 6, 64), Inner},
		"over IPv6":                {plain, to("2001:db8:2::7", 58, 2), Inner},
		"a protected fragment":     {plain, with(to("10.2.0.7", 17, 64), 7, 9), Inner},
		"at the end of its life":   {plain, to("10.2.0.7", 6, 1), Other},
		"to a network on our side": {plain, to("10.1.0.9", 6, 64), Other},
		"to nowhere of ours":       {plain, to("203.0.113.1", 6, 64), Other},
		"with options":             {plain, with(to("10.2.0.7", 6, 64, 1, 1, 1, 1), 0, 0x46), Other},
		"for another host":         {Header{Dst: macB, Src: macA}, to("10.2.0.7", 6, 64), Other},
		"to a group":               {Header{Dst: [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, to("10.2.0.7", 6, 64), Other},
		"tagged":                   {Header{Dst: macA, Src: macB, Tagged: true, VLAN: 10}, to("10.2.0.7", 6, 64), Inner},
	} {
		x.h.Type = TypeIPv4
		if x.packet[0]>>4 == 6 {
			x.h.Type = TypeIPv6
		}
		if got := steering.Ours(macA, true, framed(x.h, x.packet)); got != x.want {
			t.Errorf("%s: got kind %d, want %d", name, got, x.want)
		}
		if x.h.Tagged && steering.Ours(macA, false, framed(x.h, x.packet)) != Other {
			t.Errorf("%s: taken where the port has no tags", name)
		}
	}
}

func TestOursOfEveryPrefix(t *testing.T) {
	whole := framed(Header{Dst: macA, Src: macB, Type: TypeIPv4}, to("192.0.2.1", 17, 64, udp(4500, 1, 2, 3, 4)...))
	for n := range whole {
		if k := steering.Ours(macA, true, whole[:n]); k != Other {
			t.Errorf("%d octets are of kind %d", n, k)
		}
	}
}
