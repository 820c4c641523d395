package operations

import (
	"slices"
	"syscall"
	"testing"
	"time"
)

// TestLifetimes has SAs rekey by themselves, by time, by packets and by octets,
// under traffic.
func TestLifetimes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	limited := peers([]string{"lifetime: 10s"},
		through(net4in4, "lifetime: 8s"),
		through(net6in4, "lifetime-packets: 800"),
		through(netMore, "lifetime-bytes: 200k"),
	)
	for _, g := range []*gateway{s.gwA, s.gwB} {
		g.configure(nil, limited)
		g.start()
	}
	s.tap.arm()
	// The first packets bring the tunnels up, and are not lost.
	flows := map[string]*flow{
		"time":    startFlow(t, s.hostA, net4in4.hostA, s.hostB, net4in4.hostB, 10*time.Millisecond, 100),
		"packets": startFlow(t, s.hostA, net6in4.hostA, s.hostB, net6in4.hostB, 5*time.Millisecond, 100),
		"octets":  startFlow(t, s.hostA, netMore.hostA, s.hostB, netMore.hostB, 10*time.Millisecond, 1000),
	}
	seen := map[string]map[string]bool{"4in4": {}, "6in4": {}, "more": {}, "ike": {}}
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		for _, c := range s.gwA.status().Connections {
			for _, sa := range c.IKE {
				seen["ike"][sa.InitiatorSPI] = true
			}
			for _, tu := range c.Tunnels {
				for _, sa := range tu.SAs {
					seen[tu.Name][sa.Out.SPI] = true
					if sa.Out.Packets > 800 && tu.Name == "6in4" || sa.Out.Bytes > 200<<10 && tu.Name == "more" {
						t.Errorf("an SA of %s has gone beyond its hard limit: %+v", tu.Name, sa)
					}
				}
			}
		}
	}
	// 20 s / 8 s, 20 s * 200/s / 800, 20 s * 100/s * 1 kB / 200 kB, 20 s / 10 s
	for name, least := range map[string]int{"4in4": 3, "6in4": 4, "more": 7, "ike": 2} {
		if n := len(seen[name]); n < least || n > 4*least {
			t.Errorf("%s had %d SAs in 20 s, at least %d were to be expected", name, n, least)
		}
	}
	for what, f := range flows {
		f.mustBeWhole("lifetime by " + what)
	}
	s.tap.mustBeTight(t, "during rekeys by lifetime")
	s.tap.mustHaveNoGaps(t)
}

// TestHardLimit stops the peer in the middle: nothing is rekeyed, and the SA must
// not outlive its hard limit. When the peer wakes up, the tunnel comes back.
func TestHardLimit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, g := range []*gateway{s.gwA, s.gwB} {
		g.configure(nil, peers([]string{"dpd: 0s"}, through(net4in4, "lifetime: 6s"), through(net6in4, "lifetime-packets: 300")))
		g.start()
	}
	f := startFlow(t, s.hostA, net4in4.hostA, s.hostB, net4in4.hostB, 20*time.Millisecond, 100)
	g := startFlow(t, s.hostA, net6in4.hostA, s.hostB, net6in4.hostB, 10*time.Millisecond, 100)
	f.passes(5*time.Second, "at first")
	g.passes(5*time.Second, "at first")
	s.tap.arm()
	s.gwB.signal(syscall.SIGSTOP)
	out := s.gwA.onlySA("peer", "4in4").Out.SPI
	packets := s.gwA.onlySA("peer", "6in4").Out
	gone := func(spi string) func() bool {
		return func() bool {
			return !slices.ContainsFunc(s.gwA.sas(), func(sa saEntry) bool { return sa.ID.SPI == spi && sa.ID.Direction == "out" })
		}
	}
	eventually(t, 4*time.Second, "end of an SA that has sent its last packet", gone(packets.SPI))
	eventually(t, 9*time.Second, "end of an SA that has outlived its time", gone(out))
	if sas := s.gwA.tunnelSAs("peer", "4in4"); len(sas) != 0 {
		t.Errorf("the status still has the SA that has outlived its time: %+v", sas)
	}
	s.tap.mustBeTight(t, "after the hard limits")
	if highest := s.tap.highest(packets.SPI); highest > 300 {
		t.Errorf("the SA with at most 300 packets has sent number %d", highest)
	}
	s.gwB.signal(syscall.SIGCONT)
	f.passes(30*time.Second, "after the peer went on")
	g.passes(30*time.Second, "after the peer went on")
	s.tap.mustBeTight(t, "after the peer went on")
}
