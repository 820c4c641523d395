package suite

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// explicitIVLen is the length of the IV in the packet, of every combined mode
// and of AES-CTR: RFC 3686, 4106, 4309, 4543 and 7634 agree.
const explicitIVLen = 8

// combined is the Protector of a combined-mode algorithm. The nonce is the salt
// followed by the explicit IV.
type combined struct {
	aead  cipher.AEAD
	nonce []byte
	iv    []byte // the end of nonce
}

func newCombined(aead cipher.AEAD, salt []byte) *combined {
	nonce := make([]byte, len(salt)+explicitIVLen)
	copy(nonce, salt)
	return &combined{aead: aead, nonce: nonce, iv: nonce[len(salt):]}
}

func (*combined) Combined() bool { return true }
func (*combined) IVLen() int     { return explicitIVLen }
func (*combined) BlockSize() int { return 1 }
func (c *combined) ICVLen() int  { return c.aead.Overhead() }

func (*combined) NextIV(iv []byte, seq uint64) { binary.BigEndian.PutUint64(iv, seq) }

func (c *combined) Seal(dst, iv, plaintext, aad, tail []byte) {
	if len(tail) != 0 || len(iv) != explicitIVLen {
		panic("suite: a combined mode takes an IV of 8 octets and no tail")
	}
	copy(c.iv, iv)
	// The capacity is what is written, so that Seal can neither allocate nor
	// write further.
	c.aead.Seal(dst[:0:len(plaintext)+c.aead.Overhead()], c.nonce, plaintext, aad)
}

func (c *combined) Open(dst, iv, sealed, aad, tail []byte) error {
	n := len(sealed) - c.aead.Overhead()
	if len(tail) != 0 || len(iv) != explicitIVLen || n < 0 {
		return ErrAuth
	}
	copy(c.iv, iv)
	if _, err := c.aead.Open(dst[:0:n], c.nonce, sealed, aad); err != nil {
		return ErrAuth
	}
	return nil
}

// Wipe clears the salt and what our own modes hold. The expanded key is out of
// reach inside the cipher: it is left to the garbage collector.
func (c *combined) Wipe() {
	clear(c.nonce)
	wipe(c.aead)
	*c = combined{}
}

// keyLengths are the key lengths of AES in bits, in order of preference.
var keyLengths = []int{256, 192, 128}

// icvWords are the words of an AES mode with an ICV of so many octets: strongSwan's
// for octets, and for bits.
func icvWords(bits int, mode string, icvLen int) []string {
	return []string{fmt.Sprintf("aes%d%s%d", bits, mode, icvLen), fmt.Sprintf("aes%d%s%d", bits, mode, 8*icvLen)}
}

// weakICV is why an algorithm with an ICV of 8 octets is weak.
const weakICV = "its ICV of 8 octets is short"

func weakness(icvLen int) string {
	if icvLen == 8 {
		return weakICV
	}
	return ""
}
