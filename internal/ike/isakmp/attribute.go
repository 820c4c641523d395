package isakmp

import (
	"encoding/binary"
	"slices"
)

// Attribute is a data attribute (RFC 2408, Section 3.3): a value of two octets,
// or octets of any length.
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!A!       Attribute Type        !    AF=0  Attribute Length     !
//	!F!                             !    AF=1  Attribute Value      !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	.                   AF=0  Attribute Value                       .
//	.                   AF=1  Not Transmitted                       .
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Attribute struct {
	Type  uint16 // below 0x8000
	Value uint16 // where Long is nil
	Long  []byte // AF=0
}

// formatBit is AF.
const formatBit = 0x8000

// Short makes an attribute of two octets.
func Short(kind, value uint16) Attribute { return Attribute{Type: kind, Value: value} }

// Number makes an attribute of a number: in two octets where it fits, otherwise
// in four, which is the most that lifetimes take.
func Number(kind uint16, value uint32) Attribute {
	if value <= 0xffff {
		return Short(kind, uint16(value))
	}
	return Attribute{Type: kind, Long: binary.BigEndian.AppendUint32(nil, value)}
}

// Number returns the value as a number, and false for one of more than eight
// octets.
func (a Attribute) Number() (uint64, bool) {
	if a.Long == nil {
		return uint64(a.Value), true
	}
	if len(a.Long) > 8 {
		return 0, false
	}
	var n uint64
	for _, b := range a.Long {
		n = n<<8 | uint64(b)
	}
	return n, true
}

// Equal compares type and value; a number is the same in both forms.
func (a Attribute) Equal(b Attribute) bool {
	if a.Type != b.Type {
		return false
	}
	x, okX := a.Number()
	y, okY := b.Number()
	if okX && okY {
		return x == y
	}
	return okX == okY && slices.Equal(a.Long, b.Long)
}

// ParseAttributes reads attributes that stand by themselves, as in RESPONDER-LIFETIME.
func ParseAttributes(b []byte) ([]Attribute, error) {
	var out []Attribute
	for len(b) > 0 {
		if len(out) == MaxAttributes {
			return nil, limitf("more than %d attributes", MaxAttributes)
		}
		if len(b) < 4 {
			return nil, syntaxf("attribute is cut off")
		}
		kind, value := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		b = b[4:]
		if kind&formatBit != 0 {
			out = append(out, Short(kind&^formatBit, value))
			continue
		}
		n := int(value)
		if n == 0 || n > len(b) {
			return nil, syntaxf("attribute %d has length %d with %d octets left", kind, n, len(b))
		}
		out = append(out, Attribute{Type: kind, Long: clip(b[:n])})
		b = b[n:]
	}
	return out, nil
}

func appendAttributes(dst []byte, attributes []Attribute) ([]byte, error) {
	if len(attributes) > MaxAttributes {
		return dst, encodef("%d attributes are more than %d", len(attributes), MaxAttributes)
	}
	for _, a := range attributes {
		if a.Type&formatBit != 0 || len(a.Long) > 0xffff {
			return dst, encodef("attribute %d of %d octets", a.Type, len(a.Long))
		}
		if a.Long == nil {
			dst = binary.BigEndian.AppendUint16(dst, a.Type|formatBit)
			dst = binary.BigEndian.AppendUint16(dst, a.Value)
			continue
		}
		dst = binary.BigEndian.AppendUint16(dst, a.Type)
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(a.Long)))
		dst = append(dst, a.Long...)
	}
	return dst, nil
}
