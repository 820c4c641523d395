package v2

import (
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"caponier/internal/dn"
	"caponier/internal/ike/message"
)

// String prints the identity as operators write it: a distinguished name, an
// address, a domain name, or octets in hexadecimal behind "0x".
func (id Identity) String() string {
	switch id.Kind {
	case 0:
		return "%any"
	case message.IDIPv4, message.IDIPv6:
		if a, ok := netip.AddrFromSlice([]byte(id.Data)); ok {
			return a.String()
		}
	case message.IDFQDN, message.IDRFC822:
		// The octets are a peer's: what could disturb a terminal is escaped.
		return strings.Trim(strconv.QuoteToASCII(id.Data), `"`)
	case message.IDDERASN1DN:
		return dn.FormatDN([]byte(id.Data))
	default:
	}
	return "0x" + hex.EncodeToString([]byte(id.Data))
}

// equals compares identities: distinguished names by their meaning, domain
// names without regard to case, the rest octet by octet.
func (id Identity) equals(o Identity) bool {
	if id.Kind != o.Kind {
		return false
	}
	switch id.Kind {
	case message.IDDERASN1DN:
		return dn.Equal([]byte(id.Data), []byte(o.Data))
	case message.IDFQDN, message.IDRFC822:
		return strings.EqualFold(id.Data, o.Data)
	default:
		return id.Data == o.Data
	}
}

// permits reports whether a peer that claims o may be the one that is
// configured; the zero Identity permits all.
func (id Identity) permits(o Identity) bool { return id == Identity{} || id.equals(o) }

func identityOf(p *message.ID) Identity {
	return Identity{Kind: p.Kind, Data: string(p.Data)}
}

func (id Identity) payload(responder bool) *message.ID {
	return &message.ID{Responder: responder, Kind: id.Kind, Data: []byte(id.Data)}
}

func addressIdentity(a netip.Addr) Identity {
	kind := message.IDIPv6
	if a = a.Unmap(); a.Is4() {
		kind = message.IDIPv4
	}
	return Identity{Kind: kind, Data: string(a.AsSlice())}
}

// localIdentity returns what this side claims to be: what is configured, or the
// subject of its certificate, or its address.
func (m *Machine) localIdentity(c *Connection) (Identity, error) {
	if c.Local.ID != (Identity{}) {
		return c.Local.ID, nil
	}
	if c.Local.Auth == AuthPSK {
		return addressIdentity(m.local.Addr()), nil
	}
	leaf, err := c.Local.leaf()
	if err != nil {
		return Identity{}, err
	}
	return Identity{Kind: message.IDDERASN1DN, Data: string(leaf.RawSubject)}, nil
}

func (p *Party) leaf() (*x509.Certificate, error) {
	if len(p.Certificates) == 0 {
		return nil, fmt.Errorf("no certificate is configured")
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
