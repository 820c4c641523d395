package main

import (
	"fmt"

	"caponier/internal/vasm"
)

// Offsets of the structure of package lanes that the GCM kernels work on.
const (
	gcmKeys   = 0
	gcmRounds = 8
	gcmPow    = 16
	gcmIn     = 24
	gcmOut    = 32
	gcmLen    = 40
	gcmNonce  = 48
	gcmCarry  = 56
	gcmY      = 64
	gcmLens   = 80
	gcmTag    = 96
)

// gcmPowers is how many blocks are hashed between reductions: those of a chunk.
const gcmPowers = 32

// gcm generates AES-GCM (NIST SP 800-38D) of one packet, 32 blocks at a time: the
// counters of eight registers pass the rounds together, and GHASH sums against
// powers of its key, with one reduction for a chunk. The processor runs the
// products of one chunk beside the rounds of the next.
//
// The hash so far, Y, is of the first chunk multiplied by one power more if it is
// additional data that have not been hashed yet (carry 16 instead of 0).
type gcm struct {
	b       *vasm.Fn
	g       *vasm.GHASH
	ctr     vasm.V // of the next register, as numbers
	swap    vasm.V
	y       vasm.V
	opening bool
}

const chunkRows = gcmPowers / 4

// counters returns the first state of so many registers of counter blocks.
func (c *gcm) counters(n int) []vasm.V {
	b := c.b
	k := b.D("VBROADCASTI32X4", "(SI)")
	four := b.Load(b.File.Const(lanesOf(0, 0, 0, 4)))
	x := make([]vasm.V, n)
	for i := range x {
		x[i] = b.Xor(k, b.Shuf(c.swap, c.ctr))
		b.I("VPADDD", four, c.ctr, c.ctr)
	}
	return x
}

// lanesOf is a constant of four doublewords in each lane of 128 bits.
func lanesOf(w ...uint32) []byte {
	var all []uint32
	for range 4 {
		all = append(all, w...)
	}
	return vasm.Words(all...)
}

// rounds runs all but the first addition of a key.
func (c *gcm) rounds(x []vasm.V) {
	b := c.b
	b.Raw("LEAQ 16(SI), R10")
	b.Raw("MOVQ %s, BX", vasm.At("DI", gcmRounds))
	b.While("BX", func() {
		k := b.D("VBROADCASTI32X4", "(R10)")
		for i := range x {
			b.I("VAESENC", k, x[i], x[i])
		}
		b.Raw("ADDQ $16, R10")
	})
	k := b.D("VBROADCASTI32X4", "(R10)")
	for i := range x {
		b.I("VAESENCLAST", k, x[i], x[i])
	}
}

// join adds Y times its power, which is at R12 less the carry.
func (c *gcm) join() {
	b := c.b
	b.Raw("MOVQ R12, AX")
	b.Raw("SUBQ R14, AX")
	b.Raw("XORL R14, R14")
	c.g.Add1(c.y, c.g.LoadX("(AX)"))
}

func (c *gcm) hash(v, power vasm.V) { c.g.Add(c.b.Shuf(c.g.Swap(), v), power) }

// gcmPacket generates sealing or opening. R8 and R9 are input and output, CX the
// octets left, R12 the powers, R14 the carry.
func gcmPacket(f *vasm.File, opening bool) {
	name := "gcmSeal"
	if opening {
		name = "gcmOpen"
	}
	b := f.Fn(name, 'Z', true)
	c := &gcm{b: b, g: vasm.NewGHASH(b), opening: opening}
	b.Raw("MOVQ %s, SI", vasm.At("DI", gcmKeys))
	b.Raw("MOVQ %s, R8", vasm.At("DI", gcmIn))
	b.Raw("MOVQ %s, R9", vasm.At("DI", gcmOut))
	b.Raw("MOVQ %s, CX", vasm.At("DI", gcmLen))
	b.Raw("MOVQ %s, R12", vasm.At("DI", gcmPow))
	b.Raw("MOVQ %s, R14", vasm.At("DI", gcmCarry))
	// Counter blocks as numbers: the nonce, and the count in its own order.
	c.swap = b.Load(f.Const(lanesOf(0x03020100, 0x07060504, 0x0b0a0908, 0x0c0d0e0f)))
	b.Raw("MOVQ %s, AX", vasm.At("DI", gcmNonce))
	b.Raw("MOVL $7, BX")
	b.Raw("KMOVW BX, K1")
	nonce := b.New()
	b.I("VMOVDQU32.Z", "(AX)", "K1", nonce.As('X'))
	nonce = b.Shuf128(0, nonce, nonce)
	first := b.D("VPADDD", b.Load(f.Const(lanesOf(0, 0, 0, 1))), nonce)
	c.ctr = b.D("VPADDD", b.Load(f.Const(vasm.Words(0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5))), nonce)
	c.y = c.g.LoadX(vasm.At("DI", gcmY))
	red := c.g.Reduction()

	top, tail := b.Label(), b.Label()
	b.Place(top)
	b.Raw("CMPQ CX, $%d", chunkRows*row)
	b.Jump("JLT", tail)
	b.Depth++
	c.join()
	x := c.counters(chunkRows)
	c.rounds(x)
	for i := range x {
		in := b.Load(vasm.At("R8", row*i))
		out := b.Xor(in, x[i])
		text := out
		if opening {
			text = in
		}
		b.Save(out, vasm.At("R9", row*i))
		c.hash(text, b.Load(vasm.At("R12", row*i)))
	}
	b.Move(c.g.Sum(red), c.y)
	for _, v := range []vasm.V{c.g.Lo, c.g.Mid, c.g.Hi} {
		b.I(vasm.Zero, v)
	}
	b.Raw("ADDQ $%d, R8", chunkRows*row)
	b.Raw("ADDQ $%d, R9", chunkRows*row)
	b.Raw("SUBQ $%d, CX", chunkRows*row)
	b.Jump("JMP", top)
	b.Depth--

	// The rest, the block of lengths, and the block that hides the tag.
	b.Place(tail)
	b.Raw("LEAQ 15(CX), AX")
	b.Raw("ANDQ $~15, AX")
	b.Raw("ADDQ $%d, R12", 16*(gcmPowers-1))
	b.Raw("SUBQ AX, R12")
	c.join()
	few, hide, done := b.Label(), b.Label(), b.Label()
	masked := b.Mem(row * chunkRows)
	e := b.New()
	// Up to 16 blocks need half of the registers.
	b.Raw("CMPQ CX, $%d", chunkRows/2*row)
	b.Jump("JLE", few)
	wide := func(n int) {
		x := c.counters(n)
		x = append(x, b.Xor(b.D("VBROADCASTI32X4", "(SI)"), b.Shuf(c.swap, first)))
		c.rounds(x)
		for i := range n {
			b.Save(x[i], b.At(masked+row*i))
		}
		b.Move(x[n], e)
	}
	wide(chunkRows)
	b.Jump("JMP", hide)
	b.Place(few)
	wide(chunkRows / 2)
	b.Place(hide)
	b.Raw("MOVQ $-1, BX")
	b.Raw("XORL R10, R10")
	again := b.Label()
	b.Place(again)
	b.Raw("TESTQ CX, CX")
	b.Jump("JLE", done)
	b.Depth++
	b.Raw("MOVL $64, DX")
	b.Raw("CMPQ CX, DX")
	b.Raw("CMOVQLT CX, DX")
	b.Raw("BZHIQ DX, BX, AX")
	b.Raw("KMOVQ AX, K1")
	b.Raw("ADDQ $15, DX")
	b.Raw("ANDQ $~15, DX")
	b.Raw("BZHIQ DX, BX, AX")
	b.Raw("KMOVQ AX, K2")
	in := b.D("VMOVDQU8.Z", "(R8)(R10*1)", "K1")
	out := b.Xor(in, b.Load(fmt.Sprintf("%d(%s)(R10*1)", masked, vasm.Scratch)))
	b.Store("VMOVDQU8", out, "K1", "(R9)(R10*1)")
	text := in
	if !opening {
		text = b.D("VMOVDQU8.Z", out, "K1")
	}
	c.hash(text, b.D("VMOVDQU8.Z", "(R12)(R10*1)", "K2"))
	b.Raw("ADDQ $64, R10")
	b.Raw("SUBQ $64, CX")
	b.Jump("JMP", again)
	b.Depth--
	b.Place(done)
	b.Raw("MOVQ %s, R12", vasm.At("DI", gcmPow))
	c.g.Add1(c.g.LoadX(vasm.At("DI", gcmLens)), c.g.LoadX(vasm.At("R12", 16*(gcmPowers-1))))
	t := c.g.OpX("VPSHUFB", c.g.Swap(), c.g.Sum(red))
	c.g.StoreX(c.g.XorX(t, e), vasm.At("DI", gcmTag))
	b.Ret()
	b.Done()
}

// gcmAbsorb generates GHASH of whole blocks, one after the other, for additional
// data that are longer than those of ESP.
func gcmAbsorb(f *vasm.File) {
	b := f.Fn("gcmAbsorb", 'X', true)
	b.Raw("MOVQ %s, R8", vasm.At("DI", gcmIn))
	b.Raw("MOVQ %s, CX", vasm.At("DI", gcmLen))
	b.Raw("MOVQ %s, R12", vasm.At("DI", gcmPow))
	g := vasm.NewGHASH(b)
	red := g.Reduction()
	h := g.LoadX(vasm.At("R12", 16*(gcmPowers-1)))
	y := b.New()
	b.Move(g.LoadX(vasm.At("DI", gcmY)), y)
	b.While("CX", func() {
		for _, v := range []vasm.V{g.Lo, g.Mid, g.Hi} {
			b.I(vasm.Zero, v)
		}
		g.Add1(g.XorX(y, g.OpX("VPSHUFB", g.Swap(), g.LoadX("(R8)"))), h)
		b.Move(g.Sum(red), y)
		b.Raw("ADDQ $16, R8")
	})
	g.StoreX(y, vasm.At("DI", gcmY))
	b.Ret()
	b.Done()
}

// gcmSetup generates the hash key, a block of zeros encrypted, and its powers:
// gcmPow is the end of the table.
func gcmSetup(f *vasm.File) {
	b := f.Fn("gcmSetup", 'X', true)
	b.Raw("MOVQ %s, SI", vasm.At("DI", gcmKeys))
	b.Raw("MOVQ %s, BX", vasm.At("DI", gcmRounds))
	b.Raw("MOVQ %s, R8", vasm.At("DI", gcmPow))
	b.Raw("MOVQ $%d, CX", gcmPowers+2)
	g := &vasm.GHASH{F: b}
	h := b.New()
	b.Move(g.LoadX("(SI)"), h)
	b.While("BX", func() {
		b.Raw("ADDQ $16, SI")
		b.I("VAESENC", g.LoadX("(SI)"), h, h)
	})
	b.I("VAESENCLAST", g.LoadX("16(SI)"), h, h)
	g.Powers(h)
	b.Ret()
	b.Done()
}
