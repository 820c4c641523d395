package suite

import (
	"crypto"
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"

	"github.com/emmansun/gmsm/sm2"

	"caponier/internal/secret"
	"caponier/internal/sm"
)

// SM2Encoding is how an SM2 ciphertext or signature is written. GM/T 0009 has DER;
// devices of older standards join the parts.
type SM2Encoding uint8

// The encodings. C1 is a point, C2 what is encrypted, C3 a digest.
const (
	SM2DER    SM2Encoding = iota // SEQUENCE { x, y, C3, C2 }, or SEQUENCE { r, s }
	SM2C1C3C2                    // 04 | C1 | C3 | C2 (GB/T 32918.4-2016)
	SM2C1C2C3                    // 04 | C1 | C2 | C3 (the order of 2010)
	SM2Raw                       // r | s, of 32 octets each
)

// String returns the configuration's word.
func (e SM2Encoding) String() string { return [...]string{"der", "c1c3c2", "c1c2c3", "raw"}[e] }

// SM2Digest is what of a message an SM2 signature covers.
type SM2Digest uint8

// The digests. Z is the hash of the signer's id and public key.
const (
	SM2WithID  SM2Digest = iota // SM3(Z | message): GB/T 32918.2-2016
	SM2PreHash                  // SM3(message), without Z
	SM2Twice                    // SM3(Z | SM3(message))
)

// String returns the configuration's word.
func (d SM2Digest) String() string { return [...]string{"none", "bare", "message"}[d] }

// SM2Style is how a signature is made.
type SM2Style struct {
	Encoding SM2Encoding // SM2DER or SM2Raw
	Digest   SM2Digest
}

// ErrSM2 is returned where an SM2 operation does not succeed. It never says
// more, for a stranger may hear of it.
var ErrSM2 = errors.New("SM2 operation failed")

const (
	sm2DefaultID = "1234567812345678" // GM/T 0009
	sm2Octets    = 32
	// sm2MaxCiphertext bounds what is decrypted for a peer: a key in an envelope.
	sm2MaxCiphertext = 1024
)

func sm2Public(public crypto.PublicKey) (*ecdsa.PublicKey, error) {
	k, ok := public.(*ecdsa.PublicKey)
	if !ok || !sm2.IsSM2PublicKey(k) {
		return nil, fmt.Errorf("%w: the key is not one for SM2", ErrSM2)
	}
	return k, nil
}

// digest returns what is signed: e in GB/T 32918.2. An empty id is the default.
func (d SM2Digest) digest(public *ecdsa.PublicKey, id string, octets []byte) ([]byte, error) {
	if d != SM2WithID {
		sum := sm.Sum(octets)
		if d == SM2PreHash {
			return sum[:], nil
		}
		octets = sum[:]
	}
	if id == "" {
		id = sm2DefaultID
	}
	return sm2.CalculateSM2Hash(public, octets, []byte(id))
}

// SM2Sign signs octets with a key of the keystore, whose Sign takes a digest of
// 32 octets and returns DER. An empty id is the default.
func SM2Sign(rand io.Reader, key crypto.Signer, id string, style SM2Style, octets []byte) ([]byte, error) {
	public, err := sm2Public(key.Public())
	if err != nil {
		return nil, err
	}
	e, err := style.Digest.digest(public, id, octets)
	if err != nil {
		return nil, fmt.Errorf("SM2 digest: %w", err)
	}
	der, err := key.Sign(rand, e, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("sign with SM2: %w", err)
	}
	if style.Encoding != SM2Raw {
		return der, nil
	}
	var sig struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &sig); err != nil || len(rest) > 0 || sig.R.BitLen() > 256 || sig.S.BitLen() > 256 {
		return nil, ErrSM2
	}
	return append(sig.R.FillBytes(make([]byte, sm2Octets)), sig.S.FillBytes(make([]byte, sm2Octets))...), nil
}

// SM2Verify checks a signature over octets and tells how it is made: the encodings
// are told apart, and the digests tried. It returns ErrSM2 where none fits,
// always after the same work.
func SM2Verify(public crypto.PublicKey, id string, octets, signature []byte) (SM2Style, error) {
	k, err := sm2Public(public)
	if err != nil {
		return SM2Style{}, err
	}
	style := SM2Style{Encoding: SM2DER}
	if len(signature) == 2*sm2Octets {
		style.Encoding = SM2Raw
		der, err := asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(signature[:sm2Octets]), new(big.Int).SetBytes(signature[sm2Octets:]),
		})
		if err != nil {
			return SM2Style{}, ErrSM2
		}
		signature = der
	}
	found := false
	for _, d := range []SM2Digest{SM2WithID, SM2PreHash, SM2Twice} {
		e, err := d.digest(k, id, octets)
		if err != nil {
			return SM2Style{}, ErrSM2
		}
		if sm2.VerifyASN1(k, e, signature) && !found {
			style.Digest, found = d, true
		}
	}
	if !found {
		return SM2Style{}, ErrSM2
	}
	return style, nil
}

// SM2Encrypt encrypts a key to the holder of a public key.
func SM2Encrypt(rand io.Reader, public crypto.PublicKey, plaintext secret.Key, encoding SM2Encoding) ([]byte, error) {
	k, err := sm2Public(public)
	if err != nil {
		return nil, err
	}
	opts := sm2.ASN1EncrypterOpts
	switch encoding {
	case SM2DER:
	case SM2C1C3C2:
		opts = sm2.NewPlainEncrypterOpts(sm2.MarshalUncompressed, sm2.C1C3C2)
	case SM2C1C2C3:
		opts = sm2.NewPlainEncrypterOpts(sm2.MarshalUncompressed, sm2.C1C2C3)
	default:
		return nil, fmt.Errorf("%w: no ciphertext is written as %s", ErrSM2, encoding)
	}
	out, err := sm2.Encrypt(rand, k, plaintext.Bytes(), opts)
	if err != nil {
		return nil, fmt.Errorf("encrypt with SM2: %w", err)
	}
	return out, nil
}

// SM2Decrypt decrypts what SM2Encrypt, or another implementation, has encrypted,
// with a key of the keystore, whose Decrypt takes DER. It tells the encoding: DER
// begins with another octet than a point, and of the two orders of the parts only
// one has the right digest. Errors are ErrSM2.
func SM2Decrypt(rand io.Reader, key crypto.Decrypter, ciphertext []byte) (secret.Key, SM2Encoding, error) {
	const pointLen = 1 + 2*sm2Octets
	switch {
	case len(ciphertext) <= pointLen+sm.HashSize || len(ciphertext) > sm2MaxCiphertext:
	case ciphertext[0] == 0x30:
		if plain, err := key.Decrypt(rand, ciphertext, nil); err == nil {
			return secret.New(plain), SM2DER, nil
		}
	case ciphertext[0] == 0x04:
		var found secret.Key
		var encoding SM2Encoding
		for _, e := range []SM2Encoding{SM2C1C3C2, SM2C1C2C3} { // both, always
			from := sm2.C1C3C2
			if e == SM2C1C2C3 {
				from = sm2.C1C2C3
			}
			der, err := sm2.PlainCiphertext2ASN1(ciphertext, from)
			if err != nil {
				continue
			}
			if plain, err := key.Decrypt(rand, der, nil); err == nil {
				found, encoding = secret.New(plain), e
			}
		}
		if !found.IsZero() {
			return found, encoding, nil
		}
	}
	return secret.Key{}, SM2DER, ErrSM2
}
