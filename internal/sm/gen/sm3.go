package main

import (
	"fmt"
	"math/bits"

	"caponier/internal/vasm"
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
	return vasm.Words(t...)
}

// hash is the SM3 part of a kernel for one register's worth of lanes: the
// message words w in memory (room for 68 rows) and where the current round's
// word is, or the last 16 words in registers.
type hash struct {
	b    *B
	w    func(i int) string // word i from the round at hand
	t    func(i int) string // its constant
	held []vasm.V           // words in registers, by number modulo 16; nil: all in memory
}

// operand is word i, where an instruction may take it from memory.
func (h *hash) operand(i int) any {
	if h.held != nil {
		return h.held[i&15]
	}
	return h.w(i)
}

// word is word i in a register.
func (h *hash) word(i int) vasm.V {
	if h.held != nil {
		return h.held[i&15]
	}
	return h.b.Load(h.w(i))
}

// next makes word i of the schedule from the ones before, and returns it: read
// back from memory at once it would come late.
func (h *hash) next(i int) vasm.V {
	b := h.b
	x := b.Xor3(h.word(i-16), b.Rol(h.word(i-3), 15), h.operand(i-9))
	y := b.Xor3(x, b.Rol(x, 15), b.Rol(x, 23))
	if h.held != nil {
		b.Xor3To(y, b.Rol(h.word(i-13), 7), h.operand(i-6), h.held[i&15])
		return h.held[i&15]
	}
	w := b.Xor3(y, b.Rol(h.word(i-13), 7), h.operand(i-6))
	b.Save(w, h.w(i))
	return w
}

// round does round q on state s, renaming registers instead of moving them;
// late rounds use majority and choice. ahead is the word of four rounds later.
//
// What bounds 16 lanes is the path from a and e through ss back to them, six
// instructions long: all sums are made so that a and e, which come last, join
// last.
func (h *hash) round(s []vasm.V, q int, ahead any, late bool) {
	b := h.b
	idx := func(i int) int { return (64 + i - q) & 3 }
	a, bb, c, d := s[idx(0)], s[idx(1)], s[idx(2)], s[idx(3)]
	e, f, g, hh := s[4+idx(0)], s[4+idx(1)], s[4+idx(2)], s[4+idx(3)]
	r := b.Rol(a, 12)
	var ss vasm.V
	if b.EVEX {
		ss = b.Rol(b.Add(b.D("VPADDD.BCST", h.t(q), r), e), 7)
	} else {
		ss = b.Rol(b.Add(b.Add(r, e), b.Broadcast32(h.t(q))), 7)
	}
	var ff, gg vasm.V
	if late {
		ff, gg = b.Majority(a, bb, c), b.Choose(e, f, g)
	} else {
		ff, gg = b.Xor3(a, bb, c), b.Xor3(e, f, g)
	}
	wj := h.word(q)
	u := b.Add(ff, b.Add(d, b.Xor(ahead, wj)))
	y := b.Add(gg, b.Add(hh, wj))
	t2 := b.Add(y, ss)
	b.I("VPADDD", u, b.Xor(ss, r), d)
	b.RolTo(bb, 9, bb)
	b.Xor3To(t2, b.Rol(t2, 9), b.Rol(t2, 17), hh)
	b.RolTo(f, 19, f)
}

// step does a round, extending the schedule first if extend.
func (h *hash) step(s []vasm.V, q int, late, extend bool) {
	ahead := h.operand(q + 4)
	if extend {
		ahead = h.next(q + 4)
	}
	h.round(s, q, ahead, late)
}

func walking(m int) func(i int) string {
	return func(i int) string { return fmt.Sprintf("%d(%s)(R12*1)", m+i*row, vasm.Scratch) }
}

func constantWalk(i int) string { return vasm.At("R8", 4*i) }

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
	b.Raw("LEAQ %s, R8", b.File.Const(sm3T()))
	if h[0].held != nil {
		compressHeld(b, s[0].open(), h[0])
		return
	}
	stretch(3, false, false)
	stretch(1, false, true)
	stretch(12, true, true)
}

// compressHeld is compress for one part with the words in registers, of which
// 16 lanes have enough: nothing waits for memory.
func compressHeld(b *B, s []vasm.V, h *hash) {
	for q := range 16 {
		h.step(s, q, false, q >= 12)
	}
	b.Loop("BX", 3, func() {
		b.Raw("ADDQ $64, R8")
		for q := range 16 {
			h.step(s, q, true, true)
		}
	})
}

// part is one register's worth of lanes: half a group with 32-byte registers.
type part struct {
	group, off, first int // group, byte offset in its rows, first lane
}

func (b *B) parts(groups int) []part {
	var p []part
	for g := range groups {
		for off := 0; off < row; off += b.Bytes() {
			p = append(p, part{g, off, g*16 + off/4})
		}
	}
	return p
}

// sm3Lanes generates SM3 of 16 messages a group, one block of each a step. In
// the first step the lanes on hold keep their state.
func sm3Lanes(f *vasm.File, k *B, groups int, width byte, evex bool, name string) {
	b := builder(f, name, width, evex, withGFNI, k)
	b.Raw("MOVQ %s, SI", vasm.At("DI", callGroups))
	if groups == 2 {
		b.Raw("LEAQ %s, R9", vasm.At("SI", laneSize))
	}
	b.Raw("MOVQ %s, CX", vasm.At("DI", callSteps))
	ptrs := b.pointers(groups)
	parts := b.parts(groups)
	hold := b.Mem(groups * row)
	for _, p := range parts {
		b.Save(b.Load(vasm.At(groupBase[p.group], laneHold+p.off)), b.At(hold+p.group*row+p.off))
	}
	passes := [][]part{parts}
	if !evex {
		passes = nil
		for _, p := range parts {
			passes = append(passes, []part{p})
		}
	}
	wmem := b.Mem(len(parts) * 68 * row)
	var kept *cell // the state, where registers do for it all the time
	state := func(p part, i int) string { return vasm.At(groupBase[p.group], laneState+i*row+p.off) }
	if evex && groups == 1 {
		kept = b.cell(8, false)
		for i := range 8 {
			kept.set(i, b.Load(state(parts[0], i)))
		}
	}
	b.While("CX", func() {
		swap := b.Row(vasm.Swap32)
		for _, pass := range passes {
			var s []*cell
			var h []*hash
			for n, p := range pass {
				w := wmem + n*68*row
				part := &hash{b: b, w: walking(w), t: constantWalk}
				h = append(h, part)
				for off := 0; off < 64; off += b.Bytes() {
					rows := b.packetRows(ptrs, p.first, off)
					for i := range rows {
						rows[i] = b.Shuf(swap, rows[i])
					}
					b.Square(rows, false)
					if kept != nil {
						part.held = rows
						continue
					}
					for i := range rows {
						b.Save(rows[i], b.At(w+(off/4+i)*row))
					}
				}
				if kept != nil {
					s = append(s, kept)
					continue
				}
				c := b.cell(8, false)
				for i := range 8 {
					c.set(i, b.Load(state(p, i)))
				}
				s = append(s, c)
			}
			compress(b, s, h)
			for n, p := range pass {
				h := b.Load(b.At(hold + p.group*row + p.off))
				for i, v := range s[n].open() {
					v = b.Xor(state(p, i), b.AndNot(h, v))
					b.Save(v, state(p, i))
					if kept != nil {
						kept.set(i, v)
					}
				}
				b.Save(b.D(vasm.Zero), b.At(hold+p.group*row+p.off))
			}
		}
		b.advance(ptrs, groups)
	})
	b.Ret()
	b.Done()
}

// sm3Outer generates the last compression of HMAC: the message is the state and
// 32 bytes of padding, the new state starts from the rows in pend. The codes take
// the place of round keys, of which there are none.
func sm3Outer(f *vasm.File, k *B, groups int, width byte, evex bool, name string) {
	b := builder(f, name, width, evex, withGFNI, k)
	b.Raw("MOVQ %s, SI", vasm.At("DI", callGroups))
	if groups == 2 {
		b.Raw("LEAQ %s, R9", vasm.At("SI", laneSize))
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
			zero := b.D(vasm.Zero)
			for i := range 8 {
				b.Save(b.Load(vasm.At(groupBase[p.group], laneState+i*row+p.off)), b.At(w+i*row))
				b.Save(zero, b.At(w+(8+i)*row))
				c.set(i, b.Load(vasm.At(groupBase[p.group], lanePend+i*row+p.off)))
			}
			b.Save(b.Broadcast32(b.File.Const(vasm.Words(0x80000000, 0))), b.At(w+8*row))
			b.Save(b.Broadcast32(b.File.Const(vasm.Words(96*8, 0))), b.At(w+15*row))
			s, h = append(s, c), append(h, &hash{b: b, w: walking(w), t: constantWalk})
		}
		compress(b, s, h)
		for n, p := range pass {
			b.codes(p, s[n].open())
		}
	}
	b.Ret()
	b.Done()
}

// codes adds the state before the compression to the one after it and stores the
// sums as octets, one lane's after another, in a row each.
func (b *B) codes(p part, v []vasm.V) {
	swap := b.Row(vasm.Swap32)
	for i := range v {
		v[i] = b.Shuf(swap, b.Xor(vasm.At(groupBase[p.group], lanePend+i*row+p.off), v[i]))
	}
	lane := func(i, off int) string { return vasm.At(groupBase[p.group], laneCodes+(p.off/4+i)*row+off) }
	if b.Width == 'Y' {
		b.Square(v, false)
		for i := range v {
			b.Save(v[i], lane(i, 0))
		}
		return
	}
	for half := range 2 {
		w := v[4*half : 4*half+4]
		b.T4(w)
		for i := range w {
			for l := range 4 {
				b.Store("VEXTRACTI32X4", fmt.Sprintf("$%d", l), w[i], lane(4*l+i, 16*half))
			}
		}
	}
}
