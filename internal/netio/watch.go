package netio

import (
	"encoding/binary"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// apartFile makes a file of fd that Go's poller does not know: whoever waits for
// the poller is not woken by what comes to it. Its RawConn has Control alone.
func apartFile(fd int, name string) (*os.File, error) {
	// The poller takes what does not block when the file is made.
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if err := unix.SetNonblock(fd, true); err != nil {
		file.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return file, nil
}

// File makes a file of the descriptor of a device: Apart from Go's poller, or in
// its care.
func File(fd int, name string, apart bool) (*os.File, error) {
	if apart {
		return apartFile(fd, name)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// roomPause is for how long a writer waits at once, in milliseconds, before it sees
// whether its device is still open.
const roomPause = 100

// AwaitRoom waits, but not for long, until something can be written to a
// descriptor that is apart.
func AwaitRoom(fd uintptr) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, roomPause) // then it is tried again
}

// Permits bound how many Watches stay awake at once. The zero value has none.
type Permits struct{ left atomic.Int32 }

// NewPermits makes n permits.
func NewPermits(n int) *Permits {
	p := new(Permits)
	p.left.Store(int32(n))
	return p
}

func (p *Permits) take() bool {
	for {
		n := p.left.Load()
		if n <= 0 {
			return false
		}
		if p.left.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

func (p *Permits) giveBack() { p.left.Add(1) }

// Watch waits for several devices that are apart, for the one goroutine that reads
// all of them. After something has come it keeps asking for a while before it
// sleeps, so that what comes next finds it awake.
type Watch struct {
	// Constant after Add.
	epoll  int
	bell   *bell
	budget time.Duration
	may    *Permits

	awake  bool // it has a permit
	events [32]unix.EpollEvent
	ready  []int
	closed atomic.Bool
}

// NewWatch makes a Watch that stays awake for the time of budget after something
// has come, as far as there are permits.
func NewWatch(budget time.Duration, may *Permits) (*Watch, error) {
	b, err := newBell()
	if err != nil {
		return nil, err
	}
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		b.Close()
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	w := &Watch{epoll: fd, bell: b, budget: budget, may: may}
	if err := w.Add(-1, b.file); err != nil {
		w.Release()
		return nil, err
	}
	return w, nil
}

// Add has the Watch wait for a device as well, which Wait calls by number.
func (w *Watch) Add(number int, device syscall.Conn) error {
	raw, err := device.SyscallConn()
	if err != nil {
		return err
	}
	var addErr error
	err = raw.Control(func(fd uintptr) {
		addErr = unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, int(fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(number)})
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("epoll_ctl", addErr)
}

// Wait waits until something has come, and returns the numbers of the devices that
// have it; they are valid until the next Wait. It returns net.ErrClosed after
// Close.
func (w *Watch) Wait() ([]int, error) {
	w.ready = w.ready[:0]
	n := w.look()
	if n == 0 {
		n = w.linger()
	}
	for n == 0 {
		var err error
		if n, err = unix.EpollWait(w.epoll, w.events[:], -1); err != nil {
			n = 0
			if err != unix.EINTR {
				return nil, os.NewSyscallError("epoll_wait", err)
			}
		}
	}
	if w.closed.Load() {
		w.sleepy()
		return nil, net.ErrClosed
	}
	for i := range n {
		if number := w.events[i].Fd; number >= 0 {
			w.ready = append(w.ready, int(number))
		}
	}
	return w.ready, nil
}

// looks is how many times the Watch looks before it reads the clock.
const looks = 16

// linger keeps asking for the time of the budget.
func (w *Watch) linger() int {
	if !w.awake {
		if w.awake = w.may.take(); !w.awake {
			return 0
		}
	}
	for until := time.Now().Add(w.budget); ; {
		for range looks {
			if n := w.look(); n > 0 {
				return n
			}
		}
		if !time.Now().Before(until) {
			w.sleepy()
			return 0
		}
	}
}

// sleepy leaves being awake to others.
func (w *Watch) sleepy() {
	if w.awake {
		w.awake = false
		w.may.giveBack()
	}
}

// look asks all devices at once, without waiting. The scheduler is not told.
func (w *Watch) look() int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.epoll), uintptr(unsafe.Pointer(&w.events[0])),
		uintptr(len(w.events)), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// Close wakes who waits, for good. It is idempotent.
func (w *Watch) Close() error {
	w.closed.Store(true)
	w.bell.ring()
	return nil
}

// Release gives everything back, after Close, when nobody waits any more.
func (w *Watch) Release() {
	_ = unix.Close(w.epoll)
	w.bell.Close()
}

// bell is an eventfd: once rung, it can be read until it is silenced.
type bell struct {
	file *os.File
	raw  syscall.RawConn
}

func newBell() (*bell, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	file, err := apartFile(fd, "eventfd")
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &bell{file, raw}, nil
}

// ring cannot fail for want of room: the counter has 64 bits.
func (b *bell) ring() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_ = b.raw.Control(func(fd uintptr) { _, _ = unix.Write(int(fd), one[:]) })
}

func (b *bell) silence() {
	var n [8]byte
	_ = b.raw.Control(func(fd uintptr) { _, _ = unix.Read(int(fd), n[:]) })
}

func (b *bell) Close() { _ = b.file.Close() }
