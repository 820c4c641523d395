package suite

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/lanes"
)

// batchers are the combinations of the registry that work side by side.
func batchers(t testing.TB) map[pair]Batcher {
	out := map[pair]Batcher{}
	for _, p := range pairs() {
		b, ok := newTestProtector(t, p, 1).(Batcher)
		if ok != worksSideBySide(p) {
			t.Fatalf("%s works side by side: %v", p, ok)
		}
		if ok {
			out[p] = b
		}
	}
	return out
}

// worksSideBySide says what should: SM4-GCM, SM4-CBC with HMAC-SM3, and what this
// machine has lanes for.
func worksSideBySide(p pair) bool {
	if p.encr.ID == ipsec.EncrSM4GCM16 || p.encr.ID == ipsec.EncrSM4CBC && p.integ.ID >= ipsec.IntegHMACSM3 {
		return true
	}
	encr := map[uint16]lanes.Feature{ipsec.EncrAESCBC: lanes.AESCBC, ipsec.Encr3DES: lanes.TripleDESCBC}
	integ := map[uint16]lanes.Feature{
		ipsec.IntegHMACMD596: lanes.HMACMD5, ipsec.IntegHMACSHA196: lanes.HMACSHA1, ipsec.IntegHMACSHA256128: lanes.HMACSHA256,
	}
	e, isEncr := encr[p.encr.ID]
	i, isInteg := integ[p.integ.ID]
	return isEncr && lanes.Supported(e) || isInteg && lanes.Supported(i)
}

// TestBatch compares batches of every shape with packets alone, which others
// judge.
func TestBatch(t *testing.T) {
	for pair, b := range batchers(t) {
		t.Run(pair.String(), func(t *testing.T) {
			alone := newTestProtector(t, pair, 1)
			rng := rand.NewChaCha8([32]byte{7})
			scratch := NewLanes()
			for _, count := range []int{1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 64, 65, 130} {
				jobs := make([]Job, count)
				var want, slabs [][]byte
				for i := range jobs {
					n := int(rng.Uint64()%1500) / b.BlockSize() * b.BlockSize()
					aad, tail := random(rng, 8), []byte(nil)
					switch {
					case i%5 == 4:
						aad = random(rng, 12)
					case i%3 == 0 && !b.Combined():
						tail = random(rng, 4)
					}
					iv, plain := random(rng, b.IVLen()), random(rng, n)
					sealed := make([]byte, n+b.ICVLen())
					alone.Seal(sealed, iv, plain, aad, tail)
					want = append(want, sealed)

					slab := append(make([]byte, n+b.ICVLen()), guard...)
					slabs = append(slabs, slab)
					jobs[i] = Job{Dst: slab[:n+b.ICVLen()], IV: iv, Src: plain, AAD: aad, Tail: tail}
					if i%2 == 0 {
						copy(slab, plain)
						jobs[i].Src = slab[:n]
					}
				}
				b.SealBatch(scratch, jobs)
				plains := make([][]byte, count)
				for i := range jobs {
					if !bytes.Equal(jobs[i].Dst, want[i]) || !bytes.HasSuffix(slabs[i], guard) {
						t.Fatalf("packet %d of %d: %x, want %x", i, count, slabs[i], want[i])
					}
					// Open: every third is not genuine.
					j := &jobs[i]
					plains[i] = make([]byte, len(j.Dst)-b.ICVLen())
					if err := alone.Open(plains[i], j.IV, want[i], j.AAD, j.Tail); err != nil {
						t.Fatal(err)
					}
					j.Src = j.Dst
					if i%4 == 1 {
						j.Dst = append(make([]byte, len(plains[i])), guard...)
					}
					if i%3 == 2 {
						j.Src = slices.Clone(j.Src)
						j.Src[int(rng.Uint64())&0xffff%len(j.Src)] ^= 1
						j.Dst = make([]byte, len(plains[i]))
					}
				}
				b.OpenBatch(scratch, jobs)
				for i := range jobs {
					j := &jobs[i]
					if i%3 == 2 {
						if !errors.Is(j.Err, ErrAuth) || !bytes.Equal(j.Dst, make([]byte, len(j.Dst))) {
							t.Fatalf("packet %d of %d: rubbish gives %v, %x", i, count, j.Err, j.Dst)
						}
						continue
					}
					if j.Err != nil || !bytes.Equal(j.Dst[:len(plains[i])], plains[i]) {
						t.Fatalf("packet %d of %d: %v", i, count, j.Err)
					}
					if !bytes.HasSuffix(slabs[i], guard) || i%4 == 1 && !bytes.HasSuffix(j.Dst, guard) {
						t.Fatalf("packet %d of %d: OpenBatch wrote behind", i, count)
					}
				}
				scratch.Wipe()
			}
		})
	}
}

// TestBatchRefuses gives OpenBatch what has no form, among what has.
func TestBatchRefuses(t *testing.T) {
	for pair, b := range batchers(t) {
		plain := make([]byte, 64)
		iv := make([]byte, b.IVLen())
		sealed := make([]byte, len(plain)+b.ICVLen())
		b.Seal(sealed, iv, plain, make([]byte, 8), nil)
		var jobs []Job
		for n := range sealed {
			jobs = append(jobs, Job{Dst: make([]byte, 64), IV: iv, Src: sealed[:n], AAD: make([]byte, 8)})
		}
		jobs = append(jobs,
			Job{Dst: make([]byte, 64), IV: append(iv[:len(iv):len(iv)], 0), Src: sealed, AAD: make([]byte, 8)},
			Job{Dst: make([]byte, 64), IV: iv, Src: sealed, AAD: make([]byte, 8), Tail: []byte{0}},
			Job{Dst: make([]byte, 64), IV: iv, Src: sealed, AAD: make([]byte, 8)})
		b.OpenBatch(NewLanes(), jobs)
		for i := range jobs {
			if genuine := i == len(jobs)-1; (jobs[i].Err == nil) != genuine {
				t.Errorf("%s: packet %d of %d octets: %v", pair, i, len(jobs[i].Src), jobs[i].Err)
			}
		}
	}
}

func TestBatchesDoNotAllocate(t *testing.T) {
	for pair, b := range batchers(t) {
		scratch := NewLanes()
		jobs := make([]Job, 48)
		for i := range jobs {
			n := 16 * (i + 1)
			dst := make([]byte, n+b.ICVLen())
			jobs[i] = Job{Dst: dst, Src: dst[:n], IV: make([]byte, b.IVLen()), AAD: make([]byte, 8)}
		}
		if got := testing.AllocsPerRun(50, func() {
			b.SealBatch(scratch, jobs)
			for i := range jobs {
				jobs[i].Src = jobs[i].Dst
			}
			b.OpenBatch(scratch, jobs)
			for i := range jobs {
				if jobs[i].Err != nil {
					t.Fatal(jobs[i].Err)
				}
				jobs[i].Src = jobs[i].Dst[:16*(i+1)]
			}
			scratch.Wipe()
		}); got != 0 {
			t.Errorf("%s: %v allocations", pair, got)
		}
	}
}

func BenchmarkBatch(b *testing.B) {
	for pair, p := range batchers(b) {
		for _, size := range []int{64, 256, 1408} {
			for _, count := range []int{0, 1, 2, 4, 8, 16, 32, 45, 64} { // 0: without Lanes
				b.Run(fmt.Sprintf("suite=%s/size=%d/batch=%d", pair, size, count), func(b *testing.B) {
					scratch := NewLanes()
					jobs := make([]Job, max(1, count))
					for i := range jobs {
						dst := make([]byte, size+p.ICVLen())
						jobs[i] = Job{Dst: dst, Src: dst[:size], IV: make([]byte, p.IVLen()), AAD: make([]byte, 8)}
					}
					b.SetBytes(int64(size * len(jobs)))
					for b.Loop() {
						if count == 0 {
							p.Seal(jobs[0].Dst, jobs[0].IV, jobs[0].Src, jobs[0].AAD, nil)
							continue
						}
						p.SealBatch(scratch, jobs)
						scratch.Wipe()
					}
				})
			}
		}
	}
}
