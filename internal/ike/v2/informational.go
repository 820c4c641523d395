package v2

import (
	"slices"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// ---- ours ----

// liveness is the empty INFORMATIONAL exchange (RFC 7296, Section 2.4).
type liveness struct{}

func (*liveness) request(*Machine) (message.ExchangeType, []message.Payload, bool) {
	return message.Informational, nil, true
}
func (*liveness) response(*Machine, *message.Message) {}
func (*liveness) cancel(*Machine)                     {}

// deleteChild deletes one CHILD SA (RFC 7296, Section 1.4.1).
type deleteChild struct{ child *child }

// enqueueDelete asks for c to be deleted, once.
func (m *Machine) enqueueDelete(c *child) {
	if slices.ContainsFunc(m.queue, func(w waiting) bool {
		t, ok := w.task.(*deleteChild)
		return ok && t.child == c
	}) {
		return
	}
	m.enqueue(&deleteChild{child: c})
}

func (t *deleteChild) request(*Machine) (message.ExchangeType, []message.Payload, bool) {
	if t.child.state == childGone || t.child.state == childDeleting {
		return 0, nil, false
	}
	t.child.state = childDeleting
	return message.Informational, []message.Payload{&message.Delete{
		Protocol: conf.WireProtocol(t.child.protocol()), SPIs: []ipsec.SPI{t.child.in},
	}}, true
}

// response ends the CHILD SA whatever the answer says: the peer has heard.
func (t *deleteChild) response(m *Machine, _ *message.Message) {
	if t.child.state == childDeleting {
		m.retire(t.child)
	}
}

func (t *deleteChild) cancel(*Machine) {}

// deleteChildren deletes the CHILD SAs of a tunnel.
func (m *Machine) deleteChildren(name string) {
	m.queue = slices.DeleteFunc(m.queue, func(w waiting) bool {
		t, ok := w.task.(*createChild)
		if ok && t.conf.Name == name && t.offer != nil {
			t.offer.discard(m)
		}
		return ok && t.conf.Name == name
	})
	if m.outstanding != nil {
		if t, ok := m.outstanding.task.(*createChild); ok && t.conf.Name == name {
			t.unwanted = true
		}
	}
	for _, c := range m.children {
		if c.conf.Name != name || c.state != childLive {
			continue
		}
		m.notice(ChildDown, name, nil)
		c.state, c.unwanted = childReplaced, true
		m.enqueueDelete(c)
	}
}

// deleteIKE deletes the IKE SA (RFC 7296, Section 1.4.1).
type deleteIKE struct {
	reason *fault.Fault       // for the report; nil: it was asked for
	notify message.NotifyType // sent with it, where not 0
	silent bool               // the end has been reported
}

func (t *deleteIKE) request(m *Machine) (message.ExchangeType, []message.Payload, bool) {
	if m.state == Replaced || m.redundant {
		t.silent = true
	}
	m.becomeDeleting()
	payloads := []message.Payload{&message.Delete{Protocol: message.ProtocolIKE}}
	if t.notify != 0 {
		payloads = append([]message.Payload{&message.Notify{Kind: t.notify}}, payloads...)
	}
	return message.Informational, payloads, true
}

func (t *deleteIKE) response(m *Machine, _ *message.Message) {
	if !t.silent {
		m.down(t.reason)
	}
	m.becomeGone()
}

func (t *deleteIKE) cancel(*Machine) {}

// ---- the peer's ----

// answerInformational answers INFORMATIONAL: deletes, error notifications, or
// nothing at all (RFC 7296, Section 1.4).
func (m *Machine) answerInformational(msg *message.Message) {
	if _, ok := msg.Notify(message.AuthenticationFailed); ok {
		// RFC 7296, Section 2.21.2: the initiator did not accept our IKE_AUTH
		// response, and has ended the IKE SA.
		m.respond(message.Informational)
		m.endedByPeer(fault.Newf(message.AuthenticationFailed, "the peer did not accept our authentication").
			Showing(rules.Evidence{Exchange: message.Informational, ByPeer: true}))
		return
	}
	var reply []message.Payload
	for _, p := range msg.Payloads {
		d, ok := p.(*message.Delete)
		if !ok {
			continue
		}
		if d.Protocol == message.ProtocolIKE {
			// It covers all CHILD SAs; the answer is empty.
			m.respond(message.Informational)
			m.endedByPeer(&fault.Fault{Code: fault.CodeDeleted})
			return
		}
		if spis := m.deletedByPeer(d); len(spis) > 0 {
			reply = append(reply, &message.Delete{Protocol: d.Protocol, SPIs: spis})
		}
	}
	m.respond(message.Informational, reply...)
}

// deletedByPeer takes a Delete payload and returns the SPIs of the other
// directions. RFC 7296, Section 1.4.1: where both ends delete at once, neither
// answers for its own direction.
func (m *Machine) deletedByPeer(d *message.Delete) []ipsec.SPI {
	var reply []ipsec.SPI
	for _, spi := range d.SPIs {
		c := m.findChild(func(c *child) bool {
			return c.out == spi && c.state != childGone && conf.WireProtocol(c.protocol()) == d.Protocol
		})
		if c == nil {
			if m.outstanding != nil && m.outstanding.kind == message.CreateChildSA && len(m.deletedEarly) < maxQueue {
				m.deletedEarly = append(m.deletedEarly, spi)
			}
			continue
		}
		if c.state != childDeleting {
			reply = append(reply, c.in)
		}
		if c.successor != nil && c.successor.state == childLive {
			m.activate(c.successor) // before the old one goes
		}
		if c.state == childLive && !m.peerLost(c) {
			m.notice(ChildDown, c.conf.Name, &fault.Fault{Code: fault.CodeDeleted})
		}
		m.retire(c)
	}
	return reply
}

// peerLost reports whether c, which the peer deletes, is what the peer's rekeying
// made that crossed ours: the peer has our response and has found that its own has
// lost (RFC 7296, Section 2.8.1), and our response is still on its way. Until it
// comes, the old one is what there is: the tunnel is not down.
func (m *Machine) peerLost(c *child) bool {
	if m.outstanding == nil {
		return false
	}
	t, ok := m.outstanding.task.(*rekeyChild)
	if !ok || t.rival != c {
		return false
	}
	t.rival, t.rivalLow = nil, nil
	if t.old.state == childReplaced && t.old.successor == c {
		t.old.state, t.old.successor = childLive, nil
	}
	return true
}

// endedByPeer ends the IKE SA that the peer has deleted. If the peer had
// replaced it in an exchange that crossed ours, its new one takes over (RFC
// 7296, Section 2.25.2).
func (m *Machine) endedByPeer(f *fault.Fault) {
	if m.state == Gone {
		return
	}
	if t := m.rekeyingIKE(); t != nil && t.rival != nil {
		m.succeed(t.rival)
		t.rival = nil
	}
	if d := m.deletingIKE(); d != nil && d.silent {
		m.becomeClosed()
		return
	}
	m.down(f)
	m.becomeClosed()
}

func (m *Machine) deletingIKE() *deleteIKE {
	if m.outstanding == nil {
		return nil
	}
	t, _ := m.outstanding.task.(*deleteIKE)
	return t
}
