package diagnose

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"caponier/internal/control"
	"caponier/internal/esp"
	"caponier/internal/host"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/spd"
	"caponier/internal/suite"
)

// Gateway is what a packet would meet now.
type Gateway struct {
	Time     time.Time
	Policies []ipsec.Policy
	SAs      []control.SA
	Counters map[string]uint64
	// Route asks the system which way a packet takes; mark is host.Mark for the
	// gateway's own.
	Route func(src, dst netip.Addr, mark uint32) (host.Way, error)
}

// tracer follows one packet.
type tracer struct {
	g    Gateway
	t    control.Trace
	info packet.Info
}

// Trace walks a packet through route, policy, SA and MTU. It sends nothing.
func Trace(g Gateway, f ipsec.Flow) (control.Trace, error) {
	x := &tracer{g: g, t: control.Trace{Flow: f, Steps: []control.TraceStep{}}}
	x.info = packet.Info{
		Version: 4, Src: f.Src, Dst: f.Dst, Protocol: f.Protocol,
		SrcPort: f.SrcPort, DstPort: f.DstPort, HasPorts: control.HasPorts(f),
	}
	if f.Src.Is6() {
		x.info.Version = 6
	}
	table, err := spd.Compile(g.Policies)
	if err != nil {
		return x.t, err
	}
	matching, near := table.Explain(ipsec.Out, &x.info)
	if len(matching) == 0 {
		if in, _ := table.Explain(ipsec.In, &x.info); len(in) > 0 && in[0].Policy.Action == ipsec.Protect {
			x.arrive(&in[0].Policy)
			return x.t, nil
		}
	}
	if goesOn, err := x.route(len(matching) > 0); err != nil || !goesOn {
		return x.t, err
	}
	if len(matching) == 0 {
		x.noPolicy(near)
		return x.t, nil
	}
	return x.t, x.policy(matching)
}

func (x *tracer) step(name string, ok bool, text string, args ...any) {
	x.t.Steps = append(x.t.Steps, control.TraceStep{Step: name, OK: ok, Text: fmt.Sprintf(text, args...)})
}

func (x *tracer) verdict(v control.Verdict, passes bool, counter, text string, args ...any) {
	x.t.Verdict, x.t.Passes, x.t.Words = v, passes, fmt.Sprintf(text, args...)
	x.t.Counter, x.t.Count = counter, x.g.Counters[counter]
}

// route asks the system whether the packet comes to the data plane at all.
func (x *tracer) route(meant bool) (goesOn bool, err error) {
	f := x.t.Flow
	w, err := x.g.Route(f.Src, f.Dst, 0)
	if err != nil {
		return false, err
	}
	via := ""
	if w.Via.IsValid() {
		via = " via " + w.Via.String()
	}
	switch {
	case w.Captured:
		x.step("route", true, "table %d sends it to %s, the data plane", w.Table, w.Device)
		return true, nil
	case w.Kind == "local":
		x.step("route", true, "%s is an address of this host", f.Dst)
		x.verdict(control.ToGateway, true, "", "the gateway itself receives it")
	case w.Kind != "unicast":
		x.step("route", false, "the system's routing refuses it: %s", w.Kind)
		x.verdict(control.Unrouted, false, "", "it never reaches the data plane, and does not leave")
		x.t.Cure = fmt.Sprintf("ip route get %s from %s shows the rule", f.Dst, f.Src)
	default:
		x.step("route", !meant, "table %d sends it to %s%s, past the data plane", w.Table, w.Device, via)
		x.verdict(control.PastGateway, !meant, "", "it leaves by %s as it is; no policy of this gateway touches it", w.Device)
		if meant {
			x.t.Cure = "a rule or route of the system comes before the gateway's: ip rule, and caponier reload"
		}
	}
	return false, nil
}

func (x *tracer) noPolicy(near []*spd.Entry) {
	text := "no policy matches"
	for i, e := range near[:min(len(near), 3)] {
		sep := "; near: "
		if i > 0 {
			sep = ", "
		}
		text += sep + describePolicy(&e.Policy)
	}
	x.step("policy", false, "%s", text)
	x.verdict(control.DroppedNone, false, "no-policy", "the data plane drops it")
	x.t.Cure = fmt.Sprintf("add %s to local and %s to remote of a tunnel, or a policy that bypasses", x.t.Flow.Src, x.t.Flow.Dst)
}

func describePolicy(p *ipsec.Policy) string {
	return fmt.Sprintf("%s (%s <-> %s)", p.Name, list(p.Local), list(p.Remote))
}

func (x *tracer) policy(matching []*spd.Entry) error {
	p := &matching[0].Policy
	why := "the only one that matches"
	if len(matching) > 1 {
		var others []string
		for _, e := range matching[1:] {
			others = append(others, e.Policy.Name)
		}
		why = fmt.Sprintf("before %s: of higher priority, more specific or earlier", strings.Join(others, ", "))
	}
	x.step("policy", p.Action != ipsec.Discard, "%s, %s, priority %d, decides: %s; %s", describePolicy(p), p.Action, p.Priority, p.Action, why)
	switch p.Action {
	case ipsec.Bypass:
		x.verdict(control.Bypassed, true, "bypass-packets", "it leaves in clear, as %s says", p.Name)
		return nil
	case ipsec.Discard:
		x.verdict(control.DroppedPolicy, false, "policy-discard", "%s discards it", p.Name)
		x.t.Cure = "add a policy of higher priority or a tunnel for it"
		return nil
	case ipsec.Protect:
	}
	sa, others := x.outbound(p)
	if sa == nil {
		x.noSA(p, others)
		return nil
	}
	return x.protect(p, sa)
}

// outbound finds the SA that would carry the packet, the last one added of those
// that cover it; others counts those of the policy that do not.
func (x *tracer) outbound(p *ipsec.Policy) (found *control.SA, others int) {
	for i := range x.g.SAs {
		sa := &x.g.SAs[i]
		if sa.ReqID != p.ReqID || sa.ID.Direction != ipsec.Out {
			continue
		}
		if !x.covered(sa.LocalTS, x.info.Src, x.info.SrcPort) || !x.covered(sa.RemoteTS, x.info.Dst, x.info.DstPort) {
			others++
			continue
		}
		if found == nil || sa.Added.After(found.Added) {
			found = sa
		}
	}
	return found, others
}

func (x *tracer) covered(in []ipsec.Selector, a netip.Addr, port uint16) bool {
	for _, s := range in {
		if s.Contains(a, x.info.Protocol, port, x.info.HasPorts) {
			return true
		}
	}
	return false
}

// cureOf is what brings a policy its SA.
func cureOf(p *ipsec.Policy) string {
	if p.Connection == "" {
		return fmt.Sprintf("caponier sa add, with reqid %d: the policy is keyed by hand", p.ReqID)
	}
	return fmt.Sprintf("caponier connect %s; caponier why %s says why it is not up", p.Name, p.Connection)
}

func (x *tracer) noSA(p *ipsec.Policy, others int) {
	if others > 0 {
		x.step("SA", false, "%s has %d SAs, none of whose selectors cover it: the peer has narrowed them", p.Name, others)
		x.t.Cure = "give this traffic a tunnel of its own, or widen the selectors at the peer"
	} else {
		x.step("SA", false, "%s has none", p.Name)
		x.t.Cure = cureOf(p)
	}
	if p.Acquire {
		x.verdict(control.Held, false, "hold-timeout", "it waits for the tunnel, which is asked for, and is dropped if that fails")
		return
	}
	if p.Connection == "" {
		x.verdict(control.DroppedNoSA, false, "no-sa", "the data plane drops it, for nobody asks for SAs that are keyed by hand")
		return
	}
	x.verdict(control.DroppedNoSA, false, "no-sa", "the data plane drops it, for the tunnel does not start by itself")
}

func (x *tracer) protect(p *ipsec.Policy, sa *control.SA) error {
	used := "never used"
	if !sa.Used.IsZero() {
		used = fmt.Sprintf("last used %s ago", x.g.Time.Sub(sa.Used).Round(time.Second))
	}
	x.step("SA", true, "%s to %s, %s, %s <-> %s, %d packets, %s", sa.ID.SPI, sa.Remote, sa.Algorithms,
		list(sa.LocalTS), list(sa.RemoteTS), sa.Packets, used)
	if err := x.mtu(sa); err != nil {
		return err
	}
	x.back(p, sa)
	how := strings.ToUpper(sa.ID.Protocol.String()) + " to " + sa.Remote.Addr().String()
	if sa.Encap {
		how = "ESP in UDP to " + sa.Remote.String()
	}
	x.verdict(control.Protected, true, "out-packets", "it leaves as %s, in SA %s of %s", how, sa.ID.SPI, p.Name)
	return nil
}

// mtu says how long a packet may be: what the inner device takes, and what fits
// the way to the peer.
func (x *tracer) mtu(sa *control.SA) error {
	inner, err := x.g.Route(x.t.Flow.Src, x.t.Flow.Dst, 0)
	if err != nil {
		return err
	}
	outer, err := x.g.Route(netip.Addr{}, sa.Remote.Addr(), host.Mark)
	if err != nil {
		return err
	}
	if outer.Kind != "unicast" {
		x.step("MTU", false, "there is no route to the peer %s: %s", sa.Remote.Addr(), outer.Kind)
		return nil
	}
	path, fits, told := outer.MTU, sa.InnerMTU, ""
	if sa.PathMTU != 0 {
		path = sa.PathMTU
	} else if fits, err = maxInner(path, sa); err != nil {
		return err
	}
	if !sa.PathMTUUntil.IsZero() {
		told = ", which a router on the way has told"
	}
	if inner.MTU <= fits {
		x.step("MTU", true, "packets of up to %d octets pass: %s takes no longer ones, and %d would fit %s", inner.MTU, inner.Device, fits, outer.Device)
		return nil
	}
	x.step("MTU", false, "%s takes packets of %d octets, and only %d fit the way by %s (MTU %d%s) in one piece: longer ones are cut, or with DF refused and their sender told",
		inner.Device, inner.MTU, fits, outer.Device, path, told)
	return nil
}

// maxInner is the length of the longest packet whose sealed packet has at most
// path octets.
func maxInner(path int, sa *control.SA) (int, error) {
	encrLen, integLen, err := suite.KeyLengths(sa.Encr, sa.Integ)
	if err != nil {
		return 0, err
	}
	p, err := suite.NewProtector(sa.Encr, sa.Integ, make([]byte, encrLen), make([]byte, integLen))
	if err != nil {
		return 0, err
	}
	const padLengthAndNextHeader = 2
	header := packet.IPv4HeaderLen
	if sa.Remote.Addr().Is6() {
		header = packet.IPv6HeaderLen
	}
	outer := header
	if sa.Encap {
		outer += packet.UDPHeaderLen
	}
	align := max(4, p.BlockSize()) // RFC 4303, Section 2.4
	room := path - outer - esp.HeaderLen - p.IVLen() - p.ICVLen()
	longest := room/align*align - padLengthAndNextHeader
	if sa.Mode == ipsec.Transport { // the packet's own header is the outer one
		longest += header
	}
	return longest, nil
}

// back looks whether anything ever returned.
func (x *tracer) back(p *ipsec.Policy, out *control.SA) {
	var packets, drops uint64
	for i := range x.g.SAs {
		sa := &x.g.SAs[i]
		if sa.ReqID == p.ReqID && sa.ID.Direction == ipsec.In {
			packets += sa.Packets
			drops += control.HalfOf(sa.SAStatus).Drops
		}
	}
	switch {
	case packets > 0:
		x.step("return", true, "%d packets came back through %s", packets, p.Name)
	case drops > 0:
		x.step("return", false, "packets come back through %s, and all %d were dropped: caponier sa list", p.Name, drops)
	case out.Packets > 0:
		x.step("return", false, "%d packets left, and none ever came back: caponier why %s", out.Packets, p.Connection)
	default:
		x.step("return", true, "nothing has been sent through this SA yet")
	}
}

// arrive follows a packet that comes from behind the peer.
func (x *tracer) arrive(p *ipsec.Policy) {
	x.step("policy", true, "%s is for packets the other way round: this one comes from behind the peer", describePolicy(p))
	for i := range x.g.SAs {
		sa := &x.g.SAs[i]
		if sa.ReqID == p.ReqID && sa.ID.Direction == ipsec.In &&
			x.covered(sa.LocalTS, x.info.Dst, x.info.DstPort) && x.covered(sa.RemoteTS, x.info.Src, x.info.SrcPort) {
			x.step("SA", true, "%s from %s, %s, %d packets, %d dropped", sa.ID.SPI, sa.Remote, sa.Algorithms,
				sa.Packets, control.HalfOf(sa.SAStatus).Drops)
			x.verdict(control.ArrivesInside, true, "in-packets", "it is delivered inside when it comes in SA %s", sa.ID.SPI)
			return
		}
	}
	x.step("SA", false, "no inbound SA of %s covers it", p.Name)
	x.verdict(control.ArrivesNowhere, false, "sa-not-found", "it cannot come in: there is no SA for it")
	x.t.Cure = cureOf(p)
}
