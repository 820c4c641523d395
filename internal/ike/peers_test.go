package ike

import (
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// When both ends initiate at once, both IKE SAs stay: no rule by which each end
// alone closed one of them could not close both. Nothing flaps.
func TestSimultaneousInitiation(t *testing.T) {
	for shift := range 8 {
		t.Run(fmt.Sprint(shift), func(t *testing.T) {
			simulate(t, func(t *testing.T, n *network) {
				l, r := n.two(t)
				results := make(chan error, 2)
				go func() { results <- l.Connect(t.Context(), "site", "") }()
				pass(time.Duration(shift) * latency / 2)
				go func() { results <- r.Connect(t.Context(), "site", "") }()
				for range 2 {
					if err := <-results; err != nil {
						t.Error(err)
					}
				}
				pass(time.Second)
				for _, c := range []*gateway{l, r} {
					next := changed(c.Status("site")[0].Config, starting)
					c.Apply([]*v2.Connection{next}, map[string]Change{"site": {}})
				}
				pass(10 * time.Second) // a request that overtook a response is repeated
				pairs := len(l.fake.SAs()) / 2
				if pairs < 2 || pairs > 4 {
					t.Errorf("%d pairs of SAs", pairs)
				}
				begun := n.count(leftAddr, isInitRequest) + n.count(rightAddr, isInitRequest)
				if up := l.ikeSPIs("site"); len(up) != begun {
					t.Errorf("of %d IKE SAs that were begun, %v are up", begun, up)
				}
				before := l.spis("site", "lan")
				pass(10 * time.Minute)
				mustMirror(t, l, r, pairs)
				if !slices.Equal(before, l.spis("site", "lan")) {
					t.Errorf("SPIs were %v and are %v", before, l.spis("site", "lan"))
				}
				if err := r.Disconnect(within(t, time.Minute), "site", ""); err != nil {
					t.Fatal(err)
				}
				if len(r.fake.SAs()) != 0 {
					t.Error("Disconnect returned too early")
				}
			})
		})
	}
}

func TestRestartOfThePeer(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		l.connect("site", "")
		before := l.spis("site", "lan")
		r.die(n)
		r = n.gateway(t, rightAddr, []*v2.Connection{end("site", false)})
		r.connect("site", "lan") // with INITIAL_CONTACT
		if err := l.Rekey(within(t, 5*time.Second), "site", "lan"); err != nil {
			t.Error(err)
		}
		pass(15 * time.Second) // before DPD could find out
		mustMirror(t, l, r, 1)
		if now := l.spis("site", "lan"); slices.ContainsFunc(now, func(s ipsec.SPI) bool { return slices.Contains(before, s) }) {
			t.Errorf("SPIs were %v and are %v", before, now)
		}
		if got := l.failure("site"); got != "" {
			t.Errorf("status says %q", got)
		}
	})
}

// What INITIAL_CONTACT ends goes at once, also where a check of liveness is under
// way that nobody will answer.
func TestRestartDuringLivenessCheck(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		dpd := func(c *v2.Connection) { c.DPD = 10 * time.Second }
		l := n.gateway(t, leftAddr, []*v2.Connection{changed(end("site", true), dpd)})
		r := n.gateway(t, rightAddr, []*v2.Connection{end("site", false)})
		l.connect("site", "lan")
		before, ike := l.spis("site", "lan"), l.ikeSPIs("site")
		r.die(n)
		pass(11 * time.Second)
		r = n.gateway(t, rightAddr, []*v2.Connection{end("site", false)})
		r.connect("site", "lan")
		pass(time.Second)
		mustMirror(t, l, r, 1)
		if now := l.spis("site", "lan"); slices.Contains(now, before[0]) {
			t.Errorf("SPIs were %v and are %v", before, now)
		}
		if now := l.ikeSPIs("site"); len(now) != 1 || now[0] == ike[0] {
			t.Errorf("IKE SAs were %v and are %v", ike, now)
		}
		if got := l.failure("site"); got != "" {
			t.Errorf("status says %q", got)
		}
	})
}

// Several connections to one peer do not end each other by INITIAL_CONTACT, and
// those that a restart has lost all go.
func TestRestartWithSeveralConnections(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		one := func(name string, child int, left bool) *v2.Connection {
			return changed(end(name, left), func(c *v2.Connection) { c.Children = c.Children[child : child+1] })
		}
		cl := []*v2.Connection{one("a", 0, true), one("b", 1, true)}
		cr := []*v2.Connection{changed(end("site", false), func(*v2.Connection) {})}
		l, r := n.gateway(t, leftAddr, cl), n.gateway(t, rightAddr, cr)
		l.connect("a", "")
		l.connect("b", "")
		pass(time.Minute)
		mustMirror(t, l, r, 2)
		l.die(n)
		l = n.gateway(t, leftAddr, cl)
		l.connect("b", "")
		l.connect("a", "")
		pass(30 * time.Second)
		mustMirror(t, l, r, 2)
	})
}

func TestInitialContactIsAboutOnePeer(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		open := changed(end("site", false), func(c *v2.Connection) { c.RemoteAddrs, c.Remote.ID = nil, v2.Identity{} })
		r := n.gateway(t, rightAddr, []*v2.Connection{open})
		client := func(name string, addr netip.Addr) *gateway {
			c := changed(end("site", true), func(c *v2.Connection) {
				c.Local.ID, c.LocalAddrs = fqdn(name), []netip.Prefix{netip.PrefixFrom(addr, 32)}
			})
			g := n.gateway(t, addr, []*v2.Connection{c})
			g.connect("site", "lan")
			return g
		}
		alice := client("alice", leftAddr)
		client("bob", natAddr)
		spis := r.spis("site", "lan")
		alice.die(n)
		client("alice", leftAddr)
		pass(15 * time.Second)
		now := r.spis("site", "lan")
		if len(now) != 4 || slices.Contains(now, spis[0]) || slices.Contains(now, spis[1]) || !slices.Equal(now[:2], spis[2:]) {
			t.Errorf("SPIs were %v and are %v", spis, now)
		}
	})
}

func TestLossyNetwork(t *testing.T) {
	for seed := range uint64(6) {
		simulate(t, func(t *testing.T, n *network) {
			rng, way := mrand.New(mrand.NewPCG(seed, 7)), mrand.New(mrand.NewPCG(seed, 8))
			n.setTamper(func(d netio.Datagram) []delivery {
				var out []delivery
				for way.IntN(100) < 75 && len(out) < 3 { // lost, or once, or more
					out = append(out, delivery{d, time.Duration(way.IntN(200)) * time.Millisecond})
				}
				return out
			})
			l, r := n.two(t, func(l, r *v2.Connection) {
				starting(l)
				l.Retransmit = v2.Retransmit{Initial: 500 * time.Millisecond, Factor: 1.5, Max: 4 * time.Second, Tries: 20}
				r.Retransmit = l.Retransmit
			})
			for i := range 40 {
				pass(time.Duration(rng.IntN(2000)) * time.Millisecond)
				g := []*gateway{l, r}[rng.IntN(2)]
				name := []string{"", "lan", "dmz"}[i%3]
				err := g.Rekey(within(t, 20*time.Second), "site", name)
				if err != nil && !errors.Is(err, ErrNotEstablished) && code(err) == "" {
					t.Logf("rekey %q: %v", name, err)
				}
			}
			n.setTamper(nil)
			pass(5 * time.Minute)
			mustMirror(t, l, r, len(l.fake.SAs())/2)
			if l.tunnels("lan") == 0 || l.tunnels("dmz") == 0 {
				t.Errorf("lan %d, dmz %d", l.tunnels("lan"), l.tunnels("dmz"))
			}
			l.Disconnect(t.Context(), "site", "")
			pass(2 * time.Minute)
			l.mustBeEmpty()
			r.mustBeEmpty()
		})
	}
}

// Everything at once, for the race detector, and that all comes to rest.
func TestEverythingMoves(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t, func(l, r *v2.Connection) { starting(l); starting(r) })
		var wg sync.WaitGroup
		end := time.Now().Add(15 * time.Second)
		for i, g := range []*gateway{l, r, l, r} {
			rng := mrand.New(mrand.NewPCG(uint64(i), 1))
			again := func(f func(name string)) { // one generator for each goroutine
				rng := mrand.New(mrand.NewPCG(rng.Uint64(), 1))
				wg.Go(func() {
					for time.Now().Before(end) {
						f([]string{"", "lan", "dmz"}[rng.IntN(3)])
						time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
					}
				})
			}
			short := 2 * time.Second
			again(func(string) { g.Status(""); g.Counters() })
			again(func(name string) { g.Connect(within(t, short), "site", name) })
			again(func(name string) { g.Rekey(within(t, short), "site", name) })
			again(func(name string) { g.Disconnect(within(t, short), "site", name) })
			again(func(name string) { g.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: name}) })
			again(func(name string) {
				for _, sa := range g.fake.SAs() {
					if sa.Tunnel == name {
						g.fake.Raise(ipsec.Expire{ID: sa.ID, Hard: len(name) > 0 && time.Now().UnixNano()%3 == 0})
						return
					}
				}
			})
			again(func(name string) {
				conf := changed(g.Status("")[0].Config, func(*v2.Connection) {})
				g.Apply([]*v2.Connection{conf}, map[string]Change{"site": {Reconnect: name == "", Rekey: []string{name}}})
			})
		}
		wg.Wait()
		for _, g := range []*gateway{l, r} {
			conf := changed(g.Status("")[0].Config, func(*v2.Connection) {})
			g.Apply([]*v2.Connection{conf}, map[string]Change{"site": {Reconnect: true}})
		}
		pass(5 * time.Minute)
		if l.tunnels("lan") == 0 || l.tunnels("dmz") == 0 || r.tunnels("lan") == 0 || r.tunnels("dmz") == 0 {
			t.Errorf("not all tunnels came up again: %v %v", l.Status(""), r.Status(""))
		}
		mustMirror(t, l, r, len(l.fake.SAs())/2)
		l.Close()
		pass(time.Minute)
		l.mustBeEmpty()
		if r.tunnels("lan") != 0 {
			t.Error("the other end still sends")
		}
	})
}

// TestUniqueness: a peer that has lost its state connects again without
// INITIAL_CONTACT, as one with several connections does.
func TestUniqueness(t *testing.T) {
	for policy, test := range map[string]struct {
		unique v2.Uniqueness
		pairs  int
		kept   bool // the older one
	}{
		"replace": {v2.UniqueReplace, 1, false},
		"keep":    {v2.UniqueKeep, 1, true},
		"never":   {v2.UniqueNever, 2, true},
	} {
		t.Run(policy, func(t *testing.T) {
			simulate(t, func(t *testing.T, n *network) {
				r := n.gateway(t, rightAddr, []*v2.Connection{changed(end("site", false), func(c *v2.Connection) {
					c.RemoteAddrs, c.Unique, c.DPD = nil, test.unique, 0
				})})
				n.gateway(t, leftAddr, []*v2.Connection{end("site", true)}).connect("site", "lan")
				before := r.spis("site", "lan")
				pass(time.Second)
				// The same peer from elsewhere. It sends no INITIAL_CONTACT, for it is
				// calling the gateway at another address too.
				moved := func(c *v2.Connection) { c.LocalAddrs = []netip.Prefix{netip.PrefixFrom(natAddr, 32)} }
				l := n.gateway(t, natAddr, []*v2.Connection{
					changed(end("site", true), moved),
					changed(end("silent", true), moved, func(c *v2.Connection) {
						c.RemoteAddrs = []netip.Prefix{netip.MustParsePrefix("203.0.113.200/32")}
					}),
				})
				go l.Connect(t.Context(), "silent", "lan")
				pass(time.Second)
				err := l.Connect(within(t, time.Minute), "site", "lan")
				if refused := err != nil; refused != (test.unique == v2.UniqueKeep) {
					t.Errorf("connecting again: %v", err)
				}
				pass(5 * time.Second)
				now := r.spis("site", "lan")
				if len(now) != 2*test.pairs {
					t.Errorf("SPIs %v, want %d pairs", now, test.pairs)
				}
				if kept := slices.Contains(now, before[0]); kept != test.kept {
					t.Errorf("SPIs were %v and are %v", before, now)
				}
				if test.unique == v2.UniqueKeep && r.failure("site") != "" {
					t.Errorf("status says %q of a connection that is up", r.failure("site"))
				}
			})
		})
	}
}

// INITIAL_CONTACT ends what a peer has lost, unless the policy is not to believe
// it.
func TestInitialContactAndUniqueness(t *testing.T) {
	for policy, test := range map[string]struct {
		unique v2.Uniqueness
		pairs  int
	}{
		"replace": {v2.UniqueReplace, 1},
		"keep":    {v2.UniqueKeep, 1},
		"never":   {v2.UniqueNever, 2},
	} {
		t.Run(policy, func(t *testing.T) {
			simulate(t, func(t *testing.T, n *network) {
				r := n.gateway(t, rightAddr, []*v2.Connection{changed(end("site", false), func(c *v2.Connection) {
					c.Unique, c.DPD = test.unique, 0
				})})
				l := n.gateway(t, leftAddr, []*v2.Connection{end("site", true)})
				l.connect("site", "lan")
				before := r.spis("site", "lan")
				l.die(n)
				n.gateway(t, leftAddr, []*v2.Connection{end("site", true)}).connect("site", "lan")
				pass(20 * time.Second) // nobody answers the Delete
				now := r.spis("site", "lan")
				if len(now) != 2*test.pairs || slices.Contains(now, before[0]) != (test.unique == v2.UniqueNever) {
					t.Errorf("SPIs were %v and are %v", before, now)
				}
			})
		})
	}
}

// TestClientsAtAnyAddress: a responder that knows neither the addresses nor the
// names of its clients, but what the names look like.
func TestClientsAtAnyAddress(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		r := n.gateway(t, rightAddr, []*v2.Connection{changed(end("clients", false), func(c *v2.Connection) {
			c.RemoteAddrs, c.Remote.ID = nil, fqdn("*.clients.example")
		})})
		client := func(name, subnet string, addr netip.Addr) *gateway {
			return n.gateway(t, addr, []*v2.Connection{changed(end("office", true), func(c *v2.Connection) {
				c.Local.ID, c.LocalAddrs = fqdn(name), []netip.Prefix{netip.PrefixFrom(addr, 32)}
				c.Children = []*v2.Child{tunnel("lan", subnet, "10.2.0.0/16")}
			})})
		}
		subnets := map[netip.Addr]string{
			netip.MustParseAddr("203.0.113.21"): "10.1.1.0/24", netip.MustParseAddr("203.0.113.22"): "10.1.2.0/24",
		}
		for addr, subnet := range subnets {
			client("c"+addr.String()+".clients.example", subnet, addr).connect("office", "lan")
		}
		for _, sa := range r.fake.SAs() {
			if sa.ID.Direction == ipsec.In {
				continue
			}
			want := must(ipsec.ParseSelector(subnets[sa.Remote.Addr()]))
			if !slices.Equal(sa.RemoteTS, []ipsec.Selector{want}) || sa.Connection != "clients" {
				t.Errorf("%s has %v of %s", sa.Remote, sa.RemoteTS, sa.Connection)
			}
			delete(subnets, sa.Remote.Addr())
		}
		if len(subnets) != 0 {
			t.Errorf("no SAs for %v", subnets)
		}
		stranger := client("eve.example", "10.1.3.0/24", natAddr)
		if err := stranger.Connect(t.Context(), "office", "lan"); code(err) != "authentication-failed" {
			t.Errorf("a stranger: %v", err)
		}
		// The client's own gateway may be known by a pattern too: it asks for nobody
		// in particular.
		l := n.gateway(t, leftAddr, []*v2.Connection{changed(end("office", true), func(c *v2.Connection) {
			c.Local.ID, c.Remote.ID = fqdn("d.clients.example"), fqdn("*.example")
		})})
		l.connect("office", "lan")
	})
}
