package ike

import (
	"container/heap"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/dataplane"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/conf"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestCandidates(t *testing.T) {
	d := New(Options{Backend: dataplane.NewFake()})
	var conns []*v2.Connection
	for _, x := range []struct {
		name          string
		local, remote []netip.Prefix
	}{
		{"any", nil, nil},
		{"net", nil, prefixes("10.0.0.0/8", "198.51.100.0/24")},
		{"host", nil, prefixes("198.51.100.1/32")},
		{"elsewhere", prefixes("192.0.2.9/32"), nil},
		{"here", prefixes("192.0.2.1/32"), prefixes("2001:db8::/32", "198.51.0.0/16")},
	} {
		conns = append(conns, &v2.Connection{Name: x.name, LocalAddrs: x.local, RemoteAddrs: x.remote})
	}
	d.Apply(conns, nil)
	for _, x := range []struct {
		remote string
		want   []string
	}{
		{"198.51.100.1", []string{"host", "net", "here", "any"}},
		{"198.51.100.2", []string{"net", "here", "any"}},
		{"203.0.113.1", []string{"any"}},
		{"2001:db8::1", []string{"here", "any"}},
	} {
		var got []string
		for _, c := range d.candidates(leftAddr, netip.MustParseAddr(x.remote), speaksAny).All() {
			got = append(got, c.Name)
		}
		if len(got) != len(x.want) {
			t.Errorf("%s: %v, want %v", x.remote, got, x.want)
			continue
		}
		for i := range got {
			if got[i] != x.want[i] {
				t.Errorf("%s: %v, want %v", x.remote, got, x.want)
			}
		}
	}
}

// TestCandidatesAlike finds the same among many connections that allow the same
// addresses as one by one.
func TestCandidatesAlike(t *testing.T) {
	d := New(Options{Backend: dataplane.NewFake()})
	remotes := [][]netip.Prefix{
		nil, prefixes("192.0.2.1/32"), prefixes("192.0.2.1/32", "192.0.2.1/32"), prefixes("192.0.2.0/24"), prefixes("192.0.2.2/32", "192.0.2.1/32"),
	}
	var conns []*v2.Connection
	for i := range 60 {
		c := &v2.Connection{Name: fmt.Sprint(i), RemoteAddrs: remotes[i*7%len(remotes)]}
		if i%3 == 0 {
			c.GM = new(conf.GM)
		}
		conns = append(conns, c)
	}
	d.Apply(conns, nil)
	for _, remote := range []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "198.51.100.1"} {
		for want, speak := range []func(*v2.Connection) bool{
			speaksAny: func(*v2.Connection) bool { return true },
			speaksV2:  func(c *v2.Connection) bool { return c.GM == nil },
			speaksGM:  func(c *v2.Connection) bool { return c.GM != nil },
		} {
			a := netip.MustParseAddr(remote)
			var slow []string
			for _, length := range []int{32, 24, 0} {
				for _, c := range conns {
					if bits, ok := allows(c.RemoteAddrs, a); ok && bits == length && speak(c) {
						slow = append(slow, c.Name)
					}
				}
			}
			var got []string
			for _, c := range d.candidates(leftAddr, a, speaks(want)).All() {
				got = append(got, c.Name)
			}
			if diff := cmp.Diff(slow, got); diff != "" {
				t.Errorf("%s, %d: (-want +got)\n%s", remote, want, diff)
			}
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, x := range []struct {
		name          string
		local, remote []netip.Prefix
		wantLocal     string
		wantErr       error
	}{
		{"configured", prefixes("2001:db8::1/128", "192.0.2.1/32"), prefixes("198.51.100.1/32"), "192.0.2.1:500", nil},
		{"by the route", nil, prefixes("127.0.0.1/32"), "127.0.0.1:500", nil},
		{"of the wrong family", prefixes("2001:db8::1/128"), prefixes("127.0.0.1/32"), "127.0.0.1:500", nil},
		{"any", nil, nil, "", ErrNoAddress},
		{"a network", nil, prefixes("198.51.100.0/24"), "", ErrNoAddress},
	} {
		local, remote, err := endpoints(&v2.Connection{LocalAddrs: x.local, RemoteAddrs: x.remote})
		if !errors.Is(err, x.wantErr) {
			t.Errorf("%s: %v", x.name, err)
		}
		if err == nil && (local.String() != x.wantLocal || remote.Port() != 500) {
			t.Errorf("%s: from %s to %s", x.name, local, remote)
		}
	}
}

func TestSamePeer(t *testing.T) {
	peer := func(id, addr string) *v2.Connection {
		c := &v2.Connection{RemoteAddrs: prefixes(addr)}
		if id != "" {
			c.Remote.ID = fqdn(id)
		}
		return c
	}
	for _, x := range []struct {
		a, b *v2.Connection
		want bool
	}{
		{peer("a", "192.0.2.1/32"), peer("a", "192.0.2.2/32"), true},
		{peer("a", "192.0.2.1/32"), peer("b", "192.0.2.1/32"), false},
		{peer("", "192.0.2.1/32"), peer("b", "192.0.2.1/32"), true},
		{peer("", "192.0.2.1/32"), peer("", "192.0.2.2/32"), false},
	} {
		a, b := newConnection(x.a), newConnection(x.b)
		y := newDirectory([]*connection{a, b})
		for _, pair := range [][2]*connection{{a, b}, {b, a}} {
			got := false
			y.others(pair[0], func(o *connection) bool {
				got = got || o == pair[1]
				return true
			})
			if got != x.want {
				t.Errorf("%v %v and %v %v: %v", x.a.Remote.ID, x.a.RemoteAddrs, x.b.Remote.ID, x.b.RemoteAddrs, got)
			}
		}
	}
}

func TestDeadlines(t *testing.T) {
	sh := &shard{}
	base := time.Unix(0, 0)
	var all []*sa
	for i := range 50 {
		s := &sa{index: -1}
		all = append(all, s)
		sh.schedule(s, base.Add(time.Duration(i*7919%50)*time.Second))
	}
	sh.schedule(all[3], base.Add(-time.Second))
	sh.schedule(all[4], time.Time{})
	sh.schedule(all[4], time.Time{})
	if sh.queue[0] != all[3] || len(sh.queue) != 49 || all[4].index != -1 {
		t.Fatalf("queue of %d, first %v", len(sh.queue), sh.queue[0].deadline)
	}
	last := base.Add(-time.Minute)
	for len(sh.queue) > 0 {
		s := heap.Pop(&sh.queue).(*sa)
		if s.deadline.Before(last) || s.index != -1 {
			t.Fatalf("%v after %v", s.deadline, last)
		}
		last = s.deadline
	}
}

// Signatures beyond what the pool holds are refused, and hold nobody up.
func TestTooManySignatures(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		cl, cr := end("site", true), end("site", false)
		withCertificates(cl, cr, "ecdsa")
		l, r := n.gateway(t, leftAddr, []*v2.Connection{cl}), n.gateway(t, rightAddr, []*v2.Connection{cr})
		release := make(chan struct{})
		for range len(l.shards) + cap(l.authJobs) {
			l.authJobs <- func() { <-release }
		}
		synctest.Wait()
		err := l.Connect(t.Context(), cl.Name, "lan")
		if !errors.Is(err, errBusy) || code(err) != "authentication-failed" {
			t.Errorf("got %v", err)
		}
		close(release)
		synctest.Wait()
		l.connect(cl.Name, "lan")
		mustMirror(t, l, r, 1)
	})
}
