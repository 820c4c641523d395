package esp

import (
	"encoding/binary"
	"math"

	"caponier/internal/ipsec"
)

// Outbound seals the packets of one outbound SA. It belongs to one goroutine;
// several may seal for one SA with an Outbound each, as long as they never use
// one sequence number twice.
type Outbound struct{ format }

// NewOutbound makes the sealing half of sa. It keeps no reference to sa; the
// keys remain the caller's.
func NewOutbound(sa *ipsec.SA) (*Outbound, error) {
	f, err := newFormat(sa, ipsec.Out)
	if err != nil {
		return nil, err
	}
	return &Outbound{f}, nil
}

// SealItem is one packet for SealBatch: the arguments of Seal and its results.
type SealItem struct {
	Dst, Inner []byte
	Seq        uint64
	NextHeader uint8
	Len        int   // result: Dst[:Len] is the ESP packet
	Err        error // result: nil or a Drop
}

// SealedLen returns the length of the ESP packet for an inner packet of n
// octets.
func (o *Outbound) SealedLen(n int) int {
	return o.HeadRoom() + roundUp(n+trailerLen, o.align) + o.icvLen
}

// MaxInner returns the length of the longest inner packet whose ESP packet has
// at most n octets, or a negative number if there is none.
func (o *Outbound) MaxInner(n int) int {
	n -= o.HeadRoom() + o.icvLen
	if n < o.align {
		return -1
	}
	return n - n%o.align - trailerLen
}

// MaxSequence is the last sequence number of the SA: 2^32-1, or 2^64-1 with
// extended sequence numbers.
func (o *Outbound) MaxSequence() uint64 {
	if o.esn {
		return math.MaxUint64
	}
	return math.MaxUint32
}

// Seal writes the ESP packet for inner to the start of dst and returns its
// length, SealedLen(len(inner)). dst must be that long. inner may lie anywhere
// in dst or outside of it; where it starts at dst[HeadRoom()] already, it is
// encrypted in place without a copy. On an error, which is a Drop, dst is as it
// was.
//
// seq must be used for one packet only. Seal refuses 0 and numbers past
// MaxSequence: they never wrap. nextHeader is NextIPv4, NextIPv6 or NextDummy.
func (o *Outbound) Seal(dst, inner []byte, seq uint64, nextHeader uint8) (int, error) {
	if seq == 0 || seq > o.MaxSequence() {
		return 0, ErrSequence
	}
	head := o.HeadRoom()
	padded := roundUp(len(inner)+trailerLen, o.align)
	n := head + padded + o.icvLen
	if n > len(dst) || n > MaxLen {
		return 0, ErrSpace
	}
	dst = dst[:n]
	body := dst[head:]
	if len(inner) > 0 && &inner[0] != &body[0] {
		copy(body, inner)
	}
	pad := body[len(inner) : padded-trailerLen]
	for i := range pad {
		pad[i] = byte(i + 1)
	}
	body[padded-2] = byte(len(pad))
	body[padded-1] = nextHeader

	binary.BigEndian.PutUint32(dst, uint32(o.spi))
	binary.BigEndian.PutUint32(dst[4:], uint32(seq))
	iv := dst[HeaderLen:head]
	o.protector.NextIV(iv, seq)
	aad, tail := o.authenticated(dst, seq)
	o.protector.Seal(body, iv, body[:padded], aad, tail)
	return n, nil
}

// SealBatch seals each item. One item's failure does not keep others back.
func (o *Outbound) SealBatch(items []SealItem) {
	for i := range items {
		it := &items[i]
		it.Len, it.Err = o.Seal(it.Dst, it.Inner, it.Seq, it.NextHeader)
	}
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }
