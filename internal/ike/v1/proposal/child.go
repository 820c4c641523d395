package proposal

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
)

// Terms are what an IKE SA says of the IPsec SAs under it.
type Terms struct {
	Encap bool // ESP travels in UDP
	GM    *conf.GM
	// UsableSPI says whether the peer may give its inbound SA this SPI.
	UsableSPI func(ipsec.Protocol, []byte) bool
}

// OfferChild is the SA payload of quick mode for a tunnel: one transform for each
// combination.
func (x Terms) OfferChild(tunnel *conf.Child, spi ipsec.SPI) (*isakmp.SA, error) {
	p := isakmp.Proposal{Number: 1, Protocol: message.ProtocolESP, SPI: binary.BigEndian.AppendUint32(nil, uint32(spi))}
	if tunnel.Protocol == ipsec.AH {
		p.Protocol = message.ProtocolAH
	}
	add := func(id uint8, authenticated bool, keyLength bool) {
		t := isakmp.Transform{Number: uint8(len(p.Transforms) + 1), ID: id}
		if d := tunnel.Lifetime.Time; d > 0 {
			t.Attributes = append(t.Attributes, isakmp.Short(isakmp.AttrLifeType, isakmp.LifeSeconds), isakmp.Number(isakmp.AttrLife, seconds(d)))
		}
		if kb := tunnel.Lifetime.Bytes / 1024; kb > 0 {
			t.Attributes = append(t.Attributes, isakmp.Short(isakmp.AttrLifeType, isakmp.LifeKilobytes),
				isakmp.Number(isakmp.AttrLife, uint32(min(kb, 1<<32-1))))
		}
		t.Attributes = append(t.Attributes, isakmp.Short(isakmp.AttrEncapsulation, x.encapsulation(tunnel.Mode)))
		if authenticated {
			t.Attributes = append(t.Attributes, isakmp.Short(isakmp.AttrAuthAlg, isakmp.AuthAlgHMACSM3))
		}
		if keyLength && x.GM.KeyLength {
			t.Attributes = append(t.Attributes, isakmp.Short(isakmp.AttrKeyLength, SM4Bits))
		}
		if !slices.ContainsFunc(p.Transforms, func(o isakmp.Transform) bool {
			return o.ID == t.ID && slices.EqualFunc(o.Attributes, t.Attributes, isakmp.Attribute.Equal)
		}) {
			p.Transforms = append(p.Transforms, t)
		}
	}
	for _, own := range tunnel.Proposals {
		sm3 := slices.ContainsFunc(own, func(t ipsec.Transform) bool { return t.Type == ipsec.TypeInteg && slices.Contains(sm3ICVs, t.ID) })
		if tunnel.Protocol == ipsec.AH {
			if sm3 {
				add(isakmp.AHSM3, true, false)
			}
			continue
		}
		for _, encr := range own.Of(ipsec.TypeEncr) {
			id, ok := idOf(espCiphers, encr)
			if !ok || encr.ID == ipsec.EncrSM4CBC && !sm3 {
				continue
			}
			if encr.ID == ipsec.EncrSM4CBC && x.GM.ESPSM4 != 0 {
				id = uint16(x.GM.ESPSM4)
			}
			add(uint8(id), encr.ID == ipsec.EncrSM4CBC, true)
		}
	}
	if len(p.Transforms) == 0 || len(p.Transforms) > isakmp.MaxTransforms {
		return nil, fmt.Errorf("%d proposals of the tunnel can be made in this version of IKE", len(p.Transforms))
	}
	return &isakmp.SA{Proposals: []isakmp.Proposal{p}}, nil
}

// encapsulation is the value of the attribute for a mode.
func (x Terms) encapsulation(mode ipsec.Mode) uint16 {
	switch {
	case mode == ipsec.Transport && x.Encap:
		return isakmp.EncapUDPTransport
	case mode == ipsec.Transport:
		return isakmp.EncapTransport
	case x.Encap:
		return isakmp.EncapUDPTunnel
	default:
		return isakmp.EncapTunnel
	}
}

// Child is what quick mode agreed on.
type Child struct {
	Reply    isakmp.Proposal // as offered, with the one transform
	Proposal ipsec.Proposal
	Life     ipsec.Limit // what the transform says, 0 where nothing
}

// childTransform reads a transform of phase 2 as what one of the tunnel's
// proposals allows.
func (x Terms) childTransform(tunnel *conf.Child, t isakmp.Transform) (p ipsec.Proposal, life ipsec.Limit, ok bool) {
	ah := tunnel.Protocol == ipsec.AH
	encr, known := transformOf(espCiphers, uint16(t.ID))
	if known == ah || ah && t.ID != isakmp.AHSM3 {
		return nil, life, false
	}
	want := x.encapsulation(tunnel.Mode)
	encap, auth, lifeType := want, uint64(0), uint64(0)
	for _, a := range t.Attributes {
		n, fits := a.Number()
		if !fits {
			return nil, life, false
		}
		switch a.Type {
		case isakmp.AttrEncapsulation:
			encap = uint16(min(n, 0xffff))
		case isakmp.AttrAuthAlg:
			auth = n
		case isakmp.AttrKeyLength:
			if n != SM4Bits {
				return nil, life, false
			}
		case isakmp.AttrLifeType:
			lifeType = n
		case isakmp.AttrLife:
			switch lifeType {
			case uint64(isakmp.LifeSeconds):
				life.Time = time.Duration(min(n, 1<<32)) * time.Second
			case uint64(isakmp.LifeKilobytes):
				life.Bytes = min(n, 1<<50) * 1024
			}
		case isakmp.AttrGroupPFS, isakmp.AttrESN:
			return nil, life, false // a key exchange, or longer sequence numbers, would change the SA
		default:
		}
	}
	switch encap {
	case isakmp.EncapUDPTunnelDraft:
		encap = isakmp.EncapUDPTunnel
	case isakmp.EncapUDPTransportDraft:
		encap = isakmp.EncapUDPTransport
	}
	needsAuth := ah || encr.ID == ipsec.EncrSM4CBC
	if encap != want || needsAuth != (auth == uint64(isakmp.AuthAlgHMACSM3)) || !needsAuth && auth != 0 {
		return nil, life, false
	}
	for _, own := range tunnel.Proposals {
		if !ah && !slices.Contains(own, encr) {
			continue
		}
		if !needsAuth {
			return ipsec.Proposal{encr}, life, true
		}
		for _, integ := range own.Of(ipsec.TypeInteg) {
			if !slices.Contains(sm3ICVs, integ.ID) {
				continue
			}
			if ah {
				return ipsec.Proposal{integ}, life, true
			}
			return ipsec.Proposal{encr, integ}, life, true
		}
	}
	return nil, life, false
}

// ChooseChild chooses among what the peer offers for a tunnel. Proposals that
// belong together, as AH with ESP, are not taken apart.
func (x Terms) ChooseChild(tunnel *conf.Child, sa *isakmp.SA) (Child, bool) {
	protocol := WireProtocol(tunnel.Protocol)
	for _, p := range sa.Proposals {
		bundled := 0
		for _, o := range sa.Proposals {
			if o.Number == p.Number {
				bundled++
			}
		}
		if p.Protocol != protocol || bundled > 1 || !x.UsableSPI(tunnel.Protocol, p.SPI) {
			continue
		}
		for _, t := range p.Transforms {
			if chosen, life, ok := x.childTransform(tunnel, t); ok {
				p.Transforms = []isakmp.Transform{t}
				return Child{p, chosen, life}, true
			}
		}
	}
	return Child{}, false
}

// AcceptChild checks the responder's choice.
func (x Terms) AcceptChild(tunnel *conf.Child, offered, reply *isakmp.SA) (Child, bool) {
	if len(reply.Proposals) != 1 || len(reply.Proposals[0].Transforms) != 1 {
		return Child{}, false
	}
	p := reply.Proposals[0]
	chosen, life, ok := x.childTransform(tunnel, p.Transforms[0])
	if !ok || p.Protocol != WireProtocol(tunnel.Protocol) || !x.UsableSPI(tunnel.Protocol, p.SPI) {
		return Child{}, false
	}
	for _, o := range offered.Proposals[0].Transforms {
		if mine, _, ok := x.childTransform(tunnel, o); ok && slices.Equal(mine, chosen) {
			return Child{p, chosen, life}, true
		}
	}
	return Child{}, false
}

// WireProtocol is the number of p in payloads.
func WireProtocol(p ipsec.Protocol) message.ProtocolID {
	if p == ipsec.AH {
		return message.ProtocolAH
	}
	return message.ProtocolESP
}
