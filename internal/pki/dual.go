package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"time"

	"caponier/internal/cert"
	"caponier/internal/dn"
)

// The purposes of the two certificates of a gateway of GM/T 0022. GM/T 0015 asks
// for key usage, by which they are told apart.
var (
	dualSigning    = purpose{name: "signatures", usage: signatureUsage, explicit: true}
	dualEncryption = purpose{
		name: "encryption", explicit: true,
		usage: x509.KeyUsageKeyEncipherment | x509.KeyUsageDataEncipherment | x509.KeyUsageKeyAgreement,
	}
)

// VerifyDual checks the two certificates of a peer of GM/T 0022, DER, like
// Verify: sign for its signatures, encrypt for the envelopes sent to it. Both
// are of one subject, with keys of SM2 that differ. authorities are the
// intermediates that came with them. It returns the two keys, or an *Error.
func (v *Verifier) VerifyDual(sign, encrypt []byte, authorities [][]byte, kind uint8, data []byte, now time.Time) (signKey, encryptKey *ecdsa.PublicKey, err error) {
	certs, err := parseChain(append([][]byte{sign, encrypt}, authorities...))
	if err != nil {
		return nil, nil, err
	}
	s, e, others := certs[0], certs[1], certs[2:]
	if err := v.verify(append([]*x509.Certificate{s}, others...), dualSigning, kind, data, now); err != nil {
		return nil, nil, err
	}
	// A pin names the signature certificate; the encryption certificate goes with it.
	w := *v
	if w.pin != nil && len(w.anchors) > 0 {
		w.pin = nil
	}
	if err := w.verify(append([]*x509.Certificate{e}, others...), dualEncryption, kind, data, now); err != nil {
		return nil, nil, err
	}
	if !dn.Equal(s.RawSubject, e.RawSubject) {
		return nil, nil, refuse(CodeIdentityMismatch, e, nil, "it is of another subject than the signature certificate of %q", shorten(dn.FormatDN(s.RawSubject)))
	}
	signKey, encryptKey = sm2Key(s), sm2Key(e)
	switch {
	case signKey == nil:
		return nil, nil, refuse(CodeWeakKey, s, nil, "its key is not of SM2")
	case encryptKey == nil:
		return nil, nil, refuse(CodeWeakKey, e, nil, "its key is not of SM2")
	case signKey.Equal(encryptKey):
		return nil, nil, refuse(CodeKeyUsage, e, nil, "its key is that of the signature certificate")
	}
	return signKey, encryptKey, nil
}

func sm2Key(c *x509.Certificate) *ecdsa.PublicKey {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || !cert.IsSM2(key) {
		return nil
	}
	return key
}
