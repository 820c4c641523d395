package why

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/pki"
	"caponier/test/interop"
)

const secretText = "correct horse battery staple"

// ours is caponier's configuration of the connection with gateway B, with lines
// replaced.
func ours(n *interop.Network, replace ...string) string {
	yaml := fmt.Sprintf(`connections:
  site:
    local: { address: %s, id: a.example }
    remote: { address: %s, id: b.example, auth: psk, psk-file: psk }
    proposals: [aes256gcm16-prfsha512-x25519]
    encapsulation: always
    tunnels:
      net:
        local: [%s]
        remote: [%s]
        proposals: [aes256gcm16-x25519]
        start: none
`, n.A.Outside, n.B.Outside, n.A.LAN, n.B.LAN)
	return change(yaml, replace)
}

func change(yaml string, replace []string) string {
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(yaml, replace[i]) {
			panic(replace[i] + " is not in the configuration")
		}
		yaml = strings.Replace(yaml, replace[i], replace[i+1], 1)
	}
	return yaml
}

// theirs is strongSwan's configuration of the same.
func theirs(n *interop.Network, change ...func(*interop.Config)) interop.Config {
	c := interop.Config{
		Connections: []interop.Connection{{
			Name: "gw", LocalAddrs: []string{n.B.Outside.String()}, RemoteAddrs: []string{n.A.Outside.String()},
			Proposals: "aes256gcm16-prfsha512-x25519", Encap: true,
			Local: interop.Auth{Auth: "psk", ID: "b.example"}, Remote: interop.Auth{Auth: "psk", ID: "a.example"},
			Children: []interop.Child{{
				Name: "net", LocalTS: []string{n.B.LAN.String()}, RemoteTS: []string{n.A.LAN.String()}, Proposals: "aes256gcm16-x25519",
			}},
			Extra: []string{"mobike = no"},
		}},
		PSKs: []interop.PSK{{IDs: []string{"a.example", "b.example"}, Secret: secretText}},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// TestMistakesWithStrongSwan makes mistakes at either end, in both roles, and
// follows a cure.
func TestMistakesWithStrongSwan(t *testing.T) {
	t.Parallel()
	n := interop.NewNetwork(t)
	g := start(t, n.A.Gateway, ours(n))
	peer := interop.StartStrongSwan(t, n.B.Gateway, theirs(n))
	site := []string{"site"}
	conn := func(f func(*interop.Connection)) func(*interop.Config) {
		return func(c *interop.Config) { f(&c.Connections[0]) }
	}
	calls := func(by string) {
		t.Helper()
		if by == "peer" {
			if err := peer.Initiate(t, "net"); err == nil {
				t.Error("strongSwan connects all the same")
			}
			return
		}
		if _, err := g.try("connect", "site", "--timeout", "20s"); err == nil {
			t.Error("caponier connects all the same")
		}
	}
	for _, m := range []struct {
		name        string
		here        []string // lines of ours that are replaced
		there       []func(*interop.Config)
		by          string // who calls
		code, cause string
		cures       []string
		// cure are lines of ours that follow the cure here.
		cure []string
	}{
		{
			name: "IKE proposals, we call", there: []func(*interop.Config){conn(func(c *interop.Connection) { c.Proposals = "aes128-sha256-ecp256" })},
			code: "no-proposal-chosen", cause: "the peer accepts none of our proposals for the IKE SA", cures: []string{"accept aes256gcm16-prfsha512-x25519"},
		},
		{
			name: "IKE proposals, the peer calls", there: []func(*interop.Config){conn(func(c *interop.Connection) { c.Proposals = "aes128-sha256-ecp256" })},
			by: "peer", code: "no-proposal-chosen", cause: "no encryption algorithm, no pseudorandom function and no key exchange method in common",
			cures: []string{"add aes128-sha256-prfsha256-ecp256 to connections.site.proposals", "add aes256gcm16-prfsha512-x25519"},
			cure:  []string{"[aes256gcm16-prfsha512-x25519]", "[aes256gcm16-prfsha512-x25519, aes128-sha256-prfsha256-ecp256]"},
		},
		{
			name: "ESP proposals, we call", there: []func(*interop.Config){conn(func(c *interop.Connection) { c.Children[0].Proposals = "aes128-sha256-x25519" })},
			code: "no-proposal-chosen", cause: "the peer accepts none of our proposals for tunnel net", cures: []string{"accept aes256gcm16-x25519"},
		},
		{
			name: "ESP proposals, the peer calls", there: []func(*interop.Config){conn(func(c *interop.Connection) { c.Children[0].Proposals = "aes128-sha256-x25519" })},
			by: "peer", code: "no-proposal-chosen", cause: "for tunnel net the ends have no encryption algorithm in common",
			cures: []string{"add aes128-sha256-x25519-noesn to connections.site.tunnels.net.proposals"},
			cure:  []string{"[aes256gcm16-x25519]", "[aes256gcm16-x25519, aes128-sha256-x25519-noesn]"},
		},
		{
			name: "pre-shared keys, we call", there: []func(*interop.Config){func(c *interop.Config) { c.PSKs[0].Secret = "another" }},
			code: "refused-by-peer", cause: "the peer refused our authentication as a.example", cures: []string{"its log, or its caponier why, says what it refused: most likely its pre-shared key"},
		},
		{
			name: "pre-shared keys, the peer calls", there: []func(*interop.Config){func(c *interop.Config) { c.PSKs[0].Secret = "another" }},
			by: "peer", code: "psk-mismatch-or-id", cause: "the pre-shared keys of both ends differ: b.example has another",
			cures: []string{"write the peer's key into the file of connections.site.remote.psk-file"},
		},
		{
			name: "identity, the peer calls", here: []string{"id: b.example", "id: branch.example"},
			by: "peer", code: "identity-mismatch", cause: "the peer is b.example, and connection site is for branch.example",
			cures: []string{`set connections.site.remote.id to "b.example"`}, cure: []string{"id: branch.example", `id: "b.example"`},
		},
		{
			name: "prefixes, we call", here: []string{"remote: [10.2.0.0/24]", "remote: [10.99.0.0/24]"},
			code: "ts-unacceptable", cause: "the peer does not protect 10.1.0.0/24 <-> 10.99.0.0/24", cures: []string{"protect 10.99.0.0/24 on its side and 10.1.0.0/24 on ours"},
		},
		{
			name: "prefixes, the peer calls", here: []string{"remote: [10.2.0.0/24]", "remote: [10.99.0.0/24]"},
			by: "peer", code: "ts-unacceptable", cause: "behind the peer the peer wants 10.2.0.0/24 and tunnel net has 10.99.0.0/24",
			cures: []string{"add 10.2.0.0/24 to connections.site.tunnels.net.remote"}, cure: []string{"remote: [10.99.0.0/24]", "remote: [10.99.0.0/24, 10.2.0.0/24]"},
		},
		{
			name: "version, the peer calls", there: []func(*interop.Config){conn(func(c *interop.Connection) { c.Version, c.Proposals = 1, "aes128-sha256-ecp256" })},
			by: "peer", code: "unsupported-version", cause: "the peer speaks IKE version 1.0", cures: []string{"set it to IKEv2 for 192.0.2.1"},
		},
	} {
		ok := t.Run(m.name, func(t *testing.T) {
			g.t = t
			// No finding of an earlier case may be taken for this one's: a reload
			// without the connection forgets them.
			g.reload("connections: {}\n")
			yaml := ours(n, m.here...)
			g.reload(yaml)
			peer.Reload(t, theirs(n, m.there...))
			if m.name == "version, the peer calls" {
				// strongSwan would go on calling for a minute.
				go func() { _ = peer.Initiate(t, "net") }()
			} else {
				calls(m.by)
			}
			g.expect(site, m.code, m.cause, m.cures...)
			if m.cure == nil {
				return
			}
			g.reload(change(yaml, m.cure))
			if m.by == "peer" {
				peer.MustInitiate(t, "net")
			} else {
				g.do("connect", "site")
			}
			// What was found stays when it is cured, and when all SAs are gone.
			g.do("disconnect", "site")
			if f, _ := g.latest("site"); f.Code != m.code {
				t.Errorf("after the cure, why says %q", f.Code)
			}
		})
		g.t = t
		if !ok {
			break
		}
	}
}

// TestCertificatesWithStrongSwan lets strongSwan show certificates that are not
// acceptable.
func TestCertificatesWithStrongSwan(t *testing.T) {
	t.Parallel()
	dir, other := filepath.Join(t.TempDir(), "pki"), filepath.Join(t.TempDir(), "other")
	now := time.Now()
	for _, d := range []string{dir, other} {
		if _, err := pki.Init(d, pki.Request{Subject: "CN=root of " + filepath.Base(d)}, now); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a", "b"} {
			if _, err := pki.Issue(d, name, pki.Request{Subject: "CN=" + name, SANs: []string{name + ".example"}}, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	// One that is valid for a moment.
	if _, err := pki.Issue(dir, "b-short", pki.Request{Subject: "CN=b", SANs: []string{"b.example"}, Validity: 3 * time.Second}, now); err != nil {
		t.Fatal(err)
	}
	n := interop.NewNetwork(t)
	swan := func(from, cert string) interop.Config {
		return theirs(n, func(c *interop.Config) {
			c.PSKs = nil
			x := &c.Connections[0]
			x.Local, x.Remote = interop.Auth{Auth: "pubkey", ID: "b.example", Certs: []string{cert + ".pem"}}, interop.Auth{Auth: "pubkey", ID: "a.example"}
			c.CAs = []string{filepath.Join(dir, "rootca.pem")}
			c.Certs, c.Keys = []string{filepath.Join(from, cert+".pem")}, []string{filepath.Join(from, cert+".key")}
		})
	}
	yaml := func(more string) string {
		return ours(n, "id: a.example }", fmt.Sprintf("id: a.example, auth: cert, cert: %s/a.pem, key: %s/a.key }", dir, dir),
			"auth: psk, psk-file: psk }", fmt.Sprintf("auth: cert, ca: %s/rootca.pem%s }", dir, more))
	}
	g := start(t, n.A.Gateway, yaml(""))
	peer := interop.StartStrongSwan(t, n.B.Gateway, swan(other, "b"))
	call := func() {
		t.Helper()
		if _, err := g.try("connect", "site", "--timeout", "20s"); err == nil {
			t.Error("caponier connects all the same")
		}
	}
	call()
	g.expect([]string{"site"}, "unknown-ca", `its issuer "CN=root of other" is not a trust anchor`, "add the certificate of CN=root of other to connections.site.remote.ca")
	if f, _ := g.latest("site"); len(f.Theirs.Certificates) != 1 || f.Theirs.Certificates[0].Subject != "CN=b" || len(f.Ours.Certificates) == 0 {
		t.Errorf("certificates: %+v, %+v", f.Ours.Certificates, f.Theirs.Certificates)
	}

	peer.Reload(t, swan(dir, "b-short"))
	time.Sleep(time.Until(now.Add(4 * time.Second)))
	call()
	g.expect([]string{"site"}, "certificate-expired", "it expired at", "renew the certificate of CN=b")

	b, err := os.ReadFile(filepath.Join(dir, "b-short.pem"))
	if err != nil {
		t.Fatal(err)
	}
	g.write("pinned.pem", string(b), 0o644)
	g.reload(yaml(", pin: pinned.pem"))
	peer.Reload(t, swan(dir, "b"))
	call()
	g.expect([]string{"site"}, "pin-mismatch", "it is not the pinned certificate", "if the peer has renewed its certificate, put the new one at connections.site.remote.pin")
	// Cured, the connection comes up.
	if b, err = os.ReadFile(filepath.Join(dir, "b.pem")); err != nil {
		t.Fatal(err)
	}
	g.write("pinned.pem", string(b), 0o644)
	g.do("reload")
	g.do("connect", "site")
	if s := ask[control.Status](g, "status", "site"); s.Connections[0].State != control.Established {
		t.Errorf("the state is %s", s.Connections[0].State)
	}
}

// TestStranger lets strongSwan call from an address that nothing allows.
func TestStranger(t *testing.T) {
	t.Parallel()
	n := interop.NewNetwork(t)
	g := start(t, n.A.Gateway, ours(n, "address: 192.0.2.2", "address: 192.0.2.22"))
	peer := interop.StartStrongSwan(t, n.B.Gateway, theirs(n))
	go func() { _ = peer.Initiate(t, "net") }()
	g.expect(nil, "no-connection", "no connection allows a peer at 192.0.2.2 that calls 192.0.2.1", "add 192.0.2.2 to connections.site.remote.address")
	if f, text := g.latest(); f.Connection != "" || f.Nearest != "connection site allows 192.0.2.22" || !strings.Contains(text, "no connection: no-connection") {
		t.Errorf("%+v\n%s", f, text)
	}
}
