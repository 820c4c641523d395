package main

import (
	"fmt"

	"caponier/internal/vasm"
)

// Offsets of the structures of package lanes that the AES kernels work on.
const (
	cbcKeys   = 0
	cbcRounds = 8
	cbcSteps  = 16
	cbcChain  = 24
	cbcIn     = 32
	cbcOut    = cbcIn + 256

	blocksKeys   = 0
	blocksRounds = 8
	blocksIn     = 16
	blocksOut    = 24
	blocksLen    = 32
	blocksIV     = 40
)

const row = 64 // bytes of a register

// aesEncrypt generates AES-CBC encryption of four packets a register, all with
// one key: a block of each a step. VAESENC has a latency of 3 to 5 clocks, and
// two begin in each: eight registers hide it.
func aesEncrypt(f *vasm.File, regs int) {
	b := f.Fn(fmt.Sprintf("aesEncrypt%d", 4*regs), 'Z', true)
	b.Raw("MOVQ %s, SI", vasm.At("DI", cbcKeys))
	b.Raw("MOVQ %s, CX", vasm.At("DI", cbcSteps))
	b.Raw("MOVQ %s, R8", vasm.At("DI", cbcChain))
	chain := make([]vasm.V, regs)
	for i := range chain {
		chain[i] = b.Load(vasm.At("R8", row*i))
	}
	first := b.D("VBROADCASTI32X4", "(SI)")
	b.Raw("XORL R12, R12")
	b.While("CX", func() {
		x := make([]vasm.V, regs)
		for i := range x {
			v := b.New()
			for lane := range 4 {
				b.Raw("MOVQ %s, AX", vasm.At("DI", cbcIn+8*(4*i+lane)))
				if lane == 0 {
					b.I("VMOVDQU64", "(AX)(R12*1)", v.As('X'))
					continue
				}
				b.I("VINSERTI32X4", fmt.Sprintf("$%d", lane), "(AX)(R12*1)", v, v)
			}
			x[i] = b.Xor3(v, chain[i], first)
		}
		b.Raw("LEAQ 16(SI), R10")
		b.Raw("MOVQ %s, BX", vasm.At("DI", cbcRounds))
		b.While("BX", func() {
			k := b.D("VBROADCASTI32X4", "(R10)")
			for i := range x {
				b.I("VAESENC", k, x[i], x[i])
			}
			b.Raw("ADDQ $16, R10")
		})
		k := b.D("VBROADCASTI32X4", "(R10)")
		for i := range x {
			b.I("VAESENCLAST", k, x[i], chain[i])
			for lane := range 4 {
				b.Raw("MOVQ %s, AX", vasm.At("DI", cbcOut+8*(4*i+lane)))
				if lane == 0 {
					b.Store("VMOVDQU64", chain[i].As('X'), "(AX)(R12*1)")
					continue
				}
				b.Store("VEXTRACTI32X4", fmt.Sprintf("$%d", lane), chain[i], "(AX)(R12*1)")
			}
		}
		b.Raw("ADDQ $16, R12")
	})
	for i := range chain {
		b.Save(chain[i], vasm.At("R8", row*i))
	}
	b.Ret()
	b.Done()
}

// aesDecrypt generates AES-CBC decryption of one packet, 32 blocks at a time. The
// keys are those of the equivalent inverse cipher (FIPS 197, Section 5.3.5).
func aesDecrypt(f *vasm.File) {
	const regs = 8
	b := f.Fn("aesDecrypt", 'Z', true)
	b.Raw("MOVQ %s, SI", vasm.At("DI", blocksKeys))
	b.Raw("MOVQ %s, R8", vasm.At("DI", blocksIn))
	b.Raw("MOVQ %s, R9", vasm.At("DI", blocksOut))
	b.Raw("MOVQ %s, CX", vasm.At("DI", blocksLen))
	b.Raw("MOVQ %s, AX", vasm.At("DI", blocksIV))
	before := b.D("VBROADCASTI32X4", "(AX)")
	first := b.D("VBROADCASTI32X4", "(SI)")
	b.Raw("MOVQ $-1, R11")
	b.Raw("XORL R12, R12")
	b.Raw("MOVL $64, DX")
	// mask sets K1 to the octets of row i that there are.
	mask := func(i int) {
		b.Raw("LEAQ %s, AX", vasm.At("CX", -row*i))
		b.Raw("CMPQ AX, R12")
		b.Raw("CMOVQLT R12, AX")
		b.Raw("CMPQ AX, DX")
		b.Raw("CMOVQGT DX, AX")
		b.Raw("BZHIQ AX, R11, AX")
		b.Raw("KMOVQ AX, K1")
	}
	top := b.Label()
	b.Place(top)
	b.Depth++
	in, x := make([]vasm.V, regs), make([]vasm.V, regs)
	for i := range x {
		mask(i)
		in[i] = b.D("VMOVDQU8.Z", vasm.At("R8", row*i), "K1")
		x[i] = b.Xor(first, in[i])
	}
	b.Raw("LEAQ 16(SI), R10")
	b.Raw("MOVQ %s, BX", vasm.At("DI", blocksRounds))
	b.While("BX", func() {
		k := b.D("VBROADCASTI32X4", "(R10)")
		for i := range x {
			b.I("VAESDEC", k, x[i], x[i])
		}
		b.Raw("ADDQ $16, R10")
	})
	k := b.D("VBROADCASTI32X4", "(R10)")
	for i := range x {
		last := before
		if i > 0 {
			last = in[i-1]
		}
		mask(i)
		v := b.Xor(b.D("VALIGNQ", "$6", last, in[i]), b.D("VAESDECLAST", k, x[i]))
		b.Store("VMOVDQU8", v, "K1", vasm.At("R9", row*i))
	}
	b.Move(in[regs-1], before)
	b.Raw("ADDQ $%d, R8", regs*row)
	b.Raw("ADDQ $%d, R9", regs*row)
	b.Raw("SUBQ $%d, CX", regs*row)
	b.Jump("JGT", top)
	b.Depth--
	b.Ret()
	b.Done()
}

// aesKeys generates what a key schedule needs of the S-box, so that nothing is
// looked up by a secret: SubBytes of a block whose columns are equal, which
// ShiftRows leaves alone, and InvMixColumns.
func aesKeys(f *vasm.File) {
	b := f.Fn("aesSubBytes", 'X', false)
	v := b.Load("(DI)")
	b.Save(b.D("VAESENCLAST", b.D(vasm.Zero), v), "(DI)")
	b.Ret()
	b.Done()
	b = f.Fn("aesInvMixColumns", 'X', false)
	b.Save(b.D("VAESIMC", "(DI)"), "(DI)")
	b.Ret()
	b.Done()
}
