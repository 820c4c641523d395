package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"caponier/internal/control"
	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/pki"
)

// byGM reports whether the attempt was by GM/T 0022: the exchanges of IKEv2 begin at
// 34.
func (x *explainer) byGM() bool {
	if x.c != nil {
		return x.c.GM != nil
	}
	e := x.a.Evidence.Exchange
	return e != 0 && e < message.IKESAInit
}

// gm explains a failure of GM/T 0022. Devices read that standard differently, so that
// what may cure it is often a setting of how this end writes.
func (x *explainer) gm() {
	e := &x.a.Evidence
	if e.Exchange != 0 {
		x.f.Stage = isakmp.ExchangeType(e.Exchange).String()
	}
	x.choose(func(*conf.Connection) int { return 0 })
	curable, isCurable := as[*fault.Curable](x.a.Err)
	if isCurable {
		x.f.Cause = curable.Err.Error()
	}
	switch x.a.Code {
	case CodeNoProposal:
		x.gmOffers()
	case CodeTS:
		x.selectors()
		if !e.ByPeer && len(e.LocalTS) > 0 && x.f.Tunnel != "" {
			x.f.Cause = x.a.Err.Error() // and not one that is narrowed
		}
	case CodeAuthentication:
		x.gmAuthentication()
	case CodeNoAnswer:
		x.gmSilence()
	case "timeout":
		x.peer("its log says how far it came with main mode")
	case CodeNotUnique:
		x.refusedHere()
		x.identities()
		x.here("set %s to replace or never, or disconnect the older one", x.key("unique"))
	default:
		if e.ByPeer {
			x.peer("its log says why it refused")
		}
	}
	if isCurable && x.c != nil {
		for _, setting := range curable.Try {
			if key, value, ok := strings.Cut(setting, ": "); ok {
				x.here("set %s to %s", x.key("gm."+key), value)
			}
		}
		if len(curable.Try) > 0 {
			x.f.Nearest = curable.Why
		}
	}
}

// gmOffers shows both offers side by side.
func (x *explainer) gmOffers() {
	e := &x.a.Evidence
	x.refusedHere()
	x.f.Ours.Proposals, x.f.Theirs.Proposals = e.Offered, e.Heard
	what, key := "the IKE SA", "proposals"
	if isakmp.ExchangeType(e.Exchange) == isakmp.QuickMode {
		what = "the tunnel"
		if child := x.child(); child != nil {
			x.f.Tunnel = child.Name
			what, key = "tunnel "+child.Name, "tunnels."+child.Name+".proposals"
			if x.f.Theirs.Local = e.LocalTS; len(e.LocalTS) > 0 {
				x.f.Theirs.Remote = e.RemoteTS
				x.f.Ours.Local, x.f.Ours.Remote = child.Selectors(x.a.Local.Addr(), x.a.Remote.Addr())
			}
		}
	}
	ours, theirs, ok := apart(e.Offered, e.Heard)
	if !ok {
		x.f.Cause = fmt.Sprintf("the peer accepts none of our proposals for %s; it does not say what it would accept", what)
		x.peer("accept %s", strings.Join(e.Offered, ", or "))
		return
	}
	x.f.Cause = fmt.Sprintf("for %s the peer offers %s where this gateway has %s", what, orNothing(theirs), orNothing(ours))
	x.peer("set it to %s", strings.Join(e.Offered, ", or "))
	x.here("see whether %s can have what the peer offers", x.key(key))
}

// apart are the words in which the two offers that have most in common differ.
func apart(ours, theirs []string) (ownWords, peerWords []string, ok bool) {
	best := -1
	for _, o := range ours {
		for _, t := range theirs {
			a, b := strings.Split(o, ", "), strings.Split(t, ", ")
			not := func(list []string) func(string) bool {
				return func(w string) bool { return slices.Contains(list, w) }
			}
			onlyA, onlyB := slices.DeleteFunc(slices.Clone(a), not(b)), slices.DeleteFunc(slices.Clone(b), not(a))
			if both := len(a) - len(onlyA); both > best {
				best, ownWords, peerWords = both, onlyA, onlyB
			}
		}
	}
	return ownWords, peerWords, best >= 0
}

func orNothing(words []string) string {
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, ", ")
}

// gmAuthentication explains why one end did not believe the other. Whatever was
// wrong, the peer hears the same.
func (x *explainer) gmAuthentication() {
	e := &x.a.Evidence
	x.identities()
	if e.ByPeer {
		x.f.Code = CodeRefused
		x.f.Cause = fmt.Sprintf("the peer refused our authentication as %s, and does not say why", x.f.Ours.ID)
		x.peer("its log says what it refused: it must trust the issuer of both our certificates, and expect %s", x.f.Ours.ID)
		return
	}
	x.f.RefusedBy = control.Here
	if x.c == nil {
		return
	}
	certError, isCert := as[*pki.Error](x.a.Err)
	switch {
	case isCert:
		x.certificate(certError)
	case isakmp.ExchangeType(e.Exchange) == isakmp.QuickMode:
		x.peer("its documents may say what its hashes of quick mode cover: please report it")
	case x.a.RemoteID.Data != "" && !x.c.Remote.ID.Permits(x.a.RemoteID):
		x.wrongPeer()
	default:
		x.peer("see that its keys belong to its certificates, and that it has our encryption certificate")
	}
}

// gmSilence explains a peer that does not answer.
func (x *explainer) gmSilence() {
	local, remote := x.a.Local.Addr(), x.a.Remote
	switch isakmp.ExchangeType(x.a.Evidence.Exchange) {
	case isakmp.MainMode:
		x.here("check that %s is the peer's address and that a route leads to it", x.key("remote.address"))
		x.peer("start its gateway, and let UDP %d from %s pass on the way, in both directions", remote.Port(), local)
	case isakmp.QuickMode:
		x.peer("its log says what is wrong with our quick mode")
	default:
		x.f.Cause = fmt.Sprintf("%s stopped answering while the connection was up", remote)
		x.peer("check that it runs and is reached: it has lost its state, its address or its network")
	}
}
