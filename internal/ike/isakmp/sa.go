package isakmp

import (
	"encoding/binary"

	"caponier/internal/ike/message"
)

// SA is the Security Association payload (RFC 2408, Section 3.4, and RFC 2407,
// Section 4.6.1), with a situation of SIT_IDENTITY_ONLY.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!              Domain of Interpretation  (DOI)                  !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                           Situation                           !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type SA struct {
	Proposals []Proposal
}

// Proposal is one proposal of an SA payload (RFC 2408, Section 3.5). Proposals of
// the same Number belong together: all of them, or none.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Proposal #   !  Protocol-Id  !    SPI Size   !# of Transforms!
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!                        SPI (variable)                         !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Proposal struct {
	Number     uint8
	Protocol   message.ProtocolID
	SPI        []byte
	Transforms []Transform
}

// Transform is one transform of a proposal (RFC 2408, Section 3.6): a complete
// choice of algorithms, in contrast to IKEv2.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	!  Transform #  !  Transform-Id !           RESERVED2           !
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                        SA Attributes                          ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Transform struct {
	Number, ID uint8
	Attributes []Attribute
}

// Find returns the first attribute of a type.
func (t Transform) Find(kind uint16) (Attribute, bool) {
	for _, a := range t.Attributes {
		if a.Type == kind {
			return a, true
		}
	}
	return Attribute{}, false
}

// ParseSA reads the body of an SA payload.
func ParseSA(b []byte) (*SA, error) {
	if len(b) < 8 {
		return nil, syntaxf("SA of %d octets", len(b))
	}
	if doi, situation := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]); doi != DOI || situation != SituationIdentity {
		return nil, syntaxf("SA of DOI %d, situation %#x", doi, situation)
	}
	sa := &SA{}
	b = b[8:]
	for next := byte(typeProposal); next != 0; {
		if next != typeProposal {
			return nil, syntaxf("proposal %d is followed by type %d", len(sa.Proposals), next)
		}
		if len(sa.Proposals) == MaxProposals {
			return nil, limitf("more than %d proposals", MaxProposals)
		}
		body, following, rest, err := parseGeneric("proposal", b)
		if err != nil {
			return nil, err
		}
		p, err := parseProposal(body)
		if err != nil {
			return nil, err
		}
		sa.Proposals = append(sa.Proposals, p)
		next, b = following, rest
	}
	if len(b) > 0 {
		return nil, syntaxf("%d octets follow the last proposal", len(b))
	}
	return sa, nil
}

func parseProposal(b []byte) (Proposal, error) {
	if len(b) < 4 || len(b) < 4+int(b[2]) {
		return Proposal{}, syntaxf("proposal of %d octets", len(b))
	}
	p := Proposal{Number: b[0], Protocol: message.ProtocolID(b[1]), SPI: clip(b[4 : 4+b[2]])}
	count := int(b[3])
	b = b[4+int(b[2]):]
	switch {
	case count == 0:
		return Proposal{}, syntaxf("proposal without transforms")
	case count > MaxTransforms:
		return Proposal{}, limitf("%d transforms in a proposal, more than %d", count, MaxTransforms)
	}
	for i := range count {
		body, next, rest, err := parseGeneric("transform", b)
		if err != nil {
			return Proposal{}, err
		}
		if last := i == count-1; last != (next == 0) || !last && next != typeTransform {
			return Proposal{}, syntaxf("transform %d of %d is followed by type %d", i+1, count, next)
		}
		if len(body) < 4 {
			return Proposal{}, syntaxf("transform of %d octets", len(body))
		}
		attributes, err := ParseAttributes(body[4:])
		if err != nil {
			return Proposal{}, err
		}
		p.Transforms = append(p.Transforms, Transform{Number: body[0], ID: body[1], Attributes: attributes})
		b = rest
	}
	if len(b) > 0 {
		return Proposal{}, syntaxf("%d octets follow the last transform", len(b))
	}
	return p, nil
}

// Body returns the octets of the payload behind its generic header, which are
// SAi_b in hashes (RFC 2409, Section 5).
func (sa *SA) Body() ([]byte, error) {
	if len(sa.Proposals) == 0 || len(sa.Proposals) > MaxProposals {
		return nil, encodef("%d proposals", len(sa.Proposals))
	}
	out := binary.BigEndian.AppendUint32(nil, DOI)
	out = binary.BigEndian.AppendUint32(out, SituationIdentity)
	for i, p := range sa.Proposals {
		body, err := p.body()
		if err != nil {
			return nil, err
		}
		next := byte(typeProposal)
		if i == len(sa.Proposals)-1 {
			next = 0
		}
		if out, err = appendGeneric(out, next, body); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p Proposal) body() ([]byte, error) {
	if n := len(p.Transforms); n == 0 || n > MaxTransforms || len(p.SPI) > 0xff {
		return nil, encodef("proposal with %d transforms, SPI of %d octets", n, len(p.SPI))
	}
	out := []byte{p.Number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms))}
	out = append(out, p.SPI...)
	for i, t := range p.Transforms {
		body, err := appendAttributes([]byte{t.Number, t.ID, 0, 0}, t.Attributes)
		if err != nil {
			return nil, err
		}
		next := byte(typeTransform)
		if i == len(p.Transforms)-1 {
			next = 0
		}
		if out, err = appendGeneric(out, next, body); err != nil {
			return nil, err
		}
	}
	return out, nil
}
