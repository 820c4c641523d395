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

// control is the room for one control message: in_pktinfo or in6_pktinfo, the
// only ones that our sockets ask for. The header's alignment is the kernel's.
type control struct {
	hdr  unix.Cmsghdr
	data [40]byte
}

// sockaddr holds a sockaddr_in or a sockaddr_in6.
type sockaddr [unix.SizeofSockaddrInet6]byte

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
func (v *vector) mmsg(call, fd uintptr, from, to int) (int, unix.Errno) {
	for {
		n, _, errno := unix.Syscall6(call, fd, uintptr(unsafe.Pointer(&v.hdrs[from])),
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
		h.Control = (*byte)(unsafe.Pointer(&v.ctrls[i]))
		h.SetControllen(int(unsafe.Sizeof(v.ctrls[i])))
		h.Flags = 0
	}
}

// received records in p what the kernel has put into the i-th message.
func (v *vector) received(i int, p *Packet) {
	m := &v.hdrs[i]
	p.filled(int(m.len), m.hdr.Flags&unix.MSG_TRUNC != 0)
	p.Remote = v.names[i].addrPort()
	p.Local = netip.AddrPort{}
	if m.hdr.Controllen >= unix.SizeofCmsghdr {
		p.Local = v.ctrls[i].local()
	}
}

// prepareWrite makes the i-th message send p. Raw sockets want no port.
func (v *vector) prepareWrite(i int, p *Packet, withPort bool) {
	v.iovs[i].Base = unsafe.SliceData(p.Buf[p.Off : p.Off+p.Len])
	v.iovs[i].SetLen(p.Len)
	h := &v.hdrs[i].hdr
	remote := p.Remote
	if !withPort {
		remote = netip.AddrPortFrom(remote.Addr(), 0)
	}
	h.Namelen = v.names[i].set(remote)
	h.Control = nil
	n := v.ctrls[i].setLocal(p.Local.Addr())
	if n > 0 {
		h.Control = (*byte)(unsafe.Pointer(&v.ctrls[i]))
	}
	h.SetControllen(n)
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

// local reads the address that a packet came to. For IPv4 that is ipi_spec_dst,
// the address to answer from, and not the header's, which may be a broadcast.
func (c *control) local() netip.AddrPort {
	switch {
	case c.hdr.Level == unix.IPPROTO_IP && c.hdr.Type == unix.IP_PKTINFO:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(c.data[4:8])), 0)
	case c.hdr.Level == unix.IPPROTO_IPV6 && c.hdr.Type == unix.IPV6_PKTINFO:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(c.data[0:16])), 0)
	default:
		return netip.AddrPort{}
	}
}

// setLocal asks for the source address a and returns the length of the control
// message, 0 where the kernel is to choose.
func (c *control) setLocal(a netip.Addr) int {
	if !a.IsValid() || a.IsUnspecified() {
		return 0
	}
	c.data = [40]byte{}
	if a.Is4() {
		c.hdr.Level, c.hdr.Type = unix.IPPROTO_IP, unix.IP_PKTINFO
		c.hdr.SetLen(unix.CmsgLen(unix.SizeofInet4Pktinfo))
		ip := a.As4()
		copy(c.data[4:8], ip[:])
		return unix.CmsgSpace(unix.SizeofInet4Pktinfo)
	}
	c.hdr.Level, c.hdr.Type = unix.IPPROTO_IPV6, unix.IPV6_PKTINFO
	c.hdr.SetLen(unix.CmsgLen(unix.SizeofInet6Pktinfo))
	ip := a.As16()
	copy(c.data[0:16], ip[:])
	return unix.CmsgSpace(unix.SizeofInet6Pktinfo)
}
