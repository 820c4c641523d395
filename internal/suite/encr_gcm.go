package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"slices"

	"caponier/internal/buffer"
	"caponier/internal/ipsec"
	"caponier/internal/lanes"
)

// aesGCM is AES-GCM, for ESP (RFC 4106) and IKEv2 (RFC 5282).
var aesGCM = slices.Concat(
	gcmEntries(ipsec.EncrAESGCM16, 16), gcmEntries(ipsec.EncrAESGCM12, 12), gcmEntries(ipsec.EncrAESGCM8, 8))

// gcmAnswers are, by key length in bits, the results of test cases 4, 10 and 16
// of McGrew and Viega, "The Galois/Counter Mode of Operation (GCM)". A short ICV
// is the beginning of the long one.
var gcmAnswers = map[int]string{
	256: "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838" +
		"c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
	192: "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c7d773d00c144c525ac619d18c84a3f47" +
		"18e2448b2fe324d9ccda27102519498e80f1478f37ba55bd6d27618c",
	128: "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05" +
		"1ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47",
}

// What goes into test cases 4, 10 and 16, each with as much of the key as it
// takes.
const (
	gcmKey   = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
	gcmSalt  = "cafebabe"
	gcmIV    = "facedbaddecaf888"
	gcmAAD   = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
	gcmPlain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525" +
		"b16aedf5aa0de657ba637b39"
)

const (
	gcmSaltLen = 4 // RFC 4106, Section 4
	gcmICVLen  = 16
)

func gcmEntries(id uint16, icvLen int) []entry {
	var out []entry
	for _, bits := range keyLengths {
		answer := gcmAnswers[bits]
		out = append(out, entry{
			transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: id, KeyBits: uint16(bits)},
			words:     icvWords(bits, "gcm", icvLen),
			weak:      weakness(icvLen),
			encr:      &encryption{keyLen: bits/8 + gcmSaltLen, combined: newGCM(icvLen)},
			check: sealAnswer(gcmKey[:bits/4]+gcmSalt, gcmIV, gcmPlain, gcmAAD,
				answer[:len(answer)-2*(gcmICVLen-icvLen)]),
		})
	}
	return out
}

func newGCM(icvLen int) func(key []byte) (Protector, error) {
	return func(key []byte) (Protector, error) {
		gcm, err := newAESGCM(key[:len(key)-gcmSaltLen])
		if err != nil {
			return nil, err
		}
		if icvLen < gcm.Overhead() {
			gcm = &shortGCM{gcm: gcm, icvLen: icvLen}
		}
		return newCombined(gcm, key[len(key)-gcmSaltLen:]), nil
	}
}

// newAESGCM is AES-GCM of package lanes, which is three times as fast, where this
// machine can run it.
func newAESGCM(key []byte) (cipher.AEAD, error) {
	if lanes.Supported(lanes.AESGCM) {
		return lanes.NewGCM(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// shortGCM is AES-GCM with an ICV of less than 16 octets. It goes through the
// cipher three times to open a packet, which is a fair price for what nobody
// should choose.
//
// crypto/cipher refuses tags of less than 12 octets. With 12 it is not safe
// here: its assembly for amd64 (seen in Go 1.26) writes the last block of the
// ciphertext whole, up to 3 octets behind the end and capacity of dst, where the
// next packet of a batch may lie.
type shortGCM struct {
	gcm     cipher.AEAD
	icvLen  int
	scratch []byte // as long as the longest packet so far
}

func (g *shortGCM) NonceSize() int { return g.gcm.NonceSize() }
func (g *shortGCM) Overhead() int  { return g.icvLen }

func (g *shortGCM) Seal(dst, nonce, plaintext, aad []byte) []byte {
	all, out := buffer.Extend(dst, len(plaintext)+g.icvLen)
	g.scratch = g.gcm.Seal(g.scratch[:0], nonce, plaintext, aad)
	copy(out, g.scratch)
	return all
}

// Open finds the ICV that belongs to the ciphertext by decrypting it, which in
// counter mode is encrypting it, and encrypting it again: the second time the
// whole tag comes out.
func (g *shortGCM) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	n := len(sealed) - g.icvLen
	g.scratch = g.gcm.Seal(g.scratch[:0], nonce, sealed[:n], nil)
	g.scratch = g.gcm.Seal(g.scratch[:0], nonce, g.scratch[:n], aad)
	if !hmac.Equal(g.scratch[n:n+g.icvLen], sealed[n:]) {
		return nil, ErrAuth
	}
	return g.gcm.Open(dst, nonce, g.scratch, aad)
}

func (g *shortGCM) wipe() {
	clear(g.scratch[:cap(g.scratch)])
	wipe(g.gcm)
	*g = shortGCM{}
}
