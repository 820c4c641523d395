package userspace

import (
	"errors"
	"net"
	"net/netip"

	"caponier/internal/capture"
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/sad"
	"caponier/internal/spd"
)

// exit is a device by which packets leave the gateway outside.
type exit uint8

const (
	exitUDP4 exit = iota
	exitUDP6
	exitESP4
	exitESP6
	exitWhole4 // sealed packets with their IP header: those of transport mode, and fragments
	exitWhole6
	exitClear4
	exitClear6
	exitICMP4
	exitICMP6
	exits
)

// exitFor is the way of a sealed packet.
func exitFor(encap bool, remote netip.Addr) exit {
	x := exitESP4
	if encap {
		x = exitUDP4
	}
	if !remote.Is4() {
		x++
	}
	return x
}

// Bounds of what a lane has sealed, or cut, and not sent yet.
const (
	sealedLen  = 384 << 10 // octets: a Reader's slab of super-packets, sealed
	sealedMost = 1024      // packets
)

// outbound takes packets from the protected side to the outside. It belongs to
// one goroutine.
type outbound struct {
	plane  *Plane
	w      *sad.Worker
	reader *netio.Reader // nil in the lane that releases held packets
	exits  [exits]netio.Device
	tally  tally

	// Scratch, used again for each batch.

	listeners capture.Listeners // to this batch

	info     packet.Info
	segments packet.Segmenter
	fit      fitter
	leave    [exits][]netio.Packet
	// flow is that of the packet before, with its policy and, where it was
	// looked up, its SA: packets come in runs. It does not outlive the batch.
	flow struct {
		info  packet.Info
		entry *spd.Entry
		out   *sad.Out
	}
	// sealed is where packets cut from super-packets go; used octets are taken.
	// It is made when the first super-packet comes.
	sealed    []byte
	used      int
	fragments fragments
	// run are the packets of one SA that follow one another.
	run struct {
		out   *sad.Out
		pkts  [batchSize]netio.Packet
		items [batchSize]esp.SealItem
		n     int
		// Of transport mode: the endpoint, and where the packets were parted.
		ep    *sad.Endpoint
		seams [batchSize]packet.Seam
	}
}

func newOutbound(p *Plane, w *sad.Worker, inner netio.Device, exitDevices [exits]netio.Device, size int) *outbound {
	l := &outbound{plane: p, w: w, exits: exitDevices}
	if inner != nil {
		l.reader = netio.NewReader(inner, size)
	}
	for i := range l.leave {
		l.leave[i] = make([]netio.Packet, 0, batchSize)
	}
	return l
}

// loop works until the device is closed.
func (l *outbound) loop() error {
	for {
		pkts, err := l.reader.Read()
		if err != nil {
			return err
		}
		l.carry(pkts)
	}
}

// carry takes one batch all the way.
func (l *outbound) carry(pkts []netio.Packet) {
	l.process(pkts)
	l.send()
	l.tally.publish()
}

// process seals what is to be protected and sorts everything by exit.
func (l *outbound) process(pkts []netio.Packet) {
	l.listeners = l.plane.opts.Tap.Listeners()
	l.w.Begin(l.plane.coarseNow())
	defer l.end()
	table := l.plane.policies.Load()
	for i := range pkts {
		p := &pkts[i]
		if p.Truncated {
			l.tally.add(dropTruncated, 1)
			continue
		}
		l.info.Decode(p.Data())
		if l.info.Version == 0 {
			l.tally.add(dropMalformed, 1)
			continue
		}
		if table.Whole() && l.info.IsFragment() {
			l.gather(p, table)
			continue
		}
		entry := l.flow.entry
		if entry == nil || !l.info.SameFlow(&l.flow.info) {
			entry = table.Lookup(ipsec.Out, &l.info)
			if entry == nil {
				l.tally.add(dropNoPolicy, 1)
				continue
			}
			l.flow.entry, l.flow.out, l.flow.info = entry, nil, l.info
		}
		if l.listeners != nil {
			l.show(p, &entry.Policy)
		}
		if p.Segment != 0 {
			l.super(p, &entry.Policy)
			continue
		}
		l.follow(p, &entry.Policy)
	}
	l.seal()
}

// show shows the packet p before it is sealed, to those who listen. One that was
// held has been shown when it came.
func (l *outbound) show(p *netio.Packet, policy *ipsec.Policy) {
	if l.reader != nil && policy.Action == ipsec.Protect {
		l.listeners.Inner(ipsec.Out, policy.Connection, policy.Tunnel, p.Data(), p.Segment)
	}
}

// showSealed shows an ESP packet that out has sealed.
func (l *outbound) showSealed(out *sad.Out, p *netio.Packet) {
	sa := out.SA()
	l.listeners.IPsec(ipsec.Out, sa.Connection, sa.Tunnel, &capture.Sealed{
		Local: p.Local, Remote: p.Remote, Protocol: sa.Protocol, UDP: out.Endpoint().Encap, TrafficClass: p.TrafficClass, Data: p.Data(),
	})
}

// follow does with the packet p, decoded to info, what the policy says.
func (l *outbound) follow(p *netio.Packet, policy *ipsec.Policy) {
	switch policy.Action {
	case ipsec.Protect:
		l.protect(p, policy)
	case ipsec.Bypass:
		l.bypass(p)
	default:
		l.tally.add(dropDiscard, 1)
	}
}

// end closes the batch, also after a panic.
func (l *outbound) end() {
	l.run.n, l.run.out = 0, nil
	l.flow.entry, l.flow.out = nil, nil
	l.plane.report(l.w.End())
}

func (l *outbound) protect(p *netio.Packet, policy *ipsec.Policy) {
	out := l.outbound(policy)
	if out == nil && policy.Acquire {
		out = l.plane.held.hold(l.w, policy, &l.info, p.Data())
		if out == nil {
			return
		}
	}
	if out == nil {
		l.tally.add(dropNoSA, 1)
		return
	}
	if packet.IsSYN(p.Data(), &l.info) {
		l.plane.clamp(p.Data(), &l.info, out.SA().Fit, out.Fits(), &l.tally)
	}
	if p.Len > out.Fits() {
		l.refit(p, policy, out)
		return
	}
	l.enqueue(p, out)
}

// enqueue has the packet p, decoded to info, sealed by out with those that follow
// one another. It returns it as it will leave, until the run is sealed, or nil.
func (l *outbound) enqueue(p *netio.Packet, out *sad.Out) *netio.Packet {
	if out != l.run.out || l.run.n == batchSize {
		l.seal()
		l.run.out, l.run.ep = out, out.Endpoint()
	}
	if out.Transport() {
		return l.part(p, out)
	}
	start := p.Off - out.HeadRoom()
	end := start + out.SealedLen(p.Len)
	if start < 0 || end > len(p.Buf) {
		l.tally.add(espDrop(esp.ErrSpace), 1)
		return nil
	}
	r := &l.run
	q := &r.pkts[r.n]
	*q = *p
	l.dress(q, out)
	r.items[r.n] = esp.SealItem{Dst: p.Buf[start:end], Inner: p.Data(), NextHeader: nextHeader(&l.info)}
	r.n++
	return q
}

// dress says what the outer header of p takes over from the inner one, which info
// was decoded from.
func (l *outbound) dress(p *netio.Packet, out *sad.Out) {
	o := out.Outer()
	p.TrafficClass = packet.OuterClass(l.info.TrafficClass, o)
	p.DontFragment = packet.OuterDF(&l.info, o)
	if !p.DontFragment {
		// IPv6 knows no DF: what fits goes in one piece.
		ep := out.Endpoint()
		p.DontFragment = ep.MTU != 0 && ep.Remote.Addr().Is6()
	}
}

// outbound finds the SA for the packet that info was decoded from.
func (l *outbound) outbound(policy *ipsec.Policy) *sad.Out {
	f := &l.flow
	if f.entry == nil || &f.entry.Policy != policy {
		return l.w.Outbound(ipsec.ESP, policy.ReqID, &l.info)
	}
	if f.out == nil {
		f.out = l.w.Outbound(ipsec.ESP, policy.ReqID, &l.info)
	}
	return f.out
}

func nextHeader(p *packet.Info) uint8 {
	if p.Version == 6 {
		return esp.NextIPv6
	}
	return esp.NextIPv4
}

// seal seals the run and hands it to its exit.
func (l *outbound) seal() {
	r := &l.run
	if r.n == 0 {
		return
	}
	items := r.items[:r.n]
	l.w.Seal(r.out, items)
	ep := r.ep
	head := r.out.HeadRoom()
	transport := r.out.Transport()
	x := exitFor(ep.Encap, ep.Remote.Addr())
	for i := range items {
		p := &r.pkts[i]
		if err := items[i].Err; err != nil {
			l.tally.add(espDrop(err), 1)
			continue
		}
		l.tally.add(outPackets, 1)
		l.tally.add(outOctets, uint64(p.Len))
		if transport {
			l.close(p, r.seams[i], items[i].Len)
			continue
		}
		p.Off -= head
		p.Len = items[i].Len
		p.Local, p.Remote = ep.Local, ep.Remote
		if l.listeners != nil {
			l.showSealed(r.out, p)
		}
		if !p.DontFragment && x%2 == 1 && p.Len > r.out.SealedLen(r.out.Fits()) {
			l.fragment(p, r.out)
			continue
		}
		l.leave[x] = append(l.leave[x], *p)
	}
	r.n, r.out = 0, nil
}

// bypass sends the packet on as it is. It carries the mark of our own packets,
// so that the rules that brought it here let it pass.
func (l *outbound) bypass(p *netio.Packet) {
	x := exitClear4
	if l.info.Version == 6 {
		x = exitClear6
	}
	l.tally.add(bypassPackets, 1)
	l.leave[x] = append(l.leave[x], *p)
}

// send lets everything leave.
func (l *outbound) send() {
	for x := range l.leave {
		pkts := l.leave[x]
		if len(pkts) == 0 {
			continue
		}
		l.leave[x] = pkts[:0]
		failed := dropSend
		if exit(x) >= exitClear4 {
			failed = dropBypass
		}
		n, long := write(l.exits[x], pkts)
		if l.tally.add(failed, n); long {
			l.plane.routes.now.Store(true)
		}
	}
	l.used, l.fit.used, l.fit.taken = 0, 0, 0
}

// write sends all of pkts that can be sent and returns how many cannot. long says
// that some were too long for their device.
func write(d netio.Device, pkts []netio.Packet) (failed uint64, long bool) {
	if d == nil {
		return uint64(len(pkts)), false
	}
	for len(pkts) > 0 {
		n, err := d.WriteBatch(pkts)
		pkts = pkts[n:]
		if err == nil {
			return failed, long
		}
		if errors.Is(err, net.ErrClosed) {
			return failed + uint64(len(pkts)), long
		}
		long = long || netio.IsTooLong(err)
		if len(pkts) > 0 {
			failed += uint64(1 + len(pkts[0].Pieces))
			pkts = pkts[1:]
		}
	}
	return failed, long
}
