package vm

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"caponier/test/interop"
)

var (
	long   = flag.Bool("long", false, "run every row")
	update = flag.Bool("update", false, "run every row, and rewrite "+reportFile)
)

// insideVariable is in the environment of what runs in the machine.
const insideVariable = "CAPONIER_VM"

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := 0, error(nil)
	if os.Getenv(insideVariable) == "" {
		status, err = boot()
	} else {
		*long = *long || *update
		if status = m.Run(); status == 0 && *long && complete() {
			err = checkReport()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		status = 1
	}
	os.Exit(status)
}

// boot runs this test binary inside the machine, with a caponier that was built
// outside. What it writes to docs is kept.
func boot() (status int, err error) {
	dir, err := os.MkdirTemp("", "vm-test-*")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	program := filepath.Join(dir, "caponier")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "caponier/cmd/caponier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building caponier: %w\n%s", err, out)
	}
	timeout := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration)
	if timeout == 0 {
		timeout = time.Hour
	}
	args := []string{"-t", strconv.Itoa(int(timeout.Seconds())), "-s", filepath.Dir(reportFile)}
	cmd := exec.Command("../../scripts/vm.sh", append(args, os.Args...)...)
	cmd.Env = append(os.Environ(), interop.ProgramVariable+"="+program)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), nil
	}
	return 0, err
}
