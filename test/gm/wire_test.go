package gm

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/v2/conf"
)

var update = flag.Bool("update", false, "write what passes into docs/gm.md")

// The block of docs/gm.md that holds what TestWire sees.
const (
	guide     = "../../docs/gm.md"
	wireBegin = "<!-- what go test ./test/gm -run TestWire sees -->\n```\n"
	wireEnd   = "```\n<!-- end -->\n"
)

// TestWire writes down what passes while an IKE SA and its IPsec SAs are set up, as
// somebody between the two sees it: docs/gm.md shows the same.
func TestWire(t *testing.T) {
	t.Parallel()
	g := start(t, settings{"nat": "sm3"})
	g.conn.Encapsulation = conf.EncapAuto
	g.initiate()
	g.mustHave(1)
	text := g.describeWire(t)
	doc, err := os.ReadFile(guide)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile(`(?s)` + regexp.QuoteMeta(wireBegin) + `.*?` + regexp.QuoteMeta(wireEnd))
	if *update {
		if err := os.WriteFile(guide, block.ReplaceAllLiteral(doc, []byte(wireBegin+text+wireEnd)), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got := string(block.Find(doc)); got != wireBegin+text+wireEnd {
		t.Errorf("docs/gm.md shows\n%s\nand this passes (-update writes it):\n%s", got, text)
	}
}

// describeWire is a line for each message, those that were repeated once.
func (g *gateway) describeWire(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	var seen []string
	for _, p := range g.wire {
		if slices.Contains(seen, string(p.raw)) {
			continue
		}
		seen = append(seen, string(p.raw))
		msg, err := isakmp.Parse(p.raw)
		if err != nil {
			t.Fatal(err)
		}
		arrow := "<--"
		if p.ours {
			arrow = "-->"
		}
		var words []string
		for _, payload := range msg.Payloads {
			word := payload.Type.String()
			switch payload.Type {
			case isakmp.TypeSymmetricKey, isakmp.TypeNonce, isakmp.TypeID:
				word += "*"
			default:
			}
			words = append(words, word)
		}
		if msg.Encrypted != nil {
			words = []string{fmt.Sprintf("%d octets*", len(msg.Encrypted))}
		}
		fmt.Fprintf(&out, "%s 1.%d %-13s %s\n", arrow, msg.Header.Minor, msg.Header.Exchange, strings.Join(words, " "))
	}
	return out.String()
}
