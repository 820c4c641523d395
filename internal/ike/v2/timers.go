package v2

import (
	"encoding/binary"
	"time"

	"caponier/internal/ike/timer"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

// timed is something to do later.
type timed = timer.Timer[*Machine]

// after does something after d.
func (m *Machine) after(d time.Duration, fire func(*Machine)) *timed {
	return m.timers.At(m.now.Add(d), nil, fire)
}

// afterChild does something about c after d, in whichever IKE SA has it then.
func (m *Machine) afterChild(d time.Duration, c *child, fire func(*Machine)) *timed {
	return m.timers.At(m.now.Add(d), c, fire)
}

// Deadline returns when the Machine wants a Timeout event, or the zero Time.
func (m *Machine) Deadline() time.Time { return m.timers.Deadline() }

func (m *Machine) timeout() {
	m.timers.Fire(m.now, m, func() bool { return m.state != Gone })
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
