package frametest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// childEnv has the test program be the process that is killed; its value is the name
// of the capture.
const childEnv = "CAPONIER_TEST_CAPTURE"

// Main runs the tests of a package, or is the process that one of them kills.
func Main(m *testing.M, captures map[string]Opener) {
	open, child := captures[os.Getenv(childEnv)]
	if !child {
		os.Exit(m.Run())
	}
	c, err := open("eth0")
	if err == nil {
		err = c.Steer(Steering())
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
func testKilled(l *Pair, name string, open Opener) {
	// To the kernel, the protected address is its own: it would deliver.
	l.Must(l.Near.IP("addr", "add", "10.2.0.7/32", "dev", "lo"))
	l.Must(l.Far.IP("route", "add", "10.2.0.0/16", "via", "192.0.2.1"))
	self, err := os.Executable()
	l.Must(err)
	cmd := l.Near.Command(context.Background(), self)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	out, err := cmd.StdoutPipe()
	l.Must(err)
	l.Must(cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "captured\n" {
		l.Errorf("the child says %q, %v", line, err)
	}
	const address = "10.2.0.7:9"
	if err := l.TryExchange(address, []byte("x"), 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		l.Errorf("the kernel gets what is captured: %v", err)
	}
	l.Must(cmd.Process.Kill())
	if _, ok := errors.AsType[*exec.ExitError](cmd.Wait()); !ok {
		l.Fatal("the child was not killed")
	}
	// The last of the process goes some time after it.
	for deadline := time.Now().Add(5 * time.Second); ; {
		err := l.TryExchange(address, []byte("x"), 100*time.Millisecond)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			l.Fatalf("the kernel does not have the frames again: %v", err)
		}
	}
	// Who comes next finds the interface free.
	l.Capture(open, Steering())
}
