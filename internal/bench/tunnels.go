package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"caponier/internal/control"
)

// maxTunnels is how many single addresses of LAN B there are for tunnels.
const maxTunnels = 1 << 16

var (
	setupRate   = Metric{Name: "setup_rate", Title: "connections/s", Unit: PerSecond, Better: Higher}
	setupTime   = Metric{Name: "setup_time", Title: "time", Unit: Seconds, Better: Lower}
	setupCPUA   = Metric{Name: "setup_cpu_a", Title: "CPU A", Unit: Seconds}
	setupCPUB   = Metric{Name: "setup_cpu_b", Title: "CPU B", Unit: Seconds}
	perTunnelA  = Metric{Name: "per_tunnel_a", Title: "per tunnel A", Unit: Octets, Better: Lower}
	perTunnelB  = Metric{Name: "per_tunnel_b", Title: "per tunnel B", Unit: Octets, Better: Lower}
	establishes = fmt.Sprintf("Set-up of connections, an IKE SA and a tunnel each, %d at a time: X25519, pre-shared keys", atATime)
)

func tunnelMeasure() measure {
	return measure{
		name: "tunnels", title: establishes, axis: "connections",
		metrics: []Metric{setupRate, setupTime, setupCPUA, setupCPUB, residentA, residentB, perTunnelA, perTunnelB},
		points: func(o Options) []point {
			var list []point
			for _, n := range o.Tunnels {
				list = append(list, point{
					label: fmt.Sprint(n), x: float64(n), takes: 5*time.Second + time.Duration(n)*5*time.Millisecond,
					alone: func(ctx context.Context, r *run, c caponierPeer) (values, error) {
						return measureTunnels(ctx, r.dir, c, n)
					},
				})
			}
			return list
		},
	}
}

// measureTunnels sets up one connection, for the memory of a gateway as such,
// then n in another pair.
func measureTunnels(ctx context.Context, dir string, c caponierPeer, n int) (values, error) {
	one, err := setUp(ctx, dir, c, 1)
	if err != nil {
		return nil, err
	}
	many, err := setUp(ctx, dir, c, n)
	if err != nil {
		return nil, err
	}
	v := values{
		setupTime.Name: many.took.Seconds(), setupCPUA.Name: many.usage[0].cpu, setupCPUB.Name: many.usage[1].cpu,
		residentA.Name: many.usage[0].resident, residentB.Name: many.usage[1].resident,
	}
	if many.took > 0 {
		v[setupRate.Name] = float64(n) / many.took.Seconds()
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

// established is what setting up a number of connections took.
type established struct {
	took  time.Duration // from the first order to the last tunnel
	usage []usage       // of A and B, start-up included
}

// setUp orders gateway A to set up n connections, through its control socket.
func setUp(ctx context.Context, dir string, c caponierPeer, n int) (e established, err error) {
	p, err := newPair(filepath.Join(dir, fmt.Sprintf("tunnels-%d", pairs.Load())))
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := c.startConnections(ctx, p, manyConnections(n), "none"); err != nil {
		return e, err
	}
	if _, err := caponierStatus(ctx, p, "gwa"); err != nil {
		return e, err
	}
	began := time.Now()
	if err := connectAll(ctx, p, n); err != nil {
		return e, p.blame(err)
	}
	e.took = time.Since(began)
	status, err := caponierStatus(ctx, p, "gwb")
	if err != nil {
		return e, err
	}
	if up := tunnelsUp(status); up != n {
		return e, p.blame(fmt.Errorf("gateway B has %d of %d tunnels", up, n))
	}
	e.usage, err = p.gatewayUsage()
	return e, err
}

// connectAll returns when all connections are up, or with the first error.
func connectAll(ctx context.Context, p *pair, n int) error {
	order, ok := control.Find("connect")
	if !ok {
		return errors.New("the registry has no connect")
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(atATime, n) {
		workers.Go(func() {
			client := control.NewClient(filepath.Join(p.dir, "gwa.sock"))
			defer client.Close()
			for i := range next {
				err := client.Call(ctx, order, map[string]any{"target": connectionName(i)},
					func(control.Result, json.RawMessage) error { return nil })
				if err != nil {
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

func connectionName(i int) string { return fmt.Sprintf("c%d", i) }

// tunnelsUp counts the tunnels that have SAs.
func tunnelsUp(s control.Status) (up int) {
	for _, c := range s.Connections {
		for _, t := range c.Tunnels {
			if len(t.SAs) > 0 {
				up++
			}
		}
	}
	return up
}

// manyConnections gives each connection an address of LAN B.
func manyConnections(n int) []caponierConnection {
	conns := make([]caponierConnection, n)
	at := lanB.Addr()
	for i := range conns {
		conns[i] = caponierConnection{
			Name:    connectionName(i),
			LocalID: fmt.Sprintf("a%d.bench.example", i), RemoteID: fmt.Sprintf("b%d.bench.example", i),
			LocalTS: lanA.String(), RemoteTS: netip.PrefixFrom(at, 32).String(),
		}
		at = at.Next()
	}
	return conns
}
