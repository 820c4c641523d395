package v1

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"slices"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v1/proposal"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

// ---- ours ----

// inform sends an informational exchange, which has one message and no answer (RFC
// 2409, Section 5.7).
func (m *Machine) inform(payload isakmp.Payload) {
	if m.session == nil {
		return
	}
	id, err := m.newMessageID()
	if err != nil {
		return // nothing depends on its arrival
	}
	rest, err := isakmp.AppendChain(nil, []isakmp.Payload{payload})
	if err != nil {
		return
	}
	hash := keys.InformationalHash(m.session.hash, m.session.keys.A, id, rest)
	raw, _, err := m.seal(m.header(isakmp.Informational, id), m.session.iv2(id),
		[]isakmp.Payload{{Type: isakmp.TypeHash, Body: hash}, payload})
	if err == nil {
		m.send(raw)
	}
}

// tellFailure sends the notification of a failure under protection.
func (m *Machine) tellFailure(f *failure, protocol message.ProtocolID, spi []byte) {
	if f.notify != 0 {
		m.inform(isakmp.Payload{Type: isakmp.TypeNotify, Body: (&isakmp.Notify{Protocol: protocol, SPI: spi, Kind: f.notify}).Body()})
	}
}

// dpd is Dead Peer Detection (RFC 3706).
type dpd struct {
	seq     uint32 // of the last R-U-THERE
	waiting bool
	begun   time.Time
	tries   int
}

// watchPeer asks whether the peer is alive when nothing authentic came for the
// configured time.
func (m *Machine) watchPeer() {
	if m.state != established || m.conn.DPD <= 0 {
		return
	}
	if idle := m.now.Sub(m.heard); idle < m.conn.DPD {
		m.after(m.conn.DPD-idle, (*Machine).watchPeer)
		return
	}
	m.probe()
	m.after(m.conn.DPD, (*Machine).watchPeer)
}

// probe asks a peer that knows how to answer.
func (m *Machine) probe() {
	if !m.peerDPD || m.dpd.waiting {
		return
	}
	if m.dpd.seq == 0 {
		if b, err := m.random(4); err == nil {
			m.dpd.seq = binary.BigEndian.Uint32(b) >> 1 // not negative where a peer reads it so
		}
	}
	m.dpd.seq++
	m.dpd.waiting, m.dpd.begun, m.dpd.tries = true, m.now, 0
	m.sendProbe()
}

func (m *Machine) sendProbe() {
	m.inform(m.probeNotify(isakmp.RUThere, binary.BigEndian.AppendUint32(nil, m.dpd.seq)))
	seq, policy := m.dpd.seq, m.policy()
	m.after(min(policy.Max, policy.Initial<<min(m.dpd.tries, 8)), func(m *Machine) {
		switch {
		case !m.dpd.waiting || m.dpd.seq != seq || m.state != established:
		case m.dpd.tries < policy.Tries:
			m.dpd.tries++
			m.sendProbe()
		case m.heard.After(m.dpd.begun): // it lives, and only its answers were lost
			m.dpd.waiting = false
		default:
			m.down(&failure{code: fault.CodeNotResponding, err: errNotResponding}, true)
		}
	})
}

func (m *Machine) probeNotify(kind isakmp.NotifyType, data []byte) isakmp.Payload {
	n := &isakmp.Notify{Protocol: message.ProtocolIKE, SPI: m.cookies(), Kind: kind, Data: data}
	return isakmp.Payload{Type: isakmp.TypeNotify, Body: n.Body()}
}

// ---- the peer's ----

func (m *Machine) receiveInformational(msg *isakmp.Message, r step.Received) {
	if msg.Encrypted == nil {
		m.claimInClear(msg)
		return
	}
	id := msg.Header.MessageID
	switch {
	case m.session == nil || m.setup != nil || id == 0 || m.state != established && m.state != replaced:
		m.drop(fault.DropUnexpected, nil)
		m.endIfUnborn()
		return
	case m.seen.has(id):
		m.drop(fault.DropReplayed, nil)
		return
	}
	o, err := m.session.open(msg, m.session.iv2(id))
	if err != nil {
		m.drop(fault.DropNotAuthentic, err)
		return
	}
	if !hmac.Equal(keys.InformationalHash(m.session.hash, m.session.keys.A, id, o.rest()), o.payloads[0].Body) {
		m.drop(fault.DropNotAuthentic, nil)
		return
	}
	m.show(ipsec.In, msg.Header, o.payloads)
	m.seen.add(id)
	m.heard = m.now
	m.prove()
	m.follow(r)
	for _, p := range o.payloads {
		if m.state == gone || m.state == deleted {
			return
		}
		switch p.Type {
		case isakmp.TypeNotify:
			if n, err := isakmp.ParseNotify(p.Body); err == nil {
				m.notified(n)
			}
		case isakmp.TypeDelete:
			if d, err := isakmp.ParseDelete(p.Body); err == nil {
				m.deletedByPeer(d)
			}
		default:
		}
	}
}

// claimInClear takes a notification that anybody may have sent: as a hint what may
// be wrong, should the peer stay silent, and to ask it less often.
func (m *Machine) claimInClear(msg *isakmp.Message) {
	n, err := parsePayload(msg.Payloads, isakmp.TypeNotify, isakmp.ParseNotify)
	if err != nil || !n.Kind.IsError() || m.setup == nil || m.state == failed {
		m.drop(fault.DropUnexpected, err)
		m.endIfUnborn()
		return
	}
	f := failf(n.Kind, "the peer answered %s", n.Kind).showing(refusal(isakmp.MainMode))
	switch {
	case !m.initiator:
	case m.state == waitSA:
		f.seen.Offered = proposal.Words(m.setup.offered)
		f.with(cureOffer)
	case m.state == waitEnvelope:
		f.with(cureEnvelope)
	default:
	}
	m.setup.hint = f
	if m.initiator {
		m.setup.repeater.hurry()
	}
	m.drop(fault.DropUnexpected, f.err)
}

// notified takes a notification that the peer has sent indeed.
func (m *Machine) notified(n *isakmp.Notify) {
	switch n.Kind {
	case isakmp.RUThere:
		m.inform(m.probeNotify(isakmp.RUThereAck, n.Data))
	case isakmp.RUThereAck:
		if m.dpd.waiting && bytes.Equal(n.Data, binary.BigEndian.AppendUint32(nil, m.dpd.seq)) {
			m.dpd.waiting = false
		}
	case isakmp.InitialContact:
		m.forgetInherited()
	case isakmp.ResponderLifetime:
		m.shortenLife(n)
	default:
		// CONNECTED and REPLAY-STATUS ask for nothing: a peer may say so after an
		// exchange with the commit bit (RFC 2408, Section 3.1).
		if n.Kind.IsError() {
			m.refusedByPeer(n)
		}
	}
}

// refusedByPeer finds our quick mode that an error is about: by the SPI, and where
// the peer names none of ours, the oldest that is under way.
func (m *Machine) refusedByPeer(n *isakmp.Notify) {
	var candidates []*quick
	for _, x := range m.quicks {
		if !x.initiator || x.over {
			continue
		}
		if bytes.Equal(n.SPI, spiOctets(x.spi)) {
			candidates = []*quick{x}
			break
		}
		candidates = append(candidates, x)
	}
	if len(candidates) == 0 {
		m.drop(fault.DropUnexpected, errorf("the peer reports %s", n.Kind))
		return
	}
	x := slices.MinFunc(candidates, func(a, b *quick) int { return a.begun.Compare(b.begun) })
	f := failf(n.Kind, "the peer answered %s", n.Kind).showing(refusal(isakmp.QuickMode))
	switch n.Kind {
	case isakmp.NoProposalChosen, isakmp.AttributesNotSupp, isakmp.BadProposalSyntax:
		f.seen.Offered = proposal.Words(x.offered)
		f.with(cureChild)
	case isakmp.InvalidHashInfo, isakmp.AuthenticationFailed, isakmp.PayloadMalformed:
		f = cureHash(f, x)
	default:
	}
	m.endQuick(x)
	m.wishFailed(x.wish, f)
}

// lifetimeOf reads RESPONDER-LIFETIME (RFC 2407, Section 4.6.3.1). The attributes
// have other types in phase 1 and phase 2.
func lifetimeOf(n *isakmp.Notify) (life ipsec.Limit) {
	attributes, err := isakmp.ParseAttributes(n.Data)
	if err != nil {
		return life
	}
	typeAttr, lifeAttr := isakmp.AttrLifeType, isakmp.AttrLife
	if n.Protocol == message.ProtocolIKE {
		typeAttr, lifeAttr = isakmp.AttrIKELifeType, isakmp.AttrIKELife
	}
	kind := uint64(0)
	for _, a := range attributes {
		v, ok := a.Number()
		switch {
		case !ok:
		case a.Type == typeAttr:
			kind = v
		case a.Type == lifeAttr && kind == uint64(isakmp.LifeSeconds):
			life.Time = time.Duration(min(v, 1<<32)) * time.Second
		case a.Type == lifeAttr && kind == uint64(isakmp.LifeKilobytes):
			life.Bytes = min(v, 1<<50) * 1024
		}
	}
	return life
}

// shortenLife obeys a peer that lets an SA live for a shorter time than was
// offered.
func (m *Machine) shortenLife(n *isakmp.Notify) {
	life := lifetimeOf(n)
	if life.Time <= 0 {
		return
	}
	soft := m.softTime(life.Time)
	if n.Protocol == message.ProtocolIKE {
		if at := m.established.Add(soft); m.rekeyAt.IsZero() || at.Before(m.rekeyAt) {
			m.rekeyAt = at
			m.after(max(0, at.Sub(m.now)), (*Machine).beginSuccessor)
		}
		return
	}
	for _, c := range m.children {
		if c.state == childLive && (bytes.Equal(n.SPI, spiOctets(c.out)) || bytes.Equal(n.SPI, spiOctets(c.in))) {
			m.after(soft, func(m *Machine) {
				if c.state == childLive && slices.Contains(m.children, c) {
					m.rekey(c)
				}
			})
		}
	}
}

// deletedByPeer takes a Delete payload.
func (m *Machine) deletedByPeer(d *isakmp.Delete) {
	if d.Protocol == message.ProtocolIKE {
		if slices.ContainsFunc(d.SPIs, func(spi []byte) bool { return bytes.Equal(spi, m.cookies()) }) {
			m.endedByPeer()
		}
		return
	}
	protocol := ipsec.ESP
	if d.Protocol == message.ProtocolAH {
		protocol = ipsec.AH
	}
	for _, spi := range d.SPIs {
		if len(spi) != 4 {
			continue
		}
		if m.heir != nil { // it may have the pair
			m.act(step.Tell{To: m.heir, Event: step.PeerDeleted{Protocol: protocol, SPI: ipsec.SPI(binary.BigEndian.Uint32(spi))}})
		}
		m.pairDeleted(step.PeerDeleted{Protocol: protocol, SPI: ipsec.SPI(binary.BigEndian.Uint32(spi))})
	}
}

// pairDeleted ends the pair of which the peer has deleted its inbound SA.
func (m *Machine) pairDeleted(e step.PeerDeleted) {
	c := m.byOutbound(e.Protocol, e.SPI)
	if c == nil {
		return
	}
	if c.state == childLive && !m.revive(c) && !m.hasten(c) {
		m.notice(step.ChildDown, c.conf.Name, &failure{code: fault.CodeDeleted})
	}
	m.retire(c)
}

// endedByPeer ends the IKE SA that the peer has deleted. Another one may take the
// IPsec SAs over, of which the peer has said nothing: a newer one, of which this side
// may not have heard yet that it is up, or the one before, which for the peer may be
// the newer one.
func (m *Machine) endedByPeer() {
	f := &failure{code: fault.CodeDeleted}
	switch {
	case m.state == replaced && m.busy():
		// Whether the peer has what is being negotiated, its packets will show.
		m.timers.Stop(m.farewell)
		m.farewell = m.after(thirdTime, (*Machine).becomeGone)
		return
	case m.state == replaced:
		m.becomeGone()
		return
	case len(m.children) == 0:
		m.down(f, false)
		return
	}
	m.state = deleted
	m.timers.StopAll()
	m.queue = append(m.queue, m.unanswered()...)
	for _, x := range m.quicks {
		m.discard(x)
		if x.child != nil && !x.over {
			m.forget(x.child)
		}
	}
	clear(m.quicks)
	for _, c := range m.children {
		m.watchChild(c)
	}
	m.callBack(m.elders)
	wait := graceTime
	if m.courted {
		wait = replacedLimit
	}
	m.after(wait, func(m *Machine) { m.down(f, false) })
}
