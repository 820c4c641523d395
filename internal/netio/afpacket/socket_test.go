package afpacket

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"caponier/internal/lab/netns"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

var links atomic.Int32

// wire is two namespaces with a link between: gw has the address 192.0.2.1.
func wire(t testing.TB) (gw, peer netns.NS) {
	t.Helper()
	id := fmt.Sprintf("cpframe-%d-%d", os.Getpid(), links.Add(1))
	for _, x := range []struct {
		ns   *netns.NS
		name string
	}{{&gw, "gw"}, {&peer, "peer"}} {
		ns, err := netns.Create(id + x.name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Delete() })
		*x.ns = ns
	}
	if err := netns.Link(gw, "eth0", peer, "eth0"); err != nil {
		t.Fatal(err)
	}
	for i, ns := range []netns.NS{gw, peer} {
		if err := ns.Addr("eth0", netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))); err != nil {
			t.Fatal(err)
		}
	}
	return gw, peer
}

func open(t testing.TB, ns netns.NS, queues int, names ...string) *Capture {
	t.Helper()
	var c *Capture
	err := ns.Do(func() (err error) {
		c, err = Open(Options{Interfaces: names, Queues: queues})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func macOf(t testing.TB, ns netns.NS, dev string) (mac [6]byte) {
	t.Helper()
	err := ns.Do(func() error {
		ifc, err := net.InterfaceByName(dev)
		if err == nil {
			copy(mac[:], ifc.HardwareAddr)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return mac
}

// received reads n frames.
func received(t testing.TB, s frame.Socket, n int) [][]byte {
	t.Helper()
	var out [][]byte
	batch := netio.NewBatch(16, netio.MaxPacket)
	for len(out) < n {
		got, err := s.ReadFrames(batch)
		if err != nil {
			t.Fatal(err)
		}
		for i := range batch[:got] {
			out = append(out, bytes.Clone(batch[i].Data()))
		}
	}
	return out
}

func esp(to, from [6]byte, dst string, payload ...byte) []byte {
	b := make([]byte, frame.HeaderLen+packet.IPv4HeaderLen)
	(&frame.Header{Dst: to, Src: from, Type: frame.TypeIPv4}).Put(b)
	packet.PutIPv4(b[frame.HeaderLen:], &packet.IPv4Header{
		Src: netip.MustParseAddr("192.0.2.2"), Dst: netip.MustParseAddr(dst),
		TotalLen: packet.IPv4HeaderLen + len(payload), TTL: 64, Protocol: packet.ProtocolESP,
	})
	return append(b, payload...)
}

func outgoing(frames ...[]byte) []netio.Packet {
	out := make([]netio.Packet, len(frames))
	for i, b := range frames {
		out[i] = netio.Packet{Buf: b, Len: len(b)}
	}
	return out
}

// TestWhatIsOursIsKeptFromTheKernel sends ESP to the gateway: captured, it comes to
// the socket, and the kernel, which would answer that it knows no such protocol,
// does not see it. Afterwards the kernel answers again.
func TestWhatIsOursIsKeptFromTheKernel(t *testing.T) {
	gw, peer := wire(t)
	c, sender := open(t, gw, 1, "eth0"), open(t, peer, 1, "eth0")
	if err := c.Steer(steering); err != nil {
		t.Fatal(err)
	}
	b := esp(macOf(t, gw, "eth0"), macOf(t, peer, "eth0"), "192.0.2.1", 0, 0, 1, 0, 0, 0, 0, 1)
	out := sender.Ports()[0].Queues[0]
	answers := func() int {
		t.Helper()
		s, err := gw.Run(t.Context(), "cat", "/proc/net/snmp")
		if err != nil {
			t.Fatal(err)
		}
		return protocolErrors(t, s)
	}
	before := answers()
	if n, err := out.WriteFrames(outgoing(b, b, b)); n != 3 || err != nil {
		t.Fatalf("WriteFrames = %d, %v", n, err)
	}
	for _, got := range received(t, c.Ports()[0].Queues[0], 3) {
		if !bytes.Equal(got, b) {
			t.Errorf("got %x, want %x", got, b)
		}
	}
	if n := answers() - before; n != 0 {
		t.Errorf("the kernel has met %d unknown protocols", n)
	}
	if got := c.Counters()["capture-frames"]; got != 3 {
		t.Errorf("%d frames were counted", got)
	}
	c.Close()
	if _, err := out.WriteFrames(outgoing(b)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if answers() > before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the kernel does not see the frames after the capture has ended")
}

// protocolErrors reads from /proc/net/snmp how many packets of unknown protocols
// came.
func protocolErrors(t *testing.T, s string) int {
	t.Helper()
	var names, values []string
	for line := range strings.Lines(s) {
		if rest, ok := strings.CutPrefix(line, "Ip: "); ok {
			names, values = values, strings.Fields(rest)
		}
	}
	for i, name := range names {
		if name == "InUnknownProtos" {
			n := 0
			fmt.Sscan(values[i], &n)
			return n
		}
	}
	t.Fatalf("no InUnknownProtos in %q", s)
	return 0
}

// TestFilterPassesTheRest: what is not taken does not come to the socket, and the
// kernel goes on answering it.
func TestFilterPassesTheRest(t *testing.T) {
	gw, peer := wire(t)
	c, sender := open(t, gw, 2, "eth0"), open(t, peer, 1, "eth0")
	if err := c.Steer(steering); err != nil {
		t.Fatal(err)
	}
	if out, err := peer.Run(t.Context(), "ping", "-c", "2", "-i", "0.05", "-W", "2", "192.0.2.1"); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	mac, from := macOf(t, gw, "eth0"), macOf(t, peer, "eth0")
	other, fragment := esp(from, mac, "192.0.2.1", 0, 0, 1, 0), esp(mac, from, "192.0.2.1", 0, 0, 1, 1)
	fragment[frame.HeaderLen+6] = 0x20
	wanted := [][]byte{esp(mac, from, "192.0.2.1", 0, 0, 1, 2), esp(mac, from, "192.0.2.1", 0, 0, 1, 3)}
	if _, err := sender.Ports()[0].Queues[0].WriteFrames(outgoing(other, fragment, wanted[0], wanted[1])); err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // SPI 258 belongs to the first socket, 259 to the second
		if got := received(t, c.Ports()[0].Queues[i], 1)[0]; !bytes.Equal(got, wanted[i]) {
			t.Errorf("socket %d got %x, want %x", i, got, wanted[i])
		}
	}
	if got := c.Counters()["capture-frames"]; got != 2 {
		t.Errorf("%d frames were captured, want 2", got)
	}
}

// TestTagged: what is on a VLAN belongs to the VLAN's own device, if there is one,
// even where the packet would be ours without its tag.
func TestTagged(t *testing.T) {
	gw, peer := wire(t)
	c, sender := open(t, gw, 1, "eth0"), open(t, peer, 1, "eth0")
	if err := c.Steer(steering); err != nil {
		t.Fatal(err)
	}
	plain := esp(macOf(t, gw, "eth0"), macOf(t, peer, "eth0"), "192.0.2.1", 0, 0, 1, 0)
	h, _ := frame.Parse(plain)
	h.Tagged, h.VLAN = true, 7
	tagged := make([]byte, h.Size())
	h.Put(tagged)
	tagged = append(tagged, plain[frame.HeaderLen:]...)
	if _, err := sender.Ports()[0].Queues[0].WriteFrames(outgoing(tagged, plain)); err != nil {
		t.Fatal(err)
	}
	if got := received(t, c.Ports()[0].Queues[0], 1)[0]; !bytes.Equal(got, plain) {
		t.Errorf("got %x, want %x", got, plain)
	}
	if got := c.Counters()["capture-frames"]; got != 1 {
		t.Errorf("%d frames were captured, want 1", got)
	}
}

func TestSuperFrames(t *testing.T) {
	gw, peer := wire(t)
	c, sender := open(t, gw, 1, "eth0"), open(t, peer, 1, "eth0")
	if err := c.Steer(steering); err != nil {
		t.Fatal(err)
	}
	// A train of three datagrams of ESP in UDP, 100 octets in each but the last.
	payload := bytes.Repeat([]byte{7}, 250)
	b := esp(macOf(t, gw, "eth0"), macOf(t, peer, "eth0"), "192.0.2.1")
	ip := b[frame.HeaderLen:]
	src, dst := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")
	size := packet.UDPHeaderLen + len(payload)
	packet.PutIPv4(ip, &packet.IPv4Header{Src: src, Dst: dst, TotalLen: packet.IPv4HeaderLen + size, TTL: 64, Protocol: packet.ProtocolUDP})
	head := make([]byte, packet.UDPHeaderLen)
	packet.PutUDP(head, espPort, espPort, size, packet.Fold(packet.PseudoHeaderSum(src, dst, packet.ProtocolUDP, size)))
	b = append(append(b, head...), payload[:100]...)
	p := outgoing(b)
	p[0].Segment, p[0].Pieces = 100, [][]byte{payload[100:200], payload[200:]}
	if n, err := sender.Ports()[0].Queues[0].WriteFrames(p); n != 1 || err != nil {
		t.Fatalf("WriteFrames = %d, %v", n, err)
	}
	got := netio.NewBatch(4, netio.MaxPacket)
	n, err := c.Ports()[0].Queues[0].ReadFrames(got)
	if err != nil || n != 1 || got[0].Segment != 100 || got[0].Len != len(b)+150 {
		t.Fatalf("ReadFrames = %d, %v, segment %d, %d octets", n, err, got[0].Segment, got[0].Len)
	}
	if !bytes.Equal(got[0].Data()[len(b)-100:], payload) {
		t.Errorf("got %x", got[0].Data())
	}
}

func TestClosedSocket(t *testing.T) {
	gw, _ := wire(t)
	c := open(t, gw, 1, "eth0")
	s := c.Ports()[0].Queues[0]
	done := make(chan error, 1)
	go func() {
		_, err := s.ReadFrames(netio.NewBatch(1, 2000))
		done <- err
	}()
	time.Sleep(10 * time.Millisecond)
	c.Close()
	select {
	case err := <-done:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("ReadFrames = %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the reader was not woken")
	}
	if _, err := s.WriteFrames(outgoing(make([]byte, 60))); !errors.Is(err, net.ErrClosed) {
		t.Errorf("WriteFrames = %v", err)
	}
	if err := c.Steer(steering); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Steer = %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	for name, want := range map[string]string{"lo": "loopback", "nothere": "no such network interface"} {
		if _, err := Open(Options{Interfaces: []string{name}, Queues: 1}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := explain(fs.ErrPermission); !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Error(err)
	}
}

func TestMovingFramesDoesNotAllocate(t *testing.T) {
	gw, peer := wire(t)
	c, sender := open(t, gw, 1, "eth0"), open(t, peer, 1, "eth0")
	if err := c.Steer(steering); err != nil {
		t.Fatal(err)
	}
	b := esp(macOf(t, gw, "eth0"), macOf(t, peer, "eth0"), "192.0.2.1", 0, 0, 1, 0)
	out, in := outgoing(b, b, b, b), netio.NewBatch(16, 2000)
	from, to := sender.Ports()[0].Queues[0], c.Ports()[0].Queues[0]
	allocs := testing.AllocsPerRun(100, func() {
		if _, err := from.WriteFrames(out); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(out); {
			got, err := to.ReadFrames(in)
			if err != nil {
				t.Fatal(err)
			}
			n += got
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations for a batch", allocs)
	}
}
