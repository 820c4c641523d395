package v1

import (
	"crypto/hmac"
	"crypto/md5"  // the hash of old peers, which protects nothing here
	"crypto/sha1" // likewise
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
)

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// looksForNAT reports whether this side asks for NAT traversal (RFC 3947).
func looksForNAT(c *Connection) bool { return c.Encapsulation != conf.EncapNever }

// cookies returns CKY-I | CKY-R.
func (m *Machine) cookies() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(m.spiI)), uint64(m.spiR))
}

// natHash is HASH(CKY-I | CKY-R | IP | port), by the hash of so many octets: the
// negotiated one, or that of a peer that always takes SHA-1 or MD5 (RFC 3947,
// Section 3.2).
func (m *Machine) natHash(a netip.AddrPort, length int) []byte {
	data := append(m.cookies(), a.Addr().Unmap().AsSlice()...)
	data = binary.BigEndian.AppendUint16(data, a.Port())
	switch length {
	case md5.Size:
		sum := md5.Sum(data)
		return sum[:]
	case sha1.Size:
		sum := sha1.Sum(data)
		return sum[:]
	}
	hash, err := keys.NewHash(m.setup.hashTransform())
	if err != nil {
		return nil
	}
	return hash.Digest(data)
}

// natPayloads are our NAT-D payloads: the peer's address first, then ours.
func (m *Machine) natPayloads() []isakmp.Payload {
	if !looksForNAT(m.conn) || !m.setup.peerVendor.natt {
		return nil
	}
	length := 0
	if t := m.conn.GM.NATHash; t != (ipsec.Transform{}) {
		if hash, err := keys.NewHash(t); err == nil {
			length = len(hash.Digest())
		}
	}
	local, remote := m.local, m.remote
	if !m.initiator {
		local, remote = m.setup.pending.Local, m.setup.pending.Remote
	}
	source := m.natHash(local, length)
	if m.conn.Encapsulation == conf.EncapAlways || m.conn.Encapsulation == conf.EncapAsk {
		// A hash that does not match makes the peer believe in a NAT.
		source[0] ^= 0xff
	}
	return []isakmp.Payload{
		{Type: isakmp.TypeNATDiscovery, Body: m.natHash(remote, length)},
		{Type: isakmp.TypeNATDiscovery, Body: source},
	}
}

// findNAT compares what the peer says of the addresses with what its message
// shows.
func (m *Machine) findNAT() {
	s := m.setup
	m.nat = conf.NAT{}
	if !looksForNAT(m.conn) || !s.peerVendor.natt {
		return
	}
	always := m.conn.Encapsulation == conf.EncapAlways
	if len(s.natD) < 2 {
		m.nat.Encap = always
		return
	}
	r := s.pending
	m.nat.Local = !hmac.Equal(s.natD[0], m.natHash(r.Local, len(s.natD[0])))
	m.nat.Remote = !slices.ContainsFunc(s.natD[1:], func(d []byte) bool {
		return hmac.Equal(d, m.natHash(r.Remote, len(d)))
	})
	m.nat.Encap = m.nat.Local || m.nat.Remote || always || m.conn.Encapsulation == conf.EncapAsk
}

// float moves the IKE SA to port 4500 where ESP will travel in UDP (RFC 3947,
// Section 4). A peer on a port of its own is spoken to on that port throughout.
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

// follow takes the addresses of an authentic message of a peer behind a NAT, whose
// mapping may have changed.
func (m *Machine) follow(r step.Received) {
	if m.nat.Remote {
		m.move(r.Local, r.Remote)
	}
}

// peerMoved follows authentic ESP in the same way.
func (m *Machine) peerMoved(e step.PeerMoved) {
	if m.nat.Remote && m.nat.Encap && e.Remote.IsValid() && m.byID(e.ID) != nil {
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
			m.act(step.MoveSA{ID: id, Local: local, Remote: remote, Encap: m.nat.Encap})
		}
		c.local, c.remote = local, remote
		if c.held != nil {
			c.held.Local, c.held.Remote = local, remote
		}
	}
}

func (m *Machine) keepAlive() time.Duration {
	if m.conn.KeepAlive > 0 {
		return m.conn.KeepAlive
	}
	return defaultKeepAlive
}

func (m *Machine) sendKeepAlive() {
	m.act(step.SendKeepAlive{Local: m.local, Remote: m.remote})
	m.after(m.keepAlive(), (*Machine).sendKeepAlive)
}
