package stream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sender gives frames to an interface, past the stack and the queueing of its
// host.
type sender struct {
	fd int // packet socket
	// A UDP socket of the stream's addresses and ports: it is the kernel's reason
	// to learn the MTU of the path from what routers answer.
	udp    int
	msgs   *messages
	frames *frames
	make   func(mtu int) *frames
}

// sendBuffer is the sending socket's, in octets: what the interface has taken and
// not passed on yet.
const sendBuffer = 16 << 20

func newSender(p Path, l Load, id uint32) (s *sender, err error) {
	s = &sender{fd: -1, udp: -1}
	err = p.From.Do(func() error {
		dev, err := net.InterfaceByName(p.Device)
		if err != nil {
			return fmt.Errorf("interface %s: %w", p.Device, err)
		}
		targets := l.Targets
		if len(targets) == 0 {
			targets = []netip.Addr{p.Dst}
		}
		from, err := s.openUDP(p.Src, targets[0])
		if err != nil {
			return err
		}
		head := link(dev.HardwareAddr, p.NextHop)
		s.make = func(mtu int) *frames {
			return newFrames(batch, head, p.Src, from, targets, id, l.Size, mtu)
		}
		return s.openPacket(dev.Index)
	})
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// openUDP returns the port that it has.
func (s *sender) openUDP(src, dst netip.Addr) (from uint16, err error) {
	if s.udp, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return 0, err
	}
	if err := unix.Bind(s.udp, &unix.SockaddrInet4{Addr: src.As4()}); err != nil {
		return 0, err
	}
	if err := unix.Connect(s.udp, &unix.SockaddrInet4{Addr: dst.As4(), Port: port}); err != nil {
		return 0, err
	}
	name, err := unix.Getsockname(s.udp)
	if err != nil {
		return 0, err
	}
	in, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return 0, fmt.Errorf("a socket of IPv4 has the name %T", name)
	}
	return uint16(in.Port), nil
}

func (s *sender) openPacket(index int) (err error) {
	// Without a protocol it receives nothing.
	if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("a packet socket needs CAP_NET_RAW: %w", err)
	}
	return errors.Join(
		unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sendBuffer),
		unix.Bind(s.fd, &unix.SockaddrLinklayer{Ifindex: index}))
}

func (s *sender) close() {
	for _, fd := range []int{s.fd, s.udp} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// run returns how many datagrams the interface took. received tells how many have
// arrived.
func (s *sender) run(ctx context.Context, l Load, began time.Time, received func() uint64) (sent uint64, err error) {
	perSecond := l.Rate / 8 / float64(l.Size)
	w := window{size: uint64(l.Window)}
	for ctx.Err() == nil {
		elapsed := time.Since(began)
		if elapsed >= l.Duration {
			break
		}
		n := batch
		if l.Rate > 0 {
			due := uint64(elapsed.Seconds() * perSecond)
			if due <= sent {
				time.Sleep(nap)
				continue
			}
			n = int(min(due-sent, batch))
		}
		if l.Window > 0 {
			if s.frames != nil {
				w.size = uint64(max(l.Window/s.frames.perOne, 1))
			}
			if n = min(n, w.room(sent, received(), elapsed)); n == 0 {
				time.Sleep(nap)
				continue
			}
		}
		taken, err := s.send(sent, n)
		sent += uint64(taken)
		if err != nil {
			return sent, fmt.Errorf("sending datagrams: %w", err)
		}
	}
	return sent, nil
}

// send sends the n datagrams after the first sent ones, and returns how many were
// taken.
func (s *sender) send(sent uint64, n int) (int, error) {
	// What the path takes changes when a router says so, and is forgotten after a
	// while.
	mtu, err := unix.GetsockoptInt(s.udp, unix.IPPROTO_IP, unix.IP_MTU)
	if err != nil {
		return 0, err
	}
	if s.frames == nil || s.frames.mtu != mtu {
		s.frames = s.make(mtu)
		s.msgs = newMessages(batch * s.frames.perOne)
	}
	for i := range n {
		for j, frame := range s.frames.number(i, sent+uint64(i)+1) {
			s.msgs.point(i*s.frames.perOne+j, frame)
		}
	}
	taken, errno := s.msgs.move(unix.SYS_SENDMMSG, s.fd, n*s.frames.perOne)
	switch errno {
	case 0, unix.EAGAIN, unix.ENOBUFS:
		return taken / s.frames.perOne, nil
	default:
		return 0, errno
	}
}

// window bounds what is on the way.
type window struct {
	size      uint64        // in datagrams
	writtenUp uint64        // what was received when it last changed
	at        time.Duration // and when that was
	lost      uint64        // given up
}

// room is how many datagrams more may be sent at a time.
func (w *window) room(sent, received uint64, now time.Duration) int {
	if received != w.writtenUp {
		w.writtenUp, w.at = received, now
	}
	away := int64(sent) - int64(received) - int64(w.lost)
	if away < 0 { // what was given up has come
		w.lost -= min(w.lost, uint64(-away))
		away = 0
	}
	if away >= int64(w.size) && now-w.at > lost {
		w.lost, w.at = sent-min(received, sent), now
		away = 0
	}
	return int(max(int64(w.size)-away, 0))
}

// mmsghdr is the kernel's struct mmsghdr, which x/sys/unix does not define.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// messages are what one system call moves.
type messages struct {
	hdrs []mmsghdr
	iovs []unix.Iovec
}

func newMessages(n int) *messages {
	m := &messages{hdrs: make([]mmsghdr, n), iovs: make([]unix.Iovec, n)}
	for i := range m.hdrs {
		m.hdrs[i].hdr.Iov = &m.iovs[i]
		m.hdrs[i].hdr.SetIovlen(1)
	}
	return m
}

// point makes b what the i-th message holds.
func (m *messages) point(i int, b []byte) {
	m.iovs[i].Base = unsafe.SliceData(b)
	m.iovs[i].SetLen(len(b))
}

// maxMessages is the kernel's UIO_MAXIOV.
const maxMessages = 1024

// move calls sendmmsg or recvmmsg, without waiting, until n messages are moved
// or one is not.
func (m *messages) move(call uintptr, fd, n int) (moved int, errno unix.Errno) {
	for moved < n {
		k, _, errno := unix.RawSyscall6(call, uintptr(fd), uintptr(unsafe.Pointer(&m.hdrs[moved])),
			uintptr(min(n-moved, maxMessages)), unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return moved, errno
		default:
			moved += int(k)
		}
		if call == unix.SYS_RECVMMSG {
			break
		}
	}
	return moved, 0
}
