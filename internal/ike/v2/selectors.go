package v2

import (
	"net/netip"
	"slices"

	"caponier/internal/ipsec"
)

// maxSelectors is what a TS payload can hold (RFC 7296, Section 3.13).
const maxSelectors = 255

// narrow returns what proposed and configured have in common, in the order of
// proposed, without what is covered by another (RFC 7296, Section 2.9).
func narrow(proposed, configured []ipsec.Selector) []ipsec.Selector {
	var out []ipsec.Selector
	for _, p := range proposed {
		for _, c := range configured {
			s, ok := p.Intersect(c)
			if !ok || covered(s, out) {
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

// covered reports whether one of in covers s.
func covered(s ipsec.Selector, in []ipsec.Selector) bool {
	return slices.ContainsFunc(in, func(x ipsec.Selector) bool { return x.Covers(s) })
}

// within reports whether the peer's answer is no wider than what was proposed
// (RFC 7296, Section 2.9). An empty answer is no answer.
func within(answer, proposed []ipsec.Selector) bool {
	return len(answer) > 0 &&
		!slices.ContainsFunc(answer, func(s ipsec.Selector) bool { return !covered(s, proposed) })
}

// orHost is what a tunnel without selectors is for: the gateway itself.
func orHost(configured []ipsec.Selector, host netip.Addr) []ipsec.Selector {
	if len(configured) > 0 {
		return configured
	}
	return []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(host, host.BitLen()))}
}

// withFlow puts the packet that asked for the SA in front, so that a peer that
// narrows to one selector takes one that fits it (RFC 7296, Section 2.9).
func withFlow(configured []ipsec.Selector, addr netip.Addr, protocol uint8, port uint16) []ipsec.Selector {
	s := ipsec.FromPrefix(netip.PrefixFrom(addr, addr.BitLen()))
	s.Protocol = protocol
	if hasPorts(protocol) {
		s.FirstPort, s.LastPort = port, port
	}
	if !covered(s, configured) || slices.Contains(configured, s) {
		return configured
	}
	return append([]ipsec.Selector{s}, configured[:min(len(configured), maxSelectors-1)]...)
}

// hasPorts reports whether a flow of this protocol tells ports: TCP, UDP, DCCP,
// SCTP and UDP-Lite do.
func hasPorts(protocol uint8) bool {
	return slices.Contains([]uint8{6, 17, 33, 132, 136}, protocol)
}

// proposeSelectors returns the traffic selectors that we propose for c.
func (m *Machine) proposeSelectors(c *Child, flow *ipsec.Flow) (local, remote []ipsec.Selector) {
	local, remote = orHost(c.Local, m.local.Addr()), orHost(c.Remote, m.remote.Addr())
	if flow == nil || !flow.Src.IsValid() || !flow.Dst.IsValid() {
		return local, remote
	}
	withSrc := withFlow(local, flow.Src, flow.Protocol, flow.SrcPort)
	withDst := withFlow(remote, flow.Dst, flow.Protocol, flow.DstPort)
	return withSrc, withDst
}
