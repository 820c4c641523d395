package ike

import (
	"slices"
	"strings"

	"caponier/internal/ike/v2"
)

// ConnectionStatus is what the daemon knows of one connection.
type ConnectionStatus struct {
	Config  *v2.Connection
	Held    bool     // taken down by the operator
	Failure *Failure // the last one, or nil where it was followed by success
	SAs     []v2.Status
}

// Status describes the connections in the order of the configuration, all of
// them or, where name is not empty, that one.
func (d *Daemon) Status(name string) []ConnectionStatus {
	d.mu.Lock()
	var out []ConnectionStatus
	members := make([][]*sa, 0, len(d.order))
	for _, n := range d.order {
		if name != "" && n != name {
			continue
		}
		c := d.conns[n]
		out = append(out, ConnectionStatus{Config: c.cfg, Held: c.held, Failure: c.last})
		var sas []*sa
		for s := range c.sas {
			sas = append(sas, s)
		}
		members = append(members, sas)
	}
	d.mu.Unlock()

	// Each shard alone may look at its machines.
	byShard := make(map[*shard][]func())
	for i, sas := range members {
		out[i].SAs = make([]v2.Status, len(sas))
		for j, s := range sas {
			byShard[s.shard] = append(byShard[s.shard], func() { out[i].SAs[j] = s.machine.Status() })
		}
	}
	for sh, looks := range byShard {
		sh.do(func() {
			for _, look := range looks {
				look()
			}
		})
	}
	for i := range out {
		slices.SortFunc(out[i].SAs, func(a, b v2.Status) int { return strings.Compare(a.SPIs, b.SPIs) })
	}
	return out
}
