package config

import (
	"cmp"
	"reflect"
	"slices"
)

// Effect says what applying a change does to traffic. Higher ones disturb more.
type Effect uint8

// The effects.
const (
	EffectNone        Effect = iota // nothing changed
	EffectAtOnce                    // applied, without touching an SA
	EffectNext                      // counts from the next SA on
	EffectRekey                     // SAs are re-keyed, without losing a packet
	EffectReplace                   // the association is taken out and put in anew
	EffectRenegotiate               // CHILD SAs are deleted and set up anew
	EffectReconnect                 // the IKE SA is closed and set up anew
	EffectRestart                   // needs a restart of the gateway; the old value stays
)

var effectWords = [...]string{"untouched", "applied at once", "from the next SA on", "re-keys", "replaced", "re-negotiates", "reconnects", "needs restart"}

// String says the effect in words.
func (e Effect) String() string { return effectWords[e] }

// MarshalText makes JSON show what String shows.
func (e Effect) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// State says how a part of the configuration compares to the one before.
type State uint8

// The states.
const (
	Unchanged State = iota
	Changed
	Added
	Removed
)

var stateWords = [...]string{"unchanged", "changed", "added", "removed"}

// String returns the state in a word.
func (s State) String() string { return stateWords[s] }

// MarshalText makes JSON show what String shows.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Plan is what a reload would do.
type Plan struct {
	Gateway     []KeyChange      `json:"gateway"`
	Connections []ConnectionPlan `json:"connections"`
	Policies    []Part           `json:"policies"` // those of the section manual too
	// Associations are those of the section manual.
	Associations []Part `json:"associations"`
}

// KeyChange is one key that has another value.
type KeyChange struct {
	Key    string `json:"key"` // within its part, as in remote.id
	Effect Effect `json:"effect"`
}

// Part is a tunnel or a policy, or the own keys of a connection.
type Part struct {
	Name  string      `json:"name"`
	State State       `json:"state"`
	Keys  []KeyChange `json:"keys,omitempty"` // of a Changed part
}

// Effect returns the greatest effect of the keys that changed.
func (p Part) Effect() Effect {
	e := EffectNone
	for _, k := range p.Keys {
		e = max(e, k.Effect)
	}
	return e
}

// ConnectionPlan is a connection with its tunnels. State and Keys are about its
// own keys: a connection can be Unchanged while its tunnels are not.
type ConnectionPlan struct {
	Part
	Tunnels []Part `json:"tunnels"`
}

// Empty reports whether there is nothing to do.
func (p *Plan) Empty() bool {
	same := func(x Part) bool { return x.State == Unchanged }
	for _, c := range p.Connections {
		if !same(c.Part) || !all(c.Tunnels, same) {
			return false
		}
	}
	return len(p.Gateway) == 0 && all(p.Policies, same) && all(p.Associations, same)
}

// NeedsRestart returns the keys of the gateway that keep their old values until
// a restart.
func (p *Plan) NeedsRestart() []string {
	var out []string
	for _, k := range p.Gateway {
		if k.Effect == EffectRestart {
			out = append(out, k.Key)
		}
	}
	return out
}

func all[T any](list []T, ok func(T) bool) bool {
	return !slices.ContainsFunc(list, func(x T) bool { return !ok(x) })
}

// Diff says how to get from one configuration to the other. A nil old is an
// empty one.
func Diff(old, new *Config) *Plan {
	if old == nil {
		old = &Config{Gateway: new.Gateway}
	}
	plan := &Plan{
		Gateway: changes("gateway.", gatewayKeys, &old.Gateway, &new.Gateway),
	}
	plan.Gateway = append(plan.Gateway, changes("gateway.ike.", ikeKeys, &old.Gateway.IKE, &new.Gateway.IKE)...)
	plan.Gateway = append(plan.Gateway, changes("gateway.log.", logKeys, &old.Gateway.Log, &new.Gateway.Log)...)
	pair(old.Connections, new.Connections, func(c *Connection) string { return c.Name }, func(name string, a, b *Connection) {
		c := ConnectionPlan{Part: part(name, a, b, connectionChanges)}
		var before, after []*Tunnel
		if a != nil {
			before = a.Tunnels
		}
		if b != nil {
			after = b.Tunnels
		}
		pair(before, after, func(t *Tunnel) string { return t.Name }, func(name string, a, b *Tunnel) {
			c.Tunnels = append(c.Tunnels, part(name, a, b, func(a, b *Tunnel) []KeyChange { return changes("", tunnelKeys, a, b) }))
		})
		plan.Connections = append(plan.Connections, c)
	})
	pair(pointers(old.Policies), pointers(new.Policies), func(p *Policy) string { return p.Name }, func(name string, a, b *Policy) {
		plan.Policies = append(plan.Policies, part(name, a, b, func(a, b *Policy) []KeyChange { return changes("", policyKeys, a, b) }))
	})
	pair(old.Manual.Policies, new.Manual.Policies, func(p *ManualPolicy) string { return p.Name }, func(name string, a, b *ManualPolicy) {
		plan.Policies = append(plan.Policies, part(name, a, b, func(a, b *ManualPolicy) []KeyChange { return changes("", manualPolicyKeys, a, b) }))
	})
	pair(old.Manual.Associations, new.Manual.Associations, func(a *Association) string { return a.Name }, func(name string, a, b *Association) {
		plan.Associations = append(plan.Associations, part(name, a, b, func(a, b *Association) []KeyChange { return changes("", associationKeys, a, b) }))
	})
	return plan
}

func connectionChanges(a, b *Connection) []KeyChange {
	out := changes("", connectionKeys, a, b)
	out = append(out, changes("local.", localKeys, &a.Local, &b.Local)...)
	return append(out, changes("remote.", remoteKeys, &a.Remote, &b.Remote)...)
}

func changes[T any](prefix string, keys []key[T], a, b *T) []KeyChange {
	var out []KeyChange
	for _, k := range keys {
		if k.get != nil && !reflect.DeepEqual(k.get(a), k.get(b)) {
			out = append(out, KeyChange{Key: prefix + k.name, Effect: k.effect})
		}
	}
	return out
}

func part[T any](name string, a, b *T, changes func(a, b *T) []KeyChange) Part {
	p := Part{Name: name}
	switch {
	case a == nil:
		p.State = Added
	case b == nil:
		p.State = Removed
	default:
		if p.Keys = changes(a, b); len(p.Keys) > 0 {
			p.State = Changed
		}
	}
	return p
}

// pair calls each for every name in either list, in order of name.
func pair[T any](old, new []*T, name func(*T) string, each func(name string, a, b *T)) {
	type two struct{ a, b *T }
	byName := map[string]two{}
	for _, x := range old {
		byName[name(x)] = two{a: x}
	}
	for _, x := range new {
		t := byName[name(x)]
		t.b = x
		byName[name(x)] = t
	}
	all := make([]string, 0, len(byName))
	for n := range byName {
		all = append(all, n)
	}
	slices.SortFunc(all, cmp.Compare[string])
	for _, n := range all {
		each(n, byName[n].a, byName[n].b)
	}
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// ReqIDs returns the reqid of every tunnel by "connection/tunnel": the
// configured one, else the previous one, else one that nobody has.
func ReqIDs(c *Config, previous map[string]uint32) map[string]uint32 {
	out := map[string]uint32{}
	used := map[uint32]bool{}
	each := func(f func(name string, t *Tunnel)) {
		for _, conn := range c.Connections {
			for _, t := range conn.Tunnels {
				f(conn.Name+"/"+t.Name, t)
			}
		}
	}
	each(func(name string, t *Tunnel) {
		if t.ReqID != 0 {
			out[name], used[t.ReqID] = t.ReqID, true
		}
	})
	each(func(name string, t *Tunnel) {
		// One that was configured before is not kept: it is the operator's to give.
		if id := previous[name]; out[name] == 0 && id > maxReqID && !used[id] {
			out[name], used[id] = id, true
		}
	})
	// SAs of a tunnel that was removed may live on for a moment: their reqid is
	// not given away yet.
	for _, id := range previous {
		used[id] = true
	}
	next := uint32(maxReqID + 1)
	each(func(name string, _ *Tunnel) {
		if out[name] != 0 {
			return
		}
		for used[next] {
			next++
		}
		out[name], used[next] = next, true
	})
	return out
}
