package frame

import "encoding/binary"

// Ethernet types (IEEE 802 numbers, which IANA lists).
const (
	TypeIPv4 uint16 = 0x0800
	TypeVLAN uint16 = 0x8100
	TypeIPv6 uint16 = 0x86dd
)

// Lengths in octets: of an Ethernet II header, and of the tag that may be inside.
const (
	HeaderLen = 14
	TagLen    = 4
)

// vidMask takes the VLAN identifier out of a tag (IEEE 802.1Q, Section 9.6); above
// it stand priority and drop eligibility.
const vidMask = 0x0fff

// Header is an Ethernet II header, with a VLAN tag or without:
//
//	 0       6       12             16     18
//	+-------+-------+--------------+------+
//	| dst   | src   | 0x8100 | tag | type |
//	+-------+-------+--------------+------+
type Header struct {
	Dst, Src [6]byte
	// VLAN is the identifier in the tag, 0 for a tag that gives a priority only.
	VLAN   uint16
	Tagged bool
	Type   uint16 // of what follows
	Len    int    // of the header in octets, as parsed
}

// Parse reads the header of the frame b. It reports false for one that is cut
// short. Of two tags the second is a type, which nobody takes for IP.
func Parse(b []byte) (h Header, ok bool) {
	if len(b) < HeaderLen {
		return Header{}, false
	}
	h = Header{Dst: [6]byte(b[0:6]), Src: [6]byte(b[6:12]), Type: binary.BigEndian.Uint16(b[12:]), Len: HeaderLen}
	if h.Type != TypeVLAN {
		return h, true
	}
	if len(b) < HeaderLen+TagLen {
		return Header{}, false
	}
	h.Tagged, h.Len = true, HeaderLen+TagLen
	h.VLAN = binary.BigEndian.Uint16(b[14:]) & vidMask
	h.Type = binary.BigEndian.Uint16(b[16:])
	return h, true
}

// Size is the length of the header when written, in octets.
func (h *Header) Size() int {
	if h.Tagged {
		return HeaderLen + TagLen
	}
	return HeaderLen
}

// Put writes the header to b[:h.Size()]. It panics if b is shorter.
func (h *Header) Put(b []byte) {
	copy(b[0:6], h.Dst[:])
	copy(b[6:12], h.Src[:])
	if h.Tagged {
		binary.BigEndian.PutUint16(b[12:], TypeVLAN)
		binary.BigEndian.PutUint16(b[14:], h.VLAN&vidMask)
		binary.BigEndian.PutUint16(b[16:], h.Type)
		return
	}
	binary.BigEndian.PutUint16(b[12:], h.Type)
}
