package gm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/diagnose"
	"caponier/internal/ike"
	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/message"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// variant is one reading of the standard: what the peer does, and which settings
// make us do it.
type variant struct {
	name string
	peer settings
	ours func(c *conf.Connection)
}

func gm(set func(g *conf.GM)) func(*conf.Connection) {
	return func(c *conf.Connection) { set(c.GM) }
}

// variants are what a strict peer may insist on. As responders we follow it with
// the settings as they are by default, but for what is in the data plane.
var variants = []variant{
	{"as the standard says", nil, nil},
	{"version 1.0", settings{"minor": 0}, gm(func(g *conf.GM) { g.Version10 = true })},
	{"envelope C1C3C2", settings{"envelope": "c1c3c2"}, gm(func(g *conf.GM) { g.Envelope = suite.SM2C1C3C2 })},
	{"envelope C1C2C3", settings{"envelope": "c1c2c3"}, gm(func(g *conf.GM) { g.Envelope = suite.SM2C1C2C3 })},
	{"raw signature", settings{"signature": "raw"}, gm(func(g *conf.GM) { g.Signature.Encoding = suite.SM2Raw })},
	{"pre-hash without Z", settings{"prehash": "bare"}, gm(func(g *conf.GM) { g.Signature.Digest = suite.SM2PreHash })},
	{"pre-hash with Z", settings{"prehash": "message"}, gm(func(g *conf.GM) { g.Signature.Digest = suite.SM2Twice })},
	{"raw pre-hash", settings{"signature": "raw", "prehash": "bare"}, gm(func(g *conf.GM) {
		g.Signature = suite.SM2Style{Encoding: suite.SM2Raw, Digest: suite.SM2PreHash}
	})},
	{"bare certificate signed", settings{"bare_cert": true}, gm(func(g *conf.GM) { g.BareCert = true })},
	{"IKE SM4 127", settings{"ike_sm4": 127}, gm(func(g *conf.GM) { g.IKESM4 = isakmp.EncryptionSM4CBCOld })},
	{"ESP SM4 129", settings{"esp_sm4": 129}, gm(func(g *conf.GM) { g.ESPSM4 = isakmp.ESPSM4CBCAlt })},
	{"key length", settings{"key_length": true}, gm(func(g *conf.GM) { g.KeyLength = true })},
	{"identity of the signature certificate", settings{"id_from": "signature"}, gm(func(g *conf.GM) { g.IDSignature = true })},
	{"quick mode hash of RFC 2409", settings{"quick_hash": "rfc"}, gm(func(g *conf.GM) { g.QuickHash = keys.QuickRFC })},
	{"quick mode hash of bodies", settings{"quick_hash": "bodies"}, gm(func(g *conf.GM) { g.QuickHash = keys.QuickBodies })},
	{"SM4-GCM", settings{"esp": "gcm"}, func(c *conf.Connection) { c.Children[0].Proposals = []ipsec.Proposal{{sm4gcm}} }},
	{"ICV of 12 octets", nil, func(c *conf.Connection) { c.Children[0].Proposals = []ipsec.Proposal{{sm4cbc, integSM96}} }},
	{"AH", settings{"esp": "ah"}, func(c *conf.Connection) {
		c.Children[0].Protocol, c.Children[0].Proposals = ipsec.AH, []ipsec.Proposal{{integSM3}}
	}},
	{"transport mode", settings{"mode": "transport", "local": host(theirs), "remote": host(ours)}, transport},
	{"commit bit", settings{"commit": true}, nil},
	{"NAT-D by SM3", settings{"nat": "sm3"}, func(c *conf.Connection) { c.Encapsulation = conf.EncapAuto }},
	{"NAT-D by SHA-1", settings{"nat": "sha1"}, func(c *conf.Connection) {
		c.Encapsulation, c.GM.NATHash = conf.EncapAuto, ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA1}
	}},
	{"peer behind a NAT", settings{"nat": "sm3", "behind_nat": true}, func(c *conf.Connection) { c.Encapsulation = conf.EncapAuto }},
	{"transport mode through a NAT", settings{
		"nat": "sm3", "behind_nat": true, "mode": "transport", "quick_hash": "rfc", "local": host(theirs), "remote": host(ours),
	}, func(c *conf.Connection) {
		c.Encapsulation, c.GM.QuickHash = conf.EncapAuto, keys.QuickRFC
		transport(c)
	}},
}

// transport makes the tunnel one between the two hosts.
func transport(c *conf.Connection) {
	c.Children[0].Mode, c.Children[0].Local, c.Children[0].Remote = ipsec.Transport, nil, nil
}

func host(a netip.Addr) []string { return []string{a.String(), "255.255.255.255"} }

// TestVariants runs every variant in both roles against a peer that takes no other.
func TestVariants(t *testing.T) {
	for _, v := range variants {
		for _, role := range []string{"responder", "initiator"} {
			t.Run(v.name+", peer is "+role, func(t *testing.T) {
				t.Parallel()
				s := settings{"role": role, "strict": true}
				for k, x := range v.peer {
					s[k] = x
				}
				g := start(t, s)
				if v.ours != nil {
					if role == "responder" || strings.Contains(v.name, "NAT") || v.peer["esp"] != nil || v.peer["mode"] != nil || v.peer == nil {
						v.ours(g.conn)
					}
				}
				if role == "responder" {
					g.initiate()
				}
				g.mustHave(1)
				encap := v.peer["behind_nat"] == true
				for id, sa := range g.sad {
					if sa.Encap != encap || encap && id.Direction == ipsec.Out && sa.Remote.Port() != 4500 {
						t.Errorf("SA %v in UDP: %v, to %s", id, sa.Encap, sa.Remote)
					}
				}
			})
		}
	}
}

// TestCures connects with the default settings to peers that read the standard
// otherwise: what caponier why makes of it names the setting that cures it, and shows
// what this end has offered.
func TestCures(t *testing.T) {
	for _, test := range []struct {
		peer  settings
		cure  string
		cause string
	}{
		{settings{"quick_hash": "rfc"}, "set connections.vendor.gm.quick-mode-hash to rfc", "the peer does not answer quick mode"},
		{settings{"quick_hash": "bodies"}, "set connections.vendor.gm.quick-mode-hash to bodies", "the peer does not answer quick mode"},
		{settings{"envelope": "c1c3c2"}, "set connections.vendor.gm.envelope to c1c3c2", ""},
		{settings{"signature": "raw"}, "set connections.vendor.gm.signature to raw", ""},
		{settings{"prehash": "bare"}, "set connections.vendor.gm.pre-hash to bare", ""},
		{settings{"bare_cert": true}, "set connections.vendor.gm.signed-certificate to der", ""},
		{settings{"ike_sm4": 127}, "set connections.vendor.gm.ike-sm4-id to 127", ""},
		{settings{"key_length": true}, "set connections.vendor.gm.key-length to yes", ""},
		{settings{"esp_sm4": 129}, "set connections.vendor.gm.esp-sm4-id to 129", "the peer accepts none of our proposals for tunnel lan"},
		{settings{"minor": 0}, "set connections.vendor.gm.isakmp-version to 1.0", "nothing at all came back"},
	} {
		t.Run(test.cure, func(t *testing.T) {
			t.Parallel()
			s := settings{"strict": true}
			for k, x := range test.peer {
				s[k] = x
			}
			g := start(t, s)
			g.conn.Retransmit = conf.Retransmit{Initial: 700 * time.Millisecond, Factor: 1, Tries: 8}
			g.initiate()
			f := g.why(t, 15*time.Second)
			if !strings.Contains(f.Cause, test.cause) || f.Connection != "vendor" || f.Stage != "Main Mode" && f.Stage != "Quick Mode" {
				t.Errorf("%+v", f)
			}
			if !slices.ContainsFunc(f.Cures, func(c control.Cure) bool { return c.At == control.Here && c.Edit == test.cure }) {
				t.Errorf("cures %+v", f.Cures)
			}
			if f.Code == "no-proposal-chosen" && (len(f.Ours.Proposals) != 1 || !strings.Contains(f.Ours.Proposals[0], "SM4-CBC (1")) {
				t.Errorf("ours %q", f.Ours.Proposals)
			}
			if len(g.sad) > 0 {
				t.Errorf("%d SAs are installed", len(g.sad))
			}
		})
	}
}

// why waits for a failure and returns what caponier why says of it.
func (g *gateway) why(t *testing.T, limit time.Duration) control.Finding {
	t.Helper()
	var found *step.Notice
	if !g.until(limit, func() bool {
		for _, n := range g.notices {
			if n.Kind == step.IKEFailed || n.Kind == step.ChildFailed {
				found = &n
				return true
			}
		}
		return false
	}) {
		t.Fatalf("no failure: %+v %s", g.notices, g.errors())
	}
	m := g.failed
	a := ike.Attempt{
		Connection: m.Connection(), Candidates: []*conf.Connection{g.conn}, Tunnel: found.Child, Initiator: m.Initiator(), Code: found.Code, Err: found.Err,
	}
	a.Local, a.Remote = m.Addrs()
	a.LocalID, a.RemoteID = m.Identities()
	if found.Evidence != nil {
		a.Evidence = *found.Evidence
	}
	return diagnose.Explain(a, []*conf.Connection{g.conn})
}

// TestBothOffers shows the offers of both ends side by side, where the peer asks for
// what is not configured here.
func TestBothOffers(t *testing.T) {
	for _, test := range []struct {
		name         string
		peer         settings
		cause        string
		mine, theirs string
	}{
		{
			"phase 1",
			settings{"ike_sm4": 128},
			"for the IKE SA the peer offers SM1-CBC (128) where this gateway has SM4-CBC (129)",
			"SM4-CBC (129), SM3 (20), digital envelope (10), SM2 (2)", "SM1-CBC (128), SM3 (20), digital envelope (10), SM2 (2)",
		},
		{
			"quick mode", settings{"esp": "gcm"}, "for tunnel lan the peer offers SM4-GCM (130)", "SM4-CBC (127)", "SM4-GCM (130)",
		},
		{
			"mode",
			settings{"mode": "transport"},
			"for tunnel lan the peer offers transport (2) where this gateway has tunnel (1)",
			"HMAC-SM3 (20)", "transport (2)",
		},
		{
			"selectors",
			settings{"local": []string{"10.9.0.0", "255.255.0.0"}},
			"no tunnel has the traffic that the peer asks for: 10.1.0.0/16 here, 10.9.0.0/16 there",
			"10.2.0.0/16", "10.9.0.0/16",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := settings{"role": "initiator"}
			for k, x := range test.peer {
				s[k] = x
			}
			g := start(t, s)
			f := g.why(t, 15*time.Second)
			if !strings.Contains(f.Cause, test.cause) || f.RefusedBy != control.Here || f.Connection != "vendor" {
				t.Errorf("%+v", f)
			}
			side := func(o control.Offer) string { return fmt.Sprint(o.Proposals, o.Local, o.Remote) }
			if !strings.Contains(side(f.Ours), test.mine) || !strings.Contains(side(f.Theirs), test.theirs) {
				t.Errorf("ours %s\ntheirs %s", side(f.Ours), side(f.Theirs))
			}
		})
	}
}

// TestForged takes what a peer that is not who it says it is could send. No SA comes
// of it, and all refusals of message 3 look alike, so that they tell nothing (RFC
// 2408, Section 5.1, leaves it to us what to answer).
func TestForged(t *testing.T) {
	refusals := make(chan []byte, 100)
	t.Run("all", func(t *testing.T) {
		for _, what := range []string{
			"signature", "signing-key", "envelope", "envelope-garbage", "padding", "order", "encrypt-certificate", "version", "hash", "no-certificates",
		} {
			for _, role := range []string{"responder", "initiator"} {
				if what == "no-certificates" && role == "initiator" || what == "encrypt-certificate" && role == "responder" {
					continue
				}
				t.Run(what+", peer is "+role, func(t *testing.T) {
					t.Parallel()
					g := start(t, settings{"role": role, "forge": what})
					if role == "responder" {
						g.initiate()
					}
					if !g.until(10*time.Second, func() bool { return g.count(step.IKEFailed) > 0 }) {
						t.Fatalf("no failure: %+v %s", g.notices, g.errors())
					}
					if len(g.sad) > 0 || g.count(step.IKEUp) > 0 {
						t.Errorf("SAs: %d, IKE SAs: %d", len(g.sad), g.count(step.IKEUp))
					}
					for _, n := range g.notices {
						if n.Kind == step.IKEFailed && n.Code != "authentication-failed" {
							t.Errorf("code %s: %v", n.Code, n.Err)
						}
					}
					if role == "initiator" && what != "hash" {
						refusals <- g.sent[len(g.sent)-1]
					}
				})
			}
		}
	})
	close(refusals)
	n := 0
	for raw := range refusals {
		n++
		msg, err := isakmp.Parse(raw)
		if err != nil || msg.Header.Exchange != isakmp.Informational || len(msg.Payloads) != 1 || len(raw) != 56 {
			t.Fatalf("refusal %x: %v", raw, err)
		}
		notify, err := isakmp.ParseNotify(msg.Payloads[0].Body)
		if err != nil || notify.Kind != isakmp.AuthenticationFailed {
			t.Errorf("refusal with %v, %v", notify, err)
		}
	}
	if n != 8 {
		t.Errorf("%d refusals", n)
	}
}

// TestLife runs what happens to an IKE SA and its IPsec SAs after they are up:
// Dead Peer Detection (RFC 3706, Section 5.4), new pairs, a new IKE SA by either
// side, deletion.
func TestLife(t *testing.T) {
	for _, role := range []string{"responder", "initiator"} {
		t.Run("peer is "+role+" and acts", func(t *testing.T) {
			t.Parallel()
			g := start(t, settings{"role": role, "script": []string{
				"dpd", "rekey-child", "delete-old-child", "rekey-ike", "delete-old-ike", "rekey-child", "delete-old-child", "dpd", "delete-child",
			}})
			if role == "responder" {
				g.initiate()
			}
			g.mustHave(3)
			if !g.until(15*time.Second, func() bool { return g.count(step.ChildDown) > 0 }) {
				t.Fatalf("the tunnel is not deleted: %+v %s", g.notices, g.errors())
			}
			if g.count(step.IKERekeyed) != 1 || g.count(step.IKEDown) != 0 || g.count(step.ChildRekeyed) != 2 {
				t.Errorf("notices %+v", g.notices)
			}
		})
		t.Run("peer is "+role+" and we act", func(t *testing.T) {
			t.Parallel()
			g := start(t, settings{"role": role})
			if role == "responder" {
				g.initiate()
			}
			g.mustHave(1)
			g.order(step.RekeyChild{})
			g.mustHave(2)
			g.order(step.RekeyIKE{})
			if !g.until(10*time.Second, func() bool { return g.count(step.IKERekeyed) == 1 && len(g.reported("phase1")) == 2 }) {
				t.Fatalf("the IKE SA is not rekeyed: %+v %s", g.notices, g.errors())
			}
			g.order(step.RekeyChild{Name: "lan"})
			g.mustHave(3)
			g.order(step.CheckLiveness{})
			if !g.until(10*time.Second, func() bool { return g.notified(isakmp.RUThere) }) {
				t.Fatalf("the peer was not asked whether it is there: %s", g.errors())
			}
			// The pairs that were replaced, and the IKE SA, are deleted: not soon, for the
			// greater identity is the peer's, which may do so first.
			if !g.until(time.Minute, func() bool { return len(g.reported("delete")) >= 3 && len(g.machines) == 1 }) {
				t.Fatalf("deleted %v, %d IKE SAs: %s", g.reported("delete"), len(g.machines), g.errors())
			}
			g.order(step.Close{})
			if !g.until(10*time.Second, func() bool { return len(g.reported("delete")) >= 5 }) || len(g.sad) > 0 || len(g.machines) > 0 {
				t.Errorf("closed: deleted %v, %d SAs, %d IKE SAs", g.reported("delete"), len(g.sad), len(g.machines))
			}
		})
	}
}

// order tells every machine.
func (g *gateway) order(e step.Event) {
	for _, m := range g.machines {
		g.later(m, e)
	}
}

func (g *gateway) notified(kind isakmp.NotifyType) bool {
	for _, e := range g.reported("notify") {
		if e.number("kind") == int(kind) {
			return true
		}
	}
	return false
}

// TestPeerDeletesIKE ends everything where the peer has deleted the IKE SA and no
// newer one takes over.
func TestPeerDeletesIKE(t *testing.T) {
	t.Parallel()
	g := start(t, settings{"script": []string{"delete-ike"}})
	g.initiate()
	g.mustHave(1)
	if !g.until(15*time.Second, func() bool { return g.count(step.IKEDown) == 1 && len(g.sad) == 0 && len(g.machines) == 0 }) {
		t.Errorf("notices %+v, %d SAs", g.notices, len(g.sad))
	}
}

// TestInitialContact tells the peer, under the protection of the IKE SA, to forget
// what it has (RFC 2407, Section 4.6.3.3), and forgets what earlier IKE SAs made
// where the peer says so.
func TestInitialContact(t *testing.T) {
	t.Parallel()
	g := start(t, settings{"script": []string{"rekey-ike", "initial-contact"}})
	g.initiate()
	g.mustHave(1)
	if !g.until(10*time.Second, func() bool { return g.notified(isakmp.InitialContact) }) {
		t.Errorf("the peer has heard nothing: %v", g.events)
	}
	if !g.until(10*time.Second, func() bool { return g.count(step.ChildDown) == 1 && len(g.sad) == 0 }) {
		t.Errorf("notices %+v, %d SAs", g.notices, len(g.sad))
	}
}

// TestNothingInClear looks at every octet that we send: neither the identity nor
// the traffic selectors nor the keys of the IPsec SAs are there.
func TestNothingInClear(t *testing.T) {
	for _, role := range []string{"responder", "initiator"} {
		t.Run("peer is "+role, func(t *testing.T) {
			t.Parallel()
			const name = "a-name-that-nobody-may-see.example"
			g := start(t, settings{"role": role})
			g.conn.Local.ID.Kind, g.conn.Local.ID.Data = message.IDFQDN, name
			if role == "responder" {
				g.initiate()
			}
			g.mustHave(1)
			if e := g.reported("envelope"); len(e) != 1 || !strings.Contains(e[0].text("id"), hexOf(name)) {
				t.Fatalf("the peer read the identity as %v", e)
			}
			secrets := [][]byte{[]byte(name), {10, 1, 0, 0, 255, 255, 0, 0}, {10, 2, 0, 0, 255, 255, 0, 0}}
			for id, sa := range g.sad {
				secrets = append(secrets, sa.EncrKey.Bytes(), sa.IntegKey.Bytes(), binary.BigEndian.AppendUint32(nil, uint32(id.SPI)))
			}
			for _, raw := range append(g.sent, g.received...) {
				for _, s := range secrets {
					if bytes.Contains(raw, s) {
						t.Errorf("%x stands in clear in %x", s, raw)
					}
				}
			}
		})
	}
}
