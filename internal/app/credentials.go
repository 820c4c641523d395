package app

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"caponier/internal/cert"
	"caponier/internal/config"
	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/keystore"
	"caponier/internal/pki"
	"caponier/internal/suite"
)

// credentials are what a connection's files hold: our chain and key, and whom
// we trust at the other end.
type credentials struct {
	chain       [][]byte // DER, the leaf first; empty without a certificate
	signer      crypto.Signer
	verifier    *pki.Verifier // nil where the peer has no certificate
	authorities [][]byte
	peerSM2     bool // whom we trust has keys of SM2
	validities  []validity
	gm          *gmCredentials // of a connection of GM/T 0022, or nil
}

// readCredentials opens the files of a connection.
func readCredentials(c *config.Connection) (*credentials, error) {
	creds := new(credentials)
	switch {
	case c.Version == config.VersionGM:
		gm, all, err := readGM(c)
		if err != nil {
			return nil, fmt.Errorf("connection %s: %w", c.Name, err)
		}
		creds.gm, creds.validities = gm, all
	case c.Local.Auth == config.AuthCert:
		certs, err := pki.LoadCertificates(c.Local.Cert.Path)
		if err != nil {
			return nil, fmt.Errorf("connection %s: %w", c.Name, err)
		}
		for _, c := range certs {
			creds.chain = append(creds.chain, c.Raw)
		}
		creds.validities = append(creds.validities, validities("local.cert", certs)...)
		if creds.signer, err = keystore.Open(c.Local.Key.Path); err != nil {
			return nil, fmt.Errorf("connection %s: %w", c.Name, err)
		}
	}
	if c.Remote.Auth == config.AuthCert {
		var anchors []*x509.Certificate
		for _, f := range c.Remote.CA {
			certs, err := pki.LoadCertificates(f.Path)
			if err != nil {
				return nil, fmt.Errorf("connection %s: %w", c.Name, err)
			}
			anchors = append(anchors, certs...)
			creds.validities = append(creds.validities, validities("remote.ca", certs)...)
		}
		var pin *x509.Certificate
		if c.Remote.Pin != nil {
			certs, err := pki.LoadCertificates(c.Remote.Pin.Path)
			if err != nil {
				return nil, fmt.Errorf("connection %s: %w", c.Name, err)
			}
			pin = certs[0]
			creds.validities = append(creds.validities, validities("remote.pin", certs[:1])...)
		}
		var err error
		if creds.verifier, err = pki.NewVerifier(anchors, pin); err != nil {
			return nil, fmt.Errorf("connection %s: %w", c.Name, err)
		}
		creds.authorities = creds.verifier.Authorities()
		creds.peerSM2 = slices.ContainsFunc(append(anchors, pin), func(c *x509.Certificate) bool { return c != nil && cert.IsSM2(c.PublicKey) })
		var lists []*x509.RevocationList
		for _, f := range c.Remote.CRL {
			list, err := pki.LoadCRL(f.Path)
			if err != nil {
				return nil, fmt.Errorf("connection %s: %w", c.Name, err)
			}
			lists = append(lists, list)
		}
		creds.verifier = creds.verifier.WithRevocation(lists, c.Remote.Revocation == config.RevocationStrict)
	}
	return creds, nil
}

// wipe wipes the private keys, and counts them.
func (c *credentials) wipe() (n int) {
	own := []crypto.Signer{c.signer}
	if c.gm != nil {
		own = append(own, c.gm.sign, c.gm.encrypt)
	}
	for _, key := range own {
		if key != nil {
			keystore.Wipe(key)
			n++
		}
	}
	return n
}

// readAllCredentials opens the files of every connection, or says everything
// that is wrong with them.
func readAllCredentials(cfg *config.Config) (map[string]*credentials, error) {
	all := make(map[string]*credentials)
	var errs []error
	for _, c := range cfg.Connections {
		creds, err := readCredentials(c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all[c.Name] = creds
	}
	return all, errors.Join(errs...)
}

// authenticator makes and checks signatures with the credentials that the
// configuration in force names. It implements ike.Authenticator.
type authenticator struct {
	mu    sync.RWMutex
	creds map[string]*credentials // by connection
}

var errNoCredentials = errors.New("the connection has no credentials for this any more")

func (a *authenticator) set(creds map[string]*credentials) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.creds = creds
}

func (a *authenticator) all() map[string]*credentials {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.creds
}

func (a *authenticator) of(connection string) *credentials {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.creds[connection]
}

// Sign signs with the private key of a connection.
func (a *authenticator) Sign(connection string, scheme suite.SignatureScheme, octets []byte) (message.Auth, error) {
	creds := a.of(connection)
	if creds == nil || creds.signer == nil {
		return message.Auth{}, errNoCredentials
	}
	data, err := scheme.Sign(creds.signer, octets)
	if err != nil {
		return message.Auth{}, err
	}
	return message.Auth{Method: message.AuthMethod(scheme.Method), Data: data}, nil
}

// Verify checks the peer's chain, that it speaks for the identity, and the
// signature.
func (a *authenticator) Verify(v v2.Verify) error {
	creds := a.of(v.Connection.Name)
	if creds == nil || creds.verifier == nil {
		return errNoCredentials
	}
	pub, err := creds.verifier.Verify(v.Certificates, uint8(v.Identity.Kind), []byte(v.Identity.Data), time.Now())
	if err != nil {
		return err
	}
	return suite.VerifyAuth(pub, uint8(v.Auth.Method), v.Auth.Data, v.Octets)
}
