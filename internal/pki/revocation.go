package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"caponier/internal/cert"
	"caponier/internal/dn"
)

// CRLName is the file of the authority's revocation list.
const CRLName = RootName + ".crl"

// CRLValidity is how long the authority's list is current where nothing is said.
const CRLValidity = 30 * 24 * time.Hour

// removeFromCRL is the reason that takes a revocation back (RFC 5280, Section
// 5.3.1).
const removeFromCRL = 8

// revocations is a list made ready to be asked.
type revocations struct {
	list    *x509.RevocationList
	serials map[string]time.Time // when it was revoked, by serial number
}

// WithRevocation returns a Verifier that refuses certificates on the lists. A
// strict one also refuses a certificate of whose issuer there is no current
// list. Lists are believed where the issuer of the certificate in question
// signed them (RFC 5280, Section 6.3).
func (v *Verifier) WithRevocation(lists []*x509.RevocationList, strict bool) *Verifier {
	w := *v
	w.strict = strict
	w.lists = nil
	for _, l := range lists {
		r := &revocations{list: l, serials: make(map[string]time.Time, len(l.RevokedCertificateEntries))}
		for _, e := range l.RevokedCertificateEntries {
			if e.ReasonCode != removeFromCRL {
				r.serials[string(e.SerialNumber.Bytes())] = e.RevocationTime
			}
		}
		w.lists = append(w.lists, r)
	}
	return &w
}

// checkRevocation asks the lists about every certificate below the anchor.
func (v *Verifier) checkRevocation(path []*x509.Certificate, now time.Time) error {
	if len(v.lists) == 0 && !v.strict {
		return nil
	}
	for i, c := range path[:len(path)-1] {
		current := false
		for _, r := range v.lists {
			if !bytes.Equal(r.list.RawIssuer, c.RawIssuer) || cert.CheckCRL(r.list, path[i+1]) != nil {
				continue
			}
			if at, ok := r.serials[string(c.SerialNumber.Bytes())]; ok {
				return refuse(CodeRevoked, c, nil, "its issuer revoked it at %s", date(at))
			}
			current = current || complete(r.list) && !now.Before(r.list.ThisUpdate) && !now.After(r.list.NextUpdate)
		}
		if v.strict && !current {
			return refuse(CodeRevocationUnknown, c, nil, "there is no current revocation list of its issuer %q", shorten(dn.FormatDN(c.RawIssuer)))
		}
	}
	return nil
}

// complete reports whether the list says all that its issuer has revoked: a
// critical extension may restrict it (RFC 5280, Section 5.2).
func complete(l *x509.RevocationList) bool {
	for _, e := range l.Extensions {
		if e.Critical {
			return false
		}
	}
	return true
}

// LoadCRL reads a revocation list in PEM or DER.
func LoadCRL(path string) (*x509.RevocationList, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("revocation list: %w", err)
	}
	list, err := cert.ParseCRL(data)
	if err != nil {
		return nil, fmt.Errorf("revocation list %s: %w", path, err)
	}
	return list, nil
}

// Revoke puts the certificate NAME of the authority in dir on the authority's
// revocation list, which is current for validity from now. Without a name, it
// only renews the list.
func Revoke(dir, name string, validity time.Duration, now time.Time) (*x509.RevocationList, error) {
	ca, key, err := openAuthority(dir)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, CRLName)
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.UTC().Truncate(time.Second), NextUpdate: now.Add(validity).UTC().Truncate(time.Second)}
	switch old, err := LoadCRL(path); {
	case err == nil:
		if err := cert.CheckCRL(old, ca); err != nil {
			return nil, fmt.Errorf("%s is not a list of this authority: %w", path, err)
		}
		template.Number.Add(old.Number, big.NewInt(1))
		template.RevokedCertificateEntries = old.RevokedCertificateEntries
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if name != "" {
		c, err := issued(dir, name, ca)
		if err != nil {
			return nil, err
		}
		for _, e := range template.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return nil, fmt.Errorf("%s %w on the list, since %s", name, ErrExists, date(e.RevocationTime))
			}
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: template.ThisUpdate})
	}
	der, err := cert.CreateCRL(template, ca, key)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	list, err := cert.ParseCRL(der)
	if err != nil {
		return nil, fmt.Errorf("sign revocation list: %w", err)
	}
	return list, writeFile(path, pemCRL(der), 0o644, true)
}

// issued is the certificate NAME, if the authority issued it.
func issued(dir, name string, ca *x509.Certificate) (*x509.Certificate, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name+".pem")
	certs, err := LoadCertificates(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: there is no certificate %s", ErrRequest, path)
	}
	if err != nil {
		return nil, err
	}
	if cert.CheckSignature(ca, certs[0]) != nil {
		return nil, fmt.Errorf("%w: %s is not of this authority", ErrRequest, path)
	}
	return certs[0], nil
}
