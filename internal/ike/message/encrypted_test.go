package message

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

var (
	aesGCM   = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 256}
	aesCBC   = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128}
	hmacSHA2 = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}
)

func protector(t testing.TB, encr, integ ipsec.Transform, encrKey, integKey []byte) suite.Protector {
	t.Helper()
	p, err := suite.NewProtector(encr, integ, encrKey, integKey)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// protectors are made anew for every use, as both ends make their own.
var protectors = map[string]func(testing.TB) suite.Protector{
	"AES-GCM": func(t testing.TB) suite.Protector {
		return protector(t, aesGCM, ipsec.Transform{}, octets(36, 1), nil)
	},
	"AES-CBC with HMAC": func(t testing.TB) suite.Protector {
		return protector(t, aesCBC, hmacSHA2, octets(16, 1), octets(32, 2))
	},
}

func seal(t testing.TB, m *Message, p suite.Protector) []byte {
	t.Helper()
	raw, err := m.Seal(nil, p, 1)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func open(t testing.TB, raw []byte, p suite.Protector) (*Message, error) {
	t.Helper()
	m, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return m, m.Open(raw, p)
}

func TestSealOpen(t *testing.T) {
	for alg, newProtector := range protectors {
		for name, m := range samples() {
			t.Run(alg+"/"+name, func(t *testing.T) {
				raw, err := m.Seal([]byte("before"), newProtector(t), 7)
				if err != nil {
					t.Fatal(err)
				}
				raw, ok := bytes.CutPrefix(raw, []byte("before"))
				if !ok {
					t.Fatal("Seal changed what stood before")
				}
				kept := bytes.Clone(raw)
				got, err := open(t, raw, newProtector(t))
				if err != nil {
					t.Fatal(err)
				}
				want := *m
				want.Header.Major = 2
				want.Header.NextPayload = TypeEncrypted
				want.Header.Length = uint32(len(raw))
				want.Encrypted = &Encrypted{First: firstType(m.Payloads)}
				equal(t, got, &want)
				if !bytes.Equal(raw, kept) {
					t.Error("Open changed the datagram")
				}
				if err := got.Open(raw, newProtector(t)); !errors.Is(err, ErrNotEncrypted) {
					t.Errorf("opened again: %v", err)
				}
			})
		}
	}
}

// TestOpenForged changes every octet in turn: the header and what stands before
// SK are authenticated like the rest.
func TestOpenForged(t *testing.T) {
	for alg, newProtector := range protectors {
		t.Run(alg, func(t *testing.T) {
			raw, p := seal(t, deleteRequest(), newProtector(t)), newProtector(t)
			for i := range raw {
				forged := bytes.Clone(raw)
				forged[i] ^= 0x01
				m, err := Parse(forged)
				if err != nil {
					continue // lengths and version: it does not even look like a message
				}
				if i == 16 { // the next payload field of the header
					if m.Encrypted != nil {
						t.Fatal("SK is still there")
					}
					continue
				}
				before := *m.Encrypted
				if err := m.Open(forged, p); !errors.Is(err, ErrNotAuthentic) {
					t.Errorf("octet %d: %v, want %v", i, err, ErrNotAuthentic)
				}
				if len(m.Payloads) != 0 || m.Encrypted.First != before.First || !bytes.Equal(m.Encrypted.Body, before.Body) {
					t.Errorf("octet %d: the message is changed", i)
				}
			}
		})
	}
}

func TestOpenWithAnotherKeyThenTheRightOne(t *testing.T) {
	raw := seal(t, authRequest(), protectors["AES-GCM"](t))
	m, err := open(t, raw, protectors["AES-CBC with HMAC"](t))
	if !errors.Is(err, ErrNotAuthentic) {
		t.Fatalf("opened with another key: %v", err)
	}
	if err := m.Open(raw, protectors["AES-GCM"](t)); err != nil {
		t.Errorf("with the right key: %v", err)
	}
}

func TestOpenEveryShortBody(t *testing.T) {
	for alg, newProtector := range protectors {
		t.Run(alg, func(t *testing.T) {
			raw, p := seal(t, authRequest(), newProtector(t)), newProtector(t)
			for n := HeaderLen + genericLen; n < len(raw); n++ {
				cut := bytes.Clone(raw[:n])
				binary.BigEndian.PutUint32(cut[24:], uint32(n))
				binary.BigEndian.PutUint16(cut[HeaderLen+2:], uint16(n-HeaderLen))
				if _, err := open(t, cut, p); !errors.Is(err, ErrNotAuthentic) {
					t.Errorf("SK of %d octets: %v, want %v", n-HeaderLen, err, ErrNotAuthentic)
				}
			}
		})
	}
}

func TestOpenWithoutSK(t *testing.T) {
	raw := mustAppend(t, initRequest())
	if _, err := open(t, raw, protectors["AES-GCM"](t)); !errors.Is(err, ErrNotEncrypted) {
		t.Errorf("got %v, want %v", err, ErrNotEncrypted)
	}
}

// sealRaw seals octets that Seal would not write, with their padding, behind
// the payloads in clear.
func sealRaw(t testing.TB, p suite.Protector, clear []byte, outer, first PayloadType, plain []byte) []byte {
	t.Helper()
	raw := Header{Exchange: Informational}.append(nil, outer)
	raw = append(raw, clear...)
	sk := len(raw)
	raw = append(raw, byte(first), 0, 0, 0)
	iv := len(raw)
	raw = append(raw, make([]byte, p.IVLen()+len(plain)+p.ICVLen())...)
	if err := errors.Join(setPayloadLength(raw[sk:]), setLength(raw)); err != nil {
		t.Fatal(err)
	}
	body := raw[iv:]
	p.NextIV(body[:p.IVLen()], 1)
	p.Seal(body[p.IVLen():], body[:p.IVLen()], plain, raw[:iv], nil)
	return raw
}

// TestOpenMalformed: authentic, but malformed inside.
func TestOpenMalformed(t *testing.T) {
	p := protectors["AES-GCM"](t)
	tests := map[string]struct {
		first PayloadType
		hex   string
	}{
		"no pad length":         {NoNextPayload, ""},
		"padding overruns":      {NoNextPayload, "00 00 03"},
		"padding is all":        {TypeVendorID, "00 00 02"},
		"payload cut off":       {TypeVendorID, "00 00 0005 00"},
		"octets left over":      {TypeVendorID, "00 00 0004 ff 00"},
		"SK inside SK":          {TypeEncrypted, "00 00 0004 00"},
		"malformed payload":     {TypeNonce, "00 00 0005 01 00"},
		"SK behind a payload":   {TypeVendorID, "2e 00 0004 00 00 0004 00"},
		"payloads, but none":    {NoNextPayload, "00 00 0004 00"},
		"next payload overruns": {TypeVendorID, "2b 00 0004 00 00 0008 00"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := open(t, sealRaw(t, p, nil, TypeEncrypted, test.first, unhex(t, test.hex)), p)
			if !errors.Is(err, ErrSyntax) || errors.Is(err, ErrNotAuthentic) {
				t.Errorf("got %v, want %v", err, ErrSyntax)
			}
			if len(m.Payloads) != 0 || m.Encrypted.Body == nil {
				t.Error("the message is changed")
			}
		})
	}
}

// TestOpenMuchPadding: the sender may pad more than is needed, with anything.
func TestOpenMuchPadding(t *testing.T) {
	p := protectors["AES-CBC with HMAC"](t)
	plain := append([]byte{0, 0, 0, 7, 'f', 'o', 'o'}, octets(255-6, 9)...)
	plain[len(plain)-1] = byte(len(plain) - 8)
	m, err := open(t, sealRaw(t, p, nil, TypeEncrypted, TypeVendorID, plain), p)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, m.Payloads, []Payload{&VendorID{Data: []byte("foo")}})
}

func TestPayloadsBeforeSK(t *testing.T) {
	p := protectors["AES-GCM"](t)
	clear := unhex(t, "2e 00 0005 61")
	raw := sealRaw(t, p, clear, TypeVendorID, TypeVendorID, unhex(t, "00 00 0005 62 00"))
	m, err := open(t, raw, p)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, m.Payloads, []Payload{&VendorID{Data: []byte("a")}, &VendorID{Data: []byte("b")}})
	raw[HeaderLen+genericLen] ^= 1
	if _, err := open(t, raw, p); !errors.Is(err, ErrNotAuthentic) {
		t.Errorf("what stands before SK is not authenticated: %v", err)
	}
}

func TestSealRejects(t *testing.T) {
	p := protectors["AES-GCM"](t)
	for name, payload := range map[string]Payload{
		"bad payload":      &Nonce{},
		"too long for SK":  &VendorID{Data: make([]byte, 0xffff-4)},
		"too long for all": &VendorID{Data: make([]byte, 0xffff-HeaderLen-2*genericLen-8-16)},
	} {
		m := &Message{Payloads: []Payload{payload}}
		if got, err := m.Seal([]byte("x"), p, 1); !errors.Is(err, ErrEncode) || string(got) != "x" {
			t.Errorf("%s: %d octets, %v", name, len(got), err)
		}
	}
	fits := &Message{Payloads: []Payload{&VendorID{Data: make([]byte, 0xffff-HeaderLen-2*genericLen-8-16-1)}}}
	if raw := seal(t, fits, p); len(raw) != MaxLength {
		t.Errorf("the longest message has %d octets", len(raw))
	}
}
