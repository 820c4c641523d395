package main

import (
	"fmt"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// bar shows how far something is: on a terminal as a bar that is drawn over, and
// elsewhere as a line every now and then.
type bar struct {
	w        *os.File
	terminal bool
	last     time.Time
}

// lineInterval is how often a log file hears of progress.
const lineInterval = 30 * time.Second

func newBar(w *os.File) *bar {
	return &bar{w: w, terminal: term.IsTerminal(int(w.Fd()))}
}

// show says what happens now. total is 0 while it is not known.
func (b *bar) show(what string, done, total time.Duration) {
	if !b.terminal {
		if now := time.Now(); now.Sub(b.last) >= lineInterval {
			b.last = now
			fmt.Fprintln(b.w, barLine(what, done, total, 0))
		}
		return
	}
	columns, _, err := term.GetSize(int(b.w.Fd()))
	if err != nil {
		columns = 80
	}
	fmt.Fprint(b.w, "\r\x1b[K"+barLine(what, done, total, columns-1))
}

// clear takes the bar off the terminal.
func (b *bar) clear() {
	if b.terminal {
		fmt.Fprint(b.w, "\r\x1b[K")
	}
}

// say writes a line of its own.
func (b *bar) say(text string) {
	b.clear()
	fmt.Fprintln(b.w, text)
}

// barLine draws, in at most so many columns where it is not 0.
func barLine(what string, done, total time.Duration, columns int) string {
	line := what
	if total > 0 {
		const cells = 20
		full := int(cells * min(done, total) / total)
		line = fmt.Sprintf("[%s%s] %3d %%, %v left  %s", strings.Repeat("█", full), strings.Repeat("·", cells-full),
			100*min(done, total)/total, (total - min(done, total)).Round(time.Second), what)
	}
	if columns > 0 && utf8.RuneCountInString(line) > columns {
		line = string([]rune(line)[:columns])
	}
	return line
}
