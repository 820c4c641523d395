package v1

import (
	"cmp"
	"slices"
	"strings"
	"time"

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
// Where the peer rekeys, only Begin is missing. Its responder does not know whether
// message 6 has arrived: the older IKE SA yields when something authentic has come
// under the new one, after a R-U-THERE at the latest.
//
// Where both ends rekey at once, and messages are lost and late, the ends may differ
// on which IKE SA, or which pair of IPsec SAs, is the newer one. Nothing in the
// protocol settles this, and a Delete is neither answered nor in order. So nothing
// that is replaced goes at once, and of the two ends one decides: see patience. The
// other one follows its Deletes, back to what it had taken for replaced where need
// be.

// succession is what a Machine knows of those before it and after it.
type succession struct {
	proven   bool           // the peer has this IKE SA up
	courted  bool           // a newer one is there, which is not proven
	heir     step.Machine   // has taken over
	elders   []step.Machine // have yielded, the last one first
	rekeying bool           // Begin was asked for
	farewell *timed         // of one that is replaced
}

// estate is what is handed over.
type estate struct {
	elders   []step.Machine // with the one that leaves it
	children []*child
	wishes   []*wish
}

// maxElders bounds the older IKE SAs that are remembered.
const maxElders = 4

// decides reports whether this side has the say on which of two SAs for the same
// goes: the end with the greater identity, which both ends see alike.
func (m *Machine) decides() bool {
	return cmp.Or(cmp.Compare(m.localID.Kind, m.remoteID.Kind), strings.Compare(m.localID.Data, m.remoteID.Data)) > 0
}

// patience is how long this side waits before it deletes what is replaced: for a
// short time where it decides, longer where it has replaced it itself, and otherwise
// until it has to believe that the peer has forgotten.
func (m *Machine) patience(mine bool) time.Duration {
	switch {
	case m.decides():
		return graceTime
	case mine:
		return graceTime + courtesy
	default:
		return replacedLimit
	}
}

// prove notes that the peer has this IKE SA up.
func (m *Machine) prove() {
	if m.proven {
		return
	}
	m.proven = true
	if m.state == established {
		m.act(step.TakeOver{})
	}
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

// upBefore reports whether m was up before another machine, which is up.
func (m *Machine) upBefore(to step.Machine) bool {
	o, ok := to.(*Machine)
	return ok && cmp.Or(m.established.Compare(o.established), cmp.Compare(m.LocalSPI(), o.LocalSPI())) < 0
}

// yield hands everything over to a newer IKE SA.
func (m *Machine) yield(e step.Yield) {
	switch {
	case m.state == established && !m.upBefore(e.To): // so that none yields in a circle
		return
	case m.state == established && e.Unproven:
		m.courted = true
		m.act(step.Tell{To: e.To, Event: step.CheckLiveness{}})
		return
	case m.state == established || m.state == deleted:
	default:
		return
	}
	over := m.state == deleted
	m.heir, m.state, m.courted = e.To, replaced, false
	m.notice(step.IKERekeyed, "", nil)
	left := estate{elders: append([]step.Machine{m}, m.elders...), wishes: m.queue}
	m.queue, m.elders = nil, nil
	for _, c := range slices.Clone(m.children) {
		if m.negotiates(c) {
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
	m.farewell = m.after(m.patience(e.To.Initiator()), func(m *Machine) { m.takeLeave(reminders) })
}

// takeLeave deletes an IKE SA that is replaced, when no exchange under it may need
// another message, and says so again and again before it forgets its keys.
func (m *Machine) takeLeave(again int) {
	if m.busy() {
		again++
	} else {
		m.deleteAll()
	}
	if again == 0 {
		m.becomeGone()
		return
	}
	m.farewell = m.after(reminderTime, func(m *Machine) { m.takeLeave(again - 1) })
}

// callBack asks those that have yielded to this one to take over again.
func (m *Machine) callBack(elders []step.Machine) {
	if len(elders) > 0 {
		m.act(step.Tell{To: elders[0], Event: step.Restore{Others: elders[1:]}})
	}
}

// restore takes over again: the peer has deleted the IKE SA that this one has yielded
// to, so that for the peer it is this one that stays.
func (m *Machine) restore(e step.Restore) {
	if m.state != replaced {
		m.callBack(e.Others)
		return
	}
	m.timers.Stop(m.farewell)
	m.state, m.heir, m.rekeying, m.heard = established, nil, false, m.now
	if !m.rekeyAt.IsZero() && !m.rekeyAt.After(m.now) {
		m.after(retryDelay, (*Machine).beginSuccessor)
	}
	if m.conn.DPD > 0 {
		m.after(m.conn.DPD, (*Machine).watchPeer)
	}
	m.act(step.Report{What: step.Notice{Kind: step.IKEUp}})
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
	m.elders = append(left.elders, m.elders...)
	m.elders = m.elders[:min(len(m.elders), maxElders)]
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
		for _, own := range m.siblings(c) {
			if c.state == childLive && own.hops < c.hops {
				m.supersede(c, own)
			}
		}
	}
	for _, w := range left.wishes {
		m.enqueue(w)
	}
}

// disinherit passes on what is left to a Machine that is gone, or removes it.
func (m *Machine) disinherit(e step.Inherit) {
	left, ok := e.Estate.(estate)
	switch {
	case !ok:
	case m.heir != nil:
		m.bequeath(left)
	default:
		m.children = left.children
		m.removeChildren()
	}
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
