package main

import "fmt"

// Offsets of the structures of package sm that the lane kernels work on: a
// group of 16 lanes and the call that names groups and packets.
const (
	laneKey   = 0
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
)

const row = 64 // bytes of a row of 16 lanes

// cipher is the SM4 part of a kernel: constants in registers and the state of
// the groups it works on.
type cipher struct {
	b       *B
	u, v, w V
	r8, r24 V
	pre, un V
	swap    V
	groups  int
	ptrs    int // scratch: pointers in, out, strides
}

func (f *File) builder(name string, width byte, evex bool, s sbox, k *B) *B {
	return &B{Fn: f.Fn(name, width, evex), k: k.k, sbox: s}
}

// pointers copies the packets' addresses to scratch memory, where they advance
// from step to step without the collector seeing them.
func (b *B) pointers(groups int) int {
	m := b.Mem(groups * 384)
	for part, from := range []int{callIn, callOut, callStride} {
		for i := 0; i < groups*128; i += b.bytes() {
			b.store(b.load(at("DI", from+i)), b.at(m+part*groups*128+i))
		}
	}
	return m
}

// advance moves the addresses by their strides.
func (b *B) advance(m, groups int) {
	for i := 0; i < groups*128; i += b.bytes() {
		s := b.load(b.at(m + 2*groups*128 + i))
		for part := range 2 {
			p := b.at(m + part*groups*128 + i)
			b.store(b.D("VPADDQ", p, s), p)
		}
	}
}

// packetRows loads 16 (or 8) rows of packets from lane first on, off bytes into
// the step.
func (b *B) packetRows(m, first, off int) []V {
	rows := make([]V, b.bytes()/4)
	for i := range rows {
		b.Raw("MOVQ %s, AX", b.at(m+8*(first+i)))
		rows[i] = b.load(at("AX", off))
	}
	return rows
}

func (b *B) storePacketRows(rows []V, m, groups, first, off int) {
	for i := range rows {
		b.Raw("MOVQ %s, AX", b.at(m+groups*128+8*(first+i)))
		b.store(rows[i], at("AX", off))
	}
}

// --- SM4 rounds in the word layout

// cell is a state that several stretches of code work on in turn: in registers,
// or in memory where there are too few of them.
type cell struct {
	b    *B
	regs []V
	mem  int // -1: in registers
}

func (b *B) cell(n int, inMemory bool) *cell {
	c := &cell{b: b, mem: -1}
	if inMemory {
		c.mem = b.Mem(n * row)
		c.regs = make([]V, n)
		return c
	}
	for range n {
		c.regs = append(c.regs, b.New())
	}
	return c
}

func (c *cell) open() []V {
	if c.mem < 0 {
		return c.regs
	}
	for i := range c.regs {
		c.regs[i] = c.b.load(c.b.at(c.mem + i*row))
	}
	return c.regs
}

func (c *cell) set(i int, v V) {
	if c.mem < 0 {
		c.b.Move(v, c.regs[i])
		return
	}
	c.b.store(v, c.b.at(c.mem+i*row))
}

// shortRound is the round with the shortest path: eight clocks from one S-box
// to the next. The linear layer of the S-box's output bytes is u + v<<<8 +
// v<<<16 + w<<<24, and t, the input of the next round's S-box, is found before
// the new word. x has t as its fifth element; q is the round modulo 4.
func (c *cipher) shortRound(x []V, q int, key string) {
	b := c.b
	x0, x2, x3, t := x[q&3], x[(q+2)&3], x[(q+3)&3], x[4]
	v, w, u := b.gfinv(t, c.v), b.gfinv(t, c.w), b.gfinv(t, c.u)
	e := b.xor3(x2, x3, b.xor(key, x0))
	y := b.xor3(e, b.shuf(c.r8, v), b.rol(v, 16))
	b.xor3To(y, u, b.shuf(c.r24, w), t)
	b.xor3To(t, x2, x3, x0)
}

// chainIn makes the state of a CBC block from its plaintext words and the block
// before.
func (c *cipher) chainIn(x *cell, group string, prev *cell, word func(i int) string) {
	b := c.b
	p := prev.open()
	var n [4]V
	for i := range 4 {
		n[i] = b.xor3(b.load(word(i)), p[i], at(group, laneChain+i*row))
		x.set(i, n[i])
	}
	x.set(4, b.xor3(n[1], n[2], n[3]))
}

// chainOut keeps the ciphertext words, in reverse order of the state's, as the
// next block's chain, and writes them where the plaintext was.
func (c *cipher) chainOut(x *cell, prev *cell, word func(i int) string) {
	b := c.b
	s := x.open()
	for i := range 4 {
		b.store(s[3-i], word(i))
		prev.set(i, s[3-i])
	}
}

// freshIV brings the chain of lanes that begin into the basis.
func (c *cipher) freshIV(group string, prev *cell) {
	b := c.b
	fresh := b.load(at(group, laneFresh))
	b.Store("VPTESTMD", fresh, fresh, "K1")
	for i := range 4 {
		p := b.load(at(group, lanePrev+i*row))
		n := b.xor(at(group, laneIn+i*row), b.gfaff(p, c.pre))
		b.RW("VMOVDQA32", n, "K1", p)
		prev.set(i, p)
	}
}

func (c *cipher) constants() {
	b := c.b
	c.u, c.v, c.w = b.matrix(b.k.U), b.matrix(b.k.V), b.matrix(b.k.W)
	c.r8, c.r24 = b.row(rotate8), b.row(rotate3)
	c.pre, c.un, c.swap = b.matrix(b.k.Basis), b.matrix(b.k.Unbasis), b.row(swap32)
}

// words loads the next 64 bytes of a group's packets as words in the basis.
func (c *cipher) words(group int, to int) {
	b := c.b
	rows := b.packetRows(c.ptrs, group*16, 0)
	for i := range rows {
		rows[i] = b.gfaff(b.shuf(c.swap, rows[i]), c.pre)
	}
	b.square(rows, false)
	for i := range rows {
		b.store(rows[i], b.at(to+i*row))
	}
}

// finish takes the ciphertext words out of the basis.
func (c *cipher) finish(group string, from int) []V {
	b := c.b
	v := make([]V, 16)
	for i := range v {
		v[i] = b.xor(at(group, laneOut+(i&3)*row), b.gfaff(b.load(b.at(from+i*row)), c.un))
	}
	return v
}

func (c *cipher) writeRows(v []V, group int) {
	b := c.b
	b.square(v, true)
	for i := range v {
		v[i] = b.shuf(c.swap, v[i])
	}
	b.storePacketRows(v, c.ptrs, c.groups, group*16, 0)
}

var groupBase = []string{"SI", "R9"}

func (c *cipher) bases() {
	b := c.b
	b.Raw("MOVQ %s, SI", at("DI", callGroups))
	if c.groups == 2 {
		b.Raw("LEAQ %s, R9", at("SI", laneSize))
	}
	b.Raw("MOVQ %s, CX", at("DI", callSteps))
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
				c.shortRound(x[g].open(), q, at(keyBase[g], laneKey+q*row))
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
func cbc512(f *File, k *B, groups int) {
	b := f.builder(fmt.Sprintf("cbcLanes%dAVX512", 16*groups), 'Z', true, withGFNI, k)
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
	return func(i int) string { return fmt.Sprintf("%d(%s)(R12*1)", m+i*row, scratch) }
}

func (c *cipher) savePrev(prev []*cell) {
	for g := range prev {
		p := prev[g].open()
		for i := range 4 {
			c.b.store(p[i], at(groupBase[g], lanePrev+i*row))
		}
	}
}
