package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
	"caponier/internal/spd"
)

// discoveryName stands for the policies that are nobody's: no name of the SPD is
// empty.
const discoveryName = ""

// Policies implements dataplane.Backend.
func (p *Plane) Policies() []ipsec.Policy {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.policies)
}

// SetPolicies implements dataplane.Backend. It fails with a ForeignError, and
// has changed nothing, where somebody else's policies are in the way.
func (p *Plane) SetPolicies(policies []ipsec.Policy) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return dataplane.ErrClosed
	}
	first := p.policies == nil
	if err := p.setLocked(slices.Clone(policies)); err != nil {
		return fmt.Errorf("set policies: %w", err)
	}
	if first && len(p.installed) > 0 {
		// The kernel asks again for a packet that it holds since an earlier run,
		// maybe before anybody knew the policy: see adopt.
		if _, err := p.req.states(func(s *xfrm.State) {
			if s.ID.SPI == 0 {
				p.reacquire(s)
			}
		}); err != nil {
			p.log.Debug("what waits for SAs is not read", "error", err)
		}
	}
	return nil
}

// CheckPolicies fails with a ForeignError where somebody else's policies would
// be in the way of these. It changes nothing.
func CheckPolicies(policies []ipsec.Policy) error {
	b, _, err := compile(policies, func(uint32) []*ipsec.SA { return nil })
	if err != nil {
		return err
	}
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.lookForOthers(b)
	return err
}

// compile makes the book of an SPD.
func compile(policies []ipsec.Policy, serving func(reqID uint32) []*ipsec.SA) (*book, map[int32]uint32, error) {
	if _, err := spd.Compile(policies); err != nil { // it checks them
		return nil, nil, err
	}
	levels, err := levels(policies)
	if err != nil {
		return nil, nil, err
	}
	b := newBook()
	for i := range policies {
		p := &policies[i]
		claims, err := claimsOf(p, i, levels[p.Priority], serving(p.ReqID))
		if err != nil {
			return nil, nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
		b.set(p.Name, claims)
	}
	b.set(discoveryName, discovery(policies))
	return b, levels, nil
}

func (p *Plane) setLocked(policies []ipsec.Policy) error {
	b, levels, err := compile(policies, p.serving)
	if err != nil {
		return err
	}
	bad, err := p.req.lookForOthers(b)
	p.unreadable("policy", bad)
	if err != nil {
		return err
	}
	touched := make(map[slot]bool)
	for s := range b.slots {
		touched[s] = true
	}
	for s := range p.installed {
		touched[s] = true
	}
	if err := p.apply(b, touched); err != nil {
		return err
	}
	p.book, p.policies, p.levels = b, policies, levels
	return nil
}

// serving are the outbound SAs of a reqid, the newest first.
func (p *Plane) serving(reqID uint32) []*ipsec.SA {
	if reqID == 0 {
		return nil
	}
	var entries []*entry
	for _, e := range p.sas {
		if e.sa.ReqID == reqID && e.sa.Direction == ipsec.Out {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(b.order, a.order) })
	out := make([]*ipsec.SA, len(entries))
	for i, e := range entries {
		if out[i] = &e.sa; e.next != nil {
			out[i] = e.next
		}
	}
	return out
}

// serveLocked brings the policies of a reqid in line with its SAs.
func (p *Plane) serveLocked(reqID uint32) error {
	select {
	case p.changed <- struct{}{}:
	default: // it is known already
	}
	var errs []error
	for i := range p.policies {
		policy := &p.policies[i]
		if policy.Action != ipsec.Protect || policy.ReqID != reqID {
			continue
		}
		claims, err := claimsOf(policy, i, p.levels[policy.Priority], p.serving(reqID))
		if err != nil {
			return fmt.Errorf("policy %q: %w", policy.Name, err)
		}
		before := p.book.set(policy.Name, claims)
		touched := make(map[slot]bool)
		for _, c := range slices.Concat(before, claims) {
			touched[c.slot] = true
		}
		if err := p.apply(p.book, touched); err != nil {
			p.book.set(policy.Name, before)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// change is one step of apply, and how to take it back.
type change struct {
	slot        slot
	before, now *xfrm.Policy // nil: none
}

// apply makes the slots as the book says. What is new comes first, what goes
// last. Where a step fails, those before it are taken back.
func (p *Plane) apply(b *book, touched map[slot]bool) error {
	var set, remove []change
	for s := range touched {
		have, best := p.installed[s], b.best(s)
		switch {
		case best == nil && have == nil:
		case best == nil:
			remove = append(remove, change{s, have, nil})
		case have == nil || !samePolicy(have, &best.want):
			want := best.want
			set = append(set, change{s, have, &want})
		}
	}
	// Among policies of one priority the kernel takes the first: the order of the
	// configuration.
	slices.SortFunc(set, func(x, y change) int { return b.best(x.slot).before(b.best(y.slot)) })
	steps := append(set, remove...)
	for i := range steps {
		if err := p.step(&steps[i]); err != nil {
			var errs []error
			for _, done := range slices.Backward(steps[:i]) {
				errs = append(errs, p.step(&change{done.slot, done.now, done.before}))
			}
			name := ""
			if c := b.best(steps[i].slot); c != nil {
				name = c.name
			}
			return errors.Join(append([]error{explainPolicy(err, name, &steps[i].slot)}, errs...)...)
		}
	}
	return nil
}

// step carries out one change and keeps the tables in line.
func (p *Plane) step(c *change) error {
	switch {
	case c.now == nil && c.before == nil:
		return nil
	case c.now == nil:
		if err := p.req.deletePolicy(&c.slot); err != nil {
			return err
		}
		p.marks.release(c.before.Index)
		delete(p.installed, c.slot)
	case c.before == nil:
		index, err := p.marks.nextPolicy(c.slot.dir)
		if err != nil {
			return err
		}
		c.now.Index = index
		if err := p.req.addPolicy(c.now); err != nil {
			p.marks.release(index)
			return err
		}
		p.installed[c.slot] = c.now
	default:
		c.now.Index = c.before.Index
		if err := p.req.updatePolicy(c.now); err != nil {
			return err
		}
		p.installed[c.slot] = c.now
	}
	return nil
}

func explainPolicy(err error, name string, s *slot) error {
	switch {
	case errors.Is(err, unix.EEXIST):
		return &ForeignError{Policy: name, Theirs: s.String(), Same: true}
	default:
		return fmt.Errorf("policy %q (%s): the kernel refuses it: %w", name, s, needsAdmin(spoken(err)))
	}
}

// lookForOthers fails where a policy that is not ours would decide what one of
// ours is there for.
func (c *conn) lookForOthers(b *book) (bad int, err error) {
	var others []*xfrm.Policy
	bad, err = c.policies(func(x *xfrm.Policy) {
		const socketDir = 3 // from there on: policies of sockets, for nobody else
		if !isOwn(x.Index) && x.Dir < socketDir {
			others = append(others, x)
		}
	})
	if err != nil || len(others) == 0 {
		return bad, err
	}
	for s, list := range b.slots {
		ours := list[0]
		for _, x := range others {
			same := slotOf(x) == s
			if same || x.Priority <= ours.want.Priority && overlaps(x, &ours.want) {
				theirs := slotOf(x)
				return bad, &ForeignError{Policy: ours.name, Theirs: theirs.String(), Same: same, Priority: x.Priority}
			}
		}
	}
	return bad, nil
}
