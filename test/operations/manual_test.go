package operations

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// manualSA is a pair of manually keyed SAs between gwA and a far end that is not
// caponier.
type manualSA struct {
	name                       string
	protocol, mode, algorithms string
	farAlgorithms              string // as the far end calls them
	encr, integ                int    // octets of the keys
	local, remote              netip.Prefix
}

const spiToA, spiToB = "0x1001", "0xb0b0b0b1"

// key is the one of an SA and a use; "in" and "out" are gwA's view.
func (m *manualSA) key(direction, use string) string {
	octets := m.encr
	if use == "integ" {
		octets = m.integ
	}
	var b strings.Builder
	for i := range octets {
		fmt.Fprintf(&b, "%02x", (len(direction)*89+len(use)*31+i*7)&0xff)
	}
	return b.String()
}

// keyFiles writes the keys where gwA's configuration and commands name them, and
// returns the file for the far end.
func (m *manualSA) keyFiles(t *testing.T, g *gateway) string {
	t.Helper()
	write := func(name, text string) string {
		path := filepath.Join(g.dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var all []string
	for _, direction := range []string{"out", "in"} { // what gwA sends, the far end receives
		for _, use := range []string{"encr", "integ"} {
			k := m.key(direction, use)
			if k == "" {
				all = append(all, "-")
				continue
			}
			all = append(all, k)
			write(direction+"."+use, k)
		}
	}
	return write("far.keys", strings.Join(all, "\n"))
}

// parameters are those of one direction, by the names of the configuration.
func (m *manualSA) parameters(direction string) [][2]string {
	spi := spiToA
	if direction == "out" {
		spi = spiToB
	}
	return [][2]string{
		{"direction", direction},
		{"protocol", m.protocol},
		{"mode", m.mode},
		{"spi", spi},
		{"local-address", outer4A.String()},
		{"remote-address", outer4B.String()},
		{"algorithms", m.algorithms},
		{"local", m.local.String()},
		{"remote", m.remote.String()},
		{"reqid", "9"},
	}
}

func (m *manualSA) keyParameters(direction string) (out [][2]string) {
	if m.encr > 0 {
		out = append(out, [2]string{"encryption-key-file", direction + ".encr"})
	}
	if m.integ > 0 {
		out = append(out, [2]string{"integrity-key-file", direction + ".integ"})
	}
	return out
}

// yaml is the section manual of the configuration.
func (m *manualSA) yaml() string {
	var b strings.Builder
	b.WriteString("manual:\n  associations:\n")
	for _, direction := range []string{"in", "out"} {
		fmt.Fprintf(&b, "    far-%s:\n", direction)
		for _, p := range append(m.parameters(direction), m.keyParameters(direction)...) {
			fmt.Fprintf(&b, "      %s: %q\n", p[0], p[1])
		}
	}
	fmt.Fprintf(&b, "  policies:\n    far: { action: protect, local: %q, remote: %q, reqid: 9, protocol: %s, mode: %s }\n",
		m.local, m.remote, m.protocol, m.mode)
	return b.String()
}

// farEnd is the process that is not caponier.
type farEnd struct {
	mu    sync.Mutex
	lines []string
}

// startFarEnd runs it in gwB's namespace until the test ends.
func startFarEnd(t *testing.T, s *site, m *manualSA, keys string) *farEnd {
	t.Helper()
	// Debian's python3, for which python3-scapy is installed.
	cmd := s.gwB.ns.Command(t.Context(), "/usr/bin/python3", "testdata/farend.py", outer4B.String(), outer4A.String(),
		m.protocol, m.mode, spiToB, spiToA, m.farAlgorithms, keys)
	cmd.Cancel = func() error { return nil } // the clean-up's business
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f := &farEnd{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			f.mu.Lock()
			f.lines = append(f.lines, lines.Text())
			f.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("far end: %s\n%s", strings.Join(f.all(), "\n"), complaints.String())
		}
	})
	eventually(t, 20*time.Second, "scapy at the far end (apt install python3-scapy)", func() bool { return len(f.all()) > 0 })
	return f
}

func (f *farEnd) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.lines...)
}

// mustAgree fails where the far end could not open a packet, or would have
// dropped one as a replay.
func (f *farEnd) mustAgree(t *testing.T, when string) {
	t.Helper()
	n := 0
	for _, l := range f.all() {
		switch {
		case strings.HasPrefix(l, "packet"):
			n++
		case l != "ready":
			t.Errorf("%s: at the far end: %s", when, l)
		}
	}
	if n == 0 {
		t.Errorf("%s: the far end has seen nothing", when)
	}
}

func manualTunnel() *manualSA {
	return &manualSA{
		name: "esp", protocol: "esp", mode: "tunnel", algorithms: "aes256-sha256", farAlgorithms: "aes-cbc+sha256",
		encr: 32, integ: 32, local: net4in4.A, remote: net4in4.B,
	}
}

func (g *gateway) configureManual(m *manualSA, more ...string) {
	g.t.Helper()
	g.write("gateway: { name: gwA, state: state, control: sock }\n" + strings.Join(more, "") + m.yaml())
}

// status of the switch, as a script of the operator sees it.
type switchStatus struct {
	Switch *struct{ Position string }
}

func (g *gateway) position() string {
	g.t.Helper()
	if s := ask[switchStatus](g, "status"); s.Switch != nil {
		return s.Switch.Position
	}
	return "on"
}

// TestManualTunnel: a tunnel keyed by hand with a far end that we did not write,
// through everything that an operator does to it. Nothing leaves in clear but
// what --bypass lets go, and no sequence number comes twice.
func TestManualTunnel(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := manualTunnel()
	far := startFarEnd(t, s, m, m.keyFiles(t, s.gwA))
	s.gwA.configureManual(m)
	s.gwA.start()
	s.tap.arm()
	passes := func(when string) {
		t.Helper()
		if got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 3); got != 3 {
			t.Errorf("%s: %d of 3 were answered", when, got)
		}
		s.tap.mustBeTight(t, when)
		far.mustAgree(t, when)
	}
	blocked := func(when string) {
		t.Helper()
		if got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 2); got != 0 {
			t.Errorf("%s: %d were answered", when, got)
		}
		s.tap.mustBeTight(t, when)
	}
	passes("after the start")

	// What the lists tell.
	type entry struct {
		ID                    struct{ Direction, SPI string }
		Tunnel, Origin, State string
		Packets               uint64
	}
	list := func(args ...string) []entry {
		return ask[struct{ SAs []entry }](s.gwA, append([]string{"sa", "list"}, args...)...).SAs
	}
	if all := list(); len(all) != 2 || all[0].Origin != "file" || all[0].State != "passing" || all[0].Packets != 3 {
		t.Errorf("sa list: %+v", all)
	}
	if found := list("--spi", spiToB); len(found) != 1 || found[0].Tunnel != "far-out" || found[0].ID.SPI != "b0b0b0b1" {
		t.Errorf("sa list --spi: %+v", found)
	}
	if found := list("far-in", "--covers", net4in4.hostB.String()); len(found) != 1 || found[0].ID.Direction != "in" {
		t.Errorf("sa list TEXT --covers: %+v", found)
	}

	// Restarts, clean and not, go on with the sequence numbers.
	s.gwA.kill()
	blocked("after kill -9")
	s.gwA.start()
	passes("after kill -9 and a start")
	s.gwA.stop()
	s.gwA.start()
	passes("after a clean restart")

	// Off stays off.
	s.gwA.do("gateway", "off")
	blocked("switched off")
	if all := list(); len(all) != 0 || s.gwA.position() != "off" {
		t.Errorf("switched off: %s, %+v", s.gwA.position(), all)
	}
	if _, err := s.gwA.try(append([]string{"sa", "add", "x"}, s.flags(m, "out")...)...); err == nil || !strings.Contains(err.Error(), "(gateway-off)") {
		t.Errorf("sa add while it is off: %v", err)
	}
	s.gwA.kill()
	s.gwA.start()
	blocked("switched off, after kill -9 and a start")
	if text := s.gwA.do("status"); !strings.Contains(text, "THE GATEWAY IS OFF") {
		t.Errorf("the status does not say that it is off:\n%s", text)
	}
	s.gwA.do("gateway", "on")
	passes("switched on again")

	// By hand, one SA goes and comes: with the keys in files, then on standard
	// input.
	s.gwA.do("sa", "delete", "b0b0b0b1")
	blocked("without the outbound SA")
	s.gwA.do(append([]string{"sa", "add", "by-hand"}, s.flags(m, "out")...)...)
	passes("with an SA by hand")
	if found := list("--origin", "manual"); len(found) != 1 || found[0].Tunnel != "by-hand" {
		t.Errorf("sa list --origin manual: %+v", found)
	}
	s.gwA.do("sa", "flush", "--origin", "manual")
	blocked("after sa flush")
	s.typeKeys(t, m)
	passes("with keys from the standard input")

	// A policy by hand goes before the file's.
	s.gwA.do("policy", "add", "stop", "--action", "discard", "--local", net4in4.A.String(), "--remote", net4in4.B.String(), "--priority", "high")
	blocked("with a policy that discards")
	s.gwA.do("policy", "delete", "stop")
	passes("after its end")

	// Bypass is loud, lets go, and does not outlive the process.
	s.gwA.do("gateway", "off", "--bypass")
	seen := s.tap.inClear()
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 2)
	if s.tap.inClear() == seen || s.gwA.position() != "bypass" {
		t.Errorf("bypass is %s, and nothing leaves in clear", s.gwA.position())
	}
	if text := s.gwA.do("status"); !strings.Contains(text, "LEAVES IN CLEAR") {
		t.Errorf("the status does not warn:\n%s", text)
	}
	s.gwA.kill()
	s.gwA.start()
	s.tap.arm()
	blocked("after bypass, kill -9 and a start")
	s.gwA.do("gateway", "on")
	passes("at last")
}

// flags are the arguments of "sa add".
func (s *site) flags(m *manualSA, direction string) (out []string) {
	for _, p := range m.parameters(direction) {
		out = append(out, "--"+p[0], p[1])
	}
	for _, p := range m.keyParameters(direction) {
		out = append(out, "--"+p[0], filepath.Join(s.gwA.dir, p[1]))
	}
	return out
}

// typeKeys adds the outbound SA with its keys on the standard input.
func (s *site) typeKeys(t *testing.T, m *manualSA) {
	t.Helper()
	args := []string{"--control", s.gwA.sock, "sa", "add", "typed"}
	for _, p := range m.parameters("out") {
		args = append(args, "--"+p[0], p[1])
	}
	cmd := exec.CommandContext(within(t, commandTimeout), program, args...)
	cmd.Stdin = strings.NewReader(m.key("out", "encr") + "\n" + m.key("out", "integ") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), m.key("out", "encr")[:16]) {
		t.Errorf("keys on the standard input: %v\n%s", err, out)
	}
}

// TestManualReload: a reload touches what changed, and says so before.
func TestManualReload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	m := manualTunnel()
	far := startFarEnd(t, s, m, m.keyFiles(t, s.gwA))
	s.gwA.configureManual(m)
	s.gwA.start()
	s.tap.arm()
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 2)
	before := s.gwA.sas()

	text := strings.Replace(m.yaml(), "    far-out:\n", "    far-out:\n      hard-lifetime-packets: 4\n", 1)
	s.gwA.write("gateway: { name: gwA, state: state, control: sock }\n" + text)
	dry := s.gwA.do("reload", "--dry-run")
	if !strings.Contains(dry, "association far-out") || strings.Contains(dry, "far-in") || !strings.Contains(dry, "replaced") || !strings.Contains(dry, "hard-lifetime-packets") {
		t.Errorf("reload --dry-run:\n%s", dry)
	}
	if now := s.gwA.sas(); len(now) != 2 || now[1].Sequence != before[1].Sequence {
		t.Errorf("the dry run has changed something: %+v", now)
	}
	s.gwA.do("reload")
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 3)
	for _, sa := range s.gwA.sas() {
		if sa.ID.Direction == "in" && sa.Packets != 5 {
			t.Errorf("the inbound SA did not change, and was touched: %+v", sa)
		}
	}
	// The fourth packet is the last.
	if got := ping(t, s.hostA, net4in4.hostA, net4in4.hostB, 3); got != 1 {
		t.Errorf("past the hard lifetime, %d were answered", got)
	}
	eventually(t, 5*time.Second, "word of the hard lifetime in the log", func() bool {
		return strings.Contains(s.gwA.logText(), "reached its hard lifetime")
	})
	s.tap.mustBeTight(t, "past the hard lifetime")
	far.mustAgree(t, "after all")

	// Without the section, everything of it is gone.
	s.gwA.write("gateway: { name: gwA, state: state, control: sock }\n")
	s.gwA.do("reload")
	if all := s.gwA.sas(); len(all) != 0 {
		t.Errorf("left: %+v", all)
	}
	if text := s.gwA.do("policy", "list"); !strings.Contains(text, "no policies") {
		t.Errorf("left:\n%s", text)
	}
}

// TestManualProtocols: AH, and a counter mode that has been allowed by name,
// against the same far end. AH covers the outer header (RFC 4302, Section 3.3.3).
func TestManualProtocols(t *testing.T) {
	t.Parallel()
	for _, m := range []*manualSA{
		{protocol: "ah", mode: "tunnel", algorithms: "sha256", farAlgorithms: "null+sha256", integ: 32},
		{protocol: "esp", mode: "tunnel", algorithms: "aes256gcm16", farAlgorithms: "aes-gcm+none", encr: 36},
	} {
		t.Run(m.protocol+" "+m.algorithms, func(t *testing.T) {
			m.local, m.remote = net4in4.A, net4in4.B
			s := newSite(t)
			far := startFarEnd(t, s, m, m.keyFiles(t, s.gwA))
			text := m.yaml()
			if strings.Contains(m.algorithms, "gcm") {
				text = strings.ReplaceAll(text, "      reqid:", "      unsafe-counter-mode: yes\n      reqid:")
			}
			s.gwA.write("gateway: { name: gwA, state: state, control: sock }\n" + text)
			s.gwA.start()
			mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 3)
			s.gwA.kill()
			s.gwA.start()
			mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 3)
			far.mustAgree(t, "after kill -9 and a start")
		})
	}
}
