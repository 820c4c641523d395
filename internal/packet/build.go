package packet

import (
	"encoding/binary"
	"net/netip"
)

// IPv4Header is an IPv4 header without options (RFC 791, Section 3.1).
type IPv4Header struct {
	Src, Dst     netip.Addr
	TotalLen     int // header and payload
	ID           uint16
	TrafficClass uint8
	TTL          uint8
	Protocol     uint8
	DontFragment bool
}

// PutIPv4 writes h with its checksum to b[:IPv4HeaderLen]. It panics if b is
// shorter or an address is not IPv4.
func PutIPv4(b []byte, h *IPv4Header) {
	b = b[:IPv4HeaderLen]
	b[0] = 4<<4 | IPv4HeaderLen/4
	b[1] = h.TrafficClass
	binary.BigEndian.PutUint16(b[2:], uint16(h.TotalLen))
	binary.BigEndian.PutUint16(b[4:], h.ID)
	flags := uint16(0)
	if h.DontFragment {
		flags = 0x4000
	}
	binary.BigEndian.PutUint16(b[6:], flags)
	b[8] = h.TTL
	b[9] = h.Protocol
	b[10], b[11] = 0, 0
	src, dst := h.Src.As4(), h.Dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], Checksum(b))
}

// IPv6Header is an IPv6 header (RFC 8200, Section 3).
type IPv6Header struct {
	Src, Dst     netip.Addr
	PayloadLen   int
	FlowLabel    uint32 // 20 bits
	TrafficClass uint8
	NextHeader   uint8
	HopLimit     uint8
}

// PutIPv6 writes h to b[:IPv6HeaderLen]. It panics if b is shorter.
func PutIPv6(b []byte, h *IPv6Header) {
	b = b[:IPv6HeaderLen]
	binary.BigEndian.PutUint32(b, 6<<28|uint32(h.TrafficClass)<<20|h.FlowLabel&0xfffff)
	binary.BigEndian.PutUint16(b[4:], uint16(h.PayloadLen))
	b[6] = h.NextHeader
	b[7] = h.HopLimit
	src, dst := h.Src.As16(), h.Dst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
}

// PutUDP writes a UDP header to b[:UDPHeaderLen] (RFC 768). length is that of
// header and payload. A checksum of 0 means none, which is what RFC 3948,
// Section 2.1 asks of ESP in UDP over IPv4. It panics if b is shorter.
func PutUDP(b []byte, srcPort, dstPort uint16, length int, checksum uint16) {
	b = b[:UDPHeaderLen]
	binary.BigEndian.PutUint16(b, srcPort)
	binary.BigEndian.PutUint16(b[2:], dstPort)
	binary.BigEndian.PutUint16(b[4:], uint16(length))
	binary.BigEndian.PutUint16(b[6:], checksum)
}
