package sm

import (
	"encoding/binary"
	"math/bits"
)

// The portable cipher works on the bits of 16 blocks at a time: plane k of a
// word holds the bits k of its bytes, byte j of block i at position 16j + i. No
// memory is addressed by what is secret.
const portableBlocks = 16

type planes [8]uint64

// portableKey has the round keys spread over planes.
type portableKey [32]planes

func (k *portableKey) spread(rk *[32]uint32) {
	for i, r := range rk {
		for b := range 8 {
			var p uint64
			for j := range 4 {
				p |= (0xffff & -uint64(r>>(8*j+b)&1)) << (16 * j)
			}
			k[i][b] = p
		}
	}
}

// transpose8 transposes the 8 by 8 bits of x.
func transpose8(x uint64) uint64 {
	t := (x ^ x>>7) & 0x00aa00aa00aa00aa
	x ^= t ^ t<<7
	t = (x ^ x>>14) & 0x0000cccc0000cccc
	x ^= t ^ t<<14
	t = (x ^ x>>28) & 0x00000000f0f0f0f0
	return x ^ t ^ t<<28
}

// crypt runs src, at most 16 blocks, through the cipher to dst, which may be the
// same.
func (k *portableKey) crypt(dst, src []byte) {
	var x [4]planes
	blocks := len(src) / BlockSize
	for w := range 4 {
		for j := range 4 { // byte j, 0 the least significant, is octet 3-j
			for half := 0; half < blocks; half += 8 {
				var v uint64
				for i := half; i < min(half+8, blocks); i++ {
					v |= uint64(src[BlockSize*i+4*w+3-j]) << (8 * (i - half))
				}
				v = transpose8(v)
				for b := range 8 {
					x[w][b] |= (v >> (8 * b) & 0xff) << (16*j + half)
				}
			}
		}
	}
	for i := 0; i < 32; i += 4 {
		planesRound(&x[0], &x[1], &x[2], &x[3], &k[i])
		planesRound(&x[1], &x[2], &x[3], &x[0], &k[i+1])
		planesRound(&x[2], &x[3], &x[0], &x[1], &k[i+2])
		planesRound(&x[3], &x[0], &x[1], &x[2], &k[i+3])
	}
	for w := range 4 {
		for j := range 4 {
			for half := 0; half < blocks; half += 8 {
				var v uint64
				for b := range 8 {
					v |= (x[3-w][b] >> (16*j + half) & 0xff) << (8 * b)
				}
				v = transpose8(v)
				for i := half; i < min(half+8, blocks); i++ {
					dst[BlockSize*i+4*w+3-j] = byte(v >> (8 * (i - half)))
				}
			}
		}
	}
}

// planesRound adds the round function of x1, x2, x3 and the key to x0.
func planesRound(x0, x1, x2, x3, rk *planes) {
	var s planes
	for b := range s {
		s[b] = x1[b] ^ x2[b] ^ x3[b] ^ rk[b]
	}
	sboxPlanes((*[8]uint64)(&s))
	// B<<<2 of the words: two planes come from the byte below.
	r := planes{
		bits.RotateLeft64(s[6], 16), bits.RotateLeft64(s[7], 16),
		s[0], s[1], s[2], s[3], s[4], s[5],
	}
	for b := range s {
		x0[b] ^= s[b] ^ bits.RotateLeft64(s[b], 48) ^ r[b] ^ bits.RotateLeft64(r[b], 16) ^ bits.RotateLeft64(r[b], 32)
	}
}

// ghashPortable multiplies in GCM's field without tables (NIST SP 800-38D,
// Section 6.3).
type ghashPortable struct {
	hi, lo uint64 // H
	fast   bool   // multiply by instructions
}

func newGHASHPortable(h *[16]byte) ghashPortable {
	return ghashPortable{hi: binary.BigEndian.Uint64(h[:]), lo: binary.BigEndian.Uint64(h[8:])}
}

// blocks absorbs p, padded with zeros to whole blocks, into y.
func (g ghashPortable) blocks(y *[16]byte, p []byte) {
	yh, yl := binary.BigEndian.Uint64(y[:]), binary.BigEndian.Uint64(y[8:])
	for len(p) > 0 {
		var b [16]byte
		n := copy(b[:], p)
		p = p[n:]
		yh ^= binary.BigEndian.Uint64(b[:])
		yl ^= binary.BigEndian.Uint64(b[8:])
		yh, yl = g.mul(yh, yl)
	}
	binary.BigEndian.PutUint64(y[:], yh)
	binary.BigEndian.PutUint64(y[8:], yl)
}

// mul returns H times (xh, xl). Bit 63 of the high half is x^0. The product of
// reflected operands is reflected and one bit too far down.
func (g ghashPortable) mul(xh, xl uint64) (uint64, uint64) {
	var h1, h0, l1, l0, m1, m0 uint64
	if g.fast {
		var z [6]uint64
		products(&z, &[3]uint64{g.hi, g.lo, g.hi ^ g.lo}, &[3]uint64{xh, xl, xh ^ xl})
		h0, h1, l0, l1, m0, m1 = z[0], z[1], z[2], z[3], z[4], z[5]
	} else {
		h1, h0 = clmul(g.hi, xh)
		l1, l0 = clmul(g.lo, xl)
		m1, m0 = clmul(g.hi^g.lo, xh^xl)
	}
	m1 ^= h1 ^ l1
	m0 ^= h0 ^ l0
	// 256 bits z3..z0, shifted up by one
	z3, z2, z1, z0 := h1, h0^m1, l1^m0, l0
	z3, z2, z1, z0 = z3<<1|z2>>63, z2<<1|z1>>63, z1<<1|z0>>63, z0<<1
	// The low half has the coefficients of x^128 and more: x^128 = x^7 + x^2 + x + 1.
	z1 ^= z0<<63 ^ z0<<62 ^ z0<<57
	z2 ^= z0 ^ z0>>1 ^ z0>>2 ^ z0>>7
	z3 ^= z1 ^ z1>>1 ^ z1>>2 ^ z1>>7
	z2 ^= z1<<63 ^ z1<<62 ^ z1<<57
	return z3, z2
}

// clmul is the product of polynomials over GF(2).
func clmul(a, b uint64) (hi, lo uint64) {
	return bits.Reverse64(clmulLow(bits.Reverse64(a), bits.Reverse64(b))) >> 1, clmulLow(a, b)
}

// clmulLow is the low half of clmul. Integer multiplication of operands with
// holes of three bits keeps carries out of the bits that count.
func clmulLow(a, b uint64) (lo uint64) {
	const m = 0x1111111111111111
	a0, a1, a2, a3 := a&m, a&(m<<1), a&(m<<2), a&(m<<3)
	b0, b1, b2, b3 := b&m, b&(m<<1), b&(m<<2), b&(m<<3)
	lo = (a0*b0 ^ a1*b3 ^ a2*b2 ^ a3*b1) & m
	lo |= (a0*b1 ^ a1*b0 ^ a2*b3 ^ a3*b2) & (m << 1)
	lo |= (a0*b2 ^ a1*b1 ^ a2*b0 ^ a3*b3) & (m << 2)
	lo |= (a0*b3 ^ a1*b2 ^ a2*b1 ^ a3*b0) & (m << 3)
	return lo
}
