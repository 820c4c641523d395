package suite

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	_ "crypto/sha1"   // for AuthRSA
	_ "crypto/sha256" // for crypto.SHA256
	_ "crypto/sha512" // for crypto.SHA384 and crypto.SHA512
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/emmansun/gmsm/sm2"
)

// Authentication methods of the AUTH payload that sign with a private key (IANA
// registry "IKEv2 Authentication Method").
const (
	AuthRSA       uint8 = 1  // RSASSA-PKCS1-v1_5 with SHA-1 (RFC 7296, Section 2.15)
	AuthECDSA256  uint8 = 9  // ECDSA with SHA-256 on P-256 (RFC 4754)
	AuthECDSA384  uint8 = 10 // ECDSA with SHA-384 on P-384 (RFC 4754)
	AuthECDSA521  uint8 = 11 // ECDSA with SHA-512 on P-521 (RFC 4754)
	AuthSignature uint8 = 14 // names its algorithm itself (RFC 7427)
)

// Hash algorithms of SIGNATURE_HASH_ALGORITHMS (RFC 7427, Section 7; RFC 8420).
const (
	HashSHA1     uint16 = 1
	HashSHA256   uint16 = 2
	HashSHA384   uint16 = 3
	HashSHA512   uint16 = 4
	HashIdentity uint16 = 5 // the message itself, for Ed25519
	// HashSM3 is from the private-use range, like the numbers of SM3 elsewhere: IANA
	// has none. It means something only to a peer that has the same.
	HashSM3 uint16 = 32905
)

// Errors of signatures.
var (
	// ErrSignature is returned for a signature that does not match.
	ErrSignature = errors.New("signature does not match")
	// ErrSignatureFormat is returned for authentication data that is malformed.
	ErrSignatureFormat = errors.New("malformed authentication data")
	// ErrSignatureAlgorithm is returned for a method or an algorithm that is
	// unknown, refused, or not one of the key's.
	ErrSignatureAlgorithm = errors.New("signature algorithm not acceptable")
)

// SignatureHashes returns the hash algorithms that signatures of a peer may use,
// for SIGNATURE_HASH_ALGORITHMS. SHA-1 is not among them, and HashSM3 is only for
// peers that may have keys of SM2.
func SignatureHashes() []uint16 {
	return []uint16{HashSHA256, HashSHA384, HashSHA512, HashIdentity}
}

// SignatureScheme is a way to make the AUTH value with a private key (RFC 7296,
// Section 2.15; RFC 4754; RFC 7427). It is comparable.
type SignatureScheme struct {
	Name   string
	Method uint8       // authentication method number of the AUTH payload
	Hash   crypto.Hash // 0 where the algorithm hashes itself

	// identifier is the DER of the AlgorithmIdentifier, for AuthSignature.
	identifier string
	pss        bool
}

// signatureAlgorithm is an algorithm of RFC 7427 other than RSASSA-PSS, whose
// parameters say more.
type signatureAlgorithm struct {
	name   string
	oid    asn1.ObjectIdentifier
	key    keyKind
	hash   crypto.Hash
	hashID uint16
	null   bool // parameters are NULL and not absent (RFC 7427, Appendix A)
}

// keyKind is the algorithm of a public key.
type keyKind uint8

const (
	keyUnknown keyKind = iota
	keyRSA
	keyECDSA
	keyEd25519
	keySM2
)

func kindOf(pub crypto.PublicKey) keyKind {
	switch pub.(type) {
	case *rsa.PublicKey:
		return keyRSA
	case *ecdsa.PublicKey:
		if sm2.IsSM2PublicKey(pub) {
			return keySM2
		}
		return keyECDSA
	case ed25519.PublicKey:
		return keyEd25519
	default:
		return keyUnknown
	}
}

var (
	pkcs1OID = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1}
	ecdsaOID = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3}
)

// signatureAlgorithms are in order of preference for each kind of key.
var signatureAlgorithms = []signatureAlgorithm{
	{name: "ed25519", oid: asn1.ObjectIdentifier{1, 3, 101, 112}, key: keyEd25519, hashID: HashIdentity},
	{name: "ecdsa-sha256", oid: sub(ecdsaOID, 2), key: keyECDSA, hash: crypto.SHA256, hashID: HashSHA256},
	{name: "ecdsa-sha384", oid: sub(ecdsaOID, 3), key: keyECDSA, hash: crypto.SHA384, hashID: HashSHA384},
	{name: "ecdsa-sha512", oid: sub(ecdsaOID, 4), key: keyECDSA, hash: crypto.SHA512, hashID: HashSHA512},
	{name: "sm2-sm3", oid: asn1.ObjectIdentifier{1, 2, 156, 10197, 1, 501}, key: keySM2, hashID: HashSM3},
	{name: "rsa-sha256", oid: sub(pkcs1OID, 11), key: keyRSA, hash: crypto.SHA256, hashID: HashSHA256, null: true},
	{name: "rsa-sha384", oid: sub(pkcs1OID, 12), key: keyRSA, hash: crypto.SHA384, hashID: HashSHA384, null: true},
	{name: "rsa-sha512", oid: sub(pkcs1OID, 13), key: keyRSA, hash: crypto.SHA512, hashID: HashSHA512, null: true},
}

func sub(oid asn1.ObjectIdentifier, arc int) asn1.ObjectIdentifier {
	return append(slices.Clone(oid), arc)
}

// classicECDSA are the methods of RFC 4754, whose signature is r | s.
var classicECDSA = []struct {
	name   string
	method uint8
	curve  elliptic.Curve
	hash   crypto.Hash
}{
	{"ecdsa-256", AuthECDSA256, elliptic.P256(), crypto.SHA256},
	{"ecdsa-384", AuthECDSA384, elliptic.P384(), crypto.SHA384},
	{"ecdsa-521", AuthECDSA521, elliptic.P521(), crypto.SHA512},
}

// ChooseSignature returns how to sign with the private key of pub for a peer
// that accepts peerHashes. With none of them, which is a peer without RFC 7427,
// it is the method of the key's kind; for RSA that means SHA-1.
func ChooseSignature(pub crypto.PublicKey, peerHashes []uint16) (SignatureScheme, error) {
	kind := kindOf(pub)
	if kind == keyUnknown {
		return SignatureScheme{}, fmt.Errorf("%w: no method for a %T", ErrSignatureAlgorithm, pub)
	}
	if len(peerHashes) == 0 {
		return chooseClassic(pub)
	}
	var chosen *signatureAlgorithm
	for i := range signatureAlgorithms {
		a := &signatureAlgorithms[i]
		if a.key != kind || !slices.Contains(peerHashes, a.hashID) {
			continue
		}
		if chosen == nil || a.hash == hashOf(pub) {
			chosen = a
		}
	}
	if chosen == nil {
		return SignatureScheme{}, fmt.Errorf("%w: the peer accepts none of the hashes for a %T", ErrSignatureAlgorithm, pub)
	}
	der, err := chosen.identifier()
	if err != nil {
		return SignatureScheme{}, err
	}
	return SignatureScheme{Name: chosen.name, Method: AuthSignature, Hash: chosen.hash, identifier: string(der)}, nil
}

// ChoosePSS is ChooseSignature for those who want RSASSA-PSS of an RSA key, which
// only a peer with RFC 7427 can check. That peer does not say whether it does
// (RFC 7427, Section 4): it is for the operator to know. Other keys sign as they
// do otherwise.
func ChoosePSS(pub crypto.PublicKey, peerHashes []uint16) (SignatureScheme, error) {
	if kindOf(pub) != keyRSA {
		return ChooseSignature(pub, peerHashes)
	}
	for _, h := range pssHashes {
		if !slices.Contains(peerHashes, h.id) {
			continue
		}
		der, err := pssIdentifier(h.hash, h.oid)
		if err != nil {
			return SignatureScheme{}, err
		}
		return SignatureScheme{Name: "rsa-pss-" + h.name, Method: AuthSignature, Hash: h.hash, identifier: string(der), pss: true}, nil
	}
	return SignatureScheme{}, fmt.Errorf("%w: the peer accepts none of the hashes for RSASSA-PSS", ErrSignatureAlgorithm)
}

// hashOf returns the hash that is as strong as the key, where there is one.
func hashOf(pub crypto.PublicKey) crypto.Hash {
	if key, ok := pub.(*ecdsa.PublicKey); ok {
		for _, c := range classicECDSA {
			if c.curve == key.Curve {
				return c.hash
			}
		}
	}
	return 0
}

func chooseClassic(pub crypto.PublicKey) (SignatureScheme, error) {
	switch key := pub.(type) {
	case *rsa.PublicKey:
		return SignatureScheme{Name: "rsa-sha1", Method: AuthRSA, Hash: crypto.SHA1}, nil
	case *ecdsa.PublicKey:
		for _, c := range classicECDSA {
			if c.curve == key.Curve {
				return SignatureScheme{Name: c.name, Method: c.method, Hash: c.hash}, nil
			}
		}
	}
	return SignatureScheme{}, fmt.Errorf("%w: the peer does not know RFC 7427, which this %T needs", ErrSignatureAlgorithm, pub)
}

// algorithmIdentifier is the AlgorithmIdentifier of X.509.
type algorithmIdentifier struct {
	Algorithm  asn1.ObjectIdentifier
	Parameters asn1.RawValue `asn1:"optional"`
}

func (a *signatureAlgorithm) identifier() ([]byte, error) {
	id := algorithmIdentifier{Algorithm: a.oid}
	if a.null {
		id.Parameters = asn1.NullRawValue
	}
	return asn1.Marshal(id)
}

// Sign makes the authentication data of the AUTH payload over octets: the
// signature, behind its length-prefixed AlgorithmIdentifier where the method is
// AuthSignature (RFC 7427, Section 3). signer holds the private key of the
// public key that the scheme was chosen for.
func (s SignatureScheme) Sign(signer crypto.Signer, octets []byte) ([]byte, error) {
	signature, err := s.sign(signer, octets)
	if err != nil {
		return nil, fmt.Errorf("sign with %s: %w", s.Name, err)
	}
	switch s.Method {
	case AuthRSA:
		return signature, nil
	case AuthECDSA256, AuthECDSA384, AuthECDSA521:
		return rawECDSA(signer.Public(), signature)
	case AuthSignature:
		out := append([]byte{byte(len(s.identifier))}, s.identifier...)
		return append(out, signature...), nil
	default:
		return nil, fmt.Errorf("%w: method %d does not sign", ErrSignatureAlgorithm, s.Method)
	}
}

func (s SignatureScheme) sign(signer crypto.Signer, octets []byte) ([]byte, error) {
	if sm2.IsSM2PublicKey(signer.Public()) {
		return SM2Sign(rand.Reader, signer, "", SM2Style{Encoding: SM2DER, Digest: SM2WithID}, octets)
	}
	input, err := digest(s.Hash, octets)
	if err != nil {
		return nil, err
	}
	var options crypto.SignerOpts = s.Hash
	if s.pss {
		options = &rsa.PSSOptions{SaltLength: s.Hash.Size(), Hash: s.Hash}
	}
	return signer.Sign(rand.Reader, input, options)
}

// digest returns octets themselves for the zero Hash.
func digest(h crypto.Hash, octets []byte) ([]byte, error) {
	if h == 0 {
		return octets, nil
	}
	if !h.Available() {
		return nil, fmt.Errorf("%w: no hash %v", ErrSignatureAlgorithm, h)
	}
	d := h.New()
	d.Write(octets)
	return d.Sum(nil), nil
}

// rawECDSA turns the DER form into r | s, each of the length of the field (RFC
// 4754, Section 7).
func rawECDSA(pub crypto.PublicKey, der []byte) ([]byte, error) {
	key, ok := pub.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: a %T makes no ECDSA signature", ErrSignatureAlgorithm, pub)
	}
	var v struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(der, &v)
	n := fieldLen(key.Curve)
	if err != nil || len(rest) != 0 || v.R.Sign() < 0 || v.S.Sign() < 0 || v.R.BitLen() > 8*n || v.S.BitLen() > 8*n {
		return nil, fmt.Errorf("the key gave a malformed ECDSA signature: %w", ErrSignatureFormat)
	}
	out := make([]byte, 2*n)
	v.R.FillBytes(out[:n])
	v.S.FillBytes(out[n:])
	return out, nil
}

func fieldLen(c elliptic.Curve) int { return (c.Params().BitSize + 7) / 8 }
