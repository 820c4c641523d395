// Package proposal says what IKEv1 offers, chooses and accepts: how the algorithms of
// the configuration are numbered in the transforms of ISAKMP, in the profile of GM/T
// 0022. It keeps no state.
package proposal

import (
	"fmt"
	"slices"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
)

// named is an algorithm with its numbers in IKEv1: the first is the usual one.
type named struct {
	transform ipsec.Transform
	ids       []uint16
}

// ciphers are the encryption algorithms of IKE SAs, hashes their hash functions,
// named by the PRF, and espCiphers the encryption algorithms of ESP.
var (
	ciphers = []named{
		{ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}, []uint16{isakmp.EncryptionSM4CBC, isakmp.EncryptionSM4CBCOld}},
	}
	hashes = []named{
		{ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3}, []uint16{isakmp.HashSM3}},
	}
	espCiphers = []named{
		{ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}, []uint16{uint16(isakmp.ESPSM4CBC), uint16(isakmp.ESPSM4CBCAlt)}},
		{ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16}, []uint16{uint16(isakmp.ESPSM4GCM)}},
	}
)

// sm3ICVs are the integrity algorithms that are one in IKEv1: how much of
// HMAC-SM3 is sent is not negotiated.
var sm3ICVs = []uint16{ipsec.IntegHMACSM3, ipsec.IntegHMACSM3128, ipsec.IntegHMACSM396}

func idOf(table []named, t ipsec.Transform) (uint16, bool) {
	for _, n := range table {
		if n.transform == t {
			return n.ids[0], true
		}
	}
	return 0, false
}

func transformOf(table []named, id uint16) (ipsec.Transform, bool) {
	for _, n := range table {
		if slices.Contains(n.ids, id) {
			return n.transform, true
		}
	}
	return ipsec.Transform{}, false
}

// SM4Bits is the length of SM4's key.
const SM4Bits = 128

// OfferIKE is the SA payload of the first message: one transform for each
// combination of the algorithms of a proposal.
func OfferIKE(c *conf.Connection) (*isakmp.SA, error) {
	p := isakmp.Proposal{Number: 1, Protocol: message.ProtocolIKE}
	for _, own := range c.Proposals {
		for _, encr := range own.Of(ipsec.TypeEncr) {
			for _, prf := range own.Of(ipsec.TypePRF) {
				e, okE := idOf(ciphers, encr)
				h, okH := idOf(hashes, prf)
				if !okE || !okH {
					continue
				}
				if encr.ID == ipsec.EncrSM4CBC && c.GM.IKESM4 != 0 {
					e = c.GM.IKESM4
				}
				t := isakmp.Transform{Number: uint8(len(p.Transforms) + 1), ID: isakmp.KeyIKE, Attributes: []isakmp.Attribute{
					isakmp.Short(isakmp.AttrEncryption, e), isakmp.Short(isakmp.AttrHash, h),
					isakmp.Short(isakmp.AttrAuthMethod, isakmp.AuthEnvelope),
					isakmp.Short(isakmp.AttrAsymmetricAlg, isakmp.AsymmetricSM2),
				}}
				if c.GM.KeyLength {
					t.Attributes = append(t.Attributes, isakmp.Short(isakmp.AttrIKEKeyLength, SM4Bits))
				}
				if c.Lifetime > 0 {
					t.Attributes = append(t.Attributes, isakmp.Short(isakmp.AttrIKELifeType, isakmp.LifeSeconds),
						isakmp.Number(isakmp.AttrIKELife, seconds(c.Lifetime)))
				}
				p.Transforms = append(p.Transforms, t)
			}
		}
	}
	if len(p.Transforms) == 0 || len(p.Transforms) > isakmp.MaxTransforms {
		return nil, fmt.Errorf("%d proposals of the connection can be made in this version of IKE", len(p.Transforms))
	}
	return &isakmp.SA{Proposals: []isakmp.Proposal{p}}, nil
}

func seconds(d time.Duration) uint32 {
	return uint32(min(max(d/time.Second, 1), 1<<32-1))
}

// ikeTransform reads a transform of phase 1, and the lifetime in it, 0 where
// there is none. Attributes that say nothing here are let pass, for they change
// nothing: a peer that wanted them to would have no proposal without them.
func ikeTransform(t isakmp.Transform) (p ipsec.Proposal, life time.Duration, ok bool) {
	var encr, prf ipsec.Transform
	var lifeType uint64
	if t.ID != isakmp.KeyIKE {
		return nil, 0, false
	}
	envelope, asymmetric := false, true
	for _, a := range t.Attributes {
		n, fits := a.Number()
		if !fits {
			return nil, 0, false
		}
		ok := true
		switch a.Type {
		case isakmp.AttrEncryption:
			encr, ok = transformOf(ciphers, uint16(min(n, 0xffff)))
		case isakmp.AttrHash:
			prf, ok = transformOf(hashes, uint16(min(n, 0xffff)))
		case isakmp.AttrAuthMethod:
			envelope = n == uint64(isakmp.AuthEnvelope)
		case isakmp.AttrAsymmetricAlg:
			asymmetric = n == uint64(isakmp.AsymmetricSM2)
		case isakmp.AttrIKEKeyLength:
			ok = n == SM4Bits
		case isakmp.AttrIKELifeType:
			lifeType = n
		case isakmp.AttrIKELife:
			if lifeType == uint64(isakmp.LifeSeconds) {
				life = time.Duration(min(n, 1<<32)) * time.Second
			}
		default:
		}
		if !ok {
			return nil, 0, false
		}
	}
	if encr.ID == 0 || prf.ID == 0 || !envelope || !asymmetric {
		return nil, 0, false
	}
	return ipsec.Proposal{encr, prf}, life, true
}

// Allowed reports whether one of own contains all transforms of p, but for what
// IKEv1 does not negotiate.
func Allowed(own []ipsec.Proposal, p ipsec.Proposal) (int, bool) {
	for i, o := range own {
		if !slices.ContainsFunc(p, func(t ipsec.Transform) bool { return !slices.Contains(o, t) }) {
			return i, true
		}
	}
	return 0, false
}

// IKE is what phase 1 agreed on.
type IKE struct {
	Reply    isakmp.Proposal // as offered, with the one transform
	Proposal ipsec.Proposal
	Life     time.Duration // 0 where the transform says nothing
}

// ChooseIKE chooses among what the peer offers: the transform that stands first in
// our order, and among equals in its order.
func ChooseIKE(c *conf.Connection, sa *isakmp.SA) (IKE, bool) {
	var best IKE
	rank := -1
	for _, p := range sa.Proposals {
		if p.Protocol != message.ProtocolIKE {
			continue
		}
		for _, t := range p.Transforms {
			chosen, life, ok := ikeTransform(t)
			if !ok {
				continue
			}
			if i, ok := Allowed(c.Proposals, chosen); ok && (rank < 0 || i < rank) {
				rank = i
				p.Transforms = []isakmp.Transform{t}
				best = IKE{p, chosen, life}
			}
		}
	}
	return best, rank >= 0
}

// AcceptIKE checks the responder's choice: one transform, and one that was
// offered (RFC 2408, Section 5.4). A lifetime may be shorter.
func AcceptIKE(c *conf.Connection, offered, reply *isakmp.SA) (IKE, bool) {
	if len(reply.Proposals) != 1 || len(reply.Proposals[0].Transforms) != 1 || reply.Proposals[0].Protocol != message.ProtocolIKE {
		return IKE{}, false
	}
	t := reply.Proposals[0].Transforms[0]
	chosen, life, ok := ikeTransform(t)
	if _, own := Allowed(c.Proposals, chosen); !ok || !own {
		return IKE{}, false
	}
	for _, o := range offered.Proposals[0].Transforms {
		if mine, _, ok := ikeTransform(o); ok && slices.Equal(mine, chosen) {
			return IKE{reply.Proposals[0], chosen, life}, true
		}
	}
	return IKE{}, false
}
