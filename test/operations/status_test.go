package operations

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCommandsAgree: what the commands say, in JSON and for people, is one truth,
// and the traffic is in it.
func TestCommandsAgree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	conns := both("dpd: 0s")
	for _, g := range []*gateway{s.gwA, s.gwB} {
		g.configure(nil, conns...)
		g.start()
	}
	if st := s.gwA.status(); st.Name != "gwA" || st.PID != s.gwA.pid() || len(st.Connections) != 2 {
		t.Errorf("the status is %+v", st)
	}
	for _, c := range s.gwA.status().Connections {
		if c.State != "configured" {
			t.Errorf("before traffic, %s is %s", c.Name, c.State)
		}
	}
	counters := s.gwA.status().Counters
	const pings = 5
	for _, n := range []subnet{net4in4, net6in4, net4in6} {
		mustPing(t, s.hostA, n.hostA, n.hostB, pings)
	}
	s.gwA.do("connect", "outer6/6in6") // up, but nothing passes

	seen := make(map[string][2]uint64) // packets and octets by SPI and direction, from the status
	for _, g := range []*gateway{s.gwA, s.gwB} {
		st := g.status()
		for _, c := range st.Connections {
			if c.State != "passing" || len(c.IKE) != 1 || c.IKE[0].State != "established" {
				t.Errorf("%s: %s is %s, with IKE SAs %+v", g.name, c.Name, c.State, c.IKE)
			}
			for _, tu := range c.Tunnels {
				want, packets := "passing", uint64(pings)
				if tu.Name == "6in6" {
					want, packets = "established", 0
				}
				if tu.State != want || len(tu.SAs) != 1 {
					t.Errorf("%s: %s/%s is %s, with SAs %+v; want %s", g.name, c.Name, tu.Name, tu.State, tu.SAs, want)
					continue
				}
				for dir, h := range map[string]half{"in": tu.SAs[0].In, "out": tu.SAs[0].Out} {
					// An IPv6 echo request of ping has 64 octets of payload, an IPv4 one too.
					if h.Packets != packets || h.Drops != 0 || h.Bytes < packets*84 {
						t.Errorf("%s: %s/%s has counted %+v %s, want %d packets", g.name, c.Name, tu.Name, h, dir, packets)
					}
					seen[g.name+" "+dir+" "+h.SPI] = [2]uint64{h.Packets, h.Bytes}
				}
			}
		}
		sas := g.sas()
		if len(sas) != 8 {
			t.Errorf("%s lists %d SAs, not 8", g.name, len(sas))
		}
		for _, sa := range sas {
			counted, ok := seen[g.name+" "+sa.ID.Direction+" "+sa.ID.SPI]
			if !ok || counted != [2]uint64{sa.Packets, sa.Bytes} {
				t.Errorf("%s: sa list has %s %s with %d packets and %d octets, the status %v", g.name, sa.ID.Direction, sa.ID.SPI, sa.Packets, sa.Bytes, counted)
			}
			if sa.Sequence != sa.Packets {
				t.Errorf("%s: SA %s has sequence number %d after %d packets", g.name, sa.ID.SPI, sa.Sequence, sa.Packets)
			}
		}
		if g == s.gwA {
			if got := st.Counters["out-packets"] - counters["out-packets"]; got != 3*pings {
				t.Errorf("the counters have %d packets out, not %d", got, 3*pings)
			}
		}
		if half := st.Counters["ike-half-open"]; half != 0 || st.Counters["ike-sas"] != 2 {
			t.Errorf("%s counts %d IKE SAs, %d of them half open", g.name, st.Counters["ike-sas"], half)
		}
	}
	// One end's way out is the other's way in.
	for _, n := range conns {
		for _, tu := range n.tunnels {
			a, b := s.gwA.onlySA(n.name, tu.name), s.gwB.onlySA(n.name, tu.name)
			if a.Out != b.In || a.In != b.Out {
				t.Errorf("%s/%s: gwA has %+v, gwB has %+v", n.name, tu.name, a, b)
			}
		}
	}

	policies := ask[struct {
		Policies []struct {
			Name, Action string
			Local        []string
			Remote       []string
		}
	}](s.gwA, "policy", "list").Policies
	var names []string
	for _, p := range policies {
		names = append(names, p.Name)
		if p.Action != "protect" || len(p.Local) != 1 || len(p.Remote) != 1 {
			t.Errorf("policy %+v", p)
		}
	}
	slices.Sort(names)
	if want := []string{"outer4/4in4", "outer4/6in4", "outer6/4in6", "outer6/6in6"}; !slices.Equal(names, want) {
		t.Errorf("the policies are %v, want %v", names, want)
	}

	// For people: the same words.
	sa := s.gwA.onlySA("outer4", "4in4")
	for _, tc := range []struct {
		args  []string
		words []string
	}{
		{[]string{"status"}, []string{"gwA", "outer4", "outer6", "passing", "2/2", "out-packets="}},
		{[]string{"status", "outer4"}, []string{"4in4", "6in4", sa.In.SPI, sa.Out.SPI, "passing", net4in4.A.String()}},
		{[]string{"sa", "list"}, []string{sa.In.SPI, sa.Out.SPI, "outer4/4in4", outer4B.String(), outer6B.String()}},
		{[]string{"policy", "list"}, append(names, net6in6.B.String())},
		{[]string{"log"}, []string{"gateway started", "tunnel up", "connection=outer4"}},
		{[]string{"version"}, []string{"caponier"}},
	} {
		text := s.gwA.do(tc.args...)
		for _, w := range tc.words {
			if !strings.Contains(text, w) {
				t.Errorf("caponier %s does not show %q:\n%s", strings.Join(tc.args, " "), w, text)
			}
		}
	}
	if _, err := s.gwA.try("status", "nosuch"); err == nil || !strings.Contains(err.Error(), "unknown-connection") {
		t.Errorf("the status of a connection that does not exist: %v", err)
	}

	// The log: each line is JSON, and follows.
	ups := 0
	for line := range strings.Lines(s.gwA.do("log", "outer6", "--json")) {
		var r struct{ Message, Connection string }
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Connection != "outer6" {
			t.Errorf("log line %q: %v", line, err)
		}
		if r.Message == "tunnel up" {
			ups++
		}
	}
	if ups != 2 {
		t.Errorf("the log of outer6 has %d tunnels come up, not 2", ups)
	}
	follow := exec.Command(program, "--control", s.gwA.sock, "log", "-f", "outer4", "--json")
	out, err := follow.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			lines <- sc.Text()
		}
		close(lines)
	}()
	time.Sleep(100 * time.Millisecond)
	s.gwA.do("disconnect", "outer4/6in4")
	deadline := time.After(5 * time.Second)
	for found := false; !found; {
		select {
		case l := <-lines:
			found = strings.Contains(l, "tunnel down")
		case <-deadline:
			t.Fatal("log -f does not follow")
		}
	}
	if err := follow.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for range lines {
	}
	if err := follow.Wait(); err != nil {
		t.Errorf("log -f after SIGINT: %v", err)
	}

	// Down means down, here and there, and connect takes it back.
	if got := s.gwA.tunnelSAs("outer4", "6in4"); len(got) != 0 {
		t.Errorf("after disconnect, the tunnel has %+v", got)
	}
	if got := s.gwB.tunnelSAs("outer4", "6in4"); len(got) != 0 {
		t.Errorf("after disconnect, the peer's tunnel has %+v", got)
	}
	s.gwA.do("disconnect", "outer4")
	// Whoever was told lingers for a while, to tell again.
	eventually(t, 8*time.Second, "end of the IKE SA at both ends", func() bool {
		return len(s.gwA.status().Connections[0].IKE) == 0 && len(s.gwB.status().Connections[0].IKE) == 0
	})
	s.tap.arm()
	if got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 1); got != 0 {
		t.Error("traffic brings up a connection that the operator has taken down")
	}
	s.tap.mustBeTight(t, "while the connection is held down")
	s.gwA.do("connect", "outer4")
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 2)
	mustPing(t, s.hostA, net6in4.hostA, net6in4.hostB, 2)
}

// TestRekeyByHand replaces the keys under traffic in both directions and of both
// kinds, from both ends, also at the same moment.
func TestRekeyByHand(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, g := range []*gateway{s.gwA, s.gwB} {
		g.configure(nil, peers([]string{"encapsulation: always"}, through(net4in4)))
		g.start()
	}
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 1)
	s.tap.arm()
	there := startFlow(t, s.hostA, net4in4.hostA, s.hostB, net4in4.hostB, 2*time.Millisecond, 200)
	back := startFlow(t, s.hostB, net4in4.hostB, s.hostA, net4in4.hostA, 2*time.Millisecond, 1200)
	old := s.gwA.onlySA("peer", "4in4")
	spis := map[string]bool{old.In.SPI: true}
	ike := map[string]bool{s.gwA.status().Connections[0].IKE[0].InitiatorSPI: true}
	// An IKE SA has room for 20 CHILD SAs of one tunnel, those that were replaced
	// a moment ago among them.
	const each = 3
	rekeyed := func(what string, g *gateway) {
		t.Helper()
		g.do("rekey", what)
		time.Sleep(100 * time.Millisecond)
		// The old one may still take what was on its way.
		before := len(spis)
		for _, sa := range s.gwA.tunnelSAs("peer", "4in4") {
			spis[sa.In.SPI] = true
		}
		if len(spis) != before+1 {
			t.Errorf("caponier rekey %s by %s made %d CHILD SAs, not one", what, g.name, len(spis)-before)
		}
	}
	for i := range each {
		for _, g := range []*gateway{s.gwA, s.gwB} {
			rekeyed("peer/4in4", g)
		}
		g := []*gateway{s.gwA, s.gwB}[i%2]
		rekeyed("peer", g)
		all := s.gwA.status().Connections[0].IKE
		live := slices.DeleteFunc(slices.Clone(all), func(sa ikeSA) bool { return sa.State != "established" })
		if len(live) != 1 || ike[live[0].InitiatorSPI] {
			t.Errorf("round %d: after the rekey of the IKE SA by %s there are %+v", i, g.name, all)
			continue
		}
		ike[live[0].InitiatorSPI] = true
	}
	// Both at once.
	for range each {
		done := make(chan error, 2)
		for _, g := range []*gateway{s.gwA, s.gwB} {
			go func() {
				_, err := g.try("rekey", "peer/4in4")
				done <- err
			}()
		}
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("rekeys at the same moment: %v", err)
			}
		}
	}
	eventually(t, 10*time.Second, "single SA after rekeys at the same moment", func() bool {
		return len(s.gwA.tunnelSAs("peer", "4in4")) == 1 && len(s.gwB.tunnelSAs("peer", "4in4")) == 1
	})
	there.mustBeWhole("from A to B and back, during rekeys")
	back.mustBeWhole("from B to A and back, during rekeys")
	s.tap.mustBeTight(t, "during rekeys")
	s.tap.mustHaveNoGaps(t)
	a, b := s.gwA.onlySA("peer", "4in4"), s.gwB.onlySA("peer", "4in4")
	if a.Out.SPI != b.In.SPI || a.In.SPI != b.Out.SPI {
		t.Errorf("the ends disagree after rekeys: %+v and %+v", a, b)
	}
	for _, g := range []*gateway{s.gwA, s.gwB} {
		counters := g.status().Counters
		for _, name := range []string{"no-sa", "send-failed", "deliver-failed", "hold-overflow", "hold-timeout", "worker-panics"} {
			if n, counted := counters[name]; n > 0 || !counted {
				t.Errorf("%s counts %s=%d (%t)", g.name, name, n, counted)
			}
		}
		for _, sa := range g.tunnelSAs("peer", "4in4") {
			if sa.In.Drops+sa.Out.Drops > 0 {
				t.Errorf("%s: SA with drops: %+v", g.name, sa)
			}
		}
	}
}
