package vm

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/packet"
	"caponier/test/interop"
)

// patience is how long datagrams may take: the machine is emulated, and busy.
const patience = 10 * time.Second

// testPort is the UDP port of both ends of exchange.
const testPort = 5000

// datagramSizes are the payloads of a row, in octets: every length of padding,
// and what is long.
var datagramSizes = append(slices.Collect(func(yield func(int) bool) {
	for n := 4; n < 21 && yield(n); n++ {
		continue
	}
}), 64, 255, 256, 1000, 1280)

// place is an address in a namespace.
type place struct {
	in   netns.NS
	addr netip.Addr
}

func (p place) listen() (conn *net.UDPConn, err error) {
	err = p.in.Do(func() error {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.addr, testPort)))
		return err
	})
	return conn, err
}

// exchange sends datagrams of all sizes from a to b, and then from b to a. Each
// error is about one direction.
func exchange(a, b place) (there, back error) {
	ca, err := a.listen()
	if err != nil {
		return err, err
	}
	defer ca.Close()
	cb, err := b.listen()
	if err != nil {
		return err, err
	}
	defer cb.Close()
	return deliver(ca, cb), deliver(cb, ca)
}

// deliver sends what must arrive unchanged, in any order.
func deliver(from, to *net.UDPConn) error {
	awaited := make(map[int][]byte)
	for _, n := range datagramSizes {
		awaited[n] = bytes.Repeat([]byte{byte(n)}, n)
		copy(awaited[n], "data")
		if _, err := from.WriteToUDPAddrPort(awaited[n], to.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
			return err
		}
	}
	if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	buf := make([]byte, 2000)
	for len(awaited) > 0 {
		n, err := to.Read(buf)
		if err != nil {
			return fmt.Errorf("of the datagrams, those with %v octets did not arrive", slices.Sorted(maps.Keys(awaited)))
		}
		if !bytes.Equal(awaited[n], buf[:n]) {
			return fmt.Errorf("a datagram arrived as % x", buf[:n])
		}
		delete(awaited, n)
	}
	return nil
}

// wire watches what the gateways send to each other. What they receive is not
// watched: the kernel shows there what it has opened, too.
type wire struct {
	mu   sync.Mutex
	seen map[string]int // frames by protocol
}

// watch begins to watch the outsides of both gateways, until the end of the test.
func watch(t *testing.T, n *interop.Network) *wire {
	t.Helper()
	w := &wire{seen: make(map[string]int)}
	for _, g := range []netns.NS{n.A.Gateway, n.B.Gateway} {
		// The device cuts trains of datagrams, which a capture cannot show before
		// Linux 6.2.
		must(t, g.IP("link", "set", interop.Outside, "gso_max_segs", "1"))
		index, err := g.Run(t.Context(), "cat", "/sys/class/net/"+interop.Outside+"/ifindex")
		must(t, err)
		device := 0
		_, err = fmt.Sscan(index, &device)
		must(t, err)
		capture, err := g.Watch(func(f netns.Frame) {
			if f.Outgoing && f.Interface == device {
				w.see(f)
			}
		})
		must(t, err)
		t.Cleanup(func() { must(t, capture.Close()) })
	}
	return w
}

// see notes the protocol of a frame.
func (w *wire) see(f netns.Frame) {
	const ethernet = 14
	if len(f.Data) < ethernet {
		return
	}
	var info packet.Info
	info.Decode(f.Data[ethernet:])
	if info.Version == 0 || info.Protocol == packet.ProtocolICMPv6 { // ARP and its successor
		return
	}
	what := protocolName(info.Protocol)
	if info.Protocol == packet.ProtocolUDP {
		what = fmt.Sprintf("udp %d", info.DstPort)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[what]++
}

// all is what was seen since it was last asked.
func (w *wire) all() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = make(map[string]int)
	return seen
}

func protocolName(p uint8) string {
	switch ipsec.Protocol(p) {
	case ipsec.ESP, ipsec.AH:
		return ipsec.Protocol(p).String()
	default:
		return fmt.Sprintf("protocol %d", p)
	}
}

// only fails unless everything since the last call was of this protocol. The
// capture runs behind: it waits for as many frames as there were.
func (w *wire) only(what string, frames int) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		enough := w.seen[what] >= frames
		w.mu.Unlock()
		if enough {
			break
		}
	}
	seen := w.all()
	if len(seen) == 1 && seen[what] == frames {
		return nil
	}
	return fmt.Errorf("on the wire: %v, and not %d %s", seen, frames, what)
}
