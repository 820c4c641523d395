package message

// Unknown is a payload of a type that this package has no codec for. Critical
// is never set for the types of RFC 7296 (Section 2.5).
type Unknown struct {
	Kind     PayloadType
	Critical bool
	Data     []byte
}

// Type is Kind.
func (p *Unknown) Type() PayloadType { return p.Kind }

func (p *Unknown) appendBody(dst []byte) ([]byte, error) {
	if p.Kind == NoNextPayload || hasCodec(p.Kind) {
		return dst, encodef("type %s is not unknown", p.Kind)
	}
	return append(dst, p.Data...), nil
}
