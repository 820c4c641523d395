package nearest

import (
	"strings"
	"testing"
)

func TestWord(t *testing.T) {
	words := []string{"proposals", "protocol", "policies", "remote"}
	for in, want := range map[string]string{
		"proposal":                     "proposals",
		"PROTOCOL":                     "protocol",
		"rmeote":                       "remote", // two octets changed places
		"policys":                      "policies",
		"lifetime":                     "",
		"":                             "",
		strings.Repeat("protocol", 20): "",
	} {
		if got := Word(in, words); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "abc", 0},
		{"abc", "acb", 1},
		{"abc", "ab", 1},
		{"abc", "abd", 1},
		{"kitten", "sitting", 3},
	} {
		if got := distance(tt.a, tt.b); got != tt.want || distance(tt.b, tt.a) != got {
			t.Errorf("%q to %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
