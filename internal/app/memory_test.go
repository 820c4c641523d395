package app

import (
	"runtime/metrics"
	"testing"
)

func TestThrift(t *testing.T) {
	var x thrift
	x.look(7)
	x.storm = false // the start's
	for i, step := range []struct {
		cycles uint64
		over   bool
	}{
		{7, false}, {8, false}, {8, false}, // calm, with a cycle now and then
		{12, false}, {13, false}, {15, false}, {15, true}, {15, false}, // a storm
		{16, false}, {16, false},
	} {
		if got := x.look(step.cycles); got != step.over {
			t.Errorf("look %d, after %d cycles: over is %v", i, step.cycles, got)
		}
	}
}

func TestCyclesAreCounted(t *testing.T) {
	sample := []metrics.Sample{{Name: cyclesMetric}}
	if metrics.Read(sample); sample[0].Value.Kind() != metrics.KindUint64 {
		t.Errorf("the runtime has no %s", cyclesMetric)
	}
}
