package v1

import (
	"bytes"
	"errors"
	"slices"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v1/proposal"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// envelope is the digital envelope of GM/T 0022, messages 3 and 4 of main mode:
//
//	SK{ SM2(K) } | NONCE{ SM4(N, K) } | ID{ SM4(ID, K) } | CERT_sig | CERT_enc | SIG
//
// with a key K and a nonce N of each side. The responder has sent its
// certificates in message 2. SIG covers K | N | ID | CERT_enc, in clear.
type envelope struct {
	ownKey, peerKey     secret.Key
	ownNonce, peerNonce []byte
	peerSign            [][]byte // certificates for signatures, the leaf first
	peerEncrypt         []byte
	peerSealed          [2][]byte // bodies of NONCE and ID as received
	peerSignature       []byte
	natD                [][]byte // the peer's
	forged              *failure // what is wrong with the peer's envelope, kept until all work is done
	style               suite.SM2Style
	encoding            suite.SM2Encoding // of our ciphertext
	bare                bool
}

// Limits on what a peer that has not authenticated may send.
const (
	maxCertificates   = 6
	maxCertificateLen = 8 << 10
	maxSealedLen      = 4 << 10
	// envelopeNonce is the length of our nonces.
	envelopeNonce = 16
	// minNonce and maxNonce bound those of peers (RFC 2409, Section 5).
	minNonce, maxNonce = 8, 256
)

func (s *setup) hashTransform() ipsec.Transform { return s.chosen.Proposal.First(ipsec.TypePRF) }

func (s *setup) nonceI(m *Machine) []byte {
	if m.initiator {
		return s.ownNonce
	}
	return s.peerNonce
}

func (s *setup) nonceR(m *Machine) []byte {
	if m.initiator {
		return s.peerNonce
	}
	return s.ownNonce
}

// certificates are our CERT payloads: the one for signatures first.
func certificates(c *Connection) []isakmp.Payload {
	return []isakmp.Payload{
		{Type: isakmp.TypeCert, Body: (&isakmp.Cert{Encoding: isakmp.CertX509Signature, Data: c.GM.SignCertificate}).Body()},
		{Type: isakmp.TypeCert, Body: ownEncryptBody(c)},
	}
}

func ownEncryptBody(c *Connection) []byte {
	return (&isakmp.Cert{Encoding: isakmp.CertX509KeyExchange, Data: c.GM.EncryptCertificate}).Body()
}

func sameCertificates(a, b *Connection) bool {
	return a.GM != nil && b.GM != nil && bytes.Equal(a.GM.SignCertificate, b.GM.SignCertificate) &&
		bytes.Equal(a.GM.EncryptCertificate, b.GM.EncryptCertificate)
}

var (
	errNoCertificates = errors.New("the peer sent no certificate for signatures, or none for encryption")
	errCertificates   = errors.New("the peer sent too many certificates, or too long ones")
)

// takeCertificates keeps the peer's certificates. Package pki says what they are
// worth.
func (s *setup) takeCertificates(payloads []isakmp.Payload) *failure {
	bodies := isakmp.All(payloads, isakmp.TypeCert)
	if len(bodies) > maxCertificates {
		return &failure{code: codeOf(isakmp.AuthenticationFailed), err: errCertificates}
	}
	for _, body := range bodies {
		c, err := isakmp.ParseCert(body)
		switch {
		case err != nil || len(c.Data) > maxCertificateLen:
			return &failure{code: codeOf(isakmp.AuthenticationFailed), err: errCertificates}
		case c.Encoding == isakmp.CertX509Signature:
			s.peerSign = append(s.peerSign, bytes.Clone(c.Data))
		case c.Encoding == isakmp.CertX509KeyExchange && s.peerEncrypt == nil:
			s.peerEncrypt = bytes.Clone(c.Data)
		}
	}
	if len(s.peerSign) == 0 || len(s.peerEncrypt) == 0 {
		return &failure{code: codeOf(isakmp.AuthenticationFailed), err: errNoCertificates}
	}
	return nil
}

// ---- ours ----

// sendEnvelope asks for what our envelope needs: message 3 at the initiator, 4 at
// the responder.
func (m *Machine) sendEnvelope() {
	s := m.setup
	gm := m.conn.GM
	key, err := m.random(proposal.SM4Bits / 8)
	if err == nil {
		s.ownKey = secret.New(key)
		s.ownNonce, err = m.random(envelopeNonce)
	}
	if err != nil {
		m.fail(internal(err))
		return
	}
	if m.localID = m.conn.Local.ID; m.localID == (Identity{}) {
		if m.localID, err = gm.Identity(); err != nil {
			m.fail(internal(err))
			return
		}
	}
	own := (&isakmp.ID{Kind: m.localID.Kind, Data: []byte(m.localID.Data)}).Body()
	if m.initiator {
		s.idI, s.style, s.encoding, s.bare = own, gm.Signature, gm.Envelope, gm.BareCert
	} else {
		s.idR = own // and the peer has shown how it writes
	}
	cert := ownEncryptBody(m.conn)
	if s.bare {
		cert = cert[1:]
	}
	m.state = enveloping
	m.limitSetup()
	m.token++
	m.act(step.Envelope{
		Token: m.token, Connection: m.conn, Check: m.initiator,
		Certificates: s.peerSign, Encryption: s.peerEncrypt, Key: s.ownKey.Clone(), Encoding: s.encoding,
		Octets: slices.Concat(s.ownKey.Bytes(), s.ownNonce, own, cert), Style: s.style,
	})
}

// enveloped sends our envelope.
func (m *Machine) enveloped(e step.Enveloped) {
	if m.state != enveloping || e.Token != m.token {
		return
	}
	s := m.setup
	if e.Err != nil {
		f := failf(isakmp.AuthenticationFailed, "no envelope can be made for the peer: %w", e.Err)
		if m.initiator {
			m.fail(f)
		} else {
			m.refuse(s.pending, f)
		}
		return
	}
	id := s.idI
	if !m.initiator {
		id = s.idR
	}
	sealed, err := m.sealBodies(s.ownKey, s.ownNonce, id)
	if err != nil {
		m.fail(internal(err))
		return
	}
	payloads := []isakmp.Payload{
		{Type: isakmp.TypeSymmetricKey, Body: e.Ciphertext},
		{Type: isakmp.TypeNonce, Body: sealed[0]},
		{Type: isakmp.TypeID, Body: sealed[1]},
	}
	if m.initiator {
		payloads = append(payloads, certificates(m.conn)...)
	}
	payloads = append(payloads, isakmp.Payload{Type: isakmp.TypeSignature, Body: e.Signature})
	payloads = append(payloads, m.natPayloads()...)
	raw, err := m.clear(m.header(isakmp.MainMode, 0), payloads)
	if err != nil {
		m.fail(internal(err))
		return
	}
	if m.initiator {
		m.state = waitEnvelope
		m.repeat(&s.repeater, raw, (*Machine).giveUp)
		return
	}
	if f := m.makeSession(); f != nil {
		m.fail(f)
		return
	}
	m.state = waitHash
	m.keepAnswer(s.pending.Raw, raw)
	m.sendTo(raw, s.pending.Local, s.pending.Remote)
}

// sealBodies encrypts bodies under an envelope's key. The chain of CBC begins with
// an IV of zeros and goes on from one body to the next.
func (m *Machine) sealBodies(key secret.Key, bodies ...[]byte) ([][]byte, error) {
	cbc, err := suite.NewCBC(m.setup.chosen.Proposal.First(ipsec.TypeEncr), key.Bytes())
	if err != nil {
		return nil, err
	}
	defer cbc.Wipe()
	block := cbc.BlockSize()
	iv := make([]byte, block)
	out := make([][]byte, len(bodies))
	for i, body := range bodies {
		n := block - len(body)%block
		padded := append(bytes.Clone(body), make([]byte, n)...)
		padded[len(padded)-1] = byte(n - 1)
		cbc.Encrypt(padded, iv, padded)
		iv, out[i] = padded[len(padded)-block:], padded
	}
	return out, nil
}

// openBodies is the reverse of sealBodies. It reports whether the padding is
// right, and returns the octets without padding either way.
func (m *Machine) openBodies(key secret.Key, bodies [2][]byte) (out [2][]byte, ok bool, err error) {
	cbc, err := suite.NewCBC(m.setup.chosen.Proposal.First(ipsec.TypeEncr), key.Bytes())
	if err != nil {
		return out, false, err
	}
	defer cbc.Wipe()
	iv := make([]byte, cbc.BlockSize())
	ok = true
	for i, body := range bodies {
		plain := make([]byte, len(body))
		cbc.Decrypt(plain, iv, body)
		iv = body[len(body)-len(iv):]
		n := int(plain[len(plain)-1]) + 1
		if n > cbc.BlockSize() || slices.ContainsFunc(plain[max(0, len(plain)-n):len(plain)-1], func(b byte) bool { return b != 0 }) {
			ok, n = false, 1
		}
		out[i] = plain[:len(plain)-n]
	}
	return out, ok, nil
}

// ---- the peer's ----

var errOrder = errors.New("the payloads of the peer's envelope are not those of GM/T 0022, or not in its order")

// receiveEnvelope takes message 3 at the responder, 4 at the initiator. What
// anybody can see to be wrong ends the set-up at once; the rest is found out after
// all work is done.
func (m *Machine) receiveEnvelope(msg *isakmp.Message, r step.Received) {
	s := m.setup
	if f := s.takeEnvelope(msg.Payloads, !m.initiator); f != nil {
		m.refuse(r, f)
		return
	}
	s.pending = r
	m.timers.Stop(s.repeater.timer)
	m.state = opening
	m.limitSetup()
	m.token++
	m.act(step.Unwrap{Token: m.token, Connection: m.conn, Ciphertext: isakmp.First(msg.Payloads, isakmp.TypeSymmetricKey)})
}

// takeEnvelope checks the order of the payloads and keeps them.
func (s *setup) takeEnvelope(payloads []isakmp.Payload, certificates bool) *failure {
	f := &failure{code: codeOf(isakmp.AuthenticationFailed), err: errOrder}
	var known []isakmp.PayloadType
	for _, p := range payloads {
		switch p.Type {
		case isakmp.TypeSymmetricKey, isakmp.TypeNonce, isakmp.TypeID, isakmp.TypeSignature:
			known = append(known, p.Type)
		default:
		}
	}
	want := []isakmp.PayloadType{isakmp.TypeSymmetricKey, isakmp.TypeNonce, isakmp.TypeID, isakmp.TypeSignature}
	if !slices.Equal(known, want) || payloads[0].Type != isakmp.TypeSymmetricKey {
		return f
	}
	for i, t := range []isakmp.PayloadType{isakmp.TypeNonce, isakmp.TypeID} {
		body := isakmp.First(payloads, t)
		if len(body) == 0 || len(body)%(proposal.SM4Bits/8) != 0 || len(body) > maxSealedLen {
			return f
		}
		s.peerSealed[i] = bytes.Clone(body)
	}
	s.peerSignature = bytes.Clone(isakmp.First(payloads, isakmp.TypeSignature))
	s.natD = isakmp.All(payloads, isakmp.TypeNATDiscovery)
	if certificates {
		return s.takeCertificates(payloads)
	}
	return nil
}

var (
	errEnvelope = errors.New("the peer's envelope cannot be decrypted: it was made for another certificate, or is forged")
	errPadding  = errors.New("the peer's nonce or identity has wrong padding: it was encrypted in another way, or is forged")
	errNonce    = errors.New("the peer's nonce has a wrong length")
	errIdentity = errors.New("the peer's identity is malformed")
)

// forge notes the first thing that is wrong with the peer's envelope. The work
// goes on all the same, so that nobody learns from the time what it was.
func (s *setup) forge(err error) {
	if s.forged == nil {
		s.forged = &failure{code: codeOf(isakmp.AuthenticationFailed), err: err, notify: isakmp.AuthenticationFailed}
	}
}

// unwrapped decrypts nonce and identity with the key of the peer's envelope, or
// with a random one where there is none, and asks for the signature to be
// examined.
func (m *Machine) unwrapped(e step.Unwrapped) {
	if m.state != opening || e.Token != m.token {
		return
	}
	s := m.setup
	s.peerKey = e.Key
	if e.Err != nil || e.Key.Len() != proposal.SM4Bits/8 {
		s.forge(errEnvelope)
		key, err := m.random(proposal.SM4Bits / 8)
		if err != nil {
			m.fail(internal(err))
			return
		}
		s.peerKey = secret.New(key)
	} else if !m.initiator {
		s.encoding = e.Encoding
	}
	bodies, ok, err := m.openBodies(s.peerKey, s.peerSealed)
	if err != nil {
		m.fail(internal(err))
		return
	}
	if !ok {
		s.forge(errPadding)
	}
	s.peerNonce = bodies[0]
	if n := len(s.peerNonce); n < minNonce || n > maxNonce {
		s.forge(errNonce)
	}
	id, err := isakmp.ParseID(bodies[1])
	if err != nil {
		s.forge(errIdentity)
		id = &isakmp.ID{}
	}
	m.remoteID = Identity{Kind: id.Kind, Data: string(id.Data)}
	if m.initiator {
		s.idR = bodies[1]
	} else {
		s.idI = bodies[1]
	}
	m.chooseConnection()
	encoded := (&isakmp.Cert{Encoding: isakmp.CertX509KeyExchange, Data: s.peerEncrypt}).Body()
	plain := slices.Concat(s.peerKey.Bytes(), bodies[0], bodies[1])
	m.token++
	m.act(step.Examine{
		Token: m.token, Connection: m.conn, Identity: m.remoteID,
		Certificates: s.peerSign, Encryption: s.peerEncrypt, Signature: s.peerSignature,
		Octets: [][]byte{slices.Concat(plain, encoded), slices.Concat(plain, encoded[1:])},
	})
}

// chooseConnection finds the connection for the identity that the peer claims.
func (m *Machine) chooseConnection() {
	if m.initiator {
		if !m.conn.Remote.ID.Permits(m.remoteID) {
			m.setup.forge(errorf("the peer is %s and not %s", m.remoteID, m.conn.Remote.ID))
		}
		return
	}
	var best *Connection
	bestFit := rules.FitsNot
	for _, c := range m.candidates {
		if fit := c.Remote.ID.Fits(m.remoteID); fit > bestFit {
			best, bestFit = c, fit
		}
	}
	if best == nil {
		m.setup.forge(errorf("no connection fits a peer that is %s", m.remoteID))
		return
	}
	m.conn, m.claimed = best, true
}

// examined goes on when the peer's envelope is known to be authentic.
func (m *Machine) examined(e step.Examined) {
	if m.state != opening || e.Token != m.token {
		return
	}
	s := m.setup
	if e.Err != nil {
		s.forge(errorf("%s is not authentic: %w", m.remoteID, e.Err))
	}
	if s.forged != nil {
		m.refuse(s.pending, s.forged)
		return
	}
	m.findNAT()
	m.peerDPD, m.negotiatedLife = s.peerVendor.dpd, s.chosen.Life
	if !m.initiator {
		s.style, s.bare = e.Style, e.Form == 1
		m.sendEnvelope()
		return
	}
	if f := m.makeSession(); f != nil {
		m.fail(f)
		return
	}
	m.float()
	raw, err := m.sealHash()
	if err != nil {
		m.fail(internal(err))
		return
	}
	m.state = waitHash
	m.keepAnswer(s.pending.Raw, raw)
	m.repeat(&s.repeater, raw, (*Machine).giveUp)
}
