package main

import "encoding/binary"

// GHASH. A block, its bytes reversed, is an integer whose bit i is the
// coefficient of x^(127-i). The carry-less product of two such integers, read as
// 256 bits with bit i for x^(255-i), is x times the true product; so the powers
// of the hash key are kept divided by x. The low half is then the part of degree
// 128 and more. Adding multiples of x^128 + x^7 + x^2 + x + 1 clears it, 64 bits
// at a time, with the constant 0xc2 << 56. Products are summed first: one
// reduction does for up to 128 blocks.
type ghash struct {
	b           *B
	lo, mid, hi V
}

func (g *ghash) x(v V) any {
	return view{v, 'X'}
}

// clmulX multiplies halves of 128-bit operands.
func (g *ghash) clmulX(imm string, h, d V) V {
	r := g.b.New()
	g.b.I("VPCLMULQDQ", imm, g.x(h), g.x(d), g.x(r))
	return r
}

func (g *ghash) opX(op string, args ...any) V {
	for i, a := range args {
		if v, ok := a.(V); ok {
			args[i] = g.x(v)
		}
	}
	r := g.b.New()
	g.b.I(op, append(args, g.x(r))...)
	return r
}

func (g *ghash) xorX(a, c V) V { return g.opX(g.b.pick("VPXORD", "VPXOR"), a, c) }

func (g *ghash) loadX(mem string) V { return g.opX(g.b.pick("VMOVDQU64", "VMOVDQU"), mem) }

func (g *ghash) storeX(v V, mem string) {
	g.b.Store(g.b.pick("VMOVDQU64", "VMOVDQU"), g.x(v), mem)
}

func (g *ghash) constX(lo, hi uint64) V {
	var c [16]byte
	binary.LittleEndian.PutUint64(c[:], lo)
	binary.LittleEndian.PutUint64(c[8:], hi)
	return g.loadX(g.b.file.Const(c[:]))
}

// add adds d times h to the sums, at full width or 128 bits.
func (g *ghash) add(d, h V) {
	b := g.b
	m := func(imm string) V { return b.D("VPCLMULQDQ", imm, h, d) }
	b.xorTo(m("$0x00"), g.lo, g.lo)
	b.xorTo(m("$0x11"), g.hi, g.hi)
	b.xor3To(m("$0x01"), m("$0x10"), g.mid, g.mid)
}

// add1 adds the product of two 128-bit operands.
func (g *ghash) add1(d, h V) {
	b := g.b
	b.xorTo(g.clmulX("$0x00", h, d), g.lo, g.lo)
	b.xorTo(g.clmulX("$0x11", h, d), g.hi, g.hi)
	b.xor3To(g.clmulX("$0x01", h, d), g.clmulX("$0x10", h, d), g.mid, g.mid)
}

// fold adds the 128-bit lanes of a register.
func (g *ghash) fold(v V) V {
	if g.b.width != 'Z' {
		return v
	}
	h := g.b.New()
	g.b.I("VEXTRACTI64X4", "$1", v, view{h, 'Y'})
	y := g.b.New()
	g.b.I("VPXORD", view{h, 'Y'}, view{v, 'Y'}, view{y, 'Y'})
	q := g.b.New()
	g.b.I("VEXTRACTI64X2", "$1", view{y, 'Y'}, g.x(q))
	return g.xorX(q, y)
}

func (g *ghash) reduce(lo, mid, hi, red V) V {
	lo = g.xorX(lo, g.opX("VPSLLDQ", "$8", mid))
	hi = g.xorX(hi, g.opX("VPSRLDQ", "$8", mid))
	for range 2 {
		lo = g.xorX(g.opX("VPSHUFD", "$0x4e", lo), g.clmulX("$0x00", red, lo))
	}
	return g.xorX(hi, lo)
}

// tagKernel generates the end of GHASH: the hash so far and the additional data
// against their powers, the rest of the text, and either the tag or the hash for
// the next part.
func tagKernel(f *File, k *B, name string, width byte, evex bool) {
	b := f.builder(name, width, evex, withGFNI, k)
	g := &ghash{b: b}
	step := b.bytes()
	load := func(off int) V { return b.load(at("DI", wideAcc+64*off)) }
	g.lo, g.mid, g.hi = load(0), load(1), load(2)
	b.Raw("MOVQ %s, R9", at("DI", wideAPow))
	g.add1(g.loadX(at("DI", wideY)), g.loadX(at("R9", 0)))

	swap := b.load(b.file.Const(fill64(func(i int) byte { return byte(15 - i%16) })[:max(step, 16)]))
	swapX := func(v V) V { return g.opX("VPSHUFB", swap, v) }
	blocks := func(ptr, length, pow string, loadPart func() V) {
		done, last := b.Label(), b.Label()
		top := b.Label()
		b.Place(top)
		b.depth++
		b.Raw("CMPQ %s, $16", length)
		b.Jump("JLT", last)
		g.add1(swapX(g.loadX(at(ptr, 0))), g.loadX(at(pow, 0)))
		b.Raw("ADDQ $16, %s", ptr)
		b.Raw("ADDQ $16, %s", pow)
		b.Raw("SUBQ $16, %s", length)
		b.Jump("JMP", top)
		b.depth--
		b.Place(last)
		b.Raw("TESTQ %s, %s", length, length)
		b.Jump("JEQ", done)
		g.add1(swapX(loadPart()), g.loadX(at(pow, 0)))
		b.Raw("ADDQ $16, %s", pow)
		b.Place(done)
	}
	part := func(ptr, length string) func() V {
		return func() V {
			if evex {
				b.Raw("MOVQ $-1, AX")
				b.Raw("BZHIQ %s, AX, AX", length)
				b.Raw("KMOVQ AX, K1")
				v := b.New()
				b.I("VMOVDQU8.Z", at(ptr, 0), "K1", g.x(v))
				return v
			}
			// Octet by octet, so as not to read past the end.
			m := b.Mem(16)
			zero := b.D(opZero)
			b.store(zero, b.at(m))
			top := b.Label()
			b.Place(top)
			b.Raw("MOVB -1(%s)(%s*1), AX", ptr, length)
			b.Raw("MOVB AX, %d(%s)(%s*1)", m-1, scratch, length)
			b.Raw("DECQ %s", length)
			b.Jump("JNZ", top)
			return g.loadX(b.at(m))
		}
	}
	b.Raw("MOVQ %s, R8", at("DI", wideAAD))
	b.Raw("MOVQ %s, CX", at("DI", wideAADLen))
	blocks("R8", "CX", "R9", part("R8", "CX"))

	b.Raw("MOVQ %s, R10", at("DI", wideData))
	b.Raw("MOVQ %s, R11", at("DI", wideDLen))
	b.Raw("MOVQ %s, R12", at("DI", widePow))
	if width == 'Z' {
		rest, top := b.Label(), b.Label()
		b.Place(top)
		b.depth++
		b.Raw("CMPQ R11, $64")
		b.Jump("JLT", rest)
		g.add(b.shuf(swap, b.load(at("R10", 0))), b.load(at("R12", 0)))
		b.Raw("ADDQ $64, R10")
		b.Raw("ADDQ $64, R12")
		b.Raw("SUBQ $64, R11")
		b.Jump("JMP", top)
		b.depth--
		b.Place(rest)
	}
	blocks("R10", "R11", "R12", part("R10", "R11"))

	partial, end := b.Label(), b.Label()
	sums := b.Label()
	b.Raw("CMPQ %s, $2", at("DI", wideFinal))
	b.Jump("JEQ", sums)
	red := g.constX(0xc200000000000000, 0)
	b.Raw("CMPQ %s, $0", at("DI", wideFinal))
	b.Jump("JEQ", partial)
	g.add1(g.loadX(at("DI", wideLens)), g.loadX(at("R12", 0)))
	t := g.reduce(g.fold(g.lo), g.fold(g.mid), g.fold(g.hi), red)
	g.storeX(g.xorX(swapX(t), g.loadX(at("DI", wideE))), at("DI", wideTag))
	b.Jump("JMP", end)
	b.Place(partial)
	g.storeX(g.reduce(g.fold(g.lo), g.fold(g.mid), g.fold(g.hi), red), at("DI", wideY))
	b.Jump("JMP", end)
	b.Place(sums)
	b.store(g.lo, at("DI", wideAcc))
	b.store(g.mid, at("DI", wideAcc+64))
	b.store(g.hi, at("DI", wideAcc+128))
	b.Place(end)
	b.Ret()
	b.Done()
}

// powersKernel generates the table of powers: H in wideE; widePow is the end of
// the table of wideDLen entries, which is filled from its end on.
func powersKernel(f *File, k *B, name string, evex bool) {
	b := f.builder(name, 'X', evex, withGFNI, k)
	g := &ghash{b: b}
	red := g.constX(0xc200000000000000, 0)
	poly := g.constX(1, 0xc200000000000000)
	adjust := func(h V) V { // h divided by x
		carry := g.opX("VPSHUFD", "$0xff", g.opX("VPSRAD", "$31", h))
		up := g.opX("VPSLLDQ", "$8", g.opX("VPSRLQ", "$63", h))
		return g.xorX(g.xorX(g.opX("VPADDQ", h, h), up), g.opX(b.pick("VPANDD", "VPAND"), carry, poly))
	}
	h := g.opX("VPSHUFB", g.constX(0x08090a0b0c0d0e0f, 0x0001020304050607), g.loadX(at("DI", wideE)))
	a := adjust(h)
	p := b.New()
	b.Move(h, p)
	b.Raw("MOVQ %s, R8", at("DI", widePow))
	b.Raw("MOVQ %s, CX", at("DI", wideDLen))
	b.While("CX", func() {
		b.Raw("SUBQ $16, R8")
		g.storeX(adjust(p), at("R8", 0))
		mid := g.xorX(g.clmulX("$0x01", a, p), g.clmulX("$0x10", a, p))
		b.Move(g.reduce(g.clmulX("$0x00", a, p), mid, g.clmulX("$0x11", a, p), red), p)
	})
	b.Ret()
	b.Done()
}
