package afxdp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"caponier/internal/netio"
	"caponier/internal/netio/frame"
)

// ringSize is how many entries each ring has, and how many chunks there are for
// either direction: 3 ms of the shortest frames at 1 Gb/s.
const ringSize = 2048

// Socket is an AF_XDP socket on one queue of an interface. It implements
// frame.Socket.
//
// Receiving and sending share no chunks and no rings, so that neither waits for
// the other.
type Socket struct {
	// Constant after opening.
	file     *os.File
	raw      syscall.RawConn
	umem     *umem
	maps     [4][]byte // of the rings
	zeroCopy bool
	finishes bool // checksums that the sender has left to its interface
	apart    bool

	done    atomic.Bool
	reading atomic.Int32 // whether there is a reader: notRead, isRead, wasRead
	noRoom  atomic.Uint64

	// Owned by the goroutine that reads.
	rd struct {
		fill   producer[uint64]
		rx     consumer[unix.XDPDesc]
		frames []netio.Packet
		n      int
		fn     func(fd uintptr) bool
		wakeFn func(fd uintptr)
	}

	wmu sync.Mutex
	// Guarded by wmu.
	wr struct {
		tx         producer[unix.XDPDesc]
		completion consumer[uint64]
		free       []uint64 // addresses of chunks
		errno      unix.Errno
		fn         func(fd uintptr)
	}

	// last is what the kernel counted, kept for when the socket is closed.
	last struct {
		sync.Mutex
		unix.XDPStatistics
		fn func(fd uintptr)
	}
}

var _ frame.Socket = (*Socket)(nil)

// openSocket opens a socket and binds it to a queue.
func openSocket(index, queue, chunk int, o Options) (_ *Socket, err error) {
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, unix.EAFNOSUPPORT) {
			err = fmt.Errorf("the kernel has no AF_XDP (CONFIG_XDP_SOCKETS): %w", err)
		}
		return nil, needs(os.NewSyscallError("socket", err), "CAP_NET_RAW")
	}
	s := &Socket{apart: o.Apart}
	defer func() {
		if err == nil {
			return
		}
		if s.file == nil {
			unix.Close(fd)
		} else {
			s.file.Close()
		}
		s.unmap()
	}()
	if s.umem, err = newUMEM(fd, chunk); err != nil {
		return nil, err
	}
	if err := s.mapRings(fd); err != nil {
		return nil, err
	}
	for i := range ringSize {
		s.rd.fill.put(uint64(i * chunk))
		s.wr.free = append(s.wr.free, s.umem.sending(ringSize-1-i))
	}
	s.rd.fill.submit()
	tune(fd, chunk)
	if s.zeroCopy, err = bind(fd, index, queue, o); err != nil {
		return nil, err
	}
	if s.file, err = netio.File(fd, "AF_XDP", o.Apart); err != nil {
		return nil, err
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, err
	}
	s.rd.fn, s.rd.wakeFn, s.wr.fn, s.last.fn = s.recv, wakeReceive, s.push, s.count
	return s, nil
}

// mapRings makes the four rings.
func (s *Socket) mapRings(fd int) error {
	rings := [4]struct {
		option int
		offset int64
		entry  uintptr
		name   string
	}{
		{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_PGOFF_FILL_RING, unsafe.Sizeof(uint64(0)), "fill"},
		{unix.XDP_UMEM_COMPLETION_RING, unix.XDP_UMEM_PGOFF_COMPLETION_RING, unsafe.Sizeof(uint64(0)), "completion"},
		{unix.XDP_RX_RING, unix.XDP_PGOFF_RX_RING, unsafe.Sizeof(unix.XDPDesc{}), "receive"},
		{unix.XDP_TX_RING, unix.XDP_PGOFF_TX_RING, unsafe.Sizeof(unix.XDPDesc{}), "transmit"},
	}
	for _, r := range rings {
		size := int32(ringSize)
		if err := setsockopt(fd, r.option, unsafe.Pointer(&size), unsafe.Sizeof(size)); err != nil {
			return fmt.Errorf("%s ring: %w", r.name, err)
		}
	}
	var off unix.XDPMmapOffsets
	if err := getsockopt(fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&off), unsafe.Sizeof(off)); err != nil {
		return fmt.Errorf("places of the rings: %w", err)
	}
	at := [4]*unix.XDPRingOffset{&off.Fr, &off.Cr, &off.Rx, &off.Tx}
	for i, r := range rings {
		var err error
		s.maps[i], err = unix.Mmap(fd, r.offset, int(at[i].Desc)+ringSize*int(r.entry),
			unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return fmt.Errorf("map the %s ring: %w", r.name, err)
		}
	}
	s.rd.fill = newProducer(sharedAt[uint64](s.maps[0], at[0], ringSize))
	s.wr.completion = newConsumer(sharedAt[uint64](s.maps[1], at[1], ringSize))
	s.rd.rx = newConsumer(sharedAt[unix.XDPDesc](s.maps[2], at[2], ringSize))
	s.wr.tx = newProducer(sharedAt[unix.XDPDesc](s.maps[3], at[3], ringSize))
	return nil
}

// tune sets what may fail without harm.
func tune(fd, chunk int) {
	// What is on its way counts as sent but not taken yet: all chunks may be, each
	// with the kernel's own description of the frame.
	octets := 2 * ringSize * chunk
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, octets) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, octets)
	}
	// Linux 6.18: otherwise a call sends 32 frames at most.
	budget := uint32(ringSize)
	_ = setsockopt(fd, unix.XDP_MAX_TX_SKB_BUDGET, unsafe.Pointer(&budget), unsafe.Sizeof(budget))
}

// The kernel gives a queue free some time after its last socket was closed.
const (
	busyTries = 40
	busyPause = 25 * time.Millisecond
)

// bind binds to the queue, without copies where the driver can.
func bind(fd, index, queue int, o Options) (zeroCopy bool, err error) {
	for range busyTries {
		if zeroCopy, err = tryBind(fd, index, queue, o); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(busyPause)
	}
	switch {
	case err == nil:
		return zeroCopy, nil
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("another AF_XDP socket has this queue: %w", err)
	}
	return false, needs(os.NewSyscallError("bind", err), "CAP_NET_RAW")
}

func tryBind(fd, index, queue int, o Options) (zeroCopy bool, err error) {
	at := unix.SockaddrXDP{Ifindex: uint32(index), QueueID: uint32(queue)}
	if !o.Copy && o.Mode != Generic {
		at.Flags = unix.XDP_ZEROCOPY | unix.XDP_USE_NEED_WAKEUP
		if err := unix.Bind(fd, &at); err == nil || errors.Is(err, unix.EBUSY) {
			return true, err
		}
	}
	at.Flags = unix.XDP_COPY | unix.XDP_USE_NEED_WAKEUP
	return false, unix.Bind(fd, &at)
}

// Whether a socket has a reader. The memory of what it reads is its own until it
// has seen the end.
const (
	notRead int32 = iota
	isRead
	wasRead
)

// ReadFrames implements frame.Socket.
func (s *Socket) ReadFrames(frames []netio.Packet) (int, error) {
	if s.reading.Load() != isRead && !s.reading.CompareAndSwap(notRead, isRead) {
		return 0, net.ErrClosed
	}
	if s.done.Load() {
		return 0, s.readerEnds()
	}
	rd := &s.rd
	rd.frames, rd.n = frames, 0
	s.receive()
	if rd.n == 0 && len(frames) > 0 && !s.apart {
		err := s.raw.Read(rd.fn)
		if s.done.Load() {
			rd.frames = nil
			return 0, s.readerEnds()
		}
		if err != nil {
			rd.frames = nil
			return 0, fmt.Errorf("read frames: %w", err)
		}
	}
	rd.frames = nil
	return rd.n, nil
}

// recv runs inside RawConn.Read: false waits until there is something to read.
func (s *Socket) recv(uintptr) bool {
	s.receive()
	return s.rd.n > 0 || s.done.Load()
}

// receive takes what is in the receive ring.
func (s *Socket) receive() {
	rd := &s.rd
	n := rd.rx.ready(len(rd.frames))
	if n == 0 {
		return
	}
	for i := range n {
		d := rd.rx.take()
		b := s.umem.frame(d)
		p := &rd.frames[i]
		space := p.Buf[netio.Headroom : len(p.Buf)-netio.Tailroom]
		p.Off, p.Len = netio.Headroom, copy(space, b)
		p.Truncated, p.Segment, p.Pieces = p.Len < len(b), 0, nil
		if s.finishes && !p.Truncated {
			finish(p.Data())
		}
		rd.fill.put(s.umem.base(d.Addr))
	}
	rd.rx.release()
	rd.fill.submit()
	if rd.fill.asleep() {
		_ = s.raw.Control(rd.wakeFn)
	}
	rd.n = n
}

// WriteFrames implements frame.Socket.
func (s *Socket) WriteFrames(frames []netio.Packet) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	for sent := 0; sent < len(frames); {
		if s.done.Load() {
			return sent, net.ErrClosed
		}
		n, err := s.put(frames[sent:])
		if n > 0 {
			// What is in the ring is the kernel's: it leaves now, or behind what is
			// written next.
			sent += n
			if s.transmit() != nil && sent < len(frames) && err == nil {
				err = errNoRoom
			}
		}
		if err != nil {
			return sent, err
		}
	}
	return len(frames), nil
}

// put puts frames into the transmit ring, as many as there is room for. An error
// is about the one behind those.
func (s *Socket) put(frames []netio.Packet) (n int, err error) {
	wr := &s.wr
	s.reap()
	room := min(len(frames), len(wr.free))
	room = wr.tx.room(room)
	for n < room {
		p := &frames[n]
		if p.Len > s.umem.chunk {
			err = fmt.Errorf("frame of %d octets: %w", p.Len, unix.EMSGSIZE)
			break
		}
		if p.Len < frame.HeaderLen {
			err = fmt.Errorf("frame of %d octets: %w", p.Len, unix.EINVAL)
			break
		}
		addr := wr.free[len(wr.free)-1]
		wr.free = wr.free[:len(wr.free)-1]
		copy(s.umem.area[addr:], p.Data())
		wr.tx.put(unix.XDPDesc{Addr: addr, Len: uint32(p.Len)})
		n++
	}
	wr.tx.submit()
	if n == 0 && err == nil {
		s.noRoom.Add(1)
		err = errNoRoom
		_ = s.transmit()
	}
	return n, err
}

// errNoRoom says that nothing more can be sent for now.
var errNoRoom = fmt.Errorf("no room to send: %w", unix.ENOBUFS)

// reap takes back the chunks of what has been sent.
func (s *Socket) reap() {
	wr := &s.wr
	n := wr.completion.ready(ringSize)
	for range n {
		wr.free = append(wr.free, s.umem.base(wr.completion.take()))
	}
	if n > 0 {
		wr.completion.release()
	}
}

// transmit has the kernel send what is in the ring.
func (s *Socket) transmit() error {
	wr := &s.wr
	if !wr.tx.asleep() {
		return nil
	}
	wr.errno = 0
	if err := s.raw.Control(wr.fn); err != nil {
		return err
	}
	if wr.errno != 0 {
		return wr.errno
	}
	return nil
}

// push runs inside RawConn.Control. The kernel stops early, with EAGAIN, after as
// many frames as it sends at once, or when the interface takes no more: as long as
// it gets on it is called again.
func (s *Socket) push(fd uintptr) {
	wr := &s.wr
	for before := wr.tx.pending(); before > 0; {
		errno := wakeTransmit(fd)
		if errno == 0 || errno == unix.EINTR {
			return
		}
		left := wr.tx.pending()
		if errno != unix.EAGAIN || left >= before {
			wr.errno = errno
			return
		}
		before = left
	}
}

// SyscallConn implements syscall.Conn.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

// Close implements frame.Socket.
func (s *Socket) Close() error {
	if s.done.Swap(true) {
		return nil
	}
	s.Statistics() // for the last time
	err := s.file.Close()
	if s.reading.CompareAndSwap(notRead, wasRead) {
		s.release()
	}
	return err
}

// readerEnds gives up the memory of what was read, after Close.
func (s *Socket) readerEnds() error {
	if s.reading.CompareAndSwap(isRead, wasRead) {
		s.release()
	}
	return net.ErrClosed
}

// release gives the memory back: nobody reads any more, and who writes sees that
// the socket is closed.
func (s *Socket) release() {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	s.unmap()
}

func (s *Socket) unmap() {
	for i, m := range s.maps {
		if m != nil {
			_ = unix.Munmap(m)
			s.maps[i] = nil
		}
	}
	if s.umem != nil {
		s.umem.free()
	}
}

// Statistics are what the kernel and the socket count (XDP_STATISTICS).
type Statistics struct {
	unix.XDPStatistics
	NoRoom uint64 // times that nothing could be sent
}

// Statistics reads the counters; after Close those of its end.
func (s *Socket) Statistics() Statistics {
	s.last.Lock()
	defer s.last.Unlock()
	_ = s.raw.Control(s.last.fn) // not of a closed socket
	return Statistics{s.last.XDPStatistics, s.noRoom.Load()}
}

// count runs inside RawConn.Control.
func (s *Socket) count(fd uintptr) {
	var now unix.XDPStatistics
	if getsockopt(int(fd), unix.XDP_STATISTICS, unsafe.Pointer(&now), unsafe.Sizeof(now)) == nil {
		s.last.XDPStatistics = now
	}
}

// ZeroCopy reports whether frames pass between the driver and this process without
// a copy by the kernel.
func (s *Socket) ZeroCopy() bool { return s.zeroCopy }
