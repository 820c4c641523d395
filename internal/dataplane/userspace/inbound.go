package userspace

import (
	"net/netip"
	"sync"

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

// owner guards the inbound SAs of one worker. Their packets arrive at one
// socket, as a rule: the kernel steers them by SPI. But an SA may have packets
// at several: IPv4 and IPv6, protocol 50 and UDP after a change of addresses.
// So whoever reads a run of packets of one owner takes its turn with all of
// them: the lock costs nothing while nobody else has packets for the owner.
type owner struct {
	mu sync.Mutex
	w  *sad.Worker // guarded by mu
}

// inbound takes packets from one outer socket to the protected side. It belongs
// to one goroutine.
type inbound struct {
	plane   *Plane
	carries ipsec.Protocol
	udp     bool // ESP in UDP, shared with IKE
	inner   netio.Writer
	tally   tally

	reader *netio.Reader // nil in lanes that others read for
	// joins is the inner device if it takes super-packets, or nil.
	joins netio.Joiner

	// Scratch, used again for each batch.

	listeners capture.Listeners // to this batch
	table     *spd.Table        // for this batch

	info packet.Info
	// protocol is what carries says, but for packets that come out of AH.
	protocol ipsec.Protocol
	nested   nested
	deliver  []netio.Packet
	pieces   pieces
	// admitted is the flow that was admitted last, and the SA that carried it.
	// It does not outlive the owner's turn.
	admitted struct {
		in   *sad.In
		info packet.Info
	}
	// latest is the SA that was found last, for packets come in runs of one SA too.
	// It does not outlive the owner's turn.
	latest struct {
		in  *sad.In
		spi ipsec.SPI
	}
	// run are packets of one SA that follow one another, to be opened together.
	// It does not outlive the owner's turn.
	run struct {
		in    *sad.In
		items [batchSize]esp.OpenItem
		from  [batchSize]netip.AddrPort
		class [batchSize]uint8
		n     int
	}
	// rejoined is where packets of transport mode get their headers back; used
	// octets are taken. It is made when the first such packet comes.
	rejoined []byte
	used     int
	apart    int // packets that were taken out of payloads and not handed over
	// joining says that the packets of the batch go through the coalescer.
	joining          bool
	coalescer        *packet.Coalescer
	joinTCP, joinUDP bool // what it joins
}

func newInbound(p *Plane, carries ipsec.Protocol, udp bool, inner netio.Writer) *inbound {
	l := &inbound{plane: p, carries: carries, udp: udp, inner: inner, deliver: make([]netio.Packet, 0, netio.MaxRead)}
	l.joins, _ = inner.(netio.Joiner)
	return l
}

// reading has the lane read outer. There is room for what a peer sends in
// fragments: the kernel has put them together. Pages that no packet reaches are
// never backed by memory.
func (l *inbound) reading(outer netio.Device) *inbound {
	l.reader = netio.NewReader(outer, netio.MaxPacket)
	return l
}

// loop works until the device is closed.
func (l *inbound) loop() error {
	for {
		pkts, err := l.reader.Read()
		if err != nil {
			return err
		}
		l.carry(pkts)
	}
}

// carry takes one batch all the way.
func (l *inbound) carry(pkts []netio.Packet) {
	l.listeners = l.plane.opts.Tap.Listeners()
	l.table = l.plane.policies.Load()
	l.deliver = l.deliver[:0]
	l.prepare(len(pkts))
	l.protocol = l.carries
	l.openAll(pkts)
	l.openNested()
	l.hand()
	l.tally.publish()
}

// openAll opens pkts, owner by owner.
func (l *inbound) openAll(pkts []netio.Packet) {
	for len(pkts) > 0 {
		spi, ok := l.demux(&pkts[0])
		if !ok {
			pkts = pkts[1:]
			continue
		}
		pkts = l.open(pkts, l.plane.sad.Owner(spi))
	}
}

// hand hands over what is ready to be delivered.
func (l *inbound) hand() {
	if l.joining {
		for _, g := range l.coalescer.Groups() {
			l.deliver = append(l.deliver, netio.Packet{Buf: g.Packet, Len: len(g.Packet), Segment: g.Segment, Pieces: g.Pieces})
		}
	}
	if len(l.deliver) > 0 {
		n, _ := write(l.inner, l.deliver)
		l.tally.add(dropDeliver, n)
	}
	l.used, l.apart = 0, 0
}

// flush hands over what is ready in the middle of a batch.
func (l *inbound) flush() {
	l.hand()
	l.deliver = l.deliver[:0]
	if l.joining {
		l.coalescer.Reset()
	}
}

// prepare sees whether a batch of n packets is to be joined, and to what does it.
func (l *inbound) prepare(n int) {
	l.joining = false
	if l.joins == nil || n == 1 {
		return
	}
	tcp, udp := l.joins.Joins()
	if !tcp && !udp {
		return
	}
	l.joining = true
	if l.coalescer == nil || tcp != l.joinTCP || udp != l.joinUDP {
		l.coalescer = packet.NewCoalescer(netio.MaxRead, tcp, udp)
		l.joinTCP, l.joinUDP = tcp, udp
		return
	}
	l.coalescer.Reset()
}

// demux returns the SPI of an ESP or AH packet, and false for anything else, which
// it has dealt with (RFC 3948, Section 2).
func (l *inbound) demux(p *netio.Packet) (ipsec.SPI, bool) {
	b := p.Data()
	if p.Truncated {
		l.tally.add(dropTruncated, 1)
		return 0, false
	}
	if l.udp {
		switch {
		case len(b) == 1 && b[0] == 0xff:
			l.tally.add(keepalives, 1)
			return 0, false
		case len(b) >= 4 && b[0] == 0 && b[1] == 0 && b[2] == 0 && b[3] == 0:
			l.tally.add(ikeMessages, 1)
			if !l.plane.ike.Deliver(b[4:], p.Local, p.Remote) {
				l.tally.add(dropIKEOverflow, 1)
			}
			return 0, false
		}
	}
	if l.protocol == ipsec.AH {
		spi, err := ah.PeekSPI(b)
		if err != nil {
			l.tally.add(dropOf(ipsec.AH, err), 1)
			return 0, false
		}
		if spi < ipsec.MinSPI {
			l.tally.add(dropReservedSPI, 1)
			return 0, false
		}
		return spi, true
	}
	spi, ok := esp.PeekSPI(b)
	switch {
	case ok:
		return spi, true
	case len(b) < esp.HeaderLen:
		l.tally.add(espDrop(esp.ErrShort), 1)
	default:
		l.tally.add(dropReservedSPI, 1)
	}
	return 0, false
}

// open opens the packets at the start of pkts whose SAs the owner has, and
// returns the rest. The first is one of them.
func (l *inbound) open(pkts []netio.Packet, index int) []netio.Packet {
	o := l.plane.owners[index]
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w.Begin(l.plane.coarseNow())
	defer func() {
		l.latest.in, l.admitted.in = nil, nil
		l.run.in, l.run.n = nil, 0
		l.plane.report(o.w.End())
	}()
	for i := range pkts {
		p := &pkts[i]
		spi, ok := l.demux(p)
		if !ok {
			continue
		}
		in := l.latest.in
		if in == nil || spi != l.latest.spi {
			// A stranger among the owner's packets is dropped here, as any owner
			// would: it does not break the run.
			if l.plane.sad.Owner(spi) != index && o.w.Knows(l.protocol, spi) {
				l.openRun(o.w)
				return pkts[i:]
			}
			if in = o.w.Inbound(l.protocol, spi); in != nil {
				l.latest.in, l.latest.spi = in, spi
			}
		}
		l.openOne(o.w, p, in, l.outside(len(pkts)-i))
	}
	l.openRun(o.w)
	return nil
}

// openOne opens a packet of the SA in, which is nil where there is none.
func (l *inbound) openOne(w *sad.Worker, p *netio.Packet, in *sad.In, outside uint32) {
	if l.listeners != nil && l.protocol == l.carries {
		l.showSealed(p, in)
	}
	if in == nil {
		l.tally.add(dropOf(l.protocol, drop.NoSA), 1)
		return
	}
	if l.protocol == ipsec.AH {
		l.openAH(w, p, in)
		return
	}
	if !l.bundled(in, outside) {
		return
	}
	var from netip.AddrPort
	if l.udp {
		from = p.Remote
	}
	r := &l.run
	if in != r.in || r.n == len(r.items) {
		l.openRun(w) // what came before leaves before
		r.in = in
	}
	if in.Serial() {
		r.items[r.n].Packet, r.from[r.n], r.class[r.n] = p.Data(), from, p.TrafficClass
		r.n++
		return
	}
	b, next, err := w.Open(in, p.Data(), from)
	l.opened(w, in, carried{b, next, p.TrafficClass, in.Sequence()}, err)
}

// showSealed shows a packet before it is opened, to those who listen; in is nil
// where no SA takes it.
func (l *inbound) showSealed(p *netio.Packet, in *sad.In) {
	connection, tunnel := "", ""
	if in != nil {
		connection, tunnel = in.SA().Connection, in.SA().Tunnel
	}
	l.listeners.IPsec(ipsec.In, connection, tunnel, &capture.Sealed{
		Local: p.Local, Remote: p.Remote, Protocol: l.protocol, UDP: l.udp, Whole: l.protocol == ipsec.AH,
		TrafficClass: p.TrafficClass, Data: p.Data(),
	})
}

// openRun opens the run.
func (l *inbound) openRun(w *sad.Worker) {
	r := &l.run
	if r.n == 0 {
		return
	}
	items := r.items[:r.n]
	w.OpenBatch(r.in, items, r.from[:r.n])
	for i := range items {
		l.opened(w, r.in, carried{items[i].Inner, items[i].NextHeader, r.class[i], items[i].Seq}, items[i].Err)
	}
	clear(items)
	r.n = 0
}

// carried is what a packet held: an IP packet, or of ESP in transport mode what
// follows its header, of the protocol next, or a payload of AGGFRAG mode. class is
// the traffic class that it came with, and seq its sequence number.
type carried struct {
	inner       []byte
	next, class uint8
	seq         uint64
}

// opened takes what in carried to the protected side.
func (l *inbound) opened(w *sad.Worker, in *sad.In, c carried, err error) {
	if err != nil {
		l.tally.add(espDrop(err), 1)
		return
	}
	switch {
	case in.Receiver() != nil:
		l.takeApart(w, in, c)
		return
	case in.Transport():
		c.inner = l.rejoin(in, c)
	}
	l.admit(w, in, c)
}

// admit delivers the packet that in carried if the SA is for such packets.
func (l *inbound) admit(w *sad.Worker, in *sad.In, c carried) {
	b := c.inner
	l.info.Decode(b)
	if l.info.IsFragment() && !in.Transport() {
		l.trace(in)
	}
	// Packets come in runs of one flow: what was admitted once need not be
	// compared with all selectors again.
	if in != l.admitted.in || !l.info.SameFlow(&l.admitted.info) {
		if !w.Admit(in, &l.info) {
			l.tally.add(dropOf(l.protocol, drop.Selector), 1)
			return
		}
		l.admitted.in, l.admitted.info = in, l.info
	}
	if !in.Transport() && (c.class != 0 || in.Outer().DSCP.Believes()) && !l.undress(in, b, c.class) {
		return
	}
	if packet.IsSYN(b, &l.info) {
		l.clampInbound(w, in, b)
	}
	if l.listeners != nil {
		sa := in.SA()
		l.listeners.Inner(ipsec.In, sa.Connection, sa.Tunnel, b, 0)
	}
	l.tally.add(inPackets, 1)
	l.tally.add(inOctets, uint64(len(b)))
	if l.joining {
		l.coalescer.Add(b, &l.info)
		return
	}
	l.deliver = append(l.deliver, netio.Packet{Buf: b, Len: len(b)})
}

// trace finds out to which flow the fragment that info was decoded from, and that
// in carried, belongs.
func (l *inbound) trace(in *sad.In) {
	now, within := l.plane.seconds.Load(), uint32(in.SA().SPI)
	if l.info.FragmentOffset != 0 {
		l.pieces.recall(&l.info, within, now)
	} else {
		l.pieces.remember(&l.info, within, now)
	}
}

// undress takes over to the packet b, which info was decoded from, what its outer
// header has met on the way. It reports false for a packet that must not go on.
func (l *inbound) undress(in *sad.In, b []byte, outer uint8) bool {
	class, fault := packet.InnerClass(l.info.TrafficClass, outer, in.Outer())
	switch fault {
	case packet.ECNLost:
		l.tally.add(dropECN, 1)
		return false
	case packet.ECNUnused:
		l.tally.add(ecnUnused, 1)
	case packet.ECNFine:
	}
	if class != l.info.TrafficClass {
		packet.SetTrafficClass(b, class)
		l.info.TrafficClass = class
	}
	return true
}
