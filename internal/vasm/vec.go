package vasm

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Bytes is the length of the function's registers.
func (f *Fn) Bytes() int { return map[byte]int{'X': 16, 'Y': 32, 'Z': 64}[f.Width] }

// Pick chooses an instruction by the encoding.
func (f *Fn) Pick(evex, vex string) string {
	if f.EVEX {
		return evex
	}
	return vex
}

// Load reads a register from memory.
func (f *Fn) Load(mem string) V { return f.D(f.Pick("VMOVDQU64", "VMOVDQU"), mem) }

// Save writes a register to memory.
func (f *Fn) Save(v V, mem string) {
	f.Store(f.Pick("VMOVDQU64", "VMOVDQU"), v, mem)
}

// Broadcast32 reads a doubleword into all lanes.
func (f *Fn) Broadcast32(mem string) V { return f.D("VPBROADCASTD", mem) }

// Row returns a constant of 16 bytes in every lane of 128 bits.
func (f *Fn) Row(c []byte) V {
	return f.D(f.Pick("VBROADCASTI32X4", "VBROADCASTI128"), f.File.Const(c))
}

// Xor is a + c; a may be memory, with a broadcast doubleword if it begins with
// "bcst ".
func (f *Fn) Xor(a any, c V) V {
	if m, ok := a.(string); ok && strings.HasPrefix(m, "bcst ") {
		return f.D("VPXORD.BCST", strings.TrimPrefix(m, "bcst "), c)
	}
	return f.D(f.Pick("VPXORD", "VPXOR"), a, c)
}

// XorTo sets d to a + c.
func (f *Fn) XorTo(a any, c, d V) { f.I(f.Pick("VPXORD", "VPXOR"), a, c, d) }

// Add adds doublewords; a may be memory.
func (f *Fn) Add(a any, c V) V { return f.D("VPADDD", a, c) }

// Xor3To sets d to a + c + e; e may be memory.
func (f *Fn) Xor3To(a, c V, e any, d V) {
	if f.EVEX {
		f.Tern(0x96, a, c, e, d)
		return
	}
	f.XorTo(e, f.Xor(a, c), d)
}

// Xor3 is a + c + e; e may be memory.
func (f *Fn) Xor3(a, c V, e any) V { d := f.New(); f.Xor3To(a, c, e, d); return d }

// RolTo sets d to the doublewords of v rotated left.
func (f *Fn) RolTo(v V, n int, d V) {
	if f.EVEX {
		f.I("VPROLD", fmt.Sprintf("$%d", n), v, d)
		return
	}
	l := f.D("VPSLLD", fmt.Sprintf("$%d", n), v)
	r := f.D("VPSRLD", fmt.Sprintf("$%d", 32-n), v)
	f.I("VPOR", l, r, d)
}

// Rol rotates doublewords left.
func (f *Fn) Rol(v V, n int) V { d := f.New(); f.RolTo(v, n, d); return d }

// Shuf moves bytes within lanes of 128 bits.
func (f *Fn) Shuf(control any, v V) V { return f.D("VPSHUFB", control, v) }

// GFInv is m inv(x) in the field of AES, GFAff is m x.
func (f *Fn) GFInv(x V, m any) V { return f.D("VGF2P8AFFINEINVQB", "$0", m, x) }

// GFAff is m x.
func (f *Fn) GFAff(x V, m any) V { return f.D("VGF2P8AFFINEQB", "$0", m, x) }

// Op2 is an instruction on two registers, the first of which is lo.
func (f *Fn) Op2(op string, lo, hi V) V { return f.D(op, hi, lo) }

// Shuf128 moves lanes of 128 bits.
func (f *Fn) Shuf128(imm int, lo, hi V) V {
	if f.EVEX {
		return f.D("VSHUFI32X4", fmt.Sprintf("$0x%02x", imm), hi, lo)
	}
	return f.D("VPERM2I128", fmt.Sprintf("$0x%02x", imm), hi, lo)
}

// Words returns doublewords as bytes.
func Words(w ...uint32) []byte {
	var o []byte
	for _, v := range w {
		o = binary.LittleEndian.AppendUint32(o, v)
	}
	return o
}

// Byte shuffles within words and blocks.
var (
	Swap32   = Words(0x00010203, 0x04050607, 0x08090a0b, 0x0c0d0e0f)
	Rotate8  = Words(0x02010003, 0x06050407, 0x0a09080b, 0x0e0d0c0f)
	Rotate16 = Words(0x01000302, 0x05040706, 0x09080b0a, 0x0d0c0f0e) // by 16 bits
	Rotate24 = Words(0x00030201, 0x04070605, 0x080b0a09, 0x0c0f0e0d) // by 24 bits
)

// T4 transposes 4 by 4 doublewords in every lane of 128 bits; its own inverse.
func (f *Fn) T4(r []V) {
	p, q := f.Op2("VPUNPCKLDQ", r[0], r[1]), f.Op2("VPUNPCKHDQ", r[0], r[1])
	s, t := f.Op2("VPUNPCKLDQ", r[2], r[3]), f.Op2("VPUNPCKHDQ", r[2], r[3])
	r[0], r[1] = f.Op2("VPUNPCKLQDQ", p, s), f.Op2("VPUNPCKHQDQ", p, s)
	r[2], r[3] = f.Op2("VPUNPCKLQDQ", q, t), f.Op2("VPUNPCKHQDQ", q, t)
}

// TransposeLanes transposes 4 by 4 lanes of 128 bits; its own inverse.
func (f *Fn) TransposeLanes(r []V) {
	p, q := f.Shuf128(0x44, r[0], r[1]), f.Shuf128(0xee, r[0], r[1])
	s, t := f.Shuf128(0x44, r[2], r[3]), f.Shuf128(0xee, r[2], r[3])
	r[0], r[1] = f.Shuf128(0x88, p, s), f.Shuf128(0xdd, p, s)
	r[2], r[3] = f.Shuf128(0x88, q, t), f.Shuf128(0xdd, q, t)
}

// Square turns rows (one packet each) into words (one doubleword of each
// packet) and back: 16 by 16 doublewords with 64-byte registers, 8 by 8 with 32.
func (f *Fn) Square(w []V, back bool) {
	n := len(w)
	across := func() {
		for i := range 4 {
			if n == 8 {
				lo, hi := f.Shuf128(0x20, w[i], w[4+i]), f.Shuf128(0x31, w[i], w[4+i])
				w[i], w[4+i] = lo, hi
				continue
			}
			c := []V{w[i], w[4+i], w[8+i], w[12+i]}
			f.TransposeLanes(c)
			w[i], w[4+i], w[8+i], w[12+i] = c[0], c[1], c[2], c[3]
		}
	}
	if back {
		across()
	}
	for g := 0; g < n; g += 4 {
		f.T4(w[g : g+4])
	}
	if !back {
		across()
	}
}

// T16 transposes 16 by 16 bytes in every lane; its own inverse.
func (f *Fn) T16(a []V) {
	for range 4 {
		var o [16]V
		for i := range 8 {
			o[2*i], o[2*i+1] = f.Op2("VPUNPCKLBW", a[i], a[i+8]), f.Op2("VPUNPCKHBW", a[i], a[i+8])
		}
		copy(a, o[:])
	}
}

// SwapPair interleaves the elements of two registers.
func (f *Fn) SwapPair(op string, p, q *V) {
	*p, *q = f.Op2("VPUNPCKL"+op, *p, *q), f.Op2("VPUNPCKH"+op, *p, *q)
}

// Majority has the bits that two of three have.
func (f *Fn) Majority(x, y, z V) V {
	d := f.New()
	if f.EVEX {
		f.Tern(0xe8, x, y, z, d)
		return d
	}
	f.XorTo(y, f.D("VPAND", f.Xor(x, y), f.Xor(y, z)), d)
	return d
}

// Choose takes bits of y where x has ones, of z elsewhere.
func (f *Fn) Choose(x, y, z V) V {
	d := f.New()
	if f.EVEX {
		f.Tern(0xca, x, y, z, d)
		return d
	}
	f.XorTo(z, f.D("VPAND", x, f.Xor(y, z)), d)
	return d
}

// AndNot is v without the bits of m.
func (f *Fn) AndNot(m, v V) V { return f.D(f.Pick("VPANDND", "VPANDN"), v, m) }
