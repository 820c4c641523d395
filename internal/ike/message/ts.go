package message

import (
	"encoding/binary"
	"net/netip"

	"caponier/internal/ipsec"
)

// TS is the Traffic Selector payload (RFC 7296, Section 3.13).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Number of TSs |                 RESERVED                      |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                       <Traffic Selectors>                     ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//
// The parser leaves out selectors that match nothing which ipsec.Selector can
// describe: those of unknown types, those with addresses or ports in reverse
// order, and so also those for OPAQUE ports (65535 to 0), which stand for
// packets whose ports cannot be seen. A peer that offers nothing else gets
// TS_UNACCEPTABLE; a peer that offers more gets a narrower SA.
type TS struct {
	Responder bool // TSr, otherwise TSi
	Selectors []ipsec.Selector
}

// The traffic selector types (RFC 7296, Section 3.13.1), with the lengths of
// the selectors.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|   TS Type     |IP Protocol ID*|       Selector Length         |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|           Start Port*         |           End Port*           |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                         Starting Address*                     ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                         Ending Address*                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
const (
	tsIPv4AddrRange = 7
	tsIPv6AddrRange = 8

	tsIPv4Len = 8 + 2*4
	tsIPv6Len = 8 + 2*16
)

// Type is TypeTSi or TypeTSr.
func (p *TS) Type() PayloadType {
	if p.Responder {
		return TypeTSr
	}
	return TypeTSi
}

func parseTS(b []byte, responder bool) (*TS, error) {
	if len(b) < 4 {
		return nil, syntaxf("%d octets are too few", len(b))
	}
	p := &TS{Responder: responder}
	count, b := int(b[0]), b[4:]
	for ; count > 0; count-- {
		if len(b) < 4 {
			return nil, syntaxf("%d more selectors in %d octets", count, len(b))
		}
		kind, n := b[0], int(binary.BigEndian.Uint16(b[2:]))
		if n < 4 || n > len(b) || kind == tsIPv4AddrRange && n != tsIPv4Len || kind == tsIPv6AddrRange && n != tsIPv6Len {
			return nil, syntaxf("selector of type %d has length %d with %d octets left", kind, n, len(b))
		}
		if kind == tsIPv4AddrRange || kind == tsIPv6AddrRange {
			if s := parseSelector(b[:n]); s.IsValid() && s.FirstPort <= s.LastPort {
				p.Selectors = append(p.Selectors, s)
			}
		}
		b = b[n:]
	}
	if len(b) > 0 {
		return nil, syntaxf("%d octets follow the last selector", len(b))
	}
	return p, nil
}

// parseSelector reads a selector of a known type and the length that goes with it.
func parseSelector(b []byte) ipsec.Selector {
	addrs := b[8:]
	first, _ := netip.AddrFromSlice(addrs[:len(addrs)/2])
	last, _ := netip.AddrFromSlice(addrs[len(addrs)/2:])
	return ipsec.Selector{
		First: first, Last: last,
		Protocol:  b[1],
		FirstPort: binary.BigEndian.Uint16(b[4:]),
		LastPort:  binary.BigEndian.Uint16(b[6:]),
	}
}

func (p *TS) appendBody(dst []byte) ([]byte, error) {
	if len(p.Selectors) == 0 || len(p.Selectors) > 0xff {
		return dst, encodef("%d selectors", len(p.Selectors))
	}
	dst = append(dst, byte(len(p.Selectors)), 0, 0, 0)
	for _, s := range p.Selectors {
		if !s.IsValid() || s.FirstPort > s.LastPort {
			return dst, encodef("selector with addresses or ports in reverse order")
		}
		kind, n := byte(tsIPv6AddrRange), uint16(tsIPv6Len)
		if s.Is4() {
			kind, n = tsIPv4AddrRange, tsIPv4Len
		}
		dst = append(dst, kind, s.Protocol)
		dst = binary.BigEndian.AppendUint16(dst, n)
		dst = binary.BigEndian.AppendUint16(dst, s.FirstPort)
		dst = binary.BigEndian.AppendUint16(dst, s.LastPort)
		dst = append(dst, s.First.AsSlice()...)
		dst = append(dst, s.Last.AsSlice()...)
	}
	return dst, nil
}
