package diagnose

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/host"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

func TestTrace(t *testing.T) {
	tunnel := func(name, local, remote string, reqID uint32, acquire bool) ipsec.Policy {
		return ipsec.Policy{
			Name: name, Action: ipsec.Protect, Local: sel(local), Remote: sel(remote), ReqID: reqID, Protocol: ipsec.ESP,
			Acquire: acquire, Connection: strings.Split(name, "/")[0],
		}
	}
	policies := []ipsec.Policy{
		tunnel("site/lan", "10.1.0.0/16", "10.2.0.0/16", 1, true),
		tunnel("site/down", "10.1.0.0/16", "10.3.0.0/16", 2, true),
		tunnel("site/manual", "10.1.0.0/16", "10.4.0.0/16", 3, false),
		tunnel("site/narrowed", "10.1.0.0/16", "10.6.0.0/16", 4, true),
		{Name: "stay", Action: ipsec.Bypass, Local: sel("10.1.0.0/16"), Remote: sel("10.2.9.0/24"), Priority: 10},
		{Name: "nothing-else", Local: sel("10.1.0.0/16"), Remote: sel("10.5.0.0/16"), Priority: -10},
		{Name: "by-hand", Action: ipsec.Protect, Local: sel("10.1.0.0/16"), Remote: sel("10.8.0.0/16"), ReqID: 9, Protocol: ipsec.ESP},
	}
	gcm := suite.DefaultESP()[0].First(ipsec.TypeEncr)
	sa := func(d ipsec.Direction, reqID uint32, remoteTS string, packets uint64) control.SA {
		return control.SA{Algorithms: "aes256gcm16", SAStatus: ipsec.SAStatus{
			ID: ipsec.SAID{Direction: d, Protocol: ipsec.ESP, SPI: 0xc0ffee00 + ipsec.SPI(reqID)*2 + ipsec.SPI(d)}, ReqID: reqID, Encr: gcm,
			LocalTS: sel("10.1.0.0/16"), RemoteTS: sel(remoteTS), Remote: netip.AddrPortFrom(rightAddr, 4500), Encap: true,
			Packets: packets, Added: testNow.Add(-time.Minute), Used: testNow.Add(-3 * time.Second),
		}}
	}
	g := Gateway{
		Time: testNow, Policies: policies, Counters: map[string]uint64{"no-policy": 12, "out-packets": 99},
		SAs: []control.SA{sa(ipsec.In, 1, "10.2.0.0/16", 0), sa(ipsec.Out, 1, "10.2.0.0/16", 5), sa(ipsec.Out, 4, "10.6.1.0/24", 0)},
		Route: func(_, dst netip.Addr, mark uint32) (host.Way, error) {
			switch {
			case mark != 0:
				return host.Way{Device: "wan", Kind: "unicast", MTU: 1500}, nil
			case dst == netip.MustParseAddr("198.51.100.9"):
				return host.Way{Device: "wan", Kind: "unicast", Table: 254, Via: leftAddr}, nil
			case dst == netip.MustParseAddr("10.1.0.1"):
				return host.Way{Kind: "local", Table: 255}, nil
			case dst == netip.MustParseAddr("203.0.113.9"):
				return host.Way{Kind: "unreachable"}, nil
			default:
				return host.Way{Device: "caponier0", Captured: true, Kind: "unicast", Table: host.TableProtect, MTU: 1400}, nil
			}
		},
	}
	for _, test := range []struct {
		src, dst string
		verdict  control.Verdict
		passes   bool
		counter  string
		says     []string
	}{
		{"10.1.0.7", "10.2.0.9", control.Protected, true, "out-packets", []string{
			"table 220 sends it to caponier0", "site/lan (10.1.0.0/16 <-> 10.2.0.0/16), protect", "the only one that matches",
			"c0ffee03 to 198.51.100.1:4500, aes256gcm16", "last used 3s ago", "packets of up to 1400 octets pass", "1438 would fit wan",
			"5 packets left, and none ever came back: caponier why site", "ESP in UDP to 198.51.100.1:4500",
		}},
		{"10.1.0.7", "10.2.9.9", control.Bypassed, true, "bypass-packets", []string{"stay", "before site/lan"}},
		{"10.1.0.7", "10.3.0.9", control.Held, false, "hold-timeout", []string{"site/down has none", "caponier connect site/down"}},
		{"10.1.0.7", "10.4.0.9", control.DroppedNoSA, false, "no-sa", []string{"does not start by itself"}},
		{"10.1.0.7", "10.8.0.9", control.DroppedNoSA, false, "no-sa", []string{"nobody asks for SAs", "caponier sa add, with reqid 9"}},
		{"10.1.0.7", "10.5.0.9", control.DroppedPolicy, false, "policy-discard", []string{"nothing-else discards it"}},
		{"10.1.0.7", "10.6.2.9", control.Held, false, "hold-timeout", []string{"none of whose selectors cover it: the peer has narrowed them"}},
		{"10.9.0.7", "10.2.0.9", control.DroppedNone, false, "no-policy", []string{"no policy matches; near: site/lan", "add 10.9.0.7 to local"}},
		{"10.1.0.7", "198.51.100.9", control.PastGateway, true, "", []string{"table 254 sends it to wan via 192.0.2.1, past the data plane"}},
		{"10.1.0.7", "10.1.0.1", control.ToGateway, true, "", nil},
		{"10.1.0.7", "203.0.113.9", control.Unrouted, false, "", []string{"refuses it: unreachable"}},
		{"10.2.0.9", "10.1.0.7", control.ArrivesInside, true, "in-packets", []string{"comes from behind the peer", "c0ffee02"}},
		{"10.3.0.9", "10.1.0.7", control.ArrivesNowhere, false, "sa-not-found", []string{"no inbound SA of site/down"}},
	} {
		f, err := control.ParseFlow(test.src, test.dst, "", "")
		if err != nil {
			t.Fatal(err)
		}
		got, err := Trace(g, f)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := got.Text(&text, control.Style{}); err != nil {
			t.Fatal(err)
		}
		if got.Verdict != test.verdict || got.Passes != test.passes || got.Counter != test.counter || got.Count != g.Counters[test.counter] {
			t.Errorf("%s -> %s: %+v", test.src, test.dst, got)
		}
		for _, want := range test.says {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s -> %s: %q is missing in:\n%s", test.src, test.dst, want, text.String())
			}
		}
	}

	// A path that is too narrow, a policy that a route of the system overtakes, and
	// a peer without a route.
	narrow := g
	narrow.Route = func(_, _ netip.Addr, mark uint32) (host.Way, error) {
		if mark != 0 {
			return host.Way{Device: "wan", Kind: "unicast", MTU: 1280}, nil
		}
		return host.Way{Device: "caponier0", Captured: true, Kind: "unicast", MTU: 1400}, nil
	}
	past := g
	past.Route = func(netip.Addr, netip.Addr, uint32) (host.Way, error) {
		return host.Way{Device: "wan", Kind: "unicast", Table: 254}, nil
	}
	lost := g
	lost.Route = func(_, _ netip.Addr, mark uint32) (host.Way, error) {
		if mark != 0 {
			return host.Way{Kind: "none"}, nil
		}
		return host.Way{Device: "caponier0", Captured: true, Kind: "unicast", MTU: 1400}, nil
	}
	// What the SA knows of its path counts before what the route says.
	told := narrow
	told.SAs = slices.Clone(g.SAs)
	for i := range told.SAs {
		told.SAs[i].PathMTU, told.SAs[i].InnerMTU, told.SAs[i].PathMTUUntil = 1180, 1111, time.Now()
	}
	f, _ := control.ParseFlow("10.1.0.7", "10.2.0.9", "tcp", "443")
	for _, test := range []struct {
		g    Gateway
		says string
	}{
		{narrow, "takes packets of 1400 octets, and only 1218 fit the way by wan (MTU 1280)"},
		{told, "takes packets of 1400 octets, and only 1111 fit the way by wan (MTU 1180, which a router on the way has told)"},
		{past, "comes before the gateway's"},
		{lost, "there is no route to the peer 198.51.100.1: none"},
	} {
		got, err := Trace(test.g, f)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := got.Text(&text, control.Style{}); err != nil || !strings.Contains(text.String(), test.says) {
			t.Errorf("%q is missing in:\n%s", test.says, text.String())
		}
	}
}

// The length that trace tells is the one at which a sealed packet still fits.
func TestMaxInner(t *testing.T) {
	for _, test := range []struct {
		words  string
		remote string
		encap  bool
		want   int
	}{
		{"aes256gcm16", "192.0.2.1:4500", true, 1438},   // 1500-20-8-8-8-16 = 1440, less 2
		{"aes256gcm16", "192.0.2.1:0", false, 1446},     // 1448, less 2
		{"aes256-sha256", "192.0.2.1:0", false, 1438},   // 1500-20-8-16-16 = 1440, less 2
		{"aes256gcm16", "[2001:db8::1]:0", false, 1426}, // 1428, less 2
	} {
		p := espWords(test.words)[0]
		sa := &control.SA{SAStatus: ipsec.SAStatus{
			Encr: p.First(ipsec.TypeEncr), Integ: p.First(ipsec.TypeInteg), Remote: netip.MustParseAddrPort(test.remote), Encap: test.encap,
		}}
		if got, err := maxInner(1500, sa); err != nil || got != test.want {
			t.Errorf("%+v: %d, %v", test, got, err)
		}
	}
}
