package message

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// A transcript is an IKE SA between two strongSwan daemons, from the captured
// octets and the keys that one of them logged.
type transcript struct {
	keys     map[string][]byte
	messages [][]byte
}

func readTranscripts(t testing.TB) map[string]transcript {
	t.Helper()
	files, err := filepath.Glob("testdata/strongswan-*.txt")
	if err != nil || len(files) != 2 {
		t.Fatalf("transcripts: %v, %v", files, err)
	}
	out := map[string]transcript{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tr := transcript{keys: map[string][]byte{}}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch name {
			case "#":
			case "message":
				tr.messages = append(tr.messages, unhex(t, value))
			default:
				tr.keys[name] = unhex(t, value)
			}
		}
		out[strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "strongswan-"), ".txt")] = tr
	}
	return out
}

// protector makes the one that protects messages from the initiator or from the
// responder.
func (tr transcript) protector(t testing.TB, fromInitiator bool) suite.Protector {
	t.Helper()
	side := "r"
	if fromInitiator {
		side = "i"
	}
	if tr.keys["SK_ai"] == nil {
		return protector(t, aesGCM, ipsec.Transform{}, tr.keys["SK_e"+side], nil)
	}
	return protector(t, aesCBC, hmacSHA2, tr.keys["SK_e"+side], tr.keys["SK_a"+side])
}

func types(m *Message) string {
	var out []string
	for _, p := range m.Payloads {
		name := p.Type().String()
		if n, ok := p.(*Notify); ok {
			name += "(" + n.Kind.String() + ")"
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

// TestStrongSwan reads what strongSwan sent, checks the payloads against its
// log, and writes the messages in clear again octet for octet.
func TestStrongSwan(t *testing.T) {
	const (
		nat  = "N(NAT_DETECTION_SOURCE_IP) N(NAT_DETECTION_DESTINATION_IP)"
		hash = "N(SIGNATURE_HASH_ALGORITHMS)"
		// Extensions that the log of strongSwan calls by these names.
		mobike, noAddr, multiAuth = "N(NOTIFY_16396)", "N(NOTIFY_16399)", "N(NOTIFY_16404)"
		redirect, eapOnly, sync   = "N(NOTIFY_16406)", "N(NOTIFY_16417)", "N(NOTIFY_16420)"
	)
	want := []struct{ header, payloads string }{
		{"IKE_SA_INIT request 0 from initiator", "SA KE Nonce " + nat + " N(IKEV2_FRAGMENTATION_SUPPORTED) " + hash + " " + redirect},
		{"IKE_SA_INIT response 0 from responder", "SA KE Nonce " + nat + " N(IKEV2_FRAGMENTATION_SUPPORTED) " + hash + " " +
			"N(CHILDLESS_IKEV2_SUPPORTED) " + multiAuth},
		{"IKE_AUTH request 1 from initiator", "IDi N(INITIAL_CONTACT) IDr AUTH SA TSi TSr " +
			strings.Join([]string{mobike, noAddr, multiAuth, eapOnly, sync}, " ")},
		{"IKE_AUTH response 1 from responder", "IDr AUTH SA TSi TSr " + mobike + " " + noAddr},
		{"CREATE_CHILD_SA request 2 from initiator", "N(REKEY_SA) SA Nonce KE TSi TSr"},
		{"CREATE_CHILD_SA response 2 from responder", "SA Nonce KE TSi TSr"},
		{"INFORMATIONAL request 3 from initiator", "D"},
		{"INFORMATIONAL response 3 from responder", "D"},
		{"INFORMATIONAL request 4 from initiator", "D"},
		{"INFORMATIONAL response 4 from responder", ""},
	}
	for name, tr := range readTranscripts(t) {
		t.Run(name, func(t *testing.T) {
			if len(tr.messages) != len(want) {
				t.Fatalf("%d messages", len(tr.messages))
			}
			for i, raw := range tr.messages {
				m, err := Parse(raw)
				if err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
				if got, _, _ := strings.Cut(m.Header.String(), ","); got != want[i].header {
					t.Errorf("message %d is %s, want %s", i, got, want[i].header)
				}
				p := tr.protector(t, m.Header.Flags.Has(FlagInitiator))
				if m.Encrypted == nil {
					if again := mustAppend(t, m); string(again) != string(raw) {
						t.Errorf("message %d is written as\n% x, was\n% x", i, again, raw)
					}
				} else if err := m.Open(raw, p); err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
				if got := types(m); got != want[i].payloads {
					t.Errorf("message %d has\n%s, want\n%s", i, got, want[i].payloads)
				}
				if sa, ok := Find[*SA](m); ok && sa.Proposals[0].Unknown {
					t.Errorf("message %d: first proposal is not selectable", i)
				}
				for _, responder := range []bool{false, true} {
					ts, ok := m.TS(responder)
					if !ok {
						continue
					}
					net := map[bool]string{false: "10.1.0.0/16", true: "10.2.0.0/16"}[responder]
					if n := len(ts.Selectors); n == 0 || ts.Selectors[n-1].String() != net {
						t.Errorf("message %d: %s is %v", i, ts.Type(), ts.Selectors)
					}
				}
				again, err := (&Message{Header: m.Header, Payloads: m.Payloads}).Seal(nil, p, 99)
				if err != nil {
					t.Fatalf("message %d: %v", i, err)
				}
				back, err := open(t, again, p)
				if err != nil {
					t.Fatalf("message %d sealed again: %v", i, err)
				}
				equal(t, back.Payloads, m.Payloads)
			}
		})
	}
}
