package operations

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// foreign are rules and routes of somebody else, some of them where the
// gateway's own ones stand.
func foreign(n netns.NS) error {
	return errors.Join(
		n.IP("rule", "add", "pref", "300", "from", "172.16.0.0/16", "lookup", "77"),
		n.IP("rule", "add", "pref", "220", "to", "172.17.0.0/16", "lookup", "77"),
		n.IP("-6", "rule", "add", "pref", "221", "to", "2001:db8:77::/64", "lookup", "77"),
		n.IP("route", "add", "172.18.0.0/16", "via", outer4B.String(), "table", "77"),
		n.IP("route", "add", "172.19.0.0/16", "via", outer4B.String(), "table", "220"),
		n.IP("route", "add", "unreachable", "172.20.0.0/16", "table", "220", "metric", "1073741824"),
		n.IP("route", "add", "172.21.0.0/16", "via", outer4B.String(), "table", "221"),
	)
}

// TestNothingLeaks kills, restarts and stops a gateway while traffic for its
// tunnels goes on and plain routes lead to the peer: from its first start until
// it is told to let go, not one inner packet leaves in clear.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	for _, capture := range []string{"tun", "afpacket", "afxdp"} {
		t.Run(capture, func(t *testing.T) {
			t.Parallel()
			nothingLeaks(t, "capture: "+capture)
		})
	}
}

func nothingLeaks(t *testing.T, capture string) {
	s := newSite(t)
	if err := foreign(s.gwA.ns); err != nil {
		t.Fatal(err)
	}
	flows := []*flow{
		startFlow(t, s.hostA, net4in4.hostA, s.hostB, net4in4.hostB, 5*time.Millisecond, 100),
		startFlow(t, s.hostA, net6in4.hostA, s.hostB, net6in4.hostB, 5*time.Millisecond, 100),
	}
	resumes := func(when string) {
		t.Helper()
		for _, f := range flows {
			f.passes(10*time.Second, when)
		}
		s.tap.mustBeTight(t, when)
	}
	// What the tap must never see again, it can see.
	resumesInClear := func(when string) {
		t.Helper()
		for _, f := range flows {
			f.passes(10*time.Second, when)
		}
		// It runs behind.
		eventually(t, 10*time.Second, "the tap sees packets in clear", func() bool { return s.tap.inClear() > 0 })
	}
	blocked := func(when string) {
		t.Helper()
		time.Sleep(300 * time.Millisecond)
		before := flows[0].tally()
		time.Sleep(700 * time.Millisecond)
		if after := flows[0].tally(); after.sent-after.lost != before.sent-before.lost {
			t.Errorf("%s: traffic passes", when)
		}
		s.tap.mustBeTight(t, when)
	}
	resumesInClear("before the first start")
	before := snapshot(t, s.gwA.ns)

	tunnels := []tunnel{through(net4in4), through(net6in4)}
	s.gwB.configure([]string{capture}, peers(nil, append(tunnels, through(netMore))...))
	s.gwA.configure([]string{capture}, peers(nil, append(tunnels, through(netMore))...))
	s.gwB.start()
	s.gwA.start()
	time.Sleep(50 * time.Millisecond) // what was on its way
	s.tap.arm()
	resumes("after the first start")

	s.gwA.kill()
	blocked("after kill -9")
	// Another configuration: what the killed one has left for its third tunnel is
	// found and removed, its other refusals serve on.
	left := snapshot(t, s.gwA.ns)
	if !has(left, "unreachable "+netMore.B.String()) || !has(left, "unreachable "+net6in4.B.String()) {
		t.Errorf("the killed gateway left no refusals:\n%s", strings.Join(left, "\n"))
	}
	s.gwA.configure([]string{capture}, peers(nil, tunnels...))
	s.gwA.start()
	resumes("after the restart")
	if now := snapshot(t, s.gwA.ns); has(now, "unreachable "+netMore.B.String()) {
		t.Error("what the killed gateway left is still there after the restart")
	}

	// The responder: its traffic makes it call, and the initiator follows.
	s.gwB.kill()
	blocked("after kill -9 of the peer")
	s.gwB.start()
	mustPing(t, s.hostB, net4in4.hostB, net4in4.hostA, 1)
	mustPing(t, s.hostB, net6in4.hostB, net6in4.hostA, 1)
	resumes("after the restart of the peer")

	// Killed again and again, in the middle of its start too.
	for i := range 6 {
		s.gwA.kill()
		s.gwA.launch()
		time.Sleep(time.Duration(i) * 15 * time.Millisecond)
	}
	s.gwA.kill()
	blocked("after kills during the start")
	s.gwA.start()
	resumes("after kills during the start")

	s.gwA.stop()
	blocked("after SIGTERM with shutdown: block")
	s.gwA.start()
	resumes("after the start that follows")

	s.gwA.configure([]string{capture, "shutdown: release"}, peers(nil, tunnels...))
	s.gwA.signal(syscall.SIGHUP)
	eventually(t, 5*time.Second, "reload", func() bool { return strings.Contains(s.gwA.logText(), "configuration reloaded") })
	s.tap.mustBeTight(t, "until it is told to let go")
	s.gwA.stop()
	sameSystem(t, "after SIGTERM with shutdown: release", before, snapshot(t, s.gwA.ns))
	// The peer's end still blocks: only requests cross.
	seen := s.tap.inClear()
	time.Sleep(300 * time.Millisecond)
	if s.tap.inClear() == seen {
		t.Error("after SIGTERM with shutdown: release, traffic is still held back")
	}
}

func has(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, part) })
}

// TestReleaseAfterCrash: the crash of a gateway blocks, whatever its stop would
// do; the next run gives everything back.
func TestReleaseAfterCrash(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := snapshot(t, s.gwA.ns)
	s.gwA.configure([]string{"shutdown: release"}, peers(nil, through(net4in4), through(net6in4)))
	s.gwA.start()
	s.tap.arm()
	if got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 1); got != 0 {
		t.Error("an answer without a tunnel")
	}
	// A crash keeps traffic back even where a stop would let it go.
	s.gwA.kill()
	if got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 1); got != 0 {
		t.Error("an answer after kill -9")
	}
	s.tap.mustBeTight(t, "after kill -9")
	s.gwA.start()
	s.gwA.stop()
	sameSystem(t, "after a stop that follows a crash", before, snapshot(t, s.gwA.ns))
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 1)
}

// TestTheOtherPlaneLeftPolicies has a gateway start on the user-space plane where
// one with the kernel's was before: policies that are left would block IKE.
func TestTheOtherPlaneLeftPolicies(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	// As package kernel numbers them; the last is somebody else's.
	for _, policy := range []string{
		"src 192.0.2.1/32 dst 192.0.2.2/32 dir out index 3398434825 action block priority 8470624",
		"src 192.0.2.2/32 dst 192.0.2.1/32 dir in index 3398434824 action block priority 8470624",
		"src 203.0.113.0/24 dst 203.0.113.0/24 dir out action block priority 9000000",
	} {
		if err := s.gwA.ns.IP(append([]string{"xfrm", "policy", "add"}, strings.Fields(policy)...)...); err != nil {
			t.Fatal(err)
		}
	}
	s.gwA.configure(nil, peers(nil, through(net4in4, "start: start")))
	s.gwB.configure(nil, peers(nil, through(net4in4, "start: none")))
	s.gwB.start()
	s.gwA.start()
	eventually(t, 15*time.Second, "the tunnel comes up", func() bool { return len(s.gwA.tunnelSAs("peer", "4in4")) == 1 })
	out, err := exec.CommandContext(t.Context(), "ip", "-n", s.gwA.ns.Name, "xfrm", "policy").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	if left := string(out); strings.Contains(left, "192.0.2.1/32") || !strings.Contains(left, "203.0.113.0/24") {
		t.Errorf("not only what was the gateway's is gone:\n%s", left)
	}
}
