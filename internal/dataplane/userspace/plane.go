// Package userspace is the data plane in user space: it reads packets from a
// TUN device, seals them, and sends them as ESP over UDP or IP protocol 50, and
// the other way round.
//
// Worker i owns queue i of the TUN device with one goroutine, its outbound lane,
// and the i-th UDP socket of each family with one each, its inbound lanes. The
// two raw sockets of protocol 50 have a lane each with the first worker. A lane
// takes a batch all the way, from one device to the other, in its own memory:
//
//	out  read -> decode -> policy -> SA -> seal in place -> write
//	in   read -> keepalive | IKE | SPI -> SA -> open in place -> selectors -> write
//
// What a lane reads may stand for many packets: a TUN device delivers TCP and UDP
// super-packets, which are cut while they are sealed, so that sealing is their
// only copy, and UDP sockets deliver trains of datagrams. What it writes leaves
// in the same form: datagrams of one length as a train, packets of one flow
// joined to a super-packet. On the wire and behind the gateways nothing differs
// from packets that travel one by one.
//
// A packet causes no allocation, lock or channel operation. Each batch takes
// the lock of the worker whose inbound SAs it touches, which the steering of
// packets by SPI keeps free.
package userspace

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/ah"
	"caponier/internal/capture"
	"caponier/internal/dataplane"
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/sad"
	"caponier/internal/spd"
	"caponier/internal/suite"
)

// batchSize is how many packets a lane takes at once.
const batchSize = 128

// eventDepth is how many events wait for control at most.
const eventDepth = 1024

// restartPause is how long a lane rests after an error.
const restartPause = 100 * time.Millisecond

// Options are what a Plane is made of.
type Options struct {
	// Devices are the plane's from New on, which closes them where it fails.
	Devices Devices
	// MTU is the size of the largest packet that the inner devices deliver; 0
	// is DefaultMTU.
	MTU int
	// Rand gives the randomness of SPIs: crypto/rand.Reader.
	Rand io.Reader
	// Now is the clock; nil is time.Now. It is read once in a Tick, not for
	// packets: lifetimes by time are as exact as Tick.
	Now  func() time.Time
	Tick time.Duration // 0 is a second
	// AcquireTimeout is how long packets wait for an SA, and after how long a
	// policy that still has none asks again; 0 is 10 seconds.
	AcquireTimeout time.Duration
	// RouteMTU says how long a packet may be on the route from one outer address to
	// another, in octets, without what routers have told; 0 is for unknown. nil
	// knows nothing: then packets are taken for short enough until a router says
	// otherwise.
	RouteMTU func(local, remote netip.Addr) int
	// StayAwake has each worker take all of its devices, which are apart from Go's
	// poller, in one goroutine that sleeps only some time after the last packet
	// (Linger), and small batches: packets wait less, each costs more.
	StayAwake bool
	Tap       *capture.Tap // shows the packets that pass; nil shows none
	Logger    *slog.Logger // nil discards
}

// Devices are the ends of a plane.
type Devices struct {
	// Inner has one device for each worker: the queues of a TUN device.
	Inner []netio.Device
	// UDP4 and UDP6 have one device for each worker, or are empty: the sockets
	// of one port.
	UDP4, UDP6 []netio.Device
	// UDPPort is their port.
	UDPPort uint16
	// ESP4 and ESP6 carry IP protocol 50. They may be nil.
	ESP4, ESP6 netio.Device
	// AH4 and AH6 read IP protocol 51, whole packets. They may be nil.
	AH4, AH6 netio.Device
	// Clear4 and Clear6 send whole IP packets: what a policy lets bypass, and what
	// has its header since it was sealed. They may be nil.
	Clear4, Clear6 netio.Device
	// ICMP4 and ICMP6 hear what routers say of long packets, and tell senders
	// inside. They may be nil.
	ICMP4, ICMP6 netio.Device
	// Frames captures frames past the kernel; nil where nothing does. All other
	// devices carry what is not captured.
	Frames *frame.Hub
}

func (d *Devices) all() []netio.Device {
	all := append([]netio.Device(nil), d.Inner...)
	all = append(append(all, d.UDP4...), d.UDP6...)
	for _, x := range []netio.Device{d.ESP4, d.ESP6, d.AH4, d.AH6, d.Clear4, d.Clear6, d.ICMP4, d.ICMP6} {
		if x != nil {
			all = append(all, x)
		}
	}
	return all
}

// Close closes all devices.
func (d *Devices) Close() error {
	var errs []error
	for _, x := range d.all() {
		errs = append(errs, x.Close())
	}
	if d.Frames != nil {
		errs = append(errs, d.Frames.Close())
	}
	return errors.Join(errs...)
}

func (d *Devices) check() error {
	n := len(d.Inner)
	switch {
	case n == 0:
		return errors.New("no inner device")
	case len(d.UDP4) != 0 && len(d.UDP4) != n, len(d.UDP6) != 0 && len(d.UDP6) != n:
		return fmt.Errorf("%d inner devices, but %d UDP sockets for IPv4 and %d for IPv6", n, len(d.UDP4), len(d.UDP6))
	default:
		return nil
	}
}

func (d *Devices) exits(worker int) [exits]netio.Writer {
	x := [exits]netio.Writer{
		exitESP4: d.ESP4, exitESP6: d.ESP6, exitClear4: d.Clear4, exitClear6: d.Clear6,
		exitWhole4: d.Clear4, exitWhole6: d.Clear6, exitICMP4: d.ICMP4, exitICMP6: d.ICMP6,
	}
	if len(d.UDP4) > 0 {
		x[exitUDP4] = d.UDP4[worker]
	}
	if len(d.UDP6) > 0 {
		x[exitUDP6] = d.UDP6[worker]
	}
	return x
}

// Plane is a data plane in user space. It implements dataplane.Backend.
type Plane struct {
	// Constant after New.
	opts   Options
	log    *slog.Logger
	sad    *sad.DB
	owners []*owner
	out    []*outbound
	in     []*inbound
	framed []*framed
	awake  []*awake // of workers that stay awake
	heard  []*listener
	ike    *netio.IKEPort
	held   *holdQueue
	events *dataplane.EventQueue
	stop   chan struct{}
	lanes  sync.WaitGroup

	routes   routes
	policies atomic.Pointer[spd.Table]
	seconds  atomic.Int64 // the time of the last tick, since 1970
	closed   atomic.Bool
	close    sync.Once

	// pacer sends for SAs of a constant rate; wake tells it of a new one.
	pacer *outbound
	wake  chan struct{}
	born  time.Time

	// release carries held packets, for whoever adds an SA.
	releaseMu sync.Mutex
	release   *outbound // guarded by releaseMu
	released  []netio.Packet
}

var _ dataplane.Backend = (*Plane)(nil)

// New starts a data plane over the devices. It has one worker for each inner
// device.
func New(opts Options) (*Plane, error) {
	if err := opts.Devices.check(); err != nil {
		opts.Devices.Close()
		return nil, fmt.Errorf("user-space data plane: %w", err)
	}
	if opts.MTU == 0 {
		opts.MTU = DefaultMTU
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Tick == 0 {
		opts.Tick = time.Second
	}
	if opts.AcquireTimeout == 0 {
		opts.AcquireTimeout = 10 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	p := assemble(opts)
	if opts.StayAwake {
		if err := p.stayAwake(); err != nil {
			return nil, errors.Join(err, p.Close())
		}
	}
	p.sift()
	p.start()
	return p, nil
}

// assemble makes the lanes, without goroutines.
func assemble(opts Options) *Plane {
	d := &opts.Devices
	n := len(d.Inner)
	p := &Plane{
		opts:   opts,
		log:    opts.Logger,
		events: dataplane.NewEventQueue(eventDepth),
		stop:   make(chan struct{}),
		// n that own inbound SAs, n that seal, the one that releases, the one that
		// sends at a constant rate, and those that seal what was captured.
		sad: sad.New(sad.Config{Workers: 2*n + 2 + opts.Devices.sockets(), Owners: n, Rand: opts.Rand, Awaits: opts.awaits()}),
	}
	p.policies.Store(new(spd.Table))
	p.routes.ask = opts.RouteMTU
	p.seconds.Store(opts.Now().Unix())
	p.held = newHoldQueue(opts.AcquireTimeout, opts.Now, p.events.Push)
	for i := range n {
		p.owners = append(p.owners, &owner{w: p.sad.Worker(i)})
		p.out = append(p.out, newOutbound(p, p.sad.Worker(n+i), d.exits(i)).reading(d.Inner[i], opts.MTU))
	}
	p.release = newOutbound(p, p.sad.Worker(2*n), d.exits(0))
	p.release.releases = true
	p.pacer = newOutbound(p, p.sad.Worker(2*n+1), d.exits(0))
	p.wake, p.born = make(chan struct{}, 1), opts.Now()
	p.released = netio.NewBatch(holdPackets, opts.MTU)
	for i := range d.UDP4 {
		p.in = append(p.in, newInbound(p, ipsec.ESP, true, d.Inner[i]).reading(d.UDP4[i]))
	}
	for i := range d.UDP6 {
		p.in = append(p.in, newInbound(p, ipsec.ESP, true, d.Inner[i]).reading(d.UDP6[i]))
	}
	for _, x := range []netio.Device{d.ESP4, d.ESP6} {
		if x != nil {
			p.in = append(p.in, newInbound(p, ipsec.ESP, false, d.Inner[0]).reading(x))
		}
	}
	for _, x := range []netio.Device{d.AH4, d.AH6} {
		if x != nil {
			p.in = append(p.in, newInbound(p, ipsec.AH, false, d.Inner[0]).reading(x))
		}
	}
	p.framedLanes(2*n + 2)
	for version, x := range map[uint8]netio.Device{4: d.ICMP4, 6: d.ICMP6} {
		if x != nil {
			p.heard = append(p.heard, newListener(p, x, version))
		}
	}
	var v4, v6 netio.Device
	if len(d.UDP4) > 0 {
		v4 = d.UDP4[0]
	}
	if len(d.UDP6) > 0 {
		v6 = d.UDP6[0]
	}
	p.ike = netio.NewIKEPort(v4, v6, d.UDPPort, true)
	return p
}

func (p *Plane) start() {
	for _, a := range p.awake {
		p.lanes.Go(func() { p.run("awake", a.loop, a.tally) })
	}
	if !p.opts.StayAwake {
		p.startLanes()
	}
	for _, l := range p.heard {
		p.lanes.Go(func() { p.run("path MTU", l.loop, &l.tally) })
	}
	p.lanes.Go(p.ticker)
	p.lanes.Go(func() { p.run("pace", p.pacing, &p.pacer.tally) })
}

// startLanes gives each lane a goroutine.
func (p *Plane) startLanes() {
	for _, l := range p.out {
		p.lanes.Go(func() { p.run("outbound", l.loop, &l.tally) })
	}
	for _, l := range p.in {
		p.lanes.Go(func() { p.run("inbound", l.loop, &l.tally) })
	}
	for _, l := range p.framed {
		p.lanes.Go(func() { p.run("frames", l.loop, &l.out.tally) })
	}
}

// run keeps a lane going until its device is closed.
func (p *Plane) run(lane string, loop func() error, t *tally) {
	for {
		err := p.guard(lane, loop, t)
		if errors.Is(err, net.ErrClosed) {
			if !p.closed.Load() {
				p.log.Error("device of the data plane is gone", "lane", lane)
			}
			return
		}
		if err != nil {
			t.add(readErrors, 1)
			p.log.Warn("data plane cannot read", "lane", lane, "error", err)
		}
		t.publish()
		select {
		case <-p.stop:
			return
		case <-time.After(restartPause):
		}
	}
}

// guard turns a panic into a log record and a lost batch.
func (p *Plane) guard(lane string, loop func() error, t *tally) (err error) {
	defer func() {
		if r := recover(); r != nil {
			t.add(panics, 1)
			p.log.Error("data plane worker failed", "lane", lane, "error", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = nil
		}
	}()
	return loop()
}

// ticker does what has to be done by the clock.
func (p *Plane) ticker() {
	t := time.NewTicker(p.opts.Tick)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.tick()
		}
	}
}

func (p *Plane) tick() {
	now := p.opts.Now()
	p.seconds.Store(now.Unix())
	for _, e := range p.sad.Expire(now) {
		p.events.Push(e)
	}
	p.remeasure(now)
	p.sift()
	p.held.tick()
	p.events.Flush()
}

// coarseNow is the time of the last tick, in whole seconds.
func (p *Plane) coarseNow() time.Time { return time.Unix(p.seconds.Load(), 0) }

// report passes on what happened in a batch.
func (p *Plane) report(events []ipsec.Event) {
	for _, e := range events {
		if x, ok := e.(ipsec.Expire); ok && x.Hard {
			// Control may have deleted it meanwhile.
			_ = p.sad.Delete(x.ID)
		}
		p.events.Push(e)
	}
}

// AllocateSPI implements dataplane.Backend.
func (p *Plane) AllocateSPI(proto ipsec.Protocol) (ipsec.SPI, error) {
	spi, err := p.sad.AllocateSPI(proto)
	return spi, translate(err)
}

// ReleaseSPI implements dataplane.Backend.
func (p *Plane) ReleaseSPI(proto ipsec.Protocol, spi ipsec.SPI) { p.sad.ReleaseSPI(proto, spi) }

// AddSA implements dataplane.Backend.
func (p *Plane) AddSA(sa ipsec.SA) error {
	if err := p.sad.Add(sa, p.opts.Now()); err != nil {
		return translate(err)
	}
	if sa.Direction == ipsec.Out {
		// What is known of the way; the SA may be gone meanwhile.
		_ = p.sad.Update(sa.ID(), p.endpoint(ipsec.Out, sa.Local, sa.Remote, sa.Encap))
		p.releaseHeld(sa.ReqID)
		if sa.Aggfrag.Pace.Rate != 0 {
			select {
			case p.wake <- struct{}{}:
			default:
			}
		}
	}
	return nil
}

// releaseHeld sends the packets of reqID as if they had just come.
func (p *Plane) releaseHeld(reqID uint32) {
	packets := p.held.take(reqID)
	if len(packets) > 0 {
		p.carryHeld(packets)
	}
	p.held.served(reqID)
}

func (p *Plane) carryHeld(packets [][]byte) {
	p.releaseMu.Lock()
	defer p.releaseMu.Unlock()
	for len(packets) > 0 {
		n := min(len(packets), len(p.released))
		for i := range n {
			pkt := &p.released[i]
			pkt.Off, pkt.Truncated = netio.Headroom, false
			pkt.Len = copy(pkt.Buf[pkt.Off:], packets[i])
		}
		p.release.carry(p.released[:n])
		packets = packets[n:]
	}
}

// UpdateSA implements dataplane.Backend.
func (p *Plane) UpdateSA(id ipsec.SAID, u dataplane.AddressUpdate) error {
	return translate(p.sad.Update(id, p.endpoint(id.Direction, u.Local, u.Remote, u.Encap)))
}

// DeleteSA implements dataplane.Backend.
func (p *Plane) DeleteSA(id ipsec.SAID) error { return translate(p.sad.Delete(id)) }

// SAs implements dataplane.Backend.
func (p *Plane) SAs() []ipsec.SAStatus { return p.sad.Status() }

// SetPolicies implements dataplane.Backend.
func (p *Plane) SetPolicies(policies []ipsec.Policy) error {
	if p.closed.Load() {
		return dataplane.ErrClosed
	}
	table, err := spd.Compile(policies)
	if err != nil {
		return fmt.Errorf("set policies: %w", err)
	}
	p.policies.Store(table)
	p.held.keep(policies)
	return nil
}

// Policies implements dataplane.Backend.
func (p *Plane) Policies() []ipsec.Policy { return p.policies.Load().Policies() }

// Events implements dataplane.Backend.
func (p *Plane) Events() <-chan ipsec.Event { return p.events.Events() }

// IKESocket returns the socket that the plane shares with IKE: its UDP port.
func (p *Plane) IKESocket() netio.IKESocket { return p.ike }

// Counters implements dataplane.Backend.
func (p *Plane) Counters() map[string]uint64 {
	sums := make(map[string]uint64, counters)
	for _, l := range p.out {
		l.tally.addTo(sums)
	}
	for _, l := range p.in {
		l.tally.addTo(sums)
	}
	for _, l := range p.heard {
		l.tally.addTo(sums)
	}
	for _, l := range p.framed {
		l.addTo(sums)
	}
	if f := p.opts.Devices.Frames; f != nil {
		for name, n := range f.Counters() {
			sums[name] += n // what is dropped early as well
		}
	}
	p.release.tally.addTo(sums)
	p.pacer.tally.addTo(sums)
	p.held.addTo(sums)
	sums[counterNames[eventsLost]] += p.events.Lost()
	return sums
}

// Close implements dataplane.Backend.
func (p *Plane) Close() error {
	var err error
	p.close.Do(func() {
		p.closed.Store(true)
		close(p.stop)
		err = p.opts.Devices.Close()
		for _, a := range p.awake {
			a.watch.Close()
		}
		p.lanes.Wait()
		for _, a := range p.awake {
			a.end()
		}
		for _, l := range p.out {
			l.reader.Close()
		}
		for _, l := range p.in {
			l.reader.Close()
		}
		p.ike.Close()
		p.sad.Close()
		p.held.keep(nil)
		p.events.Close()
	})
	return err
}

// translate gives the errors of the SAD and of ESP the names that every Backend
// gives them.
func translate(err error) error {
	for _, x := range []struct{ theirs, ours error }{
		{sad.ErrExists, dataplane.ErrExists},
		{sad.ErrNotFound, dataplane.ErrNotFound},
		{sad.ErrLimit, dataplane.ErrLimit},
		{sad.ErrClosed, dataplane.ErrClosed},
		{suite.ErrUnknown, dataplane.ErrTransform},
		{esp.ErrUnsupported, dataplane.ErrTransform},
		{ah.ErrUnsupported, dataplane.ErrTransform},
		{sad.ErrEncap, dataplane.ErrEncap},
	} {
		if errors.Is(err, x.theirs) {
			return &backendError{err, x.ours}
		}
	}
	return err
}

// backendError reads like what happened and is what the Backend promises.
type backendError struct {
	error
	is error
}

func (e *backendError) Unwrap() []error { return []error{e.error, e.is} }
