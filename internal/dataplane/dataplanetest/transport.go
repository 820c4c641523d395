package dataplanetest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
)

// carryWhole is the wire for packets with their IP header: what two kernels do to
// them on the way to the socket of their protocol.
func (l *link) carryWhole(side int, from *netio.Mem) {
	pkts := netio.NewBatch(64, 2000)
	fragments := packet.NewReassembler(packet.DefaultReassemblyLimits())
	for {
		n, err := from.ReadBatch(pkts)
		if err != nil {
			return
		}
		for i := range pkts[:n] {
			p := &pkts[i]
			var info packet.Info
			if info.Decode(p.Data()); info.IsFragment() {
				whole, _ := fragments.Add(time.Now(), p.Data(), &info)
				if whole == nil {
					continue
				}
				p = &netio.Packet{Buf: bytes.Clone(whole), Len: len(whole)}
			}
			l.deliverWhole(side, p)
		}
	}
}

func (l *link) deliverWhole(side int, p *netio.Packet) {
	l.mu.Lock()
	l.carried++
	if bytes.Contains(p.Data(), marker) {
		l.clear++
	}
	if l.onWire != nil && l.onWire(side, p) == 0 {
		l.mu.Unlock()
		return
	}
	l.mu.Unlock()
	b := p.Data()
	var info packet.Info
	info.Decode(b)
	if info.Version == 0 || info.TotalLen != len(b) || info.Version == 4 && packet.Checksum(b[:info.HeaderLen]) != 0 {
		l.t.Errorf("gateway %d sent what is no IP packet: % x", side, b)
		return
	}
	outer := &l.gw[1-side].Outer
	esp, udp := outer.ESP4, outer.UDP4
	if info.Version == 6 {
		esp, udp = outer.ESP6, outer.UDP6
	}
	payload := b[info.HeaderLen:]
	to := esp
	switch info.Protocol {
	case packet.ProtocolAH:
		payload, to = b, outer.AH4
		if info.Version == 6 {
			to = outer.AH6
		}
	case packet.ProtocolUDP:
		sum := binary.BigEndian.Uint16(payload[6:])
		if int(binary.BigEndian.Uint16(payload[4:])) != len(payload) ||
			(sum != 0 || info.Version == 6) && packet.TransportChecksum(info.Src, info.Dst, info.Protocol, payload) != 0 {
			l.t.Errorf("gateway %d sent a wrong UDP header: % x", side, payload[:8])
		}
		payload, to = payload[packet.UDPHeaderLen:], udp
	}
	_ = to.Inject(bytes.Clone(payload), netip.AddrPortFrom(info.Src, info.SrcPort), netip.AddrPortFrom(info.Dst, info.DstPort))
}

// transport adds a pair of SAs in transport mode for each direction between the
// two gateways themselves, after edit, and the policies.
func (l *link) transport(spi ipsec.SPI, v6, encap bool, edit func(sa *ipsec.SA)) {
	l.t.Helper()
	addr := addr4
	if v6 {
		addr = addr6
	}
	host := func(side int) []ipsec.Selector {
		return []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(addr[side], addr[side].BitLen()))}
	}
	all := func(side int) func(*ipsec.SA) {
		return func(sa *ipsec.SA) {
			sa.Mode, sa.Encap = ipsec.Transport, encap
			sa.Local, sa.Remote = netip.AddrPortFrom(addr[side], port), netip.AddrPortFrom(addr[1-side], port)
			sa.LocalTS, sa.RemoteTS = host(side), host(1-side)
			if edit != nil {
				edit(sa)
			}
		}
	}
	for side := range 2 {
		p := protect(side, false)
		p.Mode, p.Local, p.Remote = ipsec.Transport, host(side), host(1-side)
		l.policies(side, p)
		l.add(side, ipsec.In, spi+ipsec.SPI(side), all(side))
	}
	for side := range 2 {
		l.add(side, ipsec.Out, spi+ipsec.SPI(1-side), all(side))
	}
}

// hostPacket makes a UDP packet of one gateway to the other, with n octets of
// payload behind the marker, in the form that it arrives in.
func hostPacket(side int, v6 bool, n int) []byte {
	payload := append(bytes.Clone(marker), bytes.Repeat([]byte{0x5a}, n)...)
	udpLen := packet.UDPHeaderLen + len(payload)
	src, dst := addr4[side], addr4[1-side]
	var b []byte
	if v6 {
		src, dst = addr6[side], addr6[1-side]
		b = make([]byte, packet.IPv6HeaderLen)
		packet.PutIPv6(b, &packet.IPv6Header{Src: src, Dst: dst, PayloadLen: udpLen, NextHeader: packet.ProtocolUDP, HopLimit: 64})
	} else {
		b = make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: src, Dst: dst, TotalLen: len(b) + udpLen, TTL: 64, Protocol: packet.ProtocolUDP, DontFragment: true,
		})
	}
	udp := append(make([]byte, packet.UDPHeaderLen), payload...)
	packet.PutUDP(udp, 1000, 2000, udpLen, 0)
	packet.PutUDP(udp, 1000, 2000, udpLen, packet.TransportChecksum(src, dst, packet.ProtocolUDP, udp))
	return append(b, udp...)
}

// wholeDevices reports whether the backend sends packets with their header.
func (l *link) wholeDevices() bool { return l.gw[0].Outer.Whole4 != nil && l.gw[0].Outer.Whole6 != nil }

func testTransport(t *testing.T, l *link) {
	if !l.wholeDevices() {
		return // the system's own stack carries transport mode
	}
	for i, c := range []struct {
		name      string
		v6, encap bool
	}{
		{"protocol 50 over IPv4", false, false},
		{"protocol 50 over IPv6", true, false},
		{"UDP over IPv4", false, true},
		{"UDP over IPv6", true, true},
	} {
		first := spi + ipsec.SPI(8*i)
		l.transport(first, c.v6, c.encap, nil)
		var seen packet.Info
		l.disturb(func(_ int, p *netio.Packet) int {
			seen.Decode(p.Data())
			return 1
		})
		for side := range 2 {
			for n := range 20 {
				b := hostPacket(side, c.v6, n)
				l.send(side, b)
				l.expect(1-side, b)
			}
		}
		want := packet.ProtocolESP
		if c.encap {
			want = packet.ProtocolUDP
		}
		if seen.Protocol != want || seen.HopLimit != 64 {
			t.Errorf("%s: on the wire is %+v", c.name, seen)
		}
		id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: first}
		l.status(0, id, "20 packets over "+c.name, func(s ipsec.SAStatus) bool {
			return s.Packets == 20 && s.Sequence == 20 && s.Mode == ipsec.Transport
		})
	}

	// What the header says beside the addresses travels, and so do options.
	l.transport(spi+64, false, false, nil)
	plain := hostPacket(0, false, 10)
	b := append(bytes.Clone(plain[:20]), 148, 4, 0, 0) // router alert
	b = append(b, plain[20:]...)
	b[0], b[8] = 4<<4|6, 3
	b[1] = 0xb8
	var info packet.Info
	b[2], b[3] = 0, byte(len(b))
	info.Decode(b)
	packet.SeamOf(b, &info).Close(b, packet.ProtocolUDP, info.Src, info.Dst)
	wire := make(chan []byte, 1)
	l.disturb(func(_ int, p *netio.Packet) int {
		wire <- bytes.Clone(p.Data())
		return 0
	})
	l.send(0, b)
	got := <-wire
	if got[0] != b[0] || got[1] != b[1] || got[8] != 3 || !bytes.Equal(got[20:24], b[20:24]) || got[9] != packet.ProtocolESP {
		t.Errorf("the header % x became % x", b[:24], got[:24])
	}
}

func testTransportLengths(t *testing.T, l *link) {
	if !l.wholeDevices() {
		return
	}
	for i, v6 := range []bool{false, true} {
		l.transport(spi+ipsec.SPI(8*i), v6, true, nil)
		for n := 0; n < 1300; n += 13 {
			b := hostPacket(0, v6, n)
			l.send(0, b)
			l.expect(1, b)
		}
	}
}

// The system has cut a packet of its own: transport mode takes whole ones (RFC
// 4303, Section 3.3.4), and so do policies that go by ports.
func testTransportFragments(t *testing.T, l *link) {
	if !l.wholeDevices() {
		return
	}
	for i, c := range []struct{ v6, encap bool }{{false, false}, {false, true}, {true, false}, {true, true}} {
		l.transport(spi+ipsec.SPI(8*i), c.v6, c.encap, nil)
		for _, n := range []int{1800, 1700} {
			b := hostPacket(0, c.v6, n)
			if !c.v6 {
				b[6] = 0 // it may be cut
				var info packet.Info
				info.Decode(b)
				packet.SeamOf(b, &info).Close(b, packet.ProtocolUDP, info.Src, info.Dst)
			}
			l.sendCut(0, b)
			l.expect(1, hostPacket(0, c.v6, n))
		}
	}
}

// sendCut puts the fragments of a packet into the protected side of a gateway.
func (l *link) sendCut(side int, b []byte) {
	l.t.Helper()
	var info packet.Info
	info.Decode(b)
	var f packet.Fragmenter
	const mtu = 600
	n, ok := f.Start(b, &info, mtu, 77)
	if !ok || n < 2 {
		l.t.Fatalf("a packet of %d octets cannot be cut", len(b))
	}
	dst := make([]byte, mtu)
	for range n {
		l.send(side, dst[:f.Next(dst)])
	}
}

// A tunnel for one port carries what was cut whole, or nothing of it is
// delivered.
func testPortFragments(t *testing.T, l *link) {
	port := func(sa *ipsec.SA) (list []ipsec.Selector) {
		if sa.Local.Addr() == addr4[0] {
			return sa.RemoteTS
		}
		return sa.LocalTS
	}
	narrow := func(list []ipsec.Selector) {
		for i := range list {
			list[i].Protocol, list[i].FirstPort, list[i].LastPort = packet.ProtocolUDP, 2000, 2000
		}
	}
	l.tunnel(spi, func(sa *ipsec.SA) { narrow(port(sa)) })
	p := protect(0, false)
	narrow(p.Remote)
	rest := protect(0, false)
	rest.Name, rest.Action, rest.Priority = "rest", ipsec.Discard, -1
	l.policies(0, p, rest)
	long := append(newPacket(0, false, 1), make([]byte, 1000)...)
	var info packet.Info
	long[2], long[3] = byte(len(long)>>8), byte(len(long))
	info.Decode(long)
	packet.SeamOf(long, &info).Close(long, packet.ProtocolUDP, info.Src, info.Dst)
	l.sendCut(0, long)
	if l.gw[0].NoPorts {
		l.counter(0, "policy-discard", 2)
		l.expectNone(1)
		return
	}
	l.expect(1, long)
}

// Both ends are behind a NAT, and neither knows the address that the other sees.
func testTransportNAT(t *testing.T, l *link) {
	if !l.wholeDevices() {
		return
	}
	outside := [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")}
	host := func(a netip.Addr) []ipsec.Selector {
		return []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(a, 32))}
	}
	l.transport(spi, false, true, func(sa *ipsec.SA) {
		side := 0
		if sa.Local.Addr() == addr4[1] {
			side = 1
		}
		sa.Remote = netip.AddrPortFrom(outside[1-side], port)
		sa.RemoteTS = host(outside[1-side])
		// The peer knows itself by its own address, and this end by its outside.
		sa.Original = &ipsec.Pair{Local: outside[side], Remote: addr4[1-side]}
	})
	for side := range 2 {
		p := protect(side, false)
		p.Local, p.Remote = host(addr4[side]), host(outside[1-side])
		l.policies(side, p)
	}
	// The two NATs: the source becomes the outside one, the destination the inside.
	l.disturb(func(from int, p *netio.Packet) int {
		b := p.Data()
		var info packet.Info
		info.Decode(b)
		if info.Src != addr4[from] || info.Dst != outside[1-from] {
			t.Errorf("gateway %d sends from %s to %s", from, info.Src, info.Dst)
		}
		packet.SeamOf(b, &info).Close(b, packet.ProtocolUDP, outside[from], addr4[1-from])
		return 1
	})
	for side := range 2 {
		for n := range 50 {
			b := hostPacket(side, false, n)
			readdressed := func(src, dst netip.Addr) []byte {
				b := bytes.Clone(b)
				var info packet.Info
				info.Decode(b)
				packet.SeamOf(b, &info).Close(b, packet.ProtocolUDP, src, dst)
				udp := b[20:]
				udp[6], udp[7] = 0, 0
				binary.BigEndian.PutUint16(udp[6:], packet.TransportChecksum(src, dst, packet.ProtocolUDP, udp))
				return b
			}
			l.send(side, readdressed(addr4[side], outside[1-side]))
			l.expect(1-side, readdressed(outside[side], addr4[1-side]))
		}
	}
}

func testTransportSelectors(t *testing.T, l *link) {
	if !l.wholeDevices() {
		return
	}
	// The receiver's SA is for TCP only: what the sender lets through is dropped.
	l.transport(spi, false, false, func(sa *ipsec.SA) {
		if sa.Direction == ipsec.In {
			sa.RemoteTS[0].Protocol = packet.ProtocolTCP
		}
	})
	l.send(0, hostPacket(0, false, 1))
	l.expectNone(1)
	id := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}
	l.status(1, id, "a drop by its selectors", func(s ipsec.SAStatus) bool { return s.SelectorDrops == 1 })
}
