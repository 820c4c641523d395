package v2

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
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
	original          *ipsec.Pair // see ipsec.SA
	aggfrag           ipsec.AggfragSA
	since             time.Time

	reserved    bool      // the data plane keeps the inbound SPI for us
	inUp, outUp bool      // installed in the data plane
	heldIn      *ipsec.SA // not installed yet, with its keys; then nil
	held        *ipsec.SA // the outbound SA likewise
	activate    *timed    // installs held
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

// maxChildren bounds the CHILD SAs that a peer can make this side keep, and those
// that packets ask for where the peer narrows their selectors.
func (m *Machine) maxChildren() int { return 16 + 4*m.conn.Pairs() }

// ---- keys ----

// keyChild derives the keys of c and makes its SAs, which wait to be installed
// (RFC 7296, Section 2.17). It wipes shared. ours says whether this side started
// the exchange.
func (m *Machine) keyChild(c *child, shared secret.Key, ni, nr []byte, ours bool) *fault.Fault {
	defer shared.Wipe()
	encr, integ := c.chosen.First(ipsec.TypeEncr), c.chosen.First(ipsec.TypeInteg)
	if integ.ID == ipsec.IntegNone {
		integ = ipsec.Transform{}
	}
	k, err := keys.DeriveChild(m.session.PRF, m.session.Keys.D, shared, ni, nr, encr, integ)
	if err != nil {
		return fault.Newf(message.NoProposalChosen, "%w", err)
	}
	c.lifetime = conf.Soften(c.conf.Lifetime, m.randomBelow)
	sa := ipsec.SA{
		Protocol: c.protocol(), Mode: c.conf.Mode,
		Local: m.local, Remote: m.remote, Encap: m.nat.Encap,
		Encr: encr, Integ: integ,
		ESN:          c.chosen.First(ipsec.TypeESN).ID == ipsec.ESNYes,
		ReplayWindow: c.conf.ReplayWindow,
		Outer:        c.conf.Outer, Fit: c.conf.Fit, Aggfrag: c.aggfrag,
		Lifetime: c.lifetime,
		ReqID:    c.conf.ReqID,
		LocalTS:  c.localTS, RemoteTS: c.remoteTS, Original: c.original,
		Connection: m.conn.Name, Tunnel: c.conf.Name,
	}
	in, out := sa, sa
	in.SPI, in.Direction = c.in, ipsec.In
	out.SPI, out.Direction = c.out, ipsec.Out
	if out.Aggfrag.On {
		out.Aggfrag.Back = c.in
	}
	out.EncrKey, out.IntegKey, in.EncrKey, in.IntegKey = k.Ei, k.Ai, k.Er, k.Ar
	if !ours {
		out.EncrKey, out.IntegKey, in.EncrKey, in.IntegKey = k.Er, k.Ar, k.Ei, k.Ai
	}
	c.heldIn, c.held = &in, &out
	return nil
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
	m.timers.Stop(c.activate)
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
	m.timers.StopAbout(c)
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
	m.timers.StopAbout(c)
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
	if c.state == childLive {
		m.notice(ChildDown, c.conf.Name, &fault.Fault{Code: fault.CodeInstall, Err: e.Err})
		c.state = childReplaced
	}
	if c.state == childReplaced {
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
		m.notice(ChildDown, c.conf.Name, &fault.Fault{Code: fault.CodeLifetime, Err: fault.ErrLifetime})
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
