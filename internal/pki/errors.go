package pki

import "fmt"

// Code is the stable code of a reason to refuse a peer's certificate.
type Code string

// The codes.
const (
	CodeNoCertificate     Code = "no-certificate" // the peer sent none
	CodeTooMany           Code = "too-many-certificates"
	CodeTooLarge          Code = "certificate-too-large"
	CodeMalformed         Code = "malformed-certificate"
	CodeExpired           Code = "certificate-expired"
	CodeNotYetValid       Code = "certificate-not-yet-valid"
	CodeUnknownCA         Code = "unknown-ca"          // no path to a trust anchor
	CodeNotCA             Code = "not-a-ca"            // an issuer that may not issue
	CodePathLength        Code = "path-too-long"       // more intermediates than an issuer allows
	CodeNameConstraint    Code = "name-constraint"     // a name that an issuer may not certify
	CodeCriticalExtension Code = "critical-extension"  // one that is not understood
	CodeKeyUsage          Code = "wrong-key-usage"     // not for signatures of IKE
	CodeWeakKey           Code = "weak-key"            // too short to trust, or too long to check
	CodeWeakSignature     Code = "weak-signature"      // signed with a broken hash
	CodePinMismatch       Code = "pin-mismatch"        // not the certificate that is pinned
	CodeAnchorAsPeer      Code = "anchor-as-peer"      // the authority itself, unpinned
	CodeIdentityMismatch  Code = "identity-mismatch"   // does not speak for the peer's identity
	CodeRevoked           Code = "certificate-revoked" // its issuer has taken it back
	CodeRevocationUnknown Code = "revocation-unknown"  // no current list of its issuer
	CodeInvalid           Code = "invalid-certificate" // refused for another reason
)

// Error says why a peer's certificates are refused.
type Error struct {
	Code    Code
	Subject string // of the certificate that is at fault, fit for a log; or empty
	Detail  string // the cause in words, fit for a log
	Err     error  // from crypto/x509, or nil
}

// Error returns subject and cause.
func (e *Error) Error() string {
	if e.Subject == "" {
		return e.Detail
	}
	return fmt.Sprintf("certificate of %q: %s", e.Subject, e.Detail)
}

// Unwrap returns the error of crypto/x509.
func (e *Error) Unwrap() error { return e.Err }

// Cure returns the smallest change that would help.
func (e *Error) Cure() string {
	switch e.Code {
	case CodeNoCertificate:
		return "make the peer send its certificate, and its intermediates with it"
	case CodeTooMany, CodeTooLarge:
		return "make the peer send only its certificate and the intermediates below the anchor"
	case CodeExpired:
		return "renew the certificate, or set this gateway's clock"
	case CodeNotYetValid:
		return "set this gateway's clock or the issuer's"
	case CodeUnknownCA:
		return "name the issuer's certificate as ca of the remote, or make the peer send its intermediates"
	case CodeNotCA, CodePathLength, CodeNameConstraint:
		return "have the issuer's certificate reissued by the authority above it"
	case CodeKeyUsage:
		return "reissue the certificate with key usage digitalSignature and extended key usage ipsecIKE or none"
	case CodeWeakKey, CodeWeakSignature:
		return "reissue the certificate with a key of ECDSA, Ed25519 or RSA 2048 to 8192 and a hash of SHA-256 or better"
	case CodeRevoked:
		return "issue the peer a new certificate, unless it was revoked for good reason"
	case CodeRevocationUnknown:
		return "put the issuer's current revocation list under crl of the remote, or set revocation: relaxed"
	case CodePinMismatch:
		return "if the peer has renewed its certificate, pin the new one"
	case CodeAnchorAsPeer:
		return "issue the peer a certificate of its own, or pin this one"
	case CodeIdentityMismatch:
		return "set the peer's id to its subject or to an alternative name of its certificate"
	default:
		return "reissue the certificate"
	}
}
