package operations

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestLab runs the demonstration as a newcomer does. The names of its namespaces
// are fixed: there is one lab on a machine at a time.
func TestLab(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "lab")
	command := func(words ...string) (string, error) {
		cmd := exec.CommandContext(within(t, 90*time.Second), program, append([]string{"lab", "--dir", dir}, words...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		err := cmd.Run()
		return out.String(), err
	}
	if out, err := command("down"); err == nil || !strings.Contains(out, "not up") {
		t.Fatalf("lab down without a lab: %v\n%s", err, out)
	}
	// What is in the way is kept: the lab removes its directory in the end.
	precious := filepath.Join(dir, "precious")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command("up"); err == nil || !strings.Contains(out, "not empty") {
		t.Fatalf("lab up in a directory of somebody else's: %v\n%s", err, out)
	}
	if err := os.Remove(precious); err != nil {
		t.Fatal(err)
	}
	if out, err := command("up"); err != nil {
		t.Fatalf("lab up: %v\n%s", err, out)
	}
	down := false
	t.Cleanup(func() {
		if down {
			return
		}
		if out, err := command("down"); err != nil {
			t.Errorf("lab down: %v\n%s", err, out)
		}
	})
	if out, err := command("up"); err == nil || !strings.Contains(out, "up already") {
		t.Errorf("lab up twice: %v\n%s", err, out)
	}
	out, err := command("test")
	if err != nil || strings.Contains(out, "FAIL") || strings.Count(out, "pass  ") < 7 {
		t.Errorf("lab test: %v\n%s", err, out)
	}
	down = true
	if out, err := command("down"); err != nil {
		t.Fatalf("lab down: %v\n%s", err, out)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("lab down leaves %s", dir)
	}
	if left, _ := filepath.Glob("/run/netns/caponier-*"); len(left) > 0 {
		t.Errorf("lab down leaves %v", left)
	}
	if out, err := command("up", "--suite", "gn"); err == nil || !strings.Contains(out, `unknown suite "gn"`) {
		t.Errorf("lab up with an unknown suite: %v\n%s", err, out)
	}
	if out, err := command("up", "--capture", "pcap"); err == nil || !strings.Contains(out, `"pcap"`) {
		t.Errorf("lab up with an unknown capture: %v\n%s", err, out)
	}
	// The same by GM/T 0022, and with frames captured.
	for _, words := range [][]string{{"--suite", "gm"}, {"--capture", "afpacket"}, {"--suite", "gm", "--capture", "afxdp"}} {
		if out, err := command(append([]string{"up"}, words...)...); err != nil {
			t.Fatalf("lab up %v: %v\n%s", words, err, out)
		}
		down = false
		out, err = command("test")
		if err != nil || strings.Contains(out, "FAIL") || strings.Count(out, "pass  ") < 7 {
			t.Errorf("lab test after up %v: %v\n%s", words, err, out)
		}
		down = true
		if out, err := command("down"); err != nil {
			t.Fatalf("lab down: %v\n%s", err, out)
		}
	}
	// Every process of the lab runs our binary.
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, l := range links {
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(l), "cmdline"))
		if exe, err := os.Readlink(l); err == nil && exe == program && bytes.Contains(cmdline, []byte(dir)) {
			t.Errorf("lab down leaves process %s: %s", l, bytes.ReplaceAll(cmdline, []byte{0}, []byte(" ")))
		}
	}
}
