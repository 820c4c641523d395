package userspace

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"golang.org/x/net/ipv4"

	"caponier/internal/ipsec"
)

// stranger sends datagrams from one gateway's machine to the other's port of ESP in
// UDP, none of them with an SA.
func (l *lab) stranger() net.Conn {
	l.t.Helper()
	c, err := l.gws[0].Dial(context.Background(), "udp", fmt.Sprintf("192.0.2.2:%d", DefaultPort))
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return c
}

// TestStrangersAreDroppedEarly sends to a gateway that captures by AF_XDP what asks
// for no SA of it: the program drops and counts that, unless somebody captures
// packets. IKE passes, and packets whose SPI is only reserved yet reach the plane.
func TestStrangersAreDroppedEarly(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.capture = "afxdp"
	l.tick = 20 * time.Millisecond
	l.start(1, 0)
	l.connect("192.0.2.%d", true, gcm128, 20, ipsec.Transform{}, 0)
	l.warm()
	c, z := l.stranger(), l.plane[1]
	reserved, err := z.AllocateSPI(ipsec.ESP)
	if err != nil {
		t.Fatal(err)
	}
	inbound := z.SAs()[0].ID.SPI
	strange := reserved
	for strange == reserved || strange == inbound || strange < ipsec.MinSPI {
		strange ^= 0x00c0ffee
	}
	const n = 20
	send := func(what string, spi ipsec.SPI, counter string, byProgram bool) {
		t.Helper()
		before := z.Counters()
		b := make([]byte, 100)
		binary.BigEndian.PutUint32(b, uint32(spi))
		for range n {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		grown := func(name string) uint64 { return z.Counters()[name] - before[name] }
		for deadline := time.Now().Add(5 * time.Second); grown(counter) < n && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		taken := uint64(n)
		if byProgram {
			taken = 0
		}
		if grown(counter) != n || grown("xdp-outer") != taken {
			t.Errorf("%s: %s has grown by %d, and %d were taken, want %d and %d",
				what, counter, grown(counter), grown("xdp-outer"), n, taken)
		}
	}
	// reach reports whether a stranger reaches the plane.
	reach := func() bool {
		before := z.Counters()
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(strange)), make([]byte, 96)...)); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(5 * time.Second); z.Counters()["sa-not-found"] == before["sa-not-found"]; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a stranger is not counted")
			}
		}
		return z.Counters()["xdp-outer"] != before["xdp-outer"]
	}
	send("strangers", strange, "sa-not-found", true)
	send("a SPI that no SA can have", 7, "reserved-spi", true)
	send("a SPI that is reserved", reserved, "sa-not-found", false)

	before := z.Counters()["ike-messages"]
	if _, err := c.Write(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); z.Counters()["ike-messages"] == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("IKE does not pass")
		}
	}

	// Who captures packets sees those that are dropped, too.
	session, err := l.tap.Open("")
	if err != nil {
		t.Fatal(err)
	}
	for !reach() {
	}
	send("strangers, while somebody listens", strange, "sa-not-found", false)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for seen := 0; seen < n; {
		got := len(session.Read(ctx, n))
		if got == 0 {
			t.Fatalf("%d packets were seen of %d", seen, n)
		}
		seen += got
	}
	session.Close()
	for reach() {
	}
	send("strangers, and nobody listens", strange, "sa-not-found", true)
	l.warm()
}

// BenchmarkStrangers carries datagrams of 64 octets from host to host, and sends as
// many strangers to the receiving gateway meanwhile: that are dropped by the program,
// and that are read to be dropped. The time of the processors is that of one packet
// that is served, on its whole way, and of the sender of one stranger.
func BenchmarkStrangers(b *testing.B) {
	for _, flood := range []string{"none", "read", "sifted"} {
		b.Run("flood="+flood, func(b *testing.B) {
			l := newLab(b)
			l.capture = "afxdp"
			l.tick = time.Hour
			l.start(1, 0)
			l.connect("192.0.2.%d", true, gcm128, 20, ipsec.Transform{}, 0)
			l.warm()
			l.unwatch()
			if err := l.plane[1].opts.Devices.Frames.Sift(flood == "sifted"); err != nil {
				b.Fatal(err)
			}
			if flood == "none" {
				l.packets(b, "10.2.0.2:9000", true, nil)
				return
			}
			out := ipv4.NewPacketConn(l.stranger().(*net.UDPConn))
			msgs := make([]ipv4.Message, 64)
			for i := range msgs {
				msgs[i].Buffers = [][]byte{append([]byte{0xde, 0xad, 0xbe, 0xef}, make([]byte, 60)...)}
			}
			l.packets(b, "10.2.0.2:9000", true, func(n int) {
				for n > 0 {
					k, _ := out.WriteBatch(msgs[:min(n, len(msgs))], 0)
					n -= max(k, 1)
				}
			})
		})
	}
}
