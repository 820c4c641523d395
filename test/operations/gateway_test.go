package operations

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

const commandTimeout = 20 * time.Second

// gateway is one caponier: its namespace, its files, and its process while it
// runs.
type gateway struct {
	t    *testing.T
	name string
	ns   netns.NS
	dir  string
	conf string // path
	sock string
	log  string // path
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

func newGateway(s *site, name string, ns netns.NS) *gateway {
	dir := filepath.Join(s.dir, name)
	g := &gateway{
		t: s.t, name: name, ns: ns, dir: dir, conf: filepath.Join(dir, "caponier.yaml"),
		sock: filepath.Join(dir, "sock"), log: filepath.Join(dir, "log"),
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "psk"), []byte("0sx8vKq2mS4tY7wB1nH5cJ9fLg3dRzPaUe\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if g.running() {
			g.kill()
		}
		if s.t.Failed() {
			s.t.Logf("log of %s:\n%s", name, tail(g.logText(), 60))
		}
	})
	return g
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// conn is a connection of the configuration, as gwA has it; gwB has its mirror
// image.
type conn struct {
	name    string
	a, b    netip.Addr
	keys    []string // more lines
	tunnels []tunnel
}

type tunnel struct {
	name string
	a, b netip.Prefix
	keys []string // more lines; where none names start, it is trap
}

// through is the tunnel for a subnet.
func through(n subnet, keys ...string) tunnel {
	return tunnel{name: n.name, a: n.A, b: n.B, keys: keys}
}

// peers is the connection over IPv4, named peer.
func peers(keys []string, tunnels ...tunnel) conn {
	return conn{name: "peer", a: outer4A, b: outer4B, keys: keys, tunnels: tunnels}
}

// configure writes the configuration.
func (g *gateway) configure(gatewayKeys []string, conns ...conn) {
	g.t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "gateway:\n  name: %s\n  state: state\n  control: sock\n", g.name)
	for _, k := range gatewayKeys {
		fmt.Fprintf(&b, "  %s\n", k)
	}
	fmt.Fprintf(&b, "connections:\n")
	for _, c := range conns {
		local, remote := c.a, c.b
		if g.name == "gwB" {
			local, remote = remote, local
		}
		fmt.Fprintf(&b, "  %s:\n    local: { address: %q }\n    remote: { address: %q, auth: psk, psk-file: psk }\n", c.name, local, remote)
		for _, k := range c.keys {
			fmt.Fprintf(&b, "    %s\n", k)
		}
		fmt.Fprintf(&b, "    tunnels:\n")
		for _, t := range c.tunnels {
			local, remote := t.a, t.b
			if g.name == "gwB" {
				local, remote = remote, local
			}
			fmt.Fprintf(&b, "      %s:\n        local: [%q]\n        remote: [%q]\n", t.name, local, remote)
			if !strings.Contains(strings.Join(t.keys, "\n"), "start:") {
				fmt.Fprintf(&b, "        start: trap\n")
			}
			for _, k := range t.keys {
				fmt.Fprintf(&b, "        %s\n", k)
			}
		}
	}
	g.write(b.String())
}

func (g *gateway) write(yaml string) {
	g.t.Helper()
	if err := os.WriteFile(g.conf, []byte(yaml), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

// launch starts the daemon, behind a wrapper where there is one, and does not
// wait for it.
func (g *gateway) launch(wrapper ...string) {
	g.t.Helper()
	log, err := os.OpenFile(g.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		g.t.Fatal(err)
	}
	defer log.Close()
	argv := append(wrapper, program, "run", "-c", g.conf)
	g.cmd = g.ns.Command(g.t.Context(), argv[0], argv[1:]...)
	// The end of the test's context is the clean-up's business.
	g.cmd.Cancel = func() error { return nil }
	g.cmd.Stdout, g.cmd.Stderr = log, log
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	done, cmd := make(chan struct{}), g.cmd
	g.done = done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
}

// start starts the daemon and waits until it answers.
func (g *gateway) start(wrapper ...string) {
	g.t.Helper()
	g.launch(wrapper...)
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := g.try("status", "--json"); err == nil {
			return
		}
		if !g.running() || time.Now().After(deadline) {
			g.t.Fatalf("%s does not answer; its log:\n%s", g.name, g.logText())
		}
	}
}

func (g *gateway) running() bool {
	if g.cmd == nil {
		return false
	}
	select {
	case <-g.done:
		return false
	default:
		return true
	}
}

func (g *gateway) pid() int { return g.cmd.Process.Pid }

func (g *gateway) signal(sig syscall.Signal) {
	g.t.Helper()
	if err := g.cmd.Process.Signal(sig); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) kill() {
	_ = g.cmd.Process.Kill()
	<-g.done
}

// stop ends the daemon as its service manager does.
func (g *gateway) stop() {
	g.t.Helper()
	g.signal(syscall.SIGTERM)
	select {
	case <-g.done:
	case <-time.After(10 * time.Second):
		g.t.Fatalf("%s does not end at SIGTERM", g.name)
	}
	if status := g.cmd.ProcessState.ExitCode(); status != 0 {
		g.t.Fatalf("%s ended with status %d at SIGTERM; its log:\n%s", g.name, status, g.logText())
	}
}

func (g *gateway) logText() string {
	b, _ := os.ReadFile(g.log)
	return string(b)
}

// try runs a command of the CLI.
func (g *gateway) try(args ...string) (string, error) {
	cmd := exec.CommandContext(within(g.t, commandTimeout), program, append([]string{"--control", g.sock}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, errOut.String())
	}
	return out.String(), nil
}

// do runs a command of the CLI that must succeed.
func (g *gateway) do(args ...string) string {
	g.t.Helper()
	out, err := g.try(args...)
	if err != nil {
		g.t.Fatalf("%s: caponier %s: %v", g.name, strings.Join(args, " "), err)
	}
	return out
}

// ask runs a command and reads the JSON that it prints.
func ask[T any](g *gateway, args ...string) (v T) {
	g.t.Helper()
	out := g.do(append(args, "--json")...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		g.t.Fatalf("%s: caponier %s --json: %v\n%s", g.name, strings.Join(args, " "), err, out)
	}
	return v
}

// status is what the tests look at, as a script of the operator would.
type status struct {
	Name        string            `json:"name"`
	PID         int               `json:"pid"`
	Counters    map[string]uint64 `json:"counters"`
	Connections []struct {
		Name      string `json:"name"`
		State     string `json:"state"`
		LastError *struct {
			Code, Message string
		} `json:"last_error"`
		IKE     []ikeSA `json:"ike_sas"`
		Tunnels []struct {
			Name  string    `json:"name"`
			State string    `json:"state"`
			SAs   []childSA `json:"sas"`
		} `json:"tunnels"`
	} `json:"connections"`
}

type ikeSA struct {
	InitiatorSPI string `json:"initiator_spi"`
	ResponderSPI string `json:"responder_spi"`
	State        string `json:"state"`
	Role         string `json:"role"`
}

type childSA struct {
	In    half `json:"in"`
	Out   half `json:"out"`
	Encap bool `json:"encap"`
}

type half struct {
	SPI            string `json:"spi"`
	Bytes, Packets uint64
	Drops          uint64
}

type saList struct {
	SAs []saEntry `json:"sas"`
}

type saEntry struct {
	ID struct {
		Direction, Protocol, SPI, Peer string
	} `json:"id"`
	Connection, Tunnel string
	Bytes, Packets     uint64
	Sequence           uint64
	Algorithms         string
	ReplayDrops        uint64 `json:"replay_drops"`
	IntegrityDrops     uint64 `json:"integrity_drops"`
}

func (g *gateway) status() status { g.t.Helper(); return ask[status](g, "status") }

func (g *gateway) sas() []saEntry { g.t.Helper(); return ask[saList](g, "sa", "list").SAs }

// tunnelSAs are the CHILD SAs of a tunnel.
func (g *gateway) tunnelSAs(connection, tunnel string) []childSA {
	g.t.Helper()
	for _, c := range g.status().Connections {
		for _, t := range c.Tunnels {
			if c.Name == connection && t.Name == tunnel {
				return t.SAs
			}
		}
	}
	g.t.Fatalf("%s does not know tunnel %s/%s", g.name, connection, tunnel)
	return nil
}

// onlySA is the CHILD SA of a tunnel that has exactly one.
func (g *gateway) onlySA(connection, tunnel string) childSA {
	g.t.Helper()
	sas := g.tunnelSAs(connection, tunnel)
	if len(sas) != 1 {
		g.t.Fatalf("%s: tunnel %s/%s has %d CHILD SAs, not one", g.name, connection, tunnel, len(sas))
	}
	return sas[0]
}

// resident is the physical memory of the daemon in KiB (proc_pid_status(5)).
func (g *gateway) resident() int {
	g.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.pid()))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				g.t.Fatal(err)
			}
			return kb
		}
	}
	g.t.Fatal("/proc/PID/status has no VmRSS")
	return 0
}

// refused runs the daemon where it must not start, as argv says, and returns
// what it printed.
func (g *gateway) refused(wrapper ...string) string {
	g.t.Helper()
	argv := append(wrapper, program, "run", "-c", g.conf)
	cmd := g.ns.Command(within(g.t, commandTimeout), argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || exit.ExitCode() != 1 {
		g.t.Fatalf("%s should have refused to start with status 1: %v\n%s", g.name, err, out)
	}
	return string(out)
}
