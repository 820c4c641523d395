package esp

import (
	"sync"

	"caponier/internal/suite"
)

// sideBySide is how many packets go to the suite together.
const sideBySide = 64

// batch is scratch space for packets that are sealed side by side. It is too
// large for every SA to have its own.
type batch struct {
	lanes    *suite.Lanes
	jobs     [sideBySide]suite.Job
	extended [sideBySide]extended
}

var batches = sync.Pool{New: func() any { return &batch{lanes: suite.NewLanes()} }}

// release gives b back without keys in it.
func (b *batch) release() {
	b.lanes.Wipe()
	batches.Put(b)
}

// Serial reports whether a packet alone is slow, because each of its blocks waits
// for the one before, and SealBatch and OpenBatch are many times faster. For
// other suites Seal, SealFrom and Open are as good or better.
func (f *format) Serial() bool { return f.minBatch != 0 && !f.combined }

// SealBatch seals each item, side by side where the suite gains from it. One
// item's failure does not keep others back. No two items overlap in Dst.
func (o *Outbound) SealBatch(items []SealItem) {
	if o.minBatch == 0 || len(items) < int(o.minBatch) {
		for i := range items {
			it := &items[i]
			it.Len, it.Err = o.Seal(it.Dst, it.Inner, it.Seq, it.NextHeader)
		}
		return
	}
	b := batches.Get().(*batch)
	defer b.release()
	for len(items) > 0 {
		n := min(len(items), sideBySide)
		b.seal(o, items[:n])
		items = items[n:]
	}
}

func (b *batch) seal(o *Outbound, items []SealItem) {
	m := 0
	p := o.awake()
	for i := range items {
		it := &items[i]
		var padded int
		if padded, it.Len, it.Err = o.fit(it.Dst, it.Inner, it.Seq); it.Err != nil {
			continue
		}
		dst := it.Dst[:it.Len]
		j := &b.jobs[m]
		j.Src = o.place(dst, it.Inner, padded, it.NextHeader)
		j.Dst, j.IV = dst[o.HeadRoom():], o.putHeader(p, dst, it.Seq)
		j.AAD, j.Tail = o.authenticated(dst, it.Seq, &b.extended[m])
		m++
	}
	p.(suite.Batcher).SealBatch(b.lanes, b.jobs[:m])
	clear(b.jobs[:m])
}

// OpenBatch opens each item as if in order, side by side where the suite gains
// from it. No two items overlap.
func (in *Inbound) OpenBatch(items []OpenItem) {
	if in.minBatch == 0 || len(items) < int(in.minBatch) {
		for i := range items {
			it := &items[i]
			it.Inner, it.NextHeader, it.Seq, it.Err = in.Open(it.Packet)
		}
		return
	}
	b := batches.Get().(*batch)
	defer b.release()
	for len(items) > 0 {
		n := min(len(items), sideBySide)
		b.open(in, items[:n])
		items = items[n:]
	}
}

func (b *batch) open(in *Inbound, items []OpenItem) {
	m := 0
	for i := range items {
		it := &items[i]
		it.Inner, it.NextHeader = nil, 0
		if it.Seq, it.Err = in.expect(it.Packet); it.Err != nil {
			continue
		}
		head := in.HeadRoom()
		j := &b.jobs[m]
		j.Dst, j.Src, j.IV = it.Packet[head:], it.Packet[head:], it.Packet[HeaderLen:head]
		j.AAD, j.Tail = in.authenticated(it.Packet, it.Seq, &b.extended[m])
		m++
	}
	in.awake().(suite.Batcher).OpenBatch(b.lanes, b.jobs[:m])
	m = 0
	for i := range items {
		it := &items[i]
		if it.Err != nil {
			continue
		}
		failed := b.jobs[m].Err != nil
		m++
		switch {
		case failed:
			it.Err = ErrIntegrity
		case !in.window.Check(it.Seq): // it was in the batch before
			it.Err = ErrReplay
		default:
			in.window.Update(it.Seq)
			it.Inner, it.NextHeader, it.Err = in.unwrap(it.Packet)
		}
	}
	clear(b.jobs[:m])
}
