package esp

import (
	"bytes"
	"fmt"
	"testing"
)

// sealItems are count packets of many lengths; every third lies where it is to be
// sealed.
func sealItems(out *Outbound, first uint64, count int) []SealItem {
	items := make([]SealItem, count)
	for i := range items {
		inner := innerPacket(4, 28+i*37%1400)
		dst := make([]byte, out.SealedLen(len(inner)))
		if i%3 == 0 {
			copy(dst[out.HeadRoom():], inner)
			inner = dst[out.HeadRoom():][:len(inner)]
		}
		items[i] = SealItem{Dst: dst, Inner: inner, Seq: first + uint64(i), NextHeader: NextIPv4}
	}
	return items
}

// TestSealBatchSeals opens what batches of every suite and shape seal, across the
// point where extended sequence numbers roll over.
func TestSealBatchSeals(t *testing.T) {
	for _, a := range all {
		for _, esn := range []bool{false, true} {
			out, in := pair(t, a, esn)
			seq := uint64(1)
			if esn {
				seq = 1<<32 - 100
				in.window.Update(seq - 1)
			}
			for _, count := range []int{0, 1, 2, 3, 4, 17, 33, 64, 65, 130} {
				items := sealItems(out, seq, count)
				inners := make([][]byte, count)
				for i := range items {
					inners[i] = bytes.Clone(items[i].Inner)
				}
				if count > 3 {
					items[1].Dst = items[1].Dst[:len(items[1].Dst)-1]
					items[2].Seq = 0
				}
				out.SealBatch(items)
				for i := range items {
					it := &items[i]
					if count > 3 && (i == 1 || i == 2) {
						if want := map[int]Drop{1: ErrSpace, 2: ErrSequence}[i]; it.Err != want || it.Len != 0 {
							t.Errorf("%s: bad item %d gives %d, %v", a.name, i, it.Len, it.Err)
						}
						continue
					}
					if it.Err != nil || it.Len != len(it.Dst) {
						t.Fatalf("%s, item %d of %d: %d, %v", a.name, i, count, it.Len, it.Err)
					}
					got, _, gotSeq, err := in.Open(it.Dst)
					if err != nil || gotSeq != it.Seq || !bytes.Equal(got, inners[i]) {
						t.Fatalf("%s, ESN %t, item %d of %d: seq %d, %v", a.name, esn, i, count, gotSeq, err)
					}
				}
				seq += uint64(count)
			}
		}
	}
}

func TestSealBatchDoesNotAllocate(t *testing.T) {
	for _, a := range all {
		out, _ := pair(t, a, true)
		items := sealItems(out, 1, 100)
		if n := testing.AllocsPerRun(50, func() {
			out.SealBatch(items)
			for i := range items {
				if items[i].Err != nil {
					t.Fatal(items[i].Err)
				}
			}
		}); n != 0 && poolKeeps {
			t.Errorf("%s: %v allocations", a.name, n)
		}
	}
}

// TestOpenBatchOpens gives batches with forgeries, replays from before and within
// the batch, and packets that are short, and compares with packets alone.
func TestOpenBatchOpens(t *testing.T) {
	for _, a := range all {
		for _, esn := range []bool{false, true} {
			out, alone := pair(t, a, esn)
			_, in := pair(t, a, esn)
			seq := uint64(1)
			if esn {
				seq = 1<<32 - 100
				alone.window.Update(seq - 1)
				in.window.Update(seq - 1)
			}
			var last []byte
			for _, count := range []int{0, 1, 2, 3, 4, 17, 33, 64, 65, 130} {
				var packets [][]byte
				for _, it := range sealItems(out, seq, count) {
					packets = append(packets, sealed(t, out, it.Inner, it.Seq, NextIPv4))
				}
				if count > 10 {
					packets[3][len(packets[3])-1] ^= 1
					packets[5] = bytes.Clone(packets[4])
					packets[6] = packets[6][:40]
					packets[7] = bytes.Clone(last)
					packets[8], packets[9] = packets[9], packets[8]
				}
				if count > 0 {
					last = bytes.Clone(packets[count-1])
				}
				items, want := make([]OpenItem, count), make([]OpenItem, count)
				for i := range items {
					items[i].Packet, want[i].Packet = packets[i], bytes.Clone(packets[i])
					w := &want[i]
					w.Inner, w.NextHeader, w.Seq, w.Err = alone.Open(w.Packet)
				}
				in.OpenBatch(items)
				for i := range items {
					g, w := &items[i], &want[i]
					if g.Err != w.Err || g.Seq != w.Seq || g.NextHeader != w.NextHeader || !bytes.Equal(g.Inner, w.Inner) {
						t.Fatalf("%s, ESN %t, item %d of %d: %d, seq %d, %v, want %d, seq %d, %v",
							a.name, esn, i, count, len(g.Inner), g.Seq, g.Err, len(w.Inner), w.Seq, w.Err)
					}
				}
				if in.Top() != alone.Top() {
					t.Fatalf("%s: top %d, want %d", a.name, in.Top(), alone.Top())
				}
				seq += uint64(count)
			}
		}
	}
}

func BenchmarkSealBatch(b *testing.B) {
	for _, a := range append([]algorithms{gcm128, cbc256}, national...) {
		for _, size := range []int{64, 1400} {
			for _, count := range []int{1, 4, 16, 32, 45, 64} {
				b.Run(fmt.Sprintf("encr=%s/size=%d/batch=%d", a.name, size, count), func(b *testing.B) {
					out, _ := pair(b, a, false)
					items := make([]SealItem, count)
					for i := range items {
						dst := make([]byte, out.SealedLen(size))
						copy(dst[out.HeadRoom():], innerPacket(4, size))
						items[i] = SealItem{Dst: dst, Inner: dst[out.HeadRoom():][:size], NextHeader: NextIPv4}
					}
					b.SetBytes(int64(size * count))
					b.ReportAllocs()
					seq := uint64(0)
					for b.Loop() {
						for i := range items {
							seq++
							items[i].Seq = seq
						}
						out.SealBatch(items)
					}
				})
			}
		}
	}
}

func BenchmarkOpenBatch(b *testing.B) {
	for _, a := range append([]algorithms{gcm128, cbc256}, national...) {
		for _, size := range []int{64, 1400} {
			for _, count := range []int{1, 4, 16, 32, 64} {
				b.Run(fmt.Sprintf("encr=%s/size=%d/batch=%d", a.name, size, count), func(b *testing.B) {
					out, in := pair(b, a, false)
					items, packets := make([]OpenItem, count), make([][]byte, count)
					for i := range items {
						packets[i] = sealed(b, out, innerPacket(4, size), uint64(i+1), NextIPv4)
						items[i].Packet = make([]byte, len(packets[i]))
					}
					b.SetBytes(int64(size * count))
					b.ReportAllocs()
					for b.Loop() {
						in.window.Init(0)
						for i := range items {
							copy(items[i].Packet, packets[i])
						}
						in.OpenBatch(items)
						if items[count-1].Err != nil {
							b.Fatal(items[count-1].Err)
						}
					}
				})
			}
		}
	}
}
