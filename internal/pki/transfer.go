package pki

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/emmansun/gmsm/smx509"
	"github.com/emmansun/go-pkcs12"

	"caponier/internal/cert"
	"caponier/internal/keystore"
)

// Format is a form in which a private key leaves or enters an authority.
type Format string

// The formats.
const (
	PKCS12   Format = "pkcs12"   // key, certificate and authority in one file (RFC 7292)
	PKCS8    Format = "pkcs8"    // the private key, encrypted (RFC 5958)
	Envelope Format = "envelope" // an SM2 key, encrypted to another certificate (GB/T 35276)
)

// Formats returns the formats, the default first.
func Formats() []Format { return []Format{PKCS12, PKCS8, Envelope} }

// ParseFormat reads a format in any case; empty means the default.
func ParseFormat(s string) (Format, error) {
	if s == "" {
		return PKCS12, nil
	}
	words := make([]string, 0, len(Formats()))
	for _, f := range Formats() {
		if strings.EqualFold(s, string(f)) {
			return f, nil
		}
		words = append(words, string(f))
	}
	return "", fmt.Errorf("unknown format %q: choose one of %s", s, strings.Join(words, ", "))
}

// Transfer says how Export seals a private key, and how Import opens it.
type Transfer struct {
	Format     Format
	Passphrase []byte // of PKCS12 and PKCS8
	// With is the name, in the authority's directory, of the pair that an Envelope
	// is for: its certificate seals, its private key opens.
	With string
	// Certificate is what belongs to the key, for Import of PKCS8 and Envelope.
	Certificate string
	Force       bool
}

// Export returns the private key NAME of dir in another form. The passphrase
// has to be strong: whoever has the file can try words on it for as long as he
// likes.
func Export(dir, name string, t Transfer) ([]byte, error) {
	path := filepath.Join(dir, name)
	key, err := keystore.Open(path + ".key")
	if err != nil {
		return nil, err
	}
	if t.Format != Envelope && len(t.Passphrase) == 0 {
		return nil, fmt.Errorf("%w: %s needs a passphrase", ErrRequest, t.Format)
	}
	switch t.Format {
	case PKCS8:
		return keystore.Encode(key, t.Passphrase)
	case Envelope:
		certs, err := LoadCertificates(filepath.Join(dir, t.With+".pem"))
		if err != nil {
			return nil, err
		}
		return keystore.Envelope(key, certs[0].PublicKey)
	default:
		certs, err := LoadCertificates(path + ".pem")
		if err != nil {
			return nil, err
		}
		authority, err := LoadCertificates(filepath.Join(dir, RootName+".pem"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return exportPKCS12(key, append(certs, authority...), string(t.Passphrase))
	}
}

// exportPKCS12 seals with AES-256 and HMAC-SHA-256, which OpenSSL since 1.1,
// Windows since 2019 and current Apple systems read.
func exportPKCS12(key crypto.Signer, certs []*x509.Certificate, passphrase string) ([]byte, error) {
	forked := make([]*smx509.Certificate, 0, len(certs))
	for _, c := range certs {
		f, err := smx509.ParseCertificate(c.Raw)
		if err != nil {
			return nil, err
		}
		forked = append(forked, f)
	}
	der, err := pkcs12.Modern2023.Encode(key, forked[0], forked[1:], passphrase)
	if err != nil {
		return nil, fmt.Errorf("make PKCS #12: %w", err)
	}
	return der, nil
}

// Import opens a private key that came in another form, and writes it and its
// certificate as NAME.key and NAME.pem into dir. The two have to belong
// together.
func Import(dir, name string, data []byte, t Transfer) (*x509.Certificate, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	key, certs, err := open(dir, data, t)
	if err != nil {
		return nil, err
	}
	if t.Certificate != "" {
		if certs, err = LoadCertificates(t.Certificate); err != nil {
			return nil, err
		}
	}
	if len(certs) == 0 {
		return nil, fmt.Errorf("%w: a key alone is of no use: name its certificate", ErrRequest)
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("%w: the private key does not belong to the certificate", ErrRequest)
	}
	return certs[0], storePair(dir, name, t.Force, key, certs[0])
}

func open(dir string, data []byte, t Transfer) (crypto.Signer, []*x509.Certificate, error) {
	switch t.Format {
	case PKCS8:
		key, err := keystore.Decode(data, t.Passphrase)
		return key, nil, err
	case Envelope:
		with, err := keystore.Open(filepath.Join(dir, t.With+".key"))
		if err != nil {
			return nil, nil, err
		}
		key, err := keystore.OpenEnvelope(data, with)
		return key, nil, err
	default:
		return openPKCS12(data, string(t.Passphrase))
	}
}

func openPKCS12(data []byte, passphrase string) (crypto.Signer, []*x509.Certificate, error) {
	opened, leaf, _, err := pkcs12.DecodeChain(data, passphrase)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return nil, nil, keystore.ErrPassphrase
	case err != nil:
		return nil, nil, fmt.Errorf("PKCS #12: %w", err)
	}
	key, err := keystore.Accept(opened)
	if err != nil {
		return nil, nil, err
	}
	c, err := cert.Parse(leaf.Raw)
	return key, []*x509.Certificate{c}, err
}
