package kernel

import (
	"errors"
	"fmt"

	"caponier/internal/dataplane/kernel/xfrm"
)

// What is ours in the kernel is known by numbers there, which mean nothing else
// and are read back with it: a policy's index, and a state's sequence number of
// the acquire that asked for it. Ours begin with the twelve bits of mark; the
// kernel counts its own from 0, so that it comes there after 3·10⁸ policies.
const (
	ownMark uint32 = 0xca900000
	ownMask uint32 = 0xfff00000

	indexShift  = 3 // below are the directions
	maxPolicies = int((^ownMask + 1) >> indexShift)
)

func isOwn(number uint32) bool { return number&ownMask == ownMark }

// marks gives out numbers.
type marks struct {
	state   uint32
	policy  uint32
	indexes map[uint32]bool // in use, without direction
}

// nextState numbers a state. Numbers come again after a million states, which
// does no harm: they name nothing.
func (m *marks) nextState() uint32 {
	m.state++
	return ownMark | m.state&^ownMask
}

// nextPolicy numbers a policy.
func (m *marks) nextPolicy(dir uint8) (uint32, error) {
	if m.indexes == nil {
		m.indexes = make(map[uint32]bool)
	}
	if len(m.indexes) >= maxPolicies {
		return 0, fmt.Errorf("the kernel's plane has room for %d policies of the kernel: use prefixes instead of ranges, and fewer of them", maxPolicies)
	}
	for {
		m.policy = (m.policy + 1) % uint32(maxPolicies)
		if !m.indexes[m.policy] {
			m.indexes[m.policy] = true
			return ownMark | m.policy<<indexShift | uint32(dir), nil
		}
	}
}

func (m *marks) take(index uint32) {
	if m.indexes == nil {
		m.indexes = make(map[uint32]bool)
	}
	m.indexes[index&^ownMask>>indexShift] = true
}

func (m *marks) release(index uint32) { delete(m.indexes, index&^ownMask>>indexShift) }

// adopt takes over the policies of an earlier run, which go on protecting and
// blocking until SetPolicies, and removes its states. Larval states have no mark:
// they are known by the reqid of the policies that asked for them.
func (p *Plane) adopt() error {
	bad, err := p.req.policies(func(x *xfrm.Policy) {
		if isOwn(x.Index) {
			p.installed[slotOf(x)] = x
			p.marks.take(x.Index)
		}
	})
	if err != nil {
		return err
	}
	p.unreadable("policy", bad)
	asking := make(map[uint32]bool)
	for _, x := range p.installed {
		for _, t := range x.Templates {
			asking[t.ReqID] = true
		}
	}
	var stale []xfrm.StateID
	var waiting []larval
	bad, err = p.req.states(func(s *xfrm.State) {
		switch {
		case s.ID.SPI == 0 && asking[s.ReqID]:
			waiting = append(waiting, larvalOf(s))
		case isOwn(s.Seq):
			stale = append(stale, s.ID)
		}
	})
	if err != nil {
		return err
	}
	p.unreadable("state", bad)
	var errs []error
	for _, id := range stale {
		errs = append(errs, p.req.deleteState(id))
	}
	for _, l := range waiting {
		errs = append(errs, p.req.removeLarval(l))
	}
	if len(stale)+len(p.installed) > 0 {
		p.log.Info("leftovers of an earlier run", "states-removed", len(stale), "policies-kept-for-now", len(p.installed))
	}
	return errors.Join(errs...)
}
