package userspace

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/packet"
)

// BenchmarkPackets carries datagrams of 64 octets from host to host through both
// gateways, by each way to capture, on both interfaces or inside alone ("@lan"): as
// fast as one thread sends ("offered=all"), and no further ahead than what has arrived
// ("offered=carried"). Of the second, the time of the processors is that of one packet
// on its whole way, hosts and all; without gateways ("forward"), that of the hosts and
// of the links, and of forwarding twice.
func BenchmarkPackets(b *testing.B) {
	for _, offered := range []string{"all", "carried"} {
		for _, capture := range []string{"forward", "", "afpacket", "afpacket@lan", "afxdp", "afxdp@lan"} {
			b.Run("offered="+offered+"/capture="+cmp.Or(capture, "tun"), func(b *testing.B) {
				l := newLab(b)
				kind, device, alone := strings.Cut(capture, "@")
				if l.capture = kind; alone {
					l.captured = []string{device}
				}
				if kind != "forward" {
					l.start(1, 0)
					l.connect("192.0.2.%d", true, gcm128, 20, ipsec.Transform{}, 0)
				}
				if err := l.ping("10.2.0.2", 64); err != nil {
					b.Fatal(err)
				}
				l.unwatch()
				l.packets(b, "10.2.0.2:9000", offered == "carried", nil)
			})
		}
	}
}

// sender gives frames of one datagram to the interface of host A, past its stack: a
// host that costs less than what it is there to measure. It returns what sends some.
func (l *lab) sender(b *testing.B, to netip.AddrPort, size int) (send func() int) {
	must := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	var macs [2]net.HardwareAddr
	var index, fd int
	for i, x := range []struct {
		ns  netns.NS
		dev string
	}{{l.hosts[0], "eth0"}, {l.gws[0], "lan"}} {
		must(x.ns.Do(func() error {
			nic, err := net.InterfaceByName(x.dev)
			if err == nil {
				macs[i] = nic.HardwareAddr
				if i == 0 {
					index = nic.Index
				}
			}
			return err
		}))
	}
	must(l.hosts[0].Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		_ = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index})
	}))
	b.Cleanup(func() { unix.Close(fd) })
	ip := make([]byte, packet.IPv4HeaderLen+packet.UDPHeaderLen+size)
	src := netip.MustParseAddr("10.1.0.2")
	packet.PutIPv4(ip, &packet.IPv4Header{Src: src, Dst: to.Addr(), TotalLen: len(ip), TTL: 64, Protocol: packet.ProtocolUDP, DontFragment: true})
	udp := ip[packet.IPv4HeaderLen:]
	packet.PutUDP(udp, 9001, to.Port(), len(udp), 0)
	binary.BigEndian.PutUint16(udp[6:], packet.TransportChecksum(src, to.Addr(), packet.ProtocolUDP, udp))
	frame := append(append(append(append([]byte(nil), macs[1]...), macs[0]...), 8, 0), ip...)
	type mmsghdr struct {
		hdr unix.Msghdr
		_   uint32 // how much was sent
	}
	const batch = 64
	frames, iovs, msgs := make([][]byte, batch), new([batch]unix.Iovec), new([batch]mmsghdr)
	for i := range msgs {
		frames[i] = bytes.Clone(frame)
		iovs[i].Base = &frames[i][0]
		iovs[i].SetLen(len(frame))
		msgs[i].hdr.Iov = &iovs[i]
		msgs[i].hdr.SetIovlen(1)
	}
	id := uint16(0)
	return func() int {
		for _, f := range frames { // as connected sockets number them
			header := f[len(frame)-len(ip):][:packet.IPv4HeaderLen]
			id++
			binary.BigEndian.PutUint16(header[4:], id)
			header[10], header[11] = 0, 0
			binary.BigEndian.PutUint16(header[10:], packet.Checksum(header))
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(msgs)), batch, 0, 0, 0)
		if errno != 0 {
			return 0
		}
		return int(n)
	}
}

// packets carries b.N datagrams. Where beside is not nil, it is called with the
// number of those that have arrived since the last call.
func (l *lab) packets(b *testing.B, address string, paced bool, beside func(n int)) {
	const batch, window, size = 64, 1024, 64
	var to *net.UDPConn
	if err := l.hosts[1].Do(func() error {
		c, err := net.ListenPacket("udp4", address)
		to, _ = c.(*net.UDPConn)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	defer to.Close()
	send := l.sender(b, netip.MustParseAddrPort(address), size)
	messages := func() []ipv4.Message {
		m := make([]ipv4.Message, batch)
		for i := range m {
			m[i].Buffers = [][]byte{make([]byte, size)}
		}
		return m
	}
	var done atomic.Bool
	var arrived atomic.Int64
	var sending sync.WaitGroup
	defer sending.Wait()
	defer done.Store(true)
	begin := cpuTime()
	b.ResetTimer()
	sending.Go(func() {
		for sent, lost, since := int64(0), int64(0), time.Now(); !done.Load(); {
			if ahead := sent - lost - arrived.Load(); paced && ahead > window-batch {
				if time.Since(since) > time.Second { // lost
					lost += ahead
				}
				time.Sleep(10 * time.Microsecond)
				continue
			}
			since = time.Now()
			sent += int64(send())
		}
	})
	in, msgs := ipv4.NewPacketConn(to), messages()
	for n := 0; n < b.N; {
		k, err := in.ReadBatch(msgs, 0)
		if err != nil {
			b.Fatal(err)
		}
		n += k
		arrived.Add(int64(k))
		if beside != nil {
			beside(k)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-begin).Nanoseconds())/float64(b.N), "cpu-ns/packet")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
}

// cpuTime is how much time of a processor this process has taken.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // of oneself: does not fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
