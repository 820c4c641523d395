package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"caponier/internal/packet"
)

// ListenAH opens a raw socket for IP protocol 51. What it reads are whole IP
// packets, reassembled where they came in fragments: the header is a part of what
// AH authenticates (RFC 4302, Section 3.3.3). To send, use OpenClear.
//
// Raw IPv6 sockets deliver no header (RFC 3542, Section 3). It is put together
// again from what the kernel tells of it: all but the flow label, and for
// extension headers their contents, which is all that AH covers.
func ListenAH(f Family, opts SocketOptions) (*Socket, error) {
	s, err := listen(f, fmt.Sprintf("ip%d:51", f), bindAddr(f, opts.Address), &opts, false)
	if err != nil {
		return nil, fmt.Errorf("open %s protocol 51: %w", f, needs(err, capNetRaw))
	}
	s.whole = true
	if f == IPv6 {
		if err := s.askForHeaders(); err != nil {
			s.Close()
			return nil, fmt.Errorf("open %s protocol 51: %w", f, err)
		}
		s.rd.vec.long = new([maxBatch]longControl)
	}
	return s, nil
}

// longControl is a control with room for extension headers of maxExtensions
// octets, besides.
type longControl [128]uint64

// maxExtensions is the length of the longest chain of extension headers that is put
// together again, in octets.
const maxExtensions = 512

func (c *longControl) octets() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
}

func (s *Socket) askForHeaders() error {
	var optErr error
	err := s.raw.Control(func(fd uintptr) {
		for _, option := range []int{
			unix.IPV6_RECVHOPOPTS, unix.IPV6_RECVDSTOPTS, unix.IPV6_RECVRTHDR, unix.IPV6_RECVHOPLIMIT,
		} {
			if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, option, 1); err != nil {
				optErr = fmt.Errorf("ask for IPv6 headers: %w", err)
				return
			}
		}
	})
	return errors.Join(err, optErr)
}

// extensions are the extension headers of a packet, put one behind the other.
type extensions struct {
	first  uint8 // the protocol of the first, or of AH
	octets [maxExtensions]byte
	n      int
	last   int // where the last begins
}

// add puts a header behind the others and links it into the chain.
func (x *extensions) add(protocol uint8, header []byte) bool {
	if len(header) < 8 || x.n+len(header) > len(x.octets) {
		return false
	}
	x.link(protocol)
	x.last = x.n
	x.n += copy(x.octets[x.n:], header)
	return true
}

// link says what follows the last header.
func (x *extensions) link(next uint8) {
	if x.n == 0 {
		x.first = next
	} else {
		x.octets[x.last] = next
	}
}

// restore puts the IPv6 header of the i-th message, and its extension headers,
// before p again. The kernel tells of extension headers in their order, and of
// hop-by-hop options first, where they stand. A packet whose headers are not all
// told is as good as truncated.
func (v *vector) restore(i int, p *Packet) {
	var x extensions
	limit, ok := uint8(0), v.hdrs[i].hdr.Flags&unix.MSG_CTRUNC == 0
	for b := v.controls(i); len(b) > 0; {
		var m message
		if m, b = nextMessage(b); m.level != unix.IPPROTO_IPV6 {
			continue
		}
		switch m.kind {
		case unix.IPV6_HOPOPTS:
			ok = x.add(packet.ProtocolHopByHop, m.data) && ok
		case unix.IPV6_DSTOPTS:
			ok = x.add(packet.ProtocolDestination, m.data) && ok
		case unix.IPV6_RTHDR:
			ok = x.add(packet.ProtocolRouting, m.data) && ok
		case unix.IPV6_HOPLIMIT:
			if len(m.data) >= 4 {
				limit = uint8(binary.NativeEndian.Uint32(m.data))
			}
		}
	}
	x.link(packet.ProtocolAH)
	head := packet.IPv6HeaderLen + x.n
	if shift := head - p.Off; shift > 0 {
		ok = ok && p.Off+p.Len+shift <= len(p.Buf)
		if ok {
			copy(p.Buf[head:], p.Data())
			p.Off = head
		}
	}
	if !ok || !p.Local.Addr().Is6() || !p.Remote.Addr().Is6() {
		p.Truncated = true
		return
	}
	p.Off -= head
	p.Len += head
	packet.PutIPv6(p.Data(), &packet.IPv6Header{
		Src: p.Remote.Addr(), Dst: p.Local.Addr(), PayloadLen: p.Len - packet.IPv6HeaderLen,
		TrafficClass: p.TrafficClass, NextHeader: x.first, HopLimit: limit,
	})
	copy(p.Data()[packet.IPv6HeaderLen:], x.octets[:x.n])
}
