package suite

import (
	"errors"
	"hash"

	"caponier/internal/ipsec"
	"caponier/internal/sm"
)

// HMAC-SM3: RFC 2104 with the hash function SM3 (GB/T 32905-2016). The vector is
// that of draft-guo-ipsecme-ikev2-using-shangmi-03, Appendix A.5.
const (
	sm3Key    = "00112233445566778899aabbccddeeff"
	sm3Data   = "6162636462636465636465666465666765666768666768696768696a68696a6b696a6b6c6a6b6c6d6b6c6d6e6c6d6e6f6d6e6f706e6f7071"
	answerSM3 = "dc813339153491ad81477754eb3df00dbb3cc3e6a69f9cacce737db7e61342ff"
)

var sm3Integrity = []entry{
	sm3Entry(ipsec.IntegHMACSM3, 32, "sm3", "sm3_256"),
	sm3Entry(ipsec.IntegHMACSM3128, 16, "sm3_128"),
	sm3Entry(ipsec.IntegHMACSM396, 12, "sm3_96"),
}

// sm3Entry is HMAC-SM3 with an ICV of so many octets.
func sm3Entry(id uint16, icvLen int, words ...string) entry {
	return entry{
		transform: ipsec.Transform{Type: ipsec.TypeInteg, ID: id},
		words:     words,
		integ: &integrity{
			keyLen: sm.HashSize, icvLen: icvLen, mac: newHMACSM3,
			prf: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3},
		},
		check: macVector(sm3Key, sm3Data, answerSM3[:2*icvLen]),
	}
}

var sm3PRF = []entry{{
	transform: ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3},
	words:     []string{"prfsm3"},
	prf:       prfHMAC{hash: sm.New, size: sm.HashSize},
	// Beside the function itself, the hash alone: example 1 of GB/T 32905-2016,
	// Appendix A.
	check: func(e *entry) error {
		sum := sm.Sum([]byte("abc"))
		return errors.Join(
			matches(sum[:], "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0"),
			prfVector(sm3Key, sm3Data, answerSM3)(e))
	},
}}

// hmacSM3 is HMAC-SM3 twice: as a hash.Hash beside any cipher, and as the key
// that batches take.
type hmacSM3 struct {
	hash.Hash
	key *sm.HMACKey
}

func newHMACSM3(key []byte) (hash.Hash, error) {
	h, err := keyed(sm.New)(key)
	if err != nil {
		return nil, err
	}
	return &hmacSM3{Hash: h, key: sm.NewHMACKey(key)}, nil
}

func (m *hmacSM3) wipe() { m.key.Wipe() }
