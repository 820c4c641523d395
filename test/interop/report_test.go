package interop

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// reportFile says which tunnels were set up. It is made by these tests and holds
// nothing that changes from run to run.
const reportFile = "../../docs/interop.md"

var update = flag.Bool("update", false, "rewrite "+reportFile)

// sections are the tests whose rows the report shows, in its order. Each of
// them records all its rows.
var sections = []section{
	{"TestIKEAlgorithm", "Algorithms of the IKE SA", "Each algorithm that caponier has, with usual ones beside it. " +
		"Key exchange methods are for the IKE SA\nand for the perfect forward secrecy of a rekeying."},
	{"TestESPAlgorithm", "Algorithms of the CHILD SA", "The same for ESP."},
	{"TestAuthentication", "Authentication", "Both ends use the same method, which strongSwan's log confirms. Where it does not announce " +
		"RFC 7427, certificates use\nthe methods of RFC 7296 and RFC 4754."},
	{"TestIdentity", "Identities", "Each type of identity at both ends."},
	{"TestPath", "Addresses and NAT", "What lies between the gateways."},
	{"TestNAT", "NAT", "Both ends are behind a NAT, the NAT takes another address and other ports, or several gateways are behind one."},
	{"TestSelectors", "Selectors", "Tunnels for single protocols, ports and ICMP types."},
	{"TestNegotiation", "Negotiation", "What both ends must find out before they agree."},
	{"TestFragmentation", "Long messages", "IKE_AUTH is longer than a datagram, and IP fragments are dropped on the way."},
	{"TestPeers", "Particular peers", "What single kinds of peers need."},
	{"TestLife", "The life of a tunnel", "Rekeying is under continuous traffic of both families, 100 packets a second each, of which none is lost."},
	{"TestRefusal", "Refusals", "Each with the code that caponier gives to its operator."},
	{"TestJudge", "Seen by tshark", "With the keys that strongSwan writes to its log, tshark decrypts both ends' IKE and ESP of set-up, rekeyings and deletion.\n" +
		"It finds the identities, selectors and methods that were configured, the inner packets, and nothing malformed."},
}

type section struct{ test, title, about string }

// row is one line of the report.
type row struct {
	test, what, role string
	reason           string // why it is not possible, or empty
	passed           bool
}

// records are the rows by section.
var records struct {
	sync.Mutex
	rows map[string][]*row
}

// record adds this test to the report, as a pass unless it fails. A test calls
// it before it calls t.Parallel: the order of calls is that of the report.
func record(t *testing.T, what, role string) *row {
	t.Helper()
	r := &row{test: t.Name(), what: what, role: role}
	test, _, _ := strings.Cut(r.test, "/")
	records.Lock()
	defer records.Unlock()
	if records.rows == nil {
		records.rows = make(map[string][]*row)
	}
	records.rows[test] = append(records.rows[test], r)
	t.Cleanup(func() { r.passed = !t.Failed() })
	return r
}

// command repeats the row alone.
func (r *row) command() string {
	parts := strings.Split(r.test, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	return "go test ./test/interop -run '" + strings.Join(parts, "/") + "'"
}

// report makes the document.
func report() ([]byte, error) {
	version, err := strongSwanVersion()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `# Interoperability

What was set up between caponier and %s, whose ESP is carried by its kernel-libipsec, always in UDP. The
tests in test/interop make this file: `+"`make test-interop`"+` runs them all and writes it anew, if every row holds.

Unless a row is about something else, the IKE SA has %s and the CHILD SA %s, for
IPv4 and IPv6. Through each tunnel of the first four sections, and some of the others, both sides send echo requests of up
to 4000 octets and 1 MiB over TCP, of which nothing is lost, and nothing is seen in clear outside; through the remaining
ones at least echo requests. *Not possible* is what strongSwan refuses; the tests check that it still does, and why.
`, version, "`"+defaultIKE+"`", "`"+defaultESP+"`")
	for _, s := range sections {
		rows := records.rows[s.test]
		if len(rows) == 0 {
			return nil, fmt.Errorf("%s has recorded nothing", s.test)
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| what | caponier is | result | repeat with |\n| --- | --- | --- | --- |\n", s.title, s.about)
		for _, r := range rows {
			result := "pass"
			switch {
			case !r.passed:
				return nil, fmt.Errorf("%s has not passed", r.test)
			case r.reason != "":
				result = "not possible: " + r.reason
			}
			fmt.Fprintf(&b, "| %s | %s | %s | `%s` |\n", r.what, r.role, result, r.command())
		}
	}
	return b.Bytes(), nil
}

func strongSwanVersion() (string, error) {
	out, err := exec.CommandContext(context.Background(), "swanctl", "--help").Output()
	if err != nil {
		return "", fmt.Errorf("swanctl --help: %w", err)
	}
	_, version, ok := strings.Cut(string(out), "strongSwan ")
	version, _, _ = strings.Cut(version, " ")
	if version = strings.TrimSpace(version); !ok || version == "" {
		return "", fmt.Errorf("swanctl --help says %q", out)
	}
	return "strongSwan " + version, nil
}

// checkReport compares the report with the committed one, or writes it, after
// a run of all tests that has succeeded.
func checkReport() error {
	got, err := report()
	if err != nil {
		return err
	}
	if *update {
		return os.WriteFile(reportFile, got, 0o644)
	}
	want, err := os.ReadFile(reportFile)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("docs/interop.md differs from what these tests found: make test-interop writes it anew")
	}
	return nil
}

// complete reports whether all tests were asked for, once.
func complete() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return flag.Lookup("test.count").Value.String() == "1"
}
