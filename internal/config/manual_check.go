package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"caponier/internal/ipsec"
	"caponier/internal/keystore"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// validateManual checks the section manual, after all files are read.
func (d *decoder) validateManual(checks *Checks) {
	m := &d.cfg.Manual
	slices.SortFunc(m.Associations, func(a, b *Association) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Policies, func(a, b *ManualPolicy) int { return cmp.Compare(a.Name, b.Name) })
	const associations, policies = "manual.associations.", "manual.policies."
	serves := map[uint32]bool{}
	spis := map[ipsec.SAID]*node{}
	for _, a := range m.Associations {
		path := associations + a.Name
		d.checkAssociation(a, path, d.cfg.Gateway.DataPlane)
		if checks != nil {
			d.readKeys(a, path)
		}
		serves[a.ReqID] = serves[a.ReqID] || a.Direction == ipsec.Out
		if n := d.at(path + ".spi"); a.SPI != 0 {
			if first := spis[a.ID()]; first != nil {
				d.duplicate(n, first, fmt.Sprintf("SPI %s is taken by another association of this direction and protocol", a.SPI))
			} else {
				spis[a.ID()] = n
			}
		}
	}
	d.sharedKeys(associations)
	for _, p := range m.Policies {
		path := policies + p.Name
		d.checkPolicy(p, path, d.cfg.Gateway.DataPlane)
		if first := d.keys["policy "+p.Name]; first != nil {
			d.duplicate(d.section(path), first, fmt.Sprintf("policy %q is defined twice", p.Name))
		}
		if p.Action == ipsec.Protect && p.ReqID != 0 && !serves[p.ReqID] {
			d.warnf(d.at(path+".reqid"), "no outbound association has reqid %d: what the policy protects is dropped", p.ReqID)
		}
	}
	for _, a := range m.Associations {
		served := slices.ContainsFunc(m.Policies, func(p *ManualPolicy) bool { return p.ReqID == a.ReqID })
		if a.Direction == ipsec.Out && a.ReqID != 0 && !served {
			d.warnf(d.at(associations+a.Name+".reqid"), "no policy has reqid %d: nothing is sent through the association", a.ReqID)
		}
	}
	d.manualReqIDs(associations, policies)
}

// manualReqIDs keeps manual keys and IKE apart: traffic of a tunnel is not to
// find its way into an association that was keyed by hand.
func (d *decoder) manualReqIDs(associations, policies string) {
	tunnels := map[uint32]*node{}
	for _, c := range d.cfg.Connections {
		for _, t := range c.Tunnels {
			if t.ReqID != 0 {
				tunnels[t.ReqID] = d.at("connections." + c.Name + ".tunnels." + t.Name + ".reqid")
			}
		}
	}
	taken := func(path string, id uint32) {
		if other := tunnels[id]; other != nil {
			d.duplicate(d.at(path+".reqid"), other, fmt.Sprintf("reqid %d belongs to a tunnel already", id))
		}
	}
	for _, a := range d.cfg.Manual.Associations {
		taken(associations+a.Name, a.ReqID)
	}
	for _, p := range d.cfg.Manual.Policies {
		taken(policies+p.Name, p.ReqID)
	}
}

// checkAssociation checks what the keys of one association mean together.
func (d *decoder) checkAssociation(a *Association, path string, plane DataPlane) {
	d.checkAlgorithms(a, path)
	d.checkSelectors(a, path)
	if a.LocalAddress.IsValid() && a.RemoteAddress.IsValid() {
		switch {
		case a.LocalAddress.BitLen() != a.RemoteAddress.BitLen():
			d.errorf(d.at(path+".remote-address"), "local and remote address are of different families")
		case a.LocalAddress == a.RemoteAddress:
			d.errorf(d.at(path+".remote-address"), "both ends of the association have the same address")
		}
	}
	switch {
	case a.Encap && a.Protocol == ipsec.AH:
		d.errorf(d.at(path+".encapsulation"), "AH does not travel in UDP (RFC 3948 is for ESP alone)")
	case a.Encap && a.RemotePort == 0 && !d.set(path+".remote-port"):
		a.RemotePort = natPort
		d.defaulted(path+".remote-port", "4500")
	case !a.Encap && d.set(path+".remote-port"):
		d.errorf(d.keys[path+".remote-port"], "remote-port has no meaning without encapsulation: udp")
	}
	for _, l := range []struct {
		key        string
		soft, hard uint64
	}{
		{"lifetime", uint64(a.Lifetime.Soft.Time), uint64(a.Lifetime.Hard.Time)},
		{"lifetime-bytes", a.Lifetime.Soft.Bytes, a.Lifetime.Hard.Bytes},
		{"lifetime-packets", a.Lifetime.Soft.Packets, a.Lifetime.Hard.Packets},
	} {
		if l.hard != 0 && l.soft >= l.hard {
			d.errorf(d.at(path+".soft-"+l.key), "soft-%s must end before hard-%[1]s, or it warns of nothing", l.key)
		}
	}
	if a.Mode == ipsec.Transport {
		for _, k := range outerKeys {
			if d.set(path + "." + k.name) {
				d.errorf(d.keys[path+"."+k.name], "%s has no meaning in transport mode: there is no outer header", k.name)
			}
		}
	}
	if a.Direction == ipsec.Out && d.set(path+".replay-window") {
		d.errorf(d.keys[path+".replay-window"], "replay-window has no meaning for direction out: the receiver keeps it")
	}
	switch plane {
	case DataPlaneUserspace:
		for _, k := range kernelKeys {
			d.kernelOnly(path + "." + k.name)
		}
	case DataPlaneKernel:
		d.userspaceOnly(path, a.ReplayWindow, a.Outer, a.Fit)
	case AnyDataPlane:
	}
}

// kernelOnly refuses a key that the user-space plane cannot follow.
func (d *decoder) kernelOnly(path string) {
	if d.set(path) {
		name := path[strings.LastIndexByte(path, '.')+1:]
		d.errorf(d.keys[path], "%s is for dataplane: kernel; the user-space data plane has nothing like it", name)
	}
}

// checkAlgorithms settles which algorithms protect, and whether manual keys may
// be used with them.
func (d *decoder) checkAlgorithms(a *Association, path string) {
	n := d.nodes[path+".algorithms"]
	if n == nil || a.Algorithms == "" {
		return
	}
	parse := suite.ParseESP
	if a.Protocol == ipsec.AH {
		parse = suite.ParseAH
	}
	p, err := parse(a.Algorithms)
	if err != nil {
		d.wrongWord(n, a.Algorithms, err)
		return
	}
	encr, integ := p.Of(ipsec.TypeEncr), p.Of(ipsec.TypeInteg)
	switch {
	case len(p.Of(ipsec.TypeKE)) > 0:
		d.errorf(n, "a key exchange method has no place here: the keys are made by hand")
		return
	case slices.Contains(p.Of(ipsec.TypeESN), ipsec.Transform{Type: ipsec.TypeESN, ID: ipsec.ESNYes}):
		d.errorf(n, "extended sequence numbers are a key of their own: esn: yes")
		return
	case len(encr) > 1 || len(integ) > 1:
		d.errorf(n, "nothing is negotiated here: name one algorithm of each kind")
		return
	}
	if len(encr) == 1 {
		a.Encr = encr[0]
	}
	if len(integ) == 1 {
		a.Integ = integ[0]
	}
	for _, t := range []ipsec.Transform{a.Encr, a.Integ} {
		if why, weak := suite.Weak(t); weak {
			d.warnf(n, "%s is weak: %s", suite.Name(t), why)
		}
	}
	switch {
	case !countsNonces(a.Encr):
		if a.CounterMode {
			d.errorf(d.at(path+".unsafe-counter-mode"), "%s is no counter mode, and needs no permission", a.Algorithms)
		}
	case !a.CounterMode:
		d.errorf(n, "%s must not be used with manual keys: one nonce that is used twice, as after a restart, gives the key stream away "+
			"(RFC 8221, Section 3; RFC 4106, Section 2); use a block mode, such as aes256-sha256, or IKE", suite.Name(a.Encr))
	default:
		d.warnf(n, "%s with manual keys is safe only while no nonce is used twice: never use these keys again, at either end, "+
			"after the state directory was lost, copied or restored (RFC 8221, Section 3)", suite.Name(a.Encr))
	}
}

// countsNonces reports whether encr is a counter mode: CTR itself, or one that
// combines encryption with integrity.
func countsNonces(encr ipsec.Transform) bool {
	if encr.ID == ipsec.EncrAESCTR {
		return true
	}
	_, _, err := suite.KeyLengths(encr, ipsec.Transform{})
	return encr != (ipsec.Transform{}) && err == nil
}

// checkSelectors settles which packets the association takes.
func (d *decoder) checkSelectors(a *Association, path string) {
	for _, s := range []struct {
		key  string
		list *[]ipsec.Selector
		addr netip.Addr
	}{{"local", &a.Local, a.LocalAddress}, {"remote", &a.Remote, a.RemoteAddress}} {
		switch {
		case d.set(path + "." + s.key):
		case a.Mode == ipsec.Tunnel:
			d.errorf(d.section(path), "%s is missing: which packets the association carries is never guessed", s.key)
		case s.addr.IsValid():
			*s.list = []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(s.addr, s.addr.BitLen()))}
			d.defaulted(path+"."+s.key, s.addr.String())
		}
		// Around a tunnel of ESP, AH in transport mode has the selectors of the tunnel.
		if a.Mode != ipsec.Transport || a.Protocol == ipsec.AH || !s.addr.IsValid() {
			continue
		}
		host := ipsec.FromPrefix(netip.PrefixFrom(s.addr, s.addr.BitLen()))
		for _, x := range *s.list {
			if !host.Covers(x) {
				d.errorf(d.at(path+"."+s.key), "transport mode is between the two ends: %s must lie within %s", x, s.addr)
			}
		}
	}
	if len(a.Local) > 0 && len(a.Remote) > 0 && !shareFamily(a.Local, a.Remote) {
		d.errorf(d.at(path+".remote"), "local and remote of the association are of different address families")
	}
}

// KeyLengths returns the octets of key that the association takes for encryption,
// with the salt where the algorithm has one, and for integrity.
func (a *Association) KeyLengths() (encr, integ int) {
	e := a.Encr
	if a.Protocol == ipsec.AH {
		e = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrNull}
	}
	encr, integ, err := suite.KeyLengths(e, a.Integ)
	if err != nil {
		return 0, 0 // the algorithms have a problem already
	}
	return encr, integ
}

// readKeys reads the keys of an association of a file.
func (d *decoder) readKeys(a *Association, path string) {
	if a.Encr == (ipsec.Transform{}) && a.Integ == (ipsec.Transform{}) {
		return // the algorithms have a problem already
	}
	needs := a.keyNeeds()
	a.EncrKey = d.saKey(path, needs[0], a.EncrKeyFile)
	a.IntegKey = d.saKey(path, needs[1], a.IntegKeyFile)
}

func (d *decoder) saKey(path string, k KeyNeed, file string) secret.Key {
	name := path + "." + k.Use + "-key-file"
	switch {
	case k.Octets == 0:
		if d.set(name) {
			d.errorf(d.keys[name], "%s-key-file has no meaning: the algorithms take no key for it", k.Use)
		}
		return secret.Key{}
	case file == "":
		if d.keys[name] == nil {
			d.errorf(d.section(path), "%s-key-file is missing: %s takes a key of %d bits", k.Use, k.Algorithm, 8*k.Octets)
		}
		return secret.Key{}
	}
	n := d.at(name)
	key, err := keystore.ReadSAKey(file)
	if err == nil {
		err = checkKey(key, k)
	}
	if err != nil {
		d.errorf(n, "%s: %v", file, err)
		return secret.Key{}
	}
	if uniform(key) {
		d.warnf(n, "%s: all octets of the key are the same: openssl rand -hex %d makes a better one", file, k.Octets)
	}
	return key
}

func algorithmName(t ipsec.Transform) string {
	if t == (ipsec.Transform{}) {
		return "none"
	}
	return suite.Name(t)
}

// checkKey compares the length of a key with what its algorithm takes.
func checkKey(key secret.Key, k KeyNeed) error {
	if key.Len() == k.Octets {
		return nil
	}
	return fmt.Errorf("the %s key of %s has %d bits, and this one %d: openssl rand -hex %d makes one",
		k.Use, k.Algorithm, 8*k.Octets, 8*key.Len(), k.Octets)
}

func uniform(key secret.Key) bool {
	b := key.Bytes()
	return len(b) > 0 && !slices.ContainsFunc(b, func(x byte) bool { return x != b[0] })
}

// sharedKeys reports keys that serve two associations. For a counter mode that
// is the end of it; for others an attacker has twice the material.
func (d *decoder) sharedKeys(associations string) {
	list := d.cfg.Manual.Associations
	for i, b := range list {
		for _, a := range list[:i] {
			if b.EncrKey.IsZero() || !a.EncrKey.Equal(b.EncrKey) {
				continue
			}
			n := d.at(associations + b.Name + ".encryption-key-file")
			if countsNonces(a.Encr) || countsNonces(b.Encr) {
				d.errorf(n, "association %s has the same key: with a counter mode, both would use the same nonces", a.Name)
			} else {
				d.warnf(n, "association %s has the same key: give each a key of its own", a.Name)
			}
		}
	}
}

// checkPolicy checks what the keys of one manual policy mean together.
func (d *decoder) checkPolicy(p *ManualPolicy, path string, plane DataPlane) {
	protecting := []string{"reqid", "protocol", "mode", "mark", "if-id"}
	if p.Action != ipsec.Protect {
		for _, k := range protecting {
			if d.set(path + "." + k) {
				d.errorf(d.keys[path+"."+k], "%s has no meaning with action %s", k, p.Action)
			}
		}
	} else {
		if !d.set(path+".reqid") && d.set(path+".action") {
			d.errorf(d.section(path), "reqid is missing: it names the associations that protect")
		}
		if !d.set(path + ".protocol") {
			p.Protocol = ipsec.ESP
			d.defaulted(path+".protocol", "esp")
		}
		if !d.set(path + ".mode") {
			d.defaulted(path+".mode", "tunnel")
		}
	}
	if plane == DataPlaneUserspace {
		d.kernelOnly(path + ".mark")
		d.kernelOnly(path + ".if-id")
	}
	if len(p.Local) > 0 && len(p.Remote) > 0 && !shareFamily(p.Local, p.Remote) {
		d.errorf(d.at(path+".remote"), "local and remote of the policy are of different address families")
	}
}

// wrongWord reports a word of a proposal, with the caret under the word itself
// where the item is on one line.
func (d *decoder) wrongWord(item *node, text string, err error) {
	var wrong *suite.WordError
	if !errors.As(err, &wrong) {
		d.errorf(item, "%v", err)
		return
	}
	spot := *item
	if i := wordIndex(text, wrong.Word); i >= 0 {
		spot.Pos = item.Source.Find(item.Pos, text, i)
	}
	d.errorf(&spot, "%q %s", wrong.Word, wrong.Reason).Suggestion = wrong.Nearest
}
