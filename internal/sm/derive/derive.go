// Package derive finds the constants of the SM4 kernels from the definition of
// the cipher (GB/T 32907-2016): the affine form of its S-box, the isomorphism
// into the field that the GFNI and AES instructions know, and the matrices that
// carry the linear layer and the change of basis. Nothing of it is linked into
// the program; the generator of the kernels and the tests use it.
//
// A byte is a vector of eight bits, bit 0 first.
package derive

import "math/bits"

// Matrix is an 8 by 8 matrix over GF(2): output bit i is the parity of row i
// and the input.
type Matrix [8]byte

// The fields: x^8+x^7+x^6+x^5+x^4+x^2+1 for SM4 and x^8+x^4+x^3+x+1 for AES.
const (
	polySM4 = 0x1f5
	polyAES = 0x11b
)

// Constants of the kernels. S(x) = Post inv(Pre x + PreC) + PostC with the
// inversion in AES's field. The state is kept in the basis y = Basis x with
// Basis = Pre, in which the linear layer and the S-box's output matrix are U, V
// and W; FoldC is what PostC becomes behind the linear layer.
type Constants struct {
	// A and C give the S-box in SM4's own field: S(x) = A inv(A x + C) + C.
	A                Matrix
	C                byte
	Pre, Post        Matrix
	PreC, PostC      byte
	Basis, Unbasis   Matrix
	U, V, W          Matrix
	FoldC            byte
	AESPre, AESPost  Matrix // around the S-box of AES instead of the inversion
	AESPreC, AESPosC byte
	// Tower holds the S-box over GF(((2^2)^2)^2), for circuits.
	TowerIn, TowerOut   Matrix
	TowerInC, TowerOutC byte
}

// SBox is the S-box of GB/T 32907-2016, the only table taken from the standard.
var SBox = [256]byte{
	0xd6, 0x90, 0xe9, 0xfe, 0xcc, 0xe1, 0x3d, 0xb7, 0x16, 0xb6, 0x14, 0xc2, 0x28, 0xfb, 0x2c, 0x05,
	0x2b, 0x67, 0x9a, 0x76, 0x2a, 0xbe, 0x04, 0xc3, 0xaa, 0x44, 0x13, 0x26, 0x49, 0x86, 0x06, 0x99,
	0x9c, 0x42, 0x50, 0xf4, 0x91, 0xef, 0x98, 0x7a, 0x33, 0x54, 0x0b, 0x43, 0xed, 0xcf, 0xac, 0x62,
	0xe4, 0xb3, 0x1c, 0xa9, 0xc9, 0x08, 0xe8, 0x95, 0x80, 0xdf, 0x94, 0xfa, 0x75, 0x8f, 0x3f, 0xa6,
	0x47, 0x07, 0xa7, 0xfc, 0xf3, 0x73, 0x17, 0xba, 0x83, 0x59, 0x3c, 0x19, 0xe6, 0x85, 0x4f, 0xa8,
	0x68, 0x6b, 0x81, 0xb2, 0x71, 0x64, 0xda, 0x8b, 0xf8, 0xeb, 0x0f, 0x4b, 0x70, 0x56, 0x9d, 0x35,
	0x1e, 0x24, 0x0e, 0x5e, 0x63, 0x58, 0xd1, 0xa2, 0x25, 0x22, 0x7c, 0x3b, 0x01, 0x21, 0x78, 0x87,
	0xd4, 0x00, 0x46, 0x57, 0x9f, 0xd3, 0x27, 0x52, 0x4c, 0x36, 0x02, 0xe7, 0xa0, 0xc4, 0xc8, 0x9e,
	0xea, 0xbf, 0x8a, 0xd2, 0x40, 0xc7, 0x38, 0xb5, 0xa3, 0xf7, 0xf2, 0xce, 0xf9, 0x61, 0x15, 0xa1,
	0xe0, 0xae, 0x5d, 0xa4, 0x9b, 0x34, 0x1a, 0x55, 0xad, 0x93, 0x32, 0x30, 0xf5, 0x8c, 0xb1, 0xe3,
	0x1d, 0xf6, 0xe2, 0x2e, 0x82, 0x66, 0xca, 0x60, 0xc0, 0x29, 0x23, 0xab, 0x0d, 0x53, 0x4e, 0x6f,
	0xd5, 0xdb, 0x37, 0x45, 0xde, 0xfd, 0x8e, 0x2f, 0x03, 0xff, 0x6a, 0x72, 0x6d, 0x6c, 0x5b, 0x51,
	0x8d, 0x1b, 0xaf, 0x92, 0xbb, 0xdd, 0xbc, 0x7f, 0x11, 0xd9, 0x5c, 0x41, 0x1f, 0x10, 0x5a, 0xd8,
	0x0a, 0xc1, 0x31, 0x88, 0xa5, 0xcd, 0x7b, 0xbd, 0x2d, 0x74, 0xd0, 0x12, 0xb8, 0xe5, 0xb4, 0xb0,
	0x89, 0x69, 0x97, 0x4a, 0x0c, 0x96, 0x77, 0x7e, 0x65, 0xb9, 0xf1, 0x09, 0xc5, 0x6e, 0xc6, 0x84,
	0x18, 0xf0, 0x7d, 0xec, 0x3a, 0xdc, 0x4d, 0x20, 0x79, 0xee, 0x5f, 0x3e, 0xd7, 0xcb, 0x39, 0x48,
}

// Apply returns m x.
func (m Matrix) Apply(x byte) byte {
	var r byte
	for i, row := range m {
		r |= byte(bits.OnesCount8(row&x)&1) << i
	}
	return r
}

// Mul returns m n, which is n first.
func (m Matrix) Mul(n Matrix) Matrix {
	return fromFunc(func(x byte) byte { return m.Apply(n.Apply(x)) })
}

// Add returns m + n.
func (m Matrix) Add(n Matrix) Matrix {
	for i := range m {
		m[i] ^= n[i]
	}
	return m
}

// Inverse returns the inverse of m, and false if it is singular.
func (m Matrix) Inverse() (Matrix, bool) {
	inv := Matrix{1, 2, 4, 8, 16, 32, 64, 128}
	for c := range 8 {
		p := c
		for p < 8 && m[p]>>c&1 == 0 {
			p++
		}
		if p == 8 {
			return inv, false
		}
		m[c], m[p], inv[c], inv[p] = m[p], m[c], inv[p], inv[c]
		for r := range 8 {
			if r != c && m[r]>>c&1 == 1 {
				m[r] ^= m[c]
				inv[r] ^= inv[c]
			}
		}
	}
	return inv, true
}

// GFNI returns the operand of GF2P8AFFINEQB, which wants row i in byte 7-i.
func (m Matrix) GFNI() uint64 {
	var v uint64
	for i, row := range m {
		v |= uint64(row) << (8 * (7 - i))
	}
	return v
}

// Nibbles returns m as the two tables that a byte shuffle looks up by the low
// and the high half of a byte; c is added in the first.
func (m Matrix) Nibbles(c byte) (low, high [16]byte) {
	for i := range byte(16) {
		low[i], high[i] = m.Apply(i)^c, m.Apply(i<<4)
	}
	return low, high
}

func fromFunc(f func(byte) byte) Matrix {
	var m Matrix
	for k := range 8 {
		col := f(1 << k)
		for i := range 8 {
			m[i] |= (col >> i & 1) << k
		}
	}
	return m
}

func mul(a, b byte, poly int) byte {
	r, x := 0, int(a)
	for ; b != 0; b >>= 1 {
		if b&1 == 1 {
			r ^= x
		}
		if x <<= 1; x&0x100 != 0 {
			x ^= poly
		}
	}
	return byte(r)
}

func inverses(mul func(a, b byte) byte) [256]byte {
	var t [256]byte
	for a := 1; a < 256; a++ {
		for b := 1; b < 256; b++ {
			if mul(byte(a), byte(b)) == 1 {
				t[a] = byte(b)
				break
			}
		}
	}
	return t
}

// isomorphisms returns the maps from SM4's field into the field of product: x
// goes to a root of SM4's polynomial there.
func isomorphisms(product func(a, b byte) byte) []Matrix {
	var found []Matrix
	for root := 2; root < 256; root++ {
		var powers [9]byte
		powers[0] = 1
		var at byte
		for i := range 9 {
			if i > 0 {
				powers[i] = product(powers[i-1], byte(root))
			}
			if polySM4>>i&1 == 1 {
				at ^= powers[i]
			}
		}
		if at != 0 {
			continue
		}
		found = append(found, fromFunc(func(x byte) byte { return powers[bits.TrailingZeros8(x)] }))
	}
	return found
}

// affineForm finds the circulant matrix and the constant of the S-box by
// search.
func affineForm(inv [256]byte) (Matrix, byte, bool) {
	for first := range 256 {
		for _, turn := range []int{1, 7} {
			var a Matrix
			for i := range a {
				a[i] = bits.RotateLeft8(byte(first), turn*i)
			}
			if _, ok := a.Inverse(); !ok {
				continue
			}
		constants:
			for c := range 256 {
				for x := range 256 {
					if a.Apply(inv[a.Apply(byte(x))^byte(c)])^byte(c) != SBox[x] {
						continue constants
					}
				}
				return a, byte(c), true
			}
		}
	}
	return Matrix{}, 0, false
}

// Derive computes the constants. It panics where the definition does not have
// the structure that the kernels rest on, which the test rules out.
func Derive() Constants {
	var k Constants
	productSM4 := func(a, b byte) byte { return mul(a, b, polySM4) }
	productAES := func(a, b byte) byte { return mul(a, b, polyAES) }
	var ok bool
	if k.A, k.C, ok = affineForm(inverses(productSM4)); !ok {
		panic("derive: the S-box has no circulant affine form")
	}
	phi := isomorphisms(productAES)[0]
	back, _ := phi.Inverse()
	k.Pre, k.PreC = phi.Mul(k.A), phi.Apply(k.C)
	k.Post, k.PostC = k.A.Mul(back), k.C

	// L(B) = B + B<<<2 + B<<<10 + B<<<18 + B<<<24 on the bytes b[j] of a word, 0 the
	// least significant: with m0 = 1 + (x<<2), m3 = 1 + (x>>6) and p[j] = m3 b[j] +
	// m0 b[j+1] it is out[j] = p[j] + p[0] + p[1] + p[2] + p[3].
	m0 := fromFunc(func(x byte) byte { return x ^ x<<2 })
	m3 := fromFunc(func(x byte) byte { return x ^ x>>6 })
	k.Basis = k.Pre
	k.Unbasis, _ = k.Pre.Inverse()
	k.U = k.Basis.Mul(m0).Mul(k.Post)
	k.W = k.Basis.Mul(m3).Mul(k.Post)
	k.V = k.U.Add(k.W)
	k.FoldC = k.Basis.Apply(bits.RotateLeft8(k.PostC, 2))

	// The S-box of AES is aes(inv(x)) + 0x63.
	aes := fromFunc(func(x byte) byte {
		return x ^ bits.RotateLeft8(x, 1) ^ bits.RotateLeft8(x, 2) ^ bits.RotateLeft8(x, 3) ^ bits.RotateLeft8(x, 4)
	})
	unaes, _ := aes.Inverse()
	k.AESPre, k.AESPreC = k.Pre, k.PreC
	k.AESPost = k.Post.Mul(unaes)
	k.AESPosC = k.PostC ^ k.AESPost.Apply(0x63)

	tower := isomorphisms(TowerMul)
	best := 1 << 30
	for _, phi := range tower {
		in := phi.Mul(k.A)
		inverse, _ := phi.Inverse()
		out := k.A.Mul(inverse)
		weight := 0
		for i := range 8 {
			weight += bits.OnesCount8(in[i]) + bits.OnesCount8(out[i])
		}
		if weight < best {
			best = weight
			k.TowerIn, k.TowerInC = in, phi.Apply(k.C)
			k.TowerOut, k.TowerOutC = out, k.C
		}
	}
	return k
}

// Mul4 multiplies in GF(4): bits (1, w) with w^2 = w + 1.
func Mul4(a, b byte) byte {
	a0, a1, b0, b1 := a&1, a>>1&1, b&1, b>>1&1
	h := a1 & b1
	return (a0&b0 ^ h) | (a0&b1^a1&b0^h)<<1
}

// Mul16 multiplies in GF(16) over GF(4): z^2 = z + w.
func Mul16(a, b byte) byte {
	a0, a1, b0, b1 := a&3, a>>2&3, b&3, b>>2&3
	h := Mul4(a1, b1)
	return (Mul4(a0, b0) ^ Mul4(h, 2)) | (Mul4(a0, b1)^Mul4(a1, b0)^h)<<2
}

// TowerLambda makes y^2 = y + TowerLambda irreducible over GF(16).
const TowerLambda = 8

// TowerMul multiplies in GF(256) over GF(16): y^2 = y + TowerLambda.
func TowerMul(a, b byte) byte {
	a0, a1, b0, b1 := a&15, a>>4, b&15, b>>4
	h := Mul16(a1, b1)
	return (Mul16(a0, b0) ^ Mul16(h, TowerLambda)) | (Mul16(a0, b1)^Mul16(a1, b0)^h)<<4
}
