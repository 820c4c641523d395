package logging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"caponier/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, o Options) *Log {
	t.Helper()
	l, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func kept(t *testing.T, r *Ring, f Filter) []Record {
	t.Helper()
	var out []Record
	if err := r.Stream(t.Context(), f, false, func(rec Record) error {
		out = append(out, rec)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func messages(recs []Record) []string {
	out := []string{}
	for _, r := range recs {
		out = append(out, r.Message)
	}
	return out
}

func TestFormats(t *testing.T) {
	var text, js bytes.Buffer
	open(t, Options{Output: &text, NoTime: true}).Subsystem("ike").Info("up", "connection", "agw")
	if got, want := text.String(), "level=INFO msg=up subsystem=ike connection=agw\n"; got != want {
		t.Errorf("text: got %q, want %q", got, want)
	}
	open(t, Options{Output: &js, JSON: true}).Logger().Warn("late", "code", "timeout")
	var got map[string]any
	if err := json.Unmarshal(js.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["msg"] != "late" || got["code"] != "timeout" || got["level"] != "WARN" || got["time"] == nil {
		t.Errorf("JSON: got %v", got)
	}
}

func TestLevels(t *testing.T) {
	l := open(t, Options{Output: &bytes.Buffer{}, Levels: map[string]slog.Level{"ike": slog.LevelDebug}})
	ike, plane := l.Subsystem("ike"), l.Subsystem("plane")
	check := func(when string, wantIKE, wantPlane bool) {
		t.Helper()
		for _, c := range []struct {
			l    *slog.Logger
			want bool
		}{{ike, wantIKE}, {plane, wantPlane}} {
			if got := c.l.Enabled(t.Context(), slog.LevelDebug); got != c.want {
				t.Errorf("%s: debug enabled = %v, want %v", when, got, c.want)
			}
		}
	}
	check("at start", true, false)
	l.SetLevel("plane", slog.LevelDebug)
	check("plane lowered", true, true)
	l.SetLevel("ike", slog.LevelError)
	check("ike raised", false, true)
	l.SetLevels(slog.LevelInfo, nil)
	check("all replaced", false, false)
	l.SetLevel("", slog.LevelDebug)
	check("general lowered", true, true)
}

func TestRingRecord(t *testing.T) {
	l := open(t, Options{Output: &bytes.Buffer{}})
	lg := l.Subsystem("ike").With("connection", "agw", "peer", "192.0.2.2")
	lg.WithGroup("sa").Warn("lost", "spi", "c0ffee01", slog.Group("ts", "local", "10.1.0.0/16"), "key", secret.Copy([]byte("very secret")))
	l.Logger().Info("other", "connection", "legacy")

	got := kept(t, l.Ring(), Filter{Connection: "agw"})
	if len(got) != 1 {
		t.Fatalf("got %d records, want 1", len(got))
	}
	want := Record{
		Time: got[0].Time, Level: slog.LevelWarn, Message: "lost", Subsystem: "ike", Connection: "agw",
		Attrs: []Attr{
			{"peer", "192.0.2.2"},
			{"sa.spi", "c0ffee01"},
			{"sa.ts.local", "10.1.0.0/16"},
			{"sa.key", got[0].Attrs[len(got[0].Attrs)-1].Value},
		},
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Error(diff)
	}
	if v := want.Attrs[3].Value; strings.Contains(v, "very secret") {
		t.Errorf("a key stands in the log: %s", v)
	}
	for _, c := range []struct {
		f    Filter
		want []string
	}{
		{Filter{}, []string{"lost", "other"}},
		{Filter{Connection: "legacy"}, []string{"other"}},
		{Filter{Subsystem: "ike"}, []string{"lost"}},
		{Filter{Level: slog.LevelError}, []string{}},
	} {
		if got := messages(kept(t, l.Ring(), c.f)); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v, want %v", c.f, got, c.want)
		}
	}
}

// Loggers that branch off one logger must not write into each other's attributes.
func TestBranchesDoNotShareAttrs(t *testing.T) {
	l := open(t, Options{Output: &bytes.Buffer{}})
	base := l.Logger().With("a", 1).With("b", 2).With("c", 3)
	x, y := base.With("x", 1), base.With("y", 1)
	x.Info("x")
	y.Info("y")
	got := kept(t, l.Ring(), Filter{})
	if a, b := got[0].Attrs[3].Key, got[1].Attrs[3].Key; a != "x" || b != "y" {
		t.Errorf("last attributes are %q and %q, want x and y", a, b)
	}
}

func TestRingIsBounded(t *testing.T) {
	r := NewRing(3)
	for i := range 10 {
		r.Add(Record{Message: fmt.Sprint(i)})
	}
	if got, want := messages(kept(t, r, Filter{})), []string{"7", "8", "9"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := kept(t, NewRing(0), Filter{}); len(got) != 0 {
		t.Errorf("an empty ring has %v", got)
	}
}

func TestRingFollow(t *testing.T) {
	r := NewRing(64)
	r.Add(Record{Message: "old"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan string)
	done := make(chan error, 1)
	go func() {
		done <- r.Stream(ctx, Filter{}, true, func(rec Record) error {
			got <- rec.Message
			return nil
		})
	}()
	if m := <-got; m != "old" {
		t.Errorf("first record is %q", m)
	}
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 8 {
				r.Add(Record{Message: "new"})
			}
		})
	}
	for i := range 32 {
		if m := <-got; m != "new" {
			t.Fatalf("record %d is %q", i, m)
		}
	}
	writers.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the end of ctx gave %v", err)
	}
}

func TestRingStreamReturnsEmitError(t *testing.T) {
	r := NewRing(4)
	r.Add(Record{})
	r.Add(Record{})
	gone := errors.New("reader is gone")
	calls := 0
	err := r.Stream(t.Context(), Filter{}, true, func(Record) error { calls++; return gone })
	if !errors.Is(err, gone) || calls != 1 {
		t.Errorf("got %v after %d calls, want %v after 1", err, calls, gone)
	}
}

func TestReopen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "caponier.log")
	l := open(t, Options{File: path})
	l.Logger().Info("before")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	l.Logger().Info("between")
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Logger().Info("after")
	for name, want := range map[string][]string{path + ".1": {"before", "between"}, path: {"after"}} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(string(b), "\n"); got != len(want) {
			t.Errorf("%s has %d lines, want %v", filepath.Base(name), got, want)
		}
		for _, m := range want {
			if !strings.Contains(string(b), "msg="+m) {
				t.Errorf("%s lacks %q", filepath.Base(name), m)
			}
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode is %v, %v", info.Mode(), err)
	}
	if _, err := New(Options{File: filepath.Join(path, "x")}); err == nil {
		t.Error("a log below a file was opened")
	}
}

func TestJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", st.Dev, st.Ino): true, fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): false, "": false, "nonsense": false,
	} {
		t.Setenv("JOURNAL_STREAM", stream)
		if got := isJournal(f); got != want {
			t.Errorf("JOURNAL_STREAM=%q: %v, want %v", stream, got, want)
		}
	}
}

func TestBrake(t *testing.T) {
	l := open(t, Options{Output: &bytes.Buffer{}})
	now := time.Unix(1000, 0)
	b := NewBrake(2, time.Second)
	b.now = func() time.Time { return now }
	say := func() {
		if lg, ok := b.Limit(l.Logger()); ok {
			lg.Info("dropped")
		}
	}
	for range 5 {
		say()
	}
	now = now.Add(time.Second)
	say()
	say()
	got := kept(t, l.Ring(), Filter{})
	if len(got) != 4 {
		t.Fatalf("%d records passed, want 4", len(got))
	}
	if diff := cmp.Diff([]Attr{{"suppressed", "3"}}, got[2].Attrs); diff != "" {
		t.Error(diff)
	}
	if len(got[3].Attrs) != 0 {
		t.Errorf("the count was given twice: %v", got[3].Attrs)
	}
}
