package v2

import (
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// proposeSelectors returns the traffic selectors that we propose for c.
func (m *Machine) proposeSelectors(c *Child, flow *ipsec.Flow) (local, remote []ipsec.Selector) {
	local, remote = rules.OrHost(c.Local, m.local.Addr()), rules.OrHost(c.Remote, m.remote.Addr())
	if flow == nil || !flow.Src.IsValid() || !flow.Dst.IsValid() {
		return local, remote
	}
	withSrc := rules.WithFlow(local, flow.Src, flow.Protocol, flow.SrcPort)
	withDst := rules.WithFlow(remote, flow.Dst, flow.Protocol, flow.DstPort)
	return withSrc, withDst
}
