// Package ike is the IKE daemon: it owns what the protocol machines may not
// touch. It reads the sockets, finds the owner of each message, keeps the time,
// carries out the machines' actions, and brings connections up and back up.
//
// Each IKE SA belongs to one shard, a goroutine that alone steps its machine;
// what can block (signing, verifying) runs on a bounded pool and comes back as
// an event. The way of a message:
//
//	IKESocket -> receive -> SPI table -> shard inbox -> v2.Machine.Step -> actions
package ike

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/capture"
	"caponier/internal/dataplane"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/logging"
	"caponier/internal/netio"
	"caponier/internal/suite"
)

// Limits on what strangers can make grow.
const (
	// maxHalfOpen bounds the IKE SAs whose peer has not authenticated yet, and
	// maxHalfOpenPerAddr those of one source address, so that one host cannot use
	// up the whole. See SetLimits.
	maxHalfOpen        = 4096
	maxHalfOpenPerAddr = 64
	// inboxSize bounds the events that wait for a shard. Datagrams beyond it are
	// dropped: IKE repeats what is not answered.
	inboxSize = 1024
	// closeTimeout is how long Close waits for peers to acknowledge deletion.
	closeTimeout = 2 * time.Second
	// strangerLogs bounds the log lines about unauthenticated peers in a second.
	strangerLogs = 5
)

// Authenticator makes and checks signatures. Its methods may block and are
// called from several goroutines.
type Authenticator interface {
	// Sign returns the AUTH payload over octets, made with the private key of
	// the connection.
	Sign(connection string, scheme suite.SignatureScheme, octets []byte) (message.Auth, error)
	// Verify checks what v2.Verify asks for.
	Verify(v v2.Verify) error
}

// Options are the parts a Daemon is made of. All up to Log are required.
type Options struct {
	Sockets       []netio.IKESocket // one for each local port
	Backend       dataplane.Backend
	Authenticator Authenticator
	Rand          io.Reader
	Log           *slog.Logger
	Now           func() time.Time // nil: time.Now
	Numbers       message.Numbers  // see v2.Env
	Enveloper     Enveloper        // for GM/T 0022; nil where no connection speaks it
	// OnFailure is told of each negotiation that fails, at once and from several
	// goroutines. It must not block.
	OnFailure func(Attempt)
	// OnEvent is told of each event of the data plane, of which the daemon is the
	// only reader. It must not block.
	OnEvent func(ipsec.Event)
	Tap     *capture.Tap     // shows the messages; nil shows none
	Keys    *capture.Keyring // keeps the keys where that is allowed; nil keeps none
}

// Daemon runs all IKE SAs of the gateway.
type Daemon struct {
	// Constant after New.
	backend   dataplane.Backend
	auth      Authenticator
	enveloper Enveloper // or nil
	log       *slog.Logger
	now       func() time.Time
	sockets   map[uint16]netio.IKESocket // by local port
	shards    []*shard
	env       v2.Env

	onFailure func(Attempt)     // or nil
	onEvent   func(ipsec.Event) // or nil
	tap       *capture.Tap
	keys      *capture.Keyring

	counters  counters
	cookies   cookieJar
	strangers *logging.Brake // on the log lines that strangers can provoke

	// initiating is held while an IKE SA is chosen or made for a tunnel. Lock
	// order: initiating, then mu.
	initiating sync.Mutex

	// mu guards what follows. It is never held while a machine steps, a socket
	// sends or the data plane is called.
	mu    sync.Mutex
	conns map[string]*connection
	order []string // names, as configured
	// directory is of the connections in force.
	directory *directory
	bySPI     map[message.SPI]*sa
	halfOpen  map[initKey]*sa
	bySource  map[netip.Addr]int // half-open SAs for each source address
	bySA      map[ipsec.SAID]*sa // who answers for an SA of the data plane
	// byEnds are the IKE SAs that are up, by the identities of their two ends.
	byEnds  map[[2]v2.Identity][]*sa
	closing bool
	limits  Limits

	stop     chan struct{} // closed by Close
	authJobs chan func()
	wg       sync.WaitGroup
}

// counters count what happens too often to be logged. The names stand in
// Counters.
type counters struct {
	received, sent, malformed, unknownSPI, halfOpenLimit, inboxFull, unmatched, dropped atomic.Uint64
	limits                                                                              atomic.Uint64
	cookies, wrongCookie                                                                atomic.Uint64
}

// New makes a Daemon; Start sets it running.
func New(o Options) *Daemon {
	d := &Daemon{
		backend: o.Backend, auth: o.Authenticator, log: o.Log, now: o.Now, onFailure: o.OnFailure, onEvent: o.OnEvent,
		tap: o.Tap, keys: o.Keys, enveloper: o.Enveloper,
		sockets: make(map[uint16]netio.IKESocket), conns: make(map[string]*connection),
		bySPI: make(map[message.SPI]*sa), halfOpen: make(map[initKey]*sa),
		bySource: make(map[netip.Addr]int), bySA: make(map[ipsec.SAID]*sa), byEnds: make(map[[2]v2.Identity][]*sa),
		directory: newDirectory(nil),
		stop:      make(chan struct{}), authJobs: make(chan func(), inboxSize),
		strangers: logging.NewBrake(strangerLogs, time.Second),
	}
	d.cookies.rand = o.Rand
	d.limits = Limits{HalfOpen: maxHalfOpen, HalfOpenPerAddress: maxHalfOpenPerAddr}
	if d.now == nil {
		d.now = time.Now
	}
	for _, s := range o.Sockets {
		d.sockets[s.LocalPort()] = s
	}
	d.env = v2.Env{
		Rand: o.Rand, AllocateSPI: o.Backend.AllocateSPI, ReleaseSPI: o.Backend.ReleaseSPI, Admit: d.admitPeer, Numbers: o.Numbers,
		Show: d.trace, ShowISAKMP: d.traceISAKMP,
	}
	for range runtime.GOMAXPROCS(0) {
		d.shards = append(d.shards, newShard(d))
	}
	return d
}

// Limits bound what strangers can make a Daemon keep.
type Limits struct {
	// HalfOpen is how many IKE SAs may wait for their peer to authenticate, and
	// HalfOpenPerAddress how many of one source address.
	HalfOpen, HalfOpenPerAddress int
}

// SetLimits replaces the limits. What is half-open already may stay.
func (d *Daemon) SetLimits(l Limits) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limits = l
}

// Start begins to receive, and to bring up the connections that are configured
// to start.
func (d *Daemon) Start() {
	for _, s := range d.sockets {
		d.wg.Go(func() { d.receive(s) })
	}
	for _, s := range d.shards {
		d.wg.Go(s.run)
		d.wg.Go(d.runAuthJobs)
	}
	d.wg.Go(d.watchBackend)
	d.wg.Go(d.keepUp)
}

// Close deletes every IKE SA, waits a moment for the peers to acknowledge, takes
// what is left out of the data plane, and stops. It closes the sockets; the data
// plane stays the caller's to close.
func (d *Daemon) Close() error {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		d.wg.Wait()
		return nil
	}
	d.closing = true
	all := d.liveLocked()
	d.mu.Unlock()

	// The first Close deletes the IKE SA; a later one ends what lingers only to
	// answer repetitions.
	deadline := time.Now().Add(closeTimeout)
	for len(all) > 0 && time.Now().Before(deadline) {
		closeAll(all)
		time.Sleep(20 * time.Millisecond)
		d.mu.Lock()
		all = d.liveLocked()
		d.mu.Unlock()
	}
	close(d.stop)
	var errs []error
	for _, s := range d.sockets {
		errs = append(errs, s.Close())
	}
	d.wg.Wait()
	d.mu.Lock()
	all = d.liveLocked()
	d.mu.Unlock()
	for _, s := range all {
		s.shard.remove(s) // its shard has ended
	}
	return errors.Join(errs...)
}

// Abandon ends every IKE SA at once: their keys are wiped, their SAs taken out of
// the data plane, the peers told but not waited for. It returns how many there
// were.
func (d *Daemon) Abandon() int {
	d.mu.Lock()
	all := d.liveLocked()
	d.mu.Unlock()
	for _, s := range all {
		s.shard.post(s, v2.Destroy{})
	}
	for _, sh := range d.shards {
		sh.do(func() {}) // behind what was posted
	}
	return len(all)
}

func (d *Daemon) liveLocked() []*sa {
	all := make([]*sa, 0, len(d.bySPI))
	for _, s := range d.bySPI {
		all = append(all, s)
	}
	return all
}

// Counters returns the totals by stable name.
func (d *Daemon) Counters() map[string]uint64 {
	d.mu.Lock()
	live, half := uint64(len(d.bySPI)), uint64(len(d.halfOpen))
	d.mu.Unlock()
	return map[string]uint64{
		"ike-messages-in":         d.counters.received.Load(),
		"ike-messages-out":        d.counters.sent.Load(),
		"ike-sas":                 live,
		"ike-half-open":           half,
		"ike-cookies-out":         d.counters.cookies.Load(),
		"ike-drop-wrong-cookie":   d.counters.wrongCookie.Load(),
		"ike-drop-malformed":      d.counters.malformed.Load(),
		"ike-drop-unknown-spi":    d.counters.unknownSPI.Load(),
		"ike-drop-half-open":      d.counters.halfOpenLimit.Load(),
		"ike-drop-inbox-full":     d.counters.inboxFull.Load(),
		"ike-drop-no-connection":  d.counters.unmatched.Load(),
		"ike-drop-beyond-limits":  d.counters.limits.Load(),
		"ike-drop-not-acceptable": d.counters.dropped.Load(),
	}
}

// initKey names an IKE SA of which only the initiator's half is known.
type initKey struct {
	remote netip.AddrPort
	spi    message.SPI
}

// receive reads one socket until it is closed.
func (d *Daemon) receive(sock netio.IKESocket) {
	for {
		dg, err := sock.Receive()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			d.log.Error("receiving IKE messages failed", "port", sock.LocalPort(), "error", err)
			select {
			case <-d.stop:
				return
			case <-time.After(time.Second):
			}
			continue
		}
		d.counters.received.Add(1)
		d.dispatch(dg)
	}
}

// dispatch finds the owner of a message by the SPI that we chose, which is the
// responder's where the sender is the original initiator.
func (d *Daemon) dispatch(dg netio.Datagram) {
	h, err := message.ParseHeader(dg.Data)
	if err != nil {
		d.counters.malformed.Add(1)
		return
	}
	ev := v2.Received{Raw: dg.Data, Local: dg.Local, Remote: dg.Remote}
	ours := h.ResponderSPI
	if h.Flags&message.FlagInitiator == 0 {
		ours = h.InitiatorSPI
	}
	d.mu.Lock()
	s := d.bySPI[ours]
	if ours == 0 {
		s = d.halfOpen[initKey{dg.Remote, h.InitiatorSPI}]
	}
	conn := ""
	if s != nil {
		conn = s.conn
	}
	d.mu.Unlock()
	d.show(ipsec.In, conn, dg)
	switch {
	case h.Major == 1 && d.dispatchV1(h, ev):
	case h.Major != 2:
		d.counters.malformed.Add(1)
		d.otherVersion(s, h, ev)
	case s != nil && s.v1():
		d.counters.malformed.Add(1)
	case s != nil:
		s.shard.post(s, ev)
	case ours == 0 && h.Exchange == message.IKESAInit && h.Flags&message.FlagInitiator != 0 &&
		h.Flags&message.FlagResponse == 0 && h.InitiatorSPI != 0:
		d.respond(h, ev)
	default:
		// No INVALID_IKE_SPI is sent: unauthenticated, it helps nobody but a
		// scanner (RFC 7296, Section 1.5, makes it optional).
		d.counters.unknownSPI.Add(1)
	}
}

// respond makes the machine for a new IKE_SA_INIT request, if some connection
// allows the addresses and the limits leave room.
func (d *Daemon) respond(h message.Header, ev v2.Received) {
	candidates := d.candidates(ev.Local.Addr(), ev.Remote.Addr(), speaksV2)
	if len(candidates.All()) == 0 {
		d.counters.unmatched.Add(1)
		d.turnedAway(ev, CodeNoConnection, errNoConnection)
		return
	}
	if !d.admit(h, ev) {
		return
	}
	m := v2.NewResponder(&d.env, candidates, ev.Local, ev.Remote)
	d.adoptResponder(m, d.shardFor(m), h, ev)
}

// adoptResponder enters the machine for a stranger's first message, if the limits
// leave room, and gives it that.
func (d *Daemon) adoptResponder(m step.Machine, owner *shard, h message.Header, ev v2.Received) {
	key := initKey{ev.Remote, h.InitiatorSPI}
	source := ev.Remote.Addr()
	d.mu.Lock()
	if d.closing || len(d.halfOpen) >= d.limits.HalfOpen || d.bySource[source] >= d.limits.HalfOpenPerAddress {
		d.mu.Unlock()
		d.counters.halfOpenLimit.Add(1)
		return
	}
	s := d.adoptLocked(m, owner, "")
	s.initKey = key
	d.halfOpen[key] = s
	d.bySource[source]++
	d.mu.Unlock()
	s.shard.post(s, ev)
}

// shardFor chooses the owner of a new IKE SA. SPIs are random, so that the load
// spreads.
func (d *Daemon) shardFor(m step.Machine) *shard {
	return d.shards[uint64(m.LocalSPI())%uint64(len(d.shards))]
}

// adoptLocked enters a new machine into the tables.
func (d *Daemon) adoptLocked(m step.Machine, owner *shard, conn string) *sa {
	spi := m.LocalSPI()
	s := &sa{
		machine: m, spi: spi, shard: owner, conn: conn, born: d.now(), index: -1,
	}
	d.bySPI[spi] = s
	if c := d.conns[conn]; c != nil {
		c.sas.add(s)
	}
	return s
}

// releaseInitLocked forgets the half-open state of s: it is established, or gone.
func (d *Daemon) releaseInitLocked(s *sa) {
	if d.halfOpen[s.initKey] != s {
		return
	}
	delete(d.halfOpen, s.initKey)
	source := s.initKey.remote.Addr()
	if d.bySource[source]--; d.bySource[source] <= 0 {
		delete(d.bySource, source)
	}
}

// candidates returns the connections that allow these addresses, the one with
// the most exact remote address first.
func (d *Daemon) candidates(local, remote netip.Addr, want speaks) *conf.Candidates {
	d.mu.Lock()
	y := d.directory
	d.mu.Unlock()
	return y.find(local, remote, want)
}

// runAuthJobs signs and verifies away from the shards, which must not block.
func (d *Daemon) runAuthJobs() {
	for {
		select {
		case job := <-d.authJobs:
			job()
		case <-d.stop:
			return
		}
	}
}

// sleep waits, and reports false when the daemon stops meanwhile.
func (d *Daemon) sleep(t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.stop:
		return false
	}
}
