package interop

import (
	"strings"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// keyExchanges are the words for key exchange methods.
var keyExchanges = suite.Words(ipsec.TypeKE)

// registered lists what caponier knows of one type, each algorithm once.
func registered(kind ipsec.TransformType) []string {
	var out []string
	seen := make(map[string]bool)
	for _, w := range suite.Words(kind) {
		name := w
		for _, complete := range []string{w, w + "-sha256", "aes128-" + w, "aes128gcm16-" + w} {
			if p, err := suite.ParseESP(complete); err == nil && len(p.Of(kind)) == 1 {
				name = suite.Name(p.First(kind))
			}
		}
		if !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}

// encryption completes the word of an encryption algorithm with an integrity
// algorithm where it needs one.
func encryption(word string) string {
	if _, err := suite.ParseESP(word); err != nil {
		return word + "-sha256"
	}
	return word
}

// algorithm is one row of the matrix: a tunnel in which everything but one
// algorithm is as usual.
type algorithm struct {
	word     string
	ike, esp string
	// pfs says that the algorithm shows only when the CHILD SA is rekeyed.
	pfs bool
}

// ikeAlgorithms is every algorithm that an IKE SA can have.
func ikeAlgorithms() []algorithm {
	var out []algorithm
	for _, w := range registered(ipsec.TypeEncr) {
		ike := encryption(w) + "-prfsha256-x25519"
		if _, err := suite.ParseIKE(ike); err == nil { // those without encryption are for ESP only
			out = append(out, algorithm{word: w, ike: ike, esp: defaultESP})
		}
	}
	for _, w := range registered(ipsec.TypeInteg) {
		out = append(out, algorithm{word: w, ike: "aes128-" + w + "-prfsha256-x25519", esp: defaultESP})
	}
	for _, w := range suite.Words(ipsec.TypePRF) {
		if p, err := suite.ParseIKE("aes128gcm16-" + w + "-x25519"); err == nil && suite.Name(p.First(ipsec.TypePRF)) == w {
			out = append(out, algorithm{word: w, ike: "aes256gcm16-" + w + "-x25519", esp: defaultESP})
		}
	}
	for _, w := range registered(ipsec.TypeKE) {
		out = append(out, algorithm{word: w, ike: "aes256gcm16-prfsha256-" + w, esp: "aes256gcm16-" + w, pfs: true})
	}
	return out
}

// espAlgorithms is every algorithm that a CHILD SA can have.
func espAlgorithms() []algorithm {
	var out []algorithm
	for _, w := range registered(ipsec.TypeEncr) {
		out = append(out, algorithm{word: w, ike: defaultIKE, esp: encryption(w)})
	}
	for _, w := range registered(ipsec.TypeInteg) {
		out = append(out, algorithm{word: w, ike: defaultIKE, esp: "aes128-" + w})
	}
	for _, w := range registered(ipsec.TypeESN) {
		out = append(out, algorithm{word: w, ike: defaultIKE, esp: "aes256gcm16-" + w})
	}
	return out
}

// impossible is what strongSwan cannot do, with what it says of it in its log or
// at swanctl. The tests insist on it.
type impossible struct{ reason, evidence string }

var (
	noGMAC = impossible{"kernel-libipsec has no AES-GMAC", "unsupported AEAD algorithm NULL_AES_GMAC"}

	noSMInIKE = impossible{"strongSwan has no SM4 and no SM3", "invalid value for: proposals"}
	noSMInESP = impossible{"strongSwan has no SM4 and no SM3", "invalid value for: esp_proposals"}

	ikeImpossible = map[string]impossible{
		"sm4gcm16": noSMInIKE,
		"sm4cbc":   noSMInIKE,
		"sm3":      noSMInIKE,
		"sm3_96":   noSMInIKE,
		"sm3_128":  noSMInIKE,
		"prfsm3":   noSMInIKE,
	}
	espImpossible = map[string]impossible{
		"sm4gcm16":   noSMInESP,
		"sm4cbc":     noSMInESP,
		"sm3":        noSMInESP,
		"sm3_96":     noSMInESP,
		"sm3_128":    noSMInESP,
		"aes128gmac": noGMAC,
		"aes192gmac": noGMAC,
		"aes256gmac": noGMAC,
		"esn":        {"kernel-libipsec has no extended sequence numbers", "ESN not supported"},
	}
)

func TestIKEAlgorithm(t *testing.T) {
	testAlgorithms(t, ikeAlgorithms(), ikeImpossible)
}

func TestESPAlgorithm(t *testing.T) {
	testAlgorithms(t, espAlgorithms(), espImpossible)
}

func testAlgorithms(t *testing.T, algorithms []algorithm, not map[string]impossible) {
	t.Helper()
	t.Parallel()
	known := make(map[string]bool)
	for _, a := range algorithms {
		known[a.word] = true
		t.Run(a.word, func(t *testing.T) {
			r := record(t, "`"+a.word+"`", "initiator, responder")
			t.Parallel()
			if refusal, ok := not[a.word]; ok {
				r.reason = refusal.reason
				refuses(t, a, refusal)
				return
			}
			s := directSetup(t)
			s.propose(a.ike, a.esp)
			p := s.start(t)
			for _, role := range bothRoles {
				p.up(t, role)
				p.agree(t, role, a.ike, a.esp)
				if a.pfs {
					p.rekeyChild(t, role)
				}
				p.exercise(t)
				p.down(t, role)
			}
		})
	}
	for word := range not {
		if !known[word] {
			t.Errorf("caponier does not know %s, which should be impossible with strongSwan", word)
		}
	}
}

// refuses checks that strongSwan refuses an algorithm in both roles, and says
// why.
func refuses(t *testing.T, a algorithm, refusal impossible) {
	t.Helper()
	for _, role := range bothRoles {
		s := directSetup(t)
		p := s.start(t)
		s.propose(a.ike, a.esp)
		p.c.Reload(t, s.Caponier)
		err := p.s.TryReload(t, s.StrongSwan)
		if err == nil {
			err = p.tryUp(t, role)
		}
		if err == nil {
			t.Fatalf("strongSwan can do it after all, with caponier as %s", role)
		}
		if !strings.Contains(err.Error()+p.s.Log(), refusal.evidence) {
			t.Errorf("with caponier as %s, strongSwan does not say %q but %v", role, refusal.evidence, err)
		}
	}
}

// rekeyChild has the initiator of the IKE SA replace the CHILD SA.
func (p *pair) rekeyChild(t testing.TB, role string) {
	t.Helper()
	old := p.childSA(t).In.SPI
	if role == initiator {
		p.c.Rekey(t, target)
	} else {
		p.s.RekeyChild(t, tunnelName)
	}
	Eventually(t, 10*time.Second, "the CHILD SA is replaced", func() bool {
		sas := p.childSAs(t)
		if len(sas) != 1 || sas[0].In.SPI == old {
			return false
		}
		return p.settled(t)
	})
}

// settled reports whether strongSwan has one IKE SA and one CHILD SA, but for
// those that it has deleted and still shows for some seconds.
func (p *pair) settled(t testing.TB) bool {
	t.Helper()
	sas := p.s.SAs(t)
	if len(sas) != 1 || sas[0].State != "ESTABLISHED" {
		return false
	}
	children := 0
	for _, c := range sas[0].Children {
		switch c.State {
		case "INSTALLED":
			children++
		case "DELETED":
		default:
			return false
		}
	}
	return children == 1
}
