package diagnose

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// seen is what one end's book must say.
type seen struct {
	code   string
	cause  string // the cause, or a part that matters
	cures  []string
	beside []string // what else stands in the finding: nearest, proposals, identities
}

// mistakes are made for real: both ends run, the left one calls.
var mistakes = []struct {
	name        string
	make        func(p *pair)
	left, right *seen
	// follow names the end whose first cure that can be followed word by word
	// must make the tunnel come up.
	follow string
}{
	{
		name: "no common encryption and key exchange for the IKE SA",
		make: func(p *pair) { p.right.c.Proposals = ikeWords("aes128-sha256-ecp256") },
		left: &seen{
			code: CodeNoProposal, cause: "the peer accepts none of our proposals for the IKE SA",
			cures: []string{"at the peer: accept aes256gcm16-prfsha384-x25519", "add the peer's proposal to connections.site.proposals"},
		},
		right: &seen{
			code: CodeNoProposal, cause: "for the IKE SA the ends have no encryption algorithm, no pseudorandom function and no key exchange method in common",
			cures: []string{
				"add aes256gcm16-prfsha384-x25519 to connections.site.proposals", "at the peer: add aes128-sha256-prfsha256-ecp256",
			},
			beside: []string{"have nothing in common"},
		},
		follow: "right",
	},
	{
		name:  "no common PRF",
		make:  func(p *pair) { p.right.c.Proposals = ikeWords("aes256gcm16-prfsha512-x25519", "aes128-sha256-ecp256") },
		right: &seen{code: CodeNoProposal, cause: "the ends have no pseudorandom function in common", cures: []string{"add aes256gcm16-prfsha384-x25519 to"}, beside: []string{"have aes256gcm16, x25519 in common"}},
		left:  &seen{code: CodeNoProposal}, follow: "right",
	},
	{
		name: "no common key exchange, and the only one is weak",
		make: func(p *pair) { p.left.c.Proposals = ikeWords("aes256gcm16-prfsha384-modp1024") },
		right: &seen{
			code: CodeNoProposal, cause: "no key exchange method in common",
			cures: []string{"at the peer: add aes256gcm16-prfsha384-x25519", "add aes256gcm16-prfsha384-modp1024 to connections.site.proposals, which is weak (modp1024"},
		},
	},
	{
		name: "no common algorithm for the tunnel",
		make: func(p *pair) { p.right.c.Children[0].Proposals = espWords("aes128-sha256-x25519") },
		left: &seen{code: CodeNoProposal, cause: "none of our proposals for tunnel lan", cures: []string{"at the peer: accept aes256gcm16-x25519-noesn"}},
		right: &seen{
			code: CodeNoProposal, cause: "for tunnel lan the ends have no encryption algorithm in common",
			cures: []string{"add aes256gcm16-x25519-noesn to connections.site.tunnels.lan.proposals", "at the peer: add aes128-sha256-noesn"},
		},
		follow: "right",
	},
	{
		name:  "sequence numbers of other lengths",
		make:  func(p *pair) { p.left.c.Children[0].Proposals = espWords("aes256gcm16-x25519-esn") },
		right: &seen{code: CodeNoProposal, cause: "no length of sequence numbers in common", cures: []string{"add aes256gcm16-x25519-esn to connections.site.tunnels.lan.proposals"}},
		left:  &seen{code: CodeNoProposal}, follow: "right",
	},
	{
		name: "transport mode at one end",
		make: func(p *pair) { p.betweenHosts(); p.left.c.Children[0].Mode = ipsec.Transport },
		left: &seen{
			code: CodeMode, cause: "the peer set up tunnel mode, and tunnel lan is in transport mode",
			cures: []string{"set connections.site.tunnels.lan.mode to tunnel", "at the peer: set the mode of the tunnel to transport"},
		},
	},
	{
		name: "tunnel mode at one end",
		make: func(p *pair) { p.betweenHosts(); p.right.c.Children[0].Mode = ipsec.Transport },
		left: &seen{code: CodeNoProposal},
		right: &seen{
			code: CodeMode, cause: "the peer asks for tunnel mode, and tunnel lan is in transport mode",
			cures: []string{"set connections.site.tunnels.lan.mode to tunnel", "at the peer: set the mode of the tunnel to transport"},
		},
	},
	{
		name: "other pre-shared keys",
		make: func(p *pair) {
			p.right.c.Local.PSK = secret.Copy([]byte("another"))
			p.right.c.Remote.PSK = p.right.c.Local.PSK
		},
		left: &seen{
			code: CodeRefused, cause: "the peer refused our authentication as left.example",
			cures: []string{"at the peer: its log, or its caponier why, says what it refused: most likely its pre-shared key"},
		},
		right: &seen{
			code: CodePSK, cause: "the pre-shared keys of both ends differ: left.example has another than ours",
			cures:  []string{"write the peer's key into the file of connections.site.remote.psk-file", "at the peer: write our key"},
			beside: []string{"Wants:left.example Auth:psk"},
		},
	},
	{
		name: "a peer with another identity",
		make: func(p *pair) { p.left.c.Local.ID = fqdn("branch.example") },
		left: &seen{code: CodeRefused, cause: "as branch.example"},
		right: &seen{
			code: CodeIdentity, cause: "the peer is branch.example, and connection site is for left.example",
			cures: []string{`set connections.site.remote.id to "branch.example"`, `at the peer: set its own identity to "left.example"`},
		},
		follow: "right",
	},
	{
		name: "a peer that asks for another",
		make: func(p *pair) { p.left.c.Remote.ID = fqdn("centre.example") },
		right: &seen{
			code: CodeIdentity, cause: "the peer asks for centre.example, and this gateway is right.example",
			cures: []string{`set connections.site.local.id to "centre.example"`}, beside: []string{"connection site"},
		},
		left: &seen{code: CodeRefused}, follow: "right",
	},
	{
		name: "a responder that answers as another",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, l, r *side) {
				l.c.Remote.ID = conf.Party{}.ID
				r.certify(issue(ca, "other.example"))
			})
		},
		left: &seen{
			code: CodeIdentity, cause: `certificate of "CN=other.example": it does not speak for`,
			cures:  []string{`set connections.site.remote.id to "other.example"`},
			beside: []string{"CN=the CA", "other.example"},
		},
		right: &seen{code: CodeRefused, cause: "our certificate does not speak for it", cures: []string{`set connections.site.local.id to "CN=other.example"`}},
	},
	{
		name: "one end with a key, the other with certificates",
		make: func(p *pair) {
			p.withCertificates(func(_ *authority, l, _ *side) {
				l.c.Local.Auth, l.c.Remote.Auth = conf.AuthPSK, conf.AuthPSK
			})
		},
		right: &seen{
			code: CodeMethod, cause: "the peer authenticates by psk, and the connection asks for cert",
			cures: []string{"set connections.site.remote.auth to psk", "at the peer: authenticate by certificate"},
		},
	},
	{
		name: "an expired certificate",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, l, _ *side) {
				l.certify(issue(ca, "left.example", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
			})
		},
		left:  &seen{code: CodeRefused, cause: "our certificate has expired", cures: []string{"renew connections.site.local.cert"}},
		right: &seen{code: "certificate-expired", cause: `certificate of "CN=left.example": it expired at`, cures: []string{"at the peer: renew the certificate of CN=left.example", "set the clock, if it is not"}},
	},
	{
		name: "a certificate that is not valid yet",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, _, r *side) {
				r.certify(issue(ca, "right.example", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }))
			})
		},
		left: &seen{code: "certificate-not-yet-valid", cause: "it is valid from", cures: []string{"set the clock, if it is not"}},
	},
	{
		name: "a clock that is wrong",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, l, r *side) {
				soon := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(24 * time.Hour) }
				l.certify(issue(ca, "left.example", soon))
				r.certify(issue(ca, "right.example", soon))
			})
		},
		right: &seen{code: CodeClock, cause: "by this gateway's clock, 2000-01-01 00:00 UTC, the certificates of both ends are not valid yet", cures: []string{"set the clock"}},
	},
	{
		name: "an unknown CA",
		make: func(p *pair) {
			p.withCertificates(func(_ *authority, l, _ *side) { l.certify(issue(newAuthority("another CA"), "left.example")) })
		},
		right: &seen{
			code: "unknown-ca", cause: `its issuer "CN=another CA" is not a trust anchor`,
			cures: []string{"add the certificate of CN=another CA to connections.site.remote.ca", "at the peer: use a certificate of the CA"},
		},
	},
	{
		name: "an intermediate that is not sent",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, l, _ *side) {
				middle := issue(ca, "an intermediate", func(c *x509.Certificate) {
					c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
				})
				l.certify(issue(middle, "left.example"))
			})
		},
		right: &seen{code: "unknown-ca", cause: "an intermediate", cures: []string{"add the certificate of CN=an intermediate", "at the peer: use a certificate of the CA in connections.site.remote.ca, and send its intermediates"}},
	},
	{
		name: "a certificate for something else",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, l, _ *side) {
				l.certify(issue(ca, "left.example", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }))
			})
		},
		right: &seen{code: "wrong-key-usage", cause: "does not allow IKE", cures: []string{"at the peer: reissue the certificate with key usage digitalSignature"}},
	},
	{
		name: "another certificate than the pinned one",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, _, r *side) { r.pin = issue(ca, "left.example").cert })
		},
		right: &seen{code: "pin-mismatch", cause: "it is not the pinned certificate", cures: []string{"if the peer has renewed its certificate, put the new one at connections.site.remote.pin"}},
	},
	{
		name: "a key that is not the certificate's",
		make: func(p *pair) {
			p.withCertificates(func(ca *authority, l, _ *side) { l.key = issue(ca, "left.example").key })
		},
		right: &seen{code: CodeSignature, cause: "left.example is not authentic", cures: []string{"at the peer: give it the private key that belongs to its certificate"}},
	},
	{
		name: "another prefix behind the peer",
		make: func(p *pair) { p.left.c.Children[0].Local = sel("10.3.0.0/16") },
		left: &seen{
			code: CodeTS, cause: "the peer does not protect 10.3.0.0/16 <-> 10.2.0.0/16",
			cures: []string{"at the peer: protect 10.2.0.0/16 on its side and 10.3.0.0/16 on ours"},
		},
		right: &seen{
			code: CodeTS, cause: "behind the peer the peer wants 10.3.0.0/16 and tunnel lan has 10.1.0.0/16",
			cures:  []string{"add 10.3.0.0/16 to connections.site.tunnels.lan.remote", "at the peer: propose 10.1.0.0/16 on its side and 10.2.0.0/16 on ours"},
			beside: []string{"local fits; remote does not"},
		},
		follow: "right",
	},
	{
		name: "a prefix that is not here",
		make: func(p *pair) { p.left.c.Children[0].Remote = sel("10.9.0.0/24") },
		right: &seen{
			code: CodeTS, cause: "on this side the peer wants 10.9.0.0/24 and tunnel lan has 10.2.0.0/16",
			cures: []string{"add 10.9.0.0/24 to connections.site.tunnels.lan.local"},
		},
		follow: "right",
	},
	{
		name: "an address that no connection allows",
		make: func(p *pair) { p.right.c.RemoteAddrs = host32(netip.MustParseAddr("192.0.2.77")) },
		left: &seen{code: CodeNoAnswer, cause: "nothing at all came back from 198.51.100.1:500", cures: []string{"check that connections.site.remote.address is the peer's address", "at the peer: start its gateway, and let UDP 500"}},
		right: &seen{
			code: CodeNoConnection, cause: "no connection allows a peer at 192.0.2.1 that calls 198.51.100.1",
			cures:  []string{"add 192.0.2.1 to connections.site.remote.address", "at the peer: call from 192.0.2.77"},
			beside: []string{"connection site allows 192.0.2.77"},
		},
		follow: "right",
	},
	{
		name: "UDP 500 blocked",
		make: func(p *pair) {
			p.w = &wire{filter: func(_, dst netip.AddrPort, _ []byte) bool { return dst.Port() != 500 }}
		},
		left: &seen{code: CodeNoAnswer, cause: "nothing at all came back from 198.51.100.1:500"},
	},
	{
		name: "UDP 4500 blocked",
		make: func(p *pair) {
			p.left.c.Encapsulation, p.right.c.Encapsulation = conf.EncapAlways, conf.EncapAlways
			p.w = &wire{filter: func(_, dst netip.AddrPort, _ []byte) bool { return dst.Port() != 4500 }}
		},
		left: &seen{
			code: CodePort4500, cause: "198.51.100.1 answered IKE_SA_INIT on UDP 500, and does not answer IKE_AUTH on UDP 4500",
			cures: []string{"at the peer: let UDP 4500 pass on the way from 192.0.2.1, in both directions"},
		},
		right: &seen{code: CodeAuthLost, cause: "192.0.2.1:500 was answered in IKE_SA_INIT, and its IKE_AUTH never came"},
	},
	{
		name: "IKE_AUTH lost on UDP 500",
		make: func(p *pair) {
			p.w = &wire{filter: func(_, _ netip.AddrPort, data []byte) bool {
				h, err := message.ParseHeader(data)
				return err != nil || h.Exchange != message.IKEAuth
			}}
		},
		left: &seen{code: CodeAuthLost, cause: "may travel in IP fragments that are dropped", cures: []string{"at the peer: let IP fragments pass"}},
	},
	{
		name: "a peer of IKEv1",
		make: func(p *pair) {
			p.w = &wire{filter: func(_, _ netip.AddrPort, data []byte) bool {
				data[17] = 0x10 // the version of the header
				return true
			}}
		},
		right: &seen{code: CodeVersion, cause: "the peer speaks IKE version 1.0, and this gateway 2.0", cures: []string{"at the peer: set it to IKEv2 for 198.51.100.1"}},
	},
}

func TestMistakes(t *testing.T) {
	if len(mistakes) < 15 {
		t.Errorf("only %d mistakes", len(mistakes))
	}
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) {
			simulate(t, func(p *pair) {
				m.make(p)
				stop := p.start()
				if err := p.connect(); err == nil {
					t.Error("the tunnel came up all the same")
				}
				time.Sleep(2 * time.Minute) // the half-open end gives up too
				stop()
				m.left.check(t, "left", p.left)
				m.right.check(t, "right", p.right)
				if m.follow == "" {
					return
				}
				p.cure(m.follow)
			})
		})
	}
}

// cure follows the first cure that can be followed word by word.
func (p *pair) cure(at string) {
	s := map[string]*side{"left": p.left, "right": p.right}[at]
	f := latest(s)
	followed := false
	for _, c := range f.Cures {
		if c.At == control.Here && s.follow(c) == nil {
			followed = true
			break
		}
	}
	if !followed {
		p.t.Fatalf("no cure here is an edit: %+v", f.Cures)
	}
	stop := p.start()
	defer stop()
	if err := p.connect(); err != nil {
		p.t.Errorf("after %q: %v", f.Cures, err)
	}
}

func latest(s *side) control.Finding {
	all, _ := s.book.Overview()
	if len(all) == 0 {
		return control.Finding{}
	}
	return all[0]
}

func (w *seen) check(t *testing.T, at string, s *side) {
	t.Helper()
	if w == nil {
		return
	}
	all, _ := s.book.Overview()
	if len(all) == 0 {
		t.Errorf("%s: nothing was found", at)
		return
	}
	f := all[0]
	if f.Code != w.code || !strings.Contains(f.Cause, w.cause) {
		t.Errorf("%s: %s: %s\nwant %s: %s", at, f.Code, f.Cause, w.code, w.cause)
	}
	var cures []string
	for _, c := range f.Cures {
		text := c.Edit
		if c.At == control.AtPeer {
			text = "at the peer: " + text
		}
		cures = append(cures, text)
	}
	for i, want := range w.cures {
		if i >= len(cures) || !strings.HasPrefix(cures[i], want) {
			t.Errorf("%s: cures %q\nwant %q", at, cures, w.cures)
			break
		}
	}
	if len(cures) == 0 {
		t.Errorf("%s: no cure", at)
	}
	whole := fmt.Sprintf("%+v", f)
	for _, want := range w.beside {
		if !strings.Contains(whole, want) {
			t.Errorf("%s: %q is missing in %s", at, want, whole)
		}
	}
	if f.Count == 0 || f.First.IsZero() || f.Last.Before(f.First) || !f.Remote.IsValid() {
		t.Errorf("%s: %+v", at, f)
	}
	documented := false
	for _, c := range Codes() {
		documented = documented || c.Code == f.Code
	}
	if !documented {
		t.Errorf("%s: code %s is not in the table", at, f.Code)
	}
}
