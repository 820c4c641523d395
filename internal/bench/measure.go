package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"caponier/internal/bench/stream"
)

// values are what one measurement gave, by the names of metrics.
type values map[string]float64

// point is one setting of a measure.
type point struct {
	label string
	x     float64       // on the axis, where the measure has one
	takes time.Duration // about
	// rounds is in how many it is measured: 0 is in all. ours says that it would
	// take others too long: they take part where they are asked for.
	rounds int
	ours   bool
	// Either run measures a pair that is up, or alone builds what it needs.
	run   func(ctx context.Context, p *pair) (values, error)
	alone func(ctx context.Context, r *run, g gatherer) (values, error)
}

// measure is a series of points that a table and a plot show together.
type measure struct {
	name, title string
	axis        string // what x is; empty: the labels say it all
	metrics     []Metric
	iperf       bool // needs iperf3
	// highest is the label of one more point, which has of each round the point
	// with the best first metric; empty: there is none.
	highest string
	points  func(o Options) []point
	list    []point // of this run
}

// The metrics. The first of a measure is the one it is plotted by.
var (
	goodput     = Metric{Name: "goodput", Title: "goodput", Unit: BitsPerSecond, Better: Higher}
	packets     = Metric{Name: "packets", Title: "packets/s", Unit: PerSecond, Better: Higher}
	loss        = Metric{Name: "loss", Title: "lost", Unit: Percent}
	reordered   = Metric{Name: "reordered", Title: "reordered", Unit: Count}
	retransmits = Metric{Name: "retransmits", Title: "retransmits", Unit: Count}
	cpuA        = Metric{Name: "cpu_a", Title: "CPU A", Unit: SecondsPerGB}
	cpuB        = Metric{Name: "cpu_b", Title: "CPU B", Unit: SecondsPerGB}
	residentA   = Metric{Name: "resident_a", Title: "memory A", Unit: Octets}
	residentB   = Metric{Name: "resident_b", Title: "memory B", Unit: Octets}
	trip50      = Metric{Name: "p50", Title: "p50", Unit: Seconds, Better: Lower}
	trip90      = Metric{Name: "p90", Title: "p90", Unit: Seconds, Better: Lower}
	trip99      = Metric{Name: "p99", Title: "p99", Unit: Seconds, Better: Lower}
	unanswered  = Metric{Name: "unanswered", Title: "unanswered", Unit: Count}
)

// MeasureNames lists the measures in the order of reports.
func MeasureNames() []string {
	var names []string
	for _, m := range measures() {
		names = append(names, m.name)
	}
	return names
}

func measures() []measure {
	costs := []Metric{cpuA, cpuB, residentA, residentB}
	trips := []Metric{trip50, trip90, trip99, unanswered}
	return []measure{
		{
			name: "tcp", title: "TCP, largest segments", iperf: true,
			metrics: append([]Metric{goodput, retransmits}, costs...), points: tcpPoints,
		},
		{
			name: "mss", title: "TCP, one flow from A to B, by segment size", axis: "MSS in octets", iperf: true,
			metrics: append([]Metric{goodput, retransmits}, costs...), points: mssPoints,
		},
		{
			name: "udp", title: "UDP from A to B, as much as passes, by datagram size", axis: "octets of data in a datagram",
			metrics: append([]Metric{goodput, packets, loss, reordered}, costs...), points: udpPoints,
		},
		{
			name: "rate", title: "UDP from A to B, datagrams of 1,300 octets, by offered bandwidth", axis: "offered Mb/s",
			metrics: append([]Metric{goodput, loss, reordered}, costs...), points: ratePoints,
		},
		{
			name: "pps", title: "UDP from A to B, datagrams of 64 octets, by offered packets per second",
			metrics: append([]Metric{packets, loss, reordered}, costs...), points: packetPoints,
			highest: "the highest of these",
		},
		{
			name: "echo", title: "Round trip from host A to host B, idle, by size", axis: "octets of data in a ping",
			metrics: trips, points: func(o Options) []point { return echoPoints(o, 0) },
		},
		{
			name: "echo-load", title: "Round trip from host A to host B under UDP load, by size", axis: "octets of data in a ping",
			metrics: trips, points: func(o Options) []point { return echoPoints(o, o.Load) },
		},
		tunnelMeasure(),
	}
}

// perGB is the unit of traffic in costs: 10^9 octets of goodput.
const perGB = 1e9

// costing adds to the values of a measurement what the gateways spent on it.
// bytes is the goodput.
func costing(p *pair, f func() (v values, bytes float64, err error)) (values, error) {
	before, err := p.gatewayUsage()
	if err != nil {
		return nil, err
	}
	v, bytes, err := f()
	if err != nil {
		return nil, err
	}
	after, err := p.gatewayUsage()
	if err != nil {
		return nil, err
	}
	for i, m := range [][2]Metric{{cpuA, residentA}, {cpuB, residentB}} {
		if i >= len(after) {
			break
		}
		if bytes > 0 {
			v[m[0].Name] = (after[i].cpu - before[i].cpu) / bytes * perGB
		}
		v[m[1].Name] = after[i].resident
	}
	return v, nil
}

func tcpPoint(label string, x float64, l tcpLoad) point {
	return point{label: label, x: x, takes: l.duration + 500*time.Millisecond, run: func(ctx context.Context, p *pair) (values, error) {
		return costing(p, func() (values, float64, error) {
			r, err := measureTCP(ctx, p, l)
			return values{goodput.Name: r.rate, retransmits.Name: r.retransmits}, r.bytes, err
		})
	}}
}

func tcpPoints(o Options) []point {
	var list []point
	for _, flows := range o.Flows {
		for _, reverse := range []bool{false, true} {
			label := "A to B"
			if reverse {
				label = "B to A"
			}
			if flows == 1 {
				label = "1 flow, " + label
			} else {
				label = fmt.Sprintf("%d flows, %s", flows, label)
			}
			list = append(list, tcpPoint(label, 0, tcpLoad{flows: flows, reverse: reverse, duration: o.Duration}))
		}
	}
	return list
}

func mssPoints(o Options) []point {
	var list []point
	for _, mss := range o.MSS {
		list = append(list, tcpPoint(fmt.Sprint(mss), float64(mss), tcpLoad{flows: 1, mss: mss, duration: o.Duration}))
	}
	return list
}

func udpPoint(label string, x float64, l stream.Load) point {
	return point{label: label, x: x, takes: l.Duration + 2*stream.Drain, run: func(ctx context.Context, p *pair) (values, error) {
		return costing(p, func() (values, float64, error) {
			r, err := stream.Measure(ctx, p.aToB, l)
			return values{
				goodput.Name: r.Rate, packets.Name: r.Packets, loss.Name: r.LossPercent(), reordered.Name: float64(r.Reordered),
			}, float64(r.Received) * float64(l.Size), err
		})
	}}
}

func udpPoints(o Options) []point {
	var list []point
	for _, size := range o.Datagrams {
		list = append(list, udpPoint(fmt.Sprint(size), float64(size), stream.Load{Size: size, Window: onTheWay, Duration: o.Duration}))
	}
	return list
}

// rateDatagram fits into every tunnel without fragmentation.
const rateDatagram = 1300

func ratePoints(o Options) []point {
	var list []point
	for _, rate := range o.Rates {
		list = append(list, udpPoint(fmt.Sprintf("%.0f Mb/s", rate/1e6), rate/1e6, stream.Load{Size: rateDatagram, Rate: rate, Duration: o.Duration}))
	}
	return list
}

// onTheWay is how many frames there are at a time between hosts that send as much
// as passes: less than the 500 that a TUN device holds unless told otherwise.
const onTheWay = 384

const smallDatagram = 64

func packetPoints(o Options) []point {
	var list []point
	for _, rate := range o.PacketRates {
		label := fmt.Sprintf("%.0f k/s", rate/1e3)
		if rate == 0 {
			label = "unlimited"
		}
		list = append(list, udpPoint(label, rate, stream.Load{Size: smallDatagram, Rate: rate * smallDatagram * 8, Duration: o.Duration}))
	}
	if len(list) > 0 {
		list = append(list, udpPoint("as many as pass", 0, stream.Load{Size: smallDatagram, Window: onTheWay, Duration: o.Duration}))
	}
	return list
}

// echoPoints pings idle pairs, or pairs that carry a load at the same time.
func echoPoints(o Options, load float64) []point {
	var list []point
	for _, size := range o.Echoes {
		l := echoLoad{size: size, count: max(1, o.Pings/o.Rounds), interval: o.PingInterval}
		takes := time.Duration(l.count) * (l.interval + 300*time.Microsecond)
		list = append(list, point{label: fmt.Sprint(size), x: float64(size), takes: takes, run: func(ctx context.Context, p *pair) (values, error) {
			return underLoad(ctx, p, load, 4*takes+time.Minute, func() (values, error) { return pingValues(ctx, p, l) })
		}})
	}
	return list
}

func pingValues(ctx context.Context, p *pair, l echoLoad) (values, error) {
	trips, lost, err := measureEcho(ctx, p.hostA, addrHostB, l)
	if err != nil {
		return nil, err
	}
	v := values{unanswered.Name: float64(lost)}
	for name, at := range map[string]float64{trip50.Name: 50, trip90.Name: 90, trip99.Name: 99} {
		if t := percentile(trips, at); !math.IsNaN(t) {
			v[name] = t
		}
	}
	return v, nil
}

// underLoad calls f while datagrams cross at rate bit/s, at most for a time.
func underLoad(ctx context.Context, p *pair, rate float64, atMost time.Duration, f func() (values, error)) (values, error) {
	if rate == 0 {
		return f()
	}
	ctx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := stream.Measure(ctx, p.aToB, stream.Load{Size: rateDatagram, Rate: rate, Duration: atMost})
		done <- err
	}()
	time.Sleep(100 * time.Millisecond) // until the load is there
	v, err := f()
	stop()
	return v, errors.Join(err, <-done)
}
