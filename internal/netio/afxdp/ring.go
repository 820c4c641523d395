package afxdp

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shared are the words of a ring that both sides see, and its entries. Each ring
// has one producer and one consumer: of the fill and the transmit ring this
// process is the producer, of the receive and the completion ring the kernel. The
// indices run freely; an entry is at index & mask.
//
// The side that moves an index does so after it is done with the entries, and the
// other reads the index before it touches them. The operations of sync/atomic are
// sequentially consistent, which is more than the acquire and release that the
// kernel asks for.
type shared[T uint64 | unix.XDPDesc] struct {
	producer, consumer *atomic.Uint32
	flags              *atomic.Uint32
	entries            []T
	mask               uint32
}

// sharedAt finds the parts of a ring of n entries in what the kernel has mapped.
func sharedAt[T uint64 | unix.XDPDesc](mem []byte, off *unix.XDPRingOffset, n int) shared[T] {
	word := func(at uint64) *atomic.Uint32 { return (*atomic.Uint32)(unsafe.Pointer(&mem[at])) }
	return shared[T]{
		producer: word(off.Producer), consumer: word(off.Consumer), flags: word(off.Flags),
		entries: unsafe.Slice((*T)(unsafe.Pointer(&mem[off.Desc])), n),
		mask:    uint32(n - 1),
	}
}

// sharedInMemory is a ring of n entries without a kernel, for tests.
func sharedInMemory[T uint64 | unix.XDPDesc](n int) shared[T] {
	return shared[T]{
		producer: new(atomic.Uint32), consumer: new(atomic.Uint32), flags: new(atomic.Uint32),
		entries: make([]T, n), mask: uint32(n - 1),
	}
}

// producer is the near end of a ring that this side fills.
type producer[T uint64 | unix.XDPDesc] struct {
	shared[T]
	next uint32 // the entry to be written next; those before shared.producer have been handed over
	end  uint32 // the first entry that is not free, as last seen
}

func newProducer[T uint64 | unix.XDPDesc](s shared[T]) producer[T] {
	return producer[T]{shared: s, next: s.producer.Load(), end: s.consumer.Load() + uint32(len(s.entries))}
}

// room is how many entries can be put, up to want: it looks at what the other side
// has done only where that was not known to be enough.
func (p *producer[T]) room(want int) int {
	if free := int(p.end - p.next); free >= want {
		return want
	}
	p.end = p.consumer.Load() + uint32(len(p.entries))
	return min(want, int(p.end-p.next))
}

// put writes an entry for which there is room.
func (p *producer[T]) put(v T) {
	p.entries[p.next&p.mask] = v
	p.next++
}

// submit hands over what was put.
func (p *producer[T]) submit() { p.shared.producer.Store(p.next) }

// pending is how many entries the other side has not taken yet.
func (p *producer[T]) pending() int { return int(p.next - p.consumer.Load()) }

// asleep reports whether the kernel has to be called to look at the ring.
func (p *producer[T]) asleep() bool { return p.flags.Load()&unix.XDP_RING_NEED_WAKEUP != 0 }

// consumer is the near end of a ring that the other side fills.
type consumer[T uint64 | unix.XDPDesc] struct {
	shared[T]
	next uint32 // the entry to be read next; those before shared.consumer have been given back
	end  uint32 // the first entry that is not there yet, as last seen
}

func newConsumer[T uint64 | unix.XDPDesc](s shared[T]) consumer[T] {
	return consumer[T]{shared: s, next: s.consumer.Load(), end: s.producer.Load()}
}

// ready is how many entries can be taken, up to want.
func (c *consumer[T]) ready(want int) int {
	if have := int(c.end - c.next); have >= want {
		return want
	}
	c.end = c.producer.Load()
	return min(want, int(c.end-c.next))
}

// take reads an entry that is ready.
func (c *consumer[T]) take() T {
	v := c.entries[c.next&c.mask]
	c.next++
	return v
}

// release gives the entries that were taken back.
func (c *consumer[T]) release() { c.shared.consumer.Store(c.next) }
