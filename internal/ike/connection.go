package ike

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"caponier/internal/ike/v2"
	"caponier/internal/ipsec"
)

// Errors of the operator's orders.
var (
	ErrUnknownConnection = errors.New("no such connection")
	ErrUnknownTunnel     = errors.New("no such tunnel")
	ErrNoAddress         = errors.New("the connection has no single remote address to call")
	ErrNotEstablished    = errors.New("the connection is not established")
	ErrRemoved           = errors.New("the connection was removed from the configuration")
)

// Failure is why a connection or tunnel is not up, with its stable code.
type Failure struct {
	Code string
	Err  error
	When time.Time
}

// Error gives the code and the cause.
func (f *Failure) Error() string {
	if f.Err == nil {
		return f.Code
	}
	return f.Err.Error()
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// The waits between attempts to bring up what is configured to start.
const (
	minRetry = 2 * time.Second
	maxRetry = time.Minute
)

// ikePort is the port on which IKE begins (RFC 7296, Section 2).
const ikePort = 500

// connection is one configured connection with its IKE SAs. Guarded by
// Daemon.mu.
type connection struct {
	cfg     *v2.Connection
	sas     map[*sa]struct{}
	waiters map[*waiter]struct{}
	last    *Failure // nil after a success
	retryAt time.Time
	retries int
	held    bool // the operator took it down: it is not brought up again by itself
}

// waiter is an operator's order that waits for notices.
type waiter struct {
	// judge returns true when the notice settles the order.
	judge func(n v2.Notice) (settled bool, err error)
	done  chan error // has room for one
}

func (c *connection) child(name string) *v2.Child {
	for _, ch := range c.cfg.Children {
		if ch.Name == name {
			return ch
		}
	}
	return nil
}

func (c *connection) isUp(child string) bool {
	for s := range c.sas {
		if s.children[child] > 0 {
			return true
		}
	}
	return false
}

// carrier returns the IKE SA that should carry a new exchange: an established
// one before one that is being negotiated; nil where there is none.
func (c *connection) carrier() *sa {
	var found *sa
	for s := range c.sas {
		if !s.closing && (found == nil || s.established && !found.established) {
			found = s
		}
	}
	return found
}

// closeLocked marks the connection's IKE SAs as closing and returns them.
func (c *connection) closeLocked() []*sa {
	var out []*sa
	for s := range c.sas {
		s.closing = true
		out = append(out, s)
	}
	return out
}

// settleLocked ends the waiters for which judge says so.
func (c *connection) settleLocked(judge func(w *waiter) (bool, error)) {
	for w := range c.waiters {
		if settled, err := judge(w); settled {
			w.done <- err
			delete(c.waiters, w)
		}
	}
}

// lookup finds a connection, and a tunnel of it where tunnel is not empty.
func (d *Daemon) lookupLocked(conn, tunnel string) (*connection, *v2.Child, error) {
	c := d.conns[conn]
	if c == nil {
		return nil, nil, fmt.Errorf("%w: %q", ErrUnknownConnection, conn)
	}
	if tunnel == "" {
		return c, nil, nil
	}
	child := c.child(tunnel)
	if child == nil {
		return nil, nil, fmt.Errorf("%w: %q in connection %q", ErrUnknownTunnel, tunnel, conn)
	}
	return c, child, nil
}

// Connect brings a tunnel up, or all of a connection where tunnel is empty, and
// waits until it is up or has failed.
func (d *Daemon) Connect(ctx context.Context, conn, tunnel string) error {
	d.mu.Lock()
	c, child, err := d.lookupLocked(conn, tunnel)
	if err != nil {
		d.mu.Unlock()
		return err
	}
	c.held = false
	children := c.cfg.Children
	if child != nil {
		children = []*v2.Child{child}
	}
	d.mu.Unlock()
	for _, ch := range children {
		if err := d.connectChild(ctx, conn, ch); err != nil {
			return fmt.Errorf("%s/%s: %w", conn, ch.Name, err)
		}
	}
	return nil
}

func (d *Daemon) connectChild(ctx context.Context, conn string, child *v2.Child) error {
	return d.carryOut(ctx, conn, func(c *connection) (bool, error) { return c.isUp(child.Name), nil },
		func(n v2.Notice) (bool, error) {
			switch n.Kind {
			case v2.ChildUp:
				return n.Child == child.Name, nil
			case v2.ChildFailed:
				return n.Child == child.Name, &Failure{Code: n.Code, Err: n.Err}
			case v2.IKEFailed, v2.IKEDown:
				return true, &Failure{Code: n.Code, Err: n.Err}
			default:
				return false, nil
			}
		},
		func() error { return d.bringUp(conn, child, nil) })
}

// carryOut carries out one order: unless already says that nothing is to be done,
// it acts and waits until judge settles a notice.
func (d *Daemon) carryOut(ctx context.Context, conn string, already func(*connection) (bool, error),
	judge func(v2.Notice) (bool, error), act func() error,
) error {
	w := &waiter{judge: judge, done: make(chan error, 1)}
	d.mu.Lock()
	c := d.conns[conn]
	if c == nil {
		d.mu.Unlock()
		return ErrRemoved
	}
	if done, err := already(c); done || err != nil {
		d.mu.Unlock()
		return err
	}
	c.waiters[w] = struct{}{}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(c.waiters, w)
		d.mu.Unlock()
	}()
	if err := act(); err != nil {
		return err
	}
	result, err := wait(ctx, d, w.done)
	if err != nil {
		return err
	}
	return result
}

// Disconnect deletes a tunnel's CHILD SAs, or the whole connection where tunnel
// is empty, and waits until it is gone. A connection taken down whole stays
// down until Connect or a change of its configuration; its policies stay, so
// that its traffic is not sent in clear.
func (d *Daemon) Disconnect(ctx context.Context, conn, tunnel string) error {
	d.mu.Lock()
	c, child, err := d.lookupLocked(conn, tunnel)
	if err != nil {
		d.mu.Unlock()
		return err
	}
	c.held = true
	d.mu.Unlock()
	if child != nil {
		return d.carryOut(ctx, conn, func(c *connection) (bool, error) { return !c.isUp(tunnel), nil },
			func(n v2.Notice) (bool, error) {
				return n.Kind == v2.ChildDown && n.Child == tunnel || n.Kind == v2.IKEDown, nil
			},
			func() error { d.tell(conn, v2.DeleteChild{Name: tunnel}); return nil })
	}
	return d.carryOut(ctx, conn, func(c *connection) (bool, error) { return c.carrier() == nil, nil },
		func(n v2.Notice) (bool, error) { return n.Kind == v2.IKEDown || n.Kind == v2.IKEFailed, nil },
		func() error {
			d.mu.Lock()
			doomed := c.closeLocked()
			d.mu.Unlock()
			for _, s := range doomed {
				s.shard.post(s, v2.Close{})
			}
			return nil
		})
}

// Rekey rekeys the CHILD SAs of a tunnel, or the IKE SA where tunnel is empty,
// and waits for it.
func (d *Daemon) Rekey(ctx context.Context, conn, tunnel string) error {
	d.mu.Lock()
	_, _, err := d.lookupLocked(conn, tunnel)
	d.mu.Unlock()
	if err != nil {
		return err
	}
	wanted, ev := v2.IKERekeyed, v2.Event(v2.RekeyIKE{})
	if tunnel != "" {
		wanted, ev = v2.ChildRekeyed, v2.RekeyChild{Name: tunnel}
	}
	return d.carryOut(ctx, conn,
		func(c *connection) (bool, error) {
			if s := c.carrier(); s == nil || !s.established || tunnel != "" && !c.isUp(tunnel) {
				return false, ErrNotEstablished
			}
			return false, nil
		},
		func(n v2.Notice) (bool, error) {
			switch n.Kind {
			case wanted:
				return n.Child == tunnel, nil
			case v2.ChildFailed:
				return tunnel != "" && n.Child == tunnel, &Failure{Code: n.Code, Err: n.Err}
			case v2.IKEDown, v2.IKEFailed:
				return true, &Failure{Code: n.Code, Err: n.Err}
			default:
				return false, nil
			}
		},
		func() error { d.tell(conn, ev); return nil })
}

// tell gives an event to every established IKE SA of a connection.
func (d *Daemon) tell(conn string, ev v2.Event) {
	d.mu.Lock()
	var to []*sa
	if c := d.conns[conn]; c != nil {
		for s := range c.sas {
			if s.established && !s.closing {
				to = append(to, s)
			}
		}
	}
	d.mu.Unlock()
	for _, s := range to {
		s.shard.post(s, ev)
	}
}

// bringUp asks for a tunnel: from the connection's IKE SA if there is one, else
// from a new one as initiator. It does not wait.
func (d *Daemon) bringUp(conn string, child *v2.Child, flow *ipsec.Flow) error {
	// One at a time, so that two orders do not make two IKE SAs.
	d.initiating.Lock()
	defer d.initiating.Unlock()

	d.mu.Lock()
	c := d.conns[conn]
	if c == nil || d.closing {
		d.mu.Unlock()
		return ErrRemoved
	}
	cfg := c.cfg
	carrier := c.carrier()
	if carrier != nil && !carrier.established {
		carrier.ask(v2.CreateChild{Child: child, Flow: flow})
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	if carrier != nil {
		carrier.shard.post(carrier, v2.CreateChild{Child: child, Flow: flow})
		return nil
	}
	local, remote, err := endpoints(cfg)
	if err != nil {
		return err
	}
	m := v2.NewInitiator(d.env, cfg, local, remote)
	d.mu.Lock()
	s := d.adoptLocked(m, d.shardFor(m), conn)
	s.first = child
	d.mu.Unlock()
	d.log.Info("connecting", "connection", conn, "tunnel", child.Name, "remote", remote)
	s.shard.post(s, v2.Initiate{Children: []*v2.Child{child}, Flow: flow})
	return nil
}

// ask notes a tunnel that is wanted from an IKE SA that is still being
// negotiated, once. The caller holds Daemon.mu.
func (s *sa) ask(c v2.CreateChild) {
	same := func(p v2.CreateChild) bool { return p.Child == c.Child }
	if c.Child != s.first && !slices.ContainsFunc(s.pending, same) {
		s.pending = append(s.pending, c)
	}
}

// takePending returns what is to be asked of s now that it is established.
func (d *Daemon) takePending(s *sa) []v2.CreateChild {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !s.established {
		return nil
	}
	out := s.pending
	s.pending = nil
	return out
}

// endpoints chooses the addresses that an initiator begins with.
func endpoints(cfg *v2.Connection) (local, remote netip.AddrPort, err error) {
	if len(cfg.RemoteAddrs) == 0 || !cfg.RemoteAddrs[0].IsSingleIP() {
		return local, remote, ErrNoAddress
	}
	remote = netip.AddrPortFrom(cfg.RemoteAddrs[0].Addr(), ikePort)
	for _, p := range cfg.LocalAddrs {
		if p.IsSingleIP() && p.Addr().BitLen() == remote.Addr().BitLen() {
			return netip.AddrPortFrom(p.Addr(), ikePort), remote, nil
		}
	}
	// Connecting a UDP socket sends nothing; it asks the kernel for the source
	// address of the route.
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(remote))
	if err != nil {
		return local, remote, fmt.Errorf("no route to %s: %w", remote.Addr(), err)
	}
	defer c.Close()
	source := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	return netip.AddrPortFrom(source, ikePort), remote, nil
}

// keepUp brings up, again and again, what is configured to start.
func (d *Daemon) keepUp() {
	for {
		for _, w := range d.missing() {
			if err := d.bringUp(w.conn, w.child, nil); err != nil && !errors.Is(err, ErrRemoved) {
				d.log.Warn("cannot connect", "connection", w.conn, "tunnel", w.child.Name, "error", err)
			}
		}
		if !d.sleep(time.Second) {
			return
		}
	}
}

type want struct {
	conn  string
	child *v2.Child
}

// missing lists the tunnels that should be up, are not, and whose time has come.
func (d *Daemon) missing() []want {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []want
	for _, name := range d.order {
		c := d.conns[name]
		if s := c.carrier(); d.closing || c.held || now.Before(c.retryAt) || s != nil && !s.established {
			continue
		}
		before := len(out)
		for _, child := range c.cfg.Children {
			if child.Start && !c.isUp(child.Name) {
				out = append(out, want{name, child})
			}
		}
		if len(out) > before {
			c.retryAt = now.Add(min(minRetry<<min(c.retries, 10), maxRetry))
			c.retries++
		} else {
			c.retries = 0
		}
	}
	return out
}

// Knows reports, by its error, whether a connection and a tunnel of it are
// configured. An empty tunnel stands for none in particular.
func (d *Daemon) Knows(conn, tunnel string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, _, err := d.lookupLocked(conn, tunnel)
	return err
}
