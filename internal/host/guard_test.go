package host

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/jsimonetti/rtnetlink/v2"
	"golang.org/x/sys/unix"

	"caponier/internal/ipsec"
)

// TestDeliveries takes the inside link away: what comes out of a tunnel for its
// network must not leave by the default route, neither now nor after a crash.
func TestDeliveries(t *testing.T) {
	g := newGateway(t)
	d := FromPolicies([]ipsec.Policy{
		protect(selectors("10.1.0.0/16", "10.5.0.0/16", "fd00:1::/48"), selectors("10.2.0.0/16", "fd00:2::/48")),
	})
	before := g.show("-4", "rule") + g.show("-6", "rule")
	h := g.open()
	g.set(h, d)
	const (
		direct  = "10.1.0.7 from 10.2.0.9 iif capo0"
		direct6 = "fd00:1::7 from fd00:2::9 iif capo0"
		routed  = "10.5.0.7 from 10.2.0.9 iif capo0" // only the default route leads there
		foreign = "10.1.0.7 from 192.0.2.254 iif wan"
	)
	g.check(map[string]string{direct: "lan", direct6: "lan", routed: "wan"})
	g.ip("link", "set", "lan", "down")
	gone := map[string]string{direct: "refused", direct6: "refused", routed: "wan", foreign: "wan"}
	g.check(gone)
	g.set(h, d) // it remembers
	g.check(gone)
	h.Close()
	g.unplug()
	g.plug()
	h = g.open()
	g.set(h, d)
	g.check(gone)

	g.ip("link", "set", "lan", "up")
	g.ip("addr", "replace", "fd00:1::1/64", "dev", "lan", "nodad")
	g.set(h, d)
	g.check(map[string]string{direct: "lan", direct6: "lan", routed: "wan"})

	// A stop forgets.
	if err := h.Release(true); err != nil {
		t.Fatal(err)
	}
	if out := g.show("route", "show", "table", "222"); out != "" {
		t.Errorf("after Release: %s", out)
	}
	if err := h.Release(false); err != nil {
		t.Fatal(err)
	}
	if after := g.show("-4", "rule") + g.show("-6", "rule"); after != before {
		t.Errorf("rules are left:\n%s", after)
	}
}

func TestDeliveriesHaveABound(t *testing.T) {
	var list []rtnetlink.RouteMessage
	for i := range 2 * maxDeliveries {
		list = append(list, rtnetlink.RouteMessage{
			Family: unix.AF_INET, DstLength: 32, Type: unix.RTN_UNICAST,
			Attributes: rtnetlink.RouteAttributes{Table: unix.RT_TABLE_MAIN, Dst: []byte{10, 1, byte(i >> 8), byte(i)}},
		})
	}
	for local, want := range map[string]int{"10.1.0.0/16": maxDeliveries, "10.1.0.9/32": 1, "0.0.0.0/0": 0, "10.9.0.0/16": 0} {
		d := Desired{Protect: []Route{{To: netip.MustParsePrefix("10.2.0.0/16"), Local: []netip.Prefix{netip.MustParsePrefix(local)}}}}
		if got := deliveries(d, list); len(got) != want {
			t.Errorf("%s: %d prefixes, not %d: %s", local, len(got), want, strings.Join(strings.Fields(fmt.Sprint(got))[:1], ""))
		}
	}
}
