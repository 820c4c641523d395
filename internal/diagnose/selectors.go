package diagnose

import (
	"fmt"
	"strings"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// selectors explains that the traffic selectors of a tunnel were not acceptable.
// Both ends' are shown from this gateway's view.
func (x *explainer) selectors() {
	x.f.Code = CodeTS
	x.refusedHere()
	if x.c == nil {
		return
	}
	child := x.child()
	if child == nil {
		return
	}
	e := &x.a.Evidence
	local, remote := child.Selectors(x.a.Local.Addr(), x.a.Remote.Addr())
	x.f.Tunnel = child.Name
	x.f.Ours.Local, x.f.Ours.Remote = local, remote
	x.f.Theirs.Local, x.f.Theirs.Remote = e.LocalTS, e.RemoteTS
	keys := func(side string) string { return x.key("tunnels." + child.Name + "." + side) }
	if len(e.LocalTS) == 0 && len(e.RemoteTS) == 0 {
		x.f.Cause = fmt.Sprintf("the peer does not protect %s <-> %s, and does not say what it would", list(local), list(remote))
		x.peer("protect %s on its side and %s on ours", list(remote), list(local))
		x.here("make %s and %s the mirror image of the peer's", keys("local"), keys("remote"))
		return
	}
	if x.a.Initiator && x.a.Tunnel != "" {
		x.f.Cause = fmt.Sprintf("the peer answered %s <-> %s, which is more than was proposed", list(e.LocalTS), list(e.RemoteTS))
		x.peer("answer no more than %s on its side and %s on ours", list(remote), list(local))
		x.here("make %s and %s the mirror image of the peer's", keys("local"), keys("remote"))
		return
	}
	var apart []string
	near := "tunnel " + child.Name + " is nearest:"
	for _, side := range []struct {
		name, at     string
		ours, theirs []ipsec.Selector
	}{
		{"local", "on this side", local, e.LocalTS},
		{"remote", "behind the peer", remote, e.RemoteTS},
	} {
		if len(rules.Narrow(side.theirs, side.ours)) > 0 {
			near += fmt.Sprintf(" %s fits;", side.name)
			continue
		}
		apart = append(apart, fmt.Sprintf("%s the peer wants %s and tunnel %s has %s", side.at, list(side.theirs), child.Name, list(side.ours)))
		near += fmt.Sprintf(" %s does not;", side.name)
		x.here("add %s to %s", list(side.theirs), keys(side.name))
	}
	x.f.Cause = strings.Join(apart, "; ")
	x.f.Nearest = strings.TrimSuffix(near, ";")
	x.peer("propose %s on its side and %s on ours", list(remote), list(local))
	if len(apart) == 2 {
		// One edit must do: both together are one.
		x.f.Cures = x.f.Cures[2:]
		x.here("add %s to %s and %s to %s, or a tunnel with both", list(e.LocalTS), keys("local"), list(e.RemoteTS), keys("remote"))
	}
	if len(apart) == 0 {
		x.f.Cause = x.a.Err.Error()
	}
}

// mode explains that the ends take different modes for a tunnel.
func (x *explainer) mode() {
	x.refusedHere()
	if x.c == nil {
		return
	}
	child := x.child()
	if child == nil {
		return
	}
	x.f.Tunnel = child.Name
	ours, theirs := child.Mode, ipsec.Transport
	if ours == ipsec.Transport {
		theirs = ipsec.Tunnel
	}
	if x.a.Initiator {
		x.f.Cause = fmt.Sprintf("the peer set up %s mode, and tunnel %s is in %s mode", theirs, child.Name, ours)
	} else {
		x.f.Cause = fmt.Sprintf("the peer asks for %s mode, and tunnel %s is in %s mode", theirs, child.Name, ours)
	}
	x.here("set %s to %s", x.key("tunnels."+child.Name+".mode"), theirs)
	x.peer("set the mode of the tunnel to %s", ours)
}

// aggfrag explains that the ends do not agree on AGGFRAG mode.
func (x *explainer) aggfrag() {
	x.refusedHere()
	if x.c == nil {
		return
	}
	child := x.child()
	if child == nil {
		return
	}
	x.f.Tunnel = child.Name
	if child.Aggfrag == ipsec.AggfragOff {
		x.here("set %s to on", x.key("tunnels."+child.Name+".aggfrag"))
		return
	}
	x.here("set %s to on, which does without it where the peer does not agree, or to off", x.key("tunnels."+child.Name+".aggfrag"))
	x.peer("let the tunnel use AGGFRAG mode (RFC 9347; strongSwan: mode = iptfs), without congestion control")
	if child.Pace.LossLimit != 0 {
		x.here("or leave %s out: the reports that it asks for need a constant rate at the peer, too", x.key("tunnels."+child.Name+".iptfs.loss-limit"))
	}
}

// throughNAT explains that AH cannot pass a NAT.
func (x *explainer) throughNAT() {
	x.refusedHere()
	if x.c == nil {
		return
	}
	child := x.child()
	if child == nil {
		return
	}
	x.f.Tunnel = child.Name
	x.here("set %s to esp, with proposals for it", x.key("tunnels."+child.Name+".protocol"))
	x.peer("set the protocol of the tunnel to esp too, or take the NAT out of the way")
}

// otherProtocol explains that the peer asks for another protocol than the
// tunnel's, and reports whether that is so.
func (x *explainer) otherProtocol(child *conf.Child) bool {
	names := map[message.ProtocolID]ipsec.Protocol{message.ProtocolESP: ipsec.ESP, message.ProtocolAH: ipsec.AH}
	var theirs ipsec.Protocol
	for _, p := range x.a.Evidence.Proposals {
		if theirs = names[p.Protocol]; theirs == child.Protocol {
			return false
		}
	}
	if theirs == 0 {
		return false
	}
	x.f.Cause = fmt.Sprintf("the peer asks for %s, and tunnel %s is of %s", theirs, child.Name, child.Protocol)
	x.here("set %s to %s, with proposals for it", x.key("tunnels."+child.Name+".protocol"), theirs)
	x.peer("set the protocol of the tunnel to %s", child.Protocol)
	return true
}

func list(s []ipsec.Selector) string {
	words := make([]string, len(s))
	for i := range s {
		words[i] = s[i].String()
	}
	return strings.Join(words, ", ")
}
