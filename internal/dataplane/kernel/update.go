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
// updates the state in place. Addresses are part of its name, or cannot be
// changed: it is made anew with the numbers that the old one had in the end. In
// between, which is for some hundred microseconds, the kernel keeps outbound
// packets as it does where there is no SA yet, and drops inbound ones. ADR 7 says
// why it goes in this order, and why XFRM_MSG_MIGRATE is not the way.
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
	before, err := stateOf(&e.sa)
	if err != nil {
		return err
	}
	after, err := stateOf(&moved)
	if err != nil {
		return err
	}
	before.Seq, after.Seq = e.seq, e.seq
	if moved.Encap && e.sa.Encap && moved.Local.Addr() == e.sa.Local.Addr() && moved.Remote.Addr() == e.sa.Remote.Addr() {
		if err := p.req.updateState(&after); err != nil {
			return err
		}
		p.rename(e, moved, after.ID)
		return nil
	}
	if err := p.lead(e, &moved); err != nil {
		return err
	}
	err = p.renew(e, &before, &after)
	e.next = nil
	if err != nil {
		return errors.Join(err, p.serve(&e.sa))
	}
	p.rename(e, moved, after.ID)
	if err := p.serve(&moved); err != nil { // they lead to it already
		p.log.Warn("policies do not name the SA that has moved by its SPI: of several the kernel takes the newest", "spi", moved.SPI, "error", err)
	}
	return nil
}

// lead has the policies of an outbound SA lead to where it moves, while its state
// still carries what has met them before: a policy that is replaced while packets
// wait at it loses some. It names no SPI, or the larval state of what waits would
// have the name that the SA is to have.
func (p *Plane) lead(e *entry, moved *ipsec.SA) error {
	next := *moved
	next.SPI = 0
	e.next = &next
	err := p.serve(&next)
	if err != nil {
		e.next = nil
		err = errors.Join(err, p.serve(&e.sa))
	}
	return err
}

// renew replaces a state by one that goes on with its numbers.
func (p *Plane) renew(e *entry, before, after *xfrm.State) error {
	last, err := p.req.takeState(e.state, e.seq)
	if errors.Is(err, errNumbersLost) {
		p.gone(e)
	}
	if err != nil {
		return err
	}
	defer last.Wipe()
	for _, s := range []*xfrm.State{before, after} {
		s.Replay, s.Usage, s.KeepUsage = last.Replay, last.Usage, true
	}
	if err := p.req.addState(after); err != nil {
		return errors.Join(err, p.putBack(e, before))
	}
	return nil
}

// putBack brings the old state again. Where that fails too, the SA is no more.
func (p *Plane) putBack(e *entry, before *xfrm.State) error {
	err := p.req.addState(before)
	if err != nil {
		p.gone(e)
	}
	return err
}

// serve brings the policies of an outbound SA in line with it.
func (p *Plane) serve(sa *ipsec.SA) error {
	if sa.Direction == ipsec.In {
		return nil
	}
	return p.serveLocked(sa.ReqID)
}

// rename puts an SA into the tables under its new name.
func (p *Plane) rename(e *entry, moved ipsec.SA, state xfrm.StateID) {
	delete(p.sas, e.sa.ID())
	delete(p.byState, e.state)
	e.sa, e.state, e.moved = moved, state, netip.AddrPort{}
	p.sas[moved.ID()], p.byState[state] = e, e
}
