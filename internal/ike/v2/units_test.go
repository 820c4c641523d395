package v2

import (
	"slices"
	"testing"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

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
			"the packet first, then covered by the rest", []string{"10.1.0.7/32:tcp/80", "10.1.0.0/16"},
			[]string{"10.1.0.0/16"},
			[]string{"10.1.0.0/16"},
		},
		{
			"the packet alone fits", []string{"10.1.0.7/32:tcp/80", "10.9.0.0/16"},
			[]string{"10.1.0.0/16"},
			[]string{"10.1.0.7/32:tcp/80"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := narrow(sel(t, test.proposed...), sel(t, test.configured...))
			if want := sel(t, test.want...); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
			if len(got) > 0 && (!within(got, sel(t, test.proposed...)) || !within(got, sel(t, test.configured...))) {
				t.Error("the result is wider than one of the sides")
			}
		})
	}
	if within(nil, sel(t, "10.0.0.0/8")) || within(sel(t, "10.0.0.0/7"), sel(t, "10.0.0.0/8")) {
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
	if got := narrow(many, others); len(got) > maxSelectors {
		t.Errorf("%d selectors", len(got))
	}
}

func TestProposeSelectors(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.pskPair()
	m := w.initiate(Initiate{})
	src, dst := sel(t, "10.1.0.7/32")[0].First, sel(t, "10.2.0.9/32")[0].First
	local, remote := m.proposeSelectors(l.Children[0], &ipsec.Flow{Src: src, Dst: dst, Protocol: 6, SrcPort: 1000, DstPort: 80})
	if !slices.Equal(local, sel(t, "10.1.0.7/32:tcp/1000", "10.1.0.0/16")) ||
		!slices.Equal(remote, sel(t, "10.2.0.9/32:tcp/80", "10.2.0.0/16")) {
		t.Errorf("%v === %v", local, remote)
	}
	local, _ = m.proposeSelectors(l.Children[0], &ipsec.Flow{Src: dst, Dst: src, Protocol: 6})
	if !slices.Equal(local, sel(t, "10.1.0.0/16")) {
		t.Errorf("a packet that does not fit: %v", local)
	}
	host := &Child{}
	if local, remote = m.proposeSelectors(host, nil); !slices.Equal(local, sel(t, "192.0.2.1/32")) || !slices.Equal(remote, sel(t, "198.51.100.1/32")) {
		t.Errorf("host to host: %v === %v", local, remote)
	}
}

func TestFlowInFront(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	flow := ipsec.Flow{Src: sel(t, "10.1.0.7/32")[0].First, Dst: sel(t, "10.2.0.9/32")[0].First, Protocol: 6, SrcPort: 1, DstPort: 2}
	w.up(Initiate{Flow: &flow})
	for _, sa := range w.right.sad {
		if !slices.Equal(sa.RemoteTS, sel(t, "10.1.0.0/16")) {
			t.Errorf("selectors %v", sa.RemoteTS)
		}
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
		sa := offer(offered, protocol, nil)
		got, ok := choose(own, sa.Proposals, protocol)
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
		if _, ok := accepted(&message.SA{Proposals: []message.Proposal{got}}, offered, protocol); !ok {
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
			{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 256}, {Type: ipsec.TypeKE, ID: ipsec.KEX25519},
			{Type: ipsec.TypeESN, ID: ipsec.ESNNo},
		}}
		if _, ok := accepted(&message.SA{Proposals: []message.Proposal{p}}, own, message.ProtocolESP); !ok {
			t.Fatal("a good answer is refused")
		}
		test.change(&p)
		if _, ok := accepted(&message.SA{Proposals: []message.Proposal{p}}, own, message.ProtocolESP); ok {
			t.Errorf("%s: accepted", test.name)
		}
	}
	if _, ok := accepted(&message.SA{}, own, message.ProtocolESP); ok {
		t.Error("no proposal: accepted")
	}
}

func TestCheckContent(t *testing.T) {
	sa := offer(proposals(t, suite.ParseIKE, "aes128-sha256-ecp256"), message.ProtocolIKE, nil)
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
		if f := checkContent(msg); (f == nil) != test.ok {
			t.Errorf("%s %s: %v", test.kind, test.name, f)
		}
	}
}

func TestIdentityEquality(t *testing.T) {
	fqdn := Identity{message.IDFQDN, "Gw.Example"}
	for _, test := range []struct {
		a, b Identity
		want bool
	}{
		{fqdn, Identity{message.IDFQDN, "gw.example"}, true},
		{fqdn, Identity{message.IDRFC822, "gw.example"}, false},
		{Identity{message.IDKeyID, "A"}, Identity{message.IDKeyID, "a"}, false},
		{Identity{}, fqdn, false},
	} {
		if got := test.a.equals(test.b); got != test.want {
			t.Errorf("%v equals %v: %v", test.a, test.b, got)
		}
	}
	if !(Identity{}).permits(fqdn) || fqdn.permits(Identity{}) {
		t.Error("permits")
	}
	if s := (Identity{message.IDFQDN, "a\x1b[31m"}).String(); s != `a\x1b[31m` {
		t.Errorf("String is %q", s)
	}
}
