package sad

import (
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

// pathAge is how long a path MTU that a router has told is believed (RFC 1191,
// Section 6.3).
const pathAge = 10 * time.Minute

// recent is by how many packets the one that a router quotes may be older than
// the last one sent.
const recent = 1 << 20

// path is what is known of the way of an outbound SA. The writer's mutex guards
// it.
type path struct {
	until   int64 // until when the next is believed, in seconds since 1970
	learned int32 // path MTU that a router has told, 0 for none
}

// mtu is the path MTU of an SA in octets, 0 where nothing is known.
func (o *Out) mtu() int {
	route := o.Endpoint().MTU
	if learned := int(o.path.learned); learned != 0 && (route == 0 || learned < route) {
		return learned
	}
	return route
}

// measure works out what fits the path.
func (o *Out) measure() {
	n := math.MaxUint16
	if mtu := o.mtu(); mtu != 0 {
		n = o.Longest(mtu)
	}
	if size := int(o.sa.Aggfrag.Pace.Size); size != 0 {
		n = min(n, o.Longest(size))
	}
	o.fits.Store(int32(n))
}

// Longest is the length of the longest inner packet for which at most mtu octets
// leave. Transport mode keeps the header of the inner packet, whose options do
// not count here.
func (o *Out) Longest(mtu int) int {
	outer := o.Endpoint().outerLen()
	room := mtu - outer
	kept := 0
	if o.Transport() {
		kept = o.Endpoint().headerLen()
	}
	if o.sa.Protocol == ipsec.AH {
		return kept + room - o.AHLen(o.Endpoint().version())
	}
	return kept + o.MaxInner(room)
}

// version is that of the outer IP header.
func (e *Endpoint) version() uint8 {
	if e.Remote.Addr().Is4() {
		return 4
	}
	return 6
}

// SealedFits is what leaves for the longest payload, with all headers outside of
// ESP or AH.
func (o *Out) SealedFits() int {
	ep := o.Endpoint()
	n := o.Payload()
	if o.Transport() {
		n -= ep.headerLen()
	}
	if o.sa.Protocol == ipsec.AH {
		return ep.outerLen() + o.AHLen(ep.version()) + n
	}
	return ep.outerLen() + o.SealedLen(n)
}

// headerLen is the length of the outer IP header.
func (e *Endpoint) headerLen() int {
	if e.Remote.Addr().Is4() {
		return packet.IPv4HeaderLen
	}
	return packet.IPv6HeaderLen
}

// outerLen is the length of the headers before ESP or AH.
func (e *Endpoint) outerLen() int {
	n := e.headerLen()
	if e.Encap {
		n += packet.UDPHeaderLen
	}
	return n
}

// Fits is the length of the longest inner packet whose sealed packet fits the way
// to the peer, as far as it is known. In AGGFRAG mode there is no such length: a
// longer one goes on in the next payload (RFC 9347, Section 2.2.7), unless the
// peer takes packets whole only.
func (o *Out) Fits() int {
	switch n := o.Payload(); {
	case o.spreads():
		return math.MaxUint16
	case o.sa.Aggfrag.On && n < math.MaxUint16:
		return n - o.payloadHeader()
	default:
		return n
	}
}

// Payload is the length of the longest payload of ESP, an inner packet or an
// AGGFRAG payload, whose sealed packet fits the way to the peer, as far as it is
// known; otherwise math.MaxUint16.
func (o *Out) Payload() int { return int(o.fits.Load()) }

// spreads reports whether inner packets may be spread over several payloads.
func (o *Out) spreads() bool { return o.sa.Aggfrag.On && !o.sa.Aggfrag.Whole }

// inherit takes over what was learned for another SA of the same way.
func (o *Out) inherit(from *Out) {
	a, b := o.Endpoint(), from.Endpoint()
	if a.Local == b.Local && a.Remote == b.Remote && a.Encap == b.Encap {
		o.path = from.path
	}
}

// ends is until when what was learned is believed; zero where nothing was.
func (p path) ends() time.Time {
	if p.learned == 0 {
		return time.Time{}
	}
	return time.Unix(p.until, 0)
}

// ageOut forgets what is no longer believed, and tells when to look again.
func (o *Out) ageOut(now time.Time) time.Time {
	if due(o.path.ends(), now) {
		o.path = path{}
		o.measure()
	}
	return o.path.ends()
}

// TooBig takes what an ICMP error says, if the packet that it quotes is one that
// an SA has sent lately: who is not on its path knows neither SPI nor sequence
// number (RFC 4301, Section 8.2.1; RFC 8201, Section 4). It returns the SA and its
// new path MTU, and false where nothing changes. known says whether the SA was
// found.
func (db *DB) TooBig(m *packet.TooBig, now time.Time) (id ipsec.SAID, mtu int, known, changed bool) {
	id = ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, Peer: m.Dst}
	b := m.Payload
	if m.Protocol == packet.ProtocolAH {
		// Next header, length and two reserved octets come first (RFC 4302, Section 2).
		id.Protocol = ipsec.AH
		b = b[min(4, len(b)):]
	}
	if len(b) < 8 || m.Protocol != packet.ProtocolAH && m.Protocol != packet.ProtocolESP && m.Protocol != packet.ProtocolUDP {
		return id, 0, false, false
	}
	id.SPI = ipsec.SPI(binary.BigEndian.Uint32(b))
	sequence := binary.BigEndian.Uint32(b[4:])

	db.mu.Lock()
	defer db.mu.Unlock()
	o := db.outs[id]
	if o == nil || !o.sent(m, sequence) {
		return id, 0, false, false
	}
	if mtu = m.Effective(); mtu == 0 || o.mtu() != 0 && mtu > o.mtu() {
		return id, 0, true, false
	}
	changed = mtu != o.mtu()
	o.path = path{until: now.Add(pathAge).Unix(), learned: int32(mtu)}
	o.measure()
	db.lookAt(o.path.ends())
	return id, mtu, true, changed
}

// sent reports whether the SA has sent the packet that m quotes.
func (o *Out) sent(m *packet.TooBig, sequence uint32) bool {
	ep := o.Endpoint()
	udp := m.Protocol == packet.ProtocolUDP
	if ep.Local.Addr() != m.Src || ep.Encap != udp {
		return false
	}
	if udp && (m.SrcPort != ep.Local.Port() || m.DstPort != ep.Remote.Port()) {
		return false
	}
	last := o.sequence.Load()
	return (sequence != 0 || o.sa.ESN) && uint64(uint32(last)-sequence) < min(recent, last)
}

// Routes returns the pairs of outer addresses, local and remote, between which
// outbound SAs carry packets, each once.
func (db *DB) Routes() [][2]netip.Addr {
	db.mu.Lock()
	defer db.mu.Unlock()
	seen := make(map[[2]netip.Addr]bool)
	var out [][2]netip.Addr
	for _, o := range db.outs {
		ep := o.Endpoint()
		pair := [2]netip.Addr{ep.Local.Addr(), ep.Remote.Addr()}
		if !seen[pair] {
			seen[pair] = true
			out = append(out, pair)
		}
	}
	return out
}

// Reroute says what the MTU of the route between two outer addresses is now, in
// octets; 0 is for unknown.
func (db *DB) Reroute(pair [2]netip.Addr, mtu int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	for _, o := range db.outs {
		ep := *o.Endpoint()
		if ep.Local.Addr() == pair[0] && ep.Remote.Addr() == pair[1] && ep.MTU != mtu {
			ep.MTU = mtu
			o.endpoint.Store(&ep)
			o.measure()
		}
	}
}
