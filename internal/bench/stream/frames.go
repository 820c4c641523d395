package stream

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"

	"caponier/internal/packet"
)

const (
	ethernetLen = 14
	udpLen      = 8
	headersLen  = packet.IPv4HeaderLen + udpLen
	numberAt    = headersLen + 4 // the stream's number comes first
)

// frames makes the datagrams of a stream, each in one frame or in several that
// carry its fragments.
type frames struct {
	targets []netip.Addr
	src     netip.Addr
	perOne  int      // frames of a datagram
	mem     [][]byte // of all, perOne for each datagram of a batch
	mtu     int
	whole   []byte // the IP packet that is cut, where it is
	cut     packet.Fragmenter
}

// link is what a frame begins with.
func link(from, to net.HardwareAddr) []byte {
	h := make([]byte, 0, ethernetLen)
	h = append(append(h, to...), from...)
	return append(h, 0x08, 0x00)
}

// newFrames lays out n datagrams, to go to the targets in turn from a port.
func newFrames(n int, head []byte, src netip.Addr, from uint16, targets []netip.Addr, id uint32, size, mtu int) *frames {
	f := &frames{targets: targets, src: src, perOne: 1, mtu: mtu}
	ip := make([]byte, headersLen+size)
	ip[0] = 4<<4 | packet.IPv4HeaderLen/4
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[8], ip[9] = 64, packet.ProtocolUDP
	a := src.As4()
	copy(ip[12:], a[:])
	udp := ip[packet.IPv4HeaderLen:]
	binary.BigEndian.PutUint16(udp, from)
	binary.BigEndian.PutUint16(udp[2:], port)
	binary.BigEndian.PutUint16(udp[4:], uint16(udpLen+size))
	binary.BigEndian.PutUint32(udp[udpLen:], id)
	if len(ip) <= mtu {
		ip[6] = 0x40 // DF, as sockets set it
		for range n {
			f.mem = append(f.mem, slices.Concat(head, ip))
		}
		return f
	}
	f.whole = ip
	room := (mtu - packet.IPv4HeaderLen) / 8 * 8
	f.perOne = (udpLen + size + room - 1) / room
	for range n * f.perOne {
		f.mem = append(f.mem, append(make([]byte, 0, len(head)+mtu), head...))
	}
	return f
}

// number makes the i-th datagram of the batch the one of that number, and returns
// its frames.
func (f *frames) number(i int, number uint64) [][]byte {
	out := f.mem[i*f.perOne:][:f.perOne]
	target := f.targets[number%uint64(len(f.targets))]
	if f.whole == nil {
		f.finish(out[0][ethernetLen:], target, number)
		return out
	}
	f.finish(f.whole, target, number)
	var info packet.Info
	info.Decode(f.whole)
	f.cut.Start(f.whole, &info, f.mtu, 0)
	for j := range out {
		room := out[j][ethernetLen : ethernetLen+f.mtu]
		out[j] = out[j][:ethernetLen+f.cut.Next(room)]
	}
	return out
}

// finish completes an IP packet with what differs from datagram to datagram.
func (f *frames) finish(ip []byte, target netip.Addr, number uint64) {
	a := target.As4()
	copy(ip[16:20], a[:])
	binary.BigEndian.PutUint64(ip[numberAt:], number)
	header, udp := ip[:packet.IPv4HeaderLen], ip[packet.IPv4HeaderLen:]
	binary.BigEndian.PutUint16(header[4:], uint16(number))
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], packet.Checksum(header))
	udp[6], udp[7] = 0, 0
	// The data behind the number is zero and adds nothing.
	sum := packet.PseudoHeaderSum(f.src, target, packet.ProtocolUDP, len(udp))
	check := ^packet.Fold(packet.Sum(sum, udp[:udpLen+MinSize]))
	if check == 0 {
		check = 0xffff // RFC 768: 0 would mean none
	}
	binary.BigEndian.PutUint16(udp[6:], check)
}
