package vm

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"caponier/test/interop"
)

// TestLab is the demonstration with one word changed: dataplane.
func TestLab(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lab")
	command := func(args ...string) string {
		t.Helper()
		// Also after the test.
		out, err := exec.CommandContext(context.WithoutCancel(t.Context()), os.Getenv(interop.ProgramVariable), append([]string{"lab", "--dir", dir}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("lab %s: %v\n%s", args[0], err, out)
		}
		return string(out)
	}
	command("up", "--dataplane", "kernel")
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, dir)
		}
		command("down")
	})
	out := command("test")
	if strings.Contains(out, "FAIL") || strings.Count(out, "pass  ") < 7 {
		t.Errorf("lab test:\n%s", out)
	}
	for _, gateway := range []string{"cloudgw", "agw", "bgw"} {
		states, err := exec.CommandContext(t.Context(), "ip", "-n", "caponier-"+gateway, "xfrm", "state").CombinedOutput()
		must(t, err)
		if !strings.Contains(string(states), "rfc4106(gcm(aes))") {
			t.Errorf("the kernel of %s has no SA of the lab:\n%s", gateway, states)
		}
	}
}

// showLogs prints what the gateways of the lab logged; their directory is lost
// with the machine.
func showLogs(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	must(t, err)
	for _, name := range logs {
		text, err := os.ReadFile(name)
		must(t, err)
		t.Logf("%s:\n%s", filepath.Base(name), text)
	}
}
