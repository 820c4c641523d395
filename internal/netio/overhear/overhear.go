// Package overhear shows the ESP and AH packets that enter and leave the system,
// for captures where the kernel carries them and the gateway never has them in
// hand. It listens at all devices with one packet socket (packet(7)).
package overhear

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"caponier/internal/ipsec"
	"caponier/internal/packet"
)

// Packet is an ESP or AH packet that was overheard.
type Packet struct {
	Outgoing bool
	Src, Dst netip.AddrPort // without ports where it does not travel in UDP
	Protocol ipsec.Protocol
	SPI      ipsec.SPI
	Sequence uint32
	UDP      bool
	// Device is the index of the device. A packet that passes several, such as a
	// VLAN and the device below it, is overheard at each.
	Device int
	// Data begins with the IP header. It is valid during the call it is passed to.
	Data []byte
}

// Listener overhears packets.
type Listener struct {
	f      *os.File
	raw    syscall.RawConn
	closed atomic.Bool
}

// buffer is the size of the queue of packets, in octets; what comes when it is
// full is not overheard.
const buffer = 8 << 20

// Listen begins to overhear. udpPort is this end's port of ESP in UDP.
func Listen(udpPort uint16) (*Listener, error) {
	// Without a protocol, nothing arrives before the filter is set.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("needs CAP_NET_RAW: %w", err)
		}
		return nil, fmt.Errorf("overhear packets: %w", err)
	}
	f := os.NewFile(uintptr(fd), "packets")
	if err := prepare(fd, udpPort); err != nil {
		return nil, errors.Join(fmt.Errorf("overhear packets: %w", err), f.Close())
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Listener{f: f, raw: raw}, nil
}

func prepare(fd int, udpPort uint16) error {
	program, err := bpf.Assemble(filter(udpPort))
	if err != nil {
		return err
	}
	sock := make([]unix.SockFilter, len(program))
	for i, x := range program {
		sock[i] = unix.SockFilter{Code: x.Op, Jt: x.Jt, Jf: x.Jf, K: x.K}
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(sock)), Filter: &sock[0]}); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	// Best effort: a small buffer loses packets under load.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer)
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], unix.ETH_P_ALL)
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: binary.NativeEndian.Uint16(b[:])})
}

// filter takes ESP, AH and UDP of the port, over IPv4 and IPv6 without extension
// headers; of fragments the first.
func filter(udpPort uint16) []bpf.Instruction {
	const most = 1 << 16
	port := uint32(udpPort)
	is := func(what uint32, skip uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpEqual, Val: what, SkipTrue: skip}
	}
	isNot := func(what uint32, skip uint8) bpf.Instruction {
		return bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: what, SkipTrue: skip}
	}
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		is(6, 12),
		isNot(4, 20),
		bpf.LoadAbsolute{Off: 6, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 18},
		bpf.LoadAbsolute{Off: 9, Size: 1},
		is(unix.IPPROTO_ESP, 15),
		is(unix.IPPROTO_AH, 14),
		isNot(unix.IPPROTO_UDP, 14),
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 0, Size: 2},
		is(port, 10),
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipTrue: 8, SkipFalse: 9},
		// IPv6:
		bpf.LoadAbsolute{Off: 6, Size: 1},
		is(unix.IPPROTO_ESP, 6),
		is(unix.IPPROTO_AH, 5),
		isNot(unix.IPPROTO_UDP, 5),
		bpf.LoadAbsolute{Off: packet.IPv6HeaderLen, Size: 2},
		is(port, 2),
		bpf.LoadAbsolute{Off: packet.IPv6HeaderLen + 2, Size: 2},
		isNot(port, 1),
		bpf.RetConstant{Val: most},
		bpf.RetConstant{Val: 0},
	}
}

// Run calls see for each packet, until Close.
func (l *Listener) Run(see func(p *Packet)) error {
	buf := make([]byte, 1<<17)
	for {
		var n int
		var from unix.Sockaddr
		var err error
		if waited := l.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(err, unix.EAGAIN)
		}); waited != nil {
			if l.closed.Load() {
				return nil
			}
			return fmt.Errorf("overhear packets: %w", waited)
		}
		if err != nil {
			if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
				continue // a device that went down has told nothing more
			}
			return fmt.Errorf("overhear packets: %w", err)
		}
		device, ok := from.(*unix.SockaddrLinklayer)
		if !ok || device.Pkttype == unix.PACKET_OTHERHOST {
			continue
		}
		if p, ok := parse(buf[:n]); ok {
			p.Outgoing, p.Device = device.Pkttype == unix.PACKET_OUTGOING, device.Ifindex
			see(&p)
		}
	}
}

// Close ends Run.
func (l *Listener) Close() error {
	l.closed.Store(true)
	return l.f.Close()
}

// parse reads what tells which SA a packet belongs to. IKE, keepalives, and what is
// too short are not.
func parse(data []byte) (Packet, bool) {
	var info packet.Info
	info.Decode(data)
	if info.Version == 0 || info.FragmentOffset != 0 || info.HeaderLen > min(info.TotalLen, len(data)) {
		return Packet{}, false
	}
	data = data[:min(info.TotalLen, len(data))] // without the link's padding
	p := Packet{Src: netip.AddrPortFrom(info.Src, 0), Dst: netip.AddrPortFrom(info.Dst, 0), Protocol: ipsec.ESP, Data: data}
	b, off := data[info.HeaderLen:], 0
	switch info.Protocol {
	case packet.ProtocolESP:
	case packet.ProtocolAH:
		const beforeSPI = 4 // RFC 4302, Section 2
		p.Protocol, off = ipsec.AH, beforeSPI
	case packet.ProtocolUDP:
		p.UDP, off = true, packet.UDPHeaderLen
		p.Src, p.Dst = netip.AddrPortFrom(info.Src, info.SrcPort), netip.AddrPortFrom(info.Dst, info.DstPort)
	default:
		return Packet{}, false
	}
	if len(b) < off+8 {
		return Packet{}, false
	}
	p.SPI, p.Sequence = ipsec.SPI(binary.BigEndian.Uint32(b[off:])), binary.BigEndian.Uint32(b[off+4:])
	return p, p.SPI >= ipsec.MinSPI
}
