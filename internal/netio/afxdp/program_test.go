package afxdp

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"caponier/internal/netio/frame"
)

// frames are what the program is shown, by name.
func (l *pair) frames() map[string][]byte {
	with := func(b []byte, at int, x byte) []byte {
		b[at] = x
		return b
	}
	payload := func(n int) []byte { return make([]byte, n) }
	return map[string][]byte{
		"ESP":                           l.framed(to("192.0.2.1", 50, 64, 0, 0, 1, 0, 0, 0, 0, 1)),
		"ESP that is short":             l.framed(to("192.0.2.1", 50, 64)),
		"ESP at the end of its life":    l.framed(to("192.0.2.1", 50, 1, 0, 0, 1, 0, 0, 0, 0, 1)),
		"ESP over IPv6":                 l.framed(to("2001:db8::1", 50, 64, 0, 0, 1, 0, 0, 0, 0, 1)),
		"ESP with DF":                   l.framed(with(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x40)),
		"ESP with a VLAN tag":           l.framed(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 10),
		"ESP with two VLAN tags":        l.framed(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 10, 20),
		"a first fragment of ESP":       l.framed(with(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x20)),
		"a later fragment of ESP":       l.framed(with(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 7, 9)),
		"a far fragment of ESP":         l.framed(with(to("192.0.2.1", 50, 64, 0, 0, 1, 0), 6, 0x1f)),
		"ESP to somebody else":          l.framed(to("192.0.2.9", 50, 64, 0, 0, 1, 0)),
		"ESP behind a fragment header":  l.framed(to("2001:db8::1", 44, 64, 50, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0)),
		"ESP behind an extension":       l.framed(to("2001:db8::1", 0, 64, 50, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0)),
		"AH":                            l.framed(to("192.0.2.1", 51, 64, payload(24)...)),
		"AH over IPv6":                  l.framed(to("2001:db8::1", 51, 64, payload(24)...)),
		"ESP in UDP":                    l.framed(to("192.0.2.1", 17, 64, udp(4500, 0, 0, 1, 0)...)),
		"ESP in UDP over IPv6":          l.framed(to("2001:db8::1", 17, 64, udp(4500, 1, 0, 0, 0)...)),
		"ESP in UDP with a tag":         l.framed(to("2001:db8::1", 17, 64, udp(4500, 1, 0, 0, 0)...), 4095),
		"IKE behind the non-ESP marker": l.framed(to("192.0.2.1", 17, 64, udp(4500, payload(32)...)...)),
		"IKE over IPv6":                 l.framed(to("2001:db8::1", 17, 64, udp(4500, payload(32)...)...)),
		"IKE on port 500":               l.framed(to("192.0.2.1", 17, 64, udp(500, 1, 2, 3, 4, 5, 6, 7, 8)...)),
		"a keepalive":                   l.framed(to("192.0.2.1", 17, 64, udp(4500, 0xff)...)),
		"a keepalive over IPv6":         l.framed(to("2001:db8::1", 17, 64, udp(4500, 0xff)...)),
		"three octets":                  l.framed(to("192.0.2.1", 17, 64, udp(4500, 1, 2, 3)...)),
		"TCP to the gateway":            l.framed(to("192.0.2.1", 6, 64, payload(20)...)),
		"a protected packet":            l.framed(to("10.2.0.7", 6, 64, payload(20)...)),
		"a protected packet, tagged":    l.framed(to("10.2.0.7", 6, 64, payload(20)...), 0x2001),
		"a protected packet over IPv6":  l.framed(to("2001:db8:2::7", 58, 2, payload(20)...)),
		"a protected fragment":          l.framed(with(to("10.2.0.7", 17, 64, payload(20)...), 7, 9)),
		"protected ESP of others":       l.framed(to("10.2.0.7", 50, 64, 0, 0, 1, 0)),
		"protected, to port 4500":       l.framed(to("10.2.0.7", 17, 64, udp(4500, payload(4)...)...)),
		"protected, time to live 1":     l.framed(to("10.2.0.7", 6, 1, payload(20)...)),
		"protected, time to live 0":     l.framed(to("10.2.0.7", 6, 0, payload(20)...)),
		"protected, hop limit 1":        l.framed(to("2001:db8:2::7", 6, 1, payload(20)...)),
		"protected, hop limit 255":      l.framed(to("2001:db8:2::7", 6, 255, payload(20)...)),
		"on our side":                   l.framed(to("10.1.0.9", 6, 64, payload(20)...)),
		"on our side over IPv6":         l.framed(to("2001:db8:2:1::9", 6, 64, payload(20)...)),
		"nowhere of ours":               l.framed(to("203.0.113.1", 6, 64, payload(20)...)),
		"nowhere of ours over IPv6":     l.framed(to("2001:db8:3::1", 6, 64, payload(20)...)),
		"options":                       l.framed(with(to("10.2.0.7", 6, 64, 1, 1, 1, 1), 0, 0x46)),
		"a header that is short":        l.framed(with(to("10.2.0.7", 6, 64, 1, 1, 1, 1), 0, 0x44)),
		"a version that is not":         l.framed(with(to("10.2.0.7", 6, 64, 1, 1, 1, 1), 0, 0x55)),
		"for another host":              with(l.framed(to("10.2.0.7", 6, 64)), 5, l.mac[0][5]^1),
		"for a host that differs early": with(l.framed(to("10.2.0.7", 6, 64)), 0, l.mac[0][0]^2),
		"to a group":                    append([]byte{1, 0, 0x5e, 0, 0, 1}, l.framed(to("10.2.0.7", 6, 64))[6:]...),
		"to all":                        append([]byte{255, 255, 255, 255, 255, 255}, l.framed(to("10.2.0.7", 6, 64))[6:]...),
		"ARP": append(append([]byte{255, 255, 255, 255, 255, 255}, l.mac[1][:]...),
			append([]byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, payload(20)...)...),
		"an answer of ARP":    append(append(append([]byte(nil), l.mac[0][:]...), l.mac[1][:]...), append([]byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, payload(20)...)...),
		"neighbour discovery": l.framed(to("2001:db8::1", 58, 255, append([]byte{135, 0, 0, 0}, payload(20)...)...)),
		"the longest":         l.framed(to("10.2.0.7", 17, 64, payload(longest-frame.HeaderLen-20)...)),
		"too long":            l.framed(to("10.2.0.7", 17, 64, payload(longest-frame.HeaderLen-19)...)),
	}
}

// longest is the longest frame that fits a chunk at an MTU of 1500.
const longest = smallChunk - kernelRoom

// verdict asks the kernel what the program does with a frame.
func verdict(t testing.TB, p *ebpf.Program, b []byte) uint32 {
	t.Helper()
	got, err := p.Run(&ebpf.RunOptions{Data: b})
	if err != nil {
		t.Fatalf("run the program over %d octets: %v", len(b), err)
	}
	return got
}

// wants is what the program is to do where its queue has a socket.
func (l *pair) wants(p *port, b []byte) uint32 {
	if len(b) <= longest && steering.Ours(l.mac[0], p.tagged, b) != frame.Other {
		return xdpRedirect
	}
	return xdpPass
}

// shortest is the length of the shortest frame that the kernel runs a program over.
const shortest = frame.HeaderLen

// The program does what frame.Steering says, of every frame, every beginning of it,
// and what random changes make of it.
func TestProgramSteers(t *testing.T) {
	l := newPair(t)
	for _, tagged := range []bool{true, false} {
		l.stripVLAN(!tagged)
		c := l.capture(Options{}, steering)
		p := c.ports[0]
		if p.tagged != tagged {
			t.Fatalf("the port is taken for tagged = %v", p.tagged)
		}
		taken := 0
		dice := rand.New(rand.NewPCG(1, 2))
		for name, b := range l.frames() {
			if verdict(t, p.program, b) == xdpRedirect {
				taken++
			}
			for n := shortest; n <= min(len(b), 128); n++ {
				if got, want := verdict(t, p.program, b[:n]), l.wants(p, b[:n]); got != want {
					t.Errorf("%s, %d octets of %d: verdict %d, want %d", name, n, len(b), got, want)
				}
			}
			if got, want := verdict(t, p.program, b), l.wants(p, b); got != want {
				t.Errorf("%s: verdict %d, want %d", name, got, want)
			}
			for range 50 {
				x := slices.Clone(b)
				for range 1 + dice.IntN(2) {
					x[12+dice.IntN(min(len(x), 80)-12)] = byte(dice.Uint32())
				}
				if got, want := verdict(t, p.program, x), l.wants(p, x); got != want {
					t.Errorf("%x: verdict %d, want %d", x, got, want)
				}
			}
		}
		if taken < 10 {
			t.Errorf("only %d frames are taken", taken)
		}
		l.must(c.Close())
	}
}

// Without a socket, what is to be protected is dropped, and what is sealed passes.
func TestProgramWithoutSocket(t *testing.T) {
	l := newPair(t)
	c := l.capture(Options{}, steering)
	p := c.ports[0]
	l.must(p.sockets.Delete(uint32(0)))
	for name, b := range l.frames() {
		want := uint32(xdpPass)
		if len(b) <= longest && steering.Ours(l.mac[0], p.tagged, b) == frame.Inner {
			want = xdpDrop
		}
		if got := verdict(t, p.program, b); got != want {
			t.Errorf("%s: verdict %d, want %d", name, got, want)
		}
	}
	counters := c.Counters()
	for _, name := range []string{"xdp-drop-no-socket", "xdp-pass-no-socket"} {
		if counters[name] == 0 {
			t.Errorf("%s is not counted: %v", name, counters)
		}
	}
}

// Steering follows, and says nothing until it is told.
func TestSteerFollows(t *testing.T) {
	l := newPair(t)
	c := l.capture(Options{}, frame.Steering{})
	p := c.ports[0]
	inner, outer := l.framed(to("10.2.0.7", 6, 64)), l.framed(to("192.0.2.1", 17, 64, udp(4500, 1, 2, 3, 4)...))
	see := func(when string, wantInner, wantOuter uint32) {
		t.Helper()
		if got := verdict(t, p.program, inner); got != wantInner {
			t.Errorf("%s: verdict on an inner packet %d, want %d", when, got, wantInner)
		}
		if got := verdict(t, p.program, outer); got != wantOuter {
			t.Errorf("%s: verdict on an outer packet %d, want %d", when, got, wantOuter)
		}
	}
	see("before anything is said", xdpPass, xdpPass)
	l.must(c.Steer(steering))
	see("when steered", xdpRedirect, xdpRedirect)
	less := steering
	less.Take = less.Take[1:]
	l.must(c.Steer(less))
	see("without the prefix", xdpPass, xdpRedirect)
	other := steering
	other.Port, other.Addresses = 4501, steering.Addresses
	l.must(c.Steer(other))
	see("with another port", xdpRedirect, xdpPass)
	other = steering
	other.Addresses = nil
	l.must(c.Steer(other))
	see("without addresses", xdpRedirect, xdpPass)
	other.Take, other.Pass = steering.Pass, nil
	l.must(c.Steer(other))
	see("with a prefix that was passed", xdpPass, xdpPass)
	if got := verdict(t, p.program, l.framed(to("10.1.0.9", 6, 64))); got != xdpRedirect {
		t.Errorf("a prefix that has changed over: verdict %d", got)
	}
}

func BenchmarkProgram(b *testing.B) {
	l := newPair(b)
	c := l.capture(Options{}, steering)
	for _, name := range []string{"ESP in UDP", "a protected packet", "nowhere of ours"} {
		b.Run(name, func(b *testing.B) {
			_, each, err := c.ports[0].program.Benchmark(l.frames()[name], b.N, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/frame")
		})
	}
}
