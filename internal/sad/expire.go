package sad

import (
	"time"

	"caponier/internal/ipsec"
)

// Expire returns an event for each SA that reached a limit of time by now, once
// for each limit. SAs that reached their hard limit are removed. The data plane
// calls it about once a second; where no limit is due it costs nothing. Path MTUs
// that were learned long ago are forgotten.
func (db *DB) Expire(now time.Time) []ipsec.Event {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.reclaim()
	if db.next.IsZero() || now.Before(db.next) {
		return nil
	}
	db.next = time.Time{}
	var events []ipsec.Event
	visit := func(e *entry) {
		if due(e.hardAt(), now) {
			if event, ok := e.expire(true); ok {
				events = append(events, event)
			}
			db.remove(e.ID())
			return
		}
		if due(e.softAt(), now) {
			if event, ok := e.expire(false); ok {
				events = append(events, event)
			}
		}
		db.schedule(e)
	}
	for _, in := range db.ins {
		visit(&in.entry)
	}
	for _, out := range db.outs {
		db.lookAt(out.ageOut(now))
		visit(&out.entry)
	}
	db.reclaim()
	return events
}

func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }

// schedule makes Expire look at e when its next limit is due.
func (db *DB) schedule(e *entry) {
	if !e.softRaised.Load() {
		db.lookAt(e.softAt())
	}
	db.lookAt(e.hardAt())
}

func (db *DB) lookAt(at time.Time) {
	if !at.IsZero() && (db.next.IsZero() || at.Before(db.next)) {
		db.next = at
	}
}
