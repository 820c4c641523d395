package sad

import (
	"slices"
	"sync"
	"time"

	"caponier/internal/aggfrag"
)

// paced is the queue of an outbound SA that sends at a constant rate. All workers
// have packets for it, and one sends them.
type paced struct {
	mu   sync.Mutex
	pace *aggfrag.Pace // guarded by mu
}

// Paced reports whether the SA sends at a constant rate: packets are then offered
// to it, and not sealed.
func (o *Out) Paced() bool { return o.paced != nil }

// Offer queues a copy of the packet b. It reports false where there is no room.
func (o *Out) Offer(b []byte) bool {
	o.paced.mu.Lock()
	defer o.paced.mu.Unlock()
	return o.paced.pace.Put(b)
}

// Due returns how many payloads of so many octets are to leave now, and when the
// next is due (aggfrag.Pace.Due).
func (o *Out) Due(now time.Duration, payload int) (n int, wait time.Duration) {
	octets := o.Endpoint().outerLen() + o.SealedLen(payload)
	o.paced.mu.Lock()
	defer o.paced.mu.Unlock()
	return o.paced.pace.Due(now, octets)
}

// Fill makes the next payload (aggfrag.Pace.Fill).
func (o *Out) Fill(dst []byte) (payload []byte, packets, octets, lost int) {
	o.paced.mu.Lock()
	defer o.paced.mu.Unlock()
	return o.paced.pace.Fill(dst, o.spreads())
}

// Paced returns the outbound SAs that send at a constant rate. They are not to be
// kept past End.
func (w *Worker) Paced() []*Out {
	if list := w.db.paced.Load(); list != nil {
		return *list
	}
	return nil
}

// setPaced adds or removes an SA of a constant rate.
func (db *DB) setPaced(o *Out, on bool) {
	if o.paced == nil {
		return
	}
	var list []*Out
	if old := db.paced.Load(); old != nil {
		list = slices.DeleteFunc(slices.Clone(*old), func(x *Out) bool { return x == o })
	}
	if on {
		list = append(list, o)
	}
	db.paced.Store(&list)
}
