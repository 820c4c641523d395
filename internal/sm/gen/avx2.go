package main

import "fmt"

// words256 is SM4 in the word layout on 32-byte registers, eight blocks each,
// with either S-box. With GFNI the state is folded; with AES it is plain.
type words256 struct {
	b          *B
	u, w       V
	pre, un    V
	r8, r16    V
	r24, swap  V
	low        V // 0x0f in every byte
	in0, in1   V // the S-box's input matrix by nibbles
	out0, out1 V
	unshift    V // undoes what AESENCLAST does besides the S-box
}

func (f *File) words256(name string, sb sbox, k *B) *words256 {
	b := f.builder(name, 'Y', false, sb, k)
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
	c.swap, c.r8, c.r16, c.r24 = b.row(swap32), b.row(rotate8), b.row(rotate2), b.row(rotate3)
	if b.sbox == withGFNI {
		c.u, c.w = b.matrix(b.k.U), b.matrix(b.k.W)
		c.pre, c.un = b.matrix(b.k.Basis), b.matrix(b.k.Unbasis)
		return
	}
	lo, hi := b.k.AESPre.Nibbles(b.k.AESPreC)
	c.in0, c.in1 = b.row(lo[:]), b.row(hi[:])
	lo, hi = b.k.AESPost.Nibbles(b.k.AESPosC)
	c.out0, c.out1 = b.row(lo[:]), b.row(hi[:])
	c.low = b.row(words(0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f))
	c.unshift = b.row([]byte{0, 13, 10, 7, 4, 1, 14, 11, 8, 5, 2, 15, 12, 9, 6, 3})
}

func (c *words256) basis(v V) V {
	if c.b.sbox == withAES {
		return v
	}
	return c.b.gfaff(v, c.pre)
}

func (c *words256) unbasis(v V) V {
	if c.b.sbox == withAES {
		return v
	}
	return c.b.gfaff(v, c.un)
}

func (c *words256) nibbles(v, lo, hi V) V {
	b := c.b
	h := b.D("VPAND", c.low, b.D("VPSRLD", "$4", v))
	return b.xor(b.shuf(b.D("VPAND", c.low, v), lo), b.shuf(h, hi))
}

// sboxAES is the S-box through that of AES, which works on 16 bytes.
func (c *words256) sboxAES(v V) V {
	b := c.b
	v = b.shuf(c.unshift, c.nibbles(v, c.in0, c.in1))
	zero := b.D(opZero)
	last := func(x V) V {
		r := b.New()
		b.I("VAESENCLAST", view{zero, 'X'}, view{x, 'X'}, view{r, 'X'})
		return r
	}
	upper := b.New()
	b.I("VEXTRACTI128", "$1", v, view{upper, 'X'})
	hi := last(upper)
	v = b.D("VINSERTI128", "$1", view{hi, 'X'}, last(v))
	return c.nibbles(v, c.out0, c.out1)
}

// round does a round on x0 with the key in memory (eight times) or in a
// register.
func (c *words256) round(x []V, q int, key any) {
	b := c.b
	x0, x1, x2, x3 := x[q&3], x[(q+1)&3], x[(q+2)&3], x[(q+3)&3]
	t := b.xor3(x1, x2, x3)
	if b.sbox == withAES {
		s := c.sboxAES(b.xor(key, t))
		y := b.xor3(s, b.shuf(c.r8, s), b.shuf(c.r16, s))
		b.xorTo(b.xor3(s, b.shuf(c.r24, s), b.rol(y, 2)), x0, x0)
		return
	}
	p := b.xor(key, b.xor(b.gfinv(t, c.w), b.shuf(c.r24, b.gfinv(t, c.u))))
	r := b.shuf(c.r8, p)
	b.xorTo(b.xor(r, b.shuf(c.r16, b.xor(p, r))), x0, x0)
}

// cbc256 generates SM4-CBC encryption of 16 packets a group.
func cbc256(f *File, k *B, groups int, sb sbox) {
	c := f.words256(fmt.Sprintf("cbcLanes%d%s", 16*groups, suffix(sb)), sb, k)
	b := c.b
	c.constants()
	b.Raw("MOVQ %s, SI", at("DI", callGroups))
	if groups == 2 {
		b.Raw("LEAQ %s, R9", at("SI", laneSize))
	}
	b.Raw("MOVQ %s, CX", at("DI", callSteps))
	ptrs := b.pointers(groups)
	parts := b.parts(groups)
	v, prev := make([]int, len(parts)), make([]int, len(parts))
	for n, p := range parts {
		v[n], prev[n] = b.Mem(16*row), b.Mem(4*row)
		base := groupBase[p.group]
		fresh := b.load(at(base, laneFresh+p.off))
		for i := range 4 {
			raw := b.load(at(base, lanePrev+i*row+p.off))
			in := b.xor(at(base, laneIn+i*row+p.off), c.basis(raw))
			b.store(b.xor(raw, b.D("VPAND", fresh, b.xor(raw, in))), b.at(prev[n]+i*row))
		}
	}
	b.While("CX", func() {
		for n, p := range parts {
			for off := 0; off < 64; off += 32 {
				rows := b.packetRows(ptrs, p.first, off)
				for i := range rows {
					rows[i] = c.basis(b.shuf(c.swap, rows[i]))
				}
				b.square(rows, false)
				for i := range rows {
					b.store(rows[i], b.at(v[n]+(off/4+i)*row))
				}
			}
		}
		b.Raw("XORQ R12, R12")
		b.Raw("MOVQ $4, DX")
		b.While("DX", func() {
			x := make([][]V, len(parts))
			for n, p := range parts {
				for i := range 4 {
					w := b.xor(indexed(v[n])(i), b.load(b.at(prev[n]+i*row)))
					x[n] = append(x[n], b.xor(at(groupBase[p.group], laneChain+i*row+p.off), w))
				}
			}
			for g := range groups {
				b.Raw("MOVQ %s, %s", groupBase[g], keyBase[g])
			}
			b.Loop("BX", 8, func() {
				for q := range 4 {
					for n, p := range parts {
						c.round(x[n], q, at(keyBase[p.group], laneKey+q*row+p.off))
					}
				}
				for g := range groups {
					b.Raw("ADDQ $%d, %s", 4*row, keyBase[g])
				}
			})
			for n := range parts {
				for i := range 4 {
					b.store(x[n][3-i], indexed(v[n])(i))
					b.store(x[n][3-i], b.at(prev[n]+i*row))
				}
			}
			b.Raw("ADDQ $%d, R12", 4*row)
		})
		for n, p := range parts {
			for off := 0; off < 64; off += 32 {
				rows := make([]V, 8)
				for i := range rows {
					w := off/4 + i
					rows[i] = b.xor(at(groupBase[p.group], laneOut+(w&3)*row+p.off), c.unbasis(b.load(b.at(v[n]+w*row))))
				}
				b.square(rows, true)
				for i := range rows {
					rows[i] = b.shuf(c.swap, rows[i])
				}
				b.storePacketRows(rows, ptrs, groups, p.first, off)
			}
		}
		b.advance(ptrs, groups)
	})
	for n, p := range parts {
		for i := range 4 {
			b.store(b.load(b.at(prev[n]+i*row)), at(groupBase[p.group], lanePrev+i*row+p.off))
		}
	}
	b.Ret()
	b.Done()
}

func (f *File) wide256(kind string, regs int, sb sbox, k *B) *words256 {
	c := f.words256(fmt.Sprintf("%s%d%s", kind, 8*regs, suffix(sb)), sb, k)
	b := c.b
	b.Raw("MOVQ %s, SI", at("DI", wideKeyPtr))
	b.Raw("MOVQ %s, R8", at("DI", wideIn))
	b.Raw("MOVQ %s, R9", at("DI", wideOut))
	c.constants()
	return c
}

func (c *words256) bc128(mem string) V { return c.b.D("VBROADCASTI128", mem) }

// rounds runs all blocks with one key.
func (c *words256) rounds(x [][]V) {
	b := c.b
	b.Raw("LEAQ %s, R10", at("SI", keyKappa))
	b.Loop("BX", 8, func() {
		for q := range 4 {
			key := b.bc32(at("R10", 4*q))
			for n := range x {
				c.round(x[n], q, key)
			}
		}
		b.Raw("ADDQ $16, R10")
	})
}

// rows takes the blocks of a state out of the layout; without the constants at
// the end of the rounds.
func (c *words256) rows(x []V) []V {
	b := c.b
	r := []V{x[3], x[2], x[1], x[0]}
	b.t4(r)
	for i := range r {
		r[i] = c.unbasis(b.shuf(c.swap, r[i]))
	}
	return r
}

// ctr256 generates whole units of CTR.
func ctr256(f *File, k *B, regs int, sb sbox) {
	c := f.wide256("ctr", regs, sb, k)
	b := c.b
	b.Raw("MOVQ %s, AX", at("DI", wideNonce))
	var n0 [3]V
	for w := range n0 {
		v := c.basis(b.shuf(c.swap, b.bc32(at("AX", 4*w))))
		n0[w] = b.xor(b.bc32(at("SI", keyCin+4*w)), v)
	}
	first, ctr, cin := b.bc32(at("DI", wideFirst)), b.bc32(at("DI", wideCtr)), b.bc32(at("SI", keyCin+12))
	x := make([][]V, regs)
	for n := range x {
		place := b.load(b.file.Const(words(0, 2, 4, 6, 1, 3, 5, 7)))
		if n > 0 {
			place = b.add(b.bc32(b.file.Const(words(uint32(8*n), 0))), place)
		}
		v := b.add(place, ctr)
		m := b.D("VPCMPEQD", place, first)
		one := b.bc32(b.file.Const(words(1, 0)))
		v = b.xor(v, b.D("VPAND", m, b.xor(v, one)))
		for w := range 3 {
			d := b.New()
			b.Move(n0[w], d)
			x[n] = append(x[n], d)
		}
		x[n] = append(x[n], b.xor(cin, c.basis(v)))
	}
	c.rounds(x)
	ox := c.bc128(at("SI", keyOX))
	m := b.Mem(128 * regs)
	for n := range x {
		for i, r := range c.rows(x[n]) {
			off := 128*n + 32*i
			ks := b.xor(r, ox)
			b.store(ks, b.at(m+off))
			b.store(b.xor(at("R8", off), ks), at("R9", off))
		}
	}
	none := b.Label()
	b.Raw("MOVLQSX %s, AX", at("DI", wideFirst))
	b.Raw("TESTQ AX, AX")
	b.Jump("JLT", none)
	b.Raw("SHLQ $4, AX")
	e := b.New()
	b.I("VMOVDQU", fmt.Sprintf("%d(%s)(AX*1)", m, scratch), view{e, 'X'})
	b.Store("VMOVDQU", view{e, 'X'}, at("DI", wideE))
	b.Place(none)
	b.Ret()
	b.Done()
}

// blocks256 generates ECB, or decryption in CBC, of whole units.
func blocks256(f *File, k *B, regs int, sb sbox) {
	c := f.wide256("blocks", regs, sb, k)
	b := c.b
	ix := c.bc128(at("SI", keyIX))
	x := make([][]V, regs)
	for n := range x {
		r := make([]V, 4)
		for i := range r {
			r[i] = c.basis(b.shuf(c.swap, b.xor(at("R8", 128*n+32*i), ix)))
		}
		b.t4(r)
		x[n] = r
	}
	c.rounds(x)
	ox, mode := c.bc128(at("SI", keyOX)), b.D("VPBROADCASTQ", at("DI", wideMode))
	for n := regs - 1; n >= 0; n-- {
		r := c.rows(x[n])
		for i := 3; i >= 0; i-- {
			off := 128*n + 32*i
			var p V
			if off > 0 {
				p = b.load(at("R8", off-16))
			} else {
				p = b.New()
				b.I("VMOVDQU", at("DI", wideBefore), view{p, 'X'})
				p = b.D("VINSERTI128", "$1", at("R8", 0), p)
			}
			b.store(b.xor(b.D("VPAND", mode, p), b.xor(r[i], ox)), at("R9", off))
		}
	}
	b.Ret()
	b.Done()
}

// features generates the query for instructions that golang.org/x/sys/cpu does
// not report: ECX of CPUID's leaf 7.
func features(f *File) {
	fn := f.Fn("cpuid7", 'X', false)
	fn.Raw("MOVL $7, AX")
	fn.Raw("XORL CX, CX")
	fn.Raw("CPUID")
	fn.Raw("MOVL CX, (DI)")
	fn.code = append(fn.code, instr{op: "RET", ends: true})
	fn.Done()
}
