package bench

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"caponier/internal/lab/netns"
)

// wireGuardPeer is a user-space implementation of WireGuard. It is configured
// through its socket, in the cross-platform text protocol that all of them speak.
type wireGuardPeer struct{ name, program, what string }

const (
	wireGuardSockets = "/var/run/wireguard"
	wireGuardPort    = 51820
	// wireGuardMTU is what wg-quick gives the device on a path of 1,500 octets.
	wireGuardMTU = "1420"
)

func (w wireGuardPeer) about() PeerInfo {
	return PeerInfo{Name: w.name, What: w.what, Settings: "ChaCha20-Poly1305, MTU " + wireGuardMTU + ", defaults"}
}

func (w wireGuardPeer) find(context.Context) (string, error) {
	// The name that the link points to ends with the commit.
	target, err := filepath.EvalSymlinks(w.program)
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s is not there: make bench-peers builds it", w.program)
	}
	if err != nil {
		return "", err
	}
	name := filepath.Base(target)
	return name[strings.LastIndexByte(name, '-')+1:], nil
}

// wireGuardEnd is one gateway.
type wireGuardEnd struct {
	ns              netns.NS
	name            string
	key             *ecdh.PrivateKey
	inside, outside netip.Addr
	lan             netip.Prefix
}

func (w wireGuardPeer) start(ctx context.Context, p *pair) error {
	a := wireGuardEnd{ns: p.gwA, name: "gwa", inside: addrInsideA, outside: addrOutsideA, lan: lanA}
	b := wireGuardEnd{ns: p.gwB, name: "gwb", inside: addrInsideB, outside: addrOutsideB, lan: lanB}
	for _, e := range []*wireGuardEnd{&a, &b} {
		var err error
		if e.key, err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	return errors.Join(w.startEnd(ctx, p, a, b), w.startEnd(ctx, p, b, a))
}

func (w wireGuardPeer) startEnd(ctx context.Context, p *pair, e, other wireGuardEnd) error {
	// The sockets of all daemons of the machine lie in one folder, each named
	// after its device; the namespace's name is unique and short enough only
	// without its prefix.
	dev := strings.TrimPrefix(e.ns.Name, "cbench-")
	if err := p.gateway(e.ns, e.name, []string{"LOG_LEVEL=error"}, w.program, "-f", dev); err != nil {
		return err
	}
	socket := filepath.Join(wireGuardSockets, dev+".sock")
	if err := waitFile(ctx, p, socket); err != nil {
		return err
	}
	err := wireGuardSet(ctx, socket, fmt.Sprintf(
		"private_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%s\nallowed_ip=%s\n",
		e.key.Bytes(), wireGuardPort, other.key.PublicKey().Bytes(),
		netip.AddrPortFrom(other.outside, wireGuardPort), other.lan))
	if err != nil {
		return err
	}
	return errors.Join(
		e.ns.IP("link", "set", dev, "mtu", wireGuardMTU, "up"),
		e.ns.IP("route", "add", other.lan.String(), "dev", dev))
}

func wireGuardSet(ctx context.Context, socket, settings string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c, "set=1\n"+settings+"\n"); err != nil {
		return err
	}
	answer := make([]byte, 256)
	n, err := c.Read(answer)
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(string(answer[:n])); got != "errno=0" {
		return fmt.Errorf("configuring through %s: %s", socket, got)
	}
	return nil
}
