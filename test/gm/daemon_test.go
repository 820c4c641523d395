package gm

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// TestDaemon lets the peer speak to the program itself, over UDP between two network
// namespaces, in both roles, and send ESP that OpenSSL has made: an echo request from
// behind it is answered from behind the gateway, and one whose inner source is not of
// the tunnel is not.
//
//	10.2.0.0/16 peer.py 192.0.2.2 ── 192.0.2.1 caponier 10.1.0.1/16
func TestDaemon(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "caponier")
	build := exec.Command("go", "build", "-o", program, "caponier/cmd/caponier")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	for i, test := range []struct {
		role, proposal string
		icv            int
	}{{"responder", "sm4cbc-sm3", 32}, {"initiator", "sm4cbc-sm3", 32}, {"initiator", "sm4cbc-sm3_96", 12}, {"responder", "sm4cbc-sm3_128", 16}} {
		t.Run(fmt.Sprintf("peer is %s, %s", test.role, test.proposal), func(t *testing.T) {
			near, far := twoHosts(t, fmt.Sprintf("gm%d%d", os.Getpid()%10000, i))
			start := "none"
			if test.role == "responder" {
				start = "start"
			}
			startDaemon(t, near, program, fmt.Sprintf(`gateway: { name: gw, state: state, control: sock }
connections:
  vendor:
    version: gm
    local: { address: 192.0.2.1, sign-cert: %s, sign-key: %s, encrypt-cert: %s, encrypt-key: %s }
    remote: { address: 192.0.2.2, id: "C=CN, O=netsecvpn, CN=theirs", ca: %s }
    encapsulation: never
    tunnels:
      lan: { local: 10.1.0.0/16, remote: 10.2.0.0/16, proposals: %s, start: %s }
`, files(t)[0], files(t)[1], files(t)[2], files(t)[3], files(t)[4], test.proposal, start))
			events := startPeer(t, far, settings{
				"role": test.role, "udp": true, "icv": test.icv, "address": "192.0.2.2", "peer_address": "192.0.2.1",
				"ping": []string{"10.2.0.9", "10.1.0.1"}, "script": []string{"ping", "rekey-child", "ping", "rekey-ike", "dpd", "ping"},
			})
			pings := func() (n int) {
				for _, e := range events() {
					if e.text("event") == "esp" && e.number("next") == 4 {
						n++
					}
				}
				return n
			}
			if !within(40*time.Second, func() bool { return pings() == 3 }) {
				t.Fatalf("%d of 3 echo requests were answered: %v", pings(), events())
			}
			for _, e := range events() {
				packet, err := hex.DecodeString(e.text("packet"))
				if err != nil || bytes.Contains(packet, []byte("inner octets")) || bytes.Contains(packet, []byte{10, 1, 0, 1}) {
					t.Errorf("an ESP packet shows what is inside: %v %x", err, packet)
				}
			}
		})
	}
	t.Run("a source that is not of the tunnel", func(t *testing.T) {
		near, far := twoHosts(t, fmt.Sprintf("gm%dx", os.Getpid()%10000))
		f := files(t)
		d := startDaemon(t, near, program, fmt.Sprintf(`gateway: { name: gw, state: state, control: sock }
connections:
  vendor:
    version: gm
    local: { address: 192.0.2.1, sign-cert: %s, sign-key: %s, encrypt-cert: %s, encrypt-key: %s }
    remote: { address: 192.0.2.2, id: "C=CN, O=netsecvpn, CN=theirs", ca: %s }
    encapsulation: never
    tunnels:
      lan: { local: 10.1.0.0/16, remote: 10.2.0.0/16, start: none }
`, f[0], f[1], f[2], f[3], f[4]))
		events := startPeer(t, far, settings{
			"role": "initiator", "udp": true, "address": "192.0.2.2", "peer_address": "192.0.2.1",
			"ping": []string{"10.9.0.9", "10.1.0.1"}, "script": []string{"ping"},
		})
		sent := func() bool {
			for _, e := range events() {
				if e.text("event") == "esp-sent" {
					return true
				}
			}
			return false
		}
		dropped := func() bool {
			text, err := d.command("sa", "list", "--json")
			return err == nil && strings.Contains(text, `"selector_drops": 1`)
		}
		if !within(20*time.Second, func() bool { return sent() && dropped() }) {
			text, err := d.command("sa", "list", "--json")
			t.Errorf("the packet is not counted: %v\n%s\n%v", err, text, events())
		}
	})
}

// files are our four files and the authority's certificate.
func files(t *testing.T) [5]string {
	t.Helper()
	creds, err := makeCredentials()
	if err != nil {
		t.Fatal(err)
	}
	c := creds["ours"]
	return [5]string{c.SignCert, c.SignKey, c.EncryptCert, c.EncryptKey, creds["root"].SignCert}
}

// twoHosts makes two namespaces with a link between them.
func twoHosts(t *testing.T, name string) (near, far netns.NS) {
	t.Helper()
	var all [2]netns.NS
	for i, suffix := range []string{"n", "f"} {
		ns, err := netns.Create(name + suffix)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := ns.Delete(); err != nil {
				t.Error(err)
			}
		})
		all[i] = ns
	}
	near, far = all[0], all[1]
	for _, err := range []error{
		netns.Link(near, "outside", far, "outside"),
		near.Addr("outside", netip.MustParsePrefix("192.0.2.1/24")), far.Addr("outside", netip.MustParsePrefix("192.0.2.2/24")),
		netns.Link(near, "inside", far, "spare"), near.Addr("inside", netip.MustParsePrefix("10.1.0.1/16")),
		near.Forward(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return near, far
}

// daemon is the program in a namespace.
type daemon struct {
	ns           netns.NS
	program, dir string
}

func startDaemon(t *testing.T, ns netns.NS, program, yaml string) *daemon {
	t.Helper()
	d := &daemon{ns: ns, program: program, dir: t.TempDir()}
	file := filepath.Join(d.dir, "gw.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := ns.Command(context.Background(), program, "run", "-c", file)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	if !within(10*time.Second, func() bool { _, err := d.command("status"); return err == nil }) {
		t.Fatal("the gateway does not start")
	}
	return d
}

func (d *daemon) command(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return d.ns.Run(ctx, d.program, append(args, "--control", filepath.Join(d.dir, "sock"))...)
}

// startPeer runs peer.py in a namespace and returns what shows its reports.
func startPeer(t *testing.T, ns netns.NS, s settings) func() []event {
	t.Helper()
	creds, err := makeCredentials()
	if err != nil {
		t.Fatal(err)
	}
	c := creds["theirs"]
	all := settings{
		"local": []string{"10.2.0.0", "255.255.0.0"}, "remote": []string{"10.1.0.0", "255.255.0.0"},
		"sign_cert": c.SignCert, "sign_key": c.SignKey, "encrypt_cert": c.EncryptCert, "encrypt_key": c.EncryptKey,
	}
	for k, v := range s {
		all[k] = v
	}
	first, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	cmd := ns.Command(context.Background(), "python3", "-B", "peer.py")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	lines := new(lineBuffer)
	cmd.Stderr = lines
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if _, err := stdin.Write(append(first, '\n')); err != nil {
		t.Fatal(err)
	}
	return lines.events
}

// lineBuffer keeps what the peer reports.
type lineBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lineBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lineBuffer) events() []event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []event
	for line := range strings.Lines(l.b.String()) {
		var e event
		if json.Unmarshal([]byte(line), &e) == nil {
			out = append(out, e)
		} else if strings.HasSuffix(line, "\n") {
			out = append(out, event{"event": "crash", "line": line})
		}
	}
	return out
}

func within(limit time.Duration, ok func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}
