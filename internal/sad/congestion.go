package sad

import (
	"sync"
	"time"

	"caponier/internal/aggfrag"
	"caponier/internal/ipsec"
)

// congestion is what an inbound SA of AGGFRAG mode hears of the loss of what the
// other SA of its pair sends, and tells of its own.
type congestion struct {
	// Owned by the worker that owns the SA.

	loss aggfrag.Loss
	last aggfrag.Report
	at   time.Duration // when it came; negative: never
	tval time.Duration // when its TVal came first

	// Copies for the one that sends, made at the end of a batch.

	mu     sync.Mutex
	rate   uint32         // guarded by mu
	report aggfrag.Report // guarded by mu
	heard  time.Duration  // guarded by mu
	echo   time.Duration  // guarded by mu
}

func newCongestion() *congestion { return &congestion{at: -1, heard: -1} }

// Listens reports whether Heard is to be called for each payload.
func (in *In) Listens() bool { return in.congestion != nil }

// Heard takes note of the payload of the sequence number seq, which the receiver has
// begun with. now is by a clock that does not go back.
func (in *In) Heard(seq uint64, now time.Duration) {
	c := in.congestion
	if report, some := in.receiver.Report(); some {
		if c.at < 0 || report.TVal != c.last.TVal {
			c.tval = now // RFC 9347, Section 3: and not when it comes again
		}
		c.last, c.at = report, now
	}
	c.loss.Arrived(seq, now, c.last.RTT)
}

// publish makes the copies.
func (c *congestion) publish() {
	rate := c.loss.EventRate()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rate, c.report, c.heard, c.echo = rate, c.last, c.at, c.tval
}

// reportAt is what the peer is to hear at now, by the one that sends a payload
// each interval.
func (c *congestion) reportAt(now, interval time.Duration) aggfrag.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := aggfrag.Report{LossEventRate: c.rate, TVal: uint32(now.Microseconds()), TransmitDelay: interval}
	if c.heard >= 0 {
		r.TEcho, r.EchoDelay = c.report.TVal, now-c.echo
	}
	return r
}

// told is what the peer said last of the loss of what this end sends, and when:
// negative if it never did.
func (c *congestion) told() (rate uint32, heard time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report.LossEventRate, c.heard
}

// back returns what the inbound SA of the pair of o hears, or nil.
func (w *Worker) back(o *Out) *congestion {
	in, ok := w.db.in.get(inKey{ipsec.ESP, o.sa.Aggfrag.Back}.number())
	if !ok {
		return nil
	}
	return in.congestion
}

// Tripped reports whether the peer has said for too long that too much of what o
// sends is lost (aggfrag.Breaker), and how many packets that wait are given up for
// that. It is looked at before Due.
func (w *Worker) Tripped(o *Out, now time.Duration) (tripped, first bool, lost int) {
	p := o.paced
	if p.breaker == nil {
		return false, false, 0
	}
	rate, heard := uint32(0), time.Duration(-1)
	if c := w.back(o); c != nil {
		rate, heard = c.told()
	}
	if !p.breaker.Look(now, heard, rate) {
		return false, false, 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return true, !p.tripped.Swap(true), p.pace.Drop()
}
