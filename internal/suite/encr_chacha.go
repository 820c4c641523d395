package suite

import (
	"golang.org/x/crypto/chacha20poly1305"

	"caponier/internal/ipsec"
)

// chachaSaltLen is the length of the salt (RFC 7634, Section 2).
const chachaSaltLen = 4

// chacha is ChaCha20-Poly1305 for ESP and IKEv2 (RFC 7634), with the vector of
// its Appendix A.
var chacha = []entry{{
	transform: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrChaCha20Poly1305},
	words:     []string{"chacha20poly1305"},
	encr:      &encryption{keyLen: chacha20poly1305.KeySize + chachaSaltLen, combined: newChaCha},
	check: sealAnswer("808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3", "1011121314151617",
		"45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f10111213"+
			"1415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363701020204",
		"0102030400000005",
		"24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7"+
			"2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0"+
			"76aaa8266b7fb0f7b11b369907e1ad43"),
}}

func newChaCha(key []byte) (Protector, error) {
	aead, err := chacha20poly1305.New(key[:chacha20poly1305.KeySize])
	if err != nil {
		return nil, err
	}
	return newCombined(aead, key[chacha20poly1305.KeySize:]), nil
}
