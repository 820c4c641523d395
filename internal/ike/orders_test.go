package ike

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

func TestConnect(t *testing.T) {
	for _, kind := range []string{"psk", "ed25519", "ecdsa"} {
		t.Run(kind, func(t *testing.T) {
			simulate(t, func(t *testing.T, n *network) {
				name := "site"
				l, r := n.two(t, func(l, r *v2.Connection) {
					if kind != "psk" {
						withCertificates(l, r, kind)
						name = l.Name
					}
				})
				l.connect(name, "")
				mustMirror(t, l, r, 2)
				if got := l.ikeSPIs(name); len(got) != 1 || !slices.Equal(got, r.ikeSPIs("")) {
					t.Errorf("IKE SAs %v and %v", got, r.ikeSPIs(""))
				}
				l.connect(name, "lan") // is up
				mustMirror(t, l, r, 2)
				for _, g := range []*gateway{l, r} {
					if up := g.logs.lines("connection established"); len(up) != 1 {
						t.Errorf("%s logged %q", g.addr, up)
					}
					if g.failure("") != "" || g.Counters()["ike-half-open"] != 0 {
						t.Errorf("%s: failure %q, counters %v", g.addr, g.failure(""), g.Counters())
					}
				}
			})
		})
	}
}

func TestOrdersThatCannotBe(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		roaming := changed(end("roaming", true), func(c *v2.Connection) { c.RemoteAddrs = nil })
		g := n.gateway(t, leftAddr, []*v2.Connection{end("site", true), roaming})
		for _, x := range []struct {
			order        func(context.Context, string, string) error
			conn, tunnel string
			want         error
		}{
			{g.Connect, "nowhere", "", ErrUnknownConnection},
			{g.Connect, "site", "nothing", ErrUnknownTunnel},
			{g.Connect, "roaming", "lan", ErrNoAddress},
			{g.Disconnect, "nowhere", "", ErrUnknownConnection},
			{g.Disconnect, "site", "nothing", ErrUnknownTunnel},
			{g.Disconnect, "site", "lan", nil},
			{g.Disconnect, "site", "", nil},
			{g.Rekey, "nowhere", "", ErrUnknownConnection},
			{g.Rekey, "site", "nothing", ErrUnknownTunnel},
			{g.Rekey, "site", "", ErrNotEstablished},
			{g.Rekey, "site", "lan", ErrNotEstablished},
		} {
			if err := x.order(t.Context(), x.conn, x.tunnel); !errors.Is(err, x.want) {
				t.Errorf("%s/%s: %v, want %v", x.conn, x.tunnel, err, x.want)
			}
		}
		if err := g.Knows("site", "lan"); err != nil {
			t.Error(err)
		}
	})
}

func TestSilentPeer(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		g := n.gateway(t, leftAddr, []*v2.Connection{end("site", true)})
		if err := g.Connect(within(t, time.Second), "site", "lan"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		err := g.Connect(t.Context(), "site", "")
		if code(err) != "peer-not-responding" || g.failure("site") != "peer-not-responding" {
			t.Errorf("got %v, status %q", err, g.failure("site"))
		}
		synctest.Wait()
		g.mustBeEmpty()
	})
}

func TestWrongSharedKey(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t, func(l, _ *v2.Connection) { l.Local.PSK = secret.Copy([]byte("wrong")) })
		err := l.Connect(t.Context(), "site", "lan")
		if code(err) != "authentication-failed" || l.failure("site") != "authentication-failed" {
			t.Errorf("got %v, status %q", err, l.failure("site"))
		}
		if got := r.failure("site"); got != "authentication-failed" {
			t.Errorf("the other end says %q", got)
		}
		pass(time.Minute)
		l.mustBeEmpty()
		r.mustBeEmpty()
	})
}

// A stranger that fails to authenticate as a peer changes nothing for it.
func TestStrangerDoesNotDisturb(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		stranger := n.gateway(t, netip.MustParseAddr("198.51.100.66"), nil)
		wrong := changed(end("site", false), func(c *v2.Connection) {
			c.LocalAddrs = []netip.Prefix{netip.PrefixFrom(stranger.addr, 32)}
			c.Local.PSK = secret.Copy([]byte("wrong"))
		})
		stranger.Apply([]*v2.Connection{wrong}, nil)
		open := changed(end("site", true), func(c *v2.Connection) { c.RemoteAddrs = append(c.RemoteAddrs, netip.PrefixFrom(stranger.addr, 32)) })
		l.Apply([]*v2.Connection{open}, map[string]Change{"site": {}})

		n.cut(rightAddr, true)
		result := make(chan error, 1)
		go func() { result <- l.Connect(t.Context(), "site", "lan") }()
		if err := stranger.Connect(t.Context(), "site", "lan"); code(err) != "authentication-failed" {
			t.Errorf("the stranger got %v", err)
		}
		n.cut(rightAddr, false)
		if err := <-result; err != nil {
			t.Error(err)
		}
		if err := stranger.Connect(t.Context(), "site", "lan"); code(err) != "authentication-failed" {
			t.Errorf("the stranger got %v", err)
		}
		if got := l.failure("site"); got != "" {
			t.Errorf("status of an established connection says %q", got)
		}
		if s := l.Status("site")[0].SAs; len(s) != 1 {
			t.Errorf("status lists %d IKE SAs", len(s))
		}
		mustMirror(t, l, r, 1)
	})
}

func TestDisconnect(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t, func(l, _ *v2.Connection) { starting(l) })
		eventually(t, 5*time.Second, "both tunnels up", func() bool { return r.tunnels("lan") == 1 && r.tunnels("dmz") == 1 })
		if err := l.Disconnect(t.Context(), "site", "dmz"); err != nil {
			t.Fatal(err)
		}
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "dmz"})
		pass(5 * time.Minute)
		mustMirror(t, l, r, 1) // the one stays down, the other up
		if l.Status("site")[0].Held {
			t.Error("the connection is held for one tunnel")
		}
		l.die(n) // of the other: r notices and forgets
		pass(5 * time.Minute)
		r.mustBeEmpty()
	})
}

func TestDisconnectWhole(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t, func(l, _ *v2.Connection) { starting(l) })
		eventually(t, 5*time.Second, "both tunnels up", func() bool { return l.tunnels("lan") == 1 && l.tunnels("dmz") == 1 })
		pass(time.Second)
		if err := l.Disconnect(t.Context(), "site", ""); err != nil {
			t.Fatal(err)
		}
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "lan"})
		pass(5 * time.Minute)
		l.mustBeEmpty()
		r.mustBeEmpty()
		if s := l.Status("site")[0]; !s.Held || s.Failure != nil {
			t.Errorf("status %+v", s)
		}
		l.connect("site", "lan")
		pass(5 * time.Minute)
		mustMirror(t, l, r, 1) // dmz stays down
	})
}

// Orders that cross the set-up are carried out after it.
func TestDisconnectDuringSetUp(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		go l.Connect(t.Context(), "site", "lan")
		go l.Connect(t.Context(), "site", "dmz")
		pass(latency)
		if err := l.Disconnect(t.Context(), "site", "lan"); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		if l.tunnels("lan") != 0 || l.tunnels("dmz") != 1 {
			t.Errorf("lan %d, dmz %d", l.tunnels("lan"), l.tunnels("dmz"))
		}
		mustMirror(t, l, r, 1)
		if err := l.Disconnect(t.Context(), "site", ""); err != nil {
			t.Fatal(err)
		}
		for after := range 6 { // at each step of the set-up
			result := make(chan error, 1)
			go func() { result <- l.Connect(t.Context(), "site", "lan") }()
			pass(time.Duration(after) * latency)
			if err := l.Disconnect(t.Context(), "site", ""); err != nil {
				t.Fatal(err)
			}
			if err := <-result; err == nil && after < 2 || err != nil && code(err) != "closed" {
				t.Errorf("connect returned %v", err)
			}
			pass(40 * time.Second)
			l.mustBeEmpty()
			r.mustBeEmpty()
		}
	})
}

func TestRekeyOrders(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		l.connect("site", "")
		lan, dmz, ike := l.spis("site", "lan"), l.spis("site", "dmz"), l.ikeSPIs("site")

		for range 3 {
			if err := r.Rekey(within(t, 10*time.Second), "site", "lan"); err != nil {
				t.Fatal(err)
			}
		}
		pass(20 * time.Second)
		mustMirror(t, l, r, 2)
		if now := l.spis("site", "lan"); slices.ContainsFunc(now, func(s ipsec.SPI) bool { return slices.Contains(lan, s) }) {
			t.Errorf("SPIs of lan were %v and are %v", lan, now)
		}
		for range 3 { // at once: each is carried out by the IKE SA that is there
			if err := l.Rekey(within(t, 10*time.Second), "site", ""); err != nil {
				t.Fatal(err)
			}
		}
		pass(2 * time.Minute)
		mustMirror(t, l, r, 2)
		if now := l.ikeSPIs("site"); len(now) != 1 || now[0] == ike[0] || !slices.Equal(now, r.ikeSPIs("site")) {
			t.Errorf("IKE SA was %v and is %v, %v", ike, now, r.ikeSPIs("site"))
		}
		if now := l.spis("site", "dmz"); !slices.Equal(now, dmz) {
			t.Errorf("SPIs of dmz were %v and are %v", dmz, now)
		}
		if live := l.Counters()["ike-sas"]; live != 1 {
			t.Errorf("%d IKE SAs are left", live)
		}
		if err := l.Disconnect(within(t, time.Second), "site", ""); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRekeyRefused(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		l.connect("site", "lan")
		other := changed(end("site", false), func(c *v2.Connection) {
			c.Proposals = []ipsec.Proposal{must(suite.ParseIKE("aes128-sha256-ecp256"))}
			c.Children[0].Proposals = []ipsec.Proposal{must(suite.ParseESP("aes128-sha256"))}
		})
		r.Apply([]*v2.Connection{other}, map[string]Change{"site": {}})
		if err := l.Rekey(within(t, time.Minute), "site", ""); code(err) != "no-proposal-chosen" {
			t.Errorf("IKE SA: %v", err)
		}
		if err := l.Rekey(within(t, time.Minute), "site", "lan"); code(err) != "no-proposal-chosen" {
			t.Errorf("tunnel: %v", err)
		}
		mustMirror(t, l, r, 1) // what is there stays
	})
}

// What is asked of an IKE SA that has been replaced meanwhile is asked of the
// one that replaced it.
func TestOrdersFollowARekeying(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		l.connect("site", "lan")
		l.mu.Lock()
		old := l.conns["site"].carrier()
		l.mu.Unlock()
		if err := l.Rekey(t.Context(), "site", ""); err != nil {
			t.Fatal(err)
		}
		dmz := l.conns["site"].cfg.Children[1]
		old.shard.post(old, v2.CreateChild{Child: dmz})
		old.shard.post(old, v2.CreateChild{Child: dmz})
		pass(time.Second)
		mustMirror(t, l, r, 2)
		old.shard.post(old, v2.CreateChild{Child: dmz}) // is up by now
		pass(time.Second)
		mustMirror(t, l, r, 2)
		old.shard.post(old, v2.Close{})
		pass(time.Minute)
		l.mustBeEmpty()
		r.mustBeEmpty()
	})
}

// An IKE SA that is to be closed stays so when a rekeying crosses that.
func TestCloseCrossesARekeying(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		l.connect("site", "lan")
		go l.Rekey(t.Context(), "site", "")
		pass(latency)
		go l.Disconnect(t.Context(), "site", "")
		pass(latency + latency/2)
		l.connect("site", "lan")
		pass(2 * time.Minute)
		mustMirror(t, l, r, 1)
	})
}

// An order outlives the IKE SA that it was given to, where there is another.
func TestOrderChangesTheIKESA(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		n.setTamper(func(d netio.Datagram) []delivery {
			if h, err := message.ParseHeader(d.Data); err == nil && isInitRequest(h) && d.Local.Addr() == leftAddr {
				return nil
			}
			return []delivery{{d: d}}
		})
		l, r := n.two(t)
		result := make(chan error, 1)
		go func() { result <- l.Connect(within(t, 5*time.Minute), "site", "dmz") }()
		pass(time.Second)
		r.connect("site", "lan")
		if err := <-result; err != nil {
			t.Error(err)
		}
		pass(time.Second)
		mustMirror(t, l, r, 2)
	})
}

func TestOrdersEndWithTheConnection(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		g := n.gateway(t, leftAddr, []*v2.Connection{end("site", true), end("other", true)})
		results := make(chan error, 2)
		for _, conn := range []string{"site", "other"} {
			go func() { results <- g.Connect(t.Context(), conn, "lan") }()
			pass(time.Second)
		}
		g.Apply([]*v2.Connection{end("other", true)}, nil)
		if err := <-results; !errors.Is(err, ErrRemoved) {
			t.Errorf("got %v", err)
		}
		g.Close()
		if err := <-results; err == nil {
			t.Error("connected to nobody")
		}
		if err := g.Connect(t.Context(), "other", "lan"); !errors.Is(err, errStopped) {
			t.Errorf("got %v after Close", err)
		}
		g.mustBeEmpty()
	})
}

func TestInstallRefused(t *testing.T) {
	for _, direction := range []string{"in", "out"} {
		t.Run(direction, func(t *testing.T) {
			simulate(t, func(t *testing.T, n *network) {
				l, r := n.two(t)
				full := errors.New("the table is full")
				l.fake.Refuse(full)
				if direction == "out" {
					l.fake.Refuse(full)
				}
				err := l.Connect(t.Context(), "site", "lan")
				if code(err) != "install-failed" || !errors.Is(err, full) || l.failure("site") != "install-failed" {
					t.Errorf("got %v, status %q", err, l.failure("site"))
				}
				pass(10 * time.Second)
				mustMirror(t, l, r, 0)
				l.connect("site", "lan")
				mustMirror(t, l, r, 1)
			})
		})
	}
}

// ---- what comes up by itself ----

func TestStart(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t, func(l, _ *v2.Connection) { starting(l) })
		up := func() bool { return l.tunnels("lan") == 1 && l.tunnels("dmz") == 1 }
		eventually(t, 3*time.Second, "tunnels up", up)
		pass(time.Second)
		mustMirror(t, l, r, 2)

		// The peer dies: it is missed, and found again when it is back.
		r.die(n)
		eventually(t, 3*time.Minute, "the peer given up", func() bool { return l.failure("site") == "peer-not-responding" })
		r = n.gateway(t, rightAddr, []*v2.Connection{end("site", false)})
		eventually(t, 3*time.Minute, "tunnels up again", up)
		pass(time.Second)
		mustMirror(t, l, r, 2)
		if got := l.failure("site"); got != "" {
			t.Errorf("status still says %q", got)
		}

		// The peer's operator takes it down: so does ours come up again.
		if err := r.Disconnect(t.Context(), "site", ""); err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Minute, "tunnels up again", func() bool { return up() && r.tunnels("dmz") == 1 })
		if err := r.Disconnect(t.Context(), "site", "lan"); err != nil {
			t.Fatal(err)
		}
		eventually(t, 3*time.Minute, "the tunnel up again", func() bool { return up() && r.tunnels("lan") == 1 })
	})
}

func TestBackOff(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		var tries []time.Time
		n.setTamper(func(d netio.Datagram) []delivery {
			if h, err := message.ParseHeader(d.Data); err == nil && isInitRequest(h) {
				tries = append(tries, time.Now())
			}
			return []delivery{{d: d}}
		})
		n.two(t, func(l, r *v2.Connection) {
			starting(l)
			r.Proposals = []ipsec.Proposal{must(suite.ParseIKE("aes128-sha256-ecp256"))}
		})
		pass(10 * time.Minute)
		n.mu.Lock()
		defer n.mu.Unlock()
		if len(tries) < 10 || len(tries) > 20 {
			t.Errorf("%d tries in 10 minutes", len(tries))
		}
		for i := 1; i < len(tries); i++ {
			if gap := tries[i].Sub(tries[i-1]); gap < minRetry || gap > maxRetry+2*time.Second {
				t.Errorf("a try after %s", gap)
			}
		}
	})
}

func TestAcquire(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		flow := ipsec.Flow{Src: netip.MustParseAddr("10.1.0.5"), Dst: netip.MustParseAddr("10.2.0.9"), Protocol: 17, SrcPort: 1000, DstPort: 53}
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "lan", Flow: flow})
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "dmz"})
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "lan", Flow: flow})
		l.fake.Raise(ipsec.Acquire{Connection: "nowhere", Tunnel: "lan"})
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "nothing"})
		pass(time.Second)
		mustMirror(t, l, r, 2)
		if got := n.count(leftAddr, isInitRequest); got != 1 {
			t.Errorf("%d IKE SAs were begun", got)
		}
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "lan", Flow: flow})
		l.fake.Raise(ipsec.Acquire{Connection: "site", Tunnel: "lan", Flow: flow})
		pass(time.Second)
		if got := n.count(leftAddr, isInitRequest); got != 1 {
			t.Errorf("%d IKE SAs were begun", got)
		}
	})
}

// All that is asked while the first IKE SA is being negotiated is set up by it.
func TestManyOrdersAtOnce(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		const count = 20
		l, r := n.two(t, func(l, r *v2.Connection) {
			l.Children, r.Children = nil, nil
			for i := range count {
				a, b := netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), netip.AddrFrom4([4]byte{10, 2, byte(i), 0})
				name := string(rune('a' + i))
				l.Children = append(l.Children, tunnel(name, a.String()+"/24", b.String()+"/24"))
				r.Children = append(r.Children, tunnel(name, b.String()+"/24", a.String()+"/24"))
			}
		})
		results := make(chan error, count)
		for i := range count {
			go func() { results <- l.Connect(within(t, time.Minute), "site", string(rune('a'+i))) }()
		}
		for range count {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		pass(time.Second)
		mustMirror(t, l, r, count)
		if got := n.count(leftAddr, isInitRequest); got != 1 {
			t.Errorf("%d IKE SAs were begun", got)
		}
	})
}
