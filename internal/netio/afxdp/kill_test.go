package afxdp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"caponier/internal/netio/frame"
)

// childEnv has the test program be the process that is killed.
const childEnv = "CAPONIER_TEST_XDP_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		child()
	}
	os.Exit(m.Run())
}

// child captures eth0 until it is killed.
func child() {
	c, err := Open([]string{"eth0"}, Options{})
	if err == nil {
		err = c.Steer(steering)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("captured")
	select {}
}

// Of a process that is killed nothing stays: the kernel has all frames again, and
// what keeps packets from leaving in clear then are the routes that it had before.
func TestKilled(t *testing.T) {
	l := newPair(t)
	ctx := context.Background()
	// To the kernel, the protected address is its own: it would deliver.
	l.must(l.near.IP("addr", "add", "10.2.0.7/32", "dev", "lo"))
	l.must(l.far.IP("route", "add", "10.2.0.0/16", "via", "192.0.2.1"))
	self, err := os.Executable()
	l.must(err)
	cmd := l.near.Command(ctx, self)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	out, err := cmd.StdoutPipe()
	l.must(err)
	l.must(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "captured\n" {
		t.Fatalf("the child says %q, %v", line, err)
	}
	if !l.hasProgram() {
		t.Error("no program is seen on the interface")
	}
	const address = "10.2.0.7:9"
	if err := l.tryExchange(address, address, []byte("x"), 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the kernel gets what is captured: %v", err)
	}
	l.must(cmd.Process.Kill())
	if _, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok {
		t.Fatal("the child was not killed")
	}
	for deadline := time.Now().Add(5 * time.Second); l.hasProgram(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the program stays")
		}
	}
	l.exchange(address, address, []byte("x"))
	// Who comes next finds the interface free.
	l.capture(Options{}, frame.Steering{})
}

func (l *pair) hasProgram() bool {
	l.t.Helper()
	out, err := l.near.Run(context.Background(), "ip", "link", "show", "eth0")
	l.must(err)
	return strings.Contains(out, "prog/xdp")
}
