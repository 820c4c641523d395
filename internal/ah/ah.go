// Package ah authenticates IP packets with AH (RFC 4302) and verifies them, in
// memory that the caller owns. It holds no socket, clock or lock, and allocates
// nothing per packet.
//
//	 0                   1                   2                   3
//	+---------------+---------------+-------------------------------+
//	|  Next Header  |  Payload Len  |           RESERVED            |
//	+---------------+---------------+-------------------------------+
//	|               Security Parameters Index (SPI)                 |
//	+---------------------------------------------------------------+
//	|                      Sequence Number                          |
//	+---------------------------------------------------------------+
//	|       Integrity Check Value (ICV), and padding to a           |
//	|       multiple of 4 octets in IPv4, of 8 in IPv6              |
//	+---------------------------------------------------------------+
//
// The ICV covers the whole packet, from the IP header that stands before AH on,
// except for what may change on the way; see mask.go. So the functions of this
// package work on IP packets, where those of package esp work on what follows
// the IP header.
package ah

import (
	"encoding/binary"
	"errors"
	"fmt"

	"caponier/internal/drop"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/suite"
)

// fixedLen is the length of the AH header before the ICV, in octets.
const fixedLen = 12

// MaxLen is the length of the longest packet, in octets.
const MaxLen = 65535

// ErrUnsupported is returned for an SA that this package cannot serve: not AH,
// or with encryption.
var ErrUnsupported = errors.New("not an AH SA")

// PeekSPI returns the SPI of the AH header in the IP packet at the start of b. It
// may be a reserved one. The error is a drop.Reason.
func PeekSPI(b []byte) (ipsec.SPI, error) {
	l, err := locate(b)
	if err != nil {
		return 0, err
	}
	if l.total-l.at < fixedLen {
		return 0, drop.Short
	}
	return ipsec.SPI(binary.BigEndian.Uint32(b[l.at+4:])), nil
}

// format is what both directions of an SA know.
type format struct {
	mac    *suite.MAC
	spi    ipsec.SPI
	esn    bool
	icvLen int
	// masked is scratch space for the IP headers as the ICV covers them.
	masked [maxHeaders]byte
	high   [4]byte // scratch space, as masked
}

func newFormat(sa *ipsec.SA, d ipsec.Direction) (format, error) {
	switch {
	case sa.Protocol != ipsec.AH || sa.Encr != ipsec.Transform{} || !sa.EncrKey.IsZero():
		return format{}, fmt.Errorf("ah: SA %s: %w", sa.SPI, ErrUnsupported)
	case sa.SPI < ipsec.MinSPI:
		return format{}, fmt.Errorf("ah: SPI %s is reserved", sa.SPI)
	case sa.Direction != d:
		return format{}, fmt.Errorf("ah: SA %s is not for direction %s", sa.SPI, d)
	}
	mac, err := suite.NewMAC(sa.Integ, sa.IntegKey.Bytes())
	if err != nil {
		return format{}, fmt.Errorf("ah: SA %s: %w", sa.SPI, err)
	}
	return format{mac: mac, spi: sa.SPI, esn: sa.ESN, icvLen: mac.ICVLen()}, nil
}

// zeros stands for the ICV in its own computation.
var zeros [64]byte

// authenticate gives the MAC all that the ICV covers: the headers as they are
// masked, and of pkt what begins with the AH header at the octet at (RFC 4302,
// Section 3.3.3).
func (f *format) authenticate(masked, pkt []byte, at int, seq uint64) {
	f.mac.Reset()
	f.mac.Write(masked)
	f.mac.Write(pkt[at : at+fixedLen])
	f.mac.Write(zeros[:f.icvLen])
	f.mac.Write(pkt[at+fixedLen+f.icvLen:])
	if f.esn {
		binary.BigEndian.PutUint32(f.high[:], uint32(seq>>32))
		f.mac.Write(f.high[:])
	}
}

// SPI returns the SPI of the SA.
func (f *format) SPI() ipsec.SPI { return f.spi }

// HeaderLen is the length of the AH header in packets of the IP version, in
// octets: a multiple of 4 for IPv4 and of 8 for IPv6 (RFC 4302, Section 2.6).
func (f *format) HeaderLen(version uint8) int {
	if version == 6 {
		return roundUp(fixedLen+f.icvLen, 8)
	}
	return roundUp(fixedLen+f.icvLen, 4)
}

// Overhead is by how much AH makes a packet longer: by its header, and in tunnel
// mode by the outer IP header of the version too, which has no options.
func (f *format) Overhead(m ipsec.Mode, version uint8) int {
	n := f.HeaderLen(version)
	switch {
	case m != ipsec.Tunnel:
	case version == 6:
		n += packet.IPv6HeaderLen
	default:
		n += packet.IPv4HeaderLen
	}
	return n
}

// Wipe overwrites the keys as far as they can be reached. The SA must not be
// used afterwards.
func (f *format) Wipe() {
	f.mac.Wipe()
	clear(f.masked[:])
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

// layout is where in an IP packet the AH header stands.
type layout struct {
	version uint8
	at      int // of the AH header
	pointer int // of the octet that says that it is AH
	total   int // the length of the packet
}

// locate finds the AH header behind the headers of the IP packet at the start of
// b. It does not look at it. The error is a drop.Reason.
func locate(b []byte) (layout, error) {
	if len(b) < packet.IPv4HeaderLen {
		return layout{}, drop.Short
	}
	var l layout
	var err error
	switch b[0] >> 4 {
	case 4:
		l, err = locate4(b)
	case 6:
		l, err = locate6(b)
	default:
		err = drop.Header
	}
	if err == nil && b[l.pointer] != packet.ProtocolAH {
		err = drop.Header
	}
	return l, err
}

func locate4(b []byte) (layout, error) {
	l := layout{version: 4, at: int(b[0]&0xf) * 4, pointer: 9, total: int(binary.BigEndian.Uint16(b[2:]))}
	switch {
	case l.at < packet.IPv4HeaderLen || l.total < l.at:
		return l, drop.Header
	case l.total > len(b):
		return l, drop.Short
	case binary.BigEndian.Uint16(b[6:])&0x3fff != 0: // more fragments, or an offset
		return l, drop.Fragment
	}
	return l, nil
}

func locate6(b []byte) (layout, error) {
	if len(b) < packet.IPv6HeaderLen {
		return layout{}, drop.Short
	}
	l := layout{version: 6, at: packet.IPv6HeaderLen, pointer: 6}
	if l.total = l.at + int(binary.BigEndian.Uint16(b[4:])); l.total > len(b) {
		return l, drop.Short
	}
	for {
		switch b[l.pointer] {
		case packet.ProtocolHopByHop, packet.ProtocolRouting, packet.ProtocolDestination:
		case packet.ProtocolFragment:
			return l, drop.Fragment
		default:
			return l, nil
		}
		n := extensionLen(b[l.at:l.total])
		if n == 0 || l.at+n > maxHeaders {
			return l, drop.Header
		}
		l.pointer = l.at
		l.at += n
	}
}

// extensionLen is the length of the extension header at the start of b, or 0 if
// it is not all there (RFC 8200, Section 4).
func extensionLen(b []byte) int {
	if len(b) < 8 {
		return 0
	}
	n := 8 + int(b[1])*8
	if n > len(b) {
		return 0
	}
	return n
}
