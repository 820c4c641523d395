package control

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// Text prints each finding as a paragraph.
func (y Why) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	if y.Detail != "" {
		state := y.States[y.Detail]
		out.printf("%s is %s\n", s.paint(bold, clean(y.Detail)), s.paint(state.colour(), string(state)))
	}
	if len(y.Findings) == 0 {
		out.printf("nothing has failed since the daemon started\n")
	}
	for i := range y.Findings {
		if i > 0 || y.Detail != "" {
			out.printf("\n")
		}
		f := &y.Findings[i]
		f.print(out, y)
	}
	if y.Missed > 0 {
		out.printf("\n")
		out.wrap("", "", count(y.Missed, "failure")+" of strangers came too fast to be looked into")
	}
	return out.err
}

// margin is the width of the labels.
const margin = 10

func (f *Finding) print(out *printer, y Why) {
	name := "no connection"
	if f.Connection != "" {
		name = Target{f.Connection, f.Tunnel}.String()
	}
	head := fmt.Sprintf("%s: %s", clean(name), out.s.paint(red, f.Code))
	if state := y.States[f.Connection]; y.Detail == "" && (state == Established || state == Passing) {
		head += ", but it is " + string(state) + " now"
	}
	out.printf("%s\n", head)
	f.field(out, "cause", f.Cause)
	f.field(out, "when", f.when(y.Time))
	f.field(out, "where", f.where())
	f.ids(out)
	f.sides(out, "proposals", f.Ours.Proposals, f.Theirs.Proposals)
	f.sides(out, "traffic", f.Ours.traffic(), f.Theirs.traffic())
	f.field(out, "software", strings.Join(f.Theirs.Vendors, ", "))
	f.sides(out, "certs", f.Ours.certificates(y.Time), f.Theirs.certificates(y.Time))
	f.field(out, "nearest", f.Nearest)
	for i, c := range f.Cures {
		label := "cure"
		if i > 0 {
			label = "or"
		}
		out.field(label, out.s.paint(green, c.where())+" "+clean(c.Edit))
	}
}

func (c Cure) where() string {
	if c.At == AtPeer {
		return "at the peer:"
	}
	return "here:"
}

func (f *Finding) field(out *printer, label, text string) {
	if text != "" {
		out.field(label, clean(text))
	}
}

// field prints a labelled text with a hanging indent. The text is clean already.
func (p *printer) field(label, text string) {
	p.wrapClean(fmt.Sprintf("  %-*s", margin, label), strings.Repeat(" ", margin+4), text)
}

func (f *Finding) when(now time.Time) string {
	if f.Count == 0 {
		return ""
	}
	if f.Count == 1 {
		return ago(now, f.Last)
	}
	return fmt.Sprintf("%d times, the last %s, the first %s", f.Count, ago(now, f.Last), ago(now, f.First))
}

func (f *Finding) where() string {
	var words []string
	if f.Remote.IsValid() {
		words = append(words, "with "+f.Remote.String())
	}
	if f.Stage != "" {
		words = append(words, "in "+f.Stage)
	}
	switch f.RefusedBy {
	case Here:
		words = append(words, "refused by this gateway")
	case AtPeer:
		words = append(words, "refused by the peer")
	}
	return strings.Join(words, ", ")
}

// ids prints who each end is and takes the other for, where that is known of
// both.
func (f *Finding) ids(out *printer) {
	if f.Theirs.ID == "" && f.Theirs.Auth == "" {
		return
	}
	say := func(o Offer, none string) []string {
		var words []string
		if o.ID != "" {
			words = append(words, o.ID)
		}
		if o.Auth != "" {
			words = append(words, "by "+o.Auth)
		}
		if o.Wants != "" {
			words = append(words, none+" "+o.Wants)
		}
		return []string{strings.Join(words, ", ")}
	}
	f.sides(out, "identity", say(f.Ours, "expects"), say(f.Theirs, "asks for"))
}

func (f *Finding) sides(out *printer, what string, ours, theirs []string) {
	if len(ours) == 0 && len(theirs) == 0 {
		return
	}
	f.side(out, what, "ours", ours)
	f.side(out, "", "theirs", theirs)
}

// maxLines is how much of one list people are shown.
const maxLines = 8

func (f *Finding) side(out *printer, label, whose string, lines []string) {
	if len(lines) == 0 {
		lines = []string{"not known"}
	}
	if n := len(lines) - maxLines; n > 0 {
		lines = append(slices.Clone(lines[:maxLines]), "and "+count(uint64(n), "other"))
	}
	for _, l := range lines {
		out.wrap(fmt.Sprintf("  %-*s%-8s", margin, label, whose), strings.Repeat(" ", margin+12), l)
		label, whose = "", ""
	}
}

func (o Offer) traffic() []string {
	if len(o.Local) == 0 && len(o.Remote) == 0 {
		return nil
	}
	return []string{selectors(o.Local) + " <-> " + selectors(o.Remote)}
}

const day = "2006-01-02 15:04"

func (o Offer) certificates(now time.Time) []string {
	var lines []string
	for _, c := range o.Certificates {
		line := fmt.Sprintf("%s, issued by %s, valid %s to %s UTC", c.Subject, c.Issuer,
			c.NotBefore.UTC().Format(day), c.NotAfter.UTC().Format(day))
		switch {
		case now.Before(c.NotBefore):
			line += " (not yet valid)"
		case now.After(c.NotAfter):
			line += " (expired)"
		}
		if len(c.Names) > 0 {
			line += ", also " + strings.Join(c.Names, ", ")
		}
		lines = append(lines, line)
	}
	return lines
}
