package ike

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"caponier/internal/ike/step"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

// noticed takes in what a machine reports: the books of the connection, the
// orders that wait for it, and one line in the log for what matters.
func (d *Daemon) noticed(s *sa, n v2.Notice) {
	if n.Kind == v2.PeerDropped {
		d.counters.dropped.Add(1)
		if n.Code == fault.CodeLimit {
			d.counters.limits.Add(1)
			d.failed(s, n)
		}
		d.traceDrop(s, n)
		return
	}
	d.failed(s, n)
	stranger, x := d.book(s, n)
	d.logNotice(s, n, stranger)
	if len(x.closed)+len(x.lost) > 0 {
		// Not from here: a shard that waits for another's inbox could wait for ever.
		d.wg.Go(x.end)
	}
}

// doomed are the IKE SAs that a notice about another ends.
type doomed struct {
	closed []*sa // in good order, by a Delete
	// lost are those that the peer has lost: they end at once. A Delete could only
	// be repeated until this end has given up, perhaps behind a check of liveness
	// under way, and the data plane would use their SAs meanwhile.
	lost []*sa
}

func (x doomed) end() {
	closeAll(x.closed)
	for _, s := range x.lost {
		s.shard.post(s, v2.Destroy{})
	}
}

// book enters a notice in the tables. It reports whether it is about a peer that
// called us and has not authenticated, and returns the IKE SAs that are to end.
func (d *Daemon) book(s *sa, n v2.Notice) (stranger bool, x doomed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if conf := s.machine.Connection(); conf != nil && s.conn == "" {
		s.conn = conf.Name
	}
	stranger = !s.established() && s.first == nil
	c := d.conns[s.conn]
	switch n.Kind {
	case v2.IKEUp:
		s.up, s.closing, s.over = d.now(), false, false // in IKEv1 it may be up once more
		s.identities[0], s.identities[1] = s.machine.Identities()
		d.byEnds[s.identities] = append(d.byEnds[s.identities], s)
		d.releaseInitLocked(s)
		switch {
		case n.InitialContact && (c == nil || c.cfg.Unique != v2.UniqueNever):
			x.lost = d.forgottenLocked(s)
		default:
			for _, elder := range d.eldersLocked(s) {
				s.shard.tell(elder, step.Yield{To: s.machine, Unproven: true})
			}
		}
		if c != nil {
			c.sas.add(s)
		}
		if c == nil || c.cfg != s.machine.Connection() {
			x.closed = append(x.closed, s) // the configuration changed during the set-up
		}
	case v2.IKEDown, v2.IKEFailed:
		s.closing = true
		s.children = nil
	case v2.IKERekeyed:
		if s.v1() { // a newer IKE SA has everything; this one only waits to be deleted
			s.closing, s.over = true, true
		}
	case v2.ChildUp:
		s.children.change(n.Child, 1)
		if !s.v1() {
			x.closed = d.replacedLocked(s)
		}
	case v2.ChildDown:
		s.children.change(n.Child, -1)
	default:
	}
	for _, end := range slices.Concat(x.closed, x.lost) {
		end.closing = true
	}
	if c == nil {
		return stranger, x
	}
	if c.sas.has(s) {
		s.notices = append(s.notices, n)
		d.bookFailure(c, n)
	} else if stranger && c.carrier() == nil { // of one that is up it says nothing
		d.bookFailure(c, n)
	}
	return stranger, x
}

// forgottenLocked returns the IKE SAs that the peer of s has lost, as its
// INITIAL_CONTACT says (RFC 7296, Section 2.4): those between the same two
// identities that were up before s began. When both ends initiate at once,
// neither IKE SA is older than the other in this sense, and both stay: to close
// one of them could close both. Where no request is under way, a Delete goes out
// with each, so that a peer that has not lost them after all hears of it.
func (d *Daemon) forgottenLocked(s *sa) []*sa {
	var out []*sa
	for _, x := range d.byEnds[s.identities] {
		if x.isOlder(s) {
			out = append(out, x)
		}
	}
	return out
}

// replacedLocked returns the IKE SAs that s takes the place of, without the word
// of the peer: those of the same connection and identities, of which s has all
// tunnels. A peer that spreads its tunnels over several IKE SAs keeps them.
func (d *Daemon) replacedLocked(s *sa) []*sa {
	c := d.conns[s.conn]
	if c == nil || c.cfg.Unique != v2.UniqueReplace {
		return nil
	}
	var out []*sa
	for _, x := range c.sas {
		if x.isOlder(s) && x.within(s) {
			out = append(out, x)
		}
	}
	return out
}

// isOlder reports whether s was up before newer began, between the same
// identities.
func (s *sa) isOlder(newer *sa) bool {
	return s != newer && !s.closing && s.established() && s.up.Before(newer.born) && s.identities == newer.identities
}

// within reports whether newer has all tunnels of s.
func (s *sa) within(newer *sa) bool {
	for _, x := range s.children {
		if newer.children.up(x.name) == 0 {
			return false
		}
	}
	return true
}

// errNotUnique is why a peer may not have another IKE SA.
var errNotUnique = errors.New("the peer is connected already, and the connection keeps the older IKE SA (unique: keep)")

// admitPeer is v2.Env.Admit: the policy of uniqueness where it refuses.
func (d *Daemon) admitPeer(conf *v2.Connection, local, remote v2.Identity, initial bool) error {
	if conf.Unique != v2.UniqueKeep || initial {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.conns[conf.Name]
	if c == nil {
		return nil
	}
	for _, x := range c.sas {
		if !x.closing && x.established() && x.identities == [2]v2.Identity{local, remote} {
			return errNotUnique
		}
	}
	return nil
}

// closeAll ends IKE SAs by a Delete.
func closeAll(sas []*sa) {
	for _, s := range sas {
		s.shard.post(s, v2.Close{})
	}
}

// settle ends the orders that waited for what s has just reported.
func (d *Daemon) settle(s *sa) {
	notices := s.notices
	if len(notices) == 0 {
		return
	}
	s.notices = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.conns[s.conn]
	if c == nil {
		return
	}
	for _, n := range notices {
		// Only now: what it had in the data plane is removed.
		s.over = s.over || n.Kind == v2.IKEDown || n.Kind == v2.IKEFailed
		c.settleLocked(func(w *waiter) (bool, error) { return w.judge(c, n) })
	}
}

// bookFailure keeps the last failure of a connection, for the status.
func (d *Daemon) bookFailure(c *connection, n v2.Notice) {
	switch n.Kind {
	case v2.IKEUp, v2.ChildUp:
		c.last = nil
	case v2.IKEFailed, v2.ChildFailed:
		c.last = d.failure(n)
	case v2.IKEDown, v2.ChildDown, v2.IKERekeyFailed:
		if n.Err != nil {
			c.last = d.failure(n)
		}
	default:
	}
}

func (d *Daemon) failure(n v2.Notice) *Failure {
	return &Failure{Code: n.Code, Err: n.Err, When: d.now()}
}

func (d *Daemon) logNotice(s *sa, n v2.Notice, stranger bool) {
	level, text := slog.LevelInfo, ""
	switch n.Kind {
	case v2.IKEUp:
		text = "connection established"
	case v2.IKERekeyed:
		text = "IKE SA rekeyed"
	case v2.IKERekeyFailed:
		level, text = slog.LevelWarn, "IKE SA not rekeyed"
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
		if n.Err != nil {
			level = slog.LevelWarn
		}
	case v2.ChildFailed:
		level, text = slog.LevelWarn, "tunnel failed"
	default:
		return
	}
	attrs := []any{"spi", s.spi.String()}
	if s.conn != "" { // which only this goroutine changes
		attrs = append(attrs, "connection", s.conn)
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
	s.saids.add(id)
}

// disclaim forgets an SA that is no longer in the data plane.
func (d *Daemon) disclaim(id ipsec.SAID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.bySA[id]; s != nil {
		delete(d.bySA, id)
		s.saids.remove(id)
	}
}

// hasChild reports whether a tunnel is up in s.
func (d *Daemon) hasChild(s *sa, tunnel string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return s.children.up(tunnel) > 0
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
		s.born, s.up, s.identities, s.closing = old.born, old.up, old.identities, old.closing
		d.byEnds[s.identities] = append(d.byEnds[s.identities], s)
		s.children, old.children = old.children, nil
		s.saids, old.saids = old.saids, nil
		for _, id := range s.saids {
			d.bySA[id] = s
		}
		old.closing, old.over, old.successor = true, true, s
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
	d.leaveEndsLocked(s)
	if c := d.conns[s.conn]; c != nil {
		c.sas.remove(s)
	}
	var left []ipsec.SAID
	for _, id := range s.saids {
		if d.bySA[id] == s {
			delete(d.bySA, id)
			left = append(left, id)
		}
	}
	return left
}

// leaveEndsLocked takes s, which is gone, from those between its two ends.
func (d *Daemon) leaveEndsLocked(s *sa) {
	if list, up := d.byEnds[s.identities]; up {
		if list = slices.DeleteFunc(list, func(x *sa) bool { return x == s }); len(list) > 0 {
			d.byEnds[s.identities] = list
		} else {
			delete(d.byEnds, s.identities)
		}
	}
}

// watchBackend passes the data plane's events on to the machines.
func (d *Daemon) watchBackend() {
	for {
		select {
		case ev, ok := <-d.backend.Events():
			if !ok {
				return
			}
			if d.onEvent != nil {
				d.onEvent(ev)
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
		held := c != nil && c.held.has(ev.Tunnel)
		d.mu.Unlock()
		if err != nil || child == nil || held {
			return
		}
		d.log.Debug("a packet asks for the tunnel", "connection", ev.Connection, "tunnel", ev.Tunnel,
			"source", ev.Flow.Src.String(), "destination", ev.Flow.Dst.String())
		if err := d.bringUp(ev.Connection, child, &ev.Flow); err != nil && !gone(err) {
			d.log.Warn("cannot connect", "connection", ev.Connection, "tunnel", ev.Tunnel, "error", err)
		}
	case ipsec.Expire:
		d.tellOwner(ev.ID, v2.Expired{ID: ev.ID, Hard: ev.Hard})
		if ev.Hard {
			d.disclaim(ev.ID)
		}
	case ipsec.AddressChanged:
		d.tellOwner(ev.ID, v2.PeerMoved{ID: ev.ID, Remote: ev.Remote})
	case ipsec.FirstUse:
		d.tellOwner(ev.ID, v2.Used{ID: ev.ID})
	}
}

// Deleted tells the owner of an SA that it is gone from the data plane, as after
// its hard lifetime: the other half goes too, the peer is told, and a tunnel that
// is to be up comes up anew.
func (d *Daemon) Deleted(id ipsec.SAID) { d.planeEvent(ipsec.Expire{ID: id, Hard: true}) }

func (d *Daemon) tellOwner(id ipsec.SAID, ev v2.Event) {
	d.mu.Lock()
	s := d.bySA[id]
	d.mu.Unlock()
	if s != nil {
		s.shard.post(s, ev)
	}
}
