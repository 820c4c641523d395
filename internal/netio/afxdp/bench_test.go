package afxdp

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"caponier/internal/netio"
	"caponier/internal/netio/afpacket"
	"caponier/internal/netio/frame"
	"caponier/internal/netio/frame/frametest"
)

// flood sends a frame over and over from far, no more than window ahead of what has
// come back, until it is stopped.
func (l pair) flood(b []byte, back *atomic.Int64) (stop func()) {
	l.Helper()
	w := l.WireFor(0)
	_ = unix.SetsockoptInt(w.FD, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1)
	type mmsghdr struct {
		hdr unix.Msghdr
		_   uint32 // how much was sent
	}
	const batch, window = 64, 512
	iov := unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	var msgs [batch]mmsghdr
	for i := range msgs {
		msgs[i].hdr.Iov = &iov
		msgs[i].hdr.SetIovlen(1)
	}
	var done atomic.Bool
	var sending sync.WaitGroup
	sending.Go(func() {
		for sent := int64(0); !done.Load(); {
			if sent-back.Load() > window-batch {
				time.Sleep(10 * time.Microsecond)
				continue
			}
			sent += batch
			_, _, _ = unix.Syscall6(unix.SYS_SENDMMSG, uintptr(w.FD), uintptr(unsafe.Pointer(&msgs)), batch, 0, 0, 0)
		}
	})
	return func() {
		done.Store(true)
		sending.Wait()
	}
}

// cpu is how much time of a processor this process has taken.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // of oneself: does not fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkEcho turns frames of 64 octets around: by AF_XDP, by packet sockets, and
// by a TUN device to and from which the kernel routes. Where others use the machine,
// the time of the processors says more than the rate; it includes that of the
// sender.
func BenchmarkEcho(b *testing.B) {
	size := 64 - frame.HeaderLen - 28
	b.Run("capture=tun", func(b *testing.B) {
		l := newPair(b)
		l.Must(l.Near.Forward())
		var tun *netio.TUN
		l.Must(l.Near.Do(func() error {
			queues, err := netio.OpenTUN("tun0", netio.TUNOptions{Queues: 1, MTU: 1500})
			if err == nil {
				tun = queues[0]
			}
			return err
		}))
		defer tun.Close()
		l.Must(l.Near.IP("link", "set", "tun0", "up"))
		l.Must(l.Near.IP("route", "add", "10.2.0.0/16", "dev", "tun0"))
		reader := netio.NewReader(tun, 1500)
		var back atomic.Int64
		defer l.flood(l.Numbered(1, 1, size), &back)()
		b.ResetTimer()
		begin := cpu()
		for n := 0; n < b.N; {
			pkts, err := reader.Read()
			l.Must(err)
			for i := range pkts {
				turn(pkts[i].Data())
			}
			k, _ := tun.WriteBatch(pkts)
			n += k
			back.Store(int64(n))
		}
		b.ReportMetric(float64((cpu()-begin).Nanoseconds())/float64(b.N), "cpu-ns/frame")
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
	})
	ways := map[string]func(pair) frame.Capture{
		"afpacket": func(l pair) (c frame.Capture) {
			l.Must(l.Near.Do(func() (err error) {
				c, err = afpacket.Open(afpacket.Options{Interfaces: []string{"eth0"}, Queues: 1})
				return err
			}))
			l.Cleanup(func() { c.Close() })
			l.Must(c.Steer(frametest.Steering()))
			return c
		},
		"afxdp/mode=native":  func(l pair) frame.Capture { return l.capture(Options{Mode: Native}, frametest.Steering()) },
		"afxdp/mode=generic": func(l pair) frame.Capture { return l.capture(Options{Mode: Generic}, frametest.Steering()) },
	}
	for name, open := range ways {
		b.Run("capture="+name, func(b *testing.B) {
			l := newPair(b)
			s := open(l).Ports()[0].Queues[0]
			batch := frametest.Slots(128)
			var back atomic.Int64
			defer l.flood(l.Numbered(1, 1, size), &back)()
			b.ResetTimer()
			begin := cpu()
			for n := 0; n < b.N; {
				k, err := s.ReadFrames(batch)
				l.Must(err)
				for i := range batch[:k] {
					f := batch[i].Data()
					copy(f[0:6], l.MAC[1][:])
					copy(f[6:12], l.MAC[0][:])
					turn(f[frame.HeaderLen:])
				}
				k, _ = s.WriteFrames(batch[:k])
				n += k
				back.Store(int64(n))
			}
			b.ReportMetric(float64((cpu()-begin).Nanoseconds())/float64(b.N), "cpu-ns/frame")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
		})
	}
}

// turn sends an IPv4 packet back to where it came from.
func turn(b []byte) {
	var a [net.IPv4len]byte
	copy(a[:], b[12:16])
	copy(b[12:16], b[16:20])
	copy(b[16:20], a[:])
}
