package main

import (
	"encoding/binary"

	"caponier/internal/sm/derive"
	"caponier/internal/vasm"
)

// sbox says which instructions compute the S-box.
type sbox int

const (
	withGFNI sbox = iota
	withAES
)

// B builds functions of one flavour: a width of registers and a kind of S-box.
type B struct {
	*vasm.Fn
	k    derive.Constants
	sbox sbox
}

func (b *B) matrix(m derive.Matrix) vasm.V {
	var q [8]byte
	binary.LittleEndian.PutUint64(q[:], m.GFNI())
	return b.D("VPBROADCASTQ", b.File.Const(q[:]))
}

// Shuffles between the rows of a unit and the half layout.
var (
	fromHalf = vasm.Words(0x0c040800, 0x0d050901, 0x0e060a02, 0x0f070b03)
	toHalf   = vasm.Words(0x0c080400, 0x0e0a0602, 0x0d090501, 0x0f0b0703)
)

// halfToRows: h[2w] holds bytes 3 and 1 of word w, h[2w+1] bytes 2 and 0.
func (b *B) halfToRows(h []vasm.V) {
	for w := range 4 {
		b.SwapPair("QDQ", &h[2*w], &h[2*w+1])
	}
	c := b.Row(fromHalf)
	for i := range 8 {
		h[i] = b.Shuf(c, h[i])
	}
	for _, i := range []int{0, 1, 4, 5} {
		b.SwapPair("DQ", &h[i], &h[i+2])
	}
	for i := range 4 {
		b.SwapPair("QDQ", &h[i], &h[4+i])
	}
}

func (b *B) rowsToHalf(h []vasm.V) {
	for i := range 4 {
		b.SwapPair("QDQ", &h[i], &h[4+i])
	}
	for _, i := range []int{0, 1, 4, 5} {
		p, q := h[i], h[i+2]
		h[i], h[i+2] = b.D("VSHUFPS", "$0x88", q, p), b.D("VSHUFPS", "$0xdd", q, p)
	}
	c := b.Row(toHalf)
	for i := range 8 {
		h[i] = b.Shuf(c, h[i])
	}
	for w := range 4 {
		b.SwapPair("QDQ", &h[2*w], &h[2*w+1])
	}
}
