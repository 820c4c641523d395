package frame

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"

	"caponier/internal/netio"
	"caponier/internal/packet"
)

// WriterKind is what a Writer is given.
type WriterKind uint8

// The kinds of writers.
const (
	// Deliver is for IP packets that came out of a tunnel, as a TUN device takes
	// them.
	Deliver WriterKind = iota
	// SealedUDP and SealedESP are for what sockets of such kinds take: UDP
	// payloads, and what begins with an ESP header.
	SealedUDP
	SealedESP
)

// Bounds of a Writer.
const (
	writerSpace  = 512 << 10 // octets of frames that are put together
	writerFrames = 256
	recentWays   = 64 // a power of two
	maxTrain     = 64 // datagrams (UDP_MAX_SEGMENTS of older kernels)
	worthTrain   = 4  // datagrams for which the kernel's way with trains costs less than frames
)

// frameHeaders is the longest of what is put before ESP: Ethernet with a tag, IPv6
// and UDP.
const frameHeaders = HeaderLen + TagLen + packet.IPv6HeaderLen + packet.UDPHeaderLen

// outerTTL is the time to live of outer packets.
const outerTTL = 64

// Writer puts link headers before packets, and outer ones before what was sealed,
// and sends them. It implements netio.Joiner. It belongs to one lane, and is not
// to be shared.
type Writer struct {
	hub      *Hub
	kind     WriterKind
	lane     int
	fallback netio.Writer
	id       uint16 // of the last IPv4 header that may be cut on its way

	// recent are ways that were found; those of another generation are not used.
	recent [recentWays]struct {
		pair       Pair
		way        *Way
		generation uint64
	}
	// Scratch, used again for each batch.

	rest   []netio.Packet // for fallback
	frames []netio.Packet // for the port
	pieces [][]byte       // of the frames
	space  []byte
	used   int
	port   *Port
}

var _ netio.Joiner = (*Writer)(nil)

func newWriter(h *Hub, k WriterKind, lane int, fallback netio.Writer) *Writer {
	return &Writer{
		hub: h, kind: k, lane: lane, fallback: fallback, frames: make([]netio.Packet, 0, writerFrames),
		pieces: make([][]byte, 0, 16*writerFrames),
	}
}

// Joins implements netio.Joiner: what the fallback takes, and the sockets that take
// anything joined. What a socket does not take goes by the fallback, where joined
// packets cost less than frames one by one.
func (w *Writer) Joins() (tcp, udp bool) {
	j, ok := w.fallback.(netio.Joiner)
	if !ok {
		return false, false
	}
	tcp, udp = j.Joins()
	for _, p := range w.hub.ports {
		if j, ok := w.socket(p).(Joiner); ok {
			t, u := j.Joins()
			tcp, udp = tcp && t, udp && u
		}
	}
	return tcp, udp
}

// socket is the one by which this lane sends.
func (w *Writer) socket(p *Port) Socket { return p.Queues[w.lane%len(p.Queues)] }

// WriteBatch implements netio.Writer. Frames that cannot be sent are counted; an
// error is that of the fallback, about a packet that is left out.
func (w *Writer) WriteBatch(pkts []netio.Packet) (int, error) {
	w.rest, w.frames, w.pieces, w.used, w.port = w.rest[:0], w.frames[:0], w.pieces[:0], 0, nil
	sent := 0
	var last error
	for i := 0; i < len(pkts); {
		n, ok := 1, false
		if w.kind == Deliver {
			ok = w.deliver(&pkts[i])
		} else {
			n, ok = w.seal(pkts[i:])
		}
		// Only one of the two ways has something that waits, so that packets leave
		// in their order.
		if ok {
			sent += n
			last = cmp.Or(w.fall(), last)
		} else {
			w.flush()
			w.rest = append(w.rest, pkts[i:i+n]...)
		}
		i += n
	}
	w.flush()
	w.hub.counters.framed.Add(uint64(sent))
	return len(pkts), cmp.Or(w.fall(), last)
}

// fall gives to the fallback what is left over, and returns its last error.
func (w *Writer) fall() (last error) {
	if len(w.rest) == 0 {
		return nil
	}
	w.hub.counters.fellBack.Add(uint64(len(w.rest)))
	rest := w.rest
	w.rest = w.rest[:0]
	for len(rest) > 0 {
		if w.fallback == nil {
			w.hub.counters.unsent.Add(uint64(len(rest)))
			return last
		}
		n, err := w.fallback.WriteBatch(rest)
		if rest = rest[n:]; err == nil {
			return last
		}
		last = err
		if errors.Is(err, net.ErrClosed) {
			return last
		}
		if len(rest) > 0 {
			w.hub.counters.unsent.Add(uint64(1 + len(rest[0].Pieces)))
			rest = rest[1:]
		}
	}
	return last
}

// way finds the way of a packet, and the link address of its next hop. It reports
// false for one that the kernel is to carry.
func (w *Writer) way(p Pair) (*Way, [6]byte, bool) {
	generation := w.hub.ways.Generation()
	r := &w.recent[slotOf(p)]
	if r.way == nil || r.generation != generation || r.pair != p {
		way := w.hub.ways.Find(p)
		if way == nil {
			return nil, [6]byte{}, false
		}
		r.pair, r.way, r.generation = p, way, generation
	}
	if r.way.Port == 0 {
		return nil, [6]byte{}, false
	}
	mac, known := r.way.Neighbor.MAC()
	return r.way, mac, known
}

func slotOf(p Pair) int {
	a, b := p.Src.As16(), p.Dst.As16()
	x := binary.LittleEndian.Uint32(a[12:]) ^ binary.LittleEndian.Uint32(b[12:])*31 ^ binary.LittleEndian.Uint32(b[8:])
	return int(x * 0x9e3779b1 >> 26 % recentWays)
}

// deliver makes a frame of an IP packet.
func (w *Writer) deliver(p *netio.Packet) bool {
	b := p.Data()
	var pair Pair
	switch {
	case len(b) >= packet.IPv4HeaderLen && b[0]>>4 == 4:
		pair = Pair{Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20]))}
		if b[8] < MinTTL {
			return false
		}
	case len(b) >= packet.IPv6HeaderLen && b[0]>>4 == 6:
		pair = Pair{Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40]))}
		if b[7] < MinTTL {
			return false
		}
	default:
		return false
	}
	way, mac, ok := w.way(pair)
	if !ok || w.longest(p) > way.MTU {
		return false
	}
	if p.Segment != 0 && !w.joiner(way) {
		return false
	}
	h := Header{Dst: mac, Src: way.Src, Tagged: way.Tagged, VLAN: way.VLAN, Type: typeOf(b)}
	f, ok := w.make(way, h.Size()+len(b))
	if !ok {
		return false
	}
	h.Put(f.Data())
	ip := f.Data()[h.Size():]
	copy(ip, b)
	lowerTTL(ip)
	f.Segment, f.Pieces = p.Segment, p.Pieces
	return true
}

// longest is the length of the longest packet that p stands for.
func (w *Writer) longest(p *netio.Packet) int {
	if p.Segment == 0 || len(p.Pieces) > 0 { // the first is whole, and none is longer
		return p.Len
	}
	var info packet.Info
	info.Decode(p.Data())
	head, ok := packet.SuperHeaderLen(p.Data(), &info)
	if !ok {
		return netio.MaxPacket
	}
	return head + p.Segment
}

func typeOf(b []byte) uint16 {
	if b[0]>>4 == 6 {
		return TypeIPv6
	}
	return TypeIPv4
}

// make returns the next frame, of n octets, by the way. What cannot wait any longer
// is sent. It reports false for a frame that is too long.
func (w *Writer) make(way *Way, n int) (*netio.Packet, bool) {
	port := w.hub.ports[way.Port]
	if port == nil || n > writerSpace {
		return nil, false
	}
	if w.space == nil {
		w.space = make([]byte, writerSpace)
	}
	if port != w.port || w.used+n > len(w.space) || len(w.frames) == cap(w.frames) {
		w.flush()
		w.port = port
	}
	w.frames = append(w.frames, netio.Packet{Buf: w.space[w.used : w.used+n : w.used+n], Len: n})
	w.used += n
	return &w.frames[len(w.frames)-1], true
}

// flush sends what there is.
func (w *Writer) flush() {
	for frames := w.frames; len(frames) > 0; {
		n, err := w.socket(w.port).WriteFrames(frames)
		frames = frames[n:]
		if err == nil {
			break
		}
		if errors.Is(err, net.ErrClosed) {
			w.hub.counters.unsent.Add(uint64(len(frames)))
			break
		}
		if len(frames) > 0 {
			w.hub.counters.unsent.Add(uint64(1 + len(frames[0].Pieces)))
			frames = frames[1:]
		}
	}
	w.frames, w.pieces, w.used = w.frames[:0], w.pieces[:0], 0
}

// seal makes a frame of what was sealed, and of as many of those behind it as can
// travel with it. It returns how many.
func (w *Writer) seal(pkts []netio.Packet) (int, bool) {
	p := &pkts[0]
	src, dst := p.Local.Addr(), p.Remote.Addr()
	if !src.IsValid() || src.IsUnspecified() || src.Is4() != dst.Is4() || p.Segment != 0 || len(p.Pieces) != 0 {
		return 1, false
	}
	way, mac, ok := w.way(Pair{Src: src, Dst: dst, Own: true})
	if !ok {
		return 1, false
	}
	h := Header{Dst: mac, Src: way.Src, Tagged: way.Tagged, VLAN: way.VLAN, Type: TypeIPv4}
	head := packet.IPv4HeaderLen
	if !dst.Is4() {
		h.Type, head = TypeIPv6, packet.IPv6HeaderLen
	}
	if w.kind == SealedUDP {
		head += packet.UDPHeaderLen
	}
	if head+p.Len > way.MTU {
		return 1, false
	}
	n := w.train(pkts)
	if n > 1 && !w.joinsUDP(way) {
		if n >= worthTrain && w.fallback != nil {
			return n, false
		}
		n = 1
	}
	f, ok := w.make(way, h.Size()+head+p.Len)
	if !ok {
		return 1, false
	}
	h.Put(f.Data())
	copy(f.Data()[h.Size()+head:], p.Data())
	payload := p.Len
	if n > 1 {
		f.Segment = p.Len
		first := len(w.pieces)
		for i := 1; i < n; i++ {
			w.pieces = append(w.pieces, pkts[i].Data())
			payload += pkts[i].Len
		}
		f.Pieces = w.pieces[first:len(w.pieces):len(w.pieces)]
	}
	w.head(f.Data()[h.Size():], p, payload, n > 1)
	return n, true
}

// joiner reports whether the socket of the way takes joined packets.
func (w *Writer) joiner(way *Way) bool {
	port := w.hub.ports[way.Port]
	if port == nil {
		return false
	}
	_, ok := w.socket(port).(Joiner)
	return ok
}

// joinsUDP reports whether the socket of the way takes trains of datagrams.
func (w *Writer) joinsUDP(way *Way) bool {
	port := w.hub.ports[way.Port]
	if port == nil {
		return false
	}
	j, ok := w.socket(port).(Joiner)
	if !ok {
		return false
	}
	_, udp := j.Joins()
	return udp
}

// train returns how many datagrams at the start of pkts can travel as one.
func (w *Writer) train(pkts []netio.Packet) int {
	if w.kind != SealedUDP {
		return 1
	}
	first := &pkts[0]
	total, n := first.Len, 1
	for n < min(len(pkts), maxTrain) && len(w.pieces)+n < cap(w.pieces) {
		p := &pkts[n]
		if p.Len > first.Len || p.Len == 0 || total+p.Len > netio.MaxPacket-frameHeaders || p.Remote != first.Remote ||
			p.Local != first.Local || p.TrafficClass != first.TrafficClass || p.DontFragment != first.DontFragment || p.Segment != 0 {
			break
		}
		total += p.Len
		n++
		if p.Len < first.Len {
			break
		}
	}
	return n
}

// head writes the outer headers of p to b, before a payload of n octets. Of a train
// the checksum is unfinished.
func (w *Writer) head(b []byte, p *netio.Packet, n int, train bool) {
	src, dst := p.Local.Addr(), p.Remote.Addr()
	protocol := packet.ProtocolESP
	if w.kind == SealedUDP {
		protocol = packet.ProtocolUDP
		n += packet.UDPHeaderLen
	}
	head := packet.IPv4HeaderLen
	if dst.Is4() {
		w.id++
		packet.PutIPv4(b, &packet.IPv4Header{
			Src: src, Dst: dst, TotalLen: head + n, ID: w.id, TrafficClass: p.TrafficClass,
			TTL: outerTTL, Protocol: protocol, DontFragment: p.DontFragment,
		})
		if train {
			w.id += maxTrain // the kernel counts on from the first
		}
	} else {
		head = packet.IPv6HeaderLen
		packet.PutIPv6(b, &packet.IPv6Header{
			Src: src, Dst: dst, PayloadLen: n, TrafficClass: p.TrafficClass, NextHeader: protocol, HopLimit: outerTTL,
		})
	}
	if w.kind != SealedUDP {
		return
	}
	udp := b[head:]
	packet.PutUDP(udp, p.Local.Port(), p.Remote.Port(), n, 0)
	sum := uint16(0)
	switch {
	case train:
		sum = packet.Fold(packet.PseudoHeaderSum(src, dst, protocol, n))
	case !dst.Is4(): // RFC 8200, Section 8.1; over IPv4 there is none (RFC 3948, Section 2.1)
		if sum = packet.TransportChecksum(src, dst, protocol, udp); sum == 0 {
			sum = 0xffff
		}
	}
	binary.BigEndian.PutUint16(udp[6:], sum)
}
