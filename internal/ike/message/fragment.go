package message

import (
	"encoding/binary"
	"errors"
	"fmt"

	"caponier/internal/suite"
)

// Fragments of a message (RFC 7383). Each is a message of its own with one SKF
// payload, which is encrypted and authenticated by itself:
//
//	                     1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Next Payload  |C|  RESERVED   |         Payload Length        |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|        Fragment Number        |        Total Fragments        |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                     Initialization Vector                     |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                      Encrypted content                        ~
//	+               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|               |             Padding (0-255 octets)            |
//	+-+-+-+-+-+-+-+-+                               +-+-+-+-+-+-+-+-+
//	|                                               |  Pad Length   |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                    Integrity Checksum Data                    ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

const (
	// MaxFragments is the largest number of fragments of a message. 64 KiB in
	// datagrams of 576 octets, the least that IPv4 carries, are about 130.
	MaxFragments = 255
	// maxContent bounds the payloads of a message that came in fragments, as
	// MaxLength bounds one in one piece.
	maxContent = MaxLength - HeaderLen - genericLen

	fragmentLen = 4 // of fragment number and total fragments
)

// ErrFragment is wrapped by the errors about a fragment that is not kept: it is
// there already, or does not belong to the others. The others stay.
var ErrFragment = errors.New("fragment does not fit")

func parseFragment(next PayloadType, body []byte) (*Encrypted, error) {
	if len(body) < fragmentLen {
		return nil, syntaxf("%d octets are too few", len(body))
	}
	e := &Encrypted{
		First: next, Body: body[fragmentLen:len(body):len(body)],
		Fragment: binary.BigEndian.Uint16(body), Fragments: binary.BigEndian.Uint16(body[2:]),
	}
	if e.Fragment == 0 || e.Fragment > e.Fragments {
		return nil, syntaxf("fragment %d of %d", e.Fragment, e.Fragments)
	}
	return e, nil
}

// SealFragments is Seal for a message that may be longer than size octets: then
// it returns fragments no longer than that, otherwise the message in one piece.
// seq is called for the number that feeds each IV.
func (m *Message) SealFragments(p suite.Protector, seq func() uint64, size int) ([][]byte, error) {
	content, err := appendChain(nil, m.Payloads)
	if err != nil {
		return nil, err
	}
	overhead := HeaderLen + genericLen + p.IVLen() + p.ICVLen()
	e := Encrypted{First: firstType(m.Payloads)}
	if overhead+len(content)+padLen(len(content), p.BlockSize())+1 <= size {
		whole, err := sealContent(nil, m.Header, e, content, p, seq())
		return [][]byte{whole}, err
	}
	room := (size-overhead-fragmentLen)/p.BlockSize()*p.BlockSize() - 1 // and the pad length
	if room <= 0 || len(content) > maxContent || len(content) > room*MaxFragments {
		return nil, encodef("%d octets do not fit %d fragments of %d", len(content), MaxFragments, size)
	}
	e.Fragments = uint16((len(content) + room - 1) / room)
	out := make([][]byte, 0, e.Fragments)
	for len(content) > 0 {
		n := min(room, len(content))
		e.Fragment++
		raw, err := sealContent(nil, m.Header, e, content[:n], p, seq())
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
		content = content[n:]
		e.First = NoNextPayload // which only the first fragment tells (RFC 7383, Section 2.5)
	}
	return out, nil
}

// Assembly collects the fragments of one message. Its zero value is empty.
type Assembly struct {
	exchange ExchangeType
	first    PayloadType
	parts    [][]byte // nil where one is missing
	have     int
	size     int
}

// Total returns how many fragments the message has, 0 where none has come.
func (a *Assembly) Total() int { return len(a.parts) }

// OpenFragment checks and decrypts the SKF payload of m and keeps what is inside
// in a. It returns true for the last one that was missing: then m is the whole
// message, as after Open, and a is empty. raw is the datagram that Parse was
// given. The caller has seen to it that m has the message ID of the others.
//
// A fragment is kept only when it is authentic. One that counts more fragments
// in all than those before starts again, for the sender has cut the message
// anew; one that counts fewer is late (RFC 7383, Section 2.6). Errors are those
// of Open, and ErrFragment.
func (m *Message) OpenFragment(raw []byte, p suite.Protector, a *Assembly) (complete bool, err error) {
	e := m.Encrypted
	if e == nil || !e.IsFragment() {
		return false, ErrNotEncrypted
	}
	if err := a.fits(m.Header, e); err != nil {
		return false, err
	}
	content, err := m.decrypt(raw, p)
	if err != nil {
		return false, err
	}
	if int(e.Fragments) > len(a.parts) {
		*a = Assembly{exchange: m.Header.Exchange, parts: make([][]byte, e.Fragments)}
	}
	if a.size+len(content) > maxContent {
		*a = Assembly{}
		return false, syntaxf("more than %d octets in fragments", maxContent)
	}
	a.size += len(content)
	a.parts[e.Fragment-1] = content
	a.have++
	if e.Fragment == 1 {
		a.first = e.First
	}
	if a.have < len(a.parts) {
		return false, nil
	}
	whole := make([]byte, 0, a.size)
	for _, part := range a.parts {
		whole = append(whole, part...)
	}
	first := a.first
	*a = Assembly{}
	return true, m.readInner(first, whole)
}

// fits says whether a fragment is worth opening.
func (a *Assembly) fits(h Header, e *Encrypted) error {
	switch {
	case e.Fragments > MaxFragments:
		return fmt.Errorf("%w, %w: it is one of %d, more than %d", ErrFragment, ErrLimit, e.Fragments, MaxFragments)
	case int(e.Fragments) < len(a.parts):
		return fmt.Errorf("%w: it is one of %d, others are of %d", ErrFragment, e.Fragments, len(a.parts))
	case int(e.Fragments) > len(a.parts):
		return nil
	case h.Exchange != a.exchange:
		return fmt.Errorf("%w: it is of %s, others are of %s", ErrFragment, h.Exchange, a.exchange)
	case a.parts[e.Fragment-1] != nil:
		return fmt.Errorf("%w: number %d is there already", ErrFragment, e.Fragment)
	default:
		return nil
	}
}
