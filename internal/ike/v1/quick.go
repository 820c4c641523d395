package v1

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v1/proposal"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

// Limits on exchanges of phase 2.
const (
	maxOwnQuicks  = 4  // of ours at a time
	maxPeerQuicks = 32 // of the peer's that are not over
	quickNonce    = 32
)

// quick is one quick mode (RFC 2409, Section 5.5).
//
//	HDR*, HASH(1), SA, Ni [, IDci, IDcr]  -->
//	                                      <--    HDR*, HASH(2), SA, Nr [, IDci, IDcr]
//	HDR*, HASH(3)                         -->
type quick struct {
	id        uint32
	initiator bool
	iv        []byte // of the next message
	form      keys.QuickForm
	begun     time.Time
	ni, nr    []byte
	offered   *isakmp.SA // at the initiator
	ids       [][]byte   // bodies of IDci and IDcr
	spi       ipsec.SPI
	reserved  bool // the data plane keeps spi for us

	wish     *wish  // at the initiator
	child    *child // at the responder
	unwanted bool   // the tunnel was taken down meanwhile
	over     bool   // it only answers repetitions
	ended    time.Time

	received [sha256.Size]byte // the peer's last message
	sent     []byte            // our answer to it
	repeater repeater
}

func (x *quick) protocol() ipsec.Protocol {
	if x.wish != nil {
		return x.wish.conf.Protocol
	}
	return x.child.conf.Protocol
}

// endQuick ends an exchange, but for answers to repetitions.
func (m *Machine) endQuick(x *quick) {
	m.timers.Stop(x.repeater.timer)
	x.over, x.ended = true, m.now
	m.discard(x)
	m.after(exchangeLinger, func(m *Machine) { delete(m.quicks, x.id) })
}

// busy reports whether an exchange is under way, or ours has just ended, so that its
// last message may have to be repeated.
func (m *Machine) busy() bool {
	for _, x := range m.quicks {
		if !x.over || x.initiator && m.now.Sub(x.ended) < thirdTime {
			return true
		}
	}
	return false
}

// discard gives back what an exchange keeps.
func (m *Machine) discard(x *quick) {
	if x.reserved {
		m.env.ReleaseSPI(x.protocol(), x.spi)
		x.reserved = false
	}
}

// ---- messages ----

// originals are the NAT-OA payloads of transport mode through a NAT: the
// addresses of initiator and responder as this side sees them (RFC 3947, Section
// 5.2). In the forms of GM/T 0022 they would not be authenticated.
func (m *Machine) originals(x *quick) []isakmp.Payload {
	mode := ipsec.Tunnel
	if x.wish != nil {
		mode = x.wish.conf.Mode
	} else if x.child != nil {
		mode = x.child.conf.Mode
	}
	if mode != ipsec.Transport || !m.nat.Encap || x.form != keys.QuickRFC {
		return nil
	}
	i, r := m.local.Addr(), m.remote.Addr()
	if !x.initiator {
		i, r = r, i
	}
	return []isakmp.Payload{isakmp.NATOriginal(i), isakmp.NATOriginal(r)}
}

// sealQuick puts the hash before the payloads of message 1 or 2, encrypts the
// message, and moves the IV on.
func (m *Machine) sealQuick(x *quick, payloads []isakmp.Payload) ([]byte, error) {
	payloads = append(payloads, m.originals(x)...)
	rest, err := isakmp.AppendChain(nil, payloads)
	if err != nil {
		return nil, err
	}
	q := m.quickHash(x, &opened{payloads: payloads, chain: rest}, rest)
	return m.sealExchange(x, append([]isakmp.Payload{{Type: isakmp.TypeHash, Body: q.Sum(x.form)}}, payloads...))
}

func (m *Machine) sealExchange(x *quick, payloads []isakmp.Payload) ([]byte, error) {
	raw, next, err := m.seal(m.header(isakmp.QuickMode, x.id), x.iv, payloads)
	if err == nil {
		x.iv = next
	}
	return raw, err
}

// quickHash is what the hash of a message covers, whose payloads stand in o and
// follow HASH as rest.
func (m *Machine) quickHash(x *quick, o *opened, rest []byte) keys.Quick {
	q := keys.Quick{Hash: m.session.hash, A: m.session.keys.A, MessageID: x.id, Ni: x.ni, Nr: x.nr, Rest: rest}
	if sa := o.wire(isakmp.TypeSA); len(sa) > 0 {
		q.SA = sa[0]
	}
	q.IDs = o.wire(isakmp.TypeID)
	return q
}

// content is what messages 1 and 2 must hold.
type content struct {
	sa  *isakmp.SA
	ids [][]byte // none, or IDci and IDcr
}

func quickContent(o *opened) (content, error) {
	sa, err := parsePayload(o.payloads, isakmp.TypeSA, isakmp.ParseSA)
	if err != nil {
		return content{}, err
	}
	nonces := isakmp.All(o.payloads, isakmp.TypeNonce)
	c := content{sa: sa, ids: isakmp.All(o.payloads, isakmp.TypeID)}
	if len(nonces) != 1 || len(nonces[0]) < minNonce || len(nonces[0]) > maxNonce || len(c.ids) != 0 && len(c.ids) != 2 {
		return content{}, errPayloads
	}
	return c, nil
}

func nonceOf(o *opened) []byte { return bytes.Clone(isakmp.First(o.payloads, isakmp.TypeNonce)) }

var (
	errHash            = errors.New("the peer's hash in quick mode is wrong")
	errTooMany         = errors.New("the peer has too many IPsec SAs, or exchanges under way")
	errQuickUnanswered = errors.New("the peer does not answer quick mode")
	errThird           = errors.New("the peer does not go on with quick mode")
)

// receiveQuick sorts a message of quick mode.
func (m *Machine) receiveQuick(msg *isakmp.Message, r step.Received) {
	id := msg.Header.MessageID
	x := m.quicks[id]
	switch {
	case m.session == nil || m.setup != nil || m.state != established && m.state != replaced || msg.Encrypted == nil || id == 0:
		m.drop(fault.DropUnexpected, nil)
		m.endIfUnborn()
	case x != nil && x.received == sha256.Sum256(r.Raw):
		if x.sent != nil {
			m.sendTo(x.sent, r.Local, r.Remote)
		}
	case x == nil && m.seen.has(id):
		m.drop(fault.DropReplayed, nil)
	case x == nil:
		m.answerQuick(msg, r)
	case x.over:
		m.drop(fault.DropUnexpected, nil) // the CONNECTED of a peer that set the commit bit, perhaps
	case x.initiator:
		m.secondQuick(x, msg, r)
	default:
		m.thirdQuick(x, msg, r)
	}
}

// take notes an authentic message of an exchange.
func (m *Machine) take(x *quick, o *opened, r step.Received) {
	m.show(ipsec.In, m.header(isakmp.QuickMode, x.id), o.payloads)
	m.heard = m.now
	m.prove()
	m.follow(r)
	x.iv = o.next
	x.received = sha256.Sum256(r.Raw)
	x.sent = nil
}

// cureHash adds the setting that would cure a misreading of the hashes.
func cureHash(f *failure, x *quick) *failure {
	if x.form == keys.QuickRFC {
		return f.with(cureStandard)
	}
	return f.with(cureRFC)
}

// ---- the initiator ----

func (m *Machine) startQuick(w *wish) *failure {
	x := &quick{initiator: true, wish: w, begun: m.now, form: m.quickForm()}
	idci, okL := isakmp.SelectorID(w.local)
	idcr, okR := isakmp.SelectorID(w.remote)
	if !okL || !okR {
		return failf(isakmp.InvalidIDInfo, "a range of ports cannot be negotiated in this version of IKE: %s, %s", w.local, w.remote)
	}
	x.ids = [][]byte{idci.Body(), idcr.Body()}
	var err error
	if x.id, err = m.newMessageID(); err != nil {
		return internal(err)
	}
	if x.ni, err = m.random(quickNonce); err != nil {
		return internal(err)
	}
	if x.spi, err = m.env.AllocateSPI(w.conf.Protocol); err != nil {
		return internal(err)
	}
	x.reserved = true
	raw, err := m.firstQuick(x)
	if err != nil {
		m.discard(x)
		return internal(err)
	}
	m.quicks[x.id] = x
	m.repeat(&x.repeater, raw, func(m *Machine) { m.quickUnanswered(x) })
	return nil
}

// firstQuick makes message 1.
func (m *Machine) firstQuick(x *quick) (raw []byte, err error) {
	if x.offered, err = m.terms().OfferChild(x.wish.conf, x.spi); err != nil {
		return nil, err
	}
	sa, err := x.offered.Body()
	if err != nil {
		return nil, err
	}
	x.iv = m.session.iv2(x.id)
	return m.sealQuick(x, []isakmp.Payload{
		{Type: isakmp.TypeSA, Body: sa},
		{Type: isakmp.TypeNonce, Body: x.ni},
		{Type: isakmp.TypeID, Body: x.ids[0]},
		{Type: isakmp.TypeID, Body: x.ids[1]},
	})
}

// quickForm is how this side hashes: as it is set, or as the peer did when it was
// the one to begin.
func (m *Machine) quickForm() keys.QuickForm {
	if m.peerForm != nil {
		return *m.peerForm
	}
	return m.conn.GM.QuickHash
}

// quickUnanswered gives up an exchange. Where nothing at all was heard since it
// began, the IKE SA may be dead too.
func (m *Machine) quickUnanswered(x *quick) {
	f := cureHash(&failure{code: fault.CodeNotResponding, err: errQuickUnanswered}, x).showing(of(isakmp.QuickMode))
	dead := !m.heard.After(x.begun)
	m.endQuick(x)
	m.wishFailed(x.wish, f)
	switch {
	case !dead || m.state != established:
	case m.peerDPD:
		m.probe()
	default:
		m.down(f, true)
	}
}

// secondQuick takes message 2.
func (m *Machine) secondQuick(x *quick, msg *isakmp.Message, r step.Received) {
	o, err := m.session.open(msg, x.iv)
	if err != nil {
		m.drop(fault.DropNotAuthentic, err)
		return
	}
	x.nr = nonceOf(o)
	form, ok := m.quickHash(x, o, o.rest()).Form(o.payloads[0].Body)
	if !ok || len(x.nr) == 0 {
		x.nr = nil
		m.drop(fault.DropNotAuthentic, errHash)
		return
	}
	x.form = form
	m.take(x, o, r)
	m.timers.Stop(x.repeater.timer)
	pair, in, f := m.agreeQuick(x, o)
	if f == nil {
		third := keys.Quick{Hash: m.session.hash, A: m.session.keys.A, MessageID: x.id, Ni: x.ni, Nr: x.nr}.Third()
		if x.sent, err = m.sealExchange(x, []isakmp.Payload{{Type: isakmp.TypeHash, Body: third}}); err != nil {
			f = internal(err)
		}
	}
	if f != nil {
		m.tellFailure(f, proposal.WireProtocol(x.protocol()), spiOctets(x.spi))
		m.endQuick(x)
		m.wishFailed(x.wish, f)
		return
	}
	x.reserved = false // the SPI is the SA's now
	if x.wish.old != nil {
		x.wish.old.rekeying = false
	}
	m.installIn(pair, in)
	m.send(x.sent)
	m.endQuick(x)
	m.complete(pair)
	if x.unwanted {
		m.notice(step.ChildDown, pair.conf.Name, nil)
		m.deleteChild(pair)
	}
}

// agreeQuick checks the content of message 2, and makes the SAs.
func (m *Machine) agreeQuick(x *quick, o *opened) (*child, *ipsec.SA, *failure) {
	c, err := quickContent(o)
	if err != nil {
		return nil, nil, failf(isakmp.PayloadMalformed, "the peer's answer in quick mode is malformed: %w", err)
	}
	if len(c.ids) == 2 && !slices.EqualFunc(c.ids, x.ids, bytes.Equal) {
		return nil, nil, failf(isakmp.InvalidIDInfo, "the peer answers for other traffic than was asked for")
	}
	w := x.wish
	chosen, ok := m.terms().AcceptChild(w.conf, x.offered, c.sa)
	if !ok {
		return nil, nil, failf(isakmp.NoProposalChosen, "the peer chose what was not offered: %s", proposal.Describe(c.sa)).
			showing(offers(isakmp.QuickMode, x.offered, c.sa))
	}
	pair := &child{
		conf: w.conf, in: x.spi, out: ipsec.SPI(binary.BigEndian.Uint32(chosen.Reply.SPI)), chosen: chosen.Proposal,
		localTS: []ipsec.Selector{w.local}, remoteTS: []ipsec.Selector{w.remote},
		lifetime: m.limits(w.conf.Lifetime, agreed(x, o, chosen.Life)),
		mine:     true, begun: x.begun,
	}
	in, out, err := m.keyChild(pair, x.ni, x.nr)
	if err != nil {
		return nil, nil, internal(err)
	}
	pair.held = out
	return pair, in, nil
}

// agreed is the lifetime of the chosen transform, and of a RESPONDER-LIFETIME
// beside it (RFC 2407, Section 4.6.3.1), where that is authenticated.
func agreed(x *quick, o *opened, life ipsec.Limit) ipsec.Limit {
	if x.form != keys.QuickRFC {
		return life
	}
	for _, body := range isakmp.All(o.payloads, isakmp.TypeNotify) {
		n, err := isakmp.ParseNotify(body)
		if err != nil || n.Kind != isakmp.ResponderLifetime {
			continue
		}
		shorter := lifetimeOf(n)
		if shorter.Time > 0 && (life.Time == 0 || shorter.Time < life.Time) {
			life.Time = shorter.Time
		}
		if shorter.Bytes > 0 && (life.Bytes == 0 || shorter.Bytes < life.Bytes) {
			life.Bytes = shorter.Bytes
		}
	}
	return life
}

// ---- the responder ----

// answerQuick takes message 1.
func (m *Machine) answerQuick(msg *isakmp.Message, r step.Received) {
	x := &quick{id: msg.Header.MessageID, begun: m.now}
	x.iv = m.session.iv2(x.id)
	o, err := m.session.open(msg, x.iv)
	if err != nil {
		m.drop(fault.DropNotAuthentic, err)
		return
	}
	x.ni = nonceOf(o)
	form, ok := m.quickHash(x, o, o.rest()).Form(o.payloads[0].Body)
	if !ok {
		m.drop(fault.DropNotAuthentic, errHash)
		if !m.unhashed {
			m.unhashed = true // once: what decrypts to payloads is seldom a stranger's
			m.notice(step.ChildFailed, "", failf(isakmp.InvalidHashInfo, "the peer hashes quick mode in no way that is known").showing(of(isakmp.QuickMode)))
		}
		return
	}
	x.form, m.peerForm = form, &form
	m.take(x, o, r)
	pending := 0
	for _, other := range m.quicks {
		if !other.initiator && !other.over {
			pending++
		}
	}
	if pending >= maxPeerQuicks || len(m.children) >= m.maxChildren() {
		m.drop(fault.DropUnexpected, errTooMany)
		return
	}
	c, err := quickContent(o)
	if err == nil && m.prevails(x, c) {
		return
	}
	m.seen.add(x.id)
	if err != nil {
		m.refuseQuick(nil, failf(isakmp.PayloadMalformed, "the peer's quick mode is malformed: %w", err))
		return
	}
	if isakmp.First(o.payloads, isakmp.TypeKE) != nil {
		m.refuseQuick(c.sa, failf(isakmp.NoProposalChosen, "the peer wants a key exchange in quick mode, which GM/T 0022 does not have"))
		return
	}
	pair, chosen, f := m.findTunnel(c)
	if f == nil {
		f = m.respondQuick(x, c, pair, chosen)
	}
	if f != nil {
		m.refuseQuick(c.sa, f)
	}
}

// prevails reports whether an exchange of ours for the same traffic goes on, and the
// peer's does not: of two that crossed, the one with the lower nonce of its
// initiator is given up. The peer sees it so too, when it has our message.
func (m *Machine) prevails(x *quick, c content) bool {
	for _, own := range m.quicks {
		if !own.initiator || own.over || len(c.ids) != 2 || !bytes.Equal(own.ids[0], c.ids[1]) || !bytes.Equal(own.ids[1], c.ids[0]) {
			continue
		}
		if bytes.Compare(x.ni, own.ni) < 0 {
			m.drop(fault.DropRepeated, nil)
			return true
		}
		m.endQuick(own)
		if own.wish.old != nil {
			own.wish.old.rekeying = false
		}
		if !own.unwanted {
			m.enqueue(own.wish) // should the peer's come to nothing
		}
	}
	return false
}

// respondQuick sends message 2, and again until message 3 is here.
func (m *Machine) respondQuick(x *quick, c content, pair *child, chosen proposal.Child) *failure {
	x.child = pair
	var err error
	if x.nr, err = m.random(quickNonce); err != nil {
		return internal(err)
	}
	if x.spi, err = m.env.AllocateSPI(pair.conf.Protocol); err != nil {
		return internal(err)
	}
	x.reserved = true
	pair.in, pair.begun = x.spi, x.begun
	in, err := m.secondMessageQuick(x, c, pair, chosen.Reply)
	if err != nil {
		m.discard(x)
		return internal(err)
	}
	x.reserved = false
	m.installIn(pair, in)
	m.quicks[x.id] = x
	m.repeat(&x.repeater, x.sent, func(m *Machine) {
		f := cureHash(&failure{code: fault.CodeNotResponding, err: errThird}, x).showing(of(isakmp.QuickMode))
		m.endQuick(x)
		m.sendDelete(pair) // the peer may have it, and only its messages were lost
		m.forget(pair)
		switch {
		case len(m.siblings(pair)) > 0:
		case pair.hastened:
			m.notice(step.ChildDown, pair.conf.Name, f)
		default:
			m.notice(step.ChildFailed, pair.conf.Name, f)
		}
	})
	return nil
}

// secondMessageQuick makes message 2 and the SAs.
func (m *Machine) secondMessageQuick(x *quick, c content, pair *child, reply isakmp.Proposal) (*ipsec.SA, error) {
	reply.SPI = spiOctets(x.spi)
	sa, err := (&isakmp.SA{Proposals: []isakmp.Proposal{reply}}).Body()
	if err != nil {
		return nil, err
	}
	payloads := []isakmp.Payload{{Type: isakmp.TypeSA, Body: sa}, {Type: isakmp.TypeNonce, Body: x.nr}}
	for _, id := range c.ids {
		payloads = append(payloads, isakmp.Payload{Type: isakmp.TypeID, Body: id})
	}
	if x.sent, err = m.sealQuick(x, payloads); err != nil {
		return nil, err
	}
	in, out, err := m.keyChild(pair, x.ni, x.nr)
	if err != nil {
		return nil, err
	}
	pair.held = out
	return in, nil
}

// thirdQuick takes message 3.
func (m *Machine) thirdQuick(x *quick, msg *isakmp.Message, r step.Received) {
	o, err := m.session.open(msg, x.iv)
	if err != nil {
		m.drop(fault.DropNotAuthentic, err)
		return
	}
	q := keys.Quick{Hash: m.session.hash, A: m.session.keys.A, MessageID: x.id, Ni: x.ni, Nr: x.nr}
	if !hmac.Equal(q.Third(), o.payloads[0].Body) {
		m.drop(fault.DropNotAuthentic, errHash)
		return
	}
	m.take(x, o, r)
	m.confirm(x)
}

// used learns that the peer sends through a new SA: it has our message 2, though
// its message 3 may be lost.
func (m *Machine) used(e step.Used) {
	for _, x := range m.quicks {
		if x.child != nil && !x.over && x.child.inID() == e.ID {
			m.confirm(x)
			return
		}
	}
}

func (m *Machine) confirm(x *quick) {
	m.endQuick(x)
	if slices.Contains(m.children, x.child) && x.child.state == childLive {
		m.complete(x.child)
	}
}

// refuseQuick answers message 1 with a notification under protection, and reports.
func (m *Machine) refuseQuick(sa *isakmp.SA, f *failure) {
	protocol, spi := proposal.WireProtocol(ipsec.ESP), []byte(nil)
	if sa != nil {
		protocol, spi = sa.Proposals[0].Protocol, sa.Proposals[0].SPI
	}
	m.tellFailure(f, protocol, spi)
	m.notice(step.ChildFailed, "", f)
}
