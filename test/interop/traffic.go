package interop

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
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

// Ping sends a few echo requests of the usual size, and fails the test if one
// is not answered.
func Ping(t testing.TB, from netns.NS, to netip.Addr) {
	t.Helper()
	PingSize(t, from, to, 56)
}

// PingSize is Ping with size octets of ICMP data.
func PingSize(t testing.TB, from netns.NS, to netip.Addr, size int) {
	t.Helper()
	if err := ping(t.Context(), from, to, 3, size); err != nil {
		t.Fatal(err)
	}
}

// Reaches reports whether a single echo request is answered within a second.
func Reaches(t testing.TB, from netns.NS, to netip.Addr) bool {
	t.Helper()
	return ping(t.Context(), from, to, 1, 56) == nil
}

func ping(ctx context.Context, from netns.NS, to netip.Addr, count, size int) error {
	// ping sends all at once (-l), and waits for late answers as long as -i says:
	// the machine may be busy. Without -M dont the first packet that is too long for the tunnel is lost to
	// path MTU discovery.
	out, err := from.Run(ctx, "ping", "-n", "-q", "-M", "dont", "-c", strconv.Itoa(count), "-l", strconv.Itoa(count), "-i", "2", "-W", "2", "-s", strconv.Itoa(size), to.String())
	if err != nil {
		return err
	}
	if !strings.Contains(out, " 0% packet loss") {
		return fmt.Errorf("ping %s from %s: packets were lost:\n%s", to, from.Name, out)
	}
	return nil
}

// Transfer sends size random octets over TCP from one namespace to an address
// in the other and back, and fails the test unless all arrive as they were.
func Transfer(t testing.TB, from, to netns.NS, addr netip.Addr, size int) {
	t.Helper()
	transfer(t, from, to, addr, addr, size)
}

// transfer is Transfer to a host that knows itself by the address own, and is
// known by addr.
func transfer(t testing.TB, from, to netns.NS, own, addr netip.Addr, size int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	l, err := to.Listen("tcp", netip.AddrPortFrom(own, 0).String())
	must(t, err)
	defer l.Close()
	deadline, _ := ctx.Deadline()
	echoed := make(chan error, 1)
	go func() { echoed <- echo(l, deadline) }()

	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	c, err := from.Dial(ctx, "tcp", netip.AddrPortFrom(addr, port).String())
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(deadline))
	sent, received := sha256.New(), sha256.New()
	wrote := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.MultiWriter(c, sent), io.LimitReader(rand.Reader, int64(size)))
		wrote <- errors.Join(err, c.(*net.TCPConn).CloseWrite())
	}()
	n, err := io.Copy(received, c)
	if err := errors.Join(err, <-wrote, <-echoed); err != nil {
		t.Fatalf("transfer from %s to %s: %d of %d octets came back: %v", from.Name, addr, n, size, err)
	}
	if n != int64(size) || string(sent.Sum(nil)) != string(received.Sum(nil)) {
		t.Fatalf("transfer from %s to %s: %d octets came back, other than the %d that were sent", from.Name, addr, n, size)
	}
}

func echo(l net.Listener, deadline time.Time) error {
	if err := l.(*net.TCPListener).SetDeadline(deadline); err != nil {
		return err
	}
	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := io.Copy(c, c); err != nil {
		return err
	}
	return c.(*net.TCPConn).CloseWrite()
}

// Capture is a running capture of an interface.
type Capture struct {
	File string // pcap; removed with the test
	cmd  *exec.Cmd
	done chan error
}

// StartCapture captures everything on an interface, from now on until Stop or
// the end of the test.
func StartCapture(t testing.TB, in netns.NS, dev string) *Capture {
	t.Helper()
	c := &Capture{File: filepath.Join(t.TempDir(), "capture.pcap"), done: make(chan error, 1)}
	// -Z root: otherwise tcpdump changes to a user who may not write the file.
	c.cmd = in.Command(context.WithoutCancel(t.Context()), "tcpdump", "-i", dev, "-n", "-U", "--immediate-mode", "-s", "0", "-Z", "root", "-w", c.File)
	ready := make(chan struct{})
	c.cmd.Stderr = &announce{text: "listening on", c: ready}
	must(t, startBound(c.cmd, c.done))
	t.Cleanup(func() { _ = c.stop() })
	select {
	case <-ready:
	case err := <-c.done:
		t.Fatalf("tcpdump ended at once: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("tcpdump does not begin")
	}
	return c
}

// Stop ends the capture, which has what was on the wire before.
func (c *Capture) Stop(t testing.TB) {
	t.Helper()
	for calm, end := 0, time.Now().Add(5*time.Second); calm < 2 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
		if c.sleeps() {
			calm++
		} else {
			calm = 0
		}
	}
	if err := c.stop(); err != nil {
		t.Fatalf("tcpdump: %v", err)
	}
}

// sleeps reports whether tcpdump waits for the next packet: there is none that it
// has not written.
func (c *Capture) sleeps() bool {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "S")
}

func (c *Capture) stop() error {
	_ = c.cmd.Process.Signal(syscall.SIGINT)
	err := <-c.done
	c.done <- err // for the next caller
	return err
}

// Packets returns one line for each captured packet that the filter, a
// pcap-filter(7) expression, lets through. Call it after Stop.
func (c *Capture) Packets(t testing.TB, filter string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "tcpdump", "-n", "-t", "-r", c.File, filter)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tcpdump -r with filter %q: %v", filter, err)
	}
	text := strings.TrimSpace(string(out))
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// announce closes c when it has been written text.
type announce struct {
	text string
	seen strings.Builder
	c    chan struct{}
	told bool
}

func (a *announce) Write(p []byte) (int, error) {
	if !a.told {
		a.seen.Write(p)
		if strings.Contains(a.seen.String(), a.text) {
			a.told = true
			close(a.c)
		}
	}
	return len(p), nil
}
