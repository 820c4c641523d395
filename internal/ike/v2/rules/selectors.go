package rules

import (
	"net/netip"
	"slices"

	"caponier/internal/ipsec"
)

// maxSelectors is what a TS payload can hold (RFC 7296, Section 3.13).
const maxSelectors = 255

// Narrow returns what proposed and configured have in common, in the order of
// proposed, without what is covered by another (RFC 7296, Section 2.9).
func Narrow(proposed, configured []ipsec.Selector) []ipsec.Selector {
	var out []ipsec.Selector
	for _, p := range proposed {
		for _, c := range configured {
			s, ok := p.Intersect(c)
			if !ok || Covered(s, out) {
				continue
			}
			out = append(slices.DeleteFunc(out, s.Covers), s)
			if len(out) == maxSelectors {
				return out
			}
		}
	}
	return out
}

// Covered reports whether one of in covers s.
func Covered(s ipsec.Selector, in []ipsec.Selector) bool {
	return slices.ContainsFunc(in, func(x ipsec.Selector) bool { return x.Covers(s) })
}

// Within reports whether the peer's answer is no wider than what was proposed
// (RFC 7296, Section 2.9). An empty answer is no answer.
func Within(answer, proposed []ipsec.Selector) bool {
	return len(answer) > 0 &&
		!slices.ContainsFunc(answer, func(s ipsec.Selector) bool { return !Covered(s, proposed) })
}

// OrHost is what a tunnel without selectors is for: the gateway itself.
func OrHost(configured []ipsec.Selector, host netip.Addr) []ipsec.Selector {
	if len(configured) > 0 {
		return configured
	}
	return []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(host, host.BitLen()))}
}

// Pair leaves one selector of each side, for a peer that takes one pair in a
// CHILD SA (SINGLE_PAIR_REQUIRED: RFC 7296, Section 2.9): the first that the flow
// fits, and otherwise the first.
func Pair(local, remote []ipsec.Selector, flow *ipsec.Flow) (l, r []ipsec.Selector) {
	i, j := 0, 0
	if flow != nil {
		i = max(0, slices.IndexFunc(local, func(s ipsec.Selector) bool { return fits(s, flow.Src, flow.Protocol, flow.SrcPort) }))
		j = max(0, slices.IndexFunc(remote, func(s ipsec.Selector) bool { return fits(s, flow.Dst, flow.Protocol, flow.DstPort) }))
	}
	return local[i : i+1], remote[j : j+1]
}

// CoversFlow reports whether the selectors of an SA cover a packet.
func CoversFlow(local, remote []ipsec.Selector, flow *ipsec.Flow) bool {
	return slices.ContainsFunc(local, func(s ipsec.Selector) bool { return fits(s, flow.Src, flow.Protocol, flow.SrcPort) }) &&
		slices.ContainsFunc(remote, func(s ipsec.Selector) bool { return fits(s, flow.Dst, flow.Protocol, flow.DstPort) })
}

func fits(s ipsec.Selector, a netip.Addr, protocol uint8, port uint16) bool {
	// A flow of ICMP or Mobility tells types as ports.
	return s.Contains(a, protocol, port, hasPorts(protocol) || slices.Contains([]uint8{1, 58, 135}, protocol))
}

// WithFlow puts the packet that asked for the SA in front, so that a peer that
// narrows to one selector takes one that fits it (RFC 7296, Section 2.9).
//
// Of ICMP it does not name the type: answers have another.
func WithFlow(configured []ipsec.Selector, addr netip.Addr, protocol uint8, port uint16) []ipsec.Selector {
	s := ipsec.FromPrefix(netip.PrefixFrom(addr, addr.BitLen()))
	s.Protocol = protocol
	if hasPorts(protocol) {
		s.FirstPort, s.LastPort = port, port
	}
	if !Covered(s, configured) || slices.Contains(configured, s) {
		return configured
	}
	return append([]ipsec.Selector{s}, configured[:min(len(configured), maxSelectors-1)]...)
}

// hasPorts reports whether a flow of this protocol tells ports: TCP, UDP, DCCP,
// SCTP and UDP-Lite do.
func hasPorts(protocol uint8) bool {
	return slices.Contains([]uint8{6, 17, 33, 132, 136}, protocol)
}
