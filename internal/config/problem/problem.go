// Package problem says what is wrong with a configuration, and shows where.
package problem

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Position is a place in a configuration file. Line and Column count from 1;
// Column counts characters.
type Position struct {
	File   string `json:"file"`
	Line   int    `json:"line"`
	Column int    `json:"column"`
}

// Excerpt is a place in a file and the line that stands there.
type Excerpt struct {
	Position
	Text string `json:"text,omitempty"`
}

// Problem is one thing that is wrong with a configuration, and where.
type Problem struct {
	Excerpt
	Message string `json:"message"`
	// Suggestion is the nearest valid key or value, where one is near.
	Suggestion string `json:"suggestion,omitempty"`
	// Earlier is the other place, where two contradict each other.
	Earlier *Excerpt `json:"earlier,omitempty"`
}

// Error prints the problem as a reader of the file needs it: place and message,
// the line, a caret under the exact spot, and what was perhaps meant.
func (p *Problem) Error() string {
	var b strings.Builder
	p.Excerpt.write(&b, p.Message)
	if p.Suggestion != "" {
		fmt.Fprintf(&b, "\n    did you mean %q?", p.Suggestion)
	}
	if p.Earlier != nil {
		b.WriteByte('\n')
		p.Earlier.write(&b, "the other one is here")
	}
	return b.String()
}

const (
	tabWidth = 8
	maxShown = 120 // characters of a line, so that a caret stays on the screen
)

func (e *Excerpt) write(b *strings.Builder, message string) {
	if e.Line == 0 {
		fmt.Fprintf(b, "%s: %s", e.File, message)
		return
	}
	fmt.Fprintf(b, "%s:%d:%d: %s", e.File, e.Line, e.Column, message)
	if e.Text == "" {
		return
	}
	// What a file holds must not reach the terminal as control sequences.
	var shown []rune
	caret := 0
	for i, r := range []rune(e.Text) {
		if i+1 == e.Column {
			caret = len(shown)
		}
		switch {
		case r == '\t':
			shown = append(shown, []rune(strings.Repeat(" ", tabWidth-len(shown)%tabWidth))...)
		case unicode.IsPrint(r):
			shown = append(shown, r)
		default:
			shown = append(shown, unicode.ReplacementChar)
		}
	}
	if e.Column > len([]rune(e.Text)) {
		caret = len(shown)
	}
	if cut := caret - maxShown/2; cut > 0 && len(shown) > maxShown {
		shown, caret = shown[cut:], caret-cut
	}
	if len(shown) > maxShown {
		shown = shown[:maxShown]
	}
	line := strings.TrimRight(string(shown), " ")
	fmt.Fprintf(b, "\n    %s\n    %s^", line, strings.Repeat(" ", caret))
}

// Errors is every problem that keeps a configuration from being used, in the
// order of the files.
type Errors []*Problem

// Error prints all of them.
func (e Errors) Error() string {
	parts := make([]string, len(e))
	for i, p := range e {
		parts[i] = p.Error()
	}
	return strings.Join(parts, "\n")
}

// Unwrap makes errors.As find a single Problem.
func (e Errors) Unwrap() []error {
	out := make([]error, len(e))
	for i, p := range e {
		out[i] = p
	}
	return out
}

// Sort puts problems in the order in which a reader meets them.
func Sort(problems []*Problem) {
	slices.SortStableFunc(problems, func(a, b *Problem) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}
