package afxdp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"caponier/internal/lab/netns"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// modes are those that every machine of ours has.
var modes = []Options{{Mode: Native}, {Mode: Generic}, {}}

// numbered is a protected packet of a flow with a number.
func (l *pair) numbered(flow byte, n uint32, size int) []byte {
	b := to(fmt.Sprintf("10.2.0.%d", flow), 17, 64, udp(9, make([]byte, size)...)...)
	binary.BigEndian.PutUint32(b[len(b)-size:], n)
	return l.framed(b)
}

// Every frame arrives once, in the order of its flow, and as it was; the rings go
// round several times.
func TestReadFrames(t *testing.T) {
	const total, flows, window = 4 * ringSize, 4, ringSize / 2
	for _, o := range modes {
		t.Run(o.Mode.String(), func(t *testing.T) {
			l := newPair(t)
			c := l.capture(o, steering)
			if o.Mode != Auto && c.ports[0].mode != o.Mode {
				t.Fatalf("the mode is %v", c.ports[0].mode)
			}
			w, s := l.wire(), c.ports[0].queues[0]
			var got atomic.Int64
			sent := make(chan error, 1)
			go func() {
				for i := range total {
					for int64(i)-got.Load() > window {
						time.Sleep(time.Millisecond)
					}
					if err := w.send(l.numbered(byte(i%flows), uint32(i/flows), 4+i%1400)); err != nil {
						sent <- err
						return
					}
				}
				sent <- nil
			}()
			batch := slots(64)
			var next [flows]uint32
			for n := 0; n < total; {
				k, err := s.ReadFrames(batch)
				if err != nil {
					t.Fatal(err)
				}
				for i := range k {
					b := batch[i].Data()
					want := l.numbered(b[33], next[b[33]], len(b)-42)
					if !slices.Equal(b, want) || batch[i].Truncated {
						t.Fatalf("frame %d: got %x\nwant %x", n+i, b, want)
					}
					next[b[33]]++
				}
				n += k
				got.Store(int64(n))
			}
			l.must(<-sent)
			counters := c.Counters()
			if counters["xdp-inner"] != total {
				t.Errorf("%d frames are counted, want %d", counters["xdp-inner"], total)
			}
			for name, n := range counters {
				if name != "xdp-inner" && n != 0 {
					t.Errorf("%s: %d", name, n)
				}
			}
		})
	}
}

// Every frame is on the wire once and in order.
func TestWriteFrames(t *testing.T) {
	const total = 3 * ringSize
	for _, o := range modes {
		t.Run(o.Mode.String(), func(t *testing.T) {
			l := newPair(t)
			c := l.capture(o, steering)
			w, s := l.wire(), c.ports[0].queues[0]
			out := func(n int) []byte {
				b := l.numbered(1, uint32(n), 4+n%1400)
				copy(b, l.mac[1][:])
				copy(b[6:], l.mac[0][:])
				return b
			}
			var buf [2048]byte
			batch := slots(64)
			for n := 0; n < total; n += len(batch) {
				for i := range batch {
					p := &batch[i]
					p.Off, p.Len = 50, copy(p.Buf[50:], out(n+i))
				}
				if k, err := s.WriteFrames(batch); err != nil || k != len(batch) {
					t.Fatalf("%d of %d frames: %v", k, len(batch), err)
				}
				for i := range batch {
					k, err := w.receive(buf[:])
					if err != nil {
						t.Fatalf("frame %d: %v", n+i, err)
					}
					if want := out(n + i); !slices.Equal(buf[:k], want) {
						t.Fatalf("frame %d: got %x\nwant %x", n+i, buf[:k], want)
					}
				}
			}
		})
	}
}

// A frame that cannot be sent holds up no other.
func TestWriteFramesRefuses(t *testing.T) {
	l := newPair(t)
	s := l.capture(Options{}, steering).ports[0].queues[0]
	good := netio.Packet{Buf: l.numbered(1, 1, 4), Len: 46}
	long := netio.Packet{Buf: make([]byte, 5000), Len: 5000}
	runt := netio.Packet{Buf: make([]byte, 50), Len: frame.HeaderLen - 1}
	for _, x := range []struct {
		frames []netio.Packet
		sent   int
		err    error
	}{
		{[]netio.Packet{good, long, good}, 1, unix.EMSGSIZE},
		{[]netio.Packet{runt, good}, 0, unix.EINVAL},
		{[]netio.Packet{good, good}, 2, nil},
		{nil, 0, nil},
	} {
		if n, err := s.WriteFrames(x.frames); n != x.sent || !errors.Is(err, x.err) {
			t.Errorf("sent %d, error %v; want %d and %v", n, err, x.sent, x.err)
		}
	}
	if _, err := s.WriteFrames([]netio.Packet{long}); !netio.IsTooLong(err) {
		t.Errorf("a frame that is too long: %v", err)
	}
}

// A reader that spins reads the same, and ends with the socket.
func TestSpin(t *testing.T) {
	for _, o := range []Options{{Spin: 100}, {Spin: 3, BusyPoll: 20 * time.Microsecond}, {Spin: 1 << 30}} {
		l := newPair(t)
		c := l.capture(o, steering)
		w, s := l.wire(), c.ports[0].queues[0]
		batch := slots(4)
		for i := range uint32(100) {
			l.must(w.send(l.numbered(1, i, 4)))
			n, err := s.ReadFrames(batch)
			if err != nil || n != 1 || !slices.Equal(batch[0].Data(), l.numbered(1, i, 4)) {
				t.Fatalf("%+v: frame %d: read %d, %v", o, i, n, err)
			}
		}
		end := make(chan error)
		go func() {
			_, err := s.ReadFrames(batch)
			end <- err
		}()
		time.Sleep(time.Millisecond)
		l.must(c.Close())
		if err := <-end; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%+v: who reads is told %v", o, err)
		}
	}
}

func TestTruncated(t *testing.T) {
	l := newPair(t)
	w, s := l.wire(), l.capture(Options{}, steering).ports[0].queues[0]
	l.must(w.send(l.numbered(1, 1, 900)))
	small := netio.NewBatch(1, 100)
	if n, err := s.ReadFrames(small); n != 1 || err != nil || !small[0].Truncated {
		t.Errorf("read %d, %v: %+v", n, err, small[0])
	}
}

// What is not the gateway's reaches the kernel as if there was no capture.
func TestTheRestPasses(t *testing.T) {
	l := newPair(t)
	l.capture(Options{}, steering)
	for _, address := range []string{"192.0.2.1:500", "192.0.2.1:4500", "[2001:db8::1]:4500"} {
		l.exchange(address, address, make([]byte, 40))
	}
}

// exchange sends a datagram from far to a socket in near, which must receive it.
func (l *pair) exchange(listen, dial string, b []byte) {
	l.t.Helper()
	if err := l.tryExchange(listen, dial, b, 5*time.Second); err != nil {
		l.t.Errorf("%s: %v", dial, err)
	}
}

func (l *pair) tryExchange(listen, dial string, b []byte, timeout time.Duration) error {
	l.t.Helper()
	var in *net.UDPConn
	l.must(l.near.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(listen)))
		return err
	}))
	defer in.Close()
	l.must(l.far.Do(func() error {
		out, err := net.Dial("udp", dial)
		if err != nil {
			return err
		}
		defer out.Close()
		_, err = out.Write(b)
		return err
	}))
	l.must(in.SetReadDeadline(time.Now().Add(timeout)))
	_, err := in.Read(make([]byte, 2048))
	return err
}

// A sender on the other end of a veth pair leaves its checksums to an interface
// that computes none: they arrive finished.
func TestChecksumsAreFinished(t *testing.T) {
	for _, o := range modes[:2] {
		l := newPair(t)
		s := l.capture(o, steering).ports[0].queues[0]
		for _, x := range []struct{ via, to, address string }{
			{"192.0.2.1", "10.2.0.0/16", "10.2.0.7:9"},
			{"2001:db8::1", "2001:db8:2::/64", "[2001:db8:2::7]:9"},
		} {
			l.must(l.far.Route(netip.MustParsePrefix(x.to), netip.MustParseAddr(x.via)))
			for _, payload := range []string{"", "odd", "even"} {
				l.must(l.far.Do(func() error {
					out, err := net.Dial("udp", x.address)
					if err != nil {
						return err
					}
					defer out.Close()
					_, err = out.Write([]byte(payload))
					return err
				}))
				batch := slots(1)
				if _, err := s.ReadFrames(batch); err != nil {
					t.Fatal(err)
				}
				var info packet.Info
				info.Decode(batch[0].Data()[frame.HeaderLen:])
				segment := batch[0].Data()[frame.HeaderLen+info.HeaderLen : frame.HeaderLen+info.TotalLen]
				if binary.BigEndian.Uint16(segment[6:]) == 0 || packet.TransportChecksum(info.Src, info.Dst, 17, segment) != 0 {
					t.Errorf("%v, %s, %q: the checksum of %x is wrong", o.Mode, x.address, payload, segment)
				}
			}
		}
	}
}

// Finishing changes nothing that is finished, right or wrong, and nothing else.
func TestFinishLeavesTheRest(t *testing.T) {
	l := &pair{}
	whole := l.framed(to("10.2.0.7", 17, 64, udp(9, 1, 2, 3, 4)...))
	fold := packet.Fold(packet.PseudoHeaderSum(netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("10.2.0.7"), 17, 12))
	unfinished := slices.Clone(whole)
	binary.BigEndian.PutUint16(unfinished[40:], fold)
	fragment := slices.Clone(unfinished)
	fragment[20] |= 0x20
	for name, b := range map[string][]byte{"none": whole, "wrong": append(slices.Clone(whole[:40]), 1, 2, 0, 0, 0, 0), "fragment": fragment} {
		was := slices.Clone(b)
		if finish(b); !slices.Equal(b, was) {
			t.Errorf("%s: %x has become %x", name, was, b)
		}
	}
	for n := range unfinished {
		b := slices.Clone(unfinished[:n])
		if finish(b); !slices.Equal(b, unfinished[:n]) {
			t.Errorf("%d octets of a frame have become %x", n, b)
		}
	}
	if finish(unfinished); slices.Equal(unfinished[40:42], binary.BigEndian.AppendUint16(nil, fold)) {
		t.Error("an unfinished checksum stays so")
	}
}

// The end wakes who reads, and is told to who writes.
func TestClose(t *testing.T) {
	l := newPair(t)
	c := l.capture(Options{}, steering)
	s := c.ports[0].queues[0]
	end := make(chan error)
	go func() {
		_, err := s.ReadFrames(slots(1))
		end <- err
	}()
	time.Sleep(20 * time.Millisecond)
	l.must(c.Close())
	if err := <-end; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who reads is told %v", err)
	}
	if _, err := s.ReadFrames(slots(1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("who reads afterwards is told %v", err)
	}
	if _, err := s.WriteFrames([]netio.Packet{{Buf: make([]byte, 60), Len: 60}}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("who writes is told %v", err)
	}
	if err := c.Steer(steering); !errors.Is(err, net.ErrClosed) {
		t.Errorf("who steers is told %v", err)
	}
	if s.umem.area != nil {
		t.Error("the memory is not given back")
	}
	l.must(c.Close())
	c.Counters()
}

// Every queue has a socket, and a flow stays with one.
func TestQueues(t *testing.T) {
	l := newPair(t)
	l.must(l.near.IP("link", "add", "many", "numrxqueues", "2", "numtxqueues", "2", "type", "veth",
		"peer", "name", "many", "netns", l.far.Name, "numrxqueues", "2", "numtxqueues", "2"))
	for _, ns := range []netns.NS{l.near, l.far} {
		l.must(ns.IP("link", "set", "many", "up"))
	}
	var c *Capture
	l.must(l.near.Do(func() (err error) {
		c, err = Open([]string{"many", "eth0"}, Options{})
		return err
	}))
	t.Cleanup(func() { c.Close() })
	ports := c.Ports()
	if len(ports) != 2 || len(ports[0].Queues) != 2 || len(ports[1].Queues) != 1 || ports[0].Name != "many" {
		t.Fatalf("the ports are %+v", ports)
	}
	for _, line := range c.Describe() {
		t.Log(line)
	}
}

func TestOpenRefuses(t *testing.T) {
	l := newPair(t)
	l.capture(Options{}, steering)
	for name, want := range map[string]string{
		"eth0": "another XDP program is on the interface",
		"lo":   "not an Ethernet interface",
		"eth7": "no such network interface",
	} {
		err := l.near.Do(func() error {
			c, err := Open([]string{name}, Options{})
			if err == nil {
				c.Close()
			}
			return err
		})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	l := newPair(t)
	w, s := l.wire(), l.capture(Options{}, steering).ports[0].queues[0]
	in, one := slots(64), l.numbered(1, 1, 64)
	out := make([]netio.Packet, 64)
	for i := range out {
		out[i] = netio.Packet{Buf: one, Len: len(one)}
	}
	var failed error
	got := testing.AllocsPerRun(200, func() {
		if _, err := s.WriteFrames(out); err != nil {
			failed = err
		}
	})
	if got != 0 || failed != nil {
		t.Errorf("%v allocations to write a batch; error %v", got, failed)
	}
	for range 210 {
		l.must(w.send(one))
	}
	got = testing.AllocsPerRun(200, func() {
		if _, err := s.ReadFrames(in[:1]); err != nil {
			failed = err
		}
	})
	if got != 0 || failed != nil {
		t.Errorf("%v allocations to read a batch; error %v", got, failed)
	}
}
