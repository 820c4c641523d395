package conf

import (
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// AGGFRAG mode is asked for beside the SA, and declined by silence (RFC 9347,
// Section 5.1): both ends use it, or neither. It is for tunnel mode alone.

// AcceptAggfrag says what the SA that the request msg asks for has of AGGFRAG mode,
// and false where the tunnel requires it and the peer does not ask for it, or
// requires what this end lacks. Such a requirement is declined, not ignored (RFC
// 9347, Section 5.1).
func (c *Child) AcceptAggfrag(msg *message.Message) (ipsec.AggfragSA, bool) {
	peer, asked := rules.PeerAggfrag(msg)
	if c.Aggfrag == ipsec.AggfragOff || !asked || c.lacks(peer) {
		return ipsec.AggfragSA{}, c.Aggfrag != ipsec.AggfragRequired
	}
	return c.aggfragWith(peer), true
}

// AgreedAggfrag says what the SA that the response msg is about has of AGGFRAG mode,
// and false where the peer took what was not offered, or declined what is required.
func (c *Child) AgreedAggfrag(msg *message.Message) (ipsec.AggfragSA, bool) {
	peer, took := rules.PeerAggfrag(msg)
	switch {
	case !took:
		return ipsec.AggfragSA{}, c.Aggfrag != ipsec.AggfragRequired
	case c.Aggfrag == ipsec.AggfragOff, c.lacks(peer):
		return ipsec.AggfragSA{}, false
	default:
		return c.aggfragWith(peer), true
	}
}

func (c *Child) aggfragWith(peer rules.Aggfrag) ipsec.AggfragSA {
	return ipsec.AggfragSA{On: true, Whole: peer.Whole, Pace: c.Pace, Reports: peer.Congestion}
}

// lacks reports whether the peer requires what this end has not: congestion
// information, which only payloads of a constant rate bring, or what later
// documents define.
func (c *Child) lacks(peer rules.Aggfrag) bool {
	return peer.Congestion && c.Pace.Rate == 0 || peer.Unknown
}

// Answers are what a response says beside the SA and its selectors.
func (c *Child) Answers(a ipsec.AggfragSA) []message.Payload {
	var out []message.Payload
	if c.Mode == ipsec.Transport {
		out = append(out, &message.Notify{Kind: message.UseTransportMode})
	}
	if a.On {
		out = append(out, rules.AggfragNotify(c.Pace.LossLimit != 0))
	}
	return out
}
