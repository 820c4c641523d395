package sm

import (
	"encoding/binary"
	"math/bits"
)

// Sizes in octets.
const (
	BlockSize = 16
	KeySize   = 16
)

const ones = 0x01010101

// schedule returns the round keys of GB/T 32907-2016, Section 7.3. The S-box is
// a circuit: nothing is looked up by a secret.
func schedule(key []byte) (rk [32]uint32) {
	k := [4]uint32{
		binary.BigEndian.Uint32(key) ^ 0xa3b1bac6,
		binary.BigEndian.Uint32(key[4:]) ^ 0x56aa3350,
		binary.BigEndian.Uint32(key[8:]) ^ 0x677d9197,
		binary.BigEndian.Uint32(key[12:]) ^ 0xb27022dc,
	}
	for i := range rk {
		var ck uint32
		for j := range uint32(4) {
			ck = ck<<8 | (4*uint32(i)+j)*7&0xff
		}
		t := sboxWord(k[1] ^ k[2] ^ k[3] ^ ck)
		rk[i] = k[0] ^ t ^ bits.RotateLeft32(t, 13) ^ bits.RotateLeft32(t, 23)
		k[0], k[1], k[2], k[3] = k[1], k[2], k[3], rk[i]
	}
	return rk
}

// sboxWord applies the S-box to the four bytes of a word.
func sboxWord(w uint32) uint32 {
	var p [8]uint64
	for k := range p {
		p[k] = uint64(w >> k & ones)
	}
	sboxPlanes(&p)
	w = 0
	for k := range p {
		w |= uint32(p[k]) & ones << k
	}
	return w
}

func reverse(rk [32]uint32) [32]uint32 {
	for i := range 16 {
		rk[i], rk[31-i] = rk[31-i], rk[i]
	}
	return rk
}

// wordKey is a key for kernels that keep the state in words.
//
// Constants c[i] are added to the state so that c[i+1] + c[i+2] + c[i+3] is the
// round key: the S-box's input is then the sum of three words, and what remains
// is one constant a round behind the S-box. cin and cout are the constants of
// the first and the last four words, chain is their sum, out is cout outside
// the basis.
type wordKey struct {
	rounds           [32]uint32
	chain, out, cout [4]uint32
	cin              [4]uint32
	ix, ox           [16]byte // cin and cout outside the basis, as octets of a block
	kappa            [32]uint32
}

// wideKey is a key for kernels that slice words into bytes.
type wideKey struct {
	wordKey
	byteKappa [32][4]uint32 // byte j of each kappa, four times
	halfKappa [32][2]uint64 // bytes (2, 0) and (3, 1), in doublewords
	byteIn    [4][4]uint32  // cin in the same forms
	halfIn    [4][2]uint64
}

func splat(w uint32, j int) uint32 { return (w >> (8 * j) & 0xff) * ones }

func pair(w uint32, even, odd int) uint64 {
	return uint64(splat(w, even)) | uint64(splat(w, odd))<<32
}

// fold makes the key of the folded round from round keys in order of use.
// rounds holds what the short round wants (delta), kappa what the others want:
// the linear layer maps kappa back to delta.
func (k *wordKey) fold(rk *[32]uint32) {
	var c [36]uint32
	for i, r := range rk {
		c[i+3] = basis(r) ^ basisKeyC*ones ^ c[i+1] ^ c[i+2]
	}
	for i := range rk {
		d := c[i] ^ c[i+4] ^ foldC*ones
		k.rounds[i] = d
		s := d ^ d>>16
		s = (s ^ s>>8) & 0xff
		k.kappa[i] = d ^ s*ones
	}
	for w := range 4 {
		k.cin[w], k.cout[w] = c[w], c[35-w]
		k.chain[w] = c[w] ^ c[35-w]
		k.out[w] = unbasis(c[35-w])
		binary.BigEndian.PutUint32(k.ix[4*w:], unbasis(k.cin[w]))
		binary.BigEndian.PutUint32(k.ox[4*w:], k.out[w])
	}
}

func (k *wideKey) fold(rk *[32]uint32) {
	k.wordKey.fold(rk)
	for i, q := range k.kappa {
		for j := range 4 {
			k.byteKappa[i][j] = splat(q, j)
		}
		k.halfKappa[i] = [2]uint64{pair(q, 2, 0), pair(q, 3, 1)}
	}
	for w, c := range k.cin {
		for j := range 4 {
			k.byteIn[w][j] = splat(c, j)
		}
		k.halfIn[w] = [2]uint64{pair(c, 2, 0), pair(c, 3, 1)}
	}
}
