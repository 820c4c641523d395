package packet

import (
	"encoding/binary"
	"net/netip"
)

// TCP flags that cutting and joining treat by name (RFC 9293, Section 3.1).
const (
	tcpFIN = 1 << 0
	tcpPSH = 1 << 3
	tcpACK = 1 << 4
	tcpECE = 1 << 6
	tcpCWR = 1 << 7
)

// Offsets in TCP and UDP headers, in octets.
const (
	tcpSequence    = 4
	tcpDataOffset  = 12
	tcpFlags       = 13
	tcpChecksum    = 16
	udpLength      = 4
	udpChecksum    = 6
	ipv4LengthAt   = 2
	ipv4IDAt       = 4
	ipv4ChecksumAt = 10
	ipv6LengthAt   = 4
)

// maxSegmentHeader is the longest header that a Segmenter repeats: it is more
// than IPv4 and TCP with all their options take.
const maxSegmentHeader = 256

// SuperHeaderLen returns the length of the IP and transport headers of a packet
// that can stand for several, and false for one that cannot: it is no TCP or UDP
// packet, is a fragment, or has no payload. b is the packet that p was decoded
// from.
func SuperHeaderLen(b []byte, p *Info) (int, bool) {
	n := p.HeaderLen
	if p.Version == 0 || p.TotalLen != len(b) || p.IsFragment() {
		return 0, false
	}
	switch p.Protocol {
	case ProtocolTCP:
		if len(b) < n+TCPHeaderLen {
			return 0, false
		}
		length := int(b[n+tcpDataOffset]>>4) * 4
		if length < TCPHeaderLen {
			return 0, false
		}
		n += length
	case ProtocolUDP:
		n += UDPHeaderLen
	default:
		return 0, false
	}
	return n, n < len(b)
}

// ChecksumOffset is where the checksum stands in the header of TCP or UDP.
func ChecksumOffset(protocol uint8) int {
	if protocol == ProtocolTCP {
		return tcpChecksum
	}
	return udpChecksum
}

// FinishChecksum computes a checksum that was left to the network device: start
// is where its coverage begins, offset the place of its field after start, which
// holds the sum of the pseudo header. It reports false where the field is not
// within b.
func FinishChecksum(b []byte, start, offset int) bool {
	if start < 0 || offset < 0 || start+offset+2 > len(b) {
		return false
	}
	sum := ^Fold(Sum(0, b[start:]))
	if sum == 0 {
		sum = 0xffff // the same number, which UDP does not take for none
	}
	binary.BigEndian.PutUint16(b[start+offset:], sum)
	return true
}

// Segmenter cuts a super-packet, as a network device with segmentation offload
// gets it, into the packets that it stands for. It repeats the headers as such a
// device does: the IPv4 identification counts up, FIN and PSH are left to the
// last packet, CWR to the first (RFC 3168, Section 6.1.2).
//
// The zero value is ready for Start.
type Segmenter struct {
	b         []byte
	header    [maxSegmentHeader]byte
	headerLen int
	transport int // where the transport header begins
	segment   int // octets of payload
	at        int // where the next payload begins
	index     int
	sum       uint64 // of the pseudo header, without the length
	version   uint8
	protocol  uint8
}

// Start begins to cut b, decoded to p, into packets with segment octets of
// payload. It returns their number, or false for what is no super-packet.
func (s *Segmenter) Start(b []byte, p *Info, segment int) (n int, ok bool) {
	s.b = nil
	headerLen, ok := SuperHeaderLen(b, p)
	if !ok || segment <= 0 || headerLen > maxSegmentHeader {
		return 0, false
	}
	s.b, s.headerLen, s.transport, s.segment = b, headerLen, p.HeaderLen, segment
	s.at, s.index = headerLen, 0
	s.version, s.protocol = p.Version, p.Protocol
	copy(s.header[:headerLen], b)
	s.sum = PseudoHeaderSum(p.Src, p.Dst, p.Protocol, 0)
	return (len(b) - headerLen + segment - 1) / segment, true
}

// PacketLen is the length of every packet but the last.
func (s *Segmenter) PacketLen() int { return s.headerLen + min(s.segment, len(s.b)-s.headerLen) }

// Next returns the next packet, or nil after the last. It lies where its payload
// lies in the super-packet, and its headers overwrite the end of the packet
// before: each is to be used before the next is asked for.
func (s *Segmenter) Next() []byte {
	if s.at >= len(s.b) {
		return nil
	}
	start := s.at - s.headerLen
	end := min(s.at+s.segment, len(s.b))
	last := end == len(s.b)
	b := s.b[start:end]
	copy(b, s.header[:s.headerLen])

	if s.version == 4 {
		binary.BigEndian.PutUint16(b[ipv4LengthAt:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[ipv4IDAt:], binary.BigEndian.Uint16(b[ipv4IDAt:])+uint16(s.index))
		b[ipv4ChecksumAt], b[ipv4ChecksumAt+1] = 0, 0
		binary.BigEndian.PutUint16(b[ipv4ChecksumAt:], Checksum(b[:s.transport]))
	} else {
		binary.BigEndian.PutUint16(b[ipv6LengthAt:], uint16(len(b)-IPv6HeaderLen))
	}
	t := b[s.transport:]
	if s.protocol == ProtocolTCP {
		seq := binary.BigEndian.Uint32(t[tcpSequence:]) + uint32(s.at-s.headerLen)
		binary.BigEndian.PutUint32(t[tcpSequence:], seq)
		if s.index > 0 {
			t[tcpFlags] &^= tcpCWR
		}
		if !last {
			t[tcpFlags] &^= tcpFIN | tcpPSH
		}
	} else {
		binary.BigEndian.PutUint16(t[udpLength:], uint16(len(t)))
	}
	field := ChecksumOffset(s.protocol)
	t[field], t[field+1] = 0, 0
	sum := ^Fold(Sum(s.sum+uint64(len(t)), t))
	if sum == 0 && s.protocol == ProtocolUDP {
		sum = 0xffff // RFC 768: 0 says that there is none. TCP knows no such thing.
	}
	binary.BigEndian.PutUint16(t[field:], sum)

	s.at = end
	s.index++
	return b
}

// addresses reads the addresses of an IP packet with a whole header.
func addresses(b []byte) (src, dst netip.Addr) {
	if b[0]>>4 == 4 {
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	}
	return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
}
