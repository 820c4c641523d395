package userspace

import (
	"encoding/binary"

	"caponier/internal/ah"
	"caponier/internal/drop"
	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/sad"
)

// AH covers the IP header before it, so that packets get here the one that they
// will leave with, and leave by the sockets for whole packets. In tunnel mode that
// is an outer header, and the packet inside its payload; in a bundle it is the one
// before ESP. AH then goes between header and payload, as in transport mode.

// authenticate prepares the packet p, decoded to info, for the AH SA of the run, as
// enqueue does.
func (l *outbound) authenticate(p *netio.Packet) *netio.Packet {
	r := &l.run
	q := *p
	if r.out.Transport() {
		q.Len, q.DontFragment = min(l.info.TotalLen, p.Len), true
	} else if l.dress(&q, r.out); !l.encapsulate(&q, r.ep, nextHeader(&l.info)) {
		return nil
	}
	q.Local, q.Remote = r.ep.Local, r.ep.Remote
	if !l.wrap(&q, r.out) {
		return nil
	}
	r.octets[r.n] = p.Len
	r.n++
	return &l.wrapped.pkts[r.n-1]
}

// encapsulate puts before p an IP header of its own, which says that protocol
// follows.
func (l *outbound) encapsulate(p *netio.Packet, ep *sad.Endpoint, protocol uint8) bool {
	src, dst := ep.Local.Addr(), ep.Remote.Addr()
	head := packet.IPv4HeaderLen
	if !dst.Is4() {
		head = packet.IPv6HeaderLen
	}
	if p.Off < head || p.Len+head > netio.MaxPacket {
		l.tally.add(dropOf(ipsec.AH, drop.Space), 1)
		return false
	}
	payload := p.Len
	p.Off -= head
	p.Len += head
	if dst.Is4() {
		packet.PutIPv4(p.Data(), &packet.IPv4Header{
			Src: src, Dst: dst, TotalLen: p.Len, ID: l.nextID(), TrafficClass: p.TrafficClass,
			TTL: defaultHopLimit, Protocol: protocol, DontFragment: p.DontFragment,
		})
	} else {
		packet.PutIPv6(p.Data(), &packet.IPv6Header{
			Src: src, Dst: dst, PayloadLen: payload, TrafficClass: p.TrafficClass, NextHeader: protocol, HopLimit: defaultHopLimit,
		})
	}
	return true
}

// nextID returns an identification for an IPv4 header, never 0: for that the
// kernel would put another in, which the ICV then did not cover. No other lane
// returns the same one soon.
func (l *outbound) nextID() uint16 {
	for {
		l.identification += uint16(len(l.plane.out) + 1 + len(l.plane.framed))
		if id := l.identification + uint16(l.w.Index()); id != 0 {
			return id
		}
	}
}

// wrap makes room for AH in the whole IP packet p and keeps it for sealAH.
func (l *outbound) wrap(p *netio.Packet, around *sad.Out) bool {
	w := &l.wrapped
	b := p.Data()
	if b[0]>>4 == 4 && b[4] == 0 && b[5] == 0 {
		binary.BigEndian.PutUint16(b[4:], l.nextID())
	}
	start := p.Off - around.AHLen(b[0]>>4)
	if start < 0 {
		l.tally.add(dropOf(ipsec.AH, drop.Space), 1)
		return false
	}
	n, next, err := around.Insert(p.Buf[start:p.Off+p.Len], b)
	if err != nil {
		l.tally.add(dropOf(ipsec.AH, err), 1)
		return false
	}
	p.Off, p.Len = start, n
	w.pkts[w.n] = *p
	w.items[w.n] = ah.SealItem{Packet: p.Data(), NextHeader: next}
	w.n++
	return true
}

// sealAH seals what was wrapped and lets it leave.
func (l *outbound) sealAH(around *sad.Out) {
	w := &l.wrapped
	items := w.items[:w.n]
	l.w.SealAH(around, items)
	alone := around == l.run.out
	x := exitWhole(around.Endpoint().Remote.Addr())
	for i := range items {
		if err := items[i].Err; err != nil {
			l.tally.add(dropOf(ipsec.AH, err), 1)
			continue
		}
		if alone {
			l.tally.add(outPackets, 1)
			l.tally.add(outOctets, uint64(l.run.octets[i]))
		}
		l.depart(&w.pkts[i], x, around)
	}
	clear(items)
	w.n = 0
}

// nested are packets of ESP that came out of AH, until all of a batch have: the
// ESP SA may be another owner's.
type nested struct {
	pkts  []netio.Packet
	reqID []uint32 // of the AH SA, for each
}

// openAH takes AH off the packet p.
func (l *inbound) openAH(w *sad.Worker, p *netio.Packet, in *sad.In) {
	class := trafficClass(p.Data())
	b, err := w.OpenAH(in, p.Data())
	if err != nil {
		l.tally.add(dropOf(ipsec.AH, err), 1)
		return
	}
	if reqID := in.SA().ReqID; l.table.Bundled(reqID) {
		l.nest(in, b, reqID)
		return
	}
	l.admit(w, in, carried{inner: b, class: class})
}

// trafficClass is that of a whole IP packet.
func trafficClass(b []byte) uint8 {
	if b[0]>>4 == 6 {
		return b[0]<<4 | b[1]>>4
	}
	return b[1]
}

// nest keeps the packet b, which in of a bundle has verified, for the ESP SA of
// the bundle.
func (l *inbound) nest(in *sad.In, b []byte, reqID uint32) {
	l.info.Decode(b)
	if !in.Transport() || l.info.Version == 0 || l.info.Protocol != packet.ProtocolESP || l.info.IsFragment() {
		l.tally.add(dropOf(ipsec.AH, drop.Bundle), 1)
		return
	}
	payload := b[l.info.HeaderLen:l.info.TotalLen]
	ep := in.Endpoint()
	l.nested.pkts = append(l.nested.pkts, netio.Packet{
		Buf: payload, Len: len(payload), Local: ep.Local, Remote: ep.Remote, TrafficClass: l.info.TrafficClass,
	})
	l.nested.reqID = append(l.nested.reqID, reqID)
}

// openNested opens what was nested.
func (l *inbound) openNested() {
	n := &l.nested
	defer func() { n.pkts, n.reqID = n.pkts[:0], n.reqID[:0] }()
	l.protocol = ipsec.ESP
	l.openAll(n.pkts)
}

// outside returns the ReqID of the AH that an ESP packet came in, of which rest
// and all that follows it are yet to be opened, or 0.
func (l *inbound) outside(rest int) uint32 {
	if l.carries == ipsec.AH && l.protocol == ipsec.ESP {
		return l.nested.reqID[len(l.nested.reqID)-rest]
	}
	return 0
}

// bundled reports whether a packet that came in AH of the ReqID outside, or in
// none where that is 0, is one that the ESP SA in may take: what a policy of a
// bundle lets through went through both SAs, and of the same bundle.
func (l *inbound) bundled(in *sad.In, outside uint32) bool {
	var want uint32
	if reqID := in.SA().ReqID; l.table.Bundled(reqID) {
		want = reqID
	}
	switch outside {
	case want:
		return true
	case 0:
		l.tally.add(espDrop(drop.NoAH), 1)
	default:
		l.tally.add(espDrop(drop.Bundle), 1)
	}
	return false
}
