package esp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

// transportPair is pair in transport mode.
func transportPair(t testing.TB, a algorithms) (*Outbound, *Inbound) {
	t.Helper()
	sa := testSA(t, a, ipsec.Out)
	sa.Mode = ipsec.Transport
	out, err := NewOutbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	sa.Direction = ipsec.In
	in, err := NewInbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

// hosts are the ends of transport mode.
var hosts = map[uint8][2]netip.Addr{
	4: {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")},
	6: {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")},
}

// hostPackets are packets between two hosts, with a UDP datagram of n octets
// behind all kinds of headers.
func hostPackets(n int) map[string][]byte {
	datagram := func(version uint8) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * 5)
		}
		packet.PutUDP(b, 1111, 2222, n, 0)
		src, dst := hosts[version][0], hosts[version][1]
		packet.PutUDP(b, 1111, 2222, n, packet.TransportChecksum(src, dst, packet.ProtocolUDP, b))
		return b
	}
	v4 := func(options ...byte) []byte {
		head := make([]byte, packet.IPv4HeaderLen, packet.IPv4HeaderLen+len(options)+n)
		packet.PutIPv4(head, &packet.IPv4Header{
			Src: hosts[4][0], Dst: hosts[4][1], ID: 77, TTL: 3, TrafficClass: 0xb8, Protocol: packet.ProtocolUDP,
		})
		head = append(head, options...)
		head[0] = 4<<4 | byte(len(head)/4)
		b := append(head, datagram(4)...)
		b[2], b[3] = byte(len(b)>>8), byte(len(b))
		var info packet.Info
		info.Decode(b)
		packet.SeamOf(b, &info).Close(b, packet.ProtocolUDP, info.Src, info.Dst)
		return b
	}
	v6 := func(headers ...[]byte) []byte {
		b := make([]byte, packet.IPv6HeaderLen)
		next := make([]byte, 0, len(headers)+1)
		var chain []byte
		for _, h := range headers {
			next = append(next, h[0])
			chain = append(chain, h[1:]...)
		}
		next = append(next, packet.ProtocolUDP)
		for i := range headers {
			chain[8*i] = next[i+1]
		}
		packet.PutIPv6(b, &packet.IPv6Header{
			Src: hosts[6][0], Dst: hosts[6][1], PayloadLen: len(chain) + n, FlowLabel: 0x12345, TrafficClass: 0xb8,
			NextHeader: next[0], HopLimit: 3,
		})
		return append(append(b, chain...), datagram(6)...)
	}
	// Each header of 8 octets: its own number, then its octets. Options are PadN.
	hop := []byte{packet.ProtocolHopByHop, 0, 0, 1, 4, 0, 0, 0, 0}
	destination := []byte{packet.ProtocolDestination, 0, 0, 1, 4, 0, 0, 0, 0}
	routing := []byte{packet.ProtocolRouting, 0, 0, 253, 0, 0, 0, 0, 0}
	return map[string][]byte{
		"IPv4":                          v4(),
		"IPv4 with options":             v4(148, 4, 0, 0), // router alert
		"IPv6":                          v6(),
		"IPv6 with hop-by-hop":          v6(hop),
		"IPv6 with destination options": v6(destination),
		"IPv6 with three headers":       v6(hop, routing, destination),
	}
}

// sealHost makes of a packet the one that travels, as a gateway does.
func sealHost(t testing.TB, out *Outbound, b []byte, seq uint64, udp bool) []byte {
	t.Helper()
	var info packet.Info
	info.Decode(b)
	s := packet.SeamOf(b, &info)
	protocol, between := packet.ProtocolESP, 0
	if udp {
		protocol, between = packet.ProtocolUDP, packet.UDPHeaderLen
	}
	payload := b[s.At:]
	got := make([]byte, s.At+between+out.SealedLen(len(payload)))
	copy(got, b[:s.At])
	if udp {
		packet.PutUDP(got[s.At:], 4500, 4500, len(got)-s.At, 0)
	}
	if _, err := out.Seal(got[s.At+between:], payload, seq, s.Next); err != nil {
		t.Fatal(err)
	}
	s.Close(got, protocol, info.Src, info.Dst)
	return got
}

// openHost is the way back.
func openHost(in *Inbound, b []byte, udp bool) ([]byte, error) {
	var info packet.Info
	info.Decode(b)
	at := info.HeaderLen
	if udp {
		at += packet.UDPHeaderLen
	}
	payload, next, _, err := in.Open(b[at:])
	if err != nil {
		return nil, err
	}
	got := append(bytes.Clone(b[:info.HeaderLen]), payload...)
	s := packet.SeamOf(b, &info)
	if s.At < info.HeaderLen { // destination options that were left outside
		got[s.At], next = next, s.Next
	}
	s.Close(got, next, info.Src, info.Dst)
	return got, nil
}

func TestTransportRoundTrip(t *testing.T) {
	for _, a := range all {
		out, in := transportPair(t, a)
		seq := uint64(0)
		for n := 8; n < 80; n++ {
			for name, b := range hostPackets(n) {
				seq++
				got, err := openHost(in, sealHost(t, out, b, seq, false), false)
				if err != nil || !bytes.Equal(got, b) {
					t.Fatalf("%s, %s, %d octets: %v\n% x, was\n% x", a.name, name, n, err, got, b)
				}
			}
		}
		// Anything may follow the header, also nothing.
		for _, next := range []uint8{packet.ProtocolTCP, NextIPv4, NextIPv6, 89} {
			seq++
			if got, kind, _, err := in.Open(sealed(t, out, nil, seq, next)); err != nil || kind != next || len(got) != 0 {
				t.Errorf("%s: nothing of protocol %d gives %x of %d, %v", a.name, next, got, kind, err)
			}
		}
		seq++
		if _, _, _, err := in.Open(sealed(t, out, []byte("dummy"), seq, NextDummy)); err != ErrDummy {
			t.Errorf("%s: a dummy gives %v", a.name, err)
		}
	}
}

// scapyHostCases makes the cases of transport mode, with the packets as they are
// without ESP.
func scapyHostCases(t *testing.T, do string) (cases []scapyCase, packets [][]byte, algos []algorithms) {
	for _, a := range standard {
		sa := testSA(t, a, ipsec.Out)
		seq := uint32(0)
		for _, n := range []int{8, 63, 1300} {
			for _, b := range hostPackets(n) {
				for _, udp := range []bool{false, true} {
					if udp && b[0]>>4 == 6 {
						continue // scapy leaves the UDP header of IPv6 where it is
					}
					seq++
					cases = append(cases, scapyCase{
						Do: do, Crypt: scapyNames[a.name][0], Auth: scapyNames[a.name][1], Transport: true,
						CryptKey: hex.EncodeToString(sa.EncrKey.Bytes()), AuthKey: hex.EncodeToString(sa.IntegKey.Bytes()),
						SPI: uint32(sa.SPI), Seq: seq, Packet: hex.EncodeToString(b), Outer: int(b[0] >> 4), UDP: udp,
					})
					packets = append(packets, b)
					algos = append(algos, a)
				}
			}
		}
	}
	return cases, packets, algos
}

func TestScapyOpensOursInTransportMode(t *testing.T) {
	cases, packets, algos := scapyHostCases(t, "open")
	for i := range cases {
		out, _ := transportPair(t, algos[i])
		cases[i].Packet = hex.EncodeToString(sealHost(t, out, packets[i], uint64(cases[i].Seq), cases[i].UDP))
	}
	for i, got := range scapy(t, cases) {
		if !bytes.Equal(got, packets[i]) {
			t.Errorf("%s, %+v:\nscapy found %x\ninstead of  %x", algos[i].name, cases[i], got, packets[i])
		}
	}
}

func TestOurselvesOpenScapysInTransportMode(t *testing.T) {
	cases, packets, algos := scapyHostCases(t, "seal")
	for i, b := range scapy(t, cases) {
		_, in := transportPair(t, algos[i])
		if got, err := openHost(in, b, cases[i].UDP); err != nil || !bytes.Equal(got, packets[i]) {
			t.Errorf("%s, %+v: %v\n%x, was\n%x", algos[i].name, cases[i], err, got, packets[i])
		}
	}
}

// TestAggfragIsForTunnels: AGGFRAG mode is defined for tunnels alone (RFC 9347,
// Section 5.1).
func TestAggfragIsForTunnels(t *testing.T) {
	sa := testSA(t, gcm128, ipsec.Out)
	sa.Mode, sa.Aggfrag.On = ipsec.Transport, true
	if _, err := NewOutbound(sa); !errors.Is(err, ErrUnsupported) {
		t.Errorf("transport mode: %v", err)
	}
	sa.Mode = ipsec.Tunnel
	if _, err := NewOutbound(sa); err != nil {
		t.Errorf("tunnel mode: %v", err)
	}
}
