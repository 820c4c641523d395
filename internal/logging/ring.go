package logging

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Record is a log record as operators read it.
type Record struct {
	Time       time.Time  `json:"time"`
	Level      slog.Level `json:"level"`
	Message    string     `json:"message"`
	Subsystem  string     `json:"subsystem,omitempty"`
	Connection string     `json:"connection,omitempty"`
	// Attrs are the other attributes in order; the keys of groups are joined by
	// dots.
	Attrs []Attr `json:"attrs,omitempty"`
}

// Attr is one attribute of a Record, its value in words.
type Attr struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Filter chooses records. Its zero value lets all pass that are at least at
// level info.
type Filter struct {
	Connection string     // empty: all, and records of no connection
	Subsystem  string     // empty: all
	Level      slog.Level // the lowest level that passes
}

// Match reports whether r passes.
func (f Filter) Match(r Record) bool {
	return r.Level >= f.Level &&
		(f.Connection == "" || f.Connection == r.Connection) &&
		(f.Subsystem == "" || f.Subsystem == r.Subsystem)
}

// Ring keeps the last log records in memory. It may be used by several
// goroutines at once; writing to it never blocks on a reader.
type Ring struct {
	mu      sync.Mutex
	records []Record      // record n is at n % len
	next    uint64        // number of the next record
	wake    chan struct{} // nil while nobody waits
}

// NewRing makes a Ring for the last size records, at least one.
func NewRing(size int) *Ring {
	return &Ring{records: make([]Record, max(size, 1))}
}

// Add keeps r and drops the oldest record of a full ring.
func (r *Ring) Add(rec Record) {
	r.mu.Lock()
	r.records[r.next%uint64(len(r.records))] = rec
	r.next++
	if r.wake != nil {
		close(r.wake)
		r.wake = nil
	}
	r.mu.Unlock()
}

// since returns the kept records from number n on, the number after them, and a
// channel that is closed at the next Add.
func (r *Ring) since(n uint64) ([]Record, uint64, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size := uint64(len(r.records)); r.next > size {
		n = max(n, r.next-size)
	}
	out := make([]Record, 0, r.next-n)
	for ; n < r.next; n++ {
		out = append(out, r.records[n%uint64(len(r.records))])
	}
	if r.wake == nil {
		r.wake = make(chan struct{})
	}
	return out, r.next, r.wake
}

// Stream passes the kept records that match to emit, the oldest first, and with
// follow goes on until ctx ends, which is no error. A reader that is slower than
// the log misses records. Stream returns at once what emit returns.
func (r *Ring) Stream(ctx context.Context, f Filter, follow bool, emit func(Record) error) error {
	var next uint64
	for {
		records, n, wake := r.since(next)
		next = n
		for _, rec := range records {
			if !f.Match(rec) {
				continue
			}
			if err := emit(rec); err != nil {
				return err
			}
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		}
	}
}
