package xfrm

import (
	"fmt"
	"net/netip"
)

// Selector is struct xfrm_selector: which packets a policy or a state is for.
//
//	0                16               32        36        40      42
//	+----------------+----------------+----+----+----+----+-------+
//	| daddr          | saddr          |dport,mask|sport,mask|family|
//	+----+----+-----+--+--------------+----+----+----+----+-------+
//	|plen_d|plen_s|proto|  | ifindex | user |
//	+------+------+-----+--+---------+------+ 56
//
// A packet matches where its ports agree with the selector's in the bits of the
// masks. For ICMP the source port is the type and the destination port the code.
type Selector struct {
	Dst, Src         netip.Prefix // of one family; the zero Prefix of both matches any family
	DstPort, DstMask uint16
	SrcPort, SrcMask uint16
	Protocol         uint8 // 0 is any
	IfIndex          int32 // 0 is any
	User             uint32
}

func (s *Selector) put(b []byte) {
	putAddr(b, s.Dst.Addr())
	putAddr(b[16:], s.Src.Addr())
	network.PutUint16(b[32:], s.DstPort)
	network.PutUint16(b[34:], s.DstMask)
	network.PutUint16(b[36:], s.SrcPort)
	network.PutUint16(b[38:], s.SrcMask)
	native.PutUint16(b[40:], s.family())
	if s.Dst.IsValid() {
		b[42] = uint8(s.Dst.Bits())
	}
	if s.Src.IsValid() {
		b[43] = uint8(s.Src.Bits())
	}
	b[44] = s.Protocol
	native.PutUint32(b[48:], uint32(s.IfIndex))
	native.PutUint32(b[52:], s.User)
}

func (s *Selector) family() uint16 {
	if f := familyOf(s.Dst.Addr()); f != 0 {
		return f
	}
	return familyOf(s.Src.Addr())
}

// parseSelector reads the 56 octets of one.
func parseSelector(b []byte) (Selector, error) {
	s := Selector{
		DstPort: network.Uint16(b[32:]), DstMask: network.Uint16(b[34:]),
		SrcPort: network.Uint16(b[36:]), SrcMask: network.Uint16(b[38:]),
		Protocol: b[44], IfIndex: int32(native.Uint32(b[48:])), User: native.Uint32(b[52:]),
	}
	family := native.Uint16(b[40:])
	if family != familyIPv4 && family != familyIPv6 {
		return s, nil // of any family
	}
	s.Dst = netip.PrefixFrom(addr(b, family), int(b[42]))
	s.Src = netip.PrefixFrom(addr(b[16:], family), int(b[43]))
	if !s.Dst.IsValid() || !s.Src.IsValid() {
		return s, fmt.Errorf("%w: prefix lengths %d and %d", ErrInvalid, b[42], b[43])
	}
	return s, nil
}
