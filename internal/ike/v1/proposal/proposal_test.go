package proposal

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
)

var (
	sm4cbc   = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
	sm4gcm   = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4GCM16}
	prfSM3   = ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3}
	sm3      = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3}
	sm3Short = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM396}
)

func connection() *conf.Connection {
	return &conf.Connection{Proposals: []ipsec.Proposal{{sm4cbc, prfSM3}}, Lifetime: time.Hour, GM: &conf.GM{}}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// attributes of an offer, by type.
func numbers(t isakmp.Transform) map[uint16]uint64 {
	out := map[uint16]uint64{}
	for _, a := range t.Attributes {
		out[a.Type], _ = a.Number()
	}
	return out
}

// TestOfferIKE writes the numbers of GM/T 0022, and those of other readings where they
// are set.
func TestOfferIKE(t *testing.T) {
	c := connection()
	want := map[uint16]uint64{1: 129, 2: 20, 3: 10, 20: 2, 11: 1, 12: 3600}
	if diff := cmp.Diff(want, numbers(must(OfferIKE(c)).Proposals[0].Transforms[0])); diff != "" {
		t.Error(diff)
	}
	c.GM.IKESM4, c.GM.KeyLength, c.Lifetime = 127, true, 0
	want = map[uint16]uint64{1: 127, 2: 20, 3: 10, 20: 2, 14: 128}
	if diff := cmp.Diff(want, numbers(must(OfferIKE(c)).Proposals[0].Transforms[0])); diff != "" {
		t.Error(diff)
	}
	c.Proposals = []ipsec.Proposal{{sm4gcm, prfSM3}}
	if sa, err := OfferIKE(c); err == nil {
		t.Errorf("offers %s", Describe(sa))
	}
}

// TestChooseIKE takes what it understands, and nothing that would change what was
// agreed on (RFC 2408, Section 5.4).
func TestChooseIKE(t *testing.T) {
	for name, test := range map[string]struct {
		change func(a *isakmp.Transform)
		ok     bool
	}{
		"as offered":                   {func(*isakmp.Transform) {}, true},
		"the number of the draft":      {func(a *isakmp.Transform) { set(a, isakmp.AttrEncryption, 127) }, true},
		"a key of 128 bits":            {func(a *isakmp.Transform) { set(a, isakmp.AttrIKEKeyLength, 128) }, true},
		"a group":                      {func(a *isakmp.Transform) { set(a, isakmp.AttrGroup, 2) }, true},
		"no asymmetric algorithm":      {func(a *isakmp.Transform) { drop(a, isakmp.AttrAsymmetricAlg) }, true},
		"a lifetime in kilobytes":      {func(a *isakmp.Transform) { set(a, isakmp.AttrIKELifeType, 2) }, true},
		"SM1":                          {func(a *isakmp.Transform) { set(a, isakmp.AttrEncryption, 128) }, false},
		"a key of 256 bits":            {func(a *isakmp.Transform) { set(a, isakmp.AttrIKEKeyLength, 256) }, false},
		"RSA":                          {func(a *isakmp.Transform) { set(a, isakmp.AttrAsymmetricAlg, 1) }, false},
		"a shared key":                 {func(a *isakmp.Transform) { set(a, isakmp.AttrAuthMethod, 1) }, false},
		"no method":                    {func(a *isakmp.Transform) { drop(a, isakmp.AttrAuthMethod) }, false},
		"SHA-1":                        {func(a *isakmp.Transform) { set(a, isakmp.AttrHash, 2) }, false},
		"no hash":                      {func(a *isakmp.Transform) { drop(a, isakmp.AttrHash) }, false},
		"another transform identifier": {func(a *isakmp.Transform) { a.ID = 2 }, false},
		"a number without end": {func(a *isakmp.Transform) {
			a.Attributes = append(a.Attributes, isakmp.Attribute{Type: 99, Long: make([]byte, 9)})
		}, false},
		"a number that wraps": {func(a *isakmp.Transform) {
			drop(a, isakmp.AttrHash)
			a.Attributes = append(a.Attributes, isakmp.Attribute{Type: isakmp.AttrHash, Long: []byte{1, 0, 20}})
		}, false},
	} {
		c := connection()
		sa := must(OfferIKE(c))
		test.change(&sa.Proposals[0].Transforms[0])
		got, ok := ChooseIKE(c, sa)
		if ok != test.ok {
			t.Errorf("%s: %v", name, ok)
			continue
		}
		if ok && !slices.Equal(got.Proposal, ipsec.Proposal{sm4cbc, prfSM3}) {
			t.Errorf("%s: %v", name, got.Proposal)
		}
		reply := &isakmp.SA{Proposals: []isakmp.Proposal{got.Reply}}
		if _, accepted := AcceptIKE(c, must(OfferIKE(c)), reply); ok && !accepted {
			t.Errorf("%s: chosen, but not accepted", name)
		}
	}
}

func set(t *isakmp.Transform, kind, value uint16) {
	drop(t, kind)
	t.Attributes = append([]isakmp.Attribute{isakmp.Short(kind, value)}, t.Attributes...)
}

func drop(t *isakmp.Transform, kind uint16) {
	t.Attributes = slices.DeleteFunc(slices.Clone(t.Attributes), func(a isakmp.Attribute) bool { return a.Type == kind })
}

// TestAcceptIKE takes one transform of one proposal, and a lifetime that the
// responder has shortened.
func TestAcceptIKE(t *testing.T) {
	c := connection()
	offered := must(OfferIKE(c))
	for name, reply := range map[string]*isakmp.SA{
		"nothing":        {},
		"two proposals":  {Proposals: []isakmp.Proposal{offered.Proposals[0], offered.Proposals[0]}},
		"two transforms": {Proposals: []isakmp.Proposal{{Protocol: 1, Transforms: slices.Repeat(offered.Proposals[0].Transforms, 2)}}},
		"of ESP":         {Proposals: []isakmp.Proposal{{Protocol: 3, Transforms: offered.Proposals[0].Transforms}}},
	} {
		if _, ok := AcceptIKE(c, offered, reply); ok {
			t.Errorf("%s is accepted", name)
		}
	}
	shorter := must(OfferIKE(c))
	drop(&shorter.Proposals[0].Transforms[0], isakmp.AttrIKELife)
	shorter.Proposals[0].Transforms[0].Attributes = append(shorter.Proposals[0].Transforms[0].Attributes, isakmp.Number(isakmp.AttrIKELife, 600))
	if got, ok := AcceptIKE(c, offered, shorter); !ok || got.Life != 10*time.Minute {
		t.Errorf("a shorter lifetime: %v, %s", ok, got.Life)
	}
}

func terms() Terms {
	return Terms{GM: &conf.GM{}, UsableSPI: func(_ ipsec.Protocol, spi []byte) bool { return len(spi) == 4 && spi[0] != 0 }}
}

// TestChild offers tunnels as GM/T 0022 numbers them, and takes the answer for what
// was meant.
func TestChild(t *testing.T) {
	for name, test := range map[string]struct {
		tunnel conf.Child
		change func(x *Terms)
		id     uint8
		want   map[uint16]uint64
		chosen ipsec.Proposal
	}{
		"SM4-CBC":       {conf.Child{Proposals: []ipsec.Proposal{{sm4cbc, sm3}}}, nil, 127, map[uint16]uint64{4: 1, 5: 20}, ipsec.Proposal{sm4cbc, sm3}},
		"a cut ICV":     {conf.Child{Proposals: []ipsec.Proposal{{sm4cbc, sm3Short}}}, nil, 127, map[uint16]uint64{4: 1, 5: 20}, ipsec.Proposal{sm4cbc, sm3Short}},
		"129":           {conf.Child{Proposals: []ipsec.Proposal{{sm4cbc, sm3}}}, func(x *Terms) { x.GM.ESPSM4 = 129 }, 129, map[uint16]uint64{4: 1, 5: 20}, ipsec.Proposal{sm4cbc, sm3}},
		"SM4-GCM":       {conf.Child{Proposals: []ipsec.Proposal{{sm4gcm}}}, nil, 130, map[uint16]uint64{4: 1}, ipsec.Proposal{sm4gcm}},
		"key length":    {conf.Child{Proposals: []ipsec.Proposal{{sm4gcm}}}, func(x *Terms) { x.GM.KeyLength = true }, 130, map[uint16]uint64{4: 1, 6: 128}, ipsec.Proposal{sm4gcm}},
		"AH":            {conf.Child{Protocol: ipsec.AH, Proposals: []ipsec.Proposal{{sm3}}}, nil, 20, map[uint16]uint64{4: 1, 5: 20}, ipsec.Proposal{sm3}},
		"transport":     {conf.Child{Mode: ipsec.Transport, Proposals: []ipsec.Proposal{{sm4cbc, sm3}}}, nil, 127, map[uint16]uint64{4: 2, 5: 20}, ipsec.Proposal{sm4cbc, sm3}},
		"in UDP":        {conf.Child{Proposals: []ipsec.Proposal{{sm4cbc, sm3}}}, func(x *Terms) { x.Encap = true }, 127, map[uint16]uint64{4: 3, 5: 20}, ipsec.Proposal{sm4cbc, sm3}},
		"both":          {conf.Child{Mode: ipsec.Transport, Proposals: []ipsec.Proposal{{sm4cbc, sm3}}}, func(x *Terms) { x.Encap = true }, 127, map[uint16]uint64{4: 4, 5: 20}, ipsec.Proposal{sm4cbc, sm3}},
		"with lifetime": {conf.Child{Lifetime: ipsec.Limit{Time: time.Hour, Bytes: 1 << 30}, Proposals: []ipsec.Proposal{{sm4gcm}}}, nil, 130, map[uint16]uint64{1: 2, 2: 1 << 20, 4: 1}, ipsec.Proposal{sm4gcm}},
	} {
		x := terms()
		if test.change != nil {
			test.change(&x)
		}
		if test.tunnel.Protocol == 0 {
			test.tunnel.Protocol = ipsec.ESP
		}
		offer := must(x.OfferChild(&test.tunnel, 0xc0ffee01))
		p := offer.Proposals[0]
		if p.Protocol != WireProtocol(test.tunnel.Protocol) || binary.BigEndian.Uint32(p.SPI) != 0xc0ffee01 || len(p.Transforms) != 1 || p.Transforms[0].ID != test.id {
			t.Errorf("%s: %+v", name, p)
		}
		if diff := cmp.Diff(test.want, numbers(p.Transforms[0])); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		got, ok := x.ChooseChild(&test.tunnel, offer)
		if !ok || !slices.Equal(got.Proposal, test.chosen) || got.Life != test.tunnel.Lifetime {
			t.Errorf("%s: chosen %v, %+v", name, ok, got)
		}
		if got, ok := x.AcceptChild(&test.tunnel, offer, &isakmp.SA{Proposals: []isakmp.Proposal{got.Reply}}); !ok || !slices.Equal(got.Proposal, test.chosen) {
			t.Errorf("%s: accepted %v, %+v", name, ok, got)
		}
	}
}

// TestChooseChild refuses what would be another SA than the tunnel's, and takes
// nothing out of a bundle (RFC 2407, Section 4.5).
func TestChooseChild(t *testing.T) {
	tunnel := &conf.Child{Protocol: ipsec.ESP, Proposals: []ipsec.Proposal{{sm4cbc, sm3}}}
	for name, test := range map[string]struct {
		change func(sa *isakmp.SA)
		ok     bool
	}{
		"as offered":         {func(*isakmp.SA) {}, true},
		"numbers of drafts":  {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], isakmp.AttrEncapsulation, 1) }, true},
		"no encapsulation":   {func(sa *isakmp.SA) { drop(&sa.Proposals[0].Transforms[0], isakmp.AttrEncapsulation) }, true},
		"something unknown":  {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], 200, 1) }, true},
		"in UDP without NAT": {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], isakmp.AttrEncapsulation, 3) }, false},
		"transport":          {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], isakmp.AttrEncapsulation, 2) }, false},
		"no integrity":       {func(sa *isakmp.SA) { drop(&sa.Proposals[0].Transforms[0], isakmp.AttrAuthAlg) }, false},
		"HMAC-SHA-1":         {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], isakmp.AttrAuthAlg, 2) }, false},
		"a key exchange":     {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], isakmp.AttrGroupPFS, 2) }, false},
		"long numbers":       {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], isakmp.AttrESN, 1) }, false},
		"a long key":         {func(sa *isakmp.SA) { set(&sa.Proposals[0].Transforms[0], isakmp.AttrKeyLength, 256) }, false},
		"SM1":                {func(sa *isakmp.SA) { sa.Proposals[0].Transforms[0].ID = 128 }, false},
		"NULL":               {func(sa *isakmp.SA) { sa.Proposals[0].Transforms[0].ID = 11 }, false},
		"AH":                 {func(sa *isakmp.SA) { sa.Proposals[0].Protocol, sa.Proposals[0].Transforms[0].ID = 2, 20 }, false},
		"an SPI of 0":        {func(sa *isakmp.SA) { sa.Proposals[0].SPI = make([]byte, 4) }, false},
		"a bundle":           {func(sa *isakmp.SA) { sa.Proposals = append(sa.Proposals, sa.Proposals[0]) }, false},
		"the second proposal": {func(sa *isakmp.SA) {
			second := sa.Proposals[0]
			second.Number = 2
			sa.Proposals[0].Protocol = message.ProtocolAH
			sa.Proposals = append(sa.Proposals, second)
		}, true},
	} {
		sa := must(terms().OfferChild(tunnel, 0xc0ffee01))
		test.change(sa)
		if got, ok := terms().ChooseChild(tunnel, sa); ok != test.ok {
			t.Errorf("%s: %v, %+v", name, ok, got)
		}
	}
	if _, ok := terms().AcceptChild(tunnel, must(terms().OfferChild(tunnel, 256)), must(terms().OfferChild(&conf.Child{
		Protocol: ipsec.ESP, Proposals: []ipsec.Proposal{{sm4gcm}},
	}, 0xc0ffee01))); ok {
		t.Error("an algorithm that was not offered is accepted")
	}
	if _, err := terms().OfferChild(&conf.Child{Protocol: ipsec.ESP}, 256); err == nil {
		t.Error("nothing is offered")
	}
}

// TestWords describes what nobody here offers too, and no more than a few transforms
// of a peer that sends many.
func TestWords(t *testing.T) {
	ike := isakmp.Transform{ID: isakmp.KeyIKE, Attributes: []isakmp.Attribute{
		isakmp.Short(isakmp.AttrIKELifeType, isakmp.LifeSeconds), isakmp.Number(isakmp.AttrIKELife, 3600), isakmp.Short(isakmp.AttrAsymmetricAlg, 1),
		isakmp.Short(isakmp.AttrGroup, 14), isakmp.Short(isakmp.AttrEncryption, 7), isakmp.Short(isakmp.AttrHash, 99), isakmp.Short(isakmp.AttrAuthMethod, 1),
	}}
	esp := isakmp.Transform{ID: 12, Attributes: []isakmp.Attribute{
		isakmp.Short(isakmp.AttrLifeType, isakmp.LifeKilobytes), isakmp.Number(isakmp.AttrLife, 9), isakmp.Short(isakmp.AttrAuthAlg, 2),
		isakmp.Short(isakmp.AttrEncapsulation, 1), isakmp.Short(isakmp.AttrGroupPFS, 2), isakmp.Short(77, 1),
	}}
	for _, test := range []struct {
		p    isakmp.Proposal
		want string
	}{
		{isakmp.Proposal{Protocol: message.ProtocolIKE, Transforms: []isakmp.Transform{ike}}, "AES-CBC (7), 99, pre-shared key (1), group 14, RSA (1), 1h0m0s"},
		{isakmp.Proposal{Protocol: message.ProtocolESP, Transforms: []isakmp.Transform{esp}}, "AES-CBC (12), PFS with group 2, tunnel (1), HMAC-SHA-1 (2), attribute 77 = 1, 9 kilobytes"},
		{isakmp.Proposal{Protocol: message.ProtocolAH, Transforms: []isakmp.Transform{{ID: 3}}}, "AH SHA-1 (3)"},
		{isakmp.Proposal{Protocol: 9, Transforms: []isakmp.Transform{{ID: 3}}}, "protocol 9 transform 3"},
	} {
		if got := Describe(&isakmp.SA{Proposals: []isakmp.Proposal{test.p}}); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
	if got := Words(&isakmp.SA{Proposals: []isakmp.Proposal{{Transforms: make([]isakmp.Transform, 50)}}}); len(got) != maxWords+1 {
		t.Errorf("%d transforms are described", len(got))
	}
	if Words(nil) != nil {
		t.Error("an offer that is not there is described")
	}
}
