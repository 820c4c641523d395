// Package suite is the registry of transforms: the number that IANA gave an
// algorithm, the word that operators write for it, and how it is constructed.
// IKE and ESP meet cryptography only through the four interfaces below, so that
// the next algorithm is one registration.
package suite

import (
	"errors"
	"io"

	"caponier/internal/secret"
)

// Errors of the constructors and of what they make.
var (
	// ErrUnknown is returned for a transform that is not registered.
	ErrUnknown = errors.New("unknown transform")
	// ErrKeyLength is returned for key material of the wrong length.
	ErrKeyLength = errors.New("wrong key length")
	// ErrWeakKey is returned for a key with which a cipher is no cipher.
	ErrWeakKey = errors.New("weak key")
	// ErrAuth is returned when an ICV does not match.
	ErrAuth = errors.New("integrity check failed")
	// ErrPublicValue is returned for a peer's public value that is malformed, off
	// the curve, of small order, or otherwise unsafe (RFC 6989).
	ErrPublicValue = errors.New("invalid public value")
)

// Protector is one keyed direction of encryption and integrity, as ESP (RFC
// 4303) and the IKEv2 encrypted payload (RFC 7296, Section 3.14) use them:
// either a combined-mode algorithm, or a cipher and an integrity algorithm,
// encrypting first.
//
// A Protector keeps scratch space of its own: one goroutine at a time. Seal and
// Open do not allocate, but that AES-GMAC and AES-GCM with a short ICV keep a
// copy of the longest packet so far.
type Protector interface {
	// Combined reports whether the algorithm is a combined-mode one. The caller
	// needs it for extended sequence numbers, which such algorithms authenticate
	// inside aad and others as tail (RFC 4303, Section 2.2.1).
	Combined() bool
	// IVLen is the length of the explicit IV that stands before the ciphertext.
	IVLen() int
	// BlockSize is what the plaintext must be padded to: 1 for counter modes.
	BlockSize() int
	// ICVLen is the length of the integrity check value after the ciphertext.
	ICVLen() int
	// NextIV writes the IV of the next packet: a counter from seq where the
	// algorithm needs a unique one (RFC 4106, Section 3.1), an unpredictable
	// value where it needs that (RFC 3602, Section 3).
	NextIV(iv []byte, seq uint64)
	// Seal encrypts plaintext to dst[:len(plaintext)] and writes the ICV behind
	// it; dst has room for both. dst and plaintext are the same octets or do not
	// overlap. The ICV covers aad, iv, the ciphertext and tail; a combined-mode
	// algorithm takes the IV as its nonce and refuses a tail by panicking.
	Seal(dst, iv, plaintext, aad, tail []byte)
	// Open checks the ICV at the end of sealed in constant time, before it
	// decrypts the rest to dst[:len(sealed)-ICVLen()]; dst may be sealed itself.
	// It returns ErrAuth and leaves no plaintext behind where the check fails,
	// also for a sealed that is too short or not of whole blocks. AES-CCM must
	// decrypt to check; it clears dst where the check fails.
	Open(dst, iv, sealed, aad, tail []byte) error
	// Wipe overwrites key material as far as it can be reached. The Protector
	// must not be used after it.
	Wipe()
}

// PRF is a pseudorandom function (RFC 7296, Section 2.13).
type PRF interface {
	// KeyLen is the preferred key length in octets.
	KeyLen() int
	// Size is the length of the output in octets.
	Size() int
	// SeedNonceLen is how many octets of each nonce make the key of the first
	// SKEYSEED: all where it is 0 (RFC 7296, Section 2.14).
	SeedNonceLen() int
	// Sum returns prf(key, data[0] | data[1] | ...).
	Sum(key []byte, data ...[]byte) []byte
}

// KeyExchange is a key exchange method. It has the shape of a key
// encapsulation, of which Diffie-Hellman is the symmetric case.
type KeyExchange interface {
	// Initiate makes the initiator's share. It reads secrets from rand.
	Initiate(rand io.Reader) (KEShare, error)
	// Respond answers the initiator's public value with the responder's, and
	// returns the shared secret. A bad value gives ErrPublicValue.
	Respond(rand io.Reader, peer []byte) (public []byte, shared secret.Key, err error)
}

// KEShare is the initiator's half of a key exchange.
type KEShare interface {
	// Public is the value for the KE payload.
	Public() []byte
	// Finish computes the shared secret from the responder's public value. A
	// bad value gives ErrPublicValue.
	Finish(peer []byte) (secret.Key, error)
}
