package bench

import (
	"slices"
	"time"
)

// Report is the result of a run.
type Report struct {
	Version  string     `json:"version"` // of the program that measured
	Command  string     `json:"command"` // that gave this report
	Started  time.Time  `json:"started"`
	Finished time.Time  `json:"finished"`
	Machine  Machine    `json:"machine"`
	Options  Options    `json:"options"`
	Peers    []PeerInfo `json:"peers"`
	Skipped  []string   `json:"skipped,omitempty"` // measures, and what they lack
	Series   []Series   `json:"series"`
}

// PeerInfo describes a peer of a run.
type PeerInfo struct {
	Name     string `json:"name"`
	What     string `json:"what"`
	Settings string `json:"settings"`
	Version  string `json:"version,omitempty"`
	Missing  string `json:"missing,omitempty"` // why it did not take part, and the cure
}

// Unit is what a metric counts.
type Unit string

// The units of metrics.
const (
	BitsPerSecond Unit = "bit/s"
	PerSecond     Unit = "1/s"
	Seconds       Unit = "s"
	SecondsPerGB  Unit = "s/GB" // for 10^9 octets of goodput
	Octets        Unit = "B"
	Percent       Unit = "%"
	Count         Unit = ""
)

// Better says which values of a metric win.
type Better string

// What is better. A metric with neither is shown, not compared.
const (
	Higher Better = "higher"
	Lower  Better = "lower"
)

// Metric is a figure that a measure gives.
type Metric struct {
	Name   string `json:"name"`
	Title  string `json:"title"`
	Unit   Unit   `json:"unit"`
	Better Better `json:"better,omitempty"`
}

// Series is one measure at all its settings.
type Series struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Axis    string   `json:"axis,omitempty"` // what Point.X is; empty: only labels
	Metrics []Metric `json:"metrics"`
	Points  []Point  `json:"points"`
}

// Point is one setting.
type Point struct {
	Label   string   `json:"label"`
	X       float64  `json:"x"`
	Results []Result `json:"results"`
}

// Result is what one peer reached.
type Result struct {
	Peer    string             `json:"peer"`
	Metrics map[string]Summary `json:"metrics"`
	// Advantage is how many times better the first caponier of the run is, by
	// metric: the median of the ratios of single rounds.
	Advantage map[string]float64 `json:"advantage,omitempty"`
	Failures  []string           `json:"failures,omitempty"` // of rounds that gave no value
}

// samples are the values of a measure: by point, peer and round.
type samples map[sampleKey]*sample

type sampleKey struct {
	point int
	peer  string
}

type sample struct {
	rounds   map[int]values
	failures []string
}

func (s samples) add(point int, peer string, round int, v values, err error) {
	key := sampleKey{point, peer}
	if s[key] == nil {
		s[key] = &sample{rounds: make(map[int]values)}
	}
	if err != nil {
		s[key].failures = append(s[key].failures, err.Error())
		return
	}
	s[key].rounds[round] = v
}

// highest makes one more point of the first n: of each round what was best by a
// metric.
func (s samples) highest(n int, m Metric) {
	for key, from := range s {
		if key.point >= n {
			continue
		}
		for round, v := range from.rounds {
			best := s[sampleKey{n, key.peer}]
			if best == nil || best.rounds[round] == nil || better(v[m.Name], best.rounds[round][m.Name], m.Better) {
				s.add(n, key.peer, round, v, nil)
			}
		}
	}
}

func better(a, b float64, by Better) bool {
	if by == Lower {
		return a < b
	}
	return a > b
}

// metric returns the values of one metric by round.
func (s *sample) metric(name string) map[int]float64 {
	out := make(map[int]float64)
	for round, v := range s.rounds {
		if x, ok := v[name]; ok {
			out[round] = x
		}
	}
	return out
}

// report makes the series of a measure. peers are in the order of the report.
func (m measure) report(s samples, peers []string) Series {
	out := Series{Name: m.name, Title: m.title, Axis: m.axis, Metrics: m.metrics}
	list := m.list
	if m.highest != "" && len(list) > 1 {
		s.highest(len(list), m.metrics[0])
		list = append(slices.Clone(list), point{label: m.highest})
	}
	for i, pt := range list {
		p := Point{Label: pt.label, X: pt.x}
		var ours *sample
		for _, name := range peers {
			measured := s[sampleKey{i, name}]
			if measured == nil {
				continue
			}
			if ours == nil && isCaponier(name) {
				ours = measured
			}
			r := Result{Peer: name, Metrics: make(map[string]Summary), Advantage: make(map[string]float64), Failures: measured.failures}
			for _, metric := range m.metrics {
				byRound := measured.metric(metric.Name)
				if len(byRound) == 0 {
					continue
				}
				r.Metrics[metric.Name] = summarise(inOrder(byRound))
				if ours == nil || metric.Better == "" {
					continue
				}
				if a, ok := advantage(ours.metric(metric.Name), byRound, metric.Better); ok && ours != measured {
					r.Advantage[metric.Name] = a
				}
			}
			p.Results = append(p.Results, r)
		}
		out.Points = append(out.Points, p)
	}
	return out
}

func inOrder(byRound map[int]float64) []float64 {
	rounds := make([]int, 0, len(byRound))
	for round := range byRound {
		rounds = append(rounds, round)
	}
	slices.Sort(rounds)
	out := make([]float64, len(rounds))
	for i, round := range rounds {
		out[i] = byRound[round]
	}
	return out
}
