package userspace

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
)

// TestTwoGatewaysShare is TestTwoGateways in AGGFRAG mode: what comes by the real
// devices, with their super-packets and trains and without, crosses, and nothing on
// the wire is a fragment. A burst of small packets leaves in fewer.
func TestTwoGatewaysShare(t *testing.T) {
	for _, c := range []struct {
		name    string
		wan     string
		encap   bool
		workers int
		without netio.Offload
		share   ipsec.AggfragSA
	}{
		{"UDP over IPv4", "192.0.2.%d", true, 1, 0, ipsec.AggfragSA{On: true}},
		{"UDP over IPv4, no offloads, two workers", "192.0.2.%d", true, 2, netio.NoOffload, ipsec.AggfragSA{On: true}},
		{"protocol 50 over IPv6", "2001:db8::%d", false, 1, 0, ipsec.AggfragSA{On: true}},
		{"packets stay whole", "192.0.2.%d", true, 1, 0, ipsec.AggfragSA{On: true, Whole: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.share = c.share
			l.start(c.workers, c.without)
			if !l.blocked("10.2.0.2", "fd00:2::2") {
				t.Error("a ping was answered without an SA")
			}
			l.connect(c.wan, c.encap, gcm128, 20, ipsec.Transform{}, 0)
			for _, address := range []string{"10.2.0.2", "fd00:2::2"} {
				for _, size := range []int{0, 56, 1300, 4000} {
					if err := l.ping(address, size); err != nil {
						t.Errorf("%v; counters %v and %v", err, l.plane[0].Counters(), l.plane[1].Counters())
					}
				}
			}
			l.transfer("10.2.0.2:5000", 4<<20)
			l.transfer("[fd00:2::2]:5000", 4<<20)
			if n := l.fragments(); n != 0 {
				t.Errorf("%d packets were fragments, or longer than 1,500 octets", n)
			}
			l.burst("10.2.0.2:5001", 200) // less than the socket of the receiver holds
			here, there := l.plane[0].Counters(), l.plane[1].Counters()
			if here["aggfrag-payloads-sent"] == 0 || here["aggfrag-payloads-sent"] >= here["out-packets"] {
				t.Errorf("%d packets left in %d payloads", here["out-packets"], here["aggfrag-payloads-sent"])
			}
			if n := there["aggfrag-malformed"] + there["sa-selector"] + there["esp-next-header"]; n != 0 {
				t.Errorf("counters %v", there)
			}
		})
	}
}

// burst sends n datagrams of 32 octets and waits until most have arrived.
func (l *lab) burst(address string, n int) {
	l.t.Helper()
	var to net.PacketConn
	if err := l.hosts[1].Do(func() (err error) {
		to, err = net.ListenPacket("udp", address)
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	defer to.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	from, err := l.hosts[0].Dial(ctx, "udp", address)
	if err != nil {
		l.t.Fatal(err)
	}
	defer from.Close()
	for range n {
		if _, err := from.Write(make([]byte, 32)); err != nil {
			l.t.Fatal(err)
		}
	}
	to.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	for i := range n / 2 {
		if m, _, err := to.ReadFrom(buf); err != nil || m != 32 {
			l.t.Fatal(fmt.Errorf("datagram %d of %d: %d octets, %w", i, n, m, err))
		}
	}
}
