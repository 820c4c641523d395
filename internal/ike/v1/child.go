package v1

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v1/proposal"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// How IPsec SAs change over without loss. Quick mode knows no rekeying: a new pair
// of SAs for the same traffic replaces the old one. Its initiator installs both
// directions when it has the second message; its responder installs the inbound SA
// before it sends the second message, and the outbound one when it has the third, or
// a packet through the new SA. Where both begin at once under one IKE SA, only one
// exchange goes on (see prevails); and of two pairs the one stays whose exchange began
// later. Where messages are lost and late the ends may differ on that all the same:
// succession.go says who deletes what, and when.

// childState is where a pair of IPsec SAs stands.
type childState uint8

const (
	childLive     childState = iota
	childReplaced            // a successor is there; somebody will delete it
	childGone                // deleted; its inbound SA may stay for graceTime
)

var childStateNames = [...]string{"live", "replaced", "gone"}

func (s childState) String() string { return childStateNames[s] }

// child is a pair of IPsec SAs.
type child struct {
	conf              *Child
	state             childState
	in, out           ipsec.SPI
	chosen            ipsec.Proposal
	localTS, remoteTS []ipsec.Selector
	since             time.Time
	lifetime          ipsec.Lifetime
	local, remote     netip.AddrPort
	encap             bool

	mine  bool      // this side began the exchange that made it
	begun time.Time // when it began

	inUp, outUp bool      // installed in the data plane
	held        *ipsec.SA // the outbound SA, not installed yet
	fresh       bool      // it has not been compared with the others yet
	hops        int       // how many IKE SAs ago it was made
	rekeying    bool
	aged        bool // its soft limit is reached
	hastened    bool // the peer has deleted what it is to replace, before message 3 was here
	successor   *child
	deleteAt    time.Time // when this side deletes what has been replaced
	forgetAt    time.Time // when the inbound SA of what is gone goes
}

func (c *child) inID() ipsec.SAID {
	return ipsec.SAID{Direction: ipsec.In, Protocol: c.conf.Protocol, SPI: c.in}
}

func (c *child) outID(peer netip.Addr) ipsec.SAID {
	return ipsec.SAID{Direction: ipsec.Out, Protocol: c.conf.Protocol, SPI: c.out, Peer: peer}
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

func (m *Machine) findChild(is func(*child) bool) *child {
	if i := slices.IndexFunc(m.children, is); i >= 0 {
		return m.children[i]
	}
	return nil
}

// byID finds the pair that the data plane speaks of.
func (m *Machine) byID(id ipsec.SAID) *child {
	return m.findChild(func(c *child) bool {
		if c.conf.Protocol != id.Protocol {
			return false
		}
		if id.Direction == ipsec.In {
			return c.in == id.SPI
		}
		return c.out == id.SPI && c.outUp
	})
}

func (m *Machine) byOutbound(p ipsec.Protocol, spi ipsec.SPI) *child {
	return m.findChild(func(c *child) bool { return c.out == spi && c.conf.Protocol == p && c.state != childGone })
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

// terms are what this IKE SA says of its IPsec SAs.
func (m *Machine) terms() proposal.Terms {
	return proposal.Terms{Encap: m.nat.Encap, GM: m.conn.GM, UsableSPI: m.usableSPI}
}

// maxChildren bounds the IPsec SAs that a peer can make this side keep.
func (m *Machine) maxChildren() int { return 16 + 4*m.conn.Pairs() }

// keyChild derives the keys of c and returns its SAs (RFC 2409, Section 5.5).
func (m *Machine) keyChild(c *child, ni, nr []byte) (in, out *ipsec.SA, err error) {
	encr, integ := c.chosen.First(ipsec.TypeEncr), c.chosen.First(ipsec.TypeInteg)
	var encrLen, integLen int
	if c.conf.Protocol == ipsec.AH {
		integLen, err = suite.IntegKeyLength(integ)
	} else {
		encrLen, integLen, err = suite.KeyLengths(encr, integ)
	}
	if err != nil {
		return nil, nil, err
	}
	sa := ipsec.SA{
		Protocol: c.conf.Protocol, Mode: c.conf.Mode,
		Local: m.local, Remote: m.remote, Encap: m.nat.Encap,
		Encr: encr, Integ: integ,
		ReplayWindow: c.conf.ReplayWindow, Lifetime: c.lifetime, ReqID: c.conf.ReqID, Outer: c.conf.Outer, Fit: c.conf.Fit,
		LocalTS: c.localTS, RemoteTS: c.remoteTS,
		Connection: m.conn.Name, Tunnel: c.conf.Name,
	}
	make1 := func(spi ipsec.SPI, direction ipsec.Direction) *ipsec.SA {
		k := keys.Keymat(m.session.hash, m.session.keys.D, secret.Key{}, proposal.WireProtocol(sa.Protocol), spi, ni, nr, encrLen+integLen)
		defer k.Wipe()
		one := sa
		one.SPI, one.Direction = spi, direction
		if encrLen > 0 {
			one.EncrKey = secret.Copy(k.Bytes()[:encrLen])
		}
		if integLen > 0 {
			one.IntegKey = secret.Copy(k.Bytes()[encrLen:])
		}
		return &one
	}
	c.local, c.remote, c.encap = m.local, m.remote, m.nat.Encap
	return make1(c.in, ipsec.In), make1(c.out, ipsec.Out), nil
}

// limits are the shorter of ours and what the exchange agreed on.
func (m *Machine) limits(own, agreed ipsec.Limit) ipsec.Lifetime {
	hard := own
	if agreed.Time > 0 && (hard.Time == 0 || agreed.Time < hard.Time) {
		hard.Time = agreed.Time
	}
	if agreed.Bytes > 0 && (hard.Bytes == 0 || agreed.Bytes < hard.Bytes) {
		hard.Bytes = agreed.Bytes
	}
	return conf.Soften(hard, m.randomBelow)
}

// installIn hands the inbound SA to the data plane.
func (m *Machine) installIn(c *child, in *ipsec.SA) {
	m.children = append(m.children, c)
	m.act(step.InstallSA{SA: *in})
	c.inUp = true
}

// complete goes on when both ends have agreed on c: its outbound SA is installed,
// and what it replaces is marked.
func (m *Machine) complete(c *child) {
	c.since, c.fresh = m.now, true
	if m.heir != nil { // replaced while the exchange was under way
		m.bequeath(estate{children: []*child{c}})
		m.children = slices.DeleteFunc(m.children, func(x *child) bool { return x == c })
		return
	}
	m.settle(c)
}

func (m *Machine) installOut(c *child) {
	if c.held != nil {
		m.act(step.InstallSA{SA: *c.held})
		c.held, c.outUp = nil, true
	}
}

// settle compares a new pair with the others for the same traffic.
func (m *Machine) settle(c *child) {
	c.fresh = false
	replaces := c.hastened
	for _, old := range m.siblings(c) {
		switch {
		case old == c:
		case old.newerThan(c): // the last message of c was late
			m.supersede(c, old)
		default:
			replaces = true
			m.supersede(old, c)
		}
	}
	if c.state != childLive {
		return
	}
	m.installOut(c)
	kind := step.ChildUp
	if replaces {
		kind = step.ChildRekeyed
	}
	m.notice(kind, c.conf.Name, nil)
}

// newerThan says which of two pairs for the same traffic stays. Those of different
// IKE SAs may have crossed, of which the ends tell different times; but which IKE SA
// is the newer one, both know.
func (c *child) newerThan(o *child) bool {
	if c.hops != o.hops {
		return c.hops < o.hops
	}
	return c.begun.After(o.begun)
}

// serves reports whether both pairs are for the same traffic.
func (c *child) serves(o *child) bool {
	return c.conf.Name == o.conf.Name && slices.Equal(c.localTS, o.localTS) && slices.Equal(c.remoteTS, o.remoteTS)
}

// siblings are the live pairs for the traffic of c.
func (m *Machine) siblings(c *child) []*child {
	var out []*child
	for _, o := range m.children {
		if o.state == childLive && (o.held == nil || o.fresh) && o.serves(c) {
			out = append(out, o)
		}
	}
	return out
}

// supersede notes that c takes over from old, which this side deletes where the peer
// does not.
func (m *Machine) supersede(old, c *child) {
	old.state, old.successor = childReplaced, c
	old.deleteAt = m.now.Add(m.patience(c.mine))
	m.watchChild(old)
}

// revive takes a pair back that was replaced, for the peer has deleted the one that
// took over: it sees it the other way round. It reports whether there is one.
func (m *Machine) revive(deleted *child) bool {
	var best *child
	for _, c := range m.children {
		if c.state == childReplaced && c.inUp && (c.outUp || c.held != nil) && c.serves(deleted) && (best == nil || c.newerThan(best)) {
			best = c
		}
	}
	if best == nil {
		return false
	}
	best.state, best.successor, best.deleteAt = childLive, nil, time.Time{}
	deleted.successor = best
	m.installOut(best)
	if best.aged {
		m.rekey(best)
	}
	return true
}

// negotiates reports whether the exchange that makes c is under way.
func (m *Machine) negotiates(c *child) bool {
	for _, x := range m.quicks {
		if x.child == c && !x.over {
			return true
		}
	}
	return false
}

// hasten sends through the pair that is to replace the deleted one, though message 3
// is not here yet: the peer deletes only when it has the new pair. It reports
// whether there is one. Should message 3 never come, the new pair is given up, and
// the tunnel is down only then.
func (m *Machine) hasten(deleted *child) bool {
	for _, x := range m.quicks {
		if x.child != nil && !x.over && x.child.serves(deleted) && slices.Contains(m.children, x.child) {
			x.child.hastened = true
			m.installOut(x.child)
			deleted.successor = x.child
			return true
		}
	}
	return false
}

// watchChild sets the clocks of what is being replaced.
func (m *Machine) watchChild(c *child) {
	if !c.deleteAt.IsZero() && c.state == childReplaced {
		m.after(max(0, c.deleteAt.Sub(m.now)), func(m *Machine) {
			if c.state == childReplaced && !c.deleteAt.After(m.now) && slices.Contains(m.children, c) {
				m.deleteChild(c)
			}
		})
	}
	if !c.forgetAt.IsZero() {
		m.after(max(0, c.forgetAt.Sub(m.now)), func(m *Machine) {
			if slices.Contains(m.children, c) {
				m.forget(c)
			}
		})
	}
}

// deleteChild tells the peer that a pair is deleted, and deletes it.
func (m *Machine) deleteChild(c *child) {
	m.sendDelete(c)
	m.remind(c, reminders)
	m.retire(c)
}

// remind sends a Delete again.
func (m *Machine) remind(c *child, again int) {
	if again > 0 {
		m.after(reminderTime, func(m *Machine) {
			m.sendDelete(c)
			m.remind(c, again-1)
		})
	}
}

// sendDelete sends the Delete of a pair.
func (m *Machine) sendDelete(cs ...*child) {
	for len(cs) > 0 {
		d := &isakmp.Delete{Protocol: proposal.WireProtocol(cs[0].conf.Protocol)}
		var rest []*child
		for _, c := range cs {
			if proposal.WireProtocol(c.conf.Protocol) == d.Protocol && len(d.SPIs) < isakmp.MaxSPIs {
				d.SPIs = append(d.SPIs, spiOctets(c.in))
			} else {
				rest = append(rest, c)
			}
		}
		if body, err := d.Body(); err == nil {
			m.inform(isakmp.Payload{Type: isakmp.TypeDelete, Body: body})
		}
		cs = rest
	}
}

// deleteAll tells the peer that everything ends.
func (m *Machine) deleteAll() {
	var live []*child
	for _, c := range m.children {
		if c.state != childGone && !m.negotiates(c) {
			live = append(live, c)
		}
	}
	m.sendDelete(live...)
	d := &isakmp.Delete{Protocol: 1, SPIs: [][]byte{m.cookies()}}
	if body, err := d.Body(); err == nil {
		m.inform(isakmp.Payload{Type: isakmp.TypeDelete, Body: body})
	}
}

// dropHeld forgets the SA that will never be installed.
func (c *child) dropHeld() {
	if c.held != nil {
		c.held.EncrKey.Wipe()
		c.held.IntegKey.Wipe()
		c.held = nil
	}
}

// retire ends c: both sides know that it is deleted. The outbound SA goes at once;
// the inbound one stays for graceTime where a successor carries on.
func (m *Machine) retire(c *child) {
	c.state = childGone
	c.dropHeld()
	if c.outUp {
		m.act(step.RemoveSA{ID: c.outID(m.remote.Addr())})
		c.outUp = false
	}
	if c.successor != nil && c.inUp {
		c.forgetAt = m.now.Add(graceTime)
		m.watchChild(c)
		return
	}
	m.forget(c)
}

// forget removes what is left of c.
func (m *Machine) forget(c *child) {
	c.state = childGone
	c.dropHeld()
	if c.outUp {
		m.act(step.RemoveSA{ID: c.outID(m.remote.Addr())})
	}
	if c.inUp {
		m.act(step.RemoveSA{ID: c.inID()})
	}
	c.inUp, c.outUp = false, false
	m.children = slices.DeleteFunc(m.children, func(x *child) bool { return x == c })
}

func (m *Machine) removeChildren() {
	for len(m.children) > 0 {
		m.forget(m.children[0])
	}
}

// deleteTunnel deletes what is there of a tunnel, and what is wished for it.
func (m *Machine) deleteTunnel(name string) {
	m.queue = slices.DeleteFunc(m.queue, func(w *wish) bool { return w.conf.Name == name })
	for _, x := range m.quicks {
		if x.wish != nil && x.wish.conf.Name == name {
			x.unwanted = true
		}
	}
	for _, c := range slices.Clone(m.children) {
		if c.conf.Name == name && c.state == childLive {
			m.notice(step.ChildDown, name, nil)
			m.deleteChild(c)
		}
	}
}

// installFailed deletes the pair that the data plane refused.
func (m *Machine) installFailed(e step.InstallFailed) {
	c := m.byID(e.ID)
	if c == nil || c.state == childGone {
		return
	}
	if e.ID.Direction == ipsec.Out {
		c.outUp = false
	} else {
		c.inUp = false
	}
	if c.state == childLive {
		m.notice(step.ChildDown, c.conf.Name, &failure{code: fault.CodeInstall, err: e.Err})
	}
	m.deleteChild(c)
}

// expired acts on the lifetime of an SA: the soft limit asks for a new pair, and at
// the hard limit the data plane has removed the SA.
func (m *Machine) expired(e step.Expired) {
	c := m.byID(e.ID)
	if c == nil {
		return
	}
	if !e.Hard {
		c.aged = true
		if c.state == childLive {
			m.rekey(c)
		}
		return
	}
	if e.ID.Direction == ipsec.Out {
		c.outUp = false
	} else {
		c.inUp = false
	}
	if c.state == childLive {
		m.notice(step.ChildDown, c.conf.Name, &failure{code: fault.CodeLifetime, err: errLifetime})
	}
	if c.state != childGone {
		m.deleteChild(c)
	}
}

// rekey asks for a new pair in place of c, once.
func (m *Machine) rekey(c *child) {
	if c.rekeying {
		return
	}
	c.rekeying = true
	m.enqueue(&wish{conf: c.conf, local: c.localTS[0], remote: c.remoteTS[0], old: c})
}
