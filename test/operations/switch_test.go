package operations

import (
	"strings"
	"testing"
	"time"
)

// TestSwitch: off, the tunnels of IKE are closed at both ends, what they
// protected is blocked, over kill -9 too, and neither end brings them up; on,
// they come up by themselves.
func TestSwitch(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	tunnels := peers(nil, through(net4in4, "start: start"), through(net6in4))
	s.gwB.configure(nil, peers(nil, through(net4in4), through(net6in4)))
	s.gwA.configure(nil, tunnels)
	s.gwB.start()
	s.gwA.start()
	s.tap.arm()
	up := func(when string) {
		t.Helper()
		eventually(t, 20*time.Second, "tunnel that starts by itself "+when, func() bool { return len(s.gwA.tunnelSAs("peer", net4in4.name)) > 0 })
		mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 2)
		mustPing(t, s.hostA, net6in4.hostA, net6in4.hostB, 2)
		s.tap.mustBeTight(t, when)
	}
	off := func(when string) {
		t.Helper()
		got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 1) + ping(t, s.hostB, net6in4.hostB, net6in4.hostA, 1)
		if got != 0 {
			t.Errorf("%s: %d were answered", when, got)
		}
		if sas := s.gwA.sas(); len(sas) != 0 || s.gwA.position() != "off" {
			t.Errorf("%s: %s, %+v", when, s.gwA.position(), sas)
		}
		if st := s.gwA.status(); len(st.Connections) != 1 || st.Connections[0].State != "configured" {
			t.Errorf("%s: status %+v", when, st.Connections)
		}
		s.tap.mustBeTight(t, when)
	}
	up("at first")

	// An SA of IKE goes only with --force, and the tunnel comes up anew.
	spi := s.gwA.onlySA("peer", net4in4.name).Out.SPI
	if _, err := s.gwA.try("sa", "delete", spi); err == nil || !strings.Contains(err.Error(), "caponier rekey peer/") {
		t.Errorf("sa delete of an SA of IKE: %v", err)
	}
	s.gwA.do("sa", "delete", spi, "--force")
	eventually(t, 20*time.Second, "new SA in the place of the deleted one", func() bool {
		sas := s.gwA.tunnelSAs("peer", net4in4.name)
		return len(sas) == 1 && sas[0].Out.SPI != spi
	})
	up("after sa delete --force")

	s.gwA.do("gateway", "off")
	if sas := s.gwB.sas(); len(sas) != 0 {
		t.Errorf("the peer was not told: %+v", sas)
	}
	off("switched off")
	if _, err := s.gwA.try("connect", "peer"); err == nil || !strings.Contains(err.Error(), "(gateway-off)") {
		t.Errorf("connect while it is off: %v", err)
	}
	s.gwA.do("reload")
	off("after a reload")
	s.gwA.kill()
	s.gwA.start()
	off("after kill -9 and a start")
	s.gwA.do("gateway", "on")
	up("switched on again")
}
