package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"caponier/internal/capture"
	"caponier/internal/control"
	"caponier/internal/ipsec"
	"caponier/internal/logging"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// binary is the program under test.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "caponier-cli")
	if err != nil {
		panic(err)
	}
	binary = filepath.Join(dir, "caponier")
	if out, err := exec.Command("go", "build", "-ldflags", "-X caponier/internal/control.version=v0.0.0-test", "-o", binary, ".").CombinedOutput(); err != nil {
		panic(fmt.Sprintf("go build: %v\n%s", err, out))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			panic(err)
		}
		os.Exit(code)
	}))
}

type outcome struct {
	status      int
	out, errOut string
}

// caponier runs the program with the control socket at path.
func caponier(t *testing.T, path string, args ...string) outcome {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), envControl+"="+path)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// fakeGateway knows the connection agw with the tunnel lan.
type fakeGateway struct{ ring *logging.Ring }

func (g fakeGateway) Status(_ context.Context, connection string) (control.Status, error) {
	if connection != "" && connection != "agw" {
		return control.Status{}, control.UnknownConnection(connection)
	}
	return control.Status{Name: "cloudgw", Version: "v0.1.0", Connections: []control.Connection{{
		Name: "agw", State: control.Configured,
		Tunnels: []control.Tunnel{{Name: "lan", State: control.Configured, Protocol: ipsec.ESP}},
	}}}, nil
}

func (g fakeGateway) act(t control.Target, report func(control.Progress)) error {
	if t.Connection != "agw" {
		return control.UnknownConnection(t.Connection)
	}
	if t.Tunnel == "broken" {
		return &control.Error{Code: "no-proposal-chosen", Message: "the peer accepts none", Cure: "offer aes128"}
	}
	report(control.Progress{Target: t, Step: control.StepEstablished})
	return nil
}

func (g fakeGateway) Connect(_ context.Context, t control.Target, _ bool, report func(control.Progress)) error {
	return g.act(t, report)
}

func (g fakeGateway) Disconnect(_ context.Context, t control.Target, _ bool, report func(control.Progress)) error {
	return g.act(t, report)
}

func (g fakeGateway) Rekey(_ context.Context, t control.Target, _ bool, report func(control.Progress)) error {
	return g.act(t, report)
}

func (g fakeGateway) Reload(_ context.Context, dryRun bool) (control.ReloadReport, error) {
	return control.ReloadReport{DryRun: dryRun}, nil
}

func (g fakeGateway) SAs(context.Context) ([]control.SA, error) { return nil, nil }

func (g fakeGateway) Policies(context.Context) ([]control.Policy, error) { return nil, nil }

func (g fakeGateway) AddSA(_ context.Context, n control.NewSA) (control.SAChange, error) {
	return control.SAChange{Action: control.ActionAdded, Warnings: []string{
		fmt.Sprintf("%s: %x, %x", n.Name, n.EncrKey.Bytes()[:2], n.IntegKey.Bytes()[:2]),
	}}, nil
}

func (g fakeGateway) DeleteSAs(context.Context, []ipsec.SAID) error { return nil }

func (g fakeGateway) AddPolicy(_ context.Context, n control.NewPolicy) (control.PolicyChange, error) {
	return control.PolicyChange{Action: control.ActionAdded, Warnings: []string{n.Name}}, nil
}

func (g fakeGateway) DeletePolicies(context.Context, []string) error { return nil }

func (g fakeGateway) Switch(_ context.Context, position string) (control.Switch, error) {
	return control.Switch{Position: position}, nil
}

func (g fakeGateway) DestroyKeys(context.Context) (control.Destroyed, error) {
	return control.Destroyed{Keys: 1}, nil
}

func (g fakeGateway) Why(_ context.Context, connection string) (control.Why, error) {
	if connection != "" && connection != "agw" {
		return control.Why{}, control.UnknownConnection(connection)
	}
	return control.Why{}, nil
}

func (g fakeGateway) Trace(_ context.Context, f ipsec.Flow) (control.Trace, error) {
	return control.Trace{Flow: f, Verdict: control.DroppedNone, Words: "the data plane drops it"}, nil
}

func (g fakeGateway) Capture(_ context.Context, connection string, keys bool, emit func(control.Captured) error) error {
	if keys {
		return control.Errorf(control.CodeRefused, "the configuration does not allow keys")
	}
	return emit(control.Captured{Packets: []capture.Packet{{Data: []byte{0x45}, Connection: connection}}})
}

func (g fakeGateway) Log(ctx context.Context, f logging.Filter, follow bool, emit func(logging.Record) error) error {
	return g.ring.Stream(ctx, f, follow, emit)
}

// daemon runs a fake one and returns its socket.
func daemon(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "control.sock")
	g := fakeGateway{logging.NewRing(8)}
	g.ring.Add(logging.Record{Message: "IKE SA up", Connection: "agw"})
	s, err := control.Listen(path, g, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return path
}

func TestExitStatus(t *testing.T) {
	live, dead := daemon(t), filepath.Join(t.TempDir(), "none.sock")
	for _, tt := range []struct {
		path   string
		args   string
		status int
		out    string // what standard output contains
		errOut string // what standard error contains
	}{
		{live, "status", 0, "agw         configured", ""},
		{live, "status agw", 0, "tunnel lan: configured", ""},
		{live, "status nobody", 1, "", "(unknown-connection)"},
		{live, "status a b", 2, "", `no argument "b"`},
		{live, "connect agw/lan", 0, "agw/lan: established", ""},
		{live, "connect agw/broken", 1, "", "cure: offer aes128"},
		{live, "connect agw --timeout 5s --no-wait", 0, "established", ""},
		{live, "connect", 2, "", "needs CONN[/TUNNEL]"},
		{live, "connect a/b/c", 2, "", "neither CONN nor CONN/TUNNEL"},
		{live, "connect agw --timeout never", 2, "", "never"},
		{live, "disconnect agw", 0, "agw: established", ""},
		{live, "rekey agw", 0, "agw: established", ""},
		{live, "reload --dry-run", 0, "dry run", ""},
		{live, "sa list", 0, "no SAs", ""},
		{live, "sa", 2, "", "caponier sa needs a command"},
		{live, "sa lst", 2, "", "did you mean list?"},
		{live, "policy list", 0, "no policies", ""},
		{live, "log agw", 0, "IKE SA up", ""},
		{live, "log --level loud", 2, "", "loud"},
		{live, "capture agw -o -", 0, "\x0a\x0d\x0d\x0a", ""},
		{live, "capture agw -o /dev/null --count 1", 0, "1 inner and 0 outer packets", ""},
		{live, "capture -o - --keys", 2, "", "--keys needs a file"},
		{live, "capture -o x.pcapng --keys", 1, "", "does not allow keys"},
		{live, "capture agw", 2, "", "output"},
		{live, "capture agw -o - --count few", 2, "", "few"},
		{live, "version", 0, "daemon: caponier", ""},
		{live, "statsu", 2, "", "did you mean status?"},
		{live, "status --nope", 2, "", "--nope"},
		{live, "", 2, "", "needs a command"},
		{live, "--help", 0, "Exit status:", ""},
		{dead, "version", 0, "caponier v0.0.0-test", ""},
		{dead, "version --json", 0, `"daemon": null`, ""},
		{dead, "status", 1, "", "the daemon is not running (no socket at " + dead + ")"},
		{dead, "status --control " + live, 0, "agw", ""},
		{dead, "connect a/b/c", 2, "", "neither"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			got := caponier(t, tt.path, strings.Fields(tt.args)...)
			if got.status != tt.status {
				t.Errorf("exit status %d, want %d", got.status, tt.status)
			}
			if !strings.Contains(got.out, tt.out) || tt.out == "" && got.out != "" {
				t.Errorf("standard output, want %q:\n%s", tt.out, got.out)
			}
			if !strings.Contains(got.errOut, tt.errOut) || tt.errOut == "" && got.errOut != "" {
				t.Errorf("standard error, want %q:\n%s", tt.errOut, got.errOut)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	path := daemon(t)
	var status control.Status
	got := caponier(t, path, "status", "--json")
	if err := json.Unmarshal([]byte(got.out), &status); err != nil || status.Connections[0].Name != "agw" {
		t.Errorf("status: %v\n%s", err, got.out)
	}
	var step control.Progress
	got = caponier(t, path, "connect", "agw", "--json")
	if err := json.Unmarshal([]byte(got.out), &step); err != nil || step.Step != control.StepEstablished {
		t.Errorf("connect: %v\n%s", err, got.out)
	}
	if n := strings.Count(got.out, "\n"); n != 1 {
		t.Errorf("a result of a stream has %d lines:\n%s", n, got.out)
	}
	var refusal struct{ Error control.Error }
	got = caponier(t, path, "connect", "nobody", "--json")
	if err := json.Unmarshal([]byte(got.errOut), &refusal); err != nil || refusal.Error.Code != control.CodeUnknownConnection || got.status != 1 {
		t.Errorf("refusal: %v, status %d\n%s", err, got.status, got.errOut)
	}
	if got := caponier(t, path, "sa", "list", "--json"); !strings.Contains(got.out, `"sas": []`) {
		t.Errorf("an empty list is not []:\n%s", got.out)
	}
}

func TestCompletion(t *testing.T) {
	live, dead := daemon(t), filepath.Join(t.TempDir(), "none.sock")
	for _, tt := range []struct {
		path string
		args []string
		want []string
	}{
		{live, []string{"status", ""}, []string{"agw"}},
		{live, []string{"connect", ""}, []string{"agw", "agw/lan"}},
		{live, []string{"connect", "agw", ""}, nil},
		{live, []string{"log", "--level", ""}, []string{"debug", "info", "warn", "error"}},
		{dead, []string{"status", ""}, nil},
	} {
		got := caponier(t, tt.path, append([]string{"__complete"}, tt.args...)...)
		var names []string
		for line := range strings.Lines(got.out) {
			if name := strings.TrimSpace(line); !strings.HasPrefix(name, ":") {
				names = append(names, name)
			}
		}
		if !slices.Equal(names, tt.want) || got.status != 0 {
			t.Errorf("%v: got %v, status %d, want %v", tt.args, names, got.status, tt.want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if got := caponier(t, dead, "completion", shell); got.status != 0 || !strings.Contains(got.out, "caponier") {
			t.Errorf("completion for %s: status %d", shell, got.status)
		}
	}
}

// `log -f` ends well when the operator has seen enough.
func TestInterruptedLog(t *testing.T) {
	path := daemon(t)
	cmd := exec.CommandContext(t.Context(), binary, "log", "-f", "--control", path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 256)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("interrupted log: %v", err)
	}
}

func TestPKI(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"pki", "init", "--dir", dir, "--subject", "C=FI, O=example, CN=root"}, 0, "CN=root"},
		{[]string{"pki", "init", "--dir", dir, "--subject", "C=FI, O=example, CN=root"}, 1, "--force"},
		{[]string{"pki", "issue", "gw", "--dir", dir, "--subject", "C=FI, O=example, CN=gw", "--san", "gw.example,192.0.2.1"}, 0, "gw.example"},
		{[]string{"pki", "issue", "../gw", "--dir", dir, "--subject", "CN=x"}, 2, "../gw"},
		{[]string{"pki", "issue", "gw2", "--dir", dir, "--subject", "CN=x", "--key", "dsa"}, 2, "dsa"},
		{[]string{"pki", "issue", "gw2", "--dir", dir, "--subject", "CN=x", "--days", "0"}, 2, "0 days"},
		{[]string{"pki", "issue", "gw2", "--dir", dir}, 2, "subject"},
		{[]string{"pki", "issue", "--dir", dir}, 2, "arg"},
		{[]string{"pki", "show", filepath.Join(dir, "gw.key")}, 0, "private key"},
		{[]string{"pki", "show", dir, "--json"}, 0, `"subject": "C=FI, O=example, CN=gw"`},
		{[]string{"pki", "show", filepath.Join(dir, "none.pem")}, 1, "none.pem"},
	} {
		got := caponier(t, "", tt.args...)
		if got.status != tt.status || !strings.Contains(got.out+got.errOut, tt.want) {
			t.Errorf("%v: status %d, want %d and %q:\n%s%s", tt.args, got.status, tt.status, tt.want, got.out, got.errOut)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("agw.psk", "correct horse battery staple, twice\n")
	good := `gateway: { name: cloudgw }
connections:
  agw:
    local: { address: 192.0.2.1, auth: psk, psk-file: agw.psk }
    remote: { address: 192.0.2.2, auth: psk }
    tunnels:
      lan: { local: [10.1.0.0/16], remote: [10.2.0.0/16] }
`
	path := write("good.yaml", good)
	if got := caponier(t, "", "check", path); got.status != 0 || !strings.Contains(got.out, "10.1.0.0/16 <-> 10.2.0.0/16") {
		t.Errorf("status %d:\n%s%s", got.status, got.out, got.errOut)
	}
	var r checked
	got := caponier(t, "", "check", path, "--json")
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || !r.Valid || len(r.Errors) != 0 || r.Does == nil {
		t.Errorf("JSON: %v\n%s%s", err, got.out, got.errOut)
	}

	path = write("bad.yaml", strings.Replace(good, "remote: {", "remotte: {", 1))
	got = caponier(t, "", "check", path)
	if got.status != 1 || !strings.Contains(got.out, path+":5:5") || !strings.Contains(got.out, `did you mean "remote"?`) ||
		!strings.Contains(got.errOut, "(invalid-config)") {
		t.Errorf("status %d:\n%s%s", got.status, got.out, got.errOut)
	}
	got = caponier(t, "", "check", path, "--json")
	r = checked{}
	if err := json.Unmarshal([]byte(got.out), &r); err != nil || r.Valid || len(r.Errors) == 0 || got.status != 1 {
		t.Errorf("JSON: %v, status %d\n%s%s", err, got.status, got.out, got.errOut)
	}
	if got := caponier(t, "", "check", filepath.Join(dir, "none.yaml")); got.status != 1 {
		t.Errorf("a missing file: status %d:\n%s%s", got.status, got.out, got.errOut)
	}
	if got := caponier(t, "", "check"); got.status != 2 {
		t.Errorf("no file: status %d", got.status)
	}
}

// TestSurface keeps every command, flag and help text as they are: scripts and
// fingers depend on them.
func TestSurface(t *testing.T) {
	var b strings.Builder
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		fmt.Fprintf(&b, "%s\n  %s\n", cmd.UseLine(), cmd.Short)
		if cmd.Long != "" {
			fmt.Fprintf(&b, "  | %s\n", strings.ReplaceAll(cmd.Long, "\n", "\n  | "))
		}
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			letter := ""
			if f.Shorthand != "" {
				letter = "-" + f.Shorthand + " "
			}
			fmt.Fprintf(&b, "  %s--%s %s [%s] %s\n", letter, f.Name, f.Value.Type(), f.DefValue, f.Usage)
		})
		b.WriteString("\n")
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(&cli{}))
	path := filepath.Join("testdata", "surface.txt")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("the commands differ (-want +got), rewrite with -update if that is meant:\n%s", diff)
	}
}

// Every command of the registry can be typed.
func TestRegistryIsReachable(t *testing.T) {
	root := newRoot(&cli{})
	for _, c := range control.Commands() {
		cmd, rest, err := root.Find(strings.Fields(c.Name))
		if err != nil || len(rest) != 0 || cmd.RunE == nil || cmd.Short == "" {
			t.Errorf("%q is not a command: %v", c.Name, err)
		}
	}
}
