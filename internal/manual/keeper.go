// Package manual keeps what an operator keys by hand: the associations of the
// configuration and of commands, installed in the data plane while the gateway
// is on, with sequence numbers that outlive the process.
//
// Keys stay in memory as long as an association may have to be installed again.
package manual

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
)

// Options are the parts of a Keeper.
type Options struct {
	Backend dataplane.Backend
	// State is the directory where sequence numbers are kept.
	State string
	Log   *slog.Logger // nil discards
}

// Keeper installs manually keyed associations and remembers manual policies. Its
// methods may be called from several goroutines.
type Keeper struct {
	backend dataplane.Backend
	log     *slog.Logger

	mu      sync.Mutex
	numbers *numbers
	sas     map[ipsec.SAID]*held
	file    []*config.Association // of the configuration in force
	off     bool
}

// held is one association.
type held struct {
	a      *config.Association
	origin control.Origin
	// installed says that the data plane has it: it is not while the gateway is
	// off, nor after its hard lifetime.
	installed bool
}

// New makes a Keeper of nothing.
func New(o Options) *Keeper {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{
		backend: o.Backend, log: o.Log, numbers: newNumbers(o.State), sas: make(map[ipsec.SAID]*held),
	}
}

// Set replaces the associations of the configuration. Those that did not change
// are left alone. Where one cannot be installed, all stays as it was, and the
// error, a *control.Error, names it.
func (k *Keeper) Set(list []*config.Association) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := make(map[string]*config.Association)
	for _, a := range k.file {
		before[a.Name] = a
	}
	var gone, come []*held
	for _, a := range list {
		old := before[a.Name]
		delete(before, a.Name)
		if old != nil && old.Equal(a) {
			continue
		}
		if old != nil {
			gone = k.fromFile(gone, old)
		}
		come = append(come, &held{a: a, origin: control.OriginFile})
	}
	for _, old := range before {
		gone = k.fromFile(gone, old)
	}
	if err := k.exchange(gone, come); err != nil {
		return err
	}
	for _, h := range gone {
		h.wipe()
	}
	k.file = list
	return nil
}

func (h *held) wipe() {
	h.a.EncrKey.Wipe()
	h.a.IntegKey.Wipe()
}

// fromFile appends the association of the configuration, unless a command has
// removed it, or put another in its place.
func (k *Keeper) fromFile(list []*held, a *config.Association) []*held {
	if h := k.sas[a.ID()]; h != nil && h.origin == control.OriginFile && h.a.Name == a.Name {
		return append(list, h)
	}
	return list
}

// exchange removes some associations and installs others, or does nothing. Those
// of other names in the SAD come first, so that traffic finds one at any time.
func (k *Keeper) exchange(gone, come []*held) (err error) {
	leaving := make(map[ipsec.SAID]bool)
	for _, h := range gone {
		leaving[h.a.ID()] = true
	}
	for _, h := range come {
		if other := k.sas[h.a.ID()]; other != nil && !leaving[h.a.ID()] {
			return taken(h.a, other)
		}
	}
	k.remember(gone)
	var done []func()
	defer func() {
		for i := len(done) - 1; err != nil && i >= 0; i-- {
			done[i]()
		}
	}()
	install := func(h *held) error {
		if err := k.install(h); err != nil {
			return err
		}
		done = append(done, func() { k.remove(h) })
		return nil
	}
	if err := k.reserve(come); err != nil {
		return err
	}
	for _, h := range come {
		if !leaving[h.a.ID()] {
			if err := install(h); err != nil {
				return err
			}
		}
	}
	for _, h := range gone {
		if h.installed {
			k.remove(h)
			done = append(done, func() { k.restore(h) })
		}
	}
	for _, h := range come {
		if leaving[h.a.ID()] {
			if err := install(h); err != nil {
				return err
			}
		}
	}
	for _, h := range gone {
		delete(k.sas, h.a.ID())
	}
	for _, h := range come {
		k.sas[h.a.ID()] = h
	}
	return nil
}

// restore installs again what was installed before, where an exchange failed.
func (k *Keeper) restore(h *held) {
	err := k.reserve([]*held{h})
	if err == nil {
		err = k.install(h)
	}
	if err != nil {
		k.log.Error("association is lost", "association", h.a.Name, "error", err)
	}
}

func taken(a *config.Association, other *held) error {
	return &control.Error{
		Code:    control.CodeExists,
		Message: fmt.Sprintf("%s: association %s has SPI %s in this direction and protocol already", a.Name, other.a.Name, a.SPI),
		Cure:    fmt.Sprintf("choose another SPI, or caponier sa delete %s --direction %s", a.SPI, a.Direction),
	}
}

// reserve takes sequence numbers for outbound associations, and has them on disk
// before the first packet has one.
func (k *Keeper) reserve(list []*held) error {
	if k.off {
		return nil
	}
	changed := false
	for _, h := range list {
		if h.a.Direction == ipsec.Out {
			if err := k.numbers.reserve(h.a); err != nil {
				return err
			}
			changed = true
		}
	}
	if !changed {
		return nil
	}
	return k.numbers.save()
}

// install gives an association to the data plane, unless the gateway is off. Its
// numbers have been reserved.
func (k *Keeper) install(h *held) error {
	if k.off {
		return nil
	}
	sa := h.a.SA()
	if sa.Direction == ipsec.Out {
		sa.Sequence = k.numbers.first(h.a)
	}
	if err := k.backend.AddSA(sa); err != nil {
		sa.EncrKey.Wipe()
		sa.IntegKey.Wipe()
		return explain(h.a, err)
	}
	h.installed = true
	k.log.Info("manual SA installed", "association", h.a.Name, "direction", h.a.Direction.String(), "spi", h.a.SPI.String(),
		"remote", h.a.RemoteAddress, "sequence", sa.Sequence)
	return nil
}

// remove takes an association out of the data plane. One that is gone there
// already is no error.
func (k *Keeper) remove(h *held) {
	if !h.installed {
		return
	}
	h.installed = false
	if err := k.backend.DeleteSA(h.a.ID()); err != nil && !errors.Is(err, dataplane.ErrNotFound) {
		k.log.Error("manual SA not removed", "association", h.a.Name, "error", err)
		return
	}
	k.log.Info("manual SA removed", "association", h.a.Name, "direction", h.a.Direction.String(), "spi", h.a.SPI.String())
}

// Add installs an association of a command. The error is a *control.Error.
func (k *Keeper) Add(a *config.Association) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.off {
		return Off()
	}
	for _, h := range k.sas {
		if h.a.Name == a.Name {
			return &control.Error{
				Code: control.CodeExists, Message: fmt.Sprintf("there is an association %s already, with SPI %s", a.Name, h.a.SPI),
				Cure: fmt.Sprintf("choose another name, or caponier sa delete %s --direction %s", h.a.SPI, h.a.Direction),
			}
		}
		if a.CounterMode && h.a.CounterMode && h.a.EncrKey.Equal(a.EncrKey) {
			return &control.Error{
				Code: control.CodeRefused, Message: fmt.Sprintf("association %s has the same key: with a counter mode, both would use the same nonces", h.a.Name),
				Cure: "openssl rand -hex 32 makes another",
			}
		}
	}
	return k.exchange(nil, []*held{{a: a, origin: control.OriginManual}})
}

// Off is the refusal of what needs the gateway to be on.
func Off() *control.Error {
	return &control.Error{Code: control.CodeOff, Message: "the gateway is switched off", Cure: "caponier gateway on"}
}

// Delete removes an association, and reports whether there was one. One of the
// configuration comes back with the next start, or when the gateway is switched
// on.
func (k *Keeper) Delete(id ipsec.SAID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.sas[id]
	if h == nil {
		return false
	}
	k.remember([]*held{h})
	k.remove(h)
	delete(k.sas, id)
	if h.origin == control.OriginManual {
		h.wipe()
	}
	return true
}

// Origin says who made the SA: control.OriginIKE where it is not the Keeper's.
func (k *Keeper) Origin(id ipsec.SAID) control.Origin {
	k.mu.Lock()
	defer k.mu.Unlock()
	if h := k.sas[id]; h != nil {
		return h.origin
	}
	return control.OriginIKE
}

// SwitchOff takes all associations out of the data plane and returns how many
// were there. Set and SwitchOn go on with them.
func (k *Keeper) SwitchOff() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := k.all()
	k.remember(all)
	n := 0
	for _, h := range all {
		if h.installed {
			n++
		}
		k.remove(h)
	}
	k.off = true
	return n
}

// SwitchOn installs all associations, also those of the configuration that a
// command had removed or whose lifetime had ended. Where one cannot be
// installed, none is, and the Keeper stays off.
func (k *Keeper) SwitchOn() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.off {
		return nil
	}
	for _, a := range k.file {
		if k.sas[a.ID()] == nil {
			k.sas[a.ID()] = &held{a: a, origin: control.OriginFile}
		}
	}
	k.off = false
	all := k.all()
	err := k.reserve(all)
	for i := 0; err == nil && i < len(all); i++ {
		err = k.install(all[i])
	}
	if err == nil {
		return nil
	}
	for _, h := range all {
		k.remove(h)
	}
	k.off = true
	return err
}

// Event takes note of what the data plane says of an association. Events of
// others' SAs are ignored.
func (k *Keeper) Event(ev ipsec.Event) {
	x, ok := ev.(ipsec.Expire)
	if !ok {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.sas[x.ID]
	switch {
	case h == nil:
	case x.Hard:
		h.installed = false
		k.log.Warn("manual SA has reached its hard lifetime and is removed: its traffic is dropped until it has new keys",
			"association", h.a.Name, "direction", x.ID.Direction.String(), "spi", x.ID.SPI.String())
	default:
		k.log.Warn("manual SA has reached its soft lifetime: give both ends new keys",
			"association", h.a.Name, "direction", x.ID.Direction.String(), "spi", x.ID.SPI.String())
	}
}

// tickInterval is how often Run looks whether sequence numbers run short: before
// the fastest plane could use up half a reservation.
const tickInterval = 500 * time.Millisecond

// Run keeps sequence numbers reserved until stop is closed.
func (k *Keeper) Run(stop <-chan struct{}) {
	t := time.NewTicker(tickInterval)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			k.extend()
		}
	}
}

// extend reserves more numbers where an association has used up half of its own.
func (k *Keeper) extend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if sent := k.sent(k.all()); len(sent) > 0 && k.numbers.extend(sent) {
		if err := k.numbers.save(); err != nil {
			k.log.Error("sequence numbers of manual SAs are not on disk: after a crash, peers may drop their packets", "error", err)
		}
	}
}

func (k *Keeper) all() []*held { return slices.Collect(maps.Values(k.sas)) }

// sent returns the last sequence numbers of those in the list that send.
func (k *Keeper) sent(list []*held) map[*config.Association]uint64 {
	out := make(map[*config.Association]uint64)
	sending := make(map[ipsec.SAID]*held)
	for _, h := range list {
		if h.installed && h.a.Direction == ipsec.Out {
			sending[h.a.ID()] = h
		}
	}
	if len(sending) == 0 {
		return out
	}
	for _, s := range k.backend.SAs() {
		if h := sending[s.ID]; h != nil {
			out[h.a] = s.Sequence
		}
	}
	return out
}

// remember gives back what was reserved and not used, before associations are
// removed.
func (k *Keeper) remember(leaving []*held) {
	sent := k.sent(leaving)
	if len(sent) == 0 {
		return
	}
	k.numbers.settle(sent)
	if err := k.numbers.save(); err != nil {
		k.log.Error("sequence numbers of manual SAs are not on disk", "error", err)
	}
}

// Close takes all associations out of the data plane, wipes their keys and
// forgets them.
func (k *Keeper) Close() {
	k.SwitchOff()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, h := range k.sas {
		h.wipe()
	}
	clear(k.sas)
	k.file = nil
}
