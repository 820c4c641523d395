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
	file  *os.File
	raw   syscall.RawConn
	name  string
	apart bool

	// Offloads of what is written, which the kernel may turn out not to take.
	tcp, udp atomic.Bool

	done atomic.Bool

	// Owned by the goroutine that reads.
	rd struct {
		pkts []Packet
		slab []byte // of a Reader, or nil
		n    int
		err  error
		fn   func(fd uintptr) bool
		ask  func(fd uintptr) // fn, where nothing is waited for
	}

	wmu sync.Mutex
	// Guarded by wmu.
	wr struct {
		pkts []Packet
		n    int
		err  error
		fn   func(fd uintptr) bool
		head VnetHeader
		iovs []unix.Iovec
		cut  *cutting // made when a super-packet is refused
	}
}

// TUNOptions say how to open a TUN device.
type TUNOptions struct {
	Queues int
	MTU    int
	// Without are the offloads that are not to be used.
	Without Offload
	// Apart keeps the queues out of Go's poller: reading returns nothing where
	// nothing is at hand. Wait with a Watch.
	Apart bool
}

// OpenTUN makes a TUN device, or opens the one of that name. A name with %d in
// it lets the kernel number it. It returns one TUN for each queue. The device
// goes away with its last queue.
func OpenTUN(name string, o TUNOptions) ([]*TUN, error) {
	out := make([]*TUN, 0, o.Queues)
	fail := func(what string, err error) ([]*TUN, error) {
		for _, t := range out {
			t.Close()
		}
		return nil, fmt.Errorf("%s TUN device %s: %w", what, name, err)
	}
	for range o.Queues {
		t, err := openQueue(name, o.Apart)
		if err != nil {
			return fail("open", err)
		}
		name = t.name
		out = append(out, t)
	}
	if err := setLink(name, o.MTU); err != nil {
		return fail("set up", err)
	}
	// The offloads are the device's, whichever queue asks for them.
	tcp, udp := out[0].offload(o.Without)
	for _, t := range out {
		t.tcp.Store(tcp)
		t.udp.Store(udp)
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

func openQueue(name string, apart bool) (*TUN, error) {
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
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_MULTI_QUEUE | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		unix.Close(fd)
		return nil, needs(os.NewSyscallError("ioctl TUNSETIFF", err), capNetAdmin)
	}
	// Only now: the poller would see an error on a queue without a device.
	file, err := File(fd, tunPath, apart)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	t := &TUN{file: file, name: req.Name(), apart: apart}
	if t.raw, err = t.file.SyscallConn(); err != nil {
		t.file.Close()
		return nil, err
	}
	t.rd.fn, t.wr.fn = t.recv, t.send
	t.rd.ask = func(fd uintptr) { t.recv(fd) }
	t.wr.iovs = make([]unix.Iovec, 0, maxVectors)
	return t, nil
}

// Name is the name of the network device.
func (t *TUN) Name() string { return t.name }

// ReadBatch implements Device. One wake-up drains the queue.
func (t *TUN) ReadBatch(pkts []Packet) (int, error) { return t.read(pkts, nil) }

// read fills pkts, in the slab where there is one.
func (t *TUN) read(pkts []Packet, slab []byte) (int, error) {
	rd := &t.rd
	rd.pkts, rd.slab, rd.n, rd.err = pkts, slab, 0, nil
	var err error
	if t.apart {
		err = t.raw.Control(rd.ask)
	} else {
		err = t.raw.Read(rd.fn)
	}
	rd.pkts, rd.slab = nil, nil
	if err != nil {
		return 0, t.failed(err)
	}
	return rd.n, rd.err
}

func (t *TUN) recv(fd uintptr) bool {
	rd := &t.rd
	for rd.n < len(rd.pkts) {
		p := &rd.pkts[rd.n]
		if rd.slab != nil {
			if len(rd.slab) < slotLen {
				return true
			}
			p.Buf = rd.slab[:slotLen:slotLen]
		}
		space := p.Buf[Headroom-VnetLen : len(p.Buf)-Tailroom]
		n, errno := readInto(fd, space)
		switch {
		case errno == 0 && n >= VnetLen:
			// The kernel cuts what does not fit without a word; a packet that
			// fills the space to the last octet may have been longer.
			p.filled(n-VnetLen, n == len(space) && n < MaxPacket)
			if !(*VnetHeader)(space).Decode(p) {
				p.Len = 0
			}
			rd.n++
			if rd.slab != nil {
				used := (Headroom + p.Len + Tailroom + cacheLine - 1) / cacheLine * cacheLine
				p.Buf = p.Buf[:used:used]
				rd.slab = rd.slab[used:]
			}
		case errno == unix.EINTR:
		case rd.n > 0:
			return true
		case errno == unix.EAGAIN:
			return false
		case errno == 0:
			rd.err = net.ErrClosed
			return true
		default:
			rd.err = syscallError("read", errno)
			return true
		}
	}
	return true
}

// slab reads packets and super-packets one behind the other into one piece of
// memory, which a batch of small packets hardly begins to fill.
type slab struct {
	tun  *TUN
	mem  []byte
	pkts []Packet
}

// slotLen is the room for the longest packet, and slabLen that of a slab: a few
// super-packets, which the cache still holds when they are used.
const (
	slotLen = (Headroom + MaxPacket + Tailroom + cacheLine - 1) / cacheLine * cacheLine
	slabLen = 4 * slotLen
)

func (s *slab) read() ([]Packet, error) {
	n, err := s.tun.read(s.pkts, s.mem)
	return s.pkts[:n], err
}

// Joins implements Joiner.
func (t *TUN) Joins() (tcp, udp bool) { return t.tcp.Load(), t.udp.Load() }

// WriteBatch implements Device. A super-packet that the kernel refuses is cut
// here, and so is every one after it.
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
		switch errno := t.write(int(fd), &wr.pkts[wr.n]); errno {
		case 0:
			wr.n++
		case unix.EINTR:
		case unix.EAGAIN:
			if !t.apart {
				return false
			}
			if t.done.Load() {
				wr.err = net.ErrClosed
				return true
			}
			AwaitRoom(fd)
		default:
			wr.err = syscallError("writev", errno)
			return true
		}
	}
	return true
}

// SyscallConn implements syscall.Conn.
func (t *TUN) SyscallConn() (syscall.RawConn, error) { return t.raw, nil }

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
