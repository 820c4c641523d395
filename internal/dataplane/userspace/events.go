package userspace

import (
	"sync"

	"caponier/internal/ipsec"
)

// eventQueue is the bounded channel to control. What cannot wait longer than
// the channel has room is dropped and counted, with two exceptions: hard
// expiries are kept, and of the moves of one SA the last.
type eventQueue struct {
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

func newEventQueue(depth int) *eventQueue {
	return &eventQueue{
		ch:    make(chan ipsec.Event, depth),
		moved: make(map[ipsec.SAID]*ipsec.AddressChanged),
	}
}

// push never blocks.
func (q *eventQueue) push(e ipsec.Event) {
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

func (q *eventQueue) send(e ipsec.Event) bool {
	select {
	case q.ch <- e:
		return true
	default:
		return false
	}
}

// flush sends what had to wait. The plane calls it with each tick.
func (q *eventQueue) flush() {
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

func (q *eventQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}

func (q *eventQueue) lostCount() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lost
}
