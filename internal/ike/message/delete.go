package message

import (
	"encoding/binary"

	"caponier/internal/ipsec"
)

// Delete is the Delete payload (RFC 7296, Section 3.11).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Protocol ID   |   SPI Size    |          Num of SPIs          |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~               Security Parameter Index(es) (SPI)              ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Delete struct {
	Protocol ProtocolID
	SPIs     []ipsec.SPI // empty for IKE; otherwise those of the sender's inbound SAs
}

// spiLen is the length of the SPIs of a protocol in a Delete payload.
func (p *Delete) spiLen() (int, bool) {
	switch p.Protocol {
	case ProtocolIKE:
		return 0, true
	case ProtocolAH, ProtocolESP:
		return 4, true
	default:
		return 0, false
	}
}

// Type is TypeDelete.
func (*Delete) Type() PayloadType { return TypeDelete }

func parseDelete(b []byte) (*Delete, error) {
	if len(b) < 4 {
		return nil, syntaxf("%d octets are too few", len(b))
	}
	p := &Delete{Protocol: ProtocolID(b[0])}
	size, count, spis := int(b[1]), int(binary.BigEndian.Uint16(b[2:])), b[4:]
	want, ok := p.spiLen()
	if !ok || size != want || len(spis) != size*count || size == 0 && count != 0 {
		return nil, syntaxf("%d %s SPIs of %d octets in %d", count, p.Protocol, size, len(spis))
	}
	for ; len(spis) > 0; spis = spis[4:] {
		p.SPIs = append(p.SPIs, ipsec.SPI(binary.BigEndian.Uint32(spis)))
	}
	return p, nil
}

func (p *Delete) appendBody(dst []byte) ([]byte, error) {
	size, ok := p.spiLen()
	if !ok || size == 0 && len(p.SPIs) > 0 || len(p.SPIs) > 0xffff {
		return dst, encodef("%d SPIs of protocol %s", len(p.SPIs), p.Protocol)
	}
	dst = append(dst, byte(p.Protocol), byte(size))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(p.SPIs)))
	for _, spi := range p.SPIs {
		dst = binary.BigEndian.AppendUint32(dst, uint32(spi))
	}
	return dst, nil
}
