package afxdp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"caponier/internal/netio/frame"
)

// Mode is where the program runs.
type Mode int

// The modes.
const (
	// Auto is native: the generic mode is never chosen unasked.
	Auto Mode = iota
	// Native is in the driver, before the kernel has made anything of a frame.
	Native
	// Generic is behind the driver, with a copy of each frame: any interface can. But
	// the kernel may have joined packets before, and a program does not see that: it
	// takes a short train of datagrams for one. It is for interfaces where nothing is
	// joined.
	Generic
)

// String returns the name of the mode.
func (m Mode) String() string {
	return map[Mode]string{Auto: "auto", Native: "native", Generic: "generic"}[m]
}

// Options say how to open a capture. The zero value leaves everything to what the
// interface can do.
type Options struct {
	Mode Mode
	// Copy does without zero copy also where the driver can.
	Copy bool
	// Apart keeps the sockets out of Go's poller: reading returns nothing where
	// nothing is at hand. Wait with a netio.Watch.
	Apart bool
}

// Capture captures the frames of interfaces. It implements frame.Capture.
type Capture struct {
	// Constant after Open.
	rules rules
	ports []*port

	mu sync.Mutex
	// Guarded by mu.
	steered map[netip.Prefix]uint32 // what is in the tries
	sieve   sieve
	closed  bool
	last    map[string]uint64 // counters, after Close
}

var _ frame.Sifter = (*Capture)(nil)

// Open captures the interfaces of these names. Until Steer says so, it takes
// nothing.
func Open(names []string, o Options) (_ *Capture, err error) {
	c := &Capture{steered: make(map[netip.Prefix]uint32)}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.rules, err = newRules(maxSAs); err != nil {
		return nil, err
	}
	c.sieve = newSieve(&c.rules)
	for _, name := range names {
		p, err := openPort(name, &c.rules, o)
		if err != nil {
			return nil, fmt.Errorf("capture the frames of %s by AF_XDP: %w", name, err)
		}
		c.ports = append(c.ports, p)
	}
	return c, nil
}

// maxPrefixes bounds the tries, which grow as they are filled.
const maxPrefixes = 1 << 20

// newRules makes the maps, with room for so many SAs.
func newRules(sas uint32) (r rules, err error) {
	trie := func(name string, key uint32) *ebpf.MapSpec {
		return &ebpf.MapSpec{
			Name: name, Type: ebpf.LPMTrie, KeySize: 4 + key, ValueSize: 4, MaxEntries: maxPrefixes, Flags: unix.BPF_F_NO_PREALLOC,
		}
	}
	for _, m := range []struct {
		to   **ebpf.Map
		spec *ebpf.MapSpec
	}{
		{&r.prefixes4, trie("caponier_ipv4", 4)},
		{&r.prefixes6, trie("caponier_ipv6", 16)},
		{&r.sas, &ebpf.MapSpec{
			Name: "caponier_sas", Type: ebpf.Hash, KeySize: saKeyLen, ValueSize: 1, MaxEntries: sas, Flags: unix.BPF_F_NO_PREALLOC,
		}},
		{&r.words, &ebpf.MapSpec{Name: "caponier_words", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: wordCount}},
	} {
		if *m.to, err = ebpf.NewMap(m.spec); err != nil {
			r.close()
			return rules{}, needs(fmt.Errorf("AF_XDP: make map %s: %w", m.spec.Name, err), "CAP_BPF and CAP_NET_ADMIN")
		}
	}
	return r, nil
}

func (r *rules) close() {
	for _, m := range []*ebpf.Map{r.prefixes4, r.prefixes6, r.sas, r.words} {
		if m != nil {
			m.Close()
		}
	}
}

// Ports implements frame.Capture.
func (c *Capture) Ports() []frame.Port {
	out := make([]frame.Port, len(c.ports))
	for i, p := range c.ports {
		out[i] = frame.Port{Name: p.name, Index: p.index, Tagged: p.tagged}
		for _, s := range p.queues {
			out[i].Queues = append(out[i].Queues, s)
		}
	}
	return out
}

// Describe says for operators how an interface is captured: "eth0: native, zero
// copy, 4 queues".
func (c *Capture) Describe() []string {
	out := make([]string, 0, len(c.ports))
	for _, p := range c.ports {
		how := "copy"
		if p.queues[0].zeroCopy {
			how = "zero copy"
		}
		queues := "1 queue"
		if n := len(p.queues); n > 1 {
			queues = fmt.Sprint(n, " queues")
		}
		out = append(out, fmt.Sprintf("%s: %s, %s, %s", p.name, p.mode, how, queues))
	}
	return out
}

// Steer implements frame.Capture. What is new is taken before what is gone is left.
func (c *Capture) Steer(s frame.Steering) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	want := make(map[netip.Prefix]uint32, len(s.Addresses)+len(s.Take)+len(s.Pass))
	for _, p := range s.Pass {
		want[p.Masked()] = verdictPass
	}
	for _, p := range s.Take {
		want[p.Masked()] = verdictTake
	}
	for _, a := range s.Addresses {
		want[netip.PrefixFrom(a.Unmap().WithZone(""), a.Unmap().BitLen())] = verdictOwn
	}
	if err := c.rules.words.Put(wordPort, uint32(uint16(network(s.Port)))); err != nil {
		return fmt.Errorf("steer frames: UDP port: %w", err)
	}
	for p, v := range want {
		if c.steered[p] == v {
			continue
		}
		if err := c.trie(p).Put(trieKey(p), v); err != nil {
			return fmt.Errorf("steer frames: prefix %s: %w", p, err)
		}
		c.steered[p] = v
	}
	for p := range c.steered {
		if _, stays := want[p]; stays {
			continue
		}
		if err := c.trie(p).Delete(trieKey(p)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("steer frames: prefix %s that is gone: %w", p, err)
		}
		delete(c.steered, p)
	}
	return nil
}

// Admit implements frame.Sifter.
func (c *Capture) Admit(sa frame.SA) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil // nothing is dropped any more
	}
	return c.sieve.admit(sa)
}

// Dismiss implements frame.Sifter.
func (c *Capture) Dismiss(sa frame.SA) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.sieve.dismiss(sa)
	}
}

// Sift implements frame.Sifter.
func (c *Capture) Sift(on bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	return c.sieve.sift(on)
}

func (c *Capture) trie(p netip.Prefix) *ebpf.Map {
	if p.Addr().Is4() {
		return c.rules.prefixes4
	}
	return c.rules.prefixes6
}

// Counters implements frame.Capture.
func (c *Capture) Counters() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.last
	}
	return c.countLocked()
}

// countLocked sums what the programs, the sockets and the kernel count.
func (c *Capture) countLocked() map[string]uint64 {
	sums := make(map[string]uint64)
	for _, p := range c.ports {
		p.addTo(sums)
	}
	sums["xdp-sa-no-room"] = c.sieve.noRoom
	return sums
}

// Close implements frame.Capture. The programs go first, so that the kernel has the
// frames again before there is nobody else to take them.
func (c *Capture) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed, c.last = true, c.countLocked()
	var errs []error
	for _, p := range c.ports {
		errs = append(errs, p.close())
	}
	c.rules.close()
	return errors.Join(errs...)
}

// attach puts the program on an interface.
func attach(p *ebpf.Program, index int, want Mode) (link.Link, Mode, error) {
	flags, mode := link.XDPDriverMode, Native
	if want == Generic {
		flags, mode = link.XDPGenericMode, Generic
	}
	l, err := link.AttachXDP(link.XDPOptions{Program: p, Interface: index, Flags: flags})
	if err != nil {
		return nil, 0, refused(err)
	}
	return l, mode, nil
}

func taken(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }

func refused(err error) error {
	switch {
	case taken(err):
		return fmt.Errorf("another XDP program is on the interface (`ip link` shows it): take it off, or capture otherwise: %w", err)
	case errors.Is(err, unix.ERANGE), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the driver does not run XDP programs, or not with this MTU: capture by afpacket: %w", err)
	default:
		return needs(fmt.Errorf("attach the program: %w", err), "CAP_NET_ADMIN and CAP_BPF")
	}
}

// needs names the missing privilege, which the kernel's bare EPERM does not.
func needs(err error, capability string) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("needs %s: %w", capability, err)
	}
	return err
}
