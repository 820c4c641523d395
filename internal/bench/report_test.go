package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"caponier/internal/control"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sampleReport is made from values as a run of two rounds collects them.
func sampleReport() *Report {
	began := time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)
	r := &Report{
		Version: "v0.1.0", Command: "caponier bench --quick", Started: began, Finished: began.Add(90 * time.Second),
		Machine: Machine{CPU: "Example CPU", CPUs: 2, Memory: "24 GiB", Kernel: "Linux 6.18", Go: "go1.26", Load: "0.10 0.20 0.30"},
		Options: Options{Rounds: 2, Duration: time.Second},
		Peers: []PeerInfo{
			{Name: Caponier, What: "this program", Settings: "defaults", Version: "caponier v0.1.0"},
			{Name: Plain, What: "forwarding", Settings: "defaults", Version: "Linux 6.18"},
			{Name: WireGuard, What: "wireguard-go", Missing: "it is not there: make bench-peers builds it"},
		},
		Skipped: []string{"mss: " + errNoIperf.Error()},
	}
	names := []string{Caponier, Plain}

	tcp := measure{name: "tcp", title: "TCP, largest segments", metrics: []Metric{goodput, retransmits, cpuA, residentA}, list: []point{{label: "1 flow, A to B"}}}
	s := make(samples)
	s.add(0, Caponier, 0, values{"goodput": 2.4e9, "retransmits": 3, "cpu_a": 1.234, "resident_a": 21.5e6}, nil)
	s.add(0, Caponier, 1, values{"goodput": 2.6e9, "retransmits": 0, "cpu_a": 1.256, "resident_a": 22.5e6}, nil)
	s.add(0, Plain, 0, values{"goodput": 12e9, "retransmits": 0}, nil)
	s.add(0, Plain, 1, nil, errors.New("iperf3: the server\nis busy"))
	r.Series = append(r.Series, tcp.report(s, names))

	echo := measure{name: "echo", title: "Round trip", axis: "octets", metrics: []Metric{trip50, trip99, unanswered}}
	s = make(samples)
	for i, size := range []float64{32, 64, 512} {
		echo.list = append(echo.list, point{label: fmt.Sprint(size), x: size})
		for round := range 2 {
			slow := float64(1 + round)
			s.add(i, Caponier, round, values{"p50": 120e-6 * slow, "p99": 2e-3 * slow, "unanswered": 1}, nil)
			s.add(i, Plain, round, values{"p50": 15e-6 * slow, "p99": 40e-6 * slow, "unanswered": 0}, nil)
		}
	}
	r.Series = append(r.Series, echo.report(s, names))
	return r
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got), rewrite with -update if that is meant:\n%s", name, diff)
	}
}

func TestReportGolden(t *testing.T) {
	r := sampleReport()
	var text, md bytes.Buffer
	if err := errors.Join(r.Text(&text, control.Style{}), r.Markdown(&md)); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", text.Bytes())
	golden(t, "report.md", md.Bytes())
}

// The advantage is that of pairs: in the second round all was twice as slow.
func TestReportCompares(t *testing.T) {
	r := sampleReport()
	plain := r.Series[1].Points[0].Results[1]
	if got := plain.Advantage["p50"]; got != 0.125 {
		t.Errorf("advantage %v, want 1/8", got)
	}
	if _, ok := plain.Advantage["unanswered"]; ok {
		t.Error("what is not better either way is compared")
	}
	if ours := r.Series[1].Points[0].Results[0]; len(ours.Advantage) != 0 {
		t.Errorf("caponier is compared with itself: %v", ours.Advantage)
	}
}

// The highest point has the best setting of each round and peer, with all that was
// measured there.
func TestHighest(t *testing.T) {
	m := measure{
		metrics: []Metric{packets, loss}, highest: "the highest of these",
		list: []point{{label: "50 k/s"}, {label: "unlimited"}},
	}
	s := make(samples)
	s.add(0, Caponier, 0, values{"packets": 50e3, "loss": 0}, nil)
	s.add(0, Caponier, 1, values{"packets": 49e3, "loss": 2}, nil)
	s.add(1, Caponier, 0, values{"packets": 40e3, "loss": 60}, nil)
	s.add(1, Caponier, 1, values{"packets": 90e3, "loss": 50}, nil)
	s.add(0, Plain, 0, values{"packets": 25e3, "loss": 50}, nil)
	s.add(1, Plain, 1, values{"packets": 30e3, "loss": 80}, nil)
	got := m.report(s, []string{Caponier, Plain}).Points
	want := Point{Label: "the highest of these", Results: []Result{
		{Peer: Caponier, Metrics: map[string]Summary{
			"packets": summarise([]float64{50e3, 90e3}), "loss": summarise([]float64{0, 50}),
		}},
		{Peer: Plain, Metrics: map[string]Summary{
			"packets": summarise([]float64{25e3, 30e3}), "loss": summarise([]float64{50, 80}),
		}, Advantage: map[string]float64{"packets": 2.5}},
	}}
	if len(got) != 3 {
		t.Fatalf("%d points", len(got))
	}
	if diff := cmp.Diff(want, got[2], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the highest point (-want +got):\n%s", diff)
	}
	m.list = m.list[:1]
	if n := len(m.report(s, []string{Caponier}).Points); n != 1 {
		t.Errorf("%d points of one setting", n)
	}
}

func TestWriteFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "benchmarks")
	r := sampleReport()
	if err := r.WriteFiles(dir); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*r, back, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("JSON loses something (-want +got):\n%s", diff)
	}
	md, err := os.ReadFile(filepath.Join(dir, "report.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tcp-goodput.svg", "echo-p50.svg", "echo-p99.svg"} {
		if !strings.Contains(string(md), "("+name+")") {
			t.Errorf("the report does not show %s", name)
		}
		svg, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s is not well-formed: %v", name, err)
			}
		}
		for _, want := range []string{Caponier, Plain} {
			if !bytes.Contains(svg, []byte(want)) {
				t.Errorf("%s does not name %s", name, want)
			}
		}
	}
}

func TestDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 3: "3", 0.1234: "0.12", 9.876: "9.88", 12.34: "12.3", 1234.5: "1234", 0.5: "0.50"} {
		if got := digits(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}
