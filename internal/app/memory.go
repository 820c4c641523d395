package app

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPercent is how much garbage there may be beside what lives, in percent, and
// ballast is what counts as living besides: memory that nobody touches, and which
// is therefore none. Together they leave room for some megabytes of garbage in a
// small gateway, which else would collect all the time while peers, or attackers,
// keep IKE busy, and for a tenth in one with ten thousand tunnels. Packets make
// none. While the gateway starts it is startPercent: to read ten thousand
// connections makes a gigabyte of garbage.
const (
	gcPercent    = 10
	startPercent = 50
	ballast      = 48 << 20
)

// isFrugal reports whether the gateway keeps its memory small by itself: the
// environment does not say otherwise.
func isFrugal() bool { return os.Getenv("GOGC") == "" }

// reading makes room for the garbage of reading a configuration, as at the start,
// until done is called.
func reading() (done func()) {
	if !isFrugal() {
		return func() {}
	}
	before := debug.SetGCPercent(startPercent)
	return func() { debug.SetGCPercent(before) }
}

// cyclesMetric counts the cycles of the collector, but for those that are asked for.
const cyclesMetric = "/gc/cycles/automatic:gc-cycles"

// thriftRound is how often thrift looks.
const thriftRound = 5 * time.Second

// thrift gives memory back to the system when a storm is over: when many
// tunnels have been set up, or a configuration has been read again, what that has
// left is a tenth of the heap, and as much is kept in the hope of the next. The
// collector counts its cycles; a gateway that is calm has one in two minutes.
type thrift struct {
	cycles uint64 // at the last look
	storm  bool
}

// look reports whether a storm has ended since the last look, by the number of
// cycles so far.
func (t *thrift) look(cycles uint64) (over bool) {
	new := cycles - t.cycles
	t.cycles = cycles
	switch {
	case new > 1:
		t.storm = true
	case new == 0 && t.storm:
		t.storm = false
		return true
	}
	return false
}

// saveMemory runs until stop is closed.
func saveMemory(stop <-chan struct{}) {
	round := time.NewTicker(thriftRound)
	defer round.Stop()
	sample := []metrics.Sample{{Name: cyclesMetric}}
	var t thrift
	for {
		metrics.Read(sample)
		if t.look(sample[0].Value.Uint64()) {
			debug.FreeOSMemory()
		}
		select {
		case <-round.C:
		case <-stop:
			return
		}
	}
}
