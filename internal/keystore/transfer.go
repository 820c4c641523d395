package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/emmansun/gmsm/pkcs"
	"github.com/emmansun/gmsm/pkcs8"
	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"
)

// ErrPassphrase is returned for a private key that the passphrase does not open.
var ErrPassphrase = errors.New("wrong passphrase, or a damaged file")

// encryption is PBES2 with AES-256-CBC and PBKDF2 with HMAC-SHA-256, which
// OpenSSL reads and writes as well; as many rounds as OWASP asks for.
var encryption = pkcs.NewPBESEncrypter(pkcs.AES256CBC, pkcs.NewPBKDF2Opts(pkcs.SHA256, 16, 600_000))

// Encode returns the private key in PKCS #8, in PEM; with a passphrase,
// encrypted by PBES2 with AES-256 (RFC 8018). The caller wipes what it returns.
func Encode(key crypto.Signer, passphrase []byte) ([]byte, error) {
	der, err := smx509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	defer clear(der)
	if len(passphrase) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	}
	sealed, err := pkcs8.MarshalPrivateKey(key, passphrase, encryption)
	if err != nil {
		return nil, fmt.Errorf("encrypt private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: sealed}), nil
}

// Decode reads what Open reads, from memory, and encrypted PKCS #8 as well, in
// PEM or DER.
func Decode(data, passphrase []byte) (crypto.Signer, error) {
	key, err := parseKey(data)
	if err == nil || !errors.Is(err, ErrEncrypted) && !errors.Is(err, ErrFormat) {
		return key, err
	}
	sealed := data
	if block, _ := pem.Decode(data); block != nil {
		if block.Type != "ENCRYPTED PRIVATE KEY" {
			return nil, err
		}
		sealed = block.Bytes
	}
	if !isEncrypted(sealed) {
		return nil, err
	}
	if len(passphrase) == 0 {
		return nil, ErrEncrypted
	}
	// The errors of the parser may quote what it read.
	opened, err := pkcs8.ParsePKCS8PrivateKey(sealed, passphrase)
	if err != nil {
		return nil, ErrPassphrase
	}
	return Accept(opened)
}

// isEncrypted reports whether the octets are an EncryptedPrivateKeyInfo (RFC
// 5958, Section 3).
func isEncrypted(der []byte) bool {
	var info struct {
		Algorithm struct {
			Algorithm  asn1.ObjectIdentifier
			Parameters asn1.RawValue `asn1:"optional"`
		}
		Data []byte
	}
	rest, err := asn1.Unmarshal(der, &info)
	return err == nil && len(rest) == 0
}

// Envelope encrypts the private key of SM2 to the public key of a certificate:
// the form in which an authority delivers the encryption key that it made (GB/T
// 35276, SM2EnvelopedKey), in DER.
func Envelope(key crypto.Signer, to crypto.PublicKey) ([]byte, error) {
	k, ok := key.(*sm2.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: an envelope holds a key of sm2", ErrAlgorithm)
	}
	pub, ok := to.(*ecdsa.PublicKey)
	if !ok || !sm2.IsSM2PublicKey(pub) {
		return nil, fmt.Errorf("%w: an envelope is for a key of sm2", ErrAlgorithm)
	}
	return sm2.MarshalEnvelopedPrivateKey(rand.Reader, pub, k)
}

// OpenEnvelope decrypts what Envelope made, in PEM or DER, with the private key
// that it was made for.
func OpenEnvelope(data []byte, with crypto.Signer) (crypto.Signer, error) {
	k, ok := with.(*sm2.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: an envelope is for a key of sm2", ErrAlgorithm)
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	opened, err := sm2.ParseEnvelopedPrivateKey(k, data)
	if err != nil {
		return nil, fmt.Errorf("%w: no envelope for this key", ErrFormat)
	}
	return opened, nil
}

// ReadSecret reads a file that only its owner may read, such as a passphrase.
// The caller wipes what it returns.
func ReadSecret(path string) ([]byte, error) { return readSecret(path) }
