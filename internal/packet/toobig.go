package packet

import (
	"encoding/binary"
	"net/netip"
)

// The smallest path MTUs, in octets: what every IPv6 link carries (RFC 8200,
// Section 5), and for IPv4 what is taken for the smallest that is real: what
// fits 512 octets of TCP payload (RFC 1191, Section 7.1 lists what there was).
const (
	MinMTU4 = 552
	MinMTU6 = 1280
)

// icmpHeaderLen is the length of the headers of ICMP errors (RFC 792, RFC 4443).
const icmpHeaderLen = 8

// Types and codes of "packet too big".
const (
	icmpUnreachable    = 3
	icmpFragNeeded     = 4
	icmpv6PacketTooBig = 2
	icmpv6Informative  = 128 // types from here on are no errors
)

// TooBig is what an ICMP error says of a packet that was too long for a link:
// "fragmentation needed and DF set" (RFC 1191, Section 4) or "packet too big"
// (RFC 4443, Section 3.2). Who sent it is not known: whoever uses it must find in
// what it quotes something that only those on the path can know.
type TooBig struct {
	// MTU is that of the link in octets; 0 where an old router does not say.
	MTU int
	// Src, Dst, Protocol and Len are from the header of the packet that is quoted.
	Src, Dst netip.Addr
	Protocol uint8
	Len      int
	// SrcPort and DstPort are set for UDP.
	SrcPort, DstPort uint16
	// Payload is what is quoted behind the IP header, and for UDP behind the UDP
	// header. It lies in the message and may be empty.
	Payload []byte
}

// ParseTooBig reads the ICMP message b of this IP version, 4 or 6. It reports
// false for any other message, and for one that is cut short or damaged. The
// checksum of ICMPv6 is the kernel's business, as it covers the addresses.
func ParseTooBig(b []byte, version uint8) (m TooBig, ok bool) {
	if len(b) < icmpHeaderLen {
		return TooBig{}, false
	}
	if version == 4 {
		if b[0] != icmpUnreachable || b[1] != icmpFragNeeded || Checksum(b) != 0 {
			return TooBig{}, false
		}
		m.MTU = int(binary.BigEndian.Uint16(b[6:]))
		ok = m.quote4(b[icmpHeaderLen:])
	} else {
		if b[0] != icmpv6PacketTooBig {
			return TooBig{}, false
		}
		m.MTU = int(min(binary.BigEndian.Uint32(b[4:]), 1<<20))
		ok = m.quote6(b[icmpHeaderLen:])
	}
	if !ok {
		return TooBig{}, false
	}
	if m.Protocol == ProtocolUDP {
		if len(m.Payload) < UDPHeaderLen {
			return TooBig{}, false
		}
		m.SrcPort = binary.BigEndian.Uint16(m.Payload)
		m.DstPort = binary.BigEndian.Uint16(m.Payload[2:])
		m.Payload = m.Payload[UDPHeaderLen:]
	}
	return m, true
}

// quote4 reads a packet that may be cut short behind its header.
func (m *TooBig) quote4(b []byte) bool {
	if len(b) < IPv4HeaderLen || b[0]>>4 != 4 {
		return false
	}
	n := int(b[0]&0x0f) * 4
	if n < IPv4HeaderLen || n > len(b) || binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
		return false
	}
	m.Len = int(binary.BigEndian.Uint16(b[ipv4LengthAt:]))
	m.Protocol = b[9]
	m.Src, m.Dst = addresses(b)
	m.Payload = b[n:]
	return true
}

func (m *TooBig) quote6(b []byte) bool {
	if len(b) < IPv6HeaderLen || b[0]>>4 != 6 {
		return false
	}
	m.Len = IPv6HeaderLen + int(binary.BigEndian.Uint16(b[ipv6LengthAt:]))
	m.Protocol = b[6]
	m.Src, m.Dst = addresses(b)
	m.Payload = b[IPv6HeaderLen:]
	return true
}

// plateaus are the MTUs of links in use, for routers that do not say theirs (RFC
// 1191, Section 7.1).
var plateaus = [...]int{32000, 17914, 8166, 4352, 2002, 1492, 1006}

// Effective returns the path MTU that the message stands for: what it says, and
// where it says nothing the next lower of the known ones; never less than the
// smallest of its IP version. It returns 0 where that is nothing new: the quoted
// packet would have passed.
func (m *TooBig) Effective() int {
	least := MinMTU4
	if m.Dst.Is6() {
		least = MinMTU6
	}
	mtu := m.MTU
	if mtu == 0 {
		for _, p := range plateaus {
			if p < m.Len {
				mtu = p
				break
			}
		}
	}
	if mtu = max(mtu, least); mtu >= m.Len {
		return 0
	}
	return mtu
}

// TooBigLen is the most that PutTooBig writes: with its IP header the error is no
// longer than every link carries (RFC 1812, Section 4.3.2.3; RFC 4443, Section
// 2.4).
const TooBigLen = MinMTU6 - IPv6HeaderLen

// PutTooBig writes to dst the ICMP message, without IP header, that tells the
// sender of the packet b, decoded to p, how long a packet may be, and returns its
// length. The checksum of an ICMPv6 message is left to the kernel. It reports
// false for packets whose senders are not to be told (RFC 1812, Section 4.3.2.7;
// RFC 4443, Section 2.4).
func PutTooBig(dst, b []byte, p *Info, mtu int) (n int, ok bool) {
	if p.FragmentOffset != 0 || !p.Src.IsGlobalUnicast() && !p.Src.IsLinkLocalUnicast() {
		return 0, false
	}
	quote := b[:min(len(b), p.TotalLen)]
	if p.Version == 4 {
		if !p.Dst.IsGlobalUnicast() || p.Protocol == ProtocolICMP && !icmpQuery(p) {
			return 0, false
		}
		quote = quote[:min(len(quote), 576-IPv4HeaderLen-icmpHeaderLen)]
	} else {
		if p.Protocol == ProtocolICMPv6 && (!p.HasPorts || p.SrcPort>>8 < icmpv6Informative) {
			return 0, false
		}
		quote = quote[:min(len(quote), TooBigLen-icmpHeaderLen)]
	}
	n = icmpHeaderLen + len(quote)
	if len(dst) < n {
		return 0, false
	}
	dst = dst[:n]
	clear(dst[:icmpHeaderLen])
	copy(dst[icmpHeaderLen:], quote)
	if p.Version == 6 {
		dst[0] = icmpv6PacketTooBig
		binary.BigEndian.PutUint32(dst[4:], uint32(mtu))
		return n, true
	}
	dst[0], dst[1] = icmpUnreachable, icmpFragNeeded
	binary.BigEndian.PutUint16(dst[6:], uint16(min(mtu, 0xffff)))
	binary.BigEndian.PutUint16(dst[2:], Checksum(dst))
	return n, true
}

// icmpQuery reports whether an ICMP packet is no error (RFC 1122, Section 3.2.2).
func icmpQuery(p *Info) bool {
	if !p.HasPorts {
		return false
	}
	switch p.SrcPort >> 8 {
	case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18:
		return true
	default:
		return false
	}
}
