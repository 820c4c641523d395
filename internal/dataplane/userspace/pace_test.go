package userspace

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// paceSA sends 1,000 packets of 1,000 octets in a second.
func paceSA(sa *ipsec.SA) {
	sa.Aggfrag = ipsec.AggfragSA{On: true, Pace: ipsec.Pace{Rate: 8000, Size: 1000}}
}

// pace lets plane 0 send what is due by then.
func (f *fitPlanes) pace(now time.Duration) []netio.Packet {
	f.t.Helper()
	f.plane[0].pacer.pace(now)
	return drain(f.t, f.plane[0].opts.Devices.UDP4[0].(*netio.Mem), f.wire)
}

// TestConstantRate: idle or busy, the same number of packets of the same length leaves,
// and what was offered arrives as it was, later.
func TestConstantRate(t *testing.T) {
	for _, busy := range []bool{false, true} {
		f := newFitPlanes(t, 1500, paceSA)
		var sent, got [][]byte
		length, packets := 0, 0
		for ms := range 200 {
			if busy && ms < 100 {
				for _, o := range []offer{plain(datagram(60+ms, true)), plain(datagram(300+9*ms, true))} {
					wire, told := f.send(o)
					if len(wire) != 0 || len(told) != 0 {
						t.Fatalf("%d packets left at once, %d senders are told", len(wire), len(told))
					}
					sent = append(sent, o.data)
				}
			}
			wire := f.pace(time.Duration(ms) * time.Millisecond)
			for i := range wire {
				n := onWire(&wire[i])
				if length == 0 {
					length = n
				}
				if n != length || n > 1000 || n < 1000-16 || wire[i].TrafficClass != 0 {
					t.Fatalf("a packet of %d octets is on the wire, others have %d", n, length)
				}
			}
			packets += len(wire)
			got = append(got, f.arrive(wire)...)
		}
		// The length of the cipher's blocks may leave a little.
		if want := 200 * 1000 / length; packets < want || packets > want+1 {
			t.Errorf("busy %v: %d packets in 200 ms, want %d", busy, packets, want)
		}
		if !slices.EqualFunc(got, sent, bytes.Equal) {
			t.Errorf("busy %v: %d packets arrived, want %d as they were sent", busy, len(got), len(sent))
		}
		f.plane[0].pacer.tally.publish()
		if idle := f.count(0, "aggfrag-payloads-idle"); !busy && idle != uint64(packets) || busy && idle >= uint64(packets) {
			t.Errorf("busy %v: %d idle payloads of %d", busy, idle, packets)
		}
		if n := f.count(0, "out-packets"); n != uint64(len(sent)) {
			t.Errorf("%d packets counted as sent, want %d", n, len(sent))
		}
	}
}

// TestClassOfConstantRate: all packets have the DSCP that is configured, and nothing
// of what they carry (RFC 9347, Section 2.2.5.3).
func TestClassOfConstantRate(t *testing.T) {
	f := newFitPlanes(t, 1500, func(sa *ipsec.SA) {
		paceSA(sa)
		sa.Aggfrag.Pace.DSCP = 46
	})
	marked := testPacket(60)
	marked[1] = 10<<2 | 1
	f.send(plain(marked), plain(testPacket(60)))
	for ms := range 3 {
		wire := f.pace(time.Duration(ms) * time.Millisecond)
		if len(wire) == 0 || wire[0].TrafficClass != 46<<2 {
			t.Fatalf("after %d ms: traffic class of %d packets is %#x", ms, len(wire), wire[0].TrafficClass)
		}
		got := f.arrive(wire)
		if want := []int{2, 0, 0}[ms]; len(got) != want {
			t.Errorf("after %d ms: %d packets arrived, want %d", ms, len(got), want)
		}
		if len(got) > 0 && got[0][1] != marked[1] {
			t.Errorf("traffic class %#x arrived, want %#x", got[0][1], marked[1])
		}
	}
}

// TestConstantRateOverflows: what the rate cannot carry is dropped and counted.
func TestConstantRateOverflows(t *testing.T) {
	f := newFitPlanes(t, 1500, paceSA)
	for range 200 {
		f.send(plain(datagram(1000, true)))
	}
	if n := f.count(0, "aggfrag-queue-full"); n < 50 || n >= 200 {
		t.Errorf("%d packets of 200 found no room", n)
	}
	if f.plane[0].pacer.pace(0) <= 0 {
		t.Error("nothing more is due")
	}
}

// TestConstantRateEndsWithItsSA: each SA has a rate of its own, which ends with it.
func TestConstantRateEndsWithItsSA(t *testing.T) {
	f := newFitPlanes(t, 1500, paceSA)
	newer := testSA(ipsec.Out, 5000, 0, true)
	paceSA(&newer)
	if err := f.plane[0].AddSA(newer); err != nil {
		t.Fatal(err)
	}
	if n := len(f.pace(0)); n != 2 {
		t.Errorf("%d packets of two SAs", n)
	}
	f.send(plain(testPacket(100)))
	if err := f.plane[0].DeleteSA(ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: 1001, Peer: outer[1].Addr()}); err != nil {
		t.Fatal(err)
	}
	if n := len(f.pace(time.Millisecond)); n != 1 {
		t.Errorf("%d packets of one SA", n)
	}
	if err := f.plane[0].DeleteSA(newer.ID()); err != nil {
		t.Fatal(err)
	}
	if wait := f.plane[0].pacer.pace(2 * time.Millisecond); wait != 0 {
		t.Errorf("something is due in %v, and no SA is left", wait)
	}
}

// TestConstantRateCatchesUp: a look that comes late brings several at once, in as
// many batches as that takes.
func TestConstantRateCatchesUp(t *testing.T) {
	f := newFitPlanes(t, 1500, func(sa *ipsec.SA) {
		sa.Aggfrag = ipsec.AggfragSA{On: true, Pace: ipsec.Pace{Rate: 320_000}}
	})
	f.pace(0)
	wire := f.pace(9 * time.Millisecond)
	if n := len(wire); n < 235 || n > 242 || onWire(&wire[0]) > 1500 || onWire(&wire[0]) < 1480 {
		t.Errorf("%d packets of %d octets after 9 ms", n, onWire(&wire[0]))
	}
	if got := f.arrive(wire); len(got) != 0 || f.count(1, "aggfrag-malformed") != 0 {
		t.Errorf("%d packets arrived of payloads that held none", len(got))
	}
}

func TestConstantRateDoesNotAllocate(t *testing.T) {
	f := newFitPlanes(t, 1500, paceSA)
	batch := netio.NewBatch(1, netio.MaxPacket)
	wire, now := netio.NewBatch(64, 4000), time.Duration(0)
	b := testPacket(900)
	round := func() {
		batch[0].Off = netio.Headroom
		batch[0].Len = copy(batch[0].Buf[batch[0].Off:], b)
		f.plane[0].out[0].carry(batch)
		now += time.Millisecond
		f.plane[0].pacer.pace(now)
		if _, err := f.wire.ReadBatch(wire); err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		round()
	}
	if n := testing.AllocsPerRun(200, round); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
