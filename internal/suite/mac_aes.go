package suite

import (
	"crypto/aes"
	"hash"

	"caponier/internal/ipsec"
	"caponier/internal/suite/cbcmac"
)

// aesIntegrity are the integrity algorithms that AES makes. The vectors are
// test case 4 of RFC 3566, Section 4, and example 3 of RFC 4493, Section 4,
// truncated as RFC 4494, Section 3, says.
var aesIntegrity = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegAESXCBC96},
		words:     []string{"aesxcbc"},
		integ: &integrity{
			keyLen: aes.BlockSize, icvLen: 12, mac: cbcmac.NewXCBC,
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFAESXCBC},
		},
		check: macVector(xcbcKey, xcbcData, "47f51b4564966215b8985c63"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegAESCMAC96},
		words:     []string{"aescmac"},
		integ: &integrity{
			keyLen: aes.BlockSize, icvLen: 12, mac: cbcmac.NewCMAC,
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
		prf:       prfAES{mac: cbcmac.NewXCBC, padsShort: true},
		check:     prfVector(xcbcKey+"edcb", xcbcData, "8cd3c93ae598a9803006ffb67c40e9e4"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFAESCMAC},
		words:     []string{"prfaescmac"},
		prf:       prfAES{mac: cbcmac.NewCMAC},
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
