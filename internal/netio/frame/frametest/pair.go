package frametest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"caponier/internal/lab/netns"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
)

// Pair is two namespaces with a veth pair between them: Near, where frames are
// captured on eth0, and Far, where they come from.
//
//	Near eth0 192.0.2.1 == eth0 Far 192.0.2.2
//	     2001:db8::1         2001:db8::2
type Pair struct {
	testing.TB
	Near, Far netns.NS
	MAC       [2][6]byte // of Near and Far
}

var pairs atomic.Int32

// NewPair makes the network; it goes with the test.
func NewPair(t testing.TB) *Pair {
	t.Helper()
	id := fmt.Sprintf("cpframe-%d-%d", os.Getpid(), pairs.Add(1))
	l := &Pair{TB: t}
	var err error
	for _, x := range []struct {
		ns   *netns.NS
		name string
	}{{&l.Near, "near"}, {&l.Far, "far"}} {
		*x.ns, err = netns.Create(id + x.name)
		l.Must(err)
		t.Cleanup(func() {
			if err := x.ns.Delete(); err != nil {
				t.Error(err)
			}
		})
	}
	l.Must(netns.Link(l.Near, "eth0", l.Far, "eth0"))
	for i, ns := range []netns.NS{l.Near, l.Far} {
		l.Must(ns.Addr("eth0", netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))))
		l.Must(ns.Addr("eth0", netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", i+1))))
		l.Must(ns.Do(func() error {
			nic, err := net.InterfaceByName("eth0")
			if err == nil {
				l.MAC[i] = [6]byte(nic.HardwareAddr)
			}
			return err
		}))
	}
	return l
}

// Must ends the test where there is an error.
func (l *Pair) Must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// Opener opens a capture of the interfaces of these names, in the namespace of its
// thread.
type Opener func(names ...string) (frame.Capture, error)

// Capture opens eth0 of Near, and steers.
func (l *Pair) Capture(open Opener, s frame.Steering) frame.Capture {
	l.Helper()
	var c frame.Capture
	l.Must(l.Near.Do(func() (err error) {
		c, err = open("eth0")
		return err
	}))
	l.Cleanup(func() { c.Close() })
	l.Must(c.Steer(s))
	return c
}

// Wire is a packet socket on the interface of Far: what it sends comes to Near, and
// what it receives has come from there.
type Wire struct {
	FD    int
	index int
}

// Wire opens a Wire that receives everything.
func (l *Pair) Wire() *Wire {
	l.Helper()
	return l.WireFor(unix.ETH_P_ALL)
}

// WireFor opens a Wire that receives frames of one Ethernet type, and with 0 none.
func (l *Pair) WireFor(etherType uint16) *Wire {
	l.Helper()
	w := &Wire{}
	l.Must(l.Far.Do(func() error {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		w.index = nic.Index
		w.FD, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(htons(etherType)))
		if err != nil {
			return err
		}
		_ = unix.SetsockoptInt(w.FD, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
		if err := unix.SetsockoptTimeval(w.FD, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
			return err
		}
		return unix.Bind(w.FD, &unix.SockaddrLinklayer{Protocol: htons(etherType), Ifindex: nic.Index})
	}))
	l.Cleanup(func() { unix.Close(w.FD) })
	return w
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// Send sends a frame.
func (w *Wire) Send(b []byte) error {
	for {
		err := unix.Sendto(w.FD, b, 0, &unix.SockaddrLinklayer{Ifindex: w.index})
		if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Receive returns the next frame that Near has sent to Far, and to no group.
func (w *Wire) Receive(b []byte) (int, error) {
	for {
		n, from, err := unix.Recvfrom(w.FD, b, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && ll.Pkttype != unix.PACKET_HOST {
			continue
		}
		return n, err
	}
}

// Exchange sends a datagram from Far to a socket in Near, which must receive it.
func (l *Pair) Exchange(address string, b []byte) {
	l.Helper()
	if err := l.TryExchange(address, b, 5*time.Second); err != nil {
		l.Errorf("%s: %v", address, err)
	}
}

// TryExchange sends a datagram from Far to a socket in Near, and says what became of
// it there.
func (l *Pair) TryExchange(address string, b []byte, timeout time.Duration) error {
	l.Helper()
	var in *net.UDPConn
	l.Must(l.Near.Do(func() (err error) {
		in, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
		return err
	}))
	defer in.Close()
	l.Must(l.SendUDP(address, b))
	l.Must(in.SetReadDeadline(time.Now().Add(timeout)))
	_, err := in.Read(make([]byte, netio.MaxPacket))
	return err
}

// SendUDP sends a datagram from Far.
func (l *Pair) SendUDP(address string, b []byte) error {
	return l.Far.Do(func() error {
		out, err := net.Dial("udp", address)
		if err != nil {
			return err
		}
		defer out.Close()
		_, err = out.Write(b)
		return err
	})
}
