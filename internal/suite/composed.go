package suite

import (
	"crypto/hmac"
	"hash"
)

// cipherMode is a cipher without integrity, keyed for both directions.
type cipherMode interface {
	IVLen() int
	BlockSize() int
	NextIV(iv []byte, seq uint64)
	// encrypt and decrypt work on whole blocks; dst and src are the same octets
	// or do not overlap.
	encrypt(dst, iv, src []byte)
	decrypt(dst, iv, src []byte)
	wipe()
}

// maxMAC is the longest output of a MAC.
const maxMAC = 64

// wiper is what holds key material within reach.
type wiper interface{ wipe() }

func wipe(held any) {
	switch w := held.(type) {
	case wiper:
		w.wipe()
	case interface{ Wipe() }:
		w.Wipe()
	}
}

// composed is the Protector of a cipher and an integrity algorithm: it encrypts
// first, and the ICV covers the ciphertext (RFC 4303, Section 3.3.2).
type composed struct {
	cipherMode
	mac    hash.Hash
	icvLen int
	sum    [maxMAC]byte
}

func (*composed) Combined() bool { return false }
func (c *composed) ICVLen() int  { return c.icvLen }

func (c *composed) Seal(dst, iv, plaintext, aad, tail []byte) {
	n := len(plaintext)
	c.encrypt(dst[:n], iv, plaintext)
	copy(dst[n:n+c.icvLen], c.icv(aad, iv, dst[:n], tail))
}

func (c *composed) Open(dst, iv, sealed, aad, tail []byte) error {
	n := len(sealed) - c.icvLen
	if n < 0 || n%c.BlockSize() != 0 || len(iv) != c.IVLen() {
		return ErrAuth
	}
	if !hmac.Equal(c.icv(aad, iv, sealed[:n], tail), sealed[n:]) {
		return ErrAuth
	}
	c.decrypt(dst[:n], iv, sealed[:n])
	return nil
}

// icv returns the ICV in scratch space, valid until the next call.
func (c *composed) icv(aad, iv, ciphertext, tail []byte) []byte {
	c.mac.Reset()
	c.mac.Write(aad)
	c.mac.Write(iv)
	c.mac.Write(ciphertext)
	c.mac.Write(tail)
	return c.mac.Sum(c.sum[:0])[:c.icvLen]
}

// Wipe overwrites what our own modes hold and drops the rest: keys are out of
// reach inside crypto/hmac and the cipher, and left to the garbage collector.
func (c *composed) Wipe() {
	c.wipe()
	wipe(c.mac)
	*c = composed{}
}
