package main

import "caponier/internal/vasm"

// ghash is GHASH in a kernel of the wide call.
type ghash struct {
	*vasm.GHASH
	b      *B
	parked int
}

func newGHASH(b *B) *ghash { return &ghash{GHASH: vasm.NewGHASH(b.Fn), b: b} }

// park moves the sums to memory while others need the registers; resume brings
// them back.
func (g *ghash) park() {
	g.parked = g.b.Mem(192)
	for i, v := range []vasm.V{g.Lo, g.Mid, g.Hi} {
		g.b.Save(v, g.b.At(g.parked+64*i))
	}
}

func (g *ghash) resume() {
	for i, v := range []*vasm.V{&g.Lo, &g.Mid, &g.Hi} {
		*v = g.b.Load(g.b.At(g.parked + 64*i))
	}
}

// start sums the hash so far and the additional data against their powers. R10,
// R11, R12 and AX are lost.
func (g *ghash) start() {
	b := g.b
	b.Raw("MOVQ %s, R12", vasm.At("DI", wideAPow))
	g.Add1(g.LoadX(vasm.At("DI", wideY)), g.LoadX(vasm.At("R12", 0)))
	b.Raw("MOVQ %s, R10", vasm.At("DI", wideAAD))
	b.Raw("MOVQ %s, R11", vasm.At("DI", wideAADLen))
	g.blocks("R10", "R11", "R12")
}

// blocks sums length octets at ptr against powers, a block at a time. All three
// registers and AX are lost.
func (g *ghash) blocks(ptr, length, pow string) {
	b := g.b
	swapX := func(v vasm.V) vasm.V { return g.OpX("VPSHUFB", g.Swap(), v) }
	done, last, top := b.Label(), b.Label(), b.Label()
	b.Place(top)
	b.Depth++
	b.Raw("CMPQ %s, $16", length)
	b.Jump("JLT", last)
	g.Add1(swapX(g.LoadX(vasm.At(ptr, 0))), g.LoadX(vasm.At(pow, 0)))
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
		b.I("VMOVDQU8.Z", vasm.At(ptr, 0), "K1", part.As('X'))
	} else { // octet by octet, so as not to read past the end
		m := b.Mem(16)
		b.Save(b.D(vasm.Zero), b.At(m))
		octet := b.Label()
		b.Place(octet)
		b.Raw("MOVB -1(%s)(%s*1), AX", ptr, length)
		b.Raw("MOVB AX, %d(%s)(%s*1)", m-1, vasm.Scratch, length)
		b.Raw("DECQ %s", length)
		b.Jump("JNZ", octet)
		part = g.LoadX(b.At(m))
	}
	g.Add1(swapX(part), g.LoadX(vasm.At(pow, 0)))
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
	g.Add(b.Shuf(g.Swap(), b.Load(vasm.At("R10", 0))), b.Load(vasm.At("R12", 0)))
	b.Raw("ADDQ $64, R10")
	b.Raw("ADDQ $64, R12")
	b.Raw("SUBQ $64, R11")
	b.Jump("JMP", top)
	b.Depth--
	b.Place(rest)
	b.Raw("TESTQ R11, R11")
	b.Jump("JEQ", done)
	g.masks("R11")
	g.Add(b.Shuf(g.Swap(), b.D("VMOVDQU8.Z", vasm.At("R10", 0), "K1")), b.D("VMOVDQU8.Z", vasm.At("R12", 0), "K2"))
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
	red := g.Reduction()
	b.Raw("CMPQ %s, $0", vasm.At("DI", wideFinal))
	b.Jump("JEQ", partial)
	b.Raw("MOVQ %s, AX", vasm.At("DI", wideLPow))
	g.Add1(g.LoadX(vasm.At("DI", wideLens)), g.LoadX(vasm.At("AX", 0)))
	t := g.Sum(red)
	t = g.OpX("VPSHUFB", g.Swap(), t)
	b.Raw("MOVQ %s, AX", vasm.At("DI", wideTag))
	g.StoreX(g.XorX(t, g.LoadX(vasm.At("DI", wideE))), vasm.At("AX", 0))
	b.Jump("JMP", end)
	b.Place(partial)
	g.StoreX(g.Sum(red), vasm.At("DI", wideY))
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
	g := &vasm.GHASH{F: b.Fn}
	h := g.LoadX(vasm.At("DI", wideE))
	b.Raw("MOVQ %s, R8", vasm.At("DI", widePow))
	b.Raw("MOVQ %s, CX", vasm.At("DI", wideDLen))
	g.Powers(h)
	b.Ret()
	b.Done()
}
