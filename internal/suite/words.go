package suite

import (
	"fmt"
	"strings"

	"caponier/internal/ipsec"
	"caponier/internal/nearest"
)

// WordError says which word of a proposal is wrong.
type WordError struct {
	Word    string
	Reason  string
	Nearest string // what was probably meant; empty where nothing is near
}

// Error names the word, the reason and the nearest valid word.
func (e *WordError) Error() string {
	if e.Nearest == "" {
		return fmt.Sprintf("%q %s", e.Word, e.Reason)
	}
	return fmt.Sprintf("%q %s; did you mean %q?", e.Word, e.Reason, e.Nearest)
}

// Words returns the words for transforms of type t, synonyms included, in order
// of registration.
func Words(t ipsec.TransformType) []string {
	var out []string
	for i := range registry {
		if registry[i].transform.Type == t {
			out = append(out, registry[i].words...)
		}
	}
	return out
}

// typeNames are the types of transforms in the order in which a proposal is
// written.
var typeNames = []struct {
	t    ipsec.TransformType
	name string
}{
	{ipsec.TypeEncr, "encr"},
	{ipsec.TypeInteg, "integ"},
	{ipsec.TypePRF, "prf"},
	{ipsec.TypeKE, "ke"},
	{ipsec.TypeESN, "esn"},
}

// Name returns the word for t, or its numbers where it is not registered.
func Name(t ipsec.Transform) string {
	if e := lookup(t); e != nil {
		return e.words[0]
	}
	name := fmt.Sprintf("type%d", t.Type)
	for _, n := range typeNames {
		if n.t == t.Type {
			name = n.name
		}
	}
	name = fmt.Sprintf("%s#%d", name, t.ID)
	if t.KeyBits != 0 {
		name += fmt.Sprintf("/%d", t.KeyBits)
	}
	return name
}

// ProposalString prints what ParseIKE, ParseESP or ParseAH reads: the words of p joined
// by hyphens, by type and then by preference.
func ProposalString(p ipsec.Proposal) string {
	var words []string
	for _, n := range typeNames {
		for _, t := range p.Of(n.t) {
			words = append(words, Name(t))
		}
	}
	return strings.Join(words, "-")
}

func parseWord(word string) (*entry, error) {
	for i := range registry {
		for _, w := range registry[i].words {
			if w == word {
				return &registry[i], nil
			}
		}
	}
	return nil, &WordError{Word: word, Reason: "is not an algorithm", Nearest: nearestWord(word)}
}

// nearestWord returns what was probably meant by word, or nothing.
func nearestWord(word string) string {
	var all []string
	for i := range registry {
		all = append(all, registry[i].words...)
	}
	return nearest.Word(word, all)
}
