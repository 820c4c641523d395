// Package cert is crypto/x509 for certificates of every algorithm that IKE signs
// with: those that crypto/x509 knows, and SM2 with SM3 (GB/T 32918, GM/T 0015).
//
// Certificates are those of crypto/x509 whichever way they were read. Only what
// has an SM2 key in it goes another way than crypto/x509's own.
package cert

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"
)

// The curve of SM2 (GM/T 0006: 1.2.156.10197.1.301), whose octets are in every
// certificate of an SM2 key, and the signature algorithm, whose octets are in
// every certificate that an SM2 key signed.
var (
	oidCurve     = mustMarshal(asn1.ObjectIdentifier{1, 2, 156, 10197, 1, 301})
	oidSignature = mustMarshal(asn1.ObjectIdentifier{1, 2, 156, 10197, 1, 501})
)

func mustMarshal(oid asn1.ObjectIdentifier) []byte {
	der, err := asn1.Marshal(oid)
	if err != nil {
		panic(err)
	}
	return der
}

// IsSM2 reports whether the public key is on the curve of SM2.
func IsSM2(pub crypto.PublicKey) bool { return sm2.IsSM2PublicKey(pub) }

// national reports whether the octets may be of a certificate or a list that
// crypto/x509 cannot read or cannot check. It may err towards yes.
func national(der []byte) bool {
	return bytes.Contains(der, oidCurve) || bytes.Contains(der, oidSignature)
}

// Parse reads one certificate in DER.
func Parse(der []byte) (*x509.Certificate, error) {
	if !national(der) {
		return x509.ParseCertificate(der)
	}
	c, err := smx509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return standard(c), nil
}

// ParseAll reads the certificates of a file, in their order: any number of them
// in PEM, or one in DER. Other things in PEM may stand beside them.
func ParseAll(data []byte) ([]*x509.Certificate, error) {
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		c, err := Parse(data)
		if err != nil {
			return nil, fmt.Errorf("not a certificate, in PEM or DER: %w", err)
		}
		return []*x509.Certificate{c}, nil
	}
	var certs []*x509.Certificate
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := Parse(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate in the file")
	}
	return certs, nil
}

// Verify returns the ways from leaf over the intermediates to one of the roots
// at the time now, each from the leaf to the root, for any extended key usage
// (RFC 5280, Section 6). The errors are those of crypto/x509.
func Verify(leaf *x509.Certificate, intermediates, roots []*x509.Certificate, now time.Time) ([][]*x509.Certificate, error) {
	all := append(append([]*x509.Certificate{leaf}, intermediates...), roots...)
	for _, c := range all {
		if national(c.Raw) {
			return verifyNational(leaf, intermediates, roots, now)
		}
	}
	return leaf.Verify(x509.VerifyOptions{
		Roots: pool(roots), Intermediates: pool(intermediates), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}

// CheckSignature reports whether the key of parent made the signature of c. It
// does not ask whether parent may.
func CheckSignature(parent, c *x509.Certificate) error {
	if !national(parent.Raw) {
		return parent.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature)
	}
	p, err := smx509.ParseCertificate(parent.Raw)
	if err != nil {
		return err
	}
	child, err := smx509.ParseCertificate(c.Raw)
	if err != nil {
		return err
	}
	return standardError(p.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature))
}

// Create makes a certificate from template for the public key pub and signs it
// with the key of parent, like x509.CreateCertificate: in DER.
func Create(template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	if !IsSM2(pub) && !IsSM2(signer.Public()) {
		return x509.CreateCertificate(rand.Reader, template, parent, pub, signer)
	}
	return smx509.CreateCertificate(rand.Reader, fork(template), fork(parent), pub, signer)
}

// MarshalPublicKey returns the SubjectPublicKeyInfo of pub in DER.
func MarshalPublicKey(pub crypto.PublicKey) ([]byte, error) {
	if IsSM2(pub) {
		return smx509.MarshalPKIXPublicKey(pub)
	}
	return x509.MarshalPKIXPublicKey(pub)
}
