package conf

import (
	"net/netip"
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
		if got, ok := Choose(all, x); got != tt.want || ok != (tt.want != nil) {
			t.Errorf("%s: %v", what, got)
		}
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
