package app

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"fmt"
	"time"

	"caponier/internal/cert"
	"caponier/internal/config"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/keystore"
	"caponier/internal/pki"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// gmCredentials are the two pairs of a connection of GM/T 0022.
type gmCredentials struct {
	signCert, encryptCert []byte // DER
	sign                  crypto.Signer
	encrypt               keystore.Pair
	id                    string // of signers, ours and the peer's
}

// readGM opens the files of the two pairs.
func readGM(c *config.Connection) (*gmCredentials, []validity, error) {
	creds := &gmCredentials{id: c.GM.SignerID}
	var all []validity
	for _, f := range []struct {
		key       string
		cert, own *config.File
		der       *[]byte
		signer    func(crypto.Signer) error
	}{
		{"local.sign-cert", c.Local.SignCert, c.Local.SignKey, &creds.signCert, func(k crypto.Signer) error {
			creds.sign = k
			return nil
		}},
		{"local.encrypt-cert", c.Local.EncryptCert, c.Local.EncryptKey, &creds.encryptCert, func(k crypto.Signer) error {
			pair, ok := k.(keystore.Pair)
			if !ok {
				return fmt.Errorf("the private key %s does not decrypt", c.Local.EncryptKey.Path)
			}
			creds.encrypt = pair
			return nil
		}},
	} {
		certs, err := pki.LoadCertificates(f.cert.Path)
		if err != nil {
			return nil, nil, err
		}
		*f.der = certs[0].Raw
		all = append(all, validities(f.key, certs)...)
		key, err := keystore.Open(f.own.Path)
		if err != nil {
			return nil, nil, err
		}
		if err := f.signer(key); err != nil {
			return nil, nil, err
		}
	}
	return creds, all, nil
}

// gmSettings translates the settings of GM/T 0022.
func gmSettings(g *config.GM, creds *gmCredentials) *conf.GM {
	out := &conf.GM{
		SignCertificate: creds.signCert, EncryptCertificate: creds.encryptCert,
		Version10:   g.ISAKMP != 0,
		QuickHash:   keys.QuickForm(g.QuickHash),
		Envelope:    suite.SM2Encoding(g.Envelope),
		Signature:   suite.SM2Style{Digest: suite.SM2Digest(g.PreHash)},
		BareCert:    g.SignedCert != 0,
		IKESM4:      g.IKESM4,
		ESPSM4:      g.ESPSM4,
		KeyLength:   g.KeyLength,
		IDSignature: g.IDFrom != 0,
	}
	if g.Signature != 0 {
		out.Signature.Encoding = suite.SM2Raw
	}
	if g.NATHash != 0 {
		out.NATHash = ipsec.Transform{Type: ipsec.TypePRF, ID: natHashes[g.NATHash]}
	}
	return out
}

// natHashes are the PRFs of the hashes, by the words of nat-hash.
var natHashes = map[config.NATHash]uint16{1: ipsec.PRFHMACSHA1, 2: ipsec.PRFHMACMD5, 3: ipsec.PRFHMACSHA256}

// gm returns what a connection of GM/T 0022 proves itself with.
func (a *authenticator) gm(connection string) (*credentials, error) {
	creds := a.of(connection)
	if creds == nil || creds.gm == nil || creds.verifier == nil {
		return nil, errNoCredentials
	}
	return creds, nil
}

// Unwrap decrypts the key in a peer's envelope.
func (a *authenticator) Unwrap(connection string, ciphertext []byte) (secret.Key, suite.SM2Encoding, error) {
	creds, err := a.gm(connection)
	if err != nil {
		return secret.Key{}, 0, err
	}
	return suite.SM2Decrypt(rand.Reader, creds.gm.encrypt, ciphertext)
}

// Envelope encrypts our key to the peer's encryption certificate and signs. With
// Check, the certificates have just come, from nobody knows whom.
func (a *authenticator) Envelope(x step.Envelope) (ciphertext, signature []byte, err error) {
	creds, err := a.gm(x.Connection.Name)
	if err != nil {
		return nil, nil, err
	}
	var to *ecdsa.PublicKey
	if x.Check {
		if len(x.Certificates) == 0 {
			return nil, nil, &pki.Error{Code: pki.CodeNoCertificate, Detail: "the peer sent no certificate"}
		}
		id, err := expected(x.Connection.Remote.ID, x.Certificates[0])
		if err != nil {
			return nil, nil, err
		}
		if _, to, err = creds.verifyDual(x.Certificates, x.Encryption, id); err != nil {
			return nil, nil, err
		}
	} else {
		c, err := cert.Parse(x.Encryption)
		if err != nil {
			return nil, nil, err
		}
		key, ok := c.PublicKey.(*ecdsa.PublicKey)
		if !ok {
			return nil, nil, errNoCredentials
		}
		to = key
	}
	if ciphertext, err = suite.SM2Encrypt(rand.Reader, to, x.Key, x.Encoding); err != nil {
		return nil, nil, err
	}
	signature, err = suite.SM2Sign(rand.Reader, creds.gm.sign, creds.gm.id, x.Style, x.Octets)
	return ciphertext, signature, err
}

// expected is the identity that a peer has to prove before it has claimed one:
// whom the configuration names, or, where that is many, the subject of its
// certificate.
func expected(want rules.Identity, der []byte) (rules.Identity, error) {
	if want != (rules.Identity{}) && !want.IsPattern() {
		return want, nil
	}
	c, err := cert.Parse(der)
	if err != nil {
		return rules.Identity{}, &pki.Error{Code: pki.CodeMalformed, Detail: "the certificate of the peer is malformed", Err: err}
	}
	subject := rules.Identity{Kind: message.IDDERASN1DN, Data: string(c.RawSubject)}
	if want.Kind == subject.Kind && !want.Permits(subject) {
		return rules.Identity{}, &pki.Error{Code: pki.CodeIdentityMismatch, Detail: fmt.Sprintf("the peer is %s, and not %s", subject, want)}
	}
	return subject, nil
}

// Examine checks the peer's certificates, that they speak for its identity, and
// its signature.
func (a *authenticator) Examine(x step.Examine) (style suite.SM2Style, form int, err error) {
	creds, err := a.gm(x.Connection.Name)
	if err != nil {
		return style, 0, err
	}
	trusted, _, denied := creds.verifyDual(x.Certificates, x.Encryption, x.Identity)
	key := crypto.PublicKey(trusted)
	if denied != nil {
		// The identity stood in the envelope: that it is not the certificate's must not
		// show in the time either.
		key = signatureKey(x.Certificates)
	}
	err = suite.ErrSM2
	for i, octets := range x.Octets { // all of them, for the same reason
		if s, failed := suite.SM2Verify(key, creds.gm.id, octets, x.Signature); failed == nil && err != nil {
			style, form, err = s, i, nil
		}
	}
	return style, form, cmp.Or(denied, err)
}

// signatureKey is the key in a certificate that is not trusted, or nil.
func signatureKey(chain [][]byte) crypto.PublicKey {
	if len(chain) == 0 {
		return nil
	}
	c, err := cert.Parse(chain[0])
	if err != nil {
		return nil
	}
	return c.PublicKey
}

// verifyDual checks the certificates that a peer sent.
func (c *credentials) verifyDual(signing [][]byte, encryption []byte, id rules.Identity) (sign, encrypt *ecdsa.PublicKey, err error) {
	if len(signing) == 0 {
		return nil, nil, &pki.Error{Code: pki.CodeNoCertificate, Detail: "the peer sent no certificate"}
	}
	return c.verifier.VerifyDual(signing[0], encryption, signing[1:], uint8(id.Kind), []byte(id.Data), time.Now())
}
