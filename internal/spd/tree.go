package spd

import (
	"cmp"
	"net/netip"

	"caponier/internal/ipsec"

	"github.com/gaissmai/bart"
)

// linearMax is how many rules a leaf compares one by one. Longer lists are
// divided once more, by local prefix.
const linearMax = 16

// rule is one pair of selectors of a policy.
type rule struct {
	entry         *Entry
	local, remote ipsec.Selector
	rank          int // position in order of precedence
}

type query struct {
	local, remote         netip.Addr
	localPort, remotePort uint16
	protocol              uint8
	hasPorts              bool
	// obscure says that there are ports which cannot be seen: rules match whatever
	// they want of them. headed says the same of the protocol.
	obscure, headed bool
}

func (r *rule) matches(q *query) bool {
	if q.obscure {
		return r.mayMatch(q)
	}
	return r.local.Contains(q.local, q.protocol, q.localPort, q.hasPorts) &&
		r.remote.Contains(q.remote, q.protocol, q.remotePort, q.hasPorts)
}

// mayMatch reports whether the rule would match the packet if its ports were the
// right ones.
func (r *rule) mayMatch(q *query) bool {
	local, remote := r.local, r.remote
	local.FirstPort, local.LastPort, remote.FirstPort, remote.LastPort = 0, 0xffff, 0, 0xffff
	if q.headed {
		local.Protocol, remote.Protocol = 0, 0
	}
	return local.Contains(q.local, q.protocol, 0, false) && remote.Contains(q.remote, q.protocol, 0, false)
}

// sees reports whether the rule decides without what q does not show.
func (r *rule) sees(q *query) bool {
	return r.local.AnyPort() && r.remote.AnyPort() && (!q.headed || r.protocols() == 0)
}

// pairs returns the rules of a policy, one for each two selectors that a packet
// can match together.
func pairs(e *Entry) []rule {
	var out []rule
	for _, l := range e.Policy.Local {
		for _, r := range e.Policy.Remote {
			apart := l.Protocol != 0 && r.Protocol != 0 && l.Protocol != r.Protocol
			if l.Is4() == r.Is4() && !apart {
				out = append(out, rule{entry: e, local: l, remote: r})
			}
		}
	}
	return out
}

// precedence orders rules, the one that decides first. Specific is what covers
// fewer pairs of addresses; then what names a protocol; then what covers fewer
// pairs of ports.
func precedence(a, b rule) int {
	return cmp.Or(
		cmp.Compare(b.entry.Policy.Priority, a.entry.Policy.Priority),
		cmp.Compare(a.addresses(), b.addresses()),
		cmp.Compare(b.protocols(), a.protocols()),
		cmp.Compare(a.ports(), b.ports()),
		cmp.Compare(a.entry.Index, b.entry.Index),
	)
}

// addresses is the number of pairs of addresses, rounded.
func (r *rule) addresses() float64 { return width(r.local) * width(r.remote) }

func width(s ipsec.Selector) float64 {
	first, last := s.First.As16(), s.Last.As16()
	n := 0.0
	for i := range first {
		n = n*256 + float64(last[i]) - float64(first[i])
	}
	return n + 1
}

func (r *rule) protocols() int {
	if r.local.Protocol != 0 || r.remote.Protocol != 0 {
		return 1
	}
	return 0
}

func (r *rule) ports() int {
	span := func(s ipsec.Selector) int { return int(s.LastPort) - int(s.FirstPort) + 1 }
	return span(r.local) * span(r.remote)
}

// tree finds rules by remote prefix, and in crowded nodes by local prefix too.
// Each node links to the node of the next shorter prefix around it, so that one
// longest-prefix match and a short walk meet every rule whose prefix contains
// the address, without copies of wide rules in narrow nodes.
type tree struct {
	nodes bart.Table[*node]
}

type node struct {
	prefix netip.Prefix
	parent *node
	rules  []*rule // in order of precedence
	locals *tree   // nil where rules is short
}

// add places a rule by its remote selector. Rules come in order of precedence.
func (t *tree) add(r *rule) {
	for _, p := range r.remote.Prefixes() {
		t.insert(p, r)
	}
}

func (t *tree) insert(p netip.Prefix, r *rule) {
	n, ok := t.nodes.Get(p)
	if !ok {
		n = &node{prefix: p}
		t.nodes.Insert(p, n)
	}
	n.rules = append(n.rules, r)
}

// link completes the tree after the last rule was added.
func (t *tree) link() {
	t.linkParents()
	for _, n := range t.nodes.All() {
		if len(n.rules) <= linearMax {
			continue
		}
		n.locals = &tree{}
		for _, r := range n.rules {
			for _, p := range r.local.Prefixes() {
				n.locals.insert(p, r)
			}
		}
		n.locals.linkParents()
	}
}

func (t *tree) linkParents() {
	for p, n := range t.nodes.All() {
		for _, outer := range t.nodes.Supernets(p) {
			if outer != n {
				n.parent = outer
				break
			}
		}
	}
}

// find returns the rule of highest precedence that matches q, or nil.
func (t *tree) find(q *query) *rule {
	var best *rule
	n, _ := t.nodes.Lookup(q.remote)
	for ; n != nil; n = n.parent {
		if n.locals == nil {
			best = n.better(q, best)
			continue
		}
		l, _ := n.locals.nodes.Lookup(q.local)
		for ; l != nil; l = l.parent {
			best = l.better(q, best)
		}
	}
	return best
}

// better returns the first matching rule of n if it comes before best, or else
// best.
func (n *node) better(q *query, best *rule) *rule {
	for _, r := range n.rules {
		if best != nil && r.rank >= best.rank {
			break
		}
		if r.matches(q) {
			return r
		}
	}
	return best
}
