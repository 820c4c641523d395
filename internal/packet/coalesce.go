package packet

import (
	"bytes"
	"encoding/binary"
)

// Limits of a Coalescer.
const (
	maxSuper    = 65535 // octets of a super-packet: what its length field holds
	maxPieces   = 127   // packets behind the first, for the vectors of system calls
	openFlows   = 8     // flows that it joins at a time
	maxUDPJoins = 63    // datagrams behind the first: what senders are bound to
)

// Group is a packet, or a super-packet that stands for several.
type Group struct {
	// Packet is the first packet. In a super-packet its headers are those of
	// the whole, and the checksum field holds the sum of the pseudo header.
	Packet []byte
	// Pieces are the payloads that follow, in order.
	Pieces [][]byte
	// Segment is the length of each payload but the last, and 0 for a packet
	// that stands for itself.
	Segment int
}

// Coalescer joins packets of a flow that follow one another to super-packets,
// of which a Segmenter makes the same packets again. It never changes the order
// of packets within a flow, and leaves a packet alone that is anything but
// plain: with options in the IP header, TCP flags other than ACK, PSH and ECE, a
// wrong checksum or none.
//
// It refers to the packets that it was given until Reset, and rewrites the
// headers of those that it joins.
type Coalescer struct {
	tcp, udp bool
	groups   []joined
	out      []Group
	pieces   []piece
	flat     [][]byte
	open     [openFlows]int // indexes of groups that may grow, -1 for none
	turn     int            // the one of open that goes next
}

// joined is a group while it grows.
type joined struct {
	packet      []byte
	headerLen   int
	segment     int
	total       int // octets of the super-packet
	count       int // packets behind the first
	first, last int // of them, in pieces
	version     uint8
	protocol    uint8
	verified    bool
	push        bool
	ended       bool
}

// piece is a payload, with the index of the group's next or -1.
type piece struct {
	payload []byte
	next    int
}

// NewCoalescer makes one for up to n packets between two Resets, which joins
// TCP, UDP or both.
func NewCoalescer(n int, tcp, udp bool) *Coalescer {
	c := &Coalescer{
		tcp: tcp, udp: udp,
		groups: make([]joined, 0, n), out: make([]Group, 0, n), pieces: make([]piece, 0, n), flat: make([][]byte, 0, n),
	}
	c.Reset()
	return c
}

// Reset forgets everything.
func (c *Coalescer) Reset() {
	clear(c.groups)
	clear(c.out)
	clear(c.pieces)
	clear(c.flat)
	c.groups, c.out, c.pieces, c.flat = c.groups[:0], c.out[:0], c.pieces[:0], c.flat[:0]
	c.closeAll()
}

func (c *Coalescer) closeAll() {
	for i := range c.open {
		c.open[i] = -1
	}
}

// Add takes a packet, decoded to p.
func (c *Coalescer) Add(b []byte, p *Info) {
	headerLen, flow := c.plain(b, p)
	if !flow {
		// It may belong to any of the flows.
		c.closeAll()
		c.groups = append(c.groups, joined{packet: b, first: -1})
		return
	}
	slot := c.find(b, p)
	if slot >= 0 {
		g := &c.groups[c.open[slot]]
		if headerLen > 0 && c.join(g, b, headerLen) {
			if g.ended {
				c.open[slot] = -1
			}
			return
		}
		c.open[slot] = -1
	}
	g := joined{packet: b, headerLen: headerLen, first: -1, total: len(b), version: p.Version, protocol: p.Protocol}
	if headerLen > 0 {
		g.segment = len(b) - headerLen
		g.push = p.Protocol == ProtocolTCP && b[p.HeaderLen+tcpFlags]&tcpPSH != 0
		if !g.push {
			if slot < 0 {
				slot = c.turn
				c.turn = (c.turn + 1) % openFlows
			}
			c.open[slot] = len(c.groups)
		}
	}
	c.groups = append(c.groups, g)
}

// plain returns the length of the headers of a packet that can be joined to
// others, or 0. It reports false where not even the flow can be told by a look
// at fixed places.
func (c *Coalescer) plain(b []byte, p *Info) (headerLen int, flow bool) {
	switch {
	case p.Version == 4 && p.HeaderLen == IPv4HeaderLen, p.Version == 6 && p.HeaderLen == IPv6HeaderLen:
	default:
		return 0, false
	}
	if p.TotalLen != len(b) || p.IsFragment() || !p.HasPorts {
		return 0, false
	}
	t := b[p.HeaderLen:]
	n, whole := SuperHeaderLen(b, p)
	switch p.Protocol {
	case ProtocolTCP:
		if !c.tcp {
			return 0, false
		}
		if !whole || t[tcpFlags]&^(tcpPSH|tcpECE) != tcpACK || t[tcpDataOffset]&0x0f != 0 {
			return 0, true
		}
	case ProtocolUDP:
		if !c.udp {
			return 0, false
		}
		if !whole || int(binary.BigEndian.Uint16(t[udpLength:])) != len(t) || t[udpChecksum] == 0 && t[udpChecksum+1] == 0 {
			return 0, true
		}
	default:
		return 0, false
	}
	return n, true
}

// find returns the place in open of the flow of b, or -1.
func (c *Coalescer) find(b []byte, p *Info) int {
	for i, at := range c.open {
		if at < 0 {
			continue
		}
		g := &c.groups[at]
		if g.protocol != p.Protocol || g.version != p.Version {
			continue
		}
		// Addresses and ports, which follow each other.
		from := 12
		if p.Version == 6 {
			from = 8
		}
		if bytes.Equal(g.packet[from:p.HeaderLen+4], b[from:p.HeaderLen+4]) {
			return i
		}
	}
	return -1
}

// join adds b to the group of its flow if it is the next packet of it.
func (c *Coalescer) join(g *joined, b []byte, headerLen int) bool {
	a := g.packet
	payload := b[headerLen:]
	if headerLen != g.headerLen || len(payload) > g.segment || g.count == maxPieces || g.total+len(payload) > maxSuper {
		return false
	}
	ipLen := IPv6HeaderLen
	if g.version == 4 {
		ipLen = IPv4HeaderLen
		id := binary.BigEndian.Uint16(a[ipv4IDAt:]) + uint16(g.count+1)
		// Traffic class, then flags and time to live.
		if a[1] != b[1] || a[6] != b[6] || a[8] != b[8] || binary.BigEndian.Uint16(b[ipv4IDAt:]) != id {
			return false
		}
	} else if !bytes.Equal(a[:4], b[:4]) || a[7] != b[7] { // traffic class, flow label and hop limit
		return false
	}
	s, t := a[ipLen:], b[ipLen:]
	if g.protocol == ProtocolTCP {
		seq := binary.BigEndian.Uint32(s[tcpSequence:]) + uint32(g.total-g.headerLen)
		if binary.BigEndian.Uint32(t[tcpSequence:]) != seq ||
			!bytes.Equal(s[8:tcpFlags], t[8:tcpFlags]) || (s[tcpFlags]^t[tcpFlags])&^tcpPSH != 0 ||
			!bytes.Equal(s[14:16], t[14:16]) || !bytes.Equal(s[18:headerLen-ipLen], t[18:headerLen-ipLen]) {
			return false
		}
	} else if g.count == maxUDPJoins {
		return false
	}
	if !g.verified {
		if !right(a, ipLen, g.protocol) {
			return false
		}
		g.verified = true
	}
	if !right(b, ipLen, g.protocol) {
		return false
	}
	g.push = g.protocol == ProtocolTCP && t[tcpFlags]&tcpPSH != 0
	g.ended = g.push || len(payload) < g.segment
	g.total += len(payload)
	g.count++
	c.pieces = append(c.pieces, piece{payload, -1})
	if at := len(c.pieces) - 1; g.first < 0 {
		g.first, g.last = at, at
	} else {
		c.pieces[g.last].next = at
		g.last = at
	}
	return true
}

// right reports whether the checksums of b are the ones that a Segmenter will
// write again: joining would replace wrong ones by right ones. A field of 0xffff
// where the computation gives 0 passes for right, being the same number, but is
// not what is written (RFC 1624, Section 3), except in UDP.
func right(b []byte, ipLen int, protocol uint8) bool {
	if b[0]>>4 == 4 && (Checksum(b[:ipLen]) != 0 || binary.BigEndian.Uint16(b[ipv4ChecksumAt:]) == 0xffff) {
		return false
	}
	if protocol == ProtocolTCP && binary.BigEndian.Uint16(b[ipLen+tcpChecksum:]) == 0xffff {
		return false
	}
	src, dst := addresses(b)
	return TransportChecksum(src, dst, protocol, b[ipLen:]) == 0
}

// Groups returns what was added since Reset, in an order that keeps that of each
// flow. It is called once before the next Reset.
func (c *Coalescer) Groups() []Group {
	for i := range c.groups {
		g := &c.groups[i]
		out := Group{Packet: g.packet}
		if g.count > 0 {
			g.rewrite()
			from := len(c.flat)
			for at := g.first; at >= 0; at = c.pieces[at].next {
				c.flat = append(c.flat, c.pieces[at].payload)
			}
			out.Pieces, out.Segment = c.flat[from:], g.segment
		}
		c.out = append(c.out, out)
	}
	return c.out
}

// rewrite makes the headers of the first packet those of the whole.
func (g *joined) rewrite() {
	b := g.packet
	ipLen := IPv6HeaderLen
	if g.version == 4 {
		ipLen = IPv4HeaderLen
		binary.BigEndian.PutUint16(b[ipv4LengthAt:], uint16(g.total))
		b[ipv4ChecksumAt], b[ipv4ChecksumAt+1] = 0, 0
		binary.BigEndian.PutUint16(b[ipv4ChecksumAt:], Checksum(b[:ipLen]))
	} else {
		binary.BigEndian.PutUint16(b[ipv6LengthAt:], uint16(g.total-ipLen))
	}
	t := b[ipLen:]
	if g.protocol == ProtocolUDP {
		binary.BigEndian.PutUint16(t[udpLength:], uint16(g.total-ipLen))
	} else if g.push {
		t[tcpFlags] |= tcpPSH
	}
	src, dst := addresses(b)
	binary.BigEndian.PutUint16(t[ChecksumOffset(g.protocol):], Fold(PseudoHeaderSum(src, dst, g.protocol, g.total-ipLen)))
}
