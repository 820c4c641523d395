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
	case out.Tripped():
		l.tally.add(dropAggfragTripped, 1)
	case !out.Offer(b):
		l.tally.add(dropAggfragQueue, 1)
	}
}

// trippedLook is how often an SA is looked at that sends nothing any more.
const trippedLook = time.Second

// tripped reports whether too much of what out sends has been lost for too long:
// then nothing is sent any more (RFC 9347, Section 2.4.2.1).
func (l *outbound) tripped(out *sad.Out, now time.Duration) bool {
	tripped, first, lost := l.w.Tripped(out, now)
	if first {
		sa := out.SA()
		l.plane.log.Error("a tunnel of a constant rate is switched off, for too many of its packets are lost, or the peer reports nothing",
			"connection", sa.Connection, "tunnel", sa.Tunnel, "spi", sa.SPI.String(),
			"loss_limit_percent", sa.Aggfrag.Pace.LossLimit, "loss_time", sa.Aggfrag.Pace.LossTime.String(),
			"cure", "lower iptfs.rate to what the way carries, then: caponier rekey "+sa.Connection+"/"+sa.Tunnel)
		l.tally.add(aggfragTrips, 1)
	}
	l.tally.add(dropAggfragTripped, uint64(lost))
	return tripped
}

// sinceBorn is the clock of what is sent by it.
func (p *Plane) sinceBorn() time.Duration { return p.opts.Now().Sub(p.born) }

// pacing sends for all SAs of a constant rate, until the plane is closed.
func (p *Plane) pacing() error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if wait := p.pacer.pace(p.sinceBorn()); wait > 0 {
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
	if l.tripped(out, now) {
		return trippedLook
	}
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
		payload, packets, octets, lost := l.w.Fill(out, l.sealed[s.start+netio.Headroom:][:room:room], now)
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
