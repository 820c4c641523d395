package v2

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"time"

	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/timer"
)

// Machine is one IKE SA with its CHILD SAs.
type Machine struct {
	// Constant after NewInitiator, NewResponder or a rekeying.
	env       *Env
	initiator bool // this side is the original initiator (RFC 7296, Section 2.2)
	broken    error

	conn       *Connection // nil at a responder until IKE_AUTH has chosen it
	candidates *conf.Candidates

	state         State
	now           time.Time // of the Step under way
	actions       []Action  // of the Step under way
	spiI, spiR    message.SPI
	local, remote netip.AddrPort
	nat           conf.NAT
	session       *keys.Session // nil before IKE_SA_INIT is done
	setup         *setup        // nil once established

	localID, remoteID Identity
	vendors           []string // the peer's vendor IDs
	established       time.Time
	rekeyAt           time.Time // when this side will rekey the IKE SA
	use               use
	heard             time.Time // when something authentic was last received

	exchanges
	children []*child
	timers   timer.Set[*Machine]

	setupTimer *timed
	token      uint64 // of the last Sign or Verify
	redundant  bool   // lost a collision of two rekeyings: it ends without a report
	onePair    bool   // the peer takes one pair of selectors in a CHILD SA
	wantClose  bool   // Close came while the set-up could not be broken off
}

// NewInitiator makes the machine that sets up an IKE SA with remote as soon as
// it is given Initiate. Both addresses are concrete, for the peer compares them
// with what it sees. A remote port other than 500 is spoken to from port 4500,
// with the non-ESP marker, from the start. env is kept.
func NewInitiator(env *Env, c *Connection, local, remote netip.AddrPort) *Machine {
	m := &Machine{env: env, initiator: true, conn: c, local: local, remote: remote}
	if remote.Port() != ikePort && local.Port() == ikePort {
		m.local = netip.AddrPortFrom(local.Addr(), natPort)
	}
	m.spiI, m.broken = m.newSPI()
	return m
}

// NewResponder makes the machine for an IKE_SA_INIT request that is still to be
// given to Step as Received. candidates are the connections that allow these
// addresses, in order of preference; the identities in IKE_AUTH choose among
// them.
func NewResponder(env *Env, candidates *conf.Candidates, local, remote netip.AddrPort) *Machine {
	m := &Machine{env: env, candidates: candidates, local: local, remote: remote}
	m.spiR, m.broken = m.newSPI()
	return m
}

// SPIs returns the SPIs of the IKE SA; one that is not known yet is 0.
func (m *Machine) SPIs() (initiator, responder message.SPI) { return m.spiI, m.spiR }

// LocalSPI returns the SPI that this side chose, under which the peer's messages
// arrive.
func (m *Machine) LocalSPI() message.SPI {
	if m.initiator {
		return m.spiI
	}
	return m.spiR
}

// Initiator reports whether this side is the original initiator.
func (m *Machine) Initiator() bool { return m.initiator }

// Connection returns the configuration of the IKE SA, or nil at a responder that
// has not chosen it yet.
func (m *Machine) Connection() *Connection { return m.conn }

// Identities returns who this side and the peer are; zero until they are known.
func (m *Machine) Identities() (local, remote Identity) { return m.localID, m.remoteID }

// Addrs returns the addresses that IKE messages travel between now.
func (m *Machine) Addrs() (local, remote netip.AddrPort) { return m.local, m.remote }

// Step gives an event to the Machine and returns what is to be done, in this
// order. It never blocks. now must not go backwards.
func (m *Machine) Step(now time.Time, e Event) []Action {
	if m.state == Gone {
		return nil
	}
	m.now = now
	switch {
	case m.broken != nil:
		m.fail(fault.Internal(m.broken))
	default:
		m.handle(e)
		m.limitUse()
		m.pump()
	}
	if m.state == Established {
		m.session.Rest()
	}
	out := m.actions
	m.actions = nil
	return out
}

func (m *Machine) handle(e Event) {
	switch e := e.(type) {
	case Initiate:
		m.initiate(e)
	case Received:
		m.receive(e)
	case Timeout:
		m.timeout()
	case Signed:
		m.signed(e)
	case Verified:
		m.verified(e)
	case Close:
		m.close(&fault.Fault{Code: fault.CodeClosed})
	case Destroy:
		m.destroy()
	case InstallFailed:
		m.installFailed(e)
	case Expired:
		m.expired(e)
	case PeerMoved:
		m.peerMoved(e)
	case Used:
		m.used(e)
	case DeleteChild:
		m.deleteChildren(e.Name)
	case Reconfigure:
		m.reconfigure(e.Connection)
	default:
		m.order(e)
	}
}

// order handles the events that ask for an exchange. They mean nothing before
// the IKE SA is established, and nothing to one that is ending.
func (m *Machine) order(e Event) {
	if m.state != Established {
		return
	}
	switch e := e.(type) {
	case CreateChild:
		m.enqueueChild(e.Child, e.Flow)
	case RekeyChild:
		for _, c := range m.children {
			if c.state == childLive && (e.Name == "" || e.Name == c.conf.Name) {
				m.enqueueRekey(c)
			}
		}
	case RekeyIKE:
		m.enqueue(&rekeyIKE{})
	case CheckLiveness:
		m.enqueue(&liveness{})
	default:
	}
}

func (m *Machine) act(a Action) { m.actions = append(m.actions, a) }

// notice reports what happened, f being nil where nothing failed.
func (m *Machine) notice(kind NoticeKind, child string, f *fault.Fault) {
	n := Notice{Kind: kind, Child: child}
	if f != nil {
		n.Code, n.Err, n.Evidence = f.Code, f.Err, f.Seen
	}
	m.act(Report{What: n})
}

// noticeUp reports that the IKE SA is established by msg, in which the peer
// authenticated itself.
func (m *Machine) noticeUp(msg *message.Message) {
	_, initial := msg.Notify(message.InitialContact)
	m.act(Report{What: Notice{Kind: IKEUp, InitialContact: initial}})
}

// drop reports a message that changed nothing.
func (m *Machine) drop(code string, err error) {
	m.act(Report{What: Notice{Kind: PeerDropped, Code: code, Err: err}})
}

// fail ends an IKE SA that never came up, and says nothing to the peer.
func (m *Machine) fail(f *fault.Fault) {
	m.notice(IKEFailed, "", f)
	m.becomeGone()
}

// down ends an IKE SA that was up.
func (m *Machine) down(f *fault.Fault) {
	if m.state != Replaced && !m.redundant {
		m.notice(IKEDown, "", f)
	}
}

// close deletes the IKE SA in good order (RFC 7296, Section 1.4.1).
func (m *Machine) close(f *fault.Fault) {
	switch m.state {
	case Established:
		m.abandon()
		m.enqueue(&deleteIKE{reason: f})
	case Replaced:
		m.enqueue(&deleteIKE{})
	case AuthSent:
		m.wantClose = true // the peer may be established: it is told as soon as we know
	case Verifying:
		if m.initiator {
			m.wantClose = true
			return
		}
		m.fail(f)
	case Closed:
		m.becomeGone()
	case Deleting:
	default:
		m.fail(f)
	}
}

// destroy sends the Delete that close would send, if it can go at once, and ends.
func (m *Machine) destroy() {
	f := &fault.Fault{Code: fault.CodeClosed}
	if m.state == Established {
		m.down(f)
		m.redundant = true // so that the end of the Delete does not report it again
	}
	m.close(f)
	m.pump()
	m.becomeGone()
}

// abandon gives up what waits in the queue, and the patience for what is under
// way.
func (m *Machine) abandon() {
	for _, w := range m.queue {
		w.task.cancel(m)
	}
	m.queue = nil
	if m.outstanding != nil {
		m.outstanding.hurry()
	}
}

func (m *Machine) random(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(m.env.Rand, b); err != nil {
		return nil, fmt.Errorf("read random octets: %w", err)
	}
	return b, nil
}

// newSPI returns a random SPI, which is never 0 (RFC 7296, Section 3.1).
func (m *Machine) newSPI() (message.SPI, error) {
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
