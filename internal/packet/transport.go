package packet

import (
	"encoding/binary"
	"net/netip"
)

// Seam is where transport mode parts an IP packet: ESP or AH stands between the
// header with what belongs to it, and the rest, which it protects (RFC 4302 and
// 4303, Section 3.1.1). Outside stay the options of IPv4, and of the extension
// headers of IPv6 those that routers read: hop-by-hop options, routing and
// fragment headers, and what stands before one of them. Destination options
// behind them are protected.
type Seam struct {
	At   int   // where the protected part begins, from the start of the packet
	Next uint8 // the protocol that it begins with
	// field is where the header says Next.
	field int
}

// SeamOf finds the seam of the packet that info was decoded from. b is that
// packet.
func SeamOf(b []byte, info *Info) Seam {
	if info.Version == 4 {
		return Seam{At: int(b[0]&0x0f) * 4, Next: b[9], field: 9}
	}
	s := Seam{At: IPv6HeaderLen, Next: b[6], field: 6}
	for at, kind := s.At, s.Next; at < info.HeaderLen; {
		header, n := at, 8
		if kind != ProtocolFragment {
			n += int(b[at+1]) * 8
		}
		outside := kind != ProtocolDestination
		at, kind = header+n, b[header]
		if outside {
			s = Seam{At: at, Next: kind, field: header}
		}
	}
	return s
}

// Close rewrites the header of b, a packet whose part behind the seam has been
// replaced by one of the protocol next: what follows, the lengths, the addresses
// and the checksum of IPv4. An address that is not valid stays as it is.
func (s Seam) Close(b []byte, next uint8, src, dst netip.Addr) {
	b[s.field] = next
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		putAddr(b[12:16], src)
		putAddr(b[16:20], dst)
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], Checksum(b[:s.At]))
		return
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-IPv6HeaderLen))
	putAddr(b[8:24], src)
	putAddr(b[24:40], dst)
}

// putAddr writes a to b if it is of that family.
func putAddr(b []byte, a netip.Addr) {
	switch {
	case len(b) == 4 && a.Is4():
		x := a.As4()
		copy(b, x[:])
	case len(b) == 16 && a.Is6():
		x := a.As16()
		copy(b, x[:])
	}
}

// Readdress mends the checksum of a segment of TCP, UDP, UDP-Lite, DCCP or
// ICMPv6 that was made with one pair of addresses and is to be read with
// another, which a NAT has made of it (RFC 7296, Section 2.23.1). It only adds
// the difference (RFC 1624), so that a segment that was damaged stays so. Other
// protocols have no such checksum.
func Readdress(protocol uint8, segment []byte, from, to [2]netip.Addr) {
	at := 0
	switch protocol {
	case ProtocolTCP:
		at = 16
	case ProtocolUDP, ProtocolUDPLite, ProtocolDCCP:
		at = 6
	case ProtocolICMPv6:
		at = 2
	default:
		return
	}
	if len(segment) < at+2 {
		return
	}
	field := segment[at:]
	sum := binary.BigEndian.Uint16(field)
	if sum == 0 && protocol == ProtocolUDP {
		return // there is none (RFC 768)
	}
	// PseudoHeaderSum is the sum of the addresses alone with 0 for the rest.
	before := Fold(PseudoHeaderSum(from[0], from[1], 0, 0))
	after := PseudoHeaderSum(to[0], to[1], 0, 0)
	sum = ^Fold(uint64(^sum) + uint64(^before) + after)
	if sum == 0 && protocol == ProtocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
}
