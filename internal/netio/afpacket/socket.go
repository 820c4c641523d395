package afpacket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// maxBatch is how many frames one system call moves at most.
const maxBatch = 128

// socketBuffer is the size of the buffers in octets, as that of netio's sockets.
const socketBuffer = 7 << 20

// maxPieces is how many vectors a frame may have (UIO_MAXIOV), its header apart.
const maxPieces = 1024 - 2

// mmsghdr is the kernel's struct mmsghdr, which x/sys/unix does not define.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// Socket is a packet socket. It implements frame.Joiner.
type Socket struct {
	// Constant after opening.
	file *os.File
	raw  syscall.RawConn
	// apart from Go's poller: reading does not wait
	apart bool

	// Super-packets that the kernel takes, as far as is known.
	tcp, udp atomic.Bool
	done     atomic.Bool
	lost     atomic.Uint64 // as read from the kernel, whose counters start anew
	seen     atomic.Uint64

	// Owned by the goroutine that reads.
	rd struct {
		vector
		frames []netio.Packet
		n      int
		err    error
		fn     func(fd uintptr) bool
		ask    func(fd uintptr) // fn, where nothing is waited for
	}

	wmu sync.Mutex
	// Guarded by wmu.
	wr struct {
		vector
		from, to int
		err      error
		fn       func(fd uintptr) bool
	}
}

var _ frame.Joiner = (*Socket)(nil)

// vector is the memory of one direction, laid out once.
type vector struct {
	hdrs  [maxBatch]mmsghdr
	heads [maxBatch]netio.VnetHeader
	iovs  []unix.Iovec
}

// openSocket opens a packet socket that hears what the filter keeps of the
// interface.
func openSocket(index int, filter *ebpf.Program, apart bool) (*Socket, error) {
	// Without a protocol it hears nothing until it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket AF_PACKET", err)
	}
	if err := setUp(fd, index, filter); err != nil {
		unix.Close(fd)
		return nil, err
	}
	file, err := netio.File(fd, "packet socket", apart)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	s := &Socket{file: file, apart: apart}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, err
	}
	s.rd.fn, s.wr.fn = s.recv, s.send
	s.rd.ask = func(fd uintptr) { s.recv(fd) }
	s.rd.iovs = make([]unix.Iovec, 2*maxBatch)
	s.wr.iovs = make([]unix.Iovec, 0, 2*maxBatch+maxPieces)
	s.tcp.Store(true)
	s.udp.Store(true)
	return s, nil
}

func setUp(fd, index int, filter *ebpf.Program) error {
	for _, o := range []struct {
		what          string
		level, option int
		value         int
	}{
		{"take virtio headers", unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1},
		{"leave out what is sent", unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1},
		{"attach the filter", unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter.FD()},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return fmt.Errorf("packet socket: %s: %w", o.what, err)
		}
	}
	for _, b := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, b[0], socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, b[1], socketBuffer)
		}
	}
	all := uint16(network(unix.ETH_P_ALL))
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}); err != nil {
		return fmt.Errorf("packet socket: bind: %w", err)
	}
	return nil
}

// join makes the socket one of a group, among which the program chooses.
func (s *Socket) join(group uint16, choose *ebpf.Program) error {
	var optErr error
	err := s.raw.Control(func(fd uintptr) {
		optErr = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_FANOUT, int(group)|unix.PACKET_FANOUT_EBPF<<16)
		if optErr == nil {
			optErr = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_FANOUT_DATA, choose.FD())
		}
	})
	if err = errors.Join(err, optErr); err != nil {
		return fmt.Errorf("packet socket: spread frames over several: %w", err)
	}
	return nil
}

// ReadFrames implements frame.Socket with recvmmsg.
func (s *Socket) ReadFrames(frames []netio.Packet) (int, error) {
	rd := &s.rd
	rd.frames, rd.n, rd.err = frames[:min(len(frames), maxBatch)], 0, nil
	for i := range rd.frames {
		p := &rd.frames[i]
		space := p.Buf[netio.Headroom : len(p.Buf)-netio.Tailroom]
		v := rd.iovs[2*i : 2*i+2]
		point(&v[0], rd.heads[i][:])
		point(&v[1], space)
		h := &rd.hdrs[i].hdr
		h.Iov, h.Flags = &v[0], 0
		h.SetIovlen(2)
	}
	var err error
	if s.apart {
		err = s.raw.Control(rd.ask)
	} else {
		err = s.raw.Read(rd.fn)
	}
	if err != nil {
		return 0, s.failed(err)
	}
	if rd.err != nil {
		return 0, rd.err
	}
	kept := 0
	for i := range rd.n {
		m, p := &rd.hdrs[i], &rd.frames[i]
		p.Off, p.Len = netio.Headroom, max(int(m.len)-netio.VnetLen, 0)
		p.Segment, p.Pieces, p.Truncated = 0, nil, m.hdr.Flags&unix.MSG_TRUNC != 0
		if !rd.heads[i].Decode(p) {
			p.Truncated = true
		}
		kept++
	}
	rd.frames = nil
	return kept, nil
}

func point(v *unix.Iovec, b []byte) {
	v.Base = unsafe.SliceData(b)
	v.SetLen(len(b))
}

// recv runs inside RawConn.Read: false waits until there is something to read.
func (s *Socket) recv(fd uintptr) bool {
	n, errno := mmsg(unix.SYS_RECVMMSG, fd, s.rd.hdrs[:len(s.rd.frames)])
	switch errno {
	case 0:
		s.rd.n = n
		return true
	case unix.EAGAIN:
		return false
	case unix.ENETDOWN: // said once when the interface goes down
		return false
	default:
		s.rd.err = os.NewSyscallError("recvmmsg", errno)
		return true
	}
}

// mmsg calls recvmmsg or sendmmsg, never blocking, without a word to the
// scheduler, as package netio does.
func mmsg(call, fd uintptr, hdrs []mmsghdr) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(hdrs))),
			uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// Joins implements frame.Joiner.
func (s *Socket) Joins() (tcp, udp bool) { return s.tcp.Load(), s.udp.Load() }

// WriteFrames implements frame.Socket with sendmmsg.
func (s *Socket) WriteFrames(frames []netio.Packet) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	for done := 0; done < len(frames); {
		n, err := s.lay(frames[done:])
		if n > 0 {
			sent, err := s.flush(n)
			if done += sent; err != nil {
				if sent < n {
					s.refused(&frames[done], err)
				}
				return done, err
			}
		}
		if err != nil {
			return done, err
		}
	}
	return len(frames), nil
}

// lay makes messages of the frames at the start of the list, as many as the memory
// holds, and returns how many.
func (s *Socket) lay(frames []netio.Packet) (int, error) {
	wr := &s.wr
	wr.iovs = wr.iovs[:0]
	for i := range frames[:min(len(frames), maxBatch)] {
		p := &frames[i]
		if len(p.Pieces) > maxPieces {
			return i, fmt.Errorf("a frame in %d pieces", len(p.Pieces))
		}
		if len(wr.iovs)+2+len(p.Pieces) > cap(wr.iovs) {
			return i, nil
		}
		link := frame.HeaderLen
		if b := p.Data(); len(b) > link && b[12] == byte(frame.TypeVLAN>>8) && b[13] == byte(frame.TypeVLAN&0xff) {
			link += frame.TagLen
		}
		if !wr.heads[i].Encode(p, link) {
			return i, fmt.Errorf("send a frame: %w", unix.EINVAL)
		}
		first := len(wr.iovs)
		wr.iovs = wr.iovs[:first+2]
		point(&wr.iovs[first], wr.heads[i][:])
		point(&wr.iovs[first+1], p.Data())
		for _, b := range p.Pieces {
			wr.iovs = wr.iovs[:len(wr.iovs)+1]
			point(&wr.iovs[len(wr.iovs)-1], b)
		}
		h := &wr.hdrs[i].hdr
		h.Iov = &wr.iovs[first]
		h.SetIovlen(len(wr.iovs) - first)
	}
	return min(len(frames), maxBatch), nil
}

// flush sends n messages and returns how many have left.
func (s *Socket) flush(n int) (int, error) {
	wr := &s.wr
	wr.from, wr.to, wr.err = 0, n, nil
	err := s.raw.Write(wr.fn)
	clear(wr.iovs)
	if err != nil {
		return wr.from, s.failed(err)
	}
	return wr.from, wr.err
}

// send runs inside RawConn.Write: false waits until there is room to write.
func (s *Socket) send(fd uintptr) bool {
	wr := &s.wr
	for wr.from < wr.to {
		n, errno := mmsg(unix.SYS_SENDMMSG, fd, wr.hdrs[wr.from:wr.to])
		switch errno {
		case 0:
			wr.from += n
		case unix.EAGAIN:
			if !s.apart {
				return false
			}
			if s.done.Load() {
				wr.err = net.ErrClosed
				return true
			}
			netio.AwaitRoom(fd)
		default:
			wr.err = os.NewSyscallError("sendmmsg", errno)
			return true
		}
	}
	return true
}

// refused learns from a super-packet that the kernel does not take: USO is known
// from Linux 6.2 on.
func (s *Socket) refused(p *netio.Packet, err error) {
	if p.Segment == 0 || !errors.Is(err, unix.EINVAL) {
		return
	}
	if isUDP(p.Data()) {
		s.udp.Store(false)
	} else {
		s.tcp.Store(false)
	}
}

func isUDP(b []byte) bool {
	h, ok := frame.Parse(b)
	if !ok {
		return false
	}
	var info packet.Info
	info.Decode(b[h.Len:])
	return info.Protocol == packet.ProtocolUDP
}

// statistics reads how many frames the socket got, and lost for want of room.
func (s *Socket) statistics() (got, lost uint64) {
	err := s.raw.Control(func(fd uintptr) {
		st, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil {
			s.seen.Add(uint64(st.Packets))
			s.lost.Add(uint64(st.Drops))
		}
	})
	_ = err // closed: what was read before still counts
	return s.seen.Load(), s.lost.Load()
}

// SyscallConn implements syscall.Conn.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

// failed tells a closed socket from others.
func (s *Socket) failed(err error) error {
	if s.done.Load() {
		return net.ErrClosed
	}
	return err
}

// Close implements frame.Socket.
func (s *Socket) Close() error {
	s.done.Store(true)
	if err := s.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
