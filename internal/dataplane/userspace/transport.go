package userspace

import (
	"net/netip"

	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/sad"
)

// In transport mode a packet keeps its header: it leaves with it by the socket
// for whole packets, whose mark keeps it from coming back here. What arrives has
// lost its header in the kernel, and gets one of the SA's two hosts.

// part prepares the packet p, decoded to info, to be sealed behind its header,
// which is moved to make room.
func (l *outbound) part(p *netio.Packet, out *sad.Out) *netio.Packet {
	r := &l.run
	seam := packet.SeamOf(p.Data(), &l.info)
	// The packet may be a part of the super-packet that info is about.
	header, payload := p.Data()[:seam.At], p.Data()[seam.At:min(l.info.TotalLen, p.Len)]
	start := p.Off + seam.At - out.HeadRoom()
	end := start + out.SealedLen(len(payload))
	off := start - seam.At
	if r.ep.Encap {
		off -= packet.UDPHeaderLen
	}
	if off < 0 || end > len(p.Buf) {
		l.tally.add(espDrop(esp.ErrSpace), 1)
		return nil
	}
	copy(p.Buf[off:], header)
	q := &r.pkts[r.n]
	*q = *p
	q.Off, q.DontFragment = off, true
	r.items[r.n] = esp.SealItem{Dst: p.Buf[start:end], Inner: payload, NextHeader: seam.Next}
	r.seams[r.n] = seam
	r.n++
	return q
}

// close finishes the header of the packet p, behind which n octets of ESP are, and
// returns the way that it leaves.
func (l *outbound) close(p *netio.Packet, seam packet.Seam, n int) exit {
	ep := l.run.ep
	src, dst := ep.Local.Addr(), ep.Remote.Addr()
	if src.IsUnspecified() {
		src = netip.Addr{}
	}
	p.Len = seam.At + n
	next := packet.ProtocolESP
	if ep.Encap {
		p.Len += packet.UDPHeaderLen
		next = packet.ProtocolUDP
	}
	b := p.Data()
	seam.Close(b, next, src, dst)
	if ep.Encap {
		udp := b[seam.At:]
		packet.PutUDP(udp, ep.Local.Port(), ep.Remote.Port(), len(udp), 0)
		if b[0]>>4 == 6 { // RFC 8200, Section 8.1; over IPv4 there is none
			src := netip.AddrFrom16([16]byte(b[8:24]))
			sum := packet.TransportChecksum(src, dst, packet.ProtocolUDP, udp)
			if sum == 0 {
				sum = 0xffff
			}
			packet.PutUDP(udp, ep.Local.Port(), ep.Remote.Port(), len(udp), sum)
		}
	}
	return exitWhole(dst)
}

// exitWhole is the way of a sealed packet that has its IP header.
func exitWhole(dst netip.Addr) exit {
	if dst.Is4() {
		return exitWhole4
	}
	return exitWhole6
}

// rejoinedLen is how much memory a lane has for packets that got their headers
// back, in octets: several of the longest.
const rejoinedLen = 256 << 10

// defaultHopLimit is the TTL of packets whose own is not known any more.
const defaultHopLimit = 64

// rejoin puts a header before what transport mode carried. Between the hosts
// that the SA is for nothing else has been decided, so that the header needs
// nothing of the one that was on the way.
func (l *inbound) rejoin(in *sad.In, c carried) []byte {
	payload, next := c.inner, c.next
	sa := in.SA()
	ep := in.Endpoint()
	ends := ipsec.Pair{
		Local:  hostOf(sa.LocalTS, ep.Local.Addr()),
		Remote: hostOf(sa.RemoteTS, ep.Remote.Addr()),
	}
	if o := sa.Original; o != nil {
		packet.Readdress(next, payload, [2]netip.Addr{o.Remote, o.Local}, [2]netip.Addr{ends.Remote, ends.Local})
	}
	head := packet.IPv4HeaderLen
	if !ends.Remote.Is4() {
		head = packet.IPv6HeaderLen
	}
	b := l.space(head + len(payload))
	if b == nil || ends.Remote.Is4() != ends.Local.Is4() {
		return nil // malformed, as Admit will find
	}
	copy(b[head:], payload)
	if ends.Remote.Is4() {
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: ends.Remote, Dst: ends.Local, TotalLen: len(b), TrafficClass: c.class,
			TTL: defaultHopLimit, Protocol: next, DontFragment: true,
		})
	} else {
		packet.PutIPv6(b, &packet.IPv6Header{
			Src: ends.Remote, Dst: ends.Local, PayloadLen: len(payload), TrafficClass: c.class,
			HopLimit: defaultHopLimit, NextHeader: next,
		})
	}
	return b
}

// hostOf is the host that the selectors are for, or other where they are for
// several.
func hostOf(selectors []ipsec.Selector, other netip.Addr) netip.Addr {
	if len(selectors) > 0 && selectors[0].First == selectors[0].Last {
		return selectors[0].First
	}
	return other
}

// space takes n octets for a packet, or nil for one that is too long.
func (l *inbound) space(n int) []byte {
	if n > netio.MaxPacket {
		return nil
	}
	if l.rejoined == nil {
		l.rejoined = make([]byte, rejoinedLen)
	}
	if l.used+n > len(l.rejoined) {
		l.flush()
	}
	b := l.rejoined[l.used : l.used+n : l.used+n]
	l.used += n
	return b
}
