package lanes

import (
	"testing"
	"unsafe"
)

// TestLayout compares the structures of this package with what the generator of
// the kernels believes.
func TestLayout(t *testing.T) {
	var (
		c cbcCall
		b blocksCall
		g hashGroup
		h hashCall
		d desCall
		a gcmCall
	)
	got := map[string]uintptr{
		"cbcCall.keys": unsafe.Offsetof(c.keys), "cbcCall.rounds": unsafe.Offsetof(c.rounds),
		"cbcCall.steps": unsafe.Offsetof(c.steps), "cbcCall.chain": unsafe.Offsetof(c.chain),
		"cbcCall.in": unsafe.Offsetof(c.in), "cbcCall.out": unsafe.Offsetof(c.out),
		"blocksCall.keys": unsafe.Offsetof(b.keys), "blocksCall.rounds": unsafe.Offsetof(b.rounds),
		"blocksCall.in": unsafe.Offsetof(b.in), "blocksCall.out": unsafe.Offsetof(b.out),
		"blocksCall.n": unsafe.Offsetof(b.n), "blocksCall.iv": unsafe.Offsetof(b.iv),
		"hashGroup.state": unsafe.Offsetof(g.state), "hashGroup.pend": unsafe.Offsetof(g.pend),
		"hashGroup.hold": unsafe.Offsetof(g.hold), "hashGroup": unsafe.Sizeof(g),
		"hashCall.groups": unsafe.Offsetof(h.groups), "hashCall.steps": unsafe.Offsetof(h.steps),
		"hashCall.in": unsafe.Offsetof(h.in), "hashCall.stride": unsafe.Offsetof(h.stride),
		"gcmCall.keys": unsafe.Offsetof(a.keys), "gcmCall.rounds": unsafe.Offsetof(a.rounds),
		"gcmCall.pow": unsafe.Offsetof(a.pow), "gcmCall.in": unsafe.Offsetof(a.in),
		"gcmCall.out": unsafe.Offsetof(a.out), "gcmCall.n": unsafe.Offsetof(a.n),
		"gcmCall.nonce": unsafe.Offsetof(a.nonce), "gcmCall.carry": unsafe.Offsetof(a.carry),
		"gcmCall.y": unsafe.Offsetof(a.y), "gcmCall.lens": unsafe.Offsetof(a.lens), "gcmCall.tag": unsafe.Offsetof(a.tag),
		"desCall.keys": unsafe.Offsetof(d.keys), "desCall.blocks": unsafe.Offsetof(d.blocks),
	}
	for field, want := range layout {
		if at, ok := got[field]; !ok || at != want {
			t.Errorf("%s is at %d, the generator has %d", field, at, want)
		}
	}
}
