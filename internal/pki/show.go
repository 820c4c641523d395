package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"caponier/internal/dn"
	"caponier/internal/keystore"
)

// Description is what can be told of a certificate or of a private key, without
// anything private.
type Description struct {
	File  string `json:"file"`
	Key   string `json:"key"`   // "ecdsa-p256"
	KeyID string `json:"keyID"` // subject key identifier: the same for a key and its certificates
	// Certificate is nil for a private key.
	Certificate *CertificateDescription `json:"certificate,omitempty"`
}

// CertificateDescription is what can be told of a certificate beyond its key.
type CertificateDescription struct {
	Subject          string    `json:"subject"`
	Issuer           string    `json:"issuer"`
	AlternativeNames []string  `json:"alternativeNames,omitempty"`
	Serial           string    `json:"serial"` // hexadecimal
	NotBefore        time.Time `json:"notBefore"`
	NotAfter         time.Time `json:"notAfter"`
	DaysLeft         int       `json:"daysLeft"` // whole days; negative once it has expired
	Authority        bool      `json:"authority"`
	Usage            []string  `json:"usage,omitempty"`
	ExtendedUsage    []string  `json:"extendedUsage,omitempty"`
	IssuerKeyID      string    `json:"issuerKeyID,omitempty"`
	SHA256           string    `json:"sha256"` // fingerprint
}

// Show describes what path holds: certificates, a private key, or a directory
// of .pem, .crt, .cer and .key files. What cannot be described is part of the
// error, and does not keep the rest from being described.
func Show(path string, now time.Time) ([]Description, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return showFile(path, now)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var all []Description
	var failed []error
	for _, e := range entries {
		if !slices.Contains([]string{".pem", ".crt", ".cer", ".key"}, filepath.Ext(e.Name())) || e.IsDir() {
			continue
		}
		found, err := showFile(filepath.Join(path, e.Name()), now)
		all = append(all, found...)
		failed = append(failed, err)
	}
	return all, errors.Join(failed...)
}

func showFile(path string, now time.Time) ([]Description, error) {
	certs, err := LoadCertificates(path)
	if err == nil {
		found := make([]Description, 0, len(certs))
		for _, c := range certs {
			found = append(found, describe(path, c, now))
		}
		return found, nil
	}
	key, keyErr := keystore.Open(path)
	if errors.Is(keyErr, keystore.ErrFormat) && filepath.Ext(path) != ".key" {
		return nil, err // it is no key at all
	}
	if keyErr != nil {
		return nil, keyErr
	}
	id, err := keyID(key.Public())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return []Description{{File: path, Key: describeKey(key.Public()), KeyID: colons(id)}}, nil
}

func describe(path string, c *x509.Certificate, now time.Time) Description {
	sum := sha256.Sum256(c.Raw)
	d := Description{
		File:  path,
		Key:   describeKey(c.PublicKey),
		KeyID: colons(c.SubjectKeyId),
		Certificate: &CertificateDescription{
			Subject:          dn.FormatDN(c.RawSubject),
			Issuer:           dn.FormatDN(c.RawIssuer),
			AlternativeNames: alternativeNames(c),
			Serial:           colons(c.SerialNumber.Bytes()),
			NotBefore:        c.NotBefore,
			NotAfter:         c.NotAfter,
			DaysLeft:         int(math.Floor(c.NotAfter.Sub(now).Hours() / 24)),
			Authority:        mayIssue(c),
			Usage:            keyUsages(c),
			ExtendedUsage:    extendedUsages(c),
			IssuerKeyID:      colons(c.AuthorityKeyId),
			SHA256:           colons(sum[:]),
		},
	}
	if d.KeyID == "" {
		if id, err := keyID(c.PublicKey); err == nil {
			d.KeyID = colons(id)
		}
	}
	return d
}

// WriteText writes the description for people.
func (d Description) WriteText(w io.Writer) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(t, "  %s\t%s\n", key, value)
		}
	}
	c := d.Certificate
	if c == nil {
		fmt.Fprintf(&b, "%s: private key\n", d.File)
		line("key", d.Key)
		line("key id", d.KeyID)
	} else {
		fmt.Fprintf(&b, "%s: certificate\n", d.File)
		line("subject", c.Subject)
		line("issuer", c.Issuer)
		line("names", strings.Join(c.AlternativeNames, ", "))
		line("valid", c.validity())
		if c.Authority {
			line("authority", "yes")
		}
		line("usage", strings.Join(slices.Concat(c.Usage, c.ExtendedUsage), ", "))
		line("key", d.Key)
		line("key id", d.KeyID)
		line("issuer key id", c.IssuerKeyID)
		line("serial", c.Serial)
		line("sha-256", c.SHA256)
	}
	t.Flush()
	_, err := w.Write(b.Bytes())
	return err
}

func (d *CertificateDescription) validity() string {
	left := fmt.Sprintf("%d days left", d.DaysLeft)
	switch {
	case d.DaysLeft < 0:
		left = "EXPIRED"
	case d.DaysLeft == 1:
		left = "1 day left"
	}
	return fmt.Sprintf("%s to %s (%s)", date(d.NotBefore), date(d.NotAfter), left)
}

// The names of RFC 5280, Section 4.2.1.3.
func keyUsages(c *x509.Certificate) []string {
	names := []string{
		"digitalSignature", "nonRepudiation", "keyEncipherment", "dataEncipherment", "keyAgreement",
		"keyCertSign", "cRLSign", "encipherOnly", "decipherOnly",
	}
	var used []string
	for bit, name := range names {
		if c.KeyUsage&(1<<bit) != 0 {
			used = append(used, name)
		}
	}
	return used
}

// The names of RFC 5280, Section 4.2.1.12; object identifiers where there is
// none.
func extendedUsages(c *x509.Certificate) []string {
	var used []string
	for _, u := range c.ExtKeyUsage {
		switch u {
		case x509.ExtKeyUsageAny:
			used = append(used, "anyExtendedKeyUsage")
		case x509.ExtKeyUsageServerAuth:
			used = append(used, "serverAuth")
		case x509.ExtKeyUsageClientAuth:
			used = append(used, "clientAuth")
		case x509.ExtKeyUsageCodeSigning:
			used = append(used, "codeSigning")
		case x509.ExtKeyUsageEmailProtection:
			used = append(used, "emailProtection")
		case x509.ExtKeyUsageTimeStamping:
			used = append(used, "timeStamping")
		case x509.ExtKeyUsageOCSPSigning:
			used = append(used, "OCSPSigning")
		default:
			used = append(used, u.String())
		}
	}
	for _, oid := range c.UnknownExtKeyUsage {
		if oid.Equal(oidIPsecIKE) {
			used = append(used, "ipsecIKE")
		} else {
			used = append(used, oid.String())
		}
	}
	return used
}

// colons writes octets as other tools show fingerprints.
func colons(b []byte) string {
	parts := make([]string, 0, len(b))
	for _, c := range b {
		parts = append(parts, hex.EncodeToString([]byte{c}))
	}
	return strings.Join(parts, ":")
}
