package isakmp

import (
	"encoding/binary"
	"net/netip"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
)

// ID is the Identification payload (RFC 2407, Section 4.6.2): in phase 1 an
// identity, in phase 2 a traffic selector.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!   ID Type     !  Protocol ID  !             Port              !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                     Identification Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type ID struct {
	Kind     message.IDType
	Protocol uint8
	Port     uint16
	Data     []byte
}

// The identification types that IKEv2 does not have (RFC 2407, Section 4.6.2.1);
// the others are those of package message.
const (
	IDIPv4Subnet message.IDType = 4
	IDIPv6Subnet message.IDType = 6
	IDIPv4Range  message.IDType = 7
	IDIPv6Range  message.IDType = 8
)

// ParseID reads the body of an ID payload.
func ParseID(b []byte) (*ID, error) {
	if len(b) < 4 {
		return nil, syntaxf("ID of %d octets", len(b))
	}
	id := &ID{Kind: message.IDType(b[0]), Protocol: b[1], Port: binary.BigEndian.Uint16(b[2:]), Data: clip(b[4:])}
	if n, fixed := dataLen(id.Kind); fixed && len(id.Data) != n {
		return nil, syntaxf("ID of type %d has %d octets", id.Kind, len(id.Data))
	}
	return id, nil
}

// dataLen is the length of the data of the types that are made of addresses.
func dataLen(kind message.IDType) (n int, fixed bool) {
	switch kind {
	case message.IDIPv4:
		return 4, true
	case IDIPv4Subnet, IDIPv4Range:
		return 8, true
	case message.IDIPv6:
		return 16, true
	case IDIPv6Subnet, IDIPv6Range:
		return 32, true
	default:
		return 0, false
	}
}

// Body returns the octets of the payload behind its generic header, which are
// IDii_b or IDir_b in hashes.
func (id *ID) Body() []byte {
	out := []byte{byte(id.Kind), id.Protocol}
	out = binary.BigEndian.AppendUint16(out, id.Port)
	return append(out, id.Data...)
}

// Selector returns the traffic that an ID of phase 2 stands for.
func (id *ID) Selector() (ipsec.Selector, error) {
	var s ipsec.Selector
	half := len(id.Data) / 2
	switch id.Kind {
	case message.IDIPv4, message.IDIPv6:
		a, _ := netip.AddrFromSlice(id.Data)
		s = ipsec.FromPrefix(netip.PrefixFrom(a, a.BitLen()))
	case IDIPv4Subnet, IDIPv6Subnet:
		a, _ := netip.AddrFromSlice(id.Data[:half])
		bits, ok := maskBits(id.Data[half:])
		if !ok {
			return s, syntaxf("netmask with holes")
		}
		s = ipsec.FromPrefix(netip.PrefixFrom(a, bits).Masked())
	case IDIPv4Range, IDIPv6Range:
		first, _ := netip.AddrFromSlice(id.Data[:half])
		last, _ := netip.AddrFromSlice(id.Data[half:])
		if last.Less(first) {
			return s, syntaxf("address range from %s to %s", first, last)
		}
		s = ipsec.FromPrefix(netip.PrefixFrom(first, first.BitLen()))
		s.Last = last
	default:
		return s, syntaxf("ID of type %d says nothing of traffic", id.Kind)
	}
	s.Protocol = id.Protocol
	if id.Port != 0 {
		s.FirstPort, s.LastPort = id.Port, id.Port
	}
	return s, nil
}

// maskBits returns the length of a netmask, and false for one with holes.
func maskBits(mask []byte) (bits int, ok bool) {
	ended := false
	for _, b := range mask {
		for i := 7; i >= 0; i-- {
			one := b>>i&1 == 1
			if one && ended {
				return 0, false
			}
			if one {
				bits++
			} else {
				ended = true
			}
		}
	}
	return bits, true
}

// SelectorID returns the ID of phase 2 that stands for s, and false where none
// does: a range of ports has no form here.
func SelectorID(s ipsec.Selector) (*ID, bool) {
	id := &ID{Protocol: s.Protocol}
	switch {
	case s.FirstPort == 0 && s.LastPort == 0xffff:
	case s.FirstPort == s.LastPort && s.FirstPort != 0:
		id.Port = s.FirstPort
	default:
		return nil, false
	}
	v6 := s.First.Is6()
	kind := func(v4, six message.IDType) message.IDType {
		if v6 {
			return six
		}
		return v4
	}
	prefix, isPrefix := prefixOf(s.First, s.Last)
	switch {
	case s.First == s.Last:
		id.Kind, id.Data = kind(message.IDIPv4, message.IDIPv6), s.First.AsSlice()
	case isPrefix:
		id.Kind = kind(IDIPv4Subnet, IDIPv6Subnet)
		id.Data = append(s.First.AsSlice(), mask(prefix)...)
	default:
		id.Kind = kind(IDIPv4Range, IDIPv6Range)
		id.Data = append(s.First.AsSlice(), s.Last.AsSlice()...)
	}
	return id, true
}

// prefixOf returns the prefix that has exactly these first and last addresses.
func prefixOf(first, last netip.Addr) (netip.Prefix, bool) {
	for bits := range first.BitLen() + 1 {
		p := netip.PrefixFrom(first, bits)
		if s := ipsec.FromPrefix(p.Masked()); s.First == first && s.Last == last {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func mask(p netip.Prefix) []byte {
	out := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		out[i/8] |= 0x80 >> (i % 8)
	}
	return out
}
