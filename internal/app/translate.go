package app

import (
	"slices"

	"caponier/internal/config"
	"caponier/internal/config/identity"
	"caponier/internal/ike"
	"caponier/internal/ike/message"
	v2 "caponier/internal/ike/v2"
	"caponier/internal/ipsec"
)

func policyName(connection, tunnel string) string { return connection + "/" + tunnel }

// policies makes the SPD of a configuration. A tunnel's policy is there whether
// the tunnel is up or not: its traffic waits or is dropped, and never leaves in
// clear.
func policies(cfg *config.Config, reqIDs map[string]uint32) []ipsec.Policy {
	var out []ipsec.Policy
	for _, c := range cfg.Connections {
		var own ipsec.KernelPolicy
		if cfg.Gateway.XfrmInterfaces && len(c.Tunnels) > 0 {
			// One interface for the connection, by a number that stays with it.
			own.IfID = reqIDs[policyName(c.Name, c.Tunnels[0].Name)]
		}
		for _, t := range c.Tunnels {
			name := policyName(c.Name, t.Name)
			out = append(out, ipsec.Policy{
				Name: name, Action: ipsec.Protect, Priority: config.PriorityNormal,
				Local: t.Local, Remote: t.Remote,
				ReqID: reqIDs[name], Protocol: t.Protocol, WithAH: t.WithAH, Mode: t.Mode,
				Acquire: t.Start != config.StartNone, Connection: c.Name, Tunnel: t.Name, Kernel: own,
			})
		}
	}
	for _, p := range cfg.Policies {
		out = append(out, ipsec.Policy{
			Name: p.Name, Action: p.Action, Priority: p.Priority, Local: p.Local, Remote: p.Remote,
		})
	}
	return out
}

// connection turns one connection of the configuration into the machine's view,
// with the certificates that creds has read.
func connection(gw *config.Gateway, c *config.Connection, creds *credentials, reqIDs map[string]uint32) *v2.Connection {
	out := &v2.Connection{
		Name: c.Name,
		Local: v2.Party{
			ID: identityOf(c.Local.ID), Auth: v2.AuthKind(c.Local.Auth), PSK: c.Local.PSK,
			Certificates: creds.chain, PSS: c.Local.Signature == config.SignatureRSAPSS,
		},
		Remote: v2.Party{
			ID: identityOf(c.Remote.ID), Auth: v2.AuthKind(c.Remote.Auth), PSK: c.Remote.PSK,
			Authorities: creds.authorities, SHA1: v2.SHA1Use(c.Remote.SHA1), SM2: creds.peerSM2,
		},
		LocalAddrs: c.Local.Addresses, RemoteAddrs: c.Remote.Addresses,
		Proposals:     c.Proposals,
		Unique:        v2.Uniqueness(c.Unique),
		Encapsulation: encapsulation(gw.DataPlane, c),
		FragmentSize:  c.FragmentSize,
		DPD:           c.DPD, Lifetime: c.Lifetime,
		Use:        c.Use,
		Retransmit: v2.Retransmit{Initial: gw.IKE.Timeout, Factor: gw.IKE.Base, Max: gw.IKE.Limit, Tries: gw.IKE.Tries},
	}
	if c.Version == config.VersionGM {
		out.GM = gmSettings(c.GM, creds.gm)
	}
	for _, t := range c.Tunnels {
		out.Children = append(out.Children, &v2.Child{
			Name: t.Name, Mode: t.Mode, Protocol: t.Protocol, Local: t.Local, Remote: t.Remote,
			Proposals: t.Proposals, ReqID: reqIDs[policyName(c.Name, t.Name)], ReplayWindow: t.ReplayWindow,
			Outer: t.Outer, Fit: t.Fit, Aggfrag: t.Aggfrag, Pace: t.Pace,
			Lifetime: t.Lifetime, Start: t.Start == config.StartStart,
		})
	}
	return out
}

// encapsulation says when ESP travels in UDP. The user-space plane moves trains
// of UDP datagrams with one call, for which raw sockets have nothing like it:
// what is left to the gateway asks for UDP. The kernel's plane uses it where a NAT
// is, and so does a connection with a tunnel of AH, which cannot travel in UDP.
func encapsulation(plane config.DataPlane, c *config.Connection) v2.Encapsulation {
	isAH := func(t *config.Tunnel) bool { return t.Protocol == ipsec.AH }
	switch {
	case c.Encapsulation == config.EncapsulationAlways:
		return v2.EncapAlways
	case c.Encapsulation == config.EncapsulationNever:
		return v2.EncapNever
	case plane == config.DataPlaneKernel, slices.ContainsFunc(c.Tunnels, isAH):
		return v2.EncapAuto
	default:
		return v2.EncapAsk
	}
}

// identityOf translates a configured identity; the zero Identity stands for the
// default of the local end and for everyone at the remote one.
func identityOf(id identity.Identity) v2.Identity {
	switch id.Kind {
	case identity.Default, identity.Any:
		return v2.Identity{}
	default:
		return v2.Identity{Kind: message.IDType(id.Kind), Data: id.Data}
	}
}

func limits(cfg *config.Config) ike.Limits {
	return ike.Limits{HalfOpen: cfg.Gateway.IKE.HalfOpen, HalfOpenPerAddress: cfg.Gateway.IKE.HalfOpenPerAddress}
}
