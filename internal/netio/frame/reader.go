package frame

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"syscall"

	"caponier/internal/netio"
	"caponier/internal/packet"
)

// How many frames a Reader asks for at once: fewer where super-frames come, and fewer
// still after it has seen long ones. What is copied further ahead of its use has
// left the cache by then.
const (
	readerSlots = 128
	superSlots  = 64
	hotOctets   = 256 << 10
)

// maxFrame is the longest frame of a socket that is no Joiner: they hold one in a
// page.
const maxFrame = 4096

// Batch is what was read at once, by what is to be done with it. All of it is
// valid until the next Read.
type Batch struct {
	// Inner are IP packets to be protected. Their time to live is lowered, as for
	// every packet that is forwarded.
	Inner []netio.Packet
	// UDP and ESP are what sockets of such kinds deliver: UDP payloads, and what
	// begins with an ESP header. AH are whole packets.
	UDP, ESP, AH []netio.Packet
}

// Reader reads one socket. It belongs to one goroutine.
type Reader struct {
	hub   *Hub
	sock  Socket
	slots []netio.Packet
	want  int
	batch Batch
}

func newReader(h *Hub, s Socket) *Reader {
	n, size := readerSlots, maxFrame
	if _, joins := s.(Joiner); joins {
		n, size = superSlots, netio.MaxPacket+HeaderLen+TagLen
	}
	return &Reader{hub: h, sock: s, slots: netio.NewBatch(n, size), want: n}
}

// SyscallConn implements syscall.Conn, of sockets that are apart.
func (r *Reader) SyscallConn() (syscall.RawConn, error) {
	if s, ok := r.sock.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// Small has the Reader return at most n frames at once, so that the first need not
// wait long for the last.
func (r *Reader) Small(n int) {
	r.slots = r.slots[:min(n, len(r.slots))]
	r.want = len(r.slots)
}

// Read waits for at least one frame and returns what is at hand; of a socket that is
// apart it does not wait. It returns
// net.ErrClosed after the capture has ended.
func (r *Reader) Read() (*Batch, error) {
	n, err := r.sock.ReadFrames(r.slots[:r.want])
	if err != nil {
		return nil, err
	}
	b := &r.batch
	b.Inner, b.UDP, b.ESP, b.AH = b.Inner[:0], b.UDP[:0], b.ESP[:0], b.AH[:0]
	s := r.hub.steering.Load()
	total := 0
	foreign := uint64(0)
	for i := range r.slots[:n] {
		total += r.slots[i].Len
		if !r.sort(s, r.slots[i]) {
			foreign++
		}
	}
	if foreign > 0 {
		r.hub.counters.foreign.Add(foreign)
	}
	r.want = max(1, min(len(r.slots), hotOctets/max(total/max(n, 1), 1)))
	return b, nil
}

// sort puts the packet in the frame p where it belongs. It reports false for what
// should not have been taken, or is not whole.
func (r *Reader) sort(s *Steering, p netio.Packet) bool {
	h, ok := Parse(p.Data())
	if !ok || p.Truncated {
		return false
	}
	p.Off += h.Len
	p.Len -= h.Len
	p.Pieces, p.DontFragment = nil, false
	b := p.Data()
	var src, dst netip.Addr
	head, size := packet.IPv4HeaderLen, 0
	var protocol uint8
	switch {
	case h.Type == TypeIPv4 && len(b) >= packet.IPv4HeaderLen && b[0] == 0x45:
		src, dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		size, protocol, p.TrafficClass = int(binary.BigEndian.Uint16(b[2:])), b[9], b[1]
	case h.Type == TypeIPv6 && len(b) >= packet.IPv6HeaderLen && b[0]>>4 == 6:
		src, dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		head = packet.IPv6HeaderLen
		size, protocol, p.TrafficClass = head+int(binary.BigEndian.Uint16(b[4:])), b[6], b[0]<<4|b[1]>>4
	default:
		return false
	}
	if size < head || size > len(b) {
		return false
	}
	p.Len = size // behind it is what fills the shortest frame
	b = b[:size]
	if !s.own(dst) {
		return r.inner(p)
	}
	kind := s.outer(protocol, b[head:])
	p.Local, p.Remote = netip.AddrPortFrom(dst, 0), netip.AddrPortFrom(src, 0)
	switch kind {
	case OuterAH:
		r.batch.AH = append(r.batch.AH, p)
	case OuterESP:
		p.Off, p.Len = p.Off+head, p.Len-head
		r.batch.ESP = append(r.batch.ESP, p)
	case OuterUDP:
		return r.udp(p, head, src, dst)
	case Other, Inner:
		return false
	}
	return true
}

// inner takes a packet that is to be protected.
func (r *Reader) inner(p netio.Packet) bool {
	if !lowerTTL(p.Data()) {
		return false
	}
	r.batch.Inner = append(r.batch.Inner, p)
	return true
}

// udp takes a datagram, or a train of them.
func (r *Reader) udp(p netio.Packet, head int, src, dst netip.Addr) bool {
	u := p.Data()[head:]
	size := int(binary.BigEndian.Uint16(u[4:]))
	if p.Segment == 0 && (size < packet.UDPHeaderLen || size > len(u)) {
		return false
	}
	if p.Segment != 0 {
		size = len(u)
	}
	p.Remote = netip.AddrPortFrom(src, binary.BigEndian.Uint16(u[0:]))
	p.Local = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(u[2:]))
	p.Off, p.Len = p.Off+head+packet.UDPHeaderLen, size-packet.UDPHeaderLen
	if p.Segment == 0 {
		r.batch.UDP = append(r.batch.UDP, p)
		return true
	}
	end := p.Off + p.Len
	segment := p.Segment
	p.Segment = 0
	for ; p.Off < end; p.Off += segment {
		p.Len = min(segment, end-p.Off)
		r.batch.UDP = append(r.batch.UDP, p)
	}
	return true
}

// lowerTTL takes one off the time to live of a packet that is forwarded (RFC 1812,
// Section 5.3.1; RFC 8200, Section 3). It reports false where nothing is left.
func lowerTTL(b []byte) bool {
	if b[0]>>4 == 6 {
		if b[7] < MinTTL {
			return false
		}
		b[7]--
		return true
	}
	if b[8] < MinTTL {
		return false
	}
	before := binary.BigEndian.Uint16(b[8:])
	b[8]--
	after := binary.BigEndian.Uint16(b[8:])
	binary.BigEndian.PutUint16(b[10:], packet.UpdateChecksum(binary.BigEndian.Uint16(b[10:]), before, after))
	return true
}
