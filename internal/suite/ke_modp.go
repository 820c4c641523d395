package suite

import (
	"fmt"
	"io"
	"math/big"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// modpGroups are the MODP groups (RFC 3526). They come with no vectors: the
// ones here were computed with Python's pow, and are given by SHA-256 of the
// initiator's and the responder's public values and the shared secret.
var modpGroups = []entry{{
	transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP2048},
	words:     []string{"modp2048"},
	ke: newMODPGroup(32, "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74"+
		"020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437"+
		"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED"+
		"EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05"+
		"98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB"+
		"9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B"+
		"E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"+
		"3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF"),
	check: digestAnswer(
		"c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
		"c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
		"1641e1f511a6f01b7c7a78b5cc5f8244feb72c6604d43bb73f2cfc0f64d906aa", "7bc14246b13aaf9afa0b4f27a00184fb3fc65b6a847caebd4cd8245202e391bb", "8228ccdd3498f625d251e6b567cdbac2be54a98f480e4de101ac57fe242a56a4"),
}}

// modpGroup is a KeyExchange over a group whose prime p = 2q+1 is safe and
// whose generator 2 spans the subgroup of order q (RFC 3526).
//
// Every secret serves one exchange, so that what the time of math/big tells
// about one exponent is of no use for another.
type modpGroup struct {
	p, max    *big.Int // max is p-2, the largest value accepted
	length    int      // of public values and of the shared secret, in octets
	secretLen int      // of exponents, in octets; twice the strength (RFC 3526, Section 8)
}

var generator = big.NewInt(2)

func newMODPGroup(secretLen int, prime string) modpGroup {
	p, ok := new(big.Int).SetString(prime, 16)
	if !ok {
		panic("suite: the prime of a MODP group is not hexadecimal")
	}
	return modpGroup{p: p, max: new(big.Int).Sub(p, big.NewInt(2)), length: len(prime) / 2, secretLen: secretLen}
}

func (g modpGroup) Initiate(rand io.Reader) (KEShare, error) {
	b := make([]byte, g.secretLen)
	defer clear(b)
	if _, err := io.ReadFull(rand, b); err != nil {
		return nil, fmt.Errorf("read random octets: %w", err)
	}
	// All exponents are of one length, so that their time is about the same.
	b[0] |= 0x80
	return modpShare{group: g, x: new(big.Int).SetBytes(b)}, nil
}

func (g modpGroup) Respond(rand io.Reader, peer []byte) ([]byte, secret.Key, error) {
	share, err := g.Initiate(rand)
	if err != nil {
		return nil, secret.Key{}, err
	}
	shared, err := share.Finish(peer)
	if err != nil {
		return nil, secret.Key{}, err
	}
	return share.Public(), shared, nil
}

type modpShare struct {
	group modpGroup
	x     *big.Int
}

// Public is of the length of the prime (RFC 7296, Section 3.4).
func (s modpShare) Public() []byte { return s.power(generator) }

// Finish checks the length of the value and 1 < y < p-1 (RFC 6989, Section
// 2.1). Of a safe prime's group that leaves the subgroup of order q and its
// coset, where a secret that serves once has no more than one bit to lose.
func (s modpShare) Finish(peer []byte) (secret.Key, error) {
	if len(peer) != s.group.length {
		return secret.Key{}, fmt.Errorf("%w: %d octets, the group has %d", ErrPublicValue, len(peer), s.group.length)
	}
	y := new(big.Int).SetBytes(peer)
	if y.Cmp(generator) < 0 || y.Cmp(s.group.max) > 0 {
		return secret.Key{}, fmt.Errorf("%w: not between 1 and p-1", ErrPublicValue)
	}
	return secret.New(s.power(y)), nil
}

func (s modpShare) power(base *big.Int) []byte {
	return new(big.Int).Exp(base, s.x, s.group.p).FillBytes(make([]byte, s.group.length))
}
