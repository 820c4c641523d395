package frame

import (
	"encoding/binary"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

// SA is what the packets of an inbound SA name it by.
type SA struct {
	Protocol ipsec.Protocol
	SPI      ipsec.SPI
}

// Sifter is a Capture that can drop sealed packets for which there is no inbound
// SA where they arrive, before anything is spent on them. It counts them as the
// data plane does.
type Sifter interface {
	Capture
	// Admit says of an SA that there is one from now on. It has to come before the
	// peer may send. Where an error says that there is no room for it, nothing is
	// dropped any more until there is.
	Admit(SA) error
	// Dismiss says that there is none any more.
	Dismiss(SA)
	// Sift begins or ends to drop. A Sifter that was not asked drops nothing.
	Sift(on bool) error
}

// Asks returns the SA that the frame b asks for, and false for one that Ours does
// not take for sealed, or that is too short to name an SA.
func (s *Steering) Asks(mac [6]byte, tagged bool, b []byte) (SA, bool) {
	var sa SA
	at := 0 // the SPI in what follows the IP header
	switch s.Ours(mac, tagged, b) {
	case OuterESP:
		sa.Protocol = ipsec.ESP
	case OuterUDP:
		sa.Protocol, at = ipsec.ESP, packet.UDPHeaderLen
	case OuterAH:
		sa.Protocol, at = ipsec.AH, 4 // RFC 4302, Section 2
	case Other, Inner:
		return SA{}, false
	}
	h, _ := Parse(b)
	at += h.Len + packet.IPv4HeaderLen
	if h.Type == TypeIPv6 {
		at += packet.IPv6HeaderLen - packet.IPv4HeaderLen
	}
	if len(b) < at+4 {
		return SA{}, false
	}
	sa.SPI = ipsec.SPI(binary.BigEndian.Uint32(b[at:]))
	return sa, true
}
