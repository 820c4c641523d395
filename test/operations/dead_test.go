package operations

import (
	"strings"
	"testing"
	"time"
)

// TestDeadPeer unplugs the peer: dead peer detection notices, the SAs go, what is
// sent meanwhile is held or refused and never leaves in clear; the next packet
// after the link is back brings the tunnel up again.
func TestDeadPeer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, g := range []*gateway{s.gwA, s.gwB} {
		g.configure(nil, peers([]string{"dpd: 2s"}, through(net4in4)))
		g.start()
	}
	f := startFlow(t, s.hostA, net4in4.hostA, s.hostB, net4in4.hostB, 20*time.Millisecond, 100)
	f.passes(5*time.Second, "at first")
	s.tap.arm()

	// A short break loses the packets of the break, and nothing else.
	old := s.gwA.onlySA("peer", "4in4").In.SPI
	unplug := func(state string) {
		t.Helper()
		if err := s.wire.IP("link", "set", "portb", state); err != nil {
			t.Fatal(err)
		}
	}
	unplug("down")
	time.Sleep(3 * time.Second)
	unplug("up")
	f.passes(5*time.Second, "after a short break")
	time.Sleep(3 * time.Second) // until the repeated request is answered
	if now := s.gwA.onlySA("peer", "4in4").In.SPI; now != old {
		t.Error("a short break has cost the SA")
	}

	unplug("down")
	// 2 s without a word, then RFC 7296's repetitions over more than a minute.
	eventually(t, 110*time.Second, "end of the SAs with a dead peer", func() bool {
		return len(s.gwA.sas()) == 0 && len(s.gwB.sas()) == 0
	})
	s.tap.mustBeTight(t, "while the peer is dead")
	c := s.gwA.status().Connections[0]
	if c.LastError == nil || c.LastError.Code != "peer-not-responding" {
		t.Errorf("the status does not say that the peer is dead: %+v", c.LastError)
	}
	if !strings.Contains(s.gwA.logText(), "code=peer-not-responding") {
		t.Error("the log does not say that the peer is dead")
	}
	unplug("up")
	f.passes(40*time.Second, "after the link is back")
	s.tap.mustBeTight(t, "after the link is back")
	eventually(t, 5*time.Second, "single IKE SA", func() bool {
		return len(s.gwA.status().Connections[0].IKE) == 1 && len(s.gwB.status().Connections[0].IKE) == 1
	})
}
