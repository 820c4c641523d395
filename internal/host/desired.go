package host

import (
	"net/netip"
	"slices"

	"caponier/internal/ipsec"
)

// Desired is what the host shall do with packets.
type Desired struct {
	// Protect are the prefixes whose packets go to the TUN device, or nowhere.
	Protect []Route
	// Discard are the pairs of prefixes between which nothing passes: the data
	// plane is to see and count it.
	Discard []Pair
}

// Route sends the packets to a prefix to the TUN device.
type Route struct {
	To netip.Prefix
	// Local are the prefixes on this side. An address of this host in one of
	// them is the source of the host's own packets.
	Local []netip.Prefix
	// Interface is the xfrm interface that leads to the tunnel; nil for the TUN
	// device.
	Interface *Interface
}

// Interface is an xfrm interface of a connection.
type Interface struct {
	ID    uint32 // if_id
	Alias string // what `ip link` shows beside its name
	// Always says that packets shall go there while no SA is up: they ask for
	// one. Otherwise they go to the TUN device, as to a ditch.
	Always bool
}

// Pair is the way between two prefixes.
type Pair struct{ From, To netip.Prefix }

// FromPolicies says what the policies ask of the host. Those that let packets
// bypass ask for nothing: what they match and another policy's prefix covers,
// the data plane sends on.
func FromPolicies(policies []ipsec.Policy) Desired {
	var d Desired
	local := make(map[netip.Prefix][]netip.Prefix)
	leads := make(map[netip.Prefix]*Interface)
	for _, p := range policies {
		from, to := prefixes(p.Local), prefixes(p.Remote)
		switch p.Action {
		case ipsec.Protect:
			for _, r := range to {
				local[r] = append(local[r], sameFamily(r, from)...)
				// An interface of a policy that was keyed by hand is its maker's.
				if p.Kernel.IfID != 0 && p.Connection != "" && leads[r] == nil {
					leads[r] = &Interface{ID: p.Kernel.IfID, Alias: "caponier " + p.Connection, Always: p.Acquire}
				}
			}
		case ipsec.Discard:
			for _, r := range to {
				for _, l := range sameFamily(r, from) {
					d.Discard = append(d.Discard, Pair{l, r})
				}
			}
		case ipsec.Bypass:
		}
	}
	for to, from := range local {
		d.Protect = append(d.Protect, Route{to, sorted(from), leads[to]})
	}
	slices.SortFunc(d.Protect, func(a, b Route) int { return a.To.Compare(b.To) })
	slices.SortFunc(d.Discard, func(a, b Pair) int {
		if c := a.From.Compare(b.From); c != 0 {
			return c
		}
		return a.To.Compare(b.To)
	})
	d.Discard = slices.Compact(d.Discard)
	return d
}

func prefixes(selectors []ipsec.Selector) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range selectors {
		out = append(out, s.Prefixes()...)
	}
	return sorted(out)
}

func sameFamily(p netip.Prefix, list []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, x := range list {
		if x.Addr().Is4() == p.Addr().Is4() {
			out = append(out, x)
		}
	}
	return out
}

func sorted(list []netip.Prefix) []netip.Prefix {
	list = slices.Clone(list)
	slices.SortFunc(list, netip.Prefix.Compare)
	return slices.Compact(list)
}

// throws are the local prefixes that a protected one covers: packets to them are
// routed as without us, so that what comes out of a tunnel reaches its network.
func (d *Desired) throws() []netip.Prefix {
	var out []netip.Prefix
	for _, r := range d.Protect {
		for _, other := range d.Protect {
			for _, l := range other.Local {
				if covers(r.To, l) && l != r.To && !d.protects(l) {
					out = append(out, l)
				}
			}
		}
	}
	return sorted(out)
}

// protects reports whether p is itself the far end of a tunnel.
func (d *Desired) protects(p netip.Prefix) bool {
	return slices.ContainsFunc(d.Protect, func(r Route) bool { return r.To == p })
}

func covers(outer, inner netip.Prefix) bool {
	return outer.Addr().Is4() == inner.Addr().Is4() && outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}
