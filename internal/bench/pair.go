package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"caponier/internal/bench/stream"
	"caponier/internal/lab/netns"
)

// The addresses of every pair: documentation prefixes outside (RFC 5737),
// private ones inside. They exist only in the namespaces of a run.
var (
	addrHostA    = netip.MustParseAddr("10.1.0.2")
	addrHostB    = netip.MustParseAddr("10.2.0.2")
	addrInsideA  = netip.MustParseAddr("10.1.0.1")
	addrInsideB  = netip.MustParseAddr("10.2.0.1")
	addrOutsideA = netip.MustParseAddr("192.0.2.1")
	addrOutsideB = netip.MustParseAddr("192.0.2.2")

	lanA = netip.MustParsePrefix("10.1.0.0/16")
	lanB = netip.MustParsePrefix("10.2.0.0/16")
)

// Picture draws a pair for people.
const Picture = `  hostA ── gwA ═══════ gwB ── hostB
  10.1.0.2  192.0.2.1  192.0.2.2  10.2.0.2
`

// pair is two gateways with a host behind each, in four namespaces of its own,
// with what runs inside.
type pair struct {
	dir                    string // logs and configurations
	hostA, gwA, gwB, hostB netns.NS
	aToB, bToA             stream.Path // between the hosts
	gateways               []*process  // of A and of B; none where the kernel forwards by itself
	others                 []*process
	iperf                  bool // a server of iperf3 is among them
}

// pairs numbers the pairs of this process: the names of their namespaces are
// unique on the machine.
var pairs atomic.Uint32

// newPair builds the namespaces and links. dir is made for it.
func newPair(dir string) (p *pair, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	prefix := fmt.Sprintf("cbench-%d-%d-", os.Getpid(), pairs.Add(1))
	p = &pair{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for _, n := range []struct {
		to   *netns.NS
		name string
	}{{&p.hostA, "hosta"}, {&p.gwA, "gwa"}, {&p.gwB, "gwb"}, {&p.hostB, "hostb"}} {
		if *n.to, err = netns.Create(prefix + n.name); err != nil {
			return p, err
		}
	}
	if err := netns.Link(p.gwA, "out", p.gwB, "out"); err != nil {
		return p, err
	}
	for _, s := range []struct {
		gw, host             netns.NS
		outside, inside, lan netip.Addr
	}{
		{p.gwA, p.hostA, addrOutsideA, addrInsideA, addrHostA},
		{p.gwB, p.hostB, addrOutsideB, addrInsideB, addrHostB},
	} {
		err := errors.Join(
			netns.Link(s.gw, "lan", s.host, "lan"),
			s.gw.Addr("out", netip.PrefixFrom(s.outside, 24)),
			s.gw.Addr("lan", netip.PrefixFrom(s.inside, 16)),
			s.host.Addr("lan", netip.PrefixFrom(s.lan, 16)),
			s.host.Route(netip.MustParsePrefix("0.0.0.0/0"), s.inside),
			s.gw.Forward())
		if err != nil {
			return p, err
		}
	}
	if p.aToB, err = path(p.hostA, p.gwA, p.hostB, addrHostA, addrHostB); err != nil {
		return p, err
	}
	p.bToA, err = path(p.hostB, p.gwB, p.hostA, addrHostB, addrHostA)
	return p, err
}

// path is the way of datagrams from a host through its gateway.
func path(from, gw, to netns.NS, src, dst netip.Addr) (stream.Path, error) {
	p := stream.Path{From: from, To: to, Device: "lan", Src: src, Dst: dst}
	err := gw.Do(func() error {
		dev, err := net.InterfaceByName("lan")
		if err != nil {
			return fmt.Errorf("the inside interface of %s: %w", gw.Name, err)
		}
		p.NextHop = dev.HardwareAddr
		return nil
	})
	return p, err
}

// close ends what runs in the pair and removes it.
func (p *pair) close() error {
	var errs []error
	for _, proc := range append(p.others, p.gateways...) {
		errs = append(errs, proc.end())
	}
	for _, n := range []netns.NS{p.hostA, p.gwA, p.gwB, p.hostB} {
		if n.Name != "" && n.Exists() {
			errs = append(errs, n.Delete())
		}
	}
	return errors.Join(errs...)
}

// crossing waits until packets cross from host A to host B.
func (p *pair) crossing(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("no packet crosses"))
	defer cancel()
	for {
		trips, _, err := measureEcho(ctx, p.hostA, addrHostB, echoLoad{count: 1, size: 32})
		if len(trips) > 0 {
			return nil
		}
		if ctx.Err() != nil {
			return p.blame(context.Cause(ctx))
		}
		if err != nil {
			return p.blame(err)
		}
		if err := p.alive(); err != nil {
			return err
		}
	}
}

// alive tells which process has ended.
func (p *pair) alive() error {
	for _, proc := range append(p.others, p.gateways...) {
		select {
		case <-proc.ended:
			return p.blame(fmt.Errorf("%s ended by itself", proc.name))
		default:
		}
	}
	return nil
}

// blame adds the ends of the gateways' logs to an error.
func (p *pair) blame(err error) error {
	var b strings.Builder
	for _, proc := range p.gateways {
		log, readErr := os.ReadFile(proc.log)
		if readErr != nil || len(log) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s ends with:\n%s", proc.log, log[max(0, len(log)-1000):])
	}
	return fmt.Errorf("%w%s", err, b.String())
}

// process is a program that runs in a pair.
type process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has been reaped
}

// launch starts a program in a namespace, its output going to a log file.
func (p *pair) launch(n netns.NS, name string, env []string, argv ...string) (*process, error) {
	proc := &process{name: name, log: filepath.Join(p.dir, name+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(proc.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The program ends with the pair, not with whatever context it was started
	// in. ip-netns-exec replaces itself by the program, which keeps the process id.
	proc.cmd = n.Command(context.Background(), argv[0], argv[1:]...)
	proc.cmd.Env = append(os.Environ(), env...)
	proc.cmd.Stdout, proc.cmd.Stderr = log, log
	// An interrupt at the terminal is for us; we end the others in order.
	proc.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := proc.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	go func() {
		_ = proc.cmd.Wait()
		close(proc.ended)
	}()
	return proc, nil
}

// gateway starts the program of one gateway; call it for A, then for B.
func (p *pair) gateway(n netns.NS, name string, env []string, argv ...string) error {
	proc, err := p.launch(n, name, env, argv...)
	if err != nil {
		return err
	}
	p.gateways = append(p.gateways, proc)
	return nil
}

// helper starts a program that is no gateway.
func (p *pair) helper(n netns.NS, name string, argv ...string) error {
	proc, err := p.launch(n, name, nil, argv...)
	if err != nil {
		return err
	}
	p.others = append(p.others, proc)
	return nil
}

// gatewayUsage samples the processes of the gateways.
func (p *pair) gatewayUsage() ([]usage, error) {
	out := make([]usage, 0, len(p.gateways))
	for _, g := range p.gateways {
		u, err := usageOf(g.cmd.Process.Pid)
		if err != nil {
			return nil, fmt.Errorf("what %s used: %w", g.name, err)
		}
		out = append(out, u)
	}
	return out, nil
}

// patience is how long a program may take to end when asked to.
const patience = 5 * time.Second

func (p *process) end() error {
	for _, sig := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("ending %s: %w", p.name, err)
		}
		select {
		case <-p.ended:
			return nil
		case <-time.After(patience):
		}
	}
	return fmt.Errorf("%s (process %d) does not end", p.name, p.cmd.Process.Pid)
}

// startPatience is how long a program may take to start: with ten thousand
// connections, on a machine that is busy, it is a while.
const startPatience = time.Minute

// waitFile waits until a file, a socket usually, is there.
func waitFile(ctx context.Context, p *pair, path string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		if err := p.alive(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return p.blame(fmt.Errorf("waiting for %s: %w", path, ctx.Err()))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
