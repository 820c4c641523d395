package userspace

import (
	"errors"
	"net"
	"net/netip"

	"caponier/internal/aggfrag"
	"caponier/internal/ah"
	"caponier/internal/capture"
	"caponier/internal/drop"
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
	exitWhole4 // sealed packets with their IP header: transport mode, AH, and fragments
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
	reader *netio.Reader // nil in lanes that others read for
	exits  [exits]netio.Writer
	// releases says that this is the lane of held packets.
	releases bool
	tally    tally

	// Scratch, used again for each batch.

	listeners capture.Listeners // to this batch

	info     packet.Info
	segments packet.Segmenter
	fit      fitter
	leave    [exits][]netio.Packet
	// flow is that of the packet before, with its policy and, where they were
	// looked up, its SAs: packets come in runs. It does not outlive the batch.
	flow struct {
		info  packet.Info
		entry *spd.Entry
		path  path
	}
	// sealed is where packets cut from super-packets go; used octets are taken.
	// It is made when the first super-packet comes.
	sealed    []byte
	used      int
	fragments fragments
	sharing   sharing
	// run are the packets of one path that follow one another.
	run struct {
		path
		pkts  [batchSize]netio.Packet
		items [batchSize]esp.SealItem
		n     int
		ep    *sad.Endpoint
		// Of transport mode: where the packets were parted.
		seams [batchSize]packet.Seam
		// Of AH alone: the lengths of the packets without it. Of AGGFRAG mode: how many
		// octets of packets each payload holds.
		octets [batchSize]int
		// Of AGGFRAG mode: how many packets end in each payload.
		shared [batchSize]int
	}
	// wrapped are packets of the run that AH is put around.
	wrapped struct {
		pkts  [batchSize]netio.Packet
		items [batchSize]ah.SealItem
		n     int
	}
	identification uint16 // of the last IPv4 header that was made here
}

// path is the way of a packet through the SAs: one of ESP or AH, and in a bundle
// one of AH around the one of ESP.
type path struct{ out, around *sad.Out }

// fits is the length of the longest inner packet whose sealed packet fits the way
// to the peer, as far as it is known.
func (x path) fits() int {
	if x.around == nil {
		return x.out.Fits()
	}
	return min(x.out.Fits(), x.out.Longest(x.around.Fits()))
}

// find returns the path that the policy asks for, for a packet with these
// headers; out is nil where an SA is missing.
func find(w *sad.Worker, policy *ipsec.Policy, p *packet.Info) path {
	protocol := ipsec.ESP
	if policy.Protocol == ipsec.AH {
		protocol = ipsec.AH
	}
	x := path{out: w.Outbound(protocol, policy.ReqID, p)}
	if x.out == nil || !policy.WithAH {
		return x
	}
	if x.around = w.Outbound(ipsec.AH, policy.ReqID, p); x.around == nil {
		return path{}
	}
	return x
}

func newOutbound(p *Plane, w *sad.Worker, by [exits]netio.Writer) *outbound {
	l := &outbound{plane: p, w: w, exits: by}
	for i := range l.leave {
		l.leave[i] = make([]netio.Packet, 0, batchSize)
	}
	return l
}

// reading has the lane read packets of at most size octets from inner.
func (l *outbound) reading(inner netio.Device, size int) *outbound {
	l.reader = netio.NewReader(inner, size)
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
				l.tally.add(unmatched(&l.info), 1)
				continue
			}
			l.flow.entry, l.flow.path, l.flow.info = entry, path{}, l.info
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
	if !l.releases && policy.Action == ipsec.Protect {
		l.listeners.Inner(ipsec.Out, policy.Connection, policy.Tunnel, p.Data(), p.Segment)
	}
}

// showSealed shows a packet that out has sealed; whole says that it has its IP
// header.
func (l *outbound) showSealed(out *sad.Out, p *netio.Packet, whole bool) {
	sa := out.SA()
	l.listeners.IPsec(ipsec.Out, sa.Connection, sa.Tunnel, &capture.Sealed{
		Local: p.Local, Remote: p.Remote, Protocol: sa.Protocol, UDP: out.Endpoint().Encap, Whole: whole,
		TrafficClass: p.TrafficClass, Data: p.Data(),
	})
}

// unmatched counts a packet for which no policy decides.
func unmatched(p *packet.Info) counter {
	if !p.HasPorts && p.Obscure() {
		return dropObscure
	}
	return dropNoPolicy
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
	l.run.n, l.run.path, l.wrapped.n = 0, path{}, 0
	l.sharing.packer = aggfrag.Packer{}
	l.flow.entry, l.flow.path = nil, path{}
	l.plane.report(l.w.End())
}

func (l *outbound) protect(p *netio.Packet, policy *ipsec.Policy) {
	x := l.path(policy)
	if x.out == nil && policy.Acquire {
		x = l.plane.held.hold(l.w, policy, &l.info, p.Data())
		if x.out == nil {
			return
		}
	}
	out := x.out
	if out == nil {
		l.tally.add(dropNoSA, 1)
		return
	}
	if packet.IsSYN(p.Data(), &l.info) {
		l.plane.clamp(p.Data(), &l.info, out.SA().Fit, x.fits(), &l.tally)
	}
	if p.Len > x.fits() {
		l.refit(p, policy, x)
		return
	}
	l.enqueue(p, policy, x)
}

// enqueue has the packet p, decoded to info, sealed by x with those that follow
// one another. It returns it as it will leave, until the run is sealed, or nil.
func (l *outbound) enqueue(p *netio.Packet, policy *ipsec.Policy, x path) *netio.Packet {
	out := x.out
	if out.Aggfrag().On {
		return l.share(p.Data(), policy, x)
	}
	if x != l.run.path || l.run.n == batchSize {
		l.seal()
		l.run.path, l.run.ep = x, out.Endpoint()
	}
	switch {
	case out.Protocol() == ipsec.AH:
		return l.authenticate(p)
	case out.Transport():
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

// path finds the SAs for the packet that info was decoded from.
func (l *outbound) path(policy *ipsec.Policy) path {
	f := &l.flow
	if f.entry == nil || &f.entry.Policy != policy {
		return find(l.w, policy, &l.info)
	}
	if f.path.out == nil {
		f.path = find(l.w, policy, &l.info)
	}
	return f.path
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
	l.finish()
	if r.n == 0 {
		return
	}
	if r.out.Protocol() == ipsec.ESP {
		l.sealESP()
	} else {
		l.sealAH(r.out)
	}
	r.n, r.path = 0, path{}
}

func (l *outbound) sealESP() {
	r := &l.run
	items := r.items[:r.n]
	l.w.Seal(r.out, items)
	head := r.out.HeadRoom()
	transport, shared := r.out.Transport(), r.out.Aggfrag().On
	for i := range items {
		p := &r.pkts[i]
		packets, octets := 1, p.Len
		if shared {
			packets, octets = r.shared[i], r.octets[i]
		}
		if err := items[i].Err; err != nil {
			l.tally.add(espDrop(err), uint64(max(packets, 1)))
			continue
		}
		if shared {
			l.tally.add(aggfragOut, 1)
		}
		l.tally.add(outPackets, uint64(packets))
		l.tally.add(outOctets, uint64(octets))
		p.Local, p.Remote = r.ep.Local, r.ep.Remote
		x := exitFor(r.ep.Encap, r.ep.Remote.Addr())
		if transport {
			x = l.close(p, r.seams[i], items[i].Len)
		} else {
			p.Off -= head
			p.Len = items[i].Len
		}
		switch {
		case r.around == nil:
			l.depart(p, x, r.out)
		case r.ep.Encap: // AH would cover what a NAT changes
			l.tally.add(espDrop(drop.Bundle), 1)
		case transport || l.encapsulate(p, r.around.Endpoint(), packet.ProtocolESP):
			l.wrap(p, r.around)
		}
	}
	if r.around != nil {
		l.sealAH(r.around)
	}
}

// depart lets a sealed packet leave, in fragments where nobody else will cut it.
func (l *outbound) depart(p *netio.Packet, x exit, out *sad.Out) {
	whole := x == exitWhole4 || x == exitWhole6
	if l.listeners != nil {
		l.showSealed(out, p, whole)
	}
	switch {
	case p.DontFragment:
	case whole && p.Len > out.SealedFits():
		b := p.Data()
		if b[0]>>4 == 4 {
			b[6] &^= 0x40 // DF
		}
		l.cutSealed(b, out.SealedFits())
		return
	case !whole && x%2 == 1 && p.Len > out.SealedLen(out.Payload()):
		l.fragment(p, out)
		return
	}
	l.leave[x] = append(l.leave[x], *p)
}

// bypass sends the packet on as it is. It carries the mark of our own packets,
// so that the rules that brought it here let it pass.
func (l *outbound) bypass(p *netio.Packet) {
	x := exitClear4
	if l.info.Version == 6 {
		x = exitClear6
	}
	l.tally.add(bypassPackets, 1)
	if l.fragments.gathered && p.Len > l.plane.opts.MTU {
		l.cutTo(x, p.Data(), l.plane.opts.MTU)
		return
	}
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
func write(d netio.Writer, pkts []netio.Packet) (failed uint64, long bool) {
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
