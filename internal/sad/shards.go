package sad

import (
	"maps"
	"sync/atomic"
)

// shards is a map for one writer and many readers: immutable maps that the
// writer replaces, divided so that a replacement copies little.
type shards[V any] struct {
	maps [256]atomic.Pointer[map[uint64]V]
}

// of picks the shard by Fibonacci hashing, because low bits of an SPI have a
// meaning.
func (s *shards[V]) of(key uint64) *atomic.Pointer[map[uint64]V] {
	return &s.maps[key*0x9e3779b97f4a7c15>>56]
}

// get may be called by readers at any time.
func (s *shards[V]) get(key uint64) (V, bool) {
	m := s.of(key).Load()
	if m == nil {
		var none V
		return none, false
	}
	v, ok := (*m)[key]
	return v, ok
}

func (s *shards[V]) set(key uint64, v V) {
	s.change(key, func(m map[uint64]V) { m[key] = v })
}

func (s *shards[V]) unset(key uint64) {
	s.change(key, func(m map[uint64]V) { delete(m, key) })
}

func (s *shards[V]) change(key uint64, f func(map[uint64]V)) {
	p := s.of(key)
	m := make(map[uint64]V)
	if old := p.Load(); old != nil {
		m = maps.Clone(*old)
	}
	f(m)
	p.Store(&m)
}
