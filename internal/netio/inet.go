package netio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Family is an address family.
type Family int

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// String returns IPv4 or IPv6.
func (f Family) String() string { return "IPv" + strconv.Itoa(int(f)) }

// FamilyOf returns the family of a.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// HasFamily reports whether the system has the family at all: IPv6 can be left
// out of a kernel, or switched off when it starts.
func HasFamily(f Family) bool {
	domain := unix.AF_INET
	if f == IPv6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return !errors.Is(err, unix.EAFNOSUPPORT)
	}
	unix.Close(fd)
	return true
}

// socketBuffer is the size of send and receive buffers in octets: 5 ms at
// 10 Gb/s.
const socketBuffer = 7 << 20

// SocketOptions are what ListenUDP, ListenESP, ListenAH and OpenClear have in common.
type SocketOptions struct {
	// Address to bind to; the zero Addr is every address of the family.
	Address netip.Addr
	// Mark is the SO_MARK of what the socket sends, 0 for none: by it the rules
	// of package host keep outer packets out of the tunnel.
	Mark uint32
	// Without are the offloads that are not to be used.
	Without Offload
	// Apart keeps the sockets out of Go's poller: reading returns nothing where
	// nothing is at hand. Wait with a Watch. OpenClear and ListenICMP do without.
	Apart bool
	// PastIPsec lets what the socket sends and receives pass the kernel's IPsec
	// policies, as IKE must.
	PastIPsec bool
	// UDPEncap makes the kernel take ESP in UDP off the socket, for its own
	// states (RFC 3948).
	UDPEncap bool
}

// Socket is a datagram socket of one family: UDP, or an IP protocol. IPv6 zones
// are not carried: link-local peers cannot be reached through it.
type Socket struct {
	// Constant after opening.
	conn   io.Closer
	raw    syscall.RawConn
	family Family
	apart  bool
	port   uint16 // 0 for raw sockets
	clear  bool   // packets bring their IP header along
	whole  bool   // what is read has its IP header
	trains bool   // a Reader may ask for trains of datagrams

	done atomic.Bool

	// Owned by the goroutine that reads.
	rd struct {
		vec  *vector
		want int
		n    int
		err  error
		fn   func(fd uintptr) bool
		ask  func(fd uintptr) // fn, where nothing is waited for
	}

	wmu sync.Mutex
	// Guarded by wmu.
	wr struct {
		vec      *vector
		trains   bool // datagrams go out in trains
		whole    bool // the kernel does not fragment what is sent
		setErr   error
		setFn    func(fd uintptr)
		from, to int
		err      error
		fn       func(fd uintptr) bool
	}
}

// ListenUDP opens n UDP sockets of the family on one port. Port 0 lets the
// kernel choose. Among several, the kernel hands an ESP packet to the socket
// OwnerOf(SPI, n), everything else to the first.
func ListenUDP(f Family, port uint16, n int, opts SocketOptions) ([]*Socket, error) {
	socks := make([]*Socket, 0, n)
	fail := func(err error) ([]*Socket, error) {
		for _, s := range socks {
			s.Close()
		}
		return nil, fmt.Errorf("open UDP port %d for %s: %w", port, f, err)
	}
	for range n {
		network := fmt.Sprintf("udp%d", f)
		s, err := listen(f, network, net.JoinHostPort(bindAddr(f, opts.Address), strconv.Itoa(int(port))), &opts, n > 1)
		if err != nil {
			return fail(needs(err, capNetBindService))
		}
		socks = append(socks, s)
		if err := s.setIPsec(opts); err != nil {
			return fail(err)
		}
		port = s.port
		s.trains = opts.Without&OffloadUDPReceive == 0
		s.wr.trains = opts.Without&OffloadUDPSend == 0 && s.sendsTrains()
	}
	if n > 1 {
		if err := socks[0].steer(n); err != nil {
			return fail(err)
		}
	}
	return socks, nil
}

// ListenESP opens a raw socket for IP protocol 50. What it reads and writes
// starts with the ESP header; the IP header is the kernel's.
func ListenESP(f Family, opts SocketOptions) (*Socket, error) {
	s, err := listen(f, fmt.Sprintf("ip%d:50", f), bindAddr(f, opts.Address), &opts, false)
	if err != nil {
		return nil, fmt.Errorf("open %s protocol 50: %w", f, needs(err, capNetRaw))
	}
	return s, nil
}

// ListenICMP opens a raw socket that hears the ICMP errors about packets that were
// too long, and sends ICMP messages. Both are without IP header; the checksum of
// ICMPv6 is the kernel's.
func ListenICMP(f Family, opts SocketOptions) (*Socket, error) {
	network, level, filter := "ip4:1", unix.SOL_RAW, unix.ICMP_FILTER
	if f == IPv6 {
		network, level, filter = "ip6:58", unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER
	}
	opts.Apart = false
	s, err := listen(f, network, bindAddr(f, opts.Address), &opts, false)
	if err != nil {
		return nil, fmt.Errorf("open raw %s for ICMP: %w", f, needs(err, capNetRaw))
	}
	// A bit that is set keeps a type away: all but "destination unreachable" (3) of
	// IPv4, or "packet too big" (2) of IPv6.
	var optErr error
	err = s.raw.Control(func(fd uintptr) {
		if f == IPv4 {
			optErr = unix.SetsockoptInt(int(fd), level, filter, ^(1 << 3))
			return
		}
		mask := unix.ICMPv6Filter{Data: [8]uint32{^uint32(1 << 2), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}}
		optErr = unix.SetsockoptICMPv6Filter(int(fd), level, filter, &mask)
	})
	if err = errors.Join(err, optErr); err != nil {
		s.Close()
		return nil, fmt.Errorf("open raw %s for ICMP: choose what to hear: %w", f, err)
	}
	return s, nil
}

// OpenClear opens a raw socket that sends whole IP packets as they are, by the
// destination in their header. It reads nothing.
func OpenClear(f Family, opts SocketOptions) (*Socket, error) {
	opts.Apart = false
	s, err := listen(f, fmt.Sprintf("ip%d:%d", f, unix.IPPROTO_RAW), bindAddr(f, netip.Addr{}), &opts, false)
	if err != nil {
		return nil, fmt.Errorf("open raw %s: %w", f, needs(err, capNetRaw))
	}
	s.clear = true
	return s, nil
}

func bindAddr(f Family, a netip.Addr) string {
	switch {
	case a.IsValid():
		return a.String()
	case f == IPv4:
		return "0.0.0.0"
	default:
		return "::"
	}
}

func listen(f Family, network, address string, opts *SocketOptions, share bool) (*Socket, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var optErr error
		err := c.Control(func(fd uintptr) { optErr = setOptions(int(fd), f, opts.Mark, share) })
		return errors.Join(err, optErr)
	}}
	conn, err := lc.ListenPacket(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("%T gives no access to its socket", conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := &Socket{conn: conn, raw: raw, family: f, apart: opts.Apart}
	if a, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		s.port = a.AddrPort().Port()
	}
	if opts.Apart {
		if err := s.leavePoller(network); err != nil {
			return nil, err
		}
	}
	s.rd.vec, s.rd.fn = newVector(), s.recv
	s.rd.ask = func(fd uintptr) { s.recv(fd) }
	s.wr.vec, s.wr.fn, s.wr.setFn = newVector(), s.send, s.setDiscovery
	return s, nil
}

// leavePoller takes the socket out of Go's poller, which forgets a descriptor when
// it is closed: another one takes its place.
func (s *Socket) leavePoller(network string) error {
	var fd int
	var dupErr error
	err := s.raw.Control(func(old uintptr) { fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	s.conn.Close()
	if err = errors.Join(err, os.NewSyscallError("fcntl", dupErr)); err != nil {
		return err
	}
	file, err := apartFile(fd, network)
	if err != nil {
		unix.Close(fd)
		return err
	}
	s.conn = file
	s.raw, err = file.SyscallConn()
	return err
}

// SyscallConn implements syscall.Conn.
func (s *Socket) SyscallConn() (syscall.RawConn, error) { return s.raw, nil }

func setOptions(fd int, f Family, mark uint32, share bool) error {
	level, pktinfo, class := unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IP_RECVTOS
	if f == IPv6 {
		level, pktinfo, class = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, unix.IPV6_RECVTCLASS
	}
	if err := unix.SetsockoptInt(fd, level, pktinfo, 1); err != nil {
		return fmt.Errorf("ask for local addresses: %w", err)
	}
	if err := unix.SetsockoptInt(fd, level, class, 1); err != nil {
		return fmt.Errorf("ask for traffic classes: %w", err)
	}
	if err := setDiscovery(fd, f, false); err != nil {
		return err
	}
	if share {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("share the port among workers: %w", err)
		}
	}
	if mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return fmt.Errorf("set the mark of outer packets: %w", needs(err, capNetAdmin))
		}
	}
	setBuffer(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
	setBuffer(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
	return nil
}

// setBuffer enlarges a buffer past the system's limit if it may, up to the
// limit otherwise. Without either the socket works, only less well.
func setBuffer(fd, force, plain int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, socketBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, socketBuffer)
	}
}

// LocalPort is the UDP port, 0 for raw sockets.
func (s *Socket) LocalPort() uint16 { return s.port }

// ReadBatch implements Device with recvmmsg.
func (s *Socket) ReadBatch(pkts []Packet) (int, error) {
	rd := &s.rd
	rd.want = min(len(pkts), maxBatch)
	rd.vec.prepareRead(pkts[:rd.want])
	rd.n, rd.err = 0, nil
	var err error
	if s.apart {
		err = s.raw.Control(rd.ask)
	} else {
		err = s.raw.Read(rd.fn)
	}
	if err != nil {
		return 0, s.failed(err)
	}
	if rd.err != nil {
		return 0, rd.err
	}
	for i := range rd.n {
		p := &pkts[i]
		rd.vec.received(i, p)
		p.Local = netip.AddrPortFrom(p.Local.Addr(), s.port)
		if s.port == 0 {
			p.Remote = netip.AddrPortFrom(p.Remote.Addr(), 0)
			switch {
			case s.whole && s.family == IPv6:
				rd.vec.restore(i, p)
			case !s.whole && s.family == IPv4:
				stripIPv4(p)
			}
		}
	}
	return rd.n, nil
}

// recv runs inside RawConn.Read: false waits until there is something to read.
func (s *Socket) recv(fd uintptr) bool {
	n, errno := s.rd.vec.mmsg(unix.SYS_RECVMMSG, fd, 0, s.rd.want)
	switch errno {
	case 0:
		s.rd.n, s.rd.err = n, nil
		return true
	case unix.EAGAIN:
		return false
	default:
		s.rd.n, s.rd.err = 0, syscallError("recvmmsg", errno)
		return true
	}
}

// stripIPv4 takes off the header that raw IPv4 sockets deliver (raw(7)); raw
// IPv6 sockets deliver none (RFC 3542, Section 3).
func stripIPv4(p *Packet) {
	b := p.Data()
	if len(b) == 0 {
		return
	}
	n := int(b[0]&0xf) * 4
	if n > len(b) {
		n = len(b)
	}
	p.Off += n
	p.Len -= n
}

// WriteBatch implements Device with sendmmsg. A full send buffer makes it wait.
// UDP datagrams of one length to one address go as a train where the kernel
// takes that.
func (s *Socket) WriteBatch(pkts []Packet) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	for done := 0; done < len(pkts); {
		batch := pkts[done:min(done+maxBatch, len(pkts))]
		for i := range batch {
			p := &batch[i]
			if !s.clear && p.DontFragment != batch[0].DontFragment {
				batch = batch[:i]
				break
			}
			if s.clear {
				p.Local, p.Remote = netip.AddrPort{}, netip.AddrPortFrom(destination(p.Data()), 0)
			}
			if !p.Remote.Addr().IsValid() || FamilyOf(p.Remote.Addr()) != s.family {
				sent, err := s.sendAll(batch[:i])
				if err == nil {
					err = fmt.Errorf("send to %v over %s: %w", p.Remote.Addr(), s.family, unix.EAFNOSUPPORT)
				}
				return done + sent, err
			}
		}
		if err := s.fragments(!batch[0].DontFragment); err != nil {
			return done, err
		}
		n, err := s.sendAll(batch)
		if done += n; err != nil {
			return done, err
		}
	}
	return len(pkts), nil
}

// fragments has the kernel fragment what is sent from now on, or not. The choice
// is the socket's: IPv4 has no control message for it.
func (s *Socket) fragments(may bool) error {
	wr := &s.wr
	if s.clear || wr.whole == !may {
		return nil
	}
	wr.whole = !may
	if err := s.raw.Control(wr.setFn); err != nil {
		return s.failed(err)
	}
	return wr.setErr
}

// setDiscovery runs inside RawConn.Control.
func (s *Socket) setDiscovery(fd uintptr) {
	s.wr.setErr = setDiscovery(int(fd), s.family, s.wr.whole)
}

// setDiscovery says what the kernel does with packets that are too long. Whole:
// with DF, and without a look at the path MTU, which is the business of who
// sends. Else: without DF, fragmented to the path MTU that the kernel knows, and
// by routers. No router fragments IPv6, and the kernel learns no path MTU for raw
// IPv6 sockets.
func setDiscovery(fd int, f Family, whole bool) error {
	level, option, mode := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if whole {
		mode = unix.IP_PMTUDISC_PROBE
	}
	if f == IPv6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER // the modes have the same numbers
	}
	if err := unix.SetsockoptInt(fd, level, option, mode); err != nil {
		return fmt.Errorf("set the treatment of long packets: %w", err)
	}
	return nil
}

// sendAll sends pkts, at most maxBatch, and returns how many have left.
func (s *Socket) sendAll(pkts []Packet) (int, error) {
	n, err := s.flush(pkts, s.wr.trains)
	if err == nil || !s.wr.trains || errors.Is(err, net.ErrClosed) || trainOf(pkts[n:]) == 1 {
		return n, err
	}
	// A train did not leave. EIO says that the device has no checksum offload,
	// without which there are none (udp(7)): never try again. Other errors may
	// concern this train only: its datagrams are too long for the path, and are
	// to be sent in fragments.
	if errors.Is(err, unix.EIO) {
		s.wr.trains = false
	}
	m, err := s.flush(pkts[n:], false)
	return n + m, err
}

// flush sends pkts once and returns how many have left.
func (s *Socket) flush(pkts []Packet, trains bool) (int, error) {
	if len(pkts) == 0 {
		return 0, nil
	}
	wr := &s.wr
	wr.from, wr.err = 0, nil
	wr.to = wr.vec.prepareWrite(pkts, s.port != 0, trains)
	if err := s.raw.Write(wr.fn); err != nil {
		return wr.vec.first[wr.from], s.failed(err)
	}
	return wr.vec.first[wr.from], wr.err
}

// send runs inside RawConn.Write: false waits until there is room to write.
func (s *Socket) send(fd uintptr) bool {
	wr := &s.wr
	for wr.from < wr.to {
		n, errno := wr.vec.mmsg(unix.SYS_SENDMMSG, fd, wr.from, wr.to)
		switch errno {
		case 0:
			wr.from += n
		case unix.EAGAIN:
			if !s.apart {
				return false
			}
			if s.done.Load() {
				wr.err = net.ErrClosed
				return true
			}
			AwaitRoom(fd)
		default:
			wr.err = syscallError("sendmmsg", errno)
			return true
		}
	}
	return true
}

// failed tells a closed socket from others.
func (s *Socket) failed(err error) error {
	if s.done.Load() || errors.Is(err, net.ErrClosed) {
		return net.ErrClosed
	}
	return err
}

// destination reads the destination address of an IP packet, the zero Addr of
// what is none.
func destination(b []byte) netip.Addr {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[16:20]))
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[24:40]))
	default:
		return netip.Addr{}
	}
}

// Close implements Device.
func (s *Socket) Close() error {
	s.done.Store(true)
	if err := s.conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
