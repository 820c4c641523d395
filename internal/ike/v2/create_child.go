package v2

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// ---- proposing ----

// childOffer is what this side proposed for a CHILD SA.
type childOffer struct {
	conf              *Child
	spi               ipsec.SPI
	proposals         []ipsec.Proposal
	flow              *ipsec.Flow // the packet that asked for it, or nil
	localTS, remoteTS []ipsec.Selector
	nonce             []byte
	group             ipsec.Transform
	share             suite.KEShare // nil without a key exchange
}

// bareOffer is an offer whose selectors are still to be set.
func (m *Machine) bareOffer(c *Child) (*childOffer, *fault.Fault) {
	spi, err := m.env.AllocateSPI(c.Protocol)
	if err != nil {
		return nil, fault.Internal(err)
	}
	return &childOffer{conf: c, spi: spi, proposals: c.Proposals}, nil
}

// newOffer is the offer for a new CHILD SA; flow is the packet that asks for it,
// or nil.
func (m *Machine) newOffer(c *Child, flow *ipsec.Flow) (*childOffer, *fault.Fault) {
	hosts := ipsec.Pair{Local: m.local.Addr(), Remote: m.remote.Addr()}
	if f := m.passes(c, message.CreateChildSA); f != nil {
		return nil, f
	}
	ours, theirs := c.Selectors(hosts.Local, hosts.Remote)
	if len(ours) == 0 || len(theirs) == 0 {
		return nil, fault.NotHosts(c, hosts)
	}
	o, f := m.bareOffer(c)
	if f != nil {
		return nil, f
	}
	o.flow = flow
	o.localTS, o.remoteTS = c.Propose(hosts.Local, hosts.Remote, flow)
	// A peer that has narrowed the tunnel before would perhaps take the same part
	// again: strongSwan does not go by the packet in front.
	if m.onePair || flow != nil && m.hasLive(c) {
		o.localTS, o.remoteTS = rules.Pair(ours, theirs, flow)
	}
	return o, nil
}

// passes returns the Fault of a tunnel whose packets cannot reach the peer.
func (m *Machine) passes(c *Child, in message.ExchangeType) *fault.Fault {
	if c.Protocol == ipsec.AH && m.nat.Encap {
		return fault.ThroughNAT(c, in)
	}
	return nil
}

// discard gives the SPI back when nothing came of the offer.
func (o *childOffer) discard(m *Machine) {
	if o.spi != 0 {
		m.env.ReleaseSPI(o.conf.Protocol, o.spi)
		o.spi, o.share = 0, nil
	}
}

// payloads are the SA and TS payloads of the offer, and what it asks for beside.
func (o *childOffer) payloads(proposals []ipsec.Proposal) []message.Payload {
	return append([]message.Payload{
		rules.Offer(proposals, conf.WireProtocol(o.conf.Protocol), spiOctets(o.spi)),
		&message.TS{Selectors: o.localTS},
		&message.TS{Responder: true, Selectors: o.remoteTS},
	}, o.conf.Notifies()...)
}

// request are the payloads of a CREATE_CHILD_SA request, behind the
// notifications in front (RFC 7296, Section 1.3.1). group is the key exchange
// method to use, where the proposals have one.
func (o *childOffer) request(m *Machine, group ipsec.Transform, front ...message.Payload) ([]message.Payload, *fault.Fault) {
	nonce, err := m.random(nonceLen)
	if err != nil {
		return nil, fault.Internal(err)
	}
	o.nonce, o.group, o.share = nonce, group, nil
	sa := o.payloads(o.proposals)
	out := append(front, sa[0], &message.Nonce{Data: nonce})
	if group.ID != ipsec.KENone {
		if o.share, err = m.newShare(group); err != nil {
			return nil, fault.Internal(err)
		}
		out = append(out, &message.KE{Method: group.ID, Data: o.share.Public()})
	}
	return append(out, sa[1:]...), nil
}

// complete makes the CHILD SA that the response agreed on. With a failure, the
// child is nil where the peer has none either; otherwise it is to be deleted.
func (o *childOffer) complete(m *Machine, msg *message.Message, proposals []ipsec.Proposal, ni, nr []byte) (*child, *fault.Fault) {
	if f := fault.Refusal(msg); f != nil {
		return nil, f
	}
	sa, _ := message.Find[*message.SA](msg)
	tsi, okI := msg.TS(false)
	tsr, okR := msg.TS(true)
	if sa == nil || !okI || !okR {
		return nil, fault.Newf(message.NoProposalChosen, "the peer's response has no CHILD SA")
	}
	p, ok := rules.Accepted(sa, proposals, conf.WireProtocol(o.conf.Protocol))
	if !ok || !m.usableSPI(o.conf.Protocol, p.SPI) {
		return nil, fault.Newf(message.NoProposalChosen, "the peer chose what was not offered")
	}
	c := &child{
		conf: o.conf, state: childReplaced, in: o.spi, reserved: true,
		out: ipsec.SPI(binary.BigEndian.Uint32(p.SPI)), chosen: p.Transforms,
		localTS: tsi.Selectors, remoteTS: tsr.Selectors,
	}
	shared, f := o.finishKE(msg, p.Transforms)
	if f != nil {
		return c, f
	}
	_, transport := msg.Notify(message.UseTransportMode)
	if transport != (o.conf.Mode == ipsec.Transport) {
		return c, fault.OtherMode(o.conf.Mode, msg.Header.Exchange)
	}
	if c.aggfrag, ok = o.conf.AgreedAggfrag(msg); !ok {
		return c, fault.Aggfrag(o.conf, msg.Header.Exchange)
	}
	if transport {
		c.original = m.nat.Original(c.localTS, c.remoteTS)
		c.localTS, c.remoteTS = m.nat.Substitute(c.localTS, c.remoteTS, conf.HostsOf(o.localTS, o.remoteTS))
	}
	if !rules.Within(c.localTS, o.localTS) || !rules.Within(c.remoteTS, o.remoteTS) {
		return c, fault.Newf(message.TSUnacceptable, "the peer answered traffic selectors %s === %s, which are not within %s === %s",
			tsi.Selectors, tsr.Selectors, o.localTS, o.remoteTS).
			Showing(rules.Evidence{Exchange: msg.Header.Exchange, LocalTS: tsi.Selectors, RemoteTS: tsr.Selectors})
	}
	if o.flow != nil && !rules.CoversFlow(c.localTS, c.remoteTS, o.flow) && m.carries(c) {
		// Kept, each packet that the peer does not want would add another.
		return c, fault.Newf(message.TSUnacceptable, "the peer does not take the packet from %s to %s: it answered %s === %s, which an SA carries already",
			o.flow.Src, o.flow.Dst, tsi.Selectors, tsr.Selectors).
			Showing(rules.Evidence{Exchange: msg.Header.Exchange, LocalTS: tsi.Selectors, RemoteTS: tsr.Selectors})
	}
	if f := m.keyChild(c, shared, ni, nr, true); f != nil {
		return c, f
	}
	c.state = childLive
	return c, nil
}

// carries reports whether a CHILD SA of the tunnel is up that carries all that c
// would.
func (m *Machine) carries(c *child) bool {
	return m.findChild(func(x *child) bool {
		return x.conf == c.conf && x.state == childLive && x.inUp &&
			rules.Within(c.localTS, x.localTS) && rules.Within(c.remoteTS, x.remoteTS)
	}) != nil
}

// finishKE completes the key exchange of the offer, if it has one.
func (o *childOffer) finishKE(msg *message.Message, chosen ipsec.Proposal) (secret.Key, *fault.Fault) {
	group := chosen.First(ipsec.TypeKE)
	ke, ok := message.Find[*message.KE](msg)
	switch {
	case group.ID == ipsec.KENone && !ok:
		return secret.Key{}, nil
	case o.share == nil || group != o.group || !ok || ke.Method != group.ID:
		return secret.Key{}, fault.Newf(message.InvalidKEPayload, "the key exchange of the response is not the one chosen")
	}
	shared, err := o.share.Finish(ke.Data)
	o.share = nil
	if err != nil {
		return secret.Key{}, fault.Newf(message.InvalidKEPayload, "key exchange: %w", err)
	}
	return shared, nil
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

// enqueueChild asks for a CHILD SA, once for each tunnel: a packet that it turns
// out not to cover asks again.
func (m *Machine) enqueueChild(c *Child, flow *ipsec.Flow) {
	same := func(t task) bool {
		x, ok := t.(*createChild)
		return ok && x.conf == c
	}
	if flow != nil && m.covers(c, flow) {
		return // it came up meanwhile
	}
	if m.outstanding != nil && same(m.outstanding.task) ||
		slices.ContainsFunc(m.queue, func(w waiting) bool { return same(w.task) }) {
		return
	}
	m.enqueue(&createChild{conf: c, flow: flow})
}

// hasLive reports whether the tunnel has a CHILD SA.
func (m *Machine) hasLive(c *Child) bool {
	return m.findChild(func(x *child) bool { return x.conf == c && x.state == childLive }) != nil
}

// covers reports whether a CHILD SA of the tunnel is up, or about to be, that the
// packet may take.
func (m *Machine) covers(c *Child, flow *ipsec.Flow) bool {
	return m.findChild(func(x *child) bool {
		return x.conf == c && x.state == childLive && x.inUp && rules.CoversFlow(x.localTS, x.remoteTS, flow)
	}) != nil
}

func (t *createChild) request(m *Machine) (message.ExchangeType, []message.Payload, bool) {
	var f *fault.Fault
	if len(m.children) >= m.maxChildren() {
		t.cancel(m)
		m.notice(ChildFailed, t.conf.Name, fault.Newf(message.NoAdditionalSAs, "there are %d CHILD SAs already", len(m.children)))
		return 0, nil, false
	}
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
		proposals = rules.WithoutKE(proposals)
	}
	c, f := o.complete(m, msg, proposals, ni, nr)
	if f != nil && f.Notify == message.SinglePairRequired && !m.onePair {
		m.onePair = true
		o.discard(m)
		m.enqueue(&createChild{conf: o.conf, flow: o.flow})
		return
	}
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
		m.notice(ChildDown, c.conf.Name, &fault.Fault{Code: fault.CodeDeleted})
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
		m.respond(message.CreateChildSA, fault.Newf(message.TemporaryFailure, "the IKE SA is ending").Payload())
		return
	}
	sa, _ := message.Find[*message.SA](msg)
	if sa.Proposals[0].Protocol == message.ProtocolIKE {
		m.answerRekeyIKE(msg)
		return
	}
	if m.rekeyingIKE() != nil {
		m.respond(message.CreateChildSA, fault.Newf(message.TemporaryFailure, "the IKE SA is being rekeyed").Payload())
		return
	}
	_, okI := msg.TS(false)
	_, okR := msg.TS(true)
	if !okI || !okR {
		m.answerSyntax(message.CreateChildSA, fault.Newf(message.InvalidSyntax, "no traffic selectors for a CHILD SA"))
		return
	}
	if n, ok := msg.Notify(message.RekeySA); ok {
		m.answerRekeyChild(msg, n)
		return
	}
	nonce, _ := message.Find[*message.Nonce](msg)
	nr, err := m.random(nonceLen)
	if err != nil {
		m.respond(message.CreateChildSA, fault.Internal(err).Payload())
		return
	}
	reply, c, f := m.acceptChild(msg, nonce.Data, nr, nil)
	if f != nil {
		m.respond(message.CreateChildSA, f.Payload())
		m.notice(ChildFailed, "", f)
		return
	}
	m.installChild(c, true)
	m.respond(message.CreateChildSA, reply...)
	m.notice(ChildUp, c.conf.Name, nil)
}

// acceptChild makes the CHILD SA that a request asks for, and the payloads that
// answer it. old is the CHILD SA that it replaces, or nil.
func (m *Machine) acceptChild(msg *message.Message, ni, nr []byte, old *child) ([]message.Payload, *child, *fault.Fault) {
	if len(m.children) >= m.maxChildren() {
		return nil, nil, fault.Newf(message.NoAdditionalSAs, "the peer has %d CHILD SAs already", len(m.children))
	}
	sa, _ := message.Find[*message.SA](msg)
	tsi, _ := msg.TS(false)
	tsr, _ := msg.TS(true)
	_, transport := msg.Notify(message.UseTransportMode)
	hosts := ipsec.Pair{Local: m.local.Addr(), Remote: m.remote.Addr()}
	if old != nil && old.conf.Mode == ipsec.Transport {
		hosts = conf.HostsOf(old.localTS, old.remoteTS) // the peer may have moved since
	}
	auth := msg.Header.Exchange == message.IKEAuth
	match, f := m.matchChild(conf.Request{
		Offered: sa.Proposals, TSi: tsi.Selectors, TSr: tsr.Selectors, Hosts: hosts, NAT: m.nat, Transport: transport,
		Auth: auth, UsableSPI: m.usableSPI,
	}, old)
	if f != nil {
		return nil, nil, f
	}
	aggfrag, ok := match.Child.AcceptAggfrag(msg)
	if !ok {
		return nil, nil, fault.Aggfrag(match.Child, msg.Header.Exchange)
	}
	var public []byte
	var shared secret.Key
	if group := match.Proposal.Transforms.First(ipsec.TypeKE); group.ID != ipsec.KENone {
		if public, shared, f = m.respondKE(msg, group); f != nil {
			return nil, nil, f
		}
	}
	spi, err := m.env.AllocateSPI(match.Child.Protocol)
	if err != nil {
		shared.Wipe()
		return nil, nil, fault.Internal(err)
	}
	c := &child{
		conf: match.Child, in: spi, reserved: true, out: ipsec.SPI(binary.BigEndian.Uint32(match.Proposal.SPI)), chosen: match.Proposal.Transforms,
		localTS: match.LocalTS, remoteTS: match.RemoteTS, original: match.Original, aggfrag: aggfrag,
	}
	if f := m.keyChild(c, shared, ni, nr, false); f != nil {
		m.env.ReleaseSPI(match.Child.Protocol, spi)
		return nil, nil, f
	}
	match.Proposal.SPI = spiOctets(spi)
	reply := []message.Payload{&message.SA{Proposals: []message.Proposal{match.Proposal}}}
	if !auth {
		reply = append(reply, &message.Nonce{Data: nr})
	}
	if public != nil {
		reply = append(reply, &message.KE{Method: match.Proposal.Transforms.First(ipsec.TypeKE).ID, Data: public})
	}
	reply = append(reply, &message.TS{Selectors: c.remoteTS}, &message.TS{Responder: true, Selectors: c.localTS})
	return append(reply, match.Child.Answers(aggfrag)...), c, nil
}

// respondKE answers the KE payload of a CREATE_CHILD_SA request.
func (m *Machine) respondKE(msg *message.Message, group ipsec.Transform) ([]byte, secret.Key, *fault.Fault) {
	ke, ok := message.Find[*message.KE](msg)
	if !ok || ke.Method != group.ID {
		return nil, secret.Key{}, fault.WrongKE(group) // RFC 7296, Section 1.3
	}
	method, err := suite.NewKeyExchange(group)
	if err != nil {
		return nil, secret.Key{}, fault.Internal(err)
	}
	public, shared, err := method.Respond(m.env.Rand, ke.Data)
	switch {
	case errors.Is(err, suite.ErrPublicValue):
		// The IKE SA goes on, which INVALID_SYNTAX would not allow.
		f := fault.WrongKE(group)
		f.Err = fmt.Errorf("key exchange: %w", err)
		return nil, secret.Key{}, f
	case err != nil:
		return nil, secret.Key{}, fault.Internal(err)
	}
	return public, shared, nil
}

// matchChild finds the tunnel that a request is for. A CHILD SA that replaces
// another is for the tunnel of that one.
func (m *Machine) matchChild(r conf.Request, old *child) (conf.Match, *fault.Fault) {
	tunnels := m.conn.Children
	if old != nil {
		tunnels = []*Child{old.conf}
	}
	match, met := r.Find(tunnels)
	seen := rules.Evidence{Exchange: message.CreateChildSA, Proposals: r.Offered, LocalTS: r.TSr, RemoteTS: r.TSi}
	if r.Auth {
		seen.Exchange = message.IKEAuth
	}
	switch {
	case match.Child != nil:
		return match, m.passes(match.Child, seen.Exchange)
	case met.Mode:
		return match, fault.OtherMode(met.Child.Mode, seen.Exchange).Showing(seen)
	case met.Child == nil:
		return match, fault.Newf(message.TSUnacceptable, "no tunnel fits the peer's traffic selectors %s === %s", r.TSr, r.TSi).Showing(seen)
	case !slices.ContainsFunc(r.Offered, func(p message.Proposal) bool { return p.Protocol == conf.WireProtocol(met.Child.Protocol) }):
		return match, fault.OtherProtocol(met.Child, r.Offered).Showing(seen)
	default:
		return match, fault.Newf(message.NoProposalChosen, "tunnel %s accepts none of the peer's proposals: %s",
			met.Child.Name, rules.Describe(r.Offered)).Showing(seen)
	}
}
