package userspace

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/netio"
)

// newRoutedLab is a lab with a router between the gateways, whose link to gwB takes
// packets of mtu octets only. The router is the kernel's.
//
//	hostA 10.1.0.2 -- gwA 192.0.2.1 == router =small= 192.0.2.2 gwB -- 10.2.0.2 hostB
//	      fd00:1::2       2001:db8::1                 2001:db8::2      fd00:2::2
func newRoutedLab(t testing.TB, mtu int) (*lab, netns.NS) {
	t.Helper()
	l := &lab{t: t, seen: make(map[string]int)}
	id := fmt.Sprintf("cppath-%d-%d", os.Getpid(), labs.Add(1))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	create := func(name string) netns.NS {
		ns, err := netns.Create(id + name)
		must(err)
		t.Cleanup(func() { ns.Delete() })
		must(ns.IP("link", "set", "lo", "up"))
		return ns
	}
	router := create("r")
	must(router.Forward())
	addr := func(format string, args ...any) netip.Prefix {
		return netip.MustParsePrefix(fmt.Sprintf(format, args...))
	}
	for i := range 2 {
		side := i + 1
		l.hosts[i], l.gws[i] = create(fmt.Sprint("host", i)), create(fmt.Sprint("gw", i))
		must(l.gws[i].Forward())
		must(netns.Link(l.hosts[i], "eth0", l.gws[i], "lan"))
		must(netns.Link(l.gws[i], "wan", router, fmt.Sprint("eth", i)))
		for _, f := range []struct{ lan, link, wan string }{
			{"10.%d.0.%d/24", "198.51.100.%d/30", "192.0.2.%d/32"}, {"fd00:%d::%d/64", "2001:db8:1::%x/126", "2001:db8::%d/128"},
		} {
			hostAddr, gwAddr := addr(f.lan, side, 2), addr(f.lan, side, 1)
			near, far, wan := addr(f.link, 16*side+1), addr(f.link, 16*side+2), addr(f.wan, side)
			must(l.hosts[i].Addr("eth0", hostAddr))
			must(l.hosts[i].Route(anywhere(hostAddr.Addr()), gwAddr.Addr()))
			must(l.gws[i].Addr("lan", gwAddr))
			must(l.gws[i].Addr("lo", wan))
			must(l.gws[i].Addr("wan", near))
			must(router.Addr(fmt.Sprint("eth", i), far))
			must(l.gws[i].Route(anywhere(near.Addr()), far.Addr()))
			must(router.Route(wan, near.Addr()))
		}
	}
	must(router.IP("link", "set", "eth1", "mtu", fmt.Sprint(mtu)))
	must(l.gws[1].IP("link", "set", "wan", "mtu", fmt.Sprint(mtu)))
	capture, err := l.gws[0].Watch(l.see)
	must(err)
	t.Cleanup(func() { capture.Close() })
	return l, router
}

// outSA is the outbound SA of a gateway.
func (l *lab) outSA(side int) ipsec.SAStatus {
	l.t.Helper()
	for _, sa := range l.plane[side].SAs() {
		if sa.ID.Direction == ipsec.Out {
			return sa
		}
	}
	l.t.Fatal("no outbound SA")
	return ipsec.SAStatus{}
}

// pings asks n times and returns what ping says. It sets DF, as far as there is
// one, where whole is set.
func (l *lab) pings(n, size int, whole bool, address string) (string, error) {
	do := "dont"
	if whole {
		do = "do"
	}
	return l.hosts[0].Run(context.Background(), "ping", "-M", do, "-c", fmt.Sprint(n), "-i", "0.1", "-W", "1", "-s", fmt.Sprint(size), address)
}

// untilTold pings with DF until hostA has been told of a smaller path MTU.
func (l *lab) untilTold(address string, size int) {
	l.t.Helper()
	for range 20 {
		out, err := l.pings(1, size, true, address)
		if err == nil {
			l.t.Errorf("a packet with DF passed: %s", out)
		}
		if out, err = l.hosts[0].Run(context.Background(), "ip", "route", "get", address); err == nil && strings.Contains(out, " mtu ") {
			return
		}
	}
	l.t.Errorf("hostA was never told; counters %v", l.plane[0].Counters())
}

// forget makes the hosts forget what they have been told.
func (l *lab) forget() {
	for _, h := range l.hosts {
		for _, family := range []string{"-4", "-6"} {
			if err := h.IP(family, "route", "flush", "cache"); err != nil {
				l.t.Error(err)
			}
		}
	}
}

// TestPathMTU has routers and hosts of the kernel at all four corners: a router in
// between drops what is too long and says so to gwA, which says so to hostA.
func TestPathMTU(t *testing.T) {
	for _, c := range []struct {
		name  string
		wan   string
		encap bool
		mtu   int
	}{
		{"UDP over IPv4", "192.0.2.%d", true, 1400},
		{"protocol 50 over IPv4", "192.0.2.%d", false, 1300},
		{"UDP over IPv6", "2001:db8::%d", true, 1400},
		{"protocol 50 over IPv6, the smallest MTU", "2001:db8::%d", false, 1280},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, _ := newRoutedLab(t, c.mtu)
			l.start(1, netio.Offload(0))
			l.connect(c.wan, c.encap, gcm128, 20, ipsec.Transform{}, 0)
			if a, b := l.outSA(0), l.outSA(1); a.PathMTU != 1500 || b.PathMTU != c.mtu {
				t.Errorf("path MTUs by the routes: %d and %d", a.PathMTU, b.PathMTU)
			}

			// The router drops the first packet, and tells gwA. The second one gwA
			// drops, and tells hostA.
			l.untilTold("10.2.0.2", 1340)
			sa := l.outSA(0)
			if sa.PathMTU != c.mtu || time.Until(sa.PathMTUUntil) < 9*time.Minute || sa.InnerMTU >= c.mtu-40 || sa.InnerMTU < c.mtu-100 {
				t.Fatalf("path MTU %d, inside %d, until %s; counters %v", sa.PathMTU, sa.InnerMTU, sa.PathMTUUntil, l.plane[0].Counters())
			}
			if other := l.outSA(1); other.InnerMTU != sa.InnerMTU {
				t.Errorf("%d octets fit on the way there, %d on the way back", sa.InnerMTU, other.InnerMTU)
			}
			out, err := l.hosts[0].Run(t.Context(), "ip", "route", "get", "10.2.0.2")
			if want := fmt.Sprintf("mtu %d", sa.InnerMTU); err != nil || !strings.Contains(out, want) {
				t.Errorf("hostA knows %s, want %s; counters %v", out, want, l.plane[0].Counters())
			}
			// What fits to the last octet passes, without a fragment on the wire.
			l.onWire()
			before := l.fragments()
			l.forget()
			if out, err := l.pings(3, sa.InnerMTU-28, true, "10.2.0.2"); err != nil {
				t.Errorf("what fits does not pass: %v, %s", err, out)
			}
			// What may be cut is cut before it is sealed.
			if out, err := l.pings(3, 4000, false, "10.2.0.2"); err != nil {
				t.Errorf("a long packet without DF: %v, %s", err, out)
			}
			l.onWire()
			if n := l.plane[0].Counters()["inner-fragmented"]; l.fragments() != before || n == 0 {
				t.Errorf("%d fragments on the wire, %d packets cut before", l.fragments()-before, n)
			}

			// The same inside IPv6.
			l.untilTold("fd00:2::2", 1340)
			fits := max(sa.InnerMTU, 1280)
			out, err = l.hosts[0].Run(t.Context(), "ip", "-6", "route", "get", "fd00:2::2")
			if want := fmt.Sprintf("mtu %d", fits); err != nil || !strings.Contains(out, want) {
				t.Errorf("hostA knows %s, want %s; counters %v", out, want, l.plane[0].Counters())
			}
			if out, err := l.pings(3, fits-48, true, "fd00:2::2"); err != nil {
				t.Errorf("what IPv6 must carry does not pass: %v, %s; counters %v %v", err, out, l.plane[0].Counters(), l.plane[1].Counters())
			}
			if out, err := l.pings(3, 4000, false, "fd00:2::2"); err != nil {
				t.Errorf("IPv6 fragments: %v, %s", err, out)
			}

			// TCP, whose segments are as long as was announced.
			l.forget()
			l.transfer("10.2.0.2:5000", 4<<20)
			l.transfer("[fd00:2::2]:5000", 4<<20)
			for side, p := range l.plane {
				if n := p.Counters()["mss-clamped"]; n < 2 {
					t.Errorf("gateway %d clamped the MSS of %d SYNs", side, n)
				}
			}
		})
	}
}
