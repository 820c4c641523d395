package spd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

func sel(t testing.TB, text string) ipsec.Selector {
	t.Helper()
	s, err := ipsec.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func policy(t testing.TB, name string, priority int32, local, remote string) ipsec.Policy {
	t.Helper()
	return ipsec.Policy{
		Name: name, Action: ipsec.Protect, ReqID: 1, Priority: priority,
		Local: []ipsec.Selector{sel(t, local)}, Remote: []ipsec.Selector{sel(t, remote)},
	}
}

func compile(t testing.TB, policies ...ipsec.Policy) *Table {
	t.Helper()
	table, err := Compile(policies)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func flow(src, dst string, protocol uint8, srcPort, dstPort uint16) *packet.Info {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	p := &packet.Info{Src: s, Dst: d, Protocol: protocol, SrcPort: srcPort, DstPort: dstPort, HasPorts: true, Version: 4}
	if s.Is6() {
		p.Version = 6
	}
	return p
}

func name(e *Entry) string {
	if e == nil {
		return "none"
	}
	return e.Policy.Name
}

func TestLookup(t *testing.T) {
	table := compile(t,
		policy(t, "wide", 0, "10.1.0.0/16", "10.0.0.0/8"),
		policy(t, "narrow", 0, "10.1.0.0/16", "10.2.0.0/16"),
		policy(t, "same as narrow", 0, "10.1.0.0/16", "10.2.0.0/16"),
		policy(t, "web", 0, "10.1.0.0/16", "10.2.0.0/16:tcp/80"),
		policy(t, "tcp", 0, "10.1.0.0/16", "10.2.0.0/16:tcp"),
		policy(t, "first", 5, "10.1.9.0/24", "0.0.0.0/0"),
		policy(t, "last", -5, "10.1.0.0/16", "10.3.0.1/32"),
		policy(t, "range", 0, "10.1.0.0/16", "172.16.0.3-172.16.0.9"),
		policy(t, "six", 0, "2001:db8:1::/48", "2001:db8:2::/48"),
		policy(t, "six, UDP", 0, "2001:db8:1::/48", "[2001:db8:4::]/48:udp"),
		policy(t, "six, others", -1, "2001:db8:1::/48", "2001:db8:4::/48"),
	)
	fragment := flow("10.1.0.1", "10.2.0.1", 6, 0, 0)
	fragment.HasPorts = false
	udp := flow("10.1.0.1", "10.2.0.1", 17, 0, 0)
	udp.HasPorts, udp.FragmentOffset = false, 8
	headed := flow("2001:db8:1::1", "2001:db8:4::1", packet.ProtocolDestination, 0, 0)
	headed.HasPorts, headed.FragmentOffset = false, 8
	tests := []struct {
		what string
		d    ipsec.Direction
		p    *packet.Info
		want string
	}{
		{"more specific, then earlier", ipsec.Out, flow("10.1.0.1", "10.2.0.1", 17, 1, 2), "narrow"},
		{"the other way", ipsec.In, flow("10.2.0.1", "10.1.0.1", 17, 1, 2), "narrow"},
		{"wrong way", ipsec.In, flow("10.1.0.1", "10.2.0.1", 17, 1, 2), "none"},
		{"port", ipsec.Out, flow("10.1.0.1", "10.2.0.1", 6, 9999, 80), "web"},
		{"port, inbound", ipsec.In, flow("10.2.0.1", "10.1.0.1", 6, 80, 9999), "web"},
		{"other port", ipsec.Out, flow("10.1.0.1", "10.2.0.1", 6, 80, 81), "tcp"},
		{"fragment that may be of web or of tcp", ipsec.Out, fragment, "none"},
		{"fragment of UDP, which has no rule with ports", ipsec.Out, udp, "narrow"},
		{"fragment that begins with some header", ipsec.Out, headed, "none"},
		{"outside of narrow", ipsec.Out, flow("10.1.0.1", "10.4.0.1", 6, 1, 1), "wide"},
		{"priority before specific", ipsec.Out, flow("10.1.9.1", "10.2.0.1", 6, 1, 80), "first"},
		{"low priority though specific", ipsec.Out, flow("10.1.0.1", "10.3.0.1", 6, 1, 1), "wide"},
		{"range", ipsec.Out, flow("10.1.0.1", "172.16.0.9", 6, 1, 1), "range"},
		{"beside range", ipsec.Out, flow("10.1.0.1", "172.16.0.10", 6, 1, 1), "none"},
		{"not local", ipsec.Out, flow("10.5.0.1", "10.2.0.1", 6, 1, 1), "none"},
		{"IPv6", ipsec.Out, flow("2001:db8:1::1", "2001:db8:2::1", 6, 1, 1), "six"},
		{"other IPv6", ipsec.Out, flow("2001:db8:1::1", "2001:db8:3::1", 6, 1, 1), "none"},
		{"malformed", ipsec.Out, &packet.Info{}, "none"},
	}
	for _, tt := range tests {
		if got := name(table.Lookup(tt.d, tt.p)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
	if e := (&Table{}).Lookup(ipsec.Out, flow("10.1.0.1", "10.2.0.1", 6, 1, 1)); e != nil {
		t.Errorf("the zero table finds %s", name(e))
	}
	for i, e := range table.Entries() {
		if e.Index != i {
			t.Errorf("entry %d has index %d", i, e.Index)
		}
	}
}

// reference looks through all policies, by the words of ipsec.Policy.
func reference(policies []ipsec.Policy, d ipsec.Direction, p *packet.Info) string {
	local, localPort, remote, remotePort := p.Src, p.SrcPort, p.Dst, p.DstPort
	if d == ipsec.In {
		local, localPort, remote, remotePort = p.Dst, p.DstPort, p.Src, p.SrcPort
	}
	var best *rule
	for i := range policies {
		e := &Entry{Policy: policies[i], Index: i}
		for _, l := range policies[i].Local {
			for _, r := range policies[i].Remote {
				if !p.HasPorts { // whatever they are
					localPort, remotePort = l.FirstPort, r.FirstPort
				}
				if l.Contains(local, p.Protocol, localPort, true) && r.Contains(remote, p.Protocol, remotePort, true) {
					this := rule{entry: e, local: l, remote: r}
					if best == nil || precedence(this, *best) < 0 {
						best = &this
					}
				}
			}
		}
	}
	if best == nil || !p.HasPorts && (!best.local.AnyPort() || !best.remote.AnyPort()) {
		return "none"
	}
	return best.entry.Policy.Name
}

// randomAddr draws from a small world, so that things meet.
func randomAddr(rng *rand.Rand, six bool) netip.Addr {
	if !six {
		return netip.AddrFrom4([4]byte{10, byte(rng.IntN(3)), byte(rng.IntN(3)), byte(rng.IntN(20))})
	}
	var b [16]byte
	binary.BigEndian.PutUint32(b[:], 0x20010db8)
	b[7], b[15] = byte(rng.IntN(3)), byte(rng.IntN(20))
	return netip.AddrFrom16(b)
}

func randomSelector(rng *rand.Rand, six bool) ipsec.Selector {
	a, b := randomAddr(rng, six), randomAddr(rng, six)
	var s ipsec.Selector
	switch rng.IntN(4) {
	case 0:
		if b.Less(a) {
			a, b = b, a
		}
		s = ipsec.Selector{First: a, Last: b, LastPort: 0xffff}
	case 1:
		s = ipsec.FromPrefix(netip.PrefixFrom(a, a.BitLen()))
	default:
		s = ipsec.FromPrefix(netip.PrefixFrom(a, rng.IntN(a.BitLen()+1)))
	}
	if rng.IntN(3) == 0 {
		s.Protocol = []uint8{6, 17}[rng.IntN(2)]
		if rng.IntN(2) == 0 {
			s.FirstPort = uint16(rng.IntN(4))
			s.LastPort = s.FirstPort + uint16(rng.IntN(3))
		}
	}
	return s
}

func TestLookupAgreesWithLinearSearch(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	found := 0
	for round := range 150 {
		var policies []ipsec.Policy
		crowded := round%3 == 0 // one remote prefix, many locals
		for i := range 1 + rng.IntN(120) {
			six := rng.IntN(3) == 0
			p := ipsec.Policy{Name: fmt.Sprint(i), Priority: int32(rng.IntN(3))}
			for range 1 + rng.IntN(3) {
				p.Local = append(p.Local, randomSelector(rng, six))
				r := randomSelector(rng, six)
				if crowded {
					r = ipsec.FromPrefix(netip.PrefixFrom(r.First, 0))
				}
				p.Remote = append(p.Remote, r)
			}
			policies = append(policies, p)
		}
		table := compile(t, policies...)
		for range 200 {
			six := rng.IntN(3) == 0
			p := &packet.Info{
				Version: 4, Src: randomAddr(rng, six), Dst: randomAddr(rng, six), Protocol: []uint8{6, 17, 1}[rng.IntN(3)],
				SrcPort: uint16(rng.IntN(6)), DstPort: uint16(rng.IntN(6)), HasPorts: rng.IntN(5) > 0,
			}
			d := ipsec.Direction(rng.IntN(2))
			got, want := name(table.Lookup(d, p)), reference(policies, d, p)
			if got != want {
				t.Fatalf("round %d: %s %+v: %s, want %s", round, d, p, got, want)
			}
			if want != "none" {
				found++
			}
			matching, near := table.Explain(d, p)
			switch {
			case want == "none" && len(matching) > 0, want != "none" && (len(matching) == 0 || name(matching[0]) != want || near != nil):
				t.Fatalf("round %d: %s %+v: explained by %v, near %v; Lookup says %s", round, d, p, matching, near, want)
			}
		}
	}
	if found < 5000 {
		t.Errorf("only %d of 30000 lookups found anything", found)
	}
}

func TestExplain(t *testing.T) {
	table := compile(t,
		policy(t, "wide", 0, "10.1.0.0/16", "10.0.0.0/8"),
		policy(t, "narrow", 0, "10.1.0.0/16", "10.2.0.0/16"),
		policy(t, "high", 10, "10.1.0.0/16", "0.0.0.0/0"),
		policy(t, "elsewhere", 0, "172.16.0.0/16", "172.17.0.0/16"))
	names := func(list []*Entry) string {
		var out string
		for _, e := range list {
			out += e.Policy.Name + " "
		}
		return out
	}
	for _, test := range []struct{ src, dst, matching, near string }{
		{"10.1.0.9", "10.2.0.9", "high narrow wide ", ""},
		{"10.1.0.9", "10.3.0.9", "high wide ", ""},
		{"10.9.0.9", "10.2.0.9", "", "wide narrow high "},
		{"192.0.2.1", "172.17.0.1", "", "high elsewhere "},
		{"2001:db8::1", "2001:db8::2", "", ""},
	} {
		p := flow(test.src, test.dst, 6, 1, 2)
		matching, near := table.Explain(ipsec.Out, p)
		if names(matching) != test.matching || names(near) != test.near {
			t.Errorf("%s to %s: %q near %q", test.src, test.dst, names(matching), names(near))
		}
	}
	if m, n := table.Explain(ipsec.Out, &packet.Info{}); m != nil || n != nil {
		t.Error("a malformed packet is explained")
	}
}

func TestCompileRefuses(t *testing.T) {
	good := policy(t, "a", 0, "10.1.0.0/16", "10.2.0.0/16")
	change := func(f func(*ipsec.Policy)) ipsec.Policy {
		p := good
		p.Local, p.Remote = slices.Clone(p.Local), slices.Clone(p.Remote)
		f(&p)
		return p
	}
	tests := []struct {
		name     string
		policies []ipsec.Policy
		want     error
	}{
		{"same name", []ipsec.Policy{good, good}, ErrDuplicate},
		{"no name", []ipsec.Policy{change(func(p *ipsec.Policy) { p.Name = "" })}, ErrNoName},
		{"no reqid", []ipsec.Policy{change(func(p *ipsec.Policy) { p.ReqID = 0 })}, ErrReqID},
		{"zero selector", []ipsec.Policy{change(func(p *ipsec.Policy) { p.Remote[0] = ipsec.Selector{} })}, ErrSelector},
		{"ports in the wrong order", []ipsec.Policy{change(func(p *ipsec.Policy) { p.Remote[0].FirstPort, p.Remote[0].LastPort = 2, 1 })}, ErrSelector},
		{"families", []ipsec.Policy{change(func(p *ipsec.Policy) { p.Remote[0] = sel(t, "2001:db8::/32") })}, ErrFamily},
		{"no selectors", []ipsec.Policy{change(func(p *ipsec.Policy) { p.Local = nil })}, ErrFamily},
		{"too many", []ipsec.Policy{change(func(p *ipsec.Policy) {
			p.Local, p.Remote = slices.Repeat(p.Local, 65), slices.Repeat(p.Remote, 64)
		})}, ErrPairs},
	}
	for _, tt := range tests {
		if _, err := Compile(tt.policies); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

func TestTableKeepsNothingOfTheCaller(t *testing.T) {
	policies := []ipsec.Policy{policy(t, "a", 0, "10.1.0.0/16", "10.2.0.0/16")}
	table := compile(t, policies...)
	policies[0].Remote[0] = sel(t, "10.9.0.0/16")
	table.Policies()[0].Remote[0] = sel(t, "10.9.0.0/16")
	if got := table.Policies()[0].Remote[0].String(); got != "10.2.0.0/16" {
		t.Errorf("the table changed to %s", got)
	}
}

func TestCapture(t *testing.T) {
	bypass := policy(t, "b", 0, "10.1.0.0/16", "192.0.2.0/24")
	bypass.Action = ipsec.Bypass
	discard := policy(t, "d", 0, "10.1.0.0/16", "0.0.0.0/0")
	discard.Action = ipsec.Discard
	table := compile(t, policy(t, "a", 0, "10.1.0.0/16", "10.2.0.0/16"), bypass, discard,
		policy(t, "r", 0, "10.1.0.0/16", "10.3.0.1-10.3.0.2"), policy(t, "again", 0, "10.7.0.0/16", "10.2.0.0/16"),
		policy(t, "six", 0, "::/0", "2001:db8::/32"))
	got := fmt.Sprint(table.Capture())
	if want := "[0.0.0.0/0 10.2.0.0/16 10.3.0.1/32 10.3.0.2/32 2001:db8::/32]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestBundled(t *testing.T) {
	anywhere := []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))}
	protect := func(name string, reqID uint32, protocol ipsec.Protocol, withAH bool) ipsec.Policy {
		return ipsec.Policy{
			Name: name, Action: ipsec.Protect, ReqID: reqID, Protocol: protocol, WithAH: withAH, Local: anywhere, Remote: anywhere,
		}
	}
	table := compile(t, protect("bundle", 1, ipsec.ESP, true), protect("too", 1, ipsec.ESP, true), protect("esp", 2, ipsec.ESP, false))
	for reqID, want := range map[uint32]bool{0: false, 1: true, 2: false, 3: false} {
		if table.Bundled(reqID) != want {
			t.Errorf("reqid %d: bundled is %t", reqID, !want)
		}
	}
	if new(Table).Bundled(1) {
		t.Error("an empty table has a bundle")
	}
	for _, list := range [][]ipsec.Policy{
		{protect("one", 1, ipsec.ESP, true), protect("other", 1, ipsec.ESP, false)},
		{protect("ah in ah", 1, ipsec.AH, true)},
	} {
		if _, err := Compile(list); !errors.Is(err, ErrBundle) {
			t.Errorf("%s: %v", list[0].Name, err)
		}
	}
}

// many makes n policies to n remote networks, or from n local ones to anywhere.
func many(n int, byLocal bool) []ipsec.Policy {
	all := make([]ipsec.Policy, n)
	for i := range all {
		one := []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))}
		wide := []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))}
		all[i] = ipsec.Policy{Name: fmt.Sprint(i), Local: wide, Remote: one}
		if byLocal {
			all[i].Local, all[i].Remote = one, wide
		}
	}
	return all
}

func TestNoAllocs(t *testing.T) {
	for _, byLocal := range []bool{false, true} {
		table := compile(t, many(100, byLocal)...)
		p := flow("10.0.7.1", "10.0.9.1", 6, 1, 1)
		if n := testing.AllocsPerRun(100, func() {
			if table.Lookup(ipsec.Out, p) == nil || table.Lookup(ipsec.In, p) == nil {
				t.Fatal("not found")
			}
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, byLocal := range []bool{false, true} {
		for _, n := range []int{1, 100, 10_000} {
			b.Run(fmt.Sprintf("policies=%d/local=%t", n, byLocal), func(b *testing.B) {
				table := compile(b, many(n, byLocal)...)
				p := flow("10.0.0.1", "10.0.0.1", 6, 1, 1)
				for b.Loop() {
					if table.Lookup(ipsec.Out, p) == nil {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}
