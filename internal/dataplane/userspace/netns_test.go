package userspace

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"caponier/internal/capture"
	"caponier/internal/host"
	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/netio"
	"caponier/internal/netio/afpacket"
	"caponier/internal/netio/afxdp"
	"caponier/internal/netio/frame"
	"caponier/internal/netio/nexthop"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

// lab is hostA - gwA = gwB - hostB, each in a namespace.
//
//	hostA 10.1.0.2 -- 10.1.0.1 gwA 192.0.2.1 == 192.0.2.2 gwB 10.2.0.1 -- 10.2.0.2 hostB
//	      fd00:1::2   fd00:1::1    2001:db8::1  2001:db8::2   fd00:2::1   fd00:2::2
type lab struct {
	t     testing.TB
	hosts [2]netns.NS
	gws   [2]netns.NS
	plane [2]*Plane
	host  [2]*host.Host

	capture string // tun if empty
	// captured are the interfaces that it takes, lan and wan if none is named.
	captured []string
	protocol ipsec.Protocol // of the policies and SAs; ESP if 0
	tap      capture.Tap    // of both gateways
	tick     time.Duration
	awake    bool        // the workers stay awake
	outer    ipsec.Outer // of the SAs
	fit      ipsec.Fit
	share    ipsec.AggfragSA

	unwatch func() // ends looking at the wire, which costs who sends

	mu       sync.Mutex
	seen     map[string]int // what was on the wire between the gateways
	tooBig   int
	inTrains int // datagrams that the kernel moved together
}

var labs atomic.Int32

func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, seen: make(map[string]int)}
	id := fmt.Sprintf("cpplane-%d-%d", os.Getpid(), labs.Add(1))
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
		return ns
	}
	for i := range 2 {
		l.hosts[i], l.gws[i] = create(fmt.Sprint("host", i)), create(fmt.Sprint("gw", i))
		must(l.gws[i].Forward())
		must(netns.Link(l.hosts[i], "eth0", l.gws[i], "lan"))
	}
	must(netns.Link(l.gws[0], "wan", l.gws[1], "wan"))
	for i := range 2 {
		for _, f := range []struct{ lan, wan string }{
			{"10.%d.0.%d/24", "192.0.2.%d/24"}, {"fd00:%d::%d/64", "2001:db8::%d/64"},
		} {
			hostAddr := netip.MustParsePrefix(fmt.Sprintf(f.lan, i+1, 2))
			gwAddr := netip.MustParsePrefix(fmt.Sprintf(f.lan, i+1, 1))
			must(l.hosts[i].Addr("eth0", hostAddr))
			must(l.gws[i].Addr("lan", gwAddr))
			must(l.gws[i].Addr("wan", netip.MustParsePrefix(fmt.Sprintf(f.wan, i+1))))
			must(l.hosts[i].Route(anywhere(hostAddr.Addr()), gwAddr.Addr()))
		}
		// Without the tunnel, packets would reach the other side in clear.
		must(l.gws[i].Route(netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", 2-i)), netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", 2-i))))
		must(l.gws[i].Route(netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/48", 2-i)), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", 2-i))))
	}
	capture, err := l.gws[0].Watch(l.see)
	must(err)
	l.unwatch = sync.OnceFunc(func() { capture.Close() })
	t.Cleanup(l.unwatch)
	return l
}

func anywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// see notes packets between the gateways' outer addresses, and any that shows
// an inner one outside of the LAN and TUN devices.
func (l *lab) see(f netns.Frame) {
	wan, err := l.index("wan")
	if err != nil || f.Interface != wan || len(f.Data) < 14 {
		return
	}
	b := f.Data[14:]
	var info packet.Info
	if info.Decode(b); info.Version == 0 {
		return // ARP
	}
	what := fmt.Sprintf("protocol %d", info.Protocol)
	switch {
	case info.Protocol == packet.ProtocolUDP:
		what = fmt.Sprintf("UDP %d-%d", info.SrcPort, info.DstPort)
	case info.Protocol == packet.ProtocolICMPv6 && info.SrcPort>>8 >= 130 && info.SrcPort>>8 <= 143:
		return // neighbour discovery and multicast
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[what]++
	if info.TotalLen > 1500 || info.IsFragment() {
		l.tooBig++
	}
	if f.Train {
		l.inTrains++
	}
}

// fragments returns how many packets on the wire were fragments or too long.
func (l *lab) fragments() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tooBig
}

var wanIndex sync.Map

func (l *lab) index(dev string) (int, error) {
	if n, ok := wanIndex.Load(l.gws[0].Name); ok {
		return n.(int), nil
	}
	out, err := l.gws[0].Run(context.Background(), "cat", "/sys/class/net/"+dev+"/ifindex")
	if err != nil {
		return 0, err
	}
	var n int
	_, err = fmt.Sscan(out, &n)
	wanIndex.Store(l.gws[0].Name, n)
	return n, err
}

// onWire returns what was seen since the last call.
func (l *lab) onWire() map[string]int {
	time.Sleep(100 * time.Millisecond) // the capture runs behind
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen
	l.seen = make(map[string]int)
	return seen
}

func (l *lab) side(side int) []ipsec.Selector {
	return []ipsec.Selector{
		ipsec.FromPrefix(netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", side+1))),
		ipsec.FromPrefix(netip.MustParsePrefix(fmt.Sprintf("fd00:%d::/48", side+1))),
	}
}

func (l *lab) policies(side int) []ipsec.Policy {
	return []ipsec.Policy{{
		Name: "lan", Action: ipsec.Protect, ReqID: 1, Local: l.side(side), Remote: l.side(1 - side),
		Protocol: l.protocol,
	}}
}

// start opens the planes in the gateways.
func (l *lab) start(workers int, without netio.Offload) {
	l.t.Helper()
	for i := range l.gws {
		err := l.gws[i].Do(func() error {
			d, name, err := Open(OpenOptions{Name: "capo0", Workers: workers, Mark: host.Mark, Without: without, Apart: l.awake})
			if err != nil {
				return err
			}
			if d.Frames, err = openFrames(l.capture, l.captured, workers, name, l.awake); err != nil {
				return err
			}
			steer := func(frame.Steering) error { return nil }
			if d.Frames != nil {
				steer = d.Frames.Steer
			}
			if l.plane[i], err = New(Options{
				Devices: d, Rand: rand.Reader, RouteMTU: l.routeMTU(i), Tap: &l.tap, Tick: l.tick, StayAwake: l.awake,
			}); err != nil {
				return err
			}
			if err := l.plane[i].SetPolicies(l.policies(i)); err != nil {
				return err
			}
			if l.host[i], err = host.Open(host.Options{Device: name, Steer: steer}); err != nil {
				return err
			}
			return l.host[i].Set(host.FromPolicies(l.policies(i)))
		})
		if err != nil {
			l.t.Fatal(err)
		}
		l.t.Cleanup(func() { l.plane[i].Close(); l.host[i].Close() })
	}
}

// openFrames opens a capture of frames on the interfaces of these names, or on both
// of a gateway.
func openFrames(kind string, names []string, queues int, tun string, apart bool) (*frame.Hub, error) {
	if len(names) == 0 {
		names = []string{"lan", "wan"}
	}
	var c frame.Capture
	var err error
	switch kind {
	case "":
		return nil, nil
	case "afpacket":
		c, err = afpacket.Open(afpacket.Options{Interfaces: names, Queues: queues, Apart: apart})
	case "afxdp":
		c, err = afxdp.Open(names, afxdp.Options{Apart: apart})
	default:
		err = fmt.Errorf("no capture %q", kind)
	}
	if err != nil {
		return nil, err
	}
	ifc, err := net.InterfaceByName(tun)
	if err != nil {
		return nil, err
	}
	ways, err := nexthop.Open(nexthop.Options{Ports: c.Ports(), Inner: ifc.Index, Mark: host.Mark})
	if err != nil {
		return nil, err
	}
	return frame.NewHub(c, ways), nil
}

// routeMTU asks the system of a gateway.
func (l *lab) routeMTU(side int) func(local, remote netip.Addr) int {
	return func(local, remote netip.Addr) int {
		if l.host[side] == nil {
			return 0
		}
		w, err := l.host[side].Lookup(local, remote, host.Mark)
		if err != nil {
			return 0
		}
		return w.MTU
	}
}

// connect adds SAs between the gateways' outer addresses of one family.
func (l *lab) connect(wan string, encap bool, encr ipsec.Transform, keyLen int, integ ipsec.Transform, integLen int) {
	l.t.Helper()
	keys := make(map[ipsec.SPI][2][]byte)
	add := func(side int, d ipsec.Direction, spi ipsec.SPI) {
		l.t.Helper()
		if _, ok := keys[spi]; !ok {
			k := make([]byte, keyLen+integLen)
			rand.Read(k)
			keys[spi] = [2][]byte{k[:keyLen], k[keyLen:]}
		}
		addr := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(wan, i+1)), DefaultPort)
		}
		err := l.plane[side].AddSA(ipsec.SA{
			SPI: spi, Protocol: cmp.Or(l.protocol, ipsec.ESP), Direction: d, Local: addr(side), Remote: addr(1 - side), Encap: encap,
			Encr: encr, EncrKey: secret.Copy(keys[spi][0]), Integ: integ, IntegKey: secret.Copy(keys[spi][1]),
			ReqID: 1, LocalTS: l.side(side), RemoteTS: l.side(1 - side), Outer: l.outer, Fit: l.fit, Aggfrag: l.share,
		})
		if err != nil {
			l.t.Fatal(err)
		}
	}
	var spi [2]ipsec.SPI
	for i := range spi {
		var err error
		if spi[i], err = l.plane[i].AllocateSPI(cmp.Or(l.protocol, ipsec.ESP)); err != nil {
			l.t.Fatal(err)
		}
		add(i, ipsec.In, spi[i])
	}
	for i := range spi {
		add(i, ipsec.Out, spi[1-i])
	}
}

// ping asks a few times: the first packet may only bring the path MTU back.
func (l *lab) ping(address string, size int) error {
	_, err := l.hosts[0].Run(context.Background(), "ping", "-c", "4", "-i", "0.05", "-W", "1", "-s", fmt.Sprint(size), address)
	return err
}

// blocked reports whether nothing answers pings.
func (l *lab) blocked(addresses ...string) bool {
	for _, a := range addresses {
		if _, err := l.hosts[0].Run(context.Background(), "ping", "-c", "2", "-i", "0.05", "-W", "0.3", a); err == nil {
			return false
		}
	}
	return true
}

// transfer sends n octets over TCP from hostA to address at hostB and compares
// what arrives.
func (l *lab) transfer(address string, n int) {
	l.t.Helper()
	ln, err := l.hosts[1].Listen("tcp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	defer ln.Close()
	data := make([]byte, n)
	rand.Read(data)
	got := make(chan [sha256.Size]byte, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		h := sha256.New()
		io.Copy(h, c)
		got <- [sha256.Size]byte(h.Sum(nil))
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := l.hosts[0].Dial(ctx, "tcp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(c, bytes.NewReader(data)); err != nil {
		l.t.Fatal(err)
	}
	c.Close()
	select {
	case sum := <-got:
		if sum != sha256.Sum256(data) {
			l.t.Error("TCP brought something else")
		}
	case <-ctx.Done():
		l.t.Error("TCP did not finish")
	}
}

var (
	gcm128 = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}
	cbc256 = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 256}
	sha512 = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA512256}
)

func TestTwoGateways(t *testing.T) {
	cases := []struct {
		name    string
		wan     string
		encap   bool
		workers int
		cbc     bool
		wire    string
		without netio.Offload
		trains  bool // trains of datagrams reach the other gateway whole
		capture string
		awake   bool
	}{
		{"UDP over IPv4", "192.0.2.%d", true, 1, false, "UDP 4500-4500", 0, false, "", false},
		{"UDP over IPv4, trains", "192.0.2.%d", true, 1, false, "UDP 4500-4500", 0, true, "", false},
		{"UDP over IPv4, no offloads", "192.0.2.%d", true, 1, false, "UDP 4500-4500", netio.NoOffload, true, "", false},
		{"UDP over IPv6, longest headers, two workers", "2001:db8::%d", true, 2, true, "UDP 4500-4500", 0, false, "", false},
		{"protocol 50 over IPv4, two workers", "192.0.2.%d", false, 2, false, "protocol 50", 0, true, "", false},
		{"protocol 50 over IPv6", "2001:db8::%d", false, 1, false, "protocol 50", 0, true, "", false},
		{"packet sockets, UDP over IPv4", "192.0.2.%d", true, 1, false, "UDP 4500-4500", 0, true, "afpacket", false},
		{"packet sockets, UDP over IPv6, two workers", "2001:db8::%d", true, 2, true, "UDP 4500-4500", 0, true, "afpacket", false},
		{"packet sockets, protocol 50 over IPv4, two workers", "192.0.2.%d", false, 2, false, "protocol 50", 0, true, "afpacket", false},
		{"packet sockets, protocol 50 over IPv6", "2001:db8::%d", false, 1, false, "protocol 50", 0, true, "afpacket", false},
		{"AF_XDP, UDP over IPv4", "192.0.2.%d", true, 1, false, "UDP 4500-4500", netio.OffloadUDPSend, true, "afxdp", false},
		{"AF_XDP, protocol 50 over IPv6", "2001:db8::%d", false, 1, false, "protocol 50", 0, true, "afxdp", false},
		{"awake, UDP over IPv4", "192.0.2.%d", true, 1, false, "UDP 4500-4500", 0, true, "", true},
		{"awake, protocol 50 over IPv6, two workers", "2001:db8::%d", false, 2, true, "protocol 50", 0, true, "", true},
		{"awake, packet sockets, UDP over IPv4, two workers", "192.0.2.%d", true, 2, false, "UDP 4500-4500", 0, true, "afpacket", true},
		{"awake, AF_XDP, UDP over IPv4", "192.0.2.%d", true, 1, false, "UDP 4500-4500", netio.OffloadUDPSend, true, "afxdp", true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.capture, l.awake = c.capture, c.awake
			if !c.trains {
				// The device cuts trains, so that the capture sees what a wire
				// would carry.
				for i := range l.gws {
					if _, err := l.gws[i].Run(t.Context(), "ip", "link", "set", "wan", "gso_max_segs", "1"); err != nil {
						t.Fatal(err)
					}
				}
			}
			l.start(c.workers, c.without)
			if !l.blocked("10.2.0.2", "fd00:2::2") {
				t.Error("a ping was answered without an SA")
			}
			if seen := l.onWire(); len(seen) != 0 {
				t.Errorf("on the wire without an SA: %v", seen)
			}
			if c.cbc {
				l.connect(c.wan, c.encap, cbc256, 32, sha512, 64)
			} else {
				l.connect(c.wan, c.encap, gcm128, 20, ipsec.Transform{}, 0)
			}
			for _, address := range []string{"10.2.0.2", "fd00:2::2"} {
				for _, size := range []int{0, 56, 1300, 4000} {
					if err := l.ping(address, size); err != nil {
						t.Errorf("%v; counters %v and %v", err, l.plane[0].Counters(), l.plane[1].Counters())
					}
				}
			}
			l.transfer("10.2.0.2:5000", 4<<20)
			l.transfer("[fd00:2::2]:5000", 4<<20)
			// The gateway itself uses its inner address.
			if _, err := l.gws[0].Run(context.Background(), "ping", "-c", "1", "-W", "2", "10.2.0.2"); err != nil {
				t.Error(err)
			}
			seen := l.onWire()
			whole := c.trains && c.encap && c.without&netio.OffloadUDPSend == 0
			least := 1000
			if c.capture == "afxdp" {
				least = 1 // what it sends passes no tap: only what the kernel sent is seen
			}
			if len(seen) != 1 || seen[c.wire] < least {
				t.Errorf("on the wire: %v, want only %s", seen, c.wire)
			}
			if n := l.fragments(); n != 0 {
				t.Errorf("%d packets were fragments, or longer than 1,500 octets", n)
			}
			if (l.inTrains != 0) != whole {
				t.Errorf("%d datagrams went in trains", l.inTrains)
			}

			if c.capture != "" {
				for i := range l.plane {
					n := l.plane[i].Counters()
					carried := n["frames-sent"] >= 300 && n["frames-by-kernel"] <= n["frames-sent"]/4
					if c.capture == "afxdp" { // what travels as one leaves by the kernel
						carried = n["frames-sent"] > 0 && n["xdp-inner"]+n["xdp-outer"] > 200
					}
					if !carried || n["frames-unsent"] != 0 || n["frames-foreign"] != 0 {
						t.Errorf("gateway %d: %v", i, n)
					}
				}
			}

			// A crash: the TUN device goes, what refuses stays.
			l.plane[0].Close()
			if !l.blocked("10.2.0.2", "fd00:2::2") {
				t.Error("a ping was answered without the data plane")
			}
			if seen := l.onWire(); len(seen) != 0 {
				t.Errorf("on the wire without the data plane: %v", seen)
			}
		})
	}
}

// BenchmarkTCP compares one TCP flow through the tunnel with plain forwarding
// over the same links.
func BenchmarkTCP(b *testing.B) {
	for _, tunnel := range []bool{false, true} {
		b.Run(fmt.Sprintf("tunnel=%v", tunnel), func(b *testing.B) {
			const size = 32 << 20
			l := newLab(b)
			if tunnel {
				l.start(1, 0)
				l.connect("192.0.2.%d", true, gcm128, 20, ipsec.Transform{}, 0)
			}
			b.SetBytes(size)
			for b.Loop() {
				l.transfer("10.2.0.2:5000", size)
			}
		})
	}
}
