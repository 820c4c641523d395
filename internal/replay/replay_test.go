package replay

import (
	"math"
	"math/rand/v2"
	"testing"
)

// reference is the definition of the window, with unlimited memory.
type reference struct {
	seen map[uint64]bool
	top  uint64
	size uint64
}

func (r *reference) check(seq uint64) bool {
	if seq == 0 || r.seen[seq] {
		return false
	}
	return seq > r.top || r.top-seq < r.size
}

func (r *reference) update(seq uint64) bool {
	if !r.check(seq) {
		return false
	}
	r.seen[seq] = true
	r.top = max(r.top, seq)
	return true
}

func window(t testing.TB, size int) *Window {
	t.Helper()
	w := &Window{}
	if err := w.Init(size); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestWindowAgreesWithItsDefinition(t *testing.T) {
	starts := []uint64{1, 31, 64, math.MaxUint32 - 500, math.MaxUint64 - 300_000}
	for _, size := range []int{32, 33, 63, 64, 65, 100, 1024, 4095, 4096, 4097, 5000, 8192, 65535, 65536} {
		for _, start := range starts {
			rng := rand.New(rand.NewPCG(uint64(size), start))
			w := window(t, size)
			ref := &reference{seen: map[uint64]bool{}, size: uint64(size)}
			at := start
			for i := range 4000 {
				var seq uint64
				switch rng.IntN(8) {
				case 0: // a jump
					at += rng.Uint64N(uint64(size) / 8)
					seq = at
				case 1: // somewhere around the lower edge
					seq = at - uint64(size) + rng.Uint64N(16) - 8
				case 2: // inside, new or seen
					seq = at - rng.Uint64N(uint64(size))
				default:
					at++
					seq = at
				}
				if seq > at { // below zero
					seq = 0
				}
				want := ref.check(seq)
				if got := w.Check(seq); got != want {
					t.Fatalf("size %d, step %d: Check(%d) = %t, top %d", size, i, seq, got, ref.top)
				}
				if got := ref.update(seq); w.Update(seq) != got || w.Top() != ref.top {
					t.Fatalf("size %d, step %d: Update(%d) is not %t, top %d of %d", size, i, seq, got, w.Top(), ref.top)
				}
			}
		}
	}
}

func TestJumpsOfEveryLength(t *testing.T) {
	for _, size := range []int{32, 64, 100, 4096, 4097} {
		for jump := uint64(1); jump < 3*uint64(size)+130; jump += 1 + jump/97 {
			w := window(t, size)
			for seq := uint64(1); seq <= 2*uint64(size); seq++ {
				if !w.Update(seq) {
					t.Fatalf("size %d: %d refused", size, seq)
				}
			}
			top := 2*uint64(size) + jump
			w.Update(top)
			for seq := top - uint64(size) + 1; seq <= top; seq++ {
				want := seq > 2*uint64(size) && seq != top
				if w.Check(seq) != want {
					t.Fatalf("size %d, jump %d: Check(%d) is not %t", size, jump, seq, want)
				}
			}
			if w.Check(top - uint64(size)) {
				t.Fatalf("size %d, jump %d: the number before the window passes", size, jump)
			}
		}
	}
}

func TestZeroWindowProtects(t *testing.T) {
	var w Window
	if w.Size() != DefaultSize {
		t.Errorf("size %d", w.Size())
	}
	if w.Check(0) || w.Update(0) {
		t.Error("sequence number 0 passes")
	}
	if !w.Update(1) || w.Update(1) {
		t.Error("a replay passes")
	}
	if !w.Update(1+DefaultSize) || w.Check(1) || !w.Check(2) {
		t.Error("wrong lower edge")
	}
}

func TestInit(t *testing.T) {
	for _, size := range []int{-1, 1, 31, MaxSize + 1} {
		if (&Window{}).Init(size) == nil {
			t.Errorf("size %d is accepted", size)
		}
	}
	w := window(t, 0)
	if w.Size() != DefaultSize {
		t.Errorf("size 0 gives %d", w.Size())
	}
	w.Update(7)
	if err := w.Init(64); err != nil || !w.Check(7) || w.Size() != 64 {
		t.Error("Init does not empty the window")
	}
}

// TestInferFindsTheNearest: for each window position, the high half that Infer
// chooses is the one of a number from the window or after it, within 2^32.
func TestInferFindsTheNearest(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const size = 64
	tops := []uint64{
		0, 1, 62, 63, 64, 1 << 31, math.MaxUint32 - 1, math.MaxUint32, 1 << 32, 1<<32 + 1, 1<<32 + 62, 1<<32 + 63,
		1<<32 + 64, 5<<32 - 1, 5 << 32, 5<<32 + 30, math.MaxUint64 - 10, math.MaxUint64,
	}
	for range 2000 {
		tops = append(tops, rng.Uint64()>>rng.IntN(60))
	}
	for _, top := range tops {
		w := window(t, size)
		w.Update(top)
		lows := []uint32{0, 1, math.MaxUint32, uint32(top), uint32(top + 1), uint32(top - size + 1), uint32(top - size)}
		for range 20 {
			lows = append(lows, rng.Uint32())
		}
		for _, low := range lows {
			got, ok := w.Infer(low)
			// The candidates in order; the right one is the first not before the window.
			want, found := uint64(0), false
			for _, delta := range []int64{-1, 0, 1} {
				high := int64(top>>32) + delta
				if high < 0 || high > math.MaxUint32 {
					continue
				}
				seq := uint64(high)<<32 | uint64(low)
				if before := top-seq < 1<<63 && seq <= top && top-seq >= size; !before {
					want, found = seq, true
					break
				}
			}
			// While the window reaches below 0, its bottom is taken modulo 2^64.
			if top < size-1 && low >= uint32(top-size+1) {
				found = false
			}
			if ok != found || ok && got != want {
				t.Fatalf("top %d, low %d: Infer = %d, %t; want %d, %t", top, low, got, ok, want, found)
			}
		}
	}
}

func TestESNRollsOver(t *testing.T) {
	w := window(t, 4096)
	start := uint64(3)<<32 - 6000
	w.Update(start)
	for seq := start + 1; seq < start+12000; seq++ {
		got, ok := w.Infer(uint32(seq))
		if !ok || got != seq || !w.Update(seq) {
			t.Fatalf("%#x: Infer = %#x, %t", seq, got, ok)
		}
		// A late packet, and its replay.
		late := seq - 4000
		if late > start {
			if got, ok := w.Infer(uint32(late)); !ok || got != late || w.Check(late) {
				t.Fatalf("late %#x: Infer = %#x, %t", late, got, ok)
			}
		}
	}
}

func TestNoAllocs(t *testing.T) {
	var w Window
	seq := uint64(0)
	if n := testing.AllocsPerRun(1000, func() {
		seq += 3
		w.Infer(uint32(seq))
		w.Check(seq)
		w.Update(seq)
		w.Update(seq - 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkUpdate(b *testing.B) {
	var w Window
	seq := uint64(0)
	for b.Loop() {
		seq++
		if !w.Check(seq) || !w.Update(seq) {
			b.Fatal(seq)
		}
	}
}
