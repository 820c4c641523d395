package userspace

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
)

var inner6 = [2]netip.Prefix{netip.MustParsePrefix("fd00:1::/48"), netip.MustParsePrefix("fd00:2::/48")}

// fitPlanes are two planes over a route of mtu octets, and everything that they
// are joined to.
type fitPlanes struct {
	t     testing.TB
	plane [2]*Plane
	inner [2]*netio.Mem // the far ends of the inner devices
	wire  *netio.Mem    // what plane 0 sends
	wires [2]*netio.Mem // what each sends
	icmp  [2]*netio.Mem // by family: what plane 0 tells senders
	now   time.Time
}

func newFitPlanes(t testing.TB, mtu int, change func(sa *ipsec.SA)) *fitPlanes {
	t.Helper()
	f := &fitPlanes{t: t, now: time.Unix(1_000_000_000, 0)}
	for side := range 2 {
		near, far := netio.NewMemPair(512, netio.MaxPacket)
		udp, wire := netio.NewMemPair(512, 4100)
		icmp4, tell4 := netio.NewMemPair(64, 2000)
		icmp6, tell6 := netio.NewMemPair(64, 2000)
		d := Devices{UDPPort: 4500, Inner: []netio.Device{near}, UDP4: []netio.Device{udp}, ICMP4: icmp4, ICMP6: icmp6}
		p := assemble(Options{
			Devices: d, Rand: rand.Reader, MTU: 9000, AcquireTimeout: time.Minute,
			Logger: slog.New(slog.DiscardHandler),
			Now:    func() time.Time { return f.now }, RouteMTU: func(_, _ netip.Addr) int { return mtu },
		})
		t.Cleanup(func() { d.Close() })
		policy := testPolicy(side)
		policy.Local = append(policy.Local, ipsec.FromPrefix(inner6[side]))
		policy.Remote = append(policy.Remote, ipsec.FromPrefix(inner6[1-side]))
		if err := p.SetPolicies([]ipsec.Policy{policy}); err != nil {
			t.Fatal(err)
		}
		for _, sa := range []ipsec.SA{testSA(ipsec.In, ipsec.SPI(1000+side), side, true), testSA(ipsec.Out, ipsec.SPI(1001-side), side, true)} {
			sa.LocalTS, sa.RemoteTS = policy.Local, policy.Remote
			if change != nil {
				change(&sa)
			}
			if err := p.AddSA(sa); err != nil {
				t.Fatal(err)
			}
		}
		f.plane[side], f.inner[side], f.wires[side] = p, far, wire
		if side == 0 {
			f.wire, f.icmp = wire, [2]*netio.Mem{tell4, tell6}
		}
	}
	return f
}

// read empties a device.
func read(t testing.TB, m *netio.Mem, poke func()) []netio.Packet {
	t.Helper()
	poke() // so that there is one
	pkts := netio.NewBatch(256, netio.MaxPacket)
	n, err := m.ReadBatch(pkts)
	if err != nil {
		t.Fatal(err)
	}
	return pkts[:n]
}

// end marks the end of what is read from a device.
var end = []byte("end")

func drain(t testing.TB, other, m *netio.Mem) []netio.Packet {
	pkts := read(t, m, func() { other.Inject(end, netip.AddrPort{}, netip.AddrPort{}) })
	return pkts[:len(pkts)-1]
}

// send offers packets to plane 0, and returns what is on the wire and what senders
// are told.
func (f *fitPlanes) send(list ...offer) (wire, told []netio.Packet) {
	f.t.Helper()
	batch := netio.NewBatch(len(list), netio.MaxPacket)
	for i, o := range list {
		batch[i].Len, batch[i].Segment = copy(batch[i].Buf[batch[i].Off:], o.data), o.segment
	}
	f.plane[0].out[0].carry(batch)
	d := &f.plane[0].opts.Devices
	wire = drain(f.t, d.UDP4[0].(*netio.Mem), f.wire)
	for i, x := range []netio.Device{d.ICMP4, d.ICMP6} {
		told = append(told, drain(f.t, x.(*netio.Mem), f.icmp[i])...)
	}
	return wire, told
}

// arrive gives packets of the wire to plane 1, and returns what it delivers.
func (f *fitPlanes) arrive(wire []netio.Packet) (out [][]byte) {
	f.t.Helper()
	for i := range wire {
		wire[i].Local, wire[i].Remote = outer[1], outer[0]
	}
	f.plane[1].in[0].carry(wire)
	for _, p := range drain(f.t, f.plane[1].opts.Devices.Inner[0].(*netio.Mem), f.inner[1]) {
		out = append(out, slices.Clone(p.Data()))
	}
	return out
}

func (f *fitPlanes) count(side int, name string) uint64 {
	p := f.plane[side]
	for _, l := range p.out {
		l.tally.publish()
	}
	return p.Counters()[name]
}

// datagram makes an inner packet of n octets, with or without DF.
func datagram(n int, df bool) []byte {
	b := testPacket(n)
	for i := 28; i < n; i++ {
		b[i] = byte(i * 5)
	}
	if df {
		b[6] = 0x40
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20]))
	}
	return b
}

// datagram6 is the same of IPv6.
func datagram6(n int) []byte {
	b := make([]byte, n)
	packet.PutIPv6(b, &packet.IPv6Header{
		Src: inner6[0].Addr().Next(), Dst: inner6[1].Addr().Next(), PayloadLen: n - 40, HopLimit: 64, NextHeader: packet.ProtocolUDP,
	})
	packet.PutUDP(b[40:], 1000, 2000, n-40, 0)
	return b
}

func plain(data []byte) offer { return offer{data: data} }

// onWire is the length of the outer packet.
func onWire(p *netio.Packet) int { return packet.IPv4HeaderLen + packet.UDPHeaderLen + p.Len }

func TestWhatFitsPasses(t *testing.T) {
	f := newFitPlanes(t, 1400, nil)
	fits := f.plane[0].SAs()[1].InnerMTU
	if fits != 1400-20-8-8-8-16-2 { // outer IPv4 and UDP; SPI, sequence number, IV, ICV, trailer
		t.Fatalf("%d octets fit 1,400", fits)
	}
	for _, b := range [][]byte{datagram(fits, true), datagram6(fits)} {
		wire, told := f.send(plain(b))
		if len(wire) != 1 || len(told) != 0 || onWire(&wire[0]) > 1400 || !wire[0].DontFragment {
			t.Fatalf("%d packets on the wire, %d messages", len(wire), len(told))
		}
		if got := f.arrive(wire); len(got) != 1 || !bytes.Equal(got[0], b) {
			t.Errorf("%d packets arrive, or others", len(got))
		}
	}
}

func TestSendersAreTold(t *testing.T) {
	f := newFitPlanes(t, 1400, nil)
	fits := f.plane[0].SAs()[1].InnerMTU
	for i, b := range [][]byte{datagram(fits+1, true), datagram6(fits + 1)} {
		wire, told := f.send(plain(b))
		if len(wire) != 0 || len(told) != 1 {
			t.Fatalf("%d packets on the wire, %d messages", len(wire), len(told))
		}
		var sender packet.Info
		sender.Decode(b)
		m, ok := packet.ParseTooBig(told[0].Data(), sender.Version)
		if !ok || m.MTU != fits || m.Src != sender.Src || m.Dst != sender.Dst || told[0].Local.Addr() != sender.Src {
			t.Errorf("message %d to %s: %+v", i, told[0].Local, m)
		}
	}
	if f.count(0, "too-big") != 2 || f.count(0, "too-big-errors-sent") != 2 {
		t.Errorf("counters: %v", f.plane[0].Counters())
	}
	// A super-packet whose segments are too long.
	wire, told := f.send(offer{tcpSuper(1, 1, 5000), 1400})
	if len(wire) != 1 || len(told) == 0 { // the last segment is short
		t.Errorf("%d packets on the wire, %d messages", len(wire), len(told))
	}
	// One sender gets a few messages in a second.
	long := plain(datagram(fits+1, true))
	total := 0
	for range 10 {
		_, told = f.send(long, long, long, long)
		total += len(told)
	}
	if total > errorsPerSecond || f.count(0, "too-big-errors-limited") == 0 {
		t.Errorf("%d messages in a second", total)
	}
	f.now = f.now.Add(time.Second)
	f.plane[0].tick()
	if _, told = f.send(long); len(told) != 1 {
		t.Errorf("%d messages a second later", len(told))
	}
}

func TestLongPacketsAreCut(t *testing.T) {
	for name, tt := range map[string]struct {
		change         func(*ipsec.SA)
		before, inside bool // cut before, DF outside
	}{
		"before":                 {nil, true, false},
		"before, DF set":         {func(sa *ipsec.SA) { sa.Outer.DF = ipsec.SetDF }, true, true},
		"after":                  {func(sa *ipsec.SA) { sa.Fit.Fragment = ipsec.FragmentAfter }, false, false},
		"after, but DF set":      {func(sa *ipsec.SA) { sa.Fit.Fragment, sa.Outer.DF = ipsec.FragmentAfter, ipsec.SetDF }, true, true},
		"selectors with a port":  {func(sa *ipsec.SA) { sa.LocalTS, sa.RemoteTS = ports(sa.LocalTS), ports(sa.RemoteTS) }, false, false},
		"DF cleared, after":      {func(sa *ipsec.SA) { sa.Outer.DF, sa.Fit.Fragment = ipsec.ClearDF, ipsec.FragmentAfter }, false, false},
		"no combined-mode suite": {func(sa *ipsec.SA) { sa.Outer.DF = ipsec.CopyDF }, true, false},
	} {
		f := newFitPlanes(t, 1400, tt.change)
		b := datagram(4000, false)
		wire, told := f.send(plain(b))
		if len(told) != 0 || (len(wire) > 1) != tt.before {
			t.Errorf("%s: %d packets on the wire, %d messages", name, len(wire), len(told))
			continue
		}
		for i := range wire {
			if wire[i].DontFragment != tt.inside || tt.before && onWire(&wire[i]) > 1400 {
				t.Errorf("%s: %d octets on the wire, DF %v", name, onWire(&wire[i]), wire[i].DontFragment)
			}
		}
		got := f.arrive(wire)
		if tt.before {
			r := packet.NewReassembler(packet.DefaultReassemblyLimits())
			var whole []byte
			var info packet.Info
			for _, x := range got {
				info.Decode(x)
				if w, _ := r.Add(f.now, x, &info); w != nil {
					whole = slices.Clone(w)
				}
			}
			got = [][]byte{whole}
		}
		if len(got) != 1 || !bytes.Equal(got[0], b) {
			t.Errorf("%s: the packet is not what it was", name)
		}
	}
	// With DF cleared outside, what has DF inside is not refused either.
	f := newFitPlanes(t, 1400, func(sa *ipsec.SA) { sa.Outer.DF = ipsec.ClearDF })
	if wire, told := f.send(plain(datagram(1500, true)), plain(datagram6(1500))); len(wire) != 2 || len(told) != 0 || wire[0].DontFragment || wire[1].DontFragment {
		t.Errorf("DF cleared: %d packets on the wire, %d messages", len(wire), len(told))
	}
}

// ports narrows the selectors of IPv4 to the port of the test's packets.
func ports(list []ipsec.Selector) []ipsec.Selector {
	list = slices.Clone(list)
	list[0].Protocol, list[0].FirstPort, list[0].LastPort = packet.ProtocolUDP, 1000, 2000
	return list
}

// Fragments of many packets need more room than a batch has: everything leaves in
// between, and nothing is mixed up.
func TestManyLongPacketsAreCut(t *testing.T) {
	f := newFitPlanes(t, 600, nil)
	var list []offer
	var want [][]byte
	for i := range 12 {
		b := datagram(20000, false)
		binary.BigEndian.PutUint16(b[4:], uint16(i+1))
		b[10], b[11] = 0, 0
		b[100] = byte(i)
		binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:20]))
		list, want = append(list, plain(b)), append(want, b)
	}
	r := packet.NewReassembler(packet.DefaultReassemblyLimits())
	var info packet.Info
	var got [][]byte
	for ; len(list) > 0; list = list[2:] {
		wire, _ := f.send(list[:2]...)
		for _, x := range f.arrive(wire) {
			info.Decode(x)
			if w, _ := r.Add(f.now, x, &info); w != nil {
				got = append(got, slices.Clone(w))
			}
		}
	}
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d packets of %d arrive, or others; counters %v", len(got), len(want), f.plane[0].Counters())
	}
}

// tcpSYN makes a SYN that announces 1,460 octets, from this side.
func tcpSYN(from int) []byte {
	b := make([]byte, 20+24)
	src, dst := inner[from].Addr().Next(), inner[1-from].Addr().Next()
	packet.PutIPv4(b, &packet.IPv4Header{Src: src, Dst: dst, TotalLen: len(b), TTL: 64, Protocol: packet.ProtocolTCP, DontFragment: true})
	t := b[20:]
	binary.BigEndian.PutUint16(t, 4000)
	binary.BigEndian.PutUint16(t[2:], 80)
	t[12], t[13] = 6<<4, 2
	copy(t[20:], []byte{2, 4, 1460 >> 8, 1460 & 0xff})
	binary.BigEndian.PutUint16(t[16:], packet.TransportChecksum(src, dst, packet.ProtocolTCP, t))
	return b
}

func TestMSSIsClamped(t *testing.T) {
	mssOf := func(b []byte) int {
		var p packet.Info
		p.Decode(b)
		if packet.TransportChecksum(p.Src, p.Dst, p.Protocol, b[20:]) != 0 {
			t.Error("wrong checksum")
		}
		return int(binary.BigEndian.Uint16(b[42:]))
	}
	for _, tt := range []struct {
		mss  ipsec.MSS
		want int
	}{{ipsec.MSSAuto, 1400 - 62 - 40}, {ipsec.MSSOff, 1460}, {1000, 1000}, {1460, 1460}} {
		set := func(sa *ipsec.SA) { sa.Fit.MSS = tt.mss }
		off := func(sa *ipsec.SA) { sa.Fit.MSS = ipsec.MSSOff }
		// By the gateway that seals it, and by the one that opens it.
		for side, f := range []*fitPlanes{newFitPlanes(t, 1400, set), newFitPlanes(t, 1400, off)} {
			if side == 1 {
				sa := testSA(ipsec.In, 1001, 1, true)
				if err := f.plane[1].DeleteSA(sa.ID()); err != nil {
					t.Fatal(err)
				}
				set(&sa)
				if err := f.plane[1].AddSA(sa); err != nil {
					t.Fatal(err)
				}
			}
			wire, _ := f.send(plain(tcpSYN(0)))
			got := f.arrive(wire)
			if len(got) != 1 || mssOf(got[0]) != tt.want {
				t.Errorf("mss %s, side %d: %d", tt.mss, side, mssOf(got[0]))
			}
		}
	}
}

// fragNeeded is what a router says that takes mtu octets.
func fragNeeded(p *netio.Packet, mtu int) []byte {
	quoted := make([]byte, onWire(p))
	packet.PutIPv4(quoted, &packet.IPv4Header{
		Src: outer[0].Addr(), Dst: outer[1].Addr(), TotalLen: len(quoted), TTL: 60, Protocol: packet.ProtocolUDP, DontFragment: true,
	})
	packet.PutUDP(quoted[20:], 4500, 4500, len(quoted)-20, 0)
	copy(quoted[28:], p.Data())
	b := make([]byte, 8+28+100)
	b[0], b[1] = 3, 4
	binary.BigEndian.PutUint16(b[6:], uint16(mtu))
	copy(b[8:], quoted)
	binary.BigEndian.PutUint16(b[2:], packet.Checksum(b))
	return b
}

func TestPathMTUIsLearnedAndForgotten(t *testing.T) {
	f := newFitPlanes(t, 1500, nil)
	p := f.plane[0]
	status := func() ipsec.SAStatus { return p.SAs()[1] }
	wire, _ := f.send(plain(datagram(1400, true)))
	l := newListener(p, p.opts.Devices.ICMP4, 4)
	p.heard = append(p.heard, l)
	hear := func(b []byte) {
		l.hear(b)
		l.tally.publish()
	}

	// Somebody who has not seen the packet guesses.
	for name, change := range map[string]func(b []byte){
		"another SPI":      func(b []byte) { b[8+28+3]++ },
		"a number to come": func(b []byte) { b[8+28+7]++ },
		"an old number":    func(b []byte) { b[8+28+4] = 0x80 },
		"another peer":     func(b []byte) { b[8+19]++ },
		"another sender":   func(b []byte) { b[8+15]++ },
		"another port":     func(b []byte) { b[8+20]++ },
		"protocol 50":      func(b []byte) { b[8+9] = 50 },
		"TCP":              func(b []byte) { b[8+9] = 6 },
	} {
		b := fragNeeded(&wire[0], 1000)
		change(b)
		b[2], b[3] = 0, 0
		binary.BigEndian.PutUint16(b[2:], packet.Checksum(b))
		if hear(b); status().PathMTU != 1500 {
			t.Errorf("%s: believed", name)
		}
	}
	if f.count(0, "path-mtu-unverified") != 6 { // TCP and other ports are not ours
		t.Errorf("%d messages were not believed", f.count(0, "path-mtu-unverified"))
	}

	hear(fragNeeded(&wire[0], 1300))
	if s := status(); s.PathMTU != 1300 || s.InnerMTU != 1300-62 || !s.PathMTUUntil.Equal(f.now.Add(10*time.Minute)) {
		t.Fatalf("learned %d, inside %d, until %s", s.PathMTU, s.InnerMTU, s.PathMTUUntil)
	}
	// Not the way up, and not below what there is.
	hear(fragNeeded(&wire[0], 1400))
	if s := status(); s.PathMTU != 1300 {
		t.Errorf("then %d", s.PathMTU)
	}
	hear(fragNeeded(&wire[0], 68))
	if s := status(); s.PathMTU != packet.MinMTU4 {
		t.Errorf("then %d", s.PathMTU)
	}
	// The successor of the SA takes the same way.
	next := testSA(ipsec.Out, 2000, 0, true)
	if err := p.AddSA(next); err != nil {
		t.Fatal(err)
	}
	if s := p.SAs()[2]; s.PathMTU != packet.MinMTU4 {
		t.Errorf("the successor has %d", s.PathMTU)
	}
	f.now = f.now.Add(10*time.Minute - time.Second)
	if p.tick(); status().PathMTU != packet.MinMTU4 {
		t.Error("forgotten too early")
	}
	f.now = f.now.Add(2 * time.Second)
	if p.tick(); status().PathMTU != 1500 || !status().PathMTUUntil.IsZero() {
		t.Errorf("after ten minutes: %d until %s", status().PathMTU, status().PathMTUUntil)
	}
}

func TestFittingDoesNotAllocate(t *testing.T) {
	for _, change := range []func(*ipsec.SA){nil, func(sa *ipsec.SA) { sa.Fit.Fragment = ipsec.FragmentAfter }} {
		f := newFitPlanes(t, 1400, change)
		out := f.plane[0].out[0]
		batch := netio.NewBatch(4, 5000)
		list := [][]byte{datagram(4000, false), datagram(1400, true), datagram6(1500), tcpSYN(0)}
		carry := func() {
			for i, b := range list {
				batch[i].Off, batch[i].Len = netio.Headroom, copy(batch[i].Buf[netio.Headroom:], b)
			}
			out.carry(batch)
		}
		for range 512 { // until the queues of the devices are full, which take memory as they fill
			carry()
		}
		if n := testing.AllocsPerRun(50, carry); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}
