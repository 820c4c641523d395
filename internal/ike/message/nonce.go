package message

// The bounds of a nonce in octets (RFC 7296, Section 3.9).
const (
	MinNonce = 16
	MaxNonce = 256
)

// Nonce is the Nonce payload (RFC 7296, Section 3.9).
type Nonce struct{ Data []byte }

// Type is TypeNonce.
func (*Nonce) Type() PayloadType { return TypeNonce }

func parseNonce(b []byte) (*Nonce, error) {
	if len(b) < MinNonce || len(b) > MaxNonce {
		return nil, syntaxf("nonce of %d octets", len(b))
	}
	return &Nonce{Data: clip(b)}, nil
}

func (p *Nonce) appendBody(dst []byte) ([]byte, error) {
	if len(p.Data) < MinNonce || len(p.Data) > MaxNonce {
		return dst, encodef("nonce of %d octets", len(p.Data))
	}
	return append(dst, p.Data...), nil
}
