package stream

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"caponier/internal/packet"
)

var (
	testSrc     = netip.MustParseAddr("10.1.0.2")
	testTargets = []netip.Addr{netip.MustParseAddr("10.2.0.2"), netip.MustParseAddr("10.3.0.1")}
	testHead    = link(net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2})
)

// datagram puts the frames of one together and checks all that a receiver would.
// It returns the number that the datagram carries.
func datagram(t *testing.T, list [][]byte, mtu int) (info packet.Info, number uint64) {
	t.Helper()
	r := packet.NewReassembler(packet.DefaultReassemblyLimits())
	for i, frame := range list {
		if !bytes.Equal(frame[:ethernetLen], []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0}) {
			t.Fatalf("the Ethernet header is %x", frame[:ethernetLen])
		}
		ip := frame[ethernetLen:]
		info.Decode(ip)
		if info.Version != 4 || info.TotalLen != len(ip) || len(ip) > mtu || packet.Checksum(ip[:packet.IPv4HeaderLen]) != 0 {
			t.Fatalf("a packet of %d octets, MTU %d: %+v", len(ip), mtu, info)
		}
		whole := ip
		if len(list) > 1 {
			whole, _ = r.Add(time.Unix(1, 0), ip, &info)
		}
		if (whole != nil) != (i == len(list)-1) {
			t.Fatalf("whole after %d of %d fragments", i+1, len(list))
		}
		if whole != nil {
			info.Decode(whole)
			udp := whole[packet.IPv4HeaderLen:]
			if got := packet.TransportChecksum(info.Src, info.Dst, packet.ProtocolUDP, udp); got != 0 || udp[6]|udp[7] == 0 {
				t.Fatalf("checksum %x leaves %x", udp[6:8], got)
			}
			if want := uint16(len(udp)); binary.BigEndian.Uint16(udp[4:]) != want {
				t.Fatalf("UDP says %d octets of %d", binary.BigEndian.Uint16(udp[4:]), want)
			}
			r := receiver{id: 7, size: len(udp) - udpLen}
			if r.count(udp[udpLen:], 0) != 1 {
				t.Fatal("the receiver does not know it")
			}
			number = r.highest
		}
	}
	return info, number
}

// Every frame is one that the kernel of a host could have sent.
func TestFrames(t *testing.T) {
	for _, tc := range []struct{ size, mtu, perOne int }{
		{MinSize, 1500, 1},
		{64, 1500, 1},
		{65, 1500, 1},
		{1472, 1500, 1},
		{1473, 1500, 2},
		{1400, 1420, 2},
		{4000, 1420, 3},
		{MaxSize, 1500, 45},
	} {
		f := newFrames(2, testHead, testSrc, 40000, testTargets, 7, tc.size, tc.mtu)
		if f.perOne != tc.perOne {
			t.Errorf("%d octets over %d: %d frames, want %d", tc.size, tc.mtu, f.perOne, tc.perOne)
		}
		// Numbers whose sums reach all of a checksum's values are among them.
		for number := uint64(1); number < 40000; number += 1 + number%7*9 {
			info, got := datagram(t, f.number(int(number%2), number), tc.mtu)
			if want := testTargets[number%2]; info.Dst != want || info.Src != testSrc || got != number {
				t.Fatalf("datagram %d goes to %v, wants %v, and is number %d", number, info.Dst, want, got)
			}
			if tc.size > 5000 {
				number += 5000
			}
		}
	}
}

func TestReceiverCountsItsOwnStream(t *testing.T) {
	train := func(stream uint32, size int, numbers ...uint64) (b []byte) {
		for _, n := range numbers {
			d := make([]byte, size)
			binary.BigEndian.PutUint32(d, stream)
			binary.BigEndian.PutUint64(d[4:], n)
			b = append(b, d...)
		}
		return b
	}
	r := receiver{id: 7, size: 64}
	var n uint64
	for _, tc := range []struct {
		data    []byte
		segment int
	}{
		{train(7, 64, 1), 0},
		{train(7, 64, 3, 2), 64}, // one is late
		{train(6, 64, 9), 0},     // a straggler
		{train(7, 65, 4), 0},     // another size
		{train(7, 64, 4, 5, 6), 64},
		{append(train(7, 64, 7), 1, 2, 3), 64}, // what ends a train may be shorter
		{nil, 0},
	} {
		n += r.count(tc.data, tc.segment)
	}
	if n != 7 || r.reordered != 1 || r.highest != 7 {
		t.Errorf("%d datagrams, %d late, %d the highest, want 7, 1 and 7", n, r.reordered, r.highest)
	}
}

func TestLossPercent(t *testing.T) {
	for _, tc := range []struct {
		sent, received uint64
		want           float64
	}{{0, 0, 0}, {100, 100, 0}, {100, 75, 25}, {100, 101, 0}, {4, 0, 100}} {
		if got := (Result{Sent: tc.sent, Received: tc.received}).LossPercent(); got != tc.want {
			t.Errorf("%d of %d: %v %%, want %v", tc.received, tc.sent, got, tc.want)
		}
	}
}

// Making a batch allocates nothing: a generator must not collect garbage.
func TestFramesAllocateNothing(t *testing.T) {
	for _, size := range []int{64, 4000} {
		f := newFrames(1, testHead, testSrc, 40000, testTargets, 7, size, 1500)
		number := uint64(0)
		if n := testing.AllocsPerRun(1000, func() { number++; f.number(0, number) }); n != 0 {
			t.Errorf("%d octets: %v allocations", size, n)
		}
	}
}
