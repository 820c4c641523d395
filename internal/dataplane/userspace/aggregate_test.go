package userspace

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"caponier/internal/aggfrag"
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/secret"
)

func sharingSA(sa *ipsec.SA) { sa.Aggfrag.On = true }

// TestPacketsShare: small packets that come together leave in few packets no longer
// than the way takes, long ones are spread, and all arrive as they were sent and in
// order, whatever the suite, and whether they came in super-packets or alone.
func TestPacketsShare(t *testing.T) {
	const mtu = 1500
	suites := map[string]func(*ipsec.SA){"combined": sharingSA, "serial": func(sa *ipsec.SA) {
		sharingSA(sa)
		sa.Encr, sa.Integ = sm4cbc[0], sm4cbc[1]
		sa.EncrKey, sa.IntegKey = keyOf(1, 16), keyOf(2, 32)
	}}
	for name, change := range suites {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(9, 10))
			f := newFitPlanes(t, mtu, change)
			var sent, octets int
			for range 50 {
				var list []offer
				var want [][]byte
				for range 1 + r.IntN(40) {
					o := plain(datagram(28+r.IntN([]int{30, 200, 9000}[r.IntN(3)]), r.IntN(2) == 0))
					switch r.IntN(8) {
					case 0:
						o.data = datagram6(48 + r.IntN(1000))
					case 1:
						o = offer{tcpSuper(7, 0, 1+r.IntN(20000)), 536}
						if len(o.data) < 600 {
							o.segment = 0
						}
					}
					list = append(list, o)
					want = append(want, cutUp(t, o.data, o.segment)...)
				}
				wire, told := f.send(list...)
				for i := range wire {
					if onWire(&wire[i]) > mtu {
						t.Fatalf("%d octets on the wire, and the way takes %d", onWire(&wire[i]), mtu)
					}
					octets += wire[i].Len
				}
				if len(told) > 0 {
					t.Fatalf("senders are told of %d packets that are too long", len(told))
				}
				sent += len(want)
				if got := f.arrive(wire); !slices.EqualFunc(got, want, bytes.Equal) {
					t.Fatalf("%d packets arrived, want %d as they were sent; %v", len(got), len(want), f.plane[1].Counters())
				}
			}
			if n := f.count(0, "out-packets"); n != uint64(sent) || f.count(1, "in-packets") != n {
				t.Errorf("%d packets counted as sent and %d as received, want %d", n, f.count(1, "in-packets"), sent)
			}
			if f.count(0, "aggfrag-payloads-sent") != f.count(1, "aggfrag-payloads-received") || f.count(0, "aggfrag-spread") == 0 {
				t.Errorf("counters: %v", f.plane[0].Counters())
			}
		})
	}
}

func TestSmallPacketsFillPayloads(t *testing.T) {
	f := newFitPlanes(t, 1500, sharingSA)
	list := slices.Repeat([]offer{plain(testPacket(92))}, 64)
	if wire, _ := f.send(list...); len(wire) != 5 { // 15 in each
		t.Errorf("64 packets of 92 octets leave in %d packets, want 5", len(wire))
	}
	if wire, _ := f.send(list[0]); len(wire) != 1 {
		t.Errorf("one packet leaves in %d packets, want 1", len(wire))
	}
}

// TestPeersThatTakePacketsWhole: what the D flag asks for (RFC 9347, Section 5.1).
// Then packets have a length again that fits, and longer ones are cut, or their
// senders are told.
func TestPeersThatTakePacketsWhole(t *testing.T) {
	f := newFitPlanes(t, 1500, func(sa *ipsec.SA) { sa.Aggfrag = ipsec.AggfragSA{On: true, Whole: true} })
	fits := 0
	for _, s := range f.plane[0].SAs() {
		fits = max(fits, s.InnerMTU)
	}
	if fits == 0 || fits >= 1500 {
		t.Fatalf("inner MTU %d", fits)
	}
	for n := fits - 5; n <= fits; n++ {
		wire, told := f.send(plain(datagram(n, true)), plain(datagram(100, true)))
		if len(told) != 0 || len(wire) != 2 || onWire(&wire[0]) > 1500 {
			t.Errorf("%d octets: %d packets on the wire, %d told", n, len(wire), len(told))
		}
		if got := f.arrive(wire); len(got) != 2 || len(got[0]) != n {
			t.Errorf("%d octets: %d packets arrived", n, len(got))
		}
	}
	if wire, told := f.send(plain(datagram(fits+1, true))); len(wire) != 0 || len(told) != 1 {
		t.Errorf("one octet too long: %d on the wire, %d told", len(wire), len(told))
	}
	wire, told := f.send(plain(datagram(4000, false)), plain(datagram(60, false)))
	if len(told) != 0 {
		t.Errorf("%d told of a packet that may be cut", len(told))
	}
	if got := f.arrive(wire); len(got) != 4 || f.count(0, "aggfrag-spread") != 0 {
		t.Errorf("%d packets arrived, want three fragments and a packet", len(got))
	}
	// Every link of IPv6 carries 1,280 octets, so that it gets a payload of its own,
	// which is cut.
	f = newFitPlanes(t, 1200, func(sa *ipsec.SA) { sa.Aggfrag = ipsec.AggfragSA{On: true, Whole: true} })
	wire, told = f.send(plain(datagram6(1280)), plain(datagram(60, true)))
	if len(told) != 0 || len(wire) != 2 || wire[0].DontFragment || !wire[1].DontFragment {
		t.Errorf("%d packets on the wire, %d told, want a long one that may be cut and a short one", len(wire), len(told))
	}
	if got := f.arrive(wire); len(got) != 2 {
		t.Errorf("%d packets arrived, want 2", len(got))
	}
}

// TestEachSharedPacketIsChecked: that one packet of a payload may pass says nothing
// of the others.
func TestEachSharedPacketIsChecked(t *testing.T) {
	f := newFitPlanes(t, 1500, sharingSA)
	stranger := testPacket(60)
	copy(stranger[12:16], []byte{203, 0, 113, 9})
	var p aggfrag.Packer
	p.Start(make([]byte, 1000), 0)
	for _, b := range [][]byte{testPacket(60), stranger, testPacket(61), {0x45, 0, 0, 20, 0}} {
		p.Add(b, true)
	}
	got := f.arrive(f.seal(p.Finish(), aggfrag.NextHeader))
	if len(got) != 2 || f.count(1, "sa-selector") != 1 {
		t.Errorf("%d packets arrived, want 2; %v", len(got), f.plane[1].Counters())
	}
}

// seal seals the payload as plane 0 would.
func (f *fitPlanes) seal(payload []byte, next uint8) []netio.Packet {
	f.t.Helper()
	l := f.plane[0].out[0]
	l.w.Begin(f.now)
	l.info.Decode(testPacket(60))
	out := l.w.Outbound(ipsec.ESP, 1, &l.info)
	items := []esp.SealItem{{Dst: make([]byte, out.SealedLen(len(payload))), Inner: payload, NextHeader: next}}
	l.w.Seal(out, items)
	l.w.End()
	if items[0].Err != nil {
		f.t.Fatal(items[0].Err)
	}
	return []netio.Packet{{Buf: items[0].Dst, Len: items[0].Len}}
}

// TestModesAreNotMixed: an SA in AGGFRAG mode carries nothing else, and no other SA
// carries its payloads (RFC 9347, Section 2.3).
func TestModesAreNotMixed(t *testing.T) {
	payload := append([]byte{0, 0, 0, 0}, testPacket(60)...)
	f := newFitPlanes(t, 1500, sharingSA)
	if got := f.arrive(f.seal(testPacket(60), esp.NextIPv4)); len(got) != 0 || f.count(1, "esp-next-header") != 1 {
		t.Errorf("a packet that shares nothing: %d arrived, %v", len(got), f.plane[1].Counters())
	}
	if got := f.arrive(f.seal(nil, esp.NextDummy)); len(got) != 0 || f.count(1, "esp-dummy") != 1 {
		t.Errorf("a dummy packet: %d arrived, %v", len(got), f.plane[1].Counters())
	}
	f = newFitPlanes(t, 1500, nil)
	if got := f.arrive(f.seal(payload, aggfrag.NextHeader)); len(got) != 0 || f.count(1, "esp-next-header") != 1 {
		t.Errorf("a payload through another SA: %d arrived, %v", len(got), f.plane[1].Counters())
	}
}

// TestOuterHeadersOfPayloads: nothing of the inner headers is taken over, for they
// may differ (RFC 9347, Section 2.2.5).
func TestOuterHeadersOfPayloads(t *testing.T) {
	marked := testPacket(60)
	marked[1] = 0xb8 | 1
	for df, want := range map[ipsec.DF]bool{ipsec.CopyDF: true, ipsec.SetDF: true, ipsec.ClearDF: false} {
		f := newFitPlanes(t, 1500, func(sa *ipsec.SA) { sa.Aggfrag.On, sa.Outer.DF = true, df })
		wire, _ := f.send(plain(marked), plain(testPacket(60)))
		if len(wire) != 1 || wire[0].TrafficClass != 0 || wire[0].DontFragment != want {
			t.Errorf("DF %s: traffic class %#x, DF %v", df, wire[0].TrafficClass, wire[0].DontFragment)
		}
		wire[0].TrafficClass = 3 // congestion on the way is not that of a flow
		if got := f.arrive(wire); len(got) != 2 || got[0][1] != marked[1] || got[1][1] != 0 {
			t.Errorf("DF %s: %d packets arrived, or with other marks", df, len(got))
		}
	}
}

// TestLostPayloads: what shared no payload with a lost packet arrives.
func TestLostPayloads(t *testing.T) {
	f := newFitPlanes(t, 1500, sharingSA)
	var list []offer
	for range 30 {
		list = append(list, plain(datagram(1000, true)))
	}
	wire, _ := f.send(list...)
	wire = slices.Delete(wire, 3, 4)
	slices.Reverse(wire)
	if got := f.arrive(wire); len(got) < 27 || len(got) > 29 {
		t.Errorf("%d packets of 30 arrived, and one payload was lost", len(got))
	}
}

func TestSharingDoesNotAllocate(t *testing.T) {
	for _, size := range []int{64, 1000, 1390, 4000} {
		f := newFitPlanes(t, 1500, sharingSA)
		batch := netio.NewBatch(64, netio.MaxPacket)
		wire, sink := netio.NewBatch(256, 4000), netio.NewBatch(64, netio.MaxPacket)
		round := func() {
			for i := range batch {
				batch[i].Off = netio.Headroom
				batch[i].Len = copy(batch[i].Buf[batch[i].Off:], testPacket(size))
			}
			f.plane[0].out[0].carry(batch)
			n, err := f.wire.ReadBatch(wire)
			if err != nil {
				t.Fatal(err)
			}
			for i := range wire[:n] {
				wire[i].Local, wire[i].Remote = outer[1], outer[0]
			}
			f.plane[1].in[0].carry(wire[:n])
			if n, err = f.inner[1].ReadBatch(sink); n != len(batch) || err != nil {
				t.Fatalf("%d packets, %v; %v", n, err, f.plane[1].Counters())
			}
		}
		for range 100 {
			round()
		}
		if n := testing.AllocsPerRun(100, round); n > 64 { // testPacket makes one each
			t.Errorf("%d octets: %v allocations for 64 packets", size, n-64)
		}
	}
}

// TestManySharedPackets: more packets than a lane joins at once.
func TestManySharedPackets(t *testing.T) {
	f := newFitPlanes(t, 3900, sharingSA)
	inner := f.plane[1].opts.Devices.Inner[0].(*netio.Mem)
	inner.SetJoins(true, true)
	var list []offer
	for range 256 {
		list = append(list, plain(testPacket(30)))
	}
	for range 2 {
		wire, _ := f.send(list...)
		for i := range wire {
			wire[i].Local, wire[i].Remote = outer[1], outer[0]
		}
		f.plane[1].in[0].carry(wire)
		inner.Inject(end, netip.AddrPort{}, netip.AddrPort{})
		got := netio.NewBatch(512, netio.MaxPacket)
		if n, err := f.inner[1].ReadBatch(got); err != nil || n == 0 {
			t.Fatalf("%d packets, %v", n, err)
		}
	}
	if n := f.count(1, "in-packets"); n != 512 {
		t.Errorf("%d packets arrived, want 512", n)
	}
}

// BenchmarkSharedPackets takes 64 packets through two planes.
func BenchmarkSharedPackets(b *testing.B) {
	for name, change := range map[string]func(*ipsec.SA){"alone": nil, "shared": sharingSA} {
		b.Run("mode="+name, func(b *testing.B) {
			f := newFitPlanes(b, 1500, change)
			batch := netio.NewBatch(64, 200)
			wire, sink := netio.NewBatch(256, 4000), netio.NewBatch(64, netio.MaxPacket)
			packet := testPacket(92)
			for b.Loop() {
				for i := range batch {
					batch[i].Off = netio.Headroom
					batch[i].Len = copy(batch[i].Buf[batch[i].Off:], packet)
				}
				f.plane[0].out[0].carry(batch)
				n, _ := f.wire.ReadBatch(wire)
				for i := range wire[:n] {
					wire[i].Local, wire[i].Remote = outer[1], outer[0]
				}
				f.plane[1].in[0].carry(wire[:n])
				if n, err := f.inner[1].ReadBatch(sink); n != len(batch) || err != nil {
					b.Fatalf("%d packets, %v", n, err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*64), "ns/packet")
		})
	}
}

func keyOf(octet byte, n int) secret.Key { return secret.New(bytes.Repeat([]byte{octet}, n)) }
