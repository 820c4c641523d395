package dataplane

import (
	"sync"

	"caponier/internal/ipsec"
)

// EventQueue is the bounded channel from a Backend to control. What cannot wait longer than
// the channel has room is dropped and counted, with two exceptions: hard
// expiries are kept, and of the moves of one SA the last.
type EventQueue struct {
	mu     sync.Mutex
	ch     chan ipsec.Event
	closed bool
	lost   uint64
	// expired are hard expiries that found the channel full. There is at most
	// one for each SA.
	expired []ipsec.Event
	// moved holds the SAs whose AddressChanged went out since the last flush,
	// with what came after it. A peer that changes its address with every packet
	// causes two events in each interval.
	moved map[ipsec.SAID]*ipsec.AddressChanged
}

// NewEventQueue makes a queue that keeps depth events for its reader.
func NewEventQueue(depth int) *EventQueue {
	return &EventQueue{
		ch:    make(chan ipsec.Event, depth),
		moved: make(map[ipsec.SAID]*ipsec.AddressChanged),
	}
}

// Push takes an event and never blocks.
func (q *EventQueue) Push(e ipsec.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if m, ok := e.(ipsec.AddressChanged); ok {
		if _, recent := q.moved[m.ID]; recent {
			q.moved[m.ID] = &m
			return
		}
		q.moved[m.ID] = nil
		if !q.send(m) {
			q.moved[m.ID] = &m
		}
		return
	}
	if len(q.expired) == 0 && q.send(e) {
		return
	}
	if x, ok := e.(ipsec.Expire); ok && x.Hard {
		q.expired = append(q.expired, e)
		return
	}
	q.lost++
}

func (q *EventQueue) send(e ipsec.Event) bool {
	select {
	case q.ch <- e:
		return true
	default:
		return false
	}
}

// Flush sends what had to wait. The Backend calls it from time to time.
func (q *EventQueue) Flush() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	for len(q.expired) > 0 && q.send(q.expired[0]) {
		q.expired = q.expired[1:]
	}
	for id, m := range q.moved {
		if m == nil {
			delete(q.moved, id)
		} else if q.send(*m) {
			q.moved[id] = nil
		}
	}
}

// Close ends the channel. It is idempotent.
func (q *EventQueue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}

// Lost is how many events were dropped.
func (q *EventQueue) Lost() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}

// Events is the channel.
func (q *EventQueue) Events() <-chan ipsec.Event { return q.ch }
