package main

import (
	"strings"

	"caponier/internal/vasm"
)

// Offsets of the structure of package lanes that the DES kernel works on.
const (
	desKeys = 0
	desRows = 8
)

// Triple DES of 64 blocks (FIPS 46-3). Register i of a half holds, for each
// block, a byte with the six bits that go into S-box i: the half as the expansion
// E makes it, bits twice where E has them twice. VPERMB then looks up an S-box
// for 64 blocks in a table that is a register's contents, not memory at secret
// addresses, and its index ignores the upper two bits.
//
// Each S-box feeds six different S-boxes of the next round, and is fed by six:
// a graph of two times eight nodes in which each has degree six. Such a graph
// has an edge colouring with six colours. Let the colour be the position of the
// bit in its byte. Then six bits of an entry of the table are all that the
// S-box is to send, each at its place: a round is eight look-ups, and six
// "x + (t and mask)", an instruction each, for each register. Nothing else is
// left of the permutation P and of E.

// The tables of FIPS 46-3, with bits counted from 1 at the most significant.
var (
	desIP = []int{
		58, 50, 42, 34, 26, 18, 10, 2, 60, 52, 44, 36, 28, 20, 12, 4,
		62, 54, 46, 38, 30, 22, 14, 6, 64, 56, 48, 40, 32, 24, 16, 8,
		57, 49, 41, 33, 25, 17, 9, 1, 59, 51, 43, 35, 27, 19, 11, 3,
		61, 53, 45, 37, 29, 21, 13, 5, 63, 55, 47, 39, 31, 23, 15, 7,
	}
	desP = []int{
		16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10,
		2, 8, 24, 14, 32, 27, 3, 9, 19, 13, 30, 6, 22, 11, 4, 25,
	}
	// A row of hexadecimal digits for each value of the outer two bits.
	desS = [8][4]string{
		{"e4d12fb83a6c5907", "0f74e2d1a6cb9538", "41e8d62bfc973a50", "fc8249175b3ea06d"},
		{"f18e6b34972dc05a", "3d47f28ec01a69b5", "0e7ba4d158c6932f", "d8a13f42b67c05e9"},
		{"a09e63f51dc7b428", "d709346a285ecbf1", "d6498f30b12c5ae7", "1ad069874fe3b52c"},
		{"7de3069a1285bc4f", "d8b56f03472c1ae9", "a690cb7df13e5284", "3f06a1d8945bc72e"},
		{"2c417ab6853fd0e9", "eb2c47d150fa3986", "421bad78f9c5630e", "b8c71e2d6f09a453"},
		{"c1af92680d34e75b", "af427c9561de0b38", "9ef528c3704a1db6", "432c95fabe17608d"},
		{"4b2ef08d3c975a61", "d0b7491ae35c2f86", "14bdc37eaf680592", "6bd814a7950fe23c"},
		{"d2846fb1a93e50c7", "1fd8a374c56b0e92", "7b419ce206adf358", "21e74a8dfc90356b"},
	}
)

// edge is one bit on its way from an S-box to an S-box of the next round.
type edge struct {
	from, bit int // S-box, and which of its four bits, 0 the most significant
	to, in    int // S-box, and which of its six
	colour    int
}

// desEdges returns the 48 edges, coloured.
func desEdges() []edge {
	var edges []edge
	for to := range 8 {
		for in := range 6 {
			half := (4*to+in+31)%32 + 1 // the bit of the half that E takes
			n := desP[half-1] - 1
			edges = append(edges, edge{from: n / 4, bit: n % 4, to: to, in: in, colour: -1})
		}
	}
	var used [2][8][6]bool
	var try func(i int) bool
	try = func(i int) bool {
		if i == len(edges) {
			return true
		}
		e := &edges[i]
		for c := range 6 {
			if used[0][e.from][c] || used[1][e.to][c] {
				continue
			}
			used[0][e.from][c], used[1][e.to][c], e.colour = true, true, c
			if try(i + 1) {
				return true
			}
			used[0][e.from][c], used[1][e.to][c] = false, false
		}
		return false
	}
	if !try(0) {
		panic("gen: DES has no colouring")
	}
	return edges
}

// place returns where bit in of the input of S-box to lies in its byte.
func place(edges []edge, to, in int) int { return edges[6*to+in].colour }

// desTable is what VPERMB looks up for an S-box: the index has its input bits at
// their places, the entry the outputs at the places of those that take them.
func desTable(edges []edge, s int) []byte {
	table := make([]byte, 64)
	for i := range table {
		var x int // the input as FIPS 46-3 counts it
		for in := range 6 {
			x = x<<1 | i>>place(edges, s, in)&1
		}
		v := strings.IndexByte("0123456789abcdef", desS[s][x>>4&2|x&1][x>>1&15])
		for _, e := range edges {
			if e.from == s {
				table[i] |= byte(v >> (3 - e.bit) & 1 << e.colour)
			}
		}
	}
	return table
}

// gather is the matrix for GF2P8AFFINEQB that moves bit from[k] of a byte to bit
// to[k].
func gather(from, to []int) []byte {
	m := make([]byte, 8)
	for k := range from {
		m[7-to[k]] |= 1 << from[k]
	}
	return m
}

type desKernel struct {
	b     *vasm.Fn
	edges []edge
	tab   [8]string
	masks [6]vasm.V
}

func (d *desKernel) matrix(m []byte) vasm.V { return d.b.D("VPBROADCASTQ", d.b.File.Const(m)) }

// mix returns the sum of matrices times registers.
func (d *desKernel) mix(v []vasm.V, m [][]byte) vasm.V {
	b := d.b
	sum := b.GFAff(v[0], d.matrix(m[0]))
	for i := 1; i < len(v); i++ {
		sum = b.Xor(sum, b.GFAff(v[i], d.matrix(m[i])))
	}
	return sum
}

// bytesApart turns eight rows of eight blocks into registers of one byte of all
// 64, and back.
func (d *desKernel) bytesApart(r []vasm.V, back bool) {
	b := d.b
	within := make([]byte, 64)
	for i := range within {
		within[i] = byte(i%8*8 + i/8)
	}
	if !back {
		p := b.Load(b.File.Const(within))
		for i := range r {
			r[i] = b.D("VPERMB", r[i], p)
		}
	}
	for i := 0; i < 8; i += 2 {
		b.SwapPair("QDQ", &r[i], &r[i+1])
	}
	// Now r[i] and r[i+1] have the even and the odd quadwords of a pair of rows:
	// 4 by 4 lanes of 128 bits remain.
	for odd := range 2 {
		c := []vasm.V{r[odd], r[2+odd], r[4+odd], r[6+odd]}
		b.TransposeLanes(c)
		r[odd], r[2+odd], r[4+odd], r[6+odd] = c[0], c[1], c[2], c[3]
	}
	if back {
		p := b.Load(b.File.Const(within))
		for i := range r {
			r[i] = b.D("VPERMB", r[i], p)
		}
	}
}

// transposeBits is the transposition of 8 by 8 bits of every quadword: byte j of
// the result has bit order[j] of all bytes, that of byte 0 in its top bit.
func (d *desKernel) transposeBits(v vasm.V, order func(j int) int) vasm.V {
	var x [8]byte
	for j := range x {
		x[j] = 1 << order(j)
	}
	return d.b.GFAff(d.matrix(x[:]), v)
}

// half returns the registers of a half, from those of the bits of equal weight in
// all bytes: g[b] has bit b of byte j of a block in bit 7-j.
func (d *desKernel) half(g []vasm.V, right int) []vasm.V {
	out := make([]vasm.V, 8)
	for to := range out {
		from, at := map[int][]int{}, map[int][]int{}
		var order []int
		for in := range 6 {
			n := desIP[32*right+(4*to+in+31)%32] - 1
			w := 7 - n%8
			if from[w] == nil {
				order = append(order, w)
			}
			from[w], at[w] = append(from[w], 7-n/8), append(at[w], place(d.edges, to, in))
		}
		var v []vasm.V
		var m [][]byte
		for _, w := range order {
			v, m = append(v, g[w]), append(m, gather(from[w], at[w]))
		}
		out[to] = d.mix(v, m)
	}
	return out
}

// unhalf is the inverse of half, for both.
func (d *desKernel) unhalf(left, right []vasm.V) []vasm.V {
	g := make([]vasm.V, 8)
	for w := range g {
		type part struct{ from, at []int }
		var parts [2][8]part
		for i, n := range desIP {
			n--
			if 7-n%8 != w {
				continue
			}
			h, m := i/32, i%32 // m from 0; in the middle of register m/4
			p := &parts[h][m/4]
			p.from = append(p.from, place(d.edges, m/4, m%4+1))
			p.at = append(p.at, 7-n/8)
		}
		var v []vasm.V
		var m [][]byte
		for h, regs := range [][]vasm.V{left, right} {
			for s, p := range parts[h] {
				if p.from != nil {
					v, m = append(v, regs[s]), append(m, gather(p.from, p.at))
				}
			}
		}
		g[w] = d.mix(v, m)
	}
	return g
}

// round adds f of y to x. The key's six bits for each S-box are at R10, four times
// each.
func (d *desKernel) round(x, y []vasm.V, q int) {
	b := d.b
	t := make([]vasm.V, 8)
	for s := range t {
		i := b.D("VPXORD.BCST", vasm.At("R10", 32*q+4*s), y[s])
		t[s] = b.D("VPERMB", d.tab[s], i)
	}
	for s := range 8 {
		for _, e := range d.edges {
			if e.from == s {
				b.Tern(0x78, x[e.to], t[s], d.masks[e.colour], x[e.to])
			}
		}
	}
}

func desBlocks(f *vasm.File) {
	b := f.Fn("desBlocks", 'Z', true)
	d := &desKernel{b: b, edges: desEdges()}
	for s := range d.tab {
		d.tab[s] = f.Const(desTable(d.edges, s))
	}
	b.Raw("MOVQ %s, R10", vasm.At("DI", desKeys))
	b.Raw("MOVQ %s, R8", vasm.At("DI", desRows))
	rows := make([]vasm.V, 8)
	for i := range rows {
		rows[i] = d.transposeBits(b.Load(vasm.At("R8", row*i)), func(j int) int { return j })
	}
	d.bytesApart(rows, false)
	x, y := d.half(rows, 0), d.half(rows, 1)
	for c := range d.masks {
		d.masks[c] = b.Broadcast32(f.Const(vasm.Words(uint32(0x01010101)<<c, 0)))
	}
	for range 3 {
		b.Loop("BX", 8, func() {
			d.round(x, y, 0)
			d.round(y, x, 1)
			b.Raw("ADDQ $64, R10")
		})
		// The halves are not exchanged after the last round of 16.
		x, y = y, x
	}
	// What is left of IP between the passes is nothing; after the last FP.
	g := d.unhalf(x, y)
	for w := range 4 {
		g[w], g[7-w] = g[7-w], g[w]
	}
	d.bytesApart(g, true)
	for i := range g {
		b.Save(d.transposeBits(g[i], func(j int) int { return 7 - j }), vasm.At("R8", row*i))
	}
	b.Ret()
	b.Done()
}
