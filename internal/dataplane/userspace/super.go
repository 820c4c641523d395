package userspace

import (
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/sad"
)

// super takes a super-packet, decoded to info, which stands for several packets
// of one flow, so that the policy for one is the policy for all.
func (l *outbound) super(p *netio.Packet, policy *ipsec.Policy) {
	n, ok := l.segments.Start(p.Buf[p.Off:p.Off+p.Len], &l.info, p.Segment)
	if !ok {
		l.tally.add(dropMalformed, 1)
		return
	}
	if policy.Action == ipsec.Protect {
		if x := l.path(policy); x.direct() && l.segments.PacketLen() <= x.out.Fits() {
			l.seal() // what came before leaves before
			l.sealSuper(x.out, policy.ReqID, n)
			return
		} else if x.shares() && l.segments.PacketLen() <= x.fits() {
			l.shareSuper(policy)
			return
		}
	}
	l.unroll(policy)
}

// direct reports whether packets can be sealed right from a super-packet: with ESP
// in tunnel mode alone, by a suite that does not prefer company.
func (x path) direct() bool {
	return x.out != nil && x.around == nil && x.out.Protocol() == ipsec.ESP && !x.out.Transport() && !x.out.Serial() && !x.shares()
}

// shares reports whether the packets of x share payloads.
func (x path) shares() bool { return x.out != nil && x.out.Aggfrag().On }

// sealSuper seals the n packets of segments where they lie: that is their only
// copy.
func (l *outbound) sealSuper(out *sad.Out, reqID uint32, n int) {
	next := nextHeader(&l.info)
	var dress netio.Packet
	l.dress(&dress, out)
	size := out.SealedLen(l.segments.PacketLen())
	for n > 0 {
		ep := out.Endpoint()
		x := exitFor(ep.Encap, ep.Remote.Addr())
		room := min((len(l.sealed)-l.used)/size, sealedMost-len(l.leave[x]))
		if room <= 0 {
			if !l.turn() {
				l.tally.add(espDrop(esp.ErrSpace), uint64(n))
				return
			}
			if out = l.w.Outbound(ipsec.ESP, reqID, &l.info); out == nil { // found again: SAs do not outlive the turn
				l.tally.add(dropNoSA, uint64(n))
				return
			}
			continue
		}
		now := min(n, room)
		n -= now
		claim, err := l.w.Claim(out, now)
		if err != nil {
			l.tally.add(espDrop(err), uint64(now-claim.Left()))
		}
		var octets uint64
		for claim.Left() > 0 {
			inner := l.segments.Next()
			dst := l.sealed[l.used:]
			length, err := claim.SealFrom(dst, inner, next)
			if err != nil {
				l.tally.add(espDrop(err), 1)
				continue
			}
			l.used += length
			octets += uint64(len(inner))
			l.tally.add(outPackets, 1)
			dress.Buf, dress.Len = dst[:length:length], length
			dress.Local, dress.Remote = ep.Local, ep.Remote
			l.leave[x] = append(l.leave[x], dress)
			if l.listeners != nil {
				l.showSealed(out, &dress, false)
			}
		}
		l.tally.add(outOctets, octets)
		l.w.Settle(&claim)
		if err != nil {
			l.tally.add(espDrop(err), uint64(n))
			return
		}
	}
}

// turn lets everything leave in the middle of a batch, so that there is room
// again. SAs found before it are not to be used after it. It reports false where
// there was all the room already.
func (l *outbound) turn() bool {
	if l.sealed == nil {
		l.sealed = make([]byte, sealedLen)
		return true
	}
	if l.used == 0 {
		return false
	}
	l.end()
	l.send()
	l.w.Begin(l.plane.coarseNow())
	return true
}

// unroll copies the packets of segments out and takes each the way of a packet
// that came alone, which is also the way to be sealed with others.
func (l *outbound) unroll(policy *ipsec.Policy) {
	for b := l.segments.Next(); b != nil; b = l.segments.Next() {
		size := netio.Headroom + len(b) + netio.Tailroom
		if l.used+size > len(l.sealed) {
			l.seal()
			if !l.turn() {
				l.tally.add(espDrop(esp.ErrSpace), 1)
				continue
			}
		}
		buf := l.sealed[l.used : l.used+size : l.used+size]
		l.used += size
		p := netio.Packet{Buf: buf, Off: netio.Headroom, Len: copy(buf[netio.Headroom:], b)}
		l.follow(&p, policy)
	}
}
