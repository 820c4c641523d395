package message

// Payload is one payload of a message: a pointer to one of the structures of
// this package, as in Find[*SA](m).
type Payload interface {
	// Type is the payload type number.
	Type() PayloadType
	// appendBody writes what follows the generic payload header.
	appendBody(dst []byte) ([]byte, error)
}

// Message is an IKE message. For a message that has an Encrypted payload, Parse
// fills Payloads with what stands before it, and Open adds what was inside.
type Message struct {
	Header   Header
	Payloads []Payload
	// Encrypted is the SK payload as received, or nil. It stays, emptied, when
	// the message has been opened.
	Encrypted *Encrypted
}

// Parse reads a whole datagram, without its non-ESP marker (RFC 3948, Section
// 2.2). The message shares the octets of b, which must not be changed while it
// is in use.
//
// Payloads of types that RFC 7296 does not define are kept as Unknown, also
// critical ones, so that the caller can answer them: see UnsupportedCritical.
func Parse(b []byte) (*Message, error) {
	h, err := ParseHeader(b)
	if err != nil {
		return nil, err
	}
	switch {
	case h.Major > majorVersion:
		return nil, ErrVersion
	case h.Major < majorVersion:
		return nil, ErrNotIKEv2
	case len(b) > MaxLength || h.Length != uint32(len(b)):
		return nil, syntaxf("header has length %d in a datagram of %d octets", h.Length, len(b))
	}
	payloads, sk, err := parseChain(b[HeaderLen:], h.NextPayload, MaxPayloads)
	if err != nil {
		return nil, err
	}
	return &Message{Header: h, Payloads: payloads, Encrypted: sk}, nil
}

// Append appends the message to dst in clear, with the lengths, the next
// payload fields and the version filled in. Errors wrap ErrEncode and leave dst
// as it was. A message that was received encrypted is refused.
func (m *Message) Append(dst []byte) ([]byte, error) {
	if m.Encrypted != nil {
		return dst, encodef("it was received encrypted and must not be sent in clear")
	}
	out := m.Header.append(dst, firstType(m.Payloads))
	out, err := appendChain(out, m.Payloads)
	if err != nil {
		return dst, err
	}
	if err := setLength(out[len(dst):]); err != nil {
		return dst, err
	}
	return out, nil
}

// Find returns the first payload of structure T, as in Find[*SA](m). Of ID and
// TS there are two in a message: see Message.ID and Message.TS.
func Find[T Payload](m *Message) (T, bool) {
	for _, p := range m.Payloads {
		if found, ok := p.(T); ok {
			return found, true
		}
	}
	var none T
	return none, false
}

// ID returns the IDr payload for responder, otherwise IDi.
func (m *Message) ID(responder bool) (*ID, bool) {
	for _, p := range m.Payloads {
		if id, ok := p.(*ID); ok && id.Responder == responder {
			return id, true
		}
	}
	return nil, false
}

// TS returns the TSr payload for responder, otherwise TSi.
func (m *Message) TS(responder bool) (*TS, bool) {
	for _, p := range m.Payloads {
		if ts, ok := p.(*TS); ok && ts.Responder == responder {
			return ts, true
		}
	}
	return nil, false
}

// Notify returns the first notification of a kind.
func (m *Message) Notify(kind NotifyType) (*Notify, bool) {
	for _, p := range m.Payloads {
		if n, ok := p.(*Notify); ok && n.Kind == kind {
			return n, true
		}
	}
	return nil, false
}

// UnsupportedCritical returns the type of the first payload that is unknown and
// marked critical. The message is then to be rejected as a whole, and a request
// answered with UNSUPPORTED_CRITICAL_PAYLOAD and this octet as data (RFC 7296,
// Section 2.5).
func (m *Message) UnsupportedCritical() (PayloadType, bool) {
	for _, p := range m.Payloads {
		if u, ok := p.(*Unknown); ok && u.Critical {
			return u.Kind, true
		}
	}
	return NoNextPayload, false
}
