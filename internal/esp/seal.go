package esp

import (
	"encoding/binary"

	"caponier/internal/ipsec"
	"caponier/internal/replay"
	"caponier/internal/suite"
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
	return o.HeadRoom() + roundUp(n+trailerLen, int(o.align)) + int(o.icvLen)
}

// MaxInner returns the length of the longest inner packet whose ESP packet has
// at most n octets, or a negative number if there is none.
func (o *Outbound) MaxInner(n int) int {
	n -= o.HeadRoom() + int(o.icvLen)
	align := int(o.align)
	if n < align {
		return -1
	}
	return n - n%align - trailerLen
}

// MaxSequence is the last sequence number of the SA: 2^32-1, or 2^64-1 with
// extended sequence numbers.
func (o *Outbound) MaxSequence() uint64 { return replay.MaxSequence(o.esn) }

// Seal writes the ESP packet for inner to the start of dst and returns its
// length, SealedLen(len(inner)). dst must be that long. inner may lie anywhere
// in dst or outside of it; where it starts at dst[HeadRoom()] already, it is
// encrypted in place without a copy. On an error, which is a Drop, dst is as it
// was.
//
// seq must be used for one packet only. Seal refuses 0 and numbers past
// MaxSequence: they never wrap. nextHeader is NextIPv4, NextIPv6 or NextDummy, in
// transport mode the protocol of inner, and in AGGFRAG mode aggfrag.NextHeader.
func (o *Outbound) Seal(dst, inner []byte, seq uint64, nextHeader uint8) (int, error) {
	padded, n, err := o.fit(dst, inner, seq)
	if err != nil {
		return 0, err
	}
	o.seal(dst[:n], o.place(dst, inner, padded, nextHeader), seq)
	return n, nil
}

// place puts the padded plaintext where its ciphertext is to be.
func (o *Outbound) place(dst, inner []byte, padded int, nextHeader uint8) []byte {
	body := dst[o.HeadRoom():][:padded]
	if len(inner) > 0 && &inner[0] != &body[0] {
		copy(body, inner)
	}
	putTrailer(body[len(inner):], nextHeader)
	return body
}

// maxTrailer is room for the padding and trailer of any suite: blocks of up to
// 16 octets.
const maxTrailer = 15 + trailerLen

// SealFrom seals like Seal, but reads inner where it lies, outside of dst, so
// that the packet is not copied first. The octets behind inner, TailRoom of
// them, must be within its capacity: they are used meanwhile, and are as before
// when SealFrom returns.
func (o *Outbound) SealFrom(dst, inner []byte, seq uint64, nextHeader uint8) (int, error) {
	padded, n, err := o.fit(dst, inner, seq)
	if err != nil {
		return 0, err
	}
	var saved [maxTrailer]byte
	if padded > cap(inner) || padded-len(inner) > len(saved) {
		return 0, ErrSpace
	}
	plain := inner[:padded]
	trailer := plain[len(inner):]
	copy(saved[:], trailer)
	putTrailer(trailer, nextHeader)
	o.seal(dst[:n], plain, seq)
	copy(trailer, saved[:])
	return n, nil
}

// fit returns the lengths of the padded plaintext and of the ESP packet, if all
// is well.
func (o *Outbound) fit(dst, inner []byte, seq uint64) (padded, n int, err error) {
	if seq == 0 || seq > o.MaxSequence() {
		return 0, 0, ErrSequence
	}
	padded = roundUp(len(inner)+trailerLen, int(o.align))
	n = o.HeadRoom() + padded + int(o.icvLen)
	if n > len(dst) || n > MaxLen {
		return 0, 0, ErrSpace
	}
	return padded, n, nil
}

// putTrailer fills b, what follows the inner packet, with padding and trailer.
func putTrailer(b []byte, nextHeader uint8) {
	pad := b[:len(b)-trailerLen]
	for i := range pad {
		pad[i] = byte(i + 1)
	}
	b[len(b)-2] = byte(len(pad))
	b[len(b)-1] = nextHeader
}

// seal writes the ESP packet of the padded plaintext to dst.
func (o *Outbound) seal(dst, plain []byte, seq uint64) {
	p := o.awake()
	iv := o.putHeader(p, dst, seq)
	aad, tail := o.authenticated(dst, seq, &o.scratch)
	p.Seal(dst[o.HeadRoom():], iv, plain, aad, tail)
}

// putHeader writes what stands before the ciphertext, and returns the IV.
func (o *Outbound) putHeader(p suite.Protector, dst []byte, seq uint64) (iv []byte) {
	binary.BigEndian.PutUint32(dst, uint32(o.spi))
	binary.BigEndian.PutUint32(dst[4:], uint32(seq))
	iv = dst[HeaderLen:o.HeadRoom()]
	p.NextIV(iv, seq)
	return iv
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }
