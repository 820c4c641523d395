package main

import (
	"fmt"

	"caponier/internal/vasm"
)

// Offsets of wideKey and wideCall of package sm.
const (
	keyRounds = 0
	keyCin    = 176
	keyIX     = 192
	keyOX     = 208
	keyKappa  = 224
	keyByte   = 352
	keyHalf   = 864
	keyByteIn = 1376
	keyHalfIn = 1440

	wideKeyPtr = 0
	wideIn     = 8
	wideOut    = 16
	wideLen    = 24
	wideCtr    = 32
	wideFirst  = 36
	wideMode   = 40
	wideNonce  = 64
	wideBefore = 80
	wideE      = 96
	wideY      = 112
	wideLens   = 128
	wideTag    = 144
	widePow    = 160
	wideData   = 168
	wideDLen   = 176
	wideLPow   = 184
	wideAAD    = 192
	wideAADLen = 200
	wideAPow   = 208
	wideFinal  = 216
	wideMixed  = 224
)

// slices is the SM4 part of a kernel that slices words: constants and the call's
// registers. SI is the key, R8 the input, R9 the output, CX the length.
type slices struct {
	b    *B
	u, w vasm.V
	ox   vasm.V
}

func startWide(f *vasm.File, k *B, name string) *slices {
	b := builder(f, name, 'Z', true, withGFNI, k)
	b.Raw("MOVQ %s, SI", vasm.At("DI", wideKeyPtr))
	b.Raw("MOVQ %s, R8", vasm.At("DI", wideIn))
	b.Raw("MOVQ %s, R9", vasm.At("DI", wideOut))
	b.Raw("MOVQ %s, CX", vasm.At("DI", wideLen))
	return &slices{b: b}
}

func (b *B) bcMem128(mem string) vasm.V { return b.D("VBROADCASTI32X4", mem) }

// nonce loads the 12 octets of the nonce into every lane, from where the caller
// has them: a copy made just before would have to reach the cache first.
func (b *B) nonce() vasm.V {
	b.Raw("MOVQ %s, AX", vasm.At("DI", wideNonce))
	b.Raw("MOVL $7, BX")
	b.Raw("KMOVW BX, K1")
	n := b.New()
	b.I("VMOVDQU32.Z", vasm.At("AX", 0), "K1", n.As('X'))
	return b.Shuf128(0, n, n)
}

// byteRound is a round in the byte layout: register j has byte j of 64 blocks,
// no shuffle is left. 22 instructions.
func (s *slices) byteRound(x [][]vasm.V, q int, key func(j int) string) {
	b := s.b
	x0, x1, x2, x3 := x[q&3], x[(q+1)&3], x[(q+2)&3], x[(q+3)&3]
	var u, w, p [4]vasm.V
	for j := range 4 {
		t := b.Xor3(x1[j], x2[j], x3[j])
		w[j], u[j] = b.GFInv(t, s.w), b.GFInv(t, s.u)
	}
	for j := range 4 {
		p[j] = b.Xor3(w[j], u[(j+1)&3], "bcst "+key(j))
	}
	v := b.Xor(b.Xor3(p[0], p[1], p[2]), p[3])
	for j := range 4 {
		b.Xor3To(x0[j], p[j], v, x0[j])
	}
}

// halfRound is a round in the half layout: register 0 has bytes 3 and 1 of 32
// blocks in alternating doublewords, register 1 bytes 2 and 0. 13 instructions.
func (s *slices) halfRound(y [][]vasm.V, q int, key func(h int) string) {
	b := s.b
	x0, x1, x2, x3 := y[q&3], y[(q+1)&3], y[(q+2)&3], y[(q+3)&3]
	to, te := b.Xor3(x1[0], x2[0], x3[0]), b.Xor3(x1[1], x2[1], x3[1])
	ue, uo := b.GFInv(te, s.u), b.GFInv(to, s.u)
	wo, we := b.GFInv(to, s.w), b.GFInv(te, s.w)
	po := b.Xor3(wo, b.D("VPSHUFD", "$0xb1", ue), "bcstq "+key(1))
	pe := b.Xor3(we, uo, "bcstq "+key(0))
	sum := b.D("VPSHUFD", "$0xb1", b.Xor(po, pe))
	b.Xor3To(x0[0], pe, sum, x0[0])
	b.Xor3To(x0[1], po, sum, x0[1])
}

// rounds runs the 32 rounds over units in the byte layout and in the half
// layout; between comes after each round. R10 and R11 walk through the keys, BX
// counts; it holds the number of iterations, at least one, if count is 0.
func (s *slices) rounds(x [][][]vasm.V, y [][][]vasm.V, count int, between func(q int)) {
	b := s.b
	body := func() {
		for q := range 4 {
			for _, u := range x {
				s.byteRound(u, q, func(j int) string { return vasm.At("R10", 16*q+4*j) })
			}
			for _, u := range y {
				s.halfRound(u, q, func(h int) string { return vasm.At("R11", 16*q+8*h) })
			}
			if between != nil {
				between(q)
			}
		}
		b.Raw("ADDQ $64, R10")
		b.Raw("ADDQ $64, R11")
	}
	if count == 0 {
		b.While("BX", body)
	} else {
		b.Loop("BX", count, body)
	}
}

func (s *slices) keys() {
	b := s.b
	b.Raw("LEAQ %s, R10", vasm.At("SI", keyByte))
	b.Raw("LEAQ %s, R11", vasm.At("SI", keyHalf))
	s.u, s.w = b.matrix(b.k.U), b.matrix(b.k.W)
}

// units is the shape of a kernel: how many units of 64 blocks in the byte
// layout and of 32 blocks in the half layout it runs through the rounds.
type units struct{ bytes, halves int }

func (u units) rows() int { return 16*u.bytes + 8*u.halves }

func (u units) blocks() int { return 4 * u.rows() }

// fromRows brings rows, in the basis, into their layouts.
func (s *slices) fromRows(u units, r []vasm.V) (x, y [][][]vasm.V) {
	b := s.b
	for range u.bytes {
		b.T16(r[:16])
		unit := make([][]vasm.V, 4)
		for w := range 4 {
			unit[w] = []vasm.V{r[4*w+3], r[4*w+2], r[4*w+1], r[4*w]}
		}
		x, r = append(x, unit), r[16:]
	}
	for range u.halves {
		b.rowsToHalf(r[:8])
		unit := make([][]vasm.V, 4)
		for w := range 4 {
			unit[w] = []vasm.V{r[2*w], r[2*w+1]}
		}
		y, r = append(y, unit), r[8:]
	}
	return x, y
}

// toRows is the way back, out of the basis.
func (s *slices) toRows(x, y [][][]vasm.V) []vasm.V {
	b := s.b
	un := b.matrix(b.k.Unbasis)
	var rows []vasm.V
	for _, u := range x {
		r := make([]vasm.V, 16)
		for w := range 4 {
			for j := range 4 {
				r[4*w+3-j] = b.GFAff(u[3-w][j], un)
			}
		}
		b.T16(r)
		rows = append(rows, r...)
	}
	for _, u := range y {
		r := make([]vasm.V, 8)
		for w := range 4 {
			r[2*w], r[2*w+1] = b.GFAff(u[3-w][0], un), b.GFAff(u[3-w][1], un)
		}
		b.halfToRows(r)
		rows = append(rows, r...)
	}
	return rows
}

func fill64(f func(i int) byte) []byte {
	o := make([]byte, 64)
	for i := range o {
		o[i] = f(i)
	}
	return o
}

// Which block of the unit is at a position of a register.
var (
	iotaByte = fill64(func(i int) byte { return byte(4*(i%16) + i/16) })
	iotaHalf = fill64(func(i int) byte {
		l, p := i/16, i%16 // position bits: c, -, a, b
		return byte(4*(4*(p&1)+2*(p>>1&1)+p>>3) + l)
	})
)

// counters returns bytes 0 to 3 of the counters AX + iota; the one whose place
// in the unit is in DX becomes 1, GCM's first counter block.
func (s *slices) counters(iota []byte) [4]vasm.V {
	b := s.b
	place := b.Load(b.File.Const(iota))
	var c [4]vasm.V
	c[0] = b.D("VPADDB", place, b.D("VPBROADCASTB", "AX"))
	b.Store("VPCMPUB", "$1", place, c[0], "K1")
	b.Raw("MOVL AX, BX")
	b.Raw("SHRL $8, BX")
	b.Raw("LEAL 1(BX), R12")
	for j := 1; j < 4; j++ {
		c[j] = b.D("VPBROADCASTB", "BX")
		b.RW("VPBROADCASTB", "R12", "K1", c[j])
		b.Raw("SHRL $8, BX")
		b.Raw("SHRL $8, R12")
	}
	b.Store("VPCMPEQB", place, b.D("VPBROADCASTB", "DX"), "K2")
	b.Raw("MOVL $1, BX")
	b.RW("VPBROADCASTB", "BX", "K2", c[0])
	b.Raw("XORL BX, BX")
	for j := 1; j < 4; j++ {
		b.RW("VPBROADCASTB", "BX", "K2", c[j])
	}
	return c
}

// ctrStates makes counter blocks directly in their layouts, so that only the way
// out needs a transposition.
func (s *slices) ctrStates(u units) (x, y [][][]vasm.V) {
	b := s.b
	pre := b.matrix(b.k.Basis)
	nonce := b.GFAff(b.Shuf(b.Row(vasm.Swap32), b.nonce()), pre)
	nonce = b.Xor(b.bcMem128(vasm.At("SI", keyCin)), nonce)
	b.Raw("MOVL %s, AX", vasm.At("DI", wideCtr))
	b.Raw("MOVL %s, DX", vasm.At("DI", wideFirst))
	for range u.bytes {
		c := s.counters(iotaByte)
		unit := make([][]vasm.V, 4)
		for w := range 4 {
			for j := range 4 {
				var v vasm.V
				if w < 3 {
					v = b.Shuf(b.File.Const(fill64(func(int) byte { return byte(4*w + j) })), nonce)
				} else {
					v = b.D("VPXORD.BCST", vasm.At("SI", keyByteIn+16*w+4*j), b.GFAff(c[j], pre))
				}
				unit[w] = append(unit[w], v)
			}
		}
		x = append(x, unit)
		b.Raw("ADDL $64, AX")
		b.Raw("SUBL $64, DX")
	}
	for range u.halves {
		c := s.counters(iotaHalf)
		b.Raw("MOVL $0xaaaa, BX")
		b.Raw("KMOVW BX, K3")
		o, e := c[3], c[2]
		b.RW("VMOVDQA32", c[1], "K3", o)
		b.RW("VMOVDQA32", c[0], "K3", e)
		last := []vasm.V{o, e}
		unit := make([][]vasm.V, 4)
		for w := range 4 {
			for h := range 2 { // 0: bytes 3, 1; 1: bytes 2, 0
				var v vasm.V
				if w < 3 {
					v = b.Shuf(b.File.Const(fill64(func(i int) byte { return byte(4*w + 3 - h - 2*(i/4&1)) })), nonce)
				} else {
					v = b.D("VPXORQ.BCST", vasm.At("SI", keyHalfIn+16*w+8*(1-h)), b.GFAff(last[h], pre))
				}
				unit[w] = append(unit[w], v)
			}
		}
		y = append(y, unit)
		b.Raw("ADDL $32, AX")
		b.Raw("SUBL $32, DX")
	}
	return x, y
}

// xorRows adds the keystream rows to the input, of which there are CX octets. If
// g is given, it sums the output against the powers at R12.
func (s *slices) xorRows(rows []vasm.V, g *ghash) {
	b := s.b
	part, done := b.Label(), b.Label()
	last := b.New()
	b.Raw("XORL R10, R10")
	for i, r := range rows {
		next := b.Label()
		b.Raw("CMPQ CX, $%d", 64*(i+1))
		b.Jump("JGE", next)
		b.Move(r, last)
		b.Raw("MOVL $%d, R10", 64*i)
		b.Jump("JMP", part)
		b.Place(next)
		o := b.Xor3(r, s.ox, vasm.At("R8", 64*i))
		b.Save(o, vasm.At("R9", 64*i))
		if g != nil {
			g.Add(b.Shuf(g.Swap(), o), b.Load(vasm.At("R12", 64*i)))
		}
	}
	b.Jump("JMP", done)
	b.Place(part)
	b.Raw("SUBQ R10, CX")
	b.Jump("JLE", done)
	(&ghash{b: b}).masks("CX")
	o := b.Xor3(last, s.ox, b.D("VMOVDQU8.Z", "(R8)(R10*1)", "K1"))
	b.Store("VMOVDQU8", o, "K1", "(R9)(R10*1)")
	if g != nil {
		o = b.D("VMOVDQU8.Z", o, "K1")
		g.Add(b.Shuf(g.Swap(), o), b.D("VMOVDQU8.Z", "(R12)(R10*1)", "K2"))
	}
	b.Place(done)
}

// keepE stores the keystream block that hides the tag, if there is one: rows
// from the given one on may hold it.
func (s *slices) keepE(rows []vasm.V, from int) {
	b := s.b
	m := b.Mem(64 * (len(rows) - from))
	for i := from; i < len(rows); i++ {
		b.Save(b.Xor(rows[i], s.ox), b.At(m+64*(i-from)))
	}
	none := b.Label()
	b.Raw("MOVLQSX %s, AX", vasm.At("DI", wideFirst))
	b.Raw("TESTQ AX, AX")
	b.Jump("JLT", none)
	b.Raw("SHLQ $4, AX")
	e := b.New()
	b.I("VMOVDQU64", fmt.Sprintf("%d(%s)(AX*1)", m-64*from, vasm.Scratch), e.As('X'))
	b.Store("VMOVDQU64", e.As('X'), vasm.At("DI", wideE))
	b.Place(none)
}

// mode says what a CTR kernel does besides.
type mode string

const (
	plain mode = "ctr"
	// sealing sums the ciphertext rows as they leave: the products fill the gaps of
	// the transposition.
	sealing mode = "seal"
	// opening sums the ciphertext before it is overwritten: between the rounds,
	// which leave the multiplier idle, three rows to four rounds, where there are
	// rows enough; the rest before the rounds.
	opening mode = "open"
)

func (m mode) kernel(f *vasm.File, k *B, blocks int) (*slices, *ghash) {
	s := startWide(f, k, fmt.Sprintf("%s%dAVX512", m, blocks))
	b := s.b
	if m == plain {
		return s, nil
	}
	g := newGHASH(b)
	g.start()
	if m == opening {
		b.Raw("MOVQ %s, AX", vasm.At("DI", wideMixed))
		b.Raw("IMULQ $192, AX")
		b.Raw("LEAQ (R8)(AX*1), R10")
		b.Raw("MOVQ CX, R11")
		b.Raw("SUBQ AX, R11")
		b.Raw("MOVQ %s, R12", vasm.At("DI", widePow))
		b.Raw("ADDQ AX, R12")
		g.text()
	}
	g.park()
	return s, g
}

// out adds the rows to the text and ends the hash.
func (s *slices) out(m mode, g *ghash, rows []vasm.V, from int) {
	b := s.b
	s.keepE(rows, from)
	if g != nil {
		g.resume()
	}
	if m == sealing {
		b.Raw("MOVQ %s, R12", vasm.At("DI", widePow))
		s.xorRows(rows, g)
	} else {
		s.xorRows(rows, nil)
	}
	if g != nil {
		g.finish()
	}
	b.Ret()
	b.Done()
}

// ctrSlices generates one unit of CTR keystream added to the input.
func ctrSlices(f *vasm.File, k *B, u units, m mode) {
	s, g := m.kernel(f, k, u.blocks())
	b := s.b
	x, y := s.ctrStates(u)
	s.keys()
	if m == opening && u.bytes > 0 {
		g.resume()
		without, end := b.Label(), b.Label()
		b.Raw("MOVQ %s, R12", vasm.At("DI", widePow))
		b.Raw("MOVQ R8, R14")
		b.Raw("MOVQ %s, BX", vasm.At("DI", wideMixed))
		b.Raw("MOVQ $8, DX")
		b.Raw("SUBQ BX, DX")
		b.Raw("TESTQ BX, BX")
		b.Jump("JEQ", without)
		s.rounds(x, y, 0, func(q int) {
			if q == 3 {
				return
			}
			g.Add(b.Shuf(g.Swap(), b.Load(vasm.At("R14", 0))), b.Load(vasm.At("R12", 0)))
			b.Raw("ADDQ $64, R14")
			b.Raw("ADDQ $64, R12")
		})
		b.Place(without)
		b.Raw("MOVQ DX, BX")
		b.Raw("TESTQ BX, BX")
		b.Jump("JEQ", end)
		s.rounds(x, y, 0, nil)
		b.Place(end)
		g.park()
	} else {
		s.rounds(x, y, 8, nil)
	}
	s.ox = b.bcMem128(vasm.At("SI", keyOX))
	s.out(m, g, s.toRows(x, y), 16*u.bytes)
}

// ctrWords is the unit of 16 blocks, in the word layout with the short path.
func ctrWords(f *vasm.File, k *B, m mode) {
	s, g := m.kernel(f, k, 16)
	b := s.b
	c := &cipher{b: b}
	c.constants()
	nonce := b.GFAff(b.Shuf(c.swap, b.nonce()), c.pre)
	place := b.Load(b.File.Const(vasm.Words(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)))
	ctr := b.Add(place, b.Broadcast32(vasm.At("DI", wideCtr)))
	b.Store("VPCMPEQD", place, b.Broadcast32(vasm.At("DI", wideFirst)), "K1")
	b.Raw("MOVL $1, BX")
	b.RW("VPBROADCASTD", "BX", "K1", ctr)
	x := make([]vasm.V, 5)
	for w := range 4 {
		v := ctr
		if w == 3 {
			v = b.GFAff(v, c.pre)
		} else {
			v = b.D("VPSHUFD", fmt.Sprintf("$0x%02x", 0x55*w), nonce)
		}
		x[w] = b.D("VPXORD.BCST", vasm.At("SI", keyCin+4*w), v)
	}
	x[4] = b.Xor3(x[1], x[2], x[3])
	s.wordRounds(c, x)
	s.ox = b.bcMem128(vasm.At("SI", keyOX))
	r := []vasm.V{x[3], x[2], x[1], x[0]}
	b.T4(r)
	for i := range r {
		r[i] = b.GFAff(b.Shuf(c.swap, r[i]), c.un)
	}
	s.out(m, g, r, 0)
}

// wordRounds runs the short rounds with one key for all lanes.
func (s *slices) wordRounds(c *cipher, x []vasm.V) {
	b := s.b
	b.Raw("LEAQ %s, R10", vasm.At("SI", keyRounds))
	b.Loop("BX", 8, func() {
		for q := range 4 {
			c.shortRound(x, q, "bcst "+vasm.At("R10", 4*q))
		}
		b.Raw("ADDQ $16, R10")
	})
}

// pooled generates the part of GCM that is each packet's own where several share
// one run of the cipher: keystream from memory (the block that hides the tag
// first) added to the text, and the hash.
func pooled(f *vasm.File, k *B, m mode) {
	s := startWide(f, k, fmt.Sprintf("%sPooledAVX512", m))
	b := s.b
	g := newGHASH(b)
	g.start()
	b.Raw("MOVQ %s, R14", vasm.At("DI", wideData))
	b.Raw("MOVQ %s, R12", vasm.At("DI", widePow))
	e := b.New()
	b.I("VMOVDQU64", vasm.At("R14", 0), e.As('X'))
	b.Store("VMOVDQU64", e.As('X'), vasm.At("DI", wideE))
	top, rest, done := b.Label(), b.Label(), b.Label()
	hashed := func(in, out vasm.V) vasm.V {
		if m == opening {
			return in
		}
		return out
	}
	b.Place(top)
	b.Depth++
	b.Raw("CMPQ CX, $64")
	b.Jump("JLT", rest)
	in := b.Load(vasm.At("R8", 0))
	out := b.Xor(vasm.At("R14", 16), in)
	b.Save(out, vasm.At("R9", 0))
	g.Add(b.Shuf(g.Swap(), hashed(in, out)), b.Load(vasm.At("R12", 0)))
	for _, r := range []string{"R8", "R9", "R12", "R14"} {
		b.Raw("ADDQ $64, %s", r)
	}
	b.Raw("SUBQ $64, CX")
	b.Jump("JMP", top)
	b.Depth--
	b.Place(rest)
	b.Raw("TESTQ CX, CX")
	b.Jump("JEQ", done)
	g.masks("CX")
	in = b.D("VMOVDQU8.Z", vasm.At("R8", 0), "K1")
	out = b.Xor(vasm.At("R14", 16), in)
	b.Store("VMOVDQU8", out, "K1", vasm.At("R9", 0))
	whole := b.D("VMOVDQU8.Z", hashed(in, out), "K1")
	g.Add(b.Shuf(g.Swap(), whole), b.D("VMOVDQU8.Z", vasm.At("R12", 0), "K2"))
	b.Place(done)
	g.finish()
	b.Ret()
	b.Done()
}
