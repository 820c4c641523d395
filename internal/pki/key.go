package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"

	"github.com/emmansun/gmsm/sm2"

	"caponier/internal/cert"
)

// KeyType is an algorithm and size of key pairs.
type KeyType string

// The key types that can be issued.
const (
	ECDSAP256 KeyType = "ecdsa-p256" // the default: fast, short, and known to every peer
	ECDSAP384 KeyType = "ecdsa-p384"
	Ed25519   KeyType = "ed25519" // RFC 8420; Windows and older gateways lack it
	RSA2048   KeyType = "rsa-2048"
	RSA3072   KeyType = "rsa-3072"
	RSA4096   KeyType = "rsa-4096"
	SM2       KeyType = "sm2" // GB/T 32918; certificates signed with SM2 and SM3
)

// KeyTypes returns the key types that can be issued, the default first.
func KeyTypes() []KeyType {
	return []KeyType{ECDSAP256, ECDSAP384, Ed25519, RSA2048, RSA3072, RSA4096, SM2}
}

// ParseKeyType reads a key type in any case; empty means the default.
func ParseKeyType(s string) (KeyType, error) {
	if s == "" {
		return ECDSAP256, nil
	}
	var words []string
	for _, t := range KeyTypes() {
		if strings.EqualFold(s, string(t)) {
			return t, nil
		}
		words = append(words, string(t))
	}
	return "", fmt.Errorf("unknown key type %q: choose one of %s", s, strings.Join(words, ", "))
}

func (t KeyType) generate() (crypto.Signer, error) {
	switch t {
	case ECDSAP256, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case RSA4096:
		return rsa.GenerateKey(rand.Reader, 4096)
	case SM2:
		return sm2.GenerateKey(rand.Reader)
	default:
		return nil, fmt.Errorf("unknown key type %q", string(t))
	}
}

// describeKey says what a public key is, in the words of KeyType.
func describeKey(pub crypto.PublicKey) string {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("rsa-%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		if cert.IsSM2(k) {
			return string(SM2)
		}
		return "ecdsa-" + strings.ToLower(strings.Replace(k.Params().Name, "-", "", 1))
	case ed25519.PublicKey:
		return string(Ed25519)
	default:
		return "unknown"
	}
}
