package main

import (
	"fmt"

	"caponier/internal/vasm"
)

// words256 is SM4 in the word layout on 32-byte registers, eight blocks each,
// with either S-box. With GFNI the state is folded; with AES it is plain.
type words256 struct {
	b          *B
	u, w       vasm.V
	pre, un    vasm.V
	r8, r16    vasm.V
	r24, swap  vasm.V
	low        vasm.V // 0x0f in every byte
	in0, in1   vasm.V // the S-box's input matrix by nibbles
	out0, out1 vasm.V
	unshift    vasm.V // undoes what AESENCLAST does besides the S-box
}

func startWords256(f *vasm.File, name string, sb sbox, k *B) *words256 {
	b := builder(f, name, 'Y', false, sb, k)
	return &words256{b: b}
}

func suffix(s sbox) string {
	if s == withAES {
		return "AVX2AES"
	}
	return "AVX2GFNI"
}

// constants loads what the rounds need; what finds no register goes to memory.
func (c *words256) constants() {
	b := c.b
	c.swap, c.r8, c.r16, c.r24 = b.Row(vasm.Swap32), b.Row(vasm.Rotate8), b.Row(vasm.Rotate16), b.Row(vasm.Rotate24)
	if b.sbox == withGFNI {
		c.u, c.w = b.matrix(b.k.U), b.matrix(b.k.W)
		c.pre, c.un = b.matrix(b.k.Basis), b.matrix(b.k.Unbasis)
		return
	}
	lo, hi := b.k.AESPre.Nibbles(b.k.AESPreC)
	c.in0, c.in1 = b.Row(lo[:]), b.Row(hi[:])
	lo, hi = b.k.AESPost.Nibbles(b.k.AESPosC)
	c.out0, c.out1 = b.Row(lo[:]), b.Row(hi[:])
	c.low = b.Row(vasm.Words(0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f))
	c.unshift = b.Row([]byte{0, 13, 10, 7, 4, 1, 14, 11, 8, 5, 2, 15, 12, 9, 6, 3})
}

func (c *words256) basis(v vasm.V) vasm.V {
	if c.b.sbox == withAES {
		return v
	}
	return c.b.GFAff(v, c.pre)
}

func (c *words256) unbasis(v vasm.V) vasm.V {
	if c.b.sbox == withAES {
		return v
	}
	return c.b.GFAff(v, c.un)
}

func (c *words256) nibbles(v, lo, hi vasm.V) vasm.V {
	b := c.b
	h := b.D("VPAND", c.low, b.D("VPSRLD", "$4", v))
	return b.Xor(b.Shuf(b.D("VPAND", c.low, v), lo), b.Shuf(h, hi))
}

// sboxAES is the S-box through that of AES, which works on 16 bytes.
func (c *words256) sboxAES(v vasm.V) vasm.V {
	b := c.b
	v = b.Shuf(c.unshift, c.nibbles(v, c.in0, c.in1))
	zero := b.D(vasm.Zero)
	last := func(x vasm.V) vasm.V {
		r := b.New()
		b.I("VAESENCLAST", zero.As('X'), x.As('X'), r.As('X'))
		return r
	}
	upper := b.New()
	b.I("VEXTRACTI128", "$1", v, upper.As('X'))
	hi := last(upper)
	v = b.D("VINSERTI128", "$1", hi.As('X'), last(v))
	return c.nibbles(v, c.out0, c.out1)
}

// round does a round on x0 with the key in memory (eight times) or in a
// register.
func (c *words256) round(x []vasm.V, q int, key any) {
	b := c.b
	x0, x1, x2, x3 := x[q&3], x[(q+1)&3], x[(q+2)&3], x[(q+3)&3]
	t := b.Xor3(x1, x2, x3)
	if b.sbox == withAES {
		s := c.sboxAES(b.Xor(key, t))
		y := b.Xor3(s, b.Shuf(c.r8, s), b.Shuf(c.r16, s))
		b.XorTo(b.Xor3(s, b.Shuf(c.r24, s), b.Rol(y, 2)), x0, x0)
		return
	}
	p := b.Xor(key, b.Xor(b.GFInv(t, c.w), b.Shuf(c.r24, b.GFInv(t, c.u))))
	r := b.Shuf(c.r8, p)
	b.XorTo(b.Xor(r, b.Shuf(c.r16, b.Xor(p, r))), x0, x0)
}

// cbc256 generates SM4-CBC encryption of 16 packets a group.
func cbc256(f *vasm.File, k *B, groups int, sb sbox) {
	c := startWords256(f, fmt.Sprintf("cbcLanes%d%s", 16*groups, suffix(sb)), sb, k)
	b := c.b
	c.constants()
	b.Raw("MOVQ %s, SI", vasm.At("DI", callGroups))
	if groups == 2 {
		b.Raw("LEAQ %s, R9", vasm.At("SI", laneSize))
	}
	b.Raw("MOVQ %s, CX", vasm.At("DI", callSteps))
	ptrs := b.pointers(groups)
	parts := b.parts(groups)
	v, prev := make([]int, len(parts)), make([]int, len(parts))
	for n, p := range parts {
		v[n], prev[n] = b.Mem(16*row), b.Mem(4*row)
		base := groupBase[p.group]
		fresh := b.Load(vasm.At(base, laneFresh+p.off))
		for i := range 4 {
			raw := b.Load(vasm.At(base, lanePrev+i*row+p.off))
			in := b.Xor(vasm.At(base, laneIn+i*row+p.off), c.basis(raw))
			b.Save(b.Xor(raw, b.D("VPAND", fresh, b.Xor(raw, in))), b.At(prev[n]+i*row))
		}
	}
	b.While("CX", func() {
		for n, p := range parts {
			for off := 0; off < 64; off += 32 {
				rows := b.packetRows(ptrs, p.first, off)
				for i := range rows {
					rows[i] = c.basis(b.Shuf(c.swap, rows[i]))
				}
				b.Square(rows, false)
				for i := range rows {
					b.Save(rows[i], b.At(v[n]+(off/4+i)*row))
				}
			}
		}
		b.Raw("XORQ R12, R12")
		b.Raw("MOVQ $4, DX")
		b.While("DX", func() {
			x := make([][]vasm.V, len(parts))
			for n, p := range parts {
				for i := range 4 {
					w := b.Xor(indexed(v[n])(i), b.Load(b.At(prev[n]+i*row)))
					x[n] = append(x[n], b.Xor(vasm.At(groupBase[p.group], laneChain+i*row+p.off), w))
				}
			}
			for g := range groups {
				b.Raw("MOVQ %s, %s", groupBase[g], keyBase[g])
			}
			b.Loop("BX", 8, func() {
				for q := range 4 {
					for n, p := range parts {
						c.round(x[n], q, vasm.At(keyBase[p.group], laneKey+q*row+p.off))
					}
				}
				for g := range groups {
					b.Raw("ADDQ $%d, %s", 4*row, keyBase[g])
				}
			})
			for n := range parts {
				for i := range 4 {
					b.Save(x[n][3-i], indexed(v[n])(i))
					b.Save(x[n][3-i], b.At(prev[n]+i*row))
				}
			}
			b.Raw("ADDQ $%d, R12", 4*row)
		})
		for n, p := range parts {
			for off := 0; off < 64; off += 32 {
				rows := make([]vasm.V, 8)
				for i := range rows {
					w := off/4 + i
					rows[i] = b.Xor(vasm.At(groupBase[p.group], laneOut+(w&3)*row+p.off), c.unbasis(b.Load(b.At(v[n]+w*row))))
				}
				b.Square(rows, true)
				for i := range rows {
					rows[i] = b.Shuf(c.swap, rows[i])
				}
				b.storePacketRows(rows, ptrs, groups, p.first, off)
			}
		}
		b.advance(ptrs, groups)
	})
	for n, p := range parts {
		for i := range 4 {
			b.Save(b.Load(b.At(prev[n]+i*row)), vasm.At(groupBase[p.group], lanePrev+i*row+p.off))
		}
	}
	b.Ret()
	b.Done()
}

func wide256(f *vasm.File, kind string, regs int, sb sbox, k *B) *words256 {
	c := startWords256(f, fmt.Sprintf("%s%d%s", kind, 8*regs, suffix(sb)), sb, k)
	b := c.b
	b.Raw("MOVQ %s, SI", vasm.At("DI", wideKeyPtr))
	b.Raw("MOVQ %s, R8", vasm.At("DI", wideIn))
	b.Raw("MOVQ %s, R9", vasm.At("DI", wideOut))
	c.constants()
	return c
}

func (c *words256) bc128(mem string) vasm.V { return c.b.D("VBROADCASTI128", mem) }

// rounds runs all blocks with one key.
func (c *words256) rounds(x [][]vasm.V) {
	b := c.b
	b.Raw("LEAQ %s, R10", vasm.At("SI", keyKappa))
	b.Loop("BX", 8, func() {
		for q := range 4 {
			key := b.Broadcast32(vasm.At("R10", 4*q))
			for n := range x {
				c.round(x[n], q, key)
			}
		}
		b.Raw("ADDQ $16, R10")
	})
}

// rows takes the blocks of a state out of the layout; without the constants at
// the end of the rounds.
func (c *words256) rows(x []vasm.V) []vasm.V {
	b := c.b
	r := []vasm.V{x[3], x[2], x[1], x[0]}
	b.T4(r)
	for i := range r {
		r[i] = c.unbasis(b.Shuf(c.swap, r[i]))
	}
	return r
}

// ctr256 generates whole units of CTR.
func ctr256(f *vasm.File, k *B, regs int, sb sbox) {
	c := wide256(f, "ctr", regs, sb, k)
	b := c.b
	b.Raw("MOVQ %s, AX", vasm.At("DI", wideNonce))
	var n0 [3]vasm.V
	for w := range n0 {
		v := c.basis(b.Shuf(c.swap, b.Broadcast32(vasm.At("AX", 4*w))))
		n0[w] = b.Xor(b.Broadcast32(vasm.At("SI", keyCin+4*w)), v)
	}
	first, ctr, cin := b.Broadcast32(vasm.At("DI", wideFirst)), b.Broadcast32(vasm.At("DI", wideCtr)), b.Broadcast32(vasm.At("SI", keyCin+12))
	x := make([][]vasm.V, regs)
	for n := range x {
		place := b.Load(b.File.Const(vasm.Words(0, 2, 4, 6, 1, 3, 5, 7)))
		if n > 0 {
			place = b.Add(b.Broadcast32(b.File.Const(vasm.Words(uint32(8*n), 0))), place)
		}
		v := b.Add(place, ctr)
		m := b.D("VPCMPEQD", place, first)
		one := b.Broadcast32(b.File.Const(vasm.Words(1, 0)))
		v = b.Xor(v, b.D("VPAND", m, b.Xor(v, one)))
		for w := range 3 {
			d := b.New()
			b.Move(n0[w], d)
			x[n] = append(x[n], d)
		}
		x[n] = append(x[n], b.Xor(cin, c.basis(v)))
	}
	c.rounds(x)
	ox := c.bc128(vasm.At("SI", keyOX))
	m := b.Mem(128 * regs)
	for n := range x {
		for i, r := range c.rows(x[n]) {
			off := 128*n + 32*i
			ks := b.Xor(r, ox)
			b.Save(ks, b.At(m+off))
			b.Save(b.Xor(vasm.At("R8", off), ks), vasm.At("R9", off))
		}
	}
	none := b.Label()
	b.Raw("MOVLQSX %s, AX", vasm.At("DI", wideFirst))
	b.Raw("TESTQ AX, AX")
	b.Jump("JLT", none)
	b.Raw("SHLQ $4, AX")
	e := b.New()
	b.I("VMOVDQU", fmt.Sprintf("%d(%s)(AX*1)", m, vasm.Scratch), e.As('X'))
	b.Store("VMOVDQU", e.As('X'), vasm.At("DI", wideE))
	b.Place(none)
	b.Ret()
	b.Done()
}

// blocks256 generates ECB, or decryption in CBC, of whole units.
func blocks256(f *vasm.File, k *B, regs int, sb sbox) {
	c := wide256(f, "blocks", regs, sb, k)
	b := c.b
	ix := c.bc128(vasm.At("SI", keyIX))
	x := make([][]vasm.V, regs)
	for n := range x {
		r := make([]vasm.V, 4)
		for i := range r {
			r[i] = c.basis(b.Shuf(c.swap, b.Xor(vasm.At("R8", 128*n+32*i), ix)))
		}
		b.T4(r)
		x[n] = r
	}
	c.rounds(x)
	ox, mode := c.bc128(vasm.At("SI", keyOX)), b.D("VPBROADCASTQ", vasm.At("DI", wideMode))
	for n := regs - 1; n >= 0; n-- {
		r := c.rows(x[n])
		for i := 3; i >= 0; i-- {
			off := 128*n + 32*i
			var p vasm.V
			if off > 0 {
				p = b.Load(vasm.At("R8", off-16))
			} else {
				p = b.New()
				b.I("VMOVDQU", vasm.At("DI", wideBefore), p.As('X'))
				p = b.D("VINSERTI128", "$1", vasm.At("R8", 0), p)
			}
			b.Save(b.Xor(b.D("VPAND", mode, p), b.Xor(r[i], ox)), vasm.At("R9", off))
		}
	}
	b.Ret()
	b.Done()
}

// features generates the query for instructions that golang.org/x/sys/cpu does
// not report: ECX of CPUID's leaf 7.
func features(f *vasm.File) {
	fn := f.Fn("cpuid7", 'X', false)
	fn.Raw("MOVL $7, AX")
	fn.Raw("XORL CX, CX")
	fn.Raw("CPUID")
	fn.Raw("MOVL CX, (DI)")
	fn.RetScalar()
	fn.Done()
}
