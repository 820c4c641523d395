package packet

import (
	"encoding/binary"
	"math/bits"
)

// TCP options (RFC 9293, Section 3.1).
const (
	tcpOptionEnd  = 0
	tcpOptionNone = 1
	tcpOptionMSS  = 2
)

const tcpSYN = 1 << 1

// IsSYN reports whether b, which p was decoded from, begins or accepts a TCP
// connection.
func IsSYN(b []byte, p *Info) bool {
	return p.Protocol == ProtocolTCP && p.HasPorts && p.FragmentOffset == 0 &&
		len(b) >= p.HeaderLen+TCPHeaderLen && b[p.HeaderLen+tcpFlags]&tcpSYN != 0
}

// ClampMSS lowers the maximum segment size that the SYN segment b announces to
// most octets, and reports whether it was larger. A segment without the option
// is left alone: it stands for 536 or 1,220 octets (RFC 9293, Section 3.7.1).
func ClampMSS(b []byte, p *Info, most uint16) bool {
	if !IsSYN(b, p) {
		return false
	}
	t := b[p.HeaderLen:]
	end := int(t[tcpDataOffset]>>4) * 4
	if end > len(t) {
		return false
	}
	for i := TCPHeaderLen; i < end; {
		switch t[i] {
		case tcpOptionEnd:
			return false
		case tcpOptionNone:
			i++
			continue
		}
		if i+1 >= end {
			return false
		}
		n := int(t[i+1])
		if n < 2 || i+n > end {
			return false
		}
		if t[i] != tcpOptionMSS || n != 4 {
			i += n
			continue
		}
		before := binary.BigEndian.Uint16(t[i+2:])
		if before <= most {
			return false
		}
		binary.BigEndian.PutUint16(t[i+2:], most)
		if i%2 != 0 {
			// The octets stand in two words of the sum, the wrong way round.
			before, most = bits.ReverseBytes16(before), bits.ReverseBytes16(most)
		}
		sum := binary.BigEndian.Uint16(t[tcpChecksum:])
		binary.BigEndian.PutUint16(t[tcpChecksum:], UpdateChecksum(sum, before, most))
		return true
	}
	return false
}
