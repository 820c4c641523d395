package userspace

import (
	"cmp"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"caponier/internal/ipsec"
)

// BenchmarkPackets carries datagrams of 64 octets from host to host through both
// gateways, by each way to capture: as fast as one socket sends ("offered=all"), and
// no further ahead than what has arrived ("offered=carried"). Of the second, the time
// of the processors is that of one packet on its whole way, hosts and all.
func BenchmarkPackets(b *testing.B) {
	for _, offered := range []string{"all", "carried"} {
		for _, capture := range []string{"", "afpacket", "afxdp"} {
			b.Run("offered="+offered+"/capture="+cmp.Or(capture, "tun"), func(b *testing.B) {
				l := newLab(b)
				l.capture = capture
				l.start(1, 0)
				l.connect("192.0.2.%d", true, gcm128, 20, ipsec.Transform{}, 0)
				if err := l.ping("10.2.0.2", 64); err != nil {
					b.Fatal(err)
				}
				l.unwatch()
				l.packets(b, "10.2.0.2:9000", offered == "carried", nil)
			})
		}
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
	from, err := l.hosts[0].Dial(context.Background(), "udp", address)
	if err != nil {
		b.Fatal(err)
	}
	defer from.Close()
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
		out, msgs := ipv4.NewPacketConn(from.(*net.UDPConn)), messages()
		for sent, lost, since := int64(0), int64(0), time.Now(); !done.Load(); {
			if ahead := sent - lost - arrived.Load(); paced && ahead > window-batch {
				if time.Since(since) > time.Second { // lost
					lost += ahead
				}
				time.Sleep(10 * time.Microsecond)
				continue
			}
			since = time.Now()
			n, _ := out.WriteBatch(msgs, 0)
			sent += int64(max(n, 0))
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
