package host

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/netio"
)

var nextNS atomic.Int32

// gateway is a namespace with a LAN, an outer network and a TUN device.
type gateway struct {
	t   *testing.T
	ns  netns.NS
	tun []*netio.TUN
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	ns, err := netns.Create(fmt.Sprintf("cphost-%d-%d", os.Getpid(), nextNS.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{t: t, ns: ns}
	t.Cleanup(func() {
		g.unplug()
		ns.Delete()
	})
	for _, dev := range []struct{ name, v4, v6 string }{
		{"lan", "10.1.0.1/24", "fd00:1::1/64"},
		{"wan", "192.0.2.1/24", "2001:db8::1/64"},
	} {
		if err := netns.Link(ns, dev.name, ns, dev.name+"-peer"); err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{dev.v4, dev.v6} {
			if err := ns.Addr(dev.name, netip.MustParsePrefix(a)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := ns.Forward(); err != nil {
		t.Fatal(err)
	}
	g.ip("route", "add", "default", "via", "192.0.2.254")
	g.ip("-6", "route", "add", "default", "via", "2001:db8::fe")
	g.plug()
	return g
}

func (g *gateway) ip(args ...string) {
	g.t.Helper()
	if err := g.ns.IP(args...); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) show(args ...string) string {
	g.t.Helper()
	out, err := g.ns.Run(context.Background(), "ip", args...)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

// plug makes the TUN device, unplug is what a crash does to it.
func (g *gateway) plug() {
	g.t.Helper()
	if err := g.ns.Do(func() (err error) {
		g.tun, err = netio.OpenTUN("capo0", netio.TUNOptions{Queues: 1, MTU: 1400})
		return err
	}); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) unplug() {
	for _, t := range g.tun {
		t.Close()
	}
	g.tun = nil
}

func (g *gateway) open() *Host {
	g.t.Helper()
	var h *Host
	err := g.ns.Do(func() (err error) { h, err = Open(Options{Device: "capo0", MTU: 1380}); return err })
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { h.Close() })
	return h
}

func (g *gateway) set(h *Host, d Desired) {
	g.t.Helper()
	if err := g.ns.Do(func() error { return h.Set(d) }); err != nil {
		g.t.Fatal(err)
	}
}

// way is where a packet goes: the device, or the error.
func (g *gateway) way(args ...string) string {
	out, err := g.ns.Run(context.Background(), "ip", append([]string{"-o", "route", "get"}, args...)...)
	if err != nil {
		return "refused"
	}
	fields := strings.Fields(out)
	way := fields[slices.Index(fields, "dev")+1]
	if i := slices.Index(fields, "src"); i >= 0 && !slices.Contains(args, "from") {
		way += " from " + fields[i+1]
	}
	return way
}

func selectors(list ...string) []ipsec.Selector {
	var out []ipsec.Selector
	for _, s := range list {
		sel, err := ipsec.ParseSelector(s)
		if err != nil {
			panic(err)
		}
		out = append(out, sel)
	}
	return out
}

func protect(local, remote []ipsec.Selector) ipsec.Policy {
	return ipsec.Policy{Name: "p", Action: ipsec.Protect, Local: local, Remote: remote}
}

var siteToSite = FromPolicies([]ipsec.Policy{
	protect(selectors("10.1.0.0/16", "fd00:1::/48"), selectors("10.2.0.0/16", "fd00:2::/48")),
})

func (g *gateway) check(want map[string]string) {
	g.t.Helper()
	got := make(map[string]string)
	for args := range want {
		got[args] = g.way(strings.Fields(args)...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		g.t.Errorf("packets go (-want +got):\n%s", diff)
	}
}

func TestProtectedPrefixesGoToTheTUN(t *testing.T) {
	g := newGateway(t)
	g.set(g.open(), siteToSite)
	mark := fmt.Sprint(Mark)
	g.check(map[string]string{
		"10.2.0.9":                                   "capo0 from 10.1.0.1",
		"fd00:2::9":                                  "capo0 from fd00:1::1",
		"10.2.0.9 from 10.1.0.7 iif lan":             "capo0",
		"10.2.0.9 mark " + mark:                      "wan from 192.0.2.1", // an outer packet
		"10.3.0.9":                                   "wan from 192.0.2.1",
		"10.1.0.7 from 10.2.0.9 iif capo0":           "lan",
		"fd00:1::7 from fd00:2::9 iif capo0":         "lan",
		"2001:db8::2":                                "wan from 2001:db8::1",
		"10.2.255.255 from 10.1.0.7 iif lan mark 77": "capo0", // somebody else's mark
	})
	if out := g.show("link", "show", "capo0"); !strings.Contains(out, "mtu 1380") || !strings.Contains(out, "UP") {
		t.Errorf("the device is %s", out)
	}
}

func TestSetIsIdempotent(t *testing.T) {
	g := newGateway(t)
	h := g.open()
	d := FromPolicies([]ipsec.Policy{
		protect(selectors("10.1.0.0/16", "fd00:1::/48"), selectors("0.0.0.0/0", "::/0")),
		{Name: "d", Action: ipsec.Discard, Local: selectors("10.1.0.0/16"), Remote: selectors("10.9.0.0/16")},
	})
	g.set(h, d)
	before := g.show("-d", "route", "show", "table", "all") + g.show("-6", "-d", "route", "show", "table", "all") +
		g.show("-d", "rule") + g.show("-6", "-d", "rule")
	n := h.changes
	g.set(h, d)
	if h.changes != n {
		t.Errorf("%d changes by the second Set", h.changes-n)
	}
	h2 := g.open() // another run takes over
	g.set(h2, d)
	if h2.changes != 0 {
		t.Errorf("%d changes by a second run", h2.changes)
	}
	after := g.show("-d", "route", "show", "table", "all") + g.show("-6", "-d", "route", "show", "table", "all") +
		g.show("-d", "rule") + g.show("-6", "-d", "rule")
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the second Set changed:\n%s", diff)
	}
}

func TestCrashLeavesRefusals(t *testing.T) {
	g := newGateway(t)
	h := g.open()
	g.set(h, siteToSite)
	h.Close()
	g.unplug()
	refused := map[string]string{
		"10.2.0.9": "refused", "fd00:2::9": "refused", "10.2.0.9 from 10.1.0.7 iif lan": "refused",
		"10.3.0.9": "wan from 192.0.2.1",
	}
	g.check(refused)

	// The next run, with another tunnel, cleans up and goes on.
	g.plug()
	h = g.open()
	g.set(h, FromPolicies([]ipsec.Policy{protect(selectors("10.1.0.0/16"), selectors("10.3.0.0/16"))}))
	g.check(map[string]string{
		"10.2.0.9": "wan from 192.0.2.1", "fd00:2::9": "wan from 2001:db8::1", "10.3.0.9": "capo0 from 10.1.0.1",
	})
	if out := g.show("-6", "rule"); strings.Contains(out, "lookup 220") {
		t.Errorf("rules for IPv6 are left:\n%s", out)
	}
}

func TestRelease(t *testing.T) {
	g := newGateway(t)
	before := g.show("rule") + g.show("-6", "rule")
	h := g.open()
	g.set(h, siteToSite)
	if err := h.Release(true); err != nil {
		t.Fatal(err)
	}
	g.check(map[string]string{"10.2.0.9": "refused", "fd00:2::9": "refused", "10.3.0.9": "wan from 192.0.2.1"})
	if err := h.Release(false); err != nil {
		t.Fatal(err)
	}
	g.check(map[string]string{"10.2.0.9": "wan from 192.0.2.1", "fd00:2::9": "wan from 2001:db8::1"})
	if after := g.show("rule") + g.show("-6", "rule"); after != before {
		t.Errorf("rules after the release:\n%s", after)
	}
	if out := g.show("route", "show", "table", "all", "proto", fmt.Sprint(Protocol)); out != "" {
		t.Errorf("routes after the release:\n%s", out)
	}
}

func TestForeignRoutesAndRulesStay(t *testing.T) {
	g := newGateway(t)
	g.ip("route", "add", "10.77.0.0/16", "dev", "wan", "table", "220", "proto", "static")
	g.ip("route", "add", "10.78.0.0/16", "dev", "wan", "proto", fmt.Sprint(Protocol)) // in another table
	g.ip("rule", "add", "from", "10.66.0.0/16", "lookup", "220", "priority", "220")
	foreign := func() string {
		return g.show("route", "show", "10.77.0.0/16", "table", "220") + g.show("route", "show", "10.78.0.0/16") +
			g.show("rule", "show", "from", "10.66.0.0/16")
	}
	before := foreign()
	h := g.open()
	g.set(h, siteToSite)
	g.set(h, Desired{})
	if err := h.Release(false); err != nil {
		t.Fatal(err)
	}
	if after := foreign(); after != before || strings.Count(after, "\n") != 3 {
		t.Errorf("before:\n%safter:\n%s", before, after)
	}
}

func TestLocalPrefixInsideAProtectedOne(t *testing.T) {
	g := newGateway(t)
	g.set(g.open(), FromPolicies([]ipsec.Policy{
		protect(selectors("10.1.0.0/16"), selectors("10.0.0.0/8")),
		protect(selectors("fd00:1::/48"), selectors("::/0")),
	}))
	g.check(map[string]string{
		"10.5.0.1":                           "capo0 from 10.1.0.1",
		"10.1.0.7":                           "lan from 10.1.0.1",
		"10.1.0.7 from 10.5.0.1 iif capo0":   "lan",
		"fd00:1::7 from 2001:4::1 iif capo0": "lan",
		"2001:4::1":                          "capo0 from fd00:1::1",
	})
}

func TestDiscardedPairsGoToThePlane(t *testing.T) {
	g := newGateway(t)
	g.ip("route", "add", "10.4.0.0/16", "via", "192.0.2.3")
	h := g.open()
	d := FromPolicies([]ipsec.Policy{
		protect(selectors("10.1.0.0/16"), selectors("10.2.0.0/16")),
		{Name: "d", Action: ipsec.Discard, Priority: -1, Local: selectors("0.0.0.0/0"), Remote: selectors("10.0.0.0/8")},
	})
	g.set(h, d)
	mark := fmt.Sprint(Mark)
	want := map[string]string{
		"10.4.0.9 from 10.1.0.7 iif lan":   "capo0",
		"10.2.0.9 from 10.1.0.7 iif lan":   "capo0",
		"10.4.0.9 mark " + mark:            "wan from 192.0.2.1",
		"192.0.2.9":                        "wan from 192.0.2.1",
		"10.1.0.7 from 10.2.0.9 iif capo0": "lan", // out of the tunnel
	}
	g.check(want)
	h.Close()
	g.unplug()
	for k, v := range want {
		if v == "capo0" {
			want[k] = "refused"
		}
	}
	delete(want, "10.1.0.7 from 10.2.0.9 iif capo0")
	g.check(want)
}

func TestAddressChangeMovesTheSource(t *testing.T) {
	g := newGateway(t)
	h := g.open()
	g.set(h, siteToSite)
	g.ip("addr", "del", "10.1.0.1/24", "dev", "lan")
	g.ip("addr", "add", "10.1.0.2/24", "dev", "lan")
	g.ip("addr", "del", "fd00:1::1/64", "dev", "lan")
	g.ip("addr", "add", "fd00:1::2/64", "dev", "lan", "nodad")
	g.set(h, siteToSite)
	g.check(map[string]string{"10.2.0.9": "capo0 from 10.1.0.2", "fd00:2::9": "capo0 from fd00:1::2"})
}

// TestPolicyChangeMovesTheSource: the same far prefix, but no address of the host
// is in the new local one any more; and back.
func TestPolicyChangeMovesTheSource(t *testing.T) {
	g := newGateway(t)
	h := g.open()
	narrow := FromPolicies([]ipsec.Policy{
		protect(selectors("10.1.0.7/32", "fd00:1::7/128"), selectors("10.2.0.0/16", "fd00:2::/48")),
	})
	for range 2 {
		g.set(h, siteToSite)
		g.check(map[string]string{
			"10.2.0.9": "capo0 from 10.1.0.1", "fd00:2::9": "capo0 from fd00:1::1",
			"fd00:2::9 from fd00:1::7 iif lan": "capo0",
		})
		g.set(h, narrow)
		for _, far := range []string{"10.2.0.9", "fd00:2::9"} {
			if got := g.way(far); !strings.HasPrefix(got, "capo0") {
				t.Errorf("%s goes to %q", far, got)
			}
		}
		g.check(map[string]string{
			"10.2.0.9 from 10.1.0.7 iif lan": "capo0", "fd00:2::9 from fd00:1::7 iif lan": "capo0",
		})
	}
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	if _, err := Open(Options{Device: "nosuchdevice"}); err == nil || !strings.Contains(err.Error(), "nosuchdevice") {
		t.Errorf("Open returned %v", err)
	}
}

func TestFromPolicies(t *testing.T) {
	got := FromPolicies([]ipsec.Policy{
		protect(selectors("10.1.0.0/16", "fd00:1::/48"), selectors("10.2.0.0-10.2.2.255")),
		protect(selectors("10.5.0.0/16"), selectors("10.2.2.0/24:tcp/80")),
		{Name: "b", Action: ipsec.Bypass, Local: selectors("10.1.0.0/16"), Remote: selectors("10.1.0.0/16")},
		{Name: "d", Action: ipsec.Discard, Local: selectors("10.1.0.0/16"), Remote: selectors("0.0.0.0/0", "::/0")},
	})
	p := netip.MustParsePrefix
	want := Desired{
		Protect: []Route{
			{To: p("10.2.0.0/23"), Local: []netip.Prefix{p("10.1.0.0/16")}},
			{To: p("10.2.2.0/24"), Local: []netip.Prefix{p("10.1.0.0/16"), p("10.5.0.0/16")}},
		},
		Discard: []Pair{{p("10.1.0.0/16"), p("0.0.0.0/0")}},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzDecodeRule(f *testing.F) {
	for _, r := range []rule{
		{priority: 220, mark: Mark, not: true, action: 1, target: 220},
		{priority: 221, v6: true, to: netip.MustParsePrefix("fd00::/8"), iif: "capo0", action: 2, target: 230},
	} {
		b, err := r.encode()
		if err != nil {
			f.Fatal(err)
		}
		if got, ours, err := decodeRule(b); got != r || !ours || err != nil {
			f.Fatalf("%v came back as %v, %v, %v", r, got, ours, err)
		}
		for n := range b {
			decodeRule(b[:n]) // must not panic
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, ours, err := decodeRule(b)
		if err != nil || !ours || r.from.IsValid() || r.to.IsValid() {
			return
		}
		if _, err := r.encode(); err != nil {
			t.Errorf("%v cannot be encoded: %v", r, err)
		}
	})
}
