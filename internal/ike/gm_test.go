package ike

import (
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// pairEnveloper has one key for both purposes; what stands for its certificate is the
// public key.
type pairEnveloper struct{ key *sm2.PrivateKey }

// gmKeys are of the two sides, made once.
var gmKeys = sync.OnceValue(func() [2]*sm2.PrivateKey {
	return [2]*sm2.PrivateKey{must(sm2.GenerateKey(rand.Reader)), must(sm2.GenerateKey(rand.Reader))}
})

func (p pairEnveloper) certificate() []byte {
	return must(sm2.PublicKeyToECDH(&p.key.PublicKey)).Bytes()
}

func keyOf(certificate []byte) (*ecdsa.PublicKey, error) { return sm2.NewPublicKey(certificate) }

func (p pairEnveloper) Unwrap(_ string, ciphertext []byte) (secret.Key, suite.SM2Encoding, error) {
	return suite.SM2Decrypt(rand.Reader, p.key, ciphertext)
}

func (p pairEnveloper) Envelope(a step.Envelope) (ciphertext, signature []byte, err error) {
	public, err := keyOf(a.Encryption)
	if err != nil {
		return nil, nil, err
	}
	if ciphertext, err = suite.SM2Encrypt(rand.Reader, public, a.Key, a.Encoding); err != nil {
		return nil, nil, err
	}
	signature, err = suite.SM2Sign(rand.Reader, p.key, "", a.Style, a.Octets)
	return ciphertext, signature, err
}

func (p pairEnveloper) Examine(a step.Examine) (style suite.SM2Style, form int, err error) {
	public, err := keyOf(a.Certificates[0])
	if err != nil {
		return style, 0, err
	}
	for i, octets := range a.Octets {
		if style, err = suite.SM2Verify(public, "", octets, a.Signature); err == nil {
			return style, i, nil
		}
	}
	return style, 0, errors.New("the signature is wrong")
}

// gmEnd is one end of a connection by GM/T 0022.
func gmEnd(name string, left bool) *v2.Connection {
	c := end(name, left)
	p := pairEnveloper{gmKeys()[0]}
	if !left {
		p = pairEnveloper{gmKeys()[1]}
	}
	c.GM = &conf.GM{SignCertificate: p.certificate(), EncryptCertificate: p.certificate()}
	c.Local.Auth, c.Remote.Auth = v2.AuthCert, v2.AuthCert
	c.Lifetime = 24 * time.Hour
	c.Proposals = []ipsec.Proposal{{
		{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}, {Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3},
	}}
	for _, ch := range c.Children {
		ch.Proposals = []ipsec.Proposal{{
			{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}, {Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3},
		}}
	}
	return c
}

// twoGM starts two gateways with a connection by GM/T 0022 between them.
func (n *network) twoGM(t *testing.T) (l, r *gateway) {
	t.Helper()
	with := func(i int) func(*Options) {
		return func(o *Options) { o.Enveloper = pairEnveloper{gmKeys()[i]} }
	}
	return n.gateway(t, leftAddr, []*v2.Connection{gmEnd("site", true)}, with(0)),
		n.gateway(t, rightAddr, []*v2.Connection{gmEnd("site", false)}, with(1))
}

// TestGM brings tunnels up, gives everything new keys from both ends, and takes all
// down.
func TestGM(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.twoGM(t)
		l.connect("site", "")
		mustMirror(t, l, r, 2)
		for _, g := range []*gateway{l, r} {
			if up := g.logs.lines("connection established"); len(up) != 1 || g.failure("") != "" || g.Counters()["ike-half-open"] != 0 {
				t.Errorf("%s: %q, failure %q, counters %v", g.addr, up, g.failure(""), g.Counters())
			}
		}
		ike, lan := l.ikeSPIs("site"), l.spis("site", "lan")
		for _, g := range []*gateway{l, r, l} {
			if err := g.Rekey(within(t, 10*time.Second), "site", "lan"); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		pass(time.Minute)
		mustMirror(t, l, r, 2)
		if now := l.spis("site", "lan"); slices.ContainsFunc(now, func(s ipsec.SPI) bool { return slices.Contains(lan, s) }) {
			t.Errorf("SPIs of lan were %v and are %v", lan, now)
		}
		for _, g := range []*gateway{r, l, r} {
			if err := g.Rekey(within(t, 10*time.Second), "site", ""); err != nil {
				t.Fatal(err)
			}
			pass(time.Second)
		}
		pass(3 * time.Minute)
		mustMirror(t, l, r, 2)
		if now := l.ikeSPIs("site"); len(now) != 1 || now[0] == ike[0] || !slices.Equal(now, r.ikeSPIs("site")) {
			t.Errorf("IKE SA was %v and is %v, %v", ike, now, r.ikeSPIs("site"))
		}
		for _, g := range []*gateway{l, r} {
			if live := g.Counters()["ike-sas"]; live != 1 {
				t.Errorf("%s: %d IKE SAs are left", g.addr, live)
			}
		}
		if err := l.Rekey(within(t, 10*time.Second), "site", "dmz"); err != nil {
			t.Fatal(err) // under the new IKE SA
		}
		if err := l.Disconnect(within(t, 5*time.Second), "site", "lan"); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		mustMirror(t, l, r, 1)
		if err := r.Disconnect(within(t, 5*time.Second), "site", ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		l.mustBeEmpty()
		r.mustBeEmpty()
	})
}

// TestGMCrossed lets both ends connect at the same time, and then replace the IKE SA at
// the same time.
func TestGMCrossed(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.twoGM(t)
		var wg sync.WaitGroup
		for _, g := range []*gateway{l, r} {
			wg.Go(func() {
				if err := g.Connect(within(t, time.Minute), "site", ""); err != nil {
					t.Errorf("%s: %v", g.addr, err)
				}
			})
		}
		wg.Wait()
		pass(5 * time.Minute)
		mustMirror(t, l, r, 2)
		for _, g := range []*gateway{l, r} {
			wg.Go(func() {
				if err := g.Rekey(within(t, time.Minute), "site", ""); err != nil {
					t.Errorf("%s: %v", g.addr, err)
				}
			})
		}
		wg.Wait()
		pass(5 * time.Minute)
		mustMirror(t, l, r, 2)
		if a, b := l.ikeSPIs("site"), r.ikeSPIs("site"); len(a) != 1 || !slices.Equal(a, b) {
			t.Errorf("IKE SAs %v and %v", a, b)
		}
	})
}

// TestGMPeerRestarts connects again with a peer that has lost everything, by itself:
// it says INITIAL-CONTACT, and R-U-THERE is not answered any more.
func TestGMPeerRestarts(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.twoGM(t)
		l.connect("site", "")
		r.die(n)
		r = n.gateway(t, rightAddr, []*v2.Connection{changed(gmEnd("site", false), starting)}, func(o *Options) { o.Enveloper = pairEnveloper{gmKeys()[1]} })
		pass(10 * time.Minute)
		mustMirror(t, l, r, 2)
		if a, b := l.ikeSPIs("site"), r.ikeSPIs("site"); len(a) != 1 || !slices.Equal(a, b) {
			t.Errorf("IKE SAs %v and %v", a, b)
		}
	})
}

// TestGMReload follows a new configuration.
func TestGMReload(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l, r := n.twoGM(t)
		l.connect("site", "")
		next := changed(gmEnd("site", true), func(c *v2.Connection) { c.Children = c.Children[:1] })
		l.Apply([]*v2.Connection{next}, map[string]Change{"site": {Drop: []string{"dmz"}, RekeyIKE: true}})
		pass(3 * time.Minute)
		mustMirror(t, l, r, 1)
		if n := l.Abandon(); n != 1 {
			t.Errorf("%d IKE SAs were destroyed", n)
		}
		pass(time.Minute)
		l.mustBeEmpty()
		r.mustBeEmpty()
	})
}

// TestVersionsApart gives each version of IKE only the connections that speak it, and
// bounds what strangers can begin.
func TestVersionsApart(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		v2Only := n.gateway(t, leftAddr, []*v2.Connection{end("site", true)})
		gmOnly := n.gateway(t, rightAddr, []*v2.Connection{gmEnd("site", false)}, func(o *Options) { o.Enveloper = pairEnveloper{gmKeys()[1]} })
		if err := v2Only.Connect(within(t, 2*time.Minute), "site", "lan"); code(err) != "peer-not-responding" {
			t.Errorf("IKEv2 to a gateway of GM/T 0022: %v", err)
		}
		if err := gmOnly.Connect(within(t, 2*time.Minute), "site", "lan"); code(err) != "peer-not-responding" {
			t.Errorf("GM/T 0022 to a gateway of IKEv2: %v", err)
		}
		if gmOnly.Counters()["ike-drop-no-connection"] == 0 || v2Only.Counters()["ike-drop-malformed"] == 0 {
			t.Errorf("counters %v and %v", gmOnly.Counters(), v2Only.Counters())
		}
		gmOnly.SetLimits(Limits{HalfOpen: 100, HalfOpenPerAddress: 3})
		sa := must((&isakmp.SA{Proposals: []isakmp.Proposal{{Number: 1, Protocol: message.ProtocolIKE, Transforms: []isakmp.Transform{{
			Number: 1, ID: isakmp.KeyIKE, Attributes: []isakmp.Attribute{
				isakmp.Short(isakmp.AttrEncryption, isakmp.EncryptionSM4CBC), isakmp.Short(isakmp.AttrHash, isakmp.HashSM3),
				isakmp.Short(isakmp.AttrAuthMethod, isakmp.AuthEnvelope),
			},
		}}}}}).Body())
		for i := range 10 {
			raw := must((&isakmp.Message{
				Header:   isakmp.Header{InitiatorCookie: message.SPI(i + 1), Minor: 1, Exchange: isakmp.MainMode},
				Payloads: []isakmp.Payload{{Type: isakmp.TypeSA, Body: sa}},
			}).Append(nil))
			n.send(netio.Datagram{Data: raw, Local: netip.AddrPortFrom(leftAddr, 500), Remote: netip.AddrPortFrom(rightAddr, 500)})
		}
		pass(time.Second)
		if c := gmOnly.Counters(); c["ike-half-open"] != 3 || c["ike-drop-half-open"] != 7 {
			t.Errorf("counters %v", c)
		}
		pass(2 * time.Minute)
		gmOnly.mustBeEmpty()
	})
}

// TestGMWithoutKeys refuses, as everything is refused, where the gateway has no keys
// for the envelope.
func TestGMWithoutKeys(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		l := n.gateway(t, leftAddr, []*v2.Connection{gmEnd("site", true)}, func(o *Options) { o.Enveloper = pairEnveloper{gmKeys()[0]} })
		r := n.gateway(t, rightAddr, []*v2.Connection{gmEnd("site", false)})
		if err := l.Connect(within(t, 2*time.Minute), "site", "lan"); code(err) != "authentication-failed" {
			t.Errorf("the initiator: %v", err)
		}
		if err := r.Connect(within(t, 2*time.Minute), "site", "lan"); code(err) != "authentication-failed" {
			t.Errorf("without keys: %v", err)
		}
		pass(time.Minute)
		l.mustBeEmpty()
		r.mustBeEmpty()
	})
}

// TestGMDebugShowsExchanges looks at the log of a whole life at level debug, as
// TestDebugShowsExchanges does, and that no identity, nonce or key stands there.
func TestGMDebugShowsExchanges(t *testing.T) {
	simulate(t, func(t *testing.T, n *network) {
		logs := new(logBuffer)
		l := n.gateway(t, leftAddr, []*v2.Connection{gmEnd("site", true)}, func(o *Options) {
			o.Enveloper = pairEnveloper{gmKeys()[0]}
			o.Log = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
		})
		n.gateway(t, rightAddr, []*v2.Connection{gmEnd("site", false)}, func(o *Options) { o.Enveloper = pairEnveloper{gmKeys()[1]} })
		l.connect("site", "")
		pass(time.Second)
		if err := l.Disconnect(within(t, 5*time.Second), "site", ""); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		for _, want := range [][]string{
			{"IKE message sent", "exchange=\"Main Mode\"", "connection=site", "SA(SM4-CBC (129), SM3 (20), digital envelope (10), SM2 (2)"},
			{"IKE message received", "exchange=\"Main Mode\"", "SA(", "CERT CERT", "VID"},
			{"IKE message sent", "exchange=\"Main Mode\"", "payloads=\"SK NONCE ID CERT CERT SIG"},
			{"IKE message received", "exchange=\"Main Mode\"", "payloads=HASH"},
			{"IKE message sent", "exchange=\"Quick Mode\"", "HASH SA(SM4-CBC (127)", "NONCE ID(10."},
			{"IKE message received", "exchange=\"Quick Mode\"", "connection=site"},
			{"IKE message sent", "exchange=Informational", "N(INITIAL-CONTACT)"},
			{"IKE message sent", "exchange=Informational", "D(IKE "},
		} {
			if !slices.ContainsFunc(logs.lines(want[0]), func(line string) bool {
				return !slices.ContainsFunc(want, func(part string) bool { return !strings.Contains(line, part) })
			}) {
				t.Errorf("no line with %q in\n%s", want, strings.Join(logs.lines("IKE message"), ""))
			}
		}
	})
}
