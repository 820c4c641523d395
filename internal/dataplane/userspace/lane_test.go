package userspace

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"caponier/internal/capture"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

var (
	outer = [2]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4500"), netip.MustParseAddrPort("192.0.2.2:4500")}
	inner = [2]netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")}
)

func testSA(d ipsec.Direction, spi ipsec.SPI, side int, encap bool) ipsec.SA {
	return ipsec.SA{
		SPI: spi, Protocol: ipsec.ESP, Direction: d, Local: outer[side], Remote: outer[1-side], Encap: encap,
		Encr:    ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
		EncrKey: secret.New(bytes.Repeat([]byte{byte(spi)}, 20)), ReqID: 1,
		LocalTS:  []ipsec.Selector{ipsec.FromPrefix(inner[side])},
		RemoteTS: []ipsec.Selector{ipsec.FromPrefix(inner[1-side])},
	}
}

func testPolicy(side int) ipsec.Policy {
	return ipsec.Policy{
		Name: "p", Action: ipsec.Protect, ReqID: 1,
		Local: []ipsec.Selector{ipsec.FromPrefix(inner[side])}, Remote: []ipsec.Selector{ipsec.FromPrefix(inner[1-side])},
	}
}

// testPacket makes a UDP packet of n octets from side 0 to side 1.
func testPacket(n int) []byte {
	b := make([]byte, n)
	packet.PutIPv4(b, &packet.IPv4Header{
		Src: inner[0].Addr().Next(), Dst: inner[1].Addr().Next(), TotalLen: n, TTL: 64, Protocol: packet.ProtocolUDP,
	})
	packet.PutUDP(b[packet.IPv4HeaderLen:], 1000, 2000, n-packet.IPv4HeaderLen, 0)
	return b
}

// twoPlanes are two planes without goroutines, joined by their first devices:
// what one writes the other's device holds.
func twoPlanes(t testing.TB, encap bool, workers int) (a, b *Plane, aInner, bInner *netio.Mem) {
	t.Helper()
	const depth = 512
	udpA, udpB := netio.NewMemPair(depth, 2000)
	espA, espB := netio.NewMemPair(depth, 2000)
	make := func(udp, esp *netio.Mem) (*Plane, *netio.Mem) {
		near, far := netio.NewMemPair(depth, 2000)
		d := Devices{UDPPort: 4500, ESP4: esp}
		for range workers {
			d.Inner, d.UDP4 = append(d.Inner, near), append(d.UDP4, udp)
		}
		p := assemble(Options{Devices: d, Rand: rand.Reader, Now: time.Now, MTU: 1400, AcquireTimeout: time.Minute, Tap: new(capture.Tap)})
		t.Cleanup(func() { d.Close() })
		return p, far
	}
	a, aInner = make(udpA, espA)
	b, bInner = make(udpB, espB)
	for side, p := range []*Plane{a, b} {
		if err := p.SetPolicies([]ipsec.Policy{testPolicy(side)}); err != nil {
			t.Fatal(err)
		}
	}
	for spi := ipsec.SPI(1000); spi < 1004; spi++ {
		if err := b.AddSA(testSA(ipsec.In, spi, 1, encap)); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.AddSA(testSA(ipsec.Out, 1001, 0, encap)); err != nil {
		t.Fatal(err)
	}
	return a, b, aInner, bInner
}

// reader is the lane of b that reads from a.
func reader(b *Plane, encap bool) *inbound {
	if encap {
		return b.in[0]
	}
	return b.in[len(b.in)-1]
}

func TestBatchesDoNotAllocate(t *testing.T) {
	for _, encap := range []bool{true, false} {
		for _, workers := range []int{1, 2} {
			a, b, aInner, bInner := twoPlanes(t, encap, workers)
			out, in := a.out[0], reader(b, encap)
			feed, sink := netio.NewBatch(64, 1400), netio.NewBatch(128, 1400)
			for i := range feed {
				feed[i].Len = copy(feed[i].Buf[feed[i].Off:], testPacket(1300))
			}
			round := func() {
				if _, err := aInner.WriteBatch(feed); err != nil {
					t.Fatal(err)
				}
				pkts, err := out.reader.Read()
				if err != nil {
					t.Fatal(err)
				}
				out.carry(pkts)
				if pkts, err = in.reader.Read(); err != nil {
					t.Fatal(err)
				}
				in.carry(pkts)
				if n, err := bInner.ReadBatch(sink); err != nil || n != len(feed) {
					t.Fatalf("%d packets came through, %v: %v", n, err, b.Counters())
				}
			}
			round() // the first packet raises FirstUse
			if n := testing.AllocsPerRun(200, round); n != 0 {
				t.Errorf("encap %v, %d workers: %v allocations per batch", encap, workers, n)
			}
		}
	}
}

// TestTap listens on both sides of both planes: each packet is shown once on each
// side, whole, and a queue that is full holds nothing up.
func TestTap(t *testing.T) {
	for _, encap := range []bool{true, false} {
		a, b, aInner, bInner := twoPlanes(t, encap, 1)
		out, in := a.out[0], reader(b, encap)
		var sessions []*capture.Session
		for _, p := range []*Plane{a, b} {
			s, err := p.opts.Tap.Open("")
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			sessions = append(sessions, s)
		}
		other, err := a.opts.Tap.Open("somebody else")
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		inner := testPacket(700)
		rounds := 0
		round := func() {
			feed, sink := netio.NewBatch(64, 1400), netio.NewBatch(128, 1400)
			for i := range feed {
				feed[i].Len = copy(feed[i].Buf[feed[i].Off:], inner)
			}
			if _, err := aInner.WriteBatch(feed); err != nil {
				t.Fatal(err)
			}
			pkts, err := out.reader.Read()
			if err != nil {
				t.Fatal(err)
			}
			out.carry(pkts)
			if pkts, err = in.reader.Read(); err != nil {
				t.Fatal(err)
			}
			in.carry(pkts)
			if n, err := bInner.ReadBatch(sink); err != nil || n != len(feed) {
				t.Fatalf("%d packets came through, %v", n, err)
			}
			rounds++
		}
		round()
		for i, s := range sessions {
			var seen [2]int
			for _, p := range s.Read(t.Context(), 1<<20) {
				seen[p.Side]++
				if p.Side == capture.Inner && !bytes.Equal(p.Data, inner) {
					t.Fatalf("encap %v: an inner packet of %d octets is shown as one of %d", encap, len(inner), len(p.Data))
				}
				if want := []ipsec.Direction{ipsec.Out, ipsec.In}[i]; p.Direction != want {
					t.Fatalf("encap %v: plane %d shows direction %s", encap, i, p.Direction)
				}
				if p.Side == capture.Outer {
					checkOuter(t, p.Data, encap)
				}
			}
			if seen != [2]int{64, 64} || s.Dropped() != 0 {
				t.Errorf("encap %v: plane %d shows %v packets, and drops %d", encap, i, seen, s.Dropped())
			}
		}
		for sessions[0].Dropped() == 0 && rounds < 1000 {
			round()
		}
		if sessions[0].Dropped() == 0 {
			t.Error("the queue of a capture has no bound")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if got := other.Read(ctx, 1<<20); len(got) != 0 {
			t.Errorf("a capture of another connection gets %d packets", len(got))
		}
	}
}

// checkOuter checks the headers that a capture puts before a sealed packet.
func checkOuter(t *testing.T, b []byte, encap bool) {
	t.Helper()
	protocol, want := b[9], byte(ipsec.ESP)
	if encap {
		want = 17
	}
	if b[0] != 0x45 || packet.Checksum(b[:20]) != 0 || int(binary.BigEndian.Uint16(b[2:])) != len(b) || protocol != want {
		t.Fatalf("encap %v: the outer packet begins with %x", encap, b[:28])
	}
	if encap && (int(binary.BigEndian.Uint16(b[24:])) != len(b)-20 || binary.BigEndian.Uint16(b[22:]) != 4500) {
		t.Fatalf("the UDP header is %x", b[20:28])
	}
}

func TestDroppedPacketsDoNotAllocate(t *testing.T) {
	a, b, _, _ := twoPlanes(t, true, 1)
	out, in := a.out[0], b.in[0]
	stranger := testPacket(100)
	copy(stranger[16:], []byte{172, 16, 0, 1}) // no policy
	clear, sealed := netio.NewBatch(8, 1400), netio.NewBatch(8, 1400)
	put := func(p *netio.Packet, b []byte) {
		p.Off, p.Truncated = netio.Headroom, false
		p.Len = copy(p.Buf[p.Off:], b)
	}
	unknown := binary.BigEndian.AppendUint32(nil, 0xdeadbeef)
	junk := [][]byte{
		{0xff},
		{},
		{1, 2, 3},
		{0, 0, 0, 9, 1, 1, 1, 1, 1},
		append(unknown, make([]byte, 100)...),
		append(binary.BigEndian.AppendUint32(nil, 1001), make([]byte, 100)...),
	}
	if n := testing.AllocsPerRun(100, func() {
		put(&clear[0], stranger)
		put(&clear[1], []byte("junk"))
		out.carry(clear[:2])
		for i, j := range junk {
			put(&sealed[i], j)
		}
		in.carry(sealed[:len(junk)])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	for name, got := range map[string]uint64{
		"no-policy": a.Counters()["no-policy"], "malformed": a.Counters()["malformed"],
		"nat-keepalives": b.Counters()["nat-keepalives"], "esp-short": b.Counters()["esp-short"],
		"reserved-spi": b.Counters()["reserved-spi"], "sa-not-found": b.Counters()["sa-not-found"],
	} {
		if got == 0 {
			t.Errorf("counter %s is 0", name)
		}
	}
}

func TestIKESharesThePort(t *testing.T) {
	a, b, _, _ := twoPlanes(t, true, 1)
	if err := a.IKESocket().Send(netio.Datagram{Data: []byte("ike"), Remote: outer[1], Local: outer[0]}); err != nil {
		t.Fatal(err)
	}
	if err := a.IKESocket().SendKeepAlive(outer[0], outer[1]); err != nil {
		t.Fatal(err)
	}
	in := b.in[0]
	pkts, err := in.reader.Read()
	if err != nil {
		t.Fatal(err)
	}
	in.carry(pkts)
	got, err := b.IKESocket().Receive()
	if err != nil || string(got.Data) != "ike" || got.Remote != outer[0] || got.Local != outer[1] {
		t.Errorf("received %q from %v to %v, %v", got.Data, got.Remote, got.Local, err)
	}
	if b.Counters()["nat-keepalives"] != 1 || b.Counters()["ike-messages"] != 1 {
		t.Errorf("counters: %v", b.Counters())
	}
	// A flood of IKE does not hold up ESP.
	batch := netio.NewBatch(1, 100)
	flood := &batch[0]
	for range 2000 {
		flood.Off, flood.Len = netio.Headroom, copy(flood.Buf[netio.Headroom:], "\x00\x00\x00\x00x")
		in.carry(batch)
	}
	if b.Counters()["ike-overflow"] == 0 {
		t.Error("nobody reads, and nothing was dropped")
	}
}

func TestBypassIsSentAsItIs(t *testing.T) {
	d, _, _ := memDevices(1)
	clear4, wire := netio.NewMemPair(8, 1500)
	d.Clear4 = clear4
	p := assemble(Options{Devices: d, Rand: rand.Reader, Now: time.Now, MTU: 1400})
	pol := testPolicy(0)
	pol.Action = ipsec.Bypass
	if err := p.SetPolicies([]ipsec.Policy{pol}); err != nil {
		t.Fatal(err)
	}
	batch := netio.NewBatch(1, 100)
	batch[0].Len = copy(batch[0].Buf[batch[0].Off:], testPacket(100))
	p.out[0].carry(batch)
	got := netio.NewBatch(4, 1500)
	if n, err := wire.ReadBatch(got); n != 1 || err != nil || !bytes.Equal(got[0].Data(), testPacket(100)) {
		t.Errorf("%d packets on the wire, %v", n, err)
	}
	if p.Counters()["bypass-packets"] != 1 {
		t.Errorf("counters: %v", p.Counters())
	}
}

// panicDevice fails in its own way for a while, then works.
type panicDevice struct {
	netio.Device
	panics, errors int
}

func (d *panicDevice) ReadBatch(pkts []netio.Packet) (int, error) {
	if d.panics > 0 {
		d.panics--
		panic("a packet nobody thought of")
	}
	if d.errors > 0 {
		d.errors--
		return 0, errors.New("device hiccup")
	}
	return d.Device.ReadBatch(pkts)
}

func TestLanesSurvive(t *testing.T) {
	d, in, out := memDevices(1)
	d.Inner[0] = &panicDevice{Device: d.Inner[0], panics: 1, errors: 1}
	p, err := New(Options{Devices: d, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.SetPolicies([]ipsec.Policy{testPolicy(0)}); err != nil {
		t.Fatal(err)
	}
	if err := p.AddSA(testSA(ipsec.Out, 1001, 0, true)); err != nil {
		t.Fatal(err)
	}
	if err := in.Inject(testPacket(100), netip.AddrPort{}, netip.AddrPort{}); err != nil {
		t.Fatal(err)
	}
	if _, err := out.UDP4.ReadBatch(netio.NewBatch(1, 2000)); err != nil {
		t.Fatal(err)
	}
	if c := p.Counters(); c["worker-panics"] != 1 || c["read-errors"] != 1 {
		t.Errorf("counters: %v", c)
	}
}

func TestHoldQueueHasBounds(t *testing.T) {
	now := time.Unix(1000, 0)
	acquires := 0
	q := newHoldQueue(10*time.Second, func() time.Time { return now }, func(ipsec.Event) { acquires++ })
	a, _, _, _ := twoPlanes(t, true, 1)
	w := a.sad.Worker(1)
	w.Begin(now)
	defer w.End()
	var info packet.Info
	b := testPacket(1400)
	info.Decode(b)
	policy := func(i int) *ipsec.Policy {
		return &ipsec.Policy{Name: fmt.Sprint(i), Action: ipsec.Protect, Acquire: true, ReqID: uint32(100 + i)}
	}
	for i := range 1000 {
		for range 20 {
			if q.hold(w, policy(i), &info, b).out != nil {
				t.Fatal("found an SA that is not there")
			}
		}
	}
	if q.octets > holdTotalOctets || acquires != 1000 {
		t.Errorf("%d octets held, %d acquires", q.octets, acquires)
	}
	if n := len(q.take(100)); n != holdPackets {
		t.Errorf("%d packets held for the first policy", n)
	}
	sums := map[string]uint64{}
	now = now.Add(10 * time.Second)
	q.tick()
	if q.addTo(sums); q.octets != 0 || len(q.waits) != 0 || sums["hold-timeout"] == 0 {
		t.Errorf("after the time-out: %d octets, %d policies, %v", q.octets, len(q.waits), sums)
	}
	q.hold(w, policy(1), &info, b)
	if acquires != 1001 {
		t.Error("a policy does not ask again after the time-out")
	}
	q.keep(nil)
	if q.octets != 0 {
		t.Error("packets of a policy that is gone are held")
	}
}

func TestNewRefusesDevicesThatDoNotFit(t *testing.T) {
	d, _, _ := memDevices(2)
	d.UDP4 = d.UDP4[:1]
	if _, err := New(Options{Devices: d}); err == nil || !strings.Contains(err.Error(), "UDP") {
		t.Errorf("New returned %v", err)
	}
	if _, err := d.Inner[0].WriteBatch(make([]netio.Packet, 1)); err == nil {
		t.Error("the devices are still open")
	}
}

func BenchmarkOneWay(b *testing.B) {
	for _, size := range []int{64, 1390} {
		b.Run(fmt.Sprintf("size=%d", size), func(b *testing.B) {
			a, z, aInner, bInner := twoPlanes(b, true, 1)
			out, in := a.out[0], reader(z, true)
			feed, sink := netio.NewBatch(64, 1400), netio.NewBatch(128, 1400)
			for i := range feed {
				feed[i].Len = copy(feed[i].Buf[feed[i].Off:], testPacket(size))
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; i < b.N; i += len(feed) {
				aInner.WriteBatch(feed)
				pkts, _ := out.reader.Read()
				out.carry(pkts)
				pkts, _ = in.reader.Read()
				in.carry(pkts)
				bInner.ReadBatch(sink)
			}
		})
	}
}
