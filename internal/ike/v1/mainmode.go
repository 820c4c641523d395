package v1

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v1/proposal"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// setup is what only main mode needs.
type setup struct {
	wishes []*wish // to be set up when phase 1 is
	known  bool    // do not say INITIAL-CONTACT

	repeater repeater // of our message that waits for its answer
	hint     *failure // what a notification in clear claims, or nil
	pending  step.Received

	offered    *isakmp.SA // ours, at the initiator
	saI        []byte     // body of the initiator's SA payload
	chosen     proposal.IKE
	idI, idR   []byte // bodies of the ID payloads
	peerVendor vendors
	envelope
}

func (s *setup) wipe() {
	s.ownKey.Wipe()
	s.peerKey.Wipe()
}

// vendors is what the peer's vendor IDs announce.
type vendors struct{ natt, dpd bool }

func vendorsOf(payloads []isakmp.Payload) (v vendors) {
	for _, body := range isakmp.All(payloads, isakmp.TypeVendorID) {
		v.natt = v.natt || string(body) == isakmp.VendorNATT
		v.dpd = v.dpd || string(body) == isakmp.VendorDPD
	}
	return v
}

// vendorIDs are our vendor IDs.
func vendorIDs(c *Connection) []isakmp.Payload {
	out := []isakmp.Payload{{Type: isakmp.TypeVendorID, Body: []byte(isakmp.VendorDPD)}}
	if looksForNAT(c) {
		out = append(out, isakmp.Payload{Type: isakmp.TypeVendorID, Body: []byte(isakmp.VendorNATT)})
	}
	return out
}

// answer is the last message of the peer in phase 1 that was answered, and the
// answer, to be repeated.
type answer struct {
	received [sha256.Size]byte
	sent     []byte
	repeats  int
}

// maxRepeats bounds how often an answer of phase 1 is repeated: the sender of the
// message has not proved that it is where it seems to be.
const maxRepeats = 10

func (m *Machine) keepAnswer(received, sent []byte) {
	m.answered = answer{received: sha256.Sum256(received), sent: sent}
}

// repeatsAnswered repeats the answer to a message that was answered already. Where
// the answer is still being made there is none, or our own clock repeats it.
func (m *Machine) repeatsAnswered(r step.Received) bool {
	a := &m.answered
	if a.received != sha256.Sum256(r.Raw) {
		return false
	}
	if a.sent != nil && a.repeats < maxRepeats {
		a.repeats++
		m.sendTo(a.sent, r.Local, r.Remote)
	}
	return true
}

// receive sorts a datagram.
func (m *Machine) receive(r step.Received) {
	msg, err := isakmp.Parse(r.Raw)
	if err != nil {
		m.drop(limitOr(fault.DropMalformed, err), err)
		m.endIfUnborn()
		return
	}
	h := msg.Header
	unborn := m.state == idle && !m.initiator && h.Exchange == isakmp.MainMode && h.ResponderCookie == 0
	if !unborn && (h.InitiatorCookie != m.spiI || h.ResponderCookie != m.spiR && !m.mayLackCookie(h)) {
		m.drop(fault.DropStray, nil)
		m.endIfUnborn()
		return
	}
	switch h.Exchange {
	case isakmp.MainMode:
		m.receiveMain(msg, r)
	case isakmp.QuickMode:
		m.receiveQuick(msg, r)
	case isakmp.Informational:
		m.receiveInformational(msg, r)
	default:
		m.drop(fault.DropUnexpected, nil)
		m.endIfUnborn()
	}
}

// mayLackCookie reports whether the responder's cookie of a message may be
// another than the one that we know: in the first message there is none yet, and
// the second tells it.
func (m *Machine) mayLackCookie(h isakmp.Header) bool {
	switch {
	case h.Exchange == isakmp.MainMode && !m.initiator:
		return h.ResponderCookie == 0 // the first message, perhaps repeated
	case h.Exchange == isakmp.MainMode:
		return m.state == waitSA && h.ResponderCookie != 0
	default:
		// A refusal of the first message: its sender may have made up a cookie.
		return h.Exchange == isakmp.Informational && m.state == waitSA
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
	if !m.initiator && m.state == idle {
		m.becomeGone()
	}
}

func (m *Machine) receiveMain(msg *isakmp.Message, r step.Received) {
	if m.repeatsAnswered(r) {
		return
	}
	if msg.Header.MessageID != 0 || (msg.Encrypted != nil) != (m.state == waitHash) {
		m.drop(fault.DropUnexpected, nil)
		m.endIfUnborn()
		return
	}
	if m.state == idle || m.state == waitSA || m.state == waitEnvelope {
		m.show(ipsec.In, msg.Header, msg.Payloads)
	}
	switch {
	case m.state == idle && !m.initiator:
		m.firstMessage(msg, r)
	case m.state != waitSA && m.state != waitEnvelope && m.state != waitHash:
		m.drop(fault.DropRepeated, nil)
	case m.state == waitSA:
		m.secondMessage(msg, r)
	case msg.Header.Minor != m.minor:
		m.refuse(r, failf(isakmp.AuthenticationFailed, "the peer changed the version of ISAKMP from 1.%d to 1.%d", m.minor, msg.Header.Minor))
	case m.state == waitEnvelope:
		m.receiveEnvelope(msg, r)
	default:
		m.receiveHash(msg, r)
	}
}

// ---- messages 1 and 2: what is negotiated ----

// initiate sends the first message.
func (m *Machine) initiate(e step.Initiate) {
	if m.state != idle || !m.initiator {
		return
	}
	m.setup = &setup{known: e.Known}
	children := e.Children
	if len(children) == 0 && m.predecessor == nil && len(m.conn.Children) > 0 {
		children = m.conn.Children[:1]
	}
	for i, c := range children {
		flow := e.Flow
		if i > 0 {
			flow = nil
		}
		m.setup.wishes = append(m.setup.wishes, m.wishes(c, flow)...)
	}
	s := m.setup
	sa, err := proposal.OfferIKE(m.conn)
	if err != nil {
		m.fail(internal(err))
		return
	}
	s.offered = sa
	if s.saI, err = sa.Body(); err != nil {
		m.fail(internal(err))
		return
	}
	payloads := append([]isakmp.Payload{{Type: isakmp.TypeSA, Body: s.saI}}, vendorIDs(m.conn)...)
	raw, err := m.clear(m.header(isakmp.MainMode, 0), payloads)
	if err != nil {
		m.fail(internal(err))
		return
	}
	m.state = waitSA
	m.repeat(&s.repeater, raw, (*Machine).giveUp)
}

var errNotResponding = errors.New("the peer does not answer")

// giveUp ends the set-up with a peer that does not answer.
func (m *Machine) giveUp() {
	if m.setup == nil {
		return
	}
	if m.setup.hint != nil {
		m.fail(m.setup.hint)
		return
	}
	f := (&failure{code: fault.CodeNotResponding}).showing(of(isakmp.MainMode))
	switch m.state {
	case waitSA:
		f.err = errors.New("nothing at all came back from the peer")
		f.with(cureFirst)
	case waitEnvelope:
		f.err = errors.New("the peer does not answer our envelope (message 3 of main mode)")
		f.with(cureEnvelope)
	default:
		f.err = fmt.Errorf("the peer does not answer our hash (message 5 of main mode) on UDP %d", m.remote.Port())
	}
	m.fail(f)
}

// firstMessage answers the first message. Until then there is nothing to keep: a
// refusal ends the machine, and the peer's next try is a new one.
func (m *Machine) firstMessage(msg *isakmp.Message, r step.Received) {
	m.spiI = msg.Header.InitiatorCookie
	m.minor = msg.Header.Minor
	sa, err := parsePayload(msg.Payloads, isakmp.TypeSA, isakmp.ParseSA)
	if m.spiI == 0 || err != nil || msg.Header.Minor > 1 {
		m.drop(limitOr(fault.DropMalformed, err), err)
		m.becomeGone()
		return
	}
	for _, c := range m.candidates {
		chosen, ok := proposal.ChooseIKE(c, sa)
		if !ok {
			continue
		}
		m.conn = c
		// Of the candidates, those remain that answer with the same certificates.
		m.candidates = slices.DeleteFunc(slices.Clone(m.candidates), func(o *Connection) bool {
			_, fits := proposal.Allowed(o.Proposals, chosen.Proposal)
			return !fits || !sameCertificates(o, c)
		})
		m.setup = &setup{chosen: chosen, saI: isakmp.First(msg.Payloads, isakmp.TypeSA), peerVendor: vendorsOf(msg.Payloads)}
		m.answerFirst(r)
		return
	}
	f := failf(isakmp.NoProposalChosen, "none of the peer's proposals is acceptable: %s", proposal.Describe(sa))
	if len(m.candidates) > 0 {
		own, _ := proposal.OfferIKE(m.candidates[0])
		f.showing(offers(isakmp.MainMode, own, sa))
	}
	m.sendClear(r, isakmp.NoProposalChosen)
	m.fail(f)
}

func parsePayload[T any](payloads []isakmp.Payload, t isakmp.PayloadType, parse func([]byte) (T, error)) (T, error) {
	bodies := isakmp.All(payloads, t)
	if len(bodies) != 1 {
		var none T
		return none, errPayloads
	}
	return parse(bodies[0])
}

var errPayloads = errors.New("a payload is missing, or there twice")

func (m *Machine) answerFirst(r step.Received) {
	s := m.setup
	body, err := (&isakmp.SA{Proposals: []isakmp.Proposal{s.chosen.Reply}}).Body()
	if err != nil {
		m.fail(internal(err))
		return
	}
	payloads := []isakmp.Payload{{Type: isakmp.TypeSA, Body: body}}
	payloads = append(payloads, certificates(m.conn)...)
	payloads = append(payloads, vendorIDs(m.conn)...)
	raw, err := m.clear(m.header(isakmp.MainMode, 0), payloads)
	if err != nil {
		m.fail(internal(err))
		return
	}
	m.local, m.remote = r.Local, r.Remote
	m.keepAnswer(r.Raw, raw)
	m.send(raw)
	m.state = waitEnvelope
	m.limitSetup()
}

// secondMessage takes the responder's choice and its certificates.
func (m *Machine) secondMessage(msg *isakmp.Message, r step.Received) {
	s := m.setup
	sa, err := parsePayload(msg.Payloads, isakmp.TypeSA, isakmp.ParseSA)
	if err != nil || msg.Header.Minor > 1 {
		m.drop(fault.DropMalformed, err)
		return
	}
	chosen, ok := proposal.AcceptIKE(m.conn, s.offered, sa)
	if !ok {
		s.hint = failf(isakmp.NoProposalChosen, "the peer chose what was not offered: %s", proposal.Describe(sa)).
			showing(offers(isakmp.MainMode, s.offered, sa))
		m.drop(fault.DropUnexpected, s.hint.err)
		return
	}
	s.chosen, s.peerVendor = chosen, vendorsOf(msg.Payloads)
	m.spiR = msg.Header.ResponderCookie
	m.minor = msg.Header.Minor // it may be of another edition
	m.timers.Stop(s.repeater.timer)
	if f := s.takeCertificates(msg.Payloads); f != nil {
		m.refuse(r, f)
		return
	}
	m.keepAnswer(r.Raw, nil)
	m.sendEnvelope()
}

// ---- messages 5 and 6: the hashes ----

// makeSession derives the keys, when both envelopes are there.
func (m *Machine) makeSession() *failure {
	s := m.setup
	hash, err := keys.NewHash(s.hashTransform())
	if err != nil {
		return internal(err)
	}
	c := keys.Cookies{I: m.spiI, R: m.spiR}
	seed := keys.EnvelopeSeed(hash, s.nonceI(m), s.nonceR(m), c)
	ki, kr := s.ownKey, s.peerKey
	if !m.initiator {
		ki, kr = kr, ki
	}
	m.session, err = newSession(s.chosen.Proposal, hash, seed, secret.Key{}, c, ki.Bytes(), kr.Bytes())
	if err != nil {
		return internal(err)
	}
	s.ownKey.Wipe()
	s.peerKey.Wipe()
	return nil
}

// phase1Hash is HASH_I or HASH_R.
func (m *Machine) phase1Hash(responder bool) []byte {
	s := m.setup
	id := s.idI
	if responder {
		id = s.idR
	}
	return keys.Phase1Hash(m.session.hash, m.session.keys.ID, keys.Cookies{I: m.spiI, R: m.spiR}, responder, nil, nil, s.saI, id)
}

// sealHash encrypts our message 5 or 6.
func (m *Machine) sealHash() ([]byte, error) {
	payloads := []isakmp.Payload{{Type: isakmp.TypeHash, Body: m.phase1Hash(!m.initiator)}}
	raw, next, err := m.seal(m.header(isakmp.MainMode, 0), m.session.iv, payloads)
	if err != nil {
		return nil, err
	}
	m.session.iv = next
	return raw, nil
}

// receiveHash takes message 5 at the responder, 6 at the initiator.
func (m *Machine) receiveHash(msg *isakmp.Message, r step.Received) {
	o, err := m.session.open(msg, m.session.iv)
	if err != nil {
		m.refuse(r, failf(isakmp.AuthenticationFailed, "the peer's last message of main mode cannot be decrypted: the keys of both ends differ"))
		return
	}
	want := m.phase1Hash(m.initiator)
	if !hmac.Equal(want, o.payloads[0].Body) {
		m.refuse(r, failf(isakmp.AuthenticationFailed, "the peer's hash of main mode is wrong"))
		return
	}
	m.session.iv = o.next
	m.show(ipsec.In, msg.Header, o.payloads)
	for _, body := range isakmp.All(o.payloads, isakmp.TypeNotify) {
		if n, err := isakmp.ParseNotify(body); err == nil && n.Kind == isakmp.InitialContact {
			m.contact = true
		}
	}
	if m.initiator {
		m.keepAnswer(r.Raw, nil)
		m.initiatorUp()
		return
	}
	if f := m.admit(); f != nil {
		m.refuse(r, f)
		return
	}
	raw, err := m.sealHash()
	if err != nil {
		m.fail(internal(err))
		return
	}
	m.local, m.remote = r.Local, r.Remote // perhaps on port 4500 now
	m.keepAnswer(r.Raw, raw)
	m.send(raw)
	m.becomeEstablished()
	m.act(step.Report{What: step.Notice{Kind: step.IKEUp, InitialContact: m.contact}})
	if !m.peerDPD { // it may be silent for long, and cannot be asked
		m.prove()
	}
}

// admit asks whether a peer that is authentic may have another IKE SA.
func (m *Machine) admit() *failure {
	if m.env.Admit == nil {
		return nil
	}
	if err := m.env.Admit(m.conn, m.localID, m.remoteID, m.contact); err != nil {
		return &failure{code: fault.CodeNotUnique, err: err, notify: isakmp.AuthenticationFailed}
	}
	return nil
}

func (m *Machine) initiatorUp() {
	wishes, known := m.setup.wishes, m.setup.known
	m.becomeEstablished()
	m.act(step.Report{What: step.Notice{Kind: step.IKEUp, InitialContact: m.contact}})
	m.prove()
	if !known {
		// RFC 2407, Section 4.6.3.3: under the protection of the IKE SA.
		m.inform(isakmp.Payload{Type: isakmp.TypeNotify, Body: (&isakmp.Notify{
			Protocol: 1, SPI: m.cookies(), Kind: isakmp.InitialContact,
		}).Body()})
	}
	for _, w := range wishes {
		m.enqueue(w)
	}
}

// refuse ends a set-up. The peer gets the same notification, whatever was wrong,
// and gets it again for what it repeats.
func (m *Machine) refuse(r step.Received, f *failure) {
	raw := m.sendClear(r, isakmp.AuthenticationFailed)
	if m.setup != nil {
		e := of(isakmp.MainMode)
		e.Method = message.AuthDigitalSignature
		e.Certificates = append(slices.Clone(m.setup.peerSign), m.setup.peerEncrypt)
		f.showing(e)
	}
	m.becomeFailed(f)
	m.keepAnswer(r.Raw, raw)
}

// sendClear sends a notification without protection, and returns it.
func (m *Machine) sendClear(r step.Received, kind isakmp.NotifyType) []byte {
	id, err := m.newMessageID()
	if err != nil {
		return nil
	}
	n := &isakmp.Notify{Protocol: 1, SPI: m.cookies(), Kind: kind}
	raw, err := m.clear(m.header(isakmp.Informational, id), []isakmp.Payload{{Type: isakmp.TypeNotify, Body: n.Body()}})
	if err != nil {
		return nil
	}
	m.sendTo(raw, r.Local, r.Remote)
	return raw
}

// startLife starts the clocks of an established IKE SA.
func (m *Machine) startLife() {
	if life := m.lifetime(); life > 0 {
		soft := m.softTime(life)
		m.rekeyAt = m.now.Add(soft)
		m.after(soft, (*Machine).beginSuccessor)
		m.after(life, func(m *Machine) {
			m.down(&failure{code: fault.CodeLifetime, err: errLifetime}, true)
		})
	}
	if m.conn.DPD > 0 {
		m.after(m.conn.DPD, (*Machine).watchPeer)
	}
	if m.nat.Local {
		m.after(m.keepAlive(), (*Machine).sendKeepAlive)
	}
}

// lifetime is the shorter of ours and the one that was negotiated, of which the
// peer has a view of its own.
func (m *Machine) lifetime() time.Duration {
	life := m.conn.Lifetime
	if n := m.negotiatedLife; n > 0 && (life <= 0 || n < life) {
		life = n
	}
	return life
}
