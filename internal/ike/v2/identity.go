package v2

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
)

// localIdentity returns what this side claims to be: what is configured, or the
// subject of its certificate, or its address.
func (m *Machine) localIdentity(c *Connection) (Identity, error) {
	if c.Local.ID != (Identity{}) {
		return c.Local.ID, nil
	}
	if c.Local.Auth == AuthPSK {
		return rules.AddressIdentity(m.local.Addr()), nil
	}
	leaf, err := c.Local.leaf()
	if err != nil {
		return Identity{}, err
	}
	return Identity{Kind: message.IDDERASN1DN, Data: string(leaf.RawSubject)}, nil
}

func (p *Party) leaf() (*x509.Certificate, error) {
	if len(p.Certificates) == 0 {
		return nil, errors.New("no certificate is configured")
	}
	leaf, err := x509.ParseCertificate(p.Certificates[0])
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	return leaf, nil
}

func (p *Party) publicKey() (crypto.PublicKey, error) {
	leaf, err := p.leaf()
	if err != nil {
		return nil, err
	}
	return leaf.PublicKey, nil
}
