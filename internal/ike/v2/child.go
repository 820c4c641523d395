package v2

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// How SAs change over without loss. The initiator of a rekeying installs both
// directions when the response arrives, and then deletes the old pair. The
// responder installs the new inbound SA before it answers, but keeps sending
// through the old outbound one until it knows that the initiator is ready: the
// initiator deletes the old SA, or uses the new one, or sends another request,
// which shows that it has the response, and activateDelay has passed. Either side keeps the old inbound SA for graceTime after the Delete,
// for packets that were on their way (RFC 7296, Section 2.8).
const (
	activateDelay = 10 * time.Second
	graceTime     = 5 * time.Second
)

// childState is where a CHILD SA stands.
type childState uint8

const (
	childLive     childState = iota
	childReplaced            // a successor has been agreed on; somebody will delete it
	childDeleting            // our Delete is under way
	childGone                // deleted; its inbound SA may stay for graceTime
)

var childStateNames = [...]string{"live", "replaced", "deleting", "gone"}

func (s childState) String() string { return childStateNames[s] }

// child is one CHILD SA: a pair of SAs.
type child struct {
	conf              *Child
	state             childState
	in, out           ipsec.SPI // of the inbound, the outbound SA
	chosen            ipsec.Proposal
	localTS, remoteTS []ipsec.Selector
	since             time.Time

	reserved    bool      // the data plane keeps the inbound SPI for us
	inUp, outUp bool      // installed in the data plane
	heldIn      *ipsec.SA // not installed yet, with its keys; then nil
	held        *ipsec.SA // the outbound SA likewise
	activate    *timer    // installs held
	unproven    bool      // the peer may still wait for the response that made it

	unwanted  bool   // an order to delete it came
	successor *child // what replaced it
	lifetime  ipsec.Lifetime
	rekeying  *rekeyChild // our rekeying of it, queued or outstanding
}

func (c *child) protocol() ipsec.Protocol { return c.conf.Protocol }

func (c *child) inID() ipsec.SAID {
	return ipsec.SAID{Direction: ipsec.In, Protocol: c.protocol(), SPI: c.in}
}

func (c *child) outID(peer netip.Addr) ipsec.SAID {
	return ipsec.SAID{Direction: ipsec.Out, Protocol: c.protocol(), SPI: c.out, Peer: peer}
}

// installed returns the names of the SAs in the data plane.
func (c *child) installed(peer netip.Addr) []ipsec.SAID {
	var ids []ipsec.SAID
	if c.inUp {
		ids = append(ids, c.inID())
	}
	if c.outUp {
		ids = append(ids, c.outID(peer))
	}
	return ids
}

// byInbound, byOutbound find the CHILD SA of an SPI, also one that is gone but
// for its inbound SA.
func (m *Machine) byInbound(id ipsec.SAID) *child {
	return m.findChild(func(c *child) bool { return c.in == id.SPI && c.protocol() == id.Protocol })
}

func (m *Machine) byOutbound(p ipsec.Protocol, spi ipsec.SPI) *child {
	return m.findChild(func(c *child) bool { return c.out == spi && c.protocol() == p && c.state != childGone })
}

// byID finds the CHILD SA that the data plane speaks of.
func (m *Machine) byID(id ipsec.SAID) *child {
	if id.Direction == ipsec.In {
		return m.byInbound(id)
	}
	return m.findChild(func(c *child) bool { return c.out == id.SPI && c.protocol() == id.Protocol && c.outUp })
}

func (m *Machine) findChild(is func(*child) bool) *child {
	if i := slices.IndexFunc(m.children, is); i >= 0 {
		return m.children[i]
	}
	return nil
}

func wireProtocol(p ipsec.Protocol) message.ProtocolID {
	if p == ipsec.AH {
		return message.ProtocolAH
	}
	return message.ProtocolESP
}

func spiOctets(spi ipsec.SPI) []byte { return binary.BigEndian.AppendUint32(nil, uint32(spi)) }

// usableSPI reports whether the peer may give its inbound SA this SPI: it is not
// reserved (RFC 4303, Section 2.1), and no other SA of the peer has it.
func (m *Machine) usableSPI(p ipsec.Protocol, octets []byte) bool {
	if len(octets) != 4 {
		return false
	}
	spi := ipsec.SPI(binary.BigEndian.Uint32(octets))
	return spi >= ipsec.MinSPI && m.byOutbound(p, spi) == nil
}

// maxChildren bounds the CHILD SAs that a peer can make this side keep.
func (m *Machine) maxChildren() int { return 16 + 4*len(m.conn.Children) }

// ---- proposing ----

// childOffer is what this side proposed for a CHILD SA.
type childOffer struct {
	conf              *Child
	spi               ipsec.SPI
	proposals         []ipsec.Proposal
	localTS, remoteTS []ipsec.Selector
	nonce             []byte
	group             ipsec.Transform
	share             suite.KEShare // nil without a key exchange
}

func (m *Machine) newOffer(c *Child, flow *ipsec.Flow) (*childOffer, *failure) {
	spi, err := m.env.AllocateSPI(c.Protocol)
	if err != nil {
		return nil, internal(err)
	}
	o := &childOffer{conf: c, spi: spi, proposals: c.Proposals}
	o.localTS, o.remoteTS = m.proposeSelectors(c, flow)
	return o, nil
}

// discard gives the SPI back when nothing came of the offer.
func (o *childOffer) discard(m *Machine) {
	if o.spi != 0 {
		m.env.ReleaseSPI(o.conf.Protocol, o.spi)
		o.spi, o.share = 0, nil
	}
}

// payloads are the SA and TS payloads of the offer.
func (o *childOffer) payloads(proposals []ipsec.Proposal) []message.Payload {
	return []message.Payload{
		offer(proposals, wireProtocol(o.conf.Protocol), spiOctets(o.spi)),
		&message.TS{Selectors: o.localTS},
		&message.TS{Responder: true, Selectors: o.remoteTS},
	}
}

// request are the payloads of a CREATE_CHILD_SA request, behind the
// notifications in front (RFC 7296, Section 1.3.1). group is the key exchange
// method to use, where the proposals have one.
func (o *childOffer) request(m *Machine, group ipsec.Transform, front ...message.Payload) ([]message.Payload, *failure) {
	nonce, err := m.random(nonceLen)
	if err != nil {
		return nil, internal(err)
	}
	o.nonce, o.group, o.share = nonce, group, nil
	sa := o.payloads(o.proposals)
	out := append(front, sa[0], &message.Nonce{Data: nonce})
	if group.ID != ipsec.KENone {
		if o.share, err = m.newShare(group); err != nil {
			return nil, internal(err)
		}
		out = append(out, &message.KE{Method: group.ID, Data: o.share.Public()})
	}
	return append(out, sa[1:]...), nil
}

// complete makes the CHILD SA that the response agreed on. With a failure, the
// child is nil where the peer has none either; otherwise it is to be deleted.
func (o *childOffer) complete(m *Machine, msg *message.Message, proposals []ipsec.Proposal, ni, nr []byte) (*child, *failure) {
	if f := refusal(msg); f != nil {
		return nil, f
	}
	sa, _ := message.Find[*message.SA](msg)
	tsi, okI := msg.TS(false)
	tsr, okR := msg.TS(true)
	if sa == nil || !okI || !okR {
		return nil, failf(message.NoProposalChosen, "the peer's response has no CHILD SA")
	}
	p, ok := accepted(sa, proposals, wireProtocol(o.conf.Protocol))
	if !ok || !m.usableSPI(o.conf.Protocol, p.SPI) {
		return nil, failf(message.NoProposalChosen, "the peer chose what was not offered")
	}
	c := &child{
		conf: o.conf, state: childReplaced, in: o.spi, reserved: true,
		out: ipsec.SPI(binary.BigEndian.Uint32(p.SPI)), chosen: p.Transforms,
	}
	shared, f := o.finishKE(msg, p.Transforms)
	if f != nil {
		return c, f
	}
	if !within(tsi.Selectors, o.localTS) || !within(tsr.Selectors, o.remoteTS) {
		return c, failf(message.TSUnacceptable, "the peer answered traffic selectors %s === %s, which are not within %s === %s",
			tsi.Selectors, tsr.Selectors, o.localTS, o.remoteTS)
	}
	c.localTS, c.remoteTS = tsi.Selectors, tsr.Selectors
	if f := m.keyChild(c, shared, ni, nr, true); f != nil {
		return c, f
	}
	c.state = childLive
	return c, nil
}

// finishKE completes the key exchange of the offer, if it has one.
func (o *childOffer) finishKE(msg *message.Message, chosen ipsec.Proposal) (secret.Key, *failure) {
	group := chosen.First(ipsec.TypeKE)
	ke, ok := message.Find[*message.KE](msg)
	switch {
	case group.ID == ipsec.KENone && !ok:
		return secret.Key{}, nil
	case o.share == nil || group != o.group || !ok || ke.Method != group.ID:
		return secret.Key{}, failf(message.InvalidSyntax, "the key exchange of the response is not the one chosen")
	}
	shared, err := o.share.Finish(ke.Data)
	o.share = nil
	if err != nil {
		return secret.Key{}, failf(message.InvalidSyntax, "key exchange: %w", err)
	}
	return shared, nil
}

// keyChild derives the keys of c and makes its SAs, which wait to be installed
// (RFC 7296, Section 2.17). It wipes shared. ours says whether this side started
// the exchange.
func (m *Machine) keyChild(c *child, shared secret.Key, ni, nr []byte, ours bool) *failure {
	defer shared.Wipe()
	encr, integ := c.chosen.First(ipsec.TypeEncr), c.chosen.First(ipsec.TypeInteg)
	if integ.ID == ipsec.IntegNone {
		integ = ipsec.Transform{}
	}
	k, err := keys.DeriveChild(m.session.prf, m.session.keys.D, shared, ni, nr, encr, integ)
	if err != nil {
		return failf(message.NoProposalChosen, "%w", err)
	}
	c.lifetime = m.childLifetime(c.conf.Lifetime)
	sa := ipsec.SA{
		Protocol: c.protocol(), Mode: c.conf.Mode,
		Local: m.local, Remote: m.remote, Encap: m.nat.encap,
		Encr: encr, Integ: integ,
		ESN:          c.chosen.First(ipsec.TypeESN).ID == ipsec.ESNYes,
		ReplayWindow: c.conf.ReplayWindow,
		Lifetime:     c.lifetime,
		ReqID:        c.conf.ReqID,
		LocalTS:      c.localTS, RemoteTS: c.remoteTS,
		Connection: m.conn.Name, Tunnel: c.conf.Name,
	}
	in, out := sa, sa
	in.SPI, in.Direction = c.in, ipsec.In
	out.SPI, out.Direction = c.out, ipsec.Out
	out.EncrKey, out.IntegKey, in.EncrKey, in.IntegKey = k.Ei, k.Ai, k.Er, k.Ar
	if !ours {
		out.EncrKey, out.IntegKey, in.EncrKey, in.IntegKey = k.Er, k.Ar, k.Ei, k.Ai
	}
	c.heldIn, c.held = &in, &out
	return nil
}

// childLifetime sets the soft limits before the hard ones.
func (m *Machine) childLifetime(hard ipsec.Limit) ipsec.Lifetime {
	soften := func(n uint64) uint64 {
		return uint64(m.soften(time.Duration(min(n, 1<<62)), childMargin, childJitter))
	}
	soft := ipsec.Limit{}
	if hard.Time > 0 {
		soft.Time = time.Duration(soften(uint64(hard.Time)))
	}
	if hard.Bytes > 0 {
		soft.Bytes = soften(hard.Bytes)
	}
	if hard.Packets > 0 {
		soft.Packets = soften(hard.Packets)
	}
	return ipsec.Lifetime{Soft: soft, Hard: hard}
}

// ---- installing and removing ----

// installChild hands the inbound SA, and with both the outbound one, to the data
// plane: inbound first, for the peer may answer the first packet at once.
func (m *Machine) installChild(c *child, both bool) {
	c.since = m.now
	m.children = append(m.children, c)
	if c.heldIn != nil {
		m.act(InstallSA{SA: *c.heldIn})
		c.heldIn, c.inUp, c.reserved = nil, true, false
	}
	if both {
		m.activate(c)
	}
}

// activate installs the outbound SA of c if it is still held.
func (m *Machine) activate(c *child) {
	m.stop(c.activate)
	if c.held == nil || c.state == childGone {
		return
	}
	m.act(InstallSA{SA: *c.held})
	c.held, c.outUp = nil, true
}

// dropHeld forgets SAs that will never be installed.
func (c *child) dropHeld() {
	for _, sa := range []*ipsec.SA{c.heldIn, c.held} {
		if sa != nil {
			sa.EncrKey.Wipe()
			sa.IntegKey.Wipe()
		}
	}
	c.heldIn, c.held = nil, nil
}

// retire ends c: both sides know that it is deleted. The outbound SA goes at
// once; the inbound one stays for graceTime where a successor carries on.
func (m *Machine) retire(c *child) {
	c.state = childGone
	m.stopChild(c)
	c.dropHeld()
	if c.outUp {
		m.act(RemoveSA{ID: c.outID(m.remote.Addr())})
		c.outUp = false
	}
	if c.successor != nil && c.inUp {
		m.afterChild(graceTime, c, func(m *Machine) { m.forget(c) })
		return
	}
	m.forget(c)
}

// forget removes what is left of c.
func (m *Machine) forget(c *child) {
	m.stopChild(c)
	c.state = childGone
	c.dropHeld()
	if c.outUp {
		m.act(RemoveSA{ID: c.outID(m.remote.Addr())})
	}
	if c.inUp {
		m.act(RemoveSA{ID: c.inID()})
	}
	if c.reserved {
		m.env.ReleaseSPI(c.protocol(), c.in)
	}
	c.inUp, c.outUp, c.reserved = false, false, false
	m.children = slices.DeleteFunc(m.children, func(x *child) bool { return x == c })
}

// removeChildren removes the CHILD SAs of an IKE SA that ends (RFC 7296, Section
// 1.4.1).
func (m *Machine) removeChildren() {
	for len(m.children) > 0 {
		m.forget(m.children[0])
	}
}

// installFailed deletes the CHILD SA that the data plane refused. What was
// installed of it goes when the peer knows.
func (m *Machine) installFailed(e InstallFailed) {
	c := m.byID(e.ID)
	if c == nil || c.state == childGone {
		return
	}
	if e.ID.Direction == ipsec.Out {
		c.outUp = false
	} else {
		c.inUp, c.reserved = false, true // a failed InstallSA has changed nothing
	}
	if c.state != childDeleting {
		m.notice(ChildFailed, c.conf.Name, &failure{code: codeInstall, err: e.Err})
		m.enqueueDelete(c)
	}
}

// expired acts on the lifetime of an SA: the soft limit asks for a rekeying, and
// at the hard limit the data plane has removed the SA.
func (m *Machine) expired(e Expired) {
	c := m.byID(e.ID)
	if c == nil {
		return
	}
	if !e.Hard {
		if c.state == childLive && m.state == Established {
			m.enqueueRekey(c)
		}
		return
	}
	if e.ID.Direction == ipsec.Out {
		c.outUp = false
	} else {
		c.inUp = false
	}
	if c.successor != nil && c.successor.state == childLive {
		m.activate(c.successor)
	}
	if c.state == childLive {
		m.notice(ChildDown, c.conf.Name, &failure{code: codeLifetime, err: errLifetime})
	}
	if c.state == childLive || c.state == childReplaced {
		m.enqueueDelete(c)
	}
}

// used learns that the peer sends through the new SA: it is ready to receive
// through it too.
func (m *Machine) used(e Used) {
	if c := m.byInbound(e.ID); c != nil && c.state == childLive {
		m.activate(c)
	}
}

// ---- creating: the side that asks ----

// createChild is the CREATE_CHILD_SA exchange for a new CHILD SA.
type createChild struct {
	conf     *Child
	flow     *ipsec.Flow
	offer    *childOffer
	unwanted bool // an order to delete the tunnel came
	retry
}

// enqueueChild asks for a CHILD SA, once for each tunnel.
func (m *Machine) enqueueChild(c *Child, flow *ipsec.Flow) {
	same := func(t task) bool {
		x, ok := t.(*createChild)
		return ok && x.conf == c
	}
	if m.outstanding != nil && same(m.outstanding.task) ||
		slices.ContainsFunc(m.queue, func(w waiting) bool { return same(w.task) }) {
		return
	}
	m.enqueue(&createChild{conf: c, flow: flow})
}

func (t *createChild) request(m *Machine) (message.ExchangeType, []message.Payload, bool) {
	var f *failure
	if t.offer == nil {
		if t.offer, f = m.newOffer(t.conf, t.flow); f != nil {
			m.notice(ChildFailed, t.conf.Name, f)
			return 0, nil, false
		}
	}
	payloads, f := t.offer.request(m, t.group(t.conf.Proposals))
	if f != nil {
		t.offer.discard(m)
		m.notice(ChildFailed, t.conf.Name, f)
		return 0, nil, false
	}
	return message.CreateChildSA, payloads, true
}

func (t *createChild) response(m *Machine, msg *message.Message) {
	again, later := t.again(m, msg, t.offer.proposals)
	if again && !t.unwanted {
		m.enqueueAfter(t, later)
		return
	}
	nonce, _ := message.Find[*message.Nonce](msg)
	m.childResponse(t.offer, msg, t.offer.nonce, nonceOf(nonce))
	if t.unwanted {
		m.deleteChildren(t.conf.Name)
	}
}

func (t *createChild) cancel(m *Machine) {
	if t.offer != nil {
		t.offer.discard(m)
	}
}

func nonceOf(n *message.Nonce) []byte {
	if n == nil {
		return nil
	}
	return n.Data
}

// childResponse takes the part of a response that is about a new CHILD SA, in
// IKE_AUTH or CREATE_CHILD_SA.
func (m *Machine) childResponse(o *childOffer, msg *message.Message, ni, nr []byte) {
	proposals := o.proposals
	if msg.Header.Exchange == message.IKEAuth {
		proposals = withoutKE(proposals)
	}
	c, f := o.complete(m, msg, proposals, ni, nr)
	if f != nil {
		m.notice(ChildFailed, o.conf.Name, f)
		m.undo(o, c)
		return
	}
	m.installChild(c, true)
	m.notice(ChildUp, c.conf.Name, nil)
	m.overtaken(c)
}

// overtaken ends c where the peer has deleted it before its response came: the
// response was lost, and its repetition arrived after the Delete.
func (m *Machine) overtaken(c *child) {
	early := slices.Contains(m.deletedEarly, c.out)
	m.deletedEarly = nil
	if !early {
		return
	}
	if c.state == childLive {
		m.notice(ChildDown, c.conf.Name, &failure{code: codeDeleted})
	}
	m.retire(c)
}

// undo takes back an offer: a CHILD SA that only the peer has is deleted.
func (m *Machine) undo(o *childOffer, c *child) {
	if c == nil {
		o.discard(m)
		return
	}
	c.dropHeld()
	m.children = append(m.children, c)
	m.enqueueDelete(c)
}

// ---- creating: the side that answers ----

// answerCreateChild answers CREATE_CHILD_SA, whatever it is for (RFC 7296,
// Section 1.3), and where exchanges cross as Section 2.25 says.
func (m *Machine) answerCreateChild(msg *message.Message) {
	if m.state != Established {
		m.respond(message.CreateChildSA, failf(message.TemporaryFailure, "the IKE SA is ending").payload())
		return
	}
	sa, _ := message.Find[*message.SA](msg)
	if sa.Proposals[0].Protocol == message.ProtocolIKE {
		m.answerRekeyIKE(msg)
		return
	}
	if m.rekeyingIKE() != nil {
		m.respond(message.CreateChildSA, failf(message.TemporaryFailure, "the IKE SA is being rekeyed").payload())
		return
	}
	_, okI := msg.TS(false)
	_, okR := msg.TS(true)
	if !okI || !okR {
		m.answerSyntax(message.CreateChildSA, failf(message.InvalidSyntax, "no traffic selectors for a CHILD SA"))
		return
	}
	if n, ok := msg.Notify(message.RekeySA); ok {
		m.answerRekeyChild(msg, n)
		return
	}
	nonce, _ := message.Find[*message.Nonce](msg)
	nr, err := m.random(nonceLen)
	if err != nil {
		m.respond(message.CreateChildSA, internal(err).payload())
		return
	}
	reply, c, f := m.acceptChild(msg, nonce.Data, nr, nil)
	if f != nil {
		m.respond(message.CreateChildSA, f.payload())
		m.notice(ChildFailed, "", f)
		return
	}
	m.installChild(c, true)
	m.respond(message.CreateChildSA, reply...)
	m.notice(ChildUp, c.conf.Name, nil)
}

// acceptChild makes the CHILD SA that a request asks for, and the payloads that
// answer it. old is the CHILD SA that it replaces, or nil.
func (m *Machine) acceptChild(msg *message.Message, ni, nr []byte, old *child) ([]message.Payload, *child, *failure) {
	if len(m.children) >= m.maxChildren() {
		return nil, nil, failf(message.NoAdditionalSAs, "the peer has %d CHILD SAs already", len(m.children))
	}
	sa, _ := message.Find[*message.SA](msg)
	tsi, _ := msg.TS(false)
	tsr, _ := msg.TS(true)
	auth := msg.Header.Exchange == message.IKEAuth
	match, f := m.matchChild(sa.Proposals, tsi.Selectors, tsr.Selectors, old, auth)
	if f != nil {
		return nil, nil, f
	}
	var public []byte
	var shared secret.Key
	if group := match.p.Transforms.First(ipsec.TypeKE); group.ID != ipsec.KENone {
		if public, shared, f = m.respondKE(msg, group); f != nil {
			return nil, nil, f
		}
	}
	spi, err := m.env.AllocateSPI(match.conf.Protocol)
	if err != nil {
		shared.Wipe()
		return nil, nil, internal(err)
	}
	c := &child{
		conf: match.conf, in: spi, reserved: true, out: ipsec.SPI(binary.BigEndian.Uint32(match.p.SPI)), chosen: match.p.Transforms,
		localTS: match.localTS, remoteTS: match.remoteTS,
	}
	if f := m.keyChild(c, shared, ni, nr, false); f != nil {
		m.env.ReleaseSPI(match.conf.Protocol, spi)
		return nil, nil, f
	}
	match.p.SPI = spiOctets(spi)
	reply := []message.Payload{&message.SA{Proposals: []message.Proposal{match.p}}}
	if !auth {
		reply = append(reply, &message.Nonce{Data: nr})
	}
	if public != nil {
		reply = append(reply, &message.KE{Method: match.p.Transforms.First(ipsec.TypeKE).ID, Data: public})
	}
	reply = append(reply, &message.TS{Selectors: c.remoteTS}, &message.TS{Responder: true, Selectors: c.localTS})
	return reply, c, nil
}

// respondKE answers the KE payload of a CREATE_CHILD_SA request.
func (m *Machine) respondKE(msg *message.Message, group ipsec.Transform) ([]byte, secret.Key, *failure) {
	ke, ok := message.Find[*message.KE](msg)
	if !ok || ke.Method != group.ID {
		return nil, secret.Key{}, wrongKE(group) // RFC 7296, Section 1.3
	}
	method, err := suite.NewKeyExchange(group)
	if err != nil {
		return nil, secret.Key{}, internal(err)
	}
	public, shared, err := method.Respond(m.env.Rand, ke.Data)
	switch {
	case errors.Is(err, suite.ErrPublicValue):
		return nil, secret.Key{}, failf(message.InvalidSyntax, "key exchange: %w", err)
	case err != nil:
		return nil, secret.Key{}, internal(err)
	}
	return public, shared, nil
}

// childMatch is what a request and a configured tunnel have in common.
type childMatch struct {
	conf              *Child
	p                 message.Proposal
	localTS, remoteTS []ipsec.Selector
}

// matchChild finds the tunnel that a request is for: one that covers the peer's
// first selectors, which may be those of a packet, before one that only meets
// some (RFC 7296, Section 2.9). A CHILD SA that replaces another is for the
// tunnel of that one.
func (m *Machine) matchChild(offered []message.Proposal, tsi, tsr []ipsec.Selector, old *child, auth bool) (childMatch, *failure) {
	tunnels := m.conn.Children
	if old != nil {
		tunnels = []*Child{old.conf}
	}
	if auth {
		offered = withoutOfferedKE(offered)
	}
	var met, found []childMatch
	for _, conf := range tunnels {
		x := childMatch{
			conf:     conf,
			localTS:  narrow(tsr, orHost(conf.Local, m.local.Addr())),
			remoteTS: narrow(tsi, orHost(conf.Remote, m.remote.Addr())),
		}
		if len(x.localTS) == 0 || len(x.remoteTS) == 0 {
			continue
		}
		met = append(met, x)
		proposals := conf.Proposals
		if auth {
			proposals = withoutKE(proposals)
		}
		if p, ok := choose(proposals, offered, wireProtocol(conf.Protocol)); ok && m.usableSPI(conf.Protocol, p.SPI) {
			x.p = p
			found = append(found, x)
		}
	}
	switch {
	case len(met) == 0:
		return childMatch{}, failf(message.TSUnacceptable, "no tunnel fits the peer's traffic selectors %s === %s", tsr, tsi)
	case len(found) == 0:
		return childMatch{}, failf(message.NoProposalChosen, "tunnel %s accepts none of the peer's proposals: %s",
			met[0].conf.Name, describe(offered))
	}
	for _, x := range found {
		if covered(tsr[0], x.localTS) && covered(tsi[0], x.remoteTS) {
			return x, nil
		}
	}
	return found[0], nil
}
