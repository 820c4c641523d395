package v2

import (
	"errors"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// wellFormed checks what kinds of payloads a message has.
func wellFormed(msg *message.Message) *fault.Fault {
	if err := rules.CheckContent(msg); err != nil {
		return fault.Newf(message.InvalidSyntax, "%w", err)
	}
	return nil
}

// receive sorts a datagram: see the error contract in package fault.
func (m *Machine) receive(r Received) {
	msg, err := message.Parse(r.Raw)
	if err != nil {
		m.drop(limitOr(fault.DropMalformed, err), err)
		m.endIfUnborn()
		return
	}
	msg.Payloads = m.env.Numbers.Incoming(msg.Payloads)
	h := msg.Header
	switch {
	case h.Exchange == message.IKESAInit:
		m.receiveInit(msg, r)
	case m.session == nil || h.InitiatorSPI != m.spiI || h.ResponderSPI != m.spiR ||
		h.Flags.Has(message.FlagInitiator) == m.initiator:
		m.drop(fault.DropStray, nil)
		m.endIfUnborn()
	case h.Flags.Has(message.FlagResponse):
		m.receiveResponse(msg, r)
	default:
		m.receiveRequest(msg, r)
	}
}

// limitOr is the code of an error: that of limits where it is about one.
func limitOr(code string, err error) string {
	if errors.Is(err, message.ErrLimit) {
		return fault.CodeLimit
	}
	return code
}

// endIfUnborn ends a responder whose first datagram is not worth an IKE SA.
func (m *Machine) endIfUnborn() {
	if !m.initiator && m.state == Idle {
		m.becomeGone()
	}
}

func (m *Machine) receiveRequest(msg *message.Message, r Received) {
	h := msg.Header
	if m.repeats(r) {
		// RFC 7296, Section 2.1: the same octets again. It need not be opened, for
		// only what was authentic is remembered.
		m.sendTo(m.answered.response, r.Local, r.Remote)
		return
	}
	switch {
	case h.MessageID+1 == m.recvID && m.recut(msg, r):
		m.sendTo(m.answered.response, r.Local, r.Remote)
		return
	case h.MessageID != m.recvID:
		m.drop(fault.DropReplayed, nil)
		return
	case m.pending != nil:
		m.drop(fault.DropRepeated, nil)
		return
	case !m.expectsRequest(h.Exchange):
		m.drop(fault.DropUnexpected, nil)
		return
	}
	f, ok := m.open(msg, &r, &m.requests)
	if !ok {
		return
	}
	m.show(ipsec.In, msg)
	m.pending = &r
	m.follow(r)
	for _, c := range m.children {
		c.unproven = false // with a window of 1, the peer has all our responses
	}
	if f == nil {
		f = wellFormed(msg)
	}
	if f != nil {
		m.answerSyntax(h.Exchange, f)
		return
	}
	if t, bad := msg.UnsupportedCritical(); bad {
		// RFC 7296, Section 2.5. In IKE_AUTH that ends the set-up.
		f := fault.Newf(message.UnsupportedCriticalPayload, "critical payload of type %d", t)
		f.Data = []byte{byte(t)}
		m.respond(h.Exchange, f.Payload())
		if h.Exchange == message.IKEAuth {
			m.notice(IKEFailed, "", f)
			m.becomeClosed()
		}
		return
	}
	switch h.Exchange {
	case message.IKEAuth:
		m.answerAuth(msg)
	case message.CreateChildSA:
		m.answerCreateChild(msg)
	default:
		m.answerInformational(msg)
	}
}

// expectsRequest is the table of the requests that a state takes.
func (m *Machine) expectsRequest(kind message.ExchangeType) bool {
	switch m.state {
	case HalfOpen:
		return kind == message.IKEAuth
	case Established, Replaced, Deleting:
		return kind == message.CreateChildSA || kind == message.Informational
	default:
		return false
	}
}

// answerSyntax answers what is authentic and malformed. RFC 7296, Section
// 2.21.3: that ends the IKE SA at both ends without a Delete.
func (m *Machine) answerSyntax(kind message.ExchangeType, f *fault.Fault) {
	m.respond(kind, f.Payload())
	if m.state == HalfOpen {
		m.notice(IKEFailed, "", f)
	} else {
		m.down(f)
	}
	m.becomeClosed()
}

// open decrypts a message, or puts a fragment to the others in. It returns false
// for one that is dropped or not complete, and a failure for one that is
// authentic and malformed. Of a message in fragments, r becomes the first.
func (m *Machine) open(msg *message.Message, r *Received, in **reassembly) (*fault.Fault, bool) {
	fragment := msg.Encrypted != nil && msg.Encrypted.IsFragment()
	switch {
	case len(msg.Payloads) > 0:
		// Nothing in clear belongs beside the SK payload, and nothing is lost: the
		// whole datagram is authenticated.
		m.drop(fault.DropMalformed, nil)
		return nil, false
	case fragment && !m.fragments:
		m.drop(fault.DropUnexpected, nil)
		return nil, false
	}
	complete := true
	var err error
	if fragment {
		number := msg.Encrypted.Fragment
		if *in == nil {
			*in = new(reassembly)
		}
		complete, err = msg.OpenFragment(r.Raw, m.session.Open(), &(*in).Assembly)
		if err == nil && number == 1 {
			(*in).first = r.Raw
		}
	} else {
		err = msg.Open(r.Raw, m.session.Open())
	}
	kind, malformed := message.NotifyOf(err)
	switch {
	case errors.Is(err, message.ErrFragment):
		m.drop(limitOr(fault.DropFragment, err), err)
		return nil, false
	case err != nil && !malformed:
		m.drop(fault.DropNotAuthentic, err)
		return nil, false
	}
	m.heard = m.now
	m.use.spend(r.Raw)
	if !complete && !malformed {
		return nil, false
	}
	if *in != nil && (*in).first != nil {
		r.Raw = (*in).first
	}
	*in = nil
	msg.Payloads = m.env.Numbers.Incoming(msg.Payloads)
	if malformed {
		return &fault.Fault{Code: limitOr(fault.CodeOf(kind), err), Err: err, Notify: kind}, true
	}
	return nil, true
}

// recut reports whether msg is the first fragment of the request that was
// answered last, cut anew because the answer was lost. The others are not
// answered, so that each try of the peer is answered once (RFC 7383, Section
// 2.6.1).
func (m *Machine) recut(msg *message.Message, r Received) bool {
	e := msg.Encrypted
	if !m.fragments || m.answered.response == nil || len(msg.Payloads) > 0 || e == nil || e.Fragment != 1 {
		return false
	}
	_, err := msg.OpenFragment(r.Raw, m.session.Open(), new(message.Assembly))
	return err == nil
}

func (m *Machine) receiveResponse(msg *message.Message, r Received) {
	x := m.outstanding
	if x == nil || msg.Header.MessageID != m.sendID || msg.Header.Exchange != x.kind {
		m.drop(fault.DropUnexpected, nil)
		return
	}
	f, ok := m.open(msg, &r, &m.responses)
	if !ok {
		return
	}
	m.show(ipsec.In, msg)
	m.follow(r)
	t := m.finish()
	if f == nil {
		f = wellFormed(msg)
	}
	if f == nil {
		if n, bad := msg.UnsupportedCritical(); bad {
			f = fault.Newf(message.UnsupportedCriticalPayload, "critical payload of type %d in a response", n)
		}
	}
	if f != nil {
		m.responseFailed(t, f)
		return
	}
	t.response(m, msg)
	if n, ok := msg.Notify(message.InvalidSyntax); ok && (m.state == Established || m.state == Replaced) {
		// RFC 7296, Section 2.21.3: the peer has ended the IKE SA.
		m.down(fault.Newf(n.Kind, "the peer answered %s", n.Kind))
		m.becomeGone()
	}
}

// responseFailed ends the IKE SA after an authentic response that cannot be
// understood: whether the peer did what was asked is not known.
func (m *Machine) responseFailed(t task, f *fault.Fault) {
	switch m.state {
	case AuthSent:
		m.refuseAuth(f)
	case Deleting:
		t.response(m, &message.Message{})
	default:
		t.cancel(m)
		m.abandon()
		m.enqueue(&deleteIKE{reason: f})
	}
}
