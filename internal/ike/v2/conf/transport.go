package conf

import (
	"net/netip"
	"slices"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
)

// Transport mode is between the two hosts of the IKE SA. Behind a NAT each end
// knows them by other addresses: what it says of itself means nothing to the
// peer, who takes the addresses of the IKE SA instead, and remembers what was
// said to mend checksums by (RFC 7296, Section 2.23.1).

// onlyHost leaves of the selectors what is about host.
func onlyHost(selectors []ipsec.Selector, host netip.Addr) []ipsec.Selector {
	var out []ipsec.Selector
	only := ipsec.FromPrefix(netip.PrefixFrom(host, host.BitLen()))
	for _, s := range selectors {
		if s, ok := s.Intersect(only); ok && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Substitute puts the addresses of the two hosts, as this end sees them, into the
// selectors of the peer's message, where a NAT makes those of the message others.
func (n NAT) Substitute(local, remote []ipsec.Selector, hosts ipsec.Pair) (ours, theirs []ipsec.Selector) {
	if n.Local {
		local = substitute(local, hosts.Local)
	}
	if n.Remote {
		remote = substitute(remote, hosts.Remote)
	}
	return local, remote
}

// substitute replaces the address of selectors that are for one host.
func substitute(selectors []ipsec.Selector, host netip.Addr) []ipsec.Selector {
	out := slices.Clone(selectors)
	for i, s := range out {
		if s.First == s.Last && s.First.BitLen() == host.BitLen() {
			out[i].First, out[i].Last = host, host
		}
	}
	return out
}

// Original returns the addresses that the peer knows the two hosts by, from the
// selectors of its message, or nil without a NAT.
func (n NAT) Original(local, remote []ipsec.Selector) *ipsec.Pair {
	if !n.Local && !n.Remote || len(local) == 0 || len(remote) == 0 {
		return nil
	}
	return &ipsec.Pair{Local: local[0].First, Remote: remote[0].First}
}

// HostsOf are the hosts that an SA in transport mode is for.
func HostsOf(local, remote []ipsec.Selector) ipsec.Pair {
	return ipsec.Pair{Local: local[0].First, Remote: remote[0].First}
}

// Notifies are what a request for the tunnel asks for beside its proposals and
// selectors. ESP_TFC_PADDING_NOT_SUPPORTED is never among them, for padding of
// the peer is taken off, and neither is NON_FIRST_FRAGMENTS_ALSO, for fragments
// are put together before they are sent where selectors need ports (RFC 7296,
// Section 3.10.1; RFC 4301, Section 7). What the peer says of either asks for
// nothing that this end would do otherwise.
func (c *Child) Notifies() []message.Payload {
	return c.Answers(ipsec.AggfragSA{On: c.Aggfrag != ipsec.AggfragOff && c.Mode == ipsec.Tunnel})
}
