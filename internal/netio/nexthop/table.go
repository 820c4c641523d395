package nexthop

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"caponier/internal/netio/frame"
)

// Bounds of what is kept, and of what waits to be asked.
const (
	maxWays      = 1 << 16
	maxNeighbors = 1 << 14
	maxAsked     = 1 << 10
)

// confirmPause is how often stale neighbours in use are confirmed.
const confirmPause = time.Second

// Options say for whom the ways are.
type Options struct {
	// Ports are the interfaces that can be sent by.
	Ports []frame.Port
	// Inner is the number of the TUN device, from which forwarded packets come as
	// far as routing is concerned.
	Inner int
	// Mark is that of the gateway's own packets.
	Mark   uint32
	Logger *slog.Logger // nil discards
}

// Table implements frame.Ways.
type Table struct {
	// Constant after Open.
	ports  map[int]frame.Port
	opts   Options
	log    *slog.Logger
	events *netlink.Conn
	asked  chan frame.Pair
	stop   chan struct{}
	wg     sync.WaitGroup
	once   sync.Once

	generation atomic.Uint64

	mu sync.Mutex
	// Guarded by mu.
	query     *netlink.Conn
	ways      map[frame.Pair]*frame.Way // nil for what has been asked
	neighbors map[neighborKey]*frame.Neighbor
}

type neighborKey struct {
	device int
	addr   netip.Addr
}

var _ frame.Ways = (*Table)(nil)

// groups are the announcements after which ways may be others.
var groups = []uint32{
	unix.RTNLGRP_NEIGH, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NEXTHOP,
}

// eventBuffer is the receive buffer for announcements, in octets.
const eventBuffer = 1 << 20

// Open connects to the kernel.
func Open(o Options) (_ *Table, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &Table{
		ports: make(map[int]frame.Port), opts: o, log: o.Logger, asked: make(chan frame.Pair, maxAsked), stop: make(chan struct{}),
		ways: make(map[frame.Pair]*frame.Way), neighbors: make(map[neighborKey]*frame.Neighbor),
	}
	for _, p := range o.Ports {
		t.ports[p.Index] = p
	}
	if t.query, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
		return nil, fmt.Errorf("next hops: connect to the kernel's routing: %w", err)
	}
	if t.events, err = listen(); err != nil {
		return nil, errors.Join(fmt.Errorf("next hops: listen to the kernel's routing: %w", err), t.query.Close())
	}
	t.wg.Go(t.hear)
	t.wg.Go(t.work)
	return t, nil
}

func listen() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return nil, err
	}
	// A smaller buffer loses announcements earlier, which is noticed.
	_ = conn.SetReadBuffer(eventBuffer)
	for _, g := range groups {
		if err := conn.JoinGroup(g); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

// Generation implements frame.Ways.
func (t *Table) Generation() uint64 { return t.generation.Load() }

// Find implements frame.Ways.
func (t *Table) Find(p frame.Pair) *frame.Way {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, known := t.ways[p]
	if known {
		return w
	}
	if len(t.ways) >= maxWays {
		clear(t.ways)
		t.generation.Add(1)
	}
	select {
	case t.asked <- p:
		t.ways[p] = nil
	default: // asked again by the next packet
	}
	return nil
}

// Close implements frame.Ways.
func (t *Table) Close() error {
	var err error
	t.once.Do(func() {
		close(t.stop)
		err = errors.Join(t.events.Close(), t.query.Close())
		t.wg.Wait()
	})
	return err
}

// forget lets everything be asked anew.
func (t *Table) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.ways)
	t.generation.Add(1)
}

// work asks the kernel.
func (t *Table) work() {
	tick := time.NewTicker(confirmPause)
	defer tick.Stop()
	for {
		select {
		case <-t.stop:
			return
		case p := <-t.asked:
			t.answer(p)
		case <-tick.C:
			t.confirm()
		}
	}
}

// answer finds the way of p. What fails is left to the kernel.
func (t *Table) answer(p frame.Pair) {
	generation := t.generation.Load()
	w, err := t.resolve(p)
	if err != nil {
		t.log.Debug("no way for frames", "to", p.Dst.String(), "error", err)
		w = &frame.Way{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if generation != t.generation.Load() {
		delete(t.ways, p) // to be asked again
		return
	}
	t.ways[p] = w
}

// neighbor returns the neighbour at a device, and asks for its link address where
// that is not known.
func (t *Table) neighbor(device int, addr netip.Addr) *frame.Neighbor {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := neighborKey{device, addr}
	if n := t.neighbors[k]; n != nil {
		return n
	}
	if len(t.neighbors) >= maxNeighbors {
		clear(t.neighbors)
		clear(t.ways)
		t.generation.Add(1)
	}
	n := new(frame.Neighbor)
	t.neighbors[k] = n
	// Announcements wait for the lock: none is older than this answer.
	if m, err := t.readNeighbor(k); err == nil {
		m.tell(n)
	}
	if _, known := n.MAC(); !known {
		t.use(k)
	}
	return n
}

// confirm asks the kernel to look after neighbours that are in use.
func (t *Table) confirm() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, n := range t.neighbors {
		if n.Wanted() {
			t.use(k)
		}
	}
}

// use says to the kernel that a neighbour is in use. It resolves an unknown one,
// and confirms a stale one. The caller holds mu.
func (t *Table) use(k neighborKey) {
	if err := t.askNeighbor(k); err != nil {
		t.log.Debug("the kernel does not look for a neighbour", "neighbor", k.addr.String(), "error", err)
	}
}

// hear follows the kernel's announcements.
func (t *Table) hear() {
	for {
		msgs, err := t.events.Receive()
		select {
		case <-t.stop:
			return
		default:
		}
		if err != nil {
			// Announcements were lost: anything may have changed.
			t.reread()
			if !errors.Is(err, unix.ENOBUFS) {
				t.log.Warn("cannot listen to the kernel's routing", "error", err)
				select {
				case <-t.stop:
					return
				case <-time.After(confirmPause):
				}
			}
			continue
		}
		changed := false
		for _, m := range msgs {
			switch m.Header.Type {
			case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
				t.heardNeighbor(m)
			default:
				changed = true
			}
		}
		if changed {
			t.forget()
		}
	}
}

func (t *Table) heardNeighbor(m netlink.Message) {
	x, err := decodeNeighbor(m.Data)
	if err != nil {
		return
	}
	if m.Header.Type == unix.RTM_DELNEIGH {
		x.state = 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.neighbors[x.key]; n != nil {
		x.tell(n)
	}
}

// reread forgets ways and reads the neighbours again.
func (t *Table) reread() {
	t.forget()
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, n := range t.neighbors {
		if m, err := t.readNeighbor(k); err == nil {
			m.tell(n)
		} else {
			n.Forget()
		}
	}
}
