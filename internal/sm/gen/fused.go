package main

import (
	"fmt"

	"caponier/internal/vasm"
)

// fused512 generates "SM4-CBC, then HMAC-SM3 over header and ciphertext" of 16
// packets a group. CBC is bound by latency: each block waits for the one
// before. So SM3 runs one block behind, between the rounds of SM4, eight rounds
// of SM4 to four of SM3. The message starts with the six words of the header;
// then 64 bytes of ciphertext end one block of SM3 (10 words) and begin the
// next (6), and the ciphertext words are message words already.
//
// Lanes that are fresh have no block to hash in the first step: their hash
// state stays. If all are (cold), the first step does without SM3.
func fused512(f *vasm.File, k *B, groups int) {
	b := builder(f, fmt.Sprintf("fusedLanes%dAVX512", 16*groups), 'Z', true, withGFNI, k)
	c := &cipher{b: b, groups: groups}
	c.constants()
	c.bases()
	c.ptrs = b.pointers(groups)
	hold := b.Mem(groups * row)
	var x, prev, s []*cell
	var h []*hash
	var v, w []int
	for g := range groups {
		base := groupBase[g]
		x, prev, s = append(x, b.cell(5, false)), append(prev, b.cell(4, true)), append(s, b.cell(8, false))
		v, w = append(v, b.Mem(16*row)), append(w, b.Mem(68*row))
		h = append(h, &hash{b: b, w: func(i int) string { return fmt.Sprintf("%d(%s)(DX*1)", w[g]+i*row, vasm.Scratch) }, t: constantWalk})
		c.freshIV(base, prev[g])
		for i := range 16 {
			b.Save(b.Load(vasm.At(base, lanePend+i*row)), b.At(w[g]+i*row))
		}
		b.Save(b.Load(vasm.At(base, laneFresh)), b.At(hold+g*row))
	}
	warm, done := b.Label(), b.Label()
	b.Raw("CMPQ %s, $0", vasm.At("DI", callCold))
	top := b.Label()
	b.Place(top)
	for g := range groups {
		c.words(g, v[g])
	}
	b.Jump("JEQ", warm)

	// Cold: SM4 alone.
	y := make([]*cell, groups)
	for g := range groups {
		y[g] = b.cell(5, false)
	}
	b.Raw("XORQ R12, R12")
	b.Raw("MOVQ $4, DX")
	b.Depth++
	b.While("DX", func() {
		for g := range groups {
			c.chainIn(y[g], groupBase[g], prev[g], indexed(v[g]))
		}
		c.cbcRounds(y)
		for g := range groups {
			c.chainOut(y[g], prev[g], indexed(v[g]))
		}
		b.Raw("ADDQ $%d, R12", 4*row)
	})
	b.Depth--
	b.Jump("JMP", done)

	b.Place(warm)
	b.Depth++
	b.Raw("XORQ R12, R12")
	b.Raw("XORQ DX, DX")
	b.Raw("LEAQ %s, R8", b.File.Const(sm3T()))
	for g := range groups {
		for i := range 8 {
			s[g].set(i, b.Load(vasm.At(groupBase[g], laneState+i*row)))
		}
	}
	block := func(stretches func()) {
		for g := range groups {
			b.Raw("MOVQ %s, %s", groupBase[g], keyBase[g])
			c.chainIn(x[g], groupBase[g], prev[g], indexed(v[g]))
		}
		stretches()
		for g := range groups {
			c.chainOut(x[g], prev[g], indexed(v[g]))
		}
		b.Raw("ADDQ $%d, R12", 4*row)
	}
	mixed := func(count int, late, extend bool) {
		b.Loop("BX", count, func() {
			// Small pieces of each chain in turn: what waits must not fill the
			// scheduler.
			for q := range 4 {
				for g := range groups {
					c.shortRound(x[g].open(), 2*q, vasm.At(keyBase[g], laneKey+2*q*row))
				}
				for g := range groups {
					h[g].step(s[g].open(), q, late, extend)
				}
				for g := range groups {
					c.shortRound(x[g].open(), 2*q+1, vasm.At(keyBase[g], laneKey+(2*q+1)*row))
				}
			}
			for g := range groups {
				b.Raw("ADDQ $%d, %s", 8*row, keyBase[g])
			}
			b.Raw("ADDQ $%d, DX", 4*row)
			b.Raw("ADDQ $16, R8")
		})
	}
	block(func() { mixed(3, false, false); mixed(1, false, true) })
	b.Raw("MOVQ $3, AX")
	b.While("AX", func() {
		block(func() { mixed(4, true, true) })
	})
	for g := range groups {
		held := b.Load(b.At(hold + g*row))
		for i, n := range s[g].open() {
			m := vasm.At(groupBase[g], laneState+i*row)
			b.Save(b.Xor(m, b.AndNot(held, n)), m)
		}
	}
	b.Depth--

	b.Place(done)
	b.Depth++
	for g := range groups {
		base := groupBase[g]
		b.Save(b.D(vasm.Zero), b.At(hold+g*row))
		out := c.finish(base, v[g])
		for i := range 6 {
			b.Save(b.Load(vasm.At(base, laneCarry+i*row)), b.At(w[g]+i*row))
			b.Save(out[10+i], vasm.At(base, laneCarry+i*row))
		}
		for i := range 10 {
			b.Save(out[i], b.At(w[g]+(6+i)*row))
		}
		c.writeRows(out, g)
	}
	b.advance(c.ptrs, groups)
	b.Raw("XORQ AX, AX") // the next step is warm
	b.Raw("DECQ CX")
	exit := b.Label()
	b.Jump("JZ", exit)
	b.Raw("CMPQ AX, $0")
	b.Jump("JMP", top)
	b.Depth--

	b.Place(exit)
	for g := range groups {
		for i := range 16 {
			b.Save(b.Load(b.At(w[g]+i*row)), vasm.At(groupBase[g], lanePend+i*row))
		}
	}
	c.savePrev(prev)
	b.Ret()
	b.Done()
}
