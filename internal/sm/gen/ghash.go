package main

import (
	"encoding/binary"

	"caponier/internal/vasm"
)

// GHASH. A block, its bytes reversed, is an integer whose bit i is the
// coefficient of x^(127-i). The carry-less product of two such integers, read as
// 256 bits with bit i for x^(255-i), is x times the true product; so the powers
// of the hash key are kept divided by x. The low half is then the part of degree
// 128 and more. Adding multiples of x^128 + x^7 + x^2 + x + 1 clears it, 64 bits
// at a time, with the constant 0xc2 << 56. Products are summed first: one
// reduction does for up to 128 blocks.
type ghash struct {
	b           *B
	lo, mid, hi vasm.V
	parked      int
}

func (g *ghash) x(v vasm.V) any {
	return v.As('X')
}

// clmulX multiplies halves of 128-bit operands.
func (g *ghash) clmulX(imm string, h, d vasm.V) vasm.V {
	r := g.b.New()
	g.b.I("VPCLMULQDQ", imm, g.x(h), g.x(d), g.x(r))
	return r
}

func (g *ghash) opX(op string, args ...any) vasm.V {
	for i, a := range args {
		if v, ok := a.(vasm.V); ok {
			args[i] = g.x(v)
		}
	}
	r := g.b.New()
	g.b.I(op, append(args, g.x(r))...)
	return r
}

func (g *ghash) xorX(a, c vasm.V) vasm.V { return g.opX(g.b.Pick("VPXORD", "VPXOR"), a, c) }

func (g *ghash) loadX(mem string) vasm.V { return g.opX(g.b.Pick("VMOVDQU64", "VMOVDQU"), mem) }

func (g *ghash) storeX(v vasm.V, mem string) {
	g.b.Store(g.b.Pick("VMOVDQU64", "VMOVDQU"), g.x(v), mem)
}

func (g *ghash) constX(lo, hi uint64) vasm.V {
	var c [16]byte
	binary.LittleEndian.PutUint64(c[:], lo)
	binary.LittleEndian.PutUint64(c[8:], hi)
	return g.loadX(g.b.File.Const(c[:]))
}

// add adds d times h to the sums, at full width: three products (Karatsuba), as
// the multiplier is the slowest unit. mid gets lo and hi too, until finish.
func (g *ghash) add(d, h vasm.V) {
	b := g.b
	halves := func(v vasm.V) vasm.V { return b.Xor(v, b.D("VPSHUFD", "$0x4e", v)) }
	b.XorTo(b.D("VPCLMULQDQ", "$0x00", h, d), g.lo, g.lo)
	b.XorTo(b.D("VPCLMULQDQ", "$0x11", h, d), g.hi, g.hi)
	b.XorTo(b.D("VPCLMULQDQ", "$0x00", halves(h), halves(d)), g.mid, g.mid)
}

// add1 adds the product of two 128-bit operands.
func (g *ghash) add1(d, h vasm.V) {
	b := g.b
	halves := func(v vasm.V) vasm.V { return g.xorX(v, g.opX("VPSHUFD", "$0x4e", v)) }
	b.XorTo(g.clmulX("$0x00", h, d), g.lo, g.lo)
	b.XorTo(g.clmulX("$0x11", h, d), g.hi, g.hi)
	b.XorTo(g.clmulX("$0x00", halves(h), halves(d)), g.mid, g.mid)
}

// sum reduces the sums to one block.
func (g *ghash) sum(red vasm.V) vasm.V {
	lo, hi := g.fold(g.lo), g.fold(g.hi)
	return g.reduce(lo, g.xorX(g.fold(g.mid), g.xorX(lo, hi)), hi, red)
}

// fold adds the 128-bit lanes of a register.
func (g *ghash) fold(v vasm.V) vasm.V {
	if g.b.Width != 'Z' {
		return v
	}
	h := g.b.New()
	g.b.I("VEXTRACTI64X4", "$1", v, h.As('Y'))
	y := g.b.New()
	g.b.I("VPXORD", h.As('Y'), v.As('Y'), y.As('Y'))
	q := g.b.New()
	g.b.I("VEXTRACTI64X2", "$1", y.As('Y'), g.x(q))
	return g.xorX(q, y)
}

func (g *ghash) reduce(lo, mid, hi, red vasm.V) vasm.V {
	lo = g.xorX(lo, g.opX("VPSLLDQ", "$8", mid))
	hi = g.xorX(hi, g.opX("VPSRLDQ", "$8", mid))
	for range 2 {
		lo = g.xorX(g.opX("VPSHUFD", "$0x4e", lo), g.clmulX("$0x00", red, lo))
	}
	return g.xorX(hi, lo)
}

func newGHASH(b *B) *ghash {
	g := &ghash{b: b}
	g.lo, g.mid, g.hi = b.D(vasm.Zero), b.D(vasm.Zero), b.D(vasm.Zero)
	return g
}

// park moves the sums to memory while others need the registers; resume brings
// them back.
func (g *ghash) park() {
	g.parked = g.b.Mem(192)
	for i, v := range []vasm.V{g.lo, g.mid, g.hi} {
		g.b.Save(v, g.b.At(g.parked+64*i))
	}
}

func (g *ghash) resume() {
	for i, v := range []*vasm.V{&g.lo, &g.mid, &g.hi} {
		*v = g.b.Load(g.b.At(g.parked + 64*i))
	}
}

// swap is the operand that reverses the bytes of blocks.
func (g *ghash) swap() string {
	return g.b.File.Const(fill64(func(i int) byte { return byte(15 - i%16) }))
}

// start sums the hash so far and the additional data against their powers. R10,
// R11, R12 and AX are lost.
func (g *ghash) start() {
	b := g.b
	b.Raw("MOVQ %s, R12", vasm.At("DI", wideAPow))
	g.add1(g.loadX(vasm.At("DI", wideY)), g.loadX(vasm.At("R12", 0)))
	b.Raw("MOVQ %s, R10", vasm.At("DI", wideAAD))
	b.Raw("MOVQ %s, R11", vasm.At("DI", wideAADLen))
	g.blocks("R10", "R11", "R12")
}

// blocks sums length octets at ptr against powers, a block at a time. All three
// registers and AX are lost.
func (g *ghash) blocks(ptr, length, pow string) {
	b := g.b
	swapX := func(v vasm.V) vasm.V { return g.opX("VPSHUFB", g.swap(), v) }
	done, last, top := b.Label(), b.Label(), b.Label()
	b.Place(top)
	b.Depth++
	b.Raw("CMPQ %s, $16", length)
	b.Jump("JLT", last)
	g.add1(swapX(g.loadX(vasm.At(ptr, 0))), g.loadX(vasm.At(pow, 0)))
	b.Raw("ADDQ $16, %s", ptr)
	b.Raw("ADDQ $16, %s", pow)
	b.Raw("SUBQ $16, %s", length)
	b.Jump("JMP", top)
	b.Depth--
	b.Place(last)
	b.Raw("TESTQ %s, %s", length, length)
	b.Jump("JEQ", done)
	var part vasm.V
	if b.EVEX {
		b.Raw("MOVQ $-1, AX")
		b.Raw("BZHIQ %s, AX, AX", length)
		b.Raw("KMOVQ AX, K1")
		part = b.New()
		b.I("VMOVDQU8.Z", vasm.At(ptr, 0), "K1", g.x(part))
	} else { // octet by octet, so as not to read past the end
		m := b.Mem(16)
		b.Save(b.D(vasm.Zero), b.At(m))
		octet := b.Label()
		b.Place(octet)
		b.Raw("MOVB -1(%s)(%s*1), AX", ptr, length)
		b.Raw("MOVB AX, %d(%s)(%s*1)", m-1, vasm.Scratch, length)
		b.Raw("DECQ %s", length)
		b.Jump("JNZ", octet)
		part = g.loadX(b.At(m))
	}
	g.add1(swapX(part), g.loadX(vasm.At(pow, 0)))
	b.Place(done)
}

// text sums R11 octets at R10 against the powers at R12, a register at a time.
// BX is lost, too.
func (g *ghash) text() {
	b := g.b
	if b.Width != 'Z' {
		g.blocks("R10", "R11", "R12")
		return
	}
	done, rest, top := b.Label(), b.Label(), b.Label()
	b.Place(top)
	b.Depth++
	b.Raw("CMPQ R11, $64")
	b.Jump("JLT", rest)
	g.add(b.Shuf(g.swap(), b.Load(vasm.At("R10", 0))), b.Load(vasm.At("R12", 0)))
	b.Raw("ADDQ $64, R10")
	b.Raw("ADDQ $64, R12")
	b.Raw("SUBQ $64, R11")
	b.Jump("JMP", top)
	b.Depth--
	b.Place(rest)
	b.Raw("TESTQ R11, R11")
	b.Jump("JEQ", done)
	g.masks("R11")
	g.add(b.Shuf(g.swap(), b.D("VMOVDQU8.Z", vasm.At("R10", 0), "K1")), b.D("VMOVDQU8.Z", vasm.At("R12", 0), "K2"))
	b.Place(done)
}

// masks sets K1 to the octets of a part of a register and K2 to its blocks. AX
// and BX are lost.
func (g *ghash) masks(length string) {
	b := g.b
	b.Raw("MOVQ $-1, BX")
	b.Raw("BZHIQ %s, BX, AX", length)
	b.Raw("KMOVQ AX, K1")
	b.Raw("LEAQ 15(%s), AX", length)
	b.Raw("ANDQ $~15, AX")
	b.Raw("BZHIQ AX, BX, AX")
	b.Raw("KMOVQ AX, K2")
}

// finish reduces the sums: with the block of lengths to the tag, or to the hash
// so far. AX is lost.
func (g *ghash) finish() {
	b := g.b
	partial, end := b.Label(), b.Label()
	red := g.constX(0xc200000000000000, 0)
	b.Raw("CMPQ %s, $0", vasm.At("DI", wideFinal))
	b.Jump("JEQ", partial)
	b.Raw("MOVQ %s, AX", vasm.At("DI", wideLPow))
	g.add1(g.loadX(vasm.At("DI", wideLens)), g.loadX(vasm.At("AX", 0)))
	t := g.sum(red)
	t = g.opX("VPSHUFB", g.swap(), t)
	b.Raw("MOVQ %s, AX", vasm.At("DI", wideTag))
	g.storeX(g.xorX(t, g.loadX(vasm.At("DI", wideE))), vasm.At("AX", 0))
	b.Jump("JMP", end)
	b.Place(partial)
	g.storeX(g.sum(red), vasm.At("DI", wideY))
	b.Place(end)
}

// hashKernel generates GHASH alone.
func hashKernel(f *vasm.File, k *B, name string, width byte, evex bool) {
	b := builder(f, name, width, evex, withGFNI, k)
	g := newGHASH(b)
	g.start()
	b.Raw("MOVQ %s, R10", vasm.At("DI", wideData))
	b.Raw("MOVQ %s, R11", vasm.At("DI", wideDLen))
	b.Raw("MOVQ %s, R12", vasm.At("DI", widePow))
	g.text()
	g.finish()
	b.Ret()
	b.Done()
}

// powersKernel generates the table of powers: H in wideE; widePow is the end of
// the table of wideDLen entries, which is filled from its end on.
func powersKernel(f *vasm.File, k *B, name string, evex bool) {
	b := builder(f, name, 'X', evex, withGFNI, k)
	g := &ghash{b: b}
	red := g.constX(0xc200000000000000, 0)
	poly := g.constX(1, 0xc200000000000000)
	adjust := func(h vasm.V) vasm.V { // h divided by x
		carry := g.opX("VPSHUFD", "$0xff", g.opX("VPSRAD", "$31", h))
		up := g.opX("VPSLLDQ", "$8", g.opX("VPSRLQ", "$63", h))
		return g.xorX(g.xorX(g.opX("VPADDQ", h, h), up), g.opX(b.Pick("VPANDD", "VPAND"), carry, poly))
	}
	h := g.opX("VPSHUFB", g.constX(0x08090a0b0c0d0e0f, 0x0001020304050607), g.loadX(vasm.At("DI", wideE)))
	a := adjust(h)
	p := b.New()
	b.Move(h, p)
	b.Raw("MOVQ %s, R8", vasm.At("DI", widePow))
	b.Raw("MOVQ %s, CX", vasm.At("DI", wideDLen))
	b.While("CX", func() {
		b.Raw("SUBQ $16, R8")
		g.storeX(adjust(p), vasm.At("R8", 0))
		mid := g.xorX(g.clmulX("$0x01", a, p), g.clmulX("$0x10", a, p))
		b.Move(g.reduce(g.clmulX("$0x00", a, p), mid, g.clmulX("$0x11", a, p), red), p)
	})
	b.Ret()
	b.Done()
}
