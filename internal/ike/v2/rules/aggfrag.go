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
}

// AggfragNotify is the USE_AGGFRAG notification of an end that puts packets
// together, and requires nothing.
func AggfragNotify() *message.Notify {
	return &message.Notify{Kind: message.UseAggfrag, Data: []byte{0}}
}

// PeerAggfrag returns what a USE_AGGFRAG notification says, and false without one.
// Flags that are not known are ignored.
func PeerAggfrag(msg *message.Message) (a Aggfrag, ok bool) {
	n, ok := msg.Notify(message.UseAggfrag)
	if !ok || len(n.Data) > 1 {
		return a, false
	}
	if len(n.Data) == 0 { // libreswan has sent none
		return a, true
	}
	return Aggfrag{Whole: n.Data[0]&aggfragWhole != 0, Congestion: n.Data[0]&aggfragCongestion != 0}, true
}
