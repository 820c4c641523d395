package v2

import (
	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// Status describes the IKE SA and its CHILD SAs.
func (m *Machine) Status() Status {
	s := Status{
		State: m.state, Initiator: m.initiator, SPIs: m.spiI.String() + "/" + m.spiR.String(),
		Local: m.local, Remote: m.remote,
		LocalNAT: m.nat.Local, RemoteNAT: m.nat.Remote, Encap: m.nat.Encap,
		Established: m.established, RekeyAt: m.rekeyAt, Heard: m.heard, Waiting: len(m.queue),
		Children: make([]ChildStatus, 0, len(m.children)),
	}
	if m.conn != nil {
		s.Connection = m.conn.Name
	}
	if m.localID != (Identity{}) {
		s.LocalID = m.localID.String()
	}
	if m.remoteID != (Identity{}) {
		s.RemoteID = m.remoteID.String()
	}
	s.Vendors = m.vendors
	if m.session != nil {
		s.Proposal = suite.ProposalString(m.session.Chosen)
	}
	if m.outstanding != nil {
		s.Waiting++
	}
	for _, c := range m.children {
		st := ChildStatus{
			Name: c.conf.Name, State: c.state.String(), Protocol: c.protocol(), Mode: c.conf.Mode,
			In: c.in, Out: c.out, Sending: c.outUp, Proposal: suite.ProposalString(c.chosen), ReqID: c.conf.ReqID,
			LocalTS: c.localTS, RemoteTS: c.remoteTS, Since: c.since,
		}
		if c.lifetime.Soft.Time > 0 {
			st.RekeyAt = c.since.Add(c.lifetime.Soft.Time)
		}
		if c.lifetime.Hard.Time > 0 {
			st.Expires = c.since.Add(c.lifetime.Hard.Time)
		}
		s.Children = append(s.Children, st)
	}
	return s
}

// ExportedKeys are the keys that protect the messages of an IKE SA, for a
// capture to be decrypted: what Wireshark's table of IKEv2 keys asks for. Ai and
// Ar are empty for a combined-mode algorithm.
type ExportedKeys struct {
	InitiatorSPI, ResponderSPI message.SPI
	Ei, Er, Ai, Ar             secret.Key // copies; the salt is at the end of Ei and Er
	Encr, Integ                ipsec.Transform
}

// ExportKeys returns the keys of the IKE SA, and false before there are any. It
// is for a capture that an operator asks for explicitly: whoever has these keys
// reads the IKE SA, though not the CHILD SAs. The caller wipes them.
func (m *Machine) ExportKeys() (ExportedKeys, bool) {
	if m.session == nil || m.state == Gone {
		return ExportedKeys{}, false
	}
	k := m.session.Keys
	return ExportedKeys{
		InitiatorSPI: m.spiI, ResponderSPI: m.spiR,
		Ei: k.Ei.Clone(), Er: k.Er.Clone(), Ai: k.Ai.Clone(), Ar: k.Ar.Clone(),
		Encr: m.session.Chosen.First(ipsec.TypeEncr), Integ: m.session.Chosen.First(ipsec.TypeInteg),
	}, true
}
