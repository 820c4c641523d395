package app

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"caponier/internal/suite"

	"caponier/internal/config"
	"caponier/internal/control"
	"caponier/internal/ike"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
)

// Status describes the gateway, with one connection or all of them.
func (a *app) Status(_ context.Context, name string) (control.Status, error) {
	a.mu.Lock()
	cfg, reqIDs, sw := a.cfg, a.reqIDs, a.sw
	a.mu.Unlock()
	if name != "" && cfg.Connection(name) == nil {
		return control.Status{}, control.UnknownConnection(name)
	}
	now := time.Now()
	counters := a.plane.Counters()
	maps.Copy(counters, a.daemon.Counters())
	maps.Copy(counters, a.book.Counters())
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	s := control.Status{
		Time: now, Name: gatewayName(cfg), Version: a.opts.Version, PID: os.Getpid(), Started: a.started,
		Config: a.opts.Config, StateDir: cfg.Gateway.State, DataPlane: cfg.Gateway.DataPlane.String(),
		Workers: a.workers, Capture: captureOf(&cfg.Gateway), Latency: a.latency(), Interfaces: a.captured,
		Memory:   control.Memory{Resident: resident(), Heap: mem.HeapAlloc, Goroutines: runtime.NumGoroutine()},
		Counters: counters, Connections: []control.Connection{},
	}
	sad := make(map[ipsec.SAID]ipsec.SAStatus)
	for _, sa := range a.plane.SAs() {
		sad[sa.ID] = sa
	}
	if sw.Position != control.SwitchOn {
		s.Switch = &sw
	}
	known := make(map[string]ike.ConnectionStatus)
	for _, st := range a.daemon.Status(name) {
		known[st.Config.Name] = st
	}
	for _, conf := range cfg.Connections {
		st, ok := known[conf.Name]
		if name != "" && conf.Name != name || !ok && s.Switch == nil {
			continue // asked for another, or added by a reload since
		}
		c := connectionStatus(conf, st, reqIDs, sad)
		if c.LastError != nil {
			c.LastError = a.explained(c.Name, c.LastError)
		}
		if creds := a.auth.of(c.Name); creds != nil {
			c.Warnings = creds.expiring(now)
		}
		c.Warnings = append(c.Warnings, legacy(&c)...)
		c.Settle(now)
		s.Connections = append(s.Connections, c)
	}
	return s, nil
}

// captureOf says how the user-space plane gets at packets.
func captureOf(gw *config.Gateway) string {
	if gw.DataPlane == config.DataPlaneKernel {
		return ""
	}
	return gw.Capture.String()
}

func gatewayName(cfg *config.Config) string {
	if cfg.Gateway.Name != "" {
		return cfg.Gateway.Name
	}
	name, _ := os.Hostname()
	return name
}

// connectionStatus puts together what the configuration, the daemon and the
// data plane know of a connection.
func connectionStatus(conf *config.Connection, st ike.ConnectionStatus, reqIDs map[string]uint32,
	sad map[ipsec.SAID]ipsec.SAStatus,
) control.Connection {
	c := control.Connection{
		Name: conf.Name, Version: protocolName(conf.Version),
		Local: endpoint(&conf.Local), Remote: endpoint(&conf.Remote),
		IKE: []control.IKESA{}, Tunnels: []control.Tunnel{},
	}
	if st.Failure != nil {
		c.LastError = &control.Failure{Code: st.Failure.Code, Message: st.Failure.Error(), Time: st.Failure.When}
	}
	for _, t := range conf.Tunnels {
		c.Tunnels = append(c.Tunnels, control.Tunnel{
			Name: t.Name, Mode: t.Mode, Protocol: t.Protocol, Start: t.Start.String(),
			ReqID: reqIDs[policyName(conf.Name, t.Name)], Local: t.Local, Remote: t.Remote, SAs: []control.ChildSA{},
		})
	}
	for _, sa := range st.SAs {
		c.IKE = append(c.IKE, ikeStatus(&sa))
		for i := range sa.Children {
			child := &sa.Children[i]
			t := tunnel(c.Tunnels, child.Name)
			// One that has expired carries nothing, even while its deletion waits
			// for the peer.
			if in, out := halves(child, sa.Remote, sad); t != nil && (in != nil || out != nil) {
				t.SAs = append(t.SAs, childStatus(child, in, out))
			}
		}
	}
	return c
}

func tunnel(tunnels []control.Tunnel, name string) *control.Tunnel {
	for i := range tunnels {
		if tunnels[i].Name == name {
			return &tunnels[i]
		}
	}
	return nil
}

func endpoint(p *config.Party) control.Endpoint {
	e := control.Endpoint{Address: []string{}, ID: p.ID.Text, Auth: p.Auth.String()}
	for _, a := range p.Addresses {
		if a.IsSingleIP() {
			e.Address = append(e.Address, a.Addr().String())
		} else {
			e.Address = append(e.Address, a.String())
		}
	}
	if len(e.Address) == 0 {
		e.Address = append(e.Address, "%any")
	}
	return e
}

func ikeStatus(sa *v2.Status) control.IKESA {
	initiator, responder, _ := strings.Cut(sa.SPIs, "/")
	out := control.IKESA{
		InitiatorSPI: initiator, ResponderSPI: responder, State: ikeState(sa.State), Role: "responder",
		Local: sa.Local, Remote: sa.Remote, LocalID: sa.LocalID, RemoteID: sa.RemoteID, Proposal: sa.Proposal,
		NATLocal: sa.LocalNAT, NATRemote: sa.RemoteNAT, Vendors: sa.Vendors, Established: sa.Established, RekeyAt: sa.RekeyAt,
	}
	if sa.Initiator {
		out.Role = "initiator"
	}
	return out
}

// halves finds both SAs of a CHILD SA in the data plane. One of them may be
// missing for the moment of a rekey.
func halves(child *v2.ChildStatus, remote netip.AddrPort, sad map[ipsec.SAID]ipsec.SAStatus) (in, out *ipsec.SAStatus) {
	if sa, ok := sad[ipsec.SAID{Direction: ipsec.In, Protocol: child.Protocol, SPI: child.In}]; ok {
		in = &sa
	}
	if sa, ok := sad[ipsec.SAID{Direction: ipsec.Out, Protocol: child.Protocol, SPI: child.Out, Peer: remote.Addr()}]; ok {
		out = &sa
	}
	return in, out
}

func childStatus(child *v2.ChildStatus, in, out *ipsec.SAStatus) control.ChildSA {
	if in == nil {
		in = new(ipsec.SAStatus)
	}
	if out == nil {
		out = new(ipsec.SAStatus)
	}
	c := control.ChildSA{
		In: control.HalfOf(*in), Out: control.HalfOf(*out), Protocol: child.Protocol, Mode: child.Mode,
		Encap: in.Encap, Aggfrag: in.Aggfrag, Tripped: out.Tripped, Proposal: child.Proposal, ESN: in.ESN,
		LocalTS: child.LocalTS, RemoteTS: child.RemoteTS, Established: child.Since,
		RekeyAt: child.RekeyAt, Expires: child.Expires,
	}
	c.In.SPI, c.Out.SPI = child.In, child.Out
	c.PathMTU, c.InnerMTU, c.PathMTUUntil = out.PathMTU, out.InnerMTU, out.PathMTUUntil
	return c
}

// legacy warns of the weak algorithms that the SAs of a connection are in use
// with, each once.
func legacy(c *control.Connection) []control.Warning {
	var out []control.Warning
	seen := make(map[string]bool)
	warn := func(what, proposal string) {
		for word := range strings.SplitSeq(proposal, "-") {
			why, weak := suite.WeakWord(word)
			if !weak || seen[what+word] {
				continue
			}
			seen[what+word] = true
			out = append(out, control.Warning{
				Code:    "legacy-algorithm",
				Message: fmt.Sprintf("%s uses %s: %s", what, word, why),
				Cure:    "propose something better at both ends, and take it out of the proposals",
			})
		}
	}
	for _, sa := range c.IKE {
		warn("the IKE SA", sa.Proposal)
	}
	for _, t := range c.Tunnels {
		for _, sa := range t.SAs {
			warn("tunnel "+t.Name, sa.Proposal)
		}
	}
	return out
}

// ikeState says where an IKE SA stands in the operator's words.
func ikeState(s v2.State) string {
	switch s {
	case v2.Established:
		return control.IKEEstablished
	case v2.Replaced, v2.Deleting, v2.Closed, v2.Gone:
		return control.IKEDeleting
	default:
		return control.IKEConnecting
	}
}

// resident reads the physical memory that the process uses, in octets
// (proc_pid_statm(5)); 0 where that cannot be read.
func resident() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// protocolName is the protocol of a connection, as the status has it.
func protocolName(v config.Version) string {
	if v == config.VersionGM {
		return "gm"
	}
	return "ikev2"
}
