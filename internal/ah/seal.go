package ah

import (
	"encoding/binary"
	"net/netip"

	"caponier/internal/drop"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/replay"
)

// Outbound authenticates the packets of one outbound SA. It belongs to one
// goroutine; several may work for one SA with an Outbound each, as long as they
// never use one sequence number twice.
type Outbound struct{ format }

// NewOutbound makes the sending half of sa. It keeps no reference to sa; the keys
// remain the caller's.
func NewOutbound(sa *ipsec.SA) (*Outbound, error) {
	f, err := newFormat(sa, ipsec.Out)
	if err != nil {
		return nil, err
	}
	return &Outbound{f}, nil
}

// SealItem is one packet for SealBatch: the arguments of Seal and its result.
type SealItem struct {
	Packet     []byte
	Seq        uint64
	NextHeader uint8
	Err        error // result: nil or a drop.Reason
}

// MaxSequence is the last sequence number of the SA: 2^32-1, or 2^64-1 with
// extended sequence numbers.
func (o *Outbound) MaxSequence() uint64 { return replay.MaxSequence(o.esn) }

// Seal fills in the AH header of pkt, in place. pkt is a whole IP packet as it
// will leave, whose headers say that AH follows and leave HeaderLen octets for
// it: those of an outer header before an inner packet (tunnel mode), or what
// Insert makes of a packet (transport mode). nextHeader is the protocol behind
// AH. In an IPv4 header the identification must be final: the ICV covers it.
//
// seq must be used for one packet only. Seal refuses 0 and numbers past
// MaxSequence: they never wrap. On an error, which is a drop.Reason, the octets
// of the AH header are undefined.
func (o *Outbound) Seal(pkt []byte, seq uint64, nextHeader uint8) error {
	if seq == 0 || seq > o.MaxSequence() {
		return drop.Sequence
	}
	l, err := locate(pkt)
	if err != nil {
		return err
	}
	n := o.HeaderLen(l.version)
	if l.total-l.at < n {
		return drop.Short
	}
	pkt = pkt[:l.total]
	masked, err := o.mask(pkt, l, true)
	if err != nil {
		return err
	}
	header := pkt[l.at : l.at+n]
	header[0] = nextHeader
	header[1] = byte(n/4 - 2) // in units of 4 octets, minus 2 (RFC 4302, Section 2.2)
	header[2], header[3] = 0, 0
	binary.BigEndian.PutUint32(header[4:], uint32(o.spi))
	binary.BigEndian.PutUint32(header[8:], uint32(seq))
	clear(header[fixedLen:])
	o.authenticate(masked, pkt, l.at, seq)
	copy(header[fixedLen:], o.mac.ICV())
	return nil
}

// SealBatch seals each item. One item's failure does not keep others back.
func (o *Outbound) SealBatch(items []SealItem) {
	for i := range items {
		it := &items[i]
		it.Err = o.Seal(it.Packet, it.Seq, it.NextHeader)
	}
}

// Insert makes room for AH in the whole IP packet pkt, for transport mode: it
// writes to the start of dst the headers of pkt, which now lead to AH, and its
// payload HeaderLen octets later than it was. dst and pkt overlap only where pkt
// starts at dst[HeaderLen]: then the payload stays where it is. It returns the
// length of the result and what stands behind AH, for Seal.
//
// AH stands at the packet's seam (packet.Seam). Fragments are refused. The error
// is a drop.Reason.
func (o *Outbound) Insert(dst, pkt []byte) (n int, nextHeader uint8, err error) {
	var info packet.Info
	if info.Decode(pkt); info.Version == 0 {
		return 0, 0, drop.Header
	}
	if info.IsFragment() {
		return 0, 0, drop.Fragment
	}
	seam := packet.SeamOf(pkt, &info)
	room := o.HeaderLen(info.Version)
	n = info.TotalLen + room
	if n > len(dst) || info.Version == 4 && n > MaxLen || n-packet.IPv6HeaderLen > MaxLen {
		return 0, 0, drop.Space
	}
	if payload := pkt[seam.At:info.TotalLen]; len(payload) > 0 && &payload[0] != &dst[seam.At+room] {
		copy(dst[seam.At+room:], payload)
	}
	copy(dst, pkt[:seam.At])
	seam.Close(dst[:n], packet.ProtocolAH, netip.Addr{}, netip.Addr{})
	return n, seam.Next, nil
}
