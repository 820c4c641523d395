package v2

import "net/netip"

// The ports of IKE, and of IKE and ESP in UDP (RFC 7296, Section 2.23).
const (
	ikePort = 500
	natPort = 4500
)

// float moves the IKE SA to port 4500 where ESP will travel in UDP. A peer on a
// port of its own is spoken to on that port throughout.
func (m *Machine) float() {
	if !m.nat.Encap {
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
	if m.state == HalfOpen || m.nat.Remote {
		m.move(r.Local, r.Remote)
	}
}

// peerMoved follows authentic ESP in the same way.
func (m *Machine) peerMoved(e PeerMoved) {
	if m.nat.Remote && m.nat.Encap && e.Remote.IsValid() && m.byInbound(e.ID) != nil {
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
			m.act(MoveSA{ID: id, Local: local, Remote: remote, Encap: m.nat.Encap})
		}
		if c.held != nil {
			c.held.Local, c.held.Remote = local, remote
		}
	}
}
