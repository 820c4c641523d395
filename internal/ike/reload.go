package ike

import (
	v2 "caponier/internal/ike/v2"
)

// Change is what a new configuration asks of a connection that exists already.
type Change struct {
	// Reconnect closes the IKE SAs; what starts by itself comes up anew.
	Reconnect bool
	// RekeyIKE replaces the keys of the IKE SA.
	RekeyIKE bool
	// Drop names the tunnels whose CHILD SAs are deleted, Rekey those whose
	// CHILD SAs are re-keyed.
	Drop, Rekey []string
}

// Apply replaces the configuration: connections that are new, gone, or named in
// changes are dealt with, and all others left alone.
func (d *Daemon) Apply(conns []*v2.Connection, changes map[string]Change) {
	d.mu.Lock()
	var orders []item
	keep := make(map[string]bool)
	d.order = d.order[:0]
	for _, cfg := range conns {
		keep[cfg.Name] = true
		d.order = append(d.order, cfg.Name)
		c := d.conns[cfg.Name]
		if c == nil {
			d.conns[cfg.Name] = newConnection(cfg)
			continue
		}
		change, changed := changes[cfg.Name]
		if !changed {
			continue // its machines go on with the configuration they have
		}
		c.cfg, c.last, c.retries, c.retryAt = cfg, nil, 0, d.now()
		c.held = nil
		for _, s := range c.sas {
			orders = append(orders, s.orders(cfg, change)...)
		}
	}
	for name, c := range d.conns {
		if !keep[name] {
			for _, s := range c.sas {
				orders = append(orders, s.orders(nil, Change{Reconnect: true})...)
			}
			c.settleLocked(func(*waiter) (bool, error) { return true, ErrRemoved })
			delete(d.conns, name)
		}
	}
	inForce := make([]*connection, len(d.order))
	for i, name := range d.order {
		inForce[i] = d.conns[name]
	}
	d.directory = newDirectory(inForce)
	d.mu.Unlock()
	for _, o := range orders {
		o.sa.shard.post(o.sa, o.ev)
	}
}

// orders lists the events by which the machine of s follows a change. One that
// is being set up starts again. The caller holds Daemon.mu.
func (s *sa) orders(cfg *v2.Connection, change Change) []item {
	if s.over {
		return nil
	}
	if change.Reconnect || !s.established() {
		s.closing = true
		return []item{{sa: s, ev: v2.Close{}}}
	}
	out := []item{{sa: s, ev: v2.Reconfigure{Connection: cfg}}}
	for _, name := range change.Drop {
		out = append(out, item{sa: s, ev: v2.DeleteChild{Name: name}})
	}
	for _, name := range change.Rekey {
		out = append(out, item{sa: s, ev: v2.RekeyChild{Name: name}})
	}
	if change.RekeyIKE {
		out = append(out, item{sa: s, ev: v2.RekeyIKE{}})
	}
	return out
}
