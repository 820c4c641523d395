package netio

import "net/netip"

// Room that every reader leaves around a packet, so that ESP and AH can be put
// around it, or taken off, where it lies. Before it an IPv6 header (40 octets), AH
// with the longest ICV (RFC 4302, Section 2: 12 + 32 octets and padding of 4), and
// an ESP header with the longest IV (RFC 4303, Section 2: 8 + 16 octets). Behind
// it padding, trailer and the longest ICV (15 + 2 + 32 octets).
const (
	Headroom = 128
	Tailroom = 64
)

// MaxPacket is the longest IP packet or UDP payload, in octets.
const MaxPacket = 65535

// Packet is one packet inside a buffer with room before and behind it.
//
// Buf belongs to whoever made the batch; readers and writers use it only during
// the call.
type Packet struct {
	Buf []byte
	// Off and Len say where in Buf the packet lies.
	Off, Len int
	// Local and Remote are the outer addresses as this gateway sees them, in
	// both directions: where the packet came to and from, or goes from and to.
	// They are zero for TUN devices. Ports are zero for raw sockets. An invalid
	// or unspecified Local leaves the source address to the kernel.
	Local, Remote netip.AddrPort
	// TrafficClass is that of the outer header, DSCP and ECN: what the packet came
	// with, or is to leave with. Trains have one for all.
	TrafficClass uint8
	// DontFragment keeps what is sent in one piece, on IPv4 by the DF bit: a packet
	// that is longer than the MTU of its device is not sent, and no smaller path
	// MTU that the kernel has heard of counts. Otherwise the kernel fragments.
	DontFragment bool
	// Segment is 0 for a packet that stands for itself. Otherwise it stands for
	// several, with Segment octets in each but the last: of a TUN device, for TCP
	// or UDP packets that share the headers at its start, so many octets of
	// payload in each (package packet cuts and joins them); of a UDP socket, for
	// datagrams back to back. Checksums of such an inner packet are unfinished.
	Segment int
	// Pieces follow Data in what is written. Only those that are Joiners take
	// them, and readers never make them.
	Pieces [][]byte
	// Truncated is set by a reader when the packet did not fit; what there is of
	// it must not be used.
	Truncated bool
}

// Data returns the packet's octets inside Buf.
func (p *Packet) Data() []byte { return p.Buf[p.Off : p.Off+p.Len] }

// space is where a reader puts the next packet.
func (p *Packet) space() []byte { return p.Buf[Headroom : len(p.Buf)-Tailroom] }

// filled records that a reader has put n octets of a packet into space.
func (p *Packet) filled(n int, truncated bool) {
	p.Off, p.Len, p.Truncated, p.Segment = Headroom, n, truncated, 0
	p.TrafficClass, p.DontFragment = 0, false
}

// cacheLine is the alignment of packets in a slab, in octets.
const cacheLine = 64

// NewBatch makes n packets with room for size octets each, in one slab.
func NewBatch(n, size int) []Packet { return batchIn(make([]byte, n*slotOf(size)), n, size) }

// slotOf is how many octets a packet of size octets takes in a slab. Slots start
// on different cache lines of a page: slots whose size is a power of two would put
// all headers into the same few cache sets.
func slotOf(size int) int {
	return (Headroom+size+Tailroom+cacheLine-1)/cacheLine*cacheLine + cacheLine
}

// batchIn makes n packets with room for size octets each, in slab.
func batchIn(slab []byte, n, size int) []Packet {
	slot := slotOf(size)
	pkts := make([]Packet, n)
	for i := range pkts {
		pkts[i].Buf = slab[i*slot : (i+1)*slot : (i+1)*slot]
		pkts[i].Off = Headroom
	}
	return pkts
}

// Writer sends packets in batches.
type Writer interface {
	// WriteBatch sends pkts in order and returns how many have been sent. Where
	// it returns an error as well, that is about pkts[n]: the caller may leave
	// that one out and go on behind it, except after net.ErrClosed. Several
	// goroutines may write; a batch is not interleaved with others.
	WriteBatch(pkts []Packet) (int, error)
}

// Device moves packets in batches.
type Device interface {
	// ReadBatch waits for at least one packet, fills as many of pkts as there
	// are packets at hand, each at Buf[Headroom:], and returns how many. One
	// goroutine may read at a time. It returns net.ErrClosed after Close. A device
	// that is apart does not wait: where nothing is at hand it returns 0.
	ReadBatch(pkts []Packet) (int, error)
	Writer
	// Close wakes readers and writers. It is idempotent.
	Close() error
}

// Joiner is a Writer that takes packets with a Segment other than 0.
type Joiner interface {
	Writer
	// Joins says for which protocols; it may become less while the device works.
	Joins() (tcp, udp bool)
}
