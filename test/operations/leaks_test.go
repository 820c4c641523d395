package operations

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite docs/leaks.md")

// leaksFile is the report that TestLeaks makes.
const leaksFile = "../../docs/leaks.md"

// leakRow is what one event showed.
type leakRow struct {
	event   string
	passing bool // traffic passes at the end of the event
	sent    int  // by the hosts, meanwhile
	crossed crossing
}

// outage is a site whose hosts talk through everything that happens to it.
type outage struct {
	*site
	flows []*flow
	rows  []leakRow
}

func (o *outage) sent() (n int) {
	for _, f := range o.flows {
		n += f.tally().sent
	}
	return n
}

func (o *outage) answered() (n int) {
	for _, f := range o.flows {
		c := f.tally()
		n += c.sent - c.lost
	}
	return n
}

// event lets something happen, waits until traffic passes again, or sees that none
// does, and counts what crossed the wire meanwhile.
func (o *outage) event(name string, passing bool, happen func()) {
	o.t.Helper()
	sent, before := o.sent(), o.tap.seen()
	happen()
	if passing {
		for _, f := range o.flows {
			f.passes(20*time.Second, "after "+name)
		}
	}
	time.Sleep(400 * time.Millisecond)
	if !passing {
		answered := o.answered()
		time.Sleep(400 * time.Millisecond)
		if n := o.answered() - answered; n != 0 {
			o.t.Errorf("%s: %d answers come through", name, n)
		}
	}
	o.tap.mustBeTight(o.t, name)
	o.rows = append(o.rows, leakRow{name, passing, o.sent() - sent, o.tap.seen().since(before)})
}

// waysInClear are the ways by which inner packets would leave a gateway if it did
// not hold them: routes to the other side, which a link takes along when it goes
// down, and the default route.
func waysInClear(g *gateway, peer4, peer6 netip.Addr) error {
	var errs []error
	for _, n := range subnets {
		to, via := n.B, peer4
		if g.name == "gwB" {
			to = n.A
		}
		if to.Addr().Is6() {
			via = peer6
		}
		errs = append(errs, g.ns.IP("route", "replace", to.String(), "via", via.String()))
	}
	return errors.Join(append(errs,
		g.ns.IP("route", "replace", "default", "via", peer4.String()),
		g.ns.IP("-6", "route", "replace", "default", "via", peer6.String()))...)
}

// TestLeaks lets happen to a gateway what happens to gateways, while hosts on both
// sides send, and every way out in clear is open. With -update it writes the
// report.
func TestLeaks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	o := &outage{site: s}
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	open := func() {
		t.Helper()
		must(waysInClear(s.gwA, outer4B, outer6B), waysInClear(s.gwB, outer4A, outer6A))
	}
	open()
	for _, n := range []subnet{net4in4, net6in4} {
		o.flows = append(o.flows,
			startFlow(t, s.hostA, n.hostA, s.hostB, n.hostB, 10*time.Millisecond, 100),
			startFlow(t, s.hostB, n.hostB, s.hostA, n.hostA, 10*time.Millisecond, 100))
	}
	for _, f := range o.flows {
		f.passes(5*time.Second, "without gateways")
	}
	if s.tap.inClear() == 0 {
		t.Fatal("the tap does not see packets in clear")
	}

	tunnels := func(keys ...string) conn {
		return peers([]string{"dpd: 3s"}, through(net4in4, keys...), through(net6in4, keys...))
	}
	s.gwA.configure(nil, tunnels())
	s.gwB.configure(nil, tunnels())
	s.gwA.start()
	s.gwB.start()
	s.gwB.kill() // it protects all the same
	time.Sleep(100 * time.Millisecond)
	s.tap.arm()
	o.event("before the tunnel is up, the peer being dead", false, func() {})
	o.event("the tunnel comes up", true, func() { s.gwB.start() })
	o.event("a reload that changes nothing", true, func() { s.gwA.do("reload") })
	o.event("a reload that negotiates anew", true, func() {
		for _, g := range []*gateway{s.gwA, s.gwB} {
			g.configure(nil, peers([]string{"dpd: 3s", "encapsulation: never"}, through(net4in4), through(net6in4)))
			g.do("reload")
		}
	})
	o.event("a broken configuration is refused", true, func() {
		s.gwA.write("connections: [")
		if _, err := s.gwA.try("reload"); err == nil {
			t.Error("it is not refused")
		}
		s.gwA.configure(nil, tunnels())
		s.gwB.configure(nil, tunnels())
		s.gwA.do("reload")
		s.gwB.do("reload")
	})
	o.event("a rekeying of everything", true, func() { s.gwA.do("rekey", "peer") })
	o.event("the operator disconnects", false, func() {
		s.gwA.do("disconnect", "peer")
		s.gwB.do("disconnect", "peer")
	})
	o.event("the operator connects", true, func() {
		s.gwB.do("connect", "peer")
		s.gwA.do("connect", "peer")
	})
	o.event("the peer refuses to rekey, until the SA's end", false, func() {
		// The peer wants other algorithms from now on.
		s.gwA.configure(nil, tunnels("lifetime: 6s", "proposals: aes128gcm16"))
		s.gwA.do("reload")
		s.gwB.configure(nil, tunnels("lifetime: 6s", "proposals: aes256gcm16"))
		s.gwB.do("reload")
		eventually(t, 20*time.Second, "end of the SAs that nobody replaces", func() bool { return len(s.gwA.sas()) == 0 && len(s.gwB.sas()) == 0 })
	})
	o.event("the peer agrees again", true, func() {
		for _, g := range []*gateway{s.gwA, s.gwB} {
			g.configure(nil, tunnels())
			g.do("reload")
		}
	})
	o.event("kill -9", false, s.gwA.kill)
	o.event("restart after kill -9", true, func() { s.gwA.start() })
	o.event("kill -9 of the peer", false, s.gwB.kill)
	o.event("restart of the peer", true, func() { s.gwB.start() })
	o.event("five kills during the start", false, func() {
		for i := range 5 {
			s.gwA.kill()
			s.gwA.launch()
			time.Sleep(time.Duration(i) * 15 * time.Millisecond)
		}
		s.gwA.kill()
	})
	o.event("restart after that", true, func() { s.gwA.start() })
	o.event("stop (shutdown: block)", false, s.gwA.stop)
	o.event("start after the stop", true, func() { s.gwA.start() })

	link := func(dev, state string) { must(s.gwA.ns.IP("link", "set", dev, state)) }
	addrs := func(dev string) {
		list := map[string][]netip.Prefix{outside: {netip.PrefixFrom(outer6A, 64)}}[dev]
		if dev == inside {
			for _, n := range subnets {
				if n.A.Addr().Is6() {
					list = append(list, netip.PrefixFrom(nth(n.A, 1), n.A.Bits()))
				}
			}
		}
		for _, a := range list {
			must(s.gwA.ns.IP("addr", "replace", a.String(), "dev", dev, "nodad"))
		}
	}
	o.event("the outside link goes down", false, func() { link(outside, "down") })
	o.event("the outside link comes up", true, func() { link(outside, "up"); addrs(outside); open() })
	o.event("the outside address is removed", false, func() { must(s.gwA.ns.IP("addr", "del", outer4A.String()+"/24", "dev", outside)) })
	o.event("the outside address is back", true, func() { must(s.gwA.ns.Addr(outside, netip.PrefixFrom(outer4A, 24))); open() })
	o.event("the inside link goes down", false, func() { link(inside, "down") })
	o.event("the inside link comes up", true, func() { link(inside, "up"); addrs(inside); open() })
	own := netip.PrefixFrom(nth(net4in4.A, 1), net4in4.A.Bits())
	o.event("an inside address is removed and comes back", true, func() {
		must(s.gwA.ns.IP("addr", "del", own.String(), "dev", inside))
		time.Sleep(time.Second)
		must(s.gwA.ns.Addr(inside, own))
	})
	o.event("five flaps of both links", true, func() {
		for range 5 {
			link(outside, "down")
			link(inside, "down")
			time.Sleep(50 * time.Millisecond)
			link(inside, "up")
			link(outside, "up")
			time.Sleep(50 * time.Millisecond)
		}
		addrs(outside)
		addrs(inside)
		open()
	})
	o.event("the TUN device is set down by somebody else", true, func() { link("caponier0", "down") })
	o.event("the peer is unplugged", false, func() { must(s.wire.IP("link", "set", "portb", "down")) })
	o.event("the peer is plugged in", true, func() { must(s.wire.IP("link", "set", "portb", "up")) })
	o.event("the peer stops answering, with its SAs", false, func() { s.gwB.signal(syscall.SIGSTOP) })
	o.event("the peer goes on", true, func() { s.gwB.signal(syscall.SIGCONT) })
	o.report()
}

// report writes docs/leaks.md, or compares its events with those of this run.
func (o *outage) report() {
	o.t.Helper()
	var b strings.Builder
	b.WriteString(leaksHead)
	total := leakRow{event: "**all**"}
	for _, r := range o.rows {
		total.sent += r.sent
		total.crossed.esp += r.crossed.esp
		total.crossed.ike += r.crossed.ike
		total.crossed.clear += r.crossed.clear
		total.crossed.other += r.crossed.other
		b.WriteString(r.line())
	}
	b.WriteString(total.line())
	if total.crossed.clear != 0 {
		o.t.Errorf("%d packets in clear", total.crossed.clear)
	}
	if *update {
		if err := os.WriteFile(leaksFile, []byte(b.String()), 0o644); err != nil {
			o.t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(leaksFile)
	if err != nil {
		o.t.Fatal(err)
	}
	if want, got := eventsOf(b.String()), eventsOf(string(have)); !slices.Equal(want, got) {
		o.t.Errorf("docs/leaks.md tells of other events than this test; make test-leaks rewrites it:\n%s\n%s", want, got)
	}
}

func (r leakRow) line() string {
	after := "blocked"
	if r.passing {
		after = "passes"
	}
	if strings.HasPrefix(r.event, "**") {
		after = ""
	}
	return fmt.Sprintf("| %s | %s | %d | %d | %d | %d | %d |\n", r.event, after, r.sent,
		r.crossed.esp, r.crossed.ike, r.crossed.other, r.crossed.clear)
}

var eventCell = regexp.MustCompile(`(?m)^\| ([^|]+) \| (passes|blocked) \|`)

func eventsOf(doc string) (events []string) {
	for _, m := range eventCell.FindAllStringSubmatch(doc, -1) {
		events = append(events, m[1])
	}
	return events
}

const leaksHead = `# Leaks

What crosses the outside link while things happen to a gateway. Two gateways stand on a switch, with a host behind each; the hosts
send packets of IPv4 and IPv6 to one another all the time, 400 in a second, and every way by which they could leave in clear is
open: routes to the other side, and default routes. A tap on the switch looks at every frame that a gateway sends. Without
gateways it sees all of the hosts' packets, which shows that it can.

"after" says whether traffic passes at the end of the event. Where it does not, the hosts' packets are refused or held; in the other
columns stand the packets that the hosts sent meanwhile, and those that were seen outside: ESP, IKE, others (ICMP about the outer
addresses, neighbour discovery), and inner packets in clear, of which there must be none.

Not in the table is what an operator asks for: with ` + "`shutdown: release`" + `, a stop gives traffic back to the routing table, in clear. Nor is
what another program does with the administrator's rights: rules and routes that it removes come back within a tenth of a second, as
the kernel announces the loss, and until then the way is open.

Generated by TestLeaks (` + "`make test-leaks`" + `); every run of ` + "`make test-system`" + ` repeats it and fails at the first packet in clear.

| event | after | sent by hosts | ESP | IKE | other | in clear |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
`
