package v1

import (
	"slices"

	"caponier/internal/ike/step"
)

// In IKEv1 an IKE SA is rekeyed by setting up another one, by either side. Here
// that is another Machine: the daemon, when it hears that a machine is up, tells the
// older ones of the same connection between the same identities to yield to it, and
// they hand over what they have: a message from one machine to another, so that
// each stays with its owner.
//
//	old: Begin ──▶ new: main mode … IKEUp ──▶ daemon: Yield ──▶ old: Inherit ──▶ new
//
// Where the peer rekeys, only Begin is missing.

// succession is what a Machine knows of the one that replaces it.
type succession struct {
	heir     step.Machine // has taken over
	rekeying bool         // Begin was asked for
}

// estate is what is handed over.
type estate struct {
	children []*child
	wishes   []*wish
}

// beginSuccessor starts an IKE SA in place of this one.
func (m *Machine) beginSuccessor() {
	if m.state != established || m.rekeying {
		return
	}
	m.rekeying = true
	next := NewInitiator(m.env, m.conn, m.local, m.remote)
	next.predecessor = m
	m.act(step.Begin{Machine: next, Event: step.Initiate{Known: true}})
}

// successorFailed tries again while the IKE SA lives.
func (m *Machine) successorFailed(e step.SuccessorFailed) {
	if m.state != established {
		return
	}
	m.rekeying = false
	m.notice(step.IKERekeyFailed, "", &failure{code: e.Code, err: e.Err})
	m.after(retryDelay, (*Machine).beginSuccessor)
}

// yield hands everything over to a newer IKE SA.
func (m *Machine) yield(to step.Machine) {
	switch m.state {
	case established, deleted:
	default:
		return
	}
	if newer, ok := to.(*Machine); ok && m.state == established && m.initiator != newer.initiator &&
		newer.begun.Before(m.established) && m.spiI > newer.spiI {
		// They crossed. At both ends the one with the lower cookie of its initiator
		// yields, whichever was up first.
		m.act(step.Tell{To: to, Event: step.Yield{To: m}})
		return
	}
	over := m.state == deleted
	m.heir, m.state = to, replaced
	m.notice(step.IKERekeyed, "", nil)
	left := estate{wishes: m.queue}
	m.queue = nil
	for _, c := range slices.Clone(m.children) {
		if c.held != nil { // its exchange is under way
			continue
		}
		left.children = append(left.children, c)
		m.children = slices.DeleteFunc(m.children, func(x *child) bool { return x == c })
	}
	m.bequeath(left)
	if over {
		m.becomeGone()
		return
	}
	wait := replacedLimit
	if to.Initiator() {
		wait = graceTime
	}
	m.after(wait, func(m *Machine) { m.close(nil) })
}

func (m *Machine) bequeath(left estate) {
	m.act(step.Tell{To: m.heir, Event: step.Inherit{Estate: left}})
}

// inherit takes over what an older IKE SA leaves.
func (m *Machine) inherit(e step.Inherit) {
	left, ok := e.Estate.(estate)
	if !ok {
		return
	}
	if m.heir != nil {
		m.bequeath(left)
		return
	}
	for _, c := range left.children {
		c.hops++
		if moved := c.local != m.local || c.remote != m.remote; moved && c.encap == m.nat.Encap {
			for _, id := range c.installed(c.remote.Addr()) {
				m.act(step.MoveSA{ID: id, Local: m.local, Remote: m.remote, Encap: c.encap})
			}
			c.local, c.remote = m.local, m.remote
		}
		m.children = append(m.children, c)
		m.watchChild(c)
		if c.fresh {
			m.settle(c)
			continue
		}
		for _, own := range m.siblings(c.conf, c.localTS, c.remoteTS) {
			if c.state == childLive && own.hops < c.hops {
				m.supersede(c, own)
			}
		}
	}
	for _, w := range left.wishes {
		m.enqueue(w)
	}
}

// disinherit removes what is left to a Machine that is gone.
func (m *Machine) disinherit(e step.Inherit) []step.Action {
	if left, ok := e.Estate.(estate); ok {
		m.children = left.children
		m.removeChildren()
	}
	out := m.actions
	m.actions = nil
	return out
}

// forgetInherited removes what earlier IKE SAs made: the peer says that it has no
// other SAs than those of this one (RFC 2407, Section 4.6.3.3).
func (m *Machine) forgetInherited() {
	if m.contact {
		return // only once: a message could be played again
	}
	m.contact = true
	for _, c := range slices.Clone(m.children) {
		if c.hops > 0 {
			if c.state == childLive {
				m.notice(step.ChildDown, c.conf.Name, nil)
			}
			m.forget(c)
		}
	}
}
