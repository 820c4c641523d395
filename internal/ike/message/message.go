package message

import "caponier/internal/suite"

// ParseHeader reads the header.
func ParseHeader(b []byte) (Header, error) { return Header{}, ErrShort }

// Parse reads a message.
func Parse(b []byte) (*Message, error) { return nil, ErrShort }

// Append writes the message in clear.
func (m *Message) Append(dst []byte) ([]byte, error) { return dst, ErrEncode }

// Seal writes the message with its Payloads inside one SK payload.
func (m *Message) Seal(dst []byte, p suite.Protector, seq uint64) ([]byte, error) {
	return dst, ErrEncode
}

// Open opens the SK payload.
func (m *Message) Open(raw []byte, p suite.Protector) error { return ErrNotEncrypted }

// Find returns the first payload of type T, as in Find[*SA](m).
func Find[T Payload](m *Message) (T, bool) {
	for _, p := range m.Payloads {
		if found, ok := p.(T); ok {
			return found, true
		}
	}
	var none T
	return none, false
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
// marked critical (RFC 7296, Section 2.5).
func (m *Message) UnsupportedCritical() (PayloadType, bool) {
	for _, p := range m.Payloads {
		if u, ok := p.(*Unknown); ok && u.Critical {
			return u.Kind, true
		}
	}
	return 0, false
}
