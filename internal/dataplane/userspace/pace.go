package userspace

import (
	"net"
	"time"

	"caponier/internal/netio"
	"caponier/internal/sad"
)

// paceTick is the least time from one look at what is due to the next: with
// shorter intervals, several payloads leave together.
const paceTick = time.Millisecond

// offer leaves the packet b to the SA of a constant rate, if it can carry it.
func (l *outbound) offer(b []byte, out *sad.Out, fits bool) {
	switch {
	case !fits:
		l.tally.add(dropTooBig, 1)
	case !out.Offer(b):
		l.tally.add(dropAggfragQueue, 1)
	}
}

// pacing sends for all SAs of a constant rate, until the plane is closed.
func (p *Plane) pacing() error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if wait := p.pacer.pace(p.opts.Now().Sub(p.born)); wait > 0 {
			timer.Reset(max(wait, paceTick))
		}
		select {
		case <-p.stop:
			return net.ErrClosed
		case <-timer.C:
		case <-p.wake:
		}
	}
}

// pace sends what is due now, and returns how long it is until more is, or 0 where
// no SA has a constant rate.
func (l *outbound) pace(now time.Duration) (wait time.Duration) {
	l.listeners = l.plane.opts.Tap.Listeners()
	l.w.Begin(l.plane.coarseNow())
	func() {
		defer l.end()
		for _, out := range l.w.Paced() {
			if w := l.paceOne(out, now); wait == 0 || w < wait {
				wait = w
			}
		}
	}()
	l.send()
	l.tally.publish()
	return wait
}

// paceOne seals what is due of one SA.
func (l *outbound) paceOne(out *sad.Out, now time.Duration) (wait time.Duration) {
	room := l.payloadRoom(out)
	size := netio.Headroom + room + netio.Tailroom
	n, wait := out.Due(now, room)
	r := &l.run
	l.run.path, l.run.ep = path{out: out}, out.Endpoint()
	for range n {
		if r.n == batchSize || l.used+size > len(l.sealed) {
			l.seal()
			l.send()
			if l.sealed == nil {
				l.sealed = make([]byte, sealedLen)
			}
			l.run.path, l.run.ep = path{out: out}, out.Endpoint()
		}
		s := &l.sharing
		s.start, s.end = l.used, l.used+size
		l.used = s.end
		payload, packets, octets, lost := out.Fill(l.sealed[s.start+netio.Headroom:][:room:room])
		if lost > 0 {
			l.tally.add(dropTooBig, uint64(lost))
		}
		if octets == 0 {
			l.tally.add(aggfragIdle, 1)
		}
		r.octets[r.n] = octets
		l.addPayload(payload, packets)
	}
	l.seal()
	return wait
}
