package v1

import (
	"encoding/binary"
	"slices"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v1/proposal"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

const (
	maxQueue = 256 // wishes that wait
	maxPairs = 32  // pairs of selectors of a tunnel that is set up without a packet
)

// wish is a pair of IPsec SAs that this side wants.
type wish struct {
	conf          *Child
	local, remote ipsec.Selector
	old           *child // what it is to replace, or nil
}

// wishes are the pairs of selectors of a tunnel, of which quick mode negotiates one
// at a time: the one for a packet, or all.
func (m *Machine) wishes(c *Child, flow *ipsec.Flow) []*wish {
	local, remote := c.Selectors(m.local.Addr(), m.remote.Addr())
	if flow != nil {
		local, remote = rules.Pair(local, remote, flow)
	}
	var out []*wish
	for _, l := range local {
		for _, r := range remote {
			if len(out) < maxPairs {
				out = append(out, &wish{conf: c, local: l, remote: r})
			}
		}
	}
	if len(out) == 0 {
		m.notice(step.ChildFailed, c.Name, failf(isakmp.InvalidIDInfo, "the tunnel has no traffic between %s and %s", m.local.Addr(), m.remote.Addr()))
	}
	return out
}

// wishFor asks for what is missing of a tunnel.
func (m *Machine) wishFor(c *Child, flow *ipsec.Flow) {
	for _, w := range m.wishes(c, flow) {
		if m.findChild(func(x *child) bool {
			return x.state == childLive && x.conf.Name == c.Name && x.localTS[0] == w.local && x.remoteTS[0] == w.remote
		}) == nil {
			m.enqueue(w)
		}
	}
}

func (w *wish) same(o *wish) bool {
	return w.conf.Name == o.conf.Name && w.local == o.local && w.remote == o.remote
}

// enqueue adds a wish that is not there yet.
func (m *Machine) enqueue(w *wish) {
	if slices.ContainsFunc(m.queue, w.same) {
		return
	}
	for _, x := range m.quicks {
		if x.wish != nil && !x.over && x.wish.same(w) {
			return
		}
	}
	if len(m.queue) == maxQueue {
		m.wishFailed(w, &failure{code: fault.CodeQueueFull, err: errQueueFull})
		return
	}
	m.queue = append(m.queue, w)
}

// pump starts the exchanges that may start. One for traffic for which an exchange of
// the peer is under way has to wait: perhaps it is not wanted any more then.
func (m *Machine) pump() {
	if m.state != established {
		return
	}
	under := 0
	for _, x := range m.quicks {
		if x.initiator && !x.over {
			under++
		}
	}
	waiting := m.queue
	m.queue = nil
	for _, w := range waiting {
		live := m.siblings(&child{conf: w.conf, localTS: []ipsec.Selector{w.local}, remoteTS: []ipsec.Selector{w.remote}})
		switch {
		case w.old != nil && w.old.state != childLive || w.old == nil && len(live) > 0:
			if w.old != nil {
				w.old.rekeying = false
			}
		case under >= maxOwnQuicks || m.peerBegan(w):
			m.queue = append(m.queue, w)
		default:
			under++
			if f := m.startQuick(w); f != nil {
				m.wishFailed(w, f)
			}
		}
	}
}

// peerBegan reports whether the peer is setting up what w wants.
func (m *Machine) peerBegan(w *wish) bool {
	for _, x := range m.quicks {
		if c := x.child; c != nil && !x.over && c.conf.Name == w.conf.Name && c.localTS[0] == w.local && c.remoteTS[0] == w.remote {
			return true
		}
	}
	return false
}

// unanswered are the wishes of exchanges that are under way.
func (m *Machine) unanswered() []*wish {
	var out []*wish
	for _, x := range m.quicks {
		if x.initiator && !x.over && !x.unwanted {
			out = append(out, x.wish)
		}
	}
	return out
}

// wishFailed reports that a pair did not come about, and tries again to replace
// one that lives.
func (m *Machine) wishFailed(w *wish, f *failure) {
	if w.old != nil {
		w.old.rekeying = false
		if w.old.state != childLive {
			return // the peer has replaced it meanwhile
		}
		if m.heir != nil {
			m.bequeath(estate{wishes: []*wish{w}})
			return
		}
		m.after(retryDelay, func(m *Machine) {
			if w.old.state == childLive && slices.Contains(m.children, w.old) {
				m.rekey(w.old)
			}
		})
	}
	m.notice(step.ChildFailed, w.conf.Name, f)
}

// findTunnel finds the tunnel for what the peer asks for. Quick mode does not
// narrow: what is asked for must be within what is configured.
func (m *Machine) findTunnel(c content) (*child, proposal.Child, *failure) {
	local, remote := rules.OrHost(nil, m.local.Addr())[0], rules.OrHost(nil, m.remote.Addr())[0]
	if len(c.ids) == 2 {
		var err error
		if remote, err = selectorOf(c.ids[0]); err == nil {
			local, err = selectorOf(c.ids[1])
		}
		if err != nil {
			return nil, proposal.Child{}, failf(isakmp.InvalidIDInfo, "the peer's identities of quick mode name no traffic: %w", err)
		}
	}
	var met *Child
	for _, t := range m.conn.Children {
		ours, theirs := t.Selectors(m.local.Addr(), m.remote.Addr())
		if !rules.Covered(local, ours) || !rules.Covered(remote, theirs) {
			continue
		}
		met = t
		if chosen, ok := m.terms().ChooseChild(t, c.sa); ok {
			return &child{
				conf: t, chosen: chosen.Proposal, out: ipsec.SPI(binary.BigEndian.Uint32(chosen.Reply.SPI)),
				localTS: []ipsec.Selector{local}, remoteTS: []ipsec.Selector{remote},
				lifetime: m.limits(t.Lifetime, chosen.Life),
			}, chosen, nil
		}
	}
	if met != nil {
		own, _ := m.terms().OfferChild(met, 0)
		e := offers(isakmp.QuickMode, own, c.sa)
		e.LocalTS, e.RemoteTS = []ipsec.Selector{local}, []ipsec.Selector{remote}
		return nil, proposal.Child{}, failf(isakmp.NoProposalChosen, "none of the peer's proposals is acceptable for %s: %s", met.Name, proposal.Describe(c.sa)).
			showing(e)
	}
	e := of(isakmp.QuickMode)
	e.LocalTS, e.RemoteTS = []ipsec.Selector{local}, []ipsec.Selector{remote}
	return nil, proposal.Child{}, failf(isakmp.InvalidIDInfo, "no tunnel has the traffic that the peer asks for: %s here, %s there", local, remote).showing(e)
}

func selectorOf(body []byte) (ipsec.Selector, error) {
	id, err := isakmp.ParseID(body)
	if err != nil {
		return ipsec.Selector{}, err
	}
	return id.Selector()
}
