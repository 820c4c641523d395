package kernel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
)

var namespaces atomic.Int32

func newNamespace(t testing.TB) netns.NS {
	t.Helper()
	ns, err := netns.Create(fmt.Sprintf("cpkern-%d-%d", os.Getpid(), namespaces.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Delete() })
	return ns
}

// newPlane makes a plane in a namespace.
func newPlane(t testing.TB, ns netns.NS) *Plane {
	t.Helper()
	return newPlaneWith(t, ns, Options{})
}

func newPlaneWith(t testing.TB, ns netns.NS, opts Options) *Plane {
	t.Helper()
	opts.Tick = 20 * time.Millisecond
	var p *Plane
	if err := ns.Do(func() (err error) {
		p, err = New(opts)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// ipText runs ip(8) in a namespace and returns what it prints.
func ipText(t testing.TB, ns netns.NS, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.Background(), "ip", append([]string{"-n", ns.Name}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func selector(text string) ipsec.Selector {
	s, err := ipsec.ParseSelector(text)
	if err != nil {
		panic(err)
	}
	return s
}

func selectors(texts ...string) []ipsec.Selector {
	var out []ipsec.Selector
	for _, text := range texts {
		out = append(out, selector(text))
	}
	return out
}

func lan(acquire bool) ipsec.Policy {
	return ipsec.Policy{
		Name: "peer/lan", Action: ipsec.Protect, ReqID: 7, Protocol: ipsec.ESP, Acquire: acquire,
		Local: selectors("10.1.0.0/16"), Remote: selectors("10.2.0.0/16"), Connection: "peer", Tunnel: "lan",
	}
}

func set(t testing.TB, p *Plane, policies ...ipsec.Policy) {
	t.Helper()
	if err := p.SetPolicies(policies); err != nil {
		t.Fatal(err)
	}
}

// policiesOf are the policies of a namespace as `ip xfrm policy` shows them, each
// in one line, in order.
func policiesOf(t testing.TB, ns netns.NS) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(ipText(t, ns, "xfrm", "policy")) {
		if strings.HasPrefix(line, "\t") || strings.HasPrefix(line, " ") {
			out[len(out)-1] += " " + strings.TrimSpace(line)
		} else if line = strings.TrimSpace(line); !strings.HasPrefix(line, "src ::/0 dst ::/0 proto ipv6-icmp") {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

func TestPoliciesAsIproute2ShowsThem(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	bundle := lan(true)
	bundle.Name, bundle.WithAH, bundle.ReqID, bundle.Remote = "peer/bundle", true, 8, selectors("10.3.0.0/16")
	set(t, p, lan(true), bundle, ipsec.Policy{
		Name: "stay", Action: ipsec.Bypass, Priority: 1000, Local: selectors("10.1.0.0/16"), Remote: selectors("10.1.0.0/16"),
	}, ipsec.Policy{
		Name: "rest", Action: ipsec.Discard, Priority: -1000, Local: selectors("10.1.0.0/16:tcp/80"), Remote: selectors("0.0.0.0/0"),
	})
	const any4 = "tmpl src 0.0.0.0 dst 0.0.0.0"
	var want []string
	for _, x := range []struct{ flow, back, rest string }{
		{"src 10.1.0.0/16 dst 10.2.0.0/16", "src 10.2.0.0/16 dst 10.1.0.0/16", "priority 8405088 ptype main " + any4 + " proto esp reqid 7 mode tunnel"},
		{
			"src 10.1.0.0/16 dst 10.3.0.0/16", "src 10.3.0.0/16 dst 10.1.0.0/16",
			"priority 8405088 ptype main " + any4 + " proto esp reqid 8 mode tunnel " + any4 + " proto ah reqid 8 mode transport",
		},
		{"src 10.1.0.0/16 dst 10.1.0.0/16", "src 10.1.0.0/16 dst 10.1.0.0/16", "priority 8142944 ptype main"},
	} {
		want = append(want, x.flow+" dir out "+x.rest, x.back+" dir in "+x.rest, x.back+" dir fwd "+x.rest)
	}
	const rest = " action block priority 8675344 ptype main"
	want = append(want,
		"src 10.1.0.0/16 dst 0.0.0.0/0 proto tcp sport 80 dir out"+rest,
		"src 0.0.0.0/0 dst 10.1.0.0/16 proto tcp dport 80 dir in"+rest,
		"src 0.0.0.0/0 dst 10.1.0.0/16 proto tcp dport 80 dir fwd"+rest)
	slices.Sort(want)
	if diff := cmp.Diff(want, policiesOf(t, ns)); diff != "" {
		t.Errorf("- wanted, + in the kernel:\n%s", diff)
	}

	// The same once more changes nothing, not even their numbers and ages.
	before := ipText(t, ns, "-s", "xfrm", "policy")
	set(t, p, p.Policies()...)
	if diff := cmp.Diff(before, ipText(t, ns, "-s", "xfrm", "policy")); diff != "" {
		t.Errorf("the same policies once more:\n%s", diff)
	}
	set(t, p)
	if left := policiesOf(t, ns); len(left) != 0 {
		t.Errorf("an empty SPD leaves %v", left)
	}
}

// outside gives the namespace a way to 10.2.0.0/16.
func outside(t testing.TB, ns netns.NS) {
	t.Helper()
	for _, args := range [][]string{
		{"link", "add", "v0", "type", "veth", "peer", "v1"},
		{"link", "set", "v0", "up"},
		{"link", "set", "v1", "up"},
		{"addr", "add", "10.1.0.1/32", "dev", "v0"},
		{"route", "add", "10.2.0.0/16", "dev", "v0", "src", "10.1.0.1"},
	} {
		ipText(t, ns, args...)
	}
}

// speak sends a datagram from 10.1.0.1 to 10.2.0.9.
func speak(t testing.TB, ns netns.NS) {
	t.Helper()
	if err := ns.Do(func() error {
		c, err := net.Dial("udp", "10.2.0.9:9")
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("anyone there?"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// nextEvent waits for an E.
func nextEvent[E ipsec.Event](t testing.TB, p *Plane) E {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case e := <-p.Events():
			if x, ok := e.(E); ok {
				return x
			}
		case <-late:
			var want E
			t.Fatalf("the plane does not say %T", want)
		}
	}
}

func noEvents(t testing.TB, p *Plane) {
	t.Helper()
	select {
	case e := <-p.Events():
		t.Fatalf("the plane says %+v", e)
	case <-time.After(100 * time.Millisecond):
	}
}

func TestAcquireIsRaisedOnce(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	outside(t, ns)
	set(t, p, lan(true))
	speak(t, ns)
	got := nextEvent[ipsec.Acquire](t, p)
	got.Flow.SrcPort = 0 // any
	if want := (ipsec.Acquire{
		Policy: "peer/lan", Connection: "peer", Tunnel: "lan", ReqID: 7,
		Flow: ipsec.Flow{Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr("10.2.0.9"), Protocol: 17, DstPort: 9},
	}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	speak(t, ns)
	noEvents(t, p)
	if states := ipText(t, ns, "xfrm", "state"); !strings.Contains(states, "reqid 7") {
		t.Fatalf("no larval state: %s", states)
	}
	// What AddSA does: the next packet that finds no SA asks again.
	p.mu.Lock()
	p.endWait(7)
	p.mu.Unlock()
	speak(t, ns)
	nextEvent[ipsec.Acquire](t, p)

	// A policy that may not ask does not.
	set(t, p, lan(false))
	if err := ns.Do(func() error {
		c, err := net.Dial("udp", "10.2.0.9:9")
		if err == nil {
			_, err = c.Write([]byte("x"))
			c.Close()
		}
		return err
	}); err == nil {
		t.Error("a packet passes a policy that has no SA")
	}
	noEvents(t, p)
}

// Nobody says that the peer did not take the packet: other packets of the reqid
// are to be heard all the same.
func TestAcquireIsRaisedAnewInTime(t *testing.T) {
	ns := newNamespace(t)
	p := newPlaneWith(t, ns, Options{AcquireTimeout: 200 * time.Millisecond})
	outside(t, ns)
	set(t, p, lan(true))
	speak(t, ns)
	nextEvent[ipsec.Acquire](t, p)
	time.Sleep(300 * time.Millisecond)
	speak(t, ns)
	nextEvent[ipsec.Acquire](t, p)
}

// The kernel keeps a killed gateway's wish for an SA for half a minute.
func TestTheNextRunHearsWhatTheLastWasAsked(t *testing.T) {
	ns := newNamespace(t)
	killed := newPlane(t, ns)
	outside(t, ns)
	set(t, killed, lan(true))
	speak(t, ns)
	nextEvent[ipsec.Acquire](t, killed)
	if err := killed.Close(); err != nil { // leaves the policies, and what waits
		t.Fatal(err)
	}
	// What waited is removed, but the kernel may ask again at once for the packet
	// that it holds: one of the two is heard.
	p := newPlane(t, ns)
	set(t, p, lan(true))
	speak(t, ns)
	nextEvent[ipsec.Acquire](t, p)
}
