package suite

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"math/big"
)

// VerifyAuth checks the authentication data of a peer's AUTH payload over
// octets with the peer's public key. It accepts RSASSA-PSS too, and refuses
// SHA-1 where the peer could choose (RFC 7427). The error is ErrSignature,
// ErrSignatureFormat or ErrSignatureAlgorithm.
//
// Whether a peer that knows RFC 7427 may still use an older method is the
// caller's to decide.
func VerifyAuth(pub crypto.PublicKey, method uint8, authData, octets []byte) error {
	switch method {
	case AuthRSA:
		key, ok := pub.(*rsa.PublicKey)
		if !ok {
			return wrongKey("rsa-sha1", pub)
		}
		return verifyPKCS1(key, crypto.SHA1, authData, octets)
	case AuthECDSA256, AuthECDSA384, AuthECDSA521:
		return verifyClassicECDSA(pub, method, authData, octets)
	case AuthSignature:
		return verifyRFC7427(pub, authData, octets)
	default:
		return fmt.Errorf("%w: method %d does not sign", ErrSignatureAlgorithm, method)
	}
}

func wrongKey(name string, pub crypto.PublicKey) error {
	return fmt.Errorf("%w: %s by a %T", ErrSignatureAlgorithm, name, pub)
}

func verifyPKCS1(key *rsa.PublicKey, h crypto.Hash, signature, octets []byte) error {
	d, err := digest(h, octets)
	if err != nil {
		return err
	}
	if rsa.VerifyPKCS1v15(key, h, d, signature) != nil {
		return ErrSignature
	}
	return nil
}

func verifyClassicECDSA(pub crypto.PublicKey, method uint8, signature, octets []byte) error {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return wrongKey("ecdsa", pub)
	}
	for _, c := range classicECDSA {
		if c.method != method {
			continue
		}
		if key.Curve != c.curve {
			return fmt.Errorf("%w: %s by a key on %s", ErrSignatureAlgorithm, c.name, key.Params().Name)
		}
		n := fieldLen(c.curve)
		if len(signature) != 2*n {
			return fmt.Errorf("%w: %s takes %d octets, not %d", ErrSignatureFormat, c.name, 2*n, len(signature))
		}
		der, err := asn1.Marshal(struct{ R, S *big.Int }{
			new(big.Int).SetBytes(signature[:n]), new(big.Int).SetBytes(signature[n:]),
		})
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSignatureFormat, err)
		}
		return verifyECDSA(key, c.hash, der, octets)
	}
	return fmt.Errorf("%w: method %d", ErrSignatureAlgorithm, method)
}

func verifyECDSA(key *ecdsa.PublicKey, h crypto.Hash, der, octets []byte) error {
	d, err := digest(h, octets)
	if err != nil {
		return err
	}
	if !ecdsa.VerifyASN1(key, d, der) {
		return ErrSignature
	}
	return nil
}

// verifyRFC7427 reads the authentication data of method 14: the length of the
// AlgorithmIdentifier in one octet, the AlgorithmIdentifier, the signature (RFC
// 7427, Section 3).
func verifyRFC7427(pub crypto.PublicKey, authData, octets []byte) error {
	if len(authData) == 0 || len(authData) <= 1+int(authData[0]) {
		return fmt.Errorf("%w: shorter than its AlgorithmIdentifier says", ErrSignatureFormat)
	}
	n := 1 + int(authData[0])
	signature := authData[n:]
	var id algorithmIdentifier
	if rest, err := asn1.Unmarshal(authData[1:n], &id); err != nil || len(rest) != 0 {
		return fmt.Errorf("%w: not an AlgorithmIdentifier", ErrSignatureFormat)
	}
	if id.Algorithm.Equal(pssOID) {
		return verifyPSS(pub, id.Parameters.FullBytes, signature, octets)
	}
	for i := range signatureAlgorithms {
		a := &signatureAlgorithms[i]
		if !id.Algorithm.Equal(a.oid) {
			continue
		}
		if !absentOrNull(id.Parameters) {
			return fmt.Errorf("%w: %s takes no parameters", ErrSignatureFormat, a.name)
		}
		return a.verify(pub, signature, octets)
	}
	return fmt.Errorf("%w: object identifier %v", ErrSignatureAlgorithm, id.Algorithm)
}

// absentOrNull accepts both ways of having no parameters: which one is right
// depends on the algorithm, and senders have disagreed.
func absentOrNull(v asn1.RawValue) bool {
	return len(v.FullBytes) == 0 || string(v.FullBytes) == string(asn1.NullBytes)
}

func (a *signatureAlgorithm) verify(pub crypto.PublicKey, signature, octets []byte) error {
	if kindOf(pub) != a.key {
		return wrongKey(a.name, pub)
	}
	switch key := pub.(type) {
	case *rsa.PublicKey:
		return verifyPKCS1(key, a.hash, signature, octets)
	case *ecdsa.PublicKey:
		if a.key == keySM2 {
			return verifySM2(key, signature, octets)
		}
		return verifyECDSA(key, a.hash, signature, octets)
	case ed25519.PublicKey:
		if len(key) != ed25519.PublicKeySize {
			return wrongKey(a.name, pub)
		}
		if !ed25519.Verify(key, octets, signature) {
			return ErrSignature
		}
		return nil
	default:
		return wrongKey(a.name, pub)
	}
}

// verifySM2 accepts what GM/T 0009 says and nothing else: the variants of old
// devices are for GM/T 0022.
func verifySM2(key *ecdsa.PublicKey, signature, octets []byte) error {
	if style, err := SM2Verify(key, "", octets, signature); err != nil || style != (SM2Style{Encoding: SM2DER, Digest: SM2WithID}) {
		return ErrSignature
	}
	return nil
}

var (
	pssOID  = sub(pkcs1OID, 10)
	mgf1OID = sub(pkcs1OID, 8)
	sha2OID = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2}
	// pssHashes are the hashes of RSASSA-PSS parameters, in order of preference.
	pssHashes = []struct {
		name string
		id   uint16
		oid  asn1.ObjectIdentifier
		hash crypto.Hash
	}{
		{"sha256", HashSHA256, sub(sha2OID, 1), crypto.SHA256},
		{"sha384", HashSHA384, sub(sha2OID, 2), crypto.SHA384},
		{"sha512", HashSHA512, sub(sha2OID, 3), crypto.SHA512},
	}
)

// pssParameters are RSASSA-PSS-params (RFC 4055, Section 3.1). What is absent
// means SHA-1 and is refused.
type pssParameters struct {
	Hash         algorithmIdentifier `asn1:"explicit,tag:0,optional"`
	MGF          algorithmIdentifier `asn1:"explicit,tag:1,optional"`
	SaltLength   int                 `asn1:"explicit,tag:2,optional,default:20"`
	TrailerField int                 `asn1:"explicit,tag:3,optional,default:1"`
}

// pssIdentifier is the AlgorithmIdentifier of RSASSA-PSS with one hash throughout,
// and a salt as long as its digest (RFC 7427, Section A.4).
func pssIdentifier(h crypto.Hash, oid asn1.ObjectIdentifier) ([]byte, error) {
	hash := algorithmIdentifier{Algorithm: oid, Parameters: asn1.NullRawValue}
	der, err := asn1.Marshal(hash)
	if err != nil {
		return nil, err
	}
	parameters, err := asn1.Marshal(pssParameters{
		Hash: hash, MGF: algorithmIdentifier{Algorithm: mgf1OID, Parameters: asn1.RawValue{FullBytes: der}},
		SaltLength: h.Size(), TrailerField: 1,
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(algorithmIdentifier{Algorithm: pssOID, Parameters: asn1.RawValue{FullBytes: parameters}})
}

func verifyPSS(pub crypto.PublicKey, parameters, signature, octets []byte) error {
	key, ok := pub.(*rsa.PublicKey)
	if !ok {
		return wrongKey("rsa-pss", pub)
	}
	var p pssParameters
	if rest, err := asn1.Unmarshal(parameters, &p); err != nil || len(rest) != 0 {
		return fmt.Errorf("%w: not RSASSA-PSS parameters", ErrSignatureFormat)
	}
	var mgfHash algorithmIdentifier
	if p.MGF.Algorithm.Equal(mgf1OID) {
		if rest, err := asn1.Unmarshal(p.MGF.Parameters.FullBytes, &mgfHash); err != nil || len(rest) != 0 {
			return fmt.Errorf("%w: not MGF1 parameters", ErrSignatureFormat)
		}
	}
	for _, h := range pssHashes {
		if !p.Hash.Algorithm.Equal(h.oid) || !absentOrNull(p.Hash.Parameters) {
			continue
		}
		if !mgfHash.Algorithm.Equal(h.oid) || !absentOrNull(mgfHash.Parameters) || p.TrailerField != 1 ||
			p.SaltLength < h.hash.Size() || p.SaltLength > key.Size() {
			break
		}
		d, err := digest(h.hash, octets)
		if err != nil {
			return err
		}
		if rsa.VerifyPSS(key, h.hash, d, signature, &rsa.PSSOptions{SaltLength: p.SaltLength}) != nil {
			return ErrSignature
		}
		return nil
	}
	return fmt.Errorf("%w: RSASSA-PSS with these parameters", ErrSignatureAlgorithm)
}
