package main

import (
	"encoding/binary"
	"fmt"
	"strings"

	"caponier/internal/sm/derive"
)

// sbox says which instructions compute the S-box.
type sbox int

const (
	withGFNI sbox = iota
	withAES
)

// B builds functions of one flavour: a width of registers and a kind of S-box.
type B struct {
	*Fn
	k    derive.Constants
	sbox sbox
}

func (b *B) bytes() int { return map[byte]int{'X': 16, 'Y': 32, 'Z': 64}[b.width] }

func (b *B) pick(evex, vex string) string {
	if b.evex {
		return evex
	}
	return vex
}

func (b *B) load(mem string) V { return b.D(b.pick("VMOVDQU64", "VMOVDQU"), mem) }
func (b *B) store(v V, mem string) {
	b.Store(b.pick("VMOVDQU64", "VMOVDQU"), v, mem)
}
func (b *B) bc32(mem string) V { return b.D("VPBROADCASTD", mem) }

// row returns a constant of 16 bytes in every lane.
func (b *B) row(c []byte) V {
	return b.D(b.pick("VBROADCASTI32X4", "VBROADCASTI128"), b.file.Const(c))
}

func (b *B) matrix(m derive.Matrix) V {
	var q [8]byte
	binary.LittleEndian.PutUint64(q[:], m.GFNI())
	return b.D("VPBROADCASTQ", b.file.Const(q[:]))
}

// xor is a + c; a may be memory.
func (b *B) xor(a any, c V) V {
	if m, ok := a.(string); ok && strings.HasPrefix(m, "bcst ") {
		return b.D("VPXORD.BCST", strings.TrimPrefix(m, "bcst "), c)
	}
	return b.D(b.pick("VPXORD", "VPXOR"), a, c)
}

func (b *B) xorTo(a any, c, d V) { b.I(b.pick("VPXORD", "VPXOR"), a, c, d) }

func (b *B) add(a any, c V) V { return b.D("VPADDD", a, c) }

// xor3To sets d to a + c + e; e may be memory.
func (b *B) xor3To(a, c V, e any, d V) {
	if b.evex {
		b.Tern(0x96, a, c, e, d)
		return
	}
	b.xorTo(e, b.xor(a, c), d)
}

func (b *B) xor3(a, c V, e any) V { d := b.New(); b.xor3To(a, c, e, d); return d }

func (b *B) rolTo(v V, n int, d V) {
	if b.evex {
		b.I("VPROLD", fmt.Sprintf("$%d", n), v, d)
		return
	}
	l := b.D("VPSLLD", fmt.Sprintf("$%d", n), v)
	r := b.D("VPSRLD", fmt.Sprintf("$%d", 32-n), v)
	b.I("VPOR", l, r, d)
}

func (b *B) rol(v V, n int) V { d := b.New(); b.rolTo(v, n, d); return d }

func (b *B) shuf(control any, v V) V { return b.D("VPSHUFB", control, v) }

// gfinv is m inv(x); gfaff is m x.
func (b *B) gfinv(x V, m any) V { return b.D("VGF2P8AFFINEINVQB", "$0", m, x) }
func (b *B) gfaff(x V, m any) V { return b.D("VGF2P8AFFINEQB", "$0", m, x) }

func (b *B) op2(op string, lo, hi V) V { return b.D(op, hi, lo) }

func (b *B) shuf128(imm int, lo, hi V) V {
	if b.evex {
		return b.D("VSHUFI32X4", fmt.Sprintf("$0x%02x", imm), hi, lo)
	}
	return b.D("VPERM2I128", fmt.Sprintf("$0x%02x", imm), hi, lo)
}

func words(w ...uint32) []byte {
	var o []byte
	for _, v := range w {
		o = binary.LittleEndian.AppendUint32(o, v)
	}
	return o
}

// Byte shuffles within words and blocks.
var (
	swap32  = words(0x00010203, 0x04050607, 0x08090a0b, 0x0c0d0e0f)
	rotate8 = words(0x02010003, 0x06050407, 0x0a09080b, 0x0e0d0c0f)
	rotate2 = words(0x01000302, 0x05040706, 0x09080b0a, 0x0d0c0f0e) // by 16 bits
	rotate3 = words(0x00030201, 0x04070605, 0x080b0a09, 0x0c0f0e0d) // by 24 bits
)

// t4 transposes 4 by 4 doublewords in every lane of 128 bits; its own inverse.
func (b *B) t4(r []V) {
	p, q := b.op2("VPUNPCKLDQ", r[0], r[1]), b.op2("VPUNPCKHDQ", r[0], r[1])
	s, t := b.op2("VPUNPCKLDQ", r[2], r[3]), b.op2("VPUNPCKHDQ", r[2], r[3])
	r[0], r[1] = b.op2("VPUNPCKLQDQ", p, s), b.op2("VPUNPCKHQDQ", p, s)
	r[2], r[3] = b.op2("VPUNPCKLQDQ", q, t), b.op2("VPUNPCKHQDQ", q, t)
}

// tlane transposes 4 by 4 lanes of 128 bits; its own inverse.
func (b *B) tlane(r []V) {
	p, q := b.shuf128(0x44, r[0], r[1]), b.shuf128(0xee, r[0], r[1])
	s, t := b.shuf128(0x44, r[2], r[3]), b.shuf128(0xee, r[2], r[3])
	r[0], r[1] = b.shuf128(0x88, p, s), b.shuf128(0xdd, p, s)
	r[2], r[3] = b.shuf128(0x88, q, t), b.shuf128(0xdd, q, t)
}

// square turns rows (one packet each) into words (one doubleword of each
// packet) and back: 16 by 16 doublewords with 64-byte registers, 8 by 8 with 32.
func (b *B) square(w []V, back bool) {
	n := len(w)
	across := func() {
		for i := range 4 {
			if n == 8 {
				lo, hi := b.shuf128(0x20, w[i], w[4+i]), b.shuf128(0x31, w[i], w[4+i])
				w[i], w[4+i] = lo, hi
				continue
			}
			c := []V{w[i], w[4+i], w[8+i], w[12+i]}
			b.tlane(c)
			w[i], w[4+i], w[8+i], w[12+i] = c[0], c[1], c[2], c[3]
		}
	}
	if back {
		across()
	}
	for g := 0; g < n; g += 4 {
		b.t4(w[g : g+4])
	}
	if !back {
		across()
	}
}

// t16 transposes 16 by 16 bytes in every lane; its own inverse.
func (b *B) t16(a []V) {
	for range 4 {
		var o [16]V
		for i := range 8 {
			o[2*i], o[2*i+1] = b.op2("VPUNPCKLBW", a[i], a[i+8]), b.op2("VPUNPCKHBW", a[i], a[i+8])
		}
		copy(a, o[:])
	}
}

func (b *B) swapPair(op string, p, q *V) {
	*p, *q = b.op2("VPUNPCKL"+op, *p, *q), b.op2("VPUNPCKH"+op, *p, *q)
}

// Shuffles between the rows of a unit and the half layout.
var (
	fromHalf = words(0x0c040800, 0x0d050901, 0x0e060a02, 0x0f070b03)
	toHalf   = words(0x0c080400, 0x0e0a0602, 0x0d090501, 0x0f0b0703)
)

// halfToRows: h[2w] holds bytes 3 and 1 of word w, h[2w+1] bytes 2 and 0.
func (b *B) halfToRows(h []V) {
	for w := range 4 {
		b.swapPair("QDQ", &h[2*w], &h[2*w+1])
	}
	c := b.row(fromHalf)
	for i := range 8 {
		h[i] = b.shuf(c, h[i])
	}
	for _, i := range []int{0, 1, 4, 5} {
		b.swapPair("DQ", &h[i], &h[i+2])
	}
	for i := range 4 {
		b.swapPair("QDQ", &h[i], &h[4+i])
	}
}

func (b *B) rowsToHalf(h []V) {
	for i := range 4 {
		b.swapPair("QDQ", &h[i], &h[4+i])
	}
	for _, i := range []int{0, 1, 4, 5} {
		p, q := h[i], h[i+2]
		h[i], h[i+2] = b.D("VSHUFPS", "$0x88", q, p), b.D("VSHUFPS", "$0xdd", q, p)
	}
	c := b.row(toHalf)
	for i := range 8 {
		h[i] = b.shuf(c, h[i])
	}
	for w := range 4 {
		b.swapPair("QDQ", &h[2*w], &h[2*w+1])
	}
}
