package message

import (
	"encoding/binary"
	"fmt"

	"caponier/internal/ipsec"
)

// SA is the Security Association payload (RFC 7296, Section 3.3).
type SA struct{ Proposals []Proposal }

// Proposal is one proposal of an SA payload (RFC 7296, Section 3.3.1).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Last Substruc |   RESERVED    |         Proposal Length       |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                        SPI (variable)                         ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                        <Transforms>                           ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Proposal struct {
	// Number counts from 1 in an offer; an answer repeats the number of the
	// proposal that it accepts.
	Number   uint8
	Protocol ProtocolID
	SPI      []byte // 0, 4 or 8 octets
	// Transforms are in the order received. Those with an attribute that this
	// package does not know are left out (RFC 7296, Section 3.3.6).
	Transforms ipsec.Proposal
	// Unknown says that the proposal must not be selected: it has a protocol or a
	// transform type that this package does not know, or a transform type of
	// which every transform was left out (RFC 7296, Section 3.3.6).
	Unknown bool
}

// What the first octet of a substructure says if another one follows.
const (
	lastSubstructure = 0
	moreProposals    = 2
	moreTransforms   = 3
)

// attrKeyLength is the Key Length attribute in type/value format (RFC 7296,
// Section 3.3.5).
const (
	attrFormatTV  = 0x8000
	attrKeyLength = attrFormatTV | 14
)

// Type is TypeSA.
func (*SA) Type() PayloadType { return TypeSA }

func parseSA(b []byte) (*SA, error) {
	if len(b) == 0 {
		return nil, syntaxf("no proposal")
	}
	p := &SA{}
	for len(b) > 0 {
		if len(p.Proposals) == MaxProposals {
			return nil, limitf("more than %d proposals", MaxProposals)
		}
		body, rest, err := cutSubstructure(b, moreProposals)
		if err != nil {
			return nil, fmt.Errorf("proposal: %w", err)
		}
		proposal, err := parseProposal(body)
		if err != nil {
			return nil, fmt.Errorf("proposal: %w", err)
		}
		// RFC 7296, Section 3.3.1: each number is one more than the one before. The
		// first is not 1 in an answer.
		if n := len(p.Proposals); n > 0 && proposal.Number != p.Proposals[n-1].Number+1 {
			return nil, syntaxf("proposal %d follows proposal %d", proposal.Number, p.Proposals[n-1].Number)
		}
		p.Proposals = append(p.Proposals, proposal)
		b = rest
	}
	return p, nil
}

// cutSubstructure takes a proposal or a transform from the beginning of b.
func cutSubstructure(b []byte, more byte) (body, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, syntaxf("%d octets are too few", len(b))
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < 8 || n > len(b) {
		return nil, nil, syntaxf("length %d with %d octets left", n, len(b))
	}
	body, rest = b[4:n], b[n:]
	if want := marker(len(rest) == 0, more); b[0] != want {
		return nil, nil, syntaxf("last substructure %d with %d octets left", b[0], len(rest))
	}
	return body, rest, nil
}

func marker(last bool, more byte) byte {
	if last {
		return lastSubstructure
	}
	return more
}

func parseProposal(b []byte) (Proposal, error) {
	p := Proposal{Number: b[0], Protocol: ProtocolID(b[1])}
	spiLen, count, b := int(b[2]), int(b[3]), b[4:]
	if p.Number == 0 {
		return p, syntaxf("number 0")
	}
	if spiLen > len(b) || !p.spiFits(spiLen) {
		return p, syntaxf("%s SPI of %d octets", p.Protocol, spiLen)
	}
	if count > MaxTransforms {
		return p, limitf("more than %d transforms", MaxTransforms)
	}
	p.SPI, b = clip(b[:spiLen]), b[spiLen:]
	p.Unknown = p.Protocol < ProtocolIKE || p.Protocol > ProtocolESP
	var left, kept [ipsec.TypeESN + 1]bool // by transform type
	for ; count > 0; count-- {
		body, rest, err := cutSubstructure(b, moreTransforms)
		if err != nil {
			return p, fmt.Errorf("transform: %w", err)
		}
		t, known, err := parseTransform(body)
		switch {
		case err != nil:
			return p, fmt.Errorf("transform: %w", err)
		case t.Type < ipsec.TypeEncr || t.Type > ipsec.TypeESN:
			p.Unknown = true
		case known:
			p.Transforms = append(p.Transforms, t)
			kept[t.Type] = true
		default:
			left[t.Type] = true
		}
		b = rest
	}
	if len(b) > 0 {
		return p, syntaxf("%d octets follow the last transform", len(b))
	}
	// Without this, leaving out all integrity transforms would turn the proposal
	// into one that asks for none.
	for t := range left {
		p.Unknown = p.Unknown || left[t] && !kept[t]
	}
	return p, nil
}

// spiFits reports whether the SPI can have n octets (RFC 7296, Section 3.3.1):
// that of IKE is there only where an IKE SA is rekeyed.
func (p *Proposal) spiFits(n int) bool {
	switch p.Protocol {
	case ProtocolIKE:
		return n == 0 || n == 8
	case ProtocolAH, ProtocolESP:
		return n == 4
	default:
		return true
	}
}

// parseTransform reads what follows the substructure header (RFC 7296, Section
// 3.3.2). known is false where an attribute is not known.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Last Substruc |   RESERVED    |        Transform Length       |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|Transform Type |   RESERVED    |          Transform ID         |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                      Transform Attributes                     ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func parseTransform(b []byte) (t ipsec.Transform, known bool, err error) {
	t = ipsec.Transform{Type: ipsec.TransformType(b[0]), ID: binary.BigEndian.Uint16(b[2:])}
	known = true
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return t, false, syntaxf("attribute of %d octets", len(b))
		}
		kind, value, n := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), 4
		if kind&attrFormatTV == 0 {
			n += int(value)
		}
		if n > len(b) {
			return t, false, syntaxf("attribute of %d octets with %d left", n, len(b))
		}
		// A key length of 0, or a second one, has no meaning either.
		if kind == attrKeyLength && value != 0 && t.KeyBits == 0 {
			t.KeyBits = value
		} else {
			known = false
		}
		b = b[n:]
	}
	return t, known, nil
}

func (p *SA) appendBody(dst []byte) ([]byte, error) {
	if len(p.Proposals) == 0 || len(p.Proposals) > MaxProposals {
		return dst, encodef("%d proposals", len(p.Proposals))
	}
	for i := range p.Proposals {
		proposal := &p.Proposals[i]
		if i > 0 && proposal.Number != p.Proposals[i-1].Number+1 {
			return dst, encodef("proposal %d follows proposal %d", proposal.Number, p.Proposals[i-1].Number)
		}
		start := len(dst)
		dst = append(dst, marker(i == len(p.Proposals)-1, moreProposals), 0, 0, 0)
		var err error
		if dst, err = proposal.appendBody(dst); err != nil {
			return dst, fmt.Errorf("proposal %d: %w", proposal.Number, err)
		}
		if err := setPayloadLength(dst[start:]); err != nil {
			return dst, fmt.Errorf("proposal %d: %w", proposal.Number, err)
		}
	}
	return dst, nil
}

func (p *Proposal) appendBody(dst []byte) ([]byte, error) {
	switch {
	case p.Number == 0:
		return dst, encodef("number 0")
	case p.Unknown:
		return dst, encodef("it was received with what is not known here")
	case p.Protocol < ProtocolIKE || p.Protocol > ProtocolESP || !p.spiFits(len(p.SPI)):
		return dst, encodef("%s SPI of %d octets", p.Protocol, len(p.SPI))
	case len(p.Transforms) > MaxTransforms:
		return dst, encodef("%d transforms", len(p.Transforms))
	}
	dst = append(dst, p.Number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms)))
	dst = append(dst, p.SPI...)
	for i, t := range p.Transforms {
		n := byte(8)
		if t.KeyBits != 0 {
			n += 4
		}
		dst = append(dst, marker(i == len(p.Transforms)-1, moreTransforms), 0, 0, n, byte(t.Type), 0)
		dst = binary.BigEndian.AppendUint16(dst, t.ID)
		if t.KeyBits != 0 {
			dst = binary.BigEndian.AppendUint16(dst, attrKeyLength)
			dst = binary.BigEndian.AppendUint16(dst, t.KeyBits)
		}
	}
	return dst, nil
}
