// Package packet reads and writes IP headers in place: decoding for policy
// look-up, checksums, and outer headers. Nothing in it allocates or keeps a
// reference to the octets that it was given.
package packet

import (
	"encoding/binary"
	"net/netip"
)

// IP protocol numbers that the gateway treats by name.
const (
	ProtocolHopByHop     uint8 = 0
	ProtocolICMP         uint8 = 1
	ProtocolIPv4         uint8 = 4
	ProtocolTCP          uint8 = 6
	ProtocolUDP          uint8 = 17
	ProtocolDCCP         uint8 = 33
	ProtocolIPv6         uint8 = 41
	ProtocolRouting      uint8 = 43
	ProtocolFragment     uint8 = 44
	ProtocolESP          uint8 = 50
	ProtocolAH           uint8 = 51
	ProtocolICMPv6       uint8 = 58
	ProtocolNoNextHeader uint8 = 59
	ProtocolDestination  uint8 = 60
	ProtocolSCTP         uint8 = 132
	ProtocolMobility     uint8 = 135
	ProtocolUDPLite      uint8 = 136
)

// Lengths of headers without options, in octets.
const (
	IPv4HeaderLen = 20
	IPv6HeaderLen = 40
	UDPHeaderLen  = 8
	TCPHeaderLen  = 20
)

// maxExtensionHeaders bounds the walk through IPv6 extension headers. RFC 8200,
// Section 4.1 orders seven at most; a longer chain is taken for malformed.
const maxExtensionHeaders = 8

// Info is what the headers of one IP packet say. It is meant to be reused: each
// Decode sets every field. A packet that cannot be understood has Version 0,
// and then no other field means anything.
type Info struct {
	Src, Dst netip.Addr // without zone; IPv4 as 4 octets
	// Version is 4 or 6, or 0 for a packet that is truncated or malformed.
	Version uint8
	// Protocol is the next layer protocol as RFC 4301, Section 4.4.1.1 finds
	// it: behind the IPv6 extension headers 0, 43, 44 and 60. For a later
	// fragment it is what the fragment header says.
	Protocol     uint8
	TrafficClass uint8 // DSCP and ECN
	HopLimit     uint8 // time to live
	// HasPorts says that SrcPort and DstPort were read from the packet. It is
	// false for later fragments, truncated headers and protocols without ports.
	HasPorts     bool
	DontFragment bool // IPv4 only; never set for IPv6
	// MoreFragments is set on every fragment but the last.
	MoreFragments bool
	// SrcPort and DstPort are the ports of TCP, UDP, UDP-Lite, SCTP and DCCP.
	// For ICMP both hold type and code, and for the Mobility Header its type, as
	// ipsec.Selector does: the type in the high octet.
	SrcPort, DstPort uint16
	// HeaderLen is where the next layer begins, from the start of the packet.
	HeaderLen int
	// TotalLen is the length of the packet according to its header; octets after
	// it are link padding.
	TotalLen int
	// FragmentOffset is in octets.
	FragmentOffset int
	// FragmentID names the datagram that a fragment belongs to.
	FragmentID uint32
}

// IsFragment reports whether the packet is a part of a larger one.
func (p *Info) IsFragment() bool { return p.MoreFragments || p.FragmentOffset != 0 }

// Obscure reports whether the packet belongs to a flow with ports, or may do so,
// which it does not show: a later fragment, or one that is cut short.
func (p *Info) Obscure() bool {
	if p.FragmentOffset != 0 {
		return true
	}
	if p.HasPorts {
		return false
	}
	switch p.Protocol {
	case ProtocolTCP, ProtocolUDP, ProtocolUDPLite, ProtocolSCTP, ProtocolDCCP, ProtocolICMP, ProtocolICMPv6, ProtocolMobility:
		return true
	default:
		return false
	}
}

// Headed reports whether the packet is a later IPv6 fragment that begins with an
// extension header, as far as can be told: then Protocol is not that of the
// next layer.
func (p *Info) Headed() bool {
	if p.FragmentOffset == 0 {
		return false
	}
	switch p.Protocol {
	case ProtocolHopByHop, ProtocolRouting, ProtocolDestination:
		return p.Version == 6
	default:
		return false
	}
}

// SameFlow reports whether policies and selectors cannot tell the packets p and q
// apart: they have the same addresses, protocol and ports.
func (p *Info) SameFlow(q *Info) bool {
	return p.Version == q.Version && p.Protocol == q.Protocol && p.HasPorts == q.HasPorts &&
		p.SrcPort == q.SrcPort && p.DstPort == q.DstPort && p.Src == q.Src && p.Dst == q.Dst
}

// Decode fills p from the IP packet at the start of b.
func (p *Info) Decode(b []byte) {
	*p = Info{}
	if len(b) == 0 {
		return
	}
	ok := false
	switch b[0] >> 4 {
	case 4:
		ok = p.decode4(b)
	case 6:
		ok = p.decode6(b)
	}
	if !ok {
		*p = Info{}
	}
}

// Inner returns the packet at the start of b, which an IPsec header before it says
// to be of protocol, cut to the length that its own header says. isIP is false
// where protocol is neither IPv4 nor IPv6, or not that of the packet. inner is
// nil then too, and where the packet is not all there.
func Inner(b []byte, protocol uint8) (inner []byte, isIP bool) {
	var version byte
	var headerLen int
	switch protocol {
	case ProtocolIPv4:
		version, headerLen = 4, IPv4HeaderLen
	case ProtocolIPv6:
		version, headerLen = 6, IPv6HeaderLen
	default:
		return nil, false
	}
	if len(b) == 0 || b[0]>>4 != version {
		return nil, false
	}
	if len(b) < headerLen {
		return nil, true
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if version == 6 {
		n = headerLen + int(binary.BigEndian.Uint16(b[4:]))
	}
	if n < headerLen || n > len(b) {
		return nil, true
	}
	return b[:n], true
}

// decode4 reads the header of RFC 791, Section 3.1.
func (p *Info) decode4(b []byte) bool {
	if len(b) < IPv4HeaderLen {
		return false
	}
	p.Version = 4
	p.HeaderLen = int(b[0]&0x0f) * 4
	p.TotalLen = int(binary.BigEndian.Uint16(b[2:]))
	if p.HeaderLen < IPv4HeaderLen || p.TotalLen < p.HeaderLen || p.TotalLen > len(b) {
		return false
	}
	p.TrafficClass = b[1]
	p.FragmentID = uint32(binary.BigEndian.Uint16(b[4:]))
	flags := binary.BigEndian.Uint16(b[6:])
	p.DontFragment = flags&0x4000 != 0
	p.MoreFragments = flags&0x2000 != 0
	p.FragmentOffset = int(flags&0x1fff) * 8
	p.HopLimit = b[8]
	p.Protocol = b[9]
	p.Src = netip.AddrFrom4([4]byte(b[12:16]))
	p.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	p.decodePorts(b[p.HeaderLen:p.TotalLen])
	return true
}

// decode6 reads the header of RFC 8200, Section 3, and walks the extension
// headers. Jumbograms (RFC 2675) are taken for malformed.
func (p *Info) decode6(b []byte) bool {
	if len(b) < IPv6HeaderLen {
		return false
	}
	p.Version = 6
	p.TotalLen = IPv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	if p.TotalLen > len(b) {
		return false
	}
	b = b[:p.TotalLen]
	p.TrafficClass = b[0]<<4 | b[1]>>4
	p.Protocol = b[6]
	p.HopLimit = b[7]
	p.Src = netip.AddrFrom16([16]byte(b[8:24]))
	p.Dst = netip.AddrFrom16([16]byte(b[24:40]))
	p.HeaderLen = IPv6HeaderLen

	fragmented := false
	for range maxExtensionHeaders + 1 {
		rest := b[p.HeaderLen:]
		var n int
		switch p.Protocol {
		case ProtocolHopByHop, ProtocolRouting, ProtocolDestination:
			if len(rest) < 8 {
				return false
			}
			n = 8 + int(rest[1])*8
		case ProtocolFragment:
			if len(rest) < 8 || fragmented {
				return false
			}
			fragmented = true
			n = 8
			field := binary.BigEndian.Uint16(rest[2:])
			p.MoreFragments = field&1 != 0
			p.FragmentOffset = int(field &^ 7)
			p.FragmentID = binary.BigEndian.Uint32(rest[4:])
		default:
			p.decodePorts(rest)
			return true
		}
		if len(rest) < n {
			return false
		}
		p.Protocol = rest[0]
		p.HeaderLen += n
		if p.FragmentOffset != 0 {
			// What follows is the middle of something, not a header.
			return true
		}
	}
	return false
}

// decodePorts reads what selectors call ports. Fragment offsets count units of
// eight octets, so that no later fragment can overwrite them.
func (p *Info) decodePorts(b []byte) {
	if p.FragmentOffset != 0 || len(b) < 4 {
		return
	}
	switch p.Protocol {
	case ProtocolTCP, ProtocolUDP, ProtocolUDPLite, ProtocolSCTP, ProtocolDCCP:
		p.SrcPort = binary.BigEndian.Uint16(b)
		p.DstPort = binary.BigEndian.Uint16(b[2:])
	case ProtocolICMP, ProtocolICMPv6:
		p.SrcPort = binary.BigEndian.Uint16(b)
		p.DstPort = p.SrcPort
	case ProtocolMobility: // RFC 6275, Section 6.1.1: the MH type is the third octet
		p.SrcPort = uint16(b[2]) << 8
		p.DstPort = p.SrcPort
	default:
		return
	}
	p.HasPorts = true
}
