package netio

import (
	"errors"
	"syscall"
)

// MaxRead is how many packets a Reader returns at most.
const MaxRead = 256

// readerBatch is how many packets a Reader asks for, and readerSlots how many
// datagrams or trains.
const (
	readerBatch = 128
	readerSlots = 64
)

// hotOctets is how much a Reader asks for at once after it has seen long trains:
// what is copied further ahead of its use has left the cache by then.
const hotOctets = 256 << 10

// Reader reads a Device into memory of its own, in the form that costs least: it
// takes trains and super-packets where the device has them. It belongs to one
// goroutine.
type Reader struct {
	source interface{ read() ([]Packet, error) }
	pages  pages
}

// NewReader makes the reader of d. size is the length of the longest packet to
// be expected, in octets, of a Device that has no form of its own.
func NewReader(d Device, size int) *Reader {
	switch d := d.(type) {
	case *TUN:
		r := &Reader{pages: newPages(slabLen)}
		r.source = &slab{tun: d, mem: r.pages.mem, pkts: make([]Packet, readerBatch)}
		return r
	case *Socket:
		if d.receiveTrains() {
			r := &Reader{pages: newPages(readerSlots * slotOf(MaxPacket))}
			r.source = newCutter(d, batchIn(r.pages.mem, readerSlots, MaxPacket))
			return r
		}
	}
	r := &Reader{pages: newPages(readerBatch * slotOf(size))}
	r.source = &plainSource{d, batchIn(r.pages.mem, readerBatch, size)}
	return r
}

// Small has the Reader return at most n packets at once, as long as no train or
// super-packet brings more, so that the first need not wait long for the last.
func (r *Reader) Small(n int) {
	switch s := r.source.(type) {
	case *slab:
		s.pkts = s.pkts[:min(n, len(s.pkts))]
	case *cutter:
		s.slots = s.slots[:min(n, len(s.slots))]
		s.want = len(s.slots)
	case *plainSource:
		s.pkts = s.pkts[:min(n, len(s.pkts))]
	}
}

// SyscallConn implements syscall.Conn, of devices that are apart.
func (r *Reader) SyscallConn() (syscall.RawConn, error) {
	switch s := r.source.(type) {
	case *slab:
		return s.tun.SyscallConn()
	case *cutter:
		return s.sock.SyscallConn()
	case *plainSource:
		if c, ok := s.dev.(syscall.Conn); ok {
			return c.SyscallConn()
		}
	}
	return nil, errors.ErrUnsupported
}

// Close gives the memory back, with all packets in it. It leaves the device alone,
// and nobody may be reading.
func (r *Reader) Close() {
	r.source = nil
	r.pages.release()
}

// Read waits for at least one packet and returns what is at hand; of a device that
// is apart it does not wait. The packets
// are valid until the next Read. Each has Headroom and Tailroom around it, but
// for those of UDP sockets. It returns net.ErrClosed after the device was
// closed.
func (r *Reader) Read() ([]Packet, error) { return r.source.read() }

// plainSource reads packet by packet.
type plainSource struct {
	dev  Device
	pkts []Packet
}

func (s *plainSource) read() ([]Packet, error) {
	n, err := s.dev.ReadBatch(s.pkts)
	return s.pkts[:n], err
}

// cutter reads trains and cuts them into datagrams where they lie.
type cutter struct {
	sock  *Socket
	slots []Packet
	want  int // how many slots to ask for
	// Trains that were received, of which next is the first that has not been
	// returned, from the octet at.
	got, next, at int
	pkts          []Packet
}

func newCutter(s *Socket, slots []Packet) *cutter {
	return &cutter{sock: s, slots: slots, want: len(slots), pkts: make([]Packet, 0, MaxRead)}
}

func (c *cutter) read() ([]Packet, error) {
	if c.next == c.got {
		n, err := c.sock.ReadBatch(c.slots[:c.want])
		if err != nil {
			return nil, err
		}
		c.got, c.next, c.at = n, 0, 0
		total := 0
		for i := range c.slots[:n] {
			total += c.slots[i].Len
		}
		c.want = max(1, min(len(c.slots), hotOctets/max(total/max(n, 1), 1)))
	}
	c.pkts = c.pkts[:0]
	for c.next < c.got {
		slot := &c.slots[c.next]
		segment := slot.Segment
		if segment == 0 {
			segment = slot.Len
		}
		// A train is returned whole, as a rule: its packets will be joined.
		if need := (slot.Len - c.at + segment - 1) / max(segment, 1); len(c.pkts) > 0 && len(c.pkts)+need > cap(c.pkts) {
			break
		}
		for first := true; (first || c.at < slot.Len) && len(c.pkts) < cap(c.pkts); first = false {
			p := *slot
			p.Segment = 0
			p.Off += c.at
			p.Len = min(segment, slot.Len-c.at)
			c.pkts = append(c.pkts, p)
			c.at += p.Len
		}
		if c.at < slot.Len {
			break
		}
		c.next, c.at = c.next+1, 0
	}
	return c.pkts, nil
}
