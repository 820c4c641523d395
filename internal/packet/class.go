package packet

import (
	"encoding/binary"

	"caponier/internal/ipsec"
)

// The ECN codepoints: the low two bits of the traffic class (RFC 3168, Section
// 5).
const (
	NotECT  uint8 = 0
	ECT1    uint8 = 1
	ECT0    uint8 = 2
	CE      uint8 = 3
	ecnBits uint8 = 3
)

// OuterClass returns the traffic class of the outer header for an inner packet
// of this class (RFC 4301, Section 5.1.2; RFC 6040, Section 4.1).
func OuterClass(inner uint8, o ipsec.Outer) uint8 {
	var class uint8
	if o.DSCP.Hands() {
		class = inner &^ ecnBits
	}
	if !o.NoECN {
		class |= inner & ecnBits
	}
	return class
}

// OuterDF returns the DF bit of the outer header for the inner packet p. IPv6
// packets count as having it: no router fragments them.
func OuterDF(p *Info, o ipsec.Outer) bool {
	switch o.DF {
	case ipsec.SetDF:
		return true
	case ipsec.ClearDF:
		return false
	default:
		return p.Version == 6 || p.DontFragment
	}
}

// ECNFault says what is odd about a pair of ECN codepoints (RFC 6040, Section
// 4.2).
type ECNFault uint8

// The faults.
const (
	ECNFine ECNFault = iota
	// ECNUnused: no encapsulator that follows the RFC makes this pair. The packet
	// goes on.
	ECNUnused
	// ECNLost: congestion was met by a packet whose sender would not hear of it:
	// it must be dropped.
	ECNLost
)

// decapsulation is the table of RFC 6040, Figure 4: by inner, then by outer
// codepoint, in the order of their numbers: Not-ECT, ECT(1), ECT(0), CE.
var decapsulation = [4][4]struct {
	ecn   uint8
	fault ECNFault
}{
	NotECT: {{NotECT, ECNFine}, {NotECT, ECNUnused}, {NotECT, ECNUnused}, {NotECT, ECNLost}},
	ECT1:   {{ECT1, ECNFine}, {ECT1, ECNFine}, {ECT1, ECNUnused}, {CE, ECNFine}},
	ECT0:   {{ECT0, ECNFine}, {ECT1, ECNFine}, {ECT0, ECNFine}, {CE, ECNFine}},
	CE:     {{CE, ECNFine}, {CE, ECNUnused}, {CE, ECNFine}, {CE, ECNFine}},
}

// InnerClass returns the traffic class that a packet goes on with when it came
// out of a tunnel: inner is what it had inside, outer that of the outer header.
func InnerClass(inner, outer uint8, o ipsec.Outer) (class uint8, fault ECNFault) {
	class = inner
	if o.DSCP.Believes() {
		class = outer&^ecnBits | inner&ecnBits
	}
	if o.NoECN {
		return class, ECNFine
	}
	d := decapsulation[inner&ecnBits][outer&ecnBits]
	return class&^ecnBits | d.ecn, d.fault
}

// SetTrafficClass changes the traffic class of the IP packet at the start of b,
// which has a whole header.
func SetTrafficClass(b []byte, class uint8) {
	if b[0]>>4 == 6 {
		b[0] = 6<<4 | class>>4
		b[1] = class<<4 | b[1]&0x0f
		return
	}
	before := binary.BigEndian.Uint16(b)
	b[1] = class
	sum := binary.BigEndian.Uint16(b[ipv4ChecksumAt:])
	binary.BigEndian.PutUint16(b[ipv4ChecksumAt:], UpdateChecksum(sum, before, binary.BigEndian.Uint16(b)))
}

// UpdateChecksum returns the checksum of a packet in which one word has changed
// (RFC 1624, Equation 3).
func UpdateChecksum(sum, before, after uint16) uint16 {
	return ^Fold(uint64(^sum) + uint64(^before) + uint64(after))
}
