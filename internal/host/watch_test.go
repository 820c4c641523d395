package host

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/ipsec"
)

// ours are our routes and rules as the system shows them.
func (g *gateway) ours() string {
	var lines []string
	for _, args := range [][]string{
		{"-4", "route", "show", "table", "220"},
		{"-6", "route", "show", "table", "220"},
		{"-4", "route", "show", "table", "221"},
		{"-4", "rule"},
		{"-6", "rule"},
	} {
		for line := range strings.Lines(g.show(args...)) {
			lines = append(lines, args[0]+" "+strings.Join(strings.Fields(line), " "))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestWatch takes away what Set has made, in the ways of kernels and of other
// programs, and waits for it to come back.
func TestWatch(t *testing.T) {
	g := newGateway(t)
	h := g.open()
	g.set(h, FromPolicies([]ipsec.Policy{
		protect(selectors("10.1.0.0/16", "fd00:1::/48"), selectors("10.2.0.0/16", "fd00:2::/48")),
		{Name: "d", Action: ipsec.Discard, Local: selectors("10.1.0.0/16"), Remote: selectors("10.9.0.0/16")},
	}))
	if err := g.ns.Do(h.Watch); err != nil {
		t.Fatal(err)
	}
	whole := g.ours()
	if strings.Count(whole, "lookup 22") < 3 || !strings.Contains(whole, "10.2.0.0/16 dev capo0 proto 213 scope link src 10.1.0.1") {
		t.Fatalf("Set has made\n%s", whole)
	}
	back := func(what, want string) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for g.ours() != want {
			if time.Now().After(deadline) {
				t.Fatalf("%s: want\n%s\nhave\n%s", what, want, g.ours())
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	for _, broken := range []string{
		"-4 route flush table 220", "-6 route flush table 220", "-4 route del 10.2.0.0/16 dev capo0 table 220",
		"-4 route del unreachable 10.2.0.0/16 table 220", "-4 rule del pref 220", "-6 rule del pref 220", "-4 rule del pref 222",
		"link set capo0 down", "-4 route flush table 221",
	} {
		for range 3 { // also soon after it was put right
			g.ip(strings.Fields(broken)...)
			back(broken, whole)
		}
	}

	// The kernel removes routes whose source is gone; without it they have another
	// or none.
	g.ip("addr", "del", "10.1.0.1/24", "dev", "lan")
	back("address removed", strings.ReplaceAll(whole, " src 10.1.0.1", ""))
	g.ip("addr", "add", "10.1.0.1/24", "dev", "lan")
	back("address is back", whole)
	g.ip("addr", "add", "10.1.5.9/24", "dev", "lan")
	g.ip("addr", "del", "10.1.0.1/24", "dev", "lan")
	back("another address", strings.ReplaceAll(whole, " src 10.1.0.1", " src 10.1.5.9"))
	g.ip("addr", "add", "10.1.0.1/24", "dev", "lan")

	// A link that goes down takes its IPv6 addresses along.
	back("address is back", whole)
	g.ip("link", "set", "lan", "down")
	g.ip("link", "set", "lan", "up")
	g.ip("addr", "replace", "fd00:1::1/64", "dev", "lan", "nodad")
	back("link is back", whole)

	// Routes of others do not concern us.
	h.mu.Lock()
	before := h.changes
	h.mu.Unlock()
	for i := range 50 {
		g.ip("route", "add", fmt.Sprintf("172.16.%d.0/24", i), "via", "192.0.2.254")
	}
	h.mu.Lock()
	after := h.changes
	h.mu.Unlock()
	if before != after {
		t.Errorf("%d changes for routes of others", after-before)
	}

	// Whoever gives up the device gives up the watch.
	if err := h.Release(false); err != nil {
		t.Fatal(err)
	}
	g.ip("addr", "add", "10.1.0.77/24", "dev", "lan")
	time.Sleep(3 * mendPause)
	if now := g.ours(); strings.Contains(now, "proto 213") || strings.Contains(now, "lookup 220") {
		t.Errorf("after Release:\n%s", now)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
}
