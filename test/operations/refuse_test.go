package operations

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mustSay fails where a message lacks one of the words, or has a bare errno in
// their place.
func mustSay(t *testing.T, message string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(message, w) {
			t.Errorf("the message does not say %q: %s", w, message)
		}
	}
	if lines := strings.Count(message, "\n"); lines > 20 {
		t.Errorf("the message has %d lines: %s", lines, message)
	}
}

// TestRefusesToStart: a start that fails says why and leaves the system as it
// was.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	good := peers(nil, through(net4in4), through(net6in4))
	s.gwA.configure(nil, good)
	yaml, err := os.ReadFile(s.gwA.conf)
	if err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, s.gwA.ns)
	clean := func(t *testing.T, when string) {
		t.Helper()
		sameSystem(t, when, before, snapshot(t, s.gwA.ns))
		if _, err := os.Stat(s.gwA.sock); err == nil {
			t.Errorf("%s: the control socket is left", when)
		}
		sockets, err := s.gwA.ns.Run(within(t, commandTimeout), "cat", "/proc/net/udp", "/proc/net/udp6", "/proc/net/raw")
		if err != nil {
			t.Fatal(err)
		}
		for _, port := range []string{":01F4 ", ":1194 ", ":0032 "} {
			if strings.Contains(sockets, port) {
				t.Errorf("%s: socket on port%s is left", when, port)
			}
		}
	}

	t.Run("configuration", func(t *testing.T) {
		for _, tc := range []struct{ name, old, new, place, says string }{
			{"unknown key", "    remote:", "    romote:", ":8:5", "remote"},
			{"bad address", outer4B.String(), "192.0.2.256", ":8:24", "192.0.2.256"},
			{"not YAML", "gateway:", "gateway: {", ":", ""},
			{"no such file", "psk-file: psk", "psk-file: nosuch", ":8:58", "nosuch"},
			{"tabs", "  name:", "\tname:", ":2:2", ""},
		} {
			s.gwA.write(strings.Replace(string(yaml), tc.old, tc.new, 1))
			mustSay(t, s.gwA.refused(), s.gwA.conf+tc.place, tc.says, "invalid-config")
			clean(t, tc.name)
			if _, err := os.Stat(filepath.Join(s.gwA.dir, "state")); err == nil {
				t.Errorf("%s: a state folder was made", tc.name)
			}
		}
		s.gwA.write(string(yaml))
	})

	t.Run("port in use", func(t *testing.T) {
		for _, port := range []int{500, 4500} {
			for _, network := range []string{"udp4", "udp6"} {
				var c net.PacketConn
				err := s.gwA.ns.Do(func() error {
					// Not on both families at once, as the kernel would have it for "::".
					lc := net.ListenConfig{}
					var err error
					c, err = lc.ListenPacket(context.Background(), network, fmt.Sprintf(":%d", port))
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				mustSay(t, s.gwA.refused(), fmt.Sprintf("port %d", port), "in use")
				c.Close()
				clean(t, fmt.Sprintf("%s port %d in use", network, port))
			}
		}
	})

	t.Run("capabilities", func(t *testing.T) {
		open := func(path string, uid int, mode os.FileMode) {
			t.Helper()
			if err := os.Chown(path, uid, uid); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		for _, tc := range []struct{ drop, says string }{
			{"net_admin", "CAP_NET_ADMIN"}, {"net_raw", "CAP_NET_RAW"}, {"net_bind_service", "CAP_NET_BIND_SERVICE"},
		} {
			mustSay(t, s.gwA.refused("setpriv", "--bounding-set", "-"+tc.drop, "--inh-caps", "-"+tc.drop), "needs "+tc.says)
			clean(t, "without "+tc.says)
		}
		// What an earlier run has left is not what keeps another user out.
		forget := func() {
			t.Helper()
			for _, left := range []string{"state", "sock.lock"} {
				if err := os.RemoveAll(filepath.Join(s.gwA.dir, left)); err != nil {
					t.Fatal(err)
				}
			}
		}
		const nobody = 65534
		forget()
		user := []string{"setpriv", "--reuid", fmt.Sprint(nobody), "--regid", fmt.Sprint(nobody), "--clear-groups"}
		open(filepath.Join(s.gwA.dir, "psk"), nobody, 0o600)
		mustSay(t, s.gwA.refused(user...), filepath.Join(s.gwA.dir, "state"), "permission denied")
		open(s.gwA.dir, nobody, 0o755)
		mustSay(t, s.gwA.refused(user...), "needs CAP_NET_ADMIN")
		clean(t, "as an unprivileged user")
		forget()
		open(s.gwA.dir, 0, 0o755)
		open(filepath.Join(s.gwA.dir, "psk"), 0, 0o600)
	})

	t.Run("another daemon", func(t *testing.T) {
		s.gwA.configure([]string{"shutdown: release"}, good)
		s.gwA.start()
		running := snapshot(t, s.gwA.ns)
		other := newGateway(s, "other", s.gwA.ns)
		rival := func(state, control string) string {
			text := strings.Replace(string(yaml), "state: state", "state: "+state, 1)
			text = strings.Replace(text, "control: sock", "control: "+control, 1)
			other.write(text)
			return other.refused()
		}
		// Another namespace: nothing but the folder is shared.
		elsewhere := newGateway(s, "elsewhere", s.strange)
		elsewhere.write(strings.Replace(string(yaml), "state: state", "state: "+filepath.Join(s.gwA.dir, "state"), 1))
		for where, message := range map[string]string{
			"the same namespace": rival(filepath.Join(s.gwA.dir, "state"), "sock"), "another namespace": elsewhere.refused(),
		} {
			mustSay(t, message, "another caponier is running", fmt.Sprintf("process %d", s.gwA.pid()))
			sameSystem(t, "after a rival for the state folder in "+where, running, snapshot(t, s.gwA.ns))
		}
		mustSay(t, rival("state", "sock"), "in use")
		sameSystem(t, "after a rival for the ports", running, snapshot(t, s.gwA.ns))
		elsewhere.write(strings.Replace(string(yaml), "control: sock", "control: "+s.gwA.sock, 1))
		quiet := snapshot(t, s.strange)
		mustSay(t, elsewhere.refused(), s.gwA.sock)
		sameSystem(t, "after a rival for the control socket", quiet, snapshot(t, s.strange))
		if got := s.gwA.status().PID; got != s.gwA.pid() {
			t.Errorf("process %d answers on the control socket, not %d", got, s.gwA.pid())
		}
		s.gwA.stop()
		clean(t, "after the stop")
	})

	t.Run("usage", func(t *testing.T) {
		for _, args := range [][]string{{"status"}, {"reload"}, {"rekey", "peer"}} {
			_, err := s.gwA.try(args...)
			if err == nil {
				t.Fatalf("%v has an answer without a daemon", args)
			}
			mustSay(t, err.Error(), "exit status 1", "not-running", s.gwA.sock)
		}
		for _, args := range [][]string{{"run"}, {"stats"}, {"rekey"}, {"connect", "a", "b"}} {
			if _, err := s.gwA.try(args...); err == nil || !strings.Contains(err.Error(), "exit status 2") {
				t.Errorf("%v: %v, want exit status 2", args, err)
			}
		}
	})
}

// TestLeastPrivilege runs the gateway as nobody with exactly the capabilities
// that its messages name.
func TestLeastPrivilege(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.gwB.configure(nil, peers(nil, through(net4in4)))
	s.gwB.start()
	s.gwA.configure(nil, peers(nil, through(net4in4)))
	for _, path := range []string{s.gwA.dir, filepath.Join(s.gwA.dir, "psk")} {
		if err := unix.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	caps := "+net_admin,+net_raw,+net_bind_service"
	s.gwA.start("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"--bounding-set", "-all,"+caps, "--inh-caps", "-all,"+caps, "--ambient-caps", "-all,"+caps, "--no-new-privs")
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 2)
	s.gwA.stop()
}
