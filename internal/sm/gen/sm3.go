package main

import (
	"fmt"
	"math/bits"
)

// sm3T returns the round constants of SM3, already rotated (GB/T 32905-2016).
func sm3T() []byte {
	var t []uint32
	for j := range 64 {
		c := uint32(0x79cc4519)
		if j >= 16 {
			c = 0x7a879d8a
		}
		t = append(t, bits.RotateLeft32(c, j))
	}
	return words(t...)
}

// hash is the SM3 part of a kernel for one register's worth of lanes: the
// message words w in memory (room for 68 rows) and where the current round's
// word is.
type hash struct {
	b *B
	w func(i int) string // word i from the round at hand
	t func(i int) string // its constant
}

// next makes word i of the schedule from the ones before.
func (h *hash) next(i int) {
	b := h.b
	x := b.xor3(b.load(h.w(i-16)), b.rol(b.load(h.w(i-3)), 15), h.w(i-9))
	y := b.xor3(x, b.rol(x, 15), b.rol(x, 23))
	b.store(b.xor3(y, b.rol(b.load(h.w(i-13)), 7), h.w(i-6)), h.w(i))
}

func (b *B) majority(x, y, z V) V {
	d := b.New()
	if b.evex {
		b.Tern(0xe8, x, y, z, d)
		return d
	}
	b.xorTo(y, b.D("VPAND", b.xor(x, y), b.xor(y, z)), d)
	return d
}

func (b *B) choose(x, y, z V) V {
	d := b.New()
	if b.evex {
		b.Tern(0xca, x, y, z, d)
		return d
	}
	b.xorTo(z, b.D("VPAND", x, b.xor(y, z)), d)
	return d
}

// round does round q (modulo 4) on state s, renaming registers instead of
// moving them; late rounds use majority and choice.
func (h *hash) round(s []V, q int, late bool) {
	b := h.b
	idx := func(i int) int { return (64 + i - q) & 3 }
	a, bb, c, d := s[idx(0)], s[idx(1)], s[idx(2)], s[idx(3)]
	e, f, g, hh := s[4+idx(0)], s[4+idx(1)], s[4+idx(2)], s[4+idx(3)]
	r := b.rol(a, 12)
	ss := b.rol(b.add(b.add(r, e), b.bc32(h.t(q))), 7)
	if b.evex {
		ss = b.rol(b.D("VPADDD.BCST", h.t(q), b.add(r, e)), 7)
	}
	var ff, gg V
	if late {
		ff, gg = b.majority(a, bb, c), b.choose(e, f, g)
	} else {
		ff, gg = b.xor3(a, bb, c), b.xor3(e, f, g)
	}
	wj := b.load(h.w(q))
	u := b.add(b.add(ff, d), b.xor(h.w(q+4), wj))
	y := b.add(b.add(gg, hh), wj)
	t2 := b.add(y, ss)
	b.I("VPADDD", u, b.xor(ss, r), d)
	b.rolTo(bb, 9, bb)
	b.xor3To(t2, b.rol(t2, 9), b.rol(t2, 17), hh)
	b.rolTo(f, 19, f)
}

// step does a round, extending the schedule first if extend.
func (h *hash) step(s []V, q int, late, extend bool) {
	if extend {
		h.next(q + 4)
	}
	h.round(s, q, late)
}

func walking(m int) func(i int) string {
	return func(i int) string { return fmt.Sprintf("%d(%s)(R12*1)", m+i*row, scratch) }
}

func constantWalk(base string) func(i int) string {
	return func(i int) string { return at(base, 4*i) }
}

// compress runs the 64 rounds over all parts; R12 walks through the words, R8
// through the constants.
func compress(b *B, s []*cell, h []*hash) {
	stretch := func(count int, late, extend bool) {
		body := func() {
			for q := range 4 { // in turn, so that what waits does not fill the scheduler
				for g := range s {
					h[g].step(s[g].open(), q, late, extend)
				}
			}
			b.Raw("ADDQ $%d, R12", 4*row)
			b.Raw("ADDQ $16, R8")
		}
		if count == 1 {
			body()
			return
		}
		b.Loop("BX", count, body)
	}
	b.Raw("XORQ R12, R12")
	b.Raw("LEAQ %s, R8", b.file.Const(sm3T()))
	stretch(3, false, false)
	stretch(1, false, true)
	stretch(12, true, true)
}

// part is one register's worth of lanes: half a group with 32-byte registers.
type part struct {
	group, off, first int // group, byte offset in its rows, first lane
}

func (b *B) parts(groups int) []part {
	var p []part
	for g := range groups {
		for off := 0; off < row; off += b.bytes() {
			p = append(p, part{g, off, g*16 + off/4})
		}
	}
	return p
}

// sm3Lanes generates SM3 of 16 messages a group, one block of each a step. In
// the first step the lanes on hold keep their state.
func sm3Lanes(f *File, k *B, groups int, width byte, evex bool, name string) {
	b := f.builder(name, width, evex, withGFNI, k)
	b.Raw("MOVQ %s, SI", at("DI", callGroups))
	if groups == 2 {
		b.Raw("LEAQ %s, R9", at("SI", laneSize))
	}
	b.Raw("MOVQ %s, CX", at("DI", callSteps))
	ptrs := b.pointers(groups)
	parts := b.parts(groups)
	hold := b.Mem(groups * row)
	for _, p := range parts {
		b.store(b.load(at(groupBase[p.group], laneHold+p.off)), b.at(hold+p.group*row+p.off))
	}
	passes := [][]part{parts}
	if !evex {
		passes = nil
		for _, p := range parts {
			passes = append(passes, []part{p})
		}
	}
	wmem := b.Mem(len(parts) * 68 * row)
	b.While("CX", func() {
		swap := b.row(swap32)
		for _, pass := range passes {
			var s []*cell
			var h []*hash
			for n, p := range pass {
				w := wmem + n*68*row
				for off := 0; off < 64; off += b.bytes() {
					rows := b.packetRows(ptrs, p.first, off)
					for i := range rows {
						rows[i] = b.shuf(swap, rows[i])
					}
					b.square(rows, false)
					for i := range rows {
						b.store(rows[i], b.at(w+(off/4+i)*row))
					}
				}
				c := b.cell(8, false)
				for i := range 8 {
					c.set(i, b.load(at(groupBase[p.group], laneState+i*row+p.off)))
				}
				s, h = append(s, c), append(h, &hash{b: b, w: walking(w), t: constantWalk("R8")})
			}
			compress(b, s, h)
			for n, p := range pass {
				h := b.load(b.at(hold + p.group*row + p.off))
				for i, v := range s[n].open() {
					m := at(groupBase[p.group], laneState+i*row+p.off)
					b.store(b.xor(m, b.andNot(h, v)), m)
				}
				b.store(b.D(opZero), b.at(hold+p.group*row+p.off))
			}
		}
		b.advance(ptrs, groups)
	})
	b.Ret()
	b.Done()
}

// andNot is v without the bits of m.
func (b *B) andNot(m, v V) V { return b.D(b.pick("VPANDND", "VPANDN"), v, m) }

// sm3Outer generates the last compression of HMAC: the message is the state and
// 32 bytes of padding, the new state starts from the rows in pend.
func sm3Outer(f *File, k *B, groups int, width byte, evex bool, name string) {
	b := f.builder(name, width, evex, withGFNI, k)
	b.Raw("MOVQ %s, SI", at("DI", callGroups))
	if groups == 2 {
		b.Raw("LEAQ %s, R9", at("SI", laneSize))
	}
	parts := b.parts(groups)
	passes := [][]part{parts}
	if !evex {
		passes = nil
		for _, p := range parts {
			passes = append(passes, []part{p})
		}
	}
	wmem := b.Mem(len(parts) * 68 * row)
	for _, pass := range passes {
		var s []*cell
		var h []*hash
		for n, p := range pass {
			w := wmem + n*68*row
			c := b.cell(8, false)
			zero := b.D(opZero)
			for i := range 8 {
				b.store(b.load(at(groupBase[p.group], laneState+i*row+p.off)), b.at(w+i*row))
				b.store(zero, b.at(w+(8+i)*row))
				c.set(i, b.load(at(groupBase[p.group], lanePend+i*row+p.off)))
			}
			b.store(b.bc32(b.file.Const(words(0x80000000, 0))), b.at(w+8*row))
			b.store(b.bc32(b.file.Const(words(96*8, 0))), b.at(w+15*row))
			s, h = append(s, c), append(h, &hash{b: b, w: walking(w), t: constantWalk("R8")})
		}
		compress(b, s, h)
		for n, p := range pass {
			for i, v := range s[n].open() {
				b.store(b.xor(at(groupBase[p.group], lanePend+i*row+p.off), v), at(groupBase[p.group], laneState+i*row+p.off))
			}
		}
	}
	b.Ret()
	b.Done()
}
