package kernel

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/spd"
)

func TestPortMasksCoverExactly(t *testing.T) {
	for _, r := range [][2]uint16{{0, 65535}, {80, 80}, {80, 81}, {1, 65535}, {0, 65534}, {1000, 2000}, {443, 8443}, {65535, 65535}} {
		masks := portMasks(r[0], r[1])
		if len(masks) > 30 {
			t.Errorf("%v becomes %d masks", r, len(masks))
		}
		for port := range 1 << 16 {
			matches := 0
			for _, m := range masks {
				if (uint16(port)^m.port)&m.mask == 0 {
					matches++
				}
			}
			in := uint16(port) >= r[0] && uint16(port) <= r[1]
			if in != (matches == 1) || matches > 1 {
				t.Fatalf("port %d of range %v matches %d masks", port, r, matches)
			}
		}
	}
}

// kernelMatches is what the kernel does with a selector
// (__xfrm4_selector_match, __xfrm6_selector_match).
func kernelMatches(s *xfrm.Selector, i *packet.Info) bool {
	return s.Src.Contains(i.Src) && s.Dst.Contains(i.Dst) && (s.Protocol == 0 || s.Protocol == i.Protocol) &&
		(s.SrcPort^i.SrcPort)&s.SrcMask == 0 && (s.DstPort^i.DstPort)&s.DstMask == 0
}

// kernelChoice is the policy that the kernel would take: the lowest priority,
// and among equals the first.
func kernelChoice(b *book, dir uint8, i *packet.Info) string {
	var best *claim
	for s, list := range b.slots {
		c := list[0]
		if s.dir == dir && kernelMatches(&s.sel, i) && (best == nil || c.before(best) < 0) {
			best = c
		}
	}
	if best == nil {
		return ""
	}
	return best.name
}

// What the kernel chooses is what package spd chooses, for random policies and
// random packets, in both directions.
func TestTheKernelChoosesAsTheSPDDoes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	selector := func() ipsec.Selector {
		a, b := r.IntN(16), r.IntN(16)
		s := ipsec.Selector{
			First: netip.AddrFrom4([4]byte{10, 0, 0, byte(min(a, b))}), Last: netip.AddrFrom4([4]byte{10, 0, 0, byte(max(a, b))}), LastPort: 65535,
		}
		if r.IntN(2) == 0 {
			s.Protocol = []uint8{6, 17}[r.IntN(2)]
			if r.IntN(2) == 0 {
				p, q := r.IntN(8), r.IntN(8)
				s.FirstPort, s.LastPort = uint16(min(p, q)), uint16(max(p, q))
			}
		}
		return s
	}
	ambiguous := 0
	for round := range 200 {
		var policies []ipsec.Policy
		for n := range 1 + r.IntN(5) {
			policies = append(policies, ipsec.Policy{
				Name: fmt.Sprint("p", n), Action: ipsec.Discard, Priority: int32(r.IntN(3) - 1),
				Local: []ipsec.Selector{selector()}, Remote: []ipsec.Selector{selector()},
			})
		}
		table, err := spd.Compile(policies)
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := compile(policies, func(uint32) []*ipsec.SA { return nil })
		if err != nil {
			t.Fatal(err)
		}
		for range 200 {
			info := packet.Info{
				Version: 4, Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(16))}), Dst: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(16))}),
				Protocol: []uint8{6, 17, 47}[r.IntN(3)],
			}
			if info.Protocol != 47 {
				info.HasPorts, info.SrcPort, info.DstPort = true, uint16(r.IntN(8)), uint16(r.IntN(8))
			}
			for d, dir := range map[ipsec.Direction]uint8{ipsec.Out: xfrm.DirOut, ipsec.In: xfrm.DirForward} {
				want := ""
				if e := table.Lookup(d, &info); e != nil {
					want = e.Policy.Name
				}
				got := kernelChoice(b, dir, &info)
				if got == want {
					continue
				}
				// The kernel's number rounds what two selectors cover.
				if near(policies, got, want) {
					ambiguous++
					continue
				}
				t.Fatalf("round %d, %v: %+v: the kernel takes %q, the SPD %q of %+v", round, d, info, got, want, policies)
			}
		}
	}
	if ambiguous > 200 {
		t.Errorf("%d choices were too close for the kernel's priorities", ambiguous)
	}
}

// near reports whether two policies cover about as much as each other.
func near(policies []ipsec.Policy, a, b string) bool {
	find := func(name string) *ipsec.Policy {
		i := slices.IndexFunc(policies, func(p ipsec.Policy) bool { return p.Name == name })
		if i < 0 {
			return nil
		}
		return &policies[i]
	}
	p, q := find(a), find(b)
	if p == nil || q == nil || p.Priority != q.Priority {
		return false
	}
	x, y := priority(0, p.Local[0], p.Remote[0]), priority(0, q.Local[0], q.Remote[0])
	return x>>widthShift == y>>widthShift
}

func TestLevelsOfPriority(t *testing.T) {
	var policies []ipsec.Policy
	for _, p := range []int32{-1000, -5, 0, 7, 7, 1000} {
		policies = append(policies, ipsec.Policy{Priority: p})
	}
	got, err := levels(policies)
	if err != nil {
		t.Fatal(err)
	}
	if got[1000] >= got[7] || got[7] >= got[0] || got[0] >= got[-5] || got[-5] >= got[-1000] || got[0] != normalLevel {
		t.Errorf("levels %v", got)
	}
	for p := range int32(maxLevels + 1) {
		policies = append(policies, ipsec.Policy{Priority: p + 1})
	}
	if _, err := levels(policies); err == nil {
		t.Error("any number of priorities is taken")
	}
	whole := ipsec.FromPrefix(netip.MustParsePrefix("::/0"))
	if p := priority(normalLevel+maxLevels, whole, whole); p>>levelShift != normalLevel+maxLevels {
		t.Errorf("the widest selectors spill into the level: %#x", p)
	}
}

func TestICMPSelectors(t *testing.T) {
	echo := selector("10.1.0.0/16:icmp")
	echo.FirstPort, echo.LastPort = 8<<8, 8<<8|0xff // RFC 4301, Section 4.4.1.1
	sels, err := pair{echo, selector("10.2.0.0/16")}.selectors()
	if err != nil || len(sels) != 1 || sels[0].SrcPort != 8 || sels[0].SrcMask != 0xffff || sels[0].DstMask != 0 {
		t.Errorf("echo requests: %+v, %v", sels, err)
	}
	if back := reversed(sels[0]); back.SrcPort != 8 || back.Src != sels[0].Dst {
		t.Errorf("the other way: %+v", back)
	}
	if sels, err := (pair{selector("10.1.0.0/16:icmp/3.4"), selector("10.2.0.0/16")}).selectors(); err != nil || len(sels) != 1 ||
		sels[0].SrcPort != 3 || sels[0].DstPort != 4 || sels[0].DstMask != 0xffff {
		t.Errorf("one code: %+v, %v", sels, err)
	}
	if sels, err := (pair{selector("10.1.0.0/16"), selector("10.2.0.0/16:icmp/3.0-5")}).selectors(); err != nil || len(sels) != 2 {
		t.Errorf("codes 0 to 3, and 4 to 5: %+v, %v", sels, err)
	}
	echo.LastPort = 9<<8 | 7
	if _, err := (pair{echo, selector("10.2.0.0/16")}).selectors(); err == nil {
		t.Error("a range that ends within the codes of a type is taken")
	}
}

func TestSASelectorsNarrowPolicies(t *testing.T) {
	p := lan(true)
	p.Remote = selectors("10.2.0.0/16", "10.3.0.0/16")
	sa := &ipsec.SA{
		Local: netip.MustParseAddrPort("192.0.2.1:0"), Remote: netip.MustParseAddrPort("192.0.2.2:0"), ReqID: 7, Protocol: ipsec.ESP,
		LocalTS: selectors("10.1.0.0/16"), RemoteTS: selectors("10.2.9.0/24", "10.77.0.0/16"),
	}
	claims, err := claimsOf(&p, 0, normalLevel, []*ipsec.SA{sa})
	if err != nil {
		t.Fatal(err)
	}
	b := newBook()
	b.set(p.Name, claims)
	choice := func(dst string) []xfrm.Template {
		i := packet.Info{Version: 4, Src: netip.MustParseAddr("10.1.0.1"), Dst: netip.MustParseAddr(dst)}
		var best *claim
		for s, list := range b.slots {
			if s.dir == xfrm.DirOut && kernelMatches(&s.sel, &i) && (best == nil || list[0].before(best) < 0) {
				best = list[0]
			}
		}
		if best == nil {
			return nil
		}
		return best.want.Templates
	}
	if tm := choice("10.2.9.1"); len(tm) != 1 || tm[0].Dst != sa.Remote.Addr() {
		t.Errorf("what the SA covers: %+v", tm)
	}
	if tm := choice("10.2.8.1"); len(tm) != 1 || tm[0].Dst != nowhere {
		t.Errorf("what it does not cover: %+v", tm)
	}
	if tm := choice("10.77.0.1"); tm != nil {
		t.Errorf("what the policy does not cover: %+v", tm)
	}
}

// What comes past the interface of a connection, in clear, is blocked.
func TestInterfacesAreGuarded(t *testing.T) {
	p := lan(true)
	p.Kernel.IfID = 7
	b, _, err := compile([]ipsec.Policy{p}, func(uint32) []*ipsec.SA { return nil })
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[[2]uint32]uint8)
	for s, list := range b.slots {
		got[[2]uint32{uint32(s.dir), s.ifID}] = list[0].want.Action
	}
	want := map[[2]uint32]uint8{
		{uint32(xfrm.DirOut), 7}: xfrm.ActionAllow, {uint32(xfrm.DirIn), 7}: xfrm.ActionAllow, {uint32(xfrm.DirForward), 7}: xfrm.ActionAllow,
		{uint32(xfrm.DirIn), 0}: xfrm.ActionBlock, {uint32(xfrm.DirForward), 0}: xfrm.ActionBlock,
	}
	if !maps.Equal(got, want) {
		t.Errorf("actions by direction and interface %v, want %v", got, want)
	}
}
