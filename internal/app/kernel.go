package app

import (
	"errors"
	"fmt"
	"net/netip"

	"caponier/internal/config"
	"caponier/internal/dataplane/kernel"
	"caponier/internal/ipsec"
)

// KernelFeature is a feature of the kernel that a configuration names.
type KernelFeature struct {
	kernel.Feature
	// Needed says that a tunnel cannot do without.
	Needed bool
	// Tunnel is such a tunnel.
	Tunnel string
}

// KernelReport is what the kernel has of what a configuration names.
type KernelReport []KernelFeature

// Err says what is missing and needed.
func (r KernelReport) Err() error {
	var errs []error
	for _, f := range r {
		if f.Err != nil && f.Needed {
			errs = append(errs, fmt.Errorf("tunnel %s: %w", f.Tunnel, f.Err))
		}
	}
	return errors.Join(errs...)
}

// CheckKernel asks the kernel for every protocol and algorithm that the tunnels
// of cfg name. A tunnel cannot do without its protocol, nor without all of its
// proposals.
func CheckKernel(cfg *config.Config) (KernelReport, error) {
	wishes := make(map[*config.Tunnel][]kernel.Wish)
	var all []kernel.Wish
	for _, c := range cfg.Connections {
		for _, t := range c.Tunnels {
			wishes[t] = wishesOf(c, t)
			all = append(all, wishes[t]...)
		}
	}
	features, err := kernel.Probe(all)
	if err != nil {
		return nil, err
	}
	lacks := make(map[string]error)
	for _, f := range features {
		lacks[f.Name] = f.Err
	}
	needed := make(map[string]string) // the tunnel by the feature
	for _, c := range cfg.Connections {
		for _, t := range c.Tunnels {
			name := policyName(c.Name, t.Name)
			has, last := false, ""
			for _, w := range wishes[t] {
				if lacks[w.ProtocolName()] != nil {
					needed[w.ProtocolName()] = name
				}
				last = w.Name()
				has = has || lacks[w.Name()] == nil
			}
			if !has && last != "" {
				needed[last] = name
			}
		}
	}
	report := make(KernelReport, 0, len(features))
	for _, f := range features {
		tunnel, ok := needed[f.Name]
		report = append(report, KernelFeature{Feature: f, Needed: ok, Tunnel: tunnel})
	}
	return report, nil
}

// wishesOf are the algorithms of a tunnel over the families of its peer.
func wishesOf(c *config.Connection, t *config.Tunnel) []kernel.Wish {
	var out []kernel.Wish
	for _, v6 := range families(c.Local.Addresses, c.Remote.Addresses) {
		for _, p := range t.Proposals {
			integ := p.Of(ipsec.TypeInteg)
			if len(integ) == 0 {
				integ = []ipsec.Transform{{}}
			}
			encr := p.Of(ipsec.TypeEncr)
			if t.Protocol == ipsec.AH {
				encr = []ipsec.Transform{{}}
			}
			for _, e := range encr {
				for _, i := range integ {
					out = append(out, kernel.Wish{Protocol: t.Protocol, IPv6: v6, Encr: e, Integ: i})
				}
			}
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
