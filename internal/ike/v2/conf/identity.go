package conf

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"

	"caponier/internal/cert"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/suite"
)

// LocalIdentity returns what this side claims to be: what is configured, or the
// subject of its certificate, or its address.
func (c *Connection) LocalIdentity(local netip.Addr) (rules.Identity, error) {
	if c.Local.ID != (rules.Identity{}) {
		return c.Local.ID, nil
	}
	if c.GM != nil {
		return c.GM.Identity()
	}
	if c.Local.Auth == AuthPSK {
		return rules.AddressIdentity(local), nil
	}
	leaf, err := c.Local.leaf()
	if err != nil {
		return rules.Identity{}, err
	}
	return rules.Identity{Kind: message.IDDERASN1DN, Data: string(leaf.RawSubject)}, nil
}

func (p *Party) leaf() (*x509.Certificate, error) {
	if len(p.Certificates) == 0 {
		return nil, errors.New("no certificate is configured")
	}
	leaf, err := cert.Parse(p.Certificates[0])
	if err != nil {
		return nil, fmt.Errorf("own certificate: %w", err)
	}
	return leaf, nil
}

// SignatureScheme returns how to sign for a peer that accepts these hashes (see
// suite.ChooseSignature).
func (p *Party) SignatureScheme(peerHashes []uint16) (suite.SignatureScheme, error) {
	leaf, err := p.leaf()
	if err != nil {
		return suite.SignatureScheme{}, err
	}
	if p.PSS {
		return suite.ChoosePSS(leaf.PublicKey, peerHashes)
	}
	return suite.ChooseSignature(leaf.PublicKey, peerHashes)
}

// CertPayloads is our chain, the leaf first (RFC 7296, Section 3.6).
func (p *Party) CertPayloads() []message.Payload {
	if p.Auth != AuthCert {
		return nil
	}
	var out []message.Payload
	for _, der := range p.Certificates {
		out = append(out, &message.Cert{Encoding: message.CertX509Signature, Data: der})
	}
	return out
}

// CertReqs asks for certificates of the CAs that the connections trust, each once.
// It is empty where they trust none.
func CertReqs(connections ...*Connection) []message.Payload {
	req := &message.CertReq{Encoding: message.CertX509Signature}
	known := make(map[string]bool)
	for _, c := range connections {
		if c.Remote.Auth == AuthCert {
			for _, hash := range c.Remote.Authorities {
				if !known[string(hash)] {
					known[string(hash)] = true
					req.Data = append(req.Data, hash...)
				}
			}
		}
	}
	if len(req.Data) == 0 {
		return nil
	}
	return []message.Payload{req}
}
