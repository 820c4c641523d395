package userspace

import (
	"crypto/rand"
	"net/netip"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

// hostPlanes are two planes without goroutines with an SA in transport mode from
// the first to the second, and the far ends of what the first writes to and what
// the second reads.
func hostPlanes(t testing.TB, encap, joins bool, encr, integ ipsec.Transform) (a, b *Plane, aInner, bInner, sent, arrive *netio.Mem) {
	t.Helper()
	const depth = 512
	ends := [2]netip.Addr{outer[0].Addr(), outer[1].Addr()}
	sa := func(d ipsec.Direction, side int) ipsec.SA {
		key := make([]byte, 20)
		if integ != (ipsec.Transform{}) {
			key = key[:16]
		}
		s := ipsec.SA{
			SPI: 1001, Protocol: ipsec.ESP, Mode: ipsec.Transport, Direction: d, Local: outer[side], Remote: outer[1-side], Encap: encap,
			Encr: encr, Integ: integ, EncrKey: secret.Copy(key), ReqID: 1,
			LocalTS:  []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(ends[side], 32))},
			RemoteTS: []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(ends[1-side], 32))},
		}
		if integ != (ipsec.Transform{}) {
			s.IntegKey = secret.Copy(make([]byte, 32))
		}
		return s
	}
	make := func(side int) (p *Plane, innerFar, whole, esp, udp *netio.Mem) {
		near, innerFar := netio.NewMemPair(depth, netio.MaxPacket)
		near.SetJoins(joins, joins)
		d := Devices{UDPPort: 4500, Inner: []netio.Device{near}}
		var w, e, u *netio.Mem
		w, whole = netio.NewMemPair(depth, 2000)
		e, esp = netio.NewMemPair(depth, 2000)
		u, udp = netio.NewMemPair(depth, 2000)
		d.Clear4, d.ESP4, d.UDP4 = w, e, []netio.Device{u}
		p = assemble(Options{Devices: d, Rand: rand.Reader, Now: time.Now, MTU: 1400, AcquireTimeout: time.Minute})
		t.Cleanup(func() { d.Close() })
		policy := testPolicy(side)
		policy.Mode = ipsec.Transport
		policy.Local, policy.Remote = sa(ipsec.Out, side).LocalTS, sa(ipsec.Out, side).RemoteTS
		if err := p.SetPolicies([]ipsec.Policy{policy}); err != nil {
			t.Fatal(err)
		}
		return p, innerFar, whole, esp, udp
	}
	a, aInner, sent, _, _ = make(0)
	b, bInner, _, esp, udp := make(1)
	if err := a.AddSA(sa(ipsec.Out, 0)); err != nil {
		t.Fatal(err)
	}
	if err := b.AddSA(sa(ipsec.In, 1)); err != nil {
		t.Fatal(err)
	}
	arrive = esp
	if encap {
		arrive = udp
	}
	return a, b, aInner, bInner, sent, arrive
}

// Batches of transport mode come through whole, also with a suite that works side
// by side and with devices that take super-packets, and allocate nothing.
func TestTransportDoesNotAllocate(t *testing.T) {
	gcm := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}
	for _, c := range []struct {
		name         string
		encap, joins bool
		encr, integ  ipsec.Transform
	}{
		{"raw", false, false, gcm, ipsec.Transform{}},
		{"in UDP", true, false, gcm, ipsec.Transform{}},
		{"joined", true, true, gcm, ipsec.Transform{}},
		{
			"side by side", true, false,
			ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC},
			ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3},
		},
	} {
		a, b, aInner, bInner, sent, arrive := hostPlanes(t, c.encap, c.joins, c.encr, c.integ)
		out, in := a.out[0], b.in[0]
		if !c.encap {
			in = b.in[len(b.in)-1]
		}
		const count, size = 64, 1300
		feed, wire, sink := netio.NewBatch(count, 1400), netio.NewBatch(count, 1500), netio.NewBatch(2*count, netio.MaxPacket)
		for i := range feed {
			p := testPacket(size)
			packet.PutIPv4(p, &packet.IPv4Header{
				Src: outer[0].Addr(), Dst: outer[1].Addr(), TotalLen: size, TTL: 64, Protocol: packet.ProtocolUDP, DontFragment: true,
			})
			feed[i].Len = copy(feed[i].Buf[feed[i].Off:], p)
		}
		strip := packet.IPv4HeaderLen
		if c.encap {
			strip += packet.UDPHeaderLen
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
			n, err := sent.ReadBatch(wire)
			if err != nil || n != count {
				t.Fatalf("%s: %d packets left, %v: %v", c.name, n, err, a.Counters())
			}
			for i := range wire[:n] {
				p := &wire[i]
				p.Off, p.Len = p.Off+strip, p.Len-strip
				p.Local, p.Remote = outer[0], outer[1]
			}
			if _, err := arrive.WriteBatch(wire[:n]); err != nil {
				t.Fatal(err)
			}
			if pkts, err = in.reader.Read(); err != nil {
				t.Fatal(err)
			}
			in.carry(pkts)
			n, err = bInner.ReadBatch(sink)
			if err != nil || !c.joins && n != count {
				t.Fatalf("%s: %d packets came through, %v: %v", c.name, n, err, b.Counters())
			}
		}
		round() // the first packet raises FirstUse, and makes room
		if n := testing.AllocsPerRun(100, round); n != 0 && (poolKeeps || c.integ == ipsec.Transform{}) {
			t.Errorf("%s: %v allocations per batch", c.name, n)
		}
		if n := b.Counters()["in-packets"]; n != 102*count {
			t.Errorf("%s: %d packets came through: %v", c.name, n, b.Counters())
		}
	}
}

// Packets of transport mode that were joined to a super-packet leave one by one.
func TestTransportCutsSuperPackets(t *testing.T) {
	gcm := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}
	a, _, _, _, sent, _ := hostPlanes(t, false, true, gcm, ipsec.Transform{})
	super := tcpSuper(1000, 1, 20000)
	ends := [2]netip.Addr{outer[0].Addr(), outer[1].Addr()}
	var info packet.Info
	info.Decode(super)
	packet.SeamOf(super, &info).Close(super, packet.ProtocolTCP, ends[0], ends[1])
	a.out[0].carry([]netio.Packet{{Buf: super, Len: len(super), Segment: 1200}})
	if a.Counters()["out-packets"] == 0 {
		t.Fatalf("nothing left: %v", a.Counters())
	}
	wire := netio.NewBatch(64, 1500)
	n, err := sent.ReadBatch(wire)
	if want := (len(super) - 40 + 1199) / 1200; err != nil || n < want-1 || n > want+1 {
		t.Fatalf("%d packets left, and not %d, %v: %v", n, want, err, a.Counters())
	}
	for _, p := range wire[:n] {
		info.Decode(p.Data())
		if info.Protocol != packet.ProtocolESP || info.Src != ends[0] || info.Dst != ends[1] || packet.Checksum(p.Data()[:20]) != 0 {
			t.Errorf("a piece left as %+v", info)
		}
	}
}
