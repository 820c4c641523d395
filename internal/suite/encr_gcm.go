package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"

	"caponier/internal/ipsec"
)

// aesGCM is AES-GCM with a 16-octet ICV, for ESP (RFC 4106) and IKEv2 (RFC
// 5282). The vectors are test cases 4, 10 and 16 of McGrew and Viega, "The
// Galois/Counter Mode of Operation (GCM)".
var aesGCM = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 256},
		words:     []string{"aes256gcm16", "aes256gcm128"},
		encr:      &encryption{keyLen: 32 + saltLen, combined: newGCM},
		check: sealAnswer("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"+gcmSalt, gcmIV, gcmPlain, gcmAAD,
			"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"+
				"c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 192},
		words:     []string{"aes192gcm16", "aes192gcm128"},
		encr:      &encryption{keyLen: 24 + saltLen, combined: newGCM},
		check: sealAnswer("feffe9928665731c6d6a8f9467308308feffe9928665731c"+gcmSalt, gcmIV, gcmPlain, gcmAAD,
			"3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c7d773d00c144c525ac619d18c84a3f47"+
				"18e2448b2fe324d9ccda27102519498e80f1478f37ba55bd6d27618c"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
		words:     []string{"aes128gcm16", "aes128gcm128"},
		encr:      &encryption{keyLen: 16 + saltLen, combined: newGCM},
		check: sealAnswer("feffe9928665731c6d6a8f9467308308"+gcmSalt, gcmIV, gcmPlain, gcmAAD,
			"42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e21d514b25466931c7d8f6a5aac84aa05"+
				"1ba30b396a0aac973d58e0915bc94fbc3221a5db94fae95ae7121a47"),
	},
}

const (
	gcmSalt  = "cafebabe"
	gcmIV    = "facedbaddecaf888"
	gcmAAD   = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
	gcmPlain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525" +
		"b16aedf5aa0de657ba637b39"
)

const (
	saltLen   = 4 // RFC 4106, Section 4
	gcmIVLen  = 8 // RFC 4106, Section 3.1
	gcmICVLen = 16
)

// gcm is a Protector. The nonce is the salt followed by the explicit IV.
type gcm struct {
	aead  cipher.AEAD
	nonce [saltLen + gcmIVLen]byte
}

func newGCM(key []byte) (Protector, error) {
	block, err := aes.NewCipher(key[:len(key)-saltLen])
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	g := &gcm{aead: aead}
	copy(g.nonce[:], key[len(key)-saltLen:])
	return g, nil
}

func (*gcm) Combined() bool { return true }
func (*gcm) IVLen() int     { return gcmIVLen }
func (*gcm) BlockSize() int { return 1 }
func (*gcm) ICVLen() int    { return gcmICVLen }

func (*gcm) NextIV(iv []byte, seq uint64) { binary.BigEndian.PutUint64(iv, seq) }

func (g *gcm) Seal(dst, iv, plaintext, aad, tail []byte) {
	if len(tail) != 0 || len(iv) != gcmIVLen {
		panic("suite: AES-GCM takes an IV of 8 octets and no tail")
	}
	copy(g.nonce[saltLen:], iv)
	// The capacity is what is written, so that Seal can neither allocate nor
	// write further.
	g.aead.Seal(dst[:0:len(plaintext)+gcmICVLen], g.nonce[:], plaintext, aad)
}

func (g *gcm) Open(dst, iv, sealed, aad, tail []byte) error {
	if len(tail) != 0 || len(iv) != gcmIVLen || len(sealed) < gcmICVLen {
		return ErrAuth
	}
	copy(g.nonce[saltLen:], iv)
	if _, err := g.aead.Open(dst[:0:len(sealed)-gcmICVLen], g.nonce[:], sealed, aad); err != nil {
		return ErrAuth
	}
	return nil
}

// Wipe clears the salt. The expanded key is out of reach inside crypto/aes: it
// is left to the garbage collector.
func (g *gcm) Wipe() { *g = gcm{} }
