package sad

import (
	"math"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"caponier/internal/aggfrag"
	"caponier/internal/ah"
	"caponier/internal/drop"
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/replay"
	"caponier/internal/secret"
)

// entry is what SAs of both directions have.
type entry struct {
	// Constant after Add, except serial, which the writer sets once.

	sa         About
	added      time.Time
	life       [2]time.Duration // soft and hard, from then on; 0: no limit
	soft, hard volume
	serial     uint64

	endpoint     atomic.Pointer[Endpoint]
	used         atomic.Int64 // in seconds since 1970; 0 if never
	softRaised   atomic.Bool
	hardRaised   atomic.Bool
	expiredDrops atomic.Uint64
}

// volume is a limit by use; no limit is the largest number.
type volume struct{ bytes, packets uint64 }

func (e *entry) init(sa *ipsec.SA, now time.Time) {
	e.sa = aboutOf(sa)
	e.added = now
	e.life = [2]time.Duration{sa.Lifetime.Soft.Time, sa.Lifetime.Hard.Time}
	e.soft, e.hard = limit(sa.Lifetime.Soft), limit(sa.Lifetime.Hard)
	e.endpoint.Store(&Endpoint{Local: sa.Local, Remote: sa.Remote, Encap: sa.Encap})
}

func limit(l ipsec.Limit) volume {
	v := volume{math.MaxUint64, math.MaxUint64}
	if l.Bytes != 0 {
		v.bytes = l.Bytes
	}
	if l.Packets != 0 {
		v.packets = l.Packets
	}
	return v
}

// softAt and hardAt are when the time of the SA is up; zero: never.
func (e *entry) softAt() time.Time { return e.after(e.life[0]) }

func (e *entry) hardAt() time.Time { return e.after(e.life[1]) }

func (e *entry) after(d time.Duration) time.Time {
	if d == 0 {
		return time.Time{}
	}
	return e.added.Add(d)
}

// Protocol says whether the SA is of ESP or AH.
func (e *entry) Protocol() ipsec.Protocol { return e.sa.Protocol }

// SA returns what the SA was added with, and keeps.
func (e *entry) SA() *About { return &e.sa }

// Outer says how outer headers are made and read.
func (e *entry) Outer() ipsec.Outer { return e.sa.Outer }

// Aggfrag says what the SA has of AGGFRAG mode.
func (e *entry) Aggfrag() ipsec.AggfragSA { return e.sa.Aggfrag }

// Transport reports whether the SA is in transport mode.
func (e *entry) Transport() bool { return e.sa.Mode == ipsec.Transport }

// Endpoint returns the present outer addresses. It is not changed afterwards:
// an update brings another.
func (e *entry) Endpoint() *Endpoint { return e.endpoint.Load() }

// ID returns the name of the SA. That of an outbound SA follows its endpoint.
func (e *entry) ID() ipsec.SAID { return e.sa.id(e.Endpoint().Remote.Addr()) }

// expire returns the event for a limit, once for each kind.
func (e *entry) expire(hard bool) (ipsec.Expire, bool) {
	raised := &e.softRaised
	if hard {
		raised = &e.hardRaised
	}
	if raised.Swap(true) {
		return ipsec.Expire{}, false
	}
	return ipsec.Expire{ID: e.ID(), Connection: e.sa.Connection, Tunnel: e.sa.Tunnel, Hard: hard}, true
}

func (e *entry) touch(now int64) {
	if e.used.Load() != now {
		e.used.Store(now)
	}
}

func (e *entry) status() ipsec.SAStatus {
	ep := e.Endpoint()
	s := ipsec.SAStatus{
		ID:                 e.ID(),
		Mode:               e.sa.Mode,
		Local:              ep.Local,
		Remote:             ep.Remote,
		Encap:              ep.Encap,
		Aggfrag:            e.sa.Aggfrag.On,
		Encr:               e.sa.Encr,
		Integ:              e.sa.Integ,
		ESN:                e.sa.ESN,
		ReqID:              e.sa.ReqID,
		LocalTS:            e.sa.LocalTS,
		RemoteTS:           e.sa.RemoteTS,
		Connection:         e.sa.Connection,
		Tunnel:             e.sa.Tunnel,
		Added:              e.added,
		OutOfLifetimeDrops: e.expiredDrops.Load(),
	}
	if used := e.used.Load(); used != 0 {
		s.Used = time.Unix(used, 0)
	}
	return s
}

// counts are the counters of an inbound SA.
type counts struct {
	bytes, packets              uint64
	replay, integrity, selector uint64
	expired                     uint64
}

// In is an inbound SA.
type In struct {
	entry

	// Owned by the worker that Owner names.

	esp *esp.Inbound // nil for AH
	ah  *ah.Inbound  // nil for ESP
	// receiver takes packets out of payloads; nil without AGGFRAG mode.
	receiver *aggfrag.Receiver
	// congestion is nil where neither end asks for it.
	congestion *congestion
	seq        uint64 // of what Open opened last
	now        counts
	moved      netip.AddrPort // where packets came from, if not from the endpoint
	touched    bool           // in Worker.touched

	// Written by the owner at the end of a batch.

	bytes, packets, replay, integrity, selector, top atomic.Uint64
}

func newIn(sa *ipsec.SA, now time.Time) (*In, error) {
	in := new(In)
	var err error
	if sa.Protocol == ipsec.AH {
		in.ah, err = ah.NewInbound(sa)
	} else {
		in.esp, err = esp.NewInbound(sa)
	}
	if err != nil {
		return nil, err
	}
	if sa.Aggfrag.On {
		in.receiver = new(aggfrag.Receiver)
		if sa.Aggfrag.Listens() {
			in.congestion = newCongestion()
		}
	}
	in.init(sa, now)
	// What opens the packets has keys of its own.
	sa.EncrKey.Wipe()
	sa.IntegKey.Wipe()
	return in, nil
}

// Receiver takes packets out of the payloads of an SA in AGGFRAG mode; nil for
// other SAs. It belongs to the worker that Owner names.
func (in *In) Receiver() *aggfrag.Receiver { return in.receiver }

// Sequence is the sequence number of the packet that Open opened last.
func (in *In) Sequence() uint64 { return in.seq }

// Serial reports whether OpenBatch is the way to open packets fast
// (esp.Inbound.Serial).
func (in *In) Serial() bool { return in.esp != nil && in.esp.Serial() }

// state is what esp.Inbound and ah.Inbound both tell.
func (in *In) state() interface {
	Top() uint64
	ReplayWindow() int
	Wipe()
} {
	if in.ah != nil {
		return in.ah
	}
	return in.esp
}

func (in *In) publish() {
	in.bytes.Store(in.now.bytes)
	in.packets.Store(in.now.packets)
	in.replay.Store(in.now.replay)
	in.integrity.Store(in.now.integrity)
	in.selector.Store(in.now.selector)
	in.expiredDrops.Store(in.now.expired)
	in.top.Store(in.state().Top())
	if in.congestion != nil {
		in.congestion.publish()
	}
}

func (in *In) status() ipsec.SAStatus {
	s := in.entry.status()
	s.ReplayWindow = uint32(in.state().ReplayWindow())
	s.Bytes = in.bytes.Load()
	s.Packets = in.packets.Load()
	s.ReplayDrops = in.replay.Load()
	s.IntegrityDrops = in.integrity.Load()
	s.SelectorDrops = in.selector.Load()
	s.Sequence = in.top.Load()
	return s
}

func (in *In) wipe() { in.state().Wipe() }

// Out is an outbound SA.
type Out struct {
	entry

	encrKey, integKey secret.Key
	layout            sealer // for lengths only
	// sealers[i] belongs to worker i, which makes it when it first needs it.
	sealers []sealer

	first    uint64        // the sequence number before the first
	sequence atomic.Uint64 // the last that was claimed
	bytes    atomic.Uint64
	unsent   atomic.Uint64 // claimed, but not used

	path    path
	fits    atomic.Int32 // octets of the longest inner packet or AGGFRAG payload that fits it
	anyPort bool         // the selectors look at no port
	paced   *paced       // nil but for a constant rate
}

// sealer seals the packets of an SA for one worker: one of the two is there.
type sealer struct {
	esp *esp.Outbound
	ah  *ah.Outbound
}

func newSealer(sa *ipsec.SA) (s sealer, err error) {
	if sa.Protocol == ipsec.AH {
		s.ah, err = ah.NewOutbound(sa)
	} else {
		s.esp, err = esp.NewOutbound(sa)
	}
	return s, err
}

func (s sealer) wipe() {
	if s.esp != nil {
		s.esp.Wipe()
	}
	if s.ah != nil {
		s.ah.Wipe()
	}
}

func newOut(sa *ipsec.SA, now time.Time, workers int) (*Out, error) {
	s, err := newSealer(sa)
	if err != nil {
		return nil, err
	}
	out := &Out{encrKey: sa.EncrKey, integKey: sa.IntegKey, layout: s}
	out.init(sa, now)
	out.sealers = make([]sealer, workers)
	out.sealers[0] = s
	// The sequence numbers are a limit too, and one must notice in time to
	// rekey. The last 2^32 of an extended sequence are left, so that claims
	// beyond the limit cannot wrap.
	last := replay.MaxSequence(sa.ESN)
	if sa.ESN {
		last -= math.MaxUint32
	}
	if rate := sa.Aggfrag.Pace.Rate; sa.Aggfrag.On && rate != 0 {
		out.paced = newPaced(sa.Aggfrag.Pace)
	}
	out.anyPort = anyPort(sa.LocalTS) && anyPort(sa.RemoteTS)
	out.first = sa.Sequence
	out.sequence.Store(out.first)
	out.hard.packets = min(after(out.first, out.hard.packets), last)
	out.soft.packets = min(after(out.first, out.soft.packets), last-last/8)
	return out, nil
}

// after is the sequence number n packets after first, or the largest number.
func after(first, n uint64) uint64 {
	if n > math.MaxUint64-first {
		return math.MaxUint64
	}
	return first + n
}

// Serial reports whether Worker.Seal with many packets is the way to seal fast,
// and not Claim.SealFrom (esp.Outbound.Serial).
func (o *Out) Serial() bool { return o.layout.esp != nil && o.layout.esp.Serial() }

// HeadRoom is the number of octets that ESP puts before the inner packet. This
// and the three lengths below are of ESP only.
func (o *Out) HeadRoom() int { return o.layout.esp.HeadRoom() }

// TailRoom is the largest number of octets that ESP puts after it.
func (o *Out) TailRoom() int { return o.layout.esp.TailRoom() }

// SealedLen is the length of the ESP packet for an inner packet of n octets.
func (o *Out) SealedLen(n int) int { return o.layout.esp.SealedLen(n) }

// MaxInner is the length of the longest inner packet whose ESP packet has at
// most n octets.
func (o *Out) MaxInner(n int) int { return o.layout.esp.MaxInner(n) }

// AnyPort reports whether packets without ports, such as later fragments, fit the
// selectors as well as those with any.
func (o *Out) AnyPort() bool { return o.anyPort }

func anyPort(list []ipsec.Selector) bool {
	return !slices.ContainsFunc(list, func(s ipsec.Selector) bool { return !s.AnyPort() })
}

// AHLen is the length of the header that AH puts into packets of the IP version.
func (o *Out) AHLen(version uint8) int { return o.layout.ah.HeaderLen(version) }

// sealer returns the sealer of worker i.
func (o *Out) sealer(i int) (sealer, error) {
	if o.sealers[i] == (sealer{}) {
		s, err := newSealer(&ipsec.SA{
			SPI: o.sa.SPI, Protocol: o.sa.Protocol, Mode: o.sa.Mode, Direction: o.sa.Direction, ESN: o.sa.ESN,
			Encr: o.sa.Encr, Integ: o.sa.Integ, EncrKey: o.encrKey, IntegKey: o.integKey, Aggfrag: o.sa.Aggfrag,
		})
		if err != nil {
			return s, drop.NoSA // cannot be: the same SA passed in newOut
		}
		o.sealers[i] = s
	}
	return o.sealers[i], nil
}

// covers reports whether a packet that leaves fits the selectors.
func (o *Out) covers(p *packet.Info) bool {
	return anyCovers(o.sa.LocalTS, p.Src, p.Protocol, p.SrcPort, p.HasPorts) &&
		anyCovers(o.sa.RemoteTS, p.Dst, p.Protocol, p.DstPort, p.HasPorts)
}

func anyCovers(list []ipsec.Selector, a netip.Addr, protocol uint8, port uint16, hasPort bool) bool {
	for i := range list {
		if list[i].Contains(a, protocol, port, hasPort) {
			return true
		}
	}
	return false
}

func (o *Out) status() ipsec.SAStatus {
	s := o.entry.status()
	s.Sequence = o.sequence.Load()
	sent := s.Sequence - o.first
	s.Packets = sent - min(o.unsent.Load(), sent)
	s.Bytes = o.bytes.Load()
	s.Tripped = o.Tripped()
	if s.PathMTU = o.mtu(); s.PathMTU != 0 && !o.spreads() {
		s.InnerMTU = o.Fits()
	}
	s.PathMTUUntil = o.path.ends()
	return s
}

func (o *Out) wipe() {
	for _, s := range o.sealers {
		s.wipe()
	}
	o.encrKey.Wipe()
	o.integKey.Wipe()
}
