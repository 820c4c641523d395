package cert

import (
	"crypto/x509"
	"errors"
	"time"

	"github.com/emmansun/gmsm/smx509"
)

// verifyNational is Verify for ways that hold an SM2 key or signature.
func verifyNational(leaf *x509.Certificate, intermediates, roots []*x509.Certificate, now time.Time) ([][]*x509.Certificate, error) {
	c, err := smx509.ParseCertificate(leaf.Raw)
	if err != nil {
		return nil, err
	}
	others, err := forkPool(intermediates)
	if err != nil {
		return nil, err
	}
	anchors, err := forkPool(roots)
	if err != nil {
		return nil, err
	}
	found, err := c.Verify(smx509.VerifyOptions{
		Roots: anchors, Intermediates: others, CurrentTime: now,
		KeyUsages: []smx509.ExtKeyUsage{smx509.ExtKeyUsageAny},
	})
	if err != nil {
		return nil, standardError(err)
	}
	ways := make([][]*x509.Certificate, 0, len(found))
	for _, f := range found {
		way := make([]*x509.Certificate, 0, len(f))
		for _, c := range f {
			way = append(way, standard(c))
		}
		ways = append(ways, way)
	}
	return ways, nil
}

func forkPool(certs []*x509.Certificate) (*smx509.CertPool, error) {
	p := smx509.NewCertPool()
	for _, c := range certs {
		f, err := smx509.ParseCertificate(c.Raw)
		if err != nil {
			return nil, err
		}
		p.AddCert(f)
	}
	return p, nil
}

// standardError gives the errors of smx509 their types in crypto/x509.
func standardError(err error) error {
	if e, ok := errors.AsType[smx509.CertificateInvalidError](err); ok {
		return x509.CertificateInvalidError{Cert: standard(e.Cert), Reason: x509.InvalidReason(e.Reason), Detail: e.Detail}
	}
	if _, ok := errors.AsType[smx509.UnhandledCriticalExtension](err); ok {
		return x509.UnhandledCriticalExtension{}
	}
	if e, ok := errors.AsType[smx509.InsecureAlgorithmError](err); ok {
		return x509.InsecureAlgorithmError(e)
	}
	return err
}

// standard is c as crypto/x509 would have read it. smx509 is a fork with the
// same fields and numbers, under types of its own.
func standard(c *smx509.Certificate) *x509.Certificate {
	if c == nil {
		return nil
	}
	s := &x509.Certificate{
		Raw: c.Raw, RawTBSCertificate: c.RawTBSCertificate, RawSubjectPublicKeyInfo: c.RawSubjectPublicKeyInfo,
		RawSubject: c.RawSubject, RawIssuer: c.RawIssuer,
		Signature:          c.Signature,
		PublicKeyAlgorithm: x509.PublicKeyAlgorithm(c.PublicKeyAlgorithm), PublicKey: c.PublicKey,
		Version: c.Version, SerialNumber: c.SerialNumber, Issuer: c.Issuer, Subject: c.Subject,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		KeyUsage: x509.KeyUsage(c.KeyUsage), Extensions: c.Extensions,
		UnhandledCriticalExtensions: c.UnhandledCriticalExtensions, UnknownExtKeyUsage: c.UnknownExtKeyUsage,
		BasicConstraintsValid: c.BasicConstraintsValid, IsCA: c.IsCA,
		MaxPathLen: c.MaxPathLen, MaxPathLenZero: c.MaxPathLenZero,
		SubjectKeyId: c.SubjectKeyId, AuthorityKeyId: c.AuthorityKeyId,
		DNSNames: c.DNSNames, EmailAddresses: c.EmailAddresses, IPAddresses: c.IPAddresses, URIs: c.URIs,
		CRLDistributionPoints: c.CRLDistributionPoints,
	}
	// Beyond it stand algorithms that crypto/x509 has no number for.
	if c.SignatureAlgorithm <= smx509.PureEd25519 {
		s.SignatureAlgorithm = x509.SignatureAlgorithm(c.SignatureAlgorithm)
	}
	for _, u := range c.ExtKeyUsage {
		s.ExtKeyUsage = append(s.ExtKeyUsage, x509.ExtKeyUsage(u))
	}
	return s
}

// fork is the reverse, for what a template of Create says.
func fork(c *x509.Certificate) *smx509.Certificate {
	f := &smx509.Certificate{
		Raw: c.Raw, RawSubject: c.RawSubject, Subject: c.Subject, PublicKey: c.PublicKey,
		SerialNumber: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: c.NotAfter,
		KeyUsage: smx509.KeyUsage(c.KeyUsage), UnknownExtKeyUsage: c.UnknownExtKeyUsage,
		BasicConstraintsValid: c.BasicConstraintsValid, IsCA: c.IsCA,
		MaxPathLen: c.MaxPathLen, MaxPathLenZero: c.MaxPathLenZero,
		SubjectKeyId: c.SubjectKeyId, AuthorityKeyId: c.AuthorityKeyId,
		DNSNames: c.DNSNames, EmailAddresses: c.EmailAddresses, IPAddresses: c.IPAddresses, URIs: c.URIs,
		CRLDistributionPoints: c.CRLDistributionPoints, ExtraExtensions: c.ExtraExtensions,
	}
	for _, u := range c.ExtKeyUsage {
		f.ExtKeyUsage = append(f.ExtKeyUsage, smx509.ExtKeyUsage(u))
	}
	return f
}
