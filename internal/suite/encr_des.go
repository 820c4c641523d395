package suite

import (
	"bytes"
	"crypto/cipher"
	"crypto/des" // for peers that have nothing newer
	"fmt"

	"caponier/internal/ipsec"
	"caponier/internal/lanes"
)

// Why the ciphers of the last century are weak.
const (
	weakDES  = "its key of 56 bits is found in hours"
	weak3DES = "its block of 64 bits gives plaintext away after some gigabytes"
)

// desCBC are DES-CBC (RFC 2405) and 3DES-CBC (RFC 2451). The vectors are those of
// FIPS 81, Table C1, and NIST SP 800-67 in CBC mode, which OpenSSL confirms.
var desCBC = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.Encr3DES},
		words:     []string{"3des"},
		weak:      weak3DES,
		encr:      &encryption{keyLen: 3 * des.BlockSize, cipher: new3DESCBC},
		check: cipherAnswer("0123456789abcdef23456789abcdef01456789abcdef0123", "f69f2445df4f9b17",
			"6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
			"2079c3d53aa763e193b79e2569ab5262516570481f25b50f73c0bda85c8e0da7"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrDES},
		words:     []string{"des"},
		weak:      weakDES,
		encr:      &encryption{keyLen: des.BlockSize, cipher: newDESCBC(des.NewCipher)},
		check: cipherAnswer("0123456789abcdef", "1234567890abcdef",
			"4e6f77206973207468652074696d6520666f7220616c6c20",
			"e5c7cdde872bf27c43e934008c389c0f683788499a7c05f6"),
	},
}

// new3DESCBC makes 3DES-CBC; as lanes where there are some. Only they do without
// tables, whose use a neighbour on the machine may be able to follow.
func new3DESCBC(key []byte) (cipherMode, error) {
	if !lanes.Supported(lanes.TripleDESCBC) {
		return newDESCBC(des.NewTripleDESCipher)(key)
	}
	if err := refuseWeakDES(key); err != nil {
		return nil, err
	}
	many, err := lanes.NewTripleDES(key)
	if err != nil {
		return nil, err
	}
	gen, err := newIVGenerator(key)
	if err != nil {
		return nil, err
	}
	return &tripleDESLanes{ivGenerator: gen, key: many}, nil
}

// tripleDESLanes is 3DES-CBC of up to 64 blocks at a time.
type tripleDESLanes struct {
	ivGenerator
	key *lanes.TripleDES
}

func (*tripleDESLanes) IVLen() int     { return des.BlockSize }
func (*tripleDESLanes) BlockSize() int { return des.BlockSize }

func (c *tripleDESLanes) encrypt(dst, iv, src []byte) { c.key.Encrypt(dst, iv, src) }
func (c *tripleDESLanes) decrypt(dst, iv, src []byte) { c.key.DecryptCBC(dst, iv, src) }

func (c *tripleDESLanes) encryptBatch(l *lanes.Lanes, jobs []lanes.CBCJob) {
	c.key.EncryptCBC(l, jobs)
}

func (c *tripleDESLanes) wipe() {
	c.key.Wipe()
	*c = tripleDESLanes{}
}

// newDESCBC makes a cipher of one or three DES keys of 8 octets. The low bit of
// each octet is for parity and has no influence: RFC 2405, Section 3, has keys
// taken from key material as they come.
func newDESCBC(newBlock func(key []byte) (cipher.Block, error)) func(key []byte) (cipherMode, error) {
	return func(key []byte) (cipherMode, error) {
		if err := refuseWeakDES(key); err != nil {
			return nil, err
		}
		block, err := newBlock(key)
		if err != nil {
			return nil, err
		}
		return newCBC(block, key)
	}
}

// refuseWeakDES refuses keys with which DES encrypts twice to the plaintext,
// alone or in pairs, and neighbours in 3DES that undo each other and leave DES
// (RFC 2451, Section 2.3). Among keys made at random there is one in 2^52.
func refuseWeakDES(key []byte) error {
	var last []byte
	for i := 0; i < len(key); i += des.BlockSize {
		k := bytes.Clone(key[i : i+des.BlockSize])
		defer clear(k)
		for j := range k {
			k[j] &^= 1
		}
		switch {
		case isWeakDES(k):
			return fmt.Errorf("DES key %d: %w", 1+i/des.BlockSize, ErrWeakKey)
		case bytes.Equal(k, last):
			return fmt.Errorf("DES keys %d and %d are the same: %w", i/des.BlockSize, 1+i/des.BlockSize, ErrWeakKey)
		}
		last = k
	}
	return nil
}

// isWeakDES reports whether the key k, without parity, is one of the 4 weak and
// the 12 semi-weak ones (NIST SP 800-67, Section 3.4.2). In all of them the two
// halves of the key schedule's register hold only zeros, only ones, or the two
// in turns: each half of the key is a pair of octets of 00, 1e (0e in the lower
// half), e0 (f0) and fe, twice.
func isWeakDES(k []byte) bool {
	upper := [4]byte{0x00, 0x1e, 0xe0, 0xfe}
	lower := [4]byte{0x00, 0x0e, 0xf0, 0xfe}
	a := bytes.IndexByte(upper[:], k[0])
	b := bytes.IndexByte(upper[:], k[1])
	if a < 0 || b < 0 {
		return false
	}
	for i := range 4 {
		u, l := upper[a], lower[a]
		if i%2 == 1 {
			u, l = upper[b], lower[b]
		}
		if k[i] != u || k[4+i] != l {
			return false
		}
	}
	return true
}
