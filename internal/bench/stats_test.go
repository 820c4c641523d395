package bench

import (
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPercentile(t *testing.T) {
	for _, tc := range []struct {
		samples []float64
		p, want float64
	}{
		{[]float64{7}, 50, 7},
		{[]float64{7}, 99, 7},
		{[]float64{3, 1, 2}, 50, 2},
		{[]float64{4, 1, 3, 2}, 50, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0, 1},
		{[]float64{1, 2, 3, 4, 5}, 100, 5},
		{[]float64{1, 2, 3, 4, 5}, 90, 4.6},
	} {
		before := slices.Clone(tc.samples)
		if got := percentile(tc.samples, tc.p); math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("percentile %v of %v is %v, want %v", tc.p, tc.samples, got, tc.want)
		}
		if !slices.Equal(before, tc.samples) {
			t.Errorf("the samples were changed: %v", tc.samples)
		}
	}
	if got := percentile(nil, 50); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestSummarise(t *testing.T) {
	want := Summary{Median: 2, Min: 1, Max: 9, Samples: []float64{9, 1, 2}}
	if diff := cmp.Diff(want, summarise([]float64{9, 1, 2})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Summary{}, summarise(nil)); diff != "" {
		t.Error(diff)
	}
}

func TestAdvantage(t *testing.T) {
	for _, tc := range []struct {
		name         string
		ours, theirs map[int]float64
		better       Better
		want         float64
		ok           bool
	}{
		{"higher", map[int]float64{0: 30}, map[int]float64{0: 10}, Higher, 3, true},
		{"lower", map[int]float64{0: 30}, map[int]float64{0: 60}, Lower, 2, true},
		// In the second round the machine was four times as slow, for both.
		{"in pairs", map[int]float64{0: 20, 1: 5, 2: 20}, map[int]float64{0: 10, 1: 2.5, 2: 10}, Higher, 2, true},
		{"a round is missing", map[int]float64{0: 20, 1: 90}, map[int]float64{0: 10, 2: 1}, Higher, 2, true},
		{"no round in common", map[int]float64{0: 20}, map[int]float64{1: 10}, Higher, 0, false},
		{"nothing arrived", map[int]float64{0: 20}, map[int]float64{0: 0}, Higher, 0, false},
	} {
		got, ok := advantage(tc.ours, tc.theirs, tc.better)
		if got != tc.want || ok != tc.ok {
			t.Errorf("%s: %v, %v, want %v, %v", tc.name, got, ok, tc.want, tc.ok)
		}
	}
}
