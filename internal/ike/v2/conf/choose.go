package conf

import (
	"net/netip"
	"slices"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// Claim is what an initiator says of itself and asks for in IKE_AUTH, and what
// IKE_SA_INIT has agreed on.
type Claim struct {
	Peer, Asked rules.Identity // Asked is zero where the peer asks for nobody
	Method      message.AuthMethod
	Chosen      ipsec.Proposal
	TSi, TSr    []ipsec.Selector // of the CHILD SA that it asks for
	Local       netip.Addr
	Remote      netip.Addr
	NAT         NAT
}

// choose is Candidates.Choose, and looks at all of them.
func choose(candidates []*Connection, x Claim) (*Connection, bool) {
	kind := AuthCert
	if x.Method == message.AuthSharedKey {
		kind = AuthPSK
	}
	var best *Connection
	var bestFit rules.Fit
	var bestTunnel bool
	for _, c := range candidates {
		fit := c.Remote.ID.Fits(x.Peer)
		if fit == rules.FitsNot || c.Remote.Auth != kind || !c.allows(x.Chosen) {
			continue
		}
		local, err := c.LocalIdentity(x.Local)
		if err != nil || x.Asked != (rules.Identity{}) && !x.Asked.Equals(local) {
			continue
		}
		if tunnel := c.meets(x); fit > bestFit || fit == bestFit && tunnel && !bestTunnel {
			best, bestFit, bestTunnel = c, fit, tunnel
		}
	}
	return best, best != nil
}

// meets reports whether c has a tunnel with traffic that the peer asks for.
func (c *Connection) meets(x Claim) bool {
	return slices.ContainsFunc(c.Children, func(ch *Child) bool {
		ours, theirs := ch.Selectors(x.Local, x.Remote)
		tsr, tsi := x.TSr, x.TSi
		if ch.Mode == ipsec.Transport {
			tsr, tsi = x.NAT.Substitute(tsr, tsi, ipsec.Pair{Local: x.Local, Remote: x.Remote})
		}
		return len(rules.Narrow(tsr, ours)) > 0 && len(rules.Narrow(tsi, theirs)) > 0
	})
}

// allows reports whether c allows the algorithms that IKE_SA_INIT agreed on for
// another candidate.
func (c *Connection) allows(chosen ipsec.Proposal) bool {
	return slices.ContainsFunc(c.Proposals, func(p ipsec.Proposal) bool {
		_, ok := rules.Match(chosen, p)
		return ok
	})
}

// Selectors are the traffic selectors of a tunnel between two hosts. Those of
// transport mode are about the hosts alone, and may be none.
func (c *Child) Selectors(local, remote netip.Addr) (ours, theirs []ipsec.Selector) {
	ours, theirs = rules.OrHost(c.Local, local), rules.OrHost(c.Remote, remote)
	if c.Mode == ipsec.Transport {
		return onlyHost(ours, local), onlyHost(theirs, remote)
	}
	return ours, theirs
}

// Propose returns the traffic selectors that we propose for the tunnel; flow is
// the packet that asks for it, or nil.
func (c *Child) Propose(local, remote netip.Addr, flow *ipsec.Flow) (ours, theirs []ipsec.Selector) {
	ours, theirs = c.Selectors(local, remote)
	if flow == nil || !flow.Src.IsValid() || !flow.Dst.IsValid() {
		return ours, theirs
	}
	return rules.WithFlow(ours, flow.Src, flow.Protocol, flow.SrcPort),
		rules.WithFlow(theirs, flow.Dst, flow.Protocol, flow.DstPort)
}

// Pairs returns how many CHILD SAs the tunnels have for a peer that takes one pair
// of selectors in each.
func (c *Connection) Pairs() int {
	n := 0
	for _, ch := range c.Children {
		n += max(1, len(ch.Local)) * max(1, len(ch.Remote))
	}
	return n
}

// Match is what a request for a CHILD SA and a configured tunnel have in common.
type Match struct {
	Child             *Child
	Proposal          message.Proposal
	LocalTS, RemoteTS []ipsec.Selector
	Original          *ipsec.Pair // see ipsec.SA
}

// Met is the first tunnel that comes near a request for which there is none.
type Met struct {
	Child *Child // its selectors fit; nil where none's do
	// Mode says that they fit, and that the peer asks for the other mode.
	Mode bool
}

// Request is what a peer asks of a CHILD SA.
type Request struct {
	Offered   []message.Proposal
	TSi, TSr  []ipsec.Selector
	Hosts     ipsec.Pair // the ends of the IKE SA, or of what is rekeyed
	NAT       NAT
	Transport bool // it asks for transport mode
	Auth      bool // in IKE_AUTH, which has no key exchange for it
	// UsableSPI says whether the peer may give its inbound SA this SPI.
	UsableSPI func(ipsec.Protocol, []byte) bool
}

// Find finds the tunnel that a request is for: one that covers the peer's first
// selectors, which may be those of a packet, before one that only meets some
// (RFC 7296, Section 2.9). A tunnel in tunnel mode also takes a request for
// transport mode, which the peer may take or leave then (Section 1.3.1); one in
// transport mode takes nothing else.
func (r Request) Find(tunnels []*Child) (m Match, met Met) {
	offered := r.Offered
	if r.Auth {
		offered = rules.WithoutOfferedKE(offered)
	}
	for _, c := range tunnels {
		transport := c.Mode == ipsec.Transport
		tsr, tsi := r.TSr, r.TSi
		x := Match{Child: c}
		if transport {
			x.Original = r.NAT.Original(tsr, tsi)
			tsr, tsi = r.NAT.Substitute(tsr, tsi, r.Hosts)
		}
		ours, theirs := c.Selectors(r.Hosts.Local, r.Hosts.Remote)
		x.LocalTS, x.RemoteTS = rules.Narrow(tsr, ours), rules.Narrow(tsi, theirs)
		if len(x.LocalTS) == 0 || len(x.RemoteTS) == 0 {
			continue
		}
		if met.Child == nil || met.Mode && transport == r.Transport {
			met = Met{Child: c, Mode: transport && !r.Transport}
		}
		if transport && !r.Transport {
			continue
		}
		proposals := c.Proposals
		if r.Auth {
			proposals = rules.WithoutKE(proposals)
		}
		var ok bool
		x.Proposal, ok = rules.Choose(proposals, offered, WireProtocol(c.Protocol))
		if !ok || !r.UsableSPI(c.Protocol, x.Proposal.SPI) {
			continue
		}
		best := transport == r.Transport && rules.Covered(tsr[0], x.LocalTS) && rules.Covered(tsi[0], x.RemoteTS)
		if best {
			return x, met
		}
		if m.Child == nil || transport && m.Child.Mode != ipsec.Transport {
			m = x
		}
	}
	return m, met
}

// WireProtocol is the number of p in IKE payloads.
func WireProtocol(p ipsec.Protocol) message.ProtocolID {
	if p == ipsec.AH {
		return message.ProtocolAH
	}
	return message.ProtocolESP
}
