package app

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"caponier/internal/config"
	"caponier/internal/dataplane/kernel"
	"caponier/internal/host"
	"caponier/internal/ipsec"
)

// Requirement is something of the system that a configuration asks for.
type Requirement struct {
	Name string `json:"name"`
	// For is a tunnel, an association or a policy that cannot do without; empty
	// for what others can take the place of.
	For string `json:"for,omitempty"`
	// Problem says what is missing and what would bring it; empty where it is
	// there.
	Problem string `json:"problem,omitempty"`

	err error
}

// Requirements are what a configuration asks of the system.
type Requirements []Requirement

// Err says what is missing and cannot be done without.
func (r Requirements) Err() error {
	var errs []error
	for _, x := range r {
		if x.err != nil && x.For != "" {
			errs = append(errs, fmt.Errorf("%s: %w", x.For, x.err))
		}
	}
	return errors.Join(errs...)
}

// CheckSystem asks this system for what cfg needs of it. It leaves everything as
// it was. The error says what kept it from asking.
func CheckSystem(cfg *config.Config) (Requirements, error) {
	tun := Requirement{Name: "TUN device", For: "gateway"}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		tun.err = fmt.Errorf("needs CONFIG_TUN or module tun: %w", err)
	}
	out := Requirements{tun.settled()}
	if cfg.Gateway.Capture != config.CaptureTUN {
		out = append(out, checkCapture(&cfg.Gateway))
	}
	if cfg.Gateway.Latency == config.LatencyLow {
		out = append(out, Requirement{Name: "processors for latency: low", err: checkLatency()}.settled())
	}
	if cfg.Gateway.DataPlane != config.DataPlaneKernel {
		return out, nil
	}
	found, err := checkKernel(cfg)
	return append(out, found...), err
}

func (r Requirement) settled() Requirement {
	if r.err != nil {
		r.Problem = r.err.Error()
	}
	return r
}

// want is what a tunnel or an association asks of the kernel: one of the wishes.
type want struct {
	name   string
	wishes []kernel.Wish
}

// checkKernel asks the kernel for every protocol and algorithm that cfg names.
// A tunnel cannot do without its protocol, nor without all of its proposals.
func checkKernel(cfg *config.Config) (Requirements, error) {
	wants := wantsOf(cfg)
	var all []kernel.Wish
	for _, w := range wants {
		all = append(all, w.wishes...)
	}
	features, err := kernel.Probe(all)
	if err != nil {
		return nil, err
	}
	lacks := make(map[string]error, len(features))
	for _, f := range features {
		lacks[f.Name] = f.Err
	}
	needed := make(map[string]string) // by whom, by feature
	for _, w := range wants {
		has, last := false, ""
		for i := range w.wishes {
			protocol, algorithms := w.wishes[i].ProtocolName(), w.wishes[i].Name()
			if lacks[protocol] != nil {
				needed[protocol] = w.name
			}
			has, last = has || lacks[algorithms] == nil, algorithms
		}
		if !has && last != "" {
			needed[last] = w.name
		}
	}
	out := Requirements{}
	for _, f := range features {
		out = append(out, Requirement{Name: f.Name, For: needed[f.Name], err: f.Err}.settled())
	}
	if cfg.Gateway.XfrmInterfaces {
		out = append(out, Requirement{Name: "xfrm interfaces", For: "gateway", err: host.CheckInterfaces()}.settled())
	}
	ours := Requirement{Name: "no policies of others in the way", For: "gateway", err: kernel.CheckPolicies(policies(cfg, config.ReqIDs(cfg, nil)))}
	return append(out, ours.settled()), nil
}

// wantsOf are the algorithms of every tunnel, over the families of its peer, and
// those of every association.
func wantsOf(cfg *config.Config) []want {
	var out []want
	for _, c := range cfg.Connections {
		for _, t := range c.Tunnels {
			w := want{name: "tunnel " + policyName(c.Name, t.Name)}
			for _, v6 := range families(c.Local.Addresses, c.Remote.Addresses) {
				for _, p := range t.Proposals {
					w.wishes = append(w.wishes, wishesOf(t.Protocol, v6, p)...)
				}
			}
			out = append(out, w)
		}
	}
	for _, a := range cfg.Manual.Associations {
		out = append(out, want{"association " + a.Name, []kernel.Wish{
			{Protocol: a.Protocol, IPv6: a.RemoteAddress.Is6(), Encr: a.Encr, Integ: a.Integ},
		}})
	}
	return out
}

func wishesOf(protocol ipsec.Protocol, v6 bool, p ipsec.Proposal) []kernel.Wish {
	orNone := func(list []ipsec.Transform) []ipsec.Transform {
		if len(list) == 0 {
			return []ipsec.Transform{{}}
		}
		return list
	}
	var out []kernel.Wish
	for _, e := range orNone(p.Of(ipsec.TypeEncr)) {
		for _, i := range orNone(p.Of(ipsec.TypeInteg)) {
			out = append(out, kernel.Wish{Protocol: protocol, IPv6: v6, Encr: e, Integ: i})
		}
	}
	return out
}

// families are those over which the peers may meet: IPv4 where nothing says.
func families(local, remote []netip.Prefix) []bool {
	var four, six bool
	for _, list := range [][]netip.Prefix{local, remote} {
		for _, p := range list {
			four, six = four || p.Addr().Is4(), six || p.Addr().Is6()
		}
	}
	switch {
	case four && six:
		return []bool{false, true}
	case six:
		return []bool{true}
	default:
		return []bool{false}
	}
}
