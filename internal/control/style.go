package control

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Style is how text is laid out for people.
type Style struct {
	Colour bool
	Width  int // of the terminal in columns; 0: nothing is shortened
}

// The colours of states: SGR parameters.
const (
	green  = "32"
	yellow = "33"
	red    = "31"
	bold   = "1"
)

func (s Style) paint(colour, text string) string {
	if !s.Colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (st State) colour() string {
	switch st {
	case Passing, Established:
		return green
	case Negotiating:
		return yellow
	case Failed:
		return red
	default:
		return ""
	}
}

// printer writes lines and keeps the first error.
type printer struct {
	w   io.Writer
	s   Style
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// clean keeps what a peer sent from steering the terminal.
func clean(text string) string {
	if !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }) {
		return text
	}
	q := strconv.Quote(text)
	return q[1 : len(q)-1]
}

// cell is one field of a table.
type cell struct{ text, colour string }

func plain(text string) cell { return cell{text: text} }

// table aligns its columns; where the terminal is too narrow, it shortens the
// widest.
type table struct {
	head []string
	rows [][]cell
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

const gap = 2 // columns between fields

func (p *printer) table(t table) {
	head := make([]cell, len(t.head))
	for i, h := range t.head {
		head[i] = cell{h, bold}
	}
	rows := append([][]cell{head}, t.rows...)
	width := make([]int, len(head))
	for _, row := range rows {
		for i := range row {
			row[i].text = clean(row[i].text)
			width[i] = max(width[i], utf8.RuneCountInString(row[i].text))
		}
	}
	p.s.fit(width)
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			text := shorten(c.text, width[i])
			line.WriteString(p.s.paint(c.colour, text))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(text)+gap))
			}
		}
		p.printf("%s\n", strings.TrimRight(line.String(), " "))
	}
}

// minColumn is how narrow a column may become.
const minColumn = 8

func (s Style) fit(width []int) {
	if s.Width == 0 {
		return
	}
	for {
		total, widest := gap*(len(width)-1), 0
		for i, w := range width {
			total += w
			if w > width[widest] {
				widest = i
			}
		}
		if total <= s.Width || width[widest] <= minColumn {
			return
		}
		width[widest]--
	}
}

func shorten(text string, width int) string {
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:width-1]) + "…"
}

// wrap breaks text at spaces, so that lines with an indent of first, then of
// rest, stay within the width.
func (p *printer) wrap(first, rest, text string) { p.wrapClean(first, rest, clean(text)) }

// wrapClean is wrap for text that is clean already, and may be coloured.
func (p *printer) wrapClean(first, rest, text string) {
	line, width := first, utf8.RuneCountInString(first)
	empty := true
	for _, word := range p.words(text, utf8.RuneCountInString(rest)) {
		n := columns(word)
		if !empty && p.s.Width > 0 && width+1+n > p.s.Width {
			p.printf("%s\n", line)
			line, width, empty = rest, utf8.RuneCountInString(rest), true
		}
		if !empty {
			line += " "
			width++
		}
		line += word
		width += n
		empty = false
	}
	p.printf("%s\n", line)
}

// words splits text at spaces, and words longer than a line behind hyphens, where
// they are proposals.
func (p *printer) words(text string, indent int) []string {
	var out []string
	room := p.s.Width - indent
	for _, w := range strings.Fields(text) {
		for p.s.Width > 0 && columns(w) > room && room > 0 && !strings.Contains(w, "\x1b") {
			i := strings.LastIndexByte(w[:room], '-') + 1
			if i == 0 {
				break
			}
			out, w = append(out, w[:i]), w[i:]
		}
		out = append(out, w)
	}
	return out
}

// columns is the width of text without its colours.
func columns(text string) int {
	before, rest, coloured := strings.Cut(text, "\x1b[")
	n := utf8.RuneCountInString(before)
	for coloured {
		_, rest, _ = strings.Cut(rest, "m")
		before, rest, coloured = strings.Cut(rest, "\x1b[")
		n += utf8.RuneCountInString(before)
	}
	return n
}

// age prints a duration in its two leading units: 3d4h, 5m12s, 12s.
func age(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	s := int64(d / time.Second)
	units := []struct {
		seconds int64
		name    string
	}{{86400, "d"}, {3600, "h"}, {60, "m"}, {1, "s"}}
	for i, u := range units[:3] {
		if s < u.seconds {
			continue
		}
		out := fmt.Sprintf("%d%s", s/u.seconds, u.name)
		next := units[i+1]
		if rest := s % u.seconds / next.seconds; rest > 0 {
			out += fmt.Sprintf("%d%s", rest, next.name)
		}
		return out
	}
	return fmt.Sprintf("%ds", s)
}

func ago(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return age(now.Sub(t)) + " ago"
}

// octets prints an amount with a binary prefix: 512 B, 1.5 KiB, 34 MiB.
func octets(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, prefix := float64(n), ""
	for _, p := range "KMGTPE" {
		if v < 1023.5 { // 1023.6 would print as 1024
			break
		}
		v, prefix = v/1024, string(p)
	}
	if v < 9.95 {
		return fmt.Sprintf("%.1f %siB", v, prefix)
	}
	return fmt.Sprintf("%.0f %siB", v, prefix)
}

// count prints a number with its noun.
func count(n uint64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
