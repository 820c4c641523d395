package rules

import (
	"caponier/internal/ike/message"
)

// The flags of USE_AGGFRAG (RFC 9347, Section 5.1).
const (
	aggfragWhole      = 1 << 0 // D: inner packets are to come whole
	aggfragCongestion = 1 << 1 // C: congestion information must come back
)

// Aggfrag is what a peer says of AGGFRAG mode.
type Aggfrag struct {
	// Whole says that it does not put packets together that are spread over
	// several payloads.
	Whole bool
	// Congestion says that it requires congestion information.
	Congestion bool
	// Unknown says that it requires what this end has no name for.
	Unknown bool
}

// AggfragNotify is the USE_AGGFRAG notification of an end that puts packets
// together, and may require congestion information.
func AggfragNotify(congestion bool) *message.Notify {
	var flags byte
	if congestion {
		flags |= aggfragCongestion
	}
	return &message.Notify{Kind: message.UseAggfrag, Data: []byte{flags}}
}

// PeerAggfrag returns what a USE_AGGFRAG notification says, and false without one.
func PeerAggfrag(msg *message.Message) (a Aggfrag, ok bool) {
	n, ok := msg.Notify(message.UseAggfrag)
	if !ok {
		return a, false
	}
	switch len(n.Data) {
	case 0: // libreswan sends none, up to 5.3 at least
		return a, true
	case 1:
		flags := n.Data[0]
		return Aggfrag{
			Whole: flags&aggfragWhole != 0, Congestion: flags&aggfragCongestion != 0,
			Unknown: flags&^(aggfragWhole|aggfragCongestion) != 0,
		}, true
	default:
		return Aggfrag{Unknown: true}, true
	}
}
