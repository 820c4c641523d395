package message

import (
	"encoding/binary"
	"slices"

	"caponier/internal/ipsec"
)

// SignatureHash is the registry of hash algorithms in SIGNATURE_HASH_ALGORITHMS
// (RFC 7427, Section 7), beside those of transforms, in a Number.
const SignatureHash ipsec.TransformType = 0

// Number is an algorithm by its number in one registry of IKEv2.
type Number struct {
	Registry ipsec.TransformType // or SignatureHash
	ID       uint16
}

// Numbers says which algorithms have other numbers on the wire than in this
// program: those that IANA has not assigned, of which peers may have other
// ideas. The nil Numbers changes nothing.
type Numbers map[Number]uint16

// nobody is a private-use number that no algorithm has here.
const nobody = 65535

// Outgoing returns the payloads with the numbers of the wire. What it changes it
// copies.
func (n Numbers) Outgoing(payloads []Payload) []Payload {
	return n.translate(payloads, func(x Number) uint16 {
		if wire, ok := n[x]; ok {
			return wire
		}
		return x.ID
	})
}

// Incoming gives the payloads of the wire the numbers of this program.
func (n Numbers) Incoming(payloads []Payload) []Payload {
	return n.translate(payloads, func(x Number) uint16 {
		for own, wire := range n {
			if own.Registry == x.Registry && wire == x.ID {
				return own.ID
			}
		}
		if _, moved := n[x]; moved {
			return nobody
		}
		return x.ID
	})
}

func (n Numbers) translate(payloads []Payload, id func(Number) uint16) []Payload {
	if len(n) == 0 {
		return payloads
	}
	out := slices.Clone(payloads)
	for i, p := range out {
		switch p := p.(type) {
		case *SA:
			sa := &SA{Proposals: slices.Clone(p.Proposals)}
			for j := range sa.Proposals {
				t := slices.Clone(sa.Proposals[j].Transforms)
				for k := range t {
					t[k].ID = id(Number{t[k].Type, t[k].ID})
				}
				sa.Proposals[j].Transforms = t
			}
			out[i] = sa
		case *Notify:
			if p.Kind != SignatureHashAlgorithms {
				continue
			}
			hashes := *p
			hashes.Data = slices.Clone(p.Data)
			for b := hashes.Data; len(b) >= 2; b = b[2:] {
				binary.BigEndian.PutUint16(b, id(Number{SignatureHash, binary.BigEndian.Uint16(b)}))
			}
			out[i] = &hashes
		}
	}
	return out
}
