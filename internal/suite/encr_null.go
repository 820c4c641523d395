package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"fmt"

	"caponier/internal/buffer"
	"caponier/internal/ipsec"
)

// weakNull is why an algorithm without encryption is weak.
const weakNull = "it does not encrypt: everybody on the way can read"

// null is NULL encryption (RFC 2410). Like AES-GMAC it is for ESP alone: IKE
// must encrypt (RFC 7296, Section 3.3.2; RFC 5282, Section 8).
var null = []entry{{
	transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrNull},
	words:     []string{"null"},
	weak:      weakNull,
	encr:      &encryption{espOnly: true, cipher: func([]byte) (cipherMode, error) { return nullMode{}, nil }},
	check:     cipherAnswer("", "", gcmPlain, gcmPlain),
}}

// nullMode is a cipherMode that leaves everything as it is.
type nullMode struct{}

func (nullMode) IVLen() int                 { return 0 }
func (nullMode) BlockSize() int             { return 1 }
func (nullMode) NextIV([]byte, uint64)      {}
func (nullMode) encrypt(dst, _, src []byte) { copy(dst, src) }
func (nullMode) decrypt(dst, _, src []byte) { copy(dst, src) }
func (nullMode) wipe()                      {}

// gmacAnswers are the ICVs that OpenSSL's GMAC gives for the input of gcmAnswers
// with all of it authenticated, in the order of RFC 4543, Section 3.3. The RFC
// has no vectors.
var gmacAnswers = map[int]string{
	256: "0b8c909b3845c4acb9367bc183bab61b",
	192: "f44222e0bb4bbebcd46612b4ab12d1ca",
	128: "9f38fe9f91e4bc9964cb8833b6fbb5c2",
}

// aesGMAC is AES-GMAC without encryption (RFC 4543).
var aesGMAC = gmacEntries()

func gmacEntries() []entry {
	var out []entry
	for _, bits := range keyLengths {
		out = append(out, entry{
			transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrNullAESGMAC, KeyBits: uint16(bits)},
			words:     []string{fmt.Sprintf("aes%dgmac", bits)},
			weak:      weakNull,
			encr:      &encryption{keyLen: bits/8 + gcmSaltLen, espOnly: true, combined: newGMAC},
			check:     sealAnswer(gcmKey[:bits/4]+gcmSalt, gcmIV, gcmPlain, gcmAAD, gcmPlain+gmacAnswers[bits]),
		})
	}
	return out
}

func newGMAC(key []byte) (Protector, error) {
	block, err := aes.NewCipher(key[:len(key)-gcmSaltLen])
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return newCombined(&gmac{gcm: gcm}, key[len(key)-gcmSaltLen:]), nil
}

// gmac is AES-GCM that encrypts nothing and authenticates the IV too (RFC 4543,
// Section 3.3). crypto/cipher wants what it authenticates in one piece, so that
// each packet is copied.
type gmac struct {
	gcm     cipher.AEAD
	scratch []byte // as long as the longest packet so far
}

func (g *gmac) NonceSize() int { return g.gcm.NonceSize() }
func (g *gmac) Overhead() int  { return g.gcm.Overhead() }

// gather keeps what is authenticated: aad, IV, text.
func (g *gmac) gather(aad, nonce, text []byte) {
	g.scratch = append(g.scratch[:0], aad...)
	g.scratch = append(g.scratch, nonce[gcmSaltLen:]...)
	g.scratch = append(g.scratch, text...)
}

func (g *gmac) Seal(dst, nonce, plaintext, aad []byte) []byte {
	g.gather(aad, nonce, plaintext)
	all, out := buffer.Extend(dst, len(plaintext)+g.Overhead())
	copy(out, plaintext)
	g.gcm.Seal(out[len(plaintext):len(plaintext)], nonce, nil, g.scratch)
	return all
}

func (g *gmac) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	n := len(sealed) - g.Overhead()
	g.gather(aad, nonce, sealed[:n])
	if _, err := g.gcm.Open(nil, nonce, sealed[n:], g.scratch); err != nil {
		return nil, err
	}
	all, out := buffer.Extend(dst, n)
	copy(out, sealed)
	return all, nil
}

func (g *gmac) wipe() {
	clear(g.scratch[:cap(g.scratch)])
	*g = gmac{}
}
