package sm

import (
	"crypto/subtle"
	"errors"
)

// ErrKeySize is returned for a key of the wrong length.
var ErrKeySize = errors.New("sm: SM4 keys have 16 octets")

// CBCEncrypter is an SM4 key for encrypting in CBC mode. It may be used by
// several goroutines at once.
type CBCEncrypter struct {
	engine   *engine
	key      wordKey
	portable *softKey // where lanes do not work on folded keys
}

// NewCBCEncrypter expands a key of KeySize octets.
func NewCBCEncrypter(key []byte) (*CBCEncrypter, error) { return newCBCEncrypter(best(), key) }

func newCBCEncrypter(e *engine, key []byte) (*CBCEncrypter, error) {
	if len(key) != KeySize {
		return nil, ErrKeySize
	}
	c := &CBCEncrypter{engine: e}
	if e.cbc[0] == 0 {
		c.portable = newSoftKey(e, key, false)
		return c, nil
	}
	rk := schedule(key)
	if e.keys == keysRounds {
		c.key.rounds = rk
	} else {
		c.key.fold(&rk)
		if e.keys == keysKappa {
			c.key.rounds = c.key.kappa
		}
	}
	clear(rk[:])
	return c, nil
}

// Wipe overwrites the key, which must not be used after it.
func (c *CBCEncrypter) Wipe() {
	c.key = wordKey{}
	if c.portable != nil {
		c.portable.wipe()
	}
}

// Encrypt encrypts one packet, whose blocks wait for each other: a batch in
// Lanes is many times faster. It panics where crypto/cipher's CBC encrypter
// does.
func (c *CBCEncrypter) Encrypt(dst, iv, src []byte) {
	e := c.engine
	l := e.spare.Swap(nil)
	if l == nil {
		l = newLanes(e)
	}
	l.one[0] = CBCJob{Key: c, IV: iv, Dst: dst, Src: src}
	l.EncryptCBC(l.one[:])
	l.one[0] = CBCJob{}
	l.Wipe()
	e.spare.Store(l)
}

// encryptCBC is the slow way: a block at a time.
func (k *portableKey) encryptCBC(dst, iv, src []byte) {
	for len(src) > 0 {
		subtle.XORBytes(dst, src[:BlockSize], iv)
		k.crypt(dst[:BlockSize], dst[:BlockSize])
		iv, dst, src = dst[:BlockSize], dst[BlockSize:], src[BlockSize:]
	}
}
