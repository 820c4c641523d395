package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"hash"

	"caponier/internal/ipsec"
)

// aesIntegrity are the integrity algorithms that AES makes. The vectors are
// test case 4 of RFC 3566, Section 4, and example 3 of RFC 4493, Section 4,
// truncated as RFC 4494, Section 3, says.
var aesIntegrity = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegAESXCBC96},
		words:     []string{"aesxcbc"},
		integ: &integrity{
			keyLen: aes.BlockSize, icvLen: 12, mac: newXCBC,
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFAESXCBC},
		},
		check: macVector(xcbcKey, xcbcData, "47f51b4564966215b8985c63"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegAESCMAC96},
		words:     []string{"aescmac"},
		integ: &integrity{
			keyLen: aes.BlockSize, icvLen: 12, mac: newCMAC,
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFAESCMAC},
		},
		check: macVector("2b7e151628aed2a6abf7158809cf4f3c",
			"6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411",
			"dfa66747de9ae63030ca3261"),
	},
}

// aesPRF are the pseudorandom functions that AES makes. The vectors are the
// test cases with the longest keys of RFC 4434, Section 3, and RFC 4615,
// Section 4.
var aesPRF = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFAESXCBC},
		words:     []string{"prfaesxcbc"},
		prf:       prfAES{mac: newXCBC, padsShort: true},
		check:     prfVector(xcbcKey+"edcb", xcbcData, "8cd3c93ae598a9803006ffb67c40e9e4"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFAESCMAC},
		words:     []string{"prfaescmac"},
		prf:       prfAES{mac: newCMAC},
		check:     prfVector(xcbcKey+"edcb", xcbcData, "84a348a4a45d235babfffc0d2b4da09a"),
	},
}

const (
	xcbcKey  = "000102030405060708090a0b0c0d0e0f"
	xcbcData = xcbcKey + "10111213"
)

// prfAES is a PRF of a MAC with a 16-octet key, made to fit other keys: a long
// one is put through the MAC under a key of zeros; a short one too, or is padded
// with zeros (RFC 4434, Section 2; RFC 4615, Section 3).
type prfAES struct {
	mac       func(key []byte) (hash.Hash, error)
	padsShort bool
}

func (prfAES) KeyLen() int { return aes.BlockSize }
func (prfAES) Size() int   { return aes.BlockSize }

// SeedNonceLen is 8: RFC 7296, Section 2.14, treats these two functions
// specially.
func (prfAES) SeedNonceLen() int { return 8 }

func (p prfAES) Sum(key []byte, data ...[]byte) []byte {
	var fitted [aes.BlockSize]byte
	defer clear(fitted[:])
	if len(key) == aes.BlockSize || len(key) < aes.BlockSize && p.padsShort {
		copy(fitted[:], key)
	} else {
		copy(fitted[:], p.sum(make([]byte, aes.BlockSize), key))
	}
	return p.sum(fitted[:], data...)
}

func (p prfAES) sum(key []byte, data ...[]byte) []byte {
	m, err := p.mac(key)
	if err != nil {
		panic("suite: AES does not take 16 octets of key: " + err.Error())
	}
	defer wipe(m)
	for _, d := range data {
		m.Write(d)
	}
	return m.Sum(nil)
}

// aesMAC is AES-XCBC-MAC or AES-CMAC: a CBC-MAC whose last block is changed by
// a derived key, one where it is whole and another where it had to be padded.
type aesMAC struct {
	cbcMAC
	whole, padded [aes.BlockSize]byte
	tag           [aes.BlockSize]byte
}

// newXCBC returns AES-XCBC-MAC of a 16-octet key (RFC 3566, Section 4).
func newXCBC(key []byte) (hash.Hash, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	var keys [3][aes.BlockSize]byte
	defer func() { clear(keys[:]) }()
	for i := range keys {
		for j := range keys[i] {
			keys[i][j] = byte(i + 1)
		}
		block.Encrypt(keys[i][:], keys[i][:])
	}
	if block, err = aes.NewCipher(keys[0][:]); err != nil {
		return nil, err
	}
	mac, err := newCBCMAC(block)
	if err != nil {
		return nil, err
	}
	return &aesMAC{cbcMAC: *mac, whole: keys[1], padded: keys[2]}, nil
}

// newCMAC returns AES-CMAC of a 16-octet key (RFC 4493, Section 2.3).
func newCMAC(key []byte) (hash.Hash, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	mac, err := newCBCMAC(block)
	if err != nil {
		return nil, err
	}
	m := &aesMAC{cbcMAC: *mac}
	block.Encrypt(m.whole[:], m.whole[:])
	m.whole = double(m.whole)
	m.padded = double(m.whole)
	return m, nil
}

// double multiplies by x in GF(2^128) (RFC 4493, Section 2.3), in constant time.
func double(b [aes.BlockSize]byte) [aes.BlockSize]byte {
	const reduction = 0x87
	carry := byte(0)
	for i := len(b) - 1; i >= 0; i-- {
		b[i], carry = b[i]<<1|carry, b[i]>>7
	}
	b[len(b)-1] ^= reduction & -carry
	return b
}

func (*aesMAC) Size() int      { return aes.BlockSize }
func (*aesMAC) BlockSize() int { return aes.BlockSize }

func (m *aesMAC) Sum(b []byte) []byte {
	m.tag = m.held
	key := &m.whole
	if m.n < aes.BlockSize {
		m.tag[m.n] = 0x80
		clear(m.tag[m.n+1:])
		key = &m.padded
	}
	subtle.XORBytes(m.tag[:], m.tag[:], key[:])
	subtle.XORBytes(m.tag[:], m.tag[:], m.state[:])
	m.block.Encrypt(m.tag[:], m.tag[:])
	return append(b, m.tag[:]...)
}

func (m *aesMAC) wipe() { *m = aesMAC{} }

// cbcMAC is the chain of a CBC-MAC. It holds the last block back, because that
// is for its owner to finish.
type cbcMAC struct {
	block cipher.Block
	mode  chain
	state [aes.BlockSize]byte
	held  [aes.BlockSize]byte
	n     int       // octets of held
	out   [512]byte // where mode writes what nobody needs
}

func newCBCMAC(block cipher.Block) (*cbcMAC, error) {
	m := &cbcMAC{block: block}
	mode, ok := cipher.NewCBCEncrypter(block, m.state[:]).(chain)
	if !ok {
		return nil, errNoSetIV
	}
	m.mode = mode
	return m, nil
}

// Reset goes back to the beginning.
func (m *cbcMAC) Reset() {
	clear(m.state[:])
	m.mode.SetIV(m.state[:])
	m.n = 0
}

// Write takes more data. It never returns an error.
func (m *cbcMAC) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		switch {
		case m.n == aes.BlockSize:
			m.absorb(m.held[:])
			m.n = 0
		case m.n == 0 && len(p) > aes.BlockSize:
			n := min((len(p)-1)&^(aes.BlockSize-1), len(m.out))
			m.absorb(p[:n])
			p = p[n:]
		default:
			n := copy(m.held[m.n:], p)
			m.n += n
			p = p[n:]
		}
	}
	return written, nil
}

// absorb takes whole blocks, no more than out has.
func (m *cbcMAC) absorb(p []byte) {
	m.mode.CryptBlocks(m.out[:len(p)], p)
	copy(m.state[:], m.out[len(p)-aes.BlockSize:])
}

// pad fills the last block with zeros.
func (m *cbcMAC) pad() {
	clear(m.held[m.n:])
	m.n = aes.BlockSize
}

// finish writes the plain CBC-MAC of what was written, and padded, to tag.
func (m *cbcMAC) finish(tag *[aes.BlockSize]byte) {
	m.absorb(m.held[:])
	m.n = 0
	*tag = m.state
}

func (m *cbcMAC) wipe() { *m = cbcMAC{} }
