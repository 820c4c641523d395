package v2

import (
	"bytes"
	"encoding/binary"
	"slices"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Two ends that rekey the IKE SA at the same time make two new ones, and the
// nonces decide as they do for a CHILD SA (see rekey_child.go). Until they have,
// the CHILD SAs stay with the old one (RFC 7296, Section 2.8.1).

// rekeyIKE is the CREATE_CHILD_SA exchange that replaces the IKE SA (RFC 7296,
// Section 1.3.2).
type rekeyIKE struct {
	spi   message.SPI
	nonce []byte
	share suite.KEShare
	retry

	rival    *Machine // what the peer's crossing request made, or nil
	rivalLow []byte   // the lower nonce of that exchange
}

// rekeyingIKE returns our rekeying that is under way, or nil.
func (m *Machine) rekeyingIKE() *rekeyIKE {
	if m.outstanding == nil {
		return nil
	}
	t, _ := m.outstanding.task.(*rekeyIKE)
	return t
}

func (t *rekeyIKE) request(m *Machine) (message.ExchangeType, []message.Payload, bool) {
	if m.state != Established || m.redundant {
		return 0, nil, false
	}
	group := t.group(m.conn.Proposals)
	spi, err := m.newSPI()
	if err == nil {
		t.spi = spi
		t.nonce, err = m.random(nonceLen)
	}
	if err == nil {
		t.share, err = m.newShare(group)
	}
	if err != nil {
		t.failed(m, fault.Internal(err))
		return 0, nil, false
	}
	return message.CreateChildSA, []message.Payload{
		rules.Offer(m.conn.Proposals, message.ProtocolIKE, ikeSPIOctets(spi)),
		&message.Nonce{Data: t.nonce},
		&message.KE{Method: group.ID, Data: t.share.Public()},
	}, true
}

func ikeSPIOctets(spi message.SPI) []byte { return binary.BigEndian.AppendUint64(nil, uint64(spi)) }

func (t *rekeyIKE) cancel(*Machine) {
	t.share = nil
	if t.rival != nil {
		t.rival.session.Wipe()
		t.rival = nil
	}
}

// failed tries again later, while the IKE SA lives.
func (t *rekeyIKE) failed(m *Machine, f *fault.Fault) {
	m.notice(IKERekeyFailed, "", f)
	m.enqueueAfter(&rekeyIKE{}, retryDelay)
}

func (t *rekeyIKE) response(m *Machine, msg *message.Message) {
	if t.rival == nil {
		if again, later := t.again(m, msg, m.conn.Proposals); again {
			m.enqueueAfter(t, later)
			return
		}
	}
	n, nr, f := t.complete(m, msg)
	switch {
	case f != nil && t.rival != nil:
		// The peer's rekeying has won, whatever became of ours.
		m.succeed(t.rival)
	case f != nil:
		t.failed(m, f)
	case t.rival == nil:
		m.succeed(n)
		m.enqueue(&deleteIKE{})
	case bytes.Compare(lower(t.nonce, nr), t.rivalLow) < 0:
		m.succeed(t.rival)
		m.discardRedundant(n, true)
	default:
		m.succeed(n)
		m.discardRedundant(t.rival, false)
		m.enqueue(&deleteIKE{})
	}
	t.rival, t.share = nil, nil
}

// complete makes the IKE SA that the response agreed on, and returns the peer's
// nonce with it.
func (t *rekeyIKE) complete(m *Machine, msg *message.Message) (*Machine, []byte, *fault.Fault) {
	if f := fault.Refusal(msg); f != nil {
		return nil, nil, f
	}
	sa, _ := message.Find[*message.SA](msg)
	ke, _ := message.Find[*message.KE](msg)
	nonce, _ := message.Find[*message.Nonce](msg)
	p, ok := rules.Accepted(sa, m.conn.Proposals, message.ProtocolIKE)
	if !ok || len(p.SPI) != 8 || binary.BigEndian.Uint64(p.SPI) == 0 || nonce == nil {
		return nil, nil, fault.Newf(message.NoProposalChosen, "the peer chose what was not offered")
	}
	if group := p.Transforms.First(ipsec.TypeKE); ke == nil || group != t.sent || ke.Method != group.ID {
		return nil, nil, fault.Newf(message.InvalidKEPayload, "the key exchange of the response is not the one chosen")
	}
	shared, err := t.share.Finish(ke.Data)
	if err != nil {
		return nil, nil, fault.Newf(message.InvalidKEPayload, "key exchange: %w", err)
	}
	peer := message.SPI(binary.BigEndian.Uint64(p.SPI))
	n, err := m.successor(p.Transforms, shared, t.nonce, nonce.Data, t.spi, peer, true)
	if err != nil {
		return nil, nil, fault.Internal(err)
	}
	return n, nonce.Data, nil
}

// successor makes the machine of a new IKE SA, with SKEYSEED of RFC 7296,
// Section 2.18. It wipes shared.
func (m *Machine) successor(chosen ipsec.Proposal, shared secret.Key, ni, nr []byte,
	spiI, spiR message.SPI, initiator bool,
) (*Machine, error) {
	defer shared.Wipe()
	prf, err := suite.NewPRF(chosen.First(ipsec.TypePRF))
	if err != nil {
		return nil, err
	}
	seed := keys.RekeySeed(m.session.PRF, m.session.Keys.D, shared, ni, nr)
	session, err := keys.NewSession(chosen, prf, seed, ni, nr, uint64(spiI), uint64(spiR), initiator)
	if err != nil {
		return nil, err
	}
	session.ForgetAuthKeys()
	n := &Machine{
		env: m.env, initiator: initiator, conn: m.conn, state: Established, now: m.now,
		spiI: spiI, spiR: spiR, local: m.local, remote: m.remote, nat: m.nat, session: session,
		localID: m.localID, remoteID: m.remoteID, vendors: m.vendors, established: m.now,
	}
	n.fragments, n.onePair = m.fragments, m.onePair
	return n, nil
}

// succeed hands the CHILD SAs, and what waits for an exchange, over to n.
func (m *Machine) succeed(n *Machine) {
	n.now, n.conn, n.local, n.remote = m.now, m.conn, m.local, m.remote
	n.children, m.children = m.children, nil
	n.queue, m.queue = m.queue, nil
	n.queue = slices.DeleteFunc(n.queue, func(w waiting) bool {
		_, rekey := w.task.(*rekeyIKE)
		return rekey
	})
	m.timers.MoveAbout(&n.timers)
	n.startLife()
	n.after(0, func(*Machine) {}) // to start what waits
	m.becomeReplaced()
	m.act(Succeed{Machine: n})
	m.notice(IKERekeyed, "", nil)
}

// discardRedundant lets the IKE SA end that lost a collision: by a Delete where
// ours says that this side made it, otherwise by the peer's.
func (m *Machine) discardRedundant(n *Machine, ours bool) {
	n.redundant, n.now = true, m.now
	if ours {
		n.enqueue(&deleteIKE{})
		n.after(0, func(*Machine) {})
	} else {
		n.after(replacedLimit, (*Machine).becomeGone)
	}
	m.act(Succeed{Machine: n, Redundant: true})
}

// answerRekeyIKE answers the peer's rekeying of the IKE SA.
func (m *Machine) answerRekeyIKE(msg *message.Message) {
	if m.redundant || m.busyWithChild() {
		// RFC 7296, Section 2.25.2.
		m.respond(message.CreateChildSA, fault.Newf(message.TemporaryFailure, "a CHILD SA is being changed").Payload())
		return
	}
	n, low, reply, f := m.acceptRekeyIKE(msg)
	if f != nil {
		m.respond(message.CreateChildSA, f.Payload())
		return
	}
	if t := m.rekeyingIKE(); t != nil {
		if t.rival != nil {
			t.rival.session.Wipe()
		}
		t.rival, t.rivalLow = n, low
		m.respond(message.CreateChildSA, reply...)
		return
	}
	// The new IKE SA must be known before the peer learns of it: its first message
	// may come at once.
	if m.state == Established {
		m.succeed(n)
	}
	m.respond(message.CreateChildSA, reply...)
}

// busyWithChild reports whether an exchange of ours that creates, rekeys or
// deletes a CHILD SA is under way.
func (m *Machine) busyWithChild() bool {
	if m.outstanding == nil {
		return false
	}
	switch m.outstanding.task.(type) {
	case *createChild, *rekeyChild, *deleteChild:
		return true
	default:
		return false
	}
}

func (m *Machine) acceptRekeyIKE(msg *message.Message) (n *Machine, low []byte, reply []message.Payload, f *fault.Fault) {
	sa, _ := message.Find[*message.SA](msg)
	nonce, _ := message.Find[*message.Nonce](msg)
	p, ok := rules.Choose(m.conn.Proposals, sa.Proposals, message.ProtocolIKE)
	if !ok || len(p.SPI) != 8 || binary.BigEndian.Uint64(p.SPI) == 0 {
		return nil, nil, nil, fault.Newf(message.NoProposalChosen, "none of the peer's IKE proposals is acceptable: %s", rules.Describe(sa.Proposals))
	}
	public, shared, f := m.respondKE(msg, p.Transforms.First(ipsec.TypeKE))
	if f != nil {
		return nil, nil, nil, f
	}
	nr, err := m.random(nonceLen)
	if err != nil {
		return nil, nil, nil, fault.Internal(err)
	}
	spi, err := m.newSPI()
	if err != nil {
		return nil, nil, nil, fault.Internal(err)
	}
	n, err = m.successor(p.Transforms, shared, nonce.Data, nr, message.SPI(binary.BigEndian.Uint64(p.SPI)), spi, false)
	if err != nil {
		return nil, nil, nil, fault.Internal(err)
	}
	p.SPI = ikeSPIOctets(spi)
	return n, lower(nonce.Data, nr), []message.Payload{
		&message.SA{Proposals: []message.Proposal{p}},
		&message.Nonce{Data: nr},
		&message.KE{Method: p.Transforms.First(ipsec.TypeKE).ID, Data: public},
	}, nil
}
