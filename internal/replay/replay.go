// Package replay implements the anti-replay window of ESP and AH (RFC 4303,
// Section 3.4.3) over the 64-bit sequence number space, with the bitmap as a
// ring that never shifts, after the idea of RFC 6479.
package replay

import (
	"fmt"
	"math"
)

// Sizes of a window, in packets.
const (
	DefaultSize = 4096
	// MinSize is what RFC 4303, Section 3.4.3 demands at least.
	MinSize = 32
	MaxSize = 1 << 16
)

// Window remembers which of the last sequence numbers were received. The zero
// value is ready and protects with DefaultSize. The bitmap, an octet for 8
// packets, is allocated with the first packet: of many SAs, few carry anything.
//
// A Window belongs to one goroutine.
type Window struct {
	top  uint64 // highest sequence number received; 0 before the first
	size uint64 // 0 stands for DefaultSize
	// The bit of a sequence number is the one at its value modulo the number of
	// bits. Bits of numbers outside (top-ring, top] are not kept up: they are
	// cleared when top moves over them. It is nil before the first.
	ring []uint64
}

// Init empties the window and sets its size in packets. 0 asks for DefaultSize,
// never for none.
func (w *Window) Init(size int) error {
	if size == 0 {
		size = DefaultSize
	}
	if size < MinSize || size > MaxSize {
		return fmt.Errorf("replay window of %d packets is not between %d and %d", size, MinSize, MaxSize)
	}
	*w = Window{size: uint64(size)}
	return nil
}

// Size returns the size of the window in packets.
func (w *Window) Size() int { return int(w.width()) }

// Top returns the highest sequence number received, or 0.
func (w *Window) Top() uint64 { return w.top }

func (w *Window) width() uint64 {
	if w.size == 0 {
		return DefaultSize
	}
	return w.size
}

// allocate makes the bitmap: a power of two of words, and no less than one of the
// default size has.
func (w *Window) allocate() {
	words := uint64(DefaultSize / 64)
	for words*64 < w.width() {
		words *= 2
	}
	w.ring = make([]uint64, words)
}

// Check reports whether a packet with this sequence number is new, so that it
// is worth verifying. It changes nothing. Zero is never new: the first packet
// of an SA has number 1 (RFC 4303, Section 2.2).
func (w *Window) Check(seq uint64) bool {
	if seq > w.top {
		return true
	}
	if seq == 0 || w.top-seq >= w.width() {
		return false
	}
	return w.ring[seq/64%uint64(len(w.ring))]&(1<<(seq%64)) == 0
}

// Update records the sequence number of a packet whose integrity was verified,
// and reports what Check would have said before.
func (w *Window) Update(seq uint64) bool {
	if !w.Check(seq) {
		return false
	}
	if w.ring == nil {
		w.allocate()
	}
	if seq > w.top {
		w.forget(seq)
		w.top = seq
	}
	w.ring[seq/64%uint64(len(w.ring))] |= 1 << (seq % 64)
	return true
}

// forget clears the bits of the numbers from top+1 to last, which the ring
// still holds for numbers that are now too old.
func (w *Window) forget(last uint64) {
	n := uint64(len(w.ring))
	if last-w.top >= n*64 {
		clear(w.ring)
		return
	}
	for word := (w.top + 1) / 64; word <= last/64; word++ {
		mask := uint64(math.MaxUint64)
		if word == (w.top+1)/64 {
			mask <<= (w.top + 1) % 64
		}
		if word == last/64 {
			mask &= math.MaxUint64 >> (63 - last%64)
		}
		w.ring[word%n] &^= mask
	}
}

// MaxSequence is the last sequence number of an SA: 2^32-1, or 2^64-1 with
// extended sequence numbers (RFC 4303, Section 2.2).
func MaxSequence(extended bool) uint64 {
	if extended {
		return math.MaxUint64
	}
	return math.MaxUint32
}

// Expect returns the full sequence number of a packet that shows low, and whether
// it is new, as Check does. With extended sequence numbers the high half is
// inferred; seq is 0 where it cannot be.
func (w *Window) Expect(low uint32, extended bool) (seq uint64, ok bool) {
	seq = uint64(low)
	if extended {
		if seq, ok = w.Infer(low); !ok {
			return 0, false
		}
	}
	return seq, w.Check(seq)
}

// Infer completes the low 32 bits of an extended sequence number, which is all
// that the packet shows, with the high bits that put it nearest to the window
// (RFC 4303, Appendix A2.2). It returns false where that would be before the
// first packet or after the last possible one.
func (w *Window) Infer(low uint32) (seq uint64, ok bool) {
	topHigh, topLow := uint32(w.top>>32), uint32(w.top)
	bottom := topLow - uint32(w.width()-1) // modulo 2^32
	high := topHigh
	if uint64(topLow) >= w.width()-1 {
		// Case A: the window lies within one subspace of 2^32 numbers.
		if low < bottom {
			if topHigh == math.MaxUint32 {
				return 0, false
			}
			high++
		}
	} else if low >= bottom {
		// Case B: it spans two, and the number is in the lower one.
		if topHigh == 0 {
			return 0, false
		}
		high--
	}
	return uint64(high)<<32 | uint64(low), true
}
