// Package kernel is the Linux kernel as a data plane, through NETLINK_XFRM: it
// keeps the kernel's states and policies as control wants them, and turns what
// the kernel says into events.
//
// A policy of the SPD becomes policies of the kernel for each pair of prefixes
// and each direction:
//
//	out       allow, through templates        what an SA protects: its addresses
//	          allow, templates of anywhere    what waits for an SA: raises acquire
//	          block                           what may not ask for one
//	in, fwd   allow, templates of any address what must have come through an SA
//
// What is ours in the kernel is known by a number that every policy and every
// state carries there (see own.go): a later run takes over the policies of an
// earlier one without a gap, and removes its states, whose IKE SAs are gone. What
// others have made is never touched.
package kernel

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// eventDepth is how many events wait for control at most.
const eventDepth = 1024

// Options are what a Plane is made of.
type Options struct {
	// OutputMark is set on packets that leave an SA which names none of its own:
	// by it, rules of the system keep them from being protected again.
	OutputMark ipsec.Mark
	// Ditch is where the system's routes lead what is to be protected or discarded,
	// so that a packet which no policy takes out of there ends in it, and is
	// counted. The Plane closes it, also where New fails. It may be nil.
	Ditch netio.Device
	Rand  io.Reader     // of SPIs; nil is crypto/rand.Reader
	Tick  time.Duration // between looks at what the kernel does not tell; 0 is 500 ms
	// AcquireTimeout is after how long a reqid that still has no SA is asked for
	// again by its next packet; 0 is 10 seconds.
	AcquireTimeout time.Duration
	Logger         *slog.Logger // nil discards
}

// Plane is the kernel's data plane of one network namespace. It implements
// dataplane.Backend.
type Plane struct {
	// Constant after New.
	opts    Options
	log     *slog.Logger
	req     *conn
	notify  *socket
	stats   *statFile
	larvals sysctl
	events  *dataplane.EventQueue
	stop    chan struct{}
	changed chan struct{} // outbound SAs came or went; has room for one
	wg      sync.WaitGroup
	close   sync.Once

	mu sync.Mutex
	// Guarded by mu, which is held during requests: they are the order of
	// things.
	closed    bool
	sas       map[ipsec.SAID]*entry
	byState   map[xfrm.StateID]*entry
	reserved  map[reservation]bool
	order     uint64
	marks     marks
	policies  []ipsec.Policy
	levels    map[int32]uint32
	book      *book
	installed map[slot]*xfrm.Policy
	waiting   map[uint32]larval // acquires by reqid, until an SA is there
	totals    totals

	unread   counted // messages that cannot be parsed
	overruns counted // of the queue of notifications
	healed   counted // policies that were put back
	ditched  counted // packets without a policy
}

type reservation struct {
	protocol ipsec.Protocol
	spi      ipsec.SPI
}

var _ dataplane.Backend = (*Plane)(nil)

// New connects to the kernel. It takes over the policies that an earlier run
// has left, and removes its states. It fails with a MissingError where the kernel
// has no IPsec, and has changed nothing then.
func New(opts Options) (*Plane, error) {
	if opts.Rand == nil {
		opts.Rand = rand.Reader
	}
	if opts.Tick == 0 {
		opts.Tick = 500 * time.Millisecond
	}
	if opts.AcquireTimeout == 0 {
		opts.AcquireTimeout = 10 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	req, err := dial()
	if err != nil {
		closeDitch(opts.Ditch)
		return nil, fmt.Errorf("kernel data plane: %w", err)
	}
	p := &Plane{
		opts: opts, log: opts.Logger, req: req,
		events: dataplane.NewEventQueue(eventDepth), stop: make(chan struct{}), changed: make(chan struct{}, 1),
		sas: make(map[ipsec.SAID]*entry), byState: make(map[xfrm.StateID]*entry),
		reserved: make(map[reservation]bool), book: newBook(), levels: map[int32]uint32{0: normalLevel},
		installed: make(map[slot]*xfrm.Policy), waiting: make(map[uint32]larval),
	}
	if err := p.begin(); err != nil {
		req.close()
		closeDitch(opts.Ditch)
		return nil, fmt.Errorf("kernel data plane: %w", err)
	}
	if opts.Ditch != nil {
		p.wg.Go(p.drain)
	}
	p.wg.Go(p.listen)
	p.wg.Go(p.ticker)
	return p, nil
}

// begin does what can fail.
func (p *Plane) begin() error {
	var err error
	if p.notify, err = subscribe(); err != nil {
		return err
	}
	if p.req.ends, err = newSocket(); err != nil {
		p.notify.nl.Close()
		return err
	}
	if err := p.adopt(); err != nil {
		p.notify.nl.Close()
		return err
	}
	p.stats = openStats()
	p.larvals = keepPackets(p.log)
	return nil
}

// AllocateSPI implements dataplane.Backend. The SPI is random and reserved here:
// the kernel's own reservation would need the peer's address, and end after 30
// seconds.
func (p *Plane) AllocateSPI(proto ipsec.Protocol) (ipsec.SPI, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, dataplane.ErrClosed
	}
	for {
		var b [4]byte
		if _, err := io.ReadFull(p.opts.Rand, b[:]); err != nil {
			return 0, fmt.Errorf("allocate SPI: %w", err)
		}
		spi := ipsec.SPI(binary.BigEndian.Uint32(b[:]))
		_, used := p.sas[ipsec.SAID{Direction: ipsec.In, Protocol: proto, SPI: spi}]
		if r := (reservation{proto, spi}); spi >= ipsec.MinSPI && !used && !p.reserved[r] {
			p.reserved[r] = true
			return spi, nil
		}
	}
}

// ReleaseSPI implements dataplane.Backend.
func (p *Plane) ReleaseSPI(proto ipsec.Protocol, spi ipsec.SPI) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.reserved, reservation{proto, spi})
}

// AddSA implements dataplane.Backend. Errors name what the kernel lacks.
func (p *Plane) AddSA(sa ipsec.SA) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := sa.ID()
	if err := p.addLocked(sa); err != nil {
		return fmt.Errorf("add SA %s %s: %w", id.Direction, id.SPI, err)
	}
	return nil
}

func (p *Plane) addLocked(sa ipsec.SA) error {
	if p.closed {
		return dataplane.ErrClosed
	}
	if p.sas[sa.ID()] != nil {
		return dataplane.ErrExists
	}
	// What comes out of an inbound SA goes where it was sent, through other SAs too.
	if sa.Kernel.OutputMark == (ipsec.Mark{}) && sa.Direction == ipsec.Out {
		sa.Kernel.OutputMark = p.opts.OutputMark
	}
	p.inherit(&sa)
	s, err := stateOf(&sa)
	if err != nil {
		return err
	}
	s.Seq = p.marks.nextState()
	if err := p.req.addState(&s); err != nil {
		return err
	}
	if err := p.checkWishes(&s); err != nil {
		return errors.Join(err, p.req.deleteState(s.ID))
	}
	p.order++
	e := &entry{sa: sa, state: s.ID, seq: s.Seq, added: time.Now(), order: p.order, used: sa.Direction == ipsec.Out}
	p.sas[sa.ID()], p.byState[s.ID] = e, e
	if sa.Direction == ipsec.In {
		delete(p.reserved, reservation{sa.Protocol, sa.SPI})
		return nil
	}
	if err := p.serveLocked(sa.ReqID); err != nil {
		// Without its policies the SA would carry nothing.
		delete(p.sas, sa.ID())
		delete(p.byState, s.ID)
		return errors.Join(err, p.req.deleteState(s.ID))
	}
	p.endWait(sa.ReqID)
	return nil
}

// inherit gives an SA the interface and the mark of the policies that it serves,
// where it names none: without them it would not be found.
func (p *Plane) inherit(sa *ipsec.SA) {
	for i := range p.policies {
		k := &p.policies[i].Kernel
		if p.policies[i].Action != ipsec.Protect || p.policies[i].ReqID != sa.ReqID {
			continue
		}
		if sa.Kernel.IfID == 0 {
			sa.Kernel.IfID = k.IfID
		}
		if sa.Kernel.Mark == (ipsec.Mark{}) {
			sa.Kernel.Mark = k.Mark
		}
		return
	}
}

// Owner says whose SA it is; ok is false where it is none of the plane's.
func (p *Plane) Owner(id ipsec.SAID) (connection, tunnel string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.sas[id]
	if e == nil {
		return "", "", false
	}
	return e.sa.Connection, e.sa.Tunnel, true
}

// Changed says that outbound SAs came or went since it was last read.
func (p *Plane) Changed() <-chan struct{} { return p.changed }

// Carrying are the xfrm interfaces, by their number, that have an outbound SA.
func (p *Plane) Carrying() map[uint32]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[uint32]bool)
	for _, e := range p.sas {
		if e.sa.Direction == ipsec.Out && e.sa.Kernel.IfID != 0 {
			out[e.sa.Kernel.IfID] = true
		}
	}
	return out
}

// checkWishes reads back what a kernel ignores that cannot do it.
func (p *Plane) checkWishes(s *xfrm.State) error {
	if s.CPU == 0 && s.Offload == (xfrm.Offload{}) {
		return nil
	}
	got, err := p.req.state(s.ID)
	defer got.Wipe()
	switch {
	case err != nil:
		return err
	case got.CPU != s.CPU:
		return &MissingError{What: "SAs for each CPU", Needs: "Linux 6.13 or newer"}
	case got.Offload.IfIndex != s.Offload.IfIndex:
		return &MissingError{What: "offload to this network device", Needs: offloadNeeds}
	default:
		return nil
	}
}

// DeleteSA implements dataplane.Backend.
func (p *Plane) DeleteSA(id ipsec.SAID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.sas[id]
	if e == nil {
		return fmt.Errorf("delete SA %s %s: %w", id.Direction, id.SPI, dataplane.ErrNotFound)
	}
	if s, err := p.req.state(e.state); err == nil {
		p.totals.retire(id.Direction, &s)
		s.Wipe()
	}
	// First its policies wait for another: no packet meets them without state.
	err := errors.Join(p.forget(e), p.req.deleteState(e.state))
	if err != nil {
		return fmt.Errorf("delete SA %s %s: %w", id.Direction, id.SPI, err)
	}
	return nil
}

// forget takes an SA out of the tables and the policies, and wipes its keys.
func (p *Plane) forget(e *entry) error {
	delete(p.sas, e.sa.ID())
	delete(p.byState, e.state)
	e.wipe()
	if e.sa.Direction == ipsec.In || p.closed {
		return nil
	}
	return p.serveLocked(e.sa.ReqID)
}

// SAs implements dataplane.Backend.
func (p *Plane) SAs() []ipsec.SAStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	found := make(map[*entry]ipsec.SAStatus, len(p.sas))
	if len(p.sas) > 0 {
		bad, err := p.req.states(func(s *xfrm.State) {
			if e := p.byState[s.ID]; e != nil {
				found[e] = e.status(s)
			}
		})
		if err != nil {
			p.log.Warn("the kernel's counters are not read", "error", err)
		}
		p.unreadable("state", bad)
	}
	entries := make([]*entry, 0, len(p.sas))
	for _, e := range p.sas {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *entry) int { return int(a.order) - int(b.order) })
	out := make([]ipsec.SAStatus, 0, len(entries))
	for _, e := range entries {
		s, ok := found[e]
		if !ok {
			s = e.status(nil)
		}
		out = append(out, s)
	}
	return out
}

// Events implements dataplane.Backend.
func (p *Plane) Events() <-chan ipsec.Event { return p.events.Events() }

// Close implements dataplane.Backend. The states go; the policies stay, and block
// what no SA carries, unless they were taken away with SetPolicies(nil) before.
func (p *Plane) Close() error {
	var errs []error
	p.close.Do(func() {
		close(p.stop)
		p.mu.Lock()
		p.closed = true
		for _, e := range p.sas {
			errs = append(errs, p.forget(e), p.req.deleteState(e.state))
		}
		clear(p.reserved)
		p.mu.Unlock()
		p.larvals.restore()
		closeDitch(p.opts.Ditch)
		errs = append(errs, p.notify.nl.Close())
		p.wg.Wait()
		errs = append(errs, p.req.close(), p.stats.close())
		p.events.Close()
	})
	return errors.Join(errs...)
}

// drain counts what falls into the ditch.
func (p *Plane) drain() {
	pkts := netio.NewBatch(8, netio.MaxPacket)
	for {
		n, err := p.opts.Ditch.ReadBatch(pkts)
		if err != nil {
			select {
			case <-p.stop:
				return
			case <-time.After(100 * time.Millisecond):
				continue
			}
		}
		p.ditched.Add(uint64(n))
	}
}

func closeDitch(d netio.Device) {
	if d != nil {
		d.Close()
	}
}
