package app

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"
)

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotifierTellsTheServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	n, err := newNotifier()
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	if err := n.tell("READY=1"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, manager); got != "READY=1" {
		t.Errorf("the manager was told %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	hang := make(chan struct{})
	pings, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		n.keepAlive(ctx, func() {
			if pings++; pings > 2 {
				<-hang
			}
		})
	}()
	for range 2 {
		if got := receive(t, manager); got != "WATCHDOG=1" {
			t.Errorf("the watchdog was told %q", got)
		}
	}
	// A daemon that hangs is not reported to be alive.
	if err := manager.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := manager.Read(make([]byte, 100)); err == nil {
		t.Errorf("the watchdog was fed %d octets while the daemon hung", n)
	}
	cancel()
	close(hang)
	<-done
}

func TestNotifierWithoutServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n, err := newNotifier()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.tell("READY=1"); err != nil {
		t.Error(err)
	}
	n.keepAlive(t.Context(), func() { t.Error("nobody asked for a watchdog") })
	n.close()
}

func TestStateFolderHasOneOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	first, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := lockState(dir); err == nil {
		second.Close()
		t.Fatal("two owners")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := lockState(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
