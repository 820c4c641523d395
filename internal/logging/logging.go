package logging

import (
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// The attributes by which records are filtered. A logger gets them from With,
// before any group.
const (
	KeySubsystem  = "subsystem"
	KeyConnection = "connection"
)

// DefaultRing is how many records a Log keeps where Options do not say.
const DefaultRing = 4096

// Options say where and how to log.
type Options struct {
	JSON   bool      // JSON lines instead of text
	NoTime bool      // leave the time to the reader; set for a journal, which adds its own
	Output io.Writer // nil: standard error
	File   string    // appended to instead of Output, created with mode 0600
	Ring   int       // records to keep for `caponier log`; 0: DefaultRing

	Level  slog.Level            // of every subsystem that Levels does not name
	Levels map[string]slog.Level // by subsystem
}

// Log is where the loggers of the gateway lead. Its methods may be called from
// several goroutines at once.
type Log struct {
	ring   *Ring
	out    *output
	levels atomic.Pointer[levels]
	setMu  sync.Mutex // serializes changes of levels
	logger *slog.Logger
}

// levels is immutable.
type levels struct {
	general slog.Level
	by      map[string]slog.Level
}

func (l *levels) of(subsystem string) slog.Level {
	if level, ok := l.by[subsystem]; ok {
		return level
	}
	return l.general
}

// New opens the log.
func New(o Options) (*Log, error) {
	out := &output{w: o.Output, path: o.File}
	if out.w == nil {
		out.w = os.Stderr
		o.NoTime = o.NoTime || o.File == "" && isJournal(os.Stderr)
	}
	if err := out.reopen(); err != nil {
		return nil, err
	}
	size := o.Ring
	if size == 0 {
		size = DefaultRing
	}
	l := &Log{ring: NewRing(size), out: out}
	l.SetLevels(o.Level, o.Levels)

	// The levels are checked by handler, which knows the subsystem.
	ho := &slog.HandlerOptions{Level: slog.Level(-1 << 15)}
	if o.NoTime {
		ho.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	var inner slog.Handler = slog.NewTextHandler(out, ho)
	if o.JSON {
		inner = slog.NewJSONHandler(out, ho)
	}
	l.logger = slog.New(&handler{log: l, inner: inner})
	return l, nil
}

// isJournal reports whether f leads to the journal: its device and inode are
// those that the service manager names (systemd.exec(5), JOURNAL_STREAM).
func isJournal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// Logger returns the logger without a subsystem.
func (l *Log) Logger() *slog.Logger { return l.logger }

// Subsystem returns the logger of a subsystem.
func (l *Log) Subsystem(name string) *slog.Logger { return l.logger.With(KeySubsystem, name) }

// Ring returns the last records.
func (l *Log) Ring() *Ring { return l.ring }

// SetLevels replaces all levels: that of the subsystems in by, and the general
// one for the others. Existing loggers follow.
func (l *Log) SetLevels(general slog.Level, by map[string]slog.Level) {
	l.setMu.Lock()
	defer l.setMu.Unlock()
	l.levels.Store(&levels{general: general, by: maps.Clone(by)})
}

// SetLevel changes the level of one subsystem, or the general one for an empty
// name.
func (l *Log) SetLevel(subsystem string, level slog.Level) {
	l.setMu.Lock()
	defer l.setMu.Unlock()
	next := &levels{general: level, by: l.levels.Load().by}
	if subsystem != "" {
		next.general = l.levels.Load().general
		next.by = maps.Clone(next.by)
		if next.by == nil {
			next.by = make(map[string]slog.Level)
		}
		next.by[subsystem] = level
	}
	l.levels.Store(next)
}

// Reopen opens the log file again, after something has moved it away. It does
// nothing where the log is not a file, and keeps the old file where it fails.
func (l *Log) Reopen() error { return l.out.reopen() }

// Close closes the log file. Later records go to the ring only.
func (l *Log) Close() error { return l.out.close() }

// output is a file that can be exchanged under its writers, or a plain writer.
type output struct {
	path string // constant

	mu     sync.Mutex
	w      io.Writer
	file   *os.File // nil where path is empty, and after close
	closed bool
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return len(p), nil
	}
	return o.w.Write(p)
}

func (o *output) reopen() error {
	if o.path == "" {
		return nil
	}
	f, err := os.OpenFile(o.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return f.Close()
	}
	if o.file != nil {
		// What was written is in the file; a late error could not be logged.
		_ = o.file.Close()
	}
	o.w, o.file = f, f
	return nil
}

func (o *output) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.file == nil || o.closed {
		return nil
	}
	o.closed = true
	return o.file.Close()
}
