package dataplanetest

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

var hmacSHA256 = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}

// asAH makes an SA of the suite one of AH, over the family of addr.
func asAH(sa *ipsec.SA, side int, addr [2]netip.Addr, m ipsec.Mode) {
	sa.Protocol, sa.Mode, sa.Encap = ipsec.AH, m, false
	sa.Encr, sa.EncrKey = ipsec.Transform{}, secret.Key{}
	sa.Integ, sa.IntegKey = hmacSHA256, secret.New(bytes.Repeat([]byte{byte(sa.SPI), 0x5a, 2, 3}, 8))
	sa.Local, sa.Remote = netip.AddrPortFrom(addr[side], 0), netip.AddrPortFrom(addr[1-side], 0)
}

// sideOf is the gateway that an SA of the suite is at.
func sideOf(sa *ipsec.SA) int {
	if a := sa.Local.Addr(); a == addr4[1] || a == addr6[1] {
		return 1
	}
	return 0
}

func testAHControl(t *testing.T, b *Instance) {
	var added []ipsec.SAID
	for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		esp := newSA(d, 0xc0000001, 0)
		if err := b.AddSA(esp); err != nil {
			t.Fatal(err)
		}
		for _, m := range []ipsec.Mode{ipsec.Tunnel, ipsec.Transport} {
			sa := newSA(d, 0xc0000001+ipsec.SPI(m), 0)
			asAH(&sa, 0, addr4, m)
			if err := b.AddSA(sa); err != nil {
				t.Fatalf("AH, %s, %s: %v", d, m, err)
			}
			added = append(added, sa.ID())
			if err := b.UpdateSA(sa.ID(), dataplane.AddressUpdate{Local: esp.Local, Remote: esp.Remote, Encap: true}); !errors.Is(err, dataplane.ErrEncap) {
				t.Errorf("AH, %s, %s, moved into UDP: %v", d, m, err)
			}
		}
		in := newSA(d, 0xc0000009, 0)
		asAH(&in, 0, addr4, ipsec.Tunnel)
		in.Encap = true
		if err := b.AddSA(in); !errors.Is(err, dataplane.ErrEncap) {
			t.Errorf("AH, %s, in UDP: %v", d, err)
		}
		mixed := newSA(d, 0xc000000a, 0)
		mixed.Protocol, mixed.Encap = ipsec.AH, false
		if err := b.AddSA(mixed); !errors.Is(err, dataplane.ErrTransform) {
			t.Errorf("AH, %s, with encryption: %v", d, err)
		}
	}
	if n := len(b.SAs()); n != 6 {
		t.Errorf("%d SAs, want 6", n)
	}
	for _, id := range added {
		if err := b.DeleteSA(id); err != nil {
			t.Error(err)
		}
	}
	for _, s := range b.SAs() {
		if s.ID.Protocol != ipsec.ESP {
			t.Errorf("%v is left", s.ID)
		}
	}
}

// carriesAH reports whether the backend takes AH from devices of the test. Its
// packets can be read by everybody.
func (l *link) carriesAH() bool {
	l.legible = true
	return l.wholeDevices() && l.gw[0].Outer.AH4 != nil && l.gw[0].Outer.AH6 != nil
}

// policyAH gives a policy of the suite the protocol AH.
func policyAH(p ipsec.Policy) ipsec.Policy {
	p.Protocol = ipsec.AH
	return p
}

func testAHTunnel(t *testing.T, l *link) {
	if !l.carriesAH() {
		return
	}
	for i, addr := range [][2]netip.Addr{addr4, addr6} {
		first := spi + ipsec.SPI(8*i)
		edit := func(sa *ipsec.SA) { asAH(sa, sideOf(sa), addr, ipsec.Tunnel) }
		for side := range 2 {
			l.policies(side, policyAH(protect(side, false)))
			l.add(side, ipsec.In, first+ipsec.SPI(side), edit)
		}
		for side := range 2 {
			l.add(side, ipsec.Out, first+ipsec.SPI(1-side), edit)
		}
		var seen packet.Info
		l.disturb(func(_ int, p *netio.Packet) int {
			seen.Decode(p.Data())
			return 1
		})
		for side := range 2 {
			for n := range 20 {
				for _, v6 := range []bool{false, true} {
					b := newPacket(side, v6, n)
					l.send(side, b)
					l.expect(1-side, b)
				}
			}
		}
		if seen.Protocol != packet.ProtocolAH || seen.Src != addr[1] || seen.Dst != addr[0] || addr[0].Is4() && seen.FragmentID == 0 {
			t.Errorf("on the wire is %+v", seen)
		}
		id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.AH, SPI: first}
		l.status(0, id, "40 packets", func(s ipsec.SAStatus) bool { return s.Packets == 40 && s.Sequence == 40 })
		id = ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.AH, SPI: first, Peer: addr[0]}
		octets := uint64(20 * (len(newPacket(0, false, 0)) + len(newPacket(0, true, 0))))
		l.status(1, id, "40 packets", func(s ipsec.SAStatus) bool { return s.Packets == 40 && s.Bytes == octets })
	}
}

func testAHTransport(t *testing.T, l *link) {
	if !l.carriesAH() {
		return
	}
	for i, v6 := range []bool{false, true} {
		addr := addr4
		if v6 {
			addr = addr6
		}
		first := spi + ipsec.SPI(8*i)
		l.transport(first, v6, false, func(sa *ipsec.SA) { asAH(sa, sideOf(sa), addr, ipsec.Transport) })
		for side := range 2 {
			l.policies(side, policyAH(hostPolicy(side, v6)))
		}
		for side := range 2 {
			for n := 0; n < 1300; n += 41 {
				b := hostPacket(side, v6, n)
				if !v6 { // the header arrives as it left: AH covers its identification
					b[4], b[5] = 0x12, byte(n)
					b[10], b[11] = 0, 0
					sum := packet.Checksum(b[:20])
					b[10], b[11] = byte(sum>>8), byte(sum)
				}
				l.send(side, b)
				l.expect(1-side, b)
			}
		}
	}
}

// hostPolicy protects what the gateways themselves send.
func hostPolicy(side int, v6 bool) ipsec.Policy {
	addr := addr4
	if v6 {
		addr = addr6
	}
	p := protect(side, false)
	p.Mode = ipsec.Transport
	p.Local = []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(addr[side], addr[side].BitLen()))}
	p.Remote = []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(addr[1-side], addr[1-side].BitLen()))}
	return p
}

func testAHDrops(t *testing.T, l *link) {
	if !l.carriesAH() {
		return
	}
	edit := func(sa *ipsec.SA) { asAH(sa, sideOf(sa), addr4, ipsec.Tunnel) }
	l.policies(0, policyAH(protect(0, false)))
	l.policies(1, policyAH(protect(1, false)))
	l.add(1, ipsec.In, spi, edit)
	l.add(0, ipsec.Out, spi, edit)
	var bad uint64
	for _, change := range []struct {
		name    string
		counter string
		edit    func(b []byte)
	}{
		{"the packet inside", "ah-integrity", func(b []byte) { b[len(b)-1] ^= 1 }},
		{"the source address", "ah-integrity", func(b []byte) { b[15] ^= 1 }},
		{"the identification", "ah-integrity", func(b []byte) { b[5] ^= 1 }},
		{"the ICV", "ah-integrity", func(b []byte) { b[32] ^= 1 }},
		{"the sequence number", "ah-integrity", func(b []byte) { b[28] ^= 1 }},
		{"the length of AH", "ah-header", func(b []byte) { b[21] = 3 }},
		{"a fragment", "ah-fragment", func(b []byte) { b[6] |= 0x20 }},
		{"an unknown SPI", "sa-not-found", func(b []byte) { b[25] ^= 1 }},
		{"a reserved SPI", "reserved-spi", func(b []byte) { clear(b[24:27]) }},
	} {
		l.disturb(func(_ int, p *netio.Packet) int {
			b := p.Data()
			change.edit(b)
			b[10], b[11] = 0, 0
			sum := packet.Checksum(b[:20])
			b[10], b[11] = byte(sum>>8), byte(sum)
			return 1
		})
		want := uint64(1)
		if change.counter == "ah-integrity" {
			bad++
			want = bad
		}
		l.send(0, newPacket(0, false, 1))
		if l.counted(1, change.counter, want); t.Failed() {
			t.Fatalf("a change of %s is not noticed", change.name)
		}
	}
	// What routers may change.
	l.disturb(func(_ int, p *netio.Packet) int {
		b := p.Data()
		b[1], b[8] = 0x28, b[8]-5
		b[10], b[11] = 0, 0
		sum := packet.Checksum(b[:20])
		b[10], b[11] = byte(sum>>8), byte(sum)
		return 1
	})
	b := newPacket(0, false, 2)
	l.send(0, b)
	l.expect(1, b)
	// A replay.
	l.disturb(func(_ int, p *netio.Packet) int {
		_ = l.gw[1].Outer.AH4.Inject(bytes.Clone(p.Data()), netip.AddrPortFrom(addr4[0], 0), netip.AddrPortFrom(addr4[1], 0))
		return 1
	})
	l.send(0, newPacket(0, false, 3))
	l.expect(1, newPacket(0, false, 3))
	l.counter(1, "ah-replay", 1)
	l.expectNone(1)
	id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.AH, SPI: spi}
	l.status(1, id, "drops", func(s ipsec.SAStatus) bool { return s.ReplayDrops == 1 && s.IntegrityDrops == bad && s.Packets == 2 })
}

// bundle adds ESP SAs, after edit, with AH SAs of transport mode around them. The
// AH SA has the SPI of the ESP SA.
func (l *link) bundle(first ipsec.SPI, policy func(side int) ipsec.Policy, edit func(sa *ipsec.SA)) {
	l.t.Helper()
	around := func(sa *ipsec.SA) {
		edit(sa)
		asAH(sa, sideOf(sa), [2]netip.Addr{addrOf(sa, 0), addrOf(sa, 1)}, ipsec.Transport)
	}
	for side := range 2 {
		p := policy(side)
		p.WithAH = true
		l.policies(side, p)
		for _, e := range []func(*ipsec.SA){edit, around} {
			l.add(side, ipsec.In, first+ipsec.SPI(side), e)
		}
	}
	for side := range 2 {
		for _, e := range []func(*ipsec.SA){edit, around} {
			l.add(side, ipsec.Out, first+ipsec.SPI(1-side), e)
		}
	}
}

// addrOf is the address of a gateway in the family of the SA.
func addrOf(sa *ipsec.SA, side int) netip.Addr {
	if sa.Local.Addr().Is4() {
		return addr4[side]
	}
	return addr6[side]
}

func testBundle(t *testing.T, l *link) {
	if !l.carriesAH() {
		return
	}
	l.legible = false
	for i, c := range []struct {
		mode ipsec.Mode
		v6   bool
	}{
		{ipsec.Tunnel, false}, {ipsec.Tunnel, true}, {ipsec.Transport, false}, {ipsec.Transport, true},
	} {
		first := spi + ipsec.SPI(8*i)
		addr := addr4
		if c.v6 {
			addr = addr6
		}
		l.bundle(first, func(side int) ipsec.Policy {
			if c.mode == ipsec.Transport {
				return hostPolicy(side, c.v6)
			}
			return protect(side, false)
		}, func(sa *ipsec.SA) {
			side := sideOf(sa)
			sa.Mode, sa.Encap = c.mode, false
			sa.Local, sa.Remote = netip.AddrPortFrom(addr[side], 0), netip.AddrPortFrom(addr[1-side], 0)
			if c.mode == ipsec.Transport {
				p := hostPolicy(side, c.v6)
				sa.LocalTS, sa.RemoteTS = p.Local, p.Remote
			}
		})
		var wire []byte
		l.disturb(func(_ int, p *netio.Packet) int {
			wire = bytes.Clone(p.Data())
			return 1
		})
		for side := range 2 {
			for n := range 20 {
				b := newPacket(side, n%2 == 0, n)
				if c.mode == ipsec.Transport {
					b = hostPacket(side, c.v6, n)
				}
				l.send(side, b)
				l.expect(1-side, b)
			}
		}
		var info packet.Info
		if info.Decode(wire); info.Protocol != packet.ProtocolAH || wire[info.HeaderLen] != packet.ProtocolESP {
			t.Errorf("%s: on the wire is %+v, then protocol %d", c.mode, info, wire[info.HeaderLen])
		}
		for _, protocol := range []ipsec.Protocol{ipsec.ESP, ipsec.AH} {
			id := ipsec.SAID{Direction: ipsec.In, Protocol: protocol, SPI: first}
			l.status(0, id, "20 packets", func(s ipsec.SAStatus) bool { return s.Packets == 20 })
		}
	}
}

// bundleOverIPv4 is the bundle of the tests below, in tunnel mode.
func (l *link) bundleOverIPv4() {
	l.t.Helper()
	l.bundle(spi, func(side int) ipsec.Policy { return protect(side, false) }, func(sa *ipsec.SA) { sa.Encap = false })
}

func testBundleStrict(t *testing.T, l *link) {
	if !l.carriesAH() {
		return
	}
	l.legible = false
	l.bundleOverIPv4()
	// Without the AH that is asked for.
	caught := make(chan []byte, 1)
	l.disturb(func(_ int, p *netio.Packet) int {
		b := p.Data()
		caught <- bytes.Clone(b[20+28:]) // IPv4, and AH with an ICV of 16 octets
		return 0
	})
	l.send(0, newPacket(0, false, 1))
	if err := l.gw[1].Outer.ESP4.Inject(<-caught, netip.AddrPortFrom(addr4[0], 0), netip.AddrPortFrom(addr4[1], 0)); err != nil {
		t.Fatal(err)
	}
	l.counter(1, "sa-without-ah", 1)
	l.expectNone(1)
	// AH with something else than ESP inside: the sender has no ESP.
	l.policies(0, policyAH(protect(0, false)))
	l.disturb(nil)
	l.legible = true
	l.send(0, newPacket(0, false, 2))
	l.counter(1, "sa-not-of-bundle", 1)
	l.expectNone(1)
	// The ESP SA of another ReqID inside, whose policy knows no AH.
	other := func(sa *ipsec.SA) { sa.Encap, sa.ReqID = false, 2 }
	p := protect(0, false)
	p.WithAH = true
	l.policies(0, p)
	l.add(1, ipsec.In, spi+5, other)
	l.add(0, ipsec.Out, spi+5, func(sa *ipsec.SA) { sa.Encap = false })
	l.send(0, newPacket(0, false, 3))
	l.counter(1, "sa-not-of-bundle", 2)
	l.expectNone(1)
}

func testBundleAcquire(t *testing.T, l *link) {
	if !l.carriesAH() {
		return
	}
	l.legible = false
	for side := range 2 {
		p := protect(side, side == 0)
		p.WithAH = true
		l.policies(side, p)
	}
	plain := func(sa *ipsec.SA) { sa.Encap = false }
	around := func(sa *ipsec.SA) { asAH(sa, sideOf(sa), addr4, ipsec.Transport) }
	l.add(1, ipsec.In, spi, plain)
	l.add(1, ipsec.In, spi, around)
	l.send(0, newPacket(0, false, 1))
	event[ipsec.Acquire](l, 0)
	l.add(0, ipsec.Out, spi, plain)
	l.send(0, newPacket(0, false, 2))
	l.expectNone(1)
	if n := l.onTheWire(); n != 0 {
		t.Fatalf("%d packets left by one SA of two", n)
	}
	l.add(0, ipsec.Out, spi, around)
	for n := 1; n <= 2; n++ {
		l.expect(1, newPacket(0, false, n))
	}
}
