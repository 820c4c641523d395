package main

import (
	"fmt"

	"caponier/internal/vasm"
)

// Offsets of the structures of package sm that the lane kernels work on: a
// group of 16 lanes and the call that names groups and packets.
const (
	laneKey   = 0
	laneCodes = laneKey // with sm3Outer
	laneChain = 2048
	laneOut   = laneChain + 256
	laneIn    = laneOut + 256
	lanePrev  = laneIn + 256
	laneState = lanePrev + 256
	lanePend  = laneState + 512
	laneCarry = lanePend + 1024
	laneFresh = laneCarry + 384
	laneHold  = laneFresh + 64
	laneSize  = laneHold + 64

	callGroups = 0
	callSteps  = 8
	callCold   = 16
	callIn     = 24
	callOut    = callIn + 256
	callStride = callOut + 256
	callKey    = callStride + 256
)

const row = 64 // bytes of a row of 16 lanes

// cipher is the SM4 part of a kernel: constants in registers and the state of
// the groups it works on.
type cipher struct {
	b       *B
	u, v, w vasm.V
	r8, r24 vasm.V
	pre, un vasm.V
	swap    vasm.V
	groups  int
	ptrs    int // vasm.Scratch: pointers in, out, strides
}

func builder(f *vasm.File, name string, width byte, evex bool, s sbox, k *B) *B {
	return &B{Fn: f.Fn(name, width, evex), k: k.k, sbox: s}
}

// pointers copies the packets' addresses to vasm.Scratch memory, where they advance
// from step to step without the collector seeing them.
func (b *B) pointers(groups int) int {
	m := b.Mem(groups * 384)
	for part, from := range []int{callIn, callOut, callStride} {
		for i := 0; i < groups*128; i += b.Bytes() {
			b.Save(b.Load(vasm.At("DI", from+i)), b.At(m+part*groups*128+i))
		}
	}
	return m
}

// advance moves the addresses by their strides.
func (b *B) advance(m, groups int) {
	for i := 0; i < groups*128; i += b.Bytes() {
		s := b.Load(b.At(m + 2*groups*128 + i))
		for part := range 2 {
			p := b.At(m + part*groups*128 + i)
			b.Save(b.D("VPADDQ", p, s), p)
		}
	}
}

// packetRows loads 16 (or 8) rows of packets from lane first on, off bytes into
// the step.
func (b *B) packetRows(m, first, off int) []vasm.V {
	rows := make([]vasm.V, b.Bytes()/4)
	for i := range rows {
		b.Raw("MOVQ %s, AX", b.At(m+8*(first+i)))
		rows[i] = b.Load(vasm.At("AX", off))
	}
	return rows
}

func (b *B) storePacketRows(rows []vasm.V, m, groups, first, off int) {
	for i := range rows {
		b.Raw("MOVQ %s, AX", b.At(m+groups*128+8*(first+i)))
		b.Save(rows[i], vasm.At("AX", off))
	}
}

// --- SM4 rounds in the word layout

// cell is a state that several stretches of code work on in turn: in registers,
// or in memory where there are too few of them.
type cell struct {
	b    *B
	regs []vasm.V
	mem  int // -1: in registers
}

func (b *B) cell(n int, inMemory bool) *cell {
	c := &cell{b: b, mem: -1}
	if inMemory {
		c.mem = b.Mem(n * row)
		c.regs = make([]vasm.V, n)
		return c
	}
	for range n {
		c.regs = append(c.regs, b.New())
	}
	return c
}

func (c *cell) open() []vasm.V {
	if c.mem < 0 {
		return c.regs
	}
	for i := range c.regs {
		c.regs[i] = c.b.Load(c.b.At(c.mem + i*row))
	}
	return c.regs
}

func (c *cell) set(i int, v vasm.V) {
	if c.mem < 0 {
		c.b.Move(v, c.regs[i])
		return
	}
	c.b.Save(v, c.b.At(c.mem+i*row))
}

// shortRound is the round with the shortest path: eight clocks from one S-box
// to the next. The linear layer of the S-box's output bytes is u + v<<<8 +
// v<<<16 + w<<<24, and t, the input of the next round's S-box, is found before
// the new word. x has t as its fifth element; q is the round modulo 4.
func (c *cipher) shortRound(x []vasm.V, q int, key string) {
	b := c.b
	x0, x2, x3, t := x[q&3], x[(q+2)&3], x[(q+3)&3], x[4]
	v, w, u := b.GFInv(t, c.v), b.GFInv(t, c.w), b.GFInv(t, c.u)
	e := b.Xor3(x2, x3, b.Xor(key, x0))
	y := b.Xor3(e, b.Shuf(c.r8, v), b.Rol(v, 16))
	b.Xor3To(y, u, b.Shuf(c.r24, w), t)
	b.Xor3To(t, x2, x3, x0)
}

// chainIn makes the state of a CBC block from its plaintext words and the block
// before.
func (c *cipher) chainIn(x *cell, group string, prev *cell, word func(i int) string) {
	b := c.b
	p := prev.open()
	var n [4]vasm.V
	for i := range 4 {
		n[i] = b.Xor3(b.Load(word(i)), p[i], vasm.At(group, laneChain+i*row))
		x.set(i, n[i])
	}
	x.set(4, b.Xor3(n[1], n[2], n[3]))
}

// chainOut keeps the ciphertext words, in reverse order of the state's, as the
// next block's chain, and writes them where the plaintext was.
func (c *cipher) chainOut(x *cell, prev *cell, word func(i int) string) {
	b := c.b
	s := x.open()
	for i := range 4 {
		b.Save(s[3-i], word(i))
		prev.set(i, s[3-i])
	}
}

// freshIV brings the chain of lanes that begin into the basis.
func (c *cipher) freshIV(group string, prev *cell) {
	b := c.b
	fresh := b.Load(vasm.At(group, laneFresh))
	b.Store("VPTESTMD", fresh, fresh, "K1")
	for i := range 4 {
		p := b.Load(vasm.At(group, lanePrev+i*row))
		n := b.Xor(vasm.At(group, laneIn+i*row), b.GFAff(p, c.pre))
		b.RW("VMOVDQA32", n, "K1", p)
		prev.set(i, p)
	}
}

func (c *cipher) constants() {
	b := c.b
	c.u, c.v, c.w = b.matrix(b.k.U), b.matrix(b.k.V), b.matrix(b.k.W)
	c.r8, c.r24 = b.Row(vasm.Rotate8), b.Row(vasm.Rotate24)
	c.pre, c.un, c.swap = b.matrix(b.k.Basis), b.matrix(b.k.Unbasis), b.Row(vasm.Swap32)
}

// words loads the next 64 bytes of a group's packets as words in the basis.
func (c *cipher) words(group int, to int) {
	b := c.b
	rows := b.packetRows(c.ptrs, group*16, 0)
	for i := range rows {
		rows[i] = b.GFAff(b.Shuf(c.swap, rows[i]), c.pre)
	}
	b.Square(rows, false)
	for i := range rows {
		b.Save(rows[i], b.At(to+i*row))
	}
}

// finish takes the ciphertext words out of the basis.
func (c *cipher) finish(group string, from int) []vasm.V {
	b := c.b
	v := make([]vasm.V, 16)
	for i := range v {
		v[i] = b.Xor(vasm.At(group, laneOut+(i&3)*row), b.GFAff(b.Load(b.At(from+i*row)), c.un))
	}
	return v
}

func (c *cipher) writeRows(v []vasm.V, group int) {
	b := c.b
	b.Square(v, true)
	for i := range v {
		v[i] = b.Shuf(c.swap, v[i])
	}
	b.storePacketRows(v, c.ptrs, c.groups, group*16, 0)
}

var groupBase = []string{"SI", "R9"}

func (c *cipher) bases() {
	b := c.b
	b.Raw("MOVQ %s, SI", vasm.At("DI", callGroups))
	if c.groups == 2 {
		b.Raw("LEAQ %s, R9", vasm.At("SI", laneSize))
	}
	b.Raw("MOVQ %s, CX", vasm.At("DI", callSteps))
}

// cbcRounds encrypts one block of every packet; BX counts, R10 and R11 walk
// through the round keys.
func (c *cipher) cbcRounds(x []*cell) {
	b := c.b
	for g := range x {
		b.Raw("MOVQ %s, %s", groupBase[g], keyBase[g])
	}
	b.Loop("BX", 8, func() {
		for q := range 4 {
			for g := range x {
				c.shortRound(x[g].open(), q, vasm.At(keyBase[g], laneKey+q*row))
			}
		}
		for g := range x {
			b.Raw("ADDQ $%d, %s", 4*row, keyBase[g])
		}
	})
}

var keyBase = []string{"R10", "R11"}

// cbc512 generates SM4-CBC encryption of 16 packets a group, 64 bytes of each a
// step.
func cbc512(f *vasm.File, k *B, groups int) {
	b := builder(f, fmt.Sprintf("cbcLanes%dAVX512", 16*groups), 'Z', true, withGFNI, k)
	c := &cipher{b: b, groups: groups}
	c.constants()
	c.bases()
	c.ptrs = b.pointers(groups)
	x, prev, v := make([]*cell, groups), make([]*cell, groups), make([]int, groups)
	for g := range groups {
		x[g], prev[g], v[g] = b.cell(5, false), b.cell(4, true), b.Mem(16*row)
		c.freshIV(groupBase[g], prev[g])
	}
	b.While("CX", func() {
		for g := range groups {
			c.words(g, v[g])
		}
		b.Raw("XORQ R12, R12")
		b.Raw("MOVQ $4, DX")
		b.While("DX", func() {
			for g := range groups {
				c.chainIn(x[g], groupBase[g], prev[g], indexed(v[g]))
			}
			c.cbcRounds(x)
			for g := range groups {
				c.chainOut(x[g], prev[g], indexed(v[g]))
			}
			b.Raw("ADDQ $%d, R12", 4*row)
		})
		for g := range groups {
			c.writeRows(c.finish(groupBase[g], v[g]), g)
		}
		b.advance(c.ptrs, groups)
	})
	c.savePrev(prev)
	b.Ret()
	b.Done()
}

func indexed(m int) func(i int) string {
	return func(i int) string { return fmt.Sprintf("%d(%s)(R12*1)", m+i*row, vasm.Scratch) }
}

func (c *cipher) savePrev(prev []*cell) {
	for g := range prev {
		p := prev[g].open()
		for i := range 4 {
			c.b.Save(p[i], vasm.At(groupBase[g], lanePrev+i*row))
		}
	}
}
