package rules

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/suite"
)

// HashNotify is the SIGNATURE_HASH_ALGORITHMS notification (RFC 7427, Section 4);
// with SM3 for a peer that may have a key of SM2.
func HashNotify(sm2 bool) *message.Notify {
	n := &message.Notify{Kind: message.SignatureHashAlgorithms}
	hashes := suite.SignatureHashes()
	if sm2 {
		hashes = append(hashes, suite.HashSM3)
	}
	for _, h := range hashes {
		n.Data = binary.BigEndian.AppendUint16(n.Data, h)
	}
	return n
}

// PeerHashes returns what a SIGNATURE_HASH_ALGORITHMS notification lists, or nil
// without one.
func PeerHashes(msg *message.Message) []uint16 {
	n, ok := msg.Notify(message.SignatureHashAlgorithms)
	if !ok {
		return nil
	}
	var out []uint16
	for b := n.Data; len(b) >= 2; b = b[2:] {
		out = append(out, binary.BigEndian.Uint16(b))
	}
	return out
}

// NATNotifies returns the NAT_DETECTION notifications of an IKE_SA_INIT message
// between two addresses. With pretend, the hash of the source is wrong.
func NATNotifies(spiI, spiR message.SPI, local, remote netip.AddrPort, pretend bool) []message.Payload {
	source := keys.NATDetection(uint64(spiI), uint64(spiR), local)
	if pretend {
		source[0] ^= 0xff
	}
	return []message.Payload{
		&message.Notify{Kind: message.NATDetectionSourceIP, Data: source},
		&message.Notify{
			Kind: message.NATDetectionDestinationIP,
			Data: keys.NATDetection(uint64(spiI), uint64(spiR), remote),
		},
	}
}

// DetectNAT compares the NAT_DETECTION notifications of an IKE_SA_INIT message
// with the addresses that it arrived between, and reports which end is behind a
// NAT. A peer that sends none takes no part (RFC 7296, Section 2.23).
func DetectNAT(msg *message.Message, local, remote netip.AddrPort) (localNAT, remoteNAT bool) {
	i, r := uint64(msg.Header.InitiatorSPI), uint64(msg.Header.ResponderSPI)
	fromRemote, source := matches(msg, message.NATDetectionSourceIP, keys.NATDetection(i, r, remote))
	toLocal, destination := matches(msg, message.NATDetectionDestinationIP, keys.NATDetection(i, r, local))
	if !source || !destination {
		return false, false
	}
	return !toLocal, !fromRemote
}

// matches reports whether one of the notifications of a kind holds data: a peer
// that does not know which address it sends from sends several.
func matches(msg *message.Message, kind message.NotifyType, data []byte) (match, any bool) {
	for _, p := range msg.Payloads {
		if n, ok := p.(*message.Notify); ok && n.Kind == kind {
			any = true
			match = match || bytes.Equal(n.Data, data)
		}
	}
	return match, any
}
