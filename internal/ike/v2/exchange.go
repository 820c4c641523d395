package v2

import (
	"crypto/sha256"
	"math"
	"net/netip"
	"slices"
	"time"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// nonceLen is the length of our nonces: at least half the key size of every PRF
// (RFC 7296, Section 2.10).
const nonceLen = 32

// maxQueue is how many requests may wait for the window.
const maxQueue = 256

// task is one exchange that this side starts.
type task interface {
	// request returns the payloads, or false where nothing is left to be done.
	request(m *Machine) (message.ExchangeType, []message.Payload, bool)
	// response takes the answer. The window is free already.
	response(m *Machine, msg *message.Message)
	// cancel gives up the task, queued or under way, when the IKE SA ends.
	cancel(m *Machine)
}

// exchanges are the two windows of an IKE SA, both of size 1 (RFC 7296, Section
// 2.3), and what waits for the outer one.
type exchanges struct {
	sendID      uint32      // message ID of our next request, or of the outstanding one
	recvID      uint32      // message ID of the peer's next request
	fragments   bool        // both sides can fragment messages (RFC 7383)
	requests    *reassembly // of request recvID, or nil
	responses   *reassembly // of the response to request sendID, or nil
	answered    answer      // to request recvID-1
	pending     *Received   // the request that is being worked on, or nil
	outstanding *exchange
	queue       []waiting
	// deletedEarly are SPIs that the peer deleted while our request for a CHILD SA
	// was outstanding, and that we do not know: perhaps the response's.
	deletedEarly []ipsec.SPI
	wake         *timed // for the first task in the queue that has to wait
}

// answer is the last response, kept to be repeated octet by octet (RFC 7296,
// Section 2.1).
type answer struct {
	request  [sha256.Size]byte // of fragment 1, where there are several
	response [][]byte
}

// reassembly is a message of the peer of which some fragments are here. There is
// one in each direction, for both windows are of size 1.
type reassembly struct {
	message.Assembly
	first []byte // fragment 1 as it was received
}

// Total is like Assembly's, and 0 for nil.
func (r *reassembly) Total() int {
	if r == nil {
		return 0
	}
	return r.Assembly.Total()
}

// exchange is our request that waits for its response.
type exchange struct {
	kind  message.ExchangeType
	raw   [][]byte // the datagrams
	task  task
	tries int // repetitions left
	wait  time.Duration
	timer *timed
}

// waiting is a task in the queue.
type waiting struct {
	task   task
	notYet time.Time // before this moment it is not started
}

// enqueue adds a task, which pump starts when the window is free.
func (m *Machine) enqueue(t task) { m.enqueueAfter(t, 0) }

func (m *Machine) enqueueAfter(t task, d time.Duration) {
	// What ends the IKE SA frees all the rest.
	if _, ends := t.(*deleteIKE); !ends && len(m.queue) >= maxQueue {
		m.notice(ChildFailed, tunnelOf(t), &fault.Fault{Code: fault.CodeQueueFull, Err: fault.ErrQueueFull})
		t.cancel(m)
		return
	}
	m.queue = append(m.queue, waiting{task: t, notYet: m.now.Add(d)})
}

// tunnelOf is the tunnel that a task is about, or empty.
func tunnelOf(t task) string {
	switch t := t.(type) {
	case *createChild:
		return t.conf.Name
	case *rekeyChild:
		return t.old.conf.Name
	case *deleteChild:
		return t.child.conf.Name
	default:
		return ""
	}
}

// pump starts the next task when nothing is outstanding.
func (m *Machine) pump() {
	m.timers.Stop(m.wake)
	for m.outstanding == nil && (m.state == Established || m.state == Replaced) {
		i := slices.IndexFunc(m.queue, func(w waiting) bool { return !w.notYet.After(m.now) })
		if i < 0 {
			break
		}
		t := m.queue[i].task
		m.queue = slices.Delete(m.queue, i, i+1)
		if kind, payloads, ok := t.request(m); ok {
			m.launch(kind, payloads, t)
		}
	}
	if m.outstanding == nil && len(m.queue) > 0 {
		first := slices.MinFunc(m.queue, func(a, b waiting) int { return a.notYet.Compare(b.notYet) })
		m.wake = m.after(first.notYet.Sub(m.now), func(*Machine) {})
	}
}

// launch sends a request under the session's keys.
func (m *Machine) launch(kind message.ExchangeType, payloads []message.Payload, t task) {
	if m.sendID == math.MaxUint32 {
		// RFC 7296, Section 2.2: the IKE SA ends before its message IDs wrap.
		t.cancel(m)
		m.down(&fault.Fault{Code: fault.CodeInternal, Err: fault.ErrMessageIDs})
		m.becomeGone()
		return
	}
	raw, err := m.seal(m.header(kind, m.sendID, 0), payloads)
	if err != nil {
		t.cancel(m)
		m.down(fault.Internal(err))
		m.becomeGone()
		return
	}
	m.transmit(kind, raw, t)
}

// transmit sends the datagrams of a request and starts repeating them.
func (m *Machine) transmit(kind message.ExchangeType, raw [][]byte, t task) {
	r := m.conn.Retransmit.OrDefault()
	m.outstanding = &exchange{kind: kind, raw: raw, task: t, tries: r.Tries, wait: r.Initial}
	if _, ok := t.(*deleteIKE); ok {
		m.outstanding.hurry()
	}
	m.sendTo(raw, m.local, m.remote)
	m.armRetransmit()
}

func (m *Machine) armRetransmit() {
	m.outstanding.timer = m.after(m.outstanding.wait, (*Machine).retransmit)
}

// retransmit repeats the outstanding request, or gives the peer up (RFC 7296,
// Section 2.4).
func (m *Machine) retransmit() {
	x := m.outstanding
	if x == nil {
		return
	}
	if x.tries == 0 {
		m.giveUp()
		return
	}
	r := m.conn.Retransmit.OrDefault()
	x.tries--
	x.wait = min(r.Max, time.Duration(float64(x.wait)*r.Factor))
	m.sendTo(x.raw, m.local, m.remote)
	m.armRetransmit()
}

// giveUp ends the IKE SA of a peer that does not answer.
func (m *Machine) giveUp() {
	f := &fault.Fault{Code: fault.CodeNotResponding, Err: fault.ErrNotResponding, Seen: &rules.Evidence{Exchange: m.outstanding.kind}}
	switch m.state {
	case InitSent, AuthSent:
		if m.setup.hint != nil {
			f = m.setup.hint
		}
		m.fail(f)
	default:
		if d, ok := m.outstanding.task.(*deleteIKE); ok && d.reason != nil {
			f = d.reason // it was ending anyway
		}
		if d, ok := m.outstanding.task.(*deleteIKE); !ok || !d.silent {
			m.down(f)
		}
		m.becomeGone()
	}
}

// hurry bounds what is left of an exchange of an IKE SA that is to end.
func (x *exchange) hurry() { x.tries = min(x.tries, 2) }

// finish frees the window: the outstanding request has its response.
func (m *Machine) finish() task {
	x := m.outstanding
	m.timers.Stop(x.timer)
	m.outstanding = nil
	m.sendID++
	return x.task
}

// respond answers the pending request. It is the only way to free the inner
// window.
func (m *Machine) respond(kind message.ExchangeType, payloads ...message.Payload) {
	r := m.pending
	m.pending = nil
	raw, err := m.seal(m.header(kind, m.recvID, message.FlagResponse), payloads)
	if err != nil {
		// What we wrote ourselves does not fit: the peer hears that much.
		raw, err = m.seal(m.header(kind, m.recvID, message.FlagResponse), []message.Payload{fault.Internal(err).Payload()})
	}
	if err != nil {
		m.down(fault.Internal(err))
		m.becomeGone()
		return
	}
	m.keepAnswer(r.Raw, raw)
	m.sendTo(raw, r.Local, r.Remote)
}

// keepAnswer moves the inner window on.
func (m *Machine) keepAnswer(request []byte, response [][]byte) {
	m.answered = answer{request: sha256.Sum256(request), response: response}
	m.recvID++
}

// repeats reports whether r is the request that was answered last.
func (m *Machine) repeats(r Received) bool {
	return m.answered.response != nil && m.answered.request == sha256.Sum256(r.Raw)
}

func (m *Machine) sendTo(datagrams [][]byte, local, remote netip.AddrPort) {
	for _, raw := range datagrams {
		m.act(Send{Data: raw, Local: local, Remote: remote})
	}
}

func (m *Machine) header(kind message.ExchangeType, id uint32, flags message.Flags) message.Header {
	if m.initiator {
		flags |= message.FlagInitiator
	}
	return message.Header{InitiatorSPI: m.spiI, ResponderSPI: m.spiR, Exchange: kind, MessageID: id, Flags: flags}
}

// seal returns the datagrams of a message: several where it is long and the peer
// can put fragments together.
func (m *Machine) seal(h message.Header, payloads []message.Payload) ([][]byte, error) {
	msg := message.Message{Header: h, Payloads: m.env.Numbers.Outgoing(payloads)}
	limit := message.MaxLength
	if m.fragments {
		c := m.conn
		if c == nil {
			c = m.candidates.All()[0] // a refusal, before one is chosen
		}
		limit = c.FragmentLimit(m.remote.Addr(), m.local.Port() != ikePort)
	}
	raw, err := msg.SealFragments(m.session.Seal(), m.nextSeq, limit)
	m.use.spend(raw...)
	if err == nil {
		m.show(ipsec.Out, &msg)
	}
	return raw, err
}

// show shows a message to the world, where it wants to see it.
func (m *Machine) show(d ipsec.Direction, msg *message.Message) {
	if m.env.Show != nil {
		m.env.Show(d, msg)
	}
}

// nextSeq feeds the IV, which the message ID cannot: a request and a response
// with one ID are sealed with the same key.
func (m *Machine) nextSeq() uint64 {
	m.session.Sealed++
	return m.session.Sealed
}
