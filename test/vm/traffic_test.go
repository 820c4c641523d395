package vm

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/packet"
)

// patience is how long datagrams may take: the machine is emulated, and busy.
const patience = 3 * time.Second

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

// wire watches what is between the gateways.
type wire struct {
	mu   sync.Mutex
	seen map[string]int // frames by protocol
}

// see notes the protocols of a frame, from the outside to the inside: "ah esp".
func (w *wire) see(f netns.Frame) {
	const ethernet = 14
	if len(f.Data) < ethernet {
		return
	}
	var info packet.Info
	b := f.Data[ethernet:]
	info.Decode(b)
	switch {
	case info.Version == 0, info.Protocol == packet.ProtocolICMPv6: // ARP and its successor
		return
	case !outside.Contains(info.Src) && !outside6.Contains(info.Src):
		return // the LAN, or the device of the plane
	}
	what := protocolName(info.Protocol)
	if info.Protocol == packet.ProtocolUDP {
		what = fmt.Sprintf("udp %d", info.DstPort)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[what]++
}

var (
	outside  = netip.MustParsePrefix("192.0.2.0/24")
	outside6 = netip.MustParsePrefix("2001:db8::/64")
)

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
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = make(map[string]int)
	if len(seen) == 1 && seen[what] == frames {
		return nil
	}
	return fmt.Errorf("on the wire: %v, and not %d %s", seen, frames, what)
}
