package sad

import (
	"net/netip"
	"sync/atomic"
	"time"

	"caponier/internal/drop"
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/replay"
)

// Worker is one worker's way to the SAs. All its methods belong to one
// goroutine. All but Begin are called between Begin and End, and the worker
// should not block there.
type Worker struct {
	db    *DB
	index int
	// seen is db.tick at Begin, and 0 outside of a batch. The writer reads it.
	seen atomic.Uint64

	now     int64 // in seconds since 1970
	touched []*In
	events  []ipsec.Event
}

// eventRoom is for how many inbound SAs in one batch no memory is allocated.
const eventRoom = 256

func newWorker(db *DB, i int) *Worker {
	return &Worker{db: db, index: i, touched: make([]*In, 0, eventRoom)}
}

// Index returns the worker's number.
func (w *Worker) Index() int { return w.index }

// Begin starts a batch. now is when, to the second; one clock read serves the
// whole batch. A Begin without End ends the batch before, except that its events
// are kept for the next End.
func (w *Worker) Begin(now time.Time) {
	// The order matters: announce, then look at the maps. See reclaim.go.
	w.seen.Store(w.db.tick.Load())
	w.now = now.Unix()
}

// End ends the batch: it publishes the counters of the inbound SAs that it
// touched, and gives up every In and Out found since Begin. It returns what
// happened: Expire, FirstUse and AddressChanged, valid until the next Begin.
//
// An Expire with Hard set says that the SA carries nothing any more; the data
// plane should now Delete it, before it passes the event on.
func (w *Worker) End() []ipsec.Event {
	for i, in := range w.touched {
		in.touched = false
		in.publish()
		w.touched[i] = nil
	}
	w.touched = w.touched[:0]
	events := w.events
	w.events = nil
	w.seen.Store(0)
	return events
}

// Inbound finds an inbound SA. It returns nil if there is none, and if another
// worker owns it: the plane hands the packet to the worker that DB.Owner names.
func (w *Worker) Inbound(p ipsec.Protocol, spi ipsec.SPI) *In {
	if w.db.Owner(spi) != w.index {
		return nil
	}
	in, _ := w.db.in.get(inKey{p, spi}.number())
	return in
}

// Knows reports whether any worker has an inbound SA of that SPI: what nobody has
// need not wait for its owner.
func (w *Worker) Knows(p ipsec.Protocol, spi ipsec.SPI) bool {
	_, ok := w.db.in.get(inKey{p, spi}.number())
	return ok
}

// Outbound finds the newest outbound SA of the protocol and reqID whose selectors
// cover the packet, or nil. It is not to be kept past End.
func (w *Worker) Outbound(protocol ipsec.Protocol, reqID uint32, p *packet.Info) *Out {
	list, _ := w.db.out.get(uint64(reqID))
	for _, o := range list {
		if o.sa.Protocol == protocol && o.covers(p) {
			return o
		}
	}
	return nil
}

// Open opens the ESP packet pkt in place, as esp.Inbound.Open does, and counts
// it. from is the outer source address and port for an SA with encapsulation:
// where it is not the SA's, AddressChanged is raised (RFC 7296, Section 2.23).
// IPv4 addresses in it are not IPv4-mapped. The zero AddrPort skips that.
//
// The caller must still ask Admit about the inner packet.
func (w *Worker) Open(in *In, pkt []byte, from netip.AddrPort) (inner []byte, nextHeader uint8, err error) {
	w.touch(in)
	if in.over() {
		in.now.expired++
		return nil, 0, esp.ErrLifetime
	}
	inner, nextHeader, seq, err := in.esp.Open(pkt)
	in.seq = seq
	return inner, nextHeader, w.opened(in, inner, seq, err, from)
}

// OpenBatch opens packets of one SA as Open does one after the other, side by
// side where the suite gains from it. from has the source of each item.
func (w *Worker) OpenBatch(in *In, items []esp.OpenItem, from []netip.AddrPort) {
	w.touch(in)
	if in.over() {
		in.now.expired += uint64(len(items))
		for i := range items {
			items[i].Inner, items[i].Err = nil, esp.ErrLifetime
		}
		return
	}
	in.esp.OpenBatch(items)
	for i := range items {
		it := &items[i]
		if in.over() { // the limit was reached in the middle
			in.now.expired++
			it.Inner, it.Err = nil, esp.ErrLifetime
			continue
		}
		it.Err = w.opened(in, it.Inner, it.Seq, it.Err, from[i])
	}
}

// touch has the counters of in published at the end of the batch.
func (w *Worker) touch(in *In) {
	if !in.touched {
		in.touched = true
		w.touched = append(w.touched, in)
	}
}

// over reports whether in has reached a hard limit.
func (in *In) over() bool {
	return in.now.packets >= in.hard.packets || in.now.bytes >= in.hard.bytes
}

// opened counts what came of opening one packet, and returns err.
func (w *Worker) opened(in *In, inner []byte, seq uint64, err error, from netip.AddrPort) error {
	if err != nil {
		// Compared as a value: comparing errors takes longer than all else here.
		reason, _ := err.(drop.Reason) //nolint:errorlint // the drops of esp are values, never wrapped
		switch reason {
		case drop.Dummy:
		case drop.Replay:
			in.now.replay++
			return err
		case drop.Integrity:
			in.now.integrity++
			return err
		default:
			return err
		}
	}
	if in.now.packets == 0 {
		w.events = append(w.events, ipsec.FirstUse{ID: in.ID(), Connection: in.sa.Connection, Tunnel: in.sa.Tunnel})
	}
	in.now.packets++
	in.now.bytes += uint64(len(inner))
	in.touch(w.now)
	if in.now.packets >= in.soft.packets || in.now.bytes >= in.soft.bytes {
		w.expire(&in.entry, false)
	}
	if in.over() {
		w.expire(&in.entry, true)
	}
	// A delayed packet from the old address must not undo a move: only the
	// newest says where the peer is.
	if from.IsValid() && seq == in.state().Top() {
		w.locate(in, from)
	}
	return err
}

func (w *Worker) locate(in *In, from netip.AddrPort) {
	ep := in.Endpoint()
	if !ep.Encap {
		return
	}
	if from == ep.Remote {
		in.moved = netip.AddrPort{}
		return
	}
	if from == in.moved {
		return
	}
	in.moved = from
	w.events = append(w.events, ipsec.AddressChanged{
		ID: in.ID(), Connection: in.sa.Connection, Tunnel: in.sa.Tunnel, Remote: from,
	})
}

// Admit reports whether an opened packet fits the selectors of the SA that
// carried it (RFC 4301, Section 5.2, step 4), and counts it if not.
func (w *Worker) Admit(in *In, p *packet.Info) bool {
	if p.Version != 0 &&
		anyCovers(in.sa.RemoteTS, p.Src, p.Protocol, p.SrcPort, p.HasPorts) &&
		anyCovers(in.sa.LocalTS, p.Dst, p.Protocol, p.DstPort, p.HasPorts) {
		return true
	}
	in.now.selector++
	return false
}

// Seal gives each item the next sequence number of the SA and seals it, as
// esp.Outbound.Seal does. Items after a hard limit get ErrLifetime, or
// ErrSequence where the numbers are used up. A limit of packets is exact; one of
// bytes may be passed by what each worker seals in one call.
func (w *Worker) Seal(o *Out, items []esp.SealItem) {
	if len(items) == 0 {
		return
	}
	c, err := w.Claim(o, len(items))
	if err != nil {
		fail(items[c.left:], err)
	}
	if items = items[:c.left]; len(items) == 0 {
		w.Settle(&c)
		return
	}
	seq := c.seq
	for i := range items {
		seq++
		items[i].Seq = seq
	}
	c.sealer.esp.SealBatch(items)
	for i := range items {
		if items[i].Err == nil {
			c.sealed++
			c.bytes += uint64(len(items[i].Inner))
		}
	}
	w.Settle(&c)
}

// Claim is the right to seal some packets with one SA, which a worker takes to
// seal one after the other.
type Claim struct {
	out    *Out
	sealer sealer
	seq    uint64 // the last that was used
	left   int

	claimed, sealed, bytes uint64
}

// Claim takes the next n sequence numbers of the SA. Where its limits allow
// fewer, the Claim is for so many, and the error, a Drop, is about the rest. Each
// Claim must be settled.
func (w *Worker) Claim(o *Out, n int) (Claim, error) {
	c := Claim{out: o}
	var err error
	if c.sealer, err = o.sealer(w.index); err != nil {
		return c, err
	}
	if o.sequence.Load() >= o.hard.packets || o.bytes.Load() >= o.hard.bytes {
		return c, c.refuse(n)
	}
	last := o.sequence.Add(uint64(n))
	c.seq = last - uint64(n)
	c.left, c.claimed = n, uint64(n)
	if last > o.hard.packets {
		c.left = 0
		if c.seq < o.hard.packets {
			c.left = int(o.hard.packets - c.seq)
		}
		return c, c.refuse(n - c.left)
	}
	return c, nil
}

// refuse counts n packets past the limits and returns why they are.
func (c *Claim) refuse(n int) error {
	c.out.expiredDrops.Add(uint64(n))
	if c.out.sequence.Load() >= replay.MaxSequence(c.out.sa.ESN) {
		return esp.ErrSequence
	}
	return esp.ErrLifetime
}

// Left is how many packets may still be sealed.
func (c *Claim) Left() int { return c.left }

// SealFrom seals one packet, as esp.Outbound.SealFrom does. Left must not be 0.
func (c *Claim) SealFrom(dst, inner []byte, nextHeader uint8) (int, error) {
	c.left--
	c.seq++
	n, err := c.sealer.esp.SealFrom(dst, inner, c.seq, nextHeader)
	if err == nil {
		c.sealed++
		c.bytes += uint64(len(inner))
	}
	return n, err
}

// Settle counts what was sealed, and raises the events of limits.
func (w *Worker) Settle(c *Claim) {
	if c.claimed == 0 {
		return
	}
	o := c.out
	if unsent := c.claimed - c.sealed; unsent != 0 {
		o.unsent.Add(unsent)
	}
	total := o.bytes.Add(c.bytes)
	o.touch(w.now)
	last := o.sequence.Load()
	if last >= o.soft.packets || total >= o.soft.bytes {
		w.expire(&o.entry, false)
	}
	if last >= o.hard.packets || total >= o.hard.bytes {
		w.expire(&o.entry, true)
	}
}

func fail(items []esp.SealItem, reason error) {
	for i := range items {
		items[i].Len, items[i].Err = 0, reason
	}
}

func (w *Worker) expire(e *entry, hard bool) {
	if hard && e.hardRaised.Load() || !hard && e.softRaised.Load() {
		return
	}
	if event, ok := e.expire(hard); ok {
		w.events = append(w.events, event)
	}
}
