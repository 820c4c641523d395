package v1

import (
	"time"

	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/suite"
)

// softTime returns a moment before the end of a lifetime.
func (m *Machine) softTime(life time.Duration) time.Duration {
	return conf.SoftenTime(life, m.randomBelow)
}

// Status describes the IKE SA and its IPsec SAs.
func (m *Machine) Status() step.Status {
	s := step.Status{
		State: m.public(), Initiator: m.initiator, SPIs: m.spiI.String() + "/" + m.spiR.String(),
		Local: m.local, Remote: m.remote,
		LocalNAT: m.nat.Local, RemoteNAT: m.nat.Remote, Encap: m.nat.Encap,
		Established: m.established, RekeyAt: m.rekeyAt, Heard: m.heard, Waiting: len(m.queue),
		Children: make([]step.ChildStatus, 0, len(m.children)),
	}
	if c := m.Connection(); c != nil {
		s.Connection = c.Name
	}
	if m.localID != (Identity{}) {
		s.LocalID = m.localID.String()
	}
	if m.remoteID != (Identity{}) {
		s.RemoteID = m.remoteID.String()
	}
	if m.session != nil {
		s.Proposal = suite.ProposalString(m.session.chosen)
	}
	for _, x := range m.quicks {
		if !x.over {
			s.Waiting++
		}
	}
	for _, c := range m.children {
		st := step.ChildStatus{
			Name: c.conf.Name, State: c.state.String(), Protocol: c.conf.Protocol, Mode: c.conf.Mode,
			In: c.in, Out: c.out, Sending: c.outUp, Proposal: suite.ProposalString(c.chosen), ReqID: c.conf.ReqID,
			LocalTS: c.localTS, RemoteTS: c.remoteTS, Since: c.since,
		}
		if soft := c.lifetime.Soft.Time; soft > 0 {
			st.RekeyAt = c.since.Add(soft)
		}
		if hard := c.lifetime.Hard.Time; hard > 0 {
			st.Expires = c.since.Add(hard)
		}
		s.Children = append(s.Children, st)
	}
	return s
}
