package afpacket

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

var steering = frame.Steering{
	Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("10.2.0.1")},
	Port:      espPort,
	Take: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.7.0/24"), netip.MustParsePrefix("2001:db8:2::/48"),
	},
	Pass: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:2:3::/64")},
}

// loaded makes the tables of a steering, and the program.
func loaded(t *testing.T, s *frame.Steering, make func(*tables) (*ebpf.Program, error)) *ebpf.Program {
	t.Helper()
	tables, err := newTables()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tables.close)
	if err := tables.set(nil, entries(s)); err != nil {
		t.Fatal(err)
	}
	p, err := make(&tables)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// dice makes frames that come close to what Steering takes.
type dice struct{ *rand.Rand }

func pick[T any](d dice, list ...T) T { return list[d.IntN(len(list))] }

func (d dice) packet() (b []byte, etherType uint16) {
	payload := make([]byte, d.IntN(24))
	if d.IntN(2) == 0 {
		for i := range payload {
			payload[i] = byte(d.IntN(256))
		}
	}
	protocol := pick(d, packet.ProtocolESP, packet.ProtocolAH, packet.ProtocolUDP, packet.ProtocolUDP, packet.ProtocolTCP, packet.ProtocolICMP)
	if protocol == packet.ProtocolUDP && len(payload) >= packet.UDPHeaderLen {
		packet.PutUDP(payload, pick[uint16](d, 4500, 500, 53), pick[uint16](d, 4500, 4500, 500), len(payload), 0)
	}
	ttl := pick[uint8](d, 0, 1, 2, 64, 255)
	if d.IntN(2) == 0 {
		b = make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(b, &packet.IPv4Header{
			Src:      netip.MustParseAddr("198.51.100.7"),
			Dst:      netip.MustParseAddr(pick(d, "192.0.2.1", "192.0.2.1", "192.0.2.2", "10.2.0.1", "10.2.0.2", "10.1.0.2", "10.1.7.2", "203.0.113.1")),
			TotalLen: len(b) + len(payload), TTL: ttl, Protocol: protocol,
		})
		switch d.IntN(8) {
		case 0:
			b[0] = pick[byte](d, 0x46, 0x44, 0x55)
		case 1:
			binary.BigEndian.PutUint16(b[6:], pick[uint16](d, 0x2000, 0x4000, 0x8000, 1, 0x1fff))
		}
		return append(b, payload...), pick(d, frame.TypeIPv4, frame.TypeIPv4, frame.TypeIPv4, frame.TypeIPv6)
	}
	b = make([]byte, packet.IPv6HeaderLen)
	packet.PutIPv6(b, &packet.IPv6Header{
		Src:        netip.MustParseAddr("2001:db8:7::7"),
		Dst:        netip.MustParseAddr(pick(d, "2001:db8::1", "2001:db8::1", "2001:db8::2", "2001:db8:2::7", "2001:db8:2:3::7", "2001:db8:3::7")),
		PayloadLen: len(payload), NextHeader: protocol, HopLimit: ttl,
	})
	return append(b, payload...), pick(d, frame.TypeIPv6, frame.TypeIPv6, frame.TypeIPv6, uint16(0x0806))
}

// TestIngressIsTheRule compares the program with the rule that it is to follow.
func TestIngressIsTheRule(t *testing.T) {
	p := loaded(t, &steering, func(x *tables) (*ebpf.Program, error) { return newIngress(x, espPort) })
	d := dice{rand.New(rand.NewPCG(1, 2))}
	var mac [6]byte // the kernel runs it for the loopback interface, which has none
	kinds := make(map[frame.Kind]int)
	for range 20000 {
		b, etherType := d.packet()
		h := frame.Header{Dst: mac, Src: [6]byte{2}, Type: etherType}
		if d.IntN(8) == 0 {
			h.Dst = pick(d, [6]byte{2, 1}, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, [6]byte{1, 0, 0x5e})
		}
		f := make([]byte, frame.HeaderLen)
		h.Put(f)
		f = append(f, b...)
		f = f[:frame.HeaderLen+max(d.IntN(2*len(b)), 20)%(len(b)+1)]
		if len(f) < frame.HeaderLen+20 || etherType == frame.TypeIPv6 && len(f) < frame.HeaderLen+40 {
			continue // the kernel's test runs want a header
		}
		got, err := p.Run(&ebpf.RunOptions{Data: f})
		if err != nil {
			t.Fatalf("%x: %v", f, err)
		}
		want := steering.Ours(mac, false, f)
		kinds[want]++
		if (got == tcxDrop) != (want != frame.Other) || got != tcxDrop && int32(got) != tcxNext {
			t.Fatalf("%x: kind %d, but the program returns %d", f, want, int32(got))
		}
	}
	for k := frame.Other; k <= frame.OuterUDP; k++ {
		if kinds[k] < 20 {
			t.Errorf("%d frames of kind %d were not enough", kinds[k], k)
		}
	}
}

// TestSteerAgain: what is not wanted any more is given back.
func TestSteerAgain(t *testing.T) {
	tables, err := newTables()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tables.close)
	p, err := newIngress(&tables, espPort)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	b := make([]byte, frame.HeaderLen+packet.IPv4HeaderLen)
	(&frame.Header{Type: frame.TypeIPv4}).Put(b)
	packet.PutIPv4(b[frame.HeaderLen:], &packet.IPv4Header{
		Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.1.7.7"), TotalLen: packet.IPv4HeaderLen, TTL: 64,
	})
	var have map[netip.Prefix]verdict
	for _, s := range []struct {
		steering frame.Steering
		taken    bool
	}{
		{frame.Steering{}, false},
		{frame.Steering{Take: []netip.Prefix{netip.MustParsePrefix("10.1.7.0/24")}}, true},
		{frame.Steering{Take: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Pass: []netip.Prefix{netip.MustParsePrefix("10.1.7.0/24")}}, false},
		{frame.Steering{Take: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, true},
		{frame.Steering{Take: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Addresses: []netip.Addr{netip.MustParseAddr("10.1.7.7")}}, false},
		{frame.Steering{}, false},
	} {
		want := entries(&s.steering)
		if err := tables.set(have, want); err != nil {
			t.Fatal(err)
		}
		have = want
		got, err := p.Run(&ebpf.RunOptions{Data: b})
		if err != nil || (got == tcxDrop) != s.taken {
			t.Errorf("%+v: the program returns %d, %v; taken should be %v", s.steering, int32(got), err, s.taken)
		}
	}
}

func TestFanoutFollowsTheOwner(t *testing.T) {
	p, err := newFanout(3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	d := dice{rand.New(rand.NewPCG(3, 4))}
	run := func(b []byte, etherType uint16) int {
		t.Helper()
		f := make([]byte, frame.HeaderLen)
		(&frame.Header{Type: etherType}).Put(f)
		got, err := p.Run(&ebpf.RunOptions{Data: append(f, b...)})
		if err != nil {
			t.Fatal(err)
		}
		return int(got)
	}
	used := make(map[int]int)
	for range 2000 {
		b, etherType := d.packet()
		if b[0] == 0x45 && etherType != frame.TypeIPv4 || b[0] == 0x60 && etherType != frame.TypeIPv6 || b[0] != 0x45 && b[0] != 0x60 {
			continue
		}
		got := run(b, etherType)
		if got < 0 || got > 2 {
			t.Fatalf("socket %d of 3", got)
		}
		used[got]++
		var info packet.Info
		info.Decode(b)
		if info.Version == 0 || info.IsFragment() {
			continue
		}
		next := b[info.HeaderLen:info.TotalLen]
		var at int
		switch {
		case info.Protocol == packet.ProtocolESP && len(next) >= 4:
			at = 0
		case info.Protocol == packet.ProtocolAH && len(next) >= 8:
			at = 4
		case info.Protocol == packet.ProtocolUDP && info.DstPort == espPort && len(next) >= 12:
			at = 8
		default:
			continue
		}
		if want := netio.OwnerOf(binary.BigEndian.Uint32(next[at:]), 3); got != want {
			t.Errorf("%x: socket %d, and the owner is %d", b, got, want)
		}
	}
	for i := range 3 {
		if used[i] < 100 {
			t.Errorf("socket %d gets %d of 2000 packets", i, used[i])
		}
	}
}
