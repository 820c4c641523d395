package userspace

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	cryptorand "crypto/rand"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
)

// tcpSuper makes a TCP super-packet from side 0 to side 1 with n octets of
// payload.
func tcpSuper(port uint16, seq uint32, n int) []byte {
	const ipLen, tcpLen = packet.IPv4HeaderLen, 32
	b := make([]byte, ipLen+tcpLen+n)
	src, dst := inner[0].Addr().Next(), inner[1].Addr().Next()
	packet.PutIPv4(b, &packet.IPv4Header{Src: src, Dst: dst, TotalLen: len(b), ID: uint16(seq), TTL: 64, Protocol: packet.ProtocolTCP, DontFragment: true})
	t := b[ipLen:]
	binary.BigEndian.PutUint16(t, port)
	binary.BigEndian.PutUint16(t[2:], 80)
	binary.BigEndian.PutUint32(t[4:], seq)
	t[12], t[13] = tcpLen/4<<4, 1<<4|1<<3
	for i := 20; i < tcpLen; i++ {
		t[i] = 1
	}
	for i := tcpLen; i < len(t); i++ {
		t[i] = byte(i * int(port))
	}
	binary.BigEndian.PutUint16(t[16:], packet.Fold(packet.PseudoHeaderSum(src, dst, packet.ProtocolTCP, len(t))))
	return b
}

// cutUp returns the packets that b stands for.
func cutUp(t testing.TB, b []byte, segment int) (out [][]byte) {
	if segment == 0 {
		return [][]byte{slices.Clone(b)}
	}
	b = slices.Clone(b)
	var info packet.Info
	var s packet.Segmenter
	info.Decode(b)
	if _, ok := s.Start(b, &info, segment); !ok {
		t.Fatal("not a super-packet")
	}
	for p := s.Next(); p != nil; p = s.Next() {
		out = append(out, slices.Clone(p))
	}
	return out
}

// offer is something that an inner device reads.
type offer struct {
	data    []byte
	segment int
}

func offers(r *rand.Rand, n int) (out []offer) {
	seq := make(map[uint16]uint32)
	for range n {
		port := uint16(1 + r.IntN(3))
		switch r.IntN(4) {
		case 0:
			out = append(out, offer{testPacket(60 + r.IntN(1300)), 0})
		default:
			size, segment := 1+r.IntN(30000), []int{1338, 1338, 536, 48}[r.IntN(4)]
			if size <= segment {
				segment = size
			}
			out = append(out, offer{tcpSuper(port, seq[port], size), segment})
			seq[port] += uint32(size)
		}
	}
	return out
}

// bigPlanes are two planes like twoPlanes, with room for super-packets.
func bigPlanes(t testing.TB, joins bool) (a, b *Plane, aInner, bInner *netio.Mem, wire *netio.Mem) {
	t.Helper()
	udpA, wire := netio.NewMemPair(20000, 2000)
	udpB, _ := netio.NewMemPair(1, 2000)
	build := func(side int, udp *netio.Mem) (*Plane, *netio.Mem) {
		near, far := netio.NewMemPair(2000, netio.MaxPacket)
		near.SetJoins(joins, joins)
		d := Devices{UDPPort: 4500, Inner: []netio.Device{near}, UDP4: []netio.Device{udp}}
		p := assemble(Options{Devices: d, Rand: cryptorand.Reader, Now: time.Now, MTU: netio.MaxPacket, AcquireTimeout: time.Minute})
		t.Cleanup(func() { d.Close() })
		if err := p.SetPolicies([]ipsec.Policy{testPolicy(side)}); err != nil {
			t.Fatal(err)
		}
		return p, far
	}
	a, aInner = build(0, udpA)
	b, bInner = build(1, udpB)
	if err := a.AddSA(testSA(ipsec.Out, 1001, 0, true)); err != nil {
		t.Fatal(err)
	}
	if err := b.AddSA(testSA(ipsec.In, 1001, 1, true)); err != nil {
		t.Fatal(err)
	}
	return a, b, aInner, bInner, wire
}

// sealAll offers packets to a plane and returns what it sends.
func sealAll(t testing.TB, p *Plane, inner, wire *netio.Mem, list []offer) (out [][]byte) {
	pkts, got := netio.NewBatch(1, netio.MaxPacket), netio.NewBatch(256, 2000)
	for len(list) > 0 {
		for _, o := range list[:min(len(list), 7)] {
			pkts[0].Len, pkts[0].Segment = copy(pkts[0].Buf[pkts[0].Off:], o.data), o.segment
			if _, err := inner.WriteBatch(pkts); err != nil {
				t.Fatal(err)
			}
		}
		list = list[min(len(list), 7):]
		batch, err := p.out[0].reader.Read()
		if err != nil {
			t.Fatal(err)
		}
		p.out[0].carry(batch)
	}
	for want := p.Counters()["out-packets"]; uint64(len(out)) < want; {
		n, err := wire.ReadBatch(got)
		if err != nil {
			t.Fatal(err)
		}
		for i := range got[:n] {
			out = append(out, slices.Clone(got[i].Data()))
		}
	}
	return out
}

// TestWireImageIsThatOfSinglePackets gives one plane super-packets and another
// the packets that they stand for. With the same keys both must send the same
// octets; and who receives them must deliver the same packets in the same order,
// joined or not.
func TestWireImageIsThatOfSinglePackets(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		list := offers(r, 20)
		var single []offer
		for _, o := range list {
			for _, b := range cutUp(t, o.data, o.segment) {
				single = append(single, offer{b, 0})
			}
		}
		a, b, aInner, bInner, aWire := bigPlanes(t, true)
		a2, b2, a2Inner, b2Inner, a2Wire := bigPlanes(t, false)
		image, image2 := sealAll(t, a, aInner, aWire, list), sealAll(t, a2, a2Inner, a2Wire, single)
		if !slices.EqualFunc(image, image2, bytes.Equal) {
			t.Fatalf("%d packets on the wire, %d without super-packets, or others; %v", len(image), len(image2), a.Counters())
		}
		if len(image) != len(single) {
			t.Fatalf("%d packets were sealed, want %d", len(image), len(single))
		}
		got, supers := openAll(t, b, bInner, image)
		got2, supers2 := openAll(t, b2, b2Inner, image)
		if supers == 0 || supers2 != 0 {
			t.Errorf("%d super-packets where they are taken, %d elsewhere", supers, supers2)
		}
		if len(got) != len(single) || len(got2) != len(single) {
			t.Fatalf("%d and %d packets were delivered, want %d", len(got), len(got2), len(single))
		}
		for port := uint16(1); port <= 1000; port++ {
			if !slices.EqualFunc(ofPort(got, port), ofPort(got2, port), bytes.Equal) {
				t.Fatalf("port %d: packets differ", port)
			}
		}
	}
}

func ofPort(pkts [][]byte, port uint16) (out [][]byte) {
	for _, b := range pkts {
		if binary.BigEndian.Uint16(b[packet.IPv4HeaderLen:]) == port {
			out = append(out, b)
		}
	}
	return out
}

// openAll gives datagrams to a plane in batches and returns what it delivers.
func openAll(t testing.TB, p *Plane, inner *netio.Mem, image [][]byte) (out [][]byte, supers int) {
	in := netio.NewBatch(netio.MaxRead, 2000)
	got := netio.NewBatch(64, netio.MaxPacket)
	for len(image) > 0 {
		n := min(len(image), len(in))
		for i := range n {
			in[i].Off = netio.Headroom
			in[i].Len = copy(in[i].Buf[in[i].Off:], image[i])
			in[i].Local, in[i].Remote = outer[1], outer[0]
		}
		image = image[n:]
		before := p.Counters()["in-packets"]
		p.in[0].carry(in[:n])
		for want := len(out) + int(p.Counters()["in-packets"]-before); len(out) < want; {
			n, err := inner.ReadBatch(got)
			if err != nil {
				t.Fatal(err)
			}
			for i := range got[:n] {
				if got[i].Segment != 0 {
					supers++
				}
				out = append(out, cutUp(t, got[i].Data(), got[i].Segment)...)
			}
		}
	}
	return out, supers
}

func TestSuperPacketsDoNotAllocate(t *testing.T) {
	a, b, aInner, bInner, wire := bigPlanes(t, true)
	feed, wired, sink := netio.NewBatch(3, netio.MaxPacket), netio.NewBatch(256, 2000), netio.NewBatch(64, netio.MaxPacket)
	for i := range feed {
		feed[i].Len, feed[i].Segment = copy(feed[i].Buf[feed[i].Off:], tcpSuper(5, 0, 60000)), 1338
	}
	round := func() {
		if _, err := aInner.WriteBatch(feed); err != nil {
			t.Fatal(err)
		}
		pkts, err := a.out[0].reader.Read()
		if err != nil {
			t.Fatal(err)
		}
		a.out[0].carry(pkts)
		n, err := wire.ReadBatch(wired)
		if err != nil || n != 135 {
			t.Fatalf("%d packets, %v", n, err)
		}
		b.in[0].carry(wired[:n])
		if n, err := bInner.ReadBatch(sink); n != 3 || err != nil {
			t.Fatalf("%d super-packets, %v", n, err)
		}
	}
	round()
	round()
	if n := testing.AllocsPerRun(50, round); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

// TestSuperPacketsWithoutAnSA: they wait, bypass and are refused like the
// packets that they stand for.
func TestSuperPacketsWithoutAnSA(t *testing.T) {
	whole := tcpSuper(7, 0, 10*1000)
	want := cutUp(t, whole, 1000)
	offered := []offer{{whole, 1000}}

	t.Run("hold", func(t *testing.T) {
		a, _, aInner, _, wire := bigPlanes(t, true)
		if err := a.DeleteSA(testSAID()); err != nil {
			t.Fatal(err)
		}
		pol := testPolicy(0)
		pol.Acquire = true
		if err := a.SetPolicies([]ipsec.Policy{pol}); err != nil {
			t.Fatal(err)
		}
		if sent := sealAll(t, a, aInner, wire, offered); len(sent) != 0 {
			t.Fatalf("%d packets were sent", len(sent))
		}
		if err := a.AddSA(testSA(ipsec.Out, 1001, 0, true)); err != nil {
			t.Fatal(err)
		}
		if c := a.Counters(); c["out-packets"] != uint64(len(want)) {
			t.Errorf("counters: %v", c)
		}
	})
	t.Run("bypass", func(t *testing.T) {
		a, _, aInner, _, _ := bigPlanes(t, true)
		pol := testPolicy(0)
		pol.Action = ipsec.Bypass
		if err := a.SetPolicies([]ipsec.Policy{pol}); err != nil {
			t.Fatal(err)
		}
		clear4, wire := netio.NewMemPair(64, 2000)
		a.out[0].exits[exitClear4] = clear4
		sealAll(t, a, aInner, wire, offered)
		got := netio.NewBatch(64, 2000)
		n, err := wire.ReadBatch(got)
		if n != len(want) || err != nil {
			t.Fatalf("%d packets in clear, %v", n, err)
		}
		for i := range got[:n] {
			if !bytes.Equal(got[i].Data(), want[i]) {
				t.Fatalf("packet %d: % x", i, got[i].Data())
			}
		}
	})
	t.Run("no SA, discard, malformed", func(t *testing.T) {
		a, _, aInner, _, wire := bigPlanes(t, true)
		if err := a.DeleteSA(testSAID()); err != nil {
			t.Fatal(err)
		}
		icmp := slices.Clone(whole)
		icmp[9] = packet.ProtocolICMP
		sealAll(t, a, aInner, wire, append(offered, offer{icmp, 1000}))
		pol := testPolicy(0)
		pol.Action = ipsec.Discard
		if err := a.SetPolicies([]ipsec.Policy{pol}); err != nil {
			t.Fatal(err)
		}
		sealAll(t, a, aInner, wire, offered)
		c := a.Counters()
		if c["no-sa"] != uint64(len(want)) || c["policy-discard"] != uint64(len(want)) || c["malformed"] != 1 {
			t.Errorf("counters: %v", c)
		}
	})
	t.Run("limit", func(t *testing.T) {
		a, _, aInner, _, wire := bigPlanes(t, true)
		if err := a.DeleteSA(testSAID()); err != nil {
			t.Fatal(err)
		}
		sa := testSA(ipsec.Out, 1001, 0, true)
		sa.Lifetime.Hard.Packets = 4
		if err := a.AddSA(sa); err != nil {
			t.Fatal(err)
		}
		if sent := sealAll(t, a, aInner, wire, offered); len(sent) != 4 {
			t.Errorf("%d packets were sent, 4 are allowed", len(sent))
		}
		if c := a.Counters(); c["sa-lifetime"] != uint64(len(want)-4) {
			t.Errorf("counters: %v", c)
		}
	})
}

func testSAID() ipsec.SAID {
	sa := testSA(ipsec.Out, 1001, 0, true)
	return ipsec.SAID{SPI: sa.SPI, Protocol: sa.Protocol, Direction: ipsec.Out, Peer: sa.Remote.Addr()}
}
