package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// StrongSwan is a running charon. Unless Config.Kernel says otherwise it carries
// ESP in user space, always in UDP (kernel-libipsec): its peer must send ESP in
// UDP as well.
type StrongSwan struct {
	// Dir holds its configuration and charon.log; it goes with the test.
	Dir  string
	cmd  *exec.Cmd
	done chan error
}

// plugins that touch the machine outside the namespace, or wait for what is not
// there.
var unwanted = []string{
	"af-alg", "bypass-lan", "connmark", "dhcp", "farp", "forecast", "ha", "led", "lookip", "error-notify",
	"resolve", "stroke", "tnc-tnccs", "tpm", "unity",
}

// StartStrongSwan starts charon in a namespace, loads the configuration, and
// stops charon when the test ends. If the test has failed, it shows the end of
// charon's log.
func StartStrongSwan(t testing.TB, in netns.NS, c Config) *StrongSwan {
	t.Helper()
	require(t)
	dir, err := os.MkdirTemp("", fmt.Sprintf("interop-%d-", os.Getpid())) //nolint:usetesting // the path of a socket has 107 octets at most, and t.TempDir's is long
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	s := &StrongSwan{Dir: dir, done: make(chan error, 1)}
	must(t, os.WriteFile(filepath.Join(dir, "strongswan.conf"), []byte(s.strongswanConf(c)), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "swanctl.conf"), []byte("swanctl {\n  load = nonce\n}\n"), 0o600))
	s.configure(t, c)

	// charon keeps its pid file in /run, where there is place for one only.
	s.cmd = in.Command(context.WithoutCancel(t.Context()), "unshare", "--mount",
		"sh", "-c", `mount -t tmpfs tmpfs /run && exec "$0"`, charon)
	s.cmd.Env = append(os.Environ(), "STRONGSWAN_CONF="+filepath.Join(dir, "strongswan.conf"))
	output, err := os.Create(filepath.Join(dir, "output"))
	must(t, err)
	defer output.Close()
	s.cmd.Stdout, s.cmd.Stderr = output, output
	must(t, startBound(s.cmd, s.done))
	t.Cleanup(func() {
		err := s.stop(syscall.SIGTERM)
		if t.Failed() {
			t.Logf("charon in %s (ended with %v):\n%s", in.Name, err, tail(s.Log()))
		}
	})
	s.awaitControl(t)
	must(t, s.load(t, c))
	return s
}

func (s *StrongSwan) strongswanConf(c Config) string {
	var w confWriter
	w.section(filepath.Base(charon), func() {
		if c.Plugins == "" {
			w.plain("load_modular", "yes")
		}
		w.plain("load", c.Plugins)
		w.section("filelog", func() {
			w.section("log", func() {
				w.plain("path", filepath.Join(s.Dir, "charon.log"))
				w.plain("default", "1")
				ike := "2"
				if c.LogKeys {
					ike = "4"
					w.plain("chd", "4")
				}
				w.plain("ike", ike)
				w.plain("flush_line", "yes")
				w.plain("time_format", "%H:%M:%S")
				w.plain("time_add_ms", "yes")
			})
		})
		w.section("journal", func() { w.plain("default", "-1") })
		w.lines(c.Settings)
		w.section("plugins", func() {
			w.line("include /etc/strongswan.d/charon/*.conf")
			libipsec := "yes"
			if c.Kernel {
				libipsec = "no"
			}
			w.section("kernel-libipsec", func() { w.plain("load", libipsec) })
			for _, p := range unwanted {
				w.section(p, func() { w.plain("load", "no") })
			}
			w.section("vici", func() { w.plain("socket", s.control()) })
		})
	})
	return w.String()
}

func (s *StrongSwan) control() string { return "unix://" + filepath.Join(s.Dir, "vici") }

// configure writes what swanctl loads.
func (s *StrongSwan) configure(t testing.TB, c Config) {
	t.Helper()
	root := filepath.Join(s.Dir, "swanctl")
	for sub, files := range map[string][]string{"x509ca": c.CAs, "x509": c.Certs, "private": c.Keys} {
		must(t, os.RemoveAll(filepath.Join(root, sub)))
		must(t, os.MkdirAll(filepath.Join(root, sub), 0o700))
		for _, f := range files {
			data, err := os.ReadFile(f)
			must(t, err)
			must(t, os.WriteFile(filepath.Join(root, sub, filepath.Base(f)), data, 0o600))
		}
	}
	must(t, os.WriteFile(filepath.Join(root, "swanctl.conf"), []byte(c.swanctlConf()), 0o600))
}

func (s *StrongSwan) awaitControl(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-s.done:
			s.done <- err
			t.Fatalf("charon ended at once: %v\n%s", err, tail(s.Log()))
		default:
		}
		if c, err := net.Dial("unix", filepath.Join(s.Dir, "vici")); err == nil {
			c.Close()
			return
		}
	}
	t.Fatalf("charon does not answer\n%s", tail(s.Log()))
}

// swanctl runs a command and returns what it prints.
func (s *StrongSwan) swanctl(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "swanctl", append(args, "--uri", s.control())...)
	conf := "strongswan.conf"
	if !slices.Contains(args, "--load-all") {
		conf = "swanctl.conf" // spares plugins that only what reads keys needs
	}
	cmd.Env = append(os.Environ(),
		"SWANCTL_DIR="+filepath.Join(s.Dir, "swanctl"),
		"STRONGSWAN_CONF="+filepath.Join(s.Dir, conf))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("swanctl %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// order runs a command of swanctl that has to succeed.
func (s *StrongSwan) order(t testing.TB, args ...string) {
	t.Helper()
	if out, err := s.swanctl(t.Context(), args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// Reload replaces the configuration. Settings stay as they were.
func (s *StrongSwan) Reload(t testing.TB, c Config) {
	t.Helper()
	must(t, s.TryReload(t, c))
}

// TryReload is Reload of what strongSwan may refuse. The error quotes it.
func (s *StrongSwan) TryReload(t testing.TB, c Config) error {
	t.Helper()
	s.configure(t, c)
	return s.load(t, c)
}

func (s *StrongSwan) load(t testing.TB, c Config) error {
	t.Helper()
	out, err := s.swanctl(t.Context(), "--load-all", "--noprompt", "--clear")
	if err != nil {
		return fmt.Errorf("strongSwan does not load its configuration: %w\n%s\n%s", err, out, c.swanctlConf())
	}
	return nil
}

// Initiate sets up a child with its IKE SA, and waits until it is up or has
// failed. The error quotes what charon says.
func (s *StrongSwan) Initiate(t testing.TB, child string) error {
	t.Helper()
	out, err := s.swanctl(t.Context(), "--initiate", "--child", child, "--timeout", "20")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// MustInitiate is Initiate for tests that cannot go on without.
func (s *StrongSwan) MustInitiate(t testing.TB, child string) {
	t.Helper()
	must(t, s.Initiate(t, child))
}

// RekeyIKE begins to rekey the IKE SAs of a connection. It does not wait.
func (s *StrongSwan) RekeyIKE(t testing.TB, connection string) {
	t.Helper()
	s.order(t, "--rekey", "--ike", connection)
}

// RekeyChild begins to rekey the CHILD SAs of this name. It does not wait.
func (s *StrongSwan) RekeyChild(t testing.TB, child string) {
	t.Helper()
	s.order(t, "--rekey", "--child", child)
}

// TerminateIKE deletes the IKE SAs of a connection, and waits until they are
// gone.
func (s *StrongSwan) TerminateIKE(t testing.TB, connection string) {
	t.Helper()
	s.order(t, "--terminate", "--ike", connection)
}

// TerminateChild deletes the CHILD SAs of this name, and waits until they are
// gone.
func (s *StrongSwan) TerminateChild(t testing.TB, child string) {
	t.Helper()
	s.order(t, "--terminate", "--child", child)
}

// SAs returns the IKE SAs.
func (s *StrongSwan) SAs(t testing.TB) []IKESA {
	t.Helper()
	out, err := s.swanctl(t.Context(), "--list-sas", "--pretty")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	sas, err := parseSAs(out)
	if err != nil {
		t.Fatalf("list of SAs: %v\n%s", err, out)
	}
	return sas
}

// Stop ends charon as an operator would: it deletes its SAs with their peers.
func (s *StrongSwan) Stop(t testing.TB) {
	t.Helper()
	must(t, s.stop(syscall.SIGTERM))
}

// Crash ends charon without a word to its peers.
func (s *StrongSwan) Crash(t testing.TB) {
	t.Helper()
	_ = s.stop(syscall.SIGKILL)
}

func (s *StrongSwan) stop(sig syscall.Signal) error {
	_ = s.cmd.Process.Signal(sig)
	select {
	case err := <-s.done:
		s.done <- err // for the next caller
		return err
	case <-time.After(10 * time.Second):
		_ = s.cmd.Process.Kill()
		err := <-s.done
		s.done <- err
		return errors.Join(errors.New("charon had to be killed"), err)
	}
}

// Log returns charon's log.
func (s *StrongSwan) Log() string {
	var all strings.Builder
	for _, name := range []string{"output", "charon.log"} {
		data, err := os.ReadFile(filepath.Join(s.Dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(&all, err)
		}
		all.Write(data)
	}
	return all.String()
}
