package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"caponier/internal/lab/netns"
	"caponier/internal/pki"
)

// DefaultDir is where a lab keeps its certificates, configurations, logs and
// the list of what it made.
const DefaultDir = "/run/caponier-lab"

// Errors of a lab.
var (
	ErrUp   = errors.New("the lab is up already (caponier lab down removes it)")
	ErrDown = errors.New("the lab is not up (caponier lab up builds it)")
)

// Lab is one lab, up or not.
type Lab struct {
	dir     string
	program string
	prefix  string
	procs   []process
}

// record is what a lab remembers on disk between commands.
type record struct {
	Prefix    string    `json:"prefix"`
	Processes []process `json:"processes"`
}

// New returns the lab of a directory. Program is the caponier binary; prefix
// begins the names of the namespaces, so that several labs can stand side by
// side.
func New(dir, program, prefix string) *Lab {
	return &Lab{dir: dir, program: program, prefix: prefix}
}

// Gateways returns the names of the gateways.
func Gateways() []string {
	names := []string{cloudGW}
	for _, c := range customers {
		names = append(names, c.gatewayName())
	}
	return names
}

// Sockets returns the control socket of each gateway.
func (l *Lab) Sockets() map[string]string {
	out := make(map[string]string)
	for _, g := range Gateways() {
		out[g] = socketPath(l.dir, g)
	}
	return out
}

func (l *Lab) ns(node string) netns.NS { return netns.NS{Name: l.prefix + node} }

// nodes lists every namespace of the lab.
func nodes() []string {
	all := []string{internet, cloudGW, cloudSW}
	for _, c := range customers {
		all = append(all, c.gatewayName(), c.clientName(), c.serverName())
	}
	return all
}

// IsUp reports whether the lab has been built.
func (l *Lab) IsUp() bool {
	_, err := os.Stat(l.recordPath())
	return err == nil
}

func (l *Lab) recordPath() string { return filepath.Join(l.dir, "lab.json") }

// Options say what the gateways of a lab are like.
type Options struct {
	DataPlane string // in the configuration's words
	Capture   string // likewise; empty for the default
	GM        bool   // they negotiate by GM/T 0022, with certificates of SM2
}

// Up builds the lab, and starts the gateways and servers. On failure nothing of
// it is left.
func (l *Lab) Up(ctx context.Context, o Options, progress func(string)) (err error) {
	if l.IsUp() {
		return ErrUp
	}
	for _, n := range nodes() {
		if l.ns(n).Exists() {
			return fmt.Errorf("namespace %s exists already, and no lab in %s made it", l.ns(n).Name, l.dir)
		}
	}
	if err := os.MkdirAll(l.dir, 0o700); err != nil {
		return err
	}
	// Down removes the directory with all that is in it.
	if files, err := os.ReadDir(l.dir); err != nil {
		return err
	} else if len(files) > 0 {
		return fmt.Errorf("%s is not empty: the lab wants a directory of its own, which goes with it", l.dir)
	}
	if err := l.save(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down())
		}
	}()
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"network namespaces and links", l.wireUp},
		{"certificates: a root and one for each gateway", func() error { return l.certify(o.GM) }},
		{"configurations", func() error { return l.configure(ctx, o) }},
		{"servers", func() error { return l.start("servers", "", "lab", "serve", l.prefix) }},
		{"gateways", func() error { return l.startGateways(ctx) }},
	} {
		progress(step.what)
		if err := step.do(); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) save() error {
	b, err := json.MarshalIndent(record{Prefix: l.prefix, Processes: l.procs}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(l.recordPath(), b, 0o600)
}

func (l *Lab) load() error {
	b, err := os.ReadFile(l.recordPath())
	if errors.Is(err, os.ErrNotExist) {
		return ErrDown
	}
	if err != nil {
		return err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", l.recordPath(), err)
	}
	l.prefix, l.procs = r.Prefix, r.Processes
	return nil
}

// wireUp makes the namespaces and joins them: every gateway to the internet, the
// clients to their gateways, the servers and the cloud gateway to one switch.
func (l *Lab) wireUp() error {
	var err error
	try := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	for _, n := range nodes() {
		try(func() error { _, err := netns.Create(l.ns(n).Name); return err })
	}
	outside := func(gateway string, a netip.Addr) {
		try(func() error { return netns.Link(l.ns(internet), gateway, l.ns(gateway), "out") })
		try(func() error { return l.ns(internet).Addr(gateway, onLink(router(a))) })
		try(func() error { return l.ns(gateway).Addr("out", onLink(a)) })
		try(func() error { return l.ns(gateway).Route(netip.MustParsePrefix("0.0.0.0/0"), router(a)) })
		try(func() error { return l.ns(gateway).Forward() })
	}
	inside := func(node string, a, gateway netip.Addr, bits int) {
		try(func() error { return l.ns(node).Addr("lan", netip.PrefixFrom(a, bits)) })
		try(func() error { return l.ns(node).Route(netip.MustParsePrefix("0.0.0.0/0"), gateway) })
	}
	onSwitch := func(node string) {
		try(func() error { return netns.Link(l.ns(cloudSW), node, l.ns(node), "lan") })
		try(func() error { return l.ns(cloudSW).IP("link", "set", node, "master", "switch") })
	}
	try(func() error { return l.ns(internet).Forward() })
	try(func() error { return l.ns(cloudSW).IP("link", "add", "switch", "up", "type", "bridge") })
	outside(cloudGW, cloudOutside)
	onSwitch(cloudGW)
	try(func() error { return l.ns(cloudGW).Addr("lan", netip.PrefixFrom(cloudGateway, cloudLAN.Bits())) })
	for _, c := range customers {
		outside(c.gatewayName(), c.Outside)
		try(func() error { return netns.Link(l.ns(c.gatewayName()), "lan", l.ns(c.clientName()), "lan") })
		try(func() error { return l.ns(c.gatewayName()).Addr("lan", netip.PrefixFrom(c.Gateway, c.LAN.Bits())) })
		inside(c.clientName(), c.Client, c.Gateway, c.LAN.Bits())
		onSwitch(c.serverName())
		inside(c.serverName(), c.Server, cloudGateway, cloudLAN.Bits())
	}
	return err
}

// certify issues the root and a certificate for each gateway, or two, as
// `caponier pki` does.
func (l *Lab) certify(gm bool) error {
	dir, now := filepath.Join(l.dir, "pki"), time.Now()
	if gm {
		if _, err := pki.Init(dir, pki.Request{Subject: subject("rootca"), Key: pki.SM2}, now); err != nil {
			return err
		}
		for _, g := range Gateways() {
			if _, _, err := pki.IssueDual(dir, g, pki.Request{Subject: subject(g)}, now); err != nil {
				return err
			}
		}
		return nil
	}
	if _, err := pki.Init(dir, pki.Request{Subject: subject("rootca"), Key: pki.ECDSAP384}, now); err != nil {
		return err
	}
	for _, g := range Gateways() {
		if _, err := pki.Issue(dir, g, pki.Request{Subject: subject(g), Key: pki.Ed25519}, now); err != nil {
			return err
		}
	}
	return nil
}

// configure writes the configurations and lets the program check them.
func (l *Lab) configure(ctx context.Context, o Options) error {
	if err := writeConfigs(l.dir, o); err != nil {
		return err
	}
	for _, g := range Gateways() {
		out, err := exec.CommandContext(ctx, l.program, "check", configPath(l.dir, g)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("configuration of %s: %w\n%s", g, err, out)
		}
	}
	return nil
}

// start launches this program with arguments in a node's namespace, or in the
// present one where node is empty, and writes it down.
func (l *Lab) start(name, node string, args ...string) error {
	var in *netns.NS
	if node != "" {
		n := l.ns(node)
		in = &n
	}
	p, err := launch(l.dir, in, name, append([]string{l.program}, args...)...)
	if err != nil {
		return err
	}
	l.procs = append(l.procs, p)
	return l.save()
}

func (l *Lab) startGateways(ctx context.Context) error {
	for _, g := range Gateways() {
		if err := l.start(g, g, "run", "-c", configPath(l.dir, g)); err != nil {
			return err
		}
	}
	for _, g := range Gateways() {
		if err := l.waitFor(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// waitFor waits until a gateway answers on its control socket.
func (l *Lab) waitFor(ctx context.Context, gateway string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		out, err := exec.CommandContext(ctx, l.program, "--control", socketPath(l.dir, gateway), "status", "--json").CombinedOutput()
		if err == nil {
			return nil
		}
		p, known := l.process(gateway)
		if ctx.Err() != nil || known && !p.alive() {
			log, _ := os.ReadFile(filepath.Join(l.dir, gateway+".log"))
			return fmt.Errorf("%s does not answer: %s\n%s", gateway, strings.TrimSpace(string(out)), log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (l *Lab) process(name string) (process, bool) {
	for i := len(l.procs) - 1; i >= 0; i-- {
		if l.procs[i].Name == name {
			return l.procs[i], true
		}
	}
	return process{}, false
}

// Down ends the processes and removes the namespaces and the directory. It
// fails if anything is left.
func (l *Lab) Down() error {
	if err := l.load(); err != nil {
		return err
	}
	var errs []error
	for _, p := range l.procs {
		if p.end(syscall.SIGTERM, 5*time.Second) != nil {
			errs = append(errs, p.end(syscall.SIGKILL, 5*time.Second))
		}
	}
	for _, n := range nodes() {
		if ns := l.ns(n); ns.Exists() {
			errs = append(errs, ns.Delete())
		}
	}
	for _, p := range l.procs {
		if p.alive() {
			errs = append(errs, fmt.Errorf("%s (process %d) is still running", p.Name, p.PID))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return os.RemoveAll(l.dir)
}
