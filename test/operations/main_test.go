// Package operations tests the finished program as its operator and a hostile
// world see it: built once, run in network namespaces, driven by nothing but
// configuration files, commands and signals, and judged by what crosses the
// wire, what the system's routing looks like and what the commands print.
//
// Every test builds a site of its own (site_test.go) and removes it.
package operations

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// program is the binary under test.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "operations:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, fmt.Errorf("these tests need CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW: run them as root")
	}
	dir, err := os.MkdirTemp("", "operations-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	// An unprivileged user runs it too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return 1, err
	}
	program = filepath.Join(dir, "caponier")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "caponier/cmd/caponier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the program: %w\n%s", err, out)
	}
	// Most tests wait most of the time: more of them than processors run side by
	// side.
	if err := flag.Set("test.parallel", "4"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// eventually fails the test when ok does not come true in time. what says what
// was waited for.
func eventually(t *testing.T, patience time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s there is still no %s", patience, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// within bounds a command of the test itself.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
