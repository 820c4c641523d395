package suite

import (
	"crypto/ecdh"
	"fmt"
	"io"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// montgomeryGroups is Curve25519 (RFC 8031). The vector is that of RFC 7748,
// Section 6.1.
var montgomeryGroups = []entry{{
	transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEX25519},
	words:     []string{"x25519", "curve25519"},
	ke:        ecdhGroup{curve: ecdh.X25519(), secretBits: 256},
	check: exchangeAnswer(
		"77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
		"5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
		"8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
		"de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
		"4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"),
}}

// nistGroups are the random ECP groups (RFC 5903), with the vectors of its
// Sections 8.1 to 8.3.
var nistGroups = []entry{
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEECP256},
		words:     []string{"ecp256"},
		ke:        ecdhGroup{curve: ecdh.P256(), secretBits: 256, prefix: uncompressed},
		check: exchangeAnswer(
			"c88f01f510d9ac3f70a292daa2316de544e9aab8afe84049c62a9c57862d1433",
			"c6ef9c5d78ae012a011164acb397ce2088685d8f06bf9be0b283ab46476bee53",
			"dad0b65394221cf9b051e1feca5787d098dfe637fc90b9ef945d0c3772581180"+
				"5271a0461cdb8252d61f1c456fa3e59ab1f45b33accf5f58389e0577b8990bb3",
			"d12dfb5289c8d4f81208b70270398c342296970a0bccb74c736fc7554494bf63"+
				"56fbf3ca366cc23e8157854c13c58d6aac23f046ada30f8353e74f33039872ab",
			"d6840f6b42f6edafd13116e0e12565202fef8e9ece7dce03812464d04b9442de"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEECP384},
		words:     []string{"ecp384"},
		ke:        ecdhGroup{curve: ecdh.P384(), secretBits: 384, prefix: uncompressed},
		check: exchangeAnswer(
			"099f3c7034d4a2c699884d73a375a67f7624ef7c6b3c0f160647b67414dce655e35b538041e649ee3faef896783ab194",
			"41cb0779b4bdb85d47846725fbec3c9430fab46cc8dc5060855cc9bda0aa2942e0308312916b8ed2960e4bd55a7448fc",
			"667842d7d180ac2cde6f74f37551f55755c7645c20ef73e31634fe72b4c55ee6de3ac808acb4bdb4c88732aee95f41aa"+
				"9482ed1fc0eeb9cafc4984625ccfc23f65032149e0e144ada024181535a0f38eeb9fcff3c2c947dae69b4c634573a81c",
			"e558dbef53eecde3d3fccfc1aea08a89a987475d12fd950d83cfa41732bc509d0d1ac43a0336def96fda41d0774a3571"+
				"dcfbec7aacf3196472169e838430367f66eebe3c6e70c416dd5f0c68759dd1fff83fa40142209dff5eaad96db9e6386c",
			"11187331c279962d93d604243fd592cb9d0a926f422e47187521287e7156c5c4d603135569b9e9d09cf5d4a270f59746"),
	},
	{
		transform: ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEECP521},
		words:     []string{"ecp521"},
		ke:        ecdhGroup{curve: ecdh.P521(), secretBits: 521, prefix: uncompressed},
		check: exchangeAnswer(
			"0037ade9319a89f4dabdb3ef411aaccca5123c61acab57b5393dce47608172a095aa85a30fe1c2952c6771d937ba9777"+
				"f5957b2639bab072462f68c27a57382d4a52",
			"0145ba99a847af43793fdd0e872e7cdfa16be30fdc780f97bccc3f078380201e9c677d600b343757a3bdbf2a3163e4c2"+
				"f869cca7458aa4a4effc311f5cb151685eb9",
			"0015417e84dbf28c0ad3c278713349dc7df153c897a1891bd98bab4357c9ecbee1e3bf42e00b8e380aeae57c2d107564"+
				"941885942af5a7f4601723c4195d176ced3e"+
				"017cae20b6641d2eeb695786d8c946146239d099e18e1d5a514c739d7cb4a10ad8a788015ac405d7799dc75e7b7d5b6c"+
				"f2261a6a7f1507438bf01beb6ca3926f9582",
			"00d0b3975ac4b799f5bea16d5e13e9af971d5e9b984c9f39728b5e5739735a219b97c356436adc6e95bb0352f6be64a6"+
				"c2912d4ef2d0433ced2b6171640012d9460f"+
				"015c68226383956e3bd066e797b623c27ce0eac2f551a10c2c724d9852077b87220b6536c5c408a1d2aebb8e86d678ae"+
				"49cb57091f4732296579ab44fcd17f0fc56a",
			"01144c7d79ae6956bc8edb8e7c787c4521cb086fa64407f97894e5e6b2d79b04d1427e73ca4baa240a34786859810c06"+
				"b3c715a3a8cc3151f2bee417996d19f3ddea"),
	},
}

// uncompressed is the first octet of a point in crypto/ecdh's form. IKE sends x
// and y without it (RFC 5903, Section 7).
const uncompressed = "\x04"

// maxSecretTries bounds the search for a private key below the group order.
// Each try fails with a probability of at most 2^-32.
const maxSecretTries = 16

// ecdhGroup is a KeyExchange. The shared secret is the x-coordinate alone (RFC
// 5903, Section 7; RFC 8031, Section 2). crypto/ecdh checks that a peer's point
// is on the curve and not at infinity, and that X25519's result is not zero
// (RFC 6989, Section 2.3; RFC 7748, Section 6.1).
type ecdhGroup struct {
	curve      ecdh.Curve
	secretBits int
	prefix     string
}

func (g ecdhGroup) Initiate(rand io.Reader) (KEShare, error) {
	key, err := g.generate(rand)
	if err != nil {
		return nil, err
	}
	return ecdhShare{group: g, key: key}, nil
}

func (g ecdhGroup) Respond(rand io.Reader, peer []byte) ([]byte, secret.Key, error) {
	key, err := g.generate(rand)
	if err != nil {
		return nil, secret.Key{}, err
	}
	share := ecdhShare{group: g, key: key}
	shared, err := share.Finish(peer)
	if err != nil {
		return nil, secret.Key{}, err
	}
	return share.Public(), shared, nil
}

// generate takes the private key from rand itself: ecdh.Curve.GenerateKey would
// read the system's source instead.
func (g ecdhGroup) generate(rand io.Reader) (*ecdh.PrivateKey, error) {
	b := make([]byte, (g.secretBits+7)/8)
	defer clear(b)
	var lastErr error
	for range maxSecretTries {
		if _, err := io.ReadFull(rand, b); err != nil {
			return nil, fmt.Errorf("read random octets: %w", err)
		}
		b[0] &= 0xff >> (8*len(b) - g.secretBits)
		key, err := g.curve.NewPrivateKey(b)
		if err == nil {
			return key, nil
		}
		lastErr = err
	}
	return nil, fmt.Errorf("the random source gives no private key: %w", lastErr)
}

type ecdhShare struct {
	group ecdhGroup
	key   *ecdh.PrivateKey
}

func (s ecdhShare) Public() []byte {
	return s.key.PublicKey().Bytes()[len(s.group.prefix):]
}

func (s ecdhShare) Finish(peer []byte) (secret.Key, error) {
	public, err := s.group.curve.NewPublicKey(append([]byte(s.group.prefix), peer...))
	if err != nil {
		return secret.Key{}, fmt.Errorf("%w for %s: not a point", ErrPublicValue, s.group.curve)
	}
	shared, err := s.key.ECDH(public)
	if err != nil {
		return secret.Key{}, fmt.Errorf("%w for %s: of small order", ErrPublicValue, s.group.curve)
	}
	return secret.New(shared), nil
}
