package app

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"runtime"
	"slices"

	"caponier/internal/config"
	"caponier/internal/dataplane/kernel"
	"caponier/internal/dataplane/userspace"
	"caponier/internal/host"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// openPlane opens IKE's sockets and the data plane of the configuration. It
// returns the name of the device to which the host routes what is to be
// protected: the way into the user-space plane, or the ditch before the
// kernel's.
func (a *app) openPlane() (device string, err error) {
	if a.cfg.Gateway.DataPlane == config.DataPlaneKernel {
		return a.openKernel()
	}
	ikeSocket, err := netio.ListenIKE(ikePort, netio.SocketOptions{Mark: host.Mark})
	if err != nil {
		return "", err
	}
	a.sockets = append(a.sockets, ikeSocket)
	a.staff()
	devices, device, err := userspace.Open(userspace.OpenOptions{
		Name: tunName, Workers: a.workers, Port: natPort, Mark: host.Mark, Apart: a.awake,
	})
	if err != nil {
		return "", err
	}
	if devices.Frames, err = a.openFrames(device); err != nil {
		return "", errors.Join(err, devices.Close())
	}
	a.frames = devices.Frames
	plane, err := userspace.New(userspace.Options{
		Devices: devices, MTU: a.cfg.Gateway.MTU, Rand: rand.Reader, RouteMTU: a.routeMTU, StayAwake: a.awake,
		Tap: &a.tap, Logger: a.log.Subsystem("dataplane"),
	})
	if err != nil {
		return "", err
	}
	a.plane = plane
	a.sockets = append(a.sockets, plane.IKESocket())
	return device, nil
}

// staff says how many workers there are and whether they stay awake. One processor
// is left to all else where they do.
func (a *app) staff() {
	a.workers = a.cfg.Gateway.Workers
	if a.cfg.Gateway.Latency == config.LatencyLow {
		if err := checkLatency(); err != nil {
			a.slog.Warn("latency is as with latency: normal", "error", err)
		} else {
			a.awake = true
		}
	}
	switch {
	case a.workers > 0:
	case a.awake:
		a.workers = userspace.CanStayAwake()
	default:
		a.workers = runtime.GOMAXPROCS(0)
	}
}

// checkLatency says why workers cannot stay awake.
func checkLatency() error {
	if userspace.CanStayAwake() < 1 {
		return errors.New("latency: low needs two processors, of which one stays with everything else: this process has one")
	}
	return nil
}

// latency is "low" where workers stay awake.
func (a *app) latency() string {
	if a.awake {
		return config.LatencyLow.String()
	}
	return ""
}

// routeMTU asks the system how long a packet may be on the route to a peer; 0 where
// there is none. The plane asks for SAs, which there are only after the host.
func (a *app) routeMTU(local, remote netip.Addr) int {
	if local.IsUnspecified() {
		local = netip.Addr{}
	}
	w, err := a.host.Lookup(local, remote, host.Mark)
	if err != nil {
		a.slog.Debug("the MTU of the route is not known", "peer", remote.String(), "error", err)
		return 0
	}
	return w.MTU
}

// openKernel opens the kernel's plane. Its packets never come to this process:
// IKE has both ports to itself.
func (a *app) openKernel() (device string, err error) {
	// The kernel's side is asked first: without it, a socket cannot have policies.
	if err := a.checkKernel(a.cfg); err != nil {
		return "", err
	}
	opts := netio.SocketOptions{Mark: host.Mark, PastIPsec: true}
	ikeSocket, err := netio.ListenIKE(ikePort, opts)
	if err != nil {
		return "", err
	}
	a.sockets = append(a.sockets, ikeSocket)
	opts.UDPEncap = true
	natSocket, err := netio.ListenNAT(natPort, opts)
	if err != nil {
		return "", err
	}
	a.sockets = append(a.sockets, natSocket)
	ditch, err := netio.OpenTUN(tunName, netio.TUNOptions{Queues: 1, MTU: userspace.DefaultMTU})
	if err != nil {
		return "", err
	}
	plane, err := kernel.New(kernel.Options{
		OutputMark: ipsec.Mark{Value: host.Mark, Mask: 0xffffffff}, Ditch: ditch[0], Logger: a.log.Subsystem("dataplane"),
	})
	if err != nil {
		return "", err
	}
	a.plane, a.kernel = plane, plane
	return ditch[0].Name(), nil
}

// sweepKernel removes what an earlier run with the kernel's plane has left: its
// policies would block IKE, and all that the user-space plane seals.
func (a *app) sweepKernel() error {
	left, err := kernel.New(kernel.Options{Logger: a.log.Subsystem("dataplane")})
	if _, ok := errors.AsType[*kernel.MissingError](err); ok {
		return nil // nor can it have left anything
	}
	if err != nil {
		return err
	}
	return errors.Join(left.SetPolicies(nil), left.Close())
}

// follow lets routes follow the state of tunnels, where these have interfaces.
func (a *app) follow(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-a.kernel.Changed():
		}
		if err := a.host.Up(a.kernel.Carrying()); err != nil {
			a.slog.Error("routes do not follow the tunnels", "error", err)
		}
	}
}

// checkKernel says what the kernel lacks for cfg, before anything of it is
// installed.
func (a *app) checkKernel(cfg *config.Config) error {
	report, err := checkKernel(cfg)
	if err != nil {
		return err
	}
	for _, r := range report {
		if r.err != nil && r.For == "" {
			a.slog.Warn("the kernel has not all that the configuration names", "missing", r.Name, "error", r.err)
		}
	}
	return report.Err()
}

// desired is what the host shall do for the policies. Of the kernel's plane,
// transport mode keeps the route that its packets have: one into the ditch would
// take what has been sealed along. The policies themselves block without an SA.
func (a *app) desired(spd []ipsec.Policy) host.Desired {
	if a.kernel == nil {
		return host.FromPolicies(spd)
	}
	return host.FromPolicies(slices.DeleteFunc(slices.Clone(spd), func(p ipsec.Policy) bool {
		return p.Action == ipsec.Protect && p.Mode == ipsec.Transport
	}))
}
