// Package why tests what the finished program says of mistakes: caponier against
// strongSwan, and against itself, in network namespaces, asked by the commands
// that an operator has. Package diagnose makes more mistakes, in memory.
package why

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"caponier/internal/control"
	"caponier/internal/lab/netns"
)

// program is the binary under test.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	status, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "why:", err)
		status = 1
	}
	os.Exit(status)
}

func run(m *testing.M) (int, error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("these tests need network namespaces: run them as root")
	}
	dir, err := os.MkdirTemp("", "why-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "caponier")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "caponier/cmd/caponier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("building the program: %w\n%s", err, out)
	}
	// They wait most of the time: more of them than processors run side by side.
	if err := flag.Set("test.parallel", "8"); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// gateway is a running caponier.
type gateway struct {
	t    *testing.T
	dir  string
	sock string
}

// start runs caponier in a namespace until the test ends.
func start(t *testing.T, in netns.NS, yaml string) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "why-gw-") //nolint:usetesting // the path of a socket has 107 octets at most, and t.TempDir's is long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g := &gateway{t: t, dir: dir, sock: filepath.Join(dir, "sock")}
	g.write("psk", "correct horse battery staple\n", 0o600)
	g.configure(yaml)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := in.Command(t.Context(), program, "run", "-c", filepath.Join(dir, "gateway.yaml"))
	cmd.Cancel = func() error { return nil } // the clean-up ends it
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("log of %s:\n%s", in.Name, b)
		}
	})
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := g.try("status"); err == nil {
			return g
		}
		if time.Now().After(deadline) {
			t.Fatal("the daemon does not answer")
		}
	}
}

func (g *gateway) write(name, text string, mode os.FileMode) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), mode); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) configure(yaml string) {
	g.write("gateway.yaml", "gateway: { name: gw, state: state, control: sock }\n"+yaml, 0o644)
}

// reload puts another configuration in force.
func (g *gateway) reload(yaml string) {
	g.t.Helper()
	g.configure(yaml)
	g.do("reload")
}

func (g *gateway) try(args ...string) (string, error) {
	cmd := exec.CommandContext(g.t.Context(), program, append([]string{"--control", g.sock}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, errOut.String())
	}
	return out.String(), nil
}

func (g *gateway) do(args ...string) string {
	g.t.Helper()
	out, err := g.try(args...)
	if err != nil {
		g.t.Fatalf("caponier %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func ask[T any](g *gateway, args ...string) (v T) {
	g.t.Helper()
	if err := json.Unmarshal([]byte(g.do(append(args, "--json")...)), &v); err != nil {
		g.t.Fatal(err)
	}
	return v
}

// latest is the last finding, and what people are shown of it.
func (g *gateway) latest(args ...string) (control.Finding, string) {
	g.t.Helper()
	y := ask[control.Why](g, append([]string{"why"}, args...)...)
	if len(y.Findings) == 0 {
		return control.Finding{}, ""
	}
	return y.Findings[0], strings.Join(strings.Fields(g.do(append([]string{"why"}, args...)...)), " ")
}

// expect checks the last finding: its code, a part of the cause, and the
// beginnings of its cures.
func (g *gateway) expect(args []string, code, cause string, cures ...string) {
	g.t.Helper()
	f, text := g.latest(args...)
	for deadline := time.Now().Add(5 * time.Second); f.Code != code && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		f, text = g.latest(args...)
	}
	if f.Code != code || !strings.Contains(f.Cause, cause) {
		g.t.Errorf("%s: %s, want %s: %s", f.Code, f.Cause, code, cause)
		return
	}
	for i, want := range cures {
		if i >= len(f.Cures) || !strings.HasPrefix(f.Cures[i].Edit, want) {
			g.t.Errorf("%s: cures %+v, want %q", code, f.Cures, cures)
			break
		}
		if !strings.Contains(text, want) {
			g.t.Errorf("people are not told %q:\n%s", want, text)
		}
	}
}
