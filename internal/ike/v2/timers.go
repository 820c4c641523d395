package v2

import (
	"encoding/binary"
	"slices"
	"time"

	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

// timer is one thing to do later.
type timer struct {
	at    time.Time
	child *child // the CHILD SA that it is about: it moves with it to a new IKE SA
	fire  func(*Machine)
	off   bool
}

func (t *timer) running() bool { return t != nil && !t.off }

// after does something after d.
func (m *Machine) after(d time.Duration, fire func(*Machine)) *timer {
	t := &timer{at: m.now.Add(d), fire: fire}
	m.timers = append(m.timers, t)
	return t
}

// afterChild does something about c after d, in whichever IKE SA has it then.
func (m *Machine) afterChild(d time.Duration, c *child, fire func(*Machine)) *timer {
	t := m.after(d, fire)
	t.child = c
	return t
}

// stop stops a timer, which may be nil or have fired.
func (m *Machine) stop(t *timer) {
	if !t.running() {
		return
	}
	t.off = true
	m.timers = slices.DeleteFunc(m.timers, func(x *timer) bool { return x == t })
}

func (m *Machine) stopAll() {
	for _, t := range m.timers {
		t.off = true
	}
	m.timers = nil
}

// stopChild stops what was to be done about c.
func (m *Machine) stopChild(c *child) {
	m.timers = slices.DeleteFunc(m.timers, func(t *timer) bool {
		t.off = t.off || t.child == c
		return t.child == c
	})
}

// next is the timer that fires first; among equals the one that was set first.
func (m *Machine) next() *timer {
	var first *timer
	for _, t := range m.timers {
		if first == nil || t.at.Before(first.at) {
			first = t
		}
	}
	return first
}

// Deadline returns when the Machine wants a Timeout event, or the zero Time.
func (m *Machine) Deadline() time.Time {
	if t := m.next(); t != nil {
		return t.at
	}
	return time.Time{}
}

// timeout fires what is due. What a timer sets for the same moment waits for
// the next Timeout, so that this ends.
func (m *Machine) timeout() {
	var due []*timer
	for _, t := range m.timers {
		if !t.at.After(m.now) {
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b *timer) int { return a.at.Compare(b.at) })
	for _, t := range due {
		if t.running() && m.state != Gone {
			m.stop(t)
			t.fire(m)
		}
	}
}

const (
	// retryDelay is how long a rekeying that failed waits for its next try.
	retryDelay = 30 * time.Second
	// defaultKeepAlive is the interval of NAT keepalives (RFC 3948, Section 4).
	defaultKeepAlive = 20 * time.Second
)

// startLife starts the clocks of an established IKE SA.
func (m *Machine) startLife() {
	m.heard = m.now
	m.use.limit = conf.Soften(ipsec.Limit{Bytes: m.conn.Use.Bytes, Packets: m.conn.Use.Packets}, m.randomBelow)
	if life := m.conn.Lifetime; life > 0 {
		soft := conf.SoftenTime(life, m.randomBelow)
		m.rekeyAt = m.now.Add(soft)
		m.after(soft, func(m *Machine) { m.enqueue(&rekeyIKE{}) })
		m.after(life, (*Machine).expire)
	}
	if m.conn.DPD > 0 {
		m.after(m.conn.DPD, (*Machine).watchPeer)
	}
	if m.nat.Local {
		m.after(m.keepAlive(), (*Machine).sendKeepAlive)
	}
}

// use is what an IKE SA has carried, and its limits.
type use struct {
	bytes, packets uint64
	limit          ipsec.Lifetime
	rekeyed        bool // at the soft limit a rekeying was asked for
}

// spend counts datagrams of the IKE SA.
func (u *use) spend(datagrams ...[]byte) {
	for _, b := range datagrams {
		u.bytes += uint64(len(b))
		u.packets++
	}
}

// over reports whether a limit is reached.
func (u *use) over(l ipsec.Limit) bool {
	return l.Bytes > 0 && u.bytes >= l.Bytes || l.Packets > 0 && u.packets >= l.Packets
}

// limitUse rekeys an IKE SA that has carried much, and ends one that goes on.
func (m *Machine) limitUse() {
	switch {
	case m.state != Established || m.redundant:
	case m.use.over(m.use.limit.Hard):
		m.expire()
	case m.use.over(m.use.limit.Soft) && !m.use.rekeyed:
		m.use.rekeyed = true
		m.enqueue(&rekeyIKE{})
	}
}

// expire ends the IKE SA at its hard limit.
func (m *Machine) expire() {
	m.close(&fault.Fault{Code: fault.CodeLifetime, Err: fault.ErrLifetime})
}

// watchPeer checks that the peer is alive when nothing authentic came for the
// configured time (RFC 7296, Section 2.4).
func (m *Machine) watchPeer() {
	if idle := m.now.Sub(m.heard); idle < m.conn.DPD {
		m.after(m.conn.DPD-idle, (*Machine).watchPeer)
		return
	}
	if m.outstanding == nil {
		m.enqueue(&liveness{})
	}
	m.after(m.conn.DPD, (*Machine).watchPeer)
}

func (m *Machine) keepAlive() time.Duration {
	if m.conn.KeepAlive > 0 {
		return m.conn.KeepAlive
	}
	return defaultKeepAlive
}

func (m *Machine) sendKeepAlive() {
	m.act(SendKeepAlive{Local: m.local, Remote: m.remote})
	m.after(m.keepAlive(), (*Machine).sendKeepAlive)
}

// randomBelow returns a number from 0 to n-1 for jitter. A random source that
// fails gives no jitter: nothing secret depends on it.
func (m *Machine) randomBelow(n int64) int64 {
	b, err := m.random(8)
	if err != nil || n <= 0 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b) % uint64(n))
}
