package afxdp

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// inMemory is both ends of a ring that begins at an index.
func inMemory[T uint64 | unix.XDPDesc](n int, first uint32) (producer[T], consumer[T]) {
	s := sharedInMemory[T](n)
	s.producer.Store(first)
	s.consumer.Store(first)
	return newProducer(s), newConsumer(s)
}

// What one side puts, the other takes, once and in order, also where the indices
// run over; under the race detector, this is the test of the order of memory.
func TestRingBetweenTwo(t *testing.T) {
	for _, first := range []uint32{0, 1<<32 - 100} {
		const total = 20000
		p, c := inMemory[unix.XDPDesc](8, first)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for sent := 0; sent < total; {
				n := p.room(min(5, total-sent))
				for i := range n {
					p.put(unix.XDPDesc{Addr: uint64(sent + i), Len: uint32(sent + i)})
				}
				if n == 0 {
					runtime.Gosched()
					continue
				}
				p.submit()
				sent += n
			}
		}()
		for got := 0; got < total; {
			n := c.ready(3)
			for i := range n {
				if d := c.take(); d.Addr != uint64(got+i) || d.Len != uint32(got+i) {
					t.Fatalf("from index %d: entry %d is %+v", first, got+i, d)
				}
			}
			if n == 0 {
				runtime.Gosched()
				continue
			}
			c.release()
			got += n
		}
		<-done
		if n := p.pending(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	}
}

func TestRingFull(t *testing.T) {
	p, c := inMemory[uint64](4, 1<<32-2)
	if n := c.ready(4); n != 0 {
		t.Fatalf("%d entries in an empty ring", n)
	}
	if n := p.room(9); n != 4 {
		t.Fatalf("room for %d, want 4", n)
	}
	for i := range uint64(4) {
		p.put(i)
	}
	if n := c.ready(4); n != 0 {
		t.Errorf("%d entries that nobody has submitted", n)
	}
	p.submit()
	if p.room(1) != 0 || p.pending() != 4 {
		t.Errorf("a full ring has room for %d, and %d pending", p.room(1), p.pending())
	}
	if n := c.ready(2); n != 2 {
		t.Errorf("%d entries of 2", n)
	}
	if a, b := c.take(), c.take(); a != 0 || b != 1 {
		t.Errorf("took %d and %d", a, b)
	}
	if p.room(1) != 0 {
		t.Error("what was taken but not given back is free")
	}
	c.release()
	if n := p.room(9); n != 2 {
		t.Errorf("room for %d, want 2", n)
	}
	p.flags.Store(unix.XDP_RING_NEED_WAKEUP)
	if !p.asleep() {
		t.Error("the flag of the kernel is not seen")
	}
}
