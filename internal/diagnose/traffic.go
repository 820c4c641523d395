package diagnose

import (
	"fmt"
	"time"

	"caponier/internal/ipsec"

	"caponier/internal/control"
)

// quiet is how long a tunnel may send without hearing anything before that is
// worth a finding, and recent how fresh the sending must be.
const (
	quiet  = 5 * time.Second
	recent = 10 * time.Minute
)

// Traffic explains the tunnels of a connection that are established, send, and
// never hear anything: not a failed negotiation, but what operators take for
// one.
func Traffic(now time.Time, c *control.Connection) []control.Finding {
	var out []control.Finding
	for i := range c.Tunnels {
		t := &c.Tunnels[i]
		for j := range t.SAs {
			sa := &t.SAs[j]
			silent := sa.Out.Packets > 0 && sa.In.Packets == 0 && sa.In.Drops == 0
			if !silent || now.Sub(sa.Established) < quiet || now.Sub(sa.Out.Used) > recent {
				continue
			}
			out = append(out, noReturn(now, c, t, sa))
			break
		}
	}
	return out
}

func noReturn(now time.Time, c *control.Connection, t *control.Tunnel, sa *control.ChildSA) control.Finding {
	f := control.Finding{
		Code: CodeNoReturn, Connection: c.Name, Tunnel: t.Name, Stage: "traffic", First: sa.Established, Last: now, Count: 1,
		Ours: control.Offer{Local: sa.LocalTS, Remote: sa.RemoteTS},
	}
	peer := "the peer"
	for _, i := range c.IKE {
		if i.State == control.IKEEstablished || i.State == control.IKERekeying {
			f.Local, f.Remote = i.Local, i.Remote
			peer = i.Remote.Addr().String()
		}
	}
	way := "ESP (IP protocol 50)"
	switch {
	case sa.Protocol == ipsec.AH:
		way = "AH (IP protocol 51)"
	case sa.Encap:
		way = "UDP 4500"
	}
	f.Cause = fmt.Sprintf("the tunnel is established, %d packets left in SA %s, and none ever came back in SA %s", sa.Out.Packets, sa.Out.SPI, sa.In.SPI)
	f.Cures = []control.Cure{
		{At: control.AtPeer, Edit: fmt.Sprintf("give what is behind it a route to %s through %s, and let it answer", list(sa.LocalTS), peer)},
		{At: control.AtPeer, Edit: fmt.Sprintf("let %s from %s pass on the way, in both directions", way, peer)},
	}
	if !sa.Encap && sa.Protocol != ipsec.AH {
		f.Cures = append(f.Cures, control.Cure{
			At: control.Here, Edit: fmt.Sprintf("set connections.%s.encapsulation to always, if only UDP passes on the way", c.Name),
		})
	}
	return f
}
