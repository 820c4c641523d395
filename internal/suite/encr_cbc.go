package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"caponier/internal/ipsec"
	"caponier/internal/lanes"
)

// aesCBC is AES-CBC (RFC 3602). The vectors are case 1 of RFC 3602, Section 4,
// and NIST SP 800-38A, Sections F.2.3 and F.2.5.
var aesCBC = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 256},
		words:     []string{"aes256"},
		encr:      &encryption{keyLen: 32, cipher: newAESCBC},
		check: cipherAnswer("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
			"000102030405060708090a0b0c0d0e0f", "6bc1bee22e409f96e93d7e117393172a", "f58c4c04d6e5f1ba779eabfb5f7bfbd6"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 192},
		words:     []string{"aes192"},
		encr:      &encryption{keyLen: 24, cipher: newAESCBC},
		check: cipherAnswer("8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
			"000102030405060708090a0b0c0d0e0f", "6bc1bee22e409f96e93d7e117393172a", "4f021db243bc633d7178183a9fa071e8"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128},
		words:     []string{"aes128"},
		encr:      &encryption{keyLen: 16, cipher: newAESCBC},
		check: cipherAnswer("06a9214036b8a15b512e03d534120006",
			"3dafba429d9eb430b422da802c9fac41", "53696e676c6520626c6f636b206d7367", "e353779c1079aeb82708942dbe77181a"),
	},
}

func newAESCBC(key []byte) (cipherMode, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	mode, err := newCBC(block, key)
	if err != nil || !lanes.Supported(lanes.AESCBC) {
		return mode, err
	}
	many, err := lanes.NewAES(key)
	if err != nil {
		return nil, err
	}
	return &aesLanes{cbc: mode, key: many}, nil
}

// aesLanes is AES-CBC that decrypts the blocks of a packet, and encrypts packets,
// side by side.
type aesLanes struct {
	*cbc
	key *lanes.AES
}

func (c *aesLanes) decrypt(dst, iv, src []byte) { c.key.DecryptCBC(dst, iv, src) }

func (c *aesLanes) encryptBatch(l *lanes.Lanes, jobs []lanes.CBCJob) { c.key.EncryptCBC(l, jobs) }

func (c *aesLanes) wipe() {
	c.cbc.wipe()
	c.key.Wipe()
}

// chain is a CBC mode whose IV can be set without making a new one.
type chain interface {
	cipher.BlockMode
	SetIV(iv []byte)
}

var errNoSetIV = errors.New("this implementation of CBC cannot change its IV")

// cbc is a cipherMode.
type cbc struct {
	ivGenerator
	encrypter, decrypter chain
}

func newCBC(block cipher.Block, key []byte) (*cbc, error) {
	zero := make([]byte, block.BlockSize())
	encrypter, okE := cipher.NewCBCEncrypter(block, zero).(chain)
	decrypter, okD := cipher.NewCBCDecrypter(block, zero).(chain)
	if !okE || !okD {
		return nil, errNoSetIV
	}
	gen, err := newIVGenerator(key)
	if err != nil {
		return nil, err
	}
	return &cbc{ivGenerator: gen, encrypter: encrypter, decrypter: decrypter}, nil
}

func (c *cbc) IVLen() int     { return c.encrypter.BlockSize() }
func (c *cbc) BlockSize() int { return c.encrypter.BlockSize() }

func (c *cbc) encrypt(dst, iv, src []byte) {
	c.encrypter.SetIV(iv)
	c.encrypter.CryptBlocks(dst, src)
}

func (c *cbc) decrypt(dst, iv, src []byte) {
	c.decrypter.SetIV(iv)
	c.decrypter.CryptBlocks(dst, src)
}

func (c *cbc) wipe() { *c = cbc{} }

// ivGenerator makes unpredictable IVs without a system call for each packet.
//
// An IV is AES, under a key of its own, of a block that never repeats: the
// sequence number and a count of the IVs made. AES being a pseudorandom
// permutation, who does not have the key cannot tell such outputs from random
// distinct blocks, and so cannot predict the next one (NIST SP 800-38A,
// Appendix C, first method). The key of the generator is derived from the
// encryption key with HMAC, which is one-way and keeps the two independent.
type ivGenerator struct {
	block   cipher.Block
	counter uint64
	out     [aes.BlockSize]byte
}

func newIVGenerator(key []byte) (ivGenerator, error) {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("caponier IV generation key"))
	derived := h.Sum(nil)
	defer clear(derived)
	block, err := aes.NewCipher(derived)
	return ivGenerator{block: block}, err
}

// NextIV writes the next IV, of 16 octets at most.
func (g *ivGenerator) NextIV(iv []byte, seq uint64) {
	binary.BigEndian.PutUint64(g.out[:], seq)
	binary.BigEndian.PutUint64(g.out[8:], g.counter)
	g.counter++
	g.block.Encrypt(g.out[:], g.out[:])
	copy(iv, g.out[:])
}
