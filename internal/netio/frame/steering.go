package frame

import (
	"encoding/binary"
	"net/netip"

	"caponier/internal/packet"
)

// Steering says which frames a capture takes from the kernel. Programs in the
// kernel do by it what Ours says here, and are tested against it.
//
// A frame is taken if it is addressed to the interface (not to a group), carries
// IPv4 without options or IPv6, behind one VLAN tag at most where the port is
// Tagged, and the packet in it is one of these:
//
//   - outer: to one of Addresses, not a fragment, and ESP (protocol 50), AH (51),
//     or UDP to Port whose payload begins with 4 octets that are not all zero. IKE
//     begins with zeros (RFC 3948, Section 2.2), and a keepalive is shorter. IPv6
//     extension headers may not stand before.
//   - inner: to none of Addresses, with a time to live above 1, where the longest
//     prefix of Take and Pass that covers the destination is one of Take.
type Steering struct {
	// Addresses are the gateway's own.
	Addresses []netip.Addr
	// Port is the UDP port that IKE and ESP share.
	Port uint16
	// Take are the prefixes behind tunnels, and Pass those inside them that are
	// not. A prefix is in one of them only. All are masked.
	Take, Pass []netip.Prefix
}

// Kind is what a frame carries for the gateway.
type Kind uint8

// The kinds of frames.
const (
	Other Kind = iota // not taken
	Inner             // an IP packet that is to be protected
	OuterESP
	OuterAH
	OuterUDP // ESP in UDP
)

// MinTTL is the least time to live of an inner packet that is taken: the kernel
// tells the sender of the end of others.
const MinTTL = 2

// Ours says what the frame b is to the gateway whose link address is mac.
func (s *Steering) Ours(mac [6]byte, tagged bool, b []byte) Kind {
	h, ok := Parse(b)
	if !ok || h.Dst != mac || h.Tagged && !tagged {
		return Other
	}
	return s.kind(b[h.Len:], h.Type)
}

// kind judges the packet b of an Ethernet type.
func (s *Steering) kind(b []byte, etherType uint16) Kind {
	var dst netip.Addr
	var protocol, ttl uint8
	var fragment bool
	head := packet.IPv4HeaderLen
	switch {
	case etherType == TypeIPv4 && len(b) >= packet.IPv4HeaderLen && b[0] == 0x45:
		dst = netip.AddrFrom4([4]byte(b[16:20]))
		ttl, protocol = b[8], b[9]
		fragment = binary.BigEndian.Uint16(b[6:])&0x3fff != 0
	case etherType == TypeIPv6 && len(b) >= packet.IPv6HeaderLen && b[0]>>4 == 6:
		dst = netip.AddrFrom16([16]byte(b[24:40]))
		protocol, ttl = b[6], b[7]
		head = packet.IPv6HeaderLen
	default:
		return Other
	}
	if s.own(dst) {
		if fragment {
			return Other
		}
		return s.outer(protocol, b[head:])
	}
	if ttl >= MinTTL && s.takes(dst) {
		return Inner
	}
	return Other
}

func (s *Steering) own(a netip.Addr) bool {
	for _, x := range s.Addresses {
		if x == a {
			return true
		}
	}
	return false
}

// outer judges what follows the header of a packet to the gateway.
func (s *Steering) outer(protocol uint8, b []byte) Kind {
	switch protocol {
	case packet.ProtocolESP:
		return OuterESP
	case packet.ProtocolAH:
		return OuterAH
	case packet.ProtocolUDP:
		const spi = packet.UDPHeaderLen
		if len(b) >= spi+4 && binary.BigEndian.Uint16(b[2:]) == s.Port && binary.BigEndian.Uint32(b[spi:]) != 0 {
			return OuterUDP
		}
	}
	return Other
}

// takes looks for the longest prefix that covers a.
func (s *Steering) takes(a netip.Addr) bool {
	longest := func(list []netip.Prefix) int {
		most := -1
		for _, p := range list {
			if p.Bits() > most && p.Contains(a) {
				most = p.Bits()
			}
		}
		return most
	}
	take := longest(s.Take)
	return take >= 0 && take > longest(s.Pass)
}
