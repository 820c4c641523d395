// Package esp seals and opens ESP packets (RFC 4303), in memory that the caller
// owns. It holds no socket, clock or lock, and allocates nothing per packet.
//
// What it protects is an IP packet in tunnel mode, and what follows the IP header
// in transport mode: parting and joining the packet is the caller's (packet.Seam).
// In AGGFRAG mode it is a payload that several packets share: filling it and taking
// it apart is the caller's too (package aggfrag).
//
//	 0                   1                   2                   3
//	+---------------------------------------------------------------+
//	|               Security Parameters Index (SPI)                 |
//	+---------------------------------------------------------------+
//	|                      Sequence Number                          |
//	+---------------------------------------------------------------+
//	|                    IV (IVLen of the cipher)                   |
//	+---------------------------------------------------------------+
//	|                    inner packet (encrypted)                   |
//	+               +-----------------------------------------------+
//	|               |  padding 1, 2, 3 ...  | Pad Length | Next Hdr |
//	+---------------------------------------------------------------+
//	|                 Integrity Check Value (ICV)                   |
//	+---------------------------------------------------------------+
package esp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// HeaderLen is the length of SPI and sequence number, in octets.
const HeaderLen = 8

// MaxLen is the length of the longest ESP packet that fits an IPv4 packet.
const MaxLen = 65535 - 20

// trailerLen is the length of Pad Length and Next Header.
const trailerLen = 2

// alignment is what the ciphertext ends on at least (RFC 4303, Section 2.4).
const alignment = 4

// Next header values of tunnel mode (RFC 4303, Sections 2.6 and 3.1.2).
const (
	NextIPv4  uint8 = 4
	NextIPv6  uint8 = 41
	NextDummy uint8 = 59
)

// ErrUnsupported is returned for an SA that this package cannot serve.
var ErrUnsupported = errors.New("not an ESP SA")

// PeekSPI returns the SPI of the ESP packet at the start of b, and false if b is
// too short for one or the SPI is reserved. After a UDP header an SPI of 0 is
// the non-ESP marker (RFC 3948, Section 2.2).
func PeekSPI(b []byte) (ipsec.SPI, bool) {
	if len(b) < HeaderLen {
		return 0, false
	}
	spi := ipsec.SPI(binary.BigEndian.Uint32(b))
	return spi, spi >= ipsec.MinSPI
}

// format is what both directions of an SA know of the packet layout.
type format struct {
	// protector is nil until a packet needs it, see awake: expanded keys are large,
	// and of ten thousand SAs many never see one. Until then there are the keys, that
	// of the cipher, of encrLen octets, before the other's.
	protector   suite.Protector
	keys        []byte
	encr, integ ipsec.Transform
	encrLen     uint8

	spi       ipsec.SPI
	esn       bool
	transport bool // in transport mode, otherwise in tunnel mode
	aggfrag   bool // carries AGGFRAG payloads
	combined  bool
	ivLen     uint8
	icvLen    uint8
	align     uint8 // of the ciphertext: a power of two
	minBatch  uint8 // packets in company that go faster; 0 where none do
	scratch   extended
}

// extended holds the AAD of a combined-mode algorithm with extended sequence
// numbers, or else the high half of such a number.
type extended [12]byte

func newFormat(sa *ipsec.SA, d ipsec.Direction) (format, error) {
	switch {
	case sa.Protocol != ipsec.ESP || sa.Mode != ipsec.Tunnel && sa.Mode != ipsec.Transport:
		return format{}, fmt.Errorf("esp: SA %s: %w", sa.SPI, ErrUnsupported)
	case sa.Aggfrag.On && sa.Mode != ipsec.Tunnel:
		return format{}, fmt.Errorf("esp: SA %s: AGGFRAG mode is for tunnels: %w", sa.SPI, ErrUnsupported)
	case sa.SPI < ipsec.MinSPI:
		return format{}, fmt.Errorf("esp: SPI %s is reserved", sa.SPI)
	case sa.Direction != d:
		return format{}, fmt.Errorf("esp: SA %s is not for direction %s", sa.SPI, d)
	}
	p, err := suite.NewProtector(sa.Encr, sa.Integ, sa.EncrKey.Bytes(), sa.IntegKey.Bytes())
	if err != nil {
		return format{}, fmt.Errorf("esp: SA %s: %w", sa.SPI, err)
	}
	defer p.Wipe()
	f := format{
		keys:      slices.Concat(sa.EncrKey.Bytes(), sa.IntegKey.Bytes()),
		encr:      sa.Encr,
		integ:     sa.Integ,
		encrLen:   uint8(sa.EncrKey.Len()),
		spi:       sa.SPI,
		esn:       sa.ESN,
		transport: sa.Mode == ipsec.Transport,
		aggfrag:   sa.Aggfrag.On,
		combined:  p.Combined(),
		ivLen:     uint8(p.IVLen()),
		icvLen:    uint8(p.ICVLen()),
		align:     uint8(max(alignment, p.BlockSize())),
	}
	if b, ok := p.(suite.Batcher); ok {
		f.minBatch = uint8(b.MinBatch())
	}
	return f, nil
}

// awake returns the protector. The first packet of an SA makes it, which is all
// that is ever allocated.
func (f *format) awake() suite.Protector {
	if f.protector == nil {
		f.expand()
	}
	return f.protector
}

func (f *format) expand() {
	p, err := suite.NewProtector(f.encr, f.integ, f.keys[:f.encrLen], f.keys[f.encrLen:])
	if err != nil {
		panic(err) // cannot be: newFormat has made one of these keys
	}
	f.protector = p
	clear(f.keys)
	f.keys = nil
}

// authenticated returns what the ICV covers beside IV and ciphertext: aad
// before, tail after. With extended sequence numbers the high half stands
// inside the AAD of combined-mode algorithms (RFC 4106, Section 5) and behind
// the ciphertext for others (RFC 4303, Section 2.2.1). They may lie in scratch.
func (f *format) authenticated(header []byte, seq uint64, scratch *extended) (aad, tail []byte) {
	switch {
	case !f.esn:
		return header[:HeaderLen], nil
	case f.combined:
		copy(scratch[:4], header)
		binary.BigEndian.PutUint64(scratch[4:], seq)
		return scratch[:12], nil
	default:
		binary.BigEndian.PutUint32(scratch[:4], uint32(seq>>32))
		return header[:HeaderLen], scratch[:4]
	}
}

// SPI returns the SPI of the SA.
func (f *format) SPI() ipsec.SPI { return f.spi }

// HeadRoom is the number of octets before the inner packet: ESP header and IV.
func (f *format) HeadRoom() int { return HeaderLen + int(f.ivLen) }

// TailRoom is the largest number of octets after the inner packet: padding,
// trailer and ICV.
func (f *format) TailRoom() int { return int(f.align) - 1 + trailerLen + int(f.icvLen) }

// Overhead is by how much ESP makes a packet longer at most. Headers outside of
// ESP come on top.
func (f *format) Overhead() int { return f.HeadRoom() + f.TailRoom() }

// Wipe overwrites the keys as far as they can be reached. The SA must not be
// used afterwards.
func (f *format) Wipe() {
	clear(f.keys)
	f.keys = nil
	if f.protector != nil {
		f.protector.Wipe()
	}
}
