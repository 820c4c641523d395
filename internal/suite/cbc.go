package suite

import (
	"fmt"
	"hash"

	"caponier/internal/ipsec"
)

// CBC is a block cipher in CBC mode without integrity, as IKEv1 encrypts its
// messages (RFC 2409, Appendix B). It belongs to one goroutine.
type CBC struct{ mode cipherMode }

// leastBlock tells block ciphers from stream ciphers in octets.
const leastBlock = 8

// NewCBC makes a CBC of the encryption algorithm t. It keeps nothing of key.
func NewCBC(t ipsec.Transform, key []byte) (*CBC, error) {
	e, err := lookupEncr(t)
	if err != nil {
		return nil, err
	}
	if e.cipher == nil || e.espOnly {
		return nil, fmt.Errorf("%s is no block cipher in CBC mode: %w", Name(t), ErrUnknown)
	}
	if len(key) != e.keyLen {
		return nil, fmt.Errorf("%s takes %d octets of key, not %d: %w", Name(t), e.keyLen, len(key), ErrKeyLength)
	}
	mode, err := e.cipher(key)
	if err != nil {
		return nil, err
	}
	if mode.BlockSize() < leastBlock || mode.IVLen() != mode.BlockSize() {
		return nil, fmt.Errorf("%s is no block cipher in CBC mode: %w", Name(t), ErrUnknown)
	}
	return &CBC{mode: mode}, nil
}

// CipherKeyLength returns the octets of key that the encryption algorithm t takes.
func CipherKeyLength(t ipsec.Transform) (int, error) {
	e, err := lookupEncr(t)
	if err != nil {
		return 0, err
	}
	return e.keyLen, nil
}

// IntegKeyLength returns the octets of key that the integrity algorithm t takes.
func IntegKeyLength(t ipsec.Transform) (int, error) {
	if e := lookup(t); e != nil && e.integ != nil {
		return e.integ.keyLen, nil
	}
	return 0, fmt.Errorf("integrity algorithm %s: %w", Name(t), ErrUnknown)
}

// BlockSize returns the length of a block, and of the IV, in octets.
func (c *CBC) BlockSize() int { return c.mode.BlockSize() }

// Encrypt and Decrypt work on whole blocks; dst and src are the same octets or do
// not overlap.
func (c *CBC) Encrypt(dst, iv, src []byte) { c.mode.encrypt(dst, iv, src) }

// Decrypt is the reverse of Encrypt.
func (c *CBC) Decrypt(dst, iv, src []byte) { c.mode.decrypt(dst, iv, src) }

// Wipe overwrites key material as far as it can be reached. The CBC must not be
// used after it.
func (c *CBC) Wipe() { c.mode.wipe() }

// NewHash returns the hash function that an HMAC is made of: IKEv1 negotiates the
// hash, and uses it by itself and as a PRF (RFC 2409, Section 4).
func NewHash(prf ipsec.Transform) (func() hash.Hash, error) {
	if e := lookup(prf); e != nil {
		if h, ok := e.prf.(prfHMAC); ok {
			return h.hash, nil
		}
	}
	return nil, fmt.Errorf("%s is not made of a hash function: %w", Name(prf), ErrUnknown)
}
