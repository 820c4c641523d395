package suite

import (
	"fmt"
	"io"

	"github.com/cloudflare/circl/dh/x448"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// x448Group is Curve448 (RFC 8031). The vector is that of RFC 7748, Section 6.2.
var x448Group = []entry{{
	transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEX448},
	words:     []string{"x448", "curve448"},
	ke:        curve448{},
	check: exchangeAnswer(
		"9a8f4925d1519f5775cf46b04b5800d4ee9ee8bae8bc5565d498c28dd9c9baf574a9419744897391006382a6f127ab1d"+
			"9ac2d8c0a598726b",
		"1c306a7ac2a0e2e0990b294470cba339e6453772b075811d8fad0d1d6927c120bb5ee8972b0d3e21374c9c921b09d1b0"+
			"366f10b65173992d",
		"9b08f7cc31b7e3e67d22d5aea121074a273bd2b83de09c63faa73d2c22c5d9bbc836647241d953d40c5b12da88120d53"+
			"177f80e532c41fa0",
		"3eb7a829b0cd20f5bcfc0b599b6feccf6da4627107bdb0d4f345b43027d8b972fc3e34fb4232a13ca706dcb57aec3dae"+
			"07bdc1c67bf33609",
		"07fff4181ac6cc95ec1c16a94a0f74d12da232ce40a77552281d282bb60c0b56fd2464c335543936521c24403085d59a"+
			"449a5037514a879d"),
}}

// curve448 is a KeyExchange. The library works in constant time and refuses
// points of small order, whose shared secret would be zero (RFC 7748, Section
// 6.2).
type curve448 struct{}

func (curve448) Initiate(rand io.Reader) (KEShare, error) {
	share := &x448Share{}
	if _, err := io.ReadFull(rand, share.private[:]); err != nil {
		return nil, fmt.Errorf("read random octets: %w", err)
	}
	x448.KeyGen(&share.public, &share.private)
	return share, nil
}

func (c curve448) Respond(rand io.Reader, peer []byte) ([]byte, secret.Key, error) {
	share, err := c.Initiate(rand)
	if err != nil {
		return nil, secret.Key{}, err
	}
	shared, err := share.Finish(peer)
	if err != nil {
		return nil, secret.Key{}, err
	}
	return share.Public(), shared, nil
}

type x448Share struct{ private, public x448.Key }

func (s *x448Share) Public() []byte { return s.public[:] }

func (s *x448Share) Finish(peer []byte) (secret.Key, error) {
	if len(peer) != x448.Size {
		return secret.Key{}, fmt.Errorf("%w for X448: not a point", ErrPublicValue)
	}
	public, shared := x448.Key(peer), x448.Key{}
	defer clear(shared[:])
	if !x448.Shared(&shared, &s.private, &public) {
		return secret.Key{}, fmt.Errorf("%w for X448: of small order", ErrPublicValue)
	}
	return secret.Copy(shared[:]), nil
}
