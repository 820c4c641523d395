package message

import "encoding/binary"

// KE is the Key Exchange payload (RFC 7296, Section 3.4).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   Diffie-Hellman Group Num    |           RESERVED            |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                       Key Exchange Data                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type KE struct {
	Method uint16 // transform ID of the key exchange method
	Data   []byte // the public value; its length is for the method to judge
}

// Type is TypeKE.
func (*KE) Type() PayloadType { return TypeKE }

func parseKE(b []byte) (*KE, error) {
	if len(b) < 4 {
		return nil, syntaxf("%d octets are too few", len(b))
	}
	return &KE{Method: binary.BigEndian.Uint16(b), Data: clip(b[4:])}, nil
}

func (p *KE) appendBody(dst []byte) ([]byte, error) {
	dst = binary.BigEndian.AppendUint16(dst, p.Method)
	dst = append(dst, 0, 0)
	return append(dst, p.Data...), nil
}
