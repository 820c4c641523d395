package suite

import (
	"crypto/hmac"
	"fmt"
	"hash"

	"caponier/internal/ipsec"
)

// MAC is one keyed integrity algorithm alone, as AH uses it (RFC 4302). It keeps
// scratch space of its own: one goroutine at a time. Its methods do not allocate.
type MAC struct {
	mac    hash.Hash
	icvLen int
	sum    [maxMAC]byte
}

// NewMAC makes the MAC of integ from a key of exactly the length that KeyLengths
// tells. It keeps nothing of the slice.
func NewMAC(integ ipsec.Transform, key []byte) (*MAC, error) {
	i, err := lookupMAC(integ)
	if err != nil {
		return nil, err
	}
	if len(key) != i.keyLen {
		return nil, fmt.Errorf("%s takes %d octets of key, not %d: %w", Name(integ), i.keyLen, len(key), ErrKeyLength)
	}
	mac, err := i.mac(key)
	if err != nil {
		return nil, err
	}
	return &MAC{mac: mac, icvLen: i.icvLen}, nil
}

// ICVLen is the length of the integrity check value in octets.
func (m *MAC) ICVLen() int { return m.icvLen }

// Reset starts a message.
func (m *MAC) Reset() { m.mac.Reset() }

// Write adds to the message.
func (m *MAC) Write(p []byte) { m.mac.Write(p) }

// ICV returns the truncated output for the message, valid until the next call.
func (m *MAC) ICV() []byte { return m.mac.Sum(m.sum[:0])[:m.icvLen] }

// Verify compares icv with that of the message in constant time.
func (m *MAC) Verify(icv []byte) bool { return hmac.Equal(m.ICV(), icv) }

// Wipe overwrites key material as far as it can be reached. The MAC must not be
// used after it.
func (m *MAC) Wipe() {
	wipe(m.mac)
	*m = MAC{}
}
