package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"caponier/internal/bench"
	"caponier/internal/control"
)

// benchFlags are the flags of `bench` as typed: those that were not given leave
// the defaults, of the full or of the quick run.
type benchFlags struct {
	quick                                 bool
	peers, measures                       []string
	rounds, pings                         int
	duration, interval                    time.Duration
	flows, mss, datagrams, echoes, tunnel []int
	rates, packetRates                    []float64
	load                                  float64
	peerDir, out                          string
}

func (c *cli) bench() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this program beside its peers, in network namespaces of this machine",
		Long: "Builds a pair of gateways with a host behind each for every peer, in network\n" +
			"namespaces that it makes and removes, sends traffic through them in turn, several\n" +
			"rounds interleaved, and reports medians with their spread. It needs root, and\n" +
			"takes less than half an hour; two minutes with --quick. Without --peers, the\n" +
			"variants of this program that are for small packets take part where these are\n" +
			"measured.\n\n" + bench.Picture + "\n" +
			"Peers:    " + strings.Join(bench.PeerNames(), ", ") + ",\n" +
			"          caponier:PROPOSAL for another ESP proposal than " + bench.DefaultESP + ",\n" +
			"          caponier:aggfrag or caponier:PROPOSAL+aggfrag with small packets that share ESP packets\n" +
			"          caponier:capture=afpacket or caponier:capture=afxdp with frames captured, also behind a plus sign;\n" +
			"          with @lan or @wan behind, those of the interface inside or outside alone\n" +
			"          caponier:latency=low with workers that stay awake, also behind a plus sign\n" +
			"Measures: " + strings.Join(bench.MeasureNames(), ", "),
		Args: cobra.NoArgs,
	}
	full, fs := bench.Full(), cmd.Flags()
	fs.BoolVar(&f.quick, "quick", false, "a run of less than two minutes")
	fs.StringSliceVar(&f.peers, "peers", nil, "the peers, which then must be there (default all that are there)")
	fs.StringSliceVar(&f.measures, "measure", nil, "the measures (default all)")
	fs.IntVar(&f.rounds, "rounds", full.Rounds, "how often everything is measured")
	fs.DurationVar(&f.duration, "duration", full.Duration, "of one TCP (whole seconds) or UDP measurement")
	fs.IntVar(&f.pings, "pings", full.Pings, "pings of each size in all rounds together")
	fs.DurationVar(&f.interval, "ping-interval", full.PingInterval, "pause after each ping")
	fs.IntSliceVar(&f.flows, "flows", full.Flows, "TCP flows in parallel")
	fs.IntSliceVar(&f.mss, "mss", full.MSS, "TCP segment sizes")
	fs.IntSliceVar(&f.datagrams, "datagrams", full.Datagrams, "octets of data in UDP datagrams")
	fs.Float64SliceVar(&f.rates, "rates", full.Rates, "offered UDP bandwidths, bit/s")
	fs.Float64SliceVar(&f.packetRates, "packet-rates", full.PacketRates, "offered packets per second; 0 is as many as one sender makes. One more point has as many as pass")
	fs.IntSliceVar(&f.echoes, "echoes", full.Echoes, "octets of data in pings")
	fs.Float64Var(&f.load, "load", full.Load, "UDP traffic while pinging under load, bit/s")
	fs.IntSliceVar(&f.tunnel, "tunnels", full.Tunnels, "numbers of connections to set up at once")
	fs.StringVar(&f.peerDir, "peer-dir", "", "where wireguard-go and tailscale-wireguard-go are (default the user's cache, where make bench-peers builds them)")
	fs.StringVarP(&f.out, "out", "o", "", "write report.md, report.json and plots to this directory")
	names := append(bench.PeerNames(), bench.Caponier+":", bench.Caponier+":"+bench.Aggfrag)
	// It fails only for a flag that is not declared.
	_ = cmd.RegisterFlagCompletionFunc("peers", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("measure", cobra.FixedCompletions(bench.MeasureNames(), cobra.ShellCompDirectiveNoFileComp))
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		o, err := f.options(cmd.Flags().Changed)
		if err != nil {
			return benchError(err)
		}
		bar := newBar(os.Stderr)
		report, err := bench.Run(cmd.Context(), o, func(p bench.Progress) { bar.show(p.What, p.Done, p.Total) })
		bar.clear()
		if err != nil {
			return benchError(err)
		}
		report.Version, report.Command = control.LocalBuild().Version, "caponier "+strings.Join(os.Args[1:], " ")
		if f.out != "" {
			if err := report.WriteFiles(f.out); err != nil {
				return err
			}
			bar.say(fmt.Sprintf("the report is %s/report.md", strings.TrimRight(f.out, "/")))
		}
		return c.print(report)
	})
	return cmd
}

// benchError tells wrong usage from failure.
func benchError(err error) error {
	for _, usage := range []error{bench.ErrOptions, bench.ErrUnknownMeasure, bench.ErrUnknownPeer} {
		if errors.Is(err, usage) {
			return &control.Error{Code: control.CodeUsage, Message: err.Error(), Cure: "caponier bench --help"}
		}
	}
	return err
}

// options applies the flags that were given to the defaults.
func (f benchFlags) options(given func(flag string) bool) (bench.Options, error) {
	o := bench.Full()
	if f.quick {
		o = bench.Quick()
	}
	program, err := os.Executable()
	if err != nil {
		return o, err
	}
	o.Program, o.Peers, o.PeerDir = program, f.peers, f.peerDir
	if o.PeerDir == "" {
		o.PeerDir = bench.DefaultPeerDir()
	}
	for flag, apply := range map[string]func(){
		"measure":       func() { o.Measures = f.measures },
		"rounds":        func() { o.Rounds = f.rounds },
		"duration":      func() { o.Duration = f.duration },
		"pings":         func() { o.Pings = f.pings },
		"ping-interval": func() { o.PingInterval = f.interval },
		"flows":         func() { o.Flows = f.flows },
		"mss":           func() { o.MSS = f.mss },
		"datagrams":     func() { o.Datagrams = f.datagrams },
		"rates":         func() { o.Rates = f.rates },
		"packet-rates":  func() { o.PacketRates = f.packetRates },
		"echoes":        func() { o.Echoes = f.echoes },
		"load":          func() { o.Load = f.load },
		"tunnels":       func() { o.Tunnels = f.tunnel },
	} {
		if given(flag) {
			apply()
		}
	}
	return o, o.Check()
}
