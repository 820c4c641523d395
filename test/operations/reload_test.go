package operations

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

type reloadReport struct {
	DryRun  bool `json:"dry_run"`
	Changes []change
}

type change struct {
	Kind, Name, Action, Effect string
	Keys                       []string
}

// changed are the changes other than none.
func (r reloadReport) changed() []change {
	return slices.DeleteFunc(slices.Clone(r.Changes), func(c change) bool { return c.Action == "unchanged" })
}

func same(a, b []change) bool { return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b) }

// TestReload changes the configuration around a tunnel that carries traffic, in
// every way an operator does.
func TestReload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	gws := []*gateway{s.gwA, s.gwB}
	stay := through(net4in4)
	first := []conn{peers(nil, stay, through(net6in4))}
	for _, g := range gws {
		g.configure(nil, first...)
		g.start()
	}
	mustPing(t, s.hostA, net6in4.hostA, net6in4.hostB, 1)
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 1)
	untouched := s.gwA.onlySA("peer", "4in4")
	s.tap.arm()
	f := startFlow(t, s.hostA, net4in4.hostA, s.hostB, net4in4.hostB, 10*time.Millisecond, 100)

	// reload applies a configuration at both ends, after a rehearsal that must say
	// the same and do nothing.
	reload := func(what string, want []change, conns ...conn) {
		t.Helper()
		for _, g := range gws {
			g.configure(nil, conns...)
			before := g.status()
			rehearsal := ask[reloadReport](g, "reload", "--dry-run")
			if !rehearsal.DryRun || !same(rehearsal.changed(), want) {
				t.Errorf("%s: %s: the rehearsal says %+v, want %+v", g.name, what, rehearsal.changed(), want)
			}
			if after := g.status(); len(after.Connections) != len(before.Connections) {
				t.Errorf("%s: %s: the rehearsal has changed something", g.name, what)
			}
			report := ask[reloadReport](g, "reload")
			if report.DryRun || !same(report.changed(), want) {
				t.Errorf("%s: %s: the reload says %+v, want %+v", g.name, what, report.changed(), want)
			}
		}
		for _, g := range gws {
			sa := g.onlySA("peer", "4in4")
			if g == s.gwB {
				sa.In, sa.Out = sa.Out, sa.In
			}
			if sa.In.SPI != untouched.In.SPI || sa.Out.SPI != untouched.Out.SPI {
				t.Errorf("%s: %s: the tunnel that nobody touched has other SAs", g.name, what)
			}
		}
	}

	reload("nothing", nil, first...)

	more := conn{name: "more", a: outer6A, b: outer6B, tunnels: []tunnel{through(net4in6)}}
	reload("a connection more", []change{
		{Kind: "connection", Name: "more", Action: "added"}, {Kind: "tunnel", Name: "more/4in6", Action: "added"},
	}, append(first, more)...)
	mustPing(t, s.hostA, net4in6.hostA, net4in6.hostB, 2)

	reload("a tunnel more", []change{{Kind: "tunnel", Name: "peer/more", Action: "added"}},
		peers(nil, stay, through(net6in4), through(netMore)), more)
	mustPing(t, s.hostA, netMore.hostA, netMore.hostB, 2)

	reload("a connection less", []change{
		{Kind: "connection", Name: "more", Action: "removed"}, {Kind: "tunnel", Name: "more/4in6", Action: "removed"},
	}, peers(nil, stay, through(net6in4), through(netMore)))
	eventually(t, 5*time.Second, "end of the removed connection's SAs", func() bool {
		return !slices.ContainsFunc(append(s.gwA.sas(), s.gwB.sas()...), func(sa saEntry) bool { return sa.Connection == "more" })
	})

	other := s.gwA.onlySA("peer", "6in4")
	reload("a lifetime", []change{
		{Kind: "tunnel", Name: "peer/6in4", Action: "changed", Effect: "from the next SA on", Keys: []string{"lifetime"}},
	}, peers(nil, stay, through(net6in4, "lifetime: 2h"), through(netMore)))
	if now := s.gwA.onlySA("peer", "6in4"); now.In.SPI != other.In.SPI {
		t.Error("a new lifetime has replaced the SA")
	}

	narrow := through(net6in4, "lifetime: 2h")
	narrow.a = hostPrefix(net6in4.hostA)
	for i, g := range gws {
		key := []string{"local", "remote"}[i]
		g.configure(nil, peers(nil, stay, narrow, through(netMore)))
		want := []change{{Kind: "tunnel", Name: "peer/6in4", Action: "changed", Effect: "re-negotiates", Keys: []string{key}}}
		for _, args := range [][]string{{"reload", "--dry-run"}, {"reload"}} {
			if got := ask[reloadReport](g, args...).changed(); !same(got, want) {
				t.Errorf("%s: a selector: %v says %+v, want %+v", g.name, args, got, want)
			}
		}
	}
	mustPing(t, s.hostA, net6in4.hostA, net6in4.hostB, 3)
	if now := s.gwA.onlySA("peer", "6in4"); now.In.SPI == other.In.SPI {
		t.Error("the SA of the old selector is still there")
	}
	s.tap.mustBeTight(t, "while reloading")

	t.Run("broken file", func(t *testing.T) {
		was, err := os.ReadFile(s.gwA.conf)
		if err != nil {
			t.Fatal(err)
		}
		before := snapshot(t, s.gwA.ns)
		policies := s.gwA.do("policy", "list", "--json")
		broken := string(was) + "  oops: { remote: { address: 192.0.2.300, auth: psk, psk-file: psk } }\n"
		line := strings.Count(broken, "\n")
		s.gwA.write(broken)
		for _, args := range [][]string{{"reload"}, {"reload", "--dry-run"}, {"reload", "--json"}} {
			_, err := s.gwA.try(args...)
			if place := fmt.Sprintf("%s:%d:30", s.gwA.conf, line); err == nil || !strings.Contains(err.Error(), place) {
				t.Errorf("%v does not name the place %s: %v", args, place, err)
			}
		}
		s.gwA.signal(syscall.SIGHUP)
		eventually(t, 5*time.Second, "complaint in the log", func() bool {
			return strings.Contains(s.gwA.logText(), "configuration not reloaded")
		})
		sameSystem(t, "after a broken configuration", before, snapshot(t, s.gwA.ns))
		if s.gwA.do("policy", "list", "--json") != policies {
			t.Error("a broken configuration has changed the policies")
		}
		s.gwA.write(string(was))
	})

	t.Run("hangup", func(t *testing.T) {
		s.gwA.configure(nil, peers(nil, stay))
		s.gwA.signal(syscall.SIGHUP)
		eventually(t, 5*time.Second, "reload", func() bool { return len(s.gwA.status().Connections[0].Tunnels) == 1 })
	})
	f.mustBeWhole("the untouched tunnel")
	if now := s.gwA.onlySA("peer", "4in4"); now.In.SPI != untouched.In.SPI || now.Out.SPI != untouched.Out.SPI {
		t.Error("the tunnel that nobody touched has other SAs")
	}
}
