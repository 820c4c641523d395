package timer

import (
	"slices"
	"testing"
	"time"
)

type machine struct {
	set  Set[*machine]
	done []string
	over bool
}

func (m *machine) at(seconds int, name string, about any) *Timer[*machine] {
	return m.set.At(time.Unix(int64(seconds), 0), about, func(m *machine) { m.done = append(m.done, name) })
}

func (m *machine) fire(seconds int) []string {
	m.done = nil
	m.set.Fire(time.Unix(int64(seconds), 0), m, func() bool { return !m.over })
	return m.done
}

// TestFire fires what is due, in order, once.
func TestFire(t *testing.T) {
	m := &machine{}
	if !m.set.Deadline().IsZero() {
		t.Error("a deadline without timers")
	}
	m.at(3, "c", nil)
	m.at(1, "a", nil)
	stopped := m.at(1, "not", nil)
	m.at(1, "b", nil)
	m.at(9, "late", nil)
	m.set.Stop(stopped)
	m.set.Stop(stopped)
	m.set.Stop(nil)
	if stopped.Running() || (*Timer[*machine])(nil).Running() || m.set.Deadline().Unix() != 1 {
		t.Error("a stopped timer counts")
	}
	if got := m.fire(0); got != nil {
		t.Errorf("before its time: %v", got)
	}
	if got := m.fire(3); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("fired %v", got)
	}
	if got := m.fire(3); got != nil || m.set.Deadline().Unix() != 9 {
		t.Errorf("fired again: %v", got)
	}
	m.set.StopAll()
	if got := m.fire(9); got != nil || !m.set.Deadline().IsZero() {
		t.Errorf("fired though all were stopped: %v", got)
	}
}

// TestFireEnds leaves what a timer sets for the same moment, and all when the machine
// is over; and one timer can stop another that is due.
func TestFireEnds(t *testing.T) {
	m := &machine{}
	var again func(*machine)
	again = func(m *machine) {
		m.done = append(m.done, "again")
		m.set.At(time.Unix(1, 0), nil, again)
	}
	m.set.At(time.Unix(1, 0), nil, again)
	var other *Timer[*machine]
	m.set.At(time.Unix(1, 0), nil, func(m *machine) { m.set.Stop(other) })
	other = m.at(1, "other", nil)
	if got := m.fire(1); !slices.Equal(got, []string{"again"}) {
		t.Errorf("fired %v", got)
	}
	m.set.At(time.Unix(0, 0), nil, func(m *machine) { m.over = true })
	if got := m.fire(1); got != nil {
		t.Errorf("fired after the end: %v", got)
	}
}

// TestAbout stops and moves what belongs together.
func TestAbout(t *testing.T) {
	from, to := &machine{}, &machine{}
	x, y := new(int), new(int)
	from.at(1, "mine", nil)
	moved := from.at(1, "x", x)
	gone := from.at(1, "y", y)
	from.set.StopAbout(y)
	from.set.MoveAbout(&to.set)
	if gone.Running() || !moved.Running() {
		t.Error("the wrong one was stopped")
	}
	if a, b := from.fire(1), to.fire(1); !slices.Equal(a, []string{"mine"}) || !slices.Equal(b, []string{"x"}) {
		t.Errorf("fired %v and %v", a, b)
	}
}
