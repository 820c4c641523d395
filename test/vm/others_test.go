package vm

import (
	"os"
	"path/filepath"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/pki"
	"caponier/test/interop"
)

// swan is strongSwan with its kernel-netlink.
type swan struct{ *interop.StrongSwan }

func (p *peering) startStrongSwan(t *testing.T, n *interop.Network, a authority) other {
	t.Helper()
	near, far := p.addresses(n)
	if !p.v6 {
		near = n.A.Seen
	}
	conn := interop.Connection{
		Name: peerName, LocalAddrs: []string{far.String()}, RemoteAddrs: []string{near.String()},
		Proposals: "aes256gcm16-prfsha512-x25519", Encap: p.udp,
		Local: interop.Auth{Auth: "psk", ID: peerID}, Remote: interop.Auth{Auth: "psk", ID: caponierID},
		Extra: []string{"mobike = no"},
	}
	c := interop.Config{Kernel: true, Plugins: "random nonce openssl pem pkcs1 x509 pubkey constraints kdf ctr ccm gcm hmac cmac xcbc kernel-netlink socket-default vici"}
	if a == "" {
		c.PSKs = []interop.PSK{{IDs: []string{caponierID, peerID}, Secret: peerSecret}}
	} else {
		c.CAs, c.Certs, c.Keys = []string{a.path("rootca.pem")}, []string{a.path("peer.pem")}, []string{a.path("peer.key")}
		conn.Local = interop.Auth{Auth: "pubkey", ID: peerID, Certs: []string{"peer.pem"}}
		conn.Remote = interop.Auth{Auth: "pubkey", ID: caponierID}
	}
	for _, child := range p.children(n) {
		sc := interop.Child{Name: child.name, LocalTS: child.far, RemoteTS: child.near, Proposals: p.words, Extra: []string{"mode = " + p.mode.String()}}
		if p.mode == ipsec.Transport {
			sc.LocalTS, sc.RemoteTS = nil, nil // the addresses, whatever a NAT makes of them
		}
		if p.ah {
			sc.Proposals, sc.Extra = "", append(sc.Extra, "ah_proposals = "+p.words)
		}
		conn.Children = append(conn.Children, sc)
	}
	c.Connections = []interop.Connection{conn}
	return swan{interop.StartStrongSwan(t, n.B.Gateway, c)}
}

func (s swan) initiate(t *testing.T, child string)   { t.Helper(); s.MustInitiate(t, child) }
func (s swan) rekeyChild(t *testing.T, child string) { t.Helper(); s.RekeyChild(t, child) }
func (s swan) rekeyIKE(t *testing.T)                 { t.Helper(); s.RekeyIKE(t, peerName) }
func (s swan) terminate(t *testing.T)                { t.Helper(); s.TerminateIKE(t, peerName) }

func (s swan) settled(t *testing.T, children int) bool {
	t.Helper()
	sas := s.SAs(t)
	if children == 0 {
		return len(sas) == 0
	}
	if len(sas) != 1 || sas[0].State != "ESTABLISHED" {
		return false
	}
	installed := 0
	for _, c := range sas[0].Children {
		switch c.State {
		case "INSTALLED":
			installed++
		case "DELETED": // and shown for some seconds
		default:
			return false
		}
	}
	return installed == children
}

// pluto is Libreswan.
type pluto struct {
	*interop.Libreswan
	connections []string
}

func (p *peering) startLibreswan(t *testing.T, n *interop.Network, a authority) other {
	t.Helper()
	near, far := p.addresses(n)
	if !p.v6 {
		near = n.A.Seen
	}
	lines := []string{
		"ikev2=insist", "ike=aes_gcm256-sha2_512-dh31", "pfs=yes", "auto=ignore", "leftupdown=%disabled",
		"left=" + far.String(), "leftid=@" + peerID, "right=" + near.String(), "rightid=@" + caponierID, "type=" + p.mode.String(),
	}
	if p.v6 {
		lines = append(lines, "hostaddrfamily=ipv6")
	}
	if p.udp {
		lines = append(lines, "encapsulation=yes")
	}
	algorithms := map[string]string{
		gcm: "aes_gcm256", "aes256-sha256-x25519": "aes256-sha2_256", ahMAC: "sha2_256", "sha512-x25519": "sha2_512",
	}
	lines = append(lines, "phase2="+p.protocol().String(), "phase2alg="+algorithms[p.words])
	c := interop.LibreswanConfig{}
	if a == "" {
		c.PSK = peerSecret
		lines = append(lines, "authby=secret")
	} else {
		// What pk12util calls the certificates.
		method := "authby=rsa-sha2"
		if p.key == pki.ECDSAP256 {
			method = "authby=ecdsa" // left to itself, it signs with any key as if that were RSA
		}
		lines = append(lines, `leftcert="peer - netsecvpn"`, "rightca=%same", method)
		c.Authority, c.Passphrase = "rootca - netsecvpn", "opens the certificates"
		c.PKCS12 = filepath.Join(t.TempDir(), "peer.p12")
		data, err := pki.Export(string(a), "peer", pki.Transfer{Format: pki.PKCS12, Passphrase: []byte(c.Passphrase)})
		must(t, err)
		must(t, os.WriteFile(c.PKCS12, data, 0o600))
	}
	var names []string
	for _, child := range p.children(n) {
		names = append(names, child.name)
		own := lines
		if p.mode == ipsec.Tunnel {
			own = append(own[:len(own):len(own)], "leftsubnet="+child.far[0], "rightsubnet="+child.near[0])
		}
		c.Connections = append(c.Connections, interop.LibreswanConnection{Name: child.name, Lines: own})
	}
	root := filepath.Join(os.Getenv(insideVariable), "libreswan")
	return pluto{interop.StartLibreswan(t, n.B.Gateway, root, c), names}
}

func (l pluto) initiate(t *testing.T, child string) {
	t.Helper()
	must(t, l.Initiate(t, child))
}

func (l pluto) rekeyChild(t *testing.T, child string) { t.Helper(); l.RekeyChild(t, child) }
func (l pluto) rekeyIKE(t *testing.T)                 { t.Helper(); l.RekeyIKE(t) }
func (l pluto) terminate(t *testing.T)                { t.Helper(); l.TerminateIKE(t, l.connections...) }

func (l pluto) settled(t *testing.T, children int) bool {
	t.Helper()
	return l.Holds(t, min(children, 1), children)
}
