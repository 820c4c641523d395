package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	a4 = netip.MustParseAddr("10.1.0.7")
	b4 = netip.MustParseAddr("10.2.255.1")
	a6 = netip.MustParseAddr("2001:db8:1::7")
	b6 = netip.MustParseAddr("2001:db8:2::1")
)

func ipv4(protocol uint8, flags uint16, payload ...byte) []byte {
	b := make([]byte, IPv4HeaderLen, IPv4HeaderLen+len(payload))
	PutIPv4(b, &IPv4Header{
		Src: a4, Dst: b4, TotalLen: IPv4HeaderLen + len(payload), ID: 0xbeef, TrafficClass: 0xb8, TTL: 63, Protocol: protocol,
	})
	binary.BigEndian.PutUint16(b[6:], flags)
	return append(b, payload...)
}

func ipv6(next uint8, payload ...byte) []byte {
	b := make([]byte, IPv6HeaderLen, IPv6HeaderLen+len(payload))
	PutIPv6(b, &IPv6Header{
		Src: a6, Dst: b6, PayloadLen: len(payload), TrafficClass: 0xb8, FlowLabel: 0x12345, NextHeader: next, HopLimit: 63,
	})
	return append(b, payload...)
}

func cat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

var (
	ports    = []byte{0x1f, 0x90, 0x00, 0x50, 0, 8, 0, 0}
	echo     = []byte{8, 0, 1, 2, 3, 4, 5, 6}
	hbh      = []byte{ProtocolUDP, 0, 5, 2, 0, 0, 1, 0}
	dstOpts2 = []byte{ProtocolUDP, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
)

func chain(next ...uint8) []byte { // hop-by-hop shaped headers
	var out []byte
	for _, n := range next {
		out = append(out, n, 0, 1, 4, 0, 0, 0, 0)
	}
	return out
}

func fragment6(next uint8, field uint16) []byte {
	b := []byte{next, 0, 0, 0, 0xde, 0xad, 0xbe, 0xef}
	binary.BigEndian.PutUint16(b[2:], field)
	return b
}

func TestDecode(t *testing.T) {
	base4 := Info{Src: a4, Dst: b4, Version: 4, TrafficClass: 0xb8, HopLimit: 63, HeaderLen: 20, FragmentID: 0xbeef}
	base6 := Info{Src: a6, Dst: b6, Version: 6, TrafficClass: 0xb8, HopLimit: 63, HeaderLen: 40}
	with := func(i Info, f func(*Info)) Info { f(&i); return i }
	udp := func(i *Info) { i.Protocol, i.SrcPort, i.DstPort, i.HasPorts = ProtocolUDP, 8080, 80, true }

	options := ipv4(ProtocolUDP, 0, ports...)
	options = cat(options[:20], []byte{1, 1, 1, 0}, options[20:])
	options[0]++
	options[3] += 4

	tests := []struct {
		name   string
		packet []byte
		want   Info
	}{
		{"UDP", ipv4(ProtocolUDP, 0x4000, ports...), with(base4, func(i *Info) { udp(i); i.TotalLen, i.DontFragment = 28, true })},
		{"options", options, with(base4, func(i *Info) { udp(i); i.TotalLen, i.HeaderLen = 32, 24 })},
		{"link padding", cat(ipv4(ProtocolUDP, 0, ports...), make([]byte, 18)), with(base4, func(i *Info) { udp(i); i.TotalLen = 28 })},
		{"TCP cut short", ipv4(ProtocolTCP, 0, 1, 2, 3), with(base4, func(i *Info) { i.Protocol, i.TotalLen = ProtocolTCP, 23 })},
		{"ports beyond total length", cat(ipv4(ProtocolTCP, 0), ports), with(base4, func(i *Info) { i.Protocol, i.TotalLen = ProtocolTCP, 20 })},
		{"echo request", ipv4(ProtocolICMP, 0, echo...), with(base4, func(i *Info) {
			i.Protocol, i.SrcPort, i.DstPort, i.HasPorts, i.TotalLen = ProtocolICMP, 0x0800, 0x0800, true, 28
		})},
		{"ESP has no ports", ipv4(ProtocolESP, 0, ports...), with(base4, func(i *Info) { i.Protocol, i.TotalLen = ProtocolESP, 28 })},
		{"first fragment", ipv4(ProtocolUDP, 0x2000, ports...), with(base4, func(i *Info) { udp(i); i.TotalLen, i.MoreFragments = 28, true })},
		{"later fragment", ipv4(ProtocolUDP, 0x0003, ports...), with(base4, func(i *Info) {
			i.Protocol, i.TotalLen, i.FragmentOffset = ProtocolUDP, 28, 24
		})},
		{"UDP in IPv6", ipv6(ProtocolUDP, ports...), with(base6, func(i *Info) { udp(i); i.TotalLen = 48 })},
		{"ICMPv6", ipv6(ProtocolICMPv6, 128, 3, 0, 0), with(base6, func(i *Info) {
			i.Protocol, i.SrcPort, i.DstPort, i.HasPorts, i.TotalLen = ProtocolICMPv6, 0x8003, 0x8003, true, 44
		})},
		{"mobility header", ipv6(ProtocolMobility, 59, 0, 5, 0), with(base6, func(i *Info) {
			i.Protocol, i.SrcPort, i.DstPort, i.HasPorts, i.TotalLen = ProtocolMobility, 0x0500, 0x0500, true, 44
		})},
		{"hop-by-hop", ipv6(ProtocolHopByHop, cat(hbh, ports)...), with(base6, func(i *Info) { udp(i); i.TotalLen, i.HeaderLen = 56, 48 })},
		{"long option header", ipv6(ProtocolDestination, cat(dstOpts2, ports)...), with(base6, func(i *Info) { udp(i); i.TotalLen, i.HeaderLen = 64, 56 })},
		{
			"eight extension headers", ipv6(ProtocolHopByHop, cat(chain(60, 43, 60, 60, 60, 60, 60, 17), ports)...),
			with(base6, func(i *Info) { udp(i); i.TotalLen, i.HeaderLen = 112, 104 }),
		},
		{"nine extension headers", ipv6(ProtocolHopByHop, cat(chain(60, 43, 60, 60, 60, 60, 60, 60, 17), ports)...), Info{}},
		{"extension header overruns", ipv6(ProtocolHopByHop, ProtocolUDP, 9, 0, 0, 0, 0, 0, 0), Info{}},
		{"first fragment in IPv6", ipv6(ProtocolFragment, cat(fragment6(ProtocolUDP, 1), ports)...), with(base6, func(i *Info) {
			udp(i)
			i.TotalLen, i.HeaderLen, i.MoreFragments, i.FragmentID = 56, 48, true, 0xdeadbeef
		})},
		{"later fragment in IPv6", ipv6(ProtocolFragment, cat(fragment6(ProtocolDestination, 16|1), ports)...), with(base6, func(i *Info) {
			i.Protocol, i.TotalLen, i.HeaderLen, i.MoreFragments, i.FragmentOffset, i.FragmentID = ProtocolDestination, 56, 48, true, 16, 0xdeadbeef
		})},
		{"two fragment headers", ipv6(ProtocolFragment, cat(fragment6(ProtocolFragment, 1), fragment6(ProtocolUDP, 1), ports)...), Info{}},
		{"AH is not skipped", ipv6(ProtocolAH, cat(chain(17), ports)...), with(base6, func(i *Info) { i.Protocol, i.TotalLen = ProtocolAH, 56 })},
		{"no next header", ipv6(ProtocolNoNextHeader), with(base6, func(i *Info) { i.Protocol, i.TotalLen = ProtocolNoNextHeader, 40 })},
		{"nothing", nil, Info{}},
		{"version 5", cat([]byte{0x55}, make([]byte, 60)), Info{}},
		{"short header length", cat([]byte{0x44}, ipv4(17, 0, ports...)[1:]), Info{}},
		{"total length too large", ipv4(17, 0, ports...)[:27], Info{}},
		{"total length below header", cat([]byte{0x45, 0, 0, 19}, ipv4(17, 0, ports...)[4:]), Info{}},
	}
	got := Info{SrcPort: 1, HasPorts: true, FragmentOffset: 8, DontFragment: true} // left from another packet
	for _, tt := range tests {
		got.Decode(tt.packet)
		if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.name, diff)
		}
		if got.IsFragment() != (tt.want.MoreFragments || tt.want.FragmentOffset > 0) {
			t.Errorf("%s: IsFragment is wrong", tt.name)
		}
	}
}

func samples() [][]byte {
	return [][]byte{
		ipv4(ProtocolUDP, 0, ports...), ipv4(ProtocolICMP, 0x2000, echo...), ipv6(ProtocolUDP, ports...),
		ipv6(ProtocolHopByHop, cat(chain(60, 43, 44), fragment6(60, 1), dstOpts2, ports)...),
		ipv6(ProtocolFragment, cat(fragment6(ProtocolTCP, 8), ports)...),
	}
}

func TestDecodeOfEveryPrefix(t *testing.T) {
	for _, whole := range samples() {
		for n := range whole {
			var p Info
			p.Decode(whole[:n:n])
			if p != (Info{}) {
				t.Errorf("%d of %d octets are taken for %+v", n, len(whole), p)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, b := range samples() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Info
		p.Decode(b)
		switch {
		case p.Version == 0:
			if p != (Info{}) {
				t.Fatalf("malformed, but %+v", p)
			}
		case p.HeaderLen > p.TotalLen || p.TotalLen > len(b) || p.HeaderLen < IPv4HeaderLen:
			t.Fatalf("lengths %d, %d of %d", p.HeaderLen, p.TotalLen, len(b))
		case p.HasPorts && (p.FragmentOffset != 0 || p.TotalLen < p.HeaderLen+4):
			t.Fatalf("ports from nowhere: %+v", p)
		case (p.Version == 4) != p.Src.Is4() || (p.Version == 4) != p.Dst.Is4():
			t.Fatalf("wrong family: %+v", p)
		}
	})
}

// slowSum is RFC 1071, Section 4.1, as written there.
func slowSum(b []byte) uint16 {
	var sum uint64
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint64(b[i])<<8 | uint64(b[i+1])
	}
	if len(b)%2 == 1 {
		sum += uint64(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

func TestChecksumAgreesWithItsDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for n := range 300 {
		b := make([]byte, n)
		for _, fill := range []func() byte{func() byte { return byte(rng.Uint32()) }, func() byte { return 0xff }, func() byte { return 0 }} {
			for i := range b {
				b[i] = fill()
			}
			if got, want := Checksum(b), slowSum(b); got != want {
				t.Fatalf("%d octets: %04x, want %04x", n, got, want)
			}
			cut := n / 2 &^ 1
			if got := ^Fold(Sum(Sum(0, b[:cut]), b[cut:])); got != slowSum(b) {
				t.Fatalf("%d octets in two pieces: %04x", n, got)
			}
		}
	}
	// The example of RFC 1071, Section 3.
	if got := Fold(Sum(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7})); got != 0xddf2 {
		t.Errorf("example: %04x", got)
	}
}

func TestTransportChecksum(t *testing.T) {
	for _, pair := range [][2]netip.Addr{{a4, b4}, {a6, b6}} {
		src, dst := pair[0].AsSlice(), pair[1].AsSlice()
		segment := make([]byte, UDPHeaderLen+5)
		PutUDP(segment, 4500, 4501, len(segment), 0)
		copy(segment[8:], "hello")
		// The pseudo header of either version sums to that of version 6.
		want := slowSum(cat(src, dst, []byte{0, 0, 0, byte(len(segment)), 0, 0, 0, ProtocolUDP}, segment))
		got := TransportChecksum(pair[0], pair[1], ProtocolUDP, segment)
		if got != want {
			t.Errorf("%s: %04x, want %04x", pair[0], got, want)
		}
		PutUDP(segment, 4500, 4501, len(segment), got)
		if rest := TransportChecksum(pair[0], pair[1], ProtocolUDP, segment); rest != 0 {
			t.Errorf("%s: with its checksum the segment sums to %04x", pair[0], rest)
		}
	}
}

func TestBuiltHeadersDecode(t *testing.T) {
	b := make([]byte, IPv4HeaderLen+UDPHeaderLen)
	PutIPv4(b, &IPv4Header{Src: a4, Dst: b4, TotalLen: len(b), ID: 7, TTL: 64, Protocol: ProtocolUDP, DontFragment: true})
	PutUDP(b[IPv4HeaderLen:], 4500, 1024, UDPHeaderLen, 0)
	if Checksum(b[:IPv4HeaderLen]) != 0 {
		t.Error("wrong header checksum")
	}
	var p Info
	p.Decode(b)
	want := Info{
		Src: a4, Dst: b4, Version: 4, Protocol: ProtocolUDP, HopLimit: 64, HasPorts: true, DontFragment: true,
		SrcPort: 4500, DstPort: 1024, HeaderLen: 20, TotalLen: 28, FragmentID: 7,
	}
	if p != want {
		t.Errorf("got %+v", p)
	}
	v6 := ipv6(ProtocolNoNextHeader)
	if got := binary.BigEndian.Uint32(v6); got != 0x6b812345 {
		t.Errorf("first word of IPv6: %08x", got)
	}
}

func TestNoAllocs(t *testing.T) {
	var p Info
	all := samples()
	out := make([]byte, 64)
	h4 := IPv4Header{Src: a4, Dst: b4}
	h6 := IPv6Header{Src: a6, Dst: b6}
	if n := testing.AllocsPerRun(100, func() {
		for _, b := range all {
			p.Decode(b)
			TransportChecksum(p.Src, p.Dst, p.Protocol, b)
		}
		PutIPv4(out, &h4)
		PutIPv6(out, &h6)
		PutUDP(out, 1, 2, 8, 0)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, tt := range []struct {
		name   string
		packet []byte
	}{{"ip=4", ipv4(ProtocolUDP, 0, ports...)}, {"ip=6", ipv6(ProtocolUDP, ports...)}} {
		b.Run(tt.name, func(b *testing.B) {
			var p Info
			for b.Loop() {
				p.Decode(tt.packet)
			}
		})
	}
}

func BenchmarkChecksum(b *testing.B) {
	buf := make([]byte, 1400)
	b.SetBytes(1400)
	for b.Loop() {
		Checksum(buf)
	}
}
