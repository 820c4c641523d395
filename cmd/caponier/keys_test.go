package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var saAdd = []string{
	"sa", "add", "to-b", "--direction", "out", "--spi", "0x2001", "--local-address", "192.0.2.1", "--remote-address", "192.0.2.9",
	"--algorithms", "aes128-sha256", "--local", "10.1.0.0/16", "--remote", "10.9.0.0/16", "--reqid", "9",
}

func keyFile(t *testing.T, text string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// Keys come from files and from the standard input, and never stand on the
// command line.
func TestKeysOfSAAdd(t *testing.T) {
	path := daemon(t)
	encr, integ := strings.Repeat("01ab", 8), strings.Repeat("02cd", 16)
	encrFile, integFile := keyFile(t, encr+"\n", 0o600), keyFile(t, "0x"+integ, 0o600)
	for _, tt := range []struct {
		name   string
		args   []string
		stdin  string
		status int
		want   string
	}{
		{"files", []string{"--encryption-key-file", encrFile, "--integrity-key-file", integFile}, "", exitDone, "to-b: 01ab, 02cd"},
		{"standard input", nil, encr + "\n0x" + integ + "\n", exitDone, "to-b: 01ab, 02cd"},
		{"no newline at the end", nil, encr + "\n" + integ, exitDone, "to-b: 01ab, 02cd"},
		{"one of each", []string{"--encryption-key-file", encrFile}, integ + "\n", exitDone, "to-b: 01ab, 02cd"},
		{"nothing", nil, "", exitRefused, "encryption key of aes128, 32 hexadecimal digits: the standard input has ended"},
		{"half", nil, encr + "\n", exitRefused, "integrity key of sha256, 64 hexadecimal digits: the standard input has ended"},
		{"a word", nil, "secret\n" + integ, exitRefused, "something else than hexadecimal digits"},
		{"too short", nil, "0011\n" + integ, exitUsage, "the encryption key of aes128 has 128 bits, and this one 16"},
		{"read by others", []string{"--encryption-key-file", keyFile(t, encr, 0o644)}, integ, exitRefused, "chmod 600"},
		{"no such file", []string{"--encryption-key-file", "/nowhere/key"}, integ, exitRefused, "no such file"},
		{"on the command line", []string{"--encryption-key", encr}, integ, exitUsage, "unknown flag: --encryption-key"},
	} {
		cmd := exec.CommandContext(t.Context(), binary, append(saAdd, tt.args...)...)
		cmd.Env = append(os.Environ(), envControl+"="+path)
		cmd.Stdin = strings.NewReader(tt.stdin)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != tt.status || !strings.Contains(string(out), tt.want) {
			t.Errorf("%s: status %d\n%s", tt.name, got, out)
		}
		if tt.status != exitDone && (strings.Contains(string(out), encr[:16]) || strings.Contains(string(out), integ[:16])) {
			t.Errorf("%s: the key is shown:\n%s", tt.name, out)
		}
	}
	// Wrong parameters are found before anybody is asked for a key.
	args := append(append([]string{}, saAdd...), "--mode", "turtle")
	if got := caponier(t, path, args...); got.status != exitUsage || !strings.Contains(got.errOut, "none of tunnel, transport") {
		t.Errorf("wrong word: %+v", got)
	}
}

func TestManualCommands(t *testing.T) {
	path := daemon(t)
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"sa", "list", "--peer", "192.0.2.9"}, exitDone, "no SAs"},
		{[]string{"sa", "list", "--peer", "nobody"}, exitUsage, "is not an address"},
		{[]string{"sa", "delete", "0x2001"}, exitRefused, "(not-found)"},
		{[]string{"sa", "delete"}, exitUsage, "sa delete needs SPI"},
		{[]string{"sa", "flush"}, exitUsage, "needs a filter, or --all"},
		{[]string{"sa", "flush", "--all"}, exitDone, "no SA was removed"},
		{[]string{"policy", "add", "p", "--action", "bypass", "--local", "10.1.0.0/16", "--remote", "10.2.0.0/16"}, exitDone, "warning: p"},
		{[]string{"policy", "add", "p", "--action", "bypass"}, exitUsage, "p: local is missing"},
		{[]string{"policy", "delete", "p"}, exitRefused, "(not-found)"},
		{[]string{"gateway", "off"}, exitDone, "THE GATEWAY IS OFF: protected traffic is blocked"},
		{[]string{"gateway", "off", "--bypass"}, exitDone, "LEAVES IN CLEAR"},
		{[]string{"gateway", "on"}, exitDone, "the gateway is on"},
		{[]string{"gateway"}, exitUsage, "gateway needs a command"},
	} {
		if got := caponier(t, path, tt.args...); got.status != tt.status || !strings.Contains(got.out+got.errOut, tt.want) {
			t.Errorf("%v: %+v", tt.args, got)
		}
	}
}
