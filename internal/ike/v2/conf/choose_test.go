package conf

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"caponier/internal/dn"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func name(text string) rules.Identity {
	return rules.Identity{Kind: message.IDDERASN1DN, Data: string(must(dn.ParsePattern(text)))}
}

func selectors(text string) []ipsec.Selector {
	return []ipsec.Selector{must(ipsec.ParseSelector(text))}
}

func TestChoose(t *testing.T) {
	proposals := []ipsec.Proposal{must(suite.ParseIKE("aes256gcm16-prfsha256-x25519"))}
	connection := func(text, remote string, auth AuthKind, change ...func(*Connection)) *Connection {
		c := &Connection{Name: text, Proposals: proposals}
		c.Local = Party{ID: name("CN=gw"), Auth: AuthCert}
		c.Remote = Party{Auth: auth}
		if remote != "" {
			c.Remote.ID = name(remote)
		}
		c.Children = []*Child{{Local: selectors("10.2.0.0/16"), Remote: selectors("10.1.0.0/16")}}
		for _, f := range change {
			f(c)
		}
		return c
	}
	anyone := connection("anyone", "", AuthCert)
	family := connection("family", "C=FI, CN=*", AuthCert)
	alice := connection("alice", "C=FI, CN=alice", AuthCert)
	secret := connection("secret", "", AuthPSK)
	other := connection("other", "C=FI, CN=alice", AuthCert, func(c *Connection) { c.Children[0].Remote = selectors("10.9.0.0/16") })
	weak := connection("weak", "C=FI, CN=alice", AuthCert, func(c *Connection) {
		c.Proposals = []ipsec.Proposal{must(suite.ParseIKE("aes128-sha256-modp2048"))}
	})
	all := []*Connection{anyone, secret, weak, family, other, alice}
	for what, tt := range map[string]struct {
		peer, asked string
		method      message.AuthMethod
		tsi         string
		want        *Connection
	}{
		"by name":                  {"C=FI, CN=alice", "", message.AuthDigitalSignature, "10.1.0.0/16", alice},
		"by name and traffic":      {"C=FI, CN=alice", "", message.AuthDigitalSignature, "10.9.1.0/24", other},
		"by name, for no traffic":  {"C=FI, CN=alice", "", message.AuthDigitalSignature, "10.99.0.0/16", other},
		"by pattern":               {"C=FI, CN=bob", "CN=gw", message.AuthDigitalSignature, "10.1.0.0/16", family},
		"anyone":                   {"C=SE, CN=eve", "", message.AuthDigitalSignature, "10.1.0.0/16", anyone},
		"by method":                {"C=FI, CN=alice", "", message.AuthSharedKey, "10.1.0.0/16", secret},
		"nobody of that name here": {"C=FI, CN=alice", "CN=other", message.AuthDigitalSignature, "10.1.0.0/16", nil},
		"a pattern for us":         {"C=FI, CN=alice", "CN=*", message.AuthDigitalSignature, "10.1.0.0/16", nil},
	} {
		x := Claim{
			Peer: name(tt.peer), Method: tt.method, Chosen: proposals[0],
			TSi: selectors(tt.tsi), TSr: selectors("10.2.0.0/16"),
			Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2"),
		}
		if tt.asked != "" {
			x.Asked = name(tt.asked)
		}
		if got, ok := NewCandidates(all).Choose(x); got != tt.want || ok != (tt.want != nil) {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// TestChooseAgreesWithLinearSearch compares what candidates choose with what looking
// at all of them does.
func TestChooseAgreesWithLinearSearch(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	proposals := []ipsec.Proposal{must(suite.ParseIKE("aes256gcm16-prfsha256-x25519")), must(suite.ParseIKE("aes128-sha256-modp2048"))}
	fqdn := func(text string) rules.Identity { return rules.Identity{Kind: message.IDFQDN, Data: text} }
	identity := func() rules.Identity {
		switch r.IntN(8) {
		case 0:
			return rules.Identity{}
		case 1:
			return rules.Identity{Kind: message.IDKeyID, Data: pick("a", "A", "b")}
		case 2:
			return rules.Identity{Kind: message.IDRFC822, Data: pick("a@x.example", "A@X.example", "*@x.example")}
		case 3, 4:
			return name(pick("C=FI, CN=a", "C=fi, CN=A", "C=FI, CN=b", "C=FI, CN=*"))
		default:
			return fqdn(pick("k.example", "K.Example", "\u212a.example", "s.example", "\u017f.example", "*.example", "\xff.example", "\xfe.example"))
		}
	}
	chosen := 0
	for range 3000 {
		var list []*Connection
		for range r.IntN(12) {
			list = append(list, &Connection{
				Proposals: proposals[r.IntN(2):][:1],
				Local:     Party{ID: fqdn(pick("gw", "gw2")), Auth: AuthPSK},
				Remote:    Party{ID: identity(), Auth: AuthKind(r.IntN(2))},
				Children:  []*Child{{Local: selectors("10.2.0.0/16"), Remote: selectors(pick("10.1.0.0/16", "10.9.0.0/16"))}},
			})
		}
		x := Claim{
			Peer: identity(), Method: []message.AuthMethod{message.AuthSharedKey, message.AuthDigitalSignature}[r.IntN(2)],
			Chosen: proposals[r.IntN(2)], TSi: selectors(pick("10.1.0.0/24", "10.9.0.0/24")), TSr: selectors("10.2.0.0/16"),
			Local: netip.MustParseAddr("192.0.2.1"), Remote: netip.MustParseAddr("192.0.2.2"),
		}
		if r.IntN(2) == 0 {
			x.Asked = fqdn(pick("gw", "GW2"))
		}
		want, _ := choose(list, x)
		got, ok := NewCandidates(list).Choose(x)
		if got != want || ok != (want != nil) {
			t.Fatalf("a peer that is %s: %+v, want %+v", x.Peer, got, want)
		}
		if ok {
			chosen++
		}
	}
	if chosen < 500 {
		t.Errorf("only %d claims had a connection", chosen)
	}
}

// TestProposing: whatever a peer proposes, the first connection that accepts it is
// among those that propose.
func TestProposing(t *testing.T) {
	a := []ipsec.Proposal{must(suite.ParseIKE("aes256gcm16-prfsha256-x25519"))}
	b := []ipsec.Proposal{must(suite.ParseIKE("aes128-sha256-modp2048")), a[0]}
	list := []*Connection{{Proposals: a}, {Proposals: b}, {Proposals: a}, {Proposals: b[:1]}, {Proposals: b}}
	got := NewCandidates(list).Proposing()
	if want := []*Connection{list[0], list[1], list[3]}; !slices.Equal(got, want) {
		t.Errorf("%d of the connections propose", len(got))
	}
}

func TestFragmentLimit(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		size   int
		to     netip.Addr
		marked bool
		want   int
	}{
		{0, v4, false, 1280 - 28},
		{0, v6, false, 1280 - 48},
		{0, v4, true, 1280 - 32},
		{0, v6, true, 1280 - 52},
		{576, v4, false, 576 - 28},
		{1, v4, false, 576 - 28},
		{1500, v6, true, 1500 - 52},
		{1500, netip.MustParseAddr("::ffff:192.0.2.1"), false, 1500 - 28},
	} {
		c := &Connection{FragmentSize: tt.size}
		if got := c.FragmentLimit(tt.to, tt.marked); got != tt.want {
			t.Errorf("%d to %s, marked %v: %d, want %d", tt.size, tt.to, tt.marked, got, tt.want)
		}
	}
}
