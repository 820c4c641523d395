package netio

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// markerLen is the length of the non-ESP marker (RFC 3948, Section 2.2).
const markerLen = 4

// inboxDepth is how many IKE messages wait for the daemon at most.
const inboxDepth = 1024

// readPause keeps a socket that fails again and again from taking a CPU.
const readPause = 10 * time.Millisecond

// IKEPort is an IKESocket over one device for each family. Deliver feeds it.
type IKEPort struct {
	v4, v6 Device // either may be nil
	port   uint16
	marker bool

	inbox   chan Datagram
	done    chan struct{}
	once    sync.Once
	owned   bool // Close closes the devices
	readers sync.WaitGroup
	dropped atomic.Uint64
}

// NewIKEPort makes the IKESocket of a port whose reader is somebody else: it
// hands over what is IKE with Deliver. With marker, Send puts the non-ESP marker
// before each message. Close leaves the devices open.
func NewIKEPort(v4, v6 Device, port uint16, marker bool) *IKEPort {
	return &IKEPort{
		v4: v4, v6: v6, port: port, marker: marker,
		inbox: make(chan Datagram, inboxDepth), done: make(chan struct{}),
	}
}

// ListenIKE opens an IKE port of its own, without the non-ESP marker, for both
// families; a machine that has only one of them gets that one.
func ListenIKE(port uint16, opts SocketOptions) (*IKEPort, error) {
	return listenIKE(port, false, opts)
}

// ListenNAT opens an IKE port of its own whose messages have the non-ESP marker,
// as on port 4500 (RFC 3948, Section 2.2). ESP that comes to it is dropped, unless
// the kernel takes it off before.
func ListenNAT(port uint16, opts SocketOptions) (*IKEPort, error) {
	return listenIKE(port, true, opts)
}

func listenIKE(port uint16, marker bool, opts SocketOptions) (*IKEPort, error) {
	var devs [2]Device
	for i, f := range []Family{IPv4, IPv6} {
		if opts.Address.IsValid() && FamilyOf(opts.Address) != f || !HasFamily(f) {
			continue
		}
		socks, err := ListenUDP(f, port, 1, opts)
		if err != nil {
			closeAll(devs[:])
			return nil, err
		}
		devs[i] = socks[0]
		port = socks[0].LocalPort()
	}
	s := NewIKEPort(devs[0], devs[1], port, marker)
	s.owned = true
	for _, d := range devs {
		if d != nil {
			s.readers.Go(func() { s.pump(d) })
		}
	}
	return s, nil
}

func closeAll(devs []Device) {
	for _, d := range devs {
		if d != nil {
			d.Close()
		}
	}
}

// pump hands what d receives to Receive until d is closed.
func (s *IKEPort) pump(d Device) {
	pkts := NewBatch(8, MaxPacket)
	for {
		n, err := d.ReadBatch(pkts)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(readPause)
			continue
		}
		for i := range pkts[:n] {
			p := &pkts[i]
			if p.Truncated || isKeepAlive(p.Data()) {
				continue
			}
			if b, ok := s.message(p.Data()); ok {
				s.Deliver(b, p.Local, p.Remote)
			}
		}
	}
}

// message takes the marker off, and reports whether b is IKE at all.
func (s *IKEPort) message(b []byte) ([]byte, bool) {
	if !s.marker {
		return b, true
	}
	if len(b) < markerLen || [markerLen]byte(b) != [markerLen]byte{} {
		return nil, false
	}
	return b[markerLen:], true
}

// isKeepAlive reports whether b is a NAT keepalive (RFC 3948, Section 2.3).
func isKeepAlive(b []byte) bool { return len(b) == 1 && b[0] == 0xff }

// Deliver copies an IKE message, without marker, for Receive. It never blocks:
// it reports false, and counts, where too many messages wait already.
func (s *IKEPort) Deliver(data []byte, local, remote netip.AddrPort) bool {
	if len(s.inbox) < cap(s.inbox) {
		select {
		case s.inbox <- Datagram{Data: append([]byte(nil), data...), Local: local, Remote: remote}:
			return true
		default:
		}
	}
	s.dropped.Add(1)
	return false
}

// Dropped is how many messages found too many others waiting.
func (s *IKEPort) Dropped() uint64 { return s.dropped.Load() }

// Receive implements IKESocket.
func (s *IKEPort) Receive() (Datagram, error) {
	select {
	case <-s.done:
		return Datagram{}, net.ErrClosed
	default:
	}
	select {
	case d := <-s.inbox:
		return d, nil
	case <-s.done:
		return Datagram{}, net.ErrClosed
	}
}

// Send implements IKESocket.
func (s *IKEPort) Send(d Datagram) error {
	if !s.marker {
		return s.write(d.Data, d.Local, d.Remote)
	}
	b := make([]byte, markerLen+len(d.Data))
	copy(b[markerLen:], d.Data)
	return s.write(b, d.Local, d.Remote)
}

// SendKeepAlive implements IKESocket.
func (s *IKEPort) SendKeepAlive(local, remote netip.AddrPort) error {
	return s.write([]byte{0xff}, local, remote)
}

func (s *IKEPort) write(b []byte, local, remote netip.AddrPort) error {
	select {
	case <-s.done:
		return net.ErrClosed
	default:
	}
	dev := s.v4
	if !remote.Addr().Is4() {
		dev = s.v6
	}
	if dev == nil {
		return fmt.Errorf("send to %s: UDP port %d is not open for %s", remote, s.port, FamilyOf(remote.Addr()))
	}
	local = netip.AddrPortFrom(local.Addr(), s.port)
	if _, err := dev.WriteBatch([]Packet{{Buf: b, Len: len(b), Local: local, Remote: remote}}); err != nil {
		return fmt.Errorf("send to %s: %w", remote, err)
	}
	return nil
}

// LocalPort implements IKESocket.
func (s *IKEPort) LocalPort() uint16 { return s.port }

// Close implements IKESocket. Where the port was opened by ListenIKE, it waits
// for its readers.
func (s *IKEPort) Close() error {
	s.once.Do(func() {
		close(s.done)
		if s.owned {
			closeAll([]Device{s.v4, s.v6})
			s.readers.Wait()
		}
	})
	return nil
}
