package sad

import (
	"net/netip"

	"caponier/internal/ipsec"
)

// About is what does not change of an SA, and is not a key: what ipsec.SA has,
// but for what else an entry keeps.
type About struct {
	SPI       ipsec.SPI
	ReqID     uint32
	Protocol  ipsec.Protocol
	Mode      ipsec.Mode
	Direction ipsec.Direction
	ESN       bool
	Outer     ipsec.Outer
	Encr      ipsec.Transform
	Integ     ipsec.Transform
	Fit       ipsec.Fit
	Aggfrag   ipsec.AggfragSA
	Original  *ipsec.Pair

	LocalTS, RemoteTS  []ipsec.Selector
	Connection, Tunnel string
}

func aboutOf(sa *ipsec.SA) About {
	return About{
		SPI: sa.SPI, ReqID: sa.ReqID, Protocol: sa.Protocol, Mode: sa.Mode, Direction: sa.Direction, ESN: sa.ESN,
		Outer: sa.Outer, Encr: sa.Encr, Integ: sa.Integ, Fit: sa.Fit, Aggfrag: sa.Aggfrag, Original: sa.Original,
		LocalTS: sa.LocalTS, RemoteTS: sa.RemoteTS, Connection: sa.Connection, Tunnel: sa.Tunnel,
	}
}

// id is the name of the SA, whose present peer is at this address.
func (a *About) id(peer netip.Addr) ipsec.SAID {
	id := ipsec.SAID{Direction: a.Direction, Protocol: a.Protocol, SPI: a.SPI}
	if a.Direction == ipsec.Out {
		id.Peer = peer
	}
	return id
}
