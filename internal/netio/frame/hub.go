package frame

import (
	"errors"
	"maps"
	"sync/atomic"

	"caponier/internal/netio"
)

// Hub is what a data plane has of a capture: readers of what is ours, and writers
// of what leaves.
type Hub struct {
	// Constant after NewHub.
	capture Capture
	ways    Ways
	ports   map[int]*Port
	readers []*Reader

	steering atomic.Pointer[Steering]
	counters counters
}

// counters are totals that do not belong to one lane.
type counters struct {
	framed   atomic.Uint64 // packets that left as frames
	fellBack atomic.Uint64 // packets that took the kernel's way
	unsent   atomic.Uint64 // frames that did not leave
	foreign  atomic.Uint64 // frames that turned out not to be ours
}

// NewHub makes the hub of a capture, both of which it closes.
func NewHub(c Capture, w Ways) *Hub {
	h := &Hub{capture: c, ways: w, ports: make(map[int]*Port)}
	h.steering.Store(new(Steering))
	ports := c.Ports()
	for i := range ports {
		p := &ports[i]
		h.ports[p.Index] = p
		for _, s := range p.Queues {
			h.readers = append(h.readers, newReader(h, s))
		}
	}
	return h
}

// Steer says what is taken from the kernel from now on.
func (h *Hub) Steer(s Steering) error {
	h.steering.Store(&s)
	return h.capture.Steer(s)
}

// Admit says that there is an inbound SA from now on, before its peer may send. An
// error says why captures do not drop the packets of strangers any more.
func (h *Hub) Admit(sa SA) error {
	if s, ok := h.capture.(Sifter); ok {
		return s.Admit(sa)
	}
	return nil
}

// Dismiss says that an inbound SA is gone.
func (h *Hub) Dismiss(sa SA) {
	if s, ok := h.capture.(Sifter); ok {
		s.Dismiss(sa)
	}
}

// Sift has sealed packets for which no SA was admitted dropped where they arrive, if
// the capture can, or ends that.
func (h *Hub) Sift(on bool) error {
	if s, ok := h.capture.(Sifter); ok {
		return s.Sift(on)
	}
	return nil
}

// Readers returns one for each socket.
func (h *Hub) Readers() []*Reader { return h.readers }

// Writer makes the writer of one lane, for packets that go by the way of the kind.
// What cannot leave as a frame goes to fallback.
func (h *Hub) Writer(k WriterKind, lane int, fallback netio.Writer) *Writer {
	return newWriter(h, k, lane, fallback)
}

// Counters returns totals by name.
func (h *Hub) Counters() map[string]uint64 {
	out := maps.Clone(h.capture.Counters())
	out["frames-sent"] = h.counters.framed.Load()
	out["frames-by-kernel"] = h.counters.fellBack.Load()
	out["frames-unsent"] = h.counters.unsent.Load()
	out["frames-foreign"] = h.counters.foreign.Load()
	return out
}

// Close ends the capture.
func (h *Hub) Close() error { return errors.Join(h.capture.Close(), h.ways.Close()) }
