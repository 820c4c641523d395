package dataplane

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"caponier/internal/ipsec"
)

// fakeEvents is how many events a Fake keeps for its reader.
const fakeEvents = 1024

// Fake is a Backend that carries nothing and remembers everything, for tests of
// what speaks to one. Its SPIs are the same in every run.
type Fake struct {
	mu       sync.Mutex
	next     uint64
	reserved map[fakeSPI]bool
	sas      []fakeSA
	policies []ipsec.Policy
	calls    []string
	refusals []error
	events   chan ipsec.Event
	closed   bool
}

type fakeSPI struct {
	protocol ipsec.Protocol
	spi      ipsec.SPI
}

type fakeSA struct {
	sa    ipsec.SA
	added time.Time
}

var _ Backend = (*Fake)(nil)

// NewFake makes an empty Fake.
func NewFake() *Fake {
	return &Fake{reserved: make(map[fakeSPI]bool), events: make(chan ipsec.Event, fakeEvents)}
}

// Calls returns what was done so far, a line for each successful call, such as
// "add in c0ffee01" or "policies 2".
func (f *Fake) Calls() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// Installed returns copies of the SAs, with copies of their keys, in the order
// in which they were added.
func (f *Fake) Installed() []ipsec.SA {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]ipsec.SA, len(f.sas))
	for i, x := range f.sas {
		out[i] = x.sa
		out[i].EncrKey = x.sa.EncrKey.Clone()
		out[i].IntegKey = x.sa.IntegKey.Clone()
	}
	return out
}

// Raise makes the Fake say e, as a data plane would. The SA of a hard expiry is
// removed. It panics if nobody has read the last 1,024 events.
func (f *Fake) Raise(e ipsec.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x, ok := e.(ipsec.Expire); ok && x.Hard {
		f.remove(x.ID)
	}
	select {
	case f.events <- e:
	default:
		panic("dataplane: nobody reads the events of the fake")
	}
}

// Refuse makes the next AddSA fail with err.
func (f *Fake) Refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusals = append(f.refusals, err)
}

func (f *Fake) record(format string, args ...any) {
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

// AllocateSPI implements Backend.
func (f *Fake) AllocateSPI(p ipsec.Protocol) (ipsec.SPI, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return 0, ErrClosed
	}
	for {
		f.next++
		// Odd multipliers visit every value, in an order that is not sequential.
		spi := ipsec.SPI(uint32(f.next * 2654435761))
		if spi < ipsec.MinSPI || f.reserved[fakeSPI{p, spi}] || f.index(ipsec.SAID{Direction: ipsec.In, Protocol: p, SPI: spi}) >= 0 {
			continue
		}
		f.reserved[fakeSPI{p, spi}] = true
		f.record("allocate %s", spi)
		return spi, nil
	}
}

// ReleaseSPI implements Backend.
func (f *Fake) ReleaseSPI(p ipsec.Protocol, spi ipsec.SPI) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reserved[fakeSPI{p, spi}] {
		delete(f.reserved, fakeSPI{p, spi})
		f.record("release %s", spi)
	}
}

// Reserved returns the SPIs that are allocated but have no SA.
func (f *Fake) Reserved() []ipsec.SPI {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []ipsec.SPI
	for x := range maps.Keys(f.reserved) {
		out = append(out, x.spi)
	}
	slices.Sort(out)
	return out
}

// AddSA implements Backend.
func (f *Fake) AddSA(sa ipsec.SA) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := sa.ID()
	switch {
	case f.closed:
		return ErrClosed
	case len(f.refusals) > 0:
		err := f.refusals[0]
		f.refusals = f.refusals[1:]
		return fmt.Errorf("add SA %s %s: %w", id.Direction, id.SPI, err)
	case f.index(id) >= 0:
		return fmt.Errorf("add SA %s %s: %w", id.Direction, id.SPI, ErrExists)
	case !carriable(&sa):
		return fmt.Errorf("add SA %s %s: %w", id.Direction, id.SPI, ErrTransform)
	case sa.Protocol == ipsec.AH && sa.Encap:
		return fmt.Errorf("add SA %s %s: %w", id.Direction, id.SPI, ErrEncap)
	case len(sa.LocalTS) == 0 || len(sa.RemoteTS) == 0:
		return errors.New("add SA: no traffic selectors")
	}
	if sa.Direction == ipsec.In {
		delete(f.reserved, fakeSPI{sa.Protocol, sa.SPI})
	}
	f.sas = append(f.sas, fakeSA{sa, time.Now()})
	f.record("add %s %s", id.Direction, id.SPI)
	return nil
}

// carriable reports whether sa has algorithms of its protocol.
func carriable(sa *ipsec.SA) bool {
	switch sa.Protocol {
	case ipsec.ESP:
		return sa.Encr.Type == ipsec.TypeEncr
	case ipsec.AH:
		return sa.Encr == ipsec.Transform{} && sa.Integ.Type == ipsec.TypeInteg && sa.Integ.ID != ipsec.IntegNone
	default:
		return false
	}
}

func (f *Fake) index(id ipsec.SAID) int {
	return slices.IndexFunc(f.sas, func(x fakeSA) bool { return x.sa.ID() == id })
}

// UpdateSA implements Backend.
func (f *Fake) UpdateSA(id ipsec.SAID, u AddressUpdate) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.index(id)
	if i < 0 {
		return fmt.Errorf("update SA %s %s: %w", id.Direction, id.SPI, ErrNotFound)
	}
	sa := &f.sas[i].sa
	if sa.Protocol == ipsec.AH && u.Encap {
		return fmt.Errorf("update SA %s %s: %w", id.Direction, id.SPI, ErrEncap)
	}
	sa.Local, sa.Remote, sa.Encap = u.Local, u.Remote, u.Encap
	f.record("update %s %s", id.Direction, id.SPI)
	return nil
}

// DeleteSA implements Backend.
func (f *Fake) DeleteSA(id ipsec.SAID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.remove(id) {
		return fmt.Errorf("delete SA %s %s: %w", id.Direction, id.SPI, ErrNotFound)
	}
	f.record("delete %s %s", id.Direction, id.SPI)
	return nil
}

func (f *Fake) remove(id ipsec.SAID) bool {
	i := f.index(id)
	if i < 0 {
		return false
	}
	f.sas[i].sa.EncrKey.Wipe()
	f.sas[i].sa.IntegKey.Wipe()
	f.sas = slices.Delete(f.sas, i, i+1)
	return true
}

// SAs implements Backend.
func (f *Fake) SAs() []ipsec.SAStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]ipsec.SAStatus, len(f.sas))
	for i := range f.sas {
		sa := &f.sas[i].sa
		out[i] = ipsec.SAStatus{
			ID: sa.ID(), Mode: sa.Mode, Local: sa.Local, Remote: sa.Remote, Encap: sa.Encap,
			Encr: sa.Encr, Integ: sa.Integ, ESN: sa.ESN, ReplayWindow: sa.ReplayWindow,
			ReqID: sa.ReqID, LocalTS: sa.LocalTS, RemoteTS: sa.RemoteTS,
			Connection: sa.Connection, Tunnel: sa.Tunnel, Added: f.sas[i].added,
			Sequence: sa.Sequence,
		}
	}
	return out
}

// SetPolicies implements Backend.
func (f *Fake) SetPolicies(policies []ipsec.Policy) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	names := make(map[string]bool)
	for _, p := range policies {
		if p.Name == "" || names[p.Name] {
			return fmt.Errorf("set policies: name %q is missing or used twice", p.Name)
		}
		names[p.Name] = true
	}
	f.policies = slices.Clone(policies)
	f.record("policies %d", len(policies))
	return nil
}

// Policies implements Backend.
func (f *Fake) Policies() []ipsec.Policy {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.policies)
}

// Events implements Backend.
func (f *Fake) Events() <-chan ipsec.Event { return f.events }

// Counters implements Backend. A Fake counts nothing.
func (f *Fake) Counters() map[string]uint64 { return map[string]uint64{} }

// Close implements Backend.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	for len(f.sas) > 0 {
		f.remove(f.sas[0].sa.ID())
	}
	clear(f.reserved)
	close(f.events)
	return nil
}
