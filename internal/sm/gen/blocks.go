package main

import (
	"fmt"

	"caponier/internal/vasm"
)

// rowMask sets K1 to the octets of row i that there are. DX, R10 and R11 hold 0,
// 64 and -1.
func (s *slices) rowMask(i int) {
	b := s.b
	b.Raw("LEAQ %s, AX", vasm.At("CX", -64*i))
	b.Raw("CMPQ AX, DX")
	b.Raw("CMOVQLT DX, AX")
	b.Raw("CMPQ AX, R10")
	b.Raw("CMOVQGT R10, AX")
	b.Raw("BZHIQ AX, R11, AX")
	b.Raw("KMOVQ AX, K1")
}

func (s *slices) maskConstants() {
	s.b.Raw("XORQ DX, DX")
	s.b.Raw("MOVQ $64, R10")
	s.b.Raw("MOVQ $-1, R11")
}

func (s *slices) loadRows(n, full int) []vasm.V {
	b := s.b
	s.maskConstants()
	rows := make([]vasm.V, n)
	for i := range rows {
		if i < full {
			rows[i] = b.Load(vasm.At("R8", 64*i))
			continue
		}
		s.rowMask(i)
		rows[i] = b.D("VMOVDQU8.Z", vasm.At("R8", 64*i), "K1")
	}
	return rows
}

// storeRows adds to each row the ciphertext 16 bytes before it, if the mode mask
// says so, and stores it; from the end, so that in and out may be the same.
func (s *slices) storeRows(rows []vasm.V, full int) {
	b := s.b
	s.maskConstants()
	b.Raw("KMOVQ %s, K2", vasm.At("DI", wideMode))
	for i := len(rows) - 1; i >= 0; i-- {
		if i < full {
			b.Raw("KMOVQ R11, K1")
		} else {
			s.rowMask(i)
		}
		b.Raw("KANDQ K1, K2, K3")
		var p vasm.V
		if i > 0 {
			p = b.D("VMOVDQU8.Z", vasm.At("R8", 64*i-16), "K3")
		} else {
			b.Raw("KSHIFTRQ $16, K3, K3")
			b.Raw("KSHIFTLQ $16, K3, K3")
			p = b.New()
			b.I("VMOVDQU64", vasm.At("DI", wideBefore), p.As('X'))
			b.RW("VMOVDQU8", vasm.At("R8", -16), "K3", p)
		}
		o := b.Xor3(rows[i], s.ox, p)
		if i < full {
			b.Save(o, vasm.At("R9", 64*i))
		} else {
			b.Store("VMOVDQU8", o, "K1", vasm.At("R9", 64*i))
		}
	}
}

// blockSlices generates ECB, or decryption in CBC, of one unit; either
// direction, by the key.
func blockSlices(f *vasm.File, k *B, u units) {
	s := startWide(f, k, fmt.Sprintf("blocks%dAVX512", u.blocks()))
	b := s.b
	full := 16 * u.bytes
	rows := s.loadRows(u.rows(), full)
	ix, pre := b.bcMem128(vasm.At("SI", keyIX)), b.matrix(b.k.Basis)
	for i := range rows {
		rows[i] = b.GFAff(b.Xor(rows[i], ix), pre)
	}
	x, y := s.fromRows(u, rows)
	s.keys()
	s.rounds(x, y, 8, nil)
	s.ox = b.bcMem128(vasm.At("SI", keyOX))
	s.storeRows(s.toRows(x, y), full)
	b.Ret()
	b.Done()
}

func blockWords(f *vasm.File, k *B) {
	s := startWide(f, k, "blocks16AVX512")
	b := s.b
	c := &cipher{b: b}
	c.constants()
	rows := s.loadRows(4, 0)
	ix := b.bcMem128(vasm.At("SI", keyIX))
	for i := range rows {
		rows[i] = b.GFAff(b.Shuf(c.swap, b.Xor(rows[i], ix)), c.pre)
	}
	b.T4(rows)
	x := append(rows, b.Xor3(rows[1], rows[2], rows[3]))
	s.wordRounds(c, x)
	r := []vasm.V{x[3], x[2], x[1], x[0]}
	b.T4(r)
	for i := range r {
		r[i] = b.GFAff(b.Shuf(c.swap, r[i]), c.un)
	}
	s.ox = b.bcMem128(vasm.At("SI", keyOX))
	s.storeRows(r, 0)
	b.Ret()
	b.Done()
}
