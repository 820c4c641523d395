package vasm

import "encoding/binary"

// GHASH is the hash of GCM (NIST SP 800-38D, Section 6.4) in a function. A block,
// its bytes reversed, is an integer whose bit i is the coefficient of x^(127-i). The carry-less product of two such integers, read as
// 256 bits with bit i for x^(255-i), is x times the true product; so the powers
// of the hash key are kept divided by x. The low half is then the part of degree
// 128 and more. Adding multiples of x^128 + x^7 + x^2 + x + 1 clears it, 64 bits
// at a time, with the constant 0xc2 << 56. Products are summed first: one
// reduction does for up to 128 blocks.
type GHASH struct {
	F           *Fn
	Lo, Mid, Hi V
}

func (g *GHASH) x(v V) any {
	return v.As('X')
}

// ClmulX multiplies halves of 128-bit operands.
func (g *GHASH) ClmulX(imm string, h, d V) V {
	r := g.F.New()
	g.F.I("VPCLMULQDQ", imm, g.x(h), g.x(d), g.x(r))
	return r
}

// OpX is an instruction on operands of 128 bits.
func (g *GHASH) OpX(op string, args ...any) V {
	for i, a := range args {
		if v, ok := a.(V); ok {
			args[i] = g.x(v)
		}
	}
	r := g.F.New()
	g.F.I(op, append(args, g.x(r))...)
	return r
}

// XorX is a + c of 128 bits.
func (g *GHASH) XorX(a, c V) V { return g.OpX(g.F.Pick("VPXORD", "VPXOR"), a, c) }

// LoadX reads 128 bits.
func (g *GHASH) LoadX(mem string) V { return g.OpX(g.F.Pick("VMOVDQU64", "VMOVDQU"), mem) }

// StoreX writes 128 bits.
func (g *GHASH) StoreX(v V, mem string) {
	g.F.Store(g.F.Pick("VMOVDQU64", "VMOVDQU"), g.x(v), mem)
}

// ConstX is a constant of 128 bits.
func (g *GHASH) ConstX(lo, hi uint64) V {
	var c [16]byte
	binary.LittleEndian.PutUint64(c[:], lo)
	binary.LittleEndian.PutUint64(c[8:], hi)
	return g.LoadX(g.F.File.Const(c[:]))
}

// Add adds d times h to the sums, at full width: three products (Karatsuba), as
// the multiplier is the slowest unit. mid gets lo and hi too, until finish.
func (g *GHASH) Add(d, h V) {
	b := g.F
	halves := func(v V) V { return b.Xor(v, b.D("VPSHUFD", "$0x4e", v)) }
	b.XorTo(b.D("VPCLMULQDQ", "$0x00", h, d), g.Lo, g.Lo)
	b.XorTo(b.D("VPCLMULQDQ", "$0x11", h, d), g.Hi, g.Hi)
	b.XorTo(b.D("VPCLMULQDQ", "$0x00", halves(h), halves(d)), g.Mid, g.Mid)
}

// Add1 adds the product of two 128-bit operands.
func (g *GHASH) Add1(d, h V) {
	b := g.F
	halves := func(v V) V { return g.XorX(v, g.OpX("VPSHUFD", "$0x4e", v)) }
	b.XorTo(g.ClmulX("$0x00", h, d), g.Lo, g.Lo)
	b.XorTo(g.ClmulX("$0x11", h, d), g.Hi, g.Hi)
	b.XorTo(g.ClmulX("$0x00", halves(h), halves(d)), g.Mid, g.Mid)
}

// Sum reduces the sums to one block.
func (g *GHASH) Sum(red V) V {
	lo, hi := g.fold(g.Lo), g.fold(g.Hi)
	return g.Reduce(lo, g.XorX(g.fold(g.Mid), g.XorX(lo, hi)), hi, red)
}

// fold adds the 128-bit lanes of a register.
func (g *GHASH) fold(v V) V {
	if g.F.Width != 'Z' {
		return v
	}
	h := g.F.New()
	g.F.I("VEXTRACTI64X4", "$1", v, h.As('Y'))
	y := g.F.New()
	g.F.I("VPXORD", h.As('Y'), v.As('Y'), y.As('Y'))
	q := g.F.New()
	g.F.I("VEXTRACTI64X2", "$1", y.As('Y'), g.x(q))
	return g.XorX(q, y)
}

// Reduce is the remainder of a product of 256 bits; red is Reduction.
func (g *GHASH) Reduce(lo, mid, hi, red V) V {
	lo = g.XorX(lo, g.OpX("VPSLLDQ", "$8", mid))
	hi = g.XorX(hi, g.OpX("VPSRLDQ", "$8", mid))
	for range 2 {
		lo = g.XorX(g.OpX("VPSHUFD", "$0x4e", lo), g.ClmulX("$0x00", red, lo))
	}
	return g.XorX(hi, lo)
}

// NewGHASH begins a sum.
func NewGHASH(f *Fn) *GHASH {
	g := &GHASH{F: f}
	g.Clear()
	return g
}

// Clear begins a sum anew.
func (g *GHASH) Clear() { g.Lo, g.Mid, g.Hi = g.F.D(Zero), g.F.D(Zero), g.F.D(Zero) }

// Swap is the operand that reverses the bytes of blocks.
func (g *GHASH) Swap() string {
	return g.F.File.Const(reversed)
}

var reversed = func() []byte {
	b := make([]byte, 64)
	for i := range b {
		b[i] = byte(15 - i%16)
	}
	return b
}()

// Reduction returns the constant that Reduce and Sum want.
func (g *GHASH) Reduction() V { return g.ConstX(0xc200000000000000, 0) }

// Powers writes R8 downwards as many powers of h, a block as AES or SM4 made it, as
// CX says, H^1 first.
func (g *GHASH) Powers(block V) {
	b := g.F
	red := g.Reduction()
	poly := g.ConstX(1, 0xc200000000000000)
	adjust := func(h V) V { // h divided by x
		carry := g.OpX("VPSHUFD", "$0xff", g.OpX("VPSRAD", "$31", h))
		up := g.OpX("VPSLLDQ", "$8", g.OpX("VPSRLQ", "$63", h))
		return g.XorX(g.XorX(g.OpX("VPADDQ", h, h), up), g.OpX(b.Pick("VPANDD", "VPAND"), carry, poly))
	}
	h := g.OpX("VPSHUFB", g.ConstX(0x08090a0b0c0d0e0f, 0x0001020304050607), block)
	a := adjust(h)
	p := b.New()
	b.Move(h, p)
	b.While("CX", func() {
		b.Raw("SUBQ $16, R8")
		g.StoreX(adjust(p), At("R8", 0))
		mid := g.XorX(g.ClmulX("$0x01", a, p), g.ClmulX("$0x10", a, p))
		b.Move(g.Reduce(g.ClmulX("$0x00", a, p), mid, g.ClmulX("$0x11", a, p), red), p)
	})
}
