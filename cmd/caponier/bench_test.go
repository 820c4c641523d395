package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"caponier/internal/bench"
)

// Flags that were not given leave the defaults of the run that was chosen.
func TestBenchOptions(t *testing.T) {
	f := benchFlags{quick: true, rounds: 9, measures: []string{"tcp"}, duration: time.Hour, peers: []string{"plain"}}
	got, err := f.options(func(flag string) bool { return flag == "rounds" || flag == "measure" })
	if err != nil {
		t.Fatal(err)
	}
	want := bench.Quick()
	want.Rounds, want.Measures, want.Peers = 9, []string{"tcp"}, []string{"plain"}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(bench.Options{}, "Program", "PeerDir")); diff != "" {
		t.Errorf("the options differ (-want +got):\n%s", diff)
	}
}

func TestBenchUsage(t *testing.T) {
	for _, tc := range []struct {
		args, want string
		status     int
	}{
		{"bench --measure speed", "it is none of tcp", 2},
		{"bench --peers openvpn --measure udp", "caponier:PROPOSAL", 2},
		{"bench --rounds 0", "0 rounds", 2},
		{"bench --peers wireguard-go --measure udp --peer-dir /nonexistent", "make bench-peers", 1},
		{"bench now", "now", 2},
	} {
		got := caponier(t, "", strings.Fields(tc.args)...)
		if got.status != tc.status || !strings.Contains(got.errOut, tc.want) {
			t.Errorf("%s: status %d, want %d and %q:\n%s", tc.args, got.status, tc.status, tc.want, got.errOut)
		}
	}
}

func TestBarLine(t *testing.T) {
	for _, tc := range []struct {
		done, total time.Duration
		columns     int
		want        string
	}{
		{0, 0, 0, "starting"},
		{30 * time.Second, 2 * time.Minute, 0, "[█████···············]  25 %, 1m30s left  starting"},
		{3 * time.Minute, 2 * time.Minute, 0, "[████████████████████] 100 %, 0s left  starting"},
		{30 * time.Second, 2 * time.Minute, 30, "[█████···············]  25 %, "},
	} {
		if got := barLine("starting", tc.done, tc.total, tc.columns); got != tc.want {
			t.Errorf("%v of %v in %d columns:\n%q, want\n%q", tc.done, tc.total, tc.columns, got, tc.want)
		}
	}
}
