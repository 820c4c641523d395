package capture

import (
	"math"
	"net/netip"

	"caponier/internal/packet"
)

// hopLimit stands in the rebuilt headers: the default of most hosts.
const hopLimit = 64

const protocolUDP = 17

// inUDP returns the IP packet with a UDP datagram of two parts, of which the first
// may be empty. It has a checksum over IPv6, which asks for it (RFC 8200, Section
// 8.1), and none over IPv4 (RFC 3948, Section 2.1).
func inUDP(src, dst netip.AddrPort, class uint8, head, payload []byte) []byte {
	size := packet.UDPHeaderLen + len(head) + len(payload)
	from, to := endpoints(src.Addr(), dst.Addr())
	b := header(from, to, protocolUDP, class, size)
	start := len(b)
	b = append(append(b[:start+packet.UDPHeaderLen], head...), payload...)
	datagram := b[start:]
	packet.PutUDP(datagram, src.Port(), dst.Port(), size, 0)
	if from.Is6() {
		sum := packet.TransportChecksum(from, to, protocolUDP, datagram)
		if sum == 0 {
			sum = 0xffff
		}
		packet.PutUDP(datagram, src.Port(), dst.Port(), size, sum)
	}
	return b
}

// inIP returns the IP packet with this payload.
func inIP(src, dst netip.Addr, protocol, class uint8, payload []byte) []byte {
	from, to := endpoints(src, dst)
	return append(header(from, to, protocol, class, len(payload)), payload...)
}

// header returns an IP header for a payload of size octets, with room for it.
func header(src, dst netip.Addr, protocol, class uint8, size int) []byte {
	if src.Is4() {
		b := make([]byte, packet.IPv4HeaderLen, packet.IPv4HeaderLen+size)
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: src, Dst: dst, TotalLen: min(len(b)+size, math.MaxUint16), TTL: hopLimit, Protocol: protocol, TrafficClass: class,
		})
		return b
	}
	b := make([]byte, packet.IPv6HeaderLen, packet.IPv6HeaderLen+size)
	packet.PutIPv6(b, &packet.IPv6Header{
		Src: src, Dst: dst, PayloadLen: min(size, math.MaxUint16), NextHeader: protocol, TrafficClass: class, HopLimit: hopLimit,
	})
	return b
}

// endpoints returns addresses of one family: where one is not known, as the local
// address of some packets is, the unspecified address stands for it.
func endpoints(src, dst netip.Addr) (netip.Addr, netip.Addr) {
	src, dst = src.Unmap(), dst.Unmap()
	none := netip.IPv6Unspecified()
	if src.Is4() || dst.Is4() {
		none = netip.IPv4Unspecified()
	}
	fit := func(a netip.Addr) netip.Addr {
		if !a.IsValid() || a.Is4() != none.Is4() {
			return none
		}
		return a
	}
	return fit(src), fit(dst)
}
