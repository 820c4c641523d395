package userspace

import (
	"bytes"
	"crypto/rand"
	"net/netip"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// wholeLink are two planes without goroutines: what the first sends with its IP
// header, the test takes to the AH device of the second.
type wholeLink struct {
	a, b           *Plane
	aInner, bInner *netio.Mem
	wire, far      *netio.Mem // what leaves the first, and what reaches the second
}

type makeSA func(d ipsec.Direction, side int) ipsec.SA

func newWholeLink(t testing.TB, policy func(side int) ipsec.Policy, sas ...makeSA) *wholeLink {
	t.Helper()
	const depth = 512
	l := new(wholeLink)
	var clear, ah *netio.Mem
	clear, l.wire = netio.NewMemPair(depth, 2000)
	ah, l.far = netio.NewMemPair(depth, 2000)
	make := func(d Devices) (*Plane, *netio.Mem) {
		near, far := netio.NewMemPair(depth, 2000)
		d.Inner = []netio.Device{near}
		p := assemble(Options{Devices: d, Rand: rand.Reader, Now: time.Now, MTU: 1600, AcquireTimeout: time.Minute})
		t.Cleanup(func() { d.Close() })
		return p, far
	}
	l.a, l.aInner = make(Devices{Clear4: clear})
	l.b, l.bInner = make(Devices{AH4: ah})
	for side, p := range []*Plane{l.a, l.b} {
		if err := p.SetPolicies([]ipsec.Policy{policy(side)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, sa := range sas {
		if err := l.a.AddSA(sa(ipsec.Out, 0)); err != nil {
			t.Fatal(err)
		}
		if err := l.b.AddSA(sa(ipsec.In, 1)); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func ahSA(m ipsec.Mode, word string) makeSA {
	return func(d ipsec.Direction, side int) ipsec.SA {
		sa := testSA(d, 2001, side, false)
		p, err := suite.ParseAH(word)
		if err != nil {
			panic(err)
		}
		_, n, err := suite.KeyLengths(ipsec.Transform{}, p[0])
		if err != nil {
			panic(err)
		}
		sa.Protocol, sa.Mode, sa.Encr, sa.EncrKey = ipsec.AH, m, ipsec.Transform{}, secret.Key{}
		sa.Integ, sa.IntegKey = p[0], secret.New(bytes.Repeat([]byte{7}, n))
		return sa
	}
}

func plainESP(d ipsec.Direction, side int) ipsec.SA { return testSA(d, 1001, side, false) }

func policyOf(protocol ipsec.Protocol, withAH bool) func(int) ipsec.Policy {
	return func(side int) ipsec.Policy {
		p := testPolicy(side)
		p.Protocol, p.WithAH = protocol, withAH
		return p
	}
}

// carry takes the packets of feed from the first plane to the second, and returns
// the length of the longest on the wire. between has room for them.
func (l *wholeLink) carry(t testing.TB, feed, between []netio.Packet) (longest int) {
	t.Helper()
	if _, err := l.aInner.WriteBatch(feed); err != nil {
		t.Fatal(err)
	}
	pkts, err := l.a.out[0].reader.Read()
	if err != nil {
		t.Fatal(err)
	}
	l.a.out[0].carry(pkts)
	n, err := l.wire.ReadBatch(between)
	if err != nil || n != len(feed) {
		t.Fatalf("%d packets are on the wire, %v: %v", n, err, l.a.Counters())
	}
	for i := range between[:n] {
		longest = max(longest, between[i].Len)
	}
	if _, err := l.far.WriteBatch(between[:n]); err != nil {
		t.Fatal(err)
	}
	if pkts, err = l.b.in[0].reader.Read(); err != nil {
		t.Fatal(err)
	}
	l.b.in[0].carry(pkts)
	return longest
}

func TestAHDoesNotAllocate(t *testing.T) {
	for name, l := range map[string]*wholeLink{
		"AH":            newWholeLink(t, policyOf(ipsec.AH, false), ahSA(ipsec.Tunnel, "sha256")),
		"AH around ESP": newWholeLink(t, policyOf(ipsec.ESP, true), plainESP, ahSA(ipsec.Transport, "sha512")),
	} {
		feed, between, sink := netio.NewBatch(64, 1400), netio.NewBatch(64, 1600), netio.NewBatch(128, 1400)
		for i := range feed {
			feed[i].Len = copy(feed[i].Buf[feed[i].Off:], testPacket(1300))
		}
		round := func() {
			l.carry(t, feed, between)
			if n, err := l.bInner.ReadBatch(sink); err != nil || n != len(feed) {
				t.Fatalf("%s: %d packets came through, %v: %v", name, n, err, l.b.Counters())
			}
		}
		round() // the first packet raises FirstUse
		if n := testing.AllocsPerRun(100, round); n != 0 {
			t.Errorf("%s: %v allocations for %d packets", name, n, len(feed))
		}
	}
}

// TestAHFitsTheWay: what is said to fit does so to the octet, or for ESP to the
// block.
func TestAHFitsTheWay(t *testing.T) {
	const mtu = 1500
	for _, word := range []string{"sha1", "sha256", "sha512"} {
		for _, bundle := range []bool{false, true} {
			policy, sas := policyOf(ipsec.AH, false), []makeSA{ahSA(ipsec.Tunnel, word)}
			if bundle {
				policy, sas = policyOf(ipsec.ESP, true), []makeSA{plainESP, ahSA(ipsec.Transport, word)}
			}
			l := newWholeLink(t, policy, sas...)
			sa := plainESP(ipsec.Out, 0)
			l.a.sad.Reroute([2]netip.Addr{sa.Local.Addr(), sa.Remote.Addr()}, mtu)
			var info packet.Info
			info.Decode(testPacket(100))
			w := l.a.out[0].w
			w.Begin(time.Now())
			p := policy(0)
			fits := find(w, &p, &info).fits()
			w.End()
			feed, between, sink := netio.NewBatch(1, 1600), netio.NewBatch(4, 1600), netio.NewBatch(4, 1600)
			feed[0].Len = copy(feed[0].Buf[feed[0].Off:], testPacket(fits))
			longest := l.carry(t, feed, between)
			if longest > mtu || longest <= mtu-4 {
				t.Errorf("%s, bundle %t: %d octets fit, and %d leave", word, bundle, fits, longest)
			}
			if n, err := l.bInner.ReadBatch(sink); err != nil || n != 1 || !bytes.Equal(sink[0].Data(), testPacket(fits)) {
				t.Errorf("%s, bundle %t: %d packets came through, %v", word, bundle, n, err)
			}
		}
	}
}
