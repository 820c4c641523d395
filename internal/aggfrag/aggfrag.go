// Package aggfrag packs IP packets into the payloads of ESP packets and takes them
// out again, as AGGFRAG mode does (RFC 9347): several small packets share one
// payload, and a packet that does not fit goes on in the next. It holds no socket,
// clock or lock, and allocates nothing per packet once it has seen what comes.
//
//	 0                   1                   2                   3
//	+---------------------------------------------------------------+
//	| Sub-type (0)  |   Reserved    |         BlockOffset           |
//	+---------------------------------------------------------------+
//	| rest of the packet that the payload before began: BlockOffset |
//	| octets, which may be more than the payload has                |
//	+---------------------------------------------------------------+
//	| data block: an IP packet, which begins with its version, 4 or |
//	| 6, and is as long as its header says; the last may go on in   |
//	| the next payload                                              |
//	+---------------------------------------------------------------+
//	| pad block: begins with 0, and goes to the end                 |
//	+---------------------------------------------------------------+
//
// Sub-type 1 has 20 octets of congestion information before the blocks, a Report
// (RFC 9347, Section 6.1.2).
package aggfrag

import (
	"encoding/binary"
	"errors"

	"caponier/internal/packet"
)

// NextHeader is the Next Header of ESP packets with such a payload (RFC 9347,
// Section 6.1).
const NextHeader = 144

// HeaderLen is the length of the header of sub-type 0, in octets, and ReportLen
// that of sub-type 1.
const (
	HeaderLen = 4
	ReportLen = 24
)

// The sub-types (RFC 9347, Section 7.1).
const (
	subtypePlain      = 0
	subtypeCongestion = 1
)

// Kinds of data blocks: the first four bits (RFC 9347, Section 6.1.3).
const (
	blockPad  = 0
	blockIPv4 = 4
	blockIPv6 = 6
)

// maxPacket is the longest packet that is carried, in octets.
const maxPacket = 65535

// errHeader is returned for a payload whose header cannot be read.
var errHeader = errors.New("aggfrag: the header is cut off or of an unknown sub-type")

// parse returns BlockOffset and what follows the header of the payload b.
func parse(b []byte) (offset int, blocks []byte, err error) {
	if len(b) < HeaderLen {
		return 0, nil, errHeader
	}
	n := HeaderLen
	if b[0] == subtypeCongestion {
		n = ReportLen
	}
	if b[0] > subtypeCongestion || len(b) < n {
		return 0, nil, errHeader
	}
	return int(binary.BigEndian.Uint16(b[2:])), b[n:], nil
}

// putHeader writes the header of sub-type 0.
func putHeader(b []byte, offset int) {
	b[0], b[1] = subtypePlain, 0
	binary.BigEndian.PutUint16(b[2:], uint16(offset))
}

// blockLen returns the length of the packet that begins with b, 0 where b is too
// short to tell, and -1 where no packet begins so.
func blockLen(b []byte) int {
	n := 0
	switch b[0] >> 4 {
	case blockIPv4:
		if len(b) < 4 {
			return 0
		}
		if n = int(binary.BigEndian.Uint16(b[2:])); n < packet.IPv4HeaderLen {
			return -1
		}
	case blockIPv6:
		if len(b) < 6 {
			return 0
		}
		n = packet.IPv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	default:
		return -1
	}
	if n > maxPacket {
		return -1
	}
	return n
}
