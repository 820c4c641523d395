package rules

import (
	"slices"
	"testing"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

func proposals(t testing.TB, parse func(string) (ipsec.Proposal, error), words ...string) []ipsec.Proposal {
	t.Helper()
	var out []ipsec.Proposal
	for _, w := range words {
		p, err := parse(w)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func sel(t testing.TB, texts ...string) []ipsec.Selector {
	t.Helper()
	var out []ipsec.Selector
	for _, s := range texts {
		x, err := ipsec.ParseSelector(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, x)
	}
	return out
}

func TestNarrow(t *testing.T) {
	for _, test := range []struct {
		name                 string
		proposed, configured []string
		want                 []string
	}{
		{"equal", []string{"10.1.0.0/16"}, []string{"10.1.0.0/16"}, []string{"10.1.0.0/16"}},
		{"narrower", []string{"10.1.2.0/24"}, []string{"10.1.0.0/16"}, []string{"10.1.2.0/24"}},
		{"wider", []string{"0.0.0.0/0"}, []string{"10.1.0.0/16"}, []string{"10.1.0.0/16"}},
		{"overlapping", []string{"10.0.0.5-10.0.0.20"}, []string{"10.0.0.10-10.0.0.30"}, []string{"10.0.0.10-10.0.0.20"}},
		{"disjoint", []string{"10.2.0.0/16"}, []string{"10.1.0.0/16"}, nil},
		{"other family", []string{"2001:db8::/32"}, []string{"10.1.0.0/16"}, nil},
		{"v6", []string{"2001:db8:1::/48"}, []string{"2001:db8::/32"}, []string{"2001:db8:1::/48"}},
		{"protocol", []string{"10.1.0.0/16:tcp/80"}, []string{"10.1.0.0/16"}, []string{"10.1.0.0/16:tcp/80"}},
		{"protocol configured", []string{"10.1.0.0/16"}, []string{"10.1.0.0/16:udp"}, []string{"10.1.0.0/16:udp"}},
		{"wrong protocol", []string{"10.1.0.0/16:tcp"}, []string{"10.1.0.0/16:udp"}, nil},
		{"ports", []string{"10.1.0.0/16:tcp/80-90"}, []string{"10.1.0.0/16:tcp/85-100"}, []string{"10.1.0.0/16:tcp/85-90"}},
		{"several", []string{"0.0.0.0/0"}, []string{"10.1.0.0/16", "10.3.0.0/16"}, []string{"10.1.0.0/16", "10.3.0.0/16"}},
		{
			"the packet first, then covered by the rest",
			[]string{"10.1.0.7/32:tcp/80", "10.1.0.0/16"},
			[]string{"10.1.0.0/16"},
			[]string{"10.1.0.0/16"},
		},
		{
			"the packet alone fits",
			[]string{"10.1.0.7/32:tcp/80", "10.9.0.0/16"},
			[]string{"10.1.0.0/16"},
			[]string{"10.1.0.7/32:tcp/80"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Narrow(sel(t, test.proposed...), sel(t, test.configured...))
			if want := sel(t, test.want...); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if len(got) > 0 && (!Within(got, sel(t, test.proposed...)) || !Within(got, sel(t, test.configured...))) {
				t.Error("the result is wider than one of the sides")
			}
		})
	}
	if Within(nil, sel(t, "10.0.0.0/8")) || Within(sel(t, "10.0.0.0/7"), sel(t, "10.0.0.0/8")) {
		t.Error("within accepts nothing, or too much")
	}
}

func TestNarrowIsBounded(t *testing.T) {
	var many []ipsec.Selector
	for i := range 100 {
		s := sel(t, "10.0.0.0/8:tcp")[0]
		s.FirstPort, s.LastPort = uint16(10*i), uint16(10*i+5)
		many = append(many, s)
	}
	var others []ipsec.Selector
	for i := range 10 {
		s := sel(t, "10.0.0.0/8")[0]
		s.First = s.First.Next()
		for range i {
			s.First, s.Last = s.First.Next().Next(), s.Last.Prev()
		}
		others = append(others, s)
	}
	if got := Narrow(many, others); len(got) > maxSelectors {
		t.Errorf("%d selectors", len(got))
	}
}

func TestChoose(t *testing.T) {
	for _, test := range []struct {
		own, offered, want string
		esp                bool
	}{
		{"aes256gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-x25519", false},
		{"aes256gcm16-aes128gcm16-prfsha256-ecp256-x25519", "aes128gcm16-prfsha512-prfsha256-x25519-ecp256", "aes128gcm16-prfsha256-ecp256", false},
		{"aes256gcm16-prfsha256-x25519", "aes128gcm16-prfsha256-x25519", "", false},
		{"aes256-sha256-x25519", "aes256gcm16-prfsha256-x25519", "", false},
		{"aes256gcm16-esn", "aes256gcm16-noesn", "", true},
		{"aes256gcm16-esn-noesn", "aes256gcm16-noesn-esn", "aes256gcm16-esn", true},
		{"aes256gcm16-x25519", "aes256gcm16", "", true},
		{"aes256gcm16", "aes256gcm16-x25519", "", true},
		{"aes128-sha256", "aes128-sha512-sha256", "aes128-sha256-noesn", true},
	} {
		parse, protocol := suite.ParseIKE, message.ProtocolIKE
		if test.esp {
			parse, protocol = suite.ParseESP, message.ProtocolESP
		}
		own, offered := proposals(t, parse, test.own), proposals(t, parse, test.offered)
		sa := Offer(offered, protocol, nil)
		got, ok := Choose(own, sa.Proposals, protocol)
		if ok != (test.want != "") {
			t.Errorf("%s with %s: %v", test.own, test.offered, ok)
			continue
		}
		if !ok {
			continue
		}
		want := test.want
		if test.esp && want == "aes256gcm16-esn" {
			want = "aes256gcm16-esn"
		}
		if s := suite.ProposalString(got.Transforms); s != want {
			t.Errorf("%s with %s: %s, want %s", test.own, test.offered, s, want)
		}
		if _, ok := Accepted(&message.SA{Proposals: []message.Proposal{got}}, offered, protocol); !ok {
			t.Errorf("%s: the initiator does not accept the answer", test.want)
		}
	}
}

func TestAccepted(t *testing.T) {
	own := proposals(t, suite.ParseESP, "aes256gcm16-aes128gcm16-x25519", "aes128-sha256")
	for _, test := range []struct {
		name   string
		change func(p *message.Proposal)
	}{
		{"other number", func(p *message.Proposal) { p.Number = 2 }},
		{"number out of range", func(p *message.Proposal) { p.Number = 3 }},
		{"other protocol", func(p *message.Proposal) { p.Protocol = message.ProtocolAH }},
		{"unknown transform type", func(p *message.Proposal) { p.Unknown = true }},
		{"two of a type", func(p *message.Proposal) {
			p.Transforms = append(p.Transforms, ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128})
		}},
		{"weaker than offered", func(p *message.Proposal) { p.Transforms[0].KeyBits = 192 }},
		{"no encryption", func(p *message.Proposal) { p.Transforms = p.Transforms[1:] }},
		{"NULL encryption", func(p *message.Proposal) { p.Transforms[0] = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrNull} }},
		{"no key exchange", func(p *message.Proposal) { p.Transforms = p.Transforms[:1] }},
	} {
		p := message.Proposal{Number: 1, Protocol: message.ProtocolESP, Transforms: ipsec.Proposal{
			{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 256},
			{Type: ipsec.TypeKE, ID: ipsec.KEX25519},
			{Type: ipsec.TypeESN, ID: ipsec.ESNNo},
		}}
		if _, ok := Accepted(&message.SA{Proposals: []message.Proposal{p}}, own, message.ProtocolESP); !ok {
			t.Fatal("a good answer is refused")
		}
		test.change(&p)
		if _, ok := Accepted(&message.SA{Proposals: []message.Proposal{p}}, own, message.ProtocolESP); ok {
			t.Errorf("%s: accepted", test.name)
		}
	}
	if _, ok := Accepted(&message.SA{}, own, message.ProtocolESP); ok {
		t.Error("no proposal: accepted")
	}
}

func TestCheckContent(t *testing.T) {
	sa := Offer(proposals(t, suite.ParseIKE, "aes128-sha256-ecp256"), message.ProtocolIKE, nil)
	ke, nonce := &message.KE{Method: 19}, &message.Nonce{}
	note := &message.Notify{Kind: message.SignatureHashAlgorithms}
	for _, test := range []struct {
		name     string
		kind     message.ExchangeType
		response bool
		payloads []message.Payload
		ok       bool
	}{
		{"whole", message.IKESAInit, false, []message.Payload{sa, ke, nonce, note}, true},
		{"other order", message.IKESAInit, false, []message.Payload{note, nonce, ke, sa, &message.VendorID{}}, true},
		{"missing", message.IKESAInit, false, []message.Payload{sa, nonce}, false},
		{"twice", message.IKESAInit, false, []message.Payload{sa, ke, nonce, nonce}, false},
		{"misplaced", message.IKESAInit, false, []message.Payload{sa, ke, nonce, &message.Auth{}}, false},
		{"unknown", message.IKESAInit, false, []message.Payload{sa, ke, nonce, &message.Unknown{Kind: 200}}, true},
		{"error instead", message.IKESAInit, true, []message.Payload{&message.Notify{Kind: message.NoProposalChosen}}, true},
		{"error in a request", message.IKESAInit, false, []message.Payload{&message.Notify{Kind: message.NoProposalChosen}}, false},
		{"empty", message.Informational, false, nil, true},
		{"several deletes", message.Informational, false, []message.Payload{&message.Delete{}, &message.Delete{}}, true},
		{"SA in INFORMATIONAL", message.Informational, false, []message.Payload{sa}, false},
		{"unknown exchange", 99, false, nil, false},
	} {
		msg := &message.Message{Header: message.Header{Exchange: test.kind}, Payloads: test.payloads}
		if test.response {
			msg.Header.Flags = message.FlagResponse
		}
		if f := CheckContent(msg); (f == nil) != test.ok {
			t.Errorf("%s %s: %v", test.kind, test.name, f)
		}
	}
}

func TestIdentityEquality(t *testing.T) {
	fqdn := Identity{Kind: message.IDFQDN, Data: "Gw.Example"}
	for _, test := range []struct {
		a, b Identity
		want bool
	}{
		{fqdn, Identity{Kind: message.IDFQDN, Data: "gw.example"}, true},
		{fqdn, Identity{Kind: message.IDRFC822, Data: "gw.example"}, false},
		{Identity{Kind: message.IDKeyID, Data: "A"}, Identity{Kind: message.IDKeyID, Data: "a"}, false},
		{Identity{}, fqdn, false},
	} {
		if got := test.a.Equals(test.b); got != test.want {
			t.Errorf("%v equals %v: %v", test.a, test.b, got)
		}
	}
	if !(Identity{}).Permits(fqdn) || fqdn.Permits(Identity{}) {
		t.Error("permits")
	}
	if s := (Identity{Kind: message.IDFQDN, Data: "a\x1b[31m"}).String(); s != `a\x1b[31m` {
		t.Errorf("String is %q", s)
	}
}
