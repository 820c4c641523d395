package v2

import (
	"bytes"
	"encoding/binary"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
)

// Two ends that rekey one CHILD SA at the same time make two new ones. Each end
// sees, when its own response arrives, whether it answered such a request of the
// peer meanwhile (its rival). The exchange that holds the lowest of the four
// nonces is the redundant one; its initiator deletes what it made, and the
// initiator of the other deletes the old SA (RFC 7296, Section 2.8.1).

// rekeyChild is the CREATE_CHILD_SA exchange that replaces a CHILD SA (RFC 7296,
// Section 1.3.3).
type rekeyChild struct {
	old   *child
	offer *childOffer
	retry

	rival    *child // what the peer's crossing request made, or nil
	rivalLow []byte // the lower nonce of that exchange
}

// enqueueRekey asks for c to be replaced, once.
func (m *Machine) enqueueRekey(c *child) {
	if c.rekeying != nil {
		return
	}
	t := &rekeyChild{old: c}
	c.rekeying = t
	m.enqueue(t)
}

func (t *rekeyChild) request(m *Machine) (message.ExchangeType, []message.Payload, bool) {
	if t.old.state != childLive {
		t.end(m)
		return 0, nil, false
	}
	if t.offer == nil {
		o, f := m.bareOffer(t.old.conf)
		if f != nil {
			t.failed(m, f)
			return 0, nil, false
		}
		// RFC 7296, Section 2.9.2: no narrower than what is in use.
		o.localTS, o.remoteTS = t.old.localTS, t.old.remoteTS
		t.offer = o
	}
	payloads, f := t.offer.request(m, t.group(t.offer.proposals), &message.Notify{
		Protocol: conf.WireProtocol(t.old.protocol()), SPI: spiOctets(t.old.in), Kind: message.RekeySA,
	})
	if f != nil {
		t.failed(m, f)
		return 0, nil, false
	}
	return message.CreateChildSA, payloads, true
}

func (t *rekeyChild) cancel(m *Machine) { t.end(m) }

// end gives up the exchange.
func (t *rekeyChild) end(m *Machine) {
	t.old.rekeying = nil
	if t.offer != nil {
		t.offer.discard(m)
	}
}

// failed reports that the CHILD SA could not be rekeyed, and tries again while
// it lives.
func (t *rekeyChild) failed(m *Machine, f *fault.Fault) {
	t.end(m)
	if t.old.state != childLive {
		return
	}
	m.notice(ChildFailed, t.old.conf.Name, f)
	m.afterChild(retryDelay, t.old, func(m *Machine) {
		if t.old.state == childLive && m.state == Established {
			m.enqueueRekey(t.old)
		}
	})
}

func (t *rekeyChild) response(m *Machine, msg *message.Message) {
	if t.old.state == childLive {
		if again, later := t.again(m, msg, t.offer.proposals); again {
			m.enqueueAfter(t, later)
			return
		}
	}
	nonce, _ := message.Find[*message.Nonce](msg)
	nr := nonceOf(nonce)
	c, f := t.offer.complete(m, msg, t.offer.proposals, t.offer.nonce, nr)
	if f != nil {
		t.refused(m, c, f)
		return
	}
	t.offer.spi = 0 // it is the child's now
	t.end(m)
	defer m.overtaken(c)
	if t.old.unwanted {
		c.state = childReplaced
		m.installChild(c, false)
		c.dropHeld()
		m.enqueueDelete(c)
		return
	}
	if t.rival != nil && bytes.Compare(lower(t.offer.nonce, nr), t.rivalLow) < 0 {
		m.loseChild(c, t.rival)
		return
	}
	m.installChild(c, true)
	if t.rival != nil && t.rival.state == childLive {
		// The peer deletes its own; until then nothing is sent through it.
		t.rival.state, t.rival.successor = childReplaced, c
		m.timers.Stop(t.rival.activate)
		t.rival.dropHeld()
	}
	m.replace(t.old, c)
	m.enqueueDelete(t.old)
}

// loseChild deletes the SA that this side made in a collision. Its inbound side
// is there meanwhile, for a peer that sends through it already.
func (m *Machine) loseChild(c, winner *child) {
	m.installChild(c, false)
	c.dropHeld()
	c.state, c.successor = childReplaced, winner
	m.enqueueDelete(c)
}

// replace notes that c takes over from old.
func (m *Machine) replace(old, c *child) {
	if old.successor == nil {
		m.notice(ChildRekeyed, c.conf.Name, nil)
	}
	old.successor = c
	if old.state == childLive {
		old.state = childReplaced
	}
}

// refused ends a rekeying that the peer did not accept. c is what only the peer
// has, or nil.
func (t *rekeyChild) refused(m *Machine, c *child, f *fault.Fault) {
	old := t.old
	switch {
	case c != nil:
		old.rekeying = nil
		m.undo(t.offer, c)
		t.offer.spi = 0
		t.failed(m, f)
	case old.state == childLive && f.Notify == message.ChildSANotFound:
		// RFC 7296, Section 2.25: the peer has lost it. A new one takes its place.
		t.end(m)
		m.notice(ChildDown, old.conf.Name, f)
		m.forget(old)
		m.enqueueChild(old.conf, nil)
	default:
		t.failed(m, f) // says nothing where the peer's own rekeying has won
	}
}

// answerRekeyChild answers the peer's rekeying of a CHILD SA.
func (m *Machine) answerRekeyChild(msg *message.Message, n *message.Notify) {
	old := m.rekeyed(n)
	switch {
	case old == nil && m.busyWithChild():
		// Perhaps the peer has made it in the response that we still wait for.
		m.respond(message.CreateChildSA, fault.Newf(message.TemporaryFailure, "a CHILD SA is being changed").Payload())
		return
	case old == nil:
		m.respond(message.CreateChildSA, &message.Notify{
			Protocol: n.Protocol, SPI: n.SPI, Kind: message.ChildSANotFound,
		})
		return
	case old.state != childLive:
		// Being deleted, or replaced already (RFC 7296, Section 2.25.1).
		m.respond(message.CreateChildSA, fault.Newf(message.TemporaryFailure, "the CHILD SA is being deleted").Payload())
		return
	}
	nonce, _ := message.Find[*message.Nonce](msg)
	nr, err := m.random(nonceLen)
	if err != nil {
		m.respond(message.CreateChildSA, fault.Internal(err).Payload())
		return
	}
	reply, c, f := m.acceptChild(msg, nonce.Data, nr, old)
	if f != nil {
		m.respond(message.CreateChildSA, f.Payload())
		if f.Notify != message.InvalidKEPayload {
			m.notice(ChildFailed, old.conf.Name, f)
		}
		return
	}
	m.installChild(c, false)
	c.unproven = true
	m.activateLater(c, old)
	if t := old.rekeying; t != nil && m.outstanding != nil && m.outstanding.task == t {
		t.rival, t.rivalLow = c, lower(nonce.Data, nr)
	}
	m.replace(old, c)
	m.respond(message.CreateChildSA, reply...)
}

// rekeyed finds the CHILD SA that REKEY_SA names by the SPI of the sender's
// inbound SA (RFC 7296, Section 1.3.3).
func (m *Machine) rekeyed(n *message.Notify) *child {
	if len(n.SPI) != 4 {
		return nil
	}
	spi := ipsec.SPI(binary.BigEndian.Uint32(n.SPI))
	return m.findChild(func(c *child) bool {
		return c.out == spi && c.state != childGone && conf.WireProtocol(c.protocol()) == n.Protocol
	})
}

// activateLater installs the outbound SA of c for a peer that neither deletes
// the old SA nor uses the new one. It waits until the peer surely has the new
// one, and while our own rekeying of the old one is under way: then it is not
// known yet whether c stays.
func (m *Machine) activateLater(c, old *child) {
	c.activate = m.afterChild(activateDelay, c, func(m *Machine) {
		if old.rekeying != nil || c.unproven {
			m.activateLater(c, old)
			return
		}
		m.activate(c)
	})
}

func lower(a, b []byte) []byte {
	if bytes.Compare(a, b) < 0 {
		return a
	}
	return b
}
