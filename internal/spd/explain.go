package spd

import (
	"slices"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

// Explain returns every policy that matches the packet, the one that Lookup
// returns first, then those that would decide in its stead; and, where none
// matches, those of which one side does. It looks at every policy: it is for
// operators, not for packets.
func (t *Table) Explain(d ipsec.Direction, p *packet.Info) (matching, near []*Entry) {
	if p.Version == 0 {
		return nil, nil
	}
	q := queryOf(d, p)
	var found []rule
	for _, e := range t.entries {
		half := false
		for _, r := range pairs(e) {
			local := r.local.Contains(q.local, q.protocol, q.localPort, q.hasPorts)
			remote := r.remote.Contains(q.remote, q.protocol, q.remotePort, q.hasPorts)
			match := r.matches(&q)
			if match {
				found = append(found, r)
			}
			half = half || local || remote || match
		}
		if half {
			near = append(near, e)
		}
	}
	if len(found) == 0 {
		return nil, near
	}
	slices.SortStableFunc(found, precedence)
	if q.obscure && !found[0].sees(&q) {
		return nil, near
	}
	for _, r := range found {
		if !slices.Contains(matching, r.entry) {
			matching = append(matching, r.entry)
		}
	}
	return matching, nil
}
