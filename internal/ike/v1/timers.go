package v1

import (
	"encoding/binary"
	"slices"
	"time"
)

// timer is one thing to do later.
type timer struct {
	at   time.Time
	fire func(*Machine)
	off  bool
}

func (t *timer) running() bool { return t != nil && !t.off }

// after does something after d.
func (m *Machine) after(d time.Duration, fire func(*Machine)) *timer {
	t := &timer{at: m.now.Add(d), fire: fire}
	m.timers = append(m.timers, t)
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

// Deadline returns when the Machine wants a Timeout event, or the zero Time.
func (m *Machine) Deadline() time.Time {
	var first time.Time
	for _, t := range m.timers {
		if first.IsZero() || t.at.Before(first) {
			first = t.at
		}
	}
	return first
}

// timeout fires what is due. What a timer sets for the same moment waits for the
// next Timeout, so that this ends.
func (m *Machine) timeout() {
	var due []*timer
	for _, t := range m.timers {
		if !t.at.After(m.now) {
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b *timer) int { return a.at.Compare(b.at) })
	for _, t := range due {
		if t.running() && m.state != gone {
			m.stop(t)
			t.fire(m)
		}
	}
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

// repeater sends a message again until it is answered.
type repeater struct {
	raw   []byte
	tries int
	wait  time.Duration
	timer *timer
}

// repeat sends raw, and again and again until the repeater is stopped; then gives
// up.
func (m *Machine) repeat(r *repeater, raw []byte, giveUp func(*Machine)) {
	policy := m.policy()
	*r = repeater{raw: raw, tries: policy.Tries, wait: policy.Initial}
	m.send(raw)
	m.armRepeat(r, giveUp)
}

func (m *Machine) armRepeat(r *repeater, giveUp func(*Machine)) {
	r.timer = m.after(r.wait, func(m *Machine) {
		if r.tries <= 0 {
			giveUp(m)
			return
		}
		policy := m.policy()
		r.tries--
		r.wait = min(policy.Max, time.Duration(float64(r.wait)*policy.Factor))
		m.send(r.raw)
		m.armRepeat(r, giveUp)
	})
}

// hurry bounds what is left of the repetitions: the peer has said no, though
// nobody knows who it was.
func (r *repeater) hurry() { r.tries = min(r.tries, 1) }
