// Package bench measures this program beside its peers: it builds a pair of
// gateways in network namespaces for each, sends traffic through them in turn,
// several rounds interleaved, and reports medians with their spread.
//
//	hostA ── gwA ═══════ gwB ── hostB
//
// All that runs on one machine shares its processors, so that figures compare
// only within one run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"caponier/internal/bench/stream"
)

// Options say what to measure, and how long.
type Options struct {
	Program  string   `json:"-"`                  // the caponier binary
	PeerDir  string   `json:"-"`                  // where wireguard-go and tailscale's are
	Peers    []string `json:"peers,omitempty"`    // by name; none: all that are there
	Measures []string `json:"measures,omitempty"` // by name; none: all that can be done

	Rounds       int           `json:"rounds"`
	Duration     time.Duration `json:"duration"`      // of one TCP or UDP measurement
	Pings        int           `json:"pings"`         // of each size, in all rounds together
	PingInterval time.Duration `json:"ping_interval"` // from an answer to the next request
	Flows        []int         `json:"flows"`         // TCP flows in parallel
	MSS          []int         `json:"mss"`           // octets
	Datagrams    []int         `json:"datagrams"`     // octets of data
	Rates        []float64     `json:"rates"`         // offered bit/s
	PacketRates  []float64     `json:"packet_rates"`  // offered packets/s; 0 is as many as one sender makes
	Echoes       []int         `json:"echoes"`        // octets of data in a ping
	Load         float64       `json:"load"`          // bit/s that pass while pinging under load
	Tunnels      []int         `json:"tunnels"`       // connections set up
}

// Full returns the options of a complete run. It takes less than half an hour.
func Full() Options {
	return Options{
		Rounds: 5, Duration: time.Second, Pings: 10_000, PingInterval: 500 * time.Microsecond,
		Flows:       []int{1, 4},
		MSS:         []int{100, 536, 1300},
		Datagrams:   []int{64, 256, 512, 1024, 1400, 4000},
		Rates:       []float64{100e6, 400e6, 1600e6},
		PacketRates: []float64{50e3, 100e3, 200e3, 0},
		Echoes:      []int{32, 64, 128, 256, 512},
		Load:        100e6,
		Tunnels:     []int{1000, 10_000},
	}
}

// Quick returns the options of a run that takes less than two minutes with all
// peers.
func Quick() Options {
	o := Full()
	o.Measures = []string{"tcp", "udp", "pps", "echo", "tunnels"}
	o.Rounds, o.Duration, o.Pings = 3, time.Second, 600
	o.Flows = []int{1}
	o.Datagrams = []int{1300}
	o.PacketRates = []float64{0}
	o.Echoes = []int{64, 512}
	o.Tunnels = []int{100}
	return o
}

// Errors of a run.
var (
	ErrOptions        = errors.New("the options do not fit")
	ErrNothing        = errors.New("there is nothing to measure")
	ErrUnknownMeasure = errors.New("unknown measure")
)

// Progress says how far a run is, in time.
type Progress struct {
	Done, Total time.Duration
	What        string // "round 2 of 5: tailscale, 1 flow, A to B"
}

// Check refuses options that cannot give a result.
func (o Options) Check() error {
	switch {
	case o.Rounds < 1:
		return fmt.Errorf("%w: %d rounds", ErrOptions, o.Rounds)
	case o.Duration < 100*time.Millisecond:
		return fmt.Errorf("%w: measurements of %v are too short, at least 100ms", ErrOptions, o.Duration)
	case o.Pings < o.Rounds:
		return fmt.Errorf("%w: %d pings in %d rounds", ErrOptions, o.Pings, o.Rounds)
	case o.PingInterval < 0:
		return fmt.Errorf("%w: pings every %v", ErrOptions, o.PingInterval)
	case slices.ContainsFunc(o.Datagrams, func(n int) bool { return n < stream.MinSize || n > stream.MaxSize }):
		return fmt.Errorf("%w: datagrams hold %d to %d octets", ErrOptions, stream.MinSize, stream.MaxSize)
	case slices.ContainsFunc(o.MSS, func(n int) bool { return n < 88 || n > 9216 }):
		return fmt.Errorf("%w: an MSS is 88 to 9216 octets", ErrOptions)
	case slices.ContainsFunc(o.Echoes, func(n int) bool { return n < minEcho || n > 65000 }):
		return fmt.Errorf("%w: pings hold %d to 65000 octets", ErrOptions, minEcho)
	case slices.ContainsFunc(o.Flows, func(n int) bool { return n < 1 || n > 128 }):
		return fmt.Errorf("%w: 1 to 128 flows", ErrOptions)
	case slices.ContainsFunc(slices.Concat(o.Rates, o.PacketRates), func(x float64) bool { return x < 0 || math.IsNaN(x) }):
		return fmt.Errorf("%w: rates are not negative", ErrOptions)
	case slices.ContainsFunc(o.Tunnels, func(n int) bool { return n < 1 || n > maxTunnels }):
		return fmt.Errorf("%w: 1 to %d tunnels", ErrOptions, maxTunnels)
	}
	return nil
}

// contender is a peer that runs.
type contender struct {
	entry
	peer peer
	pair *pair
}

// run is a run under way.
type run struct {
	Options
	dir        string
	contenders []contender
	progress   func(Progress)
	done       time.Duration
	total      time.Duration
}

// Run measures and reports. On return nothing of it is left on the machine. A
// single measurement that fails is part of the report; the error is for what
// keeps the whole run from a result. Progress is called from one goroutine.
func Run(ctx context.Context, o Options, progress func(Progress)) (rep *Report, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	measures, skipped, err := selectMeasures(o)
	if err != nil {
		return nil, err
	}
	r := &run{Options: o, progress: progress}
	if r.dir, err = os.MkdirTemp("", "caponier-bench-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()

	rep = &Report{Started: time.Now().UTC(), Options: o, Machine: describeMachine(), Skipped: skipped}
	r.progress(Progress{What: "looking for peers"})
	peers, infos, err := choose(ctx, o, measures)
	if err != nil {
		return nil, err
	}
	rep.Peers = infos
	for _, c := range peers {
		name := c.name
		r.progress(Progress{What: "starting " + name})
		startErr := r.start(ctx, c)
		switch i := slices.IndexFunc(infos, func(i PeerInfo) bool { return i.Name == name }); {
		case startErr == nil:
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case len(o.Peers) > 0:
			return nil, fmt.Errorf("peer %s: %w", name, startErr)
		default:
			infos[i].Missing = "it does not start: " + startErr.Error()
		}
	}
	if len(r.contenders) == 0 {
		return nil, fmt.Errorf("%w: no peer is there", ErrNothing)
	}
	series, err := r.rounds(ctx, measures)
	if err != nil {
		return nil, err
	}
	rep.Finished = time.Now().UTC()
	for i, m := range measures {
		rep.Series = append(rep.Series, m.report(series[i], r.names()))
	}
	return rep, nil
}

// selectMeasures leaves out what needs a program that is missing, unless it was
// asked for by name.
func selectMeasures(o Options) (chosen []measure, skipped []string, err error) {
	_, noIperf := exec.LookPath("iperf3")
	for _, name := range o.Measures {
		if !slices.Contains(MeasureNames(), name) {
			return nil, nil, fmt.Errorf("%w %q: it is none of %s", ErrUnknownMeasure, name, strings.Join(MeasureNames(), ", "))
		}
	}
	for _, m := range measures() {
		switch asked := slices.Contains(o.Measures, m.name); {
		case len(o.Measures) > 0 && !asked:
			continue
		case m.iperf && noIperf != nil && asked:
			return nil, nil, fmt.Errorf("measure %s: %w", m.name, errNoIperf)
		case m.iperf && noIperf != nil:
			skipped = append(skipped, fmt.Sprintf("%s: %v", m.name, errNoIperf))
			continue
		}
		if m.list = m.points(o); len(m.list) > 0 {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 0 {
		return nil, nil, ErrNothing
	}
	return chosen, skipped, nil
}

// start builds the pair of a peer and waits until packets cross it.
func (r *run) start(ctx context.Context, c contender) (err error) {
	if c.pair, err = newPair(filepath.Join(r.dir, strings.ReplaceAll(c.name, ":", "-"))); err != nil {
		return err
	}
	if err := r.bringUp(ctx, c); err != nil {
		return errors.Join(err, c.pair.close())
	}
	r.contenders = append(r.contenders, c)
	return nil
}

func (r *run) bringUp(ctx context.Context, c contender) error {
	if err := c.peer.start(ctx, c.pair); err != nil {
		return err
	}
	if err := c.pair.crossing(ctx, 20*time.Second); err != nil {
		return err
	}
	if err := c.pair.serveTCP(); err != nil {
		return err
	}
	// Both hosts learn the path's MTU before it counts.
	warmUp := stream.Load{Size: 1472, Rate: 10e6, Duration: 200 * time.Millisecond}
	_, err := stream.Measure(ctx, c.pair.aToB, warmUp)
	if err != nil {
		return err
	}
	_, err = stream.Measure(ctx, c.pair.bToA, warmUp)
	return err
}

func (r *run) names() []string {
	var names []string
	for _, c := range r.contenders {
		names = append(names, c.name)
	}
	return names
}

func (r *run) close() error {
	var errs []error
	for _, c := range r.contenders {
		errs = append(errs, c.pair.close())
	}
	return errors.Join(append(errs, os.RemoveAll(r.dir))...)
}

// rounds measures every point with every contender, round after round. The
// contenders follow each other directly at every point, each round in another
// order, so that what else happens on the machine meets all of them alike.
func (r *run) rounds(ctx context.Context, measures []measure) ([]samples, error) {
	series := make([]samples, len(measures))
	for i, m := range measures {
		series[i] = make(samples)
		for _, pt := range m.list {
			for round := range r.Rounds {
				r.total += time.Duration(len(r.who(m, pt, round))) * pt.takes
			}
		}
	}
	for round := range r.Rounds {
		for i, m := range measures {
			for j, pt := range m.list {
				who := r.who(m, pt, round)
				for k := range who {
					c := who[(k+round)%len(who)]
					name := c.name
					r.progress(Progress{r.done, r.total, fmt.Sprintf("round %d of %d: %s, %s, %s", round+1, r.Rounds, name, m.name, pt.label)})
					v, err := r.measure(ctx, c, pt)
					if ctx.Err() != nil {
						return nil, ctx.Err()
					}
					series[i].add(j, name, round, v, err)
					r.done += pt.takes
				}
			}
		}
	}
	r.progress(Progress{r.total, r.total, "done"})
	return series, nil
}

// who takes part in a point in a round: all that are in the run for such measures,
// and of points that build what they need, those that can.
func (r *run) who(m measure, pt point, round int) []contender {
	if pt.rounds > 0 && round >= pt.rounds {
		return nil
	}
	var able []contender
	for _, c := range r.contenders {
		_, gathers := c.peer.(gatherer)
		if c.takesPart(m.name) && (pt.alone == nil || gathers) && (!pt.ours || len(r.Peers) > 0 || isCaponier(c.name)) {
			able = append(able, c)
		}
	}
	return able
}

func (r *run) measure(ctx context.Context, c contender, pt point) (values, error) {
	if pt.alone != nil {
		return pt.alone(ctx, r, c.peer.(gatherer))
	}
	if err := c.pair.alive(); err != nil {
		return nil, err
	}
	return pt.run(ctx, c.pair)
}
