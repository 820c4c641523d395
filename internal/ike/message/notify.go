package message

import "encoding/binary"

// Notify is the Notify payload (RFC 7296, Section 3.10).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Protocol ID  |   SPI Size    |      Notify Message Type      |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                Security Parameter Index (SPI)                 ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                       Notification Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Notify struct {
	Protocol ProtocolID // means nothing where SPI is empty
	SPI      []byte
	Kind     NotifyType
	Data     []byte
}

// Type is TypeNotify.
func (*Notify) Type() PayloadType { return TypeNotify }

func parseNotify(b []byte) (*Notify, error) {
	if len(b) < 4 {
		return nil, syntaxf("%d octets are too few", len(b))
	}
	n := int(b[1])
	if len(b) < 4+n {
		return nil, syntaxf("SPI of %d octets in %d", n, len(b)-4)
	}
	return &Notify{
		Protocol: ProtocolID(b[0]),
		SPI:      clip(b[4 : 4+n]),
		Kind:     NotifyType(binary.BigEndian.Uint16(b[2:])),
		Data:     clip(b[4+n:]),
	}, nil
}

func (p *Notify) appendBody(dst []byte) ([]byte, error) {
	if len(p.SPI) > 0xff {
		return dst, encodef("SPI of %d octets", len(p.SPI))
	}
	dst = append(dst, byte(p.Protocol), byte(len(p.SPI)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(p.Kind))
	dst = append(dst, p.SPI...)
	return append(dst, p.Data...), nil
}
