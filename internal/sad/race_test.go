package sad

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"caponier/internal/ipsec"
)

// TestWorkersAndWriter is for the race detector: workers carry traffic while
// the writer rekeys, moves and looks at the SAs. No sequence number of an SA
// may appear twice, and no packet may be sealed with a wiped key.
func TestWorkersAndWriter(t *testing.T) {
	const workers, rounds = 2, 150
	db := newDB(workers)
	add(t, db, newSA(t, ipsec.Out, 0x1000))
	add(t, db, newSA(t, ipsec.In, 0x1000))

	var mu sync.Mutex // guards seen
	seen := map[[2]uint64]bool{}
	var stop atomic.Bool
	var batches [workers]atomic.Uint64
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			w := db.Worker(i)
			list := items(8, 60)
			for !stop.Load() {
				w.Begin(time.Now())
				out := w.Outbound(ipsec.ESP, 7, info(list[0].Inner))
				if out == nil {
					t.Error("there is always an SA, but none was found")
					w.End()
					return
				}
				spi := out.SA().SPI
				_ = out.Endpoint().Remote
				w.Seal(out, list)
				for k := range list {
					if list[k].Err != nil {
						t.Errorf("seal: %v", list[k].Err)
						continue
					}
					if in := w.Inbound(ipsec.ESP, spi); in != nil {
						got, _, err := w.Open(in, list[k].Dst[:list[k].Len], moved)
						if err != nil || !bytes.Equal(got, list[k].Inner) {
							t.Errorf("open: %v", err)
						}
					}
				}
				w.End()
				batches[i].Add(1)
				mu.Lock()
				for k := range list {
					key := [2]uint64{uint64(spi), list[k].Seq}
					if seen[key] {
						t.Errorf("sequence number %d of %s twice", list[k].Seq, spi)
					}
					seen[key] = true
				}
				mu.Unlock()
			}
		})
	}
	old := []ipsec.SAID{}
	for _, s := range db.Status() {
		old = append(old, s.ID)
	}
	for round := range rounds {
		spi := ipsec.SPI(0x1001 + round)
		in, out := newSA(t, ipsec.In, spi), newSA(t, ipsec.Out, spi)
		fresh := []ipsec.SAID{add(t, db, in), add(t, db, out)}
		to := Endpoint{Local: local, Remote: remote, Encap: round%2 == 0}
		if err := db.Update(fresh[0], to); err != nil {
			t.Error(err)
		}
		for _, id := range old {
			if err := db.Delete(id); err != nil {
				t.Error(err)
			}
		}
		old = fresh
		db.Status()
		db.Expire(time.Now())
		time.Sleep(100 * time.Microsecond)
	}
	for i := range batches {
		for batches[i].Load() == 0 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
	}
	stop.Store(true)
	wg.Wait()
	if n := db.Reclaim(); n != 0 {
		t.Errorf("%d deleted SAs are left with idle workers", n)
	}
	if len(seen) < 16 {
		t.Errorf("only %d packets were sealed", len(seen))
	}
}
