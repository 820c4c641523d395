package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/emmansun/gmsm/sm2"

	"caponier/internal/cert"
	"caponier/internal/dn"
)

// What a stranger may send. IKE_AUTH is decrypted but not yet authenticated
// when certificates are looked at.
const (
	MaxChain       = 8        // certificates in all
	MaxCertificate = 32 << 10 // octets of one
	minRSA         = 2048     // bits of a modulus
	maxRSA         = 8192     // bits: checking a signature takes time with the square of it
)

// Verifier says which certificates a connection accepts from its peer. It is
// immutable, and safe for concurrent use.
type Verifier struct {
	anchors []*x509.Certificate
	roots   []*x509.Certificate
	pin     *x509.Certificate // or nil

	lists  []*revocations
	strict bool
}

// NewVerifier makes a Verifier that accepts what leads to one of the anchors,
// the certificates of authorities. With a pin, it accepts that certificate and
// no other; without anchors, the pin needs no issuer.
func NewVerifier(anchors []*x509.Certificate, pin *x509.Certificate) (*Verifier, error) {
	if len(anchors) == 0 && pin == nil {
		return nil, errors.New("neither a trust anchor nor a pinned certificate")
	}
	v := &Verifier{anchors: slices.Clone(anchors), pin: pin}
	for _, a := range anchors {
		if !mayIssue(a) {
			return nil, fmt.Errorf("%q cannot be a trust anchor: it is not the certificate of an authority", dn.FormatDN(a.RawSubject))
		}
	}
	v.roots = v.anchors
	if len(anchors) == 0 {
		v.roots = []*x509.Certificate{pin}
	}
	return v, nil
}

// Authorities returns the hashes of the anchors, for CERTREQ.
func (v *Verifier) Authorities() [][]byte {
	hashes := make([][]byte, 0, len(v.anchors))
	for _, a := range v.anchors {
		hashes = append(hashes, AuthorityHash(a))
	}
	return hashes
}

// AuthorityHash is the SHA-1 hash of an authority's SubjectPublicKeyInfo, by
// which CERTREQ names it (RFC 7296, Section 3.7).
func AuthorityHash(ca *x509.Certificate) []byte {
	sum := sha1.Sum(ca.RawSubjectPublicKeyInfo)
	return sum[:]
}

// Verify checks the certificates that a peer sent, DER, its own first and the
// others in any order, at the time now. kind and data are the type and the
// octets of its ID payload (RFC 7296, Section 3.5), for which its certificate
// must speak. Verify returns the key to check the AUTH signature with, or an
// *Error.
//
// Of the rules of RFC 4945: an extension that is critical and not understood is
// fatal (Section 5.1.3); key usage, where present, includes digitalSignature or
// nonRepudiation (5.1.3.2); extended key usage, where present, includes ipsecIKE
// or anyExtendedKeyUsage (5.1.3.12) or, beyond it, serverAuth or clientAuth,
// which gateways in the field have instead.
func (v *Verifier) Verify(chain [][]byte, kind uint8, data []byte, now time.Time) (crypto.PublicKey, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return nil, err
	}
	if err := v.verify(certs, signing, kind, data, now); err != nil {
		return nil, err
	}
	return certs[0].PublicKey, nil
}

// purpose is what a certificate is offered for.
type purpose struct {
	name  string
	usage x509.KeyUsage // one of these, where the certificate has key usage at all
	// explicit asks for key usage in the certificate: two certificates of one
	// gateway are told apart by it.
	explicit bool
}

const signatureUsage = x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment

var signing = purpose{name: "signatures", usage: signatureUsage}

func (p purpose) permitted(c *x509.Certificate) bool {
	return c.KeyUsage&p.usage != 0 || c.KeyUsage == 0 && !p.explicit
}

// verify checks certs[0], with the others to help, for a purpose and an identity.
func (v *Verifier) verify(certs []*x509.Certificate, p purpose, kind uint8, data []byte, now time.Time) error {
	leaf := certs[0]
	if v.pin != nil && !bytes.Equal(leaf.Raw, v.pin.Raw) {
		return refuse(CodePinMismatch, leaf, nil, "it is not the pinned certificate of %q", shorten(dn.FormatDN(v.pin.RawSubject)))
	}
	if v.pin == nil && slices.ContainsFunc(v.anchors, leaf.Equal) {
		return refuse(CodeAnchorAsPeer, leaf, nil, "it is a trust anchor and no gateway's own")
	}
	if err := checkTime(leaf, now); err != nil {
		return err
	}
	path, err := v.path(certs, now)
	if err != nil {
		return err
	}
	// The anchor, last, is trusted as it is.
	for _, c := range path[:max(1, len(path)-1)] {
		if !permitsIKE(c) {
			return refuse(CodeKeyUsage, c, nil, "its extended key usage %s does not allow IKE", strings.Join(extendedUsages(c), ", "))
		}
	}
	if !p.permitted(leaf) {
		return refuse(CodeKeyUsage, leaf, nil, "its key usage %s does not allow %s", usageText(leaf), p.name)
	}
	if err := v.checkRevocation(path, now); err != nil {
		return err
	}
	if kind == idKeyID && v.pin != nil {
		return nil // the pin binds the key to whatever the configuration calls it
	}
	if !speaksFor(leaf, kind, data) {
		return refuse(CodeIdentityMismatch, leaf, nil, "it does not speak for %s; its alternative names: %s",
			identityText(kind, data), listNames(leaf))
	}
	return nil
}

func usageText(c *x509.Certificate) string {
	if c.KeyUsage == 0 {
		return "(none)"
	}
	return strings.Join(keyUsages(c), ", ")
}

func listNames(c *x509.Certificate) string {
	names := alternativeNames(c)
	if len(names) == 0 {
		return "none"
	}
	return shorten(strings.Join(names, ", "))
}

func refuse(code Code, c *x509.Certificate, err error, format string, args ...any) *Error {
	e := &Error{Code: code, Detail: fmt.Sprintf(format, args...), Err: err}
	if c != nil {
		e.Subject = shorten(dn.FormatDN(c.RawSubject))
	}
	return e
}

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, refuse(CodeNoCertificate, nil, nil, "the peer sent no certificate")
	}
	if len(chain) > MaxChain {
		return nil, refuse(CodeTooMany, nil, nil, "the peer sent %d certificates, more than %d", len(chain), MaxChain)
	}
	certs := make([]*x509.Certificate, 0, len(chain))
	for i, der := range chain {
		if len(der) > MaxCertificate {
			return nil, refuse(CodeTooLarge, nil, nil, "certificate %d of the peer has %d octets, more than %d", i+1, len(der), MaxCertificate)
		}
		c, err := cert.Parse(der)
		if err != nil {
			return nil, refuse(CodeMalformed, nil, err, "certificate %d of the peer is malformed: %v", i+1, err)
		}
		if err := checkKey(c); err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	return certs, nil
}

// checkKey refuses keys that are too weak, and those that would keep us busy.
func checkKey(c *x509.Certificate) error {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSA || bits > maxRSA {
			return refuse(CodeWeakKey, c, nil, "its RSA key of %d bits is not between %d and %d", bits, minRSA, maxRSA)
		}
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521(), sm2.P256():
			return nil
		default:
			return refuse(CodeWeakKey, c, nil, "its ECDSA key is on %s", k.Params().Name)
		}
	case ed25519.PublicKey:
		return nil
	default:
		return refuse(CodeWeakKey, c, nil, "its key is of an algorithm that is not supported")
	}
}

func checkTime(c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return refuse(CodeNotYetValid, c, nil, "it is valid from %s, and the clock says %s", date(c.NotBefore), date(now))
	case now.After(c.NotAfter):
		return refuse(CodeExpired, c, nil, "it expired at %s, and the clock says %s", date(c.NotAfter), date(now))
	default:
		return nil
	}
}

// path finds the way from certs[0] to an anchor.
func (v *Verifier) path(certs []*x509.Certificate, now time.Time) ([]*x509.Certificate, error) {
	// crypto/x509 does not know ipsecIKE: permitsIKE has a look instead.
	paths, err := cert.Verify(certs[0], certs[1:], v.roots, now)
	if err != nil {
		return nil, v.explain(certs, now, err)
	}
	// Of several ways, one that is good throughout is enough.
	for _, p := range paths {
		if !slices.ContainsFunc(p[:max(1, len(p)-1)], func(c *x509.Certificate) bool { return !permitsIKE(c) }) {
			return p, nil
		}
	}
	return paths[0], nil
}

// explain turns an error of crypto/x509 into one of ours.
func (v *Verifier) explain(certs []*x509.Certificate, now time.Time, err error) error {
	leaf := certs[0]
	if _, ok := errors.AsType[x509.UnhandledCriticalExtension](err); ok {
		for _, c := range append(slices.Clone(certs), v.anchors...) {
			if len(c.UnhandledCriticalExtensions) > 0 {
				return refuse(CodeCriticalExtension, c, err, "its critical extension %v is not understood", c.UnhandledCriticalExtensions[0])
			}
		}
		return refuse(CodeCriticalExtension, leaf, err, "a critical extension on the way to the anchor is not understood")
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if !ok {
		return v.explainUnknown(certs, err)
	}
	c := invalid.Cert
	switch invalid.Reason {
	case x509.Expired:
		if err := checkTime(c, now); err != nil {
			return err
		}
		return refuse(CodeExpired, c, err, "it has expired")
	case x509.NotAuthorizedToSign:
		return refuse(CodeNotCA, c, err, "it issued a certificate, but is not an authority's")
	case x509.TooManyIntermediates:
		return refuse(CodePathLength, c, err, "it does not allow as many intermediates below it")
	case x509.CANotAuthorizedForThisName, x509.TooManyConstraints, x509.NameConstraintsWithoutSANs, x509.UnconstrainedName:
		return refuse(CodeNameConstraint, c, err, "a name is outside what its issuers may certify: %s", shorten(invalid.Detail))
	default:
		return refuse(CodeInvalid, c, err, "%s", shorten(err.Error()))
	}
}

// explainUnknown walks up from the peer's certificate to where the way ends.
func (v *Verifier) explainUnknown(certs []*x509.Certificate, err error) error {
	known := append(slices.Clone(certs[1:]), v.anchors...)
	c := certs[0]
	for range certs {
		var issuer *x509.Certificate
		var failure *Error
		for _, k := range known {
			if !bytes.Equal(k.RawSubject, c.RawIssuer) {
				continue
			}
			// CheckSignature says whether the key made it, CheckSignatureFrom whether
			// it counts.
			madeErr := cert.CheckSignature(k, c)
			_, insecure := errors.AsType[x509.InsecureAlgorithmError](errors.Join(madeErr, c.CheckSignatureFrom(k)))
			switch {
			case insecure:
				failure = refuse(CodeWeakSignature, c, err, "it is signed with %s, which is broken", c.SignatureAlgorithm)
			case madeErr != nil:
				failure = refuse(CodeUnknownCA, c, err, "its issuer %q has the name of a known authority, but another key",
					shorten(dn.FormatDN(c.RawIssuer)))
			case !mayIssue(k):
				failure = refuse(CodeNotCA, k, err, "it issued a certificate, but is not an authority's")
			default:
				issuer = k
			}
		}
		if issuer == nil || issuer.Equal(c) {
			if failure != nil {
				return failure
			}
			break
		}
		c = issuer
	}
	if bytes.Equal(c.RawIssuer, c.RawSubject) {
		return refuse(CodeUnknownCA, c, err, "it is self-signed, and no trust anchor")
	}
	return refuse(CodeUnknownCA, c, err, "its issuer %q is not a trust anchor, nor does it lead to one", shorten(dn.FormatDN(c.RawIssuer)))
}

// mayIssue reports whether the certificate is an authority's (RFC 5280, Section
// 4.2.1.9 and 4.2.1.3).
func mayIssue(c *x509.Certificate) bool {
	return c.BasicConstraintsValid && c.IsCA && (c.KeyUsage == 0 || c.KeyUsage&x509.KeyUsageCertSign != 0)
}

// permitsIKE reports whether the extended key usage allows IKE.
func permitsIKE(c *x509.Certificate) bool {
	if len(c.ExtKeyUsage) == 0 && len(c.UnknownExtKeyUsage) == 0 {
		return true
	}
	if slices.ContainsFunc(c.UnknownExtKeyUsage, oidIPsecIKE.Equal) {
		return true
	}
	return slices.ContainsFunc(c.ExtKeyUsage, func(u x509.ExtKeyUsage) bool {
		return u == x509.ExtKeyUsageAny || u == x509.ExtKeyUsageServerAuth || u == x509.ExtKeyUsageClientAuth
	})
}
