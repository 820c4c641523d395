package sm

import (
	"crypto/subtle"
	"encoding/binary"
	"unsafe"
)

// wideCall is what the kernels for one packet get. The layout is known to their
// generator.
type wideCall struct {
	key     *wideKey
	in, out unsafe.Pointer
	n       uint64 // octets of in
	ctr     uint32 // counter of the unit's first block
	first   int32  // the block that has counter 1 instead, or -1
	mode    uint64 // all ones: add the ciphertext a block before (CBC)
	_       [16]byte
	nonce   unsafe.Pointer // 12 octets
	_       [8]byte
	before  [16]byte       // ciphertext before in
	e       [16]byte       // keystream of the block with counter 1
	y       [16]byte       // GHASH so far, reversed
	lens    [16]byte       // GCM's last block, reversed
	tag     unsafe.Pointer // where 16 octets go
	_       [8]byte
	pow     unsafe.Pointer // powers of the hash key for the text
	data    unsafe.Pointer // text of the kernel that only hashes
	dlen    uint64
	lpow    unsafe.Pointer // power for lens
	aad     unsafe.Pointer
	aadLen  uint64
	apow    unsafe.Pointer // power for y and aad
	final   uint64         // not 0: to tag, else to y
	mixed   uint64         // 192 octets each to hash between the rounds of opening
}

// unit is the kernels for so many blocks at once.
type unit struct {
	blocks               int
	ctr, seal, open, ecb kernel
	mixed                bool // open hashes between its rounds
}

func (e *engine) unit(blocks int) *unit {
	for i := range e.units {
		if e.units[i].blocks >= blocks {
			return &e.units[i]
		}
	}
	return &e.units[len(e.units)-1]
}

// run calls one of u's kernels for src, which is at most a unit.
func (e *engine) run(k kernel, u *unit, c *wideCall, dst, src []byte) {
	if e.whole && len(src) < u.blocks*BlockSize {
		runPart(k, c, dst, src)
		return
	}
	c.in, c.out, c.n = unsafe.Pointer(unsafe.SliceData(src)), unsafe.Pointer(unsafe.SliceData(dst)), uint64(len(src))
	k.call(unsafe.Pointer(c))
}

// maxWhole is the largest unit of kernels that take whole units only.
const maxWhole = 32 * BlockSize

// runPart fills a unit up in a copy.
func runPart(k kernel, c *wideCall, dst, src []byte) {
	var buf [maxWhole]byte
	copy(buf[:], src)
	part := *c // stays here, so that buf may
	part.in, part.out, part.n = unsafe.Pointer(&buf), unsafe.Pointer(&buf), maxWhole
	k.call(unsafe.Pointer(&part))
	c.e = part.e
	copy(dst[:len(src)], buf[:])
	clear(buf[:])
}

// blockKey is one direction of the cipher on an engine.
type blockKey struct {
	engine   *engine
	wide     wideKey
	portable *softKey
}

func (k *blockKey) init(e *engine, key []byte, inverse bool) {
	k.engine = e
	if len(e.units) == 0 {
		k.portable = newSoftKey(e, key, inverse)
		return
	}
	rk := schedule(key)
	if inverse {
		rk = reverse(rk)
	}
	k.wide.fold(&rk)
	if e.keys == keysRounds {
		k.wide.wordKey = wordKey{rounds: rk, kappa: rk}
	}
	clear(rk[:])
}

func (k *blockKey) wipe() {
	k.wide = wideKey{}
	if k.portable != nil {
		k.portable.wipe()
	}
}

// ecb runs whole blocks through the cipher; dst and src are the same or do not
// overlap.
func (k *blockKey) ecb(dst, src []byte) { k.crypt(dst, src, nil) }

// crypt is ecb, and with an iv of 16 octets decryption in CBC.
func (k *blockKey) crypt(dst, src, iv []byte) {
	if k.portable != nil {
		k.cryptPortable(dst, src, iv)
		return
	}
	var c wideCall
	c.key = &k.wide
	if iv != nil {
		c.mode = ^uint64(0)
		copy(c.before[:], iv)
	}
	for len(src) > 0 {
		u := k.engine.unit(len(src) / BlockSize)
		n := min(len(src), u.blocks*BlockSize)
		var next [16]byte
		copy(next[:], src[n-BlockSize:n])
		k.engine.run(u.ecb, u, &c, dst, src[:n])
		if iv != nil {
			c.before = next
		}
		dst, src = dst[n:], src[n:]
	}
}

func (k *blockKey) cryptPortable(dst, src, iv []byte) {
	var before, next [BlockSize]byte
	copy(before[:], iv)
	for len(src) > 0 {
		n := min(len(src), softBlocks*BlockSize)
		if iv == nil {
			k.portable.crypt(dst[:n], src[:n])
		} else {
			var c [softBlocks * BlockSize]byte
			copy(c[:], before[:])
			copy(c[BlockSize:], src[:n-BlockSize])
			copy(next[:], src[n-BlockSize:])
			k.portable.crypt(dst[:n], src[:n])
			subtle.XORBytes(dst[:n], dst[:n], c[:n])
			before = next
		}
		dst, src = dst[n:], src[n:]
	}
}

// ctr adds keystream to src: blocks nonce | counter, the counter of 32 bits from
// ctr on.
func (k *blockKey) ctr(dst, src []byte, nonce *[12]byte, ctr uint32) {
	if k.portable != nil {
		k.ctrPortable(dst, src, nonce, ctr)
		return
	}
	var c wideCall
	c.key, c.first, c.ctr = &k.wide, -1, ctr
	c.nonce = unsafe.Pointer(nonce)
	for len(src) > 0 {
		u := k.engine.unit((len(src) + BlockSize - 1) / BlockSize)
		n := min(len(src), u.blocks*BlockSize)
		k.engine.run(u.ctr, u, &c, dst, src[:n])
		c.ctr += uint32(u.blocks)
		dst, src = dst[n:], src[n:]
	}
}

func (k *blockKey) ctrPortable(dst, src []byte, nonce *[12]byte, ctr uint32) {
	for len(src) > 0 {
		n := min(len(src), softBlocks*BlockSize)
		k.ctrFew(dst[:n], src[:n], nil, nonce, ctr)
		ctr += softBlocks
		dst, src = dst[n:], src[n:]
	}
}

// ctrFew is ctr for at most softBlocks. The first of them is mask, unless it is
// nil.
func (k *blockKey) ctrFew(dst, src []byte, mask *[BlockSize]byte, nonce *[12]byte, ctr uint32) {
	var ks [softBlocks * BlockSize]byte
	first := 0
	if mask != nil {
		first = BlockSize
	}
	used := ks[:(first+len(src)+BlockSize-1)&^(BlockSize-1)]
	for b := used; len(b) > 0; b = b[BlockSize:] {
		copy(b, nonce[:])
		binary.BigEndian.PutUint32(b[12:], ctr)
		ctr++
	}
	k.portable.crypt(used, used)
	if mask != nil {
		*mask = [BlockSize]byte(ks[:])
	}
	subtle.XORBytes(dst, src, used[first:])
}
