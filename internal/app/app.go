// Package app builds the gateway from its configuration and runs it: the only
// room that sees all the others.
package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"caponier/internal/capture"
	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/dataplane"
	"caponier/internal/dataplane/kernel"
	"caponier/internal/dataplane/userspace"
	"caponier/internal/diagnose"
	"caponier/internal/host"
	"caponier/internal/ike"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/logging"
	"caponier/internal/manual"
	"caponier/internal/netio"
	"caponier/internal/netio/frame"
	"caponier/internal/suite"
)

// tunName is the name of the inner interface.
const tunName = "caponier0"

// ikePort is where IKE begins (RFC 7296, Section 2), and natPort where it and
// ESP in UDP go on (RFC 3948).
const (
	ikePort = 500
	natPort = 4500
)

// Options say what to run.
type Options struct {
	Config  string // file or directory
	Version string
	Output  io.Writer // of the log, where the configuration names no file; nil: standard error
	// Reload is signalled to read the configuration again, as by SIGHUP; nil for
	// never.
	Reload <-chan struct{}
}

// app is a running gateway.
type app struct {
	// Constant after start.
	opts    Options
	state   string // the state directory
	started time.Time
	log     *logging.Log
	slog    *slog.Logger
	lock    *stateLock
	plane   dataplane.Backend
	kernel  *kernel.Plane // the same, where it is the kernel's; else nil
	frames  *frame.Hub    // of the user-space plane, where frames are captured; else nil
	host    *host.Host
	daemon  *ike.Daemon
	auth    *authenticator
	book    *diagnose.Book
	server  *control.Server
	// sockets are the daemon's to close, once there is a daemon.
	sockets []netio.IKESocket
	tap     capture.Tap
	keyring capture.Keyring
	keeper  *manual.Keeper
	workers int
	awake   bool // the workers stay awake for a while after a packet
	// captured are the interfaces whose frames are.
	captured []string
	serving  sync.WaitGroup
	stop     chan struct{} // closed by close
	off      atomic.Bool   // the gateway's switch is not on

	// mu guards the configuration in force; a reload holds it throughout.
	mu     sync.Mutex
	cfg    *config.Config
	reqIDs map[string]uint32
	hand   byHand
	sw     control.Switch
	// destroyed says that the keys are: until a restart, nothing is switched on.
	destroyed bool
}

// Run runs the gateway until ctx ends. It returns an error that names the cause
// where the gateway cannot start; then nothing of it is left behind.
func Run(ctx context.Context, o Options) error {
	frugal := isFrugal()
	if frugal {
		defer debug.SetGCPercent(debug.SetGCPercent(startPercent))
		defer runtime.KeepAlive(make([]byte, ballast))
	}
	// Everything up to start only reads: a wrong configuration never reaches
	// the system.
	if err := suite.SelfTest(); err != nil {
		return fmt.Errorf("cryptographic self-test: %w", err)
	}
	cfg, warnings, err := config.Load(o.Config, config.Checks{Now: time.Now()})
	if err != nil {
		return err
	}
	cfg.Defaults = nil // nobody asks a gateway that runs
	creds, err := readAllCredentials(cfg)
	if err != nil {
		return err
	}
	log, err := logging.New(logging.Options{
		JSON: cfg.Gateway.Log.Format == config.LogJSON, File: cfg.Gateway.Log.File, Output: o.Output,
		Level: cfg.Gateway.Log.Level, Levels: cfg.Gateway.Log.Levels,
	})
	if err != nil {
		return err
	}
	a := &app{opts: o, started: time.Now(), log: log, slog: log.Subsystem("app"), cfg: cfg, auth: new(authenticator), book: new(diagnose.Book), stop: make(chan struct{}), state: cfg.Gateway.State}
	for _, w := range warnings {
		a.slog.Warn("configuration", "problem", w.Error())
	}
	if err := suite.KernelSelfTest(); err != nil {
		a.slog.Warn("a fast implementation gives wrong answers and is not used: report the processor", "cause", err)
	}
	a.auth.set(creds)

	if err := a.start(creds); err != nil {
		return errors.Join(err, a.close())
	}
	if frugal {
		debug.SetGCPercent(gcPercent)
	}
	debug.FreeOSMemory() // what the start-up has left
	if frugal {
		a.serving.Go(func() { saveMemory(a.stop) })
	}
	releaseProgram()
	a.slog.Info("gateway started", "name", cfg.Gateway.Name, "version", o.Version, "connections", len(cfg.Connections))
	stop, err := a.report(ctx)
	if err != nil {
		a.slog.Warn("the service manager is not told", "error", err)
	}
	a.serve(ctx)
	a.slog.Info("gateway stops", "name", cfg.Gateway.Name)
	stop()
	return a.close()
}

// report tells the service manager that the gateway serves, and that it is alive
// as long as the IKE daemon takes turns. stop tells that it ends.
func (a *app) report(ctx context.Context) (stop func(), err error) {
	n, err := newNotifier()
	if err != nil {
		return func() {}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() { n.keepAlive(ctx, a.daemon.Ping) })
	return func() {
		cancel()
		done.Wait()
		_ = n.tell("STOPPING=1") // nobody is left to be told otherwise
		n.close()
	}, n.tell("READY=1")
}

// serve follows orders until ctx ends.
func (a *app) serve(ctx context.Context) {
	round := time.NewTicker(expiryRound)
	defer round.Stop()
	for {
		select {
		case now := <-round.C:
			a.warnExpiry(now)
		case <-ctx.Done():
			return
		case <-a.opts.Reload:
			if err := a.log.Reopen(); err != nil {
				a.slog.Error("log file not reopened", "error", err)
			}
			if _, err := a.Reload(ctx, false); err != nil {
				a.slog.Error("configuration not reloaded", "error", err)
			}
		}
	}
}

// start opens what the gateway needs of the system. What another daemon may
// hold comes first: a start that fails changes no route, and takes nothing from
// a gateway that runs. The rest goes from the inside out: policies are in force
// before a route leads to them, and the daemon begins when everything it may ask
// for is there.
func (a *app) start(creds map[string]*credentials) error {
	gw := &a.cfg.Gateway
	var err error
	if a.lock, err = lockState(gw.State); err != nil {
		return err
	}
	if a.server, err = control.Listen(gw.Control, a, a.log.Subsystem("control")); err != nil {
		return err
	}
	device, err := a.openPlane()
	if err != nil {
		return err
	}
	a.reqIDs = config.ReqIDs(a.cfg, nil)
	if a.sw, err = readSwitch(gw.State); err != nil {
		return err
	}
	a.off.Store(a.sw.Position != control.SwitchOn)
	spd := a.spd(a.cfg, a.reqIDs)
	if err := a.plane.SetPolicies(spd); err != nil {
		return err
	}
	mtu := gw.MTU
	if mtu == 0 {
		mtu = userspace.DefaultMTU
	}
	opts := host.Options{Device: device, MTU: mtu, Logger: a.log.Subsystem("host")}
	if a.frames != nil {
		opts.Steer = a.frames.Steer
	}
	if a.host, err = host.Open(opts); err != nil {
		return err
	}
	if err := a.host.Set(a.desired(spd)); err != nil {
		return err
	}
	if a.kernel == nil {
		// The routes protect from here on.
		if err := a.sweepKernel(); err != nil {
			return err
		}
	}
	if err := a.host.Watch(); err != nil {
		return err
	}
	a.keyring.Allow(gw.CaptureKeys == config.CaptureKeysAllow)
	a.keeper = manual.New(manual.Options{Backend: a.keyring.Backend(a.plane), State: gw.State, Log: a.log.Subsystem("manual")})
	if a.off.Load() {
		a.keeper.SwitchOff()
	}
	a.daemon = ike.New(ike.Options{
		Sockets: a.sockets, Backend: a.keyring.Backend(a.plane),
		Authenticator: a.auth, Rand: rand.Reader, Log: a.log.Subsystem("ike"), OnFailure: a.failed, OnEvent: a.keeper.Event,
		Tap: &a.tap, Keys: &a.keyring, Numbers: a.cfg.Gateway.Numbers, Enveloper: a.auth,
	})
	if err := a.keeper.Set(a.cfg.Manual.Associations); err != nil {
		return err
	}
	a.daemon.SetLimits(limits(a.cfg))
	conns := connections(a.cfg, creds, a.reqIDs)
	a.book.Configure(conns)
	if a.off.Load() {
		a.slog.Warn("the gateway is switched off: protected traffic is blocked", "since", a.sw.Since, "cure", "caponier gateway on")
	} else {
		a.daemon.Apply(conns, nil)
	}
	a.serving.Go(func() { a.keeper.Run(a.stop) })
	if a.kernel != nil && gw.XfrmInterfaces {
		a.serving.Go(func() { a.follow(a.stop) })
	}
	a.serving.Go(func() {
		if err := a.server.Serve(); err != nil {
			a.slog.Error("the control socket is gone", "error", err)
		}
	})
	a.daemon.Start()
	return nil
}

// close ends the gateway from the outside in. The policies' routes refuse their
// traffic from then on, unless the configuration lets it go.
func (a *app) close() error {
	var errs []error
	close(a.stop)
	if a.server != nil {
		errs = append(errs, a.server.Close())
		a.serving.Wait()
	}
	if a.daemon != nil {
		errs = append(errs, a.daemon.Close())
	} else {
		for _, s := range a.sockets {
			errs = append(errs, s.Close())
		}
	}
	a.mu.Lock()
	release := a.cfg.Gateway.Shutdown == config.ShutdownRelease
	a.mu.Unlock()
	if a.host != nil {
		errs = append(errs, a.host.Release(!release), a.host.Close())
	}
	if a.keeper != nil {
		a.keeper.Close()
	}
	if a.plane != nil {
		if release { // the kernel's policies outlive the gateway
			errs = append(errs, a.plane.SetPolicies(nil))
		}
		errs = append(errs, a.plane.Close())
	}
	a.keyring.Allow(false)
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(append(errs, a.log.Close())...)
}

// failed keeps a failure to explain it. While the gateway is off, that peers are
// turned away is none.
func (a *app) failed(at ike.Attempt) {
	if !a.off.Load() {
		a.book.Take(at)
	}
}

// connections translates all connections.
func connections(cfg *config.Config, creds map[string]*credentials, reqIDs map[string]uint32) []*v2.Connection {
	out := make([]*v2.Connection, len(cfg.Connections))
	for i, c := range cfg.Connections {
		out[i] = connection(&cfg.Gateway, c, creds[c.Name], reqIDs)
	}
	return out
}
