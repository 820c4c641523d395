package ike

import (
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// soak is two gateways that live through days of virtual time.
type soak struct {
	t    *testing.T
	n    *network
	rng  *rand.Rand
	l, r *gateway
	cl   *v2.Connection
	seen struct{ child, ike map[string]bool }
}

// weather makes the network lose, repeat and delay a few messages in a hundred.
// It has its own dice, because the gateways send while the soak throws its.
func (s *soak) weather() {
	rng := rand.New(rand.NewPCG(s.rng.Uint64(), s.rng.Uint64()))
	s.n.setTamper(func(d netio.Datagram) []delivery {
		switch roll := rng.IntN(100); {
		case roll < 3:
			return nil
		case roll < 5:
			return []delivery{{d: d}, {d: d, delay: time.Duration(rng.IntN(2000)) * time.Millisecond}}
		case roll < 10:
			return []delivery{{d: d, delay: time.Duration(rng.IntN(2000)) * time.Millisecond}}
		default:
			return []delivery{{d: d}}
		}
	})
}

// hour lets an hour pass in which everything happens that happens to gateways.
func (s *soak) hour(h int) {
	s.weather()
	for range 10 {
		pass(5 * time.Minute)
		s.note()
		switch s.rng.IntN(6) {
		case 0: // both at once: a collision
			go func() { _ = s.l.Rekey(s.t.Context(), "site", "") }()
			_ = s.r.Rekey(s.t.Context(), "site", "")
		case 1:
			go func() { _ = s.l.Rekey(s.t.Context(), "site", "lan") }()
			_ = s.r.Rekey(s.t.Context(), "site", "lan")
		case 2: // the data plane says that enough octets have passed
			for _, sa := range s.l.fake.SAs() {
				s.l.fake.Raise(ipsec.Expire{ID: sa.ID, Connection: sa.Connection, Tunnel: sa.Tunnel})
			}
		case 3:
			_ = s.l.Disconnect(s.t.Context(), "site", "dmz")
			_ = s.l.Connect(s.t.Context(), "site", "dmz")
		case 4: // a reload
			s.cl = changed(s.cl, func(c *v2.Connection) { c.Lifetime = time.Duration(40+h%20) * time.Minute })
			s.l.Apply([]*v2.Connection{s.cl}, map[string]Change{"site": {RekeyIKE: h%2 == 0, Rekey: []string{"lan"}}})
		case 5: // the link is away for a moment
			s.n.cut(rightAddr, true)
			pass(10 * time.Second)
			s.n.cut(rightAddr, false)
		}
	}
	if h%4 == 3 { // and now for longer than any patience
		s.n.cut(rightAddr, true)
		pass(10 * time.Minute)
		if len(s.l.fake.SAs()) != 0 || len(s.r.fake.SAs()) != 0 {
			s.t.Errorf("hour %d: SAs outlive their peer", h)
		}
		s.n.cut(rightAddr, false)
	}
	s.n.setTamper(nil)
	pass(10 * time.Minute)
	s.tidy(h)
}

// note remembers which SAs there were.
func (s *soak) note() {
	for _, sa := range s.l.fake.SAs() {
		s.seen.child[sa.ID.SPI.String()] = true
	}
	for _, spi := range s.l.ikeSPIs("site") {
		s.seen.ike[spi] = true
	}
}

// tidy checks that the gateways hold no more than two tunnels need.
func (s *soak) tidy(h int) {
	s.n.mu.Lock()
	s.n.sent = nil // the network's memory is not the gateways'
	s.n.mu.Unlock()
	for _, g := range []*gateway{s.l, s.r} {
		// A rekeying that has just been leaves an IKE SA that answers repetitions.
		eventually(s.t, 5*time.Minute, g.addr.String()+" to hold no more than it needs", func() bool {
			timers := 0
			for _, sh := range g.shards {
				sh.do(func() { timers += len(sh.queue) })
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.bySPI) == 1 && len(g.halfOpen) == 0 && len(g.bySA) == 4 && len(g.conns["site"].waiters) == 0 && timers == 1
		})
	}
	mustMirror(s.t, s.l, s.r, 2)
	if s.t.Failed() {
		s.t.Fatalf("in hour %d", h)
	}
}

func heapNow() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestSoak lives through a day (an hour, for short) of rekeying by time and use,
// collisions, losses, outages and reloads, in virtual time. Nothing may pile up:
// no SA, SPI, timer, goroutine or memory.
func TestSoak(t *testing.T) {
	hours := 24
	if testing.Short() {
		hours = 4
	}
	began := time.Now()
	var rekeyed, ikes int
	simulate(t, func(t *testing.T, n *network) {
		s := &soak{t: t, n: n, rng: rand.New(rand.NewPCG(1, 2))}
		s.seen.child, s.seen.ike = make(map[string]bool), make(map[string]bool)
		cl, cr := end("site", true), end("site", false)
		starting(cl)
		for _, c := range []*v2.Connection{cl, cr} {
			c.Lifetime = 45 * time.Minute
			for _, ch := range c.Children {
				ch.Lifetime = ipsec.Limit{Time: 12 * time.Minute}
			}
		}
		s.cl = cl
		s.l, s.r = n.gateway(t, leftAddr, []*v2.Connection{cl}), n.gateway(t, rightAddr, []*v2.Connection{cr})
		eventually(t, time.Minute, "up", func() bool { return s.l.tunnels("lan") == 1 && s.l.tunnels("dmz") == 1 })
		var memory uint64
		goroutines := 0
		for h := range hours {
			s.hour(h)
			if h == 1 {
				memory, goroutines = heapNow(), runtime.NumGoroutine()
			}
		}
		if now := runtime.NumGoroutine(); now != goroutines {
			t.Errorf("%d goroutines, %d after the second hour", now, goroutines)
		}
		// The calls that the fake data plane remembers, and the log, grow by themselves.
		if now := heapNow(); now > memory+(2<<20) {
			t.Errorf("the heap has %d octets, %d after the second hour", now, memory)
		}
		if err := s.l.Disconnect(t.Context(), "site", ""); err != nil {
			t.Error(err)
		}
		pass(3 * time.Minute)
		s.l.mustBeEmpty()
		s.r.mustBeEmpty()
		rekeyed, ikes = len(s.seen.child), len(s.seen.ike)
	})
	if rekeyed < 12*hours || ikes < 2*hours {
		t.Errorf("only %d CHILD SAs and %d IKE SAs in %d hours", rekeyed, ikes, hours)
	}
	t.Logf("%d hours with %d CHILD SAs and %d IKE SAs in %s", hours, rekeyed, ikes, time.Since(began))
}
