package frametest

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// Steering is the rule that the suite steers by.
func Steering() frame.Steering {
	return frame.Steering{
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Port:      4500,
		Take:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:2::/48")},
		Pass:      []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:2:1::/64")},
	}
}

// To makes a packet from Far to dst.
func To(dst string, protocol, ttl uint8, payload ...byte) []byte {
	a := netip.MustParseAddr(dst)
	if a.Is4() {
		b := make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: netip.MustParseAddr("192.0.2.2"), Dst: a, TotalLen: len(b) + len(payload), TTL: ttl, Protocol: protocol,
		})
		return append(b, payload...)
	}
	b := make([]byte, packet.IPv6HeaderLen)
	packet.PutIPv6(b, &packet.IPv6Header{
		Src: netip.MustParseAddr("2001:db8::2"), Dst: a, PayloadLen: len(payload), NextHeader: protocol, HopLimit: ttl,
	})
	return append(b, payload...)
}

// UDP makes a datagram without a checksum.
func UDP(port uint16, payload ...byte) []byte {
	b := make([]byte, packet.UDPHeaderLen)
	packet.PutUDP(b, 40000, port, len(b)+len(payload), 0)
	return append(b, payload...)
}

// Framed puts a link header from Far to Near before a packet.
func (l *Pair) Framed(b []byte, tags ...uint16) []byte {
	out := append(append([]byte(nil), l.MAC[0][:]...), l.MAC[1][:]...)
	for _, tag := range tags {
		out = append(out, 0x81, 0, byte(tag>>8), byte(tag))
	}
	if b[0]>>4 == 6 {
		return append(append(out, 0x86, 0xdd), b...)
	}
	return append(append(out, 8, 0), b...)
}

// Numbered is a protected packet of a flow, with a number and size octets of payload.
func (l *Pair) Numbered(flow byte, n uint32, size int) []byte {
	b := To(fmt.Sprintf("10.2.0.%d", flow), packet.ProtocolUDP, 64, UDP(9, make([]byte, size)...)...)
	binary.BigEndian.PutUint32(b[len(b)-size:], n)
	return l.Framed(b)
}

// flowOf is the flow of a frame that Numbered made.
func flowOf(b []byte) byte { return b[frame.HeaderLen+19] }

// numberedHead is how much of such a frame stands before the payload, in octets.
const numberedHead = frame.HeaderLen + packet.IPv4HeaderLen + packet.UDPHeaderLen

// Slots makes room for n frames.
func Slots(n int) []netio.Packet { return netio.NewBatch(n, 4096) }

// Frames are what a capture is shown, by name: each kind that it takes, and its
// neighbours that it does not.
func (l *Pair) Frames() map[string][]byte {
	with := func(b []byte, at int, x byte) []byte {
		b[at] = x
		return b
	}
	payload := func(n int) []byte { return make([]byte, n) }
	all := []byte{255, 255, 255, 255, 255, 255}
	arp := func(operation byte) []byte {
		return append([]byte{8, 6, 0, 1, 8, 0, 6, 4, 0, operation}, payload(20)...)
	}
	return map[string][]byte{
		"ESP":                           l.Framed(To("192.0.2.1", 50, 64, 0, 0, 1, 0, 0, 0, 0, 1)),
		"ESP that is short":             l.Framed(To("192.0.2.1", 50, 64)),
		"ESP at the end of its life":    l.Framed(To("192.0.2.1", 50, 1, 0, 0, 1, 0, 0, 0, 0, 1)),
		"ESP over IPv6":                 l.Framed(To("2001:db8::1", 50, 64, 0, 0, 1, 0, 0, 0, 0, 1)),
		"ESP with DF":                   l.Framed(with(To("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x40)),
		"ESP with a VLAN tag":           l.Framed(To("192.0.2.1", 50, 64, 0, 0, 1, 0), 10),
		"ESP with two VLAN tags":        l.Framed(To("192.0.2.1", 50, 64, 0, 0, 1, 0), 10, 20),
		"a first fragment of ESP":       l.Framed(with(To("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x20)),
		"a later fragment of ESP":       l.Framed(with(To("192.0.2.1", 50, 64, 0, 0, 1, 0), 7, 9)),
		"a far fragment of ESP":         l.Framed(with(To("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x1f)),
		"ESP to somebody else":          l.Framed(To("192.0.2.9", 50, 64, 0, 0, 1, 0)),
		"ESP behind a fragment header":  l.Framed(To("2001:db8::1", 44, 64, 50, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0)),
		"ESP behind an extension":       l.Framed(To("2001:db8::1", 0, 64, 50, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0)),
		"AH":                            l.Framed(To("192.0.2.1", 51, 64, payload(24)...)),
		"AH over IPv6":                  l.Framed(To("2001:db8::1", 51, 64, payload(24)...)),
		"ESP in UDP":                    l.Framed(To("192.0.2.1", 17, 64, UDP(4500, 0, 0, 1, 0)...)),
		"ESP in UDP over IPv6":          l.Framed(To("2001:db8::1", 17, 64, UDP(4500, 1, 0, 0, 0)...)),
		"ESP in UDP with a tag":         l.Framed(To("2001:db8::1", 17, 64, UDP(4500, 1, 0, 0, 0)...), 4095),
		"IKE behind the non-ESP marker": l.Framed(To("192.0.2.1", 17, 64, UDP(4500, payload(32)...)...)),
		"IKE over IPv6":                 l.Framed(To("2001:db8::1", 17, 64, UDP(4500, payload(32)...)...)),
		"IKE on port 500":               l.Framed(To("192.0.2.1", 17, 64, UDP(500, 1, 2, 3, 4, 5, 6, 7, 8)...)),
		"a keepalive":                   l.Framed(To("192.0.2.1", 17, 64, UDP(4500, 0xff)...)),
		"a keepalive over IPv6":         l.Framed(To("2001:db8::1", 17, 64, UDP(4500, 0xff)...)),
		"three octets":                  l.Framed(To("192.0.2.1", 17, 64, UDP(4500, 1, 2, 3)...)),
		"TCP to the gateway":            l.Framed(To("192.0.2.1", 6, 64, payload(20)...)),
		"a protected packet":            l.Framed(To("10.2.0.7", 6, 64, payload(20)...)),
		"a protected packet, tagged":    l.Framed(To("10.2.0.7", 6, 64, payload(20)...), 0x2001),
		"a protected packet over IPv6":  l.Framed(To("2001:db8:2::7", 58, 2, payload(20)...)),
		"a protected fragment":          l.Framed(with(To("10.2.0.7", 17, 64, payload(20)...), 7, 9)),
		"protected ESP of others":       l.Framed(To("10.2.0.7", 50, 64, 0, 0, 1, 0)),
		"protected, to port 4500":       l.Framed(To("10.2.0.7", 17, 64, UDP(4500, payload(4)...)...)),
		"protected, time to live 1":     l.Framed(To("10.2.0.7", 6, 1, payload(20)...)),
		"protected, time to live 0":     l.Framed(To("10.2.0.7", 6, 0, payload(20)...)),
		"protected, hop limit 1":        l.Framed(To("2001:db8:2::7", 6, 1, payload(20)...)),
		"protected, hop limit 255":      l.Framed(To("2001:db8:2::7", 6, 255, payload(20)...)),
		"on our side":                   l.Framed(To("10.1.0.9", 6, 64, payload(20)...)),
		"on our side over IPv6":         l.Framed(To("2001:db8:2:1::9", 6, 64, payload(20)...)),
		"nowhere of ours":               l.Framed(To("203.0.113.1", 6, 64, payload(20)...)),
		"nowhere of ours over IPv6":     l.Framed(To("2001:db8:3::1", 6, 64, payload(20)...)),
		"options":                       l.Framed(with(To("10.2.0.7", 6, 64, 1, 1, 1, 1), 0, 0x46)),
		"a header that is short":        l.Framed(with(To("10.2.0.7", 6, 64, 1, 1, 1, 1), 0, 0x44)),
		"a version that is not":         l.Framed(with(To("10.2.0.7", 6, 64, 1, 1, 1, 1), 0, 0x55)),
		"for another host":              with(l.Framed(To("10.2.0.7", 6, 64)), 5, l.MAC[0][5]^1),
		"for a host that differs early": with(l.Framed(To("10.2.0.7", 6, 64)), 0, l.MAC[0][0]^2),
		"to a group":                    append([]byte{1, 0, 0x5e, 0, 0, 1}, l.Framed(To("10.2.0.7", 6, 64))[6:]...),
		"to all":                        append(append([]byte(nil), all...), l.Framed(To("10.2.0.7", 6, 64))[6:]...),
		"a question of ARP":             append(append(append([]byte(nil), all...), l.MAC[1][:]...), arp(1)...),
		"an answer of ARP":              append(append(append([]byte(nil), l.MAC[0][:]...), l.MAC[1][:]...), arp(2)...),
		"neighbour discovery":           l.Framed(To("2001:db8::1", 58, 255, append([]byte{135, 0, 0, 0}, payload(20)...)...)),
		"a frame of full length":        l.Framed(To("10.2.0.7", 17, 64, payload(1480)...)),
	}
}
