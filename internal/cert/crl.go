package cert

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/emmansun/gmsm/smx509"
)

// ParseCRL reads one certificate revocation list, in PEM or DER (RFC 5280,
// Section 5).
func ParseCRL(data []byte) (*x509.RevocationList, error) {
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "X509 CRL" {
			return nil, errors.New("no revocation list in the file")
		}
		data = block.Bytes
	}
	crl, err := x509.ParseRevocationList(data)
	if err != nil {
		return nil, fmt.Errorf("not a revocation list, in PEM or DER: %w", err)
	}
	return crl, nil
}

// CheckCRL reports whether issuer signed the list, and may (RFC 5280, Section
// 6.3.3).
func CheckCRL(crl *x509.RevocationList, issuer *x509.Certificate) error {
	if !national(issuer.Raw) {
		return crl.CheckSignatureFrom(issuer)
	}
	list, err := smx509.ParseRevocationList(crl.Raw)
	if err != nil {
		return err
	}
	ca, err := smx509.ParseCertificate(issuer.Raw)
	if err != nil {
		return err
	}
	return standardError(list.CheckSignatureFrom(ca))
}

// CreateCRL makes a revocation list from template and signs it with the key of
// issuer, like x509.CreateRevocationList: in DER.
func CreateCRL(template *x509.RevocationList, issuer *x509.Certificate, signer crypto.Signer) ([]byte, error) {
	if !IsSM2(signer.Public()) {
		return x509.CreateRevocationList(rand.Reader, template, issuer, signer)
	}
	t := &smx509.RevocationList{Number: template.Number, ThisUpdate: template.ThisUpdate, NextUpdate: template.NextUpdate}
	for _, e := range template.RevokedCertificateEntries {
		t.RevokedCertificateEntries = append(t.RevokedCertificateEntries, smx509.RevocationListEntry{
			SerialNumber: e.SerialNumber, RevocationTime: e.RevocationTime, ReasonCode: e.ReasonCode,
		})
	}
	return smx509.CreateRevocationList(rand.Reader, t, fork(issuer), signer)
}
