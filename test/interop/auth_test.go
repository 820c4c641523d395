package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/pki"
)

// Subjects of the certificates, and their other names.
const (
	caponierDN   = "C=FI, O=netsecvpn, CN=caponier"
	strongSwanDN = "C=FI, O=netsecvpn, CN=strongswan"
)

// alternativeNames are an identity of each kind that a certificate can hold
// beside its subject, for caponier and for strongSwan.
var alternativeNames = map[string][2]string{
	"host name":    {"caponier.example", "strongswan.example"},
	"mail address": {"gw@caponier.example", "gw@strongswan.example"},
	"IPv4 address": {"192.0.2.1", "192.0.2.2"},
	"IPv6 address": {"2001:db8::1", "2001:db8::2"},
}

// authority is a directory with the certificates and keys of both gateways:
// rootca.pem, caponier.pem, caponier.key, strongswan.pem, strongswan.key.
type authority string

func (a authority) path(name string) string { return filepath.Join(string(a), name) }

// ownAuthority issues with caponier's pki.
func ownAuthority(t testing.TB, key pki.KeyType) authority {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	now := time.Now()
	_, err := pki.Init(dir, pki.Request{Subject: "C=FI, O=netsecvpn, CN=rootca", Key: key}, now)
	must(t, err)
	for i, name := range []string{"caponier", "strongswan"} {
		var sans []string
		for _, names := range alternativeNames {
			sans = append(sans, names[i])
		}
		_, err := pki.Issue(dir, name, pki.Request{Subject: "C=FI, O=netsecvpn, CN=" + name, SANs: sans, Key: key}, now)
		must(t, err)
	}
	return authority(dir)
}

// opensslAuthority issues with OpenSSL, with an intermediate CA. generate is the
// command that writes a private key to a file, whose name is appended.
func opensslAuthority(t testing.TB, generate ...string) authority {
	t.Helper()
	dir := t.TempDir()
	openssl := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		return data
	}
	issue := func(name, issuer, extensions string) {
		t.Helper()
		must(t, os.WriteFile(filepath.Join(dir, "extensions"), []byte(extensions), 0o600))
		openssl(append(generate, name+".key")...)
		must(t, os.Chmod(filepath.Join(dir, name+".key"), 0o600))
		openssl("req", "-new", "-key", name+".key", "-subj", "/C=FI/O=netsecvpn/CN="+name, "-out", name+".csr")
		sign := []string{"x509", "-req", "-in", name + ".csr", "-days", "1", "-extfile", "extensions", "-out", name + ".pem"}
		if issuer == "" {
			sign = append(sign, "-signkey", name+".key")
		} else {
			sign = append(sign, "-CA", issuer+".pem", "-CAkey", issuer+".key", "-CAcreateserial")
		}
		openssl(sign...)
	}
	const authorityExtensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
	issue("rootca", "", authorityExtensions)
	issue("between", "rootca", authorityExtensions)
	for _, name := range []string{"caponier", "strongswan"} {
		issue(name, "between", "keyUsage=critical,digitalSignature\nsubjectAltName=DNS:"+name+".example\n")
		must(t, os.WriteFile(filepath.Join(dir, name+".pem"), append(read(name+".pem"), read("between.pem")...), 0o600))
	}
	return authority(dir)
}

// certify has both gateways authenticate with certificates of an authority, and
// go by these identities.
func (s *setup) certify(a authority, caponierID, strongSwanID string) {
	s.peer(func(p *Peer) {
		p.Local = Party{Address: p.Local.Address, ID: caponierID, Cert: a.path("caponier.pem"), Key: a.path("caponier.key")}
		p.Remote = Party{Address: p.Remote.Address, ID: strongSwanID, CA: a.path("rootca.pem")}
	})
	s.StrongSwan.PSKs = nil
	s.StrongSwan.CAs = []string{a.path("rootca.pem")}
	s.StrongSwan.Certs = []string{a.path("strongswan.pem")}
	if between := a.path("between.pem"); exists(between) {
		s.StrongSwan.Certs = append(s.StrongSwan.Certs, between)
	}
	s.StrongSwan.Keys = []string{a.path("strongswan.key")}
	c := s.conn()
	c.Local = Auth{Auth: "pubkey", ID: strongSwanID, Certs: []string{"strongswan.pem"}}
	c.Remote = Auth{Auth: "pubkey", ID: caponierID}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestAuthentication(t *testing.T) {
	t.Parallel()
	// What charon's log calls the methods; both ends use the same here.
	rows := []struct {
		name, what string
		authority  func(testing.TB) authority
		classic    bool
		method     string
	}{
		{name: "psk", what: "pre-shared key", method: "pre-shared key"},
		{name: "rsa-2048", what: "RSA 2048, RFC 7427", method: "RSA_EMSA_PKCS1_SHA2_256", authority: own(pki.RSA2048)},
		{name: "rsa-2048-classic", what: "RSA 2048 with SHA-1, method 1", method: "RSA signature", authority: own(pki.RSA2048), classic: true},
		{name: "ecdsa-p256", what: "ECDSA P-256, RFC 7427", method: "ECDSA_WITH_SHA256_DER", authority: own(pki.ECDSAP256)},
		{name: "ecdsa-p256-classic", what: "ECDSA P-256, method 9", method: "ECDSA-256 signature", authority: own(pki.ECDSAP256), classic: true},
		{name: "ecdsa-p384", what: "ECDSA P-384, RFC 7427", method: "ECDSA_WITH_SHA384_DER", authority: own(pki.ECDSAP384)},
		{name: "ecdsa-p384-classic", what: "ECDSA P-384, method 10", method: "ECDSA-384 signature", authority: own(pki.ECDSAP384), classic: true},
		{name: "ed25519", what: "Ed25519, RFC 8420", method: "ED25519", authority: own(pki.Ed25519)},
		{
			name: "openssl-rsa", what: "RSA 3072 from OpenSSL, by way of an intermediate CA", method: "RSA_EMSA_PKCS1_SHA2_256",
			authority: openssl("genrsa", "-traditional", "-out"),
		},
		{
			name: "openssl-ecdsa-p521", what: "ECDSA P-521 from OpenSSL, by way of an intermediate CA", method: "ECDSA_WITH_SHA512_DER",
			authority: openssl("ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out"),
		},
		{
			name: "openssl-ecdsa-p521-classic", what: "ECDSA P-521, method 11", method: "ECDSA-521 signature", classic: true,
			authority: openssl("ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out"),
		},
		{
			name: "openssl-ed25519", what: "Ed25519 from OpenSSL, by way of an intermediate CA", method: "ED25519",
			authority: openssl("genpkey", "-algorithm", "ed25519", "-out"),
		},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			record(t, r.what, "initiator, responder")
			t.Parallel()
			s := directSetup(t)
			if r.authority != nil {
				s.certify(r.authority(t), caponierDN, "strongswan.example")
			}
			if r.classic {
				s.StrongSwan.Settings = append(s.StrongSwan.Settings, "signature_authentication = no", "signature_authentication_constraints = no")
			}
			p := s.start(t)
			for _, role := range bothRoles {
				p.up(t, role)
				p.agree(t, role, defaultIKE, defaultESP)
				p.exercise(t)
				p.down(t, role)
			}
			theirs, own := fmt.Sprintf("' (myself) with %s", r.method), fmt.Sprintf("' with %s successful", r.method)
			if log := p.s.Log(); strings.Count(log, theirs) != 2 || strings.Count(log, own) != 2 {
				t.Errorf("the method of both was not %s twice", r.method)
			}
		})
	}
}

func own(key pki.KeyType) func(testing.TB) authority {
	return func(t testing.TB) authority { t.Helper(); return ownAuthority(t, key) }
}

func openssl(generate ...string) func(testing.TB) authority {
	return func(t testing.TB) authority { t.Helper(); return opensslAuthority(t, generate...) }
}

// keyID leaves only the digits of a key id, which all write in their own way.
var keyID = strings.NewReplacer("@#", "", "0x", "", ":", "")

func TestIdentity(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name                   string
		caponierID, strongSwan string
		cert                   bool
	}{
		{"distinguished name", caponierDN, strongSwanDN, true},
		{"host name", "", "", true},
		{"mail address", "", "", true},
		{"IPv4 address", "", "", true},
		{"IPv6 address", "", "", true},
		{"distinguished name", caponierDN, strongSwanDN, false},
		{"host name", "", "", false},
		{"mail address", "", "", false},
		{"IPv4 address", "", "", false},
		{"IPv6 address", "", "", false},
		{"key id", "@#0a0b0c", "@#ff00ff", false},
	}
	for _, r := range rows {
		if names, ok := alternativeNames[r.name]; ok {
			r.caponierID, r.strongSwan = names[0], names[1]
		}
		auth := "pre-shared key"
		if r.cert {
			auth = "certificate"
		}
		t.Run(strings.ReplaceAll(auth+" "+r.name, " ", "-"), func(t *testing.T) {
			record(t, fmt.Sprintf("%s with %s: `%s`", r.name, auth, r.caponierID), "initiator, responder")
			t.Parallel()
			s := directSetup(t)
			if r.cert {
				s.certify(ownAuthority(t, pki.ECDSAP256), r.caponierID, r.strongSwan)
			} else {
				s.StrongSwan.PSKs[0].IDs = []string{r.caponierID, r.strongSwan}
				s.conn().Local.ID, s.conn().Remote.ID = r.strongSwan, r.caponierID
				s.peer(func(p *Peer) { p.Local.ID, p.Remote.ID = r.caponierID, r.strongSwan })
			}
			p := s.start(t)
			for _, role := range bothRoles {
				p.up(t, role)
				theirs, _ := p.agree(t, role, defaultIKE, defaultESP)
				own := p.ike(t)
				for _, said := range []struct{ text, want string }{
					{own.LocalID, r.caponierID}, {own.RemoteID, r.strongSwan}, {theirs.RemoteID, r.caponierID}, {theirs.LocalID, r.strongSwan},
				} {
					if keyID.Replace(said.text) != keyID.Replace(said.want) {
						t.Errorf("identity %s is shown as %s", said.want, said.text)
					}
				}
				p.exercise(t)
				p.down(t, role)
			}
		})
	}
}
