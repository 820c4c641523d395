// Package timer holds what a protocol machine wants to do later. It has no clock:
// the machine says what time it is.
package timer

import (
	"slices"
	"time"
)

// Timer is one thing to do later, for a machine of type M. A nil Timer is one that
// is not running.
type Timer[M any] struct {
	at    time.Time
	about any
	fire  func(M) // nil once it has fired, or been stopped
}

// Running reports whether it has neither fired nor been stopped.
func (t *Timer[M]) Running() bool { return t != nil && t.fire != nil }

// Set is the timers of a machine. The zero value has none. A machine has few, so
// that they stand in a list.
type Set[M any] struct{ list []*Timer[M] }

// At does something at a time. about is what it is about, to be stopped or moved
// together; or nil.
func (s *Set[M]) At(at time.Time, about any, fire func(M)) *Timer[M] {
	t := &Timer[M]{at: at, about: about, fire: fire}
	s.list = append(s.list, t)
	return t
}

// Stop stops a timer, which may be nil or have fired.
func (s *Set[M]) Stop(t *Timer[M]) {
	if t.Running() {
		t.fire = nil
		s.list = slices.DeleteFunc(s.list, func(x *Timer[M]) bool { return x == t })
	}
}

// StopAll stops all.
func (s *Set[M]) StopAll() {
	for _, t := range s.list {
		t.fire = nil
	}
	s.list = nil
}

// StopAbout stops those about something, which is not nil.
func (s *Set[M]) StopAbout(about any) {
	s.list = slices.DeleteFunc(s.list, func(t *Timer[M]) bool {
		if t.about == about {
			t.fire = nil
		}
		return t.about == about
	})
}

// MoveAbout gives the timers that are about something to another machine.
func (s *Set[M]) MoveAbout(to *Set[M]) {
	s.list = slices.DeleteFunc(s.list, func(t *Timer[M]) bool {
		if t.about != nil {
			to.list = append(to.list, t)
		}
		return t.about != nil
	})
}

// Deadline is when the first timer fires, or the zero Time.
func (s *Set[M]) Deadline() time.Time {
	var first time.Time
	for _, t := range s.list {
		if first.IsZero() || t.at.Before(first) {
			first = t.at
		}
	}
	return first
}

// Fire lets the machine do what is due, while more says so: in the order of time,
// and among equals of their setting. What a timer sets for the same moment waits for
// the next Fire, so that this ends.
func (s *Set[M]) Fire(now time.Time, m M, more func() bool) {
	var due []*Timer[M]
	for _, t := range s.list {
		if !t.at.After(now) {
			due = append(due, t)
		}
	}
	slices.SortStableFunc(due, func(a, b *Timer[M]) int { return a.at.Compare(b.at) })
	for _, t := range due {
		if t.Running() && more() {
			fire := t.fire
			s.Stop(t)
			fire(m)
		}
	}
}
