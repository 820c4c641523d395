package nexthop

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"caponier/internal/lab/netns"
	"caponier/internal/netio/frame"
)

var labs atomic.Int32

const mark = 0xca90

// gateway is a namespace with the link lan to 10.1.0.2 and wan to 192.0.2.2, and
// in the place of a TUN device the dummy end of another link.
type gateway struct {
	t     *testing.T
	ns    netns.NS
	peers [2]netns.NS
	table *Table
	index map[string]int
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{t: t, index: make(map[string]int)}
	id := fmt.Sprintf("cphop-%d-%d", os.Getpid(), labs.Add(1))
	for _, x := range []struct {
		ns   *netns.NS
		name string
	}{{&g.ns, "gw"}, {&g.peers[0], "in"}, {&g.peers[1], "out"}} {
		ns, err := netns.Create(id + x.name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Delete() })
		*x.ns = ns
	}
	g.must(g.ns.Forward())
	for i, x := range []struct{ dev, four, six string }{
		{"lan", "10.1.0.%d/24", "2001:db8:1::%d/64"}, {"wan", "192.0.2.%d/24", "2001:db8::%d/64"},
	} {
		g.must(netns.Link(g.ns, x.dev, g.peers[i], "eth0"))
		for _, f := range []string{x.four, x.six} {
			g.must(g.ns.Addr(x.dev, netip.MustParsePrefix(fmt.Sprintf(f, 1))))
			g.must(g.peers[i].Addr("eth0", netip.MustParsePrefix(fmt.Sprintf(f, 2))))
		}
	}
	g.must(g.ns.IP("tuntap", "add", "tun9", "mode", "tun"))
	g.must(g.ns.IP("link", "set", "tun9", "up"))
	g.must(g.ns.Do(func() (err error) {
		var ports []frame.Port
		list, err := net.Interfaces()
		for _, i := range list {
			g.index[i.Name] = i.Index
			if i.Name == "lan" || i.Name == "wan" {
				ports = append(ports, frame.Port{Name: i.Name, Index: i.Index})
			}
		}
		if err == nil {
			g.table, err = Open(Options{Ports: ports, Inner: g.index["tun9"], Mark: mark})
		}
		return err
	}))
	t.Cleanup(func() { g.table.Close() })
	return g
}

func (g *gateway) must(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

func pair(src, dst string, own bool) frame.Pair {
	return frame.Pair{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Own: own}
}

// wait asks until the answer is as wanted.
func (g *gateway) wait(p frame.Pair, what string, wanted func(*frame.Way) bool) *frame.Way {
	g.t.Helper()
	var w *frame.Way
	for range 1000 {
		if w = g.table.Find(p); w != nil && wanted(w) {
			return w
		}
		time.Sleep(10 * time.Millisecond)
	}
	g.t.Fatalf("%v: %+v is not %s", p, w, what)
	return nil
}

func macOf(t *testing.T, ns netns.NS, dev string) (mac [6]byte) {
	t.Helper()
	err := ns.Do(func() error {
		ifc, err := net.InterfaceByName(dev)
		if err == nil {
			copy(mac[:], ifc.HardwareAddr)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// TestWays finds hosts on both sides and both families, and their link addresses,
// which nobody had asked for before.
func TestWays(t *testing.T) {
	g := newGateway(t)
	for _, x := range []struct {
		pair frame.Pair
		dev  string
		peer int
	}{
		{pair("10.9.0.1", "10.1.0.2", false), "lan", 0},
		{pair("2001:db8:9::1", "2001:db8:1::2", false), "lan", 0},
		{pair("192.0.2.1", "192.0.2.2", true), "wan", 1},
		{pair("2001:db8::1", "2001:db8::2", true), "wan", 1},
	} {
		g.must(g.ns.IP("route", "replace", "10.9.0.0/16", "dev", "tun9"))
		w := g.wait(x.pair, "known", func(w *frame.Way) bool {
			if w.Port == 0 {
				return false
			}
			_, known := w.Neighbor.MAC()
			return known
		})
		mac, _ := w.Neighbor.MAC()
		if w.Port != g.index[x.dev] || w.Src != macOf(t, g.ns, x.dev) || mac != macOf(t, g.peers[x.peer], "eth0") || w.MTU != 1500 || w.Tagged {
			t.Errorf("%v: port %d, from %x to %x, MTU %d", x.pair, w.Port, w.Src, mac, w.MTU)
		}
	}
	// To the gateway itself, and to nowhere, the kernel goes.
	for _, p := range []frame.Pair{
		pair("10.9.0.1", "10.1.0.1", false), pair("10.9.0.1", "203.0.113.9", false), pair("10.9.0.1", "10.9.0.2", false),
	} {
		g.wait(p, "the kernel's", func(w *frame.Way) bool { return w.Port == 0 })
	}
}

// TestWaysChange: routes, MTU, forwarding, and the neighbour's address.
func TestWaysChange(t *testing.T) {
	g := newGateway(t)
	g.must(g.ns.IP("route", "add", "10.9.0.0/16", "dev", "tun9"))
	p, six := pair("10.9.0.1", "10.7.0.7", false), pair("2001:db8:9::1", "2001:db8:1::2", false)
	g.wait(p, "the kernel's", func(w *frame.Way) bool { return w.Port == 0 })
	before := g.table.Generation()
	g.must(g.ns.IP("route", "add", "10.7.0.0/16", "via", "10.1.0.2"))
	g.wait(p, "by the router inside", func(w *frame.Way) bool { return w.Port == g.index["lan"] })
	if g.table.Generation() == before {
		t.Error("the generation is the same")
	}
	g.must(g.ns.IP("link", "set", "lan", "mtu", "1400"))
	g.wait(p, "shorter", func(w *frame.Way) bool { return w.MTU == 1400 })
	g.must(g.ns.IP("route", "replace", "10.7.0.0/16", "via", "10.1.0.2", "mtu", "1300"))
	g.wait(p, "shorter still", func(w *frame.Way) bool { return w.MTU == 1300 })
	mac := [6]byte{2, 0, 0, 0, 0, 9}
	g.must(g.ns.IP("neigh", "replace", "10.1.0.2", "lladdr", "02:00:00:00:00:09", "dev", "lan"))
	g.wait(p, "to another link address", func(w *frame.Way) bool {
		got, known := w.Neighbor.MAC()
		return known && got == mac
	})
	g.wait(six, "by the inside", func(w *frame.Way) bool { return w.Port == g.index["lan"] })
	for _, x := range []struct {
		key  string
		pair frame.Pair
	}{{"net.ipv4.ip_forward=0", p}, {"net.ipv6.conf.all.forwarding=0", six}} {
		if out, err := g.ns.Run(t.Context(), "sysctl", "-w", x.key); err != nil {
			t.Fatal(err, out)
		}
		g.wait(x.pair, "the kernel's, which does not forward", func(w *frame.Way) bool { return w.Port == 0 })
	}
}

// TestStaleNeighborIsConfirmed: the kernel sees nothing of what is sent past it,
// and is told that the neighbour is in use.
func TestStaleNeighborIsConfirmed(t *testing.T) {
	g := newGateway(t)
	p := pair("192.0.2.1", "192.0.2.2", true)
	w := g.wait(p, "known", func(w *frame.Way) bool { _, known := w.Neighbor.MAC(); return w.Port != 0 && known })
	g.must(g.ns.IP("neigh", "change", "192.0.2.2", "dev", "wan", "lladdr", net.HardwareAddr(mac(w)).String(), "nud", "stale"))
	for range 1000 {
		w.Neighbor.MAC() // in use
		out, err := g.ns.Run(t.Context(), "ip", "neigh", "show", "192.0.2.2")
		g.must(err)
		if strings.Contains(out, "REACHABLE") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the neighbour is not confirmed")
}

func mac(w *frame.Way) []byte {
	m, _ := w.Neighbor.MAC()
	return m[:]
}

func TestCloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	table, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if w := table.Find(pair("192.0.2.1", "192.0.2.2", true)); w != nil {
		t.Errorf("found %+v at once", w)
	}
	for range 2 {
		if err := table.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestMessagesOfEveryPrefix: what the kernel would never send is no reason to fall
// over.
func TestMessagesOfEveryPrefix(t *testing.T) {
	decoders := map[string]func([]byte) error{
		"route":     func(b []byte) error { _, err := decodeRoute(b, netip.MustParseAddr("192.0.2.1")); return err },
		"link":      func(b []byte) error { _, err := decodeLink(b); return err },
		"neighbour": func(b []byte) error { _, err := decodeNeighbor(b); return err },
	}
	samples := map[string][]byte{
		"route":     append([]byte{2, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0}, 8, 0, 4, 0, 3, 0, 0, 0, 8, 0, 5, 0, 10, 1, 0, 2),
		"link":      append(make([]byte, linkLen), 10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0, 4, 0, 0xdc, 5, 0, 0),
		"neighbour": append(make([]byte, neighborLen), 8, 0, 1, 0, 192, 0, 2, 2, 10, 0, 2, 0, 2, 0, 0, 0, 0, 1, 0, 0),
	}
	for name, decode := range decoders {
		b := samples[name]
		b = append([]byte(nil), b...)
		if name == "route" {
			b[7] = 1 // RTN_UNICAST
		}
		if err := decode(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range b {
			_ = decode(b[:n]) // must not panic
		}
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(append(make([]byte, linkLen), 10, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 0, 8, 0, 4, 0, 0xdc, 5, 0, 0))
	f.Add(append([]byte{2, 32, 0, 0, 254, 0, 0, 1, 0, 0, 0, 0}, 8, 0, 4, 0, 3, 0, 0, 0, 8, 0, 5, 0, 10, 1, 0, 2))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = decodeRoute(b, netip.MustParseAddr("2001:db8::1"))
		_, _ = decodeLink(b)
		_, _ = decodeNeighbor(b)
	})
}
