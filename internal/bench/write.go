package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"caponier/internal/bench/plot"
	"caponier/internal/control"
)

// method is what a reader must know about the figures.
const method = `Each peer joins two hosts through two gateways, in four network namespaces of its own:

    hostA ── gwA ═══════ gwB ── hostB

All run on one machine at the same time, and share its processors with the traffic generators: figures compare only within
this run. At every setting the peers follow each other directly, and each round takes them in another order. A cell is the
median of the rounds, with the extremes in parentheses. "×" is how many times better caponier is: the median of the ratios
of single rounds. "The highest of these" has of each round the setting that passed most packets (maximum forwarding rate, RFC 2285,
Section 3.6.3), for each peer its own. CPU is the time of a gateway's process, user and system, for 10^9 octets of goodput; what the kernel does for it in
interrupt context is not in it. Memory is resident. TCP is made by iperf3, UDP and pings by caponier itself; sizes are octets of
data, without headers; pings are answered by the kernel of host B. A generator of traffic must cost less than what it measures: frames
of UDP go to host A's interface past its stack, one datagram each, and host B looks for datagrams a thousand times a second. Where as
much is sent as passes, there are never more than 384 frames on the way, so that no peer is flooded.
`

// table is a series in cells.
type table struct {
	head  []string
	rows  [][]string
	notes []string
}

func (s Series) table() table {
	t := table{head: []string{s.heading(), "peer"}}
	for _, m := range s.Metrics {
		t.head = append(t.head, m.Title)
		if m.Better != "" {
			t.head = append(t.head, "×")
		}
	}
	for _, p := range s.Points {
		for i, r := range p.Results {
			row := []string{p.Label, r.Peer}
			if i > 0 {
				row[0] = ""
			}
			for _, m := range s.Metrics {
				row = append(row, r.cell(m))
				if m.Better != "" {
					row = append(row, r.times(m))
				}
			}
			t.rows = append(t.rows, row)
			for _, f := range r.Failures {
				t.notes = append(t.notes, fmt.Sprintf("%s, %s: %s", p.Label, r.Peer, f))
			}
		}
	}
	return t
}

func (s Series) heading() string {
	if s.Axis == "" {
		return "setting"
	}
	return s.Axis
}

func (r Result) cell(m Metric) string {
	s, ok := r.Metrics[m.Name]
	if !ok {
		return "–"
	}
	factor, unit := scale(m.Unit, s.Median)
	text := digits(s.Median * factor)
	if m.Better != "" && len(s.Samples) > 1 {
		text += fmt.Sprintf(" (%s–%s)", digits(s.Min*factor), digits(s.Max*factor))
	}
	return strings.TrimSpace(text + " " + unit)
}

func (r Result) times(m Metric) string {
	a, ok := r.Advantage[m.Name]
	if !ok {
		return ""
	}
	return digits(a)
}

// scale returns by what to multiply values like v, and the unit they then have.
func scale(u Unit, v float64) (factor float64, unit string) {
	switch u {
	case BitsPerSecond:
		if v >= 1e9 {
			return 1e-9, "Gb/s"
		}
		return 1e-6, "Mb/s"
	case PerSecond:
		if v >= 1e4 {
			return 1e-3, "k/s"
		}
		return 1, "/s"
	case Seconds:
		switch {
		case v >= 1:
			return 1, "s"
		case v >= 1e-3:
			return 1e3, "ms"
		default:
			return 1e6, "µs"
		}
	case Octets:
		if v >= 1e6 {
			return 1e-6, "MB"
		}
		return 1e-3, "kB"
	case SecondsPerGB, Percent, Count:
	}
	return 1, string(u)
}

// digits writes three significant ones, and whole numbers in full.
func digits(v float64) string {
	switch abs := max(v, -v); {
	case abs >= 100, v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case abs >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Text prints the tables for people.
func (r *Report) Text(w io.Writer, _ control.Style) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, p := range r.Peers {
		fmt.Fprintf(tw, "%s\t%s\n", p.Name, p.state())
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(tw, "not measured: %s\n", s)
	}
	for _, s := range r.Series {
		t := s.table()
		fmt.Fprintf(tw, "\n%s\n%s\n", s.Title, strings.Join(t.head, "\t"))
		for _, row := range t.rows {
			fmt.Fprintln(tw, strings.Join(row, "\t"))
		}
		for _, n := range t.notes {
			fmt.Fprintf(tw, "failed: %s\n", n)
		}
	}
	return tw.Flush()
}

func (p PeerInfo) state() string {
	if p.Missing != "" {
		return "missing: " + p.Missing
	}
	return p.Version + "; " + p.Settings
}

// Markdown writes the report as a document next to the plots.
func (r *Report) Markdown(w io.Writer) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Benchmarks\n\nMeasured by `%s` on %s, in %v.\n\n%s\n", r.Command, r.Started.Format("2006-01-02 15:04 MST"),
		r.Finished.Sub(r.Started).Round(time.Second), method)
	m := r.Machine
	fmt.Fprintf(&b, "Machine: %s, %d CPUs, %s of memory, %s, %s; load averages before the run %s. %d rounds of %v each.\n\n",
		m.CPU, m.CPUs, m.Memory, m.Kernel, m.Go, m.Load, r.Options.Rounds, r.Options.Duration)
	b.WriteString("| peer | what | settings | version |\n| --- | --- | --- | --- |\n")
	for _, p := range r.Peers {
		version := p.Version
		if p.Missing != "" {
			version = "missing: " + p.Missing
		}
		markdownRow(&b, []string{p.Name, p.What, p.Settings, version})
	}
	for _, s := range r.Skipped {
		fmt.Fprintf(&b, "\nNot measured: %s.\n", s)
	}
	for _, s := range r.Series {
		fmt.Fprintf(&b, "\n## %s\n\n", s.Title)
		for _, m := range s.plotted() {
			fmt.Fprintf(&b, "![%s](%s)\n", m.Title, s.plotName(m))
		}
		t := s.table()
		b.WriteString("\n")
		markdownRow(&b, t.head)
		b.WriteString(strings.Repeat("| --- ", len(t.head)) + "|\n")
		for _, row := range t.rows {
			markdownRow(&b, row)
		}
		for _, n := range t.notes {
			fmt.Fprintf(&b, "\nFailed: %s\n", n)
		}
	}
	_, err := b.WriteTo(w)
	return err
}

func markdownRow(b *bytes.Buffer, cells []string) {
	for _, c := range cells {
		fmt.Fprintf(b, "| %s ", strings.NewReplacer("|", `\|`, "\n", " ").Replace(c))
	}
	b.WriteString("|\n")
}

// plotted are the metrics worth a picture: those that are compared, where there
// is something to compare.
func (s Series) plotted() []Metric {
	results := 0
	for _, p := range s.Points {
		results += len(p.Results)
	}
	if results < 2 {
		return nil
	}
	var out []Metric
	for _, m := range s.Metrics {
		if m.Better != "" {
			out = append(out, m)
		}
	}
	return out
}

func (s Series) plotName(m Metric) string { return s.Name + "-" + m.Name + ".svg" }

// chart draws one metric of the series.
func (s Series) chart(m Metric) plot.Chart {
	highest := 0.0
	for _, p := range s.Points {
		for _, r := range p.Results {
			highest = max(highest, r.Metrics[m.Name].Median)
		}
	}
	factor, unit := scale(m.Unit, highest)
	c := plot.Chart{
		Title: s.Title, X: s.Axis, Y: strings.TrimSuffix(m.Title+", "+unit, ", "),
		Bars: s.Axis == "" || len(s.Points) < 3,
	}
	index := make(map[string]int)
	for i, p := range s.Points {
		c.Labels = append(c.Labels, p.Label)
		for _, r := range p.Results {
			at, known := index[r.Peer]
			if !known {
				at = len(c.Groups)
				index[r.Peer] = at
				c.Groups = append(c.Groups, plot.Group{Name: r.Peer, Values: make([]plot.Value, len(s.Points))})
			}
			sum := r.Metrics[m.Name]
			v := plot.Value{Median: sum.Median * factor}
			for _, x := range sum.Samples {
				v.Samples = append(v.Samples, x*factor)
			}
			c.Groups[at].Values[i] = v
		}
	}
	return c
}

// WriteFiles writes report.md, report.json and a plot of every metric that is
// compared to a directory, which it makes.
func (r *Report) WriteFiles(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var md bytes.Buffer
	if err := r.Markdown(&md); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	files := map[string][]byte{"report.md": md.Bytes(), "report.json": append(text, '\n')}
	for _, s := range r.Series {
		for _, m := range s.plotted() {
			var svg bytes.Buffer
			if err := s.chart(m).SVG(&svg); err != nil {
				return fmt.Errorf("plotting %s of %s: %w", m.Name, s.Name, err)
			}
			files[s.plotName(m)] = svg.Bytes()
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}
