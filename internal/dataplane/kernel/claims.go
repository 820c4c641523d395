package kernel

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"caponier/internal/dataplane/kernel/xfrm"
	"caponier/internal/ipsec"
)

// slot is the place of a policy in the kernel, which holds one at a time.
type slot struct {
	dir  uint8
	sel  xfrm.Selector
	mark xfrm.Mark
	ifID uint32
}

func slotOf(p *xfrm.Policy) slot { return slot{p.Dir, p.Selector, p.Mark, p.IfID} }

func (s *slot) id() xfrm.PolicyID {
	return xfrm.PolicyID{Selector: s.sel, Dir: s.dir, Mark: s.mark, IfID: s.ifID}
}

// String is how an operator finds it in `ip xfrm policy`.
func (s *slot) String() string {
	text := fmt.Sprintf("src %s dst %s", s.sel.Src, s.sel.Dst)
	if s.sel.Protocol != 0 {
		text += fmt.Sprintf(" proto %d", s.sel.Protocol)
	}
	if s.sel.SrcMask != 0 {
		text += fmt.Sprintf(" sport %d", s.sel.SrcPort)
	}
	if s.sel.DstMask != 0 {
		text += fmt.Sprintf(" dport %d", s.sel.DstPort)
	}
	return text + " dir " + directions[s.dir&3]
}

var directions = [4]string{xfrm.DirIn: "in", xfrm.DirOut: "out", xfrm.DirForward: "fwd", 3: "any"}

// claim is what one policy of the SPD wants in a slot.
type claim struct {
	slot slot
	// order ranks the claims on a slot: by the policy's precedence, and within a
	// policy what serves an SA, the newest first, before what waits for one.
	policy int
	rank   int
	want   xfrm.Policy // without index
	name   string      // of the policy
}

func (c *claim) before(d *claim) int {
	return cmp.Or(cmp.Compare(c.want.Priority, d.want.Priority), cmp.Compare(c.policy, d.policy), cmp.Compare(c.rank, d.rank))
}

// book is which policies claim which slots.
type book struct {
	slots  map[slot][]*claim // in order: the first has it
	byName map[string][]*claim
}

func newBook() *book {
	return &book{slots: make(map[slot][]*claim), byName: make(map[string][]*claim)}
}

// set replaces the claims of one policy and returns those of before.
func (b *book) set(name string, claims []*claim) (before []*claim) {
	before = b.byName[name]
	for _, c := range before {
		rest := slices.DeleteFunc(b.slots[c.slot], func(x *claim) bool { return x == c })
		if len(rest) == 0 {
			delete(b.slots, c.slot)
		} else {
			b.slots[c.slot] = rest
		}
	}
	if len(claims) == 0 {
		delete(b.byName, name)
		return before
	}
	b.byName[name] = claims
	for _, c := range claims {
		list := b.slots[c.slot]
		i, _ := slices.BinarySearchFunc(list, c, func(a, b *claim) int { return a.before(b) })
		b.slots[c.slot] = slices.Insert(list, i, c)
	}
	return before
}

// best is what is to be in a slot, nil for nothing.
func (b *book) best(s slot) *claim {
	if list := b.slots[s]; len(list) > 0 {
		return list[0]
	}
	return nil
}

// Priorities of the kernel: the lowest number decides. Ours are, from the high
// bits to the low ones, the level of the policy's priority, how many addresses
// it covers, whether it names a protocol, and how many ports it covers: as
// package spd ranks them.
const (
	priorityDiscovery = 1 // neighbour discovery: before everything
	levelShift        = 18
	normalLevel       = 32 // of priority 0
	maxLevels         = 30 // on either side of it
	widthShift        = 7
	protocolShift     = 6
)

// levels gives each priority in use a level, the higher the lower.
func levels(policies []ipsec.Policy) (map[int32]uint32, error) {
	var above, below []int32
	for i := range policies {
		switch p := policies[i].Priority; {
		case p > 0:
			above = append(above, p)
		case p < 0:
			below = append(below, p)
		}
	}
	slices.Sort(above)
	slices.Sort(below)
	above, below = slices.Compact(above), slices.Compact(below)
	slices.Reverse(below)
	if len(above) > maxLevels || len(below) > maxLevels {
		return nil, fmt.Errorf("%d priorities above 0 and %d below: the kernel's plane tells %d apart on either side", len(above), len(below), maxLevels)
	}
	out := map[int32]uint32{0: normalLevel}
	for i, p := range above {
		out[p] = normalLevel - 1 - uint32(i)
	}
	for i, p := range below {
		out[p] = normalLevel + 1 + uint32(i)
	}
	return out, nil
}

// priority ranks a pair of selectors within a level.
func priority(level uint32, l, r ipsec.Selector) uint32 {
	// Width of the addresses in eighths of a bit: 0 to 2,048.
	width := uint32(math.Round(4 * (math.Log2(addresses(l)) + math.Log2(addresses(r)))))
	anyProtocol := uint32(1)
	if l.Protocol != 0 || r.Protocol != 0 {
		anyProtocol = 0
	}
	span := func(s ipsec.Selector) float64 { return float64(s.LastPort) - float64(s.FirstPort) + 1 }
	ports := uint32(math.Round(math.Log2(span(l)) + math.Log2(span(r)))) // 0 to 32
	return level<<levelShift | width<<widthShift | anyProtocol<<protocolShift | ports
}

func addresses(s ipsec.Selector) float64 {
	first, last := s.First.As16(), s.Last.As16()
	n := 0.0
	for i := range first {
		n = n*256 + float64(last[i]) - float64(first[i])
	}
	return n + 1
}

// pair is a local and a remote selector of one family.
type pair struct{ local, remote ipsec.Selector }

// pairsOf returns the pairs of the lists that can match a packet at all.
func pairsOf(local, remote []ipsec.Selector) []pair {
	var out []pair
	for _, l := range local {
		for _, r := range remote {
			apart := l.Protocol != 0 && r.Protocol != 0 && l.Protocol != r.Protocol
			if l.Is4() == r.Is4() && !apart {
				out = append(out, pair{l, r})
			}
		}
	}
	return out
}

// within narrows each pair to what the policy covers.
func within(pairs, policy []pair) []pair {
	if slices.Equal(pairs, policy) {
		return pairs
	}
	var out []pair
	for _, p := range pairs {
		for _, q := range policy {
			l, okL := p.local.Intersect(q.local)
			r, okR := p.remote.Intersect(q.remote)
			if okL && okR && !slices.Contains(out, pair{l, r}) {
				out = append(out, pair{l, r})
			}
		}
	}
	return out
}

// portMask is a port and the bits of it that count.
type portMask struct{ port, mask uint16 }

// portMasks splits a range as prefixes split a range of addresses: the kernel
// compares ports under a mask.
func portMasks(first, last uint16) []portMask {
	var out []portMask
	for at := uint32(first); at <= uint32(last); {
		size := uint32(1)
		for at%(2*size) == 0 && at+2*size-1 <= uint32(last) {
			size *= 2
		}
		out = append(out, portMask{uint16(at), ^uint16(size - 1)})
		at += size
	}
	return out
}

// selectors says a pair in the kernel's terms, for packets that leave: from
// local to remote.
func (p pair) selectors() ([]xfrm.Selector, error) {
	protocol := max(p.local.Protocol, p.remote.Protocol)
	src, dst := portMasks(p.local.FirstPort, p.local.LastPort), portMasks(p.remote.FirstPort, p.remote.LastPort)
	if isICMP(protocol) {
		var err error
		if src, dst, err = icmpMasks(p); err != nil {
			return nil, err
		}
	}
	var out []xfrm.Selector
	for _, l := range p.local.Prefixes() {
		for _, r := range p.remote.Prefixes() {
			for _, s := range src {
				for _, d := range dst {
					out = append(out, xfrm.Selector{
						Src: l, Dst: r, Protocol: protocol,
						SrcPort: s.port & s.mask, SrcMask: s.mask, DstPort: d.port & d.mask, DstMask: d.mask,
					})
				}
			}
		}
	}
	const limit = 4096
	if len(out) > limit {
		return nil, fmt.Errorf("%s to %s becomes %d policies in the kernel, more than %d: use prefixes instead of ranges", p.local, p.remote, len(out), limit)
	}
	return out, nil
}

func isICMP(protocol uint8) bool { return protocol == 1 || protocol == 58 }

// icmpMasks turns type and code, which stand in the high and the low octet of a
// selector's ports (RFC 4301, Section 4.4.1.1), into the kernel's source and
// destination port.
func icmpMasks(p pair) (kind, code []portMask, err error) {
	s := p.local
	if s.AnyPort() {
		s = p.remote
	}
	switch {
	case s.AnyPort():
		return []portMask{{}}, []portMask{{}}, nil
	case s.FirstPort&0xff == 0 && s.LastPort&0xff == 0xff:
		return portMasks(s.FirstPort>>8, s.LastPort>>8), []portMask{{}}, nil
	case s.FirstPort>>8 == s.LastPort>>8:
		return []portMask{{s.FirstPort >> 8, 0xffff}}, portMasks(s.FirstPort&0xff, s.LastPort&0xff), nil
	default:
		return nil, nil, fmt.Errorf("%s: the kernel takes one ICMP type with codes, or types with every code", s)
	}
}

// reversed is the selector for packets the other way. ICMP has no other way.
func reversed(s xfrm.Selector) xfrm.Selector {
	s.Src, s.Dst = s.Dst, s.Src
	if !isICMP(s.Protocol) {
		s.SrcPort, s.SrcMask, s.DstPort, s.DstMask = s.DstPort, s.DstMask, s.SrcPort, s.SrcMask
	}
	return s
}

// claimsOf says what a policy wants of the kernel, with the outbound SAs of its
// reqid, the newest first. Those of the policy's protocol serve it; the AH of a
// bundle goes with the ESP.
func claimsOf(p *ipsec.Policy, number int, level uint32, serving []*ipsec.SA) ([]*claim, error) {
	w := claimer{p: p, number: number, level: level}
	whole := pairsOf(p.Local, p.Remote)
	for i, sa := range serving {
		if sa.Protocol != p.Protocol {
			continue
		}
		for _, x := range within(pairsOf(sa.LocalTS, sa.RemoteTS), whole) {
			if err := w.out(x, i, xfrm.ActionAllow, through(p, sa, serving)); err != nil {
				return nil, err
			}
		}
	}
	for _, x := range whole {
		action, out, in := xfrm.ActionAllow, []xfrm.Template(nil), []xfrm.Template(nil)
		switch p.Action {
		case ipsec.Discard:
			action = xfrm.ActionBlock
		case ipsec.Bypass:
		case ipsec.Protect:
			out = templates(p, nowhere, nowhere)
			in = out
		}
		outAction := action
		if p.Action == ipsec.Protect && !p.Acquire {
			// A template without an SA would ask for one.
			outAction, out = xfrm.ActionBlock, nil
		}
		if err := w.out(x, len(serving), outAction, out); err != nil {
			return nil, err
		}
		if err := w.in(x, action, in); err != nil {
			return nil, err
		}
		if p.Action == ipsec.Protect && p.Connection != "" && p.Kernel.IfID != 0 {
			if err := w.guard(x); err != nil {
				return nil, err
			}
		}
	}
	return w.claims, nil
}

// guard blocks what comes past the policy's xfrm interface, in clear.
func (w *claimer) guard(x pair) error {
	past := *w.p
	past.Kernel.IfID = 0
	g := claimer{p: &past, number: w.number, level: w.level}
	err := g.in(x, xfrm.ActionBlock, nil)
	w.claims = append(w.claims, g.claims...)
	return err
}

// nowhere stands in templates for any address.
var nowhere = netip.IPv4Unspecified()

// through are the templates of what one of the serving SAs carries. They name it
// by its SPI: of several that fit, the kernel takes the one that was added last
// only where their seconds differ.
func through(p *ipsec.Policy, sa *ipsec.SA, serving []*ipsec.SA) []xfrm.Template {
	out := templates(p, sa.Local.Addr(), sa.Remote.Addr())
	same := func(o *ipsec.SA) bool {
		return o.Local.Addr() == sa.Local.Addr() && o.Remote.Addr() == sa.Remote.Addr()
	}
	if p.Mode == ipsec.Transport && slices.ContainsFunc(serving, func(o *ipsec.SA) bool { return !same(o) }) {
		return out // between several pairs of hosts, the packet's addresses decide
	}
	out[0].SPI = uint32(sa.SPI)
	if p.WithAH {
		if i := slices.IndexFunc(serving, func(o *ipsec.SA) bool { return o.Protocol == ipsec.AH && same(o) }); i >= 0 {
			out[1].SPI = uint32(serving[i].SPI)
		}
	}
	return out
}

// templates are the SAs through which packets of a policy pass, the innermost
// first.
func templates(p *ipsec.Policy, local, remote netip.Addr) []xfrm.Template {
	t := xfrm.Template{
		Proto: uint8(p.Protocol), ReqID: p.ReqID, Mode: modeOf(p.Mode),
		AuthAlgs: xfrm.AnyAlgs, CryptAlgs: xfrm.AnyAlgs, CompressionsAlgs: xfrm.AnyAlgs,
	}
	if p.Mode == ipsec.Tunnel {
		t.Src, t.Dst = local, remote
	}
	out := []xfrm.Template{t}
	if p.WithAH {
		ah := t
		ah.Proto, ah.Mode = uint8(ipsec.AH), xfrm.ModeTransport
		if p.Mode == ipsec.Tunnel { // of the outer header's family
			ah.Src, ah.Dst = unspecified(remote), unspecified(remote)
		}
		out = append(out, ah)
	}
	return out
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func modeOf(m ipsec.Mode) uint8 {
	if m == ipsec.Transport {
		return xfrm.ModeTransport
	}
	return xfrm.ModeTunnel
}

// claimer gathers the claims of one policy.
type claimer struct {
	p      *ipsec.Policy
	number int
	level  uint32
	claims []*claim
}

func (w *claimer) add(dir uint8, sel xfrm.Selector, x pair, rank int, action uint8, tmpls []xfrm.Template) {
	want := xfrm.Policy{
		Selector: sel, Limits: xfrm.Unlimited, Priority: priority(w.level, x.local, x.remote), Dir: dir, Action: action,
		Templates: slices.Clone(tmpls), Mark: xfrm.Mark(w.p.Kernel.Mark), IfID: w.p.Kernel.IfID,
	}
	for i := range want.Templates {
		// Transport mode has the packet's own family.
		if t := &want.Templates[i]; !t.Dst.IsValid() {
			t.Src, t.Dst = unspecified(sel.Dst.Addr()), unspecified(sel.Dst.Addr())
		}
	}
	w.claims = append(w.claims, &claim{slot: slotOf(&want), policy: w.number, rank: rank, want: want, name: w.p.Name})
}

func (w *claimer) out(x pair, rank int, action uint8, tmpls []xfrm.Template) error {
	sels, err := x.selectors()
	if err != nil {
		return err
	}
	for _, s := range sels {
		w.add(xfrm.DirOut, s, x, rank, action, tmpls)
	}
	return nil
}

// in claims for packets that come: for this host, and through it.
func (w *claimer) in(x pair, action uint8, tmpls []xfrm.Template) error {
	sels, err := x.selectors()
	if err != nil {
		return err
	}
	for _, s := range sels {
		for _, dir := range []uint8{xfrm.DirIn, xfrm.DirForward} {
			w.add(dir, reversed(s), x, 0, action, tmpls)
		}
	}
	return nil
}

// discovery lets neighbour discovery pass (RFC 4861), without which policies for
// a whole network would cut it off. It never leaves the link.
func discovery(policies []ipsec.Policy) []*claim {
	six := slices.ContainsFunc(policies, func(p ipsec.Policy) bool {
		return slices.ContainsFunc(p.Local, func(s ipsec.Selector) bool { return !s.Is4() })
	})
	if !six {
		return nil
	}
	anywhere := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	var out []*claim
	const routerSolicitation, redirect, icmpv6 = 133, 137, 58
	for kind := uint16(routerSolicitation); kind <= redirect; kind++ {
		for _, dir := range []uint8{xfrm.DirIn, xfrm.DirOut} {
			want := xfrm.Policy{
				Selector: xfrm.Selector{Src: anywhere, Dst: anywhere, Protocol: icmpv6, SrcPort: kind, SrcMask: 0xffff},
				Limits:   xfrm.Unlimited, Priority: priorityDiscovery, Dir: dir,
			}
			out = append(out, &claim{slot: slotOf(&want), want: want})
		}
	}
	return out
}

// samePolicy compares what a policy does, not its number or its use.
func samePolicy(a, b *xfrm.Policy) bool {
	return slotOf(a) == slotOf(b) && a.Priority == b.Priority && a.Action == b.Action && a.Flags == b.Flags &&
		a.Limits == b.Limits && slices.Equal(a.Templates, b.Templates)
}

// overlaps reports whether a packet can match both.
func overlaps(a, b *xfrm.Policy) bool {
	s, t := &a.Selector, &b.Selector
	prefixes := func(p, q netip.Prefix) bool { return !p.IsValid() || !q.IsValid() || p.Overlaps(q) }
	return a.Dir == b.Dir && a.IfID == b.IfID &&
		(a.Mark.Value^b.Mark.Value)&a.Mark.Mask&b.Mark.Mask == 0 &&
		prefixes(s.Src, t.Src) && prefixes(s.Dst, t.Dst) &&
		(s.Protocol == 0 || t.Protocol == 0 || s.Protocol == t.Protocol) &&
		(s.SrcPort^t.SrcPort)&s.SrcMask&t.SrcMask == 0 && (s.DstPort^t.DstPort)&s.DstMask&t.DstMask == 0
}
