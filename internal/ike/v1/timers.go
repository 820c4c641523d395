package v1

import (
	"encoding/binary"
	"time"

	"caponier/internal/ike/timer"
)

// timed is something to do later.
type timed = timer.Timer[*Machine]

// after does something after d.
func (m *Machine) after(d time.Duration, fire func(*Machine)) *timed {
	return m.timers.At(m.now.Add(d), nil, fire)
}

// Deadline returns when the Machine wants a Timeout event, or the zero Time.
func (m *Machine) Deadline() time.Time { return m.timers.Deadline() }

func (m *Machine) timeout() {
	m.timers.Fire(m.now, m, func() bool { return m.state != gone })
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
	timer *timed
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
