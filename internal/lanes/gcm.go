package lanes

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"unsafe"

	"caponier/internal/buffer"
)

// Sizes of AES-GCM as ESP uses it, in octets (RFC 4106).
const (
	NonceSize = 12
	TagSize   = 16
)

const gcmPowers = 32 // blocks of GHASH between reductions

// maxGCM is the longest plaintext of GCM (NIST SP 800-38D, Section 5.2.1.1).
const maxGCM = (1<<32 - 2) * aes.BlockSize

// ErrAuth is returned for a message that is not genuine.
var ErrAuth = errors.New("lanes: message authentication failed")

// GCM is AES-GCM with nonces of 12 octets and tags of 16; it is a cipher.AEAD. It
// works on the blocks of a packet side by side, and may be used by several
// goroutines at once.
type GCM struct {
	rounds int
	// H^34 .. H^1, divided by x and reversed: of a chunk, of the block of lengths
	// behind it, and of additional data before it. Then the round keys, as many as
	// there are: of 10,000 SAs, each octet counts. Kernels read a register's worth
	// at the last power, which is all in here.
	state []byte
}

const gcmPowersLen = (gcmPowers + 2) * aes.BlockSize

// power returns where the powers of H from the one of number n on are, the highest
// being 0.
func (g *GCM) power(n int) unsafe.Pointer { return unsafe.Pointer(&g.state[n*aes.BlockSize]) }

func (g *GCM) keys() unsafe.Pointer { return g.power(gcmPowers + 2) }

var _ cipher.AEAD = (*GCM)(nil)

// gcmCall is what the kernels get. The layout is known to their generator.
type gcmCall struct {
	keys    unsafe.Pointer
	rounds  uint64 // without the first and the last
	pow     unsafe.Pointer
	in, out unsafe.Pointer
	n       uint64
	nonce   unsafe.Pointer
	carry   uint64 // 16 where y has not been multiplied yet, otherwise 0
	y       [aes.BlockSize]byte
	lens    [aes.BlockSize]byte // the last block, reversed
	tag     [TagSize]byte
}

// NewGCM expands a key of 16, 24 or 32 octets.
func NewGCM(key []byte) (*GCM, error) {
	if n := len(key); n != 16 && n != 24 && n != 32 {
		return nil, KeySizeError(n)
	}
	rounds := len(key)/4 + 6
	g := &GCM{rounds: rounds, state: make([]byte, gcmPowersLen+(rounds+1)*aes.BlockSize)}
	enc := expandAES(key)
	for i := range rounds + 1 {
		copy(g.state[gcmPowersLen+i*aes.BlockSize:], enc[i][:])
	}
	clear(enc[:])
	kGcmSetup.call(unsafe.Pointer(&gcmCall{keys: g.keys(), rounds: uint64(g.rounds - 1), pow: g.power(gcmPowers + 2)}))
	return g, nil
}

// Wipe overwrites the key, which must not be used after it.
func (g *GCM) Wipe() { clear(g.state) }

// NonceSize is 12.
func (*GCM) NonceSize() int { return NonceSize }

// Overhead is the length of the tag.
func (*GCM) Overhead() int { return TagSize }

// Seal is cipher.AEAD's: it encrypts plaintext and appends it with the tag to dst.
// plaintext[:0] may be dst.
func (g *GCM) Seal(dst, nonce, plaintext, aad []byte) []byte {
	if uint64(len(plaintext)) > maxGCM {
		panic("lanes: message too large for GCM")
	}
	all, out := buffer.Extend(dst, len(plaintext)+TagSize)
	var c gcmCall
	g.run(&c, kGcmSeal, out, nonce, plaintext, aad)
	copy(out[len(plaintext):], c.tag[:])
	return all
}

// Open is cipher.AEAD's: it checks the tag at the end of sealed and appends the
// plaintext to dst. sealed[:0] may be dst. Where the check fails, what was between
// the length and the capacity of dst is zero.
func (g *GCM) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	n := len(sealed) - TagSize
	if n < 0 || uint64(n) > maxGCM {
		return nil, ErrAuth
	}
	all, out := buffer.Extend(dst, n)
	want := [TagSize]byte(sealed[n:])
	var c gcmCall
	g.run(&c, kGcmOpen, out, nonce, sealed[:n], aad)
	if subtle.ConstantTimeCompare(c.tag[:], want[:]) != 1 {
		clear(out)
		return nil, ErrAuth
	}
	return all, nil
}

// run passes in through a kernel to out, which may be longer.
func (g *GCM) run(c *gcmCall, k kernel, out, nonce, in, aad []byte) {
	if len(nonce) != NonceSize {
		panic("lanes: incorrect nonce length given to GCM")
	}
	if buffer.InexactOverlap(out, in) {
		panic("lanes: invalid buffer overlap of output and input")
	}
	if buffer.Overlap(out, aad) {
		panic("lanes: invalid buffer overlap of output and additional data")
	}
	c.keys, c.rounds, c.pow = g.keys(), uint64(g.rounds-1), g.power(2)
	binary.LittleEndian.PutUint64(c.lens[:], uint64(len(in))*8)
	binary.LittleEndian.PutUint64(c.lens[8:], uint64(len(aad))*8)
	if n := len(aad); n <= aes.BlockSize {
		for i, v := range aad { // reversed
			c.y[aes.BlockSize-1-i] = v
		}
		c.carry = aes.BlockSize
	} else {
		g.absorb(c, aad)
	}
	c.in, c.out, c.n = unsafe.Pointer(unsafe.SliceData(in)), unsafe.Pointer(unsafe.SliceData(out)), uint64(len(in))
	c.nonce = unsafe.Pointer(&nonce[0])
	k.call(unsafe.Pointer(c))
}

// absorb hashes additional data of more than a block.
func (g *GCM) absorb(c *gcmCall, aad []byte) {
	if n := len(aad) / aes.BlockSize; n > 0 {
		c.in, c.n = unsafe.Pointer(&aad[0]), uint64(n)
		kGcmAbsorb.call(unsafe.Pointer(c))
	}
	if rest := aad[len(aad)&^(aes.BlockSize-1):]; len(rest) > 0 {
		var last [aes.BlockSize]byte
		copy(last[:], rest)
		part := *c // stays here, so that last may
		part.in, part.n = unsafe.Pointer(&last), 1
		kGcmAbsorb.call(unsafe.Pointer(&part))
		c.y = part.y
	}
}

// testGCM asks for what crypto/cipher answers.
func testGCM() error {
	text := make([]byte, 1500)
	for i := range text {
		text[i] = byte(i * i)
	}
	for _, n := range []int{16, 24, 32} {
		key := text[100 : 100+n]
		g, err := NewGCM(key)
		if err != nil {
			return err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		judge, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		for _, size := range []int{0, 5, 100, 300, 505, 520, 1400} {
			nonce, aad := text[size:size+NonceSize], text[:size%40]
			want := judge.Seal(nil, nonce, text[:size], aad)
			back, err := g.Open(nil, nonce, want, aad)
			if err != nil || !bytes.Equal(back, text[:size]) || !bytes.Equal(g.Seal(nil, nonce, text[:size], aad), want) {
				return errKnownAnswer
			}
		}
	}
	return nil
}
