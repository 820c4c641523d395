package afxdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"caponier/internal/lab/netns"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// pair is two namespaces with a veth pair between them: near, where frames are
// captured on eth0, and far, where they come from.
//
//	near eth0 192.0.2.1 == eth0 far 192.0.2.2
//	     2001:db8::1         2001:db8::2
type pair struct {
	t         testing.TB
	near, far netns.NS
	mac       [2][6]byte // of near and far
}

var pairs atomic.Int32

func newPair(t testing.TB) *pair {
	t.Helper()
	id := fmt.Sprintf("cpxdp-%d-%d", os.Getpid(), pairs.Add(1))
	l := &pair{t: t}
	var err error
	l.near, err = netns.Create(id + "near")
	l.must(err)
	t.Cleanup(func() { l.near.Delete() })
	l.far, err = netns.Create(id + "far")
	l.must(err)
	t.Cleanup(func() { l.far.Delete() })
	l.must(netns.Link(l.near, "eth0", l.far, "eth0"))
	for i, ns := range []netns.NS{l.near, l.far} {
		l.must(ns.Addr("eth0", netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))))
		l.must(ns.Addr("eth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", i+1))))
		l.must(ns.Do(func() error {
			nic, err := net.InterfaceByName("eth0")
			if err == nil {
				l.mac[i] = [6]byte(nic.HardwareAddr)
			}
			return err
		}))
	}
	return l
}

func (l *pair) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// capture opens eth0 of near, and steers.
func (l *pair) capture(o Options, s frame.Steering) *Capture {
	l.t.Helper()
	var c *Capture
	l.must(l.near.Do(func() (err error) {
		c, err = Open([]string{"eth0"}, o)
		return err
	}))
	l.t.Cleanup(func() { c.Close() })
	l.must(c.Steer(s))
	return c
}

// wire is a packet socket on the far interface: what it sends comes to near, and
// what it receives has come from there.
type wire struct {
	fd    int
	index int
}

func (l *pair) wire() *wire { return l.wireFor(unix.ETH_P_ALL) }

// wireFor receives frames of one type, and with 0 none.
func (l *pair) wireFor(etherType uint16) *wire {
	l.t.Helper()
	w := &wire{}
	l.must(l.far.Do(func() error {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		w.index = nic.Index
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(etherType)))
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		if err := unix.SetsockoptTimeval(w.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
			return err
		}
		return unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(etherType), Ifindex: nic.Index})
	}))
	l.t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func htons(v uint16) uint16 { return uint16(network(v)) }

func (w *wire) send(b []byte) error {
	for {
		err := unix.Sendto(w.fd, b, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// receive returns the next frame that near has sent to far, and to no group.
func (w *wire) receive(b []byte) (int, error) {
	for {
		n, from, err := unix.Recvfrom(w.fd, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_HOST {
			continue
		}
		return n, err
	}
}

var steering = frame.Steering{
	Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	Port:      4500,
	Take:      []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:2::/48")},
	Pass:      []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8:2:1::/64")},
}

// to makes a packet to dst.
func to(dst string, protocol, ttl uint8, payload ...byte) []byte {
	a := netip.MustParseAddr(dst)
	if a.Is4() {
		b := make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: netip.MustParseAddr("192.0.2.2"), Dst: a, TotalLen: len(b) + len(payload), TTL: ttl, Protocol: protocol,
		})
		return append(b, payload...)
	}
	b := make([]byte, packet.IPv6HeaderLen)
	packet.PutIPv6(b, &packet.IPv6Header{
		Src: netip.MustParseAddr("2001:db8::2"), Dst: a, PayloadLen: len(payload), NextHeader: protocol, HopLimit: ttl,
	})
	return append(b, payload...)
}

// udp makes a datagram without a checksum.
func udp(port uint16, payload ...byte) []byte {
	b := make([]byte, packet.UDPHeaderLen)
	packet.PutUDP(b, 40000, port, len(b)+len(payload), 0)
	return append(b, payload...)
}

// framed puts a link header from far to near before a packet.
func (l *pair) framed(b []byte, tags ...uint16) []byte {
	out := append(append([]byte(nil), l.mac[0][:]...), l.mac[1][:]...)
	for _, tag := range tags {
		out = append(out, 0x81, 0, byte(tag>>8), byte(tag))
	}
	if b[0]>>4 == 6 {
		return append(append(out, 0x86, 0xdd), b...)
	}
	return append(append(out, 8, 0), b...)
}

// slots makes room for n frames.
func slots(n int) []netio.Packet { return netio.NewBatch(n, largeChunk) }

// stripVLAN has near's interface take VLAN tags off, or leave them.
func (l *pair) stripVLAN(on bool) {
	l.t.Helper()
	l.must(l.near.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		value := struct{ cmd, data uint32 }{cmd: ethtoolFlags}
		if err := ethtool(fd, "eth0", unsafe.Pointer(&value)); err != nil {
			return err
		}
		const setFlags = 0x26 // ETHTOOL_SFLAGS
		if value.cmd, value.data = setFlags, value.data&^flagStripsVLAN; on {
			value.data |= flagStripsVLAN
		}
		return ethtool(fd, "eth0", unsafe.Pointer(&value))
	}))
}
