package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const tunPath = "/dev/net/tun"

// TUN is one queue of a TUN device: whole IP packets, no link header.
type TUN struct {
	// Constant after opening.
	file *os.File
	raw  syscall.RawConn
	name string

	done atomic.Bool

	// Owned by the goroutine that reads.
	rd struct {
		pkts []Packet
		n    int
		err  error
		fn   func(fd uintptr) bool
	}

	wmu sync.Mutex
	// Guarded by wmu.
	wr struct {
		pkts []Packet
		n    int
		err  error
		fn   func(fd uintptr) bool
	}
}

// OpenTUN makes a TUN device with the number of queues and the MTU, or opens the
// one of that name. A name with %d in it lets the kernel number it. The device
// goes away with its last queue.
func OpenTUN(name string, queues, mtu int) ([]*TUN, error) {
	out := make([]*TUN, 0, queues)
	for range queues {
		t, err := openQueue(name)
		if err != nil {
			for _, t := range out {
				t.Close()
			}
			return nil, fmt.Errorf("open TUN device %s: %w", name, err)
		}
		name = t.name
		out = append(out, t)
	}
	if err := setLink(name, mtu); err != nil {
		for _, t := range out {
			t.Close()
		}
		return nil, fmt.Errorf("set up TUN device %s: %w", name, err)
	}
	return out, nil
}

// queueLen is how many packets each queue of a TUN device holds: the kernel's
// 500 overflow while a worker seals a batch at full rate.
const queueLen = 1000

func setLink(name string, mtu int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		what  string
		ioctl uint
		value int
	}{
		{"MTU", unix.SIOCSIFMTU, mtu},
		{"queue length", unix.SIOCSIFTXQLEN, queueLen},
	} {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint32(uint32(set.value))
		if err := unix.IoctlIfreq(fd, set.ioctl, req); err != nil {
			return fmt.Errorf("%s %d: %w", set.what, set.value, needs(err, capNetAdmin))
		}
	}
	return nil
}

func openQueue(name string) (*TUN, error) {
	fd, err := unix.Open(tunPath, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s is missing: is the tun module loaded? %w", tunPath, err)
		}
		return nil, needs(os.NewSyscallError("open", err), capNetAdmin)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("not a device name: %w", err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, needs(os.NewSyscallError("ioctl TUNSETIFF", err), capNetAdmin)
	}
	// Only now: the poller would see an error on a queue without a device.
	t := &TUN{file: os.NewFile(uintptr(fd), tunPath), name: req.Name()}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		t.file.Close()
		return nil, err
	}
	t.rd.fn, t.wr.fn = t.recv, t.send
	return t, nil
}

// Name is the name of the network device.
func (t *TUN) Name() string { return t.name }

// ReadBatch implements Device. One wake-up drains the queue.
func (t *TUN) ReadBatch(pkts []Packet) (int, error) {
	rd := &t.rd
	rd.pkts, rd.n, rd.err = pkts, 0, nil
	err := t.raw.Read(rd.fn)
	rd.pkts = nil
	if err != nil {
		return 0, t.failed(err)
	}
	return rd.n, rd.err
}

func (t *TUN) recv(fd uintptr) bool {
	rd := &t.rd
	for rd.n < len(rd.pkts) {
		p := &rd.pkts[rd.n]
		space := p.space()
		n, err := unix.Read(int(fd), space)
		switch {
		case err == nil && n > 0:
			// The kernel cuts what does not fit without a word; a packet that
			// fills the space to the last octet may have been longer.
			p.filled(n, n == len(space) && n < MaxPacket)
			rd.n++
		case err == unix.EINTR:
		case rd.n > 0:
			return true
		case err == unix.EAGAIN:
			return false
		case err == nil:
			rd.err = net.ErrClosed
			return true
		default:
			rd.err = os.NewSyscallError("read", err)
			return true
		}
	}
	return true
}

// WriteBatch implements Device.
func (t *TUN) WriteBatch(pkts []Packet) (int, error) {
	t.wmu.Lock()
	defer t.wmu.Unlock()
	wr := &t.wr
	wr.pkts, wr.n, wr.err = pkts, 0, nil
	err := t.raw.Write(wr.fn)
	wr.pkts = nil
	if err != nil {
		return wr.n, t.failed(err)
	}
	return wr.n, wr.err
}

func (t *TUN) send(fd uintptr) bool {
	wr := &t.wr
	for wr.n < len(wr.pkts) {
		_, err := unix.Write(int(fd), wr.pkts[wr.n].Data())
		switch err {
		case nil:
			wr.n++
		case unix.EINTR:
		case unix.EAGAIN:
			return false
		default:
			wr.err = os.NewSyscallError("write", err)
			return true
		}
	}
	return true
}

// failed tells a closed device from others: the error that the poller gives
// for one has no name outside of the standard library.
func (t *TUN) failed(err error) error {
	if t.done.Load() {
		return net.ErrClosed
	}
	return err
}

// Close implements Device.
func (t *TUN) Close() error {
	t.done.Store(true)
	if err := t.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
