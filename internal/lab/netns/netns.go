// Package netns makes networks of namespaces for the lab and for tests: named
// namespaces, links between them, and functions and programs run inside.
//
// It calls the ip command, which every machine that can run the lab has, and
// whose error messages operators know.
package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// runDir is where ip-netns(8) keeps its named namespaces.
const runDir = "/run/netns"

// ErrPrivilege is returned where the caller may not make namespaces.
var ErrPrivilege = errors.New("network namespaces need CAP_SYS_ADMIN and CAP_NET_ADMIN (run as root)")

// NS is a named network namespace, as `ip netns` knows it.
type NS struct{ Name string }

// Create makes a namespace with its loopback up.
func Create(name string) (NS, error) {
	if os.Geteuid() != 0 {
		return NS{}, ErrPrivilege
	}
	if err := ip("netns", "add", name); err != nil {
		return NS{}, err
	}
	n := NS{name}
	if err := n.IP("link", "set", "lo", "up"); err != nil {
		return NS{}, errors.Join(err, n.Delete())
	}
	return n, nil
}

// Delete removes the namespace. What runs inside keeps it alive, unnamed, until
// it ends.
func (n NS) Delete() error { return ip("netns", "del", n.Name) }

// Exists reports whether the namespace is there.
func (n NS) Exists() bool {
	_, err := os.Stat(filepath.Join(runDir, n.Name))
	return err == nil
}

// IP runs ip(8) inside.
func (n NS) IP(args ...string) error { return ip(append([]string{"-n", n.Name}, args...)...) }

// Addr gives an interface an address, and for IPv6 skips duplicate detection,
// which would delay its use.
func (n NS) Addr(dev string, p netip.Prefix) error {
	args := []string{"addr", "add", p.String(), "dev", dev}
	if p.Addr().Is6() {
		args = append(args, "nodad")
	}
	return n.IP(args...)
}

// Route adds a route through a gateway.
func (n NS) Route(to netip.Prefix, via netip.Addr) error {
	return n.IP("route", "add", to.String(), "via", via.String())
}

// Forward makes the namespace a router of both families, without the
// reverse-path filter.
func (n NS) Forward() error {
	return n.Do(func() error {
		for _, s := range []struct{ file, value string }{
			{"/proc/sys/net/ipv4/ip_forward", "1"},
			{"/proc/sys/net/ipv6/conf/all/forwarding", "1"},
			{"/proc/sys/net/ipv4/conf/all/rp_filter", "0"},
			{"/proc/sys/net/ipv4/conf/default/rp_filter", "0"},
		} {
			if err := os.WriteFile(s.file, []byte(s.value), 0); err != nil {
				return fmt.Errorf("sysctl in namespace %s: %w", n.Name, err)
			}
		}
		return nil
	})
}

// Link joins two namespaces by a veth pair and sets both ends up.
func Link(a NS, devA string, b NS, devB string) error {
	err := ip("link", "add", devA, "netns", a.Name, "type", "veth", "peer", "name", devB, "netns", b.Name)
	if err != nil {
		return err
	}
	return errors.Join(a.IP("link", "set", devA, "up"), b.IP("link", "set", devB, "up"))
}

// Command prepares a program to run inside. The caller starts it, and ends it
// by its process id.
func (n NS) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// Run runs a program inside and returns its output, which the error quotes.
func (n NS) Run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := n.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %s in namespace %s: %w: %s",
			name, strings.Join(args, " "), n.Name, err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// Do runs fn on a thread inside the namespace. What fn starts on other
// goroutines is outside; sockets that fn opens stay inside for good.
func (n NS) Do(fn func() error) error {
	result := make(chan error, 1)
	go func() { result <- n.onThread(fn) }()
	return <-result
}

func (n NS) onThread(fn func() error) error {
	runtime.LockOSThread()
	// Without an unlock the thread ends with the goroutine: it never goes back,
	// in the wrong namespace, to the scheduler. /proc/self/net and /sys are the
	// process's, but /proc/sys/net is the calling thread's.
	f, err := os.Open(filepath.Join(runDir, n.Name))
	if err != nil {
		return fmt.Errorf("namespace %s: %w", n.Name, err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		if errors.Is(err, unix.EPERM) {
			return ErrPrivilege
		}
		return fmt.Errorf("entering namespace %s: %w", n.Name, err)
	}
	return fn()
}

// Dial connects from inside the namespace. The address must be numeric.
func (n NS) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("address %q is not numeric", address)
	}
	var c net.Conn
	err := n.Do(func() error {
		var (
			d   net.Dialer
			err error
		)
		c, err = d.DialContext(ctx, network, address)
		return err
	})
	return c, err
}

// Listen listens inside the namespace.
func (n NS) Listen(network, address string) (net.Listener, error) {
	var l net.Listener
	err := n.Do(func() error {
		var err error
		l, err = net.Listen(network, address)
		return err
	})
	return l, err
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return errors.New("the ip command is missing: install iproute2")
		}
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
