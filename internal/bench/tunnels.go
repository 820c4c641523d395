package bench

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"caponier/internal/bench/stream"
)

// lanFar is behind host B: single addresses of it are what tunnels are for, but
// for the first, which is for host B itself. A tunnel that is alone is for both.
var (
	lanFar  = netip.MustParsePrefix("10.3.0.0/16")
	lanBoth = netip.MustParsePrefix("10.2.0.0/15")
)

// maxTunnels is how many tunnels there are addresses for.
const maxTunnels = 1<<16 - 1

var (
	setupRate   = Metric{Name: "setup_rate", Title: "connections/s", Unit: PerSecond, Better: Higher}
	setupTime   = Metric{Name: "setup_time", Title: "time", Unit: Seconds, Better: Lower}
	setupCPUA   = Metric{Name: "setup_cpu_a", Title: "CPU A", Unit: Seconds}
	setupCPUB   = Metric{Name: "setup_cpu_b", Title: "CPU B", Unit: Seconds}
	perTunnelA  = Metric{Name: "per_tunnel_a", Title: "per tunnel A", Unit: Octets, Better: Lower}
	perTunnelB  = Metric{Name: "per_tunnel_b", Title: "per tunnel B", Unit: Octets, Better: Lower}
	tcpAmong    = Metric{Name: "tcp_among", Title: "TCP through one of them", Unit: BitsPerSecond, Better: Higher}
	tcpOfOne    = Metric{Name: "tcp_of_one", Title: "of a single tunnel's", Unit: Percent}
	udpAll      = Metric{Name: "udp_all", Title: "packets/s through all in turn", Unit: PerSecond, Better: Higher}
	udpOfOne    = Metric{Name: "udp_of_one", Title: "of a single tunnel's", Unit: Percent}
	establishes = fmt.Sprintf("Connections, an IKE SA and a tunnel each, set up %d at a time: X25519, pre-shared keys", atATime)
)

// gatherer is a peer that can have many connections between its two gateways.
type gatherer interface {
	peer
	// startMany runs the gateways of a pair with n connections, which nobody
	// calls yet.
	startMany(ctx context.Context, p *pair, n int) error
	// caller returns a function that has gateway A set up the i-th connection and
	// waits until it is up. One goroutine calls it; leave ends it.
	caller(p *pair) (call func(ctx context.Context, i int) error, leave func())
	// carriesAll says that the i-th tunnel carries what is for tunnelAddr(i).
	carriesAll() bool
	// tunnelsUp counts the tunnels that gateway B has.
	tunnelsUp(ctx context.Context, p *pair) (int, error)
}

func tunnelMeasure() measure {
	return measure{
		name: "tunnels", title: establishes, axis: "connections",
		metrics: []Metric{
			setupRate, setupTime, setupCPUA, setupCPUB, residentA, residentB, perTunnelA, perTunnelB,
			tcpAmong, tcpOfOne, udpAll, udpOfOne,
		},
		points: func(o Options) []point {
			var list []point
			for _, n := range o.Tunnels {
				list = append(list, point{
					label: fmt.Sprint(n), x: float64(n), takes: 7*time.Second + 4*o.Duration + time.Duration(n)*time.Millisecond,
					ours: n > manyTunnels, rounds: roundsOf(n),
					alone: func(ctx context.Context, r *run, g gatherer) (values, error) {
						return measureTunnels(ctx, r.dir, g, n, r.Duration)
					},
				})
			}
			return list
		},
	}
}

// manyTunnels is how many tunnels take strongSwan minutes, and this program long
// enough for two rounds to say it all.
const manyTunnels = 2000

func roundsOf(tunnels int) int {
	if tunnels > manyTunnels {
		return 2
	}
	return 0
}

// measureTunnels sets up one connection, for what a gateway needs as such and
// carries through one, then n in another pair.
func measureTunnels(ctx context.Context, dir string, g gatherer, n int, traffic time.Duration) (values, error) {
	one, err := setUp(ctx, dir, g, 1, n, traffic)
	if err != nil {
		return nil, err
	}
	many, err := setUp(ctx, dir, g, n, n, traffic)
	if err != nil {
		return nil, err
	}
	v := values{
		setupTime.Name: many.took.Seconds(), setupCPUA.Name: many.cpu[0], setupCPUB.Name: many.cpu[1],
		residentA.Name: many.usage[0].resident, residentB.Name: many.usage[1].resident,
	}
	if many.took > 0 {
		v[setupRate.Name] = float64(n) / many.took.Seconds()
	}
	if one.tcp > 0 {
		v[tcpAmong.Name], v[tcpOfOne.Name] = many.tcp, 100*many.tcp/one.tcp
	}
	if one.udp > 0 {
		v[udpAll.Name], v[udpOfOne.Name] = many.udp, 100*many.udp/one.udp
	}
	if n > 1 {
		v[perTunnelA.Name] = (many.usage[0].resident - one.usage[0].resident) / float64(n-1)
		v[perTunnelB.Name] = (many.usage[1].resident - one.usage[1].resident) / float64(n-1)
	}
	return v, nil
}

// atATime is how many connections are being set up at any moment. It is less
// than the half-open IKE SAs that a gateway admits from one address.
const atATime = 16

// established is what setting up a number of connections took, and what they
// carry.
type established struct {
	took     time.Duration // from the first order to the last tunnel
	cpu      []float64     // of A and B meanwhile, in seconds
	usage    []usage       // of A and B when all were up
	tcp, udp float64       // bit/s of one flow through one tunnel, packets/s through all in turn
}

// setUp orders gateway A to set up n connections, and then sends traffic to as
// many addresses as targets says.
func setUp(ctx context.Context, dir string, g gatherer, n, targets int, traffic time.Duration) (e established, err error) {
	p, err := newPair(filepath.Join(dir, fmt.Sprintf("tunnels-%d", pairs.Load())))
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := errors.Join(p.extendB(lanFar), p.serveTCP()); err != nil {
		return e, err
	}
	if err := g.startMany(ctx, p, n); err != nil {
		return e, err
	}
	before, err := p.gatewayUsage()
	if err != nil {
		return e, err
	}
	began := time.Now()
	if err := connectAll(ctx, p, g, n); err != nil {
		return e, p.blame(err)
	}
	e.took = time.Since(began)
	if e.usage, err = p.gatewayUsage(); err != nil {
		return e, err
	}
	for i := range e.usage {
		e.cpu = append(e.cpu, e.usage[i].cpu-before[i].cpu)
	}
	up, err := g.tunnelsUp(ctx, p)
	if err != nil {
		return e, err
	}
	if up != n {
		return e, p.blame(fmt.Errorf("gateway B has %d of %d tunnels", up, n))
	}
	if !g.carriesAll() {
		return e, nil
	}
	return e, e.load(ctx, p, targets, traffic)
}

// load sends through the first tunnel, and to n addresses in turn.
func (e *established) load(ctx context.Context, p *pair, n int, d time.Duration) error {
	targets := make([]netip.Addr, n)
	for i := range targets {
		targets[i] = tunnelAddr(i)
	}
	// The first packets of each tunnel find the way.
	l := stream.Load{Size: 1300, Rate: 150e6, Duration: 200*time.Millisecond + time.Duration(n)*150*time.Microsecond, Targets: targets}
	if _, err := stream.Measure(ctx, p.aToB, l); err != nil {
		return err
	}
	l.Rate, l.Duration = 0, d
	udp, err := stream.Measure(ctx, p.aToB, l)
	if err != nil {
		return err
	}
	e.udp = udp.Packets
	if !p.iperf {
		return nil
	}
	tcp, err := measureTCP(ctx, p, tcpLoad{flows: 1, duration: d})
	e.tcp = tcp.rate
	return err
}

// extendB makes host B answer for all addresses of a prefix.
func (p *pair) extendB(lan netip.Prefix) error {
	return errors.Join(
		p.gwB.Route(lan, addrHostB),
		p.hostB.IP("route", "add", "local", lan.String(), "dev", "lo"))
}

// connectAll returns when all connections are up, or with the first error.
func connectAll(ctx context.Context, p *pair, g gatherer, n int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(atATime, n) {
		workers.Go(func() {
			call, leave := g.caller(p)
			defer leave()
			for i := range next {
				if err := call(ctx, i); err != nil {
					cancel(fmt.Errorf("connecting %s: %w", connectionName(i), err))
					return
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// connectionName names the i-th connection. Its tunnel is lan of it.
func connectionName(i int) string { return fmt.Sprintf("c%d", i) }

// tunnelAddr is what the i-th tunnel is for, behind gateway B.
func tunnelAddr(i int) netip.Addr {
	if i == 0 {
		return addrHostB
	}
	base := lanFar.Addr().As4()
	return netip.AddrFrom4([4]byte{base[0], base[1], byte(i >> 8), byte(i)})
}

// manyConnections gives each connection an address behind gateway B.
func manyConnections(n int) []benchConnection {
	conns := make([]benchConnection, n)
	for i := range conns {
		remote := netip.PrefixFrom(tunnelAddr(i), 32)
		if n == 1 {
			remote = lanBoth
		}
		conns[i] = benchConnection{
			Name:    connectionName(i),
			LocalID: fmt.Sprintf("a%d.bench.example", i), RemoteID: fmt.Sprintf("b%d.bench.example", i),
			LocalTS: lanA.String(), RemoteTS: remote.String(),
		}
	}
	return conns
}

// benchConnection is a connection as one end sees it.
type benchConnection struct{ Name, LocalID, RemoteID, LocalTS, RemoteTS string }

// mirror is the other end's view of a connection.
func (c benchConnection) mirror() benchConnection {
	c.LocalID, c.RemoteID, c.LocalTS, c.RemoteTS = c.RemoteID, c.LocalID, c.RemoteTS, c.LocalTS
	return c
}

func mirrored(conns []benchConnection) []benchConnection {
	out := make([]benchConnection, len(conns))
	for i, c := range conns {
		out[i] = c.mirror()
	}
	return out
}
