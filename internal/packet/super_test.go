package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// flow makes the packets of one flow.
type flow struct {
	src, dst         netip.Addr
	protocol         uint8
	srcPort, dstPort uint16
	id               uint16
	seq              uint32
	options          int // octets of TCP options
	ipOptions        int // octets of IPv4 options
	class            uint8
}

// make makes the flow's next packet. Only TCP has flags.
func (f *flow) make(payload []byte, flags byte) []byte {
	ipLen, tLen := IPv6HeaderLen, UDPHeaderLen
	if f.src.Is4() {
		ipLen = IPv4HeaderLen + f.ipOptions
	}
	if f.protocol == ProtocolTCP {
		tLen = TCPHeaderLen + f.options
	}
	b := make([]byte, ipLen+tLen+len(payload))
	if f.src.Is4() {
		PutIPv4(b, &IPv4Header{
			Src: f.src, Dst: f.dst, TotalLen: len(b), ID: f.id, TTL: 63, Protocol: f.protocol, DontFragment: true, TrafficClass: f.class,
		})
		b[0] = 4<<4 | byte(ipLen/4)
		for i := IPv4HeaderLen; i < ipLen; i++ {
			b[i] = 1 // no operation
		}
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], Checksum(b[:ipLen]))
	} else {
		PutIPv6(b, &IPv6Header{
			Src: f.src, Dst: f.dst, PayloadLen: len(b) - ipLen, NextHeader: f.protocol, HopLimit: 63, FlowLabel: 0x12345, TrafficClass: f.class,
		})
	}
	t := b[ipLen:]
	if f.protocol == ProtocolTCP {
		binary.BigEndian.PutUint16(t, f.srcPort)
		binary.BigEndian.PutUint16(t[2:], f.dstPort)
		binary.BigEndian.PutUint32(t[4:], f.seq)
		binary.BigEndian.PutUint32(t[8:], 77)
		t[12], t[13] = byte(tLen/4)<<4, flags
		binary.BigEndian.PutUint16(t[14:], 500)
		for i := TCPHeaderLen; i < tLen; i++ {
			t[i] = 1
		}
	} else {
		PutUDP(t, f.srcPort, f.dstPort, len(t), 0)
	}
	copy(t[tLen:], payload)
	f.finish(b, ipLen)
	f.id++
	f.seq += uint32(len(payload))
	return b
}

func (f *flow) finish(b []byte, ipLen int) {
	t := b[ipLen:]
	at := ChecksumOffset(f.protocol)
	t[at], t[at+1] = 0, 0
	sum := TransportChecksum(f.src, f.dst, f.protocol, t)
	if sum == 0 && f.protocol == ProtocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(t[at:], sum)
}

func testFlows() []*flow {
	a4, b4 := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")
	a6, b6 := netip.MustParseAddr("fd00:1::1"), netip.MustParseAddr("fd00:2::1")
	return []*flow{
		{src: a4, dst: b4, protocol: ProtocolTCP, srcPort: 1, dstPort: 2, id: 65530, seq: 1<<32 - 3000, options: 12},
		{src: a4, dst: b4, protocol: ProtocolTCP, srcPort: 1, dstPort: 3},
		{src: a4, dst: b4, protocol: ProtocolUDP, srcPort: 1, dstPort: 2, class: 3},
		{src: a6, dst: b6, protocol: ProtocolTCP, srcPort: 9, dstPort: 9, options: 12, class: 2},
		{src: a6, dst: b6, protocol: ProtocolUDP, srcPort: 9, dstPort: 9},
		{src: a4, dst: b4, protocol: ProtocolTCP, srcPort: 5, dstPort: 5, ipOptions: 8},
	}
}

// super makes the super-packet that a network device would get in place of the
// packets, which share the headers of the first: its checksum is unfinished.
func super(t testing.TB, first []byte, rest ...[]byte) []byte {
	var p Info
	p.Decode(first)
	n, ok := SuperHeaderLen(first, &p)
	if !ok {
		t.Fatal("not a packet that can stand for several")
	}
	b := slices.Clone(first)
	for _, r := range rest {
		b = append(b, r[n:]...)
	}
	if p.Version == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], Checksum(b[:p.HeaderLen]))
	} else {
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-IPv6HeaderLen))
	}
	h := b[p.HeaderLen:]
	if p.Protocol == ProtocolUDP {
		binary.BigEndian.PutUint16(h[4:], uint16(len(h)))
	} else if len(rest) > 0 {
		h[tcpFlags] |= rest[len(rest)-1][p.HeaderLen+tcpFlags]
	}
	binary.BigEndian.PutUint16(h[ChecksumOffset(p.Protocol):], Fold(PseudoHeaderSum(p.Src, p.Dst, p.Protocol, len(h))))
	return b
}

func cut(t testing.TB, b []byte, segment int) [][]byte {
	var p Info
	p.Decode(b)
	var s Segmenter
	n, ok := s.Start(b, &p, segment)
	if !ok {
		t.Fatalf("cannot cut % x", b[:min(len(b), 60)])
	}
	var out [][]byte
	longest := s.PacketLen()
	for q := s.Next(); q != nil; q = s.Next() {
		if len(q) > longest {
			t.Fatalf("a packet of %d octets, said were %d", len(q), longest)
		}
		out = append(out, slices.Clone(q))
	}
	if len(out) != n {
		t.Fatalf("%d packets, said were %d", len(out), n)
	}
	return out
}

func TestSegmenterGivesBackThePackets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, f := range testFlows() {
		for _, segment := range []int{1, 7, 48, 1338, 1448} {
			for _, total := range []int{segment, segment + 1, 3*segment - 1, 10 * segment} {
				data := make([]byte, total)
				for i := range data {
					data[i] = byte(r.Uint32())
				}
				var want [][]byte
				for i := 0; i < total; i += segment {
					flags := byte(tcpACK | tcpECE)
					if i == 0 {
						flags |= tcpCWR
					}
					if i+segment >= total {
						flags |= tcpPSH | tcpFIN
					}
					want = append(want, f.make(data[i:min(i+segment, total)], flags))
				}
				got := cut(t, super(t, want[0], want[1:]...), segment)
				if !slices.EqualFunc(got, want, bytes.Equal) {
					t.Fatalf("%+v, %d of %d: packets differ", f, segment, total)
				}
			}
		}
	}
}

// joinAll runs packets through a Coalescer and cuts what it made of them.
func joinAll(t testing.TB, c *Coalescer, pkts [][]byte) (out [][]byte, groups int) {
	c.Reset()
	var p Info
	for _, b := range pkts {
		b = slices.Clone(b)
		p.Decode(b)
		c.Add(b, &p)
	}
	for _, g := range c.Groups() {
		groups++
		if g.Segment == 0 {
			if len(g.Pieces) != 0 {
				t.Fatal("pieces of a packet that stands for itself")
			}
			out = append(out, g.Packet)
			continue
		}
		whole := slices.Concat(append([][]byte{g.Packet}, g.Pieces...)...)
		p.Decode(whole)
		n, ok := SuperHeaderLen(whole, &p)
		if !ok {
			t.Fatal("the super-packet is none")
		}
		field := p.HeaderLen + ChecksumOffset(p.Protocol)
		if got := binary.BigEndian.Uint16(whole[field:]); got != Fold(PseudoHeaderSum(p.Src, p.Dst, p.Protocol, len(whole)-p.HeaderLen)) {
			t.Fatal("the checksum field does not hold the sum of the pseudo header")
		}
		if p.Version == 4 && Checksum(whole[:p.HeaderLen]) != 0 {
			t.Fatal("wrong header checksum")
		}
		if len(whole) <= n+g.Segment {
			t.Fatal("a super-packet for one packet")
		}
		out = append(out, cut(t, whole, g.Segment)...)
	}
	return out, groups
}

// byFlow sorts packets by addresses and ports, keeping the order within.
func byFlow(pkts [][]byte) map[string][][]byte {
	m := make(map[string][][]byte)
	for _, b := range pkts {
		var p Info
		p.Decode(b)
		key := "other"
		if p.Version != 0 && p.HasPorts {
			key = p.Src.String() + p.Dst.String() + string([]byte{p.Protocol, byte(p.SrcPort), byte(p.DstPort)})
		}
		m[key] = append(m[key], b)
	}
	return m
}

func TestCoalescerKeepsThePackets(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	c := NewCoalescer(256, true, true)
	joined := 0
	for round := range 300 {
		flows := testFlows()
		payload := make([]byte, 1400)
		var pkts [][]byte
		for range 200 {
			f := flows[r.IntN(len(flows))]
			if r.IntN(3) > 0 {
				f = flows[round%len(flows)]
			}
			size, flags := 1338, byte(tcpACK)
			var b []byte
			switch r.IntN(40) {
			case 0:
				flags |= tcpPSH
			case 1:
				size = r.IntN(1338)
			case 2:
				flags |= 1 << 5 // URG
			case 3:
				flags |= tcpFIN
			case 4:
				flags |= tcpECE
			case 5:
				f.class ^= 3 // congestion experienced
			case 6:
				f.seq += 100
			case 7:
				f.id += 7
			case 8:
				size = 0
			case 9:
				flags |= tcpCWR
			case 10:
				b = []byte{0x45, 0, 0} // anything
			case 11:
				b = f.make(payload[:size], flags)
				b[len(b)-1] ^= 1 // a wrong checksum
			case 12:
				if b = f.make(payload[:size], flags); f.protocol == ProtocolUDP && f.src.Is4() {
					b[26], b[27] = 0, 0 // no checksum
				}
			}
			if b == nil {
				b = f.make(payload[:size], flags)
			}
			pkts = append(pkts, b)
		}
		got, groups := joinAll(t, c, pkts)
		joined += len(pkts) - groups
		want := byFlow(pkts)
		for key, g := range byFlow(got) {
			if !slices.EqualFunc(g, want[key], bytes.Equal) {
				t.Fatalf("round %d: flow %q: got %d packets, want %d, or others", round, key, len(g), len(want[key]))
			}
		}
		if len(got) != len(pkts) {
			t.Fatalf("%d packets became %d", len(pkts), len(got))
		}
	}
	if joined < 10000 {
		t.Errorf("only %d packets were joined", joined)
	}
}

func TestCoalescerJoinsABulkFlow(t *testing.T) {
	for _, f := range testFlows()[:5] {
		c := NewCoalescer(256, true, true)
		var pkts [][]byte
		for range 45 {
			pkts = append(pkts, f.make(make([]byte, 1338), tcpACK))
		}
		if _, groups := joinAll(t, c, pkts); groups != 1 {
			t.Errorf("%+v: 45 packets became %d groups", f, groups)
		}
		c = NewCoalescer(256, false, false)
		if _, groups := joinAll(t, c, pkts); groups != 45 {
			t.Errorf("joined what was not to be")
		}
	}
}

// A checksum of 0 may be written as 0xffff, which is the same number, but only
// UDP writes it so: packets with the other spelling stay as they are.
func TestCoalescerKeepsBothZeros(t *testing.T) {
	flow := *testFlows()[1]
	probe := flow
	first := probe.make(make([]byte, 64), tcpACK)
	zero := slices.Clone(probe.make(make([]byte, 64), tcpACK))

	// What the checksums lack goes into the payload, and the identification of
	// both packets.
	at := IPv4HeaderLen + tcpChecksum
	copy(zero[len(zero)-2:], zero[at:at+2])
	zero[at], zero[at+1] = 0, 0
	id := binary.BigEndian.Uint16(zero[ipv4ChecksumAt:]) + binary.BigEndian.Uint16(zero[ipv4IDAt:])
	for i, b := range [][]byte{first, zero} {
		binary.BigEndian.PutUint16(b[ipv4IDAt:], id-1+uint16(i))
		b[ipv4ChecksumAt], b[ipv4ChecksumAt+1] = 0, 0
		binary.BigEndian.PutUint16(b[ipv4ChecksumAt:], Checksum(b[:IPv4HeaderLen]))
	}
	if !right(zero, IPv4HeaderLen, ProtocolTCP) || binary.BigEndian.Uint16(zero[ipv4ChecksumAt:]) != 0 {
		t.Fatal("the packet has other checksums than 0")
	}
	tcp, ip := slices.Clone(zero), slices.Clone(zero)
	tcp[at], tcp[at+1] = 0xff, 0xff
	ip[ipv4ChecksumAt], ip[ipv4ChecksumAt+1] = 0xff, 0xff
	for name, test := range map[string]struct {
		second []byte
		groups int
	}{"zero": {zero, 1}, "TCP": {tcp, 2}, "IPv4": {ip, 2}} {
		got, groups := joinAll(t, NewCoalescer(4, true, true), [][]byte{first, test.second})
		if groups != test.groups || !slices.EqualFunc(got, [][]byte{first, test.second}, bytes.Equal) {
			t.Errorf("%s: %d groups, want %d, or other packets", name, groups, test.groups)
		}
	}
}

func TestSuperPacketsDoNotAllocate(t *testing.T) {
	f := testFlows()[0]
	c := NewCoalescer(64, true, true)
	var pkts [][]byte
	for range 40 {
		pkts = append(pkts, f.make(make([]byte, 1338), tcpACK))
	}
	whole := super(t, pkts[0], pkts[1:]...)
	again := slices.Clone(whole)
	var p Info
	var s Segmenter
	if n := testing.AllocsPerRun(100, func() {
		c.Reset()
		for _, b := range pkts {
			p.Decode(b)
			c.Add(b, &p)
		}
		c.Groups()
		copy(again, whole)
		p.Decode(again)
		s.Start(again, &p, 1338)
		for s.Next() != nil {
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFinishChecksum(t *testing.T) {
	for _, f := range testFlows() {
		want := f.make([]byte("odd"), tcpACK)
		b := super(t, want)
		var p Info
		p.Decode(b)
		if !FinishChecksum(b, p.HeaderLen, ChecksumOffset(f.protocol)) || !bytes.Equal(b, want) {
			t.Errorf("%+v: got % x, want % x", f, b, want)
		}
		for _, at := range [][2]int{{len(b), 0}, {len(b) - 1, 0}, {0, len(b) - 1}, {-1, 0}, {0, -1}, {65535, 65535}} {
			if FinishChecksum(b, at[0], at[1]) {
				t.Errorf("finished a checksum at %d, %d of %d octets", at[0], at[1], len(b))
			}
		}
	}
}

func FuzzSegmenter(f *testing.F) {
	for _, x := range testFlows() {
		f.Add(x.make(make([]byte, 500), tcpACK|tcpPSH), uint16(100))
	}
	f.Fuzz(func(t *testing.T, b []byte, segment uint16) {
		if len(b) > 65535 {
			return
		}
		var p Info
		var s Segmenter
		p.Decode(b)
		n, ok := s.Start(b, &p, int(segment))
		if !ok {
			return
		}
		headerLen, _ := SuperHeaderLen(b, &p)
		payload := slices.Clone(b[headerLen:])
		var got []byte
		for q := s.Next(); q != nil; q = s.Next() {
			var i Info
			if i.Decode(q); i.Version == 0 || i.TotalLen != len(q) || TransportChecksum(p.Src, p.Dst, p.Protocol, q[p.HeaderLen:]) != 0 {
				t.Fatalf("packet % x", q)
			}
			got = append(got, q[headerLen:]...)
			n--
		}
		if n != 0 || !bytes.Equal(got, payload) {
			t.Fatalf("%d packets are missing, or octets", n)
		}
	})
}

func FuzzCoalescer(f *testing.F) {
	for _, x := range testFlows() {
		f.Add(x.make(make([]byte, 50), tcpACK), x.make(make([]byte, 50), tcpACK), x.make(make([]byte, 20), tcpACK|tcpPSH))
	}
	f.Fuzz(func(t *testing.T, a, b, d []byte) {
		pkts := [][]byte{a, b, d}
		got, _ := joinAll(t, NewCoalescer(4, true, true), pkts)
		want := byFlow(pkts)
		for key, g := range byFlow(got) {
			if key != "other" && !slices.EqualFunc(g, want[key], bytes.Equal) {
				t.Fatalf("flow %q differs", key)
			}
		}
		if len(got) != 3 {
			t.Fatalf("3 packets became %d", len(got))
		}
	})
}

func TestSameFlow(t *testing.T) {
	flows := testFlows()
	var p, q Info
	for i, f := range flows {
		for j, g := range flows {
			p.Decode(f.make([]byte("one"), tcpACK))
			q.Decode(g.make([]byte("two, longer"), tcpACK|tcpPSH))
			if p.SameFlow(&q) != (i == j) {
				t.Errorf("flows %d and %d: %v", i, j, i != j)
			}
		}
	}
}
