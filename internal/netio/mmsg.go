package netio

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxBatch is how many packets one recvmmsg or sendmmsg moves at most.
const maxBatch = 128

// mmsghdr is the kernel's struct mmsghdr, which x/sys/unix does not define.
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// control is the room for the control messages that our sockets ask for or send:
// in_pktinfo or in6_pktinfo, the traffic class, and the segment size of a train
// of datagrams. The words give it the alignment of the kernel.
type control [12]uint64

// controlLen is the size of a control in octets.
const controlLen = int(unsafe.Sizeof(control{}))

func (c *control) octets() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(c)), controlLen) }

// sockaddr holds a sockaddr_in or a sockaddr_in6.
type sockaddr [unix.SizeofSockaddrInet6]byte

// maxTrain and maxTrainLen bound a train: UDP_MAX_SEGMENTS of older kernels, and
// what a network device takes at once (gso_max_size, 65,536 octets unless set
// otherwise) with all headers. A train that is longer the kernel would cut in
// software, for more than the train gains.
const (
	maxTrain    = 64
	maxTrainLen = 1<<16 - 128
)

// vector is the memory of one direction of a socket, laid out once: the kernel
// fills and reads these arrays in place, which is what keeps a batch free of
// allocations. Pointers between its fields stay valid because the garbage
// collector does not move what is on the heap.
//
// unsafe stands only where a Go pointer becomes one of a kernel structure's
// fields or the argument of a system call.
type vector struct {
	hdrs  [maxBatch]mmsghdr
	iovs  [maxBatch]unix.Iovec
	names [maxBatch]sockaddr
	ctrls [maxBatch]control
	// long replaces ctrls for a reader that asks for more (ah.go).
	long *[maxBatch]longControl
	// first[i] is the packet that message i starts with.
	first [maxBatch + 1]int
}

func newVector() *vector {
	v := new(vector)
	for i := range v.hdrs {
		h := &v.hdrs[i].hdr
		h.Iov = &v.iovs[i]
		h.SetIovlen(1)
		h.Name = &v.names[i][0]
	}
	return v
}

// mmsg calls recvmmsg or sendmmsg, never blocking, for hdrs[from:to].
//
// Here and in a TUN's calls the scheduler is not told: they do not wait, and it
// would take the processor away from a lane whose call takes longer than 20
// microseconds, which moving a few trains does, and wake threads to use it.
func (v *vector) mmsg(call, fd uintptr, from, to int) (int, unix.Errno) {
	for {
		n, _, errno := unix.RawSyscall6(call, fd, uintptr(unsafe.Pointer(&v.hdrs[from])),
			uintptr(to-from), unix.MSG_DONTWAIT, 0, 0)
		if errno != unix.EINTR {
			return int(n), errno
		}
	}
}

// prepareRead points the vector to the space of pkts.
func (v *vector) prepareRead(pkts []Packet) {
	for i := range pkts {
		space := pkts[i].space()
		v.iovs[i].Base = unsafe.SliceData(space)
		v.iovs[i].SetLen(len(space))
		h := &v.hdrs[i].hdr
		h.Namelen = uint32(len(v.names[i]))
		c := v.control(i)
		h.Control = unsafe.SliceData(c)
		h.SetControllen(len(c))
		h.Flags = 0
	}
}

// control is the room for the control messages of the i-th message that is read.
func (v *vector) control(i int) []byte {
	if v.long != nil {
		return v.long[i].octets()
	}
	return v.ctrls[i].octets()
}

// controls returns the control messages that the i-th message came with.
func (v *vector) controls(i int) []byte {
	c := v.control(i)
	return c[:min(int(v.hdrs[i].hdr.Controllen), len(c))]
}

// received records in p what the kernel has put into the i-th message.
func (v *vector) received(i int, p *Packet) {
	m := &v.hdrs[i]
	p.filled(int(m.len), m.hdr.Flags&unix.MSG_TRUNC != 0)
	p.Remote = v.names[i].addrPort()
	p.Local = netip.AddrPort{}
	for b := v.controls(i); len(b) > 0; {
		var c message
		c, b = nextMessage(b)
		c.read(p)
	}
	if p.Segment >= p.Len {
		p.Segment = 0
	}
}

// prepareWrite makes messages of pkts, at most maxBatch. With trains, packets of
// one length that follow one another to one address travel in one message; a
// shorter one may end it. Raw sockets want no port. It returns the number of
// messages.
func (v *vector) prepareWrite(pkts []Packet, withPort, trains bool) int {
	msgs := 0
	for i := 0; i < len(pkts); msgs++ {
		n := 1
		if trains {
			n = trainOf(pkts[i:])
		}
		v.first[msgs] = i
		h := &v.hdrs[msgs].hdr
		h.Iov = &v.iovs[i]
		iovs := 0
		for j := range pkts[i : i+n] {
			data := pkts[i+j].Data()
			if j > 0 {
				// What lies back to back needs one vector only.
				if last := &v.iovs[i+iovs-1]; adjoins(last, data) {
					last.SetLen(int(last.Len) + len(data))
					continue
				}
			}
			v.iovs[i+iovs].Base = unsafe.SliceData(data)
			v.iovs[i+iovs].SetLen(len(data))
			iovs++
		}
		h.SetIovlen(iovs)
		p := &pkts[i]
		remote := p.Remote
		if !withPort {
			remote = netip.AddrPortFrom(remote.Addr(), 0)
		}
		h.Name = &v.names[msgs][0]
		h.Namelen = v.names[msgs].set(remote)
		c := v.ctrls[msgs].octets()
		size := putLocal(c, p.Local.Addr())
		if p.TrafficClass != 0 {
			size += putClass(c[size:], remote.Addr().Is4(), p.TrafficClass)
		}
		if n > 1 {
			size += putSegment(c[size:], p.Len)
		}
		h.Control = nil
		if size > 0 {
			h.Control = &c[0]
		}
		h.SetControllen(size)
		i += n
	}
	v.first[msgs] = len(pkts)
	return msgs
}

// adjoins reports whether data lies right behind what v points to.
func adjoins(v *unix.Iovec, data []byte) bool {
	return uintptr(unsafe.Pointer(v.Base))+uintptr(v.Len) == uintptr(unsafe.Pointer(unsafe.SliceData(data)))
}

// trainOf returns how many packets at the start of pkts can travel as one train.
func trainOf(pkts []Packet) int {
	size := pkts[0].Len
	total := size
	n := 1
	for n < min(len(pkts), maxTrain) {
		p := &pkts[n]
		if p.Len > size || p.Len == 0 || total+p.Len > maxTrainLen || p.Remote != pkts[0].Remote || p.Local != pkts[0].Local ||
			p.TrafficClass != pkts[0].TrafficClass {
			break
		}
		total += p.Len
		n++
		if p.Len < size {
			break
		}
	}
	return n
}

func (s *sockaddr) addrPort() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:4])
	switch binary.NativeEndian.Uint16(s[0:2]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(s[8:24])), port)
	default:
		return netip.AddrPort{}
	}
}

// set writes a and returns the length of the address.
func (s *sockaddr) set(a netip.AddrPort) uint32 {
	*s = sockaddr{}
	binary.BigEndian.PutUint16(s[2:4], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(s[0:2], unix.AF_INET)
		ip := a.Addr().As4()
		copy(s[4:8], ip[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[0:2], unix.AF_INET6)
	ip := a.Addr().As16()
	copy(s[8:24], ip[:])
	return unix.SizeofSockaddrInet6
}

// message is one control message.
type message struct {
	level, kind int32
	data        []byte
}

// nextMessage returns the control message at the start of b, and what follows it.
func nextMessage(b []byte) (message, []byte) {
	const header = unix.SizeofCmsghdr
	if len(b) < header {
		return message{}, nil
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	size := int(h.Len)
	if size < header || size > len(b) {
		return message{}, nil
	}
	return message{h.Level, h.Type, b[header:size]}, b[min(unix.CmsgSpace(size-header), len(b)):]
}

// read takes from a control message the address that p came to, its traffic class,
// or the segment size of a train. For IPv4 the address is ipi_spec_dst, the one to
// answer from, and not the header's, which may be a broadcast.
func (m message) read(p *Packet) {
	is := func(level, kind int32, size int) bool {
		return m.level == level && m.kind == kind && len(m.data) >= size
	}
	switch {
	case is(unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo):
		p.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.data[4:8])), 0)
	case is(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo):
		p.Local = netip.AddrPortFrom(netip.AddrFrom16([16]byte(m.data[0:16])), 0)
	case is(unix.IPPROTO_UDP, unix.UDP_GRO, 4):
		p.Segment = int(binary.NativeEndian.Uint32(m.data))
	case is(unix.IPPROTO_IP, unix.IP_TOS, 1):
		p.TrafficClass = m.data[0]
	case is(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4):
		p.TrafficClass = uint8(binary.NativeEndian.Uint32(m.data))
	}
}

// putLocal writes to b the wish for the source address a and returns the length
// of the control message, 0 where the kernel is to choose.
func putLocal(b []byte, a netip.Addr) int {
	if !a.IsValid() || a.IsUnspecified() {
		return 0
	}
	if a.Is4() {
		data := putControl(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		ip := a.As4()
		copy(data[4:8], ip[:])
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	data := putControl(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	ip := a.As16()
	copy(data[0:16], ip[:])
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}

// putClass writes to b the traffic class that the packets are to have.
func putClass(b []byte, is4 bool, class uint8) int {
	level, kind := int32(unix.IPPROTO_IPV6), int32(unix.IPV6_TCLASS)
	if is4 {
		level, kind = unix.IPPROTO_IP, unix.IP_TOS
	}
	data := putControl(b, level, kind, 4)
	binary.NativeEndian.PutUint32(data, uint32(class))
	return unix.CmsgSpace(4)
}

// putSegment writes to b the segment size of a train.
func putSegment(b []byte, size int) int {
	data := putControl(b, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(data, uint16(size))
	return unix.CmsgSpace(2)
}

// putControl starts a control message at b and returns its data, all zero.
func putControl(b []byte, level, kind int32, n int) []byte {
	h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	data := b[unix.SizeofCmsghdr:unix.CmsgSpace(n)]
	clear(data)
	return data
}
