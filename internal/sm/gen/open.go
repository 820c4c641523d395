package main

import (
	"encoding/binary"
	"fmt"

	"caponier/internal/sm/derive"
	"caponier/internal/vasm"
)

// opener is the kernel that hashes ciphertext and decrypts it at once.
type opener struct {
	b    *B
	h    *hash
	s    []vasm.V   // state of SM3
	x    [][]vasm.V // state of SM4, in the byte layout
	u, w string     // matrices, in memory: the states leave eight registers
}

// open512 generates "HMAC-SM3 over header and ciphertext, and SM4-CBC
// decryption" of 16 packets with one cipher key, 64 bytes of each a step. SM3 of
// 16 messages is bound by latency and leaves most of the issue slots free; the
// rounds of SM4 on the same 64 blocks, in the byte layout, go there, one to two
// rounds of SM3. As in fused512 the message starts with the six words of the
// header, so that 64 bytes end one block of SM3 and begin the next.
//
// The ciphertext of the step before, whose last block the next one needs, stays
// in the rows of pend: where it was there may be plaintext already. In a lane
// that is fresh the row ends with the IV.
func open512(f *vasm.File, k *B) {
	b := builder(f, "openLanes16AVX512", 'Z', true, withGFNI, k)
	b.Raw("MOVQ %s, SI", vasm.At("DI", callGroups))
	b.Raw("MOVQ %s, CX", vasm.At("DI", callSteps))
	b.Raw("MOVQ %s, R9", vasm.At("DI", callKey))
	ptrs := b.pointers(1)
	words, chain := b.Mem(68*row), b.Mem(16*row)
	o := &opener{b: b, u: b.bcMatrix(b.k.U), w: b.bcMatrix(b.k.W)}
	o.h = &hash{b: b, w: func(i int) string { return fmt.Sprintf("%d(%s)(DX*1)", words+i*row, vasm.Scratch) }, t: constantWalk}
	state := func(i int) string { return vasm.At("SI", laneState+i*row) }
	for i := range 8 {
		o.s = append(o.s, b.Load(state(i)))
	}
	b.While("CX", func() {
		o.words(ptrs, words, chain)
		o.blocks()
		o.rounds()
		for i, n := range o.s {
			b.XorTo(state(i), n, n)
			b.Save(n, state(i))
		}
		o.write(ptrs, chain)
		b.advance(ptrs, 1)
	})
	b.Ret()
	b.Done()
}

// bcMatrix is a matrix as an operand in memory.
func (b *B) bcMatrix(m derive.Matrix) string {
	var q [8]byte
	binary.LittleEndian.PutUint64(q[:], m.GFNI())
	return b.File.Const(q[:])
}

// words loads the next 64 bytes of the packets as message words behind those
// that are carried, and keeps the ciphertext and what is to be added to the
// plaintext, the ciphertext a block before.
func (o *opener) words(ptrs, words, chain int) {
	b := o.b
	rows := b.packetRows(ptrs, 0, 0)
	swap := b.Row(vasm.Swap32)
	for i, r := range rows {
		before := vasm.At("SI", lanePend+i*row)
		b.Save(b.D("VALIGNQ", "$6", before, r), b.At(chain+i*row))
		b.Save(r, before)
		rows[i] = b.Shuf(swap, r)
	}
	b.Square(rows, false)
	for i := range 6 {
		carry := vasm.At("SI", laneCarry+i*row)
		b.Save(b.Load(carry), b.At(words+i*row))
		b.Save(rows[10+i], carry)
	}
	for i := range 10 {
		b.Save(rows[i], b.At(words+(6+i)*row))
	}
}

// blocks makes the state of SM4.
func (o *opener) blocks() {
	b := o.b
	ix, pre := b.bcMem128(vasm.At("R9", keyIX)), b.matrix(b.k.Basis)
	r := make([]vasm.V, 16)
	for i := range r {
		r[i] = b.GFAff(b.Xor(vasm.At("SI", lanePend+i*row), ix), pre)
	}
	b.T16(r)
	o.x = nil
	for w := range 4 {
		o.x = append(o.x, []vasm.V{r[4*w+3], r[4*w+2], r[4*w+1], r[4*w]})
	}
}

// rounds runs the 64 rounds of SM3 and between them the 32 of SM4; DX walks
// through the words, R8 through the constants, R10 through the round keys.
func (o *opener) rounds() {
	b := o.b
	b.Raw("XORQ DX, DX")
	b.Raw("LEAQ %s, R8", b.File.Const(sm3T()))
	b.Raw("LEAQ %s, R10", vasm.At("R9", keyByte))
	eight := func(first int, late bool) {
		for q := range 4 {
			x := o.half(q)
			o.h.step(o.s, 2*q, late, first+2*q >= 12)
			x()
			o.h.step(o.s, 2*q+1, late, first+2*q+1 >= 12)
		}
		b.Raw("ADDQ $%d, DX", 8*row)
		b.Raw("ADDQ $32, R8")
		b.Raw("ADDQ $64, R10")
	}
	eight(0, false)
	eight(8, false)
	b.Loop("BX", 6, func() { eight(16, true) })
}

// half does the first half of round q modulo 4 of SM4, as slices.byteRound does
// it, and returns the second: what is alive between them are three registers.
func (o *opener) half(q int) func() {
	b := o.b
	x0, x1, x2, x3 := o.x[q&3], o.x[(q+1)&3], o.x[(q+2)&3], o.x[(q+3)&3]
	var u, w, p [4]vasm.V
	in := func(j int) {
		t := b.Xor3(x1[j], x2[j], x3[j])
		w[j] = b.D("VGF2P8AFFINEINVQB.BCST", "$0", o.w, t)
		u[j] = b.D("VGF2P8AFFINEINVQB.BCST", "$0", o.u, t)
	}
	out := func(j int) {
		p[j] = b.Xor3(w[j], u[(j+1)&3], "bcst "+vasm.At("R10", 16*q+4*j))
	}
	in(0)
	in(1)
	out(0)
	return func() {
		in(2)
		out(1)
		in(3)
		out(2)
		out(3)
		v := b.Xor(b.Xor3(p[0], p[1], p[2]), p[3])
		for j := range 4 {
			b.Xor3To(x0[j], p[j], v, x0[j])
		}
	}
}

// write stores the plaintext.
func (o *opener) write(ptrs, chain int) {
	b := o.b
	un := b.matrix(b.k.Unbasis)
	r := make([]vasm.V, 16)
	for w := range 4 {
		for j := range 4 {
			r[4*w+3-j] = b.GFAff(o.x[3-w][j], un)
		}
	}
	b.T16(r)
	ox := b.bcMem128(vasm.At("R9", keyOX))
	for i := range r {
		r[i] = b.Xor3(r[i], ox, b.At(chain+i*row))
	}
	b.storePacketRows(r, ptrs, 1, 0, 0)
}
