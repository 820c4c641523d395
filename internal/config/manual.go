package config

import (
	"net/netip"

	"caponier/internal/config/problem"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// Manual is the section manual: security associations and policies that an
// operator has keyed by hand, without IKE.
type Manual struct {
	Associations []*Association  // in order of name
	Policies     []*ManualPolicy // in order of name
}

// Association is one direction of a security association (RFC 4301, Section
// 4.4.2.1) with keys of the operator's.
type Association struct {
	Name      string
	Source    problem.Position
	Direction ipsec.Direction
	Protocol  ipsec.Protocol
	Mode      ipsec.Mode
	SPI       ipsec.SPI

	// LocalAddress and RemoteAddress are the outer addresses as this gateway
	// sees them, in both directions.
	LocalAddress, RemoteAddress netip.Addr
	// Encap asks for ESP in UDP (RFC 3948), to and from RemotePort.
	Encap      bool
	RemotePort uint16

	Algorithms  string // as configured: "aes256-sha256"
	Encr, Integ ipsec.Transform
	// CounterMode allows an algorithm whose security ends with the first nonce
	// that is used twice.
	CounterMode bool
	// The files are named by the configuration; an association that is added
	// while the gateway runs has none. The keys are empty after Parse.
	EncrKeyFile, IntegKeyFile string
	EncrKey, IntegKey         secret.Key

	// Local and Remote select the packets inside, from this gateway's view in
	// both directions.
	Local, Remote []ipsec.Selector
	ReqID         uint32 // ties it to the policies that it serves

	ESN          bool
	ReplayWindow uint32 // in packets
	Lifetime     ipsec.Lifetime
	Outer        ipsec.Outer
	Fit          ipsec.Fit
	Kernel       ipsec.KernelSA
}

// natPort is the port of ESP in UDP (RFC 3948, Section 2.1) at this end.
const natPort = 4500

// SA returns what a Backend is to install. The keys are copies: a Backend takes
// over those that it is given.
func (a *Association) SA() ipsec.SA {
	sa := ipsec.SA{
		SPI: a.SPI, Protocol: a.Protocol, Mode: a.Mode, Direction: a.Direction,
		Local: netip.AddrPortFrom(a.LocalAddress, 0), Remote: netip.AddrPortFrom(a.RemoteAddress, 0), Encap: a.Encap,
		Encr: a.Encr, Integ: a.Integ, EncrKey: a.EncrKey.Clone(), IntegKey: a.IntegKey.Clone(),
		ESN: a.ESN, ReplayWindow: a.ReplayWindow, Lifetime: a.Lifetime, Outer: a.Outer, Fit: a.Fit, Kernel: a.Kernel,
		ReqID: a.ReqID, LocalTS: a.Local, RemoteTS: a.Remote, Tunnel: a.Name,
	}
	if a.Encap {
		sa.Local = netip.AddrPortFrom(a.LocalAddress, natPort)
		sa.Remote = netip.AddrPortFrom(a.RemoteAddress, a.RemotePort)
	}
	return sa
}

// ID returns the name of the SA in the SAD.
func (a *Association) ID() ipsec.SAID {
	id := ipsec.SAID{Direction: a.Direction, Protocol: a.Protocol, SPI: a.SPI}
	if a.Direction == ipsec.Out {
		id.Peer = a.RemoteAddress
	}
	return id
}

// Equal reports whether both describe the same SA, with the same keys.
func (a *Association) Equal(b *Association) bool {
	return len(changes("", associationKeys, a, b)) == 0
}

// ManualPolicy is a policy that an operator made by hand (RFC 4301, Section
// 4.4.1). It is for both directions: packets from Local to Remote leave by it,
// and packets from Remote to Local must arrive by it.
type ManualPolicy struct {
	Name          string
	Source        problem.Position
	Action        ipsec.Action
	Priority      int32
	Local, Remote []ipsec.Selector

	// The fields below are for Protect.

	ReqID    uint32
	Protocol ipsec.Protocol
	WithAH   bool // a bundle: ESP, and AH around it
	Mode     ipsec.Mode
	Kernel   ipsec.KernelPolicy
}

// Policy returns the entry of the SPD.
func (p *ManualPolicy) Policy() ipsec.Policy {
	out := ipsec.Policy{
		Name: p.Name, Action: p.Action, Priority: p.Priority, Local: p.Local, Remote: p.Remote, Kernel: p.Kernel,
	}
	if p.Action == ipsec.Protect {
		out.ReqID, out.Protocol, out.WithAH, out.Mode = p.ReqID, p.Protocol, p.WithAH, p.Mode
	}
	return out
}

// Association returns the manual association of this name, or nil.
func (c *Config) Association(name string) *Association {
	for _, a := range c.Manual.Associations {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// The configuration's words of manual keying.
var (
	directionWords      = wordList{[]string{"in", "out"}, nil}
	saModeWords         = wordList{[]string{"tunnel", "transport"}, nil}
	saProtocolWords     = wordList{[]string{"esp", "ah"}, nil}
	policyProtocolWords = wordList{[]string{"esp", "ah", "ah+esp"}, nil}
	saEncapWords        = wordList{[]string{"none", "udp"}, nil}
	yesWords            = wordList{[]string{"no", "yes"}, nil}
	saActionWords       = wordList{[]string{"discard", "bypass", "protect"}, nil}
	dfWords             = wordList{[]string{"copy", "set", "clear"}, nil}
	dscpWords           = wordList{[]string{"out", "in", "both", "none"}, nil}
)
