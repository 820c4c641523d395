package afxdp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"caponier/internal/ipsec"
	"caponier/internal/netio/frame"
	"caponier/internal/netio/frame/frametest"
)

// longest is the longest frame that fits a chunk at an MTU of 1500.
const longest = smallChunk - kernelRoom

// rule is what the tests steer by.
var rule = frametest.Steering()

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
func (l pair) wants(p *port, b []byte) uint32 {
	if len(b) <= longest && rule.Ours(l.MAC[0], p.tagged, b) != frame.Other {
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
		c := l.capture(Options{}, rule)
		p := c.ports[0]
		if p.tagged != tagged {
			t.Fatalf("the port is taken for tagged = %v", p.tagged)
		}
		taken := 0
		dice := rand.New(rand.NewPCG(1, 2))
		frames := l.Frames()
		for n := longest - 1; n <= longest+1; n++ {
			frames[fmt.Sprint(n, " octets")] = l.Numbered(1, 1, n-42)
		}
		for name, b := range frames {
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
		l.Must(c.Close())
	}
}

// Without a socket, what is to be protected is dropped, and what is sealed passes.
func TestProgramWithoutSocket(t *testing.T) {
	l := newPair(t)
	c := l.capture(Options{}, rule)
	p := c.ports[0]
	l.Must(p.sockets.Delete(uint32(0)))
	for name, b := range l.Frames() {
		want := uint32(xdpPass)
		if len(b) <= longest && rule.Ours(l.MAC[0], p.tagged, b) == frame.Inner {
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
	inner, outer := l.Framed(frametest.To("10.2.0.7", 6, 64)), l.Framed(frametest.To("192.0.2.1", 17, 64, frametest.UDP(4500, 1, 2, 3, 4)...))
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
	l.Must(c.Steer(rule))
	see("when steered", xdpRedirect, xdpRedirect)
	less := rule
	less.Take = less.Take[1:]
	l.Must(c.Steer(less))
	see("without the prefix", xdpPass, xdpRedirect)
	other := rule
	other.Port, other.Addresses = 4501, rule.Addresses
	l.Must(c.Steer(other))
	see("with another port", xdpRedirect, xdpPass)
	other = rule
	other.Addresses = nil
	l.Must(c.Steer(other))
	see("without addresses", xdpRedirect, xdpPass)
	other.Take, other.Pass = rule.Pass, nil
	l.Must(c.Steer(other))
	see("with a prefix that was passed", xdpPass, xdpPass)
	if got := verdict(t, p.program, l.Framed(frametest.To("10.1.0.9", 6, 64))); got != xdpRedirect {
		t.Errorf("a prefix that has changed over: verdict %d", got)
	}
}

func BenchmarkProgram(b *testing.B) {
	l := newPair(b)
	c := l.capture(Options{}, rule)
	frames := l.Frames()
	l.Must(c.Admit(frame.SA{Protocol: ipsec.ESP, SPI: 0x100}))
	l.Must(c.Sift(true))
	frames["ESP in UDP of an SA"] = l.sealed(ipsec.ESP, 0x100)["ESP in UDP"]
	frames["ESP in UDP of a stranger"] = l.sealed(ipsec.ESP, 0xdeadbeef)["ESP in UDP"]
	for _, name := range []string{"ESP in UDP of an SA", "ESP in UDP of a stranger", "a protected packet", "nowhere of ours"} {
		b.Run(name, func(b *testing.B) {
			_, each, err := c.ports[0].program.Benchmark(frames[name], b.N, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/frame")
		})
	}
}
