package frame

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/netio"
	"caponier/internal/packet"
)

// mem is a socket in memory, and the capture of one interface made of it.
type mem struct {
	*netio.Mem
	joins bool
}

func (m mem) ReadFrames(f []netio.Packet) (int, error)  { return m.ReadBatch(f) }
func (m mem) WriteFrames(f []netio.Packet) (int, error) { return m.WriteBatch(f) }
func (m mem) Joins() (tcp, udp bool)                    { return m.joins, m.joins }

func (m mem) Ports() []Port             { return []Port{{Name: "eth0", Index: 2, Queues: []Socket{m}}} }
func (mem) Steer(Steering) error        { return nil }
func (mem) Counters() map[string]uint64 { return map[string]uint64{} }

// ways are fixed.
type ways map[netip.Addr]*Way

func (ways) Generation() uint64 { return 1 }
func (w ways) Find(p Pair) *Way { return w[p.Dst] }
func (ways) Close() error       { return nil }

// bench is a hub in memory: what goes out by the interface comes to wire, and what
// takes the kernel's way to kernel.
type bench struct {
	hub          *Hub
	wire, kernel *netio.Mem
	fallback     *netio.Mem
	neighbor     *Neighbor
}

var (
	peer4, peer6 = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8:7::7")
	far          = netip.MustParseAddr("203.0.113.9") // whose way is the kernel's
	host4, host6 = netip.MustParseAddr("10.1.0.7"), netip.MustParseAddr("2001:db8:1::7")
	tagged       = netip.MustParseAddr("10.1.9.9") // on a VLAN
)

func newBench(t testing.TB, joins bool) *bench {
	t.Helper()
	near, wire := netio.NewMemPair(64, 65600)
	fallback, kernel := netio.NewMemPair(64, 65600)
	fallback.SetJoins(true, true)
	b := &bench{wire: wire, kernel: kernel, fallback: fallback, neighbor: new(Neighbor)}
	b.neighbor.Set(macB, false)
	plain := &Way{Port: 2, Src: macA, MTU: 1500, Neighbor: b.neighbor}
	vlan := *plain
	vlan.Tagged, vlan.VLAN = true, 7
	b.hub = NewHub(mem{near, joins}, ways{peer4: plain, peer6: plain, host4: plain, host6: plain, tagged: &vlan, far: {}})
	if err := b.hub.Steer(steering); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.hub.Close(); wire.Close(); kernel.Close() })
	return b
}

// next reads one packet of the other end of a device.
func next(t testing.TB, m *netio.Mem) netio.Packet {
	t.Helper()
	p := netio.NewBatch(1, 65600)
	if n, err := m.ReadBatch(p); n != 1 || err != nil {
		t.Fatalf("ReadBatch = %d, %v", n, err)
	}
	return p[0]
}

func outgoing(b []byte, local, remote netip.AddrPort) netio.Packet {
	return netio.Packet{Buf: b, Len: len(b), Local: local, Remote: remote}
}

func info(t testing.TB, b []byte) packet.Info {
	t.Helper()
	var i packet.Info
	if i.Decode(b); i.Version == 0 {
		t.Fatalf("not a packet: %x", b)
	}
	return i
}

func TestReaderParts(t *testing.T) {
	b := newBench(t, false)
	r := b.hub.Readers()[0]
	port := func(a string, n uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(a), n) }
	esp, ah := []byte{0, 0, 1, 0, 0, 0, 0, 1}, []byte{50, 4, 0, 0, 0, 0, 1, 0}
	for _, p := range [][]byte{
		to("10.2.0.7", 6, 64, 1, 2, 3, 4), to("2001:db8:2::7", 6, 64, 1, 2),
		to("192.0.2.1", 50, 64, esp...), to("2001:db8::1", 51, 64, ah...),
		to("192.0.2.1", 17, 64, udp(4500, esp...)...), to("2001:db8::1", 17, 64, udp(4500, esp...)...),
		// What should not have come.
		to("192.0.2.1", 6, 64), to("10.2.0.7", 6, 1), to("192.0.2.1", 17, 64, udp(4500, 0, 0, 0, 0)...),
	} {
		h := Header{Dst: macA, Src: macB, Type: typeOf(p)}
		f := framed(h, p)
		for len(f) < 60 { // as links fill short frames
			f = append(f, 0xee)
		}
		if err := b.wire.Inject(f, netip.AddrPort{}, netip.AddrPort{}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := r.Read()
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Inner) != 2 || !bytes.Equal(got.Inner[0].Data(), to("10.2.0.7", 6, 63, 1, 2, 3, 4)) || !bytes.Equal(got.Inner[1].Data(), to("2001:db8:2::7", 6, 63, 1, 2)) {
		t.Errorf("inside: %d packets", len(got.Inner))
	}
	type carried struct {
		Local, Remote netip.AddrPort
		Data          []byte
	}
	list := func(pkts []netio.Packet) (out []carried) {
		for i := range pkts {
			out = append(out, carried{pkts[i].Local, pkts[i].Remote, pkts[i].Data()})
		}
		return out
	}
	for _, x := range []struct {
		what      string
		got, want []carried
	}{
		{"ESP", list(got.ESP), []carried{{port("192.0.2.1", 0), port("10.1.0.7", 0), esp}}},
		{"AH", list(got.AH), []carried{{port("2001:db8::1", 0), port("2001:db8:1::7", 0), to("2001:db8::1", 51, 64, ah...)}}},
		{"UDP", list(got.UDP), []carried{
			{port("192.0.2.1", 4500), port("10.1.0.7", 4500), esp}, {port("2001:db8::1", 4500), port("2001:db8:1::7", 4500), esp},
		}},
	} {
		if diff := cmp.Diff(x.want, x.got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
			t.Errorf("%s (-want +got):\n%s", x.what, diff)
		}
	}
	if n := b.hub.Counters()["frames-foreign"]; n != 3 {
		t.Errorf("%d frames were foreign, want 3", n)
	}
}

// TestReaderCutsTrains: datagrams that the kernel moved as one.
func TestReaderCutsTrains(t *testing.T) {
	b := newBench(t, true)
	payload := make([]byte, 250)
	for i := range payload {
		payload[i] = byte(i) | 1
	}
	f := framed(Header{Dst: macA, Src: macB, Type: TypeIPv4}, to("192.0.2.1", 17, 64, udp(4500, payload...)...))
	if _, err := b.wire.WriteBatch([]netio.Packet{{Buf: f, Len: len(f), Segment: 100}}); err != nil {
		t.Fatal(err)
	}
	got, err := b.hub.Readers()[0].Read()
	if err != nil || len(got.UDP) != 3 {
		t.Fatalf("%d datagrams, %v", len(got.UDP), err)
	}
	for i, want := range [][]byte{payload[:100], payload[100:200], payload[200:]} {
		if !bytes.Equal(got.UDP[i].Data(), want) || got.UDP[i].Segment != 0 {
			t.Errorf("datagram %d: %x", i, got.UDP[i].Data())
		}
	}
}

func TestReaderOfEveryPrefix(t *testing.T) {
	b := newBench(t, false)
	r := b.hub.Readers()[0]
	for _, p := range [][]byte{
		to("10.2.0.7", 6, 64, 1, 2, 3, 4), to("2001:db8::1", 17, 64, udp(4500, 1, 2, 3, 4)...), to("192.0.2.1", 51, 64, 1, 2, 3, 4),
	} {
		whole := framed(Header{Dst: macA, Src: macB, Type: typeOf(p)}, p)
		for n := range whole {
			if r.sort(&steering, netio.Packet{Buf: bytes.Clone(whole[:n]), Len: n}) {
				t.Errorf("%d of %d octets were taken", n, len(whole))
			}
		}
		if !r.sort(&steering, netio.Packet{Buf: bytes.Clone(whole), Len: len(whole)}) {
			t.Errorf("%x was not taken", whole)
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, p := range [][]byte{to("10.2.0.7", 6, 64, 1, 2, 3, 4), to("2001:db8::1", 17, 64, udp(4500, 1, 2, 3, 4)...)} {
		f.Add(framed(Header{Dst: macA, Src: macB, Type: typeOf(p)}, p), uint16(0))
		f.Add(framed(Header{Dst: macA, Src: macB, Type: typeOf(p)}, p), uint16(2))
	}
	near, _ := netio.NewMemPair(1, 64)
	hub := NewHub(mem{near, true}, ways{})
	f.Fuzz(func(t *testing.T, b []byte, segment uint16) {
		r := hub.Readers()[0]
		r.batch = Batch{}
		b = bytes.Clone(b)
		r.sort(&steering, netio.Packet{Buf: b, Len: len(b), Segment: int(segment)})
		for _, list := range [][]netio.Packet{r.batch.Inner, r.batch.UDP, r.batch.ESP, r.batch.AH} {
			for i := range list {
				_ = list[i].Data() // within the buffer
			}
		}
	})
}

// TestWriterSeals: what a socket would put before ESP.
func TestWriterSeals(t *testing.T) {
	local4, local6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for name, x := range map[string]struct {
		kind          WriterKind
		local, remote netip.Addr
		protocol      uint8
	}{
		"UDP over IPv4": {SealedUDP, local4, peer4, 17}, "UDP over IPv6": {SealedUDP, local6, peer6, 17},
		"ESP over IPv4": {SealedESP, local4, peer4, 50}, "ESP over IPv6": {SealedESP, local6, peer6, 50},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, false)
			w := b.hub.Writer(x.kind, 0, b.fallback)
			p := outgoing([]byte{0, 0, 1, 0, 0, 0, 0, 1, 9}, netip.AddrPortFrom(x.local, 4500), netip.AddrPortFrom(x.remote, 4501))
			p.TrafficClass, p.DontFragment = 0xb9, true
			if n, err := w.WriteBatch([]netio.Packet{p}); n != 1 || err != nil {
				t.Fatalf("WriteBatch = %d, %v", n, err)
			}
			f := next(t, b.wire)
			h, _ := Parse(f.Data())
			if h.Dst != macB || h.Src != macA || h.Tagged {
				t.Errorf("link header %+v", h)
			}
			ip := f.Data()[h.Len:]
			i := info(t, ip)
			if i.Src != x.local || i.Dst != x.remote || i.Protocol != x.protocol || i.HopLimit != 64 || i.TrafficClass != 0xb9 ||
				i.TotalLen != len(ip) || i.DontFragment != x.remote.Is4() {
				t.Errorf("header %+v of %d octets", i, len(ip))
			}
			if x.remote.Is4() && packet.Checksum(ip[:i.HeaderLen]) != 0 {
				t.Error("the header's checksum is wrong")
			}
			rest := ip[i.HeaderLen:]
			if x.kind == SealedUDP {
				sum := packet.TransportChecksum(i.Src, i.Dst, 17, rest)
				if none := rest[6] == 0 && rest[7] == 0; i.SrcPort != 4500 || i.DstPort != 4501 || none != x.remote.Is4() || !none && sum != 0 {
					t.Errorf("UDP header %x, sum %x", rest[:8], sum)
				}
				rest = rest[packet.UDPHeaderLen:]
			}
			if !bytes.Equal(rest, p.Data()) {
				t.Errorf("payload %x", rest)
			}
		})
	}
}

func TestWriterMakesTrains(t *testing.T) {
	b := newBench(t, true)
	w := b.hub.Writer(SealedUDP, 0, b.fallback)
	local, remote := netip.MustParseAddrPort("192.0.2.1:4500"), netip.AddrPortFrom(peer4, 4500)
	var pkts []netio.Packet
	var want []byte
	for i := range 4 {
		data := bytes.Repeat([]byte{byte(i)}, 100)
		if i == 3 {
			data = data[:40]
		}
		want = append(want, data...)
		pkts = append(pkts, outgoing(data, local, remote))
	}
	pkts = append(pkts, outgoing([]byte{9}, local, netip.AddrPortFrom(far, 4500)))
	if n, err := w.WriteBatch(pkts); n != len(pkts) || err != nil {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
	f := next(t, b.wire)
	i := info(t, f.Data()[HeaderLen:])
	if f.Segment != 100 || i.TotalLen != 28+len(want) || !bytes.Equal(f.Data()[HeaderLen+28:], want) {
		t.Errorf("segment %d, %+v", f.Segment, i)
	}
	if k := next(t, b.kernel); !bytes.Equal(k.Data(), []byte{9}) {
		t.Errorf("the kernel got %x", k.Data())
	}
	c := b.hub.Counters()
	if c["frames-sent"] != 4 || c["frames-by-kernel"] != 1 || c["frames-unsent"] != 0 {
		t.Errorf("counters %v", c)
	}
}

// TestWriterDelivers: what came out of a tunnel is forwarded.
func TestWriterDelivers(t *testing.T) {
	b := newBench(t, false)
	w := b.hub.Writer(Deliver, 0, b.fallback)
	for _, x := range []struct {
		dst  netip.Addr
		vlan bool
	}{{host4, false}, {host6, false}, {tagged, true}} {
		in := to(x.dst.String(), 6, 64, 1, 2, 3)
		if _, err := w.WriteBatch([]netio.Packet{outgoing(bytes.Clone(in), netip.AddrPort{}, netip.AddrPort{})}); err != nil {
			t.Fatal(err)
		}
		f := next(t, b.wire)
		h, _ := Parse(f.Data())
		if h.Dst != macB || h.Src != macA || h.Tagged != x.vlan || x.vlan && h.VLAN != 7 {
			t.Errorf("%s: link header %+v", x.dst, h)
		}
		if want := to(x.dst.String(), 6, 63, 1, 2, 3); !bytes.Equal(f.Data()[h.Len:], want) {
			t.Errorf("%s: got %x, want %x", x.dst, f.Data()[h.Len:], want)
		}
	}
}

// TestWriterFallsBack: the kernel carries what has no frame, as it is.
func TestWriterFallsBack(t *testing.T) {
	local := netip.MustParseAddrPort("192.0.2.1:4500")
	for name, x := range map[string]struct {
		kind    WriterKind
		p       netio.Packet
		unknown bool
	}{
		"no way known":      {Deliver, outgoing(to("10.1.3.3", 6, 64), netip.AddrPort{}, netip.AddrPort{}), false},
		"the kernel's way":  {Deliver, outgoing(to(far.String(), 6, 64), netip.AddrPort{}, netip.AddrPort{}), false},
		"unknown neighbour": {Deliver, outgoing(to(host4.String(), 6, 64), netip.AddrPort{}, netip.AddrPort{}), true},
		"end of life":       {Deliver, outgoing(to(host4.String(), 6, 1), netip.AddrPort{}, netip.AddrPort{}), false},
		"too long":          {Deliver, outgoing(to(host6.String(), 6, 64, make([]byte, 1461)...), netip.AddrPort{}, netip.AddrPort{}), false},
		"ESP too long":      {SealedUDP, outgoing(make([]byte, 1473), local, netip.AddrPortFrom(peer4, 4500)), false},
		"no source":         {SealedUDP, outgoing(make([]byte, 40), netip.AddrPort{}, netip.AddrPortFrom(peer4, 4500)), false},
		"no packet":         {Deliver, outgoing([]byte{1, 2, 3}, netip.AddrPort{}, netip.AddrPort{}), false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, true)
			if x.unknown {
				b.neighbor.Forget()
			}
			want := bytes.Clone(x.p.Data())
			if n, err := b.hub.Writer(x.kind, 0, b.fallback).WriteBatch([]netio.Packet{x.p}); n != 1 || err != nil {
				t.Fatalf("WriteBatch = %d, %v", n, err)
			}
			if got := next(t, b.kernel); !bytes.Equal(got.Data(), want) {
				t.Errorf("the kernel got %x, want %x", got.Data(), want)
			}
			if x.unknown && !b.neighbor.Wanted() {
				t.Error("nobody asks for the neighbour")
			}
		})
	}
}

// refusing is a fallback that refuses every second packet.
type refusing struct{ got int }

var errRefused = errors.New("refused")

func (r *refusing) WriteBatch(pkts []netio.Packet) (int, error) {
	if r.got++; r.got%2 == 0 {
		return 0, errRefused
	}
	return 1, errRefused
}

func TestWriterReportsTheFallback(t *testing.T) {
	b := newBench(t, false)
	w := b.hub.Writer(Deliver, 0, new(refusing))
	pkts := make([]netio.Packet, 5)
	for i := range pkts {
		pkts[i] = outgoing(to(far.String(), 6, 64), netip.AddrPort{}, netip.AddrPort{})
	}
	if n, err := w.WriteBatch(pkts); n != 5 || !errors.Is(err, errRefused) {
		t.Errorf("WriteBatch = %d, %v", n, err)
	}
	b.hub.Close()
	if _, err := b.hub.Readers()[0].Read(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v", err)
	}
}

func TestNeighbor(t *testing.T) {
	var n Neighbor
	if _, known := n.MAC(); known || !n.Wanted() || n.Wanted() {
		t.Error("an unknown neighbour is wanted once after it was asked for")
	}
	n.Set(macA, false)
	if mac, known := n.MAC(); mac != macA || !known || n.Wanted() {
		t.Errorf("got %x, %v", mac, known)
	}
	n.Set(macB, true)
	if mac, _ := n.MAC(); mac != macB || !n.Wanted() {
		t.Errorf("got %x; a stale one that is used is wanted", mac)
	}
}

func TestFramesDoNotAllocate(t *testing.T) {
	b := newBench(t, true)
	deliver, seal := b.hub.Writer(Deliver, 0, b.fallback), b.hub.Writer(SealedUDP, 0, b.fallback)
	r := b.hub.Readers()[0]
	inner := []netio.Packet{outgoing(to(host4.String(), 6, 64, 1), netip.AddrPort{}, netip.AddrPort{})}
	local, remote := netip.MustParseAddrPort("192.0.2.1:4500"), netip.AddrPortFrom(peer4, 4500)
	sealed := []netio.Packet{outgoing(make([]byte, 80), local, remote), outgoing(make([]byte, 80), local, remote)}
	in := framed(Header{Dst: macA, Src: macB, Type: TypeIPv4}, to("192.0.2.1", 17, 64, udp(4500, 1, 2, 3, 4)...))
	incoming := []netio.Packet{{Buf: in, Len: len(in)}}
	slots := netio.NewBatch(8, 65600)
	allocs := testing.AllocsPerRun(100, func() {
		for _, err := range []error{
			second(deliver.WriteBatch(inner)), second(seal.WriteBatch(sealed)), second(b.wire.WriteBatch(incoming)),
			second(b.wire.ReadBatch(slots)),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.Read(); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func second(_ int, err error) error { return err }
