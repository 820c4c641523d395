package dataplanetest

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

// patience is how long a test waits for what must come, silence for what must
// not.
const (
	patience = 15 * time.Second
	silence  = 50 * time.Millisecond
)

var aesGCM128 = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}

// newSA makes an SA of gateway side (0 or 1) with the other, in UDP over IPv4,
// for all of the test's networks. SAs of one SPI have one key.
func newSA(d ipsec.Direction, spi ipsec.SPI, side int) ipsec.SA {
	key := bytes.Repeat([]byte{byte(spi), byte(spi >> 8), 0xa5, 1}, 5) // 16 octets and a salt of 4
	return ipsec.SA{
		SPI: spi, Protocol: ipsec.ESP, Mode: ipsec.Tunnel, Direction: d,
		Local:  netip.AddrPortFrom(addr4[side], port),
		Remote: netip.AddrPortFrom(addr4[1-side], port),
		Encap:  true,
		Encr:   aesGCM128, EncrKey: secret.New(key),
		ReqID:      1,
		LocalTS:    []ipsec.Selector{ipsec.FromPrefix(net4[side]), ipsec.FromPrefix(net6[side])},
		RemoteTS:   []ipsec.Selector{ipsec.FromPrefix(net4[1-side]), ipsec.FromPrefix(net6[1-side])},
		Connection: "peer", Tunnel: "lan",
	}
}

func protect(side int, acquire bool) ipsec.Policy {
	return ipsec.Policy{
		Name: "peer/lan", Action: ipsec.Protect, ReqID: 1, Protocol: ipsec.ESP, Acquire: acquire,
		Local:      []ipsec.Selector{ipsec.FromPrefix(net4[side]), ipsec.FromPrefix(net6[side])},
		Remote:     []ipsec.Selector{ipsec.FromPrefix(net4[1-side]), ipsec.FromPrefix(net6[1-side])},
		Connection: "peer", Tunnel: "lan",
	}
}

// link joins two instances by their outer devices, through a wire that a test
// can watch and disturb.
type link struct {
	t    *testing.T
	gw   [2]*Instance
	read [2]chan []byte // what comes out of the protected sides

	mu      sync.Mutex
	onWire  func(from int, p *netio.Packet) (copies int)
	carried int
	clear   int // packets on the wire that hold the marker of newPacket
	legible bool
}

func newLink(t *testing.T, a, b *Instance) *link {
	l := &link{t: t, gw: [2]*Instance{a, b}, read: [2]chan []byte{make(chan []byte, 1024), make(chan []byte, 1024)}}
	var wg sync.WaitGroup
	for side, gw := range l.gw {
		other := l.gw[1-side].Outer.all()
		for i, from := range gw.Outer.all() {
			if from != nil && other[i] != nil {
				wg.Go(func() { l.carry(side, from, other[i]) })
			}
		}
		for _, from := range gw.Outer.whole() {
			if from != nil {
				wg.Go(func() { l.carryWhole(side, from) })
			}
		}
		wg.Go(func() { l.drain(side) })
	}
	t.Cleanup(func() {
		for _, gw := range l.gw {
			gw.Close()
			gw.Inner.Close()
			for _, d := range slices.Concat(gw.Outer.all(), gw.Outer.whole(), gw.Outer.ah()) {
				if d != nil {
					d.Close()
				}
			}
		}
		wg.Wait()
		if l.clear != 0 && !l.legible {
			t.Errorf("%d packets were on the wire in clear", l.clear)
		}
	})
	return l
}

// carry is the wire in one direction, for one kind of packet. A Mem changes
// Local and Remote over, as seen from its other end.
func (l *link) carry(side int, from, to *netio.Mem) {
	pkts := netio.NewBatch(64, 2000)
	for {
		n, err := from.ReadBatch(pkts)
		if err != nil {
			return
		}
		for i := range pkts[:n] {
			p := &pkts[i]
			p.Local, p.Remote = p.Remote, p.Local
			l.mu.Lock()
			copies := 1
			l.carried++
			if bytes.Contains(p.Data(), marker) {
				l.clear++
			}
			if l.onWire != nil {
				copies = l.onWire(side, p)
			}
			l.mu.Unlock()
			// Here Local is the sender and Remote the receiver, as the sender
			// sees them, and that is what the receiver's Mem changes over.
			for range copies {
				_ = to.Inject(bytes.Clone(p.Data()), p.Local, p.Remote)
			}
		}
	}
}

func (l *link) drain(side int) {
	pkts := netio.NewBatch(64, 2000)
	for {
		n, err := l.gw[side].Inner.ReadBatch(pkts)
		if err != nil {
			return
		}
		for i := range pkts[:n] {
			l.read[side] <- bytes.Clone(pkts[i].Data())
		}
	}
}

// disturb sets what happens to each packet on the wire: how many copies of it
// arrive. It may change the packet.
func (l *link) disturb(f func(from int, p *netio.Packet) int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.onWire = f
}

func (l *link) onTheWire() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.carried
}

// tunnel adds a pair of SAs for each direction, after edit, and the policies.
func (l *link) tunnel(spi ipsec.SPI, edit func(sa *ipsec.SA)) {
	l.t.Helper()
	for side := range 2 {
		l.policies(side, protect(side, false))
		l.add(side, ipsec.In, spi+ipsec.SPI(side), edit)
	}
	for side := range 2 {
		l.add(side, ipsec.Out, spi+ipsec.SPI(1-side), edit)
	}
}

func (l *link) add(side int, d ipsec.Direction, spi ipsec.SPI, edit func(sa *ipsec.SA)) ipsec.SAID {
	l.t.Helper()
	sa := newSA(d, spi, side)
	if edit != nil {
		edit(&sa)
	}
	if err := l.gw[side].AddSA(sa); err != nil {
		l.t.Fatal(err)
	}
	return sa.ID()
}

func (l *link) policies(side int, list ...ipsec.Policy) {
	l.t.Helper()
	if err := l.gw[side].SetPolicies(list); err != nil {
		l.t.Fatal(err)
	}
}

// send puts a packet into the protected side of a gateway.
func (l *link) send(side int, b []byte) {
	l.t.Helper()
	if err := l.gw[side].Inner.Inject(bytes.Clone(b), netip.AddrPort{}, netip.AddrPort{}); err != nil {
		l.t.Fatal(err)
	}
}

// expect waits for packet b at the protected side of a gateway.
func (l *link) expect(side int, b []byte) {
	l.t.Helper()
	select {
	case got := <-l.read[side]:
		if !bytes.Equal(got, b) {
			l.t.Fatalf("gateway %d delivered\n% x, want\n% x", side, got, b)
		}
	case <-time.After(patience):
		l.t.Fatalf("gateway %d delivered nothing; counters: %v and %v", side, l.gw[0].Counters(), l.gw[1].Counters())
	}
}

// expectNone checks that a gateway delivers nothing.
func (l *link) expectNone(side int) {
	l.t.Helper()
	select {
	case got := <-l.read[side]:
		l.t.Fatalf("gateway %d delivered % x", side, got)
	case <-time.After(silence):
	}
}

// event waits for the next event of a gateway that is an E.
func event[E ipsec.Event](l *link, side int) E {
	l.t.Helper()
	late := time.After(patience)
	for {
		select {
		case e, ok := <-l.gw[side].Events():
			if x, is := e.(E); is {
				return x
			}
			if !ok {
				l.t.Fatal("the channel of events is closed")
			}
		case <-late:
			var want E
			l.t.Fatalf("gateway %d did not say %T", side, want)
		}
	}
}

// noEvent checks that a gateway says no E.
func noEvent[E ipsec.Event](l *link, side int) {
	l.t.Helper()
	late := time.After(silence)
	for {
		select {
		case e := <-l.gw[side].Events():
			if x, is := e.(E); is {
				l.t.Fatalf("gateway %d said %+v", side, x)
			}
		case <-late:
			return
		}
	}
}

// status waits until the status of an SA is as wanted.
func (l *link) status(side int, id ipsec.SAID, what string, ok func(s ipsec.SAStatus) bool) {
	l.t.Helper()
	var last ipsec.SAStatus
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		for _, s := range l.gw[side].SAs() {
			if s.ID == id {
				last = s
			}
		}
		if last.ID == id && ok(last) {
			return
		}
	}
	l.t.Fatalf("SA %v of gateway %d: no %s in %+v", id, side, what, last)
}

// counted waits until a counter has the value, and fails the test if it does not.
func (l *link) counted(side int, name string, want uint64) {
	l.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if l.gw[side].Counters()[name] == want {
			return
		}
	}
	l.t.Errorf("counter %s of gateway %d is not %d: %v", name, side, want, l.gw[side].Counters())
}

// counter does so too, and ends the test then.
func (l *link) counter(side int, name string, want uint64) {
	l.t.Helper()
	if l.counted(side, name, want); l.t.Failed() {
		l.t.FailNow()
	}
}

// marker is in every inner packet; on the wire it would be a packet in clear.
var marker = []byte("in the clear?")

// newPacket makes a UDP packet from a host behind gateway side to one behind the
// other.
func newPacket(side int, v6 bool, n int) []byte {
	payload := binary.BigEndian.AppendUint32(bytes.Clone(marker), uint32(n))
	udpLen := packet.UDPHeaderLen + len(payload)
	if v6 {
		b := make([]byte, packet.IPv6HeaderLen+udpLen)
		packet.PutIPv6(b, &packet.IPv6Header{
			Src: host(net6[side]), Dst: host(net6[1-side]), PayloadLen: udpLen, NextHeader: packet.ProtocolUDP, HopLimit: 64,
		})
		packet.PutUDP(b[packet.IPv6HeaderLen:], 1000, 2000, udpLen, 1)
		copy(b[packet.IPv6HeaderLen+packet.UDPHeaderLen:], payload)
		return b
	}
	b := make([]byte, packet.IPv4HeaderLen+udpLen)
	packet.PutIPv4(b, &packet.IPv4Header{
		Src: host(net4[side]), Dst: host(net4[1-side]), TotalLen: len(b), TTL: 64, Protocol: packet.ProtocolUDP,
	})
	packet.PutUDP(b[packet.IPv4HeaderLen:], 1000, 2000, udpLen, 0)
	copy(b[packet.IPv4HeaderLen+packet.UDPHeaderLen:], payload)
	return b
}

// newPacketBetween is a packet of newPacket over IPv4 between others.
func newPacketBetween(src, dst netip.Addr) []byte {
	b := newPacket(0, false, 0)
	packet.PutIPv4(b, &packet.IPv4Header{Src: src, Dst: dst, TotalLen: len(b), TTL: 64, Protocol: packet.ProtocolUDP})
	return b
}

func host(p netip.Prefix) netip.Addr { return p.Addr().Next() }
