package sm

import (
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"

	"caponier/internal/buffer"
)

func checkBlocks(dst, src []byte) {
	switch {
	case len(src)%BlockSize != 0:
		panic("sm: input not full blocks")
	case len(dst) < len(src):
		panic("sm: output smaller than input")
	case buffer.InexactOverlap(dst[:len(src)], src):
		panic("sm: invalid buffer overlap")
	}
}

// CBCDecrypter is an SM4 key for decrypting in CBC mode. It may be used by
// several goroutines at once.
type CBCDecrypter struct{ key blockKey }

// NewCBCDecrypter expands a key of KeySize octets.
func NewCBCDecrypter(key []byte) (*CBCDecrypter, error) { return newCBCDecrypter(best(), key) }

func newCBCDecrypter(e *engine, key []byte) (*CBCDecrypter, error) {
	if len(key) != KeySize {
		return nil, ErrKeySize
	}
	d := &CBCDecrypter{}
	d.key.init(e, key, true)
	return d, nil
}

// Wipe overwrites the key, which must not be used after it.
func (d *CBCDecrypter) Wipe() { d.key.wipe() }

// Decrypt decrypts one packet; dst and src are the same octets or do not
// overlap. It panics where crypto/cipher's CBC decrypter does.
func (d *CBCDecrypter) Decrypt(dst, iv, src []byte) {
	if len(iv) != BlockSize {
		panic("sm: IV length must equal block size")
	}
	checkBlocks(dst, src)
	d.key.crypt(dst[:len(src)], src, iv)
}

// Cipher is SM4 in both directions; it is a cipher.Block. It may be used by
// several goroutines at once.
type Cipher struct{ enc, dec blockKey }

var _ cipher.Block = (*Cipher)(nil)

// NewCipher expands a key of KeySize octets.
func NewCipher(key []byte) (*Cipher, error) { return newCipher(best(), key) }

func newCipher(e *engine, key []byte) (*Cipher, error) {
	if len(key) != KeySize {
		return nil, ErrKeySize
	}
	c := &Cipher{}
	c.enc.init(e, key, false)
	c.dec.init(e, key, true)
	return c, nil
}

// Wipe overwrites the key, which must not be used after it.
func (c *Cipher) Wipe() {
	c.enc.wipe()
	c.dec.wipe()
}

// BlockSize is 16.
func (c *Cipher) BlockSize() int { return BlockSize }

// Encrypt encrypts one block, as cipher.Block has it.
func (c *Cipher) Encrypt(dst, src []byte) { c.EncryptBlocks(dst, oneBlock(src)) }

// Decrypt decrypts one block, as cipher.Block has it.
func (c *Cipher) Decrypt(dst, src []byte) { c.DecryptBlocks(dst, oneBlock(src)) }

func oneBlock(src []byte) []byte {
	if len(src) < BlockSize {
		panic("sm: input not full block")
	}
	return src[:BlockSize]
}

// EncryptBlocks encrypts whole blocks, each by itself (ECB).
func (c *Cipher) EncryptBlocks(dst, src []byte) {
	checkBlocks(dst, src)
	c.enc.ecb(dst[:len(src)], src)
}

// DecryptBlocks is the inverse of EncryptBlocks.
func (c *Cipher) DecryptBlocks(dst, src []byte) {
	checkBlocks(dst, src)
	c.dec.ecb(dst[:len(src)], src)
}

// CTR returns a stream in counter mode with a counter of 128 bits that starts at
// iv (NIST SP 800-38A, Section 6.5).
func (c *Cipher) CTR(iv []byte) cipher.Stream {
	if len(iv) != BlockSize {
		panic("sm: IV length must equal block size")
	}
	s := &ctrStream{key: &c.enc}
	copy(s.next[:], iv)
	return s
}

// ctrStream is a running CTR.
type ctrStream struct {
	key  *blockKey
	next [BlockSize]byte
	rest [BlockSize]byte // keystream, of which the last left octets are unused
	left int
}

func (s *ctrStream) XORKeyStream(dst, src []byte) {
	if len(dst) < len(src) {
		panic("sm: output smaller than input")
	}
	dst = dst[:len(src)]
	if buffer.InexactOverlap(dst, src) {
		panic("sm: invalid buffer overlap")
	}
	if n := subtle.XORBytes(dst, src, s.rest[BlockSize-s.left:]); n > 0 {
		s.left -= n
		dst, src = dst[n:], src[n:]
	}
	whole := len(src) &^ (BlockSize - 1)
	s.blocks(dst[:whole], src[:whole])
	if dst, src = dst[whole:], src[whole:]; len(src) > 0 {
		s.rest = [BlockSize]byte{}
		s.blocks(s.rest[:], s.rest[:])
		n := subtle.XORBytes(dst, src, s.rest[:])
		s.left = BlockSize - n
	}
}

// blocks handles whole blocks, in stretches over which the low 32 bits of the
// counter do not wrap.
func (s *ctrStream) blocks(dst, src []byte) {
	for len(src) > 0 {
		ctr := binary.BigEndian.Uint32(s.next[12:])
		n := min(uint64(len(src)), (1<<32-uint64(ctr))*BlockSize)
		s.key.ctr(dst[:n], src[:n], (*[12]byte)(s.next[:12]), ctr)
		dst, src = dst[n:], src[n:]
		lo := binary.BigEndian.Uint64(s.next[8:])
		sum := lo + n/BlockSize
		binary.BigEndian.PutUint64(s.next[8:], sum)
		if sum < lo {
			binary.BigEndian.PutUint64(s.next[:], binary.BigEndian.Uint64(s.next[:])+1)
		}
	}
}
