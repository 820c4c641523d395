package message

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"caponier/internal/ipsec"
)

const nonceHex = "000102030405060708090a0b0c0d0e0f"

// golden are the octets behind the generic header, set by hand from the figures
// of RFC 7296, Section 3, and what they say.
var golden = map[string]struct {
	hex  string
	want Payload
}{
	"SA": {
		`
		02 00 0024 01 01 00 03
			03 00 000c 01 00 0014 800e 0100
			03 00 0008 02 00 0007
			00 00 0008 04 00 001f
		00 00 0028 02 01 08 02 a1a2a3a4a5a6a7a8
			03 00 000c 01 00 000c 800e 0080
			00 00 000c 03 00 000c 800e 0001`,
		&SA{Proposals: []Proposal{
			{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{
				{Type: ipsec.TypeEncr, ID: 20, KeyBits: 256}, {Type: ipsec.TypePRF, ID: 7}, {Type: ipsec.TypeKE, ID: 31},
			}},
			{Number: 2, Protocol: ProtocolIKE, SPI: octets(8, 0xa1), Transforms: ipsec.Proposal{
				{Type: ipsec.TypeEncr, ID: 12, KeyBits: 128}, {Type: ipsec.TypeInteg, ID: 12, KeyBits: 1},
			}},
		}},
	},
	"KE":      {"001f 0000 0a0b0c", &KE{Method: 31, Data: []byte{10, 11, 12}}},
	"IDi":     {"02 000000 612e6f7267", &ID{Kind: IDFQDN, Data: []byte("a.org")}},
	"IDr":     {"01 000102 c0000202", &ID{Responder: true, Kind: IDIPv4, Data: []byte{192, 0, 2, 2}, Reserved: [3]byte{0, 1, 2}}},
	"CERT":    {"04 3082", &Cert{Encoding: CertX509Signature, Data: []byte{0x30, 0x82}}},
	"CERTREQ": {"04 0102", &CertReq{Encoding: CertX509Signature, Data: []byte{1, 2}}},
	"AUTH":    {"0e 000000 0c30", &Auth{Method: AuthDigitalSignature, Data: []byte{0x0c, 0x30}}},
	"Nonce":   {nonceHex, &Nonce{Data: octets(16, 0)}},
	"N": {"03 04 4009 c0ffee01 aa", &Notify{
		Protocol: ProtocolESP, SPI: []byte{0xc0, 0xff, 0xee, 1}, Kind: RekeySA,
		Data: []byte{0xaa},
	}},
	"D":  {"03 04 0002 c0ffee01 c0ffee02", &Delete{Protocol: ProtocolESP, SPIs: []ipsec.SPI{0xc0ffee01, 0xc0ffee02}}},
	"D2": {"01 00 0000", &Delete{Protocol: ProtocolIKE}},
	"V":  {"666f6f", &VendorID{Data: []byte("foo")}},
	"TSi": {
		`02 000000
		07 11 0010 0035 0036 0a010000 0a01ffff
		08 00 0028 0000 ffff 20010db8000000000000000000000000 20010db800000000ffffffffffffffff`,
		&TS{Selectors: []ipsec.Selector{
			{First: netip.MustParseAddr("10.1.0.0"), Last: netip.MustParseAddr("10.1.255.255"), Protocol: 17, FirstPort: 53, LastPort: 54},
			{First: netip.MustParseAddr("2001:db8::"), Last: netip.MustParseAddr("2001:db8::ffff:ffff:ffff:ffff"), LastPort: 0xffff},
		}},
	},
	"TSr": {
		"01 000000 07 01 0010 0800 0800 00000000 ffffffff",
		&TS{Responder: true, Selectors: []ipsec.Selector{
			{First: netip.MustParseAddr("0.0.0.0"), Last: netip.MustParseAddr("255.255.255.255"), Protocol: 1, FirstPort: 0x800, LastPort: 0x800},
		}},
	},
	"CP":      {"01000000", &Unknown{Kind: TypeConfig, Data: []byte{1, 0, 0, 0}}},
	"unknown": {"0102", &Unknown{Kind: 49, Data: []byte{1, 2}}},
}

func TestGolden(t *testing.T) {
	for name, test := range golden {
		t.Run(name, func(t *testing.T) {
			raw := unhex(t, test.hex)
			got, err := parsePayload(test.want.Type(), false, raw)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, got, test.want)
			out, err := test.want.appendBody(nil)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out, raw) {
				t.Errorf("written as\n% x, want\n% x", out, raw)
			}
		})
	}
}

// TestPayloadEveryPrefix: a prefix is either refused as malformed, or it is a
// payload with less data, and then nothing of it is lost.
func TestPayloadEveryPrefix(t *testing.T) {
	fixed := map[string]bool{"SA": true, "Nonce": true, "D": true, "D2": true, "TSi": true, "TSr": true, "IDr": true}
	for name, test := range golden {
		raw := unhex(t, test.hex)
		for n := range raw {
			got, err := parsePayload(test.want.Type(), false, raw[:n])
			switch {
			case err != nil && !errors.Is(err, ErrSyntax):
				t.Errorf("%s: %d octets: %v", name, n, err)
			case err == nil && fixed[name]:
				t.Errorf("%s: %d of %d octets are accepted", name, n, len(raw))
			case err == nil:
				if out, err := got.appendBody(nil); err != nil || !bytes.Equal(out, raw[:n]) {
					t.Errorf("%s: %d octets are written as % x, %v", name, n, out, err)
				}
			}
		}
	}
}

func TestMalformed(t *testing.T) {
	tests := map[string]struct {
		kind PayloadType
		hex  string
	}{
		"no proposal":                     {TypeSA, ""},
		"proposal length 0":               {TypeSA, "00 00 0000 01 01 00 00"},
		"proposal length 7":               {TypeSA, "00 00 0007 01 01 00 00"},
		"proposal overruns":               {TypeSA, "00 00 0009 01 01 00 00"},
		"proposal 0":                      {TypeSA, "00 00 0008 00 01 00 00"},
		"last but another follows":        {TypeSA, "00 00 0008 01 01 00 00 00 00 0008 02 01 00 00"},
		"not last but nothing follows":    {TypeSA, "02 00 0008 01 01 00 00"},
		"marker of a transform":           {TypeSA, "03 00 0008 01 01 00 00 00 00 0008 02 01 00 00"},
		"same number twice":               {TypeSA, "02 00 0008 01 01 00 00 00 00 0008 01 01 00 00"},
		"number left out":                 {TypeSA, "02 00 0008 01 01 00 00 00 00 0008 03 01 00 00"},
		"IKE SPI of 4 octets":             {TypeSA, "00 00 000c 01 01 04 00 01020304"},
		"ESP without SPI":                 {TypeSA, "00 00 0008 01 03 00 00"},
		"SPI overruns the proposal":       {TypeSA, "00 00 000c 01 01 08 00 01020304"},
		"more transforms than there are":  {TypeSA, "00 00 0010 01 01 00 02 00 00 0008 01 00 000c"},
		"fewer transforms than there are": {TypeSA, "00 00 0010 01 01 00 00 00 00 0008 01 00 000c"},
		"transform length 4":              {TypeSA, "00 00 0010 01 01 00 01 00 00 0004 01 00 000c"},
		"transform overruns":              {TypeSA, "00 00 0010 01 01 00 01 00 00 0010 01 00 000c"},
		"attribute of 2 octets":           {TypeSA, "00 00 0012 01 01 00 01 00 00 000a 01 00 000c 800e"},
		"attribute overruns":              {TypeSA, "00 00 0014 01 01 00 01 00 00 000c 01 00 000c 000e 0001"},
		"KE of 3 octets":                  {TypeKE, "001f 00"},
		"IPv4 identity of 5 octets":       {TypeIDi, "01 000000 0102030405"},
		"IPv6 identity of 4 octets":       {TypeIDr, "05 000000 01020304"},
		"certificate without encoding":    {TypeCert, ""},
		"request without encoding":        {TypeCertReq, ""},
		"AUTH of 3 octets":                {TypeAuth, "020000"},
		"nonce of 15 octets":              {TypeNonce, nonceHex[2:]},
		"notification of 3 octets":        {TypeNotify, "000040"},
		"SPI overruns the notification":   {TypeNotify, "03 04 4009 c0ffee"},
		"delete of unknown protocol":      {TypeDelete, "04 04 0001 01020304"},
		"delete of IKE with an SPI":       {TypeDelete, "01 08 0001 0102030405060708"},
		"delete of IKE with a count":      {TypeDelete, "01 00 0001"},
		"delete with SPIs of 8 octets":    {TypeDelete, "03 08 0001 0102030405060708"},
		"more SPIs than there are":        {TypeDelete, "03 04 ffff 01020304"},
		"fewer SPIs than there are":       {TypeDelete, "03 04 0000 01020304"},
		"selector length 0":               {TypeTSi, "01 000000 07 00 0000 0000 ffff 00000000 ffffffff"},
		"unknown selector length 0":       {TypeTSi, "01 000000 09 00 0000"},
		"IPv4 selector of IPv6 length":    {TypeTSi, "01 000000 07 00 0028 0000 ffff 20010db8000000000000000000000000 20010db800000000ffffffffffffffff"},
		"selector overruns":               {TypeTSr, "01 000000 09 00 0009 00000000"},
		"more selectors than there are":   {TypeTSr, "02 000000 07 00 0010 0000 ffff 00000000 ffffffff"},
		"fewer selectors than there are":  {TypeTSr, "00 000000 07 00 0010 0000 ffff 00000000 ffffffff"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := parsePayload(test.kind, false, unhex(t, test.hex)); !errors.Is(err, ErrSyntax) {
				t.Errorf("got %v, %v; want %v", got, err, ErrSyntax)
			}
		})
	}
	long := octets(MaxNonce+1, 0)
	if _, err := parsePayload(TypeNonce, false, long); !errors.Is(err, ErrSyntax) {
		t.Errorf("nonce of %d octets: %v", len(long), err)
	}
	if _, err := parsePayload(TypeNonce, false, long[1:]); err != nil {
		t.Errorf("nonce of %d octets: %v", MaxNonce, err)
	}
}

// TestNotSelectable: RFC 7296, Section 3.3.6.
func TestNotSelectable(t *testing.T) {
	aes := ipsec.Transform{Type: ipsec.TypeEncr, ID: 12, KeyBits: 128}
	tests := map[string]struct {
		hex  string
		want Proposal
	}{
		"transform with unknown attribute": {
			"00 00 0020 01 01 00 02 03 00 000c 01 00 000c 800f 0080  00 00 000c 01 00 000c 800e 0080",
			Proposal{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{aes}},
		},
		"unknown attribute of variable length": {
			"00 00 0024 01 01 00 02 03 00 0010 01 00 000c 0010 0004 01020304  00 00 000c 01 00 000c 800e 0080",
			Proposal{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{aes}},
		},
		"key length of variable length": {
			"00 00 0022 01 01 00 02 03 00 000e 01 00 000c 000e 0002 0080  00 00 000c 01 00 000c 800e 0080",
			Proposal{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{aes}},
		},
		"two key lengths": {
			"00 00 0024 01 01 00 02 03 00 0010 01 00 000c 800e 0080 800e 0100  00 00 000c 01 00 000c 800e 0080",
			Proposal{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{aes}},
		},
		"key length 0": {
			"00 00 0014 01 01 00 01 00 00 000c 01 00 000c 800e 0000",
			Proposal{Number: 1, Protocol: ProtocolIKE, Unknown: true},
		},
		"every integrity transform left out": {
			"00 00 0020 01 01 00 02 03 00 000c 01 00 000c 800e 0080  00 00 000c 03 00 000c 800f 0080",
			Proposal{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{aes}, Unknown: true},
		},
		"unknown transform type": {
			"00 00 001c 01 01 00 02 03 00 000c 01 00 000c 800e 0080  00 00 0008 06 00 0023",
			Proposal{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{aes}, Unknown: true},
		},
		"transform type 0": {
			"00 00 0010 01 01 00 01 00 00 0008 00 00 0001",
			Proposal{Number: 1, Protocol: ProtocolIKE, Unknown: true},
		},
		"unknown protocol": {
			"00 00 000b 01 04 03 00 010203",
			Proposal{Number: 1, Protocol: 4, SPI: []byte{1, 2, 3}, Unknown: true},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseSA(unhex(t, test.hex))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, got, &SA{Proposals: []Proposal{test.want}})
		})
	}
}

func TestMaxProposalsAndTransforms(t *testing.T) {
	sa := &SA{}
	for n := range MaxProposals {
		sa.Proposals = append(sa.Proposals, Proposal{Number: uint8(n + 1), Protocol: ProtocolIKE})
	}
	raw, err := sa.appendBody(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parseSA(raw); err != nil {
		t.Errorf("%d proposals: %v", MaxProposals, err)
	}
	raw[len(raw)-8] = moreProposals
	raw = append(raw, 0, 0, 0, 8, MaxProposals+1, 1, 0, 0)
	if _, err := parseSA(raw); !errors.Is(err, ErrSyntax) {
		t.Errorf("%d proposals: %v", MaxProposals+1, err)
	}

	many := &SA{Proposals: []Proposal{{Number: 1, Protocol: ProtocolIKE, Transforms: make(ipsec.Proposal, MaxTransforms)}}}
	for i := range many.Proposals[0].Transforms {
		many.Proposals[0].Transforms[i] = ipsec.Transform{Type: ipsec.TypeEncr, ID: uint16(i)}
	}
	if raw, err = many.appendBody(nil); err != nil {
		t.Fatal(err)
	}
	if got, err := parseSA(raw); err != nil {
		t.Errorf("%d transforms: %v", MaxTransforms, err)
	} else {
		equal(t, got, many)
	}
	raw[7]++
	if _, err := parseSA(raw); !errors.Is(err, ErrSyntax) {
		t.Errorf("%d transforms: %v", MaxTransforms+1, err)
	}
}

func TestSelectorsLeftOut(t *testing.T) {
	any4 := ipsec.Selector{First: netip.MustParseAddr("0.0.0.0"), Last: netip.MustParseAddr("255.255.255.255"), LastPort: 0xffff}
	raw := unhex(t, `06 000000
		09 00 000c 0102030405060708
		07 06 0010 ffff 0000 0a000000 0affffff
		07 06 0010 0051 0050 0a000000 0affffff
		07 00 0010 0000 ffff 0affffff 0a000000
		08 00 0028 0000 ffff 00000000000000000000ffff0a000000 00000000000000000000ffff0affffff
		07 00 0010 0000 ffff 00000000 ffffffff`)
	got, err := parseTS(raw, false)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, got, &TS{Selectors: []ipsec.Selector{any4}})
}

// TestIDBody: AUTH covers the reserved octets as they were received.
func TestIDBody(t *testing.T) {
	raw := unhex(t, "0b 010203 6b6579")
	id, err := parseID(raw, false)
	if err != nil {
		t.Fatal(err)
	}
	if got := id.Body(); !bytes.Equal(got, raw) {
		t.Errorf("got % x, want % x", got, raw)
	}
}
