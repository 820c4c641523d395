package conf

import (
	"net/netip"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
)

// NAT is what IKE_SA_INIT found out about the way between the two ends.
type NAT struct {
	Local, Remote bool // this side, the peer, is behind a NAT
	Encap         bool // ESP travels in UDP
}

// NATNotifies returns the NAT_DETECTION notifications of our IKE_SA_INIT
// message, or none where ESP must never travel in UDP: a peer that receives
// none does not look for a NAT.
func (e Encapsulation) NATNotifies(spiI, spiR message.SPI, local, remote netip.AddrPort) []message.Payload {
	if e == EncapNever {
		return nil
	}
	// A hash that does not match makes the peer believe in a NAT.
	return rules.NATNotifies(spiI, spiR, local, remote, e == EncapAlways || e == EncapAsk)
}

// DetectNAT takes in what the peer says of the addresses that msg travelled
// between. Where ESP must never travel in UDP, it does not matter.
func (e Encapsulation) DetectNAT(msg *message.Message, local, remote netip.AddrPort) NAT {
	var found NAT
	if e != EncapNever {
		found.Local, found.Remote = rules.DetectNAT(msg, local, remote)
	}
	found.Encap = e == EncapAlways || e == EncapAsk && looksForNAT(msg) || found.Local || found.Remote
	return found
}

// looksForNAT reports whether the peer will have found the NAT that it was made
// to see: one that sends no notifications does not compare ours.
func looksForNAT(msg *message.Message) bool {
	_, source := msg.Notify(message.NATDetectionSourceIP)
	_, destination := msg.Notify(message.NATDetectionDestinationIP)
	return source && destination
}
