package config

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"caponier/internal/config/identity"
	"caponier/internal/config/syntax"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

const (
	// minLifetime keeps an SA alive for longer than its exchange takes.
	minLifetime = 5 * time.Second
	// maxReqID leaves the upper half for the ones that are assigned.
	maxReqID = 1<<16 - 1
)

// levels decodes gateway.log.levels.
func (d *decoder) levels(v *Log, n *node, path string) {
	d.named(n, path, "subsystem", func(name string, f field, _ string) {
		var l slog.Level
		d.level(&l, f.Value)
		if v.Levels == nil {
			v.Levels = map[string]slog.Level{}
		}
		v.Levels[name] = l
	})
}

func (d *decoder) policyList(n *node, path string) {
	if n.Kind != syntax.Sequence {
		d.errorf(n, "a list of policies is expected here, not %s", n.Kind)
		return
	}
	for _, item := range n.Items {
		sub := fmt.Sprintf("%s[%d]", path, d.policies)
		d.policies++
		d.keys[sub] = item
		p := Policy{Source: item.Pos}
		decodeSection(d, item, sub, policyKeys, &p, true)
		if p.Name == "" {
			continue
		}
		name := d.at(sub + ".name")
		if first := d.keys["policy "+p.Name]; first != nil {
			d.duplicate(name, first, fmt.Sprintf("policy %q is defined twice", p.Name))
			continue
		}
		d.keys["policy "+p.Name] = name
		if len(p.Local) > 0 && len(p.Remote) > 0 && !shareFamily(p.Local, p.Remote) {
			d.errorf(d.at(sub+".remote"), "local and remote of the policy are of different address families")
		}
		d.cfg.Policies = append(d.cfg.Policies, p)
	}
}

func (d *decoder) defaulted(path, value string) {
	d.cfg.Defaults = append(d.cfg.Defaults, Default{Key: path, Value: value})
}

// validate checks what keys mean together, after all files are read.
func (d *decoder) validate(checks *Checks) {
	for _, c := range d.cfg.Connections {
		path := "connections." + c.Name
		if d.keys[path+".local"] == nil {
			fill(d, d.keys[path], path+".local", localKeys, &c.Local)
		}
		if d.set(path + ".remote") {
			d.validateAuth(c, path)
			d.validateGM(c, path)
		}
		if len(c.Proposals) == 0 && !d.set(path+".proposals") {
			c.Proposals = suite.DefaultIKE()
			d.defaulted(path+".proposals", ProposalText(c.Proposals))
		}
		if l, r := c.Local.Addresses, c.Remote.Addresses; len(l) > 0 && len(r) > 0 && !addressesShareFamily(l, r) {
			d.errorf(d.at(path+".remote.address"), "local and remote address are of different families")
		}
		if len(c.Tunnels) == 0 {
			d.warnf(d.section(path), "connection %q has no tunnels: it protects nothing", c.Name)
		}
		for _, t := range c.Tunnels {
			d.validateTunnel(c, t, path+".tunnels."+t.Name)
		}
		if checks != nil {
			d.checkFiles(c, path, checks)
		}
	}
	d.validateManual(checks)
	d.validateDataPlane()
	d.validateReqIDs()
	d.validateOverlaps()
}

// validateAuth settles how each end proves itself, and checks that exactly the
// keys which that needs are there.
func (d *decoder) validateAuth(c *Connection, path string) {
	local, remote := path+".local", path+".remote"
	if d.failed(local+".auth") || d.failed(remote+".auth") {
		return
	}
	if !d.set(remote + ".auth") {
		d.defaulted(remote+".auth", c.Remote.Auth.String())
	}
	if !d.set(local + ".auth") {
		if !d.set(local + ".cert") {
			c.Local.Auth = c.Remote.Auth
		}
		d.defaulted(local+".auth", c.Local.Auth.String())
	}
	if c.Version == VersionGM {
		d.needs(local, c.Local.Auth)
	} else {
		d.needs(local, c.Local.Auth, "cert", "key")
	}
	d.needs(remote, c.Remote.Auth)
	if c.Remote.Auth == AuthCert {
		if !d.set(remote+".ca") && !d.set(remote+".pin") {
			d.errorf(d.section(remote), "ca or pin is missing: whom to trust is never guessed")
		}
		if !d.set(remote + ".id") {
			if !d.set(remote + ".pin") {
				d.errorf(d.section(remote), "id is missing: with %%any, everyone whom the ca has certified would be this peer")
			}
			c.Remote.ID = identity.Identity{Kind: identity.Any, Text: "%any"}
			d.defaulted(remote+".id", "%any")
		}
	} else if !d.set(remote + ".id") {
		c.Remote.ID = identity.Identity{Kind: identity.Any, Text: "%any"}
		d.defaulted(remote+".id", "%any")
	}
	if c.Local.ID.Kind == identity.Any {
		d.errorf(d.at(local+".id"), "the local end must be someone: %%any is for the remote one")
	}
	if c.Local.ID.IsPattern() {
		d.errorf(d.at(local+".id"), "the local end must be someone: patterns with * are for the remote one")
	}
	if c.Local.Auth == AuthPSK && c.Local.PSKFile == "" && !d.set(local+".psk-file") {
		c.Local.PSKFile = c.Remote.PSKFile
	}
	if c.Remote.Auth == AuthPSK && c.Remote.PSKFile == "" && !d.set(remote+".psk-file") {
		c.Remote.PSKFile = c.Local.PSKFile
	}
	for _, end := range []struct {
		path  string
		party *Party
	}{{local, &c.Local}, {remote, &c.Remote}} {
		if end.party.Auth == AuthPSK && end.party.PSKFile == "" && !d.set(end.path+".psk-file") {
			d.errorf(d.section(end.path), "psk-file is missing")
		}
	}
}

// needs reports keys that are missing for auth cert, and keys that have no
// meaning with the way to authenticate.
func (d *decoder) needs(path string, auth Auth, required ...string) {
	meaningless := []string{"cert", "key", "ca", "pin"}
	if auth == AuthCert {
		meaningless = []string{"psk-file"}
		for _, k := range required {
			if !d.set(path + "." + k) {
				d.errorf(d.section(path), "%s is missing: it is required for auth cert", k)
			}
		}
	}
	for _, k := range meaningless {
		if d.set(path + "." + k) {
			d.errorf(d.keys[path+"."+k], "%s has no meaning with auth %s", k, auth)
		}
	}
}

func (d *decoder) validateTunnel(c *Connection, t *Tunnel, path string) {
	d.tunnelProposals(c, t, path+".proposals")
	switch at := path + ".protocol"; {
	case t.WithAH && c.Version == VersionGM:
		d.errorf(d.at(at), "bundles are not negotiated; esp checks integrity too, and under manual a bundle can be keyed by hand")
	case t.WithAH:
		d.errorf(d.at(at), "IKEv2 cannot negotiate ah+esp: RFC 7296 has no bundles of SAs any more; "+
			"esp checks integrity too, and under manual a bundle can be keyed by hand")
	case t.Protocol == ipsec.AH && c.Encapsulation == EncapsulationAlways:
		d.errorf(d.at(at), "AH does not travel in UDP, and encapsulation: always asks for it")
	case t.Protocol == ipsec.AH:
		d.warnf(d.at(at), "AH does not encrypt: everybody on the way can read")
	}
	if c.Version == VersionGM {
		d.validateGMTunnel(t, path)
	}
	d.validateAggfrag(c, t, path+".aggfrag")
	if t.Start != StartNone {
		switch {
		case len(c.Remote.Addresses) == 0:
			d.errorf(d.at(path+".start"), "start: %s needs a remote address to call, and this connection's is %%any", t.Start)
		case !c.Remote.Addresses[0].IsSingleIP():
			d.errorf(d.at(path+".start"), "start: %s needs a remote address to call, and %s is a whole prefix", t.Start, c.Remote.Addresses[0])
		}
	}
	if t.Mode == ipsec.Transport {
		d.validateHosts(t.Local, c.Local.Addresses, path+".local")
		d.validateHosts(t.Remote, c.Remote.Addresses, path+".remote")
		for _, k := range outerKeys {
			if d.set(path + "." + k.name) {
				d.errorf(d.keys[path+"."+k.name], "%s has no meaning in transport mode: there is no outer header", k.name)
			}
		}
	}
	if len(t.Local) == 0 || len(t.Remote) == 0 {
		return
	}
	if !shareFamily(t.Local, t.Remote) {
		d.errorf(d.at(path+".remote"), "local and remote of the tunnel are of different address families")
	}
	for _, l := range t.Local {
		for i, r := range t.Remote {
			// A tunnel for everything names what everyone has on the other side.
			if l.Covers(r) && r.Covers(l) {
				d.warnf(d.at(fmt.Sprintf("%s.remote[%d]", path, i)), "%s is on both sides of the tunnel", r)
			}
		}
	}
}

// tunnelProposals reads the proposals of a tunnel, whose words depend on its
// protocol.
func (d *decoder) tunnelProposals(c *Connection, t *Tunnel, path string) {
	parse, builtIn := suite.ParseESP, suite.DefaultESP
	if t.Protocol == ipsec.AH {
		parse, builtIn = suite.ParseAH, suite.DefaultAH
	}
	if c.Version == VersionGM {
		builtIn = func() []ipsec.Proposal { return gmDefault(t.Protocol) }
	}
	if n := d.nodes[path]; n != nil {
		d.proposals(&t.Proposals, &t.ProposalWords, n, path, parse)
		return
	}
	t.Proposals = builtIn()
	d.defaulted(path, ProposalText(t.Proposals))
}

// protocol is the configuration's word for what protects the tunnel.
func (t *Tunnel) protocol() string {
	if t.WithAH {
		return "ah+esp"
	}
	return t.Protocol.String()
}

// validateHosts checks that a tunnel in transport mode is for the hosts that the
// connection is between. Where that end may have any address, it is the one with
// which the peer calls.
func (d *decoder) validateHosts(selectors []ipsec.Selector, hosts []netip.Prefix, path string) {
	if len(hosts) == 0 {
		return
	}
	end := path[strings.LastIndex(path, ".")+1:]
	for i, s := range selectors {
		if !slices.ContainsFunc(hosts, func(p netip.Prefix) bool { return ipsec.FromPrefix(p).Covers(s) }) {
			d.errorf(d.at(fmt.Sprintf("%s[%d]", path, i)),
				"transport mode is between the two ends: %s must lie within %s.address; mode: tunnel carries the packets of others", s, end)
		}
	}
}

func (d *decoder) validateReqIDs() {
	first := map[uint32]*node{}
	for _, c := range d.cfg.Connections {
		for _, t := range c.Tunnels {
			if t.ReqID == 0 {
				continue
			}
			n := d.at("connections." + c.Name + ".tunnels." + t.Name + ".reqid")
			if other := first[t.ReqID]; other != nil {
				d.duplicate(n, other, fmt.Sprintf("reqid %d belongs to another tunnel already", t.ReqID))
				continue
			}
			first[t.ReqID] = n
		}
	}
}

// maxCompared bounds the work of comparing every tunnel with every other.
const maxCompared = 5_000

// validateOverlaps reports traffic that two tunnels both claim: an error where
// nothing could tell them apart, a warning where the more specific one wins.
func (d *decoder) validateOverlaps() {
	type claim struct {
		conn   *Connection
		tunnel *Tunnel
	}
	var claims []claim
	for _, c := range d.cfg.Connections {
		for _, t := range c.Tunnels {
			claims = append(claims, claim{c, t})
		}
	}
	if len(claims) > maxCompared {
		d.warnf(d.section("connections"), "with more than %d tunnels, overlaps between them are not looked for", maxCompared)
		return
	}
	for i, b := range claims {
		for _, a := range claims[:i] {
			l, okL := firstOverlap(a.tunnel.Local, b.tunnel.Local)
			r, okR := firstOverlap(a.tunnel.Remote, b.tunnel.Remote)
			if !okL || !okR {
				continue
			}
			n := d.at("connections." + b.conn.Name + ".tunnels." + b.tunnel.Name + ".remote")
			same := slices.Equal(a.tunnel.Local, b.tunnel.Local) && slices.Equal(a.tunnel.Remote, b.tunnel.Remote)
			message := fmt.Sprintf("tunnel %s/%s overlaps %s/%s: both claim %s to %s",
				b.conn.Name, b.tunnel.Name, a.conn.Name, a.tunnel.Name, l, r)
			p := n.Problem("%s", message)
			other := d.at("connections." + a.conn.Name + ".tunnels." + a.tunnel.Name + ".remote")
			e := other.Source.Excerpt(other.Pos)
			p.Earlier = &e
			if same {
				d.errs = append(d.errs, p)
			} else {
				p.Message += "; the more specific one gets it"
				d.warnings = append(d.warnings, p)
			}
		}
	}
}

func firstOverlap(a, b []ipsec.Selector) (ipsec.Selector, bool) {
	for _, x := range a {
		for _, y := range b {
			if s, ok := x.Intersect(y); ok {
				return s, true
			}
		}
	}
	return ipsec.Selector{}, false
}

func shareFamily(a, b []ipsec.Selector) bool {
	return slices.ContainsFunc(a, func(x ipsec.Selector) bool {
		return slices.ContainsFunc(b, func(y ipsec.Selector) bool { return x.Is4() == y.Is4() })
	})
}

func addressesShareFamily(a, b []netip.Prefix) bool {
	return slices.ContainsFunc(a, func(x netip.Prefix) bool {
		return slices.ContainsFunc(b, func(y netip.Prefix) bool { return x.Addr().Is4() == y.Addr().Is4() })
	})
}

// ProposalText prints proposals as a configuration has them.
func ProposalText(proposals []ipsec.Proposal) string {
	words := make([]string, len(proposals))
	for i, p := range proposals {
		words[i] = suite.ProposalString(p)
	}
	return strings.Join(words, ", ")
}
