package v1

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	"caponier/internal/ike/timer"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/fault"
)

// Machine is one IKE SA with the IPsec SAs that it looks after.
type Machine struct {
	// Constant after the first Step.
	env         step.Env
	initiator   bool      // this side began phase 1
	begun       time.Time // when phase 1 began
	predecessor *Machine
	broken      error

	conn       *Connection   // nil at a responder until the first message has chosen it
	candidates []*Connection // that the peer's identity chooses among
	claimed    bool          // it has chosen one

	state         state
	now           time.Time     // of the Step under way
	actions       []step.Action // of the Step under way
	spiI, spiR    message.SPI   // the cookies
	minor         uint8         // of the version in the header
	local, remote netip.AddrPort
	nat           conf.NAT
	session       *session // nil before there are keys
	setup         *setup   // nil once established
	answered      answer   // the last of phase 1

	localID, remoteID Identity
	established       time.Time
	rekeyAt           time.Time
	heard             time.Time // when something authentic was last received

	children       []*child
	quicks         map[uint32]*quick // by message ID, those that are over for a while too
	queue          []*wish
	seen           seen
	timers         timer.Set[*Machine]
	peerDPD        bool // the peer knows Dead Peer Detection
	dpd            dpd
	negotiatedLife time.Duration   // of the IKE SA, 0 where nothing was said
	contact        bool            // the peer has said INITIAL-CONTACT
	peerForm       *keys.QuickForm // how the peer hashes quick mode, where it has begun one
	unhashed       bool            // a hash of quick mode in no known form has been reported

	succession
	setupTimer *timed
	token      uint64 // of the last question
}

// The ports of IKE, and of IKE and ESP in UDP (RFC 3947, Section 4).
const (
	ikePort = 500
	natPort = 4500
)

// NewInitiator makes the machine that sets up an IKE SA with remote as soon as it
// is given step.Initiate. Both addresses are concrete, for the peer compares them
// with what it sees.
func NewInitiator(env step.Env, c *Connection, local, remote netip.AddrPort) *Machine {
	m := &Machine{env: env, initiator: true, conn: c, local: local, remote: remote, minor: minorOf(c)}
	if remote.Port() != ikePort && local.Port() == ikePort {
		m.local = netip.AddrPortFrom(local.Addr(), natPort)
	}
	m.spiI, m.broken = m.newCookie()
	m.quicks = make(map[uint32]*quick)
	return m
}

// NewResponder makes the machine for the first message of main mode, which is
// still to be given to Step as Received. candidates are the connections that allow
// these addresses, in order of preference.
func NewResponder(env step.Env, candidates []*Connection, local, remote netip.AddrPort) *Machine {
	m := &Machine{env: env, candidates: candidates, local: local, remote: remote}
	m.spiR, m.broken = m.newCookie()
	m.quicks = make(map[uint32]*quick)
	return m
}

func minorOf(c *Connection) uint8 {
	if c.GM != nil && !c.GM.Version10 {
		return 1
	}
	return 0
}

// SPIs returns the cookies of the IKE SA; one that is not known yet is 0.
func (m *Machine) SPIs() (initiator, responder message.SPI) { return m.spiI, m.spiR }

// LocalSPI returns the cookie that this side chose.
func (m *Machine) LocalSPI() message.SPI {
	if m.initiator {
		return m.spiI
	}
	return m.spiR
}

// Initiator reports whether this side began phase 1.
func (m *Machine) Initiator() bool { return m.initiator }

// Connection returns the configuration of the IKE SA, or nil at a responder whose
// peer has not said yet who it is.
func (m *Machine) Connection() *Connection {
	if !m.initiator && !m.claimed {
		return nil // the peer's identity may choose another
	}
	return m.conn
}

// Identities returns who this side and the peer are; zero until they are known.
func (m *Machine) Identities() (local, remote Identity) { return m.localID, m.remoteID }

// Addrs returns the addresses that IKE messages travel between now.
func (m *Machine) Addrs() (local, remote netip.AddrPort) { return m.local, m.remote }

// Step gives an event to the Machine and returns what is to be done, in this
// order. It never blocks. now must not go backwards.
func (m *Machine) Step(now time.Time, e step.Event) []step.Action {
	if m.state == gone {
		switch e := e.(type) {
		case step.Inherit:
			m.disinherit(e)
		case step.Restore:
			m.restore(e)
		default:
		}
		return m.done()
	}
	m.now = now
	if m.begun.IsZero() {
		m.begun = now
	}
	if m.broken != nil {
		m.fail(internal(m.broken))
	} else {
		m.handle(e)
		m.pump()
	}
	return m.done()
}

// done returns what is to be done.
func (m *Machine) done() []step.Action {
	out := m.actions
	m.actions = nil
	return out
}

func (m *Machine) handle(e step.Event) {
	switch e := e.(type) {
	case step.Initiate:
		m.initiate(e)
	case step.Received:
		m.receive(e)
	case step.Timeout:
		m.timeout()
	case step.Unwrapped:
		m.unwrapped(e)
	case step.Enveloped:
		m.enveloped(e)
	case step.Examined:
		m.examined(e)
	case step.Close, step.Destroy: // nothing waits for the peer in any case
		m.close(&failure{code: fault.CodeClosed})
	case step.InstallFailed:
		m.installFailed(e)
	case step.Expired:
		m.expired(e)
	case step.PeerMoved:
		m.peerMoved(e)
	case step.Used:
		m.used(e)
	case step.DeleteChild:
		m.deleteTunnel(e.Name)
	case step.Reconfigure:
		m.conn = e.Connection
	case step.Yield:
		m.yield(e)
	case step.Restore:
		m.restore(e)
	case step.Inherit:
		m.inherit(e)
	case step.PeerDeleted:
		m.pairDeleted(e)
	case step.SuccessorFailed:
		m.successorFailed(e)
	default:
		m.order(e)
	}
}

// order handles the events that ask for an exchange. They mean nothing before
// the IKE SA is established; of one that is replaced they go to its heir.
func (m *Machine) order(e step.Event) {
	if m.heir != nil {
		m.act(step.Tell{To: m.heir, Event: e})
		return
	}
	if m.state != established {
		return
	}
	switch e := e.(type) {
	case step.CreateChild:
		m.wishFor(e.Child, e.Flow)
	case step.RekeyChild:
		for _, c := range m.children {
			if c.state == childLive && (e.Name == "" || e.Name == c.conf.Name) {
				m.rekey(c)
			}
		}
	case step.RekeyIKE:
		m.beginSuccessor()
	case step.CheckLiveness:
		m.probe()
	default:
	}
}

func (m *Machine) act(a step.Action) { m.actions = append(m.actions, a) }

// notice reports what happened, f being nil where nothing failed.
func (m *Machine) notice(kind step.NoticeKind, tunnel string, f *failure) {
	n := step.Notice{Kind: kind, Child: tunnel}
	if f != nil {
		n.Code, n.Err, n.Evidence = f.code, f.err, f.seen
	}
	m.act(step.Report{What: n})
}

// drop reports a message that changed nothing.
func (m *Machine) drop(code string, err error) {
	m.act(step.Report{What: step.Notice{Kind: step.PeerDropped, Code: code, Err: err}})
}

// send sends a message to the peer.
func (m *Machine) send(raw []byte) { m.sendTo(raw, m.local, m.remote) }

func (m *Machine) sendTo(raw []byte, local, remote netip.AddrPort) {
	m.act(step.Send{Data: raw, Local: local, Remote: remote})
}

func (m *Machine) header(kind isakmp.ExchangeType, id uint32) isakmp.Header {
	return isakmp.Header{
		InitiatorCookie: m.spiI, ResponderCookie: m.spiR, Minor: m.minor, Exchange: kind, MessageID: id,
	}
}

// policy says how messages are repeated.
func (m *Machine) policy() conf.Retransmit {
	if m.conn == nil {
		return conf.Retransmit{}.OrDefault()
	}
	return m.conn.Retransmit.OrDefault()
}

func (m *Machine) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(m.env.Rand, b); err != nil {
		return nil, fmt.Errorf("read random octets: %w", err)
	}
	return b, nil
}

// newCookie returns a random cookie, which is never 0 (RFC 2408, Section 2.5.3).
func (m *Machine) newCookie() (message.SPI, error) {
	for {
		b, err := m.random(8)
		if err != nil {
			return 0, err
		}
		if spi := message.SPI(binary.BigEndian.Uint64(b)); spi != 0 {
			return spi, nil
		}
	}
}

// newMessageID returns one that neither side has used in this IKE SA, and not 0,
// which is that of phase 1 (RFC 2408, Section 3.1).
func (m *Machine) newMessageID() (uint32, error) {
	for {
		b, err := m.random(4)
		if err != nil {
			return 0, err
		}
		if id := binary.BigEndian.Uint32(b); id != 0 && m.seen.add(id) {
			return id, nil
		}
	}
}

// maxSeen bounds the message IDs that are remembered.
const maxSeen = 4096

// seen remembers the message IDs of an IKE SA, so that none is taken twice: what
// a stranger has recorded must not be played again.
type seen struct {
	ids   map[uint32]struct{}
	order []uint32
}

func (s *seen) has(id uint32) bool {
	_, ok := s.ids[id]
	return ok
}

// add reports whether id is new.
func (s *seen) add(id uint32) bool {
	if s.has(id) {
		return false
	}
	if s.ids == nil {
		s.ids = make(map[uint32]struct{})
	}
	if len(s.order) == maxSeen {
		delete(s.ids, s.order[0])
		s.order = s.order[1:]
	}
	s.ids[id] = struct{}{}
	s.order = append(s.order, id)
	return true
}
