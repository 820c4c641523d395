package vm

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"caponier/internal/dataplane/dataplanetest"
	"caponier/internal/lab/netns"
	"caponier/internal/netio"
)

// TestConformance runs the suite of all planes on the kernel's. It is part of the
// long form only.
func TestConformance(t *testing.T) {
	if *long {
		dataplanetest.Run(t, newInstance)
	}
}

var instances atomic.Int32

// newInstance makes a kernel plane in a namespace between two TUN devices, whose
// other ends are the suite's.
func newInstance(t *testing.T, at dataplanetest.Place) *dataplanetest.Instance {
	ns, err := netns.Create(fmt.Sprintf("vm-%d-%d", os.Getpid(), instances.Add(1)))
	must(t, err)
	t.Cleanup(func() { must(t, ns.Delete()) })
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
	p := newKernel(t, ns)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(kernelPlane{p, ipXfrm{ns}}.tell())
		}
	})
	return &dataplanetest.Instance{
		Backend: p, Inner: b.inner, Outer: b.outer,
		Traits: dataplanetest.Traits{Unmatched: true, PolicySelectors: true, Blocks: true, KeepsFirst: 100, Coarse: true},
	}
}
