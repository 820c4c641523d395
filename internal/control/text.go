package control

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"caponier/internal/ipsec"
)

// Text prints when, which target and what.
func (p Progress) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	colour := ""
	switch p.Step {
	case StepEstablished, StepRekeyed, StepDeleted:
		colour = green
	case StepFailed:
		colour = red
	case StepRetransmitting:
		colour = yellow
	}
	line := fmt.Sprintf("%s: %s", clean(p.Target.String()), s.paint(colour, clean(p.Step)))
	if p.Detail != "" {
		line += ", " + clean(p.Detail)
	}
	out.printf("%s\n", line)
	return out.err
}

// Text prints one line as the text log has it.
func (r LogRecord) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	colour := ""
	switch {
	case r.Level >= slog.LevelError:
		colour = red
	case r.Level >= slog.LevelWarn:
		colour = yellow
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", r.Time.Local().Format("15:04:05.000"),
		s.paint(colour, fmt.Sprintf("%-5s", r.Level)), clean(r.Message))
	attr := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, " %s=%s", clean(key), quoted(value))
		}
	}
	attr("subsystem", r.Subsystem)
	attr("connection", r.Connection)
	for _, a := range r.Attrs {
		attr(a.Key, a.Value)
	}
	out.printf("%s\n", b.String())
	return out.err
}

// quoted puts a value in quotes where it would not be read as one word.
func quoted(text string) string {
	if c := clean(text); c != text || strings.ContainsAny(text, " =\"") {
		return fmt.Sprintf("%q", text)
	}
	return text
}

// Text prints one line for each change.
func (r ReloadReport) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	t := table{head: []string{"OBJECT", "ACTION", "EFFECT", "WHAT DIFFERS"}}
	unchanged := uint64(0)
	for _, c := range r.Changes {
		if c.Action == ActionUnchanged {
			unchanged++
			continue
		}
		t.add(plain(strings.TrimSpace(c.Kind+" "+c.Name)), plain(c.Action), plain(c.Effect), plain(strings.Join(c.Keys, ", ")))
	}
	switch {
	case len(t.rows) == 0:
		out.printf("nothing to change\n")
	default:
		out.table(t)
	}
	if unchanged > 0 {
		out.printf("%s unchanged\n", count(unchanged, "object"))
	}
	if len(r.RestartRequired) > 0 {
		out.printf("%s ", s.paint(yellow, "restart required for"))
		out.wrap("", "  ", strings.Join(r.RestartRequired, ", "))
	}
	if r.DryRun {
		out.printf("dry run: nothing was applied\n")
	}
	return out.err
}

// Text prints one line for each SA.
func (l SAList) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	if len(l.SAs) == 0 {
		out.printf("no SAs\n")
		return out.err
	}
	t := table{head: []string{"SPI", "DIR", "TUNNEL", "PEER", "ALGORITHMS", "AGE", "BYTES", "PACKETS", "DROPS"}}
	for _, sa := range l.SAs {
		h := HalfOf(sa.SAStatus)
		drops := plain(fmt.Sprint(h.Drops))
		if h.Drops > 0 {
			drops.colour = yellow
		}
		t.add(plain(h.SPI.String()), plain(sa.ID.Direction.String()), plain(tunnelName(sa.Connection, sa.Tunnel)),
			plain(sa.Remote.Addr().String()), plain(sa.words()),
			plain(age(l.Time.Sub(sa.Added))), plain(octets(h.Bytes)), plain(fmt.Sprint(h.Packets)), drops)
	}
	out.table(t)
	for _, sa := range l.SAs {
		// What a route says is no news; what a router has told is.
		if !sa.PathMTUUntil.IsZero() {
			out.wrap("MTU of "+sa.ID.SPI.String()+": ", "  ", mtuWords(sa.PathMTU, sa.InnerMTU, sa.PathMTUUntil, l.Time))
		}
	}
	return out.err
}

// words are the algorithms, with protocol and mode where they are not the usual
// ones.
func (sa *SA) words() string {
	words := sa.Algorithms
	if sa.Mode != ipsec.Tunnel {
		words = sa.Mode.String() + " " + words
	}
	if sa.ID.Protocol != ipsec.ESP {
		words = sa.ID.Protocol.String() + " " + words
	}
	return strings.TrimSpace(words)
}

func tunnelName(connection, tunnel string) string {
	switch {
	case connection == "" && tunnel == "":
		return "manual"
	case connection == "":
		return Target{"manual", tunnel}.String()
	}
	return Target{connection, tunnel}.String()
}

// Text prints one line for each policy.
func (l PolicyList) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	if len(l.Policies) == 0 {
		out.printf("no policies\n")
		return out.err
	}
	t := table{head: []string{"NAME", "ACTION", "PRIORITY", "LOCAL", "REMOTE", "PROTECTION"}}
	for _, p := range l.Policies {
		action, protection := plain(p.Action.String()), ""
		switch p.Action {
		case ipsec.Protect:
			action.colour = green
			protection = protectionOf(&p.Policy)
		case ipsec.Bypass:
			action.colour = yellow
		case ipsec.Discard:
		}
		t.add(plain(p.Name), action, plain(fmt.Sprint(p.Priority)), plain(selectors(p.Local)),
			plain(selectors(p.Remote)), plain(protection))
	}
	out.table(t)
	return out.err
}

func selectors(list []ipsec.Selector) string {
	if len(list) == 0 {
		return "-"
	}
	words := make([]string, len(list))
	for i, s := range list {
		words[i] = s.String()
	}
	return strings.Join(words, ", ")
}

// Text prints the version in one line.
func (b Build) Text(w io.Writer, s Style) error {
	out := &printer{w: w, s: s}
	line := "caponier " + b.Version
	if b.Revision != "" {
		line += " (" + shortRevision(b.Revision) + ")"
	}
	out.printf("%s, %s, %s\n", line, b.Go, b.Platform)
	return out.err
}

func shortRevision(r string) string {
	hash, rest, dirty := strings.Cut(r, "+")
	hash = hash[:min(len(hash), 12)]
	if dirty {
		return hash + "+" + rest
	}
	return hash
}

// until says how long it is until t.
func until(now, t time.Time) string { return "in " + age(t.Sub(now)) }
