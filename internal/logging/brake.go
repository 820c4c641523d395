package logging

import (
	"log/slog"
	"sync"
	"time"
)

// Brake limits how often a message is logged that a stranger can provoke: a
// number of times in each interval. It counts what it suppresses. It may be used
// by several goroutines at once.
type Brake struct {
	burst    int
	interval time.Duration
	now      func() time.Time

	mu         sync.Mutex
	began      time.Time // of the current interval
	passed     int
	suppressed uint64
}

// NewBrake lets burst messages pass in each interval.
func NewBrake(burst int, interval time.Duration) *Brake {
	return &Brake{burst: burst, interval: interval, now: time.Now}
}

// Limit reports whether a message may be logged now. The logger that it returns
// is l, with the number of messages suppressed since the last one that passed
// where there were any.
func (b *Brake) Limit(l *slog.Logger) (*slog.Logger, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if b.began.IsZero() || now.Sub(b.began) >= b.interval {
		b.began, b.passed = now, 0
	}
	if b.passed >= b.burst {
		b.suppressed++
		return l, false
	}
	b.passed++
	if b.suppressed > 0 {
		l = l.With("suppressed", b.suppressed)
		b.suppressed = 0
	}
	return l, true
}
