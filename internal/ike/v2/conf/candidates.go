package conf

import (
	"cmp"
	"hash/maphash"
	"slices"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// Candidates are the connections that allow the addresses of a stranger, in order
// of preference. What a stranger makes the gateway ask of them does not depend on
// how many there are. They do not change once they are made.
type Candidates struct {
	all       []*Connection
	proposing []*Connection // the first with each list of proposals
	requests  []message.Payload
	sm2       bool

	// named are those that name their peer, in order of the hash of its identity;
	// others are those with a pattern, or for anyone.
	named  []namesake
	others []*Connection
}

// namesake is a connection by the hash of its peer's identity.
type namesake struct {
	hash  uint32
	place int32 // in Candidates.all
}

// seed keeps who names connections from choosing the hashes.
var seed = maphash.MakeSeed()

func hashOf(id rules.Identity) uint32 { return uint32(maphash.String(seed, id.Canonical())) }

// NewCandidates takes over the list.
func NewCandidates(list []*Connection) *Candidates {
	x := &Candidates{all: list, requests: CertReqs(list...)}
	type backing struct {
		first *ipsec.Proposal
		n     int
	}
	known := make(map[backing]bool)
	for i, c := range list {
		if n := len(c.Proposals); n > 0 {
			if b := (backing{&c.Proposals[0], n}); !known[b] {
				known[b] = true
				x.proposing = append(x.proposing, c)
			}
		}
		x.sm2 = x.sm2 || c.Remote.SM2
		if id := c.Remote.ID; id == (rules.Identity{}) || id.IsPattern() {
			x.others = append(x.others, c)
		} else {
			x.named = append(x.named, namesake{hashOf(id), int32(i)})
		}
	}
	slices.SortFunc(x.named, func(a, b namesake) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.place, b.place))
	})
	x.named = slices.Clip(x.named)
	return x
}

// All returns the connections, which are to be read only.
func (x *Candidates) All() []*Connection { return x.all }

// Proposing returns a connection with each list of proposals that there is, the
// first that has it, in order of preference.
func (x *Candidates) Proposing() []*Connection { return x.proposing }

// CertReqs asks for certificates of the CAs that any of them trusts.
func (x *Candidates) CertReqs() []message.Payload { return x.requests }

// SM2 reports whether the peer of one may sign with SM2 and SM3.
func (x *Candidates) SM2() bool { return x.sm2 }

// Choose finds the connection for a claim: one that names the peer before one
// with a pattern that it fits, and that before one that takes any; among equals,
// one with a tunnel for the traffic that the peer asks for, and then the first.
// What the peer claims is proved afterwards.
func (x *Candidates) Choose(claim Claim) (*Connection, bool) {
	hash := hashOf(claim.Peer)
	first, _ := slices.BinarySearchFunc(x.named, hash, func(n namesake, hash uint32) int { return cmp.Compare(n.hash, hash) })
	var namesakes []*Connection
	for _, n := range x.named[first:] {
		if n.hash != hash {
			break
		}
		namesakes = append(namesakes, x.all[n.place])
	}
	if c, ok := choose(namesakes, claim); ok {
		return c, true
	}
	return choose(x.others, claim)
}
