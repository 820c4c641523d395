package ike

import (
	"slices"
	"strings"

	v2 "caponier/internal/ike/v2"
)

// ConnectionStatus is what the daemon knows of one connection.
type ConnectionStatus struct {
	Config  *v2.Connection
	Held    bool     // taken down by the operator, with all its tunnels
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
		out = append(out, ConnectionStatus{Config: c.cfg, Held: len(c.held) > 0 && len(c.held) == len(c.cfg.Children), Failure: c.last})
		members = append(members, slices.Clone(c.sas))
	}
	d.mu.Unlock()

	// Each shard alone may look at its machines.
	type seen struct {
		conn   int
		status v2.Status
	}
	for _, sh := range d.shards {
		var found []seen
		looked := sh.do(func() {
			for i, sas := range members {
				for _, s := range sas {
					if s.shard == sh && !s.gone {
						found = append(found, seen{i, s.machine.Status()})
					}
				}
			}
		})
		if !looked {
			break
		}
		for _, x := range found {
			out[x.conn].SAs = append(out[x.conn].SAs, x.status)
		}
	}
	for i := range out {
		slices.SortFunc(out[i].SAs, func(a, b v2.Status) int { return strings.Compare(a.SPIs, b.SPIs) })
	}
	return out
}

// Ping returns when every shard has taken a turn, or the daemon stops: a daemon
// that hangs never answers.
func (d *Daemon) Ping() {
	for _, sh := range d.shards {
		sh.do(func() {})
	}
}
