package stream

import (
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	w := window{size: 100}
	for i, tc := range []struct {
		sent, received uint64
		now            time.Duration
		want           int
	}{
		{0, 0, 0, 100},
		{100, 0, time.Millisecond, 0},
		{100, 40, 2 * time.Millisecond, 40},
		{140, 40, 3 * time.Millisecond, 0},
		{140, 40, 2*time.Millisecond + lost, 0},
		{140, 40, 3*time.Millisecond + lost, 100},  // 100 are given up
		{240, 40, 4*time.Millisecond + lost, 0},    // the next wait again
		{240, 140, 5*time.Millisecond + lost, 100}, // whichever have come
		{240, 240, 6*time.Millisecond + lost, 100}, // late ones make no more room,
		{340, 240, 7*time.Millisecond + lost, 0},   // and are not given up any more
	} {
		if got := w.room(tc.sent, tc.received, tc.now); got != tc.want {
			t.Errorf("%d: room for %d, want %d", i, got, tc.want)
		}
	}
}
