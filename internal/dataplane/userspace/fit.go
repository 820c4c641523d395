package userspace

import (
	"encoding/binary"
	"io"
	"net/netip"

	"caponier/internal/aggfrag"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/sad"
)

// fitter is what an outbound lane needs for packets that are too long.
type fitter struct {
	cutter packet.Fragmenter
	long   []byte // a packet whose place is needed for its fragments
	// outer is where sealed packets are cut, of which taken octets are used, and
	// sealed one of them with its outer headers.
	outer  []byte
	taken  int
	sealed []byte
	id     [4]byte
	// errors has room for the ICMP errors of a batch, of which used are taken.
	errors []byte
	used   int
	limit  errorLimit
}

// errorRoom is for how many ICMP errors a batch has room.
const errorRoom = 16

// errorLimit bounds the ICMP errors of a lane (RFC 1812, Section 4.3.2.8; RFC
// 4443, Section 2.4): a few in a second for each sender, so that one that does
// not listen takes nothing from others.
type errorLimit struct {
	second int64
	sent   [64]uint8
}

// errorsPerSecond is how many errors the senders of one slot get in a second.
const errorsPerSecond = 8

func (e *errorLimit) allow(second int64, to netip.Addr) bool {
	if second != e.second {
		*e = errorLimit{second: second}
	}
	b := to.As16()
	slot := &e.sent[(b[15]^b[14]*7^b[13]*31^b[7])%uint8(len(e.sent))]
	if *slot == errorsPerSecond {
		return false
	}
	*slot++
	return true
}

// refit deals with the packet p, decoded to info, that is too long for the way
// that x takes, once ESP or AH is around it (RFC 4301, Section 8.2).
func (l *outbound) refit(p *netio.Packet, policy *ipsec.Policy, x path) {
	out := x.out
	sa := out.SA()
	whole := packet.OuterDF(&l.info, sa.Outer)
	mayCut := l.info.Version == 4 && !l.info.DontFragment || l.fragments.gathered
	if out.Transport() {
		// Transport mode seals whole packets only (RFC 4303, Section 3.3.4).
		if !mayCut && (l.info.Version == 4 || p.Len > packet.MinMTU6) {
			l.refuse(p.Data(), x.fits())
		} else if q := l.enqueue(p, policy, x); q != nil {
			q.DontFragment = false
		}
		return
	}
	switch {
	case mayCut && out.AnyPort() && l.info.Version == 4 && (whole || sa.Fit.Fragment == ipsec.FragmentBefore):
		l.cut(p, policy, x)
	case mayCut, !whole, l.info.Version == 6 && p.Len <= packet.MinMTU6:
		// Every link of IPv6 carries that much, and a tunnel is one (RFC 2473,
		// Section 7.1).
		if q := l.enqueue(p, policy, x); q != nil {
			q.DontFragment = false
			if out.Endpoint().Remote.Addr().Is4() {
				l.tally.add(outFragmented, 1)
			}
		}
	default:
		l.refuse(p.Data(), x.fits())
	}
}

// cut seals the fragments of p one by one.
func (l *outbound) cut(p *netio.Packet, policy *ipsec.Policy, x path) {
	fits := x.fits()
	b := p.Data()
	n, ok := l.fit.cutter.Start(b, &l.info, fits, 0)
	if !ok {
		l.refuse(b, fits)
		return
	}
	size := netio.Headroom + fits + netio.Tailroom
	need := n * size
	if x.out.Aggfrag().On {
		need += (n + 2) * (size + aggfrag.HeaderLen) // fragments are copied to payloads
	}
	if l.used+need > len(l.sealed) {
		// p may lie where its fragments are to be.
		l.fit.long = append(l.fit.long[:0], b...)
		l.seal()
		if !l.turn() || need > len(l.sealed) {
			l.tally.add(dropTooBig, 1)
			return
		}
		if x = l.path(policy); x.out == nil { // SAs do not outlive the turn
			l.tally.add(dropNoSA, 1)
			return
		}
		if x.fits() < fits {
			l.tally.add(dropTooBig, 1)
			return
		}
		l.fit.cutter.Start(l.fit.long, &l.info, fits, 0)
	}
	l.tally.add(innerFragmented, 1)
	for {
		buf := l.sealed[l.used : l.used+size : l.used+size]
		m := l.fit.cutter.Next(buf[netio.Headroom : netio.Headroom+fits])
		if m == 0 {
			return
		}
		l.used += size
		l.enqueue(&netio.Packet{Buf: buf, Off: netio.Headroom, Len: m}, policy, x)
	}
}

// outerRoom is for the fragments of a few sealed packets.
const outerRoom = 256 << 10

// fragment sends the sealed packet p, which is too long for the way of out, in
// fragments. IPv4 leaves that to the kernel and to routers; for IPv6 nobody else
// does it.
func (l *outbound) fragment(p *netio.Packet, out *sad.Out) {
	f := &l.fit
	ep := out.Endpoint()
	head := packet.IPv6HeaderLen
	protocol := uint8(out.SA().Protocol)
	if ep.Encap {
		head += packet.UDPHeaderLen
		protocol = packet.ProtocolUDP
	}
	b := append(f.sealed[:0], make([]byte, head)...)
	b = append(b, p.Data()...)
	f.sealed = b
	packet.PutIPv6(b, &packet.IPv6Header{
		Src: ep.Local.Addr(), Dst: ep.Remote.Addr(), PayloadLen: len(b) - packet.IPv6HeaderLen,
		NextHeader: protocol, TrafficClass: p.TrafficClass, HopLimit: outerHopLimit,
	})
	if ep.Encap {
		u := b[packet.IPv6HeaderLen:]
		packet.PutUDP(u, ep.Local.Port(), ep.Remote.Port(), len(u), 0)
		sum := packet.TransportChecksum(ep.Local.Addr(), ep.Remote.Addr(), protocol, u)
		if sum == 0 {
			sum = 0xffff
		}
		packet.PutUDP(u, ep.Local.Port(), ep.Remote.Port(), len(u), sum)
	}
	l.cutSealed(b, out.SealedFits())
}

// cutSealed sends the sealed packet b, which has its outer header, in fragments of
// at most mtu octets (RFC 791, Section 3.2; RFC 8200, Section 4.5).
func (l *outbound) cutSealed(b []byte, mtu int) {
	x := exitWhole6
	if b[0]>>4 == 4 {
		x = exitWhole4
	}
	if l.cutTo(x, b, mtu) {
		l.tally.add(outFragmented, 1)
	}
}

// cutTo sends the IP packet b by x in fragments of at most mtu octets.
func (l *outbound) cutTo(x exit, b []byte, mtu int) bool {
	f := &l.fit
	info := packet.Info{Version: b[0] >> 4, HeaderLen: packet.IPv6HeaderLen, TotalLen: len(b)}
	if info.Version == 6 && (b[6] == packet.ProtocolHopByHop || b[6] == packet.ProtocolRouting) {
		l.tally.add(dropTooBig, 1) // these would have to stand in each fragment
		return false
	}
	var cutter packet.Fragmenter // the lane's is in use where its fragments fill a run
	n, ok := 0, false
	if _, err := io.ReadFull(l.plane.opts.Rand, f.id[:]); err == nil { // RFC 7739: not to be guessed
		if info.Version == 4 && b[4] == 0 && b[5] == 0 {
			copy(b[4:6], f.id[:]) // RFC 791, Section 3.2: what is cut needs a name
		}
		n, ok = cutter.Start(b, &info, mtu, binary.BigEndian.Uint32(f.id[:]))
	}
	if f.outer == nil {
		f.outer = make([]byte, outerRoom)
	}
	if !ok || f.taken+n*mtu > len(f.outer) {
		l.tally.add(dropTooBig, 1)
		return false
	}
	for {
		dst := f.outer[f.taken:][:mtu:mtu]
		m := cutter.Next(dst)
		if m == 0 {
			return true
		}
		f.taken += m
		l.leave[x] = append(l.leave[x], netio.Packet{Buf: dst[:m:m], Len: m})
	}
}

// outerHopLimit is that of the outer headers that are not the kernel's.
const outerHopLimit = 64

// refuse drops the packet b, decoded to info, and tells its sender how long a
// packet may be.
func (l *outbound) refuse(b []byte, mtu int) {
	l.tally.add(dropTooBig, 1)
	x := exitICMP4
	if l.info.Version == 6 {
		x, mtu = exitICMP6, max(mtu, packet.MinMTU6)
	}
	f := &l.fit
	if l.exits[x] == nil {
		return
	}
	if f.used == errorRoom || !f.limit.allow(l.plane.seconds.Load(), l.info.Src) {
		l.tally.add(dropErrors, 1)
		return
	}
	if f.errors == nil {
		f.errors = make([]byte, errorRoom*packet.TooBigLen)
	}
	dst := f.errors[f.used*packet.TooBigLen:][:packet.TooBigLen:packet.TooBigLen]
	n, ok := packet.PutTooBig(dst, b, &l.info, mtu)
	if !ok {
		return
	}
	f.used++
	l.tally.add(errorsSent, 1)
	l.leave[x] = append(l.leave[x], netio.Packet{Buf: dst, Len: n, Remote: netip.AddrPortFrom(l.info.Src, 0)})
}

// headers are the lengths of IP and TCP headers without options, which no MSS
// counts (RFC 6691).
func headersOf(version uint8) int {
	if version == 6 {
		return packet.IPv6HeaderLen + packet.TCPHeaderLen
	}
	return packet.IPv4HeaderLen + packet.TCPHeaderLen
}

// clamp lowers the MSS that the SYN segment b, decoded to p, announces: what
// comes back, the same way in the other direction, is to fit.
func (p *Plane) clamp(b []byte, info *packet.Info, fit ipsec.Fit, fits int, t *tally) {
	most := int(fit.MSS)
	switch fit.MSS {
	case ipsec.MSSOff:
		return
	case ipsec.MSSAuto:
		most = max(min(fits, p.opts.MTU)-headersOf(info.Version), ipsec.MinMSS)
	}
	if packet.ClampMSS(b, info, uint16(most)) {
		t.add(mssClamped, 1)
	}
}

// clampInbound does the same for a SYN that came through in: what is sent in
// answer takes the way of the outbound SA.
func (l *inbound) clampInbound(w *sad.Worker, in *sad.In, b []byte) {
	back := l.info
	back.Src, back.Dst, back.SrcPort, back.DstPort = l.info.Dst, l.info.Src, l.info.DstPort, l.info.SrcPort
	fits := netio.MaxPacket
	sa := in.SA()
	policy := ipsec.Policy{Protocol: sa.Protocol, ReqID: sa.ReqID, WithAH: l.table.Bundled(sa.ReqID)}
	if x := find(w, &policy, &back); x.out != nil {
		fits = x.fits()
	}
	l.plane.clamp(b, &l.info, in.SA().Fit, fits, &l.tally)
}
