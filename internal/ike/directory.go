package ike

import (
	"cmp"
	"net/netip"
	"slices"

	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/conf"
)

// directory finds connections by the addresses of a message, and those of one
// peer, without a look at all the others. It does not change once it is made.
type directory struct {
	// exact are the groups that allow single remote addresses, by those; wide are
	// all others.
	exact map[netip.Addr][]*group
	wide  []*group
	// named are the connections that name their peer, by its identity; alike are
	// those with the same remote addresses.
	named map[v2.Identity][]*connection
	alike map[string]*namesakes
}

// group are the connections that allow the same addresses and speak the same
// protocol, in the order of the configuration.
type group struct {
	local, remote []netip.Prefix
	gm            bool
	members       []*v2.Connection
	places        []int32          // of the members in the configuration
	candidates    *conf.Candidates // the members, once all are known
}

// namesakes are the connections with the same remote addresses.
type namesakes struct{ named, nameless []*connection }

// speaks says which of the connections are looked for.
type speaks uint8

const (
	speaksAny speaks = iota
	speaksV2
	speaksGM // GM/T 0022
)

func (x speaks) fits(g *group) bool { return x == speaksAny || g.gm == (x == speaksGM) }

// newDirectory makes the directory of connections, in the order of the
// configuration.
func newDirectory(conns []*connection) *directory {
	y := &directory{
		exact: make(map[netip.Addr][]*group), named: make(map[v2.Identity][]*connection), alike: make(map[string]*namesakes),
	}
	groups := make(map[string]*group)
	var key []byte
	for place, c := range conns {
		cfg := c.cfg
		key = appendPrefixes(key[:0], cfg.RemoteAddrs)
		peer := y.alike[string(key)]
		if peer == nil {
			peer = new(namesakes)
			y.alike[string(key)] = peer
		}
		if id := cfg.Remote.ID; id != (v2.Identity{}) {
			y.named[id] = append(y.named[id], c)
			peer.named = append(peer.named, c)
		} else {
			peer.nameless = append(peer.nameless, c)
		}
		key = appendPrefixes(append(key, '|'), cfg.LocalAddrs)
		if cfg.GM != nil {
			key = append(key, '|')
		}
		g := groups[string(key)]
		if g == nil {
			g = &group{local: cfg.LocalAddrs, remote: cfg.RemoteAddrs, gm: cfg.GM != nil}
			groups[string(key)] = g
			y.enter(g)
		}
		g.members, g.places = append(g.members, cfg), append(g.places, int32(place))
	}
	for _, g := range groups {
		g.candidates = conf.NewCandidates(g.members)
	}
	return y
}

// appendPrefixes appends a name of the list to b.
func appendPrefixes(b []byte, list []netip.Prefix) []byte {
	for _, p := range list {
		b = append(p.AppendTo(b), ' ')
	}
	return b
}

func (y *directory) enter(g *group) {
	single := func(p netip.Prefix) bool { return p.IsSingleIP() }
	if len(g.remote) == 0 || !allOf(g.remote, single) {
		y.wide = append(y.wide, g)
		return
	}
	for i, p := range g.remote {
		if !slices.Contains(g.remote[:i], p) {
			y.exact[p.Addr()] = append(y.exact[p.Addr()], g)
		}
	}
}

func allOf[T any](list []T, is func(T) bool) bool {
	return !slices.ContainsFunc(list, func(x T) bool { return !is(x) })
}

// find returns the connections that allow these addresses, those with the most
// exact remote address first, and among equals in the order of the configuration.
// Where several groups of them do, they are put in order for each call.
func (y *directory) find(local, remote netip.Addr, want speaks) *conf.Candidates {
	type match struct {
		g    *group
		bits int
	}
	var found []match
	for _, groups := range [][]*group{y.exact[remote], y.wide} {
		for _, g := range groups {
			if !want.fits(g) {
				continue
			}
			bits, ok := allows(g.remote, remote)
			if _, okLocal := allows(g.local, local); ok && okLocal {
				found = append(found, match{g, bits})
			}
		}
	}
	switch len(found) {
	case 0:
		return new(conf.Candidates)
	case 1:
		return found[0].g.candidates
	}
	type member struct {
		cfg   *v2.Connection
		bits  int
		place int32
	}
	var all []member
	for _, m := range found {
		for i, cfg := range m.g.members {
			all = append(all, member{cfg, m.bits, m.g.places[i]})
		}
	}
	slices.SortFunc(all, func(a, b member) int { return cmp.Or(cmp.Compare(b.bits, a.bits), cmp.Compare(a.place, b.place)) })
	out := make([]*v2.Connection, len(all))
	for i, m := range all {
		out[i] = m.cfg
	}
	return conf.NewCandidates(out)
}

// allows reports whether a is in one of the prefixes, and the length of the
// longest such; an empty list allows any.
func allows(prefixes []netip.Prefix, a netip.Addr) (bits int, ok bool) {
	if len(prefixes) == 0 {
		return 0, true
	}
	bits = -1
	for _, p := range prefixes {
		if p.Contains(a) {
			bits = max(bits, p.Bits())
		}
	}
	return bits, bits >= 0
}

// others calls yield for the other connections with the peer of c, until it
// returns false. A peer is known by its identity, or by its addresses where one
// of the two connections does not name it.
func (y *directory) others(c *connection, yield func(*connection) bool) {
	var lists [2][]*connection
	peer := y.alike[string(appendPrefixes(nil, c.cfg.RemoteAddrs))]
	if peer != nil {
		lists[0] = peer.nameless
	}
	if id := c.cfg.Remote.ID; id != (v2.Identity{}) {
		lists[1] = y.named[id]
	} else if peer != nil {
		lists[1] = peer.named
	}
	for _, list := range lists {
		for _, o := range list {
			if o != c && !yield(o) {
				return
			}
		}
	}
}
