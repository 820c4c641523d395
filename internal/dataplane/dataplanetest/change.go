package dataplanetest

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

func testPolicyChange(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	const count = 100
	for n := range count {
		l.send(0, newPacket(0, false, n))
		if n%10 == 0 {
			other := ipsec.Policy{
				Name: "other", Action: ipsec.Discard, Local: []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("10.9.0.0/16"))},
				Remote: []ipsec.Selector{ipsec.FromPrefix(net4[1])},
			}
			l.policies(0, protect(0, false), other)
		}
	}
	for n := range count {
		l.expect(1, newPacket(0, false, n))
	}
}

// testPolicyOrder puts a policy that discards beside the one that protects.
func testPolicyOrder(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	all := protect(0, false)
	wide := ipsec.Policy{Name: "other", Action: ipsec.Discard, Local: all.Local[:1], Remote: all.Remote[:1]}
	narrow := wide
	narrow.Remote = []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(host(net4[1]), 32))}
	ports := wide
	ports.Remote = []ipsec.Selector{wide.Remote[0]}
	ports.Remote[0].Protocol, ports.Remote[0].FirstPort, ports.Remote[0].LastPort = 17, 2000, 2000
	elsewhere := ports
	elsewhere.Remote = []ipsec.Selector{ports.Remote[0]}
	elsewhere.Remote[0].FirstPort, elsewhere.Remote[0].LastPort = 2001, 2001
	with := func(p ipsec.Policy, priority int32) ipsec.Policy { p.Priority = priority; return p }
	dropped := uint64(0)
	for n, c := range []struct {
		name    string
		list    []ipsec.Policy
		carries bool
	}{
		{"the higher priority, though it is wider", []ipsec.Policy{with(narrow, 0), with(all, 1)}, true},
		{"the higher priority, though it is later", []ipsec.Policy{with(all, 0), with(wide, 1)}, false},
		{"a negative priority is below none", []ipsec.Policy{with(narrow, -1), with(all, 0)}, true},
		{"the more specific of equals", []ipsec.Policy{all, narrow}, false},
		{"a port is more specific than none", []ipsec.Policy{all, ports}, false},
		{"another port is another packet's", []ipsec.Policy{all, with(elsewhere, 1)}, true},
		{"the earlier of the same: protect", []ipsec.Policy{all, wide}, true},
		{"the earlier of the same: discard", []ipsec.Policy{wide, all}, false},
	} {
		l.policies(0, c.list...)
		l.send(0, newPacket(0, false, n))
		if c.carries {
			l.expect(1, newPacket(0, false, n))
			continue
		}
		dropped++
		if l.counted(0, "policy-discard", dropped); t.Failed() {
			t.Fatalf("%s: not so", c.name)
		}
	}
	l.expectNone(1)
}

// testSeveralSelectors has an SA for some of the networks on each side, between
// which packets pass in both directions. The other gateway would send and take
// more: what is outside of the SA's selectors is not taken.
func testSeveralSelectors(t *testing.T, l *link) {
	within := func(side int) []ipsec.Selector {
		var list []ipsec.Selector
		for _, third := range []byte{1, 3, 4} {
			a := net4[side].Addr().As4()
			a[2] = third
			list = append(list, ipsec.FromPrefix(netip.PrefixFrom(netip.AddrFrom4(a), 24)))
		}
		return list
	}
	narrow := protect(1, false)
	narrow.Local, narrow.Remote = within(1), within(0)
	rest := protect(1, false)
	rest.Name, rest.Action, rest.Priority = "rest", ipsec.Discard, -1
	l.policies(0, protect(0, false))
	l.policies(1, narrow, rest)
	some := func(sa *ipsec.SA) { sa.LocalTS, sa.RemoteTS = within(1), within(0) }
	l.add(1, ipsec.In, spi+1, some)
	l.add(1, ipsec.Out, spi, some)
	l.add(0, ipsec.In, spi, nil)
	l.add(0, ipsec.Out, spi+1, nil)
	at := func(side int, third byte) netip.Addr {
		a := net4[side].Addr().As4()
		a[2], a[3] = third, 5
		return netip.AddrFrom4(a)
	}
	for side := range 2 {
		for src := byte(1); src <= 5; src++ {
			for dst := byte(1); dst <= 5; dst++ {
				b := newPacketBetween(at(side, src), at(1-side, dst))
				l.send(side, b)
				// Those of before, which are not to arrive, would arrive first.
				if src != 2 && src != 5 && dst != 2 && dst != 5 {
					l.expect(1-side, b)
				}
			}
		}
		l.expectNone(1 - side)
	}
}

// testLife replaces the SAs of a tunnel again and again under continuous
// traffic, as rekeying does.
func testLife(t *testing.T, l *link) {
	l.tunnel(spi, nil)
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		for n := 0; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			case <-time.After(time.Millisecond):
				_ = l.gw[0].Inner.Inject(newPacket(0, false, n), netip.AddrPort{}, netip.AddrPort{})
			}
		}
	}()
	out := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi + 1, Peer: addr4[1]}
	in := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}
	for i := range 10 {
		next := spi + 16 + ipsec.SPI(i)
		nextIn := l.add(1, ipsec.In, next, nil)
		nextOut := l.add(0, ipsec.Out, next, nil)
		l.status(1, nextIn, "packets on the new SA", func(s ipsec.SAStatus) bool { return s.Packets > 0 })
		if err := l.gw[0].DeleteSA(out); err != nil {
			t.Error(err)
		}
		time.Sleep(silence / 2) // what the old one carried arrives
		if err := l.gw[1].DeleteSA(in); err != nil {
			t.Error(err)
		}
		in, out = nextIn, nextOut
	}
	close(stop)
	for n := range <-sent {
		l.expect(1, newPacket(0, false, n))
	}
	l.expectNone(1)
}

// testReplayWindow delivers packets out of order: what is left of the window is
// dropped, what is inside passes once.
func testReplayWindow(t *testing.T, l *link) {
	const window, count = 64, 200
	l.tunnel(spi, func(sa *ipsec.SA) { sa.ReplayWindow = window })
	caught := make(chan netio.Packet, count)
	l.disturb(func(_ int, p *netio.Packet) int {
		caught <- netio.Packet{Buf: bytes.Clone(p.Data()), Local: p.Local, Remote: p.Remote}
		return 0
	})
	pkts := make([]netio.Packet, 0, count)
	for n := range count {
		l.send(0, newPacket(0, false, n))
		pkts = append(pkts, <-caught)
	}
	deliver := func(n int) {
		if err := l.gw[1].Outer.UDP4.Inject(pkts[n].Buf, pkts[n].Local, pkts[n].Remote); err != nil {
			t.Fatal(err)
		}
	}
	const top = count - 1
	for _, n := range []int{3, top, top - 1, top - window + 1, top - 2} {
		deliver(n)
		l.expect(1, newPacket(0, false, n))
	}
	for _, n := range []int{top, top - window, top - window + 1, 4, top - 2} {
		deliver(n)
	}
	l.expectNone(1)
	id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}
	l.status(1, id, "5 drops", func(s ipsec.SAStatus) bool { return s.ReplayDrops == 5 && s.Packets == 5 && s.Sequence == count })
}

// testESN takes an SA with extended sequence numbers over the border of 2^32. The
// receiver sees only the low half, and takes the high half from what it received
// before (RFC 4303, Appendix A).
func testESN(t *testing.T, l *link) {
	l.policies(0, protect(0, false))
	l.policies(1, protect(1, false))
	extended := func(sa *ipsec.SA) { sa.ESN = true }
	in := l.add(1, ipsec.In, spi, extended)
	n := 0
	// In leaps that a window follows: by less than 2^31 of the low half.
	for _, from := range []uint64{0, 1 << 30, 1<<31 + 1<<29, 1<<32 - 4, 1<<32 + 1<<30} {
		out := l.add(0, ipsec.Out, spi, func(sa *ipsec.SA) { sa.ESN, sa.Sequence = true, from })
		for range 8 {
			l.send(0, newPacket(0, false, n))
			l.expect(1, newPacket(0, false, n))
			n++
		}
		l.status(0, out, "its sequence number", func(s ipsec.SAStatus) bool { return s.Sequence == from+8 })
		l.status(1, in, "its sequence number", func(s ipsec.SAStatus) bool { return s.Sequence == from+8 })
		if err := l.gw[0].DeleteSA(out); err != nil {
			t.Fatal(err)
		}
	}

	// Over the border again, the packets the other way round, and twice.
	const count = 16
	caught := make(chan netio.Packet, count)
	l.disturb(func(_ int, p *netio.Packet) int {
		caught <- netio.Packet{Buf: bytes.Clone(p.Data()), Local: p.Local, Remote: p.Remote}
		return 0
	})
	l.add(1, ipsec.In, spi+2, extended)
	for _, from := range []uint64{1 << 31, 1<<32 - count/2} {
		out := l.add(0, ipsec.Out, spi+2, func(sa *ipsec.SA) { sa.ESN, sa.Sequence = true, from })
		var pkts []netio.Packet
		for i := range count {
			l.send(0, newPacket(0, false, i))
			pkts = append(pkts, <-caught)
		}
		for range 2 {
			for i := range count {
				p := pkts[count-1-i]
				if err := l.gw[1].Outer.UDP4.Inject(p.Buf, p.Local, p.Remote); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i := range count {
			l.expect(1, newPacket(0, false, count-1-i))
		}
		l.expectNone(1)
		if err := l.gw[0].DeleteSA(out); err != nil {
			t.Fatal(err)
		}
	}
}
