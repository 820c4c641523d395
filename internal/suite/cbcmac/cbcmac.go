// Package cbcmac has the message authentication codes that are AES in CBC mode:
// AES-XCBC-MAC (RFC 3566), AES-CMAC (RFC 4493), and the bare chain that CCM is made
// of.
package cbcmac

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"errors"
	"hash"
)

// mode is a CBC mode whose IV can be set without making a new one.
type mode interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

var errNoSetIV = errors.New("this implementation of CBC cannot change its IV")

// aesMAC is AES-XCBC-MAC or AES-CMAC: a CBC-MAC whose last block is changed by
// a derived key, one where it is whole and another where it had to be padded.
type aesMAC struct {
	Chain
	whole, padded [aes.BlockSize]byte
	tag           [aes.BlockSize]byte
}

// NewXCBC returns AES-XCBC-MAC of a 16-octet key (RFC 3566, Section 4).
func NewXCBC(key []byte) (hash.Hash, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	var keys [3][aes.BlockSize]byte
	defer func() { clear(keys[:]) }()
	for i := range keys {
		for j := range keys[i] {
			keys[i][j] = byte(i + 1)
		}
		block.Encrypt(keys[i][:], keys[i][:])
	}
	if block, err = aes.NewCipher(keys[0][:]); err != nil {
		return nil, err
	}
	mac, err := New(block)
	if err != nil {
		return nil, err
	}
	return &aesMAC{Chain: *mac, whole: keys[1], padded: keys[2]}, nil
}

// NewCMAC returns AES-CMAC of a 16-octet key (RFC 4493, Section 2.3).
func NewCMAC(key []byte) (hash.Hash, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	mac, err := New(block)
	if err != nil {
		return nil, err
	}
	m := &aesMAC{Chain: *mac}
	block.Encrypt(m.whole[:], m.whole[:])
	m.whole = double(m.whole)
	m.padded = double(m.whole)
	return m, nil
}

// double multiplies by x in GF(2^128) (RFC 4493, Section 2.3), in constant time.
func double(b [aes.BlockSize]byte) [aes.BlockSize]byte {
	const reduction = 0x87
	carry := byte(0)
	for i := len(b) - 1; i >= 0; i-- {
		b[i], carry = b[i]<<1|carry, b[i]>>7
	}
	b[len(b)-1] ^= reduction & -carry
	return b
}

func (*aesMAC) Size() int      { return aes.BlockSize }
func (*aesMAC) BlockSize() int { return aes.BlockSize }

func (m *aesMAC) Sum(b []byte) []byte {
	m.tag = m.held
	key := &m.whole
	if m.n < aes.BlockSize {
		m.tag[m.n] = 0x80
		clear(m.tag[m.n+1:])
		key = &m.padded
	}
	subtle.XORBytes(m.tag[:], m.tag[:], key[:])
	subtle.XORBytes(m.tag[:], m.tag[:], m.state[:])
	m.block.Encrypt(m.tag[:], m.tag[:])
	return append(b, m.tag[:]...)
}

// Wipe overwrites what is within reach.
func (m *aesMAC) Wipe() { *m = aesMAC{} }

// Chain is the chain of a CBC-MAC. It holds the last block back, because that
// is for its owner to finish.
type Chain struct {
	block cipher.Block
	mode  mode
	state [aes.BlockSize]byte
	held  [aes.BlockSize]byte
	n     int       // octets of held
	out   [512]byte // where mode writes what nobody needs
}

// New makes a Chain of a block cipher of 16 octets that is AES.
func New(block cipher.Block) (*Chain, error) {
	m := &Chain{block: block}
	chained, ok := cipher.NewCBCEncrypter(block, m.state[:]).(mode)
	if !ok {
		return nil, errNoSetIV
	}
	m.mode = chained
	return m, nil
}

// Reset goes back to the beginning.
func (m *Chain) Reset() {
	clear(m.state[:])
	m.mode.SetIV(m.state[:])
	m.n = 0
}

// Write takes more data. It never returns an error.
func (m *Chain) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		switch {
		case m.n == aes.BlockSize:
			m.absorb(m.held[:])
			m.n = 0
		case m.n == 0 && len(p) > aes.BlockSize:
			n := min((len(p)-1)&^(aes.BlockSize-1), len(m.out))
			m.absorb(p[:n])
			p = p[n:]
		default:
			n := copy(m.held[m.n:], p)
			m.n += n
			p = p[n:]
		}
	}
	return written, nil
}

// absorb takes whole blocks, no more than out has.
func (m *Chain) absorb(p []byte) {
	m.mode.CryptBlocks(m.out[:len(p)], p)
	copy(m.state[:], m.out[len(p)-aes.BlockSize:])
}

// Pad fills the last block with zeros.
func (m *Chain) Pad() {
	clear(m.held[m.n:])
	m.n = aes.BlockSize
}

// Finish writes the plain CBC-MAC of what was written, and padded, to tag.
func (m *Chain) Finish(tag *[aes.BlockSize]byte) {
	m.absorb(m.held[:])
	m.n = 0
	*tag = m.state
}

// Wipe overwrites what is within reach.
func (m *Chain) Wipe() { *m = Chain{} }
