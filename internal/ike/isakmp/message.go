package isakmp

import "encoding/binary"

// Limits on what a stranger can make Parse and the functions for payloads
// build. Nothing is allocated from a length field: data stays where it was
// received.
const (
	// MaxLength is the longest message in octets.
	MaxLength = 0xffff
	// MaxPayloads is the largest number of payloads in a message: certificates,
	// vendor IDs and all stay well below.
	MaxPayloads = 64
	// MaxProposals is the largest number of proposals in an SA payload.
	MaxProposals = 32
	// MaxTransforms is the largest number of transforms in a proposal: peers offer
	// one for each combination of algorithms.
	MaxTransforms = 128
	// MaxAttributes is the largest number of attributes of a transform.
	MaxAttributes = 32
	// MaxSPIs is the largest number of SPIs in a Delete payload.
	MaxSPIs = 256
	// maxPadding bounds what may stand behind the last payload of an encrypted
	// message: padding up to one octet that counts it.
	maxPadding = 256
)

// Payload is one payload as it stands in a message: its type, and what follows
// its generic header.
type Payload struct {
	Type PayloadType
	Body []byte
}

// Message is an ISAKMP message. One whose flags say so is still encrypted after
// Parse: Encrypted is what stands behind the header, Payloads is empty, and
// ParseChain reads what decryption gives.
type Message struct {
	Header    Header
	Payloads  []Payload
	Encrypted []byte
}

// Parse reads a whole datagram, without its non-ESP marker (RFC 3947, Section
// 4). The message shares the octets of b.
func Parse(b []byte) (*Message, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxLength || h.Length != uint32(len(b)) {
		return nil, syntaxf("header has length %d in a datagram of %d octets", h.Length, len(b))
	}
	m := &Message{Header: h}
	body := clip(b[HeaderLen:])
	if h.Flags.Has(FlagEncrypted) {
		if len(body) == 0 {
			return nil, syntaxf("nothing is encrypted")
		}
		m.Encrypted = body
		return m, nil
	}
	payloads, rest, err := parseChain(h.NextPayload, body)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, syntaxf("%d octets follow the last payload", len(rest))
	}
	m.Payloads = payloads
	return m, nil
}

// ParseChain reads the payloads of a decrypted message, the first of which is of
// type first. What follows the last payload is padding, of whatever value
// (RFC 2409, Appendix B; peers differ). It also returns how many octets the
// payloads have together.
func ParseChain(first PayloadType, b []byte) (payloads []Payload, n int, err error) {
	payloads, rest, err := parseChain(first, b)
	if err != nil {
		return nil, 0, err
	}
	if len(rest) > maxPadding {
		return nil, 0, syntaxf("%d octets of padding", len(rest))
	}
	return payloads, len(b) - len(rest), nil
}

// genericLen is the length of the generic payload header (RFC 2408, Section
// 3.2): next payload, reserved, payload length.
const genericLen = 4

func parseChain(next PayloadType, b []byte) (payloads []Payload, rest []byte, err error) {
	for next != NoNextPayload {
		if len(payloads) == MaxPayloads {
			return nil, nil, limitf("more than %d payloads", MaxPayloads)
		}
		body, following, rest, err := parseGeneric(next.String(), b)
		if err != nil {
			return nil, nil, err
		}
		payloads = append(payloads, Payload{Type: next, Body: body})
		next, b = PayloadType(following), rest
	}
	return payloads, b, nil
}

// parseGeneric cuts off what begins with a generic header: a payload, a proposal
// or a transform.
func parseGeneric(what string, b []byte) (body []byte, next byte, rest []byte, err error) {
	if len(b) < genericLen {
		return nil, 0, nil, syntaxf("%s payload is cut off", what)
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < genericLen || n > len(b) {
		return nil, 0, nil, syntaxf("%s payload has length %d with %d octets left", what, n, len(b))
	}
	if b[1] != 0 {
		// RFC 2408, Section 5.3: the reserved field must be 0.
		return nil, 0, nil, syntaxf("%s payload has a reserved octet of %#x", what, b[1])
	}
	return clip(b[genericLen:n]), b[0], b[n:], nil
}

// Append appends the message to dst in clear, with the lengths and the next
// payload fields filled in. Errors wrap ErrEncode and leave dst as it was.
func (m *Message) Append(dst []byte) ([]byte, error) {
	if m.Encrypted != nil || m.Header.Flags.Has(FlagEncrypted) {
		return dst, encodef("it is encrypted and must not be sent in clear")
	}
	out := m.Header.append(dst, firstType(m.Payloads))
	out, err := AppendChain(out, m.Payloads)
	if err != nil {
		return dst, err
	}
	if err := setLength(out[len(dst):]); err != nil {
		return dst, err
	}
	return out, nil
}

// AppendEncrypted appends a message whose payloads, the first of type first, are
// encrypted in ciphertext already. It sets FlagEncrypted.
func (h Header) AppendEncrypted(dst []byte, first PayloadType, ciphertext []byte) ([]byte, error) {
	h.Flags |= FlagEncrypted
	out := append(h.append(dst, first), ciphertext...)
	if err := setLength(out[len(dst):]); err != nil {
		return dst, err
	}
	return out, nil
}

// AppendChain appends payloads with their generic headers.
func AppendChain(dst []byte, payloads []Payload) ([]byte, error) {
	if len(payloads) > MaxPayloads {
		return dst, encodef("%d payloads are more than %d", len(payloads), MaxPayloads)
	}
	for i, p := range payloads {
		var err error
		if dst, err = appendGeneric(dst, byte(firstType(payloads[i+1:])), p.Body); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

func appendGeneric(dst []byte, next byte, body []byte) ([]byte, error) {
	n := genericLen + len(body)
	if n > 0xffff {
		return dst, encodef("%d octets do not fit a length of 16 bits", n)
	}
	dst = append(dst, next, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	return append(dst, body...), nil
}

func firstType(payloads []Payload) PayloadType {
	if len(payloads) == 0 {
		return NoNextPayload
	}
	return payloads[0].Type
}

// First returns the body of the first payload of a type, and nil where there is
// none, or an empty one.
func First(payloads []Payload, t PayloadType) []byte {
	for _, p := range payloads {
		if p.Type == t {
			return p.Body
		}
	}
	return nil
}

// All returns the bodies of the payloads of a type, in order.
func All(payloads []Payload, t PayloadType) [][]byte {
	var out [][]byte
	for _, p := range payloads {
		if p.Type == t {
			out = append(out, p.Body)
		}
	}
	return out
}

// clip keeps a later append from writing into the octets behind b.
func clip(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b[:len(b):len(b)]
}
