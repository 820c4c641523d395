//go:build vm

package kernel

import (
	"errors"
	"net/netip"
	"os"
	"testing"

	"caponier/internal/dataplane/dataplanetest"
	"caponier/internal/netio"
)

// TestPlaneConforms runs the suite of all planes on the kernel's.
func TestPlaneConforms(t *testing.T) { dataplanetest.Run(t, newInstance) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newInstance makes a plane in a namespace between two TUN devices, whose other
// ends are the suite's.
func newInstance(t *testing.T, at dataplanetest.Place) *dataplanetest.Instance {
	ns := newNamespace(t)
	must(t, ns.Forward())
	b := newBridge()
	must(t, ns.Do(func() error {
		for _, d := range []struct {
			name string
			tun  **netio.TUN
		}{{"lan", &b.lan}, {"wan", &b.wan}} {
			// Router solicitations would be in the way of the suite's packets.
			err := errors.Join(
				os.WriteFile("/proc/sys/net/ipv6/conf/default/router_solicitations", []byte("0"), 0),
				os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0))
			if err != nil {
				return err
			}
			queues, err := netio.OpenTUN(d.name, netio.TUNOptions{Queues: 1, MTU: 1500, Without: netio.NoOffload})
			if err != nil {
				return err
			}
			*d.tun = queues[0]
		}
		return nil
	}))
	t.Cleanup(b.close)
	for _, d := range []string{"lan", "wan"} {
		must(t, ns.IP("link", "set", d, "up"))
	}
	for i, a := range at.Addresses {
		anywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if a.Is6() {
			anywhere = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		must(t, ns.Addr("wan", netip.PrefixFrom(a, a.BitLen())))
		must(t, ns.IP("route", "add", anywhere.String(), "dev", "wan"))
		must(t, ns.IP("route", "add", at.Networks[i].String(), "dev", "lan"))
	}
	b.start()
	p := newPlane(t, ns)
	listenNAT(t, ns)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v\n%v\n%s%s", p.SAs(), p.Counters(), ipText(t, ns, "-s", "xfrm", "state"), ipText(t, ns, "xfrm", "policy"))
		}
	})
	return &dataplanetest.Instance{
		Backend: p, Inner: b.inner, Outer: b.outer,
		Traits: dataplanetest.Traits{
			Unmatched: true, PolicySelectors: true, Blocks: true, KeepsFirst: 100, NoPorts: true, Gap: true, Coarse: true,
			Removed: []string{"xfrm-out-state-invalid", "xfrm-out-pol-error", "no-sa"},
		},
	}
}
