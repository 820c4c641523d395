package packet

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// ipv6With builds an IPv6 packet with the extension headers, each of 8 octets,
// before TCP.
func ipv6With(kinds ...uint8) []byte {
	payload := 8*len(kinds) + 24
	b := make([]byte, IPv6HeaderLen, IPv6HeaderLen+payload)
	kinds = append(kinds, ProtocolTCP)
	PutIPv6(b, &IPv6Header{
		Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"),
		PayloadLen: payload, NextHeader: kinds[0], HopLimit: 64,
	})
	for _, next := range kinds[1:] {
		b = append(b, next, 0, 0, 0, 0, 0, 0, 0)
	}
	for i := range 24 {
		b = append(b, byte(i))
	}
	return b
}

func TestSeamOfIPv6(t *testing.T) {
	const hop, routing, fragment, destination = ProtocolHopByHop, ProtocolRouting, ProtocolFragment, ProtocolDestination
	for _, tc := range []struct {
		name  string
		kinds []uint8
		at    int
		next  uint8
		field int
	}{
		{"none", nil, 40, ProtocolTCP, 6},
		{"hop-by-hop", []uint8{hop}, 48, ProtocolTCP, 40},
		{"destination is protected", []uint8{destination}, 40, destination, 6},
		{"hop-by-hop, then destination", []uint8{hop, destination}, 48, destination, 40},
		{"destination before routing", []uint8{destination, routing}, 56, ProtocolTCP, 48},
		{"all in the order of RFC 8200", []uint8{hop, destination, routing, fragment, destination}, 72, destination, 64},
	} {
		b := ipv6With(tc.kinds...)
		var info Info
		info.Decode(b)
		if info.Version != 6 {
			t.Fatalf("%s: the packet is malformed", tc.name)
		}
		if got, want := SeamOf(b, &info), (Seam{At: tc.at, Next: tc.next, field: tc.field}); got != want {
			t.Errorf("%s: %+v, want %+v", tc.name, got, want)
		}
	}
}

// A packet that is parted and closed again with what it had is the same.
func TestSeamClose(t *testing.T) {
	withOptions := make([]byte, 28+20)
	PutIPv4(withOptions, &IPv4Header{
		Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), TotalLen: len(withOptions), TTL: 7,
		ID: 9, TrafficClass: 0xb9, Protocol: ProtocolUDP, DontFragment: true,
	})
	withOptions[0] = 4<<4 | 7
	copy(withOptions[20:], []byte{7, 7, 4, 0, 0, 0, 0, 0}) // record route
	withOptions[10], withOptions[11] = 0, 0
	binary.BigEndian.PutUint16(withOptions[10:], Checksum(withOptions[:28]))
	for name, b := range map[string][]byte{
		"IPv4 with options": withOptions,
		"IPv6":              ipv6With(ProtocolHopByHop, ProtocolDestination),
	} {
		var info Info
		info.Decode(b)
		s := SeamOf(b, &info)
		got := append(bytes.Clone(b), 1, 2, 3, 4)
		other := [2]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")}
		if info.Version == 6 {
			other = [2]netip.Addr{netip.MustParseAddr("2001:db8:9::1"), netip.MustParseAddr("2001:db8:9::2")}
		}
		s.Close(got, ProtocolESP, other[0], other[1])
		var sealed Info
		sealed.Decode(got)
		if sealed.Protocol != ProtocolESP || sealed.TotalLen != len(got) || sealed.Src != other[0] || sealed.Dst != other[1] ||
			sealed.HopLimit != info.HopLimit || sealed.TrafficClass != info.TrafficClass || sealed.DontFragment != info.DontFragment {
			t.Errorf("%s: sealed as %+v", name, sealed)
		}
		if info.Version == 4 && Checksum(got[:s.At]) != 0 {
			t.Errorf("%s: wrong checksum", name)
		}
		got = got[:len(b)]
		s.Close(got, s.Next, info.Src, info.Dst)
		if !bytes.Equal(got, b) {
			t.Errorf("%s: closed again\n% x, was\n% x", name, got, b)
		}
	}
}

func TestReaddress(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func(v6 bool) netip.Addr {
		var b [16]byte
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		if v6 {
			return netip.AddrFrom16(b)
		}
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	at := map[uint8]int{ProtocolTCP: 16, ProtocolUDP: 6, ProtocolUDPLite: 6, ProtocolDCCP: 6, ProtocolICMPv6: 2}
	for protocol, at := range at {
		for i := range 3000 {
			v6 := i%2 == 0
			from, to := [2]netip.Addr{random(v6), random(v6)}, [2]netip.Addr{random(v6), random(v6)}
			segment := make([]byte, 20+r.IntN(40))
			for i := range segment {
				segment[i] = byte(r.Uint32())
			}
			segment[at], segment[at+1] = 0, 0
			sum := TransportChecksum(from[0], from[1], protocol, segment)
			if sum == 0 {
				sum = 0xffff
			}
			binary.BigEndian.PutUint16(segment[at:], sum)
			Readdress(protocol, segment, from, to)
			if rest := TransportChecksum(to[0], to[1], protocol, segment); rest != 0 && rest != 0xffff {
				t.Fatalf("protocol %d: the checksum is wrong by %04x", protocol, rest)
			}
			segment[12] ^= 0x40 // damaged before: still damaged after
			Readdress(protocol, segment, to, from)
			if TransportChecksum(from[0], from[1], protocol, segment) == 0 {
				t.Fatalf("protocol %d: a damaged segment was made whole", protocol)
			}
		}
	}
	none := make([]byte, 20)
	Readdress(ProtocolUDP, none, [2]netip.Addr{random(false), random(false)}, [2]netip.Addr{random(false), random(false)})
	Readdress(ProtocolSCTP, none, [2]netip.Addr{random(false), random(false)}, [2]netip.Addr{random(false), random(false)})
	Readdress(ProtocolTCP, none[:17], [2]netip.Addr{random(false), random(false)}, [2]netip.Addr{random(false), random(false)})
	if !bytes.Equal(none, make([]byte, 20)) {
		t.Errorf("what has no checksum was changed: % x", none)
	}
}

// Whatever decodes can be parted, and closed with what it had.
func FuzzSeam(f *testing.F) {
	f.Add(ipv6With(ProtocolHopByHop, ProtocolRouting, ProtocolDestination))
	f.Add(ipv6With(ProtocolFragment))
	f.Add([]byte{0x46, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, 1, 1, 1, 0, 0, 1, 0, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		var info Info
		info.Decode(b)
		if info.Version == 0 {
			return
		}
		b = bytes.Clone(b[:info.TotalLen])
		s := SeamOf(b, &info)
		if s.At > info.HeaderLen || s.At > len(b) {
			t.Fatalf("%+v of %+v", s, info)
		}
		s.Close(b, ProtocolESP, info.Dst, info.Src)
		var sealed Info
		if sealed.Decode(b); sealed.Version != info.Version || sealed.Src != info.Dst || b[s.field] != ProtocolESP {
			t.Fatalf("%+v closed as %+v", info, sealed)
		}
	})
}
