package message

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"caponier/internal/ipsec"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatalf("test data: %v", err)
	}
	return b
}

func octets(n int, first byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// equal compares structures; netip addresses have no fields to look into.
func equal(t testing.TB, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("difference (-want +got):\n%s", diff)
	}
}

// initRequest is an IKE_SA_INIT request with everything such a message has.
func initRequest() *Message {
	return &Message{
		Header: Header{InitiatorSPI: 0x0102030405060708, Exchange: IKESAInit, Flags: FlagInitiator},
		Payloads: []Payload{
			&SA{Proposals: []Proposal{
				{Number: 1, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{
					{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 256},
					{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA512},
					{Type: ipsec.TypeKE, ID: ipsec.KEX25519},
				}},
				{Number: 2, Protocol: ProtocolIKE, Transforms: ipsec.Proposal{
					{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128},
					{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128},
					{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA256},
					{Type: ipsec.TypeKE, ID: ipsec.KEECP256},
				}},
			}},
			&KE{Method: ipsec.KEX25519, Data: octets(32, 0x80)},
			&Nonce{Data: octets(32, 0x20)},
			&Notify{Kind: NATDetectionSourceIP, Data: octets(20, 1)},
			&Notify{Kind: NATDetectionDestinationIP, Data: octets(20, 2)},
			&Notify{Kind: SignatureHashAlgorithms, Data: []byte{0, 2, 0, 3, 0, 4}},
			&VendorID{Data: []byte("caponier test")},
		},
	}
}

// authRequest is what an IKE_AUTH request holds inside SK, and more.
func authRequest() *Message {
	return &Message{
		Header: Header{
			InitiatorSPI: 0x0102030405060708, ResponderSPI: 0x1112131415161718, Exchange: IKEAuth,
			Flags: FlagInitiator, MessageID: 1,
		},
		Payloads: []Payload{
			&ID{Kind: IDFQDN, Data: []byte("a.example.org")},
			&CertReq{Encoding: CertX509Signature, Data: octets(20, 0x40)},
			&ID{Responder: true, Kind: IDIPv4, Data: []byte{192, 0, 2, 2}},
			&Auth{Method: AuthSharedKey, Data: octets(32, 0xa0)},
			&SA{Proposals: []Proposal{{
				Number: 1, Protocol: ProtocolESP, SPI: []byte{0xc0, 0xff, 0xee, 0x01},
				Transforms: ipsec.Proposal{
					{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
					{Type: ipsec.TypeESN, ID: ipsec.ESNNo},
				},
			}}},
			&TS{Selectors: []ipsec.Selector{
				{First: netip.MustParseAddr("10.1.0.0"), Last: netip.MustParseAddr("10.1.255.255"), LastPort: 0xffff},
				{First: netip.MustParseAddr("2001:db8:1::"), Last: netip.MustParseAddr("2001:db8:1::ffff"), LastPort: 0xffff},
			}},
			&TS{Responder: true, Selectors: []ipsec.Selector{
				{First: netip.MustParseAddr("10.2.0.7"), Last: netip.MustParseAddr("10.2.0.7"), Protocol: 6, FirstPort: 80, LastPort: 443},
			}},
			&Notify{Kind: InitialContact},
		},
	}
}

// deleteRequest has the payloads that the others have not.
func deleteRequest() *Message {
	return &Message{
		Header: Header{
			InitiatorSPI: 0x0102030405060708, ResponderSPI: 0x1112131415161718, Exchange: Informational,
			Flags: FlagResponse, MessageID: 0xfffffffe,
		},
		Payloads: []Payload{
			&Delete{Protocol: ProtocolESP, SPIs: []ipsec.SPI{0xc0ffee01, 0xc0ffee02}},
			&Delete{Protocol: ProtocolIKE},
			&Notify{Protocol: ProtocolESP, SPI: []byte{0xc0, 0xff, 0xee, 1}, Kind: RekeySA},
			&Cert{Encoding: CertX509Signature, Data: octets(60, 0x30)},
			&Unknown{Kind: TypeConfig, Data: []byte{1, 0, 0, 0}},
			&Unknown{Kind: 200, Critical: true, Data: []byte("new")},
			&Unknown{Kind: 201},
		},
	}
}

func samples() map[string]*Message {
	return map[string]*Message{
		"init": initRequest(), "auth": authRequest(), "delete": deleteRequest(),
		"empty": {Header: Header{InitiatorSPI: 1, ResponderSPI: 2, Exchange: Informational, MessageID: 7}},
	}
}

func mustAppend(t testing.TB, m *Message) []byte {
	t.Helper()
	raw, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRoundTrip(t *testing.T) {
	for name, m := range samples() {
		t.Run(name, func(t *testing.T) {
			raw, err := m.Append([]byte("before"))
			if err != nil {
				t.Fatal(err)
			}
			raw, ok := bytes.CutPrefix(raw, []byte("before"))
			if !ok {
				t.Fatal("Append changed what stood before")
			}
			got, err := Parse(raw)
			if err != nil {
				t.Fatal(err)
			}
			want := *m
			want.Header.Major = 2
			want.Header.NextPayload = firstType(m.Payloads)
			want.Header.Length = uint32(len(raw))
			equal(t, got, &want)
		})
	}
}

func TestParseEveryPrefix(t *testing.T) {
	for name, m := range samples() {
		raw := mustAppend(t, m)
		for n := range raw {
			want := ErrSyntax
			if n < HeaderLen {
				want = ErrShort
			}
			if _, err := Parse(raw[:n]); !errors.Is(err, want) {
				t.Errorf("%s: first %d of %d octets: %v, want %v", name, n, len(raw), err, want)
			}
			if n < HeaderLen {
				continue
			}
			// With a header that agrees, so that the payloads are what is cut off.
			cut := bytes.Clone(raw[:n])
			binary.BigEndian.PutUint32(cut[24:], uint32(n))
			if _, err := Parse(cut); !errors.Is(err, ErrSyntax) {
				t.Errorf("%s: first %d of %d octets with this length: %v, want %v", name, n, len(raw), err, ErrSyntax)
			}
		}
	}
}

func TestParseRejects(t *testing.T) {
	good := mustAppend(t, authRequest())
	tests := map[string]struct {
		change func(b []byte) []byte
		want   error
	}{
		"length one less":     {func(b []byte) []byte { b[27]--; return b }, ErrSyntax},
		"length one more":     {func(b []byte) []byte { b[27]++; return b }, ErrSyntax},
		"huge length":         {func(b []byte) []byte { b[24] = 0xff; return b }, ErrSyntax},
		"version 3":           {func(b []byte) []byte { b[17] = 0x30; return b }, ErrVersion},
		"version 1":           {func(b []byte) []byte { b[17] = 0x10; return b }, ErrNotIKEv2},
		"payload of length 3": {func(b []byte) []byte { b[31] = 3; return b }, ErrSyntax},
		"payload of length 0": {func(b []byte) []byte { b[31] = 0; return b }, ErrSyntax},
		"octets behind the last payload": {func(b []byte) []byte {
			b = append(b, 0)
			binary.BigEndian.PutUint32(b[24:], uint32(len(b)))
			return b
		}, ErrSyntax},
		"octets behind no payload": {func(b []byte) []byte { b[16] = 0; return b }, ErrSyntax},
		"payloads behind SK":       {func(b []byte) []byte { b[16] = byte(TypeEncrypted); return b }, ErrSyntax},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if m, err := Parse(test.change(bytes.Clone(good))); !errors.Is(err, test.want) || m != nil {
				t.Errorf("got %v, %v; want %v", m, err, test.want)
			}
		})
	}
}

func TestParseIgnoresReservedBits(t *testing.T) {
	want, err := Parse(mustAppend(t, authRequest()))
	if err != nil {
		t.Fatal(err)
	}
	raw := mustAppend(t, authRequest())
	raw[17] |= 0x0f // minor version
	raw[19] |= ^byte(flagsDefined)
	raw[29] = 0xff // reserved bits and the critical bit of a known payload
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	want.Header.Minor = 15
	equal(t, got, want)
	if kind, found := got.UnsupportedCritical(); found {
		t.Errorf("critical %s is reported as unsupported", kind)
	}
	if again := mustAppend(t, got); again[17] != 0x20 || again[19] != byte(FlagInitiator) || again[29] != 0 {
		t.Errorf("reserved bits are written: % x", again[:32])
	}
}

func TestCriticalBit(t *testing.T) {
	for kind := range 256 {
		kind := PayloadType(kind)
		if kind == NoNextPayload || hasCodec(kind) {
			continue
		}
		raw := mustAppend(t, &Message{Payloads: []Payload{&Unknown{Kind: kind, Data: []byte{1, 2}}}})
		raw[29] = criticalBit
		m, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		got, found := m.UnsupportedCritical()
		// RFC 7296 defines CP and EAP, which we know of without a codec for them.
		want := kind != TypeConfig && kind != TypeEAP
		if found != want || found && got != kind {
			t.Errorf("critical %s: got %s, %v", kind, got, found)
		}
	}
}

func TestMaxPayloads(t *testing.T) {
	m := &Message{}
	for range MaxPayloads {
		m.Payloads = append(m.Payloads, &VendorID{})
	}
	raw := mustAppend(t, m)
	if _, err := Parse(raw); err != nil {
		t.Errorf("%d payloads: %v", MaxPayloads, err)
	}
	m.Payloads = append(m.Payloads, &VendorID{})
	if _, err := m.Append(nil); !errors.Is(err, ErrEncode) {
		t.Errorf("%d payloads are written: %v", MaxPayloads+1, err)
	}
	raw[len(raw)-4] = byte(TypeVendorID)
	raw = append(raw, 0, 0, 0, 4)
	binary.BigEndian.PutUint32(raw[24:], uint32(len(raw)))
	if _, err := Parse(raw); !errors.Is(err, ErrSyntax) {
		t.Errorf("%d payloads are read: %v", MaxPayloads+1, err)
	}
}

func TestAppendRejects(t *testing.T) {
	esp := Proposal{Number: 1, Protocol: ProtocolESP, SPI: octets(4, 1)}
	sa := func(change func(*Proposal)) *SA {
		p := esp
		change(&p)
		return &SA{Proposals: []Proposal{p}}
	}
	tests := map[string]Payload{
		"nonce too short":            &Nonce{Data: octets(MinNonce-1, 0)},
		"nonce too long":             &Nonce{Data: octets(MaxNonce+1, 0)},
		"no proposal":                &SA{},
		"proposal 0":                 sa(func(p *Proposal) { p.Number = 0 }),
		"proposal with unknown part": sa(func(p *Proposal) { p.Unknown = true }),
		"ESP SPI of 8 octets":        sa(func(p *Proposal) { p.SPI = octets(8, 1) }),
		"unknown protocol":           sa(func(p *Proposal) { p.Protocol = 4 }),
		"too many transforms":        sa(func(p *Proposal) { p.Transforms = make(ipsec.Proposal, MaxTransforms+1) }),
		"proposals not in sequence":  &SA{Proposals: []Proposal{esp, esp}},
		"no selector":                &TS{},
		"too many selectors":         &TS{Selectors: make([]ipsec.Selector, 256)},
		"invalid selector":           &TS{Selectors: make([]ipsec.Selector, 1)},
		"IPv4 identity of 5 octets":  &ID{Kind: IDIPv4, Data: octets(5, 0)},
		"delete of nothing":          &Delete{},
		"delete of IKE with SPI":     &Delete{Protocol: ProtocolIKE, SPIs: []ipsec.SPI{1}},
		"known type as unknown":      &Unknown{Kind: TypeSA},
		"SK as unknown":              &Unknown{Kind: TypeEncrypted},
		"no type":                    &Unknown{},
		"SPI of 256 octets":          &Notify{SPI: octets(256, 0)},
		"more than a payload holds":  &VendorID{Data: make([]byte, 0xffff-3)},
		"more than a datagram holds": &VendorID{Data: make([]byte, 0xffff-4)},
	}
	for name, p := range tests {
		t.Run(name, func(t *testing.T) {
			dst := []byte("before")
			got, err := (&Message{Payloads: []Payload{p}}).Append(dst)
			if !errors.Is(err, ErrEncode) || string(got) != "before" {
				t.Errorf("got %d octets, %v; want %v", len(got), err, ErrEncode)
			}
		})
	}
	m := &Message{Encrypted: &Encrypted{}}
	if _, err := m.Append(nil); !errors.Is(err, ErrEncode) {
		t.Errorf("an encrypted message is written in clear: %v", err)
	}
}

func TestFind(t *testing.T) {
	m := authRequest()
	if auth, ok := Find[*Auth](m); !ok || auth.Method != AuthSharedKey {
		t.Errorf("AUTH: %v, %v", auth, ok)
	}
	if ke, ok := Find[*KE](m); ok || ke != nil {
		t.Errorf("KE is found: %v", ke)
	}
	for _, responder := range []bool{false, true} {
		if id, ok := m.ID(responder); !ok || id.Responder != responder {
			t.Errorf("ID(%v): %v, %v", responder, id, ok)
		}
		if ts, ok := m.TS(responder); !ok || ts.Responder != responder {
			t.Errorf("TS(%v): %v, %v", responder, ts, ok)
		}
	}
	if n, ok := m.Notify(InitialContact); !ok || n.Kind != InitialContact {
		t.Errorf("INITIAL_CONTACT: %v, %v", n, ok)
	}
	if _, ok := m.Notify(Cookie); ok {
		t.Error("COOKIE is found")
	}
	empty := &Message{}
	if _, ok := empty.ID(false); ok {
		t.Error("IDi is found in an empty message")
	}
	if _, ok := empty.TS(true); ok {
		t.Error("TSr is found in an empty message")
	}
}

func TestNotifyOf(t *testing.T) {
	tests := map[error]NotifyType{
		ErrVersion: InvalidMajorVersion, ErrSyntax: InvalidSyntax, syntaxf("bad"): InvalidSyntax,
		ErrShort: 0, ErrNotIKEv2: 0, ErrNotAuthentic: 0, ErrNotEncrypted: 0, ErrEncode: 0,
	}
	for err, want := range tests {
		if got, ok := NotifyOf(err); got != want || ok != (want != 0) {
			t.Errorf("%v: got %s, %v", err, got, ok)
		}
	}
}
