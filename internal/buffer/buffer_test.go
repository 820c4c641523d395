package buffer

import (
	"bytes"
	"testing"
)

func TestOverlap(t *testing.T) {
	b := make([]byte, 32)
	for _, c := range []struct {
		name             string
		x, y             []byte
		overlap, inexact bool
	}{
		{"the same", b[4:8], b[4:8], true, false},
		{"the same start", b[4:8], b[4:16], true, false},
		{"one octet", b[4:8], b[7:9], true, true},
		{"within", b[4:16], b[6:8], true, true},
		{"side by side", b[4:8], b[8:12], false, false},
		{"empty within", b[4:8], b[5:5], false, false},
		{"both empty", b[4:4], b[4:4], false, false},
		{"nil", nil, b, false, false},
		{"other memory", b, make([]byte, 32), false, false},
	} {
		for range 2 {
			if got := Overlap(c.x, c.y); got != c.overlap {
				t.Errorf("%s: overlap %t", c.name, got)
			}
			if got := InexactOverlap(c.x, c.y); got != c.inexact {
				t.Errorf("%s: inexact overlap %t", c.name, got)
			}
			c.x, c.y = c.y, c.x
		}
	}
}

func TestExtend(t *testing.T) {
	b := append(make([]byte, 0, 8), "abc"...)
	all, more := Extend(b, 5)
	if len(all) != 8 || len(more) != 5 || &all[0] != &b[0] || &more[0] != &all[3] {
		t.Errorf("with room: %d and %d octets", len(all), len(more))
	}
	all, more = Extend(b, 6)
	if !bytes.Equal(all[:3], b) || len(more) != 6 || &all[0] == &b[0] || &more[0] != &all[3] {
		t.Errorf("without room: %q and %d octets", all, len(more))
	}
	if all, more = Extend(nil, 0); len(all)+len(more) != 0 {
		t.Errorf("nothing: %d and %d octets", len(all), len(more))
	}
	if n := testing.AllocsPerRun(10, func() { Extend(b, 5) }); n != 0 {
		t.Errorf("%v allocations with room", n)
	}
}
