package bench

import (
	"math"
	"slices"
)

// Summary is what several rounds of one measurement gave.
type Summary struct {
	Median  float64   `json:"median"`
	Min     float64   `json:"min"`
	Max     float64   `json:"max"`
	Samples []float64 `json:"samples"` // in the order of the rounds
}

// summarise returns the zero Summary for no samples.
func summarise(samples []float64) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	return Summary{
		Median: percentile(samples, 50), Min: slices.Min(samples), Max: slices.Max(samples),
		Samples: slices.Clone(samples),
	}
}

// percentile returns the value below which p per cent of the samples lie, by
// linear interpolation between the two nearest, or NaN where there are none.
func percentile(samples []float64, p float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := p / 100 * float64(len(sorted)-1)
	low := int(math.Floor(at))
	if low+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}

// advantage tells how many times better ours is than theirs: the median of the
// ratios round by round, so that what slows a whole round down cancels out. ok
// is false where no round measured both.
func advantage(ours, theirs map[int]float64, b Better) (ratio float64, ok bool) {
	var ratios []float64
	for round, mine := range ours {
		other, both := theirs[round]
		if b == Lower {
			mine, other = other, mine
		}
		if both && other > 0 && mine > 0 {
			ratios = append(ratios, mine/other)
		}
	}
	if len(ratios) == 0 {
		return 0, false
	}
	return percentile(ratios, 50), true
}
