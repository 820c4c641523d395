package v2

import (
	"crypto/hmac"
	"errors"
	"fmt"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
)

// ownOctets returns what our AUTH payload covers (RFC 7296, Section 2.15).
func (m *Machine) ownOctets() []byte { return m.authOctets(m.initiator) }

// peerOctets returns what the peer's AUTH payload covers.
func (m *Machine) peerOctets() []byte { return m.authOctets(!m.initiator) }

func (m *Machine) authOctets(initiator bool) []byte {
	s, k := m.setup, m.session
	if initiator {
		return keys.AuthOctets(k.PRF, s.firstI, s.nonceR, k.Keys.Pi, s.idI)
	}
	return keys.AuthOctets(k.PRF, s.firstR, s.nonceI, k.Keys.Pr, s.idR)
}

// authenticate makes our AUTH payload: at once with a shared key, otherwise by
// Sign, whose answer comes as Signed. then continues with it.
func (m *Machine) authenticate() {
	local := &m.conn.Local
	if local.Auth == AuthPSK {
		m.authenticated(&message.Auth{
			Method: message.AuthSharedKey,
			Data:   keys.PSKAuth(m.session.PRF, local.PSK, m.ownOctets()),
		})
		return
	}
	scheme, err := local.SignatureScheme(m.setup.peerHashes)
	if err != nil {
		m.cannotSign(err)
		return
	}
	m.token++
	m.becomeSigning()
	m.act(Sign{Token: m.token, Connection: m.conn, Scheme: scheme, Octets: m.ownOctets()})
}

func (m *Machine) signed(e Signed) {
	if m.state != Signing || e.Token != m.token {
		return
	}
	if e.Err != nil {
		m.cannotSign(e.Err)
		return
	}
	m.authenticated(&e.Auth)
}

func (m *Machine) cannotSign(err error) {
	f := fault.Newf(message.AuthenticationFailed, "cannot sign: %w", err)
	if m.initiator {
		m.fail(f)
		return
	}
	m.rejectAuth(f)
}

// authenticated goes on with our AUTH payload.
func (m *Machine) authenticated(auth *message.Auth) {
	if m.initiator {
		m.sendAuth(auth)
	} else {
		m.acceptAuth(auth)
	}
}

// verify checks the peer's AUTH payload: at once with a shared key, otherwise by
// Verify, whose answer comes as Verified.
func (m *Machine) verify(msg *message.Message, auth *message.Auth) {
	remote := &m.conn.Remote
	m.setup.seen = rules.AuthEvidence(msg, auth.Method)
	if shared := auth.Method == message.AuthSharedKey; shared != (remote.Auth == AuthPSK) {
		m.judged(fmt.Errorf("the peer authenticates by %s, which the connection does not allow", auth.Method))
		return
	}
	if auth.Method == message.AuthRSA && !remote.AcceptsSHA1(m.setup.peerHashes != nil) {
		m.judged(conf.ErrSHA1)
		return
	}
	octets := m.peerOctets()
	if remote.Auth == AuthPSK {
		want := keys.PSKAuth(m.session.PRF, remote.PSK, octets)
		if !hmac.Equal(want, auth.Data) {
			m.judged(errors.New("the pre-shared keys of both ends differ"))
			return
		}
		m.judged(nil)
		return
	}
	m.token++
	m.becomeVerifying()
	m.act(Verify{
		Token: m.token, Connection: m.conn, Identity: m.remoteID,
		Certificates: m.setup.seen.Certificates, Auth: *auth, Octets: octets,
	})
}

func (m *Machine) verified(e Verified) {
	if m.state == Verifying && e.Token == m.token {
		m.judged(e.Err)
	}
}

// judged goes on when the peer's AUTH payload is checked.
func (m *Machine) judged(err error) {
	var f *fault.Fault
	if err != nil {
		f = fault.Newf(message.AuthenticationFailed, "%s is not authentic: %w", m.remoteID, err).Showing(m.setup.seen)
	}
	switch {
	case m.initiator && f != nil:
		m.refuseAuth(f)
	case m.initiator:
		m.initiatorUp()
	case f != nil:
		m.rejectAuth(f)
	default:
		if f := m.admit(); f != nil {
			m.rejectAuth(f)
			return
		}
		m.authenticate()
	}
}

// admit asks whether a peer that is authentic may have another IKE SA.
func (m *Machine) admit() *fault.Fault {
	if m.env.Admit == nil {
		return nil
	}
	_, initial := m.setup.authRequest.Notify(message.InitialContact)
	if err := m.env.Admit(m.conn, m.localID, m.remoteID, initial); err != nil {
		return &fault.Fault{Code: fault.CodeNotUnique, Err: err, Notify: message.AuthenticationFailed}
	}
	return nil
}

// ---- initiator ----

// startAuth begins IKE_AUTH once IKE_SA_INIT is done.
func (m *Machine) startAuth() {
	id, err := m.conn.LocalIdentity(m.local.Addr())
	if err != nil {
		m.fail(fault.Internal(err))
		return
	}
	m.localID = id
	m.setup.idI = id.Payload(false).Body()
	m.authenticate()
}

func (m *Machine) sendAuth(auth *message.Auth) {
	s := m.setup
	payloads := []message.Payload{m.localID.Payload(false)}
	payloads = append(payloads, m.conn.Local.CertPayloads()...)
	payloads = append(payloads, conf.CertReqs(m.conn)...)
	if id := m.conn.Remote.ID; id != (Identity{}) && !id.IsPattern() {
		payloads = append(payloads, m.conn.Remote.ID.Payload(true))
	}
	child, f := m.newOffer(s.children[0], s.flow)
	if f != nil {
		m.fail(f)
		return
	}
	s.firstChild = child
	payloads = append(payloads, auth)
	if !s.known {
		payloads = append(payloads, &message.Notify{Kind: message.InitialContact})
	}
	payloads = append(payloads, child.payloads(rules.WithoutKE(child.proposals))...)
	m.becomeAuthSent()
	m.launch(message.IKEAuth, payloads, authTask{})
}

// authTask is the IKE_AUTH exchange.
type authTask struct{}

func (authTask) request(*Machine) (message.ExchangeType, []message.Payload, bool) {
	return message.IKEAuth, nil, false
}

func (authTask) cancel(*Machine) {}

// response checks who answered. Errors that come without AUTH end the attempt:
// from here on the message is the peer's of IKE_SA_INIT, whoever that is.
func (authTask) response(m *Machine, msg *message.Message) {
	id, hasID := msg.ID(true)
	auth, hasAuth := message.Find[*message.Auth](msg)
	if !hasID || !hasAuth {
		if f := fault.Refusal(msg); f != nil {
			m.fail(f)
			return
		}
		m.refuseAuth(fault.Newf(message.AuthenticationFailed, "the peer did not authenticate itself"))
		return
	}
	m.remoteID = rules.IdentityOf(id)
	m.setup.idR = id.Body()
	m.setup.authResponse = msg
	if !m.conn.Remote.ID.Permits(m.remoteID) {
		f := fault.Newf(message.AuthenticationFailed, "the peer is %s and not %s", m.remoteID, m.conn.Remote.ID)
		m.refuseAuth(f.Showing(rules.AuthEvidence(msg, auth.Method)))
		return
	}
	m.verify(msg, auth)
}

// refuseAuth ends the attempt after a response that the peer takes for success:
// it is told in an exchange of its own (RFC 7296, Section 2.21.2).
func (m *Machine) refuseAuth(f *fault.Fault) {
	m.notice(IKEFailed, "", f)
	m.dropSetup()
	m.timers.Stop(m.setupTimer)
	m.becomeDeleting()
	t := &deleteIKE{silent: true, notify: message.AuthenticationFailed}
	kind, payloads, _ := t.request(m)
	m.launch(kind, payloads, t)
}

// initiatorUp is reached when both ends have proved who they are.
func (m *Machine) initiatorUp() {
	s := m.setup
	m.becomeEstablished()
	m.noticeUp(s.authResponse)
	m.childResponse(s.firstChild, s.authResponse, s.nonceI, s.nonceR)
	for _, c := range s.children[1:] {
		m.enqueueChild(c, nil)
	}
	if m.wantClose {
		m.close(&fault.Fault{Code: fault.CodeClosed})
	}
}

// ---- responder ----

// answerAuth takes the IKE_AUTH request.
func (m *Machine) answerAuth(msg *message.Message) {
	s := m.setup
	id, _ := msg.ID(false)
	auth, ok := message.Find[*message.Auth](msg)
	m.remoteID = rules.IdentityOf(id)
	s.idI = id.Body()
	s.authRequest = msg
	if !ok {
		m.rejectAuth(fault.Newf(message.AuthenticationFailed, "%s wants to authenticate by EAP", m.remoteID))
		return
	}
	var asked Identity
	if p, ok := msg.ID(true); ok {
		asked = rules.IdentityOf(p)
	}
	if f := m.chooseConnection(msg, asked, auth.Method); f != nil {
		m.rejectAuth(f)
		return
	}
	s.idR = m.localID.Payload(true).Body()
	if _, ok := msg.Notify(message.SignatureHashAlgorithms); ok && s.peerHashes == nil {
		s.peerHashes = rules.PeerHashes(msg)
	}
	m.verify(msg, auth)
}

// chooseConnection finds the connection for the identities that the peer claims
// and asks for.
func (m *Machine) chooseConnection(msg *message.Message, asked Identity, method message.AuthMethod) *fault.Fault {
	tsi, _ := msg.TS(false)
	tsr, _ := msg.TS(true)
	c, ok := m.candidates.Choose(conf.Claim{
		Peer: m.remoteID, Asked: asked, Method: method, Chosen: m.session.Chosen,
		TSi: tsi.Selectors, TSr: tsr.Selectors, Local: m.local.Addr(), Remote: m.remote.Addr(), NAT: m.nat,
	})
	if !ok {
		return fault.Newf(message.AuthenticationFailed,
			"no connection fits a peer that is %s, asks for %s and authenticates by %s", m.remoteID, asked, method).
			Showing(rules.Evidence{Exchange: message.IKEAuth, Asked: asked, Method: method})
	}
	id, err := c.LocalIdentity(m.local.Addr())
	if err != nil {
		return fault.Newf(message.AuthenticationFailed, "%w", err)
	}
	m.conn, m.localID = c, id
	return nil
}

// rejectAuth answers IKE_AUTH with AUTHENTICATION_FAILED. What exactly was wrong
// is not told (RFC 7296, Section 2.21.2).
func (m *Machine) rejectAuth(f *fault.Fault) {
	m.respond(message.IKEAuth, &message.Notify{Kind: message.AuthenticationFailed})
	if m.state == Gone {
		return
	}
	m.notice(IKEFailed, "", f)
	m.becomeClosed()
}

// acceptAuth answers IKE_AUTH. A CHILD SA that cannot be set up leaves the IKE
// SA up (RFC 7296, Section 1.2).
func (m *Machine) acceptAuth(auth *message.Auth) {
	s := m.setup
	payloads := []message.Payload{m.localID.Payload(true)}
	payloads = append(payloads, m.conn.Local.CertPayloads()...)
	payloads = append(payloads, auth)
	m.becomeEstablished()
	reply, child, f := m.acceptChild(s.authRequest, s.nonceI, s.nonceR, nil)
	if f != nil {
		payloads = append(payloads, f.Payload())
	} else {
		payloads = append(payloads, reply...)
		m.installChild(child, true) // before the answer: the peer may send at once
	}
	m.respond(message.IKEAuth, payloads...)
	m.noticeUp(s.authRequest)
	if f != nil {
		m.notice(ChildFailed, "", f)
		return
	}
	m.notice(ChildUp, child.conf.Name, nil)
}
