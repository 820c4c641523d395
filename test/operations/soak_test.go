package operations

import (
	"fmt"
	"os"
	"testing"
	"time"
)

// resources is what a running gateway holds.
type resources struct {
	goroutines, descriptors, sas, ikeSAs, threads int
	resident, heap                                int // KiB
}

func (r resources) String() string {
	return fmt.Sprintf("%d goroutines, %d file descriptors, %d threads, %d SAs, %d IKE SAs, %d KiB resident",
		r.goroutines, r.descriptors, r.threads, r.sas, r.ikeSAs, r.resident)
}

func (g *gateway) resources() resources {
	g.t.Helper()
	s := ask[struct {
		Memory   struct{ Goroutines, Heap int }
		Counters map[string]uint64
	}](g, "status")
	count := func(dir string) int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/%s", g.pid(), dir))
		if err != nil {
			g.t.Fatal(err)
		}
		return len(entries)
	}
	return resources{
		goroutines: s.Memory.Goroutines, descriptors: count("fd"), threads: count("task"),
		sas: len(g.sas()), ikeSAs: int(s.Counters["ike-sas"]), resident: g.resident(), heap: s.Memory.Heap >> 10,
	}
}

// TestSoak has gateways connect, carry, rekey, reload, be captured and disconnect,
// again and again: what they hold in the end is what they held after the first
// rounds.
func TestSoak(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	gws := []*gateway{s.gwA, s.gwB}
	conf := func(lifetime string) conn {
		return peers([]string{"dpd: 2s"}, through(net4in4, "lifetime: "+lifetime), through(net6in4, "lifetime-packets: 40"))
	}
	for _, g := range gws {
		g.configure([]string{"capture-keys: allow"}, conf("1h"))
		g.start()
	}
	round := func(n int) {
		t.Helper()
		s.gwA.do("connect", "peer")
		if got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 2) + ping(t, s.hostB, net6in4.hostB, net6in4.hostA, 2); got < 3 {
			t.Errorf("round %d: %d of 4 echo requests were answered", n, got)
		}
		s.gwA.do("rekey", "peer")
		s.gwB.do("rekey", "peer/4in4")
		for i, g := range gws {
			g.configure([]string{"capture-keys: allow"}, conf(fmt.Sprintf("%dm", 60+(n+i)%7)))
			g.do("reload")
		}
		s.gwB.do("capture", "-o", s.dir+fmt.Sprintf("/round%d.pcapng", n), "--keys", "--duration", "50ms")
		s.gwB.do("why")
		for _, g := range gws {
			if out, err := g.try("connect", "nobody"); err == nil {
				t.Errorf("round %d: %s", n, out)
			}
		}
		s.gwA.do("disconnect", "peer")
		eventually(t, 10*time.Second, "end of the SAs", func() bool { return len(s.gwA.sas()) == 0 && len(s.gwB.sas()) == 0 })
	}
	// The heap is what lives and some garbage: its least over a few rounds is what
	// lives.
	const warm, rounds, few = 6, 26, 8
	var before [2]resources
	var early, late [2]int
	least := func(of *int, heap int) {
		if *of == 0 || heap < *of {
			*of = heap
		}
	}
	for n := range rounds {
		round(n)
		for i, g := range gws {
			now := g.resources()
			switch {
			case n == warm:
				before[i] = now
			case n > warm && n <= warm+few:
				least(&early[i], now.heap)
			case n >= rounds-few:
				least(&late[i], now.heap)
			}
		}
	}
	for i, g := range gws {
		// What has just ended lingers to answer repetitions.
		var now resources
		eventually(t, 90*time.Second, g.name+" that holds no more than at first", func() bool {
			now = g.resources()
			return now.goroutines <= before[i].goroutines && now.descriptors <= before[i].descriptors && now.sas == 0 && now.ikeSAs == 0
		})
		t.Logf("%s: %s; after %d more rounds: %s", g.name, before[i], rounds-warm, now)
		t.Logf("%s: of the heap %d KiB live at first, %d KiB in the end", g.name, early[i], late[i])
		if late[i] > early[i]+2<<10 {
			t.Errorf("%s: the heap has grown from %d to %d KiB in %d rounds", g.name, early[i], late[i], rounds-warm)
		}
		// Beside it there may be garbage, a tenth of what counts as living.
		if now.resident > before[i].resident+10<<10 {
			t.Errorf("%s: the memory has grown from %d to %d KiB in %d rounds", g.name, before[i].resident, now.resident, rounds-warm)
		}
	}
}
