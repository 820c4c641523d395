// Package keystore is where private keys, pre-shared keys and manual keys live: today, in
// files that nobody but their owner can read.
//
// A private key never leaves the package: callers get a crypto.Signer.
package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"
)

// Pair is a private key that decrypts as well as signs, as one of SM2 does.
type Pair interface {
	crypto.Signer
	crypto.Decrypter
}

// Errors of Open and ReadPSK; both wrap them.
var (
	// ErrScheme is returned for a reference to a kind of store that is not
	// there.
	ErrScheme = errors.New("unsupported key store")
	// ErrFormat is returned for a file that does not hold what it should.
	ErrFormat = errors.New("malformed key")
	// ErrEncrypted is returned for a private key that needs a passphrase: a
	// gateway starts without anyone to type it.
	ErrEncrypted = errors.New("private key is encrypted: store it without a passphrase, in a file of mode 0600")
	// ErrAlgorithm is returned for a private key that cannot sign for IKE.
	ErrAlgorithm = errors.New("unsupported private key")
)

// ModeError says that others can read a file that holds a secret.
type ModeError struct {
	Path string
	Mode fs.FileMode
}

// Error names the command that cures it.
func (e *ModeError) Error() string {
	return fmt.Sprintf("%s has mode %#o, so that others can get at the secret: chmod 600 %[1]s", e.Path, e.Mode.Perm())
}

// minRSA is the shortest modulus that still resists, in bits (NIST SP 800-131A).
const minRSA = 2048

// maxFile is the largest file that is read, in octets. The longest private
// keys, of RSA, have less than a fifth of it.
const maxFile = 64 << 10

// Open returns the private key that ref names: the path of a file with one
// PKCS #8, PKCS #1 or SEC 1 private key in PEM or DER, of RSA, ECDSA on P-256,
// P-384 or P-521, Ed25519, or SM2, which is a crypto.Decrypter as well. A file
// that others than its owner can read is refused with a *ModeError.
func Open(ref string) (crypto.Signer, error) {
	// Only the scheme is quoted: such references can hold a PIN (RFC 7512, Section 2.3).
	for _, scheme := range []string{"pkcs11:", "sdf:"} {
		if len(ref) >= len(scheme) && strings.EqualFold(ref[:len(scheme)], scheme) {
			return nil, fmt.Errorf("%w %q: private keys are read from files only", ErrScheme, scheme)
		}
	}
	data, err := readSecret(ref)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	defer clear(data)
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("private key %s: %w", ref, err)
	}
	return key, nil
}

// readSecret reads a file that only its owner may read. The caller wipes what
// it returns.
func readSecret(path string) ([]byte, error) {
	// O_NONBLOCK: opening a named pipe by mistake must not wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The open file is asked, so that it cannot be exchanged in between.
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, &ModeError{Path: path, Mode: info.Mode()}
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s is larger than %d octets", path, maxFile)
	}
	// One buffer of the right size: growing would leave copies behind.
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		clear(data)
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}

// parseKey reads one private key. It never quotes the octets in an error.
func parseKey(data []byte) (crypto.Signer, error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return parseDER(data)
	}
	var key crypto.Signer
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue // certificates and EC PARAMETERS may stand beside it
		}
		k, err := parseBlock(block)
		clear(block.Bytes)
		if err != nil {
			return nil, err
		}
		if key != nil {
			return nil, fmt.Errorf("%w: more than one private key in the file", ErrFormat)
		}
		key = k
	}
	if key == nil {
		return nil, fmt.Errorf("%w: no private key in the file", ErrFormat)
	}
	return key, nil
}

func parseBlock(block *pem.Block) (crypto.Signer, error) {
	// RFC 1421, Section 4.6.1.1: the old form of encryption.
	if block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, ErrEncrypted
	}
	return parseDER(block.Bytes)
}

func parseDER(der []byte) (crypto.Signer, error) {
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(b []byte) (any, error) { return x509.ParsePKCS1PrivateKey(b) },
		func(b []byte) (any, error) { return x509.ParseECPrivateKey(b) },
		smx509.ParsePKCS8PrivateKey,
		smx509.ParseTypedECPrivateKey,
	} {
		if key, err := parse(der); err == nil {
			return Accept(key)
		}
	}
	// The errors of the parsers may quote what they read.
	return nil, fmt.Errorf("%w: neither PKCS #8 nor PKCS #1 nor SEC 1", ErrFormat)
}

// Accept returns key, which a parser of another form made, if it is one that Open
// would return.
func Accept(key any) (crypto.Signer, error) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if bits := k.N.BitLen(); bits < minRSA {
			return nil, fmt.Errorf("%w: RSA of %d bits, less than %d", ErrAlgorithm, bits, minRSA)
		}
		return k, nil
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return k, nil
		default:
			return nil, fmt.Errorf("%w: ECDSA on %s", ErrAlgorithm, k.Params().Name)
		}
	case ed25519.PrivateKey:
		return k, nil
	case *sm2.PrivateKey:
		return k, nil
	default:
		return nil, fmt.Errorf("%w: it does not sign", ErrAlgorithm)
	}
}
