package netio

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// Mem is one end of a pair of devices in memory, for tests: what one writes,
// the other reads, with Local and Remote changed over and the rest as it is. Its queue has a bound;
// what does not fit is lost, as on a wire.
type Mem struct {
	in, out  *memQueue
	tcp, udp bool
}

// SetApart keeps m from waiting when it is read: a Watch does. It is called before
// anything else is done with m.
func (m *Mem) SetApart() error {
	b, err := newBell()
	m.in.bell = b
	return err
}

// SyscallConn implements syscall.Conn, of a device that is apart.
func (m *Mem) SyscallConn() (syscall.RawConn, error) { return m.in.bell.raw, nil }

// SetJoins makes m a device that takes super-packets, which the other end reads
// as they are. It is called before anything else is done with m.
func (m *Mem) SetJoins(tcp, udp bool) { m.tcp, m.udp = tcp, udp }

// Joins implements Joiner.
func (m *Mem) Joins() (tcp, udp bool) { return m.tcp, m.udp }

// NewMemPair makes two connected devices. Each direction queues up to depth
// packets of up to size octets.
func NewMemPair(depth, size int) (*Mem, *Mem) {
	a, b := newMemQueue(depth, size), newMemQueue(depth, size)
	return &Mem{in: a, out: b}, &Mem{in: b, out: a}
}

type memQueue struct {
	mu     sync.Mutex
	ready  sync.Cond
	slots  []Packet // those that hold no packet have no memory
	idle   [][]byte // memory of packets that have been read, for the next ones
	size   int      // of the longest packet that fits, in octets
	first  int
	n      int
	lost   uint64
	closed bool
	bell   *bell // of a reader that is apart; it rings while there are packets
}

func newMemQueue(depth, size int) *memQueue {
	q := &memQueue{slots: make([]Packet, depth), size: size}
	q.ready.L = &q.mu
	return q
}

// memory is that of a packet. A queue has as much as it ever had packets at once,
// for it may be deep.
func (q *memQueue) memory() []byte {
	last := len(q.idle) - 1
	if last < 0 {
		return make([]byte, Headroom+q.size+Tailroom)
	}
	b := q.idle[last]
	q.idle = q.idle[:last]
	return b
}

// ReadBatch implements Device.
func (m *Mem) ReadBatch(pkts []Packet) (int, error) {
	q := m.in
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.n == 0 && !q.closed && q.bell == nil {
		q.ready.Wait()
	}
	if q.closed {
		return 0, net.ErrClosed
	}
	n := min(q.n, len(pkts))
	for i := range n {
		from := &q.slots[q.first]
		q.first = (q.first + 1) % len(q.slots)
		to := &pkts[i]
		copied := copy(to.space(), from.Data())
		to.filled(copied, copied < from.Len)
		to.Segment = from.Segment
		to.Local, to.Remote = from.Remote, from.Local
		to.TrafficClass, to.DontFragment = from.TrafficClass, from.DontFragment
		q.idle, from.Buf = append(q.idle, from.Buf), nil
	}
	q.n -= n
	if q.n == 0 && q.bell != nil {
		q.bell.silence()
	}
	return n, nil
}

// WriteBatch implements Device.
func (m *Mem) WriteBatch(pkts []Packet) (int, error) {
	q := m.out
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, net.ErrClosed
	}
	for i := range pkts {
		if q.n == len(q.slots) || pkts[i].Len+piecesLen(&pkts[i]) > q.size {
			q.lost++
			continue
		}
		to := &q.slots[(q.first+q.n)%len(q.slots)]
		to.Buf = q.memory()
		n := copy(to.space(), pkts[i].Data())
		for _, b := range pkts[i].Pieces {
			n += copy(to.space()[n:], b)
		}
		to.filled(n, false)
		to.Segment = pkts[i].Segment
		to.Local, to.Remote = pkts[i].Local, pkts[i].Remote
		to.TrafficClass, to.DontFragment = pkts[i].TrafficClass, pkts[i].DontFragment
		q.n++
	}
	q.ready.Signal()
	if q.bell != nil && q.n > 0 {
		q.bell.ring()
	}
	return len(pkts), nil
}

// Inject writes one packet that comes from and goes to these addresses.
func (m *Mem) Inject(data []byte, local, remote netip.AddrPort) error {
	_, err := m.WriteBatch([]Packet{{Buf: data, Len: len(data), Local: local, Remote: remote}})
	return err
}

// Lost is how many packets written here found no room.
func (m *Mem) Lost() uint64 {
	m.out.mu.Lock()
	defer m.out.mu.Unlock()
	return m.out.lost
}

// Close implements Device, for both ends.
func (m *Mem) Close() error {
	for _, q := range []*memQueue{m.in, m.out} {
		q.mu.Lock()
		q.closed = true
		if q.bell != nil {
			q.bell.Close()
		}
		q.ready.Broadcast()
		q.mu.Unlock()
	}
	return nil
}
