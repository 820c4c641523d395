package message

import (
	"encoding/binary"
	"fmt"
	"slices"

	"caponier/internal/suite"
)

// Encrypted is the SK payload, still sealed (RFC 7296, Section 3.14; RFC 5282,
// Section 3, for combined-mode algorithms).
//
//	                     1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Next Payload  |C|  RESERVED   |         Payload Length        |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                     Initialization Vector                     |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                    Encrypted IKE Payloads                     ~
//	+               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|               |             Padding (0-255 octets)            |
//	+-+-+-+-+-+-+-+-+                               +-+-+-+-+-+-+-+-+
//	|                                               |  Pad Length   |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                    Integrity Checksum Data                    ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// It also stands for the SKF payload, one fragment of a message (see
// fragment.go).
type Encrypted struct {
	First PayloadType // type of the first payload inside
	Body  []byte      // IV | ciphertext | ICV; nil once opened
	// Fragment is the number of the fragment, from 1 to Fragments. Both are 0 for
	// a message in one piece.
	Fragment, Fragments uint16
}

// IsFragment reports whether it is an SKF payload.
func (e *Encrypted) IsFragment() bool { return e.Fragments != 0 }

// Seal appends the message to dst with all its Payloads inside one SK payload.
// seq feeds p.NextIV: where the IV is a counter, it must not repeat under one
// key. Errors wrap ErrEncode and leave dst as it was.
func (m *Message) Seal(dst []byte, p suite.Protector, seq uint64) ([]byte, error) {
	content, err := appendChain(nil, m.Payloads)
	if err != nil {
		return dst, err
	}
	return sealContent(dst, m.Header, Encrypted{First: firstType(m.Payloads)}, content, p, seq)
}

// sealContent appends a message whose only payload is e, with content inside.
func sealContent(dst []byte, h Header, e Encrypted, content []byte, p suite.Protector, seq uint64) ([]byte, error) {
	kind := TypeEncrypted
	if e.IsFragment() {
		kind = TypeFragment
	}
	pad := padLen(len(content), p.BlockSize())
	// As long as it will be: answers are kept, of every peer one.
	out := slices.Grow(dst, HeaderLen+genericLen+fragmentLen+p.IVLen()+len(content)+pad+1+p.ICVLen())
	out = h.append(out, kind)
	sk := len(out)
	out = append(out, byte(e.First), 0, 0, 0)
	if e.IsFragment() {
		out = binary.BigEndian.AppendUint16(out, e.Fragment)
		out = binary.BigEndian.AppendUint16(out, e.Fragments)
	}
	iv := len(out)
	out = append(out, make([]byte, p.IVLen())...)
	plain := len(out)
	out = append(out, content...)
	out = append(out, make([]byte, pad)...)
	out = append(out, byte(pad))
	end := len(out)
	out = append(out, make([]byte, p.ICVLen())...)
	// The lengths are authenticated, so they come first.
	if err := setPayloadLength(out[sk:]); err != nil {
		return dst, fmt.Errorf("%s payload: %w", kind, err)
	}
	if err := setLength(out[len(dst):]); err != nil {
		return dst, err
	}
	p.NextIV(out[iv:plain], seq)
	p.Seal(out[plain:], out[iv:plain], out[plain:end], out[len(dst):iv], nil)
	return out, nil
}

// padLen is the number of octets to put between n octets and the pad length
// octet so that all of them together are whole blocks.
func padLen(n, block int) int { return (block - (n+1)%block) % block }

// Open checks and decrypts the SK payload and adds what is inside to Payloads.
// raw is the datagram that Parse was given; it is left as it is. On an error
// the message is unchanged, so that another key can be tried:
//
//   - ErrNotEncrypted: there is no SK payload, or it has been opened.
//   - ErrNotAuthentic: the message is not from the peer. Drop it.
//   - ErrSyntax: the message is from the peer, and malformed inside.
func (m *Message) Open(raw []byte, p suite.Protector) error {
	if m.Encrypted != nil && m.Encrypted.IsFragment() {
		return ErrNotEncrypted
	}
	content, err := m.decrypt(raw, p)
	if err != nil {
		return err
	}
	return m.readInner(m.Encrypted.First, content)
}

// decrypt checks the payload and returns what is inside, without the padding.
func (m *Message) decrypt(raw []byte, p suite.Protector) ([]byte, error) {
	if m.Encrypted == nil || m.Encrypted.Body == nil {
		return nil, ErrNotEncrypted
	}
	body := m.Encrypted.Body
	if len(body) < p.IVLen()+p.ICVLen() || len(raw) < HeaderLen+genericLen+len(body) {
		return nil, fmt.Errorf("%w: %d octets in SK are too few", ErrNotAuthentic, len(body))
	}
	aad, iv, sealed := raw[:len(raw)-len(body)], body[:p.IVLen()], body[p.IVLen():]
	plain := make([]byte, len(sealed)-p.ICVLen())
	if err := p.Open(plain, iv, sealed, aad, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAuthentic, err)
	}
	if len(plain) == 0 {
		return nil, syntaxf("SK has no pad length")
	}
	// RFC 7296, Section 3.14: the sender chooses the padding, and may pad more
	// than the block size asks for.
	pad := int(plain[len(plain)-1])
	if pad+1 > len(plain) {
		return nil, syntaxf("SK has a pad length of %d in %d octets", pad, len(plain))
	}
	return plain[:len(plain)-1-pad], nil
}

// readInner adds the payloads of an opened message to Payloads.
func (m *Message) readInner(first PayloadType, content []byte) error {
	inner, sk, err := parseChain(content, first, MaxPayloads-len(m.Payloads))
	if err != nil {
		return err
	}
	if sk != nil {
		return syntaxf("encrypted payload inside an encrypted payload")
	}
	m.Payloads = append(m.Payloads, inner...)
	m.Encrypted = &Encrypted{First: first}
	return nil
}
