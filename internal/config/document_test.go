package config

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// TestDocumentOfWords compares the tables of "Words of proposals" with the
// registry: which words there are, which are weak, and the numbers that are our
// own.
func TestDocumentOfWords(t *testing.T) {
	data, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(data), "\n## Words of proposals\n")
	if !ok {
		t.Fatal("no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	types := map[string]ipsec.TransformType{
		"encryption with integrity": ipsec.TypeEncr, "encryption": ipsec.TypeEncr, "ESP without encryption": ipsec.TypeEncr,
		"integrity": ipsec.TypeInteg, "pseudorandom function": ipsec.TypePRF, "key exchange": ipsec.TypeKE,
		"extended sequence numbers": ipsec.TypeESN,
	}
	quoted := regexp.MustCompile("`([^`]+)`")
	documented, want := map[string]string{}, map[string]string{}
	var current ipsec.TransformType
	numbers := 0
	for line := range strings.SplitSeq(section, "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue
		}
		kind, second := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])
		if id, err := strconv.ParseUint(strings.TrimSpace(cells[3]), 10, 16); err == nil {
			typ, err := strconv.ParseUint(second[:1], 10, 8)
			if err != nil {
				t.Fatal(err)
			}
			own := ipsec.Transform{Type: ipsec.TransformType(typ), ID: uint16(id)}
			if suite.Name(own) != kind || own.ID < 1024 {
				t.Errorf("%s is %s", line, suite.Name(own))
			}
			numbers++
			continue
		}
		if kind != "" {
			current = types[kind]
		}
		for _, m := range quoted.FindAllStringSubmatch(second, -1) {
			documented[m[1]] = describeWord(current, strings.HasPrefix(second, "*"))
		}
	}
	for _, typ := range types {
		for _, w := range suite.Words(typ) {
			want[w] = describeWord(typ, weakWord(t, typ, w))
		}
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("registry and docs/configuration.md differ (-registry +document):\n%s", diff)
	}
	if numbers != 6 {
		t.Errorf("%d numbers of our own are documented", numbers)
	}
}

func describeWord(t ipsec.TransformType, weak bool) string {
	return "type " + strconv.Itoa(int(t)) + ", weak: " + strconv.FormatBool(weak)
}

// weakWord finds a proposal that the word fits in, and whether the word is weak.
func weakWord(t *testing.T, typ ipsec.TransformType, word string) bool {
	t.Helper()
	for _, words := range []string{"aes128-sha256-x25519-" + word, word + "-sha256", "aes128-" + word, "aes128gcm16-" + word, word} {
		for _, parse := range []func(string) (ipsec.Proposal, error){suite.ParseESP, suite.ParseIKE} {
			p, err := parse(words)
			if err != nil {
				continue
			}
			for _, x := range p.Of(typ) {
				if why, weak := suite.Weak(x); weak {
					t.Logf("%s: %s", word, why)
					return true
				}
			}
		}
	}
	return false
}
