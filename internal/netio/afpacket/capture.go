package afpacket

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"caponier/internal/netio/frame"
)

// Options say what to capture.
type Options struct {
	// Interfaces are the names of Ethernet interfaces, VLAN devices among them.
	Interfaces []string
	// Queues is how many sockets each has.
	Queues int
	// Apart keeps the sockets out of Go's poller: reading returns nothing where
	// nothing is at hand. Wait with a netio.Watch.
	Apart bool
}

// Capture implements frame.Capture.
type Capture struct {
	// Constant after Open.
	ports   []frame.Port
	sockets []*Socket
	filter  *ebpf.Program
	ingress *ebpf.Program
	fanout  *ebpf.Program // nil where each interface has one socket
	links   []link.Link

	mu sync.Mutex
	// Guarded by mu.
	tables tables
	have   map[netip.Prefix]verdict
	closed bool
}

var _ frame.Capture = (*Capture)(nil)

// Open begins to capture. It takes nothing yet.
func Open(o Options) (c *Capture, err error) {
	c = &Capture{have: make(map[netip.Prefix]verdict)}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("capture frames by packet sockets: %w", explain(err)), c.Close())
			c = nil
		}
	}()
	// Kernels before 5.11 count tables and programs as locked memory.
	if err := rlimit.RemoveMemlock(); err != nil {
		return c, err
	}
	if c.tables, err = newTables(); err != nil {
		return c, err
	}
	if c.filter, err = newFilter(&c.tables, espPort); err != nil {
		return c, err
	}
	if c.ingress, err = newIngress(&c.tables, espPort); err != nil {
		return c, err
	}
	if o.Queues > 1 {
		if c.fanout, err = newFanout(o.Queues); err != nil {
			return c, err
		}
	}
	for _, name := range o.Interfaces {
		if err := c.open(name, o.Queues, o.Apart); err != nil {
			return c, fmt.Errorf("interface %s: %w", name, err)
		}
	}
	return c, nil
}

// explain names what the system lacks, where that can be told.
func explain(err error) error {
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("needs Linux 6.6 with CONFIG_BPF_SYSCALL and CONFIG_NET_XGRESS: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("needs CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF: %w", err)
	default:
		return err
	}
}

func (c *Capture) open(name string, queues int, apart bool) error {
	ifc, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	if err := Capturable(ifc); err != nil {
		return err
	}
	port := frame.Port{Name: name, Index: ifc.Index}
	for range queues {
		s, err := openSocket(ifc.Index, c.filter, apart)
		if err != nil {
			return err
		}
		c.sockets = append(c.sockets, s)
		port.Queues = append(port.Queues, s)
		if c.fanout != nil {
			if err := s.join(groupOf(ifc.Index), c.fanout); err != nil {
				return err
			}
		}
	}
	c.ports = append(c.ports, port)
	// Now that there are sockets: what is dropped is somebody's.
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: ifc.Index, Program: c.ingress, Attach: ebpf.AttachTCXIngress, Anchor: link.Head(),
	})
	if err != nil {
		return err
	}
	c.links = append(c.links, l)
	return nil
}

// groupOf names the fanout group of an interface, which is the process's own as far
// as the 16 bits of its name can tell; a group that another has fails to be joined.
func groupOf(index int) uint16 { return uint16(os.Getpid()*31 + index) }

// Capturable says why frames of an interface cannot be captured; nil where they
// can.
func Capturable(ifc *net.Interface) error {
	switch {
	case ifc.Flags&net.FlagLoopback != 0:
		return errors.New("the loopback interface has no Ethernet frames")
	case len(ifc.HardwareAddr) != 6:
		return errors.New("not an Ethernet interface")
	default:
		return nil
	}
}

// Ports implements frame.Capture.
func (c *Capture) Ports() []frame.Port { return slices.Clone(c.ports) }

// Steer implements frame.Capture.
func (c *Capture) Steer(s frame.Steering) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if s.Port != espPort {
		return fmt.Errorf("ESP in UDP is captured on port %d only", espPort)
	}
	want := entries(&s)
	if len(want) > maxPrefixes {
		return fmt.Errorf("%d prefixes are to be captured: %d are possible", len(want), maxPrefixes)
	}
	if err := c.tables.set(c.have, want); err != nil {
		return explain(err)
	}
	c.have = want
	return nil
}

// Counters implements frame.Capture.
func (c *Capture) Counters() map[string]uint64 {
	out := make(map[string]uint64)
	for _, s := range c.sockets {
		got, lost := s.statistics()
		out["capture-frames"] += got
		out["capture-overflow"] += lost
	}
	return out
}

// Close implements frame.Capture. The kernel has the frames again before the last
// socket is closed.
func (c *Capture) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	var errs []error
	for _, l := range c.links {
		errs = append(errs, l.Close())
	}
	for _, s := range c.sockets {
		errs = append(errs, s.Close())
	}
	for _, p := range []*ebpf.Program{c.filter, c.ingress, c.fanout} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	c.tables.close()
	return errors.Join(errs...)
}

// Interfaces returns the names of all interfaces that are up and can be captured,
// without those of the prefix.
func Interfaces(without string) ([]string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []string
	for i := range list {
		if list[i].Flags&net.FlagUp != 0 && Capturable(&list[i]) == nil && !strings.HasPrefix(list[i].Name, without) {
			out = append(out, list[i].Name)
		}
	}
	return out, nil
}
