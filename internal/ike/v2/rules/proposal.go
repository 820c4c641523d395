package rules

import (
	"encoding/binary"
	"slices"
	"strings"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// transformTypes are the types that a proposal is compared by. A type that a
// proposal leaves out counts as its transform 0, which is NONE for integrity
// and key exchange, and the 32-bit sequence number for ESN (RFC 7296, Section
// 3.3.2 and 3.3.3).
var transformTypes = []ipsec.TransformType{
	ipsec.TypeEncr, ipsec.TypePRF, ipsec.TypeInteg, ipsec.TypeKE, ipsec.TypeESN,
}

func ofType(p ipsec.Proposal, t ipsec.TransformType) []ipsec.Transform {
	if all := p.Of(t); len(all) > 0 {
		return all
	}
	return []ipsec.Transform{{Type: t}}
}

// Match chooses one transform of each type from offered, by the preference of
// own. The result has exactly the types that offered names.
func Match(own, offered ipsec.Proposal) (ipsec.Proposal, bool) {
	var out ipsec.Proposal
	for _, t := range transformTypes {
		theirs := ofType(offered, t)
		ours := ofType(own, t)
		i := slices.IndexFunc(ours, func(x ipsec.Transform) bool { return slices.Contains(theirs, x) })
		if i < 0 {
			return nil, false
		}
		if len(offered.Of(t)) > 0 {
			out = append(out, ours[i])
		}
	}
	return out, true
}

// Choose finds the first of our proposals that matches one of the peer's (RFC
// 7296, Section 2.7).
func Choose(own []ipsec.Proposal, offered []message.Proposal, protocol message.ProtocolID) (message.Proposal, bool) {
	for _, o := range own {
		for _, p := range offered {
			if p.Protocol != protocol || p.Unknown {
				continue
			}
			if chosen, ok := Match(o, p.Transforms); ok {
				p.Transforms = chosen
				return p, true
			}
		}
	}
	return message.Proposal{}, false
}

// Accepted checks the peer's choice among what was offered: one proposal, with
// the number of one of ours and exactly one of our transforms of each type (RFC
// 7296, Section 2.7 and 3.3.6).
func Accepted(sa *message.SA, offered []ipsec.Proposal, protocol message.ProtocolID) (message.Proposal, bool) {
	if sa == nil || len(sa.Proposals) != 1 {
		return message.Proposal{}, false
	}
	p := sa.Proposals[0]
	if p.Unknown || p.Protocol != protocol || int(p.Number) > len(offered) {
		return message.Proposal{}, false
	}
	for _, t := range transformTypes {
		if len(p.Transforms.Of(t)) > 1 {
			return message.Proposal{}, false
		}
	}
	if _, ok := Match(p.Transforms, offered[p.Number-1]); !ok {
		return message.Proposal{}, false
	}
	return p, true
}

// Offer is the SA payload for our proposals.
func Offer(own []ipsec.Proposal, protocol message.ProtocolID, spi []byte) *message.SA {
	sa := &message.SA{}
	for i, p := range own {
		sa.Proposals = append(sa.Proposals, message.Proposal{
			Number: uint8(i + 1), Protocol: protocol, SPI: spi, Transforms: p,
		})
	}
	return sa
}

// WithoutKE leaves out key exchange methods: IKE_AUTH has none (RFC 7296,
// Section 1.2). Proposals that differ in nothing else become one.
func WithoutKE(own []ipsec.Proposal) []ipsec.Proposal {
	var out []ipsec.Proposal
	for _, p := range own {
		p = withoutKE(p)
		if !slices.ContainsFunc(out, func(o ipsec.Proposal) bool { return slices.Equal(o, p) }) {
			out = append(out, p)
		}
	}
	return out
}

func withoutKE(p ipsec.Proposal) ipsec.Proposal {
	return slices.DeleteFunc(slices.Clone(p), func(t ipsec.Transform) bool { return t.Type == ipsec.TypeKE })
}

// WithoutOfferedKE is WithoutKE for what a peer offers.
func WithoutOfferedKE(offered []message.Proposal) []message.Proposal {
	out := slices.Clone(offered)
	for i := range out {
		out[i].Transforms = withoutKE(out[i].Transforms)
	}
	return out
}

// PreferredKE is the method that our KE payload is for.
func PreferredKE(own []ipsec.Proposal) ipsec.Transform {
	for _, p := range own {
		if t := p.First(ipsec.TypeKE); t.ID != ipsec.KENone {
			return t
		}
	}
	return ipsec.Transform{}
}

// DemandedKE returns the method that an INVALID_KE_PAYLOAD asks for, if it is
// one that was offered and not the one that was sent (RFC 7296, Section 1.2 and
// 1.3): a stranger must not make us use another.
func DemandedKE(n *message.Notify, own []ipsec.Proposal, sent ipsec.Transform) (ipsec.Transform, bool) {
	if len(n.Data) != 2 {
		return ipsec.Transform{}, false
	}
	want := ipsec.Transform{Type: ipsec.TypeKE, ID: binary.BigEndian.Uint16(n.Data)}
	if want == sent || want.ID == ipsec.KENone {
		return ipsec.Transform{}, false
	}
	for _, p := range own {
		if slices.Contains(p, want) {
			return want, true
		}
	}
	return ipsec.Transform{}, false
}

// Describe prints what was offered, for the message of a failure.
func Describe(offered []message.Proposal) string {
	words := make([]string, len(offered))
	for i, p := range offered {
		words[i] = suite.ProposalString(p.Transforms)
	}
	return strings.Join(words, ", ")
}

// DescribeOwn is Describe for our proposals.
func DescribeOwn(own []ipsec.Proposal) string {
	words := make([]string, len(own))
	for i, p := range own {
		words[i] = suite.ProposalString(p)
	}
	return strings.Join(words, ", ")
}
