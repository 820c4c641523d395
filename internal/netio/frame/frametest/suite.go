package frametest

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// Run runs the suite over each of the captures. The package's TestMain calls Main.
func Run(t *testing.T, captures map[string]Opener) {
	for name, open := range captures {
		t.Run(name, func(t *testing.T) {
			for _, x := range []struct {
				name string
				test func(*Pair, Opener)
			}{
				{"Takes", testTakes},
				{"Reads", testReads},
				{"Writes", testWrites},
				{"Refuses", testRefuses},
				{"Truncates", testTruncates},
				{"SteersAgain", testSteersAgain},
				{"KernelGoesOn", testKernelGoesOn},
				{"Checksums", testChecksums},
				{"Closes", testCloses},
				{"DoesNotAllocate", testAllocations},
			} {
				t.Run(x.name, func(t *testing.T) { x.test(NewPair(t), open) })
			}
			t.Run("Killed", func(t *testing.T) { testKilled(NewPair(t), name, open) })
		})
	}
}

// read reads frames into batch.
func (l *Pair) read(s frame.Socket, batch []netio.Packet) []netio.Packet {
	l.Helper()
	n, err := s.ReadFrames(batch)
	l.Must(err)
	return batch[:n]
}

// What frame.Steering names comes to the socket, as it was, and nothing else.
func testTakes(l *Pair, open Opener) {
	port := l.Capture(open, Steering()).Ports()[0]
	w, rule, batch := l.Wire(), Steering(), Slots(4)
	var want [][]byte
	for name, b := range l.Frames() {
		if rule.Ours(l.MAC[0], port.Tagged, b) != frame.Other {
			want = append(want, b)
		}
		if err := w.Send(b); err != nil {
			l.Fatalf("%s: %v", name, err)
		}
	}
	for len(want) > 0 {
		for _, p := range l.read(port.Queues[0], batch) {
			i := slices.IndexFunc(want, func(b []byte) bool { return slices.Equal(b, p.Data()) })
			if i < 0 {
				l.Errorf("taken: %x", p.Data())
				continue
			}
			want = slices.Delete(want, i, i+1)
		}
	}
	last := l.Numbered(1, 1, 4)
	l.Must(w.Send(last))
	if got := l.read(port.Queues[0], batch); !slices.Equal(got[0].Data(), last) {
		l.Errorf("taken as well: %x", got[0].Data())
	}
}

// Every frame arrives once, in the order of its flow, and as it was.
func testReads(l *Pair, open Opener) {
	const total, flows, window = 6000, 4, 200
	c := l.Capture(open, Steering())
	w, s := l.Wire(), c.Ports()[0].Queues[0]
	var got atomic.Int64
	sent := make(chan error, 1)
	go func() {
		for i := range total {
			for int64(i)-got.Load() > window {
				time.Sleep(100 * time.Microsecond)
			}
			if err := w.Send(l.Numbered(byte(i%flows), uint32(i/flows), 4+i%1400)); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	batch := Slots(64)
	var next [flows]uint32
	for n := 0; n < total; {
		pkts := l.read(s, batch)
		for i := range pkts {
			b := pkts[i].Data()
			want := l.Numbered(flowOf(b), next[flowOf(b)], len(b)-numberedHead)
			if !slices.Equal(b, want) || pkts[i].Truncated || pkts[i].Segment != 0 {
				l.Fatalf("frame %d: got %x\nwant %x", n+i, b, want)
			}
			next[flowOf(b)]++
		}
		n += len(pkts)
		got.Store(int64(n))
	}
	l.Must(<-sent)
}

// Outgoing is a numbered frame from Near to Far.
func (l *Pair) Outgoing(n uint32, size int) []byte {
	b := l.Numbered(1, n, size)
	copy(b, l.MAC[1][:])
	copy(b[6:], l.MAC[0][:])
	return b
}

// Every frame is on the wire once, in order, and as it was.
func testWrites(l *Pair, open Opener) {
	const total = 6016
	c := l.Capture(open, Steering())
	w, s := l.Wire(), c.Ports()[0].Queues[0]
	var buf [2048]byte
	batch := Slots(64)
	for n := 0; n < total; n += len(batch) {
		for i := range batch {
			p := &batch[i]
			p.Off, p.Len = 50, copy(p.Buf[50:], l.Outgoing(uint32(n+i), 4+(n+i)%1400))
		}
		if k, err := s.WriteFrames(batch); err != nil || k != len(batch) {
			l.Fatalf("%d of %d frames: %v", k, len(batch), err)
		}
		for i := range batch {
			k, err := w.Receive(buf[:])
			if err != nil {
				l.Fatalf("frame %d: %v", n+i, err)
			}
			if want := l.Outgoing(uint32(n+i), 4+(n+i)%1400); !slices.Equal(buf[:k], want) {
				l.Fatalf("frame %d: got %x\nwant %x", n+i, buf[:k], want)
			}
		}
	}
}

// A frame that cannot be sent holds up no other.
func testRefuses(l *Pair, open Opener) {
	s := l.Capture(open, Steering()).Ports()[0].Queues[0]
	w := l.Wire()
	frames := make([]netio.Packet, 3)
	for i := range frames {
		b := l.Outgoing(uint32(i), 4)
		if i == 1 {
			b = append(b, make([]byte, netio.MaxPacket)...)
		}
		frames[i] = netio.Packet{Buf: b, Len: len(b)}
	}
	n, err := s.WriteFrames(frames)
	if n != 1 || err == nil {
		l.Fatalf("%d frames sent, error %v", n, err)
	}
	if n, err := s.WriteFrames(frames[2:]); n != 1 || err != nil {
		l.Fatalf("%d frames sent behind, error %v", n, err)
	}
	var buf [2048]byte
	for _, want := range [][]byte{frames[0].Buf, frames[2].Buf} {
		if n, err := w.Receive(buf[:]); err != nil || !slices.Equal(buf[:n], want) {
			l.Errorf("on the wire: %x, %v; want %x", buf[:n], err, want)
		}
	}
	if n, err := s.WriteFrames(nil); n != 0 || err != nil {
		l.Errorf("no frames: %d, %v", n, err)
	}
}

// A frame that does not fit is marked, not shortened without a word.
func testTruncates(l *Pair, open Opener) {
	s := l.Capture(open, Steering()).Ports()[0].Queues[0]
	w := l.Wire()
	l.Must(w.Send(l.Numbered(1, 1, 900)))
	if got := l.read(s, netio.NewBatch(1, 100)); len(got) != 1 || !got[0].Truncated {
		l.Errorf("read %d frames: %+v", len(got), got)
	}
}

// The rule follows, and takes nothing until there is one.
func testSteersAgain(l *Pair, open Opener) {
	c := l.Capture(open, frame.Steering{Port: 4500})
	w, s, batch := l.Wire(), c.Ports()[0].Queues[0], Slots(1)
	inner, side := l.Numbered(1, 1, 4), l.Framed(To("10.1.0.9", 17, 64, 1, 2, 3, 4))
	esp := l.Framed(To("192.0.2.1", 50, 64, 0, 0, 1, 0, 0, 0, 0, 1))
	send := func() {
		for _, b := range [][]byte{inner, esp, side} {
			l.Must(w.Send(b))
		}
	}
	send()
	less, other, stranger := Steering(), Steering(), Steering()
	less.Take = less.Take[1:]
	other.Take, other.Pass = other.Pass, nil
	stranger.Addresses = nil
	for _, x := range []struct {
		rule frame.Steering
		want [][]byte
	}{
		{Steering(), [][]byte{inner, esp}},
		{less, [][]byte{esp}},
		{other, [][]byte{esp, side}},
		{stranger, [][]byte{inner}},
		{Steering(), [][]byte{inner, esp}},
	} {
		l.Must(c.Steer(x.rule))
		send()
		for _, want := range x.want {
			if got := l.read(s, batch); !slices.Equal(got[0].Data(), want) {
				l.Fatalf("steered by %+v: took %x, want %x", x.rule, got[0].Data(), want)
			}
		}
	}
}

// What is not the gateway's reaches the kernel as if there was no capture, ARP and
// neighbour discovery among it.
func testKernelGoesOn(l *Pair, open Opener) {
	l.Capture(open, Steering())
	for _, address := range []string{"192.0.2.1:500", "192.0.2.1:4500", "[2001:db8::1]:4500"} {
		l.Exchange(address, make([]byte, 40))
	}
}

// The far end of a veth pair leaves checksums to an interface that computes none:
// they arrive finished.
func testChecksums(l *Pair, open Opener) {
	s := l.Capture(open, Steering()).Ports()[0].Queues[0]
	for _, x := range []struct{ via, to, address string }{
		{"192.0.2.1", "10.2.0.0/16", "10.2.0.7:9"},
		{"2001:db8::1", "2001:db8:2::/64", "[2001:db8:2::7]:9"},
	} {
		l.Must(l.Far.Route(netip.MustParsePrefix(x.to), netip.MustParseAddr(x.via)))
		for _, payload := range []string{"", "odd", "even"} {
			l.Must(l.SendUDP(x.address, []byte(payload)))
			b := l.read(s, Slots(1))[0].Data()[frame.HeaderLen:]
			var info packet.Info
			info.Decode(b)
			segment := b[info.HeaderLen:info.TotalLen]
			if binary.BigEndian.Uint16(segment[6:]) == 0 || packet.TransportChecksum(info.Src, info.Dst, packet.ProtocolUDP, segment) != 0 {
				l.Errorf("%s, %q: the checksum of %x is wrong", x.address, payload, segment)
			}
		}
	}
}

// The end wakes who reads, and is told to all others.
func testCloses(l *Pair, open Opener) {
	c := l.Capture(open, Steering())
	s := c.Ports()[0].Queues[0]
	end := make(chan error)
	go func() {
		_, err := s.ReadFrames(Slots(1))
		end <- err
	}()
	time.Sleep(20 * time.Millisecond)
	l.Must(c.Close())
	if err := <-end; !errors.Is(err, net.ErrClosed) {
		l.Errorf("who reads is told %v", err)
	}
	if _, err := s.ReadFrames(Slots(1)); !errors.Is(err, net.ErrClosed) {
		l.Errorf("who reads afterwards is told %v", err)
	}
	b := l.Outgoing(1, 4)
	if _, err := s.WriteFrames([]netio.Packet{{Buf: b, Len: len(b)}}); !errors.Is(err, net.ErrClosed) {
		l.Errorf("who writes is told %v", err)
	}
	if err := c.Steer(Steering()); !errors.Is(err, net.ErrClosed) {
		l.Errorf("who steers is told %v", err)
	}
	l.Must(c.Close())
	l.Must(s.Close())
	c.Counters()
}

func testAllocations(l *Pair, open Opener) {
	s := l.Capture(open, Steering()).Ports()[0].Queues[0]
	w := l.Wire()
	in, one := Slots(64), l.Numbered(1, 1, 64)
	out := make([]netio.Packet, 64)
	for i := range out {
		out[i] = netio.Packet{Buf: one, Len: len(one)}
	}
	var failed error
	const rounds = 100
	if got := testing.AllocsPerRun(rounds, func() {
		if _, err := s.WriteFrames(out); err != nil {
			failed = err
		}
	}); got != 0 || failed != nil {
		l.Errorf("%v allocations to write a batch; error %v", got, failed)
	}
	for range rounds + 1 {
		l.Must(w.Send(one))
	}
	if got := testing.AllocsPerRun(rounds, func() {
		if _, err := s.ReadFrames(in[:1]); err != nil {
			failed = err
		}
	}); got != 0 || failed != nil {
		l.Errorf("%v allocations to read a batch; error %v", got, failed)
	}
}
