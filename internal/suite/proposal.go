package suite

import (
	"errors"
	"slices"
	"strings"

	"caponier/internal/ipsec"
)

// ParseIKE reads a proposal for an IKE SA, such as
// "aes256gcm16-prfsha384-x25519": words joined by hyphens, with several of one
// type in order of preference. An integrity word implies the PRF of its hash
// where no PRF is named. A wrong word gives a *WordError.
func ParseIKE(words string) (ipsec.Proposal, error) {
	p, err := parse(words)
	if err != nil {
		return nil, err
	}
	if t := p.First(ipsec.TypeESN); t != (ipsec.Transform{}) {
		return nil, &WordError{Word: Name(t), Reason: "has no meaning for an IKE SA"}
	}
	for _, t := range p.Of(ipsec.TypeEncr) {
		if lookup(t).encr.espOnly {
			return nil, &WordError{Word: Name(t), Reason: "does not encrypt, which an IKE SA must"}
		}
	}
	if len(p.Of(ipsec.TypePRF)) == 0 {
		for _, t := range p.Of(ipsec.TypeInteg) {
			p = append(p, lookup(t).integ.prf)
		}
	}
	if len(p.Of(ipsec.TypePRF)) == 0 {
		return nil, errors.New("a pseudorandom function is missing, such as prfsha256")
	}
	if len(p.Of(ipsec.TypeKE)) == 0 {
		return nil, errors.New("a key exchange method is missing, such as x25519")
	}
	return sorted(p), nil
}

// ParseESP reads a proposal for an ESP SA, such as "aes256gcm16-x25519-esn".
// Without esn or noesn it says noesn. A PRF word is accepted, for the sake of
// files that other gateways read, and has no effect: the IKE SA has the PRF. A
// wrong word gives a *WordError.
func ParseESP(words string) (ipsec.Proposal, error) {
	p, err := parse(words)
	if err != nil {
		return nil, err
	}
	if len(p.Of(ipsec.TypeESN)) == 0 {
		p = append(p, ipsec.Transform{Type: ipsec.TypeESN, ID: ipsec.ESNNo})
	}
	return sorted(withoutPRF(p)), nil
}

// ParseAH reads a proposal for an AH SA, such as "sha256-x25519-esn": as
// ParseESP does, but without encryption algorithms.
func ParseAH(words string) (ipsec.Proposal, error) {
	entries, err := parseWords(words)
	if err != nil {
		return nil, err
	}
	var p ipsec.Proposal
	for _, e := range entries {
		if e.encr != nil {
			return nil, &WordError{Word: e.word, Reason: "encrypts or stands for encryption, which AH does not do"}
		}
		p = append(p, e.transform)
	}
	if len(p.Of(ipsec.TypeInteg)) == 0 {
		return nil, errors.New("an integrity algorithm is missing, such as sha256")
	}
	if len(p.Of(ipsec.TypeESN)) == 0 {
		p = append(p, ipsec.Transform{Type: ipsec.TypeESN, ID: ipsec.ESNNo})
	}
	return sorted(withoutPRF(p)), nil
}

func withoutPRF(p ipsec.Proposal) ipsec.Proposal {
	return slices.DeleteFunc(p, func(t ipsec.Transform) bool { return t.Type == ipsec.TypePRF })
}

// written is an entry by the word that was written for it.
type written struct {
	*entry
	word string
}

// parseWords looks every word up.
func parseWords(words string) ([]written, error) {
	if words == "" {
		return nil, errors.New("the proposal is empty")
	}
	var entries []written
	for word := range strings.SplitSeq(words, "-") {
		e, err := parseWord(word)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(entries, func(w written) bool { return w.entry == e }) {
			return nil, &WordError{Word: word, Reason: "names an algorithm that is there already"}
		}
		entries = append(entries, written{e, word})
	}
	return entries, nil
}

// parse reads the words and applies the rules that IKE and ESP share.
func parse(words string) (ipsec.Proposal, error) {
	entries, err := parseWords(words)
	if err != nil {
		return nil, err
	}
	var p ipsec.Proposal
	var combined, plain, integ string // a word of each kind
	var prf ipsec.Transform           // what integ implies
	for _, e := range entries {
		p = append(p, e.transform)
		switch {
		case e.integ != nil:
			integ, prf = e.word, e.integ.prf
		case e.encr != nil && e.encr.combined != nil:
			combined = e.word
		case e.encr != nil:
			plain = e.word
		}
	}
	switch {
	case combined == "" && plain == "":
		return nil, errors.New("an encryption algorithm is missing, such as aes256gcm16")
	case combined != "" && plain != "":
		return nil, &WordError{Word: plain, Reason: "cannot share a proposal with the combined-mode algorithm " + combined +
			": write two proposals"}
	case combined != "" && integ != "":
		return nil, &WordError{
			Word: integ, Reason: "has no place beside " + combined + ", which checks integrity itself",
			Nearest: Name(prf),
		}
	case plain != "" && integ == "":
		return nil, &WordError{Word: plain, Reason: "needs an integrity algorithm beside it, such as sha256"}
	}
	return p, nil
}

// sorted orders p by type as ProposalString writes it, keeping the preference
// within each type.
func sorted(p ipsec.Proposal) ipsec.Proposal {
	out := make(ipsec.Proposal, 0, len(p))
	for _, n := range typeNames {
		out = append(out, p.Of(n.t)...)
	}
	return out
}

// The default proposals hold nothing that Weak reports, and no algorithm that a
// peer with the others would have to fall back to. A combined mode stands before
// a cipher with HMAC, being faster and simpler; where both sides have several:
//
//   - AES-256 before AES-128, which costs about 15 % and leaves a margin; ChaCha20
//     last, for peers without AES instructions, because here it is slower.
//   - SHA-384 before SHA-256 as PRF, to match AES-256; as integrity the shorter
//     hash first, because 128 bits of ICV are enough, and every packet pays.
//   - x25519 before the NIST curves, for being the hardest to implement wrong,
//     and those by cost. MODP comes last, slow and only for old peers, with the
//     larger group first: 2048 bits are what RFC 8247, Section 2.4, has
//     everybody implement, and the least that it has not turned against.
const (
	defaultCombined = "aes256gcm16-aes128gcm16-chacha20poly1305"
	defaultPlain    = "aes256-aes128-sha256-sha384-sha512"
	defaultAH       = "sha256-sha384-sha512"
	defaultPRF      = "prfsha384-prfsha256-prfsha512"
	defaultKE       = "x25519-ecp256-ecp384-ecp521-modp3072-modp2048"
)

// DefaultIKE returns what is proposed for an IKE SA when nothing is configured.
func DefaultIKE() []ipsec.Proposal {
	return must(ParseIKE,
		defaultCombined+"-"+defaultPRF+"-"+defaultKE,
		defaultPlain+"-"+defaultKE)
}

// DefaultESP returns what is proposed for an ESP SA when nothing is configured.
// The key exchange is for SAs that CREATE_CHILD_SA makes: rekeying has perfect
// forward secrecy where the peer knows it. Peers whose own default has none
// could not rekey otherwise; a proposal that names a key exchange insists on it.
func DefaultESP() []ipsec.Proposal {
	return must(ParseESP,
		defaultCombined+"-"+defaultKE+"-esn-noesn",
		defaultPlain+"-"+defaultKE+"-esn-noesn",
		defaultCombined+"-esn-noesn",
		defaultPlain+"-esn-noesn")
}

// DefaultAH returns what is proposed for an AH SA when nothing is configured,
// with key exchanges as in DefaultESP.
func DefaultAH() []ipsec.Proposal {
	return must(ParseAH,
		defaultAH+"-"+defaultKE+"-esn-noesn",
		defaultAH+"-esn-noesn")
}

func must(parse func(string) (ipsec.Proposal, error), words ...string) []ipsec.Proposal {
	var out []ipsec.Proposal
	for _, w := range words {
		p, err := parse(w)
		if err != nil {
			panic("suite: a default proposal is wrong: " + err.Error())
		}
		out = append(out, p)
	}
	return out
}
