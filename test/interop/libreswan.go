package interop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// Libreswan is a running pluto. The kernel carries its ESP and AH, which must
// have them.
type Libreswan struct {
	// Dir holds its configuration, its NSS database and its log; it goes with the
	// test.
	Dir  string
	bin  string // the directory of its programs
	in   netns.NS
	cmd  *exec.Cmd
	done chan error
}

// LibreswanConfig is Libreswan's configuration. Its words are ipsec.conf's.
type LibreswanConfig struct {
	Connections []LibreswanConnection
	// PSK is the pre-shared key of all connections.
	PSK string
	// PKCS12 is a file with the gateway's certificate and key, and those of the
	// authority, which Passphrase opens. Authority is the authority's nickname.
	PKCS12, Passphrase, Authority string
}

// LibreswanConnection is a conn of ipsec.conf: lines like "left=192.0.2.2".
type LibreswanConnection struct {
	Name  string
	Lines []string
}

// StartLibreswan starts pluto in a namespace, loads the configuration, and stops
// pluto when the test ends. If the test has failed, it shows the end of pluto's
// log. root is where Libreswan's package is unpacked: it cannot be installed
// beside strongSwan's.
func StartLibreswan(t testing.TB, in netns.NS, root string, c LibreswanConfig) *Libreswan {
	t.Helper()
	require(t)
	dir, err := os.MkdirTemp("", fmt.Sprintf("interop-%d-", os.Getpid())) //nolint:usetesting // the path of a socket has 107 octets at most, and t.TempDir's is long
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	l := &Libreswan{Dir: dir, bin: filepath.Join(root, "usr/libexec/ipsec"), in: in, done: make(chan error, 1)}
	l.configure(t, c)
	// pluto ends where it does not find its other programs at their own place.
	l.cmd = in.Command(context.WithoutCancel(t.Context()), "unshare", "--mount",
		"sh", "-c", `mount --bind "$0" /usr/libexec && exec /usr/libexec/ipsec/pluto "$@"`, filepath.Dir(l.bin), "--nofork",
		"--config", l.path("ipsec.conf"), "--secretsfile", l.path("ipsec.secrets"), "--nssdir", l.path("nss"),
		"--rundir", dir, "--ipsecdir", dir, "--logfile", l.path("pluto.log"))
	output, err := os.Create(l.path("output"))
	must(t, err)
	defer output.Close()
	l.cmd.Stdout, l.cmd.Stderr = output, output
	must(t, startBound(l.cmd, l.done))
	t.Cleanup(func() {
		err := l.stop()
		if t.Failed() {
			t.Logf("pluto in %s (ended with %v):\n%s", in.Name, err, tail(l.Log()))
		}
	})
	l.awaitControl(t)
	for _, conn := range c.Connections {
		out, err := l.run(t.Context(), "addconn", "--config", l.path("ipsec.conf"), "--ctlsocket", l.path("pluto.ctl"), conn.Name)
		if err != nil || !strings.Contains(l.Log(), `"`+conn.Name+`": added IKEv2 connection`) {
			t.Fatalf("Libreswan does not load its configuration: %v\n%s", err, out)
		}
	}
	return l
}

func (l *Libreswan) path(name string) string { return filepath.Join(l.Dir, name) }

// configure writes what pluto and addconn read.
func (l *Libreswan) configure(t testing.TB, c LibreswanConfig) {
	t.Helper()
	conf := []string{"config setup", "\tnssdir=" + l.path("nss"), "\tdumpdir=" + l.Dir, "\tdnssec-enable=no"}
	for _, conn := range c.Connections {
		conf = append(conf, "conn "+conn.Name)
		for _, line := range conn.Lines {
			conf = append(conf, "\t"+line)
		}
	}
	secrets := ""
	if c.PSK != "" {
		secrets = fmt.Sprintf(": PSK %q\n", c.PSK)
	}
	must(t, os.WriteFile(l.path("ipsec.conf"), []byte(strings.Join(conf, "\n")+"\n"), 0o600))
	must(t, os.WriteFile(l.path("ipsec.secrets"), []byte(secrets), 0o600))
	must(t, os.Mkdir(l.path("nss"), 0o700))
	database := "sql:" + l.path("nss")
	tool := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %s: %v\n%s", name, args[0], err, out)
		}
	}
	tool("certutil", "-N", "-d", database, "--empty-password")
	if c.PKCS12 == "" {
		return
	}
	must(t, os.WriteFile(l.path("passphrase"), []byte(c.Passphrase), 0o600))
	tool("pk12util", "-i", c.PKCS12, "-d", database, "-w", l.path("passphrase"))
	tool("certutil", "-M", "-d", database, "-n", c.Authority, "-t", "CT,,")
}

func (l *Libreswan) awaitControl(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		select {
		case err := <-l.done:
			l.done <- err
			t.Fatalf("pluto ended at once: %v\n%s", err, tail(l.Log()))
		default:
		}
		// It reads its interfaces and secrets by itself some time after it answers.
		if strings.Contains(l.Log(), "loading secrets from") {
			return
		}
	}
	t.Fatalf("pluto does not answer\n%s", tail(l.Log()))
}

func (l *Libreswan) run(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, filepath.Join(l.bin, program), args...).CombinedOutput()
	return string(out), err
}

// Whack runs a command of ipsec-whack(8), and waits until it is done. The error
// quotes what pluto says.
func (l *Libreswan) Whack(t testing.TB, args ...string) (string, error) {
	t.Helper()
	out, err := l.run(t.Context(), "whack", append([]string{"--ctlsocket", l.path("pluto.ctl")}, args...)...)
	if err != nil {
		err = fmt.Errorf("whack %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return out, err
}

// Initiate sets up a connection, and waits until it is up or has failed.
func (l *Libreswan) Initiate(t testing.TB, connection string) error {
	t.Helper()
	_, err := l.Whack(t, "--initiate", "--name", connection)
	return err
}

// RekeyChild replaces the CHILD SA of a connection, and waits for it.
func (l *Libreswan) RekeyChild(t testing.TB, connection string) {
	t.Helper()
	_, err := l.Whack(t, "--rekey-ipsec", "--name", connection)
	must(t, err)
}

// RekeyIKE replaces the IKE SA, and waits for it.
func (l *Libreswan) RekeyIKE(t testing.TB) {
	t.Helper()
	m := l.ike(t)
	if m == nil {
		t.Fatal("Libreswan has no IKE SA")
	}
	_, err := l.Whack(t, "--rekey-ike", "--name", m[2])
	must(t, err)
}

// TerminateIKE deletes all SAs of the connections. An IKE SA that they share goes
// by its number only, and without their names they would set up another.
func (l *Libreswan) TerminateIKE(t testing.TB, connections ...string) {
	t.Helper()
	for _, c := range connections {
		_, err := l.Whack(t, "--terminate", "--name", c)
		must(t, err)
	}
	if m := l.ike(t); m != nil {
		_, err := l.Whack(t, "--deletestate", m[1])
		must(t, err)
	}
}

// established matches the line of an IKE SA: `#1: "net":500 STATE_V2_ESTABLISHED_IKE_SA`.
var established = regexp.MustCompile(`#(\d+): "([^"\n]+)"\S* STATE_V2_ESTABLISHED_IKE_SA`)

// ike finds the number of the IKE SA, and which of the connections it is with.
func (l *Libreswan) ike(t testing.TB) (match []string) {
	t.Helper()
	out, err := l.Whack(t, "--showstates")
	must(t, err)
	return established.FindStringSubmatch(out)
}

// Holds reports whether Libreswan has so many IKE SAs and CHILD SAs, and none that
// comes or goes.
func (l *Libreswan) Holds(t testing.TB, ike, children int) bool {
	t.Helper()
	out, err := l.Whack(t, "--globalstatus")
	must(t, err)
	for what, n := range map[string]int{"all": ike + children, "ike": ike, "ipsec": children} {
		if !strings.Contains(out, fmt.Sprintf("current.states.%s=%d\n", what, n)) {
			return false
		}
	}
	return true
}

func (l *Libreswan) stop() error {
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-l.done:
		l.done <- err
		return err
	case <-time.After(10 * time.Second):
		_ = l.cmd.Process.Kill()
		err := <-l.done
		l.done <- err
		return errors.Join(errors.New("pluto had to be killed"), err)
	}
}

// Log returns pluto's log.
func (l *Libreswan) Log() string {
	var all strings.Builder
	for _, name := range []string{"output", "pluto.log"} {
		data, err := os.ReadFile(l.path(name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			fmt.Fprintln(&all, err)
		}
		all.Write(data)
	}
	return all.String()
}
