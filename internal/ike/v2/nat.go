package v2

import (
	"net/netip"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
)

// The ports of IKE, and of IKE and ESP in UDP (RFC 7296, Section 2.23).
const (
	ikePort = 500
	natPort = 4500
)

// nat is what IKE_SA_INIT found out about the way between the two ends.
type nat struct {
	local, remote bool // this side, the peer, is behind a NAT
	encap         bool // ESP travels in UDP
}

// natNotifies returns the NAT_DETECTION notifications of our IKE_SA_INIT
// message, or none where ESP must never travel in UDP: a peer that receives
// none does not look for a NAT.
func natNotifies(spiI, spiR message.SPI, local, remote netip.AddrPort, e Encapsulation) []message.Payload {
	if e == EncapNever {
		return nil
	}
	// A hash that does not match makes the peer believe in a NAT.
	return rules.NATNotifies(spiI, spiR, local, remote, e == EncapAlways || e == EncapAsk)
}

// detectNAT takes in what the peer says of the addresses. Where ESP must never
// travel in UDP, it does not matter.
func detectNAT(msg *message.Message, r Received, e Encapsulation) nat {
	var found nat
	if e != EncapNever {
		found.local, found.remote = rules.DetectNAT(msg, r.Local, r.Remote)
	}
	found.encap = e == EncapAlways || e == EncapAsk && looksForNAT(msg) || found.local || found.remote
	return found
}

// looksForNAT reports whether the peer will have found the NAT that it was made
// to see: one that sends no notifications does not compare ours.
func looksForNAT(msg *message.Message) bool {
	var source, destination bool
	for _, p := range msg.Payloads {
		if n, ok := p.(*message.Notify); ok {
			source = source || n.Kind == message.NATDetectionSourceIP
			destination = destination || n.Kind == message.NATDetectionDestinationIP
		}
	}
	return source && destination
}

// float moves the IKE SA to port 4500 where ESP will travel in UDP. A peer on a
// port of its own is spoken to on that port throughout.
func (m *Machine) float() {
	if !m.nat.encap {
		return
	}
	if m.local.Port() == ikePort {
		m.local = netip.AddrPortFrom(m.local.Addr(), natPort)
	}
	if m.remote.Port() == ikePort {
		m.remote = netip.AddrPortFrom(m.remote.Addr(), natPort)
	}
}

// follow takes the addresses of an authentic message that is newer than all
// others, for the next ones of ours: those of IKE_AUTH, which may have moved to
// port 4500, and later those of a peer behind a NAT whose mapping has changed
// (RFC 7296, Section 2.23).
func (m *Machine) follow(r Received) {
	if m.state == HalfOpen || m.nat.remote {
		m.move(r.Local, r.Remote)
	}
}

// peerMoved follows authentic ESP in the same way.
func (m *Machine) peerMoved(e PeerMoved) {
	if m.nat.remote && m.nat.encap && e.Remote.IsValid() && m.byInbound(e.ID) != nil {
		m.move(m.local, e.Remote)
	}
}

// move changes the addresses of the IKE SA and of what is installed.
func (m *Machine) move(local, remote netip.AddrPort) {
	if m.local == local && m.remote == remote {
		return
	}
	before := m.remote
	m.local, m.remote = local, remote
	for _, c := range m.children {
		for _, id := range c.installed(before.Addr()) {
			m.act(MoveSA{ID: id, Local: local, Remote: remote, Encap: m.nat.encap})
		}
		if c.held != nil {
			c.held.Local, c.held.Remote = local, remote
		}
	}
}
