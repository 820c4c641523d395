package userspace

import (
	"caponier/internal/aggfrag"
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/sad"
)

// sharing is the payload of AGGFRAG mode that a lane fills. What comes in one batch
// shares payloads, and nothing waits for the next: a lane that has little to do
// sends each packet at once, in a payload of its own.
type sharing struct {
	packer aggfrag.Packer
	start  int // of its memory in sealed
	end    int
}

// leastPayload is the least room of a payload, in octets, whatever the way is said
// to take.
const leastPayload = 256

// payloadRoom is the length of the longest payload that fits the way of out. While
// that is not known, it is what the inner device delivers at most.
func (l *outbound) payloadRoom(out *sad.Out) int {
	n := out.Payload()
	if n == netio.MaxPacket {
		n = l.plane.opts.MTU
	}
	return max(n, leastPayload)
}

// share copies the packet b to the payload under way, or to the next ones, that x
// seals. b is not too long for the way, where the peer takes packets whole only,
// or else gets a payload of its own, which share returns until the run is sealed.
func (l *outbound) share(b []byte, policy *ipsec.Policy, x path) *netio.Packet {
	room := l.payloadRoom(x.out)
	spread := !x.out.Aggfrag().Whole
	if x.out.Paced() {
		l.offer(b, x.out, spread || x.out.FitsPayload(len(b), room))
		return nil
	}
	alone := !spread && aggfrag.HeaderLen+len(b) > room
	if alone {
		l.finish()
		room = aggfrag.HeaderLen + len(b)
	}
	// The payloads that a packet is spread over are sealed together, with
	// sequence numbers that follow one another.
	most := 2 + len(b)/(room-aggfrag.HeaderLen)
	size := netio.Headroom + room + netio.Tailroom
	if most > batchSize || most*size > sealedLen {
		l.tally.add(dropTooBig, 1)
		return nil
	}
	r := &l.run
	if x != r.path || r.n+most > batchSize {
		l.seal()
		r.path, r.ep = x, x.out.Endpoint()
	}
	if l.used+most*size > len(l.sealed) {
		l.seal()
		if !l.turn() {
			l.tally.add(espDrop(esp.ErrSpace), 1)
			return nil
		}
		if x = l.path(policy); x.out == nil { // SAs do not outlive the turn
			l.tally.add(dropNoSA, 1)
			return nil
		}
		return l.share(b, policy, x)
	}
	p := &l.sharing.packer
	if !p.Open() {
		l.begin(room, 0)
	}
	rest := p.Add(b, spread)
	if len(rest) == len(b) {
		l.finish()
		l.begin(room, 0)
		rest = p.Add(b, spread)
	}
	if len(rest) > 0 {
		l.tally.add(aggfragSpread, 1)
	}
	for len(rest) > 0 {
		l.finish()
		l.begin(room, len(rest))
		rest = p.Continue(rest)
	}
	if !alone {
		return nil
	}
	l.finish()
	return &r.pkts[r.n-1]
}

// begin begins a payload of at most room octets, with what is left of a packet:
// rest octets.
func (l *outbound) begin(room, rest int) {
	s := &l.sharing
	s.start, s.end = l.used, l.used+netio.Headroom+room+netio.Tailroom
	l.used = s.end
	s.packer.Start(l.sealed[s.start+netio.Headroom:][:room:room], rest)
}

// finish adds the payload under way, if there is one, to the run.
func (l *outbound) finish() {
	if p := &l.sharing.packer; p.Open() {
		packets := p.Packets()
		payload := p.Finish()
		l.run.octets[l.run.n] = len(payload) - aggfrag.HeaderLen
		l.addPayload(payload, packets)
	}
}

// addPayload adds a payload, in which so many packets end, to the run.
func (l *outbound) addPayload(payload []byte, packets int) {
	s, r := &l.sharing, &l.run
	r.shared[r.n] = packets
	end := s.start + netio.Headroom + len(payload) + netio.Tailroom
	if l.used == s.end {
		l.used = end
	}
	q := &r.pkts[r.n]
	*q = netio.Packet{Buf: l.sealed[s.start:end:end], Off: netio.Headroom, Len: len(payload)}
	dressShared(q, r.out)
	at := q.Off - r.out.HeadRoom()
	r.items[r.n] = esp.SealItem{
		Dst: q.Buf[at:][:r.out.SealedLen(q.Len)], Inner: payload, NextHeader: aggfrag.NextHeader,
	}
	r.n++
}

// dressShared says what the outer header of the payload p has. It takes over
// nothing from inner ones, which may differ (RFC 9347, Section 2.2.5); the length
// of payloads follows the path MTU, which only packets that may not be cut find
// out.
func dressShared(p *netio.Packet, out *sad.Out) {
	o := out.Outer()
	p.TrafficClass = packet.OuterClass(0, o) | out.Aggfrag().Pace.DSCP<<2
	p.DontFragment = o.DF != ipsec.ClearDF
	if ep := out.Endpoint(); ep.Remote.Addr().Is6() {
		p.DontFragment = p.DontFragment || ep.MTU != 0
	}
}

// shareSuper has the packets of segments share payloads.
func (l *outbound) shareSuper(policy *ipsec.Policy) {
	for b := l.segments.Next(); b != nil; b = l.segments.Next() {
		x := l.path(policy)
		if x.out == nil {
			l.tally.add(dropNoSA, 1)
			continue
		}
		l.share(b, policy, x)
	}
}

// apartMost is how many packets a lane takes out of payloads before it hands them
// over.
const apartMost = 4 * netio.MaxRead

// takeApart delivers the packets of the payload that in carried.
func (l *inbound) takeApart(w *sad.Worker, in *sad.In, c carried) {
	r := in.Receiver()
	r.Open(c.seq, c.inner)
	if in.Listens() { // of a constant rate, which bounds how often the clock is read
		in.Heard(c.seq, l.plane.sinceBorn())
	}
	l.tally.add(aggfragIn, 1)
	// Congestion of the outer packets is not of any inner flow; where a DSCP is
	// believed, it is that of all (RFC 9347, Section 2.2.5).
	class := c.class &^ packet.CE
	for n := 0; ; n++ {
		b, part := r.Next()
		if b == nil {
			break
		}
		if n == 1 && !l.joining {
			l.prepare(2)
		}
		if !part {
			whole := l.space(len(b))
			copy(whole, b)
			b = whole
		}
		l.admit(w, in, carried{inner: b, class: class})
		if l.apart++; l.apart == apartMost {
			l.flush()
		}
	}
	if drops, some := r.Drops(); some {
		l.tally.add(dropAggfragMalformed, uint64(drops[aggfrag.DropMalformed]))
		l.tally.add(dropAggfragLost, uint64(drops[aggfrag.DropLost]))
		l.tally.add(dropAggfragLimit, uint64(drops[aggfrag.DropLimit]))
	}
}
