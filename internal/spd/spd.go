// Package spd is the security policy database (RFC 4301, Section 4.4.1), as an
// immutable table: one writer compiles the next, readers look up in the
// current one without locks or allocation.
package spd

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

// MaxPairs bounds the pairs of a local and a remote selector of one policy.
const MaxPairs = 4096

// Errors of Compile, wrapped with the name of the policy.
var (
	ErrDuplicate = errors.New("name is used twice")
	ErrNoName    = errors.New("name is missing")
	ErrSelector  = errors.New("selector is not valid")
	ErrFamily    = errors.New("no local and remote selector of the same address family")
	ErrPairs     = errors.New("too many pairs of selectors")
	ErrReqID     = errors.New("protect needs a reqid")
	ErrBundle    = errors.New("a bundle is ESP with AH around it, for all policies of its reqid")
)

// Entry is one policy in a Table.
type Entry struct {
	Policy ipsec.Policy
	// Index is the position in Table.Entries, for state that the data plane
	// keeps beside the table.
	Index int
}

// Table is a compiled list of policies. It never changes. The zero Table is
// empty: nothing matches, everything is discarded.
type Table struct {
	entries []*Entry
	v4, v6  tree
	bundles map[uint32]bool // the ReqIDs of policies with AH around ESP
	whole   bool            // see Whole
}

// Compile checks the policies and builds the table. It copies what it keeps.
func Compile(policies []ipsec.Policy) (*Table, error) {
	t := &Table{entries: make([]*Entry, 0, len(policies)), bundles: make(map[uint32]bool)}
	seen := make(map[string]bool, len(policies))
	withAH := make(map[uint32]bool) // by the ReqID of each policy that protects
	var rules []rule
	for i := range policies {
		p := &policies[i]
		if seen[p.Name] {
			return nil, fmt.Errorf("policy %q: %w", p.Name, ErrDuplicate)
		}
		seen[p.Name] = true
		if err := check(p); err != nil {
			return nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
		if p.Action == ipsec.Protect {
			if with, ok := withAH[p.ReqID]; ok && with != p.WithAH {
				return nil, fmt.Errorf("policy %q: %w", p.Name, ErrBundle)
			}
			if withAH[p.ReqID] = p.WithAH; p.WithAH {
				t.bundles[p.ReqID] = true
			}
		}
		e := &Entry{Policy: *p, Index: i}
		e.Policy.Local = slices.Clone(p.Local)
		e.Policy.Remote = slices.Clone(p.Remote)
		t.entries = append(t.entries, e)
		t.whole = t.whole || needsWhole(p)
		rules = append(rules, pairs(e)...)
	}
	slices.SortStableFunc(rules, precedence)
	for i := range rules {
		rules[i].rank = i
		t.family(rules[i].remote.Is4()).add(&rules[i])
	}
	t.v4.link()
	t.v6.link()
	return t, nil
}

func check(p *ipsec.Policy) error {
	if p.Name == "" {
		return ErrNoName
	}
	if p.Action == ipsec.Protect && p.ReqID == 0 {
		return ErrReqID
	}
	if p.WithAH && p.Protocol == ipsec.AH {
		return ErrBundle
	}
	if len(p.Local)*len(p.Remote) > MaxPairs {
		return ErrPairs
	}
	matched := false
	for _, l := range p.Local {
		for _, r := range p.Remote {
			matched = matched || l.Is4() == r.Is4()
		}
	}
	for _, s := range slices.Concat(p.Local, p.Remote) {
		if !s.IsValid() || s.FirstPort > s.LastPort {
			return fmt.Errorf("%w: %s", ErrSelector, s)
		}
	}
	if !matched {
		return ErrFamily
	}
	return nil
}

// Whole reports whether fragments are to be put together before they are looked
// up: later ones have no ports for policies to go by (RFC 4301, Section 7), and
// transport mode takes whole packets only (RFC 4303, Section 3.3.4).
func (t *Table) Whole() bool { return t.whole }

func needsWhole(p *ipsec.Policy) bool {
	narrow := func(s ipsec.Selector) bool { return !s.AnyPort() }
	return p.Action == ipsec.Protect && p.Mode == ipsec.Transport ||
		slices.ContainsFunc(p.Local, narrow) || slices.ContainsFunc(p.Remote, narrow)
}

// Entries returns the policies in the order in which they were compiled. The
// slice is the table's.
func (t *Table) Entries() []*Entry { return t.entries }

// Policies returns a copy of the policies in the order in which they were
// compiled.
func (t *Table) Policies() []ipsec.Policy {
	out := make([]ipsec.Policy, 0, len(t.entries))
	for _, e := range t.entries {
		p := e.Policy
		p.Local, p.Remote = slices.Clone(p.Local), slices.Clone(p.Remote)
		out = append(out, p)
	}
	return out
}

// Bundled reports whether the policies of reqID ask for AH around ESP: packets of
// its SAs then come through both (RFC 4301, Section 5.2).
func (t *Table) Bundled(reqID uint32) bool { return len(t.bundles) > 0 && t.bundles[reqID] }

// Lookup returns the policy for a packet in clear: one that leaves the protected
// side if d is Out, where its source is local, or one that is to be delivered
// there if d is In. The highest priority decides; among equals the more
// specific selectors, then the earlier policy. It returns nil where no policy
// matches, and for malformed packets: the caller must discard those (RFC 4301,
// Section 5.1).
//
// Nor does a policy match a packet whose ports cannot be seen, such as a later
// fragment, where ports decide whether it is for this policy or for one of lower
// precedence (RFC 4301, Section 7): it might leave in clear what is to be
// protected.
func (t *Table) Lookup(d ipsec.Direction, p *packet.Info) *Entry {
	if p.Version == 0 {
		return nil
	}
	q := queryOf(d, p)
	r := t.family(q.remote.Is4()).find(&q)
	if r == nil || q.obscure && !r.sees(&q) {
		return nil
	}
	return r.entry
}

func queryOf(d ipsec.Direction, p *packet.Info) query {
	q := query{protocol: p.Protocol, hasPorts: p.HasPorts, obscure: !p.HasPorts && p.Obscure(), headed: !p.HasPorts && p.Headed()}
	if d == ipsec.Out {
		q.local, q.localPort, q.remote, q.remotePort = p.Src, p.SrcPort, p.Dst, p.DstPort
	} else {
		q.local, q.localPort, q.remote, q.remotePort = p.Dst, p.DstPort, p.Src, p.SrcPort
	}
	return q
}

// Capture returns the remote prefixes of the policies that protect or discard,
// sorted and each once: packets to these must be routed to the data plane, so
// that none leaves past it. Prefixes inside others are kept, because routes
// more specific than the outer prefix may exist beside ours.
func (t *Table) Capture() []netip.Prefix {
	var out []netip.Prefix
	for _, e := range t.entries {
		if e.Policy.Action == ipsec.Bypass {
			continue
		}
		for _, s := range e.Policy.Remote {
			out = append(out, s.Prefixes()...)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out)
}

func (t *Table) family(is4 bool) *tree {
	if is4 {
		return &t.v4
	}
	return &t.v6
}
