package isakmp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
)

// The SA payload of the first message of main mode in GM/T 0022, octet by octet.
const saBody = "00000001" + "00000001" + // DOI, situation
	"00000030" + "01010001" + // proposal 1, ISAKMP, no SPI, one transform
	"00000028" + "01010000" + // transform 1, KEY_IKE
	"80010081" + "80020014" + "8003000a" + "80140002" + // SM4-CBC, SM3, digital envelope, SM2
	"800b0001" + "000c000400015180" + // 86400 seconds
	"800e0080" // a key of 128 bits

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func offer() *SA {
	return &SA{Proposals: []Proposal{{Number: 1, Protocol: message.ProtocolIKE, Transforms: []Transform{{
		Number: 1, ID: KeyIKE, Attributes: []Attribute{
			Short(AttrEncryption, EncryptionSM4CBC), Short(AttrHash, HashSM3), Short(AttrAuthMethod, AuthEnvelope),
			Short(AttrAsymmetricAlg, AsymmetricSM2), Short(AttrIKELifeType, LifeSeconds), Number(AttrIKELife, 86400),
			Short(AttrIKEKeyLength, 128),
		},
	}}}}}
}

func messages(t testing.TB) [][]byte {
	t.Helper()
	sa := unhex(t, saBody)
	esp := &SA{Proposals: []Proposal{{
		Number: 1, Protocol: message.ProtocolESP, SPI: []byte{0xc0, 0xff, 0xee, 1}, Transforms: []Transform{
			{Number: 1, ID: ESPSM4CBC, Attributes: []Attribute{Short(AttrEncapsulation, EncapTunnel), Short(AttrAuthAlg, AuthAlgHMACSM3)}},
			{Number: 2, ID: ESPSM4GCM, Attributes: []Attribute{Number(AttrLife, 1<<20)}},
		},
	}}}
	espBody, err := esp.Body()
	if err != nil {
		t.Fatal(err)
	}
	deletion, err := (&Delete{Protocol: message.ProtocolESP, SPIs: [][]byte{{1, 2, 3, 4}, {5, 6, 7, 8}}}).Body()
	if err != nil {
		t.Fatal(err)
	}
	selector, ok := SelectorID(ipsec.FromPrefix(netip.MustParsePrefix("10.1.0.0/16")))
	if !ok {
		t.Fatal("no ID for a subnet")
	}
	h := Header{InitiatorCookie: 0x0011223344556677, ResponderCookie: 0x8899aabbccddeeff, Minor: 1, Exchange: MainMode}
	var out [][]byte
	for _, payloads := range [][]Payload{
		{{TypeSA, sa}, {TypeVendorID, []byte(VendorDPD)}, {TypeVendorID, []byte(VendorNATT)}},
		{
			{TypeSA, sa},
			{TypeCert, (&Cert{CertX509Signature, []byte("sign")}).Body()},
			{TypeCert, (&Cert{CertX509KeyExchange, []byte("encrypt")}).Body()},
		},
		{{TypeSymmetricKey, []byte("SM2")}, {TypeNonce, make([]byte, 32)}, {TypeID, make([]byte, 48)}, {TypeSignature, []byte("rs")}},
		{{TypeHash, make([]byte, 32)}, {TypeSA, espBody}, {TypeNonce, make([]byte, 16)}, {TypeID, selector.Body()}, NATOriginal(netip.MustParseAddr("192.0.2.1"))},
		{{TypeHash, make([]byte, 32)}, {TypeNotify, (&Notify{Protocol: 1, SPI: make([]byte, 16), Kind: RUThere, Data: []byte{0, 0, 0, 7}}).Body()}},
		{{TypeHash, make([]byte, 32)}, {TypeDelete, deletion}, {TypeCertReq, (&Cert{CertX509Signature, nil}).Body()}},
	} {
		raw, err := (&Message{Header: h, Payloads: payloads}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, raw)
	}
	sealed, err := h.AppendEncrypted(nil, TypeHash, make([]byte, 48))
	if err != nil {
		t.Fatal(err)
	}
	return append(out, sealed)
}

// TestSA holds the SA payload to the layout of RFC 2408, Section 3.4, with the
// numbers of GM/T 0022, in both directions.
func TestSA(t *testing.T) {
	body, err := offer().Body()
	if err != nil || !bytes.Equal(body, unhex(t, saBody)) {
		t.Errorf("wrote %x, %v", body, err)
	}
	sa, err := ParseSA(body)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(offer(), sa); diff != "" {
		t.Error(diff)
	}
	life, ok := sa.Proposals[0].Transforms[0].Find(AttrIKELife)
	if n, fits := life.Number(); !ok || !fits || n != 86400 {
		t.Errorf("lifetime %d", n)
	}
	for i := range body {
		if _, err := ParseSA(body[:i]); !errors.Is(err, ErrSyntax) {
			t.Errorf("%d of %d octets: %v", i, len(body), err)
		}
	}
	for name, change := range map[string]func([]byte){
		"another DOI":                  func(b []byte) { b[3] = 2 },
		"another situation":            func(b []byte) { b[7] = 3 },
		"reserved octet":               func(b []byte) { b[9] = 1 },
		"proposal followed by nothing": func(b []byte) { b[8] = typeProposal },
		"proposal followed by a key":   func(b []byte) { b[8] = 4 },
		"no transforms":                func(b []byte) { b[15] = 0 },
		"a transform too many":         func(b []byte) { b[15] = 2 },
		"SPI longer than the rest":     func(b []byte) { b[14] = 255 },
		"long attribute of nothing":    func(b []byte) { b[47] = 0 },
	} {
		b := bytes.Clone(body)
		change(b)
		if _, err := ParseSA(b); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMessages round-trips whole messages (RFC 2408, Section 3.1), and takes no
// prefix of one for a message.
func TestMessages(t *testing.T) {
	for i, raw := range messages(t) {
		m, err := Parse(raw)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		var again []byte
		if m.Encrypted != nil {
			again, err = m.Header.AppendEncrypted(nil, m.Header.NextPayload, m.Encrypted)
		} else {
			again, err = m.Append(nil)
		}
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("message %d: wrote %x of %x, %v", i, again, raw, err)
		}
		for n := range raw {
			if _, err := Parse(raw[:n]); err == nil {
				t.Errorf("message %d: %d of %d octets pass", i, n, len(raw))
			}
			// A prefix that says its own length.
			if n >= HeaderLen && m.Encrypted == nil {
				cut := bytes.Clone(raw[:n])
				if setLength(cut) != nil {
					t.Fatal("length")
				}
				if _, err := Parse(cut); !errors.Is(err, ErrSyntax) {
					t.Errorf("message %d: a message cut to %d of %d octets: %v", i, n, len(raw), err)
				}
			}
		}
	}
}

func TestHeader(t *testing.T) {
	raw := messages(t)[0]
	if raw[17] != 0x11 {
		t.Errorf("version octet %#x", raw[17])
	}
	raw[17] = 0x20
	if _, err := Parse(raw); !errors.Is(err, ErrVersion) {
		t.Errorf("IKEv2: %v", err)
	}
	if _, err := ParseHeader(raw[:27]); !errors.Is(err, ErrShort) {
		t.Errorf("short: %v", err)
	}
	raw[17] = 0x10
	h, err := ParseHeader(raw)
	if err != nil || h.Minor != 0 || h.Exchange != MainMode || h.InitiatorCookie != 0x0011223344556677 {
		t.Errorf("%v, %v", h, err)
	}
	if s := h.String(); !strings.Contains(s, "Main Mode") || !strings.Contains(s, "0011223344556677/8899aabbccddeeff") {
		t.Error(s)
	}
	if _, err := (&Message{Header: Header{Flags: FlagEncrypted}}).Append(nil); !errors.Is(err, ErrEncode) {
		t.Errorf("an encrypted message in clear: %v", err)
	}
	if _, err := (Header{}).AppendEncrypted(nil, TypeHash, make([]byte, MaxLength)); !errors.Is(err, ErrEncode) {
		t.Errorf("too long: %v", err)
	}
}

// TestPadding reads what decryption gives: padding of any value behind the
// payloads, as much as one octet counts (RFC 2409, Appendix B).
func TestPadding(t *testing.T) {
	chain, err := AppendChain(nil, []Payload{{TypeHash, make([]byte, 32)}, {TypeNotify, make([]byte, 8)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, pad := range []int{0, 1, 15, 16, 255, 256, 257} {
		padded := append(bytes.Clone(chain), bytes.Repeat([]byte{byte(pad)}, pad)...)
		payloads, n, err := ParseChain(TypeHash, padded)
		if pad > 256 {
			if !errors.Is(err, ErrSyntax) {
				t.Errorf("%d octets of padding: %v", pad, err)
			}
			continue
		}
		if err != nil || len(payloads) != 2 || n != len(chain) {
			t.Errorf("%d octets of padding: %d payloads of %d octets, %v", pad, len(payloads), n, err)
		}
	}
}

// TestLimits holds every number that a stranger can make grow.
func TestLimits(t *testing.T) {
	h := Header{Exchange: MainMode}
	many := make([]Payload, MaxPayloads+1)
	for i := range many {
		many[i] = Payload{Type: TypeVendorID}
	}
	if _, err := (&Message{Header: h, Payloads: many}).Append(nil); !errors.Is(err, ErrEncode) {
		t.Errorf("writes %d payloads: %v", len(many), err)
	}
	var b []byte
	for i := range many {
		next := byte(TypeVendorID)
		if i == len(many)-1 {
			next = 0
		}
		b, _ = appendGeneric(b, next, nil)
	}
	if _, _, err := ParseChain(TypeVendorID, b); !errors.Is(err, ErrSyntax) {
		t.Errorf("reads %d payloads: %v", len(many), err)
	}
	sa := offer()
	for len(sa.Proposals) <= MaxProposals {
		sa.Proposals = append(sa.Proposals, sa.Proposals[0])
	}
	if _, err := sa.Body(); !errors.Is(err, ErrEncode) {
		t.Errorf("writes %d proposals: %v", len(sa.Proposals), err)
	}
	sa = offer()
	for len(sa.Proposals[0].Transforms) <= MaxTransforms {
		sa.Proposals[0].Transforms = append(sa.Proposals[0].Transforms, sa.Proposals[0].Transforms[0])
	}
	if _, err := sa.Body(); !errors.Is(err, ErrEncode) {
		t.Errorf("writes %d transforms: %v", len(sa.Proposals[0].Transforms), err)
	}
	if _, err := ParseAttributes(bytes.Repeat([]byte{0x80, 1, 0, 1}, MaxAttributes+1)); !errors.Is(err, ErrSyntax) {
		t.Errorf("attributes: %v", err)
	}
	if _, err := (&Delete{SPIs: make([][]byte, MaxSPIs+1)}).Body(); !errors.Is(err, ErrEncode) {
		t.Errorf("SPIs: %v", err)
	}
	if _, err := (&Delete{SPIs: [][]byte{{1}, {1, 2}}}).Body(); !errors.Is(err, ErrEncode) {
		t.Errorf("SPIs of different lengths: %v", err)
	}
}

func TestBodies(t *testing.T) {
	n := &Notify{Protocol: message.ProtocolESP, SPI: []byte{1, 2, 3, 4}, Kind: ResponderLifetime, Data: []byte{0x80, 1, 0, 1}}
	if got, err := ParseNotify(n.Body()); err != nil || cmp.Diff(n, got) != "" {
		t.Errorf("N: %v, %v", got, err)
	}
	d := &Delete{Protocol: message.ProtocolIKE, SPIs: [][]byte{make([]byte, 16)}}
	body, err := d.Body()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseDelete(body); err != nil || cmp.Diff(d, got) != "" {
		t.Errorf("D: %v, %v", got, err)
	}
	c := &Cert{Encoding: CertX509KeyExchange, Data: []byte{0x30}}
	if got, err := ParseCert(c.Body()); err != nil || cmp.Diff(c, got) != "" {
		t.Errorf("CERT: %v, %v", got, err)
	}
	oa := NATOriginal(netip.MustParseAddr("2001:db8::1"))
	if a, err := ParseNATOriginal(oa.Body); err != nil || a != netip.MustParseAddr("2001:db8::1") {
		t.Errorf("NAT-OA: %v, %v", a, err)
	}
	// Every prefix is refused, or read without what is missing.
	for i := range body {
		if _, err := ParseDelete(body[:i]); !errors.Is(err, ErrSyntax) {
			t.Errorf("D of %d octets: %v", i, err)
		}
	}
	for i := range 12 {
		if _, err := ParseNotify(n.Body()[:i]); !errors.Is(err, ErrSyntax) {
			t.Errorf("N of %d octets: %v", i, err)
		}
	}
	for i := range oa.Body {
		if _, err := ParseNATOriginal(oa.Body[:i]); !errors.Is(err, ErrSyntax) {
			t.Errorf("NAT-OA of %d octets: %v", i, err)
		}
	}
	if _, err := ParseCert(nil); !errors.Is(err, ErrSyntax) {
		t.Errorf("CERT of nothing: %v", err)
	}
	if _, err := ParseID([]byte{9, 0, 0}); !errors.Is(err, ErrSyntax) {
		t.Errorf("ID of 3 octets: %v", err)
	}
	if _, err := ParseID([]byte{4, 0, 0, 0, 10, 0, 0, 0}); !errors.Is(err, ErrSyntax) {
		t.Errorf("half a subnet: %v", err)
	}
	if !AuthenticationFailed.IsError() || InitialContact.IsError() || NotifyType(40000).String() != "NOTIFY-40000" {
		t.Error("notify types")
	}
}

// TestSelectors translates traffic selectors to identities of phase 2 and back
// (RFC 2407, Section 4.6.2).
func TestSelectors(t *testing.T) {
	for _, test := range []struct {
		text, body string
	}{
		{"10.1.0.7/32", "01000000" + "0a010007"},
		{"10.1.0.0/16", "04000000" + "0a010000ffff0000"},
		{"0.0.0.0/0", "04000000" + "0000000000000000"},
		{"10.0.0.5-10.0.0.20", "07000000" + "0a0000050a000014"},
		{"10.1.0.7/32:tcp/80", "01060050" + "0a010007"},
		{"10.1.0.0/16:udp", "04110000" + "0a010000ffff0000"},
		{"2001:db8::/32", "06000000" + "20010db8000000000000000000000000" + "ffffffff000000000000000000000000"},
		{"2001:db8::1/128", "05000000" + "20010db8000000000000000000000001"},
	} {
		s, err := ipsec.ParseSelector(test.text)
		if err != nil {
			t.Fatal(err)
		}
		id, ok := SelectorID(s)
		if !ok || !bytes.Equal(id.Body(), unhex(t, test.body)) {
			t.Errorf("%s: %x", test.text, id.Body())
		}
		parsed, err := ParseID(unhex(t, test.body))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parsed.Selector(); err != nil || got != s {
			t.Errorf("%s: %v, %v", test.text, got, err)
		}
	}
	ports, err := ipsec.ParseSelector("10.1.0.7/32:tcp/80-90")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := SelectorID(ports); ok {
		t.Error("a range of ports has an ID")
	}
	for name, body := range map[string]string{
		"netmask with holes": "04000000" + "0a010000ff00ff00",
		"range backwards":    "07000000" + "0a0000140a000005",
		"name":               "02000000" + "6777",
	} {
		id, err := ParseID(unhex(t, body))
		if err != nil {
			t.Fatal(err)
		}
		if s, err := id.Selector(); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func TestAttributes(t *testing.T) {
	if Number(1, 0xffff).Long != nil || Number(1, 0x10000).Long == nil {
		t.Error("the form of a number")
	}
	long := Attribute{Type: 12, Long: []byte{0, 0, 0x0e, 0x10}}
	if !long.Equal(Short(12, 3600)) || long.Equal(Short(11, 3600)) || long.Equal(Short(12, 3601)) {
		t.Error("a number in two forms")
	}
	huge := Attribute{Type: 12, Long: make([]byte, 9)}
	if _, ok := huge.Number(); ok || huge.Equal(Short(12, 0)) || !huge.Equal(huge) {
		t.Error("a value that is no number")
	}
}

func FuzzParse(f *testing.F) {
	for _, raw := range messages(f) {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Parse(raw)
		if err != nil {
			return
		}
		payloads := m.Payloads
		if m.Encrypted != nil { // what decryption could give
			payloads, _, err = ParseChain(m.Header.NextPayload, m.Encrypted)
			if err != nil {
				return
			}
		} else if again, err := m.Append(nil); err != nil || !bytes.Equal(again, raw) {
			t.Fatalf("wrote %x of %x: %v", again, raw, err)
		}
		for _, p := range payloads {
			readBody(t, p)
		}
	})
}

// readBody reads a payload as what it claims to be. What was read must be
// writable, and read alike again.
func readBody(t *testing.T, p Payload) {
	t.Helper()
	var again []byte
	var err error
	switch p.Type {
	case TypeSA:
		sa, bad := ParseSA(p.Body)
		if bad != nil {
			return
		}
		if again, err = sa.Body(); err != nil {
			t.Fatal(err)
		}
		second, err := ParseSA(again)
		if err != nil || cmp.Diff(sa, second) != "" {
			t.Fatalf("SA %x became %x: %v", p.Body, again, err)
		}
		return
	case TypeID:
		id, bad := ParseID(p.Body)
		if bad != nil {
			return
		}
		again = id.Body()
		if s, bad := id.Selector(); bad == nil {
			if back, ok := SelectorID(s); ok {
				if same, err := back.Selector(); err != nil || same != s {
					t.Fatalf("selector %v became %v: %v", s, same, err)
				}
			}
		}
	case TypeCert, TypeCertReq:
		c, bad := ParseCert(p.Body)
		if bad != nil {
			return
		}
		again = c.Body()
	case TypeDelete:
		d, bad := ParseDelete(p.Body)
		if bad != nil || !bytes.Equal(p.Body[:4], []byte{0, 0, 0, 1}) {
			return
		}
		if again, err = d.Body(); err != nil {
			t.Fatal(err)
		}
	case TypeNotify:
		n, bad := ParseNotify(p.Body)
		if bad != nil || !bytes.Equal(p.Body[:4], []byte{0, 0, 0, 1}) {
			return
		}
		again = n.Body()
	case TypeNATOriginal:
		if a, bad := ParseNATOriginal(p.Body); bad != nil || !a.IsValid() {
			return
		}
		return
	default:
		return
	}
	if !bytes.Equal(again, p.Body) {
		t.Fatalf("%s payload %x became %x", p.Type, p.Body, again)
	}
}

// TestTooMuch tells what is too much from what is malformed.
func TestTooMuch(t *testing.T) {
	sa := &SA{Proposals: []Proposal{{Number: 1, Protocol: message.ProtocolIKE, Transforms: []Transform{{Number: 1, ID: KeyIKE}}}}}
	body, err := sa.Body()
	if err != nil {
		t.Fatal(err)
	}
	proposal := body[8:]
	proposal[0] = typeProposal // another one follows
	many := bytes.Repeat(proposal, MaxProposals+1)
	transforms := []byte{0, 0, 0, 8, 1, 1, 0, MaxTransforms + 1}
	attributes := bytes.Repeat([]byte{0x80, 1, 0, 1}, MaxAttributes+1)
	chain := bytes.Repeat([]byte{byte(TypeVendorID), 0, 0, 4}, MaxPayloads+1)
	spis := binary.BigEndian.AppendUint16([]byte{0, 0, 0, 1, 3, 4}, MaxSPIs+1)
	for name, parse := range map[string]func() error{
		"proposals":  func() error { _, err := ParseSA(append(slices.Clone(body[:8]), many...)); return err },
		"transforms": func() error { _, err := ParseSA(append(slices.Clone(body[:8]), transforms...)); return err },
		"attributes": func() error { _, err := ParseAttributes(attributes); return err },
		"payloads":   func() error { _, _, err := ParseChain(TypeVendorID, chain); return err },
		"SPIs":       func() error { _, err := ParseDelete(append(spis, make([]byte, 4*(MaxSPIs+1))...)); return err },
	} {
		if err := parse(); !errors.Is(err, message.ErrLimit) || !errors.Is(err, ErrSyntax) {
			t.Errorf("too many %s: %v", name, err)
		}
	}
	if _, err := ParseSA(body[:9]); errors.Is(err, message.ErrLimit) || !errors.Is(err, ErrSyntax) {
		t.Errorf("cut off: %v", err)
	}
}
