package ike

import (
	"crypto/rand"
	"errors"
	mrand "math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/suite"
)

// ---- reload ----

func TestApply(t *testing.T) {
	names := []string{"untouched", "gone", "reconnected", "dropped", "rekeyed", "ike"}
	// Each connection has a peer of its own address.
	peer := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(10 + i)}) }
	ends := func(i int) (l, r *v2.Connection) {
		l, r = end(names[i], true), end("site", false)
		l.Remote.ID, r.Local.ID = fqdn(names[i]), fqdn(names[i])
		r.Unique = v2.UniqueNever // one of them is called by two connections
		l.RemoteAddrs = []netip.Prefix{netip.PrefixFrom(peer(i), 32)}
		r.LocalAddrs = l.RemoteAddrs
		starting(l)
		return l, r
	}
	simulate(t, func(t *testing.T, n *network) {
		var conns []*v2.Connection
		peers := make(map[string]*gateway)
		for i, name := range names {
			l, r := ends(i)
			conns = append(conns, l)
			peers[name] = n.gateway(t, peer(i), []*v2.Connection{r})
		}
		g := n.gateway(t, leftAddr, conns)
		allUp := func() bool { return g.tunnels("lan") == len(conns) && g.tunnels("dmz") == len(conns) }
		eventually(t, 5*time.Second, "all up", allUp)
		pass(time.Second)

		lan, dmz, ike := make(map[string][]ipsec.SPI), make(map[string][]ipsec.SPI), make(map[string][]string)
		for _, name := range names {
			lan[name], dmz[name], ike[name] = g.spis(name, "lan"), g.spis(name, "dmz"), g.ikeSPIs(name)
		}
		same := func(c *v2.Connection) {}
		next := []*v2.Connection{changed(conns[0], same)}
		for _, c := range conns[2:] {
			next = append(next, changed(c, same))
		}
		next[2].Children[0].Start = false // dropped/lan
		added := changed(conns[0], func(c *v2.Connection) { c.Name = "added" })
		g.Apply(append(next, added), map[string]Change{
			"reconnected": {Reconnect: true},
			"dropped":     {Drop: []string{"lan"}},
			"rekeyed":     {Rekey: []string{"dmz"}},
			"ike":         {RekeyIKE: true},
		})
		pass(2 * time.Minute)

		kept := func(before, after []ipsec.SPI) bool { return slices.Equal(before, after) }
		for _, x := range []struct {
			name               string
			keepLan, keepDMZ   bool
			keepIKE            bool
			lanCount, dmzCount int
		}{
			{"untouched", true, true, true, 2, 2},
			{"gone", false, false, false, 0, 0},
			{"reconnected", false, false, false, 2, 2},
			{"dropped", false, true, true, 0, 2},
			{"rekeyed", true, false, true, 2, 2},
			{"ike", true, true, false, 2, 2},
		} {
			nowLan, nowDMZ, nowIKE := g.spis(x.name, "lan"), g.spis(x.name, "dmz"), g.ikeSPIs(x.name)
			if len(nowLan) != x.lanCount || len(nowDMZ) != x.dmzCount {
				t.Errorf("%s has %d and %d SAs", x.name, len(nowLan), len(nowDMZ))
			}
			if kept(lan[x.name], nowLan) != x.keepLan || kept(dmz[x.name], nowDMZ) != x.keepDMZ {
				t.Errorf("%s: lan %v is %v, dmz %v is %v", x.name, lan[x.name], nowLan, dmz[x.name], nowDMZ)
			}
			if slices.Equal(ike[x.name], nowIKE) != x.keepIKE {
				t.Errorf("%s: IKE SA %v is %v", x.name, ike[x.name], nowIKE)
			}
		}
		if len(g.spis("added", "lan")) != 2 {
			t.Error("the new connection is not up")
		}
		peers["gone"].mustBeEmpty()
		if len(g.Status("")) != len(names) || len(g.Status("gone")) != 0 {
			t.Errorf("status lists %d connections", len(g.Status("")))
		}
		if err := g.Rekey(t.Context(), "gone", ""); !errors.Is(err, ErrUnknownConnection) {
			t.Errorf("order for the removed one: %v", err)
		}
	})
}

// A peer whose set-up began under the old configuration does not come up by it.
func TestApplyDuringSetUp(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		for _, after := range []time.Duration{0, 1, 2, 3, 4} {
			l, r := n.two(t)
			result := make(chan error, 1)
			go func() { result <- l.Connect(within(t, time.Minute), "site", "lan") }()
			pass(after * latency)
			r.Apply(nil, nil)
			<-result
			pass(time.Minute)
			l.mustBeEmpty()
			r.mustBeEmpty()
			l.Close()
			r.Close()
		}
		// The initiator begins again by the new one.
		l, r := n.two(t)
		go l.Connect(t.Context(), "site", "lan")
		pass(latency)
		next := changed(end("site", true), func(c *v2.Connection) { starting(c); c.Children = c.Children[1:] })
		l.Apply([]*v2.Connection{next}, map[string]Change{"site": {Drop: []string{"lan"}}})
		pass(10 * time.Second)
		if l.tunnels("lan") != 0 || l.tunnels("dmz") != 1 {
			t.Errorf("lan %d, dmz %d", l.tunnels("lan"), l.tunnels("dmz"))
		}
		mustMirror(t, l, r, 1)
	})
	simulate(t, func(t *testing.T, n *network) { // and at once
		g := n.gateway(t, leftAddr, []*v2.Connection{end("site", true)})
		result := make(chan error, 1)
		go func() { result <- g.Connect(within(t, 5*time.Second), "site", "lan") }()
		pass(time.Second)
		g.Apply([]*v2.Connection{end("site", true)}, map[string]Change{"site": {}})
		if err := <-result; code(err) != "closed" {
			t.Errorf("got %v", err)
		}
	})
}

// ---- the end ----

func TestClose(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t, func(l, _ *v2.Connection) { starting(l) })
		eventually(t, 5*time.Second, "up", func() bool { return r.tunnels("dmz") == 1 })
		began := time.Now()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("Close took %s", took)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		pass(time.Minute)
		l.mustBeEmpty()
		r.mustBeEmpty()
		if l.Status("")[0].SAs != nil {
			t.Error("status of what is closed")
		}
	})
}

func TestCloseWithSilentPeer(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, _ := n.two(t)
		l.connect("site", "")
		n.cut(rightAddr, true)
		began := time.Now()
		l.Close()
		if took := time.Since(began); took < closeTimeout || took > closeTimeout+time.Second {
			t.Errorf("Close took %s", took)
		}
		l.mustBeEmpty()
	})
}

// ---- strangers ----

// initRequest makes an IKE_SA_INIT request, with these proposals.
func initRequest(src, dst netip.AddrPort, proposals string) []byte {
	c := end("stranger", true)
	c.Proposals = []ipsec.Proposal{must(suite.ParseIKE(proposals))}
	m := v2.NewInitiator(&v2.Env{Rand: rand.Reader}, c, src, dst)
	for _, a := range m.Step(time.Now(), v2.Initiate{}) {
		if s, ok := a.(v2.Send); ok {
			return s.Data
		}
	}
	panic("no request")
}

func TestHalfOpenLimits(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		open := changed(end("site", false), func(c *v2.Connection) { c.RemoteAddrs = nil })
		g := n.gateway(t, rightAddr, []*v2.Connection{open})
		to := netip.AddrPortFrom(rightAddr, 500)
		request := initRequest(netip.AddrPortFrom(leftAddr, 500), to, "aes256gcm16-prfsha256-x25519")
		// They are at their addresses, and return the cookies.
		nonce, _ := message.Find[*message.Nonce](must(message.Parse(request)))
		flood := func(src netip.AddrPort, spi uint64) {
			named := must(message.ParseHeader(requestFrom(request, spi, nil)))
			cookie := must(g.cookies.bake(time.Now(), src, named.InitiatorSPI, nonce.Data))
			n.send(netio.Datagram{Data: requestFrom(request, spi, cookie), Local: src, Remote: to})
		}
		one := netip.MustParseAddrPort("203.0.113.66:500")
		for i := range maxHalfOpenPerAddr + 10 {
			flood(one, uint64(i))
		}
		pass(time.Second)
		if c := g.Counters(); c["ike-half-open"] != maxHalfOpenPerAddr || c["ike-drop-half-open"] != 10 {
			t.Errorf("counters %v", c)
		}
		for i := range maxHalfOpen / maxHalfOpenPerAddr * (maxHalfOpenPerAddr + 2) {
			addr := netip.AddrFrom4([4]byte{10, 99, byte(i % 80), 1})
			flood(netip.AddrPortFrom(addr, uint16(1000+i%50)), uint64(1000+i))
			if i%100 == 0 {
				pass(10 * time.Millisecond)
			}
		}
		pass(time.Second)
		if c := g.Counters(); c["ike-half-open"] != maxHalfOpen || c["ike-sas"] != maxHalfOpen {
			t.Errorf("counters %v", c)
		}
		if lines := g.logs.lines(""); len(lines) > 20 {
			t.Errorf("%d lines in the log", len(lines))
		}
		before := g.Counters()["ike-drop-half-open"]
		g.SetLimits(Limits{HalfOpen: maxHalfOpen + 200, HalfOpenPerAddress: maxHalfOpenPerAddr + 100})
		for i := range 110 {
			flood(one, uint64(500000+i))
		}
		pass(time.Second)
		if c := g.Counters(); c["ike-half-open"] != maxHalfOpen+100 || c["ike-drop-half-open"] != before+10 {
			t.Errorf("with other limits: counters %v", c)
		}
		pass(time.Minute) // nobody went on
		g.mustBeEmpty()
		l := n.gateway(t, leftAddr, []*v2.Connection{end("site", true)})
		l.connect("site", "lan")
		mustMirror(t, l, g, 1)
	})
}

func TestGarbage(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		l.connect("site", "lan")
		before, lines := r.Counters(), len(r.logs.lines(""))
		rng := mrand.New(mrand.NewPCG(1, 2))
		src, dst := netip.MustParseAddrPort("203.0.113.66:500"), netip.AddrPortFrom(rightAddr, 500)
		real := n.sent[len(n.sent)-1].Data
		const count = 3000
		for i := range count {
			b := make([]byte, rng.IntN(200))
			for j := range b {
				b[j] = byte(rng.Uint32())
			}
			if i%2 == 0 { // a real message, damaged
				b = slices.Clone(real)
				b[rng.IntN(len(b))] ^= byte(1 + rng.IntN(255))
			}
			n.send(netio.Datagram{Data: b, Local: src, Remote: dst})
		}
		pass(time.Second)
		after := r.Counters()
		if got := after["ike-messages-in"] - before["ike-messages-in"]; got != count {
			t.Errorf("%d datagrams were received", got)
		}
		drops := uint64(0)
		for _, name := range []string{"ike-drop-malformed", "ike-drop-unknown-spi", "ike-drop-not-acceptable", "ike-drop-no-connection"} {
			drops += after[name] - before[name]
		}
		if drops < count-10 { // one that repeats the real message is answered
			t.Errorf("%d drops were counted: %v", drops, after)
		}
		if got := r.logs.lines(""); len(got) != lines {
			t.Errorf("garbage made log lines: %q", got[lines:])
		}
		if err := r.Rekey(within(t, 10*time.Second), "site", "lan"); err != nil {
			t.Error(err)
		}
	})
}

func TestStrangersDoNotFillTheLog(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		open := changed(end("site", false), func(c *v2.Connection) { c.RemoteAddrs = nil })
		silent := end("silent", false)
		silent.RemoteAddrs = []netip.Prefix{netip.MustParsePrefix("203.0.113.200/32")}
		silent.Retransmit = v2.Retransmit{Initial: 100 * time.Millisecond, Tries: 1}
		g := n.gateway(t, rightAddr, []*v2.Connection{open, silent})
		to := netip.AddrPortFrom(rightAddr, 500)
		const seconds = 5
		for i := range seconds * 100 {
			src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 500)
			n.send(netio.Datagram{Data: initRequest(src, to, "aes128-sha256-ecp256"), Local: src, Remote: to})
			if i == 50 {
				go g.Connect(t.Context(), "silent", "lan")
			}
			pass(10 * time.Millisecond)
		}
		pass(time.Second)
		lines := g.logs.lines("no-proposal-chosen")
		if len(lines) > (seconds+1)*strangerLogs || len(lines) < seconds {
			t.Errorf("%d lines for %d strangers", len(lines), seconds*100)
		}
		if len(g.logs.lines("suppressed=")) == 0 {
			t.Error("what was suppressed is not counted")
		}
		if len(g.logs.lines("peer-not-responding")) == 0 {
			t.Error("strangers suppressed the failure of a connection of ours")
		}
		g.mustBeEmpty()
	})
}

func TestInboxFull(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t)
		l.connect("site", "lan")
		release := make(chan struct{})
		for _, sh := range r.shards {
			go sh.do(func() { <-release })
		}
		synctest.Wait()
		src, dst := netip.AddrPortFrom(leftAddr, 500), netip.AddrPortFrom(rightAddr, 500)
		var last []byte // message of the peer
		for _, d := range n.sent {
			if d.Local == src {
				last = d.Data
			}
		}
		for range inboxSize + 500 {
			n.send(netio.Datagram{Data: last, Local: src, Remote: dst})
		}
		pass(time.Second)
		if got := r.Counters()["ike-drop-inbox-full"]; got != 500 {
			t.Errorf("%d were dropped", got)
		}
		close(release)
		pass(time.Second)
		if err := l.Rekey(within(t, 10*time.Second), "site", "lan"); err != nil {
			t.Error(err)
		}
	})
}

func TestResponderChoosesByIdentity(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		var open []*v2.Connection
		for _, name := range []string{"alice", "bob", "carol"} {
			c := changed(end(name, false), func(c *v2.Connection) { c.RemoteAddrs = nil; c.Remote.ID = fqdn(name) })
			open = append(open, c)
		}
		r := n.gateway(t, rightAddr, open)
		l := n.gateway(t, leftAddr, []*v2.Connection{changed(end("site", true), func(c *v2.Connection) { c.Local.ID = fqdn("bob") })})
		l.connect("site", "lan")
		for _, st := range r.Status("") {
			if up := len(st.SAs) == 1; up != (st.Config.Name == "bob") {
				t.Errorf("%s has %d IKE SAs", st.Config.Name, len(st.SAs))
			}
		}
		if len(r.spis("bob", "lan")) != 2 {
			t.Error("the SAs are not bob's")
		}
		mallory := changed(end("site", true), func(c *v2.Connection) { c.Local.ID = fqdn("mallory") })
		l.Apply([]*v2.Connection{mallory}, map[string]Change{"site": {Reconnect: true}})
		if err := l.Connect(t.Context(), "site", "lan"); code(err) != "authentication-failed" && code(err) != "closed" {
			t.Errorf("got %v", err)
		}
		if err := l.Connect(t.Context(), "site", "lan"); code(err) != "authentication-failed" {
			t.Errorf("got %v", err)
		}
	})
}

// ---- the data plane ----

func TestExpiryAfterIKERekeying(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.two(t, func(l, _ *v2.Connection) { starting(l); l.Children = l.Children[:1] })
		eventually(t, 5*time.Second, "up", func() bool { return r.tunnels("lan") == 1 })
		if err := r.Rekey(t.Context(), "site", ""); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute) // the old machine is gone
		for _, direction := range []ipsec.Direction{ipsec.In, ipsec.Out} {
			before := l.spis("site", "lan")
			for _, sa := range l.fake.SAs() {
				if sa.ID.Direction == direction {
					l.fake.Raise(ipsec.Expire{ID: sa.ID})
				}
			}
			pass(time.Minute)
			mustMirror(t, l, r, 1)
			if now := l.spis("site", "lan"); slices.Equal(now, before) {
				t.Errorf("a soft limit, direction %s: SPIs are still %v", direction, now)
			}
			for _, sa := range l.fake.SAs() {
				if sa.ID.Direction == direction {
					l.fake.Raise(ipsec.Expire{ID: sa.ID, Hard: true})
				}
			}
			eventually(t, time.Minute, "down", func() bool { return len(l.logs.lines("lifetime-expired")) > 0 })
			eventually(t, 3*time.Minute, "up again", func() bool { return l.tunnels("lan") == 1 })
			pass(time.Second)
			mustMirror(t, l, r, 1)
		}
		l.mu.Lock()
		owned := len(l.bySA)
		l.mu.Unlock()
		if owned != 2 {
			t.Errorf("%d SAs have an owner", owned)
		}
	})
}

// Behind a NAT whose mapping changes, the SAs move, and their events still reach
// the machine.
func TestNATMappingChanges(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		public := netip.AddrPortFrom(natAddr, 61000)
		n.setNAT(func(src, dst netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
			switch {
			case src.Addr() == leftAddr:
				return netip.AddrPortFrom(public.Addr(), public.Port()+src.Port()%1000), dst
			case dst.Addr() == public.Addr() && dst.Port() >= public.Port():
				port := uint16(500)
				if dst.Port() == public.Port()+4500%1000 && src.Port() == 4500 {
					port = 4500
				}
				return src, netip.AddrPortFrom(leftAddr, port)
			default:
				return src, dst
			}
		})
		l, r := n.two(t, func(_, r *v2.Connection) { r.RemoteAddrs = nil })
		l.connect("site", "lan")
		mustMirror(t, l, r, 1)
		for _, sa := range append(l.fake.SAs(), r.fake.SAs()...) {
			if !sa.Encap || sa.Local.Port() != 4500 {
				t.Errorf("SA %v", sa)
			}
		}
		moved := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.77"), 62000)
		for _, sa := range r.fake.SAs() {
			if sa.ID.Direction == ipsec.In {
				r.fake.Raise(ipsec.AddressChanged{ID: sa.ID, Remote: netip.AddrPortFrom(moved.Addr(), moved.Port()+500)})
			}
		}
		n.setNAT(func(src, dst netip.AddrPort) (netip.AddrPort, netip.AddrPort) {
			switch {
			case src.Addr() == leftAddr:
				return netip.AddrPortFrom(moved.Addr(), moved.Port()+src.Port()%1000), dst
			case dst.Addr() == moved.Addr():
				return src, netip.AddrPortFrom(leftAddr, 4500)
			default:
				return src, dst
			}
		})
		pass(time.Second)
		before := r.spis("site", "lan")
		for _, sa := range r.fake.SAs() {
			if sa.Remote.Addr() != moved.Addr() {
				t.Errorf("SA %v has not moved", sa.ID)
			}
			if sa.ID.Direction == ipsec.Out {
				r.fake.Raise(ipsec.Expire{ID: sa.ID})
			}
		}
		pass(time.Minute)
		if slices.Equal(before, r.spis("site", "lan")) {
			t.Error("the expiry was lost")
		}
		r.Disconnect(t.Context(), "site", "")
		pass(10 * time.Second)
		r.mustBeEmpty()
		l.mustBeEmpty()
	})
}

// ---- bugs ----

// brokenBackend panics when it is to install SAs of a tunnel.
type brokenBackend struct {
	*dataplane.Fake
	tunnel string
}

func (b brokenBackend) AddSA(sa ipsec.SA) error {
	if sa.Tunnel == b.tunnel {
		panic("the data plane is broken")
	}
	return b.Fake.AddSA(sa)
}

type brokenAuthenticator struct{ leafAuthenticator }

func (brokenAuthenticator) Verify(v2.Verify) error { panic("the parser is broken") }

func TestPanicIsContained(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		_, other := n.two(t)
		pass(0)
		g := n.gateway(t, netip.MustParseAddr("192.0.2.5"), nil, func(o *Options) {
			o.Backend = brokenBackend{o.Backend.(*dataplane.Fake), "dmz"}
		})
		conn := changed(end("site", true), func(c *v2.Connection) {
			c.LocalAddrs = []netip.Prefix{netip.PrefixFrom(g.addr, 32)}
		})
		bad := changed(conn, func(c *v2.Connection) { c.Name, c.Children = "bad", c.Children[1:] })
		other.Apply([]*v2.Connection{changed(end("site", false), func(c *v2.Connection) { c.RemoteAddrs = nil })}, map[string]Change{"site": {}})
		g.Apply([]*v2.Connection{conn, bad}, nil)
		g.connect("site", "lan")
		err := g.Connect(within(t, time.Minute), "bad", "dmz")
		if code(err) != "internal-error" || g.failure("bad") != "internal-error" {
			t.Errorf("got %v, status %q", err, g.failure("bad"))
		}
		if len(g.logs.lines("stack=")) != 1 {
			t.Errorf("the log says %q", g.logs.lines("level=ERROR"))
		}
		if err := g.Rekey(within(t, time.Minute), "site", "lan"); err != nil || g.tunnels("lan") == 0 {
			t.Errorf("the other connection suffers: %v", err)
		}
		if len(g.Status("bad")[0].SAs) != 0 {
			t.Error("status lists the machine that failed")
		}
	})
	simulate(t, func(t *testing.T, n *network) {
		source := armed{rand.Reader, make(chan struct{})}
		l := n.gateway(t, leftAddr, []*v2.Connection{end("site", true)}, func(o *Options) { o.Rand = source })
		r := n.gateway(t, rightAddr, []*v2.Connection{end("site", false)})
		l.connect("site", "lan")
		close(source.fire)
		if err := l.Rekey(within(t, time.Minute), "site", "lan"); code(err) != "internal-error" {
			t.Errorf("got %v", err)
		}
		if len(l.fake.SAs()) != 0 {
			t.Error("SAs of the failed machine are left")
		}
		pass(5 * time.Minute) // the peer finds out
		if len(r.fake.SAs()) != 0 {
			t.Error("the peer did not notice")
		}
	})
	simulate(t, func(t *testing.T, n *network) {
		cl, cr := end("site", true), end("site", false)
		withCertificates(cl, cr, "ed25519")
		l := n.gateway(t, leftAddr, []*v2.Connection{cl})
		r := n.gateway(t, rightAddr, []*v2.Connection{cr}, func(o *Options) { o.Authenticator = brokenAuthenticator{} })
		if err := l.Connect(within(t, time.Minute), cl.Name, "lan"); code(err) != "authentication-failed" {
			t.Errorf("got %v", err)
		}
		pass(time.Minute)
		r.mustBeEmpty()
	})
}
