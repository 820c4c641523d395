package ike

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	v2 "caponier/internal/ike/v2"
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
	sas     few[*sa]
	waiters few[*waiter]
	last    *Failure // nil after a success
	retryAt time.Time
	retries int
	held    few[string] // tunnels that the operator took down: they do not come up by themselves
}

// waiter is an operator's order that waits for notices.
type waiter struct {
	// judge returns true when the notice settles the order. It runs when the
	// tables are up to date with the notice, under Daemon.mu.
	judge func(c *connection, n v2.Notice) (settled bool, err error)
	done  chan error // has room for one
}

func newConnection(cfg *v2.Connection) *connection {
	return &connection{cfg: cfg}
}

func (c *connection) child(name string) *v2.Child {
	for _, ch := range c.cfg.Children {
		if ch.Name == name {
			return ch
		}
	}
	return nil
}

// isUp reports whether a tunnel is up, and to stay.
func (c *connection) isUp(child string) bool {
	for _, s := range c.sas {
		if !s.closing && s.children.up(child) > 0 {
			return true
		}
	}
	return false
}

// carrier returns the IKE SA that should carry a new exchange: an established
// one before one that is being negotiated; nil where there is none.
func (c *connection) carrier() *sa {
	var found *sa
	for _, s := range c.sas {
		if !s.closing && (found == nil || s.established() && !found.established()) {
			found = s
		}
	}
	return found
}

// isOver reports whether no IKE SA is left that began up to then, but for answering
// repetitions. The peer is free to call again, and may do so at once.
func (c *connection) isOver(then time.Time) bool {
	for _, s := range c.sas {
		if !s.over && !s.born.After(then) {
			return false
		}
	}
	return true
}

// closeLocked marks the connection's IKE SAs as closing and returns those that
// are to be closed.
func (c *connection) closeLocked() []*sa {
	var out []*sa
	for _, s := range c.sas {
		s.closing = true
		if !s.over {
			out = append(out, s)
		}
	}
	return out
}

// settleLocked ends the waiters for which judge says so.
func (c *connection) settleLocked(judge func(w *waiter) (bool, error)) {
	c.waiters = slices.DeleteFunc(c.waiters, func(w *waiter) bool {
		settled, err := judge(w)
		if settled {
			w.done <- err
		}
		return settled
	})
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
	children := c.cfg.Children
	if child != nil {
		children = []*v2.Child{child}
	}
	for _, ch := range children {
		c.held.remove(ch.Name)
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
	return d.carryOut(ctx, conn, order{
		done: func(c *connection) (bool, error) { return c.isUp(child.Name), nil },
		act:  func() error { return d.bringUp(conn, child, nil) },
		judge: func(c *connection, n v2.Notice) (bool, error) {
			switch n.Kind {
			case v2.ChildUp, v2.ChildDown, v2.ChildFailed:
				if n.Child != child.Name || c.isUp(child.Name) {
					return n.Child == child.Name, nil
				}
				return n.Kind != v2.ChildUp, &Failure{Code: n.Code, Err: n.Err}
			default:
				return c.lost(n)
			}
		},
	})
}

// errAgain settles an order whose IKE SA ended while the connection has another.
var errAgain = errors.New("the IKE SA has ended and there is another")

// lost judges a notice for an order that an IKE SA has to carry out.
func (c *connection) lost(n v2.Notice) (settled bool, err error) {
	switch {
	case n.Kind != v2.IKEDown && n.Kind != v2.IKEFailed:
		return false, nil
	case c.carrier() != nil:
		return true, errAgain
	default:
		return true, &Failure{Code: n.Code, Err: n.Err}
	}
}

// order is what an operator asks of a connection.
type order struct {
	done  func(c *connection) (bool, error) // whether there is nothing to do; under Daemon.mu
	act   func() error
	judge func(c *connection, n v2.Notice) (bool, error)
}

// carryOut carries out one order: it acts, and waits until a notice settles it.
func (d *Daemon) carryOut(ctx context.Context, conn string, o order) error {
	for {
		if err := d.tryOrder(ctx, conn, o); !errors.Is(err, errAgain) {
			return err
		}
	}
}

func (d *Daemon) tryOrder(ctx context.Context, conn string, o order) error {
	w := &waiter{judge: o.judge, done: make(chan error, 1)}
	d.mu.Lock()
	c := d.conns[conn]
	if c == nil {
		d.mu.Unlock()
		return ErrRemoved
	}
	if done, err := o.done(c); done || err != nil {
		d.mu.Unlock()
		return err
	}
	c.waiters.add(w)
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		c.waiters.remove(w)
		d.mu.Unlock()
	}()
	if err := o.act(); err != nil {
		return err
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-d.stop:
		return errStopped
	}
}

// errStopped is what callers that wait are told when the daemon stops.
var errStopped = errors.New("the gateway is shutting down")

// Disconnect deletes a tunnel's CHILD SAs, or the whole connection where tunnel
// is empty, and waits until they are gone. What is taken down stays down until
// Connect or a change of the connection's configuration, unless the peer brings
// it up; its policies stay, so that its traffic is not sent in clear.
func (d *Daemon) Disconnect(ctx context.Context, conn, tunnel string) error {
	d.mu.Lock()
	c, child, err := d.lookupLocked(conn, tunnel)
	if err != nil {
		d.mu.Unlock()
		return err
	}
	children := c.cfg.Children
	if child != nil {
		children = []*v2.Child{child}
	}
	for _, ch := range children {
		c.held.add(ch.Name)
	}
	if child != nil {
		for _, s := range c.sas {
			if !s.established() {
				s.ask(v2.DeleteChild{Name: tunnel}, tunnel)
			}
		}
	}
	up, now := c.isUp(tunnel), d.now()
	d.mu.Unlock()
	switch {
	case child != nil && !up: // perhaps it is being set up
		d.tell(conn, v2.DeleteChild{Name: tunnel})
		return nil
	case child != nil:
		return d.carryOut(ctx, conn, order{
			done:  func(c *connection) (bool, error) { return !c.isUp(tunnel), nil },
			act:   func() error { d.tell(conn, v2.DeleteChild{Name: tunnel}); return nil },
			judge: func(c *connection, _ v2.Notice) (bool, error) { return !c.isUp(tunnel), nil },
		})
	default:
		return d.carryOut(ctx, conn, order{
			done:  func(c *connection) (bool, error) { return c.isOver(now), nil },
			act:   func() error { d.closeConnection(conn); return nil },
			judge: func(c *connection, _ v2.Notice) (bool, error) { return c.isOver(now), nil },
		})
	}
}

func (d *Daemon) closeConnection(conn string) {
	d.mu.Lock()
	var doomed []*sa
	if c := d.conns[conn]; c != nil {
		doomed = c.closeLocked()
	}
	d.mu.Unlock()
	closeAll(doomed)
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
	wanted, failed, ev := v2.IKERekeyed, v2.IKERekeyFailed, v2.Event(v2.RekeyIKE{})
	if tunnel != "" {
		wanted, failed, ev = v2.ChildRekeyed, v2.ChildFailed, v2.RekeyChild{Name: tunnel}
	}
	return d.carryOut(ctx, conn, order{
		done: func(c *connection) (bool, error) {
			if s := c.carrier(); s == nil || !s.established() || tunnel != "" && !c.isUp(tunnel) {
				return false, ErrNotEstablished
			}
			return false, nil
		},
		act: func() error { d.tell(conn, ev); return nil },
		judge: func(c *connection, n v2.Notice) (bool, error) {
			switch n.Kind {
			case wanted:
				return n.Child == tunnel, nil
			case failed:
				return n.Child == tunnel, &Failure{Code: n.Code, Err: n.Err}
			case v2.ChildDown:
				return tunnel != "" && !c.isUp(tunnel), &Failure{Code: n.Code, Err: n.Err}
			default:
				return c.lost(n)
			}
		},
	})
}

// tell gives an event to every established IKE SA of a connection.
func (d *Daemon) tell(conn string, ev v2.Event) {
	d.mu.Lock()
	var to []*sa
	if c := d.conns[conn]; c != nil {
		for _, s := range c.sas {
			if s.established() && !s.closing {
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
	if err := d.servesLocked(conn, c); err != nil {
		d.mu.Unlock()
		return err
	}
	cfg := c.cfg
	create := v2.CreateChild{Child: child, Flow: flow}
	carrier := c.carrier()
	if carrier != nil && !carrier.established() {
		carrier.ask(create, child.Name)
		d.mu.Unlock()
		return nil
	}
	d.mu.Unlock()
	if carrier != nil {
		carrier.shard.post(carrier, create)
		return nil
	}
	local, remote, err := endpoints(cfg)
	if err != nil {
		return err
	}
	m, owner := d.newInitiator(cfg, local, remote)
	d.mu.Lock()
	if err := d.servesLocked(conn, c); err != nil || c.cfg != cfg { // changed meanwhile
		d.mu.Unlock()
		return cmp.Or(err, ErrRemoved)
	}
	known := d.knowsPeerLocked(c)
	s := d.adoptLocked(m, owner, conn)
	s.first = child
	d.mu.Unlock()
	d.log.Info("connecting", "connection", conn, "tunnel", child.Name, "remote", remote)
	s.shard.post(s, v2.Initiate{Children: []*v2.Child{child}, Flow: flow, Known: known})
	return nil
}

// servesLocked returns why nothing can be asked of a connection any more, or nil.
func (d *Daemon) servesLocked(name string, c *connection) error {
	switch {
	case d.closing:
		return errStopped
	case c == nil || d.conns[name] != c:
		return ErrRemoved
	default:
		return nil
	}
}

// gone reports whether an order failed only because there is nothing any more
// that it could be asked of.
func gone(err error) bool { return errors.Is(err, ErrRemoved) || errors.Is(err, errStopped) }

// knowsPeerLocked reports whether another connection has an IKE SA with the peer
// of c, or is about to: then INITIAL_CONTACT would be wrong.
func (d *Daemon) knowsPeerLocked(c *connection) (known bool) {
	d.directory.others(c, func(o *connection) bool {
		known = o.carrier() != nil
		return !known
	})
	return known
}

// ask notes what is wanted of a tunnel from an IKE SA that is still being
// negotiated; a later wish takes the place of an earlier one. The caller holds
// Daemon.mu.
func (s *sa) ask(order v2.Event, tunnel string) {
	s.pending = slices.DeleteFunc(s.pending, func(e v2.Event) bool {
		switch e := e.(type) {
		case v2.CreateChild:
			return e.Child.Name == tunnel
		case v2.DeleteChild:
			return e.Name == tunnel
		default:
			return false
		}
	})
	if _, create := order.(v2.CreateChild); create && s.first != nil && s.first.Name == tunnel {
		return
	}
	s.pending = append(s.pending, order)
}

// takePending returns what is to be asked of s now that it is established.
func (d *Daemon) takePending(s *sa) []v2.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !s.established() {
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
			if err := d.bringUp(w.conn, w.child, nil); err != nil && !gone(err) {
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
		if s := c.carrier(); d.closing || now.Before(c.retryAt) || s != nil && !s.established() {
			continue
		}
		before := len(out)
		for _, child := range c.cfg.Children {
			if child.Start && !c.held.has(child.Name) && !c.isUp(child.Name) {
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
