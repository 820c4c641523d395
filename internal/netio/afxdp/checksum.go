package afxdp

import (
	"encoding/binary"
	"net/netip"

	"caponier/internal/netio/frame"
	"caponier/internal/packet"
)

// Interfaces in memory (veth, virtio) leave the TCP and UDP checksums of what
// their own host sends unfinished, for a network card that never comes. With the
// kernel's description of the frame the mark of it is lost on the way to the
// socket; what is left is the field itself, which holds the sum of the pseudo
// header alone. That is finished here. One of 65,536 finished packets has that
// value by chance, and finishing gives it the same again.

// Places of the checksums in their headers.
const (
	tcpChecksum = 16
	udpChecksum = 6
)

// finish completes the TCP or UDP checksum of the frame b where its sender has
// left that to the interface. ESP in UDP is left alone: nobody looks at its
// checksum (RFC 3948, Section 2.1).
func finish(b []byte) {
	h, ok := frame.Parse(b)
	if !ok {
		return
	}
	b = b[h.Len:]
	var src, dst netip.Addr
	var protocol uint8
	var segment []byte
	switch {
	case h.Type == frame.TypeIPv4 && len(b) >= packet.IPv4HeaderLen && b[0] == 0x45:
		total := int(binary.BigEndian.Uint16(b[2:]))
		if total < packet.IPv4HeaderLen || total > len(b) || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
			return
		}
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		protocol, segment = b[9], b[packet.IPv4HeaderLen:total]
	case h.Type == frame.TypeIPv6 && len(b) >= packet.IPv6HeaderLen && b[0]>>4 == 6:
		end := packet.IPv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
		if end > len(b) {
			return
		}
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		protocol, segment = b[6], b[packet.IPv6HeaderLen:end]
	default:
		return
	}
	var at int
	switch {
	case protocol == packet.ProtocolTCP && len(segment) >= packet.TCPHeaderLen:
		at = tcpChecksum
	case protocol == packet.ProtocolUDP && len(segment) >= packet.UDPHeaderLen:
		at = udpChecksum
		if binary.BigEndian.Uint16(segment[2:]) == natPort || binary.BigEndian.Uint16(segment) == natPort {
			return
		}
	default:
		return
	}
	field := segment[at : at+2]
	if binary.BigEndian.Uint16(field) != packet.Fold(packet.PseudoHeaderSum(src, dst, protocol, len(segment))) {
		return
	}
	sum := packet.Checksum(segment)
	if sum == 0 && protocol == packet.ProtocolUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(field, sum)
}

// natPort is the port of ESP in UDP (RFC 3948, Section 2.1).
const natPort = 4500
