package afxdp

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"caponier/internal/lab/netns"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/netio/frame/frametest"
	"caponier/internal/packet"
)

// A frame that cannot be sent holds up no other.
func TestWriteFramesRefuses(t *testing.T) {
	l := newPair(t)
	s := l.capture(Options{}, frametest.Steering()).ports[0].queues[0]
	good := netio.Packet{Buf: l.Numbered(1, 1, 4), Len: 46}
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

// A reader reads frame by frame as they come, and ends with the socket.
func TestReaderEndsWithItsSocket(t *testing.T) {
	for _, o := range []Options{{Mode: Native}, {Mode: Generic}, {Copy: true}} {
		l := newPair(t)
		c := l.capture(o, frametest.Steering())
		w, s := l.Wire(), c.ports[0].queues[0]
		batch := frametest.Slots(4)
		for i := range uint32(100) {
			l.Must(w.Send(l.Numbered(1, i, 4)))
			n, err := s.ReadFrames(batch)
			if err != nil || n != 1 || !slices.Equal(batch[0].Data(), l.Numbered(1, i, 4)) {
				t.Fatalf("%+v: frame %d: read %d, %v", o, i, n, err)
			}
		}
		end := make(chan error)
		go func() {
			_, err := s.ReadFrames(batch)
			end <- err
		}()
		time.Sleep(time.Millisecond)
		l.Must(c.Close())
		if err := <-end; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%+v: who reads is told %v", o, err)
		}
	}
}

// Finishing changes nothing that is finished, right or wrong, and nothing else.
func TestFinishLeavesTheRest(t *testing.T) {
	l := frametest.Pair{}
	whole := l.Framed(frametest.To("10.2.0.7", 17, 64, frametest.UDP(9, 1, 2, 3, 4)...))
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

// Every queue has a socket, and a flow stays with one.
func TestQueues(t *testing.T) {
	l := newPair(t)
	l.Must(l.Near.IP("link", "add", "many", "numrxqueues", "2", "numtxqueues", "2", "type", "veth",
		"peer", "name", "many", "netns", l.Far.Name, "numrxqueues", "2", "numtxqueues", "2"))
	for _, ns := range []netns.NS{l.Near, l.Far} {
		l.Must(ns.IP("link", "set", "many", "up"))
	}
	var c *Capture
	l.Must(l.Near.Do(func() (err error) {
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
	l.capture(Options{}, frametest.Steering())
	for name, want := range map[string]string{
		"eth0": "another XDP program is on the interface",
		"lo":   "not an Ethernet interface",
		"eth7": "no such network interface",
	} {
		err := l.Near.Do(func() error {
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

// Packets longer than a page are no frames of one piece: the driver refuses, and the
// error says what else there is.
func TestOpenRefusesLongPackets(t *testing.T) {
	l := newPair(t)
	for _, ns := range []netns.NS{l.Near, l.Far} {
		l.Must(ns.IP("link", "set", "eth0", "mtu", "9000"))
	}
	err := l.Near.Do(func() error {
		c, err := Open([]string{"eth0"}, Options{})
		if err == nil {
			c.Close()
		}
		return err
	})
	if want := "or not with this MTU: capture by afpacket"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
}

// An interface that goes away takes nobody along.
func TestInterfaceGoes(t *testing.T) {
	l := newPair(t)
	c := l.capture(Options{}, frametest.Steering())
	s := c.ports[0].queues[0]
	end := make(chan error)
	go func() {
		_, err := s.ReadFrames(frametest.Slots(1))
		end <- err
	}()
	one := l.Numbered(1, 1, 64)
	out := make([]netio.Packet, 64)
	for i := range out {
		out[i] = netio.Packet{Buf: one, Len: len(one)}
	}
	l.Must(l.Near.IP("link", "set", "eth0", "down"))
	for range 2 * ringSize / len(out) {
		_, _ = s.WriteFrames(out)
	}
	if n, err := s.WriteFrames(out); n == len(out) || err == nil {
		t.Errorf("an interface that is down takes %d frames, %v", n, err)
	}
	l.Must(l.Near.IP("link", "del", "eth0"))
	if n, err := s.WriteFrames(out); n == len(out) || err == nil {
		t.Errorf("an interface that is gone takes %d frames, %v", n, err)
	}
	c.Counters()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-end; !errors.Is(err, net.ErrClosed) {
		t.Errorf("who reads is told %v", err)
	}
}
