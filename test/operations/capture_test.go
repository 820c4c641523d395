package operations

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// recording is a capture under way.
type recording struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  bytes.Buffer
	file string
}

// record starts caponier capture and waits until the file is there, which is when
// the daemon shows what passes.
func (g *gateway) record(file string, args ...string) *recording {
	g.t.Helper()
	r := &recording{t: g.t, file: file}
	argv := append([]string{"--control", g.sock, "capture", "-o", file}, args...)
	r.cmd = exec.CommandContext(within(g.t, time.Minute), program, argv...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.out
	if err := r.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	eventually(g.t, 5*time.Second, "capture in "+file, func() bool { _, err := os.Stat(file); return err == nil })
	return r
}

// interrupt ends the capture as ^C does, and returns what it says.
func (r *recording) interrupt() string {
	r.t.Helper()
	time.Sleep(500 * time.Millisecond) // what has passed is on its way
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		r.t.Fatal(err)
	}
	return r.wait()
}

func (r *recording) wait() string {
	r.t.Helper()
	if err := r.cmd.Wait(); err != nil {
		r.t.Fatalf("caponier capture: %v\n%s", err, r.out.String())
	}
	return r.out.String()
}

// dissect has tshark print fields of the packets that a filter lets through. keys
// is a directory of tables, or empty.
func dissect(t *testing.T, file, keys, filter string, fields ...string) [][]string {
	t.Helper()
	args := []string{"-r", file, "-T", "fields", "-Y", filter}
	for _, f := range append([]string{"frame.number"}, fields...) {
		args = append(args, "-e", f)
	}
	cmd := exec.CommandContext(within(t, time.Minute), "tshark", args...)
	if keys == "" {
		keys = t.TempDir()
	}
	cmd.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+keys)
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, errOut.String())
	}
	if problem := errOut.String(); strings.Contains(problem, "rror") {
		t.Errorf("tshark complains: %s", problem)
	}
	var rows [][]string
	for line := range strings.Lines(string(out)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows
}

// The packets of a capture, as filters of tshark.
const (
	innerEcho  = `frame.interface_name == "inner" && icmp.type == 8 && !esp`
	outerESP   = `frame.interface_name == "outer" && esp`
	openedEcho = `frame.interface_name == "outer" && esp && icmp.type == 8`
	openedAuth = `frame.interface_name == "outer" && isakmp.typepayload == 39` // AUTH
	someIKE    = `frame.interface_name == "outer" && isakmp`
	badICV     = `esp.icv_bad == 1`
)

// TestCapture captures with and without keys; tshark, with our tables and nothing
// else, is the judge.
func TestCapture(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ name, ike, esp string }{
		{"gcm", "aes256gcm16-prfsha384-x25519", "aes128gcm16"},
		{"cbc", "aes128-sha256-x25519", "aes256-sha512"},
	} {
		t.Run(r.name, func(t *testing.T) {
			s := newSite(t)
			peer := peers([]string{"proposals: " + r.ike}, through(net4in4, "proposals: "+r.esp))
			other := conn{name: "other", a: outer6A, b: outer6B, tunnels: []tunnel{through(net4in6)}}
			s.gwA.configure([]string{"capture-keys: allow"}, peer, other)
			s.gwB.configure(nil, peer, other)
			s.gwA.start()
			s.gwB.start()
			captures(t, s)
		})
	}
}

func captures(t *testing.T, s *site) {
	ping := func() {
		t.Helper()
		mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 3)
		mustPing(t, s.hostA, net4in6.hostA, net4in6.hostB, 1)
	}
	whole := filepath.Join(s.dir, "whole.pcapng")
	keys := filepath.Join(s.dir, "whole.keys")
	// From the first message on, through the rekeying of everything.
	c := s.gwA.record(whole, "peer", "--keys")
	plain := s.gwB.record(filepath.Join(s.dir, "plain.pcapng"))
	ping()
	s.gwA.do("rekey", "peer")
	ping()
	if said := c.interrupt(); !strings.Contains(said, "whoever has them") || !strings.Contains(said, " 0 packets left out") {
		t.Errorf("the capture says %q", said)
	}
	plain.interrupt()

	count := func(file, keys, filter string) int { t.Helper(); return len(dissect(t, file, keys, filter)) }
	if n := count(whole, keys, innerEcho); n != 6 {
		t.Errorf("%d echo requests on the inner side, not 6: another connection's count too, or some are missing", n)
	}
	if n := count(whole, keys, openedEcho); n != 6 {
		t.Errorf("the keys open %d of 6 echo requests in ESP", n)
	}
	if n := count(whole, keys, openedAuth); n != 2 {
		t.Errorf("the keys open %d of 2 AUTH payloads", n)
	}
	if n := count(whole, keys, badICV); n != 0 {
		t.Errorf("%d packets with a wrong ICV", n)
	}
	if n := count(whole, keys, "_ws.malformed"); n != 0 {
		t.Errorf("%d malformed packets", n)
	}
	for _, row := range dissect(t, whole, keys, outerESP, "frame.comment") {
		if row[1] != "peer/4in4" {
			t.Errorf("ESP packet %s is of %q", row[0], row[1])
		}
	}
	// Without the tables, the same file is as dark as the wire.
	for _, file := range []string{whole, plain.file} {
		if n := count(file, "", openedEcho) + count(file, "", openedAuth); n != 0 {
			t.Errorf("%s: %d packets are open without keys", file, n)
		}
		if count(file, "", outerESP) < 12 || count(file, "", someIKE) < 4 {
			t.Errorf("%s: packets are missing outside", file)
		}
	}
	if n := count(plain.file, "", innerEcho); n != 8 {
		t.Errorf("%d of all 8 echo requests on the inner side of the capture without keys", n)
	}

	// One that begins later has the keys in use, and ends by itself.
	late := s.gwA.record(filepath.Join(s.dir, "late.pcapng"), "peer", "--keys", "--count", "12")
	ping()
	late.wait()
	if n := count(late.file, filepath.Join(s.dir, "late.keys"), openedEcho); n != 3 {
		t.Errorf("the keys in use open %d of 3 echo requests", n)
	}
	timed := s.gwA.record(filepath.Join(s.dir, "timed.pcapng"), "--duration", "300ms")
	timed.wait()

	for path, mode := range map[string]os.FileMode{
		whole: 0o600, keys: os.ModeDir | 0o700, filepath.Join(keys, "esp_sa"): 0o600, filepath.Join(keys, "ikev2_decryption_table"): 0o600,
	} {
		if info, err := os.Stat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	refusals(t, s)
	secretsStay(t, s, keys)
}

// refusals asks for what is not to be had.
func refusals(t *testing.T, s *site) {
	file := filepath.Join(s.dir, "refused.pcapng")
	for _, tt := range []struct {
		g    *gateway
		args []string
		want string
	}{
		{s.gwB, []string{"capture", "-o", file, "--keys"}, "capture-keys: allow"},
		{s.gwA, []string{"capture", "nobody", "-o", file}, "unknown-connection"},
		{s.gwA, []string{"capture", "-o", "-", "--keys"}, "usage"},
		{s.gwA, []string{"capture"}, "output"},
	} {
		if out, err := tt.g.try(tt.args...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: caponier %s: %v\n%s", tt.g.name, strings.Join(tt.args, " "), err, out)
		}
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a capture that was refused has made a file")
	}
	// What a reload forbids ends at once.
	conf, err := os.ReadFile(s.gwA.conf)
	if err != nil {
		t.Fatal(err)
	}
	s.gwA.write(strings.Replace(string(conf), "capture-keys: allow", "capture-keys: refuse", 1))
	s.gwA.do("reload")
	if _, err := s.gwA.try("capture", "-o", file, "--keys"); err == nil || !strings.Contains(err.Error(), "capture-keys: allow") {
		t.Errorf("keys after the configuration forbids them: %v", err)
	}
	s.gwA.write(string(conf))
	s.gwA.do("reload")
}

// secretsStay looks for the keys where they must not be.
func secretsStay(t *testing.T, s *site, keys string) {
	t.Helper()
	table, err := os.ReadFile(filepath.Join(keys, "esp_sa"))
	if err != nil {
		t.Fatal(err)
	}
	text := s.gwA.logText() + s.gwA.do("log", "--level", "debug")
	for line := range strings.Lines(string(table)) {
		for value := range strings.SplitSeq(line, ",") {
			if value = strings.Trim(strings.TrimSpace(value), `"`); len(value) > 20 && strings.HasPrefix(value, "0x") &&
				strings.Contains(text, value[2:]) {
				t.Error("a key stands in the log")
			}
		}
	}
	if !strings.Contains(text, "capture begins") || !strings.Contains(text, "keys=true") {
		t.Error("the log does not say that somebody has asked for keys")
	}
}
