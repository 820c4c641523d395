// Package diagnose explains why a connection does not come up, or carries
// nothing: from what a failed negotiation showed and what this gateway is
// configured for, it finds a stable code, the cause in words, the nearest match
// and the smallest edit at either end that would cure it. It keeps what it found
// in a Book, and traces packets through the gateway.
package diagnose

import (
	"errors"
	"fmt"
	"net/netip"

	"caponier/internal/control"
	"caponier/internal/ike"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// explainer makes one finding.
type explainer struct {
	a    ike.Attempt
	c    *conf.Connection // the connection it is about, or the nearest; or nil
	f    control.Finding
	peer func(edit string, args ...any) // adds a cure at the peer
	here func(edit string, args ...any)
}

// Explain says why an attempt failed. all are the connections of the
// configuration, among which the nearest is looked for where no connection
// allows the peer's address.
func Explain(a ike.Attempt, all []*conf.Connection) control.Finding {
	x := &explainer{a: a, c: a.Connection}
	cure := func(at control.Place) func(string, ...any) {
		return func(edit string, args ...any) {
			x.f.Cures = append(x.f.Cures, control.Cure{At: at, Edit: fmt.Sprintf(edit, args...)})
		}
	}
	x.here, x.peer = cure(control.Here), cure(control.AtPeer)
	x.f = control.Finding{
		Code: a.Code, Tunnel: a.Tunnel, Cause: a.Err.Error(), First: a.When, Last: a.When, Count: 1,
		Local: a.Local, Remote: a.Remote, Cures: []control.Cure{},
	}
	if e := a.Evidence.Exchange; e != 0 {
		x.f.Stage = e.String()
	}
	if a.Evidence.ByPeer {
		x.f.RefusedBy = control.AtPeer
	}
	x.f.Theirs.Vendors = a.Vendors
	switch {
	case a.Code == CodeVersion || a.Code == CodeNoConnection || a.Code == CodeLimit || a.Code == CodeQueueFull || !x.byGM():
		x.byCode(all)
	default:
		x.gm()
	}
	if x.c != nil {
		x.f.Connection = x.c.Name
	}
	return x.f
}

// byCode explains a failure by its code.
func (x *explainer) byCode(all []*conf.Connection) {
	a := &x.a
	switch a.Code {
	case CodeNoProposal:
		x.noProposal()
	case CodeKE:
		x.keyExchange()
	case CodeTS, "single-pair-required":
		x.selectors()
	case CodeMode:
		x.mode()
	case CodeThroughNAT:
		x.throughNAT()
	case CodeAggfrag:
		x.aggfrag()
	case CodeAuthentication:
		x.authentication()
	case CodeNoAnswer:
		x.silence()
	case "timeout":
		x.authLost()
	case CodeVersion, "invalid-major-version":
		x.version()
	case CodeNoConnection:
		x.noConnection(all)
	case CodeNotUnique:
		x.refusedHere()
		x.identities()
		x.here("set %s to replace or never, or disconnect the older one", x.key("unique"))
	case CodeLimit:
		x.refusedHere()
		x.peer("offer fewer proposals, or send a shorter chain of certificates")
	case CodeQueueFull:
		x.refusedHere()
		x.here("see caponier status for requests that wait, and spread the tunnels over more connections")
	default:
		if a.Evidence.ByPeer {
			x.peer("its log says why it answered %s", a.Evidence.Notify)
		}
	}
}

// key is where something stands in the configuration.
func (x *explainer) key(path string) string { return "connections." + x.c.Name + "." + path }

// choose takes the candidate that the attempt fits best, by what penalty says of
// each, where no connection is chosen yet.
func (x *explainer) choose(penalty func(*conf.Connection) int) {
	if x.c != nil {
		return
	}
	best := 0
	for _, c := range x.a.Candidates {
		if p := penalty(c); x.c == nil || p < best {
			x.c, best = c, p
		}
	}
}

func (x *explainer) refusedHere() {
	if !x.a.Evidence.ByPeer {
		x.f.RefusedBy = control.Here
	}
}

// identities shows who both ends are and take each other for.
func (x *explainer) identities() {
	name := func(id rules.Identity) string {
		if id == (rules.Identity{}) {
			return ""
		}
		return id.String()
	}
	x.f.Ours.ID, x.f.Theirs.ID = name(x.a.LocalID), name(x.a.RemoteID)
	x.f.Theirs.Wants = name(x.a.Evidence.Asked)
	if x.c != nil {
		if x.f.Ours.ID == "" {
			if id, err := x.c.LocalIdentity(x.a.Local.Addr()); err == nil {
				x.f.Ours.ID = id.String()
			}
		}
		x.f.Ours.Wants = name(x.c.Remote.ID)
		x.f.Ours.Auth = authWord(x.c.Local.Auth)
	}
	switch m := x.a.Evidence.Method; m {
	case 0:
	case message.AuthSharedKey:
		x.f.Theirs.Auth = authWord(conf.AuthPSK)
	default:
		x.f.Theirs.Auth = authWord(conf.AuthCert)
	}
	x.f.Theirs.Certificates = describeCertificates(x.a.Evidence.Certificates)
	switch {
	case x.c == nil:
	case x.c.GM != nil:
		x.f.Ours.Certificates = describeCertificates([][]byte{x.c.GM.SignCertificate, x.c.GM.EncryptCertificate})
	case x.c.Local.Auth == conf.AuthCert:
		x.f.Ours.Certificates = describeCertificates(x.c.Local.Certificates)
	}
}

func authWord(k conf.AuthKind) string {
	if k == conf.AuthPSK {
		return "psk"
	}
	return "cert"
}

// silence explains a peer that does not answer, by how far it had answered.
func (x *explainer) silence() {
	remote := x.a.Remote
	switch e := x.a.Evidence.Exchange; {
	case e == message.IKESAInit:
		x.f.Cause = fmt.Sprintf("nothing at all came back from %s", remote)
		x.here("check that %s is the peer's address and that a route leads to it", x.key("remote.address"))
		x.peer("start its gateway, and let UDP %d from %s pass on the way, in both directions", remote.Port(), x.a.Local.Addr())
	case e == message.IKEAuth && remote.Port() == 4500:
		x.f.Code = CodePort4500
		x.f.Cause = fmt.Sprintf("%s answered IKE_SA_INIT on UDP 500, and does not answer IKE_AUTH on UDP 4500", remote.Addr())
		x.peer("let UDP 4500 pass on the way from %s, in both directions", x.a.Local.Addr())
	case e == message.IKEAuth:
		x.f.Code = CodeAuthLost
		x.f.Cause = fmt.Sprintf("%s answered IKE_SA_INIT, and does not answer IKE_AUTH: it is longer, and may travel in IP fragments that are dropped on the way", remote)
		x.peer("let IP fragments pass on the way from %s, in both directions", x.a.Local.Addr())
		x.peer("switch on fragmentation of IKE messages (RFC 7383), which this gateway can do")
		x.here("shorten the chain in %s, or use ECDSA certificates", x.key("local.cert"))
	default:
		x.f.Cause = fmt.Sprintf("%s stopped answering while the connection was up", remote)
		x.peer("check that it runs and is reached: it has lost its state, its address or its network")
	}
}

// authLost explains a peer that began and did not go on.
func (x *explainer) authLost() {
	if x.a.Initiator {
		return
	}
	x.choose(func(*conf.Connection) int { return 0 })
	x.f.Code, x.f.Stage = CodeAuthLost, message.IKEAuth.String()
	x.f.Cause = fmt.Sprintf("%s was answered in IKE_SA_INIT, and its IKE_AUTH never came", x.a.Remote)
	x.peer("if it says that nothing came back, let answers from %s pass to it; otherwise let UDP 4500 and IP fragments pass on the way", x.a.Local.Addr())
}

func (x *explainer) version() {
	x.f.Code = CodeVersion
	x.choose(func(*conf.Connection) int { return 0 })
	if x.a.Initiator || x.f.RefusedBy == control.AtPeer {
		x.f.RefusedBy = control.AtPeer
	} else {
		x.f.RefusedBy = control.Here
	}
	x.peer("set it to IKEv2 for %s", x.a.Local.Addr())
}

// noConnection explains a call from an address that nothing allows. The nearest
// connection is the one whose remote address has the longest prefix in common.
func (x *explainer) noConnection(all []*conf.Connection) {
	from := x.a.Remote.Addr()
	x.f.RefusedBy = control.Here
	x.f.Cause = fmt.Sprintf("no connection allows a peer at %s that calls %s", from, x.a.Local.Addr())
	var near *conf.Connection
	var nearAddr netip.Prefix
	most := -1
	for _, c := range all {
		for _, p := range c.RemoteAddrs {
			if n := commonBits(p.Addr(), from); n > most {
				near, nearAddr, most = c, p, n
			}
		}
	}
	if near == nil {
		x.here("add a connection with remote.address %s", from)
		return
	}
	was := nearAddr.String()
	if nearAddr.IsSingleIP() {
		was = nearAddr.Addr().String()
	}
	x.f.Nearest = fmt.Sprintf("connection %s allows %s", near.Name, was)
	if nearAddr.Contains(from) {
		x.f.Nearest += ", but not that this gateway is called at " + x.a.Local.Addr().String()
		x.here("add %s to connections.%s.local.address", x.a.Local.Addr(), near.Name)
		return
	}
	x.here("add %s to connections.%s.remote.address, or a connection for it, if it is a peer of yours", from, near.Name)
	x.peer("call from %s", was)
}

// commonBits is how many leading bits two addresses have in common, or -1 for
// different families.
func commonBits(a, b netip.Addr) int {
	if a.BitLen() != b.BitLen() {
		return -1
	}
	for n := a.BitLen(); n > 0; n-- {
		if p, err := a.Prefix(n); err == nil && p.Contains(b) {
			return n
		}
	}
	return 0
}

// isChild reports whether the attempt was for a tunnel.
func (x *explainer) isChild() bool {
	if x.a.Tunnel != "" || len(x.a.Evidence.LocalTS) > 0 {
		return true
	}
	for _, p := range x.a.Evidence.Proposals {
		if p.Protocol == message.ProtocolESP || p.Protocol == message.ProtocolAH {
			return true
		}
	}
	return false
}

// child is the tunnel that the attempt was for, or the one whose selectors are
// nearest to the peer's; nil where the connection has none.
func (x *explainer) child() *conf.Child {
	var best *conf.Child
	most := -1
	for _, c := range x.c.Children {
		if c.Name == x.a.Tunnel {
			return c
		}
		local, remote := c.Selectors(x.a.Local.Addr(), x.a.Remote.Addr())
		if n := meeting(local, x.a.Evidence.LocalTS) + meeting(remote, x.a.Evidence.RemoteTS); n > most {
			best, most = c, n
		}
	}
	return best
}

// meeting is how near selectors come: 1000 where they meet, else by the leading
// bits that their addresses have in common.
func meeting(a, b []ipsec.Selector) int {
	if len(rules.Narrow(a, b)) > 0 {
		return 1000
	}
	most := -1
	for _, s := range a {
		for _, t := range b {
			most = max(most, commonBits(s.First, t.First))
		}
	}
	return most
}

// as is errors.AsType for the pointer types of errors.
func as[T error](err error) (T, bool) { return errors.AsType[T](err) }
