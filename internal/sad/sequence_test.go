package sad

import (
	"encoding/binary"
	"math"
	"testing"

	"caponier/internal/esp"
	"caponier/internal/ipsec"
)

// Without extended sequence numbers an SA is asked to be replaced long before the
// last of 2^32 numbers, stops at it, and never begins again (RFC 4303, Section
// 3.3.3): not even where several workers go on asking for numbers.
func TestSequenceNumbersNeverWrap(t *testing.T) {
	const last = math.MaxUint32
	db := newDB(2)
	sa := newSA(t, ipsec.Out, 0x1000)
	sa.Sequence = last - last/8 - 2
	add(t, db, sa)
	w := db.Worker(0)
	sealed := func(n int) (list []esp.SealItem, events []ipsec.Event) {
		w.Begin(start)
		list = items(n, 60)
		w.Seal(w.Outbound(ipsec.ESP, sa.ReqID, info(list[0].Inner)), list)
		return list, w.End()
	}
	if _, events := sealed(1); len(events) != 0 {
		t.Errorf("too early: %v", events)
	}
	_, events := sealed(1)
	if len(events) != 1 || events[0].(ipsec.Expire).Hard {
		t.Fatalf("half a billion packets before the end: %v", events)
	}
	// More than 2^29 packets may still leave: at 10 million in a second almost a
	// minute, many times what a rekey takes.
	if left := uint64(last) - db.Status()[0].Sequence; left < 1<<29-1 {
		t.Errorf("only %d numbers are left", left)
	}
	if _, events = sealed(3); len(events) != 0 {
		t.Errorf("asked again: %v", events)
	}

	db.mu.Lock()
	out := db.outs[sa.ID()]
	db.mu.Unlock()
	out.sequence.Store(last - 2)
	list, events := sealed(4)
	for i := range list {
		if i >= 2 {
			if list[i].Err != esp.ErrSequence {
				t.Errorf("packet %d past the last number: %v", i, list[i].Err)
			}
			continue
		}
		if got := binary.BigEndian.Uint32(list[i].Dst[4:]); list[i].Err != nil || got != uint32(last-1+i) {
			t.Errorf("packet %d has number %d, %v", i, got, list[i].Err)
		}
	}
	if len(events) != 1 || !events[0].(ipsec.Expire).Hard {
		t.Errorf("at the end: %v", events)
	}
	for range 1000 {
		if list, _ = sealed(64); list[0].Err == nil || list[63].Err == nil {
			t.Fatal("a number was used again")
		}
	}
}
