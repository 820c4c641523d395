package netio

import (
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"

	"caponier/internal/packet"
)

// VnetLen is the length of struct virtio_net_hdr, which stands before each
// packet of a TUN device with IFF_VNET_HDR, and before each frame of a packet
// socket with PACKET_VNET_HDR:
//
//	 0         1         2         4            6            8           10
//	+---------+---------+---------+------------+------------+------------+
//	|  flags  | gso_type| hdr_len |  gso_size  | csum_start | csum_offset|
//	+---------+---------+---------+------------+------------+------------+
//
// The fields have the byte order of the machine.
const VnetLen = 10

// Values of the header (Virtio 1.2, Section 5.1.6) that x/sys/unix lacks.
const (
	vnetNeedsChecksum = 1
	vnetNone          = 0
	vnetTCPv4         = 1
	vnetTCPv6         = 4
	vnetUDP           = 5
	vnetECN           = 0x80
)

// maxVectors is the longest vector that a system call takes (UIO_MAXIOV).
const maxVectors = 1024

// VnetHeader is a struct virtio_net_hdr.
type VnetHeader [VnetLen]byte

// Decode reads the header into p, whose packet or frame lies behind it, and
// finishes the checksum of a packet that stands for itself. It reports false where
// the header makes no sense.
func (h *VnetHeader) Decode(p *Packet) bool {
	b := h[:]
	flags, kind := b[0], b[1]
	switch kind &^ vnetECN {
	case vnetNone:
		if flags&vnetNeedsChecksum == 0 {
			return true
		}
		start, offset := binary.NativeEndian.Uint16(b[6:]), binary.NativeEndian.Uint16(b[8:])
		return packet.FinishChecksum(p.Data(), int(start), int(offset))
	case vnetTCPv4, vnetTCPv6, vnetUDP:
		p.Segment = int(binary.NativeEndian.Uint16(b[4:]))
		return p.Segment > 0
	default:
		return false
	}
}

// IsUDP reports whether it is the header of a UDP super-packet.
func (h *VnetHeader) IsUDP() bool { return h[1] == vnetUDP }

// Encode writes the header of p, whose IP packet has link octets before it. It
// reports false for a super-packet that no Coalescer makes.
func (h *VnetHeader) Encode(p *Packet, link int) bool {
	*h = VnetHeader{}
	if p.Segment == 0 {
		return len(p.Pieces) == 0
	}
	if p.Len < link {
		return false
	}
	b := p.Data()[link:]
	var transport int
	var protocol, kind byte
	switch {
	case len(b) > packet.IPv4HeaderLen && b[0] == 0x45:
		transport, protocol, kind = packet.IPv4HeaderLen, b[9], vnetTCPv4
	case len(b) > packet.IPv6HeaderLen && b[0]>>4 == 6:
		transport, protocol, kind = packet.IPv6HeaderLen, b[6], vnetTCPv6
	default:
		return false
	}
	headerLen := transport + packet.TCPHeaderLen
	switch {
	case protocol == packet.ProtocolTCP && len(b) > headerLen:
		headerLen = max(headerLen, transport+int(b[transport+12]>>4)*4)
	case protocol == packet.ProtocolUDP:
		headerLen, kind = transport+packet.UDPHeaderLen, vnetUDP
	default:
		return false
	}
	if len(b) <= headerLen {
		return false
	}
	h[0], h[1] = vnetNeedsChecksum, kind
	binary.NativeEndian.PutUint16(h[2:], uint16(link+headerLen))
	binary.NativeEndian.PutUint16(h[4:], uint16(p.Segment))
	binary.NativeEndian.PutUint16(h[6:], uint16(link+transport))
	binary.NativeEndian.PutUint16(h[8:], uint16(packet.ChecksumOffset(protocol)))
	return true
}

func piecesLen(p *Packet) int {
	n := 0
	for _, b := range p.Pieces {
		n += len(b)
	}
	return n
}

// offload asks the kernel for what the options leave, and returns what super-packets
// may be written.
func (t *TUN) offload(without Offload) (tcp, udp bool) {
	const (
		forTCP = unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | unix.TUN_F_TSO_ECN
		forUDP = unix.TUN_F_USO4 | unix.TUN_F_USO6
	)
	set := func(features uint) bool {
		ok := false
		err := t.raw.Control(func(fd uintptr) {
			ok = unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, int(features)) == nil
		})
		return err == nil && ok
	}
	tcp, udp = without&OffloadTCP == 0, without&OffloadUDP == 0
	if tcp && udp && set(unix.TUN_F_CSUM|forTCP|forUDP) {
		return true, true
	}
	if tcp && set(unix.TUN_F_CSUM|forTCP) {
		return true, false
	}
	if udp && set(unix.TUN_F_CSUM|forUDP) {
		return false, true
	}
	set(0)
	return false, false
}

// write writes one packet.
func (t *TUN) write(fd int, p *Packet) unix.Errno {
	wr := &t.wr
	if !wr.head.Encode(p, 0) {
		return unix.EINVAL
	}
	if p.Segment != 0 && !t.takes(p) {
		return t.cutAndWrite(fd, p)
	}
	errno := t.writev(fd, p)
	if p.Segment != 0 && errno == unix.EINVAL {
		if wr.head.IsUDP() {
			t.udp.Store(false)
		} else {
			t.tcp.Store(false)
		}
		return t.cutAndWrite(fd, p)
	}
	return errno
}

// takes reports whether the kernel may be given the super-packet whose header
// has been encoded.
func (t *TUN) takes(p *Packet) bool {
	if len(p.Pieces)+2 > maxVectors {
		return false
	}
	if t.wr.head.IsUDP() {
		return t.udp.Load()
	}
	return t.tcp.Load()
}

// readInto reads one packet with its header, never blocking.
func readInto(fd uintptr, b []byte) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), errno
}

// writev writes the header and p.
func (t *TUN) writev(fd int, p *Packet) unix.Errno {
	wr := &t.wr
	iovs := appendVector(wr.iovs[:0], wr.head[:])
	iovs = appendVector(iovs, p.Data())
	for _, b := range p.Pieces {
		iovs = appendVector(iovs, b)
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(iovs))), uintptr(len(iovs)))
	clear(iovs)
	return errno
}

func appendVector(iovs []unix.Iovec, b []byte) []unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return append(iovs, v)
}

// cutting is the memory for super-packets that the kernel does not take.
type cutting struct {
	super    []byte
	segments packet.Segmenter
	info     packet.Info
}

// cutAndWrite writes the packets that p stands for.
func (t *TUN) cutAndWrite(fd int, p *Packet) unix.Errno {
	if t.wr.cut == nil {
		t.wr.cut = &cutting{super: make([]byte, 0, MaxPacket)}
	}
	c := t.wr.cut
	c.super = append(c.super[:0], p.Data()...)
	for _, b := range p.Pieces {
		c.super = append(c.super, b...)
	}
	c.info.Decode(c.super)
	if _, ok := c.segments.Start(c.super, &c.info, p.Segment); !ok {
		return unix.EINVAL
	}
	t.wr.head = VnetHeader{}
	for b := c.segments.Next(); b != nil; b = c.segments.Next() {
		one := Packet{Buf: b, Len: len(b)}
		errno := t.writev(fd, &one)
		for errno == unix.EINTR {
			errno = t.writev(fd, &one)
		}
		if errno != 0 {
			return errno
		}
	}
	return 0
}
