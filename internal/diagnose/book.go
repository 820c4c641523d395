package diagnose

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/control"
	"caponier/internal/ike"
	"caponier/internal/ike/v2/conf"
)

// Limits of a Book.
const (
	maxFindings   = 1024 // in all
	maxConnection = 16   // of one connection
	maxUnproven   = 8    // of these, of callers who have not proved who they are
	maxStrangers  = 64   // of peers without a connection
	// strangerRate is how many failures of unproven callers are looked into in a
	// second: each takes a while, and they can be many.
	strangerRate = 50
)

// Book keeps the last findings. It may be used by several goroutines at once.
type Book struct {
	conns atomic.Pointer[[]*conf.Connection]

	mu       sync.Mutex
	findings []*kept // guarded by mu, as the rest; the oldest first
	second   time.Time
	looked   int
	missed   uint64
	counts   map[string]uint64 // of failures, by code
}

// kept is a finding with what tells it from others.
type kept struct {
	control.Finding
	unproven bool
	class    string // the code that the attempt had
}

// key is what repetitions of a finding have in common.
type key struct {
	connection, tunnel, code string
	by                       control.Place
	remote                   netip.Addr
}

func (k *kept) key() key {
	return key{k.Connection, k.Tunnel, k.Code, k.RefusedBy, k.Remote.Addr()}
}

// Configure tells which connections there are. Findings of those that are gone
// are forgotten.
func (b *Book) Configure(conns []*conf.Connection) {
	b.conns.Store(&conns)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.findings = slices.DeleteFunc(b.findings, func(k *kept) bool {
		return k.Connection != "" && !slices.ContainsFunc(conns, func(c *conf.Connection) bool { return c.Name == k.Connection })
	})
}

// Take explains an attempt that failed, and keeps what it found.
func (b *Book) Take(a ike.Attempt) {
	unproven := !a.Proven && !a.Initiator
	if unproven && !b.admit(a.When) {
		return
	}
	var all []*conf.Connection
	if p := b.conns.Load(); p != nil {
		all = *p
	}
	k := &kept{Finding: Explain(a, all), unproven: unproven, class: a.Code}
	k.bound()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.enter(k)
	if b.counts == nil {
		b.counts = make(map[string]uint64)
	}
	code := k.Code
	if !known(code) {
		code = "other" // a peer's notification: there are too many
	}
	b.counts["failed-"+code]++
}

// Counters returns how many negotiations failed, by stable name: "failed-" and the
// code, for those of Codes, and "failed-other".
func (b *Book) Counters() map[string]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := maps.Clone(b.counts)
	if out == nil {
		out = make(map[string]uint64)
	}
	if b.missed > 0 {
		out["failed-not-looked-into"] = b.missed
	}
	return out
}

func known(code string) bool {
	return slices.ContainsFunc(Codes(), func(c Code) bool { return c.Code == code })
}

// admit bounds how much work callers can make.
func (b *Book) admit(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.second); d >= time.Second || d < 0 {
		b.second, b.looked = now, 0
	}
	if b.looked == strangerRate {
		b.missed++
		return false
	}
	b.looked++
	return true
}

// enter folds k into an earlier one that is the same, or makes room for it.
func (b *Book) enter(k *kept) {
	if i := slices.IndexFunc(b.findings, func(o *kept) bool { return o.key() == k.key() }); i >= 0 {
		old := b.findings[i]
		k.First, k.Count = old.First, old.Count+1
		k.unproven = k.unproven && old.unproven
		b.findings = slices.Delete(b.findings, i, i+1)
	}
	same := func(o *kept) bool { return o.Connection == k.Connection }
	if k.Connection == "" {
		b.bound(maxStrangers, same)
	} else {
		if k.unproven {
			b.bound(maxUnproven, func(o *kept) bool { return same(o) && o.unproven })
		}
		b.bound(maxConnection, same)
	}
	b.bound(maxFindings, func(*kept) bool { return true })
	b.findings = append(b.findings, k)
}

// bound removes the oldest of those that are meant, until one more has room.
func (b *Book) bound(most int, meant func(*kept) bool) {
	n, oldest := 0, -1
	for i, k := range b.findings {
		if meant(k) {
			if n++; oldest < 0 {
				oldest = i
			}
		}
	}
	if n >= most {
		b.findings = slices.Delete(b.findings, oldest, oldest+1)
	}
}

// Of returns what is kept of a connection, the latest first.
func (b *Book) Of(connection string) []control.Finding {
	return b.list(func(k *kept) bool { return k.Connection == connection })
}

// Overview returns, of each connection and each of its tunnels, the last
// finding, and all of peers without a connection; the latest first. missed
// counts what came too fast to be looked into.
func (b *Book) Overview() (findings []control.Finding, missed uint64) {
	b.mu.Lock()
	missed = b.missed
	b.mu.Unlock()
	seen := make(map[control.Target]bool)
	for _, f := range b.list(func(*kept) bool { return true }) {
		t := control.Target{Connection: f.Connection, Tunnel: f.Tunnel}
		if f.Connection == "" || !seen[t] {
			findings = append(findings, f)
		}
		seen[t] = true
	}
	return findings, missed
}

// Last returns the latest finding of a connection that explains a failure with
// this code.
func (b *Book) Last(connection, code string) (control.Finding, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range slices.Backward(b.findings) {
		if k.Connection == connection && k.class == code {
			return k.Finding, true
		}
	}
	return control.Finding{}, false
}

func (b *Book) list(meant func(*kept) bool) []control.Finding {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []control.Finding
	for _, k := range b.findings {
		if meant(k) {
			out = append(out, k.Finding)
		}
	}
	slices.SortStableFunc(out, func(x, y control.Finding) int { return cmp.Compare(y.Last.UnixNano(), x.Last.UnixNano()) })
	return out
}

// What a finding may take up: much of it is a stranger's words.
const (
	maxText      = 1024
	maxListed    = 32
	maxProposals = 512 // octets of one proposal in words
)

func (k *kept) bound() {
	k.Cause, k.Nearest = cut(k.Cause, maxText), cut(k.Nearest, maxText)
	for i := range k.Cures {
		k.Cures[i].Edit = cut(k.Cures[i].Edit, maxText)
	}
	for _, o := range []*control.Offer{&k.Ours, &k.Theirs} {
		o.ID, o.Wants = cut(o.ID, nameLimit), cut(o.Wants, nameLimit)
		o.Proposals = o.Proposals[:min(len(o.Proposals), maxListed)]
		for i := range o.Proposals {
			o.Proposals[i] = cut(o.Proposals[i], maxProposals)
		}
		o.Local = slices.Clone(o.Local[:min(len(o.Local), maxListed)])
		o.Remote = slices.Clone(o.Remote[:min(len(o.Remote), maxListed)])
	}
}

// cut keeps a text short.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
