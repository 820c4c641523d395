package message

import (
	"errors"
	"testing"
)

// FuzzParse looks for messages that do not survive being written and read.
func FuzzParse(f *testing.F) {
	for _, tr := range readTranscripts(f) {
		for _, raw := range tr.messages {
			f.Add(raw)
		}
	}
	for _, m := range samples() {
		f.Add(mustAppend(f, m))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Parse(raw)
		if err != nil {
			if m != nil {
				t.Fatal("a message beside an error")
			}
			return
		}
		if m.Encrypted == nil {
			checkRewrite(t, m)
		}
	})
}

// FuzzPayloads looks at what a peer can put inside SK.
func FuzzPayloads(f *testing.F) {
	for _, tr := range readTranscripts(f) {
		for _, raw := range tr.messages {
			m, err := Parse(raw)
			if err != nil {
				f.Fatal(err)
			}
			if m.Encrypted != nil {
				if err := m.Open(raw, tr.protector(f, m.Header.Flags.Has(FlagInitiator))); err != nil {
					f.Fatal(err)
				}
			}
			if chain, err := appendChain(nil, m.Payloads); err == nil {
				f.Add(byte(firstType(m.Payloads)), chain)
			}
		}
	}
	for _, test := range golden {
		chain, err := appendChain(nil, []Payload{test.want})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(test.want.Type()), chain)
	}
	f.Fuzz(func(t *testing.T, first byte, b []byte) {
		if len(b) > MaxLength-HeaderLen {
			return
		}
		payloads, sk, err := parseChain(b, PayloadType(first), MaxPayloads)
		switch {
		case err != nil && !errors.Is(err, ErrSyntax):
			t.Fatalf("error of another kind: %v", err)
		case err == nil && sk == nil:
			checkRewrite(t, &Message{Payloads: payloads})
		}
	})
}

// checkRewrite writes and reads m, which must not change, but for what cannot
// be written because the parser left something out.
func checkRewrite(t *testing.T, m *Message) {
	for _, p := range m.Payloads {
		switch p := p.(type) {
		case *TS:
			if len(p.Selectors) == 0 {
				return
			}
		case *SA:
			for _, proposal := range p.Proposals {
				if proposal.Unknown {
					return
				}
			}
		}
	}
	raw, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(raw)
	if err != nil {
		t.Fatalf("written as % x: %v", raw, err)
	}
	equal(t, got.Payloads, m.Payloads)
}
