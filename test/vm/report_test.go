package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// reportFile is made by these tests and holds nothing that changes from run to
// run.
const reportFile = "../../docs/planes.md"

// The columns: who seals, who opens.
const (
	userKernel = iota
	kernelUser
	kernelKernel
	columns
)

// results are what became of each row, by column.
var results struct {
	sync.Mutex
	awaited int // how many rows there are
	rows    []*row
	cells   map[*row]*[columns]cell
	passed  map[*peering]bool
}

type cell struct {
	done bool
	err  error
}

// record adds what one check of a row and column said.
func record(r *row, column int, err error) {
	results.Lock()
	defer results.Unlock()
	if results.cells == nil {
		results.cells = make(map[*row]*[columns]cell)
	}
	c := results.cells[r]
	if c == nil {
		c = new([columns]cell)
		results.cells[r], results.rows = c, append(results.rows, r)
	}
	c[column].done = true
	if c[column].err == nil {
		c[column].err = err
	}
}

// recordPeering adds a row of the table of peers.
func recordPeering(p *peering) {
	results.Lock()
	defer results.Unlock()
	if results.passed == nil {
		results.passed = make(map[*peering]bool)
	}
	results.passed[p] = true
}

func (c cell) String() string {
	switch {
	case !c.done:
		return "not run"
	case c.err == nil:
		return "pass"
	default:
		text, _, _ := strings.Cut(c.err.Error(), "\n")
		return text
	}
}

// complete reports whether every row was run, in every column.
func complete() bool {
	for _, r := range results.rows {
		for _, c := range results.cells[r] {
			if !c.done {
				return false
			}
		}
	}
	return len(results.rows) > 0 && len(results.rows) == results.awaited && len(results.passed) == len(peerings)
}

// report makes the document.
func report() ([]byte, error) {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, `# The two data planes and the kernel

What caponier's planes carry to and from Linux %s, configured with ip-xfrm(8), which shares no code with
caponier. The tests in test/vm make this file: `+"`make test-vm`"+` runs them all in a virtual machine and writes it anew, if
every row holds. *user → kernel* is sealed by the plane in user space and opened by the kernel, *kernel → user* the other way
round, *kernel ↔ kernel* goes both ways between the kernel under caponier's kernel plane and the kernel under ip-xfrm(8).

Each cell stands for datagrams of %d lengths, every length of padding among them, over IPv4 and over IPv6; in tunnel mode with
IPv4 and IPv6 inside. All must arrive, and captures outside must show that the gateways send nothing but the protocol of the row. A
bundle is AH in transport mode around the ESP of the row; inside it only the family of the gateways, as the kernel has it. AH
over IPv4 ends on 4 octets, as RFC 4302 has it, for which ip-xfrm(8) needs `+"`flag align4`"+`. A sentence instead of *pass* is what the kernel, or the plane, says
to an algorithm that it does not have.

| algorithms | protocol | mode | user → kernel | kernel → user | kernel ↔ kernel |
| --- | --- | --- | --- | --- | --- |
`, strings.TrimSpace(string(release)), len(datagramSizes))
	for _, r := range results.rows {
		c := results.cells[r]
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r, r.protocol(), r.mode, c[userKernel], c[kernelUser], c[kernelKernel])
	}
	if err := reportPeers(&b); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// reportPeers makes the part about other makes of gateways.
func reportPeers(b *bytes.Buffer) error {
	swan, err := version("swanctl", "--help")
	if err != nil {
		return err
	}
	pluto, err := version(filepath.Join(os.Getenv(insideVariable), "libreswan/usr/libexec/ipsec/pluto"), "--version")
	if err != nil {
		return err
	}
	fmt.Fprintf(b, `
## Other makes of gateways

What caponier negotiates by IKEv2 with %s, which has kernel-netlink, and with %s, and then carries to and from the
same kernel, here under them. In each role of a row both sides send datagrams of %d lengths, echo requests of up to 4000
octets and 128 KiB over TCP, in tunnel mode over IPv4 and IPv6; then first caponier and then its peer replace all CHILD SAs and the
IKE SA, under continuous traffic both ways, 100 packets a second each; then who began deletes the IKE SA, and neither kernel has a
state left. Captures outside must show nothing but IKE and the protocol of the row.

No packet is lost, with two exceptions, for each of which the test counts packets and takes no other loss. Linux drops what it is about to
seal with an SA in the moment when that is removed (`+"`XfrmOutStateInvalid`"+`), a packet now and then. And Libreswan sends with a new CHILD SA even
before the answer is on its way that caponier needs to open it, which RFC 7296, Section 2.8, warns of: when caponier replaces a CHILD SA,
packets are lost that arrive in that moment (`+"`sa-not-found`"+`).

Libreswan does not replace CHILD SAs of AH here: version 4.10 then deletes the old one as if it were of ESP and had SPI 0, and so keeps
it. caponier replaces them.

| peer | caponier's plane | between | mode | protocol | algorithms | authentication | caponier is | result |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
`, swan, pluto, len(datagramSizes))
	for _, p := range peerings {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | pass |\n",
			p.peer, p.plane, p.between(), p.mode, p.protocol(), p.words, p.auth(), p.roles)
	}
	return nil
}

// version is the name and number that a program tells of itself.
func version(program, flag string) (string, error) {
	out, err := exec.CommandContext(context.Background(), program, flag).Output()
	words := strings.Fields(string(out))
	if err != nil || len(words) < 2 {
		return "", fmt.Errorf("%s %s says %q: %v", program, flag, out, err)
	}
	return words[0] + " " + words[1], nil
}

// checkReport compares the report with the committed one, or writes it.
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
		return errors.New("docs/planes.md differs from what these tests found: make test-vm writes it anew")
	}
	return nil
}
