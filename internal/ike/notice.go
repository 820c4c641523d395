package ike

import (
	"context"
	"fmt"
	"log/slog"

	"caponier/internal/ike/v2"
	"caponier/internal/ipsec"
)

// noticed takes in what a machine reports: the books of the connection, the
// orders that wait for it, and one line in the log for what matters.
func (d *Daemon) noticed(s *sa, n v2.Notice) {
	if n.Kind == v2.PeerDropped {
		d.counters.dropped.Add(1)
		return
	}
	d.mu.Lock()
	if c := s.machine.Connection(); c != nil && s.conn == "" {
		s.conn = c.Name
	}
	stranger := !s.established
	c := d.conns[s.conn]
	if c != nil {
		c.sas[s] = struct{}{}
		d.bookLocked(c, s, n)
	}
	switch n.Kind {
	case v2.IKEUp:
		s.established = true
		d.releaseInitLocked(s)
	case v2.IKEDown, v2.IKEFailed:
		s.closing = true
		clear(s.children)
	case v2.ChildUp:
		s.children[n.Child]++
	case v2.ChildDown:
		if s.children[n.Child]--; s.children[n.Child] <= 0 {
			delete(s.children, n.Child)
		}
	default:
	}
	if c != nil {
		c.settleLocked(func(w *waiter) (bool, error) { return w.judge(n) })
	}
	name := s.conn
	d.mu.Unlock()
	d.logNotice(name, s, n, stranger)
}

// bookLocked keeps the last failure of a connection, for the status.
func (d *Daemon) bookLocked(c *connection, s *sa, n v2.Notice) {
	switch n.Kind {
	case v2.IKEUp, v2.ChildUp:
		c.last = nil
		c.retries = 0
	case v2.IKEFailed, v2.ChildFailed:
		c.last = &Failure{Code: n.Code, Err: n.Err, When: d.now()}
	case v2.IKEDown:
		if n.Err != nil {
			c.last = &Failure{Code: n.Code, Err: n.Err, When: d.now()}
		}
	default:
	}
}

func (d *Daemon) logNotice(name string, s *sa, n v2.Notice, stranger bool) {
	level, text := slog.LevelInfo, ""
	switch n.Kind {
	case v2.IKEUp:
		text = "connection established"
	case v2.IKERekeyed:
		text = "IKE SA rekeyed"
	case v2.IKEDown:
		text = "connection closed"
		if n.Err != nil {
			level = slog.LevelWarn
		}
	case v2.IKEFailed:
		level, text = slog.LevelWarn, "connection failed"
	case v2.ChildUp:
		text = "tunnel up"
	case v2.ChildRekeyed:
		text = "tunnel rekeyed"
	case v2.ChildDown:
		text = "tunnel down"
	case v2.ChildFailed:
		level, text = slog.LevelWarn, "tunnel failed"
	default:
		return
	}
	attrs := []any{"spi", fmt.Sprintf("%016x", uint64(s.spi))}
	if name != "" {
		attrs = append(attrs, "connection", name)
	}
	if n.Child != "" {
		attrs = append(attrs, "tunnel", n.Child)
	}
	if _, remote := s.machine.Addrs(); remote.IsValid() {
		attrs = append(attrs, "remote", remote)
	}
	if n.Code != "" {
		attrs = append(attrs, "code", n.Code)
	}
	if n.Err != nil {
		attrs = append(attrs, "error", n.Err)
	}
	log := d.log
	if stranger && level == slog.LevelWarn {
		var ok bool
		if log, ok = d.strangers.Limit(log); !ok {
			return
		}
	}
	log.Log(context.Background(), level, text, attrs...)
}

// claim notes that s answers for an SA of the data plane.
func (d *Daemon) claim(s *sa, id ipsec.SAID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bySA[id] = s
	s.saids[id] = struct{}{}
}

func (d *Daemon) disclaim(s *sa, id ipsec.SAID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bySA[id] == s {
		delete(d.bySA, id)
	}
	delete(s.saids, id)
}

// succeed takes in the IKE SA that replaces an old one, with the CHILD SAs that
// moved to it. A redundant one is there only to be closed: nothing moves, and
// nothing is asked of it.
func (d *Daemon) succeed(old *sa, a v2.Succeed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	conn := old.conn
	if a.Redundant {
		conn = ""
	}
	// The same owner: it may schedule the successor without asking.
	s := d.adoptLocked(a.Machine, old.shard, conn)
	if !a.Redundant {
		s.established = true
		s.children, old.children = old.children, make(map[string]int)
		s.saids, old.saids = old.saids, make(map[ipsec.SAID]struct{})
		for id := range s.saids {
			d.bySA[id] = s
		}
		old.closing = true
	}
	s.shard.schedule(s, a.Machine.Deadline())
}

// forget takes s out of all tables and returns the SAs it left installed.
func (d *Daemon) forget(s *sa) []ipsec.SAID {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.bySPI[s.spi] == s {
		delete(d.bySPI, s.spi)
	}
	d.releaseInitLocked(s)
	if c := d.conns[s.conn]; c != nil {
		delete(c.sas, s)
	}
	var left []ipsec.SAID
	for id := range s.saids {
		if d.bySA[id] == s {
			delete(d.bySA, id)
			left = append(left, id)
		}
	}
	return left
}

// watchBackend passes the data plane's events on to the machines.
func (d *Daemon) watchBackend() {
	for {
		select {
		case ev, ok := <-d.backend.Events():
			if !ok {
				return
			}
			d.planeEvent(ev)
		case <-d.stop:
			return
		}
	}
}

func (d *Daemon) planeEvent(ev ipsec.Event) {
	switch ev := ev.(type) {
	case ipsec.Acquire:
		d.mu.Lock()
		c, child, err := d.lookupLocked(ev.Connection, ev.Tunnel)
		held := c != nil && c.held
		d.mu.Unlock()
		if err != nil || child == nil || held {
			return
		}
		if err := d.bringUp(ev.Connection, child, &ev.Flow); err != nil {
			d.log.Warn("cannot connect", "connection", ev.Connection, "tunnel", ev.Tunnel, "error", err)
		}
	case ipsec.Expire:
		d.tellOwner(ev.ID, v2.Expired{ID: ev.ID, Hard: ev.Hard})
	case ipsec.AddressChanged:
		d.tellOwner(ev.ID, v2.PeerMoved{ID: ev.ID, Remote: ev.Remote})
	case ipsec.FirstUse:
		d.tellOwner(ev.ID, v2.Used{ID: ev.ID})
	}
}

func (d *Daemon) tellOwner(id ipsec.SAID, ev v2.Event) {
	d.mu.Lock()
	s := d.bySA[id]
	d.mu.Unlock()
	if s != nil {
		s.shard.post(s, ev)
	}
}
