package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiver counts the datagrams of one stream.
type receiver struct {
	fd        int
	id        uint32
	size      int
	msgs      *messages
	bufs      [][]byte
	ctrls     [][4]uint64 // for one control message each
	highest   uint64
	reordered uint64 // of run until it returns
	received  atomic.Uint64
	last      atomic.Int64 // when the last was seen, UnixNano
	stop      atomic.Bool
	lookAway  time.Duration
}

const (
	// receiveBuffer is the receiving socket's, in octets, so that what is lost was
	// lost on the way.
	receiveBuffer = 32 << 20
	slots         = 64
	slotLen       = 1 << 16
)

func newReceiver(p Path, l Load, id uint32) (r *receiver, err error) {
	r = &receiver{fd: -1, id: id, size: l.Size, msgs: newMessages(slots), ctrls: make([][4]uint64, slots), lookAway: lookAway}
	if l.Window > 0 {
		r.lookAway = lookAwayLess
	}
	mem := make([]byte, slots*slotLen)
	for i := range slots {
		r.bufs = append(r.bufs, mem[i*slotLen:][:slotLen:slotLen])
		r.msgs.point(i, r.bufs[i])
		r.msgs.hdrs[i].hdr.Control = (*byte)(unsafe.Pointer(&r.ctrls[i]))
	}
	at := &unix.SockaddrInet4{Port: port, Addr: p.Dst.As4()}
	if len(l.Targets) > 0 {
		at.Addr = [4]byte{}
	}
	err = p.To.Do(func() error {
		// The socket is not the poller's, which would be woken for every datagram.
		r.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		// Datagrams that the gateway sends as one are taken as one.
		return errors.Join(
			unix.SetsockoptInt(r.fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1),
			unix.SetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer),
			unix.Bind(r.fd, at))
	})
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *receiver) close() {
	if r.fd >= 0 {
		_ = unix.Close(r.fd)
	}
}

// run counts until settle stops it.
func (r *receiver) run() error {
	for {
		for i := range r.msgs.hdrs {
			h := &r.msgs.hdrs[i].hdr
			h.SetControllen(int(unsafe.Sizeof(r.ctrls[i])))
		}
		n, errno := r.msgs.move(unix.SYS_RECVMMSG, r.fd, slots)
		switch {
		case errno == unix.EAGAIN && r.stop.Load():
			return nil
		case errno == unix.EAGAIN:
			time.Sleep(r.lookAway)
			continue
		case errno != 0:
			return fmt.Errorf("receiving datagrams: %w", errno)
		}
		var arrived uint64
		for i := range n {
			arrived += r.count(r.bufs[i][:r.msgs.hdrs[i].len], r.segment(i))
		}
		if arrived > 0 {
			r.received.Add(arrived)
			r.last.Store(time.Now().UnixNano())
		}
	}
}

// segment is the length of the datagrams in the i-th message, or 0 if it is one.
func (r *receiver) segment(i int) int {
	h := &r.msgs.hdrs[i].hdr
	c := (*unix.Cmsghdr)(unsafe.Pointer(&r.ctrls[i]))
	if int(h.Controllen) < unix.CmsgLen(4) || c.Level != unix.IPPROTO_UDP || c.Type != unix.UDP_GRO {
		return 0
	}
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(c), unix.CmsgLen(0))))
}

// count returns how many datagrams of the stream are in b, which is one or
// several of a length.
func (r *receiver) count(b []byte, segment int) (n uint64) {
	if segment <= 0 {
		segment = max(len(b), 1)
	}
	for len(b) > 0 {
		d := b[:min(segment, len(b))]
		b = b[len(d):]
		if len(d) != r.size || binary.BigEndian.Uint32(d) != r.id {
			continue
		}
		n++
		if seq := binary.BigEndian.Uint64(d[4:]); seq < r.highest {
			r.reordered++
		} else {
			r.highest = seq
		}
	}
	return n
}

// settle waits until nothing more comes, and ends run.
func (r *receiver) settle() {
	for before := r.received.Load(); ; {
		time.Sleep(Drain)
		now := r.received.Load()
		if now == before {
			break
		}
		before = now
	}
	r.stop.Store(true)
}
