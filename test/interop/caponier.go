package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/lab/netns"
)

// Caponier is a running caponier, driven as its operator drives it: by its
// configuration file, its commands and signals.
type Caponier struct {
	// Dir holds its configuration, its secrets and its log; it goes with the test.
	Dir    string
	in     netns.NS
	cmd    *exec.Cmd
	done   chan error
	config CaponierConfig
}

// ProgramVariable is the environment variable that names a program to test
// instead of a newly built one.
const ProgramVariable = "CAPONIER_PROGRAM"

// program builds the program under test, once for each test process.
// removeProgram removes it.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(ProgramVariable); path != "" {
		return path, nil
	}
	dir, err := os.MkdirTemp("", fmt.Sprintf("interop-%d-", os.Getpid()))
	if err != nil {
		return "", err
	}
	programDir = dir
	path := filepath.Join(dir, "caponier")
	build := exec.Command("go", "build", "-trimpath", "-o", path, "caponier/cmd/caponier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building caponier: %w\n%s", err, out)
	}
	return path, nil
})

var programDir string

func removeProgram() error {
	if programDir == "" {
		return nil
	}
	return os.RemoveAll(programDir)
}

// StartCaponier starts caponier in a namespace, waits until it answers, and
// stops it when the test ends. If the test has failed, it shows the end of
// caponier's log.
func StartCaponier(t testing.TB, in netns.NS, c CaponierConfig) *Caponier {
	t.Helper()
	require(t)
	dir, err := os.MkdirTemp("", fmt.Sprintf("interop-%d-", os.Getpid())) //nolint:usetesting // the path of a socket has 107 octets at most, and t.TempDir's is long
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	p := &Caponier{Dir: dir, in: in}
	must(t, c.write(dir))
	p.config = c
	t.Cleanup(func() {
		err := p.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("caponier in %s (ended with %v):\n%s", in.Name, err, tail(p.Log()))
		} else if err != nil {
			t.Errorf("caponier in %s ended with %v", in.Name, err)
		}
	})
	p.start(t)
	return p
}

func (p *Caponier) start(t testing.TB) {
	t.Helper()
	path, err := program()
	must(t, err)
	log, err := os.OpenFile(filepath.Join(p.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer log.Close()
	p.done = make(chan error, 1)
	p.cmd = p.in.Command(context.WithoutCancel(t.Context()), path, "run", "-c", filepath.Join(p.Dir, configFile))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	must(t, startBound(p.cmd, p.done))
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-p.done:
			p.done <- err
			t.Fatalf("caponier ended at once: %v\n%s", err, tail(p.Log()))
		default:
		}
		if err := p.command(t.Context(), "status"); err == nil {
			return
		}
	}
	t.Fatalf("caponier does not answer\n%s", tail(p.Log()))
}

// command runs a command of the CLI. What it refuses gives a *control.Error.
func (p *Caponier) command(ctx context.Context, args ...string) error {
	path, err := program()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"--json", "--control", filepath.Join(p.Dir, controlSocket)}, args...)...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Run(); err != nil {
		var refused struct {
			Error *control.Error `json:"error"`
		}
		if json.Unmarshal(errOut.Bytes(), &refused) == nil && refused.Error != nil {
			return fmt.Errorf("caponier %s: %w (%s)", strings.Join(args, " "), refused.Error, refused.Error.Code)
		}
		return fmt.Errorf("caponier %s: %w: %s", strings.Join(args, " "), err, errOut.Bytes())
	}
	return nil
}

// order runs a command of the CLI that has to succeed.
func (p *Caponier) order(t testing.TB, args ...string) {
	t.Helper()
	must(t, p.command(t.Context(), args...))
}

// Connect brings up a connection, or a tunnel as CONN/TUNNEL, and waits until
// it is up or has failed. The error carries a *control.Error.
func (p *Caponier) Connect(t testing.TB, target string) error {
	t.Helper()
	return p.command(t.Context(), "connect", target, "--timeout", "20s")
}

// MustConnect is Connect for tests that cannot go on without.
func (p *Caponier) MustConnect(t testing.TB, target string) {
	t.Helper()
	must(t, p.Connect(t, target))
}

// Disconnect deletes a connection or a tunnel, and waits until it is gone.
func (p *Caponier) Disconnect(t testing.TB, target string) {
	t.Helper()
	p.order(t, "disconnect", target)
}

// Rekey replaces the keys of a tunnel, or of a connection with its tunnels, and
// waits for it.
func (p *Caponier) Rekey(t testing.TB, target string) {
	t.Helper()
	p.order(t, "rekey", target)
}

// Reload replaces the configuration.
func (p *Caponier) Reload(t testing.TB, c CaponierConfig) {
	t.Helper()
	must(t, c.write(p.Dir))
	p.config = c
	p.order(t, "reload")
}

// ask puts a question to the control socket itself, which spares a process: some
// tests ask again and again.
func ask[R control.Result](t testing.TB, p *Caponier, command string, params map[string]any) (answer R) {
	t.Helper()
	cmd, ok := control.Find(command)
	if !ok {
		t.Fatalf("caponier has no command %q", command)
	}
	client := control.NewClient(filepath.Join(p.Dir, controlSocket))
	defer client.Close()
	must(t, client.Call(t.Context(), cmd, params, func(r control.Result, _ json.RawMessage) error {
		answer, ok = r.(R)
		return nil
	}))
	if !ok {
		t.Fatalf("caponier answers %s with a %T", command, answer)
	}
	return answer
}

// Connection returns what caponier says of a connection.
func (p *Caponier) Connection(t testing.TB, name string) control.Connection {
	t.Helper()
	s := ask[control.Status](t, p, "status", map[string]any{"connection": name})
	if len(s.Connections) != 1 {
		t.Fatalf("status of connection %s has %d", name, len(s.Connections))
	}
	return s.Connections[0]
}

// SAs returns the SAD.
func (p *Caponier) SAs(t testing.TB) []control.SA {
	t.Helper()
	return ask[control.SAList](t, p, "sa list", nil).SAs
}

// Counter returns a total of the data plane by its stable name.
func (p *Caponier) Counter(t testing.TB, name string) uint64 {
	t.Helper()
	return ask[control.Status](t, p, "status", nil).Counters[name]
}

// Restart ends caponier as a service manager does, and starts it again.
func (p *Caponier) Restart(t testing.TB) {
	t.Helper()
	must(t, p.stop(syscall.SIGTERM))
	p.start(t)
}

// Crash ends caponier without a word to its peers.
func (p *Caponier) Crash(t testing.TB) {
	t.Helper()
	_ = p.stop(syscall.SIGKILL)
	p.done = make(chan error, 1)
	p.done <- nil // it ended as it should
}

func (p *Caponier) stop(sig syscall.Signal) error {
	if p.cmd == nil || p.cmd.Process == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case err := <-p.done:
		p.done <- err // for the next caller
		return err
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		err := <-p.done
		p.done <- err
		return errors.Join(errors.New("caponier had to be killed"), err)
	}
}

// Log returns caponier's log.
func (p *Caponier) Log() string {
	data, err := os.ReadFile(filepath.Join(p.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// CodeOf returns the stable code of an error that a command of caponier gave.
func CodeOf(err error) string {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Code
	}
	return ""
}

// tail is as much of a log as helps in a test's output.
func tail(log string) string {
	const most = 150
	lines := strings.Split(log, "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}
