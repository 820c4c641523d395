package kernel

import (
	"errors"
	"fmt"
	"net/netip"

	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
)

// UpdateSA implements dataplane.Backend. Where only ports change, the kernel
// updates the state in place; addresses are part of its name, so that it is
// made anew with the numbers of the old one.
func (p *Plane) UpdateSA(id ipsec.SAID, u dataplane.AddressUpdate) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.sas[id]
	if e == nil {
		return fmt.Errorf("update SA %s %s: %w", id.Direction, id.SPI, dataplane.ErrNotFound)
	}
	if err := p.move(e, u); err != nil {
		return fmt.Errorf("update SA %s %s: %w", id.Direction, id.SPI, err)
	}
	return nil
}

func (p *Plane) move(e *entry, u dataplane.AddressUpdate) error {
	moved := e.sa
	moved.Local, moved.Remote, moved.Encap = u.Local, u.Remote, u.Encap
	if other := p.sas[moved.ID()]; other != nil && other != e {
		return dataplane.ErrExists
	}
	s, err := stateOf(&moved)
	if err != nil {
		return err
	}
	s.Seq = e.seq
	if moved.Encap && e.sa.Encap && moved.Local.Addr() == e.sa.Local.Addr() && moved.Remote.Addr() == e.sa.Remote.Addr() {
		if err := p.req.updateState(&s); err != nil {
			return err
		}
		p.rename(e, moved, s.ID)
		return nil
	}
	old, err := p.req.state(e.state)
	if err != nil {
		return err
	}
	defer old.Wipe()
	s.Replay, s.Usage, s.KeepUsage = old.Replay, old.Usage, true
	if s.ID == e.state {
		if err := p.replace(e, &s); err != nil {
			return err
		}
		p.rename(e, moved, s.ID)
		return p.serve(&moved) // by its new address
	}
	if err := p.req.addState(&s); err != nil {
		return err
	}
	return p.switchOver(e, moved, s.ID)
}

// serve brings the policies of an outbound SA in line with it.
func (p *Plane) serve(sa *ipsec.SA) error {
	if sa.Direction == ipsec.In {
		return nil
	}
	return p.serveLocked(sa.ReqID)
}

// replace makes a state anew under the same name: the old one has to go first.
func (p *Plane) replace(e *entry, s *xfrm.State) error {
	before, err := stateOf(&e.sa)
	if err != nil {
		return err
	}
	before.Seq, before.Replay, before.Usage, before.KeepUsage = e.seq, s.Replay, s.Usage, true
	if err := p.req.deleteState(e.state); err != nil {
		return err
	}
	failed := p.req.addState(s)
	if failed == nil {
		return nil
	}
	if err := p.req.addState(&before); err != nil {
		p.gone(e)
		return errors.Join(failed, err)
	}
	return failed
}

// switchOver brings the policies to the new state, then removes the old one.
func (p *Plane) switchOver(e *entry, moved ipsec.SA, to xfrm.StateID) error {
	before, from := e.sa, e.state
	p.rename(e, moved, to)
	if err := p.serve(&moved); err != nil {
		p.rename(e, before, from)
		return errors.Join(err, p.req.deleteState(to))
	}
	return p.req.deleteState(from)
}

// rename puts an SA into the tables under its new name.
func (p *Plane) rename(e *entry, moved ipsec.SA, state xfrm.StateID) {
	delete(p.sas, e.sa.ID())
	delete(p.byState, e.state)
	e.sa, e.state, e.moved = moved, state, netip.AddrPort{}
	p.sas[moved.ID()], p.byState[state] = e, e
}
