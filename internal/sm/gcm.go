package sm

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"unsafe"

	"caponier/internal/buffer"
)

// Sizes of SM4-GCM in octets (RFC 8998, Section 3.2).
const (
	NonceSize = 12
	TagSize   = 16
)

const powers = 128 // blocks of GHASH between reductions

// ErrAuth is returned for a message that is not genuine.
var ErrAuth = errors.New("sm: message authentication failed")

// maxGCM is the longest plaintext of GCM (NIST SP 800-38D, Section 5.2.1.1).
const maxGCM = (1<<32 - 2) * BlockSize

// GCM is SM4-GCM with nonces of 12 octets and tags of 16. It may be used by
// several goroutines at once.
type GCM struct {
	key   blockKey
	hash  ghashPortable
	whole cipher.AEAD // all of it by gmsm
	// H^128 .. H^1, divided by x and reversed
	pow [powers][16]byte
	_   [64]byte // what points behind the table still points into GCM
}

var _ cipher.AEAD = (*GCM)(nil)

// NewGCM expands a key of KeySize octets.
func NewGCM(key []byte) (*GCM, error) { return newGCM(best(), key) }

func newGCM(e *engine, key []byte) (*GCM, error) {
	if len(key) != KeySize {
		return nil, ErrKeySize
	}
	g := &GCM{}
	g.key.init(e, key, false)
	if p := g.key.portable; p != nil && p.gmsm != nil {
		if g.whole = p.gmsm.gcm(); g.whole != nil {
			return g, nil
		}
	}
	var h [16]byte
	g.key.ecb(h[:], h[:])
	if e.ghash == 0 {
		g.hash = newGHASHPortable(&h)
		g.hash.fast = e != &portableEngine && carryless()
		return g, nil
	}
	c := wideCall{e: h, pow: unsafe.Pointer(&g.pow[powers-1]), dlen: powers}
	c.pow = unsafe.Add(c.pow, 16)
	e.powers.call(unsafe.Pointer(&c))
	return g, nil
}

// Wipe overwrites the key, which must not be used after it.
func (g *GCM) Wipe() {
	g.key.wipe()
	if g.whole != nil {
		wipeObject(g.whole)
	}
	g.hash = ghashPortable{}
	clear(g.pow[:])
}

// NonceSize is 12.
func (g *GCM) NonceSize() int { return NonceSize }

// Overhead is the length of the tag.
func (g *GCM) Overhead() int { return TagSize }

// Seal is cipher.AEAD's: it encrypts plaintext and appends it with the tag to
// dst. plaintext[:0] may be dst.
func (g *GCM) Seal(dst, nonce, plaintext, aad []byte) []byte {
	if len(nonce) != NonceSize {
		panic("sm: incorrect nonce length given to GCM")
	}
	if uint64(len(plaintext)) > maxGCM {
		panic("sm: message too large for GCM")
	}
	all, out := buffer.Extend(dst, len(plaintext)+TagSize)
	if buffer.InexactOverlap(out, plaintext) {
		panic("sm: invalid buffer overlap of output and input")
	}
	if buffer.Overlap(out, aad) {
		panic("sm: invalid buffer overlap of output and additional data")
	}
	g.seal(out, nonce, plaintext, aad)
	return all
}

// Open is cipher.AEAD's: it checks the tag at the end of ciphertext and appends
// the plaintext to dst. ciphertext[:0] may be dst. Where the check fails, what
// was between the length and the capacity of dst is zero.
func (g *GCM) Open(dst, nonce, ciphertext, aad []byte) ([]byte, error) {
	if len(nonce) != NonceSize {
		panic("sm: incorrect nonce length given to GCM")
	}
	n := len(ciphertext) - TagSize
	if n < 0 || uint64(n) > maxGCM {
		return nil, ErrAuth
	}
	all, out := buffer.Extend(dst, n)
	if buffer.InexactOverlap(out, ciphertext) {
		panic("sm: invalid buffer overlap of output and input")
	}
	if buffer.Overlap(out, aad) {
		panic("sm: invalid buffer overlap of output and additional data")
	}
	if g.whole != nil {
		if _, err := g.whole.Open(out[:0], nonce, ciphertext, aad); err != nil {
			clear(out)
			return nil, ErrAuth
		}
		return all, nil
	}
	var want, got [TagSize]byte
	copy(want[:], ciphertext[n:])
	g.open(&got, out, nonce, ciphertext[:n], aad)
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
		clear(out)
		return nil, ErrAuth
	}
	return all, nil
}

// begin fills in what is the same for all units of a packet and hashes
// additional data that do not fit in with the first of them. It returns those
// that do.
func (g *GCM) begin(c *wideCall, nonce, text, aad []byte) []byte {
	c.key, c.ctr = &g.key.wide, 2
	c.nonce = unsafe.Pointer(&nonce[0])
	binary.LittleEndian.PutUint64(c.lens[:], uint64(len(text))*8)
	binary.LittleEndian.PutUint64(c.lens[8:], uint64(len(aad))*8)
	if (len(aad)+15)/16+g.largest() <= powers {
		return aad
	}
	for len(aad) > 0 {
		n := min(len(aad), powers*BlockSize)
		g.aim(c, nil, n, 0)
		g.absorb(c, aad[:n])
		aad = aad[n:]
	}
	return nil
}

func (g *GCM) largest() int {
	u := g.key.engine.units
	return u[len(u)-1].blocks
}

// aim finds the powers for additional data, a text and the blocks after it.
func (g *GCM) aim(c *wideCall, aad []byte, text, after int) {
	nb := (text+BlockSize-1)/BlockSize + after
	na := (len(aad) + BlockSize - 1) / BlockSize
	table := unsafe.Pointer(&g.pow)
	c.pow = unsafe.Add(table, (powers-nb)*16)
	c.apow = unsafe.Add(table, (powers-nb-na)*16)
	c.lpow = unsafe.Add(table, (powers-1)*16)
	c.aad, c.aadLen = unsafe.Pointer(unsafe.SliceData(aad)), uint64(len(aad))
}

// next cuts the next unit off a text: its length, and whether it is the last
// one, which also has the block that hides the tag.
func (g *GCM) next(c *wideCall, left int) (u *unit, n int, last bool) {
	largest := g.largest()
	n = left
	blocks := (n+BlockSize-1)/BlockSize + 1
	last = blocks <= largest
	c.first = int32(blocks - 1)
	if !last { // a rest of less than a block goes to a unit of its own
		n = min(n&^(BlockSize-1), largest*BlockSize)
		blocks = n / BlockSize
		c.first = -1
	}
	return g.key.engine.unit(blocks), n, last
}

// units runs the kernels over a packet, sealing or opening.
func (g *GCM) units(tag, out, nonce, text, aad []byte, open bool) {
	var c wideCall
	c.tag = unsafe.Pointer(&tag[0])
	aad = g.begin(&c, nonce, text, aad)
	for {
		u, n, last := g.next(&c, len(text))
		c.final = 0
		if last {
			c.final = 1
		}
		g.aim(&c, aad, n, int(c.final))
		e := g.key.engine
		switch {
		case e.whole && open:
			// The tag is hidden by a block that is not there yet.
			c.e = [16]byte{}
			g.absorb(&c, text[:n])
			e.run(u.ctr, u, &c, out, text[:n])
			if last {
				subtle.XORBytes(tag, tag, c.e[:])
			}
		case e.whole:
			e.run(u.ctr, u, &c, out, text[:n])
			g.absorb(&c, out[:n])
		case open:
			c.mixed = 0
			if u.mixed {
				c.mixed = min(8, uint64(n)/192)
			}
			e.run(u.open, u, &c, out, text[:n])
		default:
			e.run(u.seal, u, &c, out, text[:n])
		}
		if last {
			return
		}
		aad, out, text = nil, out[n:], text[n:]
		c.ctr += uint32(n / BlockSize)
	}
}

// absorb hashes what aim has found the powers for.
func (g *GCM) absorb(c *wideCall, text []byte) {
	c.data, c.dlen = unsafe.Pointer(unsafe.SliceData(text)), uint64(len(text))
	g.key.engine.ghash.call(unsafe.Pointer(c))
}

func (g *GCM) seal(out, nonce, text, aad []byte) {
	if g.whole != nil {
		g.whole.Seal(out[:0], nonce, text, aad)
		return
	}
	if g.key.portable != nil {
		g.sealPortable(out, nonce, text, aad)
		return
	}
	g.units(out[len(text):], out, nonce, text, aad, false)
}

func (g *GCM) open(tag *[TagSize]byte, out, nonce, text, aad []byte) {
	if g.key.portable != nil {
		g.openPortable(tag, out, nonce, text, aad)
		return
	}
	g.units(tag[:], out, nonce, text, aad, true)
}

func (g *GCM) sealPortable(out, nonce, text, aad []byte) {
	var mask, tag [TagSize]byte
	g.cryptPortable(&mask, out, nonce, text)
	g.hashPortable(&tag, out[:len(text)], aad)
	subtle.XORBytes(out[len(text):], tag[:], mask[:])
}

func (g *GCM) openPortable(tag *[TagSize]byte, out, nonce, text, aad []byte) {
	var mask [TagSize]byte
	g.hashPortable(tag, text, aad)
	g.cryptPortable(&mask, out, nonce, text)
	subtle.XORBytes(tag[:], tag[:], mask[:])
}

// cryptPortable encrypts or decrypts a text, and makes the block that hides the
// tag in the same run.
func (g *GCM) cryptPortable(mask *[TagSize]byte, out, nonce, text []byte) {
	n, iv := min(len(text), (softBlocks-1)*BlockSize), [12]byte(nonce)
	g.key.ctrFew(out[:n], text[:n], mask, &iv, 1)
	g.key.ctrPortable(out[n:len(text)], text[n:], &iv, 1+softBlocks)
}

// hashPortable is GHASH of a packet.
func (g *GCM) hashPortable(y *[TagSize]byte, text, aad []byte) {
	var lens [BlockSize]byte
	*y = [TagSize]byte{}
	g.hash.blocks(y, aad)
	g.hash.blocks(y, text)
	binary.BigEndian.PutUint64(lens[:], uint64(len(aad))*8)
	binary.BigEndian.PutUint64(lens[8:], uint64(len(text))*8)
	g.hash.blocks(y, lens[:])
}
