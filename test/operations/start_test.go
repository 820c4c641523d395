package operations

import (
	"testing"
	"time"
)

// both are connections over each outer family, with tunnels for both inner ones.
func both(keys ...string) []conn {
	return []conn{
		{name: "outer4", a: outer4A, b: outer4B, keys: keys, tunnels: []tunnel{through(net4in4), through(net6in4)}},
		{name: "outer6", a: outer6A, b: outer6B, keys: keys, tunnels: []tunnel{through(net4in6), through(net6in6)}},
	}
}

// TestTrapLosesNothing sends into tunnels that are down: the very first packet is
// held, not lost, for both families inside and outside, with and without UDP.
func TestTrapLosesNothing(t *testing.T) {
	t.Parallel()
	for _, encapsulation := range []string{"auto", "always", "never"} {
		t.Run("encapsulation "+encapsulation, func(t *testing.T) {
			s := newSite(t)
			conns := both("encapsulation: " + encapsulation)
			for _, g := range []*gateway{s.gwA, s.gwB} {
				g.configure(nil, conns...)
				g.start()
			}
			s.tap.arm()
			for _, n := range []subnet{net4in4, net6in4, net4in6, net6in6} {
				mustPing(t, s.hostA, n.hostA, n.hostB, 3)
			}
			for _, c := range conns {
				s.gwA.do("disconnect", c.name)
				if sas := s.gwA.sas(); c.name == "outer6" && len(sas) != 0 {
					t.Fatalf("SAs are left after disconnect: %+v", sas)
				}
			}
			// The order to disconnect holds a connection down until the operator takes
			// it back; the peer is free to call.
			for _, n := range []subnet{net4in4, net6in4, net4in6, net6in6} {
				if took := talk(t, s.hostB, n.hostB, s.hostA, n.hostA); took > 900*time.Millisecond {
					t.Errorf("%s: TCP took %s: the first SYN was lost", n.name, took)
				}
			}
			for _, c := range conns {
				for _, tu := range c.tunnels {
					if sa := s.gwB.onlySA(c.name, tu.name); sa.Encap != (encapsulation != "never") {
						t.Errorf("%s/%s: in UDP: %t", c.name, tu.name, sa.Encap)
					}
				}
			}
			// The gateway's own packets have an inner address as their source.
			mustPing(t, s.gwA.ns, nth(net4in4.A, 1), net4in4.hostB, 2)
			s.tap.mustBeTight(t, "with traffic in both directions")
		})
	}
}

// TestStartAtOnce brings a tunnel up without traffic.
func TestStartAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.gwA.configure(nil, peers(nil, through(net4in4, "start: start")))
	s.gwB.configure(nil, peers(nil, through(net4in4, "start: none")))
	// The peer comes later: the first attempt has to be repeated.
	s.gwA.start()
	time.Sleep(300 * time.Millisecond)
	s.gwB.start()
	eventually(t, 15*time.Second, "tunnel without traffic", func() bool { return len(s.gwA.tunnelSAs("peer", "4in4")) == 1 })
	mustPing(t, s.hostB, net4in4.hostB, net4in4.hostA, 3)

	// A resident gateway with a tunnel is small.
	time.Sleep(2 * time.Second)
	for _, g := range []*gateway{s.gwA, s.gwB} {
		if kb := g.resident(); kb >= 25<<10 {
			t.Errorf("%s uses %d KiB of memory, idle", g.name, kb)
		} else {
			t.Logf("%s uses %d KiB of memory, idle", g.name, kb)
		}
	}
}
