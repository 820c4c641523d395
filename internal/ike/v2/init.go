package v2

import (
	"errors"
	"fmt"
	"slices"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Limits on what an unauthenticated answer can make an initiator do again.
const (
	maxKERetries     = 2
	maxCookieRetries = 3
)

// setup is what the first two exchanges need and nothing later does.
type setup struct {
	nonceI, nonceR []byte
	firstI, firstR []byte // the IKE_SA_INIT messages, which AUTH covers
	peerHashes     []uint16
	idI, idR       []byte         // bodies of the ID payloads, which AUTH covers
	hint           *fault.Fault   // what an unauthenticated answer said
	seen           rules.Evidence // how the peer authenticates

	// Of the initiator.
	children      []*Child
	flow          *ipsec.Flow
	known         bool // this side has another IKE SA with the peer
	group         ipsec.Transform
	share         suite.KEShare
	cookie        []byte
	keRetries     int
	cookieRetries int
	firstChild    *childOffer
	authResponse  *message.Message

	// Of the responder.
	authRequest *message.Message
}

// initiate starts IKE_SA_INIT (RFC 7296, Section 1.2).
func (m *Machine) initiate(e Initiate) {
	if !m.initiator || m.state != Idle {
		return
	}
	children := e.Children
	if len(children) == 0 {
		children = m.conn.Children[:min(1, len(m.conn.Children))]
	}
	if len(children) == 0 {
		m.fail(fault.Internal(fault.ErrNoChild))
		return
	}
	nonce, err := m.random(nonceLen)
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	m.setup = &setup{nonceI: nonce, children: children, flow: e.Flow, known: e.Known, group: rules.PreferredKE(m.conn.Proposals)}
	m.sendInit()
}

// sendInit sends the IKE_SA_INIT request, for the first time or with what the
// responder asked for.
func (m *Machine) sendInit() {
	s := m.setup
	if s.share == nil {
		share, err := m.newShare(s.group)
		if err != nil {
			m.fail(fault.Internal(err))
			return
		}
		s.share = share
	}
	var payloads []message.Payload
	if s.cookie != nil { // RFC 7296, Section 2.6: the first payload
		payloads = append(payloads, &message.Notify{Kind: message.Cookie, Data: s.cookie})
	}
	payloads = append(payloads,
		rules.Offer(m.conn.Proposals, message.ProtocolIKE, nil),
		&message.KE{Method: s.group.ID, Data: s.share.Public()},
		&message.Nonce{Data: slices.Clone(s.nonceI)})
	payloads = append(payloads, m.conn.Encapsulation.NATNotifies(m.spiI, 0, m.local, m.remote)...)
	payloads = append(payloads, rules.HashNotify(m.conn.Remote.SM2), &message.Notify{Kind: message.FragmentationSupported})
	msg := message.Message{Header: m.header(message.IKESAInit, 0, 0), Payloads: m.env.Numbers.Outgoing(payloads)}
	raw, err := msg.Append(nil)
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	s.firstI = raw
	m.show(ipsec.Out, &msg)
	m.becomeInitSent()
	m.transmit(message.IKESAInit, [][]byte{raw}, initTask{})
}

func (m *Machine) newShare(group ipsec.Transform) (suite.KEShare, error) {
	ke, err := suite.NewKeyExchange(group)
	if err != nil {
		return nil, err
	}
	return ke.Initiate(m.env.Rand)
}

// initTask holds the window for IKE_SA_INIT, whose response receiveInit takes.
type initTask struct{}

func (initTask) request(*Machine) (message.ExchangeType, []message.Payload, bool) {
	return message.IKESAInit, nil, false
}
func (initTask) response(*Machine, *message.Message) {}
func (initTask) cancel(*Machine)                     {}

// receiveInit takes an IKE_SA_INIT message, which nothing authenticates yet.
func (m *Machine) receiveInit(msg *message.Message, r Received) {
	h := msg.Header
	if h.MessageID != 0 || msg.Encrypted != nil || h.Flags.Has(message.FlagInitiator) == m.initiator ||
		h.Flags.Has(message.FlagResponse) != m.initiator {
		m.drop(fault.DropStray, nil)
		m.endIfUnborn()
		return
	}
	if f := wellFormed(msg); f != nil {
		m.drop(fault.DropMalformed, f)
		m.endIfUnborn()
		return
	}
	if t, bad := msg.UnsupportedCritical(); bad {
		m.drop(fault.DropMalformed, fmt.Errorf("critical payload of type %d", t))
		m.endIfUnborn()
		return
	}
	m.show(ipsec.In, msg)
	switch {
	case m.initiator:
		m.initResponse(msg, r)
	case m.state == Idle:
		m.vendors = rules.Vendors(msg)
		m.initRequest(msg, r)
	case m.state == HalfOpen && m.repeats(r):
		m.sendTo(m.answered.response, r.Local, r.Remote)
	default:
		m.drop(fault.DropReplayed, nil)
	}
}

// initResponse takes the response to IKE_SA_INIT. Whoever saw the request can
// forge it. RFC 7296, Section 2.21.1, leaves the initiator to weigh that:
// COOKIE and INVALID_KE_PAYLOAD are obeyed a few times, NO_PROPOSAL_CHOSEN ends
// the attempt, for an operator waits for that answer, and other errors are kept
// as the reason in case no better response arrives.
func (m *Machine) initResponse(msg *message.Message, r Received) {
	h, s := msg.Header, m.setup
	if m.state != InitSent || h.InitiatorSPI != m.spiI {
		m.drop(fault.DropStray, nil)
		return
	}
	if n, ok := msg.Notify(message.Cookie); ok {
		m.repeatWithCookie(n)
		return
	}
	if f := fault.Refusal(msg); f != nil {
		switch f.Notify {
		case message.InvalidKEPayload:
			n, _ := msg.Notify(message.InvalidKEPayload)
			m.repeatWithKE(n)
		case message.NoProposalChosen:
			f.Err = fmt.Errorf("the peer accepts none of our IKE proposals: %s", rules.DescribeOwn(m.conn.Proposals))
			m.fail(f)
		default:
			s.hint = f
			m.drop(f.Code, f.Err)
		}
		return
	}
	sa, _ := message.Find[*message.SA](msg)
	ke, _ := message.Find[*message.KE](msg)
	nonce, _ := message.Find[*message.Nonce](msg)
	if sa == nil || ke == nil || nonce == nil || h.ResponderSPI == 0 {
		m.drop(fault.DropMalformed, nil)
		return
	}
	m.vendors = rules.Vendors(msg)
	p, ok := rules.Accepted(sa, m.conn.Proposals, message.ProtocolIKE)
	if !ok || p.Transforms.First(ipsec.TypeKE) != s.group || ke.Method != s.group.ID {
		m.drop(fault.DropMalformed, errors.New("the peer chose what was not offered"))
		return
	}
	shared, err := s.share.Finish(ke.Data)
	if err != nil {
		m.drop(fault.DropMalformed, err)
		return
	}
	session, err := m.firstSession(p.Transforms, shared, s.nonceI, nonce.Data, m.spiI, h.ResponderSPI)
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	m.finish()
	m.session, m.spiR = session, h.ResponderSPI
	s.share = nil
	s.nonceR = slices.Clone(nonce.Data)
	s.firstR = slices.Clone(r.Raw)
	s.peerHashes = rules.PeerHashes(msg)
	_, m.fragments = msg.Notify(message.FragmentationSupported)
	m.nat = m.conn.Encapsulation.DetectNAT(msg, r.Local, r.Remote)
	m.float()
	m.startAuth()
}

// firstSession derives the keys that IKE_SA_INIT gives (RFC 7296, Section 2.14).
func (m *Machine) firstSession(chosen ipsec.Proposal, shared secret.Key, ni, nr []byte, spiI, spiR message.SPI) (*keys.Session, error) {
	defer shared.Wipe()
	prf, err := suite.NewPRF(chosen.First(ipsec.TypePRF))
	if err != nil {
		return nil, err
	}
	return keys.NewSession(chosen, prf, keys.Seed(prf, ni, nr, shared), ni, nr, uint64(spiI), uint64(spiR), m.initiator)
}

// repeatWithCookie obeys COOKIE (RFC 7296, Section 2.6).
func (m *Machine) repeatWithCookie(n *message.Notify) {
	s := m.setup
	if len(n.Data) == 0 || len(n.Data) > 64 || s.cookieRetries == maxCookieRetries {
		m.drop(fault.DropUnexpected, nil)
		return
	}
	s.cookieRetries++
	s.cookie = slices.Clone(n.Data)
	m.repeatInit()
}

// repeatWithKE obeys INVALID_KE_PAYLOAD (RFC 7296, Section 1.2).
func (m *Machine) repeatWithKE(n *message.Notify) {
	s := m.setup
	group, ok := rules.DemandedKE(n, m.conn.Proposals, s.group)
	if !ok || s.keRetries == maxKERetries {
		s.hint = fault.Newf(message.InvalidKEPayload, "the peer asks for a key exchange that we do not offer").Showing(rules.RefusedKE(n))
		m.drop(fault.DropUnexpected, s.hint.Err)
		return
	}
	s.keRetries++
	s.group, s.share = group, nil
	m.repeatInit()
}

// repeatInit sends a changed IKE_SA_INIT request, again with message ID 0.
func (m *Machine) repeatInit() {
	m.finish()
	m.sendID = 0
	m.sendInit()
}

// initRequest answers IKE_SA_INIT. Until the answer there is nothing to keep: a
// refusal ends the machine, and the peer's next try is a new one.
func (m *Machine) initRequest(msg *message.Message, r Received) {
	m.spiI = msg.Header.InitiatorSPI
	if m.spiI == 0 || msg.Header.ResponderSPI != 0 {
		m.drop(fault.DropStray, nil)
		m.becomeGone()
		return
	}
	sa, _ := message.Find[*message.SA](msg)
	ke, _ := message.Find[*message.KE](msg)
	nonce, _ := message.Find[*message.Nonce](msg)
	for _, c := range m.candidates.Proposing() {
		p, ok := rules.Choose(c.Proposals, sa.Proposals, message.ProtocolIKE)
		if !ok {
			continue
		}
		if group := p.Transforms.First(ipsec.TypeKE); group.ID != ke.Method {
			m.refuseInit(r, fault.WrongKE(group))
			return
		}
		m.acceptInit(msg, r, c, p, ke, nonce)
		return
	}
	f := fault.Newf(message.NoProposalChosen, "none of the peer's IKE proposals is acceptable: %s", rules.Describe(sa.Proposals))
	m.refuseInit(r, f.Showing(rules.Evidence{Exchange: message.IKESAInit, Proposals: sa.Proposals}))
}

// refuseInit answers IKE_SA_INIT with an error and forgets it.
func (m *Machine) refuseInit(r Received, f *fault.Fault) {
	h := m.header(message.IKESAInit, 0, message.FlagResponse)
	h.ResponderSPI = 0
	msg := message.Message{Header: h, Payloads: []message.Payload{f.Payload()}}
	if raw, err := msg.Append(nil); err == nil {
		m.show(ipsec.Out, &msg)
		m.sendTo([][]byte{raw}, r.Local, r.Remote)
	}
	if f.Notify == message.InvalidKEPayload {
		m.drop(f.Code, f.Err) // the peer tries again with another group
		m.becomeGone()
		return
	}
	m.fail(f)
}

func (m *Machine) acceptInit(msg *message.Message, r Received, c *Connection, p message.Proposal, ke *message.KE, nonce *message.Nonce) {
	method, err := suite.NewKeyExchange(p.Transforms.First(ipsec.TypeKE))
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	public, shared, err := method.Respond(m.env.Rand, ke.Data)
	if errors.Is(err, suite.ErrPublicValue) {
		m.drop(fault.DropMalformed, err)
		m.becomeGone()
		return
	}
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	nr, err := m.random(nonceLen)
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	if m.session, err = m.firstSession(p.Transforms, shared, nonce.Data, nr, m.spiI, m.spiR); err != nil {
		m.fail(fault.Internal(err))
		return
	}
	p.SPI = nil
	payloads := []message.Payload{
		&message.SA{Proposals: []message.Proposal{p}},
		&message.KE{Method: ke.Method, Data: public},
		&message.Nonce{Data: slices.Clone(nr)},
	}
	payloads = append(payloads, c.Encapsulation.NATNotifies(m.spiI, m.spiR, r.Local, r.Remote)...)
	payloads = append(payloads, m.candidates.CertReqs()...)
	payloads = append(payloads, rules.HashNotify(m.candidates.SM2()))
	if _, m.fragments = msg.Notify(message.FragmentationSupported); m.fragments {
		payloads = append(payloads, &message.Notify{Kind: message.FragmentationSupported})
	}
	answer := message.Message{Header: m.header(message.IKESAInit, 0, message.FlagResponse), Payloads: m.env.Numbers.Outgoing(payloads)}
	raw, err := answer.Append(nil)
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	m.show(ipsec.Out, &answer)
	m.setup = &setup{
		nonceI: slices.Clone(nonce.Data), nonceR: nr,
		firstI: slices.Clone(r.Raw), firstR: raw,
		peerHashes: rules.PeerHashes(msg),
	}
	m.nat = c.Encapsulation.DetectNAT(msg, r.Local, r.Remote)
	m.local, m.remote = r.Local, r.Remote
	m.keepAnswer(r.Raw, [][]byte{raw})
	m.sendTo(m.answered.response, r.Local, r.Remote)
	m.becomeHalfOpen()
}
