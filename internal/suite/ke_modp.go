package suite

import (
	"fmt"
	"io"
	"math/big"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite/modp"
)

// modpGroups are the MODP groups (RFC 3526; RFC 2409 for the two smallest). They come
// with no vectors: the ones here were computed with Python's pow, and are given
// by SHA-256 of the initiator's and the responder's public values and the shared
// secret.
//
// The exponents are longer than the smaller of the two estimates of RFC 3526,
// Section 8.
var modpGroups = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP2048},
		words:     []string{"modp2048"},
		ke:        newMODPGroup(32, modp.Prime2048),
		check: modpAnswer(
			"1641e1f511a6f01b7c7a78b5cc5f8244feb72c6604d43bb73f2cfc0f64d906aa",
			"7bc14246b13aaf9afa0b4f27a00184fb3fc65b6a847caebd4cd8245202e391bb",
			"8228ccdd3498f625d251e6b567cdbac2be54a98f480e4de101ac57fe242a56a4"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP3072},
		words:     []string{"modp3072"},
		ke:        newMODPGroup(40, modp.Prime3072),
		check: modpAnswer(
			"9d815cd56bbe38ccda170f10cf2169ab37532a660a37562daddcd535d417b242",
			"8d70d827b1eba1bb8c27fdc81acba12e7052e82fd918a0c8c92b2003100117ce",
			"e0e8a271b3fe84392c3902125f26cea29d95f127b1a9717b76bf5b4ccd133155"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP4096},
		words:     []string{"modp4096"},
		ke:        newMODPGroup(48, modp.Prime4096),
		check: modpAnswer(
			"7ff8d2a9692909a5509be6024adfb41a4773713ad01d19a6c53aff9bad821399",
			"5b7c1357650979ff545a35382159cbe362e7f9acf16c412373fe8fe703be2221",
			"23b936b4187ac691500b0c44e931388d82b0bbeaf520e20778d15814022a95ed"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP6144},
		words:     []string{"modp6144"},
		ke:        newMODPGroup(56, modp.Prime6144),
		check: modpAnswer(
			"9721b75ad6357ca075bdf6befac4e06c88c042852ee6dbc17c233ae6b3036180",
			"aca2a610dbf09b7c0f56ed0118f5573d8e985c68bd12be3033a5e463afd11a54",
			"fce36acac06d7baead2e3d91ec282c0331490e5cc8f6752b199f970b8c256f86"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP8192},
		words:     []string{"modp8192"},
		ke:        newMODPGroup(64, modp.Prime8192),
		check: modpAnswer(
			"5c5db5c4d40459eb32d71d1490e9436e05a9c00bba43d968ebba7aa55c755392",
			"36961a45611b39d66d068cf3f50dcc3c63ea3f829946bcafc2af881d1659e8e8",
			"af251e1ae0a0c1afaae0416c857fc182c6e5cc42e241a7353491bace64fe75c3"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP1536},
		words:     []string{"modp1536"},
		weak:      "its strength is less than 112 bits",
		ke:        newMODPGroup(32, modp.Prime1536),
		check: modpAnswer(
			"b412e45769e18b335510aa26afc731008c7d5b0307ddf79bdd03b009ed9ad038",
			"a2de8731b6f044a6d98c7851d2fc5ab31f40669f8b096eaaa61a20c2e1843f39",
			"dd93f3816e40d049622c7d13f5a13af4cf03ab78c2eff763ee1a173efe556792"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP1024},
		words:     []string{"modp1024"},
		weak:      "it is within reach of a state's computers",
		ke:        newMODPGroup(32, modp.Prime1024),
		check: modpAnswer(
			"3e41187e3c048358184ca9bd0339d03ac8cc02ff1a20df0a661866c14ebf73df",
			"3ef49d60dcc4142a7f15512cfa6700986d685f05057907bd778a6601679e61f4",
			"ecb70104a96a0c4e2b4f0f06dc3bee06456f076eb3e746f6d467e047fb041921"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEMODP768},
		words:     []string{"modp768"},
		weak:      "it was broken in public in 2016",
		ke:        newMODPGroup(32, modp.Prime768),
		check: modpAnswer(
			"0571eafbe2c3fd0a5b729f3654a9ec898b9dc23e6b3ce0f7eed8a05da0455eb9",
			"54667191f70aca9e0f911472c9560a0d4222b8e06b3875e7fb3392f23673e6b7",
			"ac7054e1b16666f80c3edba5f56bd52c5a71812f972d6c09d07a1a483b0630a9"),
	},
}

// modpAnswer is digestAnswer with the private keys of RFC 5903, Section 8.1,
// written twice and cut to the length of the group's exponents.
func modpAnswer(publicI, publicR, shared string) func(*entry) error {
	const (
		secretI = "c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433"
		secretR = "c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53"
	)
	return digestAnswer(secretI+secretI, secretR+secretR, publicI, publicR, shared)
}

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
