package sm

import (
	"encoding/binary"
	"hash"
)

// Sizes of SM3 in octets.
const (
	HashSize      = 32
	HashBlockSize = 64
)

var sm3IV = [8]uint32{0x7380166f, 0x4914b2b9, 0x172442d7, 0xda8a0600, 0xa96f30bc, 0x163138aa, 0xe38dee4d, 0xb0fb0e4e}

// digest is a running SM3; it is a hash.Hash.
type digest struct {
	s   [8]uint32
	buf [HashBlockSize]byte
	n   uint64 // octets written
}

// New returns SM3 as a hash.Hash.
func New() hash.Hash {
	d := &digest{}
	d.Reset()
	return d
}

func (d *digest) Size() int      { return HashSize }
func (d *digest) BlockSize() int { return HashBlockSize }
func (d *digest) Reset()         { d.s, d.n = sm3IV, 0 }

func (d *digest) Write(p []byte) (int, error) {
	d.absorb(p)
	return len(p), nil
}

func (d *digest) absorb(p []byte) {
	have := int(d.n % HashBlockSize)
	d.n += uint64(len(p))
	if have > 0 {
		n := copy(d.buf[have:], p)
		p = p[n:]
		if have+n < HashBlockSize {
			return
		}
		sm3Blocks(&d.s, d.buf[:])
	}
	whole := len(p) &^ (HashBlockSize - 1)
	hashBlocks(&d.s, p[:whole])
	copy(d.buf[:], p[whole:])
}

func (d *digest) Sum(in []byte) []byte {
	c := *d
	var out [HashSize]byte
	c.finish(&out)
	return append(in, out[:]...)
}

func (d *digest) finish(out *[HashSize]byte) {
	var tail [2 * HashBlockSize]byte
	have := copy(tail[:], d.buf[:d.n%HashBlockSize])
	sm3Blocks(&d.s, tail[:pad(&tail, have, d.n)])
	putState(out, &d.s)
}

// pad ends a message of total octets whose last have are in tail, which is zero
// behind them, and returns how much of tail is to be hashed.
func pad(tail *[2 * HashBlockSize]byte, have int, total uint64) int {
	tail[have] = 0x80
	end := HashBlockSize
	if have+9 > HashBlockSize {
		end = 2 * HashBlockSize
	}
	binary.BigEndian.PutUint64(tail[end-8:end], total*8)
	return end
}

func putState(out *[HashSize]byte, s *[8]uint32) {
	for i, v := range s {
		binary.BigEndian.PutUint32(out[4*i:], v)
	}
}

// Sum returns the SM3 digest of p.
func Sum(p []byte) (out [HashSize]byte) {
	d := digest{s: sm3IV}
	d.absorb(p)
	d.finish(&out)
	return out
}

// HMACKey is an HMAC-SM3 key (RFC 2104) as the hash states behind its two pads.
// It may be used by several goroutines at once.
type HMACKey struct{ inner, outer [8]uint32 }

// NewHMACKey prepares a key of any length.
func NewHMACKey(key []byte) *HMACKey {
	var block [HashBlockSize]byte
	if len(key) > HashBlockSize {
		sum := Sum(key)
		copy(block[:], sum[:])
	} else {
		copy(block[:], key)
	}
	k := &HMACKey{inner: sm3IV, outer: sm3IV}
	for i := range block {
		block[i] ^= 0x36
	}
	sm3Blocks(&k.inner, block[:])
	for i := range block {
		block[i] ^= 0x36 ^ 0x5c
	}
	sm3Blocks(&k.outer, block[:])
	clear(block[:])
	return k
}

// Wipe overwrites the key, which must not be used after it.
func (k *HMACKey) Wipe() { *k = HMACKey{} }

// Sum computes the HMAC over the concatenation of parts. It does not allocate.
func (k *HMACKey) Sum(out *[HashSize]byte, parts ...[]byte) {
	d := digest{s: k.inner, n: HashBlockSize}
	for _, p := range parts {
		d.absorb(p)
	}
	d.finish(out)
	d.s, d.n = k.outer, HashBlockSize
	d.absorb(out[:])
	d.finish(out)
}
