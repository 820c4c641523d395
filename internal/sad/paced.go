package sad

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/aggfrag"
	"caponier/internal/ipsec"
)

// paced is the queue of an outbound SA that sends at a constant rate. All workers
// have packets for it, and one sends them.
type paced struct {
	mu   sync.Mutex
	pace *aggfrag.Pace // guarded by mu

	// breaker belongs to the one that sends; nil without a limit.
	breaker *aggfrag.Breaker
	tripped atomic.Bool
	// Of the reports that the peer requires, for the one that sends.
	report   aggfrag.Report
	interval time.Duration
}

func newPaced(p ipsec.Pace) *paced {
	out := &paced{pace: aggfrag.NewPace(p.Rate.Bits())}
	if p.LossLimit != 0 {
		out.breaker = aggfrag.NewBreaker(p.LossLimit, p.LossTime)
	}
	return out
}

// Paced reports whether the SA sends at a constant rate: packets are then offered
// to it, and not sealed.
func (o *Out) Paced() bool { return o.paced != nil }

// Tripped reports whether the SA sends nothing any more, for too much was lost.
func (o *Out) Tripped() bool { return o.paced != nil && o.paced.tripped.Load() }

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
	n, wait = o.paced.pace.Due(now, octets)
	if o.sa.Aggfrag.Reports {
		o.paced.interval = o.paced.pace.Interval(octets)
	}
	return n, wait
}

// Fill makes the next payload (aggfrag.Pace.Fill). Where the peer requires reports,
// it brings one.
func (w *Worker) Fill(o *Out, dst []byte, now time.Duration) (payload []byte, packets, octets, lost int) {
	p := o.paced
	var report *aggfrag.Report
	if o.sa.Aggfrag.Reports {
		report = &p.report
		*report = aggfrag.Report{TransmitDelay: p.interval}
		if c := w.back(o); c != nil {
			*report = c.reportAt(now, p.interval)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pace.Fill(dst, o.spreads(), report)
}

// payloadHeader is the length of the header of the payloads of o.
func (o *Out) payloadHeader() int {
	if o.sa.Aggfrag.Reports {
		return aggfrag.ReportLen
	}
	return aggfrag.HeaderLen
}

// FitsPayload reports whether a packet of n octets fits one payload of room.
func (o *Out) FitsPayload(n, room int) bool { return o.payloadHeader()+n <= room }

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
