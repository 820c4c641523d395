package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
	"caponier/internal/suite"
)

// typeWords are the types of transforms in words, in order of importance.
var typeWords = []struct {
	t    ipsec.TransformType
	word string
}{
	{ipsec.TypeEncr, "encryption algorithm"},
	{ipsec.TypeInteg, "integrity algorithm"},
	{ipsec.TypePRF, "pseudorandom function"},
	{ipsec.TypeKE, "key exchange method"},
	{ipsec.TypeESN, "length of sequence numbers"},
}

// match is one of our proposals beside one of the peer's.
type match struct {
	ours, theirs ipsec.Proposal
	apart        []ipsec.TransformType // types without a common transform
	score        int                   // the more, the nearer
}

// nearest compares all pairs and returns the one with the most in common.
func nearest(ours, theirs []ipsec.Proposal) (match, bool) {
	var best match
	found := false
	for _, o := range ours {
		for _, t := range theirs {
			if m := compare(o, t); !found || m.score > best.score {
				best, found = m, true
			}
		}
	}
	return best, found
}

func compare(ours, theirs ipsec.Proposal) match {
	m := match{ours: ours, theirs: theirs}
	for i, w := range typeWords {
		switch {
		case len(common(ours, theirs, w.t)) > 0:
			m.score += 10 + len(typeWords) - i
		case w.t == ipsec.TypeInteg && slices.Contains(m.apart, ipsec.TypeEncr) && none(ours, w.t) != none(theirs, w.t):
			// A combined mode has none: the encryption says it already.
		default:
			m.apart = append(m.apart, w.t)
		}
	}
	return m
}

func none(p ipsec.Proposal, t ipsec.TransformType) bool { return p.First(t).ID == 0 }

// common are the transforms of a type in both, in the order of a. A type that is
// left out counts as the transform 0 (RFC 7296, Section 3.3.3).
func common(a, b ipsec.Proposal, t ipsec.TransformType) []ipsec.Transform {
	of := func(p ipsec.Proposal) []ipsec.Transform {
		if all := p.Of(t); len(all) > 0 {
			return all
		}
		return []ipsec.Transform{{Type: t}}
	}
	var out []ipsec.Transform
	for _, x := range of(a) {
		if slices.Contains(of(b), x) {
			out = append(out, x)
		}
	}
	return out
}

// toward is the smallest proposal that want accepts, with as much of have as
// possible: one transform of each type.
func toward(want, have ipsec.Proposal) ipsec.Proposal {
	var out ipsec.Proposal
	for _, w := range typeWords {
		t := want.First(w.t)
		if both := common(have, want, w.t); len(both) > 0 {
			t = both[0]
		}
		if t.ID != 0 || w.t == ipsec.TypeESN && len(want.Of(w.t)) > 0 {
			out = append(out, t)
		}
	}
	return out
}

// parserOf reads the words of a tunnel's proposals.
func parserOf(child *conf.Child) func(string) (ipsec.Proposal, error) {
	if child.Protocol == ipsec.AH {
		return suite.ParseAH
	}
	return suite.ParseESP
}

// noProposal explains that no proposal was chosen, for the IKE SA or a tunnel.
func (x *explainer) noProposal() {
	x.refusedHere()
	theirs := transformsOf(x.a.Evidence.Proposals)
	if !x.isChild() {
		x.choose(func(c *conf.Connection) int {
			m, _ := nearest(c.Proposals, theirs)
			return -m.score
		})
		if x.c == nil {
			return
		}
		x.proposals("the IKE SA", x.key("proposals"), x.c.Proposals, x.c.Proposals, theirs, suite.ParseIKE)
		return
	}
	if x.c == nil {
		return
	}
	child := x.child()
	if child == nil {
		return
	}
	x.f.Tunnel = child.Name
	x.f.Ours.Local, x.f.Ours.Remote = child.Selectors(x.a.Local.Addr(), x.a.Remote.Addr())
	x.f.Theirs.Local, x.f.Theirs.Remote = x.a.Evidence.LocalTS, x.a.Evidence.RemoteTS
	if x.otherProtocol(child) {
		x.f.Ours.Proposals, x.f.Theirs.Proposals = words(child.Proposals), words(theirs)
		return
	}
	ours := child.Proposals
	if x.a.Evidence.Exchange == message.IKEAuth {
		// There, the key exchange of the proposals does not count (RFC 7296, Section
		// 1.2).
		ours, theirs = rules.WithoutKE(ours), rules.WithoutKE(theirs)
	}
	x.proposals("tunnel "+child.Name, x.key("tunnels."+child.Name+".proposals"), child.Proposals, ours, theirs, parserOf(child))
}

// proposals compares what the ends have. whole is what is configured, ours the
// part of it that counted.
func (x *explainer) proposals(what, key string, whole, ours, theirs []ipsec.Proposal, parse func(string) (ipsec.Proposal, error)) {
	x.f.Ours.Proposals, x.f.Theirs.Proposals = words(whole), words(theirs)
	m, ok := nearest(ours, theirs)
	if !ok {
		// The peer refused, and does not say what it has.
		x.f.Cause = fmt.Sprintf("the peer accepts none of our proposals for %s; it does not say what it would accept", what)
		if x.a.Evidence.Exchange == message.IKESAInit {
			x.f.Cause += ", and some peers answer so where no connection of theirs fits our address"
		}
		if len(whole) > 0 {
			x.peer("accept %s", smallest(whole[0]))
		}
		x.here("add the peer's proposal to %s", key)
		return
	}
	if len(m.apart) == 0 {
		return // it is not the algorithms: the cause stands as it is
	}
	x.f.Cause = fmt.Sprintf("for %s the ends have no %s in common", what, typeList(m.apart))
	x.f.Nearest = x.nearestWords(m)
	// A key exchange that did not count is ours to say.
	wanted := withKE(toward(m.theirs, m.ours), whole, ours)
	word, risk := suite.ProposalString(wanted), warning(wanted)
	_, err := parse(word)
	usable := err == nil
	if usable && risk == "" {
		x.here("add %s to %s", word, key)
	}
	x.peer("add %s", suite.ProposalString(toward(m.ours, m.theirs)))
	if usable && risk != "" {
		x.here("add %s to %s%s", word, key, risk)
	}
}

// withKE adds the key exchange that is configured where it was left out.
func withKE(p ipsec.Proposal, whole, counted []ipsec.Proposal) ipsec.Proposal {
	if len(counted) > 0 && !none(counted[0], ipsec.TypeKE) || none(p, ipsec.TypeEncr) {
		return p
	}
	if ke := rules.PreferredKE(whole); ke.ID != ipsec.KENone && none(p, ipsec.TypeKE) {
		return append(p, ke)
	}
	return p
}

func smallest(p ipsec.Proposal) string { return suite.ProposalString(toward(p, p)) }

func (x *explainer) nearestWords(m match) string {
	var both []string
	for _, w := range typeWords {
		for _, t := range common(m.ours, m.theirs, w.t)[:min(1, len(common(m.ours, m.theirs, w.t)))] {
			if t.ID != 0 {
				both = append(both, suite.Name(t))
			}
		}
	}
	out := fmt.Sprintf("our %s and their %s", suite.ProposalString(m.ours), suite.ProposalString(m.theirs))
	if len(both) == 0 {
		return out + " have nothing in common"
	}
	return out + " have " + strings.Join(both, ", ") + " in common"
}

func typeList(types []ipsec.TransformType) string {
	var out []string
	for _, w := range typeWords {
		if slices.Contains(types, w.t) {
			out = append(out, w.word)
		}
	}
	if len(out) > 1 {
		return strings.Join(out[:len(out)-1], ", no ") + " and no " + out[len(out)-1]
	}
	return strings.Join(out, "")
}

// warning says what is weak about a proposal.
func warning(p ipsec.Proposal) string {
	for _, t := range p {
		if why, weak := suite.Weak(t); weak {
			return fmt.Sprintf(", which is weak (%s: %s)", suite.Name(t), why)
		}
	}
	return ""
}

func transformsOf(offered []message.Proposal) []ipsec.Proposal {
	out := make([]ipsec.Proposal, 0, len(offered))
	for _, p := range offered {
		out = append(out, p.Transforms)
	}
	return out
}

func words(list []ipsec.Proposal) []string {
	var out []string
	for _, p := range list {
		out = append(out, suite.ProposalString(p))
	}
	return out
}

// keyExchange explains INVALID_KE_PAYLOAD that asks for what is not offered.
func (x *explainer) keyExchange() {
	x.refusedHere()
	if x.c == nil || x.isChild() && x.a.Tunnel == "" {
		return
	}
	ours, key, parse := x.c.Proposals, x.key("proposals"), suite.ParseIKE
	if x.a.Tunnel != "" {
		child := x.child()
		if child == nil {
			return
		}
		ours, key, parse = child.Proposals, x.key("tunnels."+child.Name+".proposals"), parserOf(child)
	}
	x.f.Ours.Proposals = words(ours)
	want := transformsOf(x.a.Evidence.Proposals)
	if len(want) == 0 || len(ours) == 0 {
		return
	}
	ke := want[0].First(ipsec.TypeKE)
	x.f.Theirs.Proposals = []string{suite.Name(ke)}
	x.f.Cause = fmt.Sprintf("the peer asks for the key exchange method %s, which is not offered here", suite.Name(ke))
	with := toward(ours[0], ours[0])
	with = append(slices.DeleteFunc(with, func(t ipsec.Transform) bool { return t.Type == ipsec.TypeKE }), ke)
	word := suite.ProposalString(with)
	if _, err := parse(word); err == nil {
		x.here("add %s to %s%s", word, key, warning(ipsec.Proposal{ke}))
	}
	x.peer("accept the key exchange method %s", suite.Name(rules.PreferredKE(ours)))
}
