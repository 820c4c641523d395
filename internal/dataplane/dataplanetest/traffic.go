package dataplanetest

import (
	"net/netip"
	"testing"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

var trafficTests = map[string]func(*testing.T, *link){
	"both families over both":                   testFamilies,
	"order is kept":                             testOrder,
	"no policy, no packet":                      testNoPolicy,
	"no SA, no packet":                          testNoSA,
	"acquire is raised once and packets held":   testAcquire,
	"acquire is raised again for a narrow SA":   testAcquireNarrow,
	"a replayed packet is dropped":              testReplay,
	"a changed packet is dropped":               testIntegrity,
	"an unknown SPI is dropped":                 testUnknownSPI,
	"selectors of the very SA are checked":      testSelectors,
	"an SA has several selectors on each side":  testSeveralSelectors,
	"the newest SA carries, none is lost":       testRekey,
	"the one added last carries":                testAddedLast,
	"first use is told once":                    testFirstUse,
	"lifetimes by packets":                      testPacketLifetime,
	"lifetimes by octets":                       testByteLifetime,
	"lifetimes by time":                         testTimeLifetime,
	"a new NAT mapping is told, and can be set": testMapping,
	"NAT mappings change under traffic":         testMappingsUnderTraffic,
	"an outbound SA moves often":                testMovesOften,
	"policies change without disturbance":       testPolicyChange,
	"policies have an order":                    testPolicyOrder,
	"SAs come and go under traffic":             testLife,
	"a replay window has its size":              testReplayWindow,
	"transport mode keeps the header":           testTransport,
	"transport mode and lengths":                testTransportLengths,
	"transport mode takes fragments whole":      testTransportFragments,
	"ports of fragments":                        testPortFragments,
	"transport mode through NAT":                testTransportNAT,
	"selectors in transport mode":               testTransportSelectors,
	"extended sequence numbers roll over":       testESN,
	"AH in tunnel mode":                         testAHTunnel,
	"AH in transport mode":                      testAHTransport,
	"AH drops what is not authentic":            testAHDrops,
	"AH around ESP":                             testBundle,
	"both SAs of a bundle, and no others":       testBundleStrict,
	"a bundle waits for both SAs":               testBundleAcquire,
}

const spi = ipsec.SPI(0xc0ffee00)

func testFamilies(t *testing.T, l *link) {
	cases := []struct {
		name   string
		device *netio.Mem
		addr   [2]netip.Addr
		encap  bool
	}{
		{"UDP over IPv4", l.gw[0].Outer.UDP4, addr4, true},
		{"UDP over IPv6", l.gw[0].Outer.UDP6, addr6, true},
		{"protocol 50 over IPv4", l.gw[0].Outer.ESP4, addr4, false},
		{"protocol 50 over IPv6", l.gw[0].Outer.ESP6, addr6, false},
	}
	for i, c := range cases {
		if c.device == nil {
			continue
		}
		first := spi + ipsec.SPI(8*i)
		l.tunnel(first, func(sa *ipsec.SA) {
			side := 0
			if sa.Local.Addr() == addr4[1] {
				side = 1
			}
			sa.Local, sa.Remote = netip.AddrPortFrom(c.addr[side], port), netip.AddrPortFrom(c.addr[1-side], port)
			sa.Encap = c.encap
		})
		for n := range 10 {
			for side := range 2 {
				for _, v6 := range []bool{false, true} {
					b := newPacket(side, v6, n)
					l.send(side, b)
					l.expect(1-side, b)
				}
			}
		}
		id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: first}
		l.status(0, id, "20 packets over "+c.name, func(s ipsec.SAStatus) bool {
			return s.Packets == 20 && s.Sequence == 20 && s.Bytes > 20*40 && !s.Used.IsZero()
		})
		for side := range 2 {
			out := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: first + ipsec.SPI(1-side), Peer: c.addr[1-side]}
			if err := l.gw[side].DeleteSA(out); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func testOrder(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	const count = 200
	for n := range count {
		l.send(0, newPacket(0, false, n))
	}
	for n := range count {
		l.expect(1, newPacket(0, false, n))
	}
}

func testNoPolicy(t *testing.T, l *link) {
	if !l.gw[0].Unmatched {
		l.send(0, newPacket(0, false, 1))
		l.counter(0, "no-policy", 1)
		l.send(0, []byte("no IP packet"))
		l.counter(0, "malformed", 1)
	}
	discard := protect(0, false)
	discard.Action = ipsec.Discard
	l.policies(0, discard)
	l.send(0, newPacket(0, false, 2))
	l.counter(0, "policy-discard", 1)
	if n := l.onTheWire(); n != 0 {
		t.Errorf("%d packets on the wire", n)
	}
}

func testNoSA(t *testing.T, l *link) {
	l.policies(0, protect(0, false))
	l.send(0, newPacket(0, false, 1))
	reason := "no-sa"
	if l.gw[0].Blocks {
		reason = "policy-discard"
	}
	l.counter(0, reason, 1)
	noEvent[ipsec.Acquire](l, 0)
	if n := l.onTheWire(); n != 0 {
		t.Errorf("%d packets on the wire", n)
	}
}

func testAcquire(t *testing.T, l *link) {
	l.policies(0, protect(0, true))
	l.policies(1, protect(1, true))
	const count = 5
	for n := range count {
		l.send(0, newPacket(0, false, n))
	}
	got := event[ipsec.Acquire](l, 0)
	want := ipsec.Acquire{
		Policy: "peer/lan", Connection: "peer", Tunnel: "lan", ReqID: 1,
		Flow: ipsec.Flow{Src: host(net4[0]), Dst: host(net4[1]), Protocol: 17, SrcPort: 1000, DstPort: 2000},
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	noEvent[ipsec.Acquire](l, 0)
	if n := l.onTheWire(); n != 0 {
		t.Fatalf("%d packets on the wire before there is an SA", n)
	}
	l.add(1, ipsec.In, spi, nil)
	l.add(0, ipsec.Out, spi, nil)
	for n := range count {
		l.expect(1, newPacket(0, false, n))
	}
	l.send(0, newPacket(0, false, count))
	l.expect(1, newPacket(0, false, count))

	// Far more than is held: the others leave, in order.
	if err := l.gw[0].DeleteSA(ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi, Peer: addr4[1]}); err != nil {
		t.Fatal(err)
	}
	// Behind the flood is one that is counted.
	last := protect(0, false)
	last.Name, last.Action = "last", ipsec.Discard
	last.Remote = []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(host(net4[1]).Next(), 32))}
	last.Local = last.Local[:1]
	l.policies(0, protect(0, true), last)
	const flood = 250
	for n := range flood {
		l.send(0, newPacket(0, false, n))
	}
	l.send(0, newPacketBetween(host(net4[0]), last.Remote[0].First))
	event[ipsec.Acquire](l, 0)
	l.counter(0, "policy-discard", 1)
	first, end := 0, l.gw[0].KeepsFirst
	if end == 0 {
		for late := time.Now().Add(patience); l.gw[0].Counters()["hold-overflow"] == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(late) {
				t.Fatal("no packet of the flood was dropped")
			}
		}
		time.Sleep(silence)
		first, end = int(l.gw[0].Counters()["hold-overflow"]), flood
	}
	l.add(1, ipsec.In, spi+2, nil)
	l.add(0, ipsec.Out, spi+2, nil)
	for n := first; n < end; n++ {
		l.expect(1, newPacket(0, false, n))
	}
}

func testAcquireNarrow(t *testing.T, l *link) {
	l.policies(0, protect(0, true))
	l.policies(1, protect(1, true))
	l.add(0, ipsec.Out, spi, func(sa *ipsec.SA) { sa.LocalTS = sa.LocalTS[:1]; sa.RemoteTS = sa.RemoteTS[:1] })
	l.send(0, newPacket(0, true, 1)) // IPv6, which the SA does not cover
	event[ipsec.Acquire](l, 0)
	l.add(1, ipsec.In, spi+2, nil)
	l.add(0, ipsec.Out, spi+2, func(sa *ipsec.SA) { sa.LocalTS = sa.LocalTS[1:]; sa.RemoteTS = sa.RemoteTS[1:] })
	l.expect(1, newPacket(0, true, 1))
}

func testReplay(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	l.disturb(func(int, *netio.Packet) int { return 3 })
	for n := range 10 {
		b := newPacket(0, false, n)
		l.send(0, b)
		l.expect(1, b)
	}
	l.expectNone(1)
	id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}
	l.status(1, id, "20 replays", func(s ipsec.SAStatus) bool { return s.ReplayDrops == 20 && s.Packets == 10 })
}

func testIntegrity(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	for i := range 40 {
		l.disturb(func(_ int, p *netio.Packet) int {
			p.Data()[8+i%(p.Len-8)] ^= 1 // anywhere behind the header
			return 1
		})
		l.send(0, newPacket(0, false, i))
	}
	l.expectNone(1)
	id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}
	l.status(1, id, "40 failed checks", func(s ipsec.SAStatus) bool { return s.IntegrityDrops == 40 && s.Packets == 0 })
	l.disturb(nil)
	l.send(0, newPacket(0, false, 99))
	l.expect(1, newPacket(0, false, 99))
}

func testUnknownSPI(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	if err := l.gw[1].DeleteSA(ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}); err != nil {
		t.Fatal(err)
	}
	l.send(0, newPacket(0, false, 1))
	l.counter(1, "sa-not-found", 1)
	l.expectNone(1)
}

func testSelectors(t *testing.T, l *link) {
	l.policies(0, protect(0, false))
	if l.gw[1].PolicySelectors {
		narrow := protect(1, false)
		narrow.Remote = []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("10.1.99.0/24"))}
		l.policies(1, narrow)
		id := l.add(1, ipsec.In, spi, nil)
		l.add(0, ipsec.Out, spi, nil)
		l.send(0, newPacket(0, false, 1))
		l.status(1, id, "packet", func(s ipsec.SAStatus) bool { return s.Packets == 1 })
		l.expectNone(1)
		narrow.Remote = protect(1, false).Remote
		l.policies(1, narrow)
		l.send(0, newPacket(0, false, 2))
		l.expect(1, newPacket(0, false, 2))
		return
	}
	l.policies(1, protect(1, false)) // would admit the packet
	l.add(0, ipsec.Out, spi, nil)
	id := l.add(1, ipsec.In, spi, func(sa *ipsec.SA) {
		sa.RemoteTS = []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("10.1.99.0/24"))}
	})
	l.add(1, ipsec.In, spi+2, nil) // another SA that does cover it
	l.send(0, newPacket(0, false, 1))
	l.status(1, id, "selector drop", func(s ipsec.SAStatus) bool { return s.SelectorDrops == 1 })
	l.expectNone(1)
	l.counter(1, "sa-selector", 1)
}

func testRekey(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	n := 0
	stream := func() {
		for range 50 {
			l.send(0, newPacket(0, false, n))
			n++
		}
	}
	stream()
	l.add(1, ipsec.In, spi+3, nil)
	stream()
	l.add(0, ipsec.Out, spi+3, nil)
	stream()
	for i := range n {
		l.expect(1, newPacket(0, false, i))
	}
	if err := l.gw[0].DeleteSA(ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi + 1, Peer: addr4[1]}); err != nil {
		t.Fatal(err)
	}
	l.send(0, newPacket(0, false, n))
	l.expect(1, newPacket(0, false, n))
	id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 3}
	l.status(1, id, "packets on the new SA", func(s ipsec.SAStatus) bool { return s.Packets >= 1 })
	l.send(0, newPacket(0, false, n+1))
	l.expect(1, newPacket(0, false, n+1))
}

// testAddedLast adds several SAs at once, as crossing exchanges of IKE do: time
// does not tell which is the newest.
func testAddedLast(t *testing.T, l *link) {
	l.policies(0, protect(0, false))
	l.policies(1, protect(1, false))
	const rounds = 8
	for n := range rounds {
		var last, lastIn ipsec.SAID
		for i := range 4 {
			// Neither their order by SPI nor by its octets is that of their age.
			one := spi + ipsec.SPI(uint32(4*n+i)*2654435761>>8&0xffff)<<8
			lastIn = l.add(1, ipsec.In, one, nil)
			last = l.add(0, ipsec.Out, one, nil)
		}
		for i := range 5 {
			l.send(0, newPacket(0, false, i))
			l.expect(1, newPacket(0, false, i))
		}
		l.status(0, last, "all packets", func(s ipsec.SAStatus) bool { return s.Packets == 5 && s.Sequence == 5 })
		l.status(1, lastIn, "all packets", func(s ipsec.SAStatus) bool { return s.Packets == 5 })
		// Where it goes, the one before it carries again.
		if err := l.gw[0].DeleteSA(last); err != nil {
			t.Fatal(err)
		}
		l.send(0, newPacket(0, false, 5))
		l.expect(1, newPacket(0, false, 5))
	}
}

func testFirstUse(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	for n := range 3 {
		l.send(0, newPacket(0, false, n))
		l.expect(1, newPacket(0, false, n))
	}
	got := event[ipsec.FirstUse](l, 1)
	want := ipsec.FirstUse{ID: ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}, Connection: "peer", Tunnel: "lan"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	noEvent[ipsec.FirstUse](l, 1)
}

// expires sends packets until both limits of an SA of gateway side have passed.
func expires(t *testing.T, l *link, side int, id ipsec.SAID) {
	t.Helper()
	for i, hard := range []bool{false, true} {
		got := event[ipsec.Expire](l, side)
		want := ipsec.Expire{ID: id, Connection: "peer", Tunnel: "lan", Hard: hard}
		if got != want {
			t.Fatalf("event %d: got %+v, want %+v", i, got, want)
		}
	}
	noEvent[ipsec.Expire](l, side)
	for _, s := range l.gw[side].SAs() {
		if s.ID == id {
			t.Errorf("%v is still there after its hard limit", id)
		}
	}
}

func testPacketLifetime(t *testing.T, l *link) {
	limits := ipsec.Lifetime{Soft: ipsec.Limit{Packets: 3}, Hard: ipsec.Limit{Packets: 6}}
	l.tunnel(spi, func(sa *ipsec.SA) {
		if sa.Direction == ipsec.Out {
			sa.Lifetime = limits
		}
	})
	for n := range 10 {
		l.send(0, newPacket(0, false, n))
	}
	expires(t, l, 0, ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi + 1, Peer: addr4[1]})
	for n := range 6 {
		l.expect(1, newPacket(0, false, n))
	}
	l.expectNone(1)

	l.add(1, ipsec.In, spi+4, func(sa *ipsec.SA) { sa.Lifetime = limits })
	l.add(0, ipsec.Out, spi+4, nil)
	for n := range 10 {
		l.send(0, newPacket(0, false, n))
	}
	expires(t, l, 1, ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 4})
	for n := range 6 {
		l.expect(1, newPacket(0, false, n))
	}
	l.expectNone(1)
}

func testByteLifetime(t *testing.T, l *link) {
	size := uint64(len(newPacket(0, false, 0)))
	l.tunnel(spi, func(sa *ipsec.SA) {
		if sa.Direction == ipsec.Out {
			sa.Lifetime = ipsec.Lifetime{Soft: ipsec.Limit{Bytes: 2 * size}, Hard: ipsec.Limit{Bytes: 4 * size}}
		}
	})
	for n := range 4 {
		l.send(0, newPacket(0, false, n))
		l.expect(1, newPacket(0, false, n))
	}
	l.send(0, newPacket(0, false, 4))
	expires(t, l, 0, ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi + 1, Peer: addr4[1]})
	l.expectNone(1)
}

func testTimeLifetime(t *testing.T, l *link) {
	soft, hard := 30*time.Millisecond, 120*time.Millisecond
	if l.gw[0].Coarse {
		soft, hard = time.Second, 10*time.Second
	}
	id := l.add(0, ipsec.In, spi, func(sa *ipsec.SA) {
		sa.Lifetime = ipsec.Lifetime{Soft: ipsec.Limit{Time: soft}, Hard: ipsec.Limit{Time: hard}}
	})
	expires(t, l, 0, id)
}

func testMapping(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	mapped := netip.MustParseAddrPort("198.51.100.9:61234")
	l.disturb(func(from int, p *netio.Packet) int {
		if from == 0 {
			p.Local = mapped // a NAT in between
		}
		return 1
	})
	for n := range 3 {
		l.send(0, newPacket(0, false, n))
		l.expect(1, newPacket(0, false, n))
	}
	in := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}
	got := event[ipsec.AddressChanged](l, 1)
	if want := (ipsec.AddressChanged{ID: in, Connection: "peer", Tunnel: "lan", Remote: mapped}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	noEvent[ipsec.AddressChanged](l, 1)

	// Nobody but control decides to follow.
	seen := make(chan netip.AddrPort, 8)
	l.disturb(func(from int, p *netio.Packet) int {
		if from == 1 {
			seen <- p.Remote
			p.Remote = netip.AddrPortFrom(addr4[0], port) // the way back through the NAT
		}
		return 1
	})
	l.send(1, newPacket(1, false, 0))
	if to := <-seen; to != netip.AddrPortFrom(addr4[0], port) {
		t.Errorf("the plane sends to %v on its own", to)
	}
	l.expect(0, newPacket(1, false, 0))
	out := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi, Peer: addr4[0]}
	u := dataplane.AddressUpdate{Local: netip.AddrPortFrom(addr4[1], port), Remote: mapped, Encap: true}
	for _, id := range []ipsec.SAID{in, out} {
		if err := l.gw[1].UpdateSA(id, u); err != nil {
			t.Fatal(err)
		}
	}
	l.send(1, newPacket(1, false, 1))
	if to := <-seen; to != mapped {
		t.Errorf("after the update the plane sends to %v", to)
	}
	l.expect(0, newPacket(1, false, 1))
	out.Peer = mapped.Addr()
	l.status(1, out, "2 as its sequence number", func(s ipsec.SAStatus) bool { return s.Sequence == 2 })
}
