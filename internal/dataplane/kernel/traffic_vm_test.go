//go:build vm

package kernel

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/netio"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// link is two gateways with a wire between them, and a network behind each:
//
//	10.1.0.1 gw 0 192.0.2.1 ═══ 192.0.2.2 gw 1 10.2.0.1
type link struct {
	t  *testing.T
	ns [2]netns.NS
	p  [2]*Plane
}

func newLink(t *testing.T) *link {
	l := &link{t: t}
	for i := range 2 {
		l.ns[i] = newNamespace(t)
	}
	ip := func(i int, args ...string) { ipText(t, l.ns[i], args...) }
	ip(0, "link", "add", "w0", "type", "veth", "peer", "name", "w0", "netns", l.ns[1].Name)
	for i := range 2 {
		ip(i, "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+1), "dev", "w0")
		ip(i, "addr", "add", fmt.Sprintf("192.0.2.%d/24", i+11), "dev", "w0")
		ip(i, "link", "set", "w0", "up")
		ip(i, "addr", "add", fmt.Sprintf("10.%d.0.1/32", i+1), "dev", "lo")
		ip(i, "route", "add", fmt.Sprintf("10.%d.0.0/16", 2-i), "via", fmt.Sprintf("192.0.2.%d", 2-i), "src", fmt.Sprintf("10.%d.0.1", i+1))
		l.p[i] = newPlane(t, l.ns[i])
		listenNAT(t, l.ns[i])
	}
	return l
}

// listenNAT opens the socket to which ESP in UDP comes.
func listenNAT(t *testing.T, ns netns.NS) {
	t.Helper()
	if err := ns.Do(func() error {
		port, err := netio.ListenNAT(4500, netio.SocketOptions{PastIPsec: true, UDPEncap: true})
		if err == nil {
			t.Cleanup(func() { port.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func (l *link) policy(side int, acquire bool) ipsec.Policy {
	p := lan(acquire)
	if side == 1 {
		p.Local, p.Remote = p.Remote, p.Local
	}
	return p
}

func (l *link) sa(side int, d ipsec.Direction, spi ipsec.SPI) ipsec.SA {
	sa := espSA(d, spi)
	if side == 1 {
		sa.Local, sa.Remote = sa.Remote, sa.Local
		sa.LocalTS, sa.RemoteTS = sa.RemoteTS, sa.LocalTS
	}
	return sa
}

func (l *link) add(side int, d ipsec.Direction, spi ipsec.SPI, edit func(sa *ipsec.SA)) ipsec.SAID {
	l.t.Helper()
	sa := l.sa(side, d, spi)
	if edit != nil {
		edit(&sa)
	}
	if err := l.p[side].AddSA(sa); err != nil {
		l.t.Fatal(err)
	}
	return sa.ID()
}

// tunnel sets policies and SAs at both ends.
func (l *link) tunnel(spi ipsec.SPI, edit func(sa *ipsec.SA)) {
	l.t.Helper()
	for side := range 2 {
		set(l.t, l.p[side], l.policy(side, true))
		l.add(side, ipsec.In, spi+ipsec.SPI(side), edit)
	}
	for side := range 2 {
		l.add(side, ipsec.Out, spi+ipsec.SPI(1-side), edit)
	}
}

// receiver is a UDP socket inside.
func (l *link) receiver(side int) *net.UDPConn {
	l.t.Helper()
	var c *net.UDPConn
	if err := l.ns[side].Do(func() (err error) {
		c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, byte(side+1), 0, 1), Port: 9})
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return c
}

// send sends datagrams 0 to count-1 to the receiver of the other side.
func (l *link) send(side, count int) {
	l.t.Helper()
	if err := l.ns[side].Do(func() error {
		c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(10, byte(2-side), 0, 1), Port: 9})
		if err != nil {
			return err
		}
		defer c.Close()
		for n := range count {
			_, _ = fmt.Fprintf(c, "%d", n) // what is dropped may be an error, or not
		}
		return nil
	}); err != nil {
		l.t.Fatal(err)
	}
}

// expect waits for datagrams 0 to count-1, and then for no more.
func (l *link) expect(c *net.UDPConn, count int) {
	l.t.Helper()
	b := make([]byte, 100)
	for n := range count {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		k, err := c.Read(b)
		if err != nil || string(b[:k]) != fmt.Sprint(n) {
			l.t.Fatalf("datagram %d of %d: %q, %v; counters %v and %v", n, count, b[:k], err, l.p[0].Counters(), l.p[1].Counters())
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if k, err := c.Read(b); err == nil {
		l.t.Fatalf("one more datagram: %q", b[:k])
	}
}

func (l *link) status(side int, id ipsec.SAID) ipsec.SAStatus {
	l.t.Helper()
	for _, s := range l.p[side].SAs() {
		if s.ID == id {
			return s
		}
	}
	l.t.Fatalf("no SA %v", id)
	return ipsec.SAStatus{}
}

const spi = ipsec.SPI(0xc0ffee00)

func TestAcquireKeepsThePackets(t *testing.T) {
	l := newLink(t)
	for side := range 2 {
		set(t, l.p[side], l.policy(side, true))
	}
	c := l.receiver(1)
	const count = 20
	l.send(0, count)
	nextEvent[ipsec.Acquire](t, l.p[0])
	noEvents(t, l.p[0])
	l.add(1, ipsec.In, spi, nil)
	l.add(0, ipsec.Out, spi, nil)
	l.expect(c, count)
	if got := nextEvent[ipsec.FirstUse](t, l.p[1]); got.ID.SPI != spi || got.Tunnel != "lan" {
		t.Errorf("first use %+v", got)
	}
	noEvents(t, l.p[1])
	// Without the SA the next packet asks again, at once.
	if err := l.p[0].DeleteSA(ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi, Peer: netip.MustParseAddr("192.0.2.2")}); err != nil {
		t.Fatal(err)
	}
	l.send(0, 1)
	nextEvent[ipsec.Acquire](t, l.p[0])
	if n := l.p[0].Counters()["out-packets"]; n != count {
		t.Errorf("%d packets counted, and %d have left", n, count)
	}
}

func TestLifetimes(t *testing.T) {
	for name, lifetime := range map[string]ipsec.Lifetime{
		"packets": {Soft: ipsec.Limit{Packets: 3}, Hard: ipsec.Limit{Packets: 6}},
		"octets":  {Soft: ipsec.Limit{Bytes: 60}, Hard: ipsec.Limit{Bytes: 120}},
		"time":    {Soft: ipsec.Limit{Time: time.Second}, Hard: ipsec.Limit{Time: 6 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t)
			l.tunnel(spi, func(sa *ipsec.SA) {
				if sa.Direction == ipsec.Out && sa.SPI == spi+1 {
					sa.Lifetime = lifetime
				}
			})
			id := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi + 1, Peer: netip.MustParseAddr("192.0.2.2")}
			l.receiver(1)
			if name != "time" {
				l.send(0, 10)
			}
			for _, hard := range []bool{false, true} {
				got := nextEvent[ipsec.Expire](t, l.p[0])
				if want := (ipsec.Expire{ID: id, Connection: "peer", Tunnel: "lan", Hard: hard}); got != want {
					t.Fatalf("got %+v, want %+v", got, want)
				}
			}
			if len(l.p[0].SAs()) != 1 {
				t.Errorf("after the hard limit: %+v", l.p[0].SAs())
			}
			l.send(0, 1)
			nextEvent[ipsec.Acquire](t, l.p[0])
		})
	}
}

func TestNewestSACarries(t *testing.T) {
	l := newLink(t)
	c := l.receiver(1)
	l.tunnel(spi, nil)
	l.send(0, 5)
	l.expect(c, 5)
	l.add(1, ipsec.In, spi+3, nil)
	second := l.add(0, ipsec.Out, spi+3, nil)
	l.send(0, 5)
	l.expect(c, 5)
	if s := l.status(0, second); s.Packets != 5 || s.Sequence != 5 || s.Used.IsZero() {
		t.Errorf("the newest SA: %+v", s)
	}
}

func TestMoves(t *testing.T) {
	l := newLink(t)
	c := l.receiver(1)
	encap := func(sa *ipsec.SA) { sa.Encap = true }
	l.tunnel(spi, encap)
	l.send(0, 3)
	l.expect(c, 3)
	out := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: spi + 1, Peer: netip.MustParseAddr("192.0.2.2")}
	in := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi + 1}

	// Behind a NAT that has given it another port, then another address.
	for _, from := range []string{"192.0.2.1:4777", "192.0.2.11:4500"} {
		u := dataplane.AddressUpdate{Local: netip.MustParseAddrPort(from), Remote: netip.MustParseAddrPort("192.0.2.2:4500"), Encap: true}
		if err := l.p[0].UpdateSA(out, u); err != nil {
			t.Fatal(err)
		}
		l.send(0, 3)
		l.expect(c, 3)
		got := nextEvent[ipsec.AddressChanged](t, l.p[1])
		if want := (ipsec.AddressChanged{ID: in, Connection: "peer", Tunnel: "lan", Remote: u.Local}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		if err := l.p[1].UpdateSA(in, dataplane.AddressUpdate{Local: u.Remote, Remote: u.Local, Encap: true}); err != nil {
			t.Fatal(err)
		}
	}
	if s := l.status(0, out); s.Sequence != 9 || s.Packets != 9 {
		t.Errorf("the moves lost count: %+v", s)
	}
	if s := l.status(1, in); s.Sequence != 9 || s.Remote != netip.MustParseAddrPort("192.0.2.11:4500") {
		t.Errorf("the moves lost the window: %+v", s)
	}
	// The peer itself goes elsewhere: the SA has another name.
	u := dataplane.AddressUpdate{Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.12:4500"), Encap: true}
	if err := l.p[0].UpdateSA(out, u); err != nil {
		t.Fatal(err)
	}
	if err := l.p[1].UpdateSA(in, dataplane.AddressUpdate{Local: u.Remote, Remote: u.Local, Encap: true}); err != nil {
		t.Fatal(err)
	}
	l.send(0, 3)
	l.expect(c, 3)
	out.Peer = u.Remote.Addr()
	if s := l.status(0, out); s.Sequence != 12 {
		t.Errorf("after the peer's move: %+v", s)
	}
	if states := strings.Count(ipText(t, l.ns[0], "xfrm", "state"), "proto esp"); states != 2 {
		t.Errorf("%d states, want 2", states)
	}
}

func TestReplayAndSelectors(t *testing.T) {
	l := newLink(t)
	c := l.receiver(1)
	for side := range 2 {
		set(t, l.p[side], l.policy(side, true))
	}
	in := l.add(1, ipsec.In, spi, func(sa *ipsec.SA) { sa.RemoteTS = selectors("10.1.99.0/24") })
	l.add(0, ipsec.Out, spi, nil)
	l.send(0, 3)
	l.expect(c, 0)
	waitFor(t, "packets that do not fit their SA", func() bool { return l.p[1].Counters()["sa-selector"] == 3 && l.status(1, in).Packets == 3 })
	l.expect(c, 0)
}

func TestSomebodyFlushesTheStates(t *testing.T) {
	l := newLink(t)
	l.tunnel(spi, nil)
	ipText(t, l.ns[0], "xfrm", "state", "flush")
	var gone []ipsec.Direction
	for range 2 {
		e := nextEvent[ipsec.Expire](t, l.p[0])
		if !e.Hard {
			t.Errorf("got %+v", e)
		}
		gone = append(gone, e.ID.Direction)
	}
	if slices.Sort(gone); !slices.Equal(gone, []ipsec.Direction{ipsec.In, ipsec.Out}) || len(l.p[0].SAs()) != 0 {
		t.Errorf("told of %v, left %+v", gone, l.p[0].SAs())
	}
	ipText(t, l.ns[1], "xfrm", "state", "delete", "src", "192.0.2.1", "dst", "192.0.2.2", "proto", "esp", "spi", fmt.Sprintf("0x%08x", uint32(spi+1)))
	if e := nextEvent[ipsec.Expire](t, l.p[1]); !e.Hard || e.ID.Direction != ipsec.In {
		t.Errorf("got %+v", e)
	}
}

func TestTheNextRunRemovesTheStates(t *testing.T) {
	l := newLink(t)
	l.tunnel(spi, nil)
	c := l.receiver(1)
	kill(l.p[0])
	l.send(0, 3)
	l.expect(c, 3) // what is up goes on
	before := policiesOf(t, l.ns[0])
	next := newPlane(t, l.ns[0])
	if states := ipText(t, l.ns[0], "xfrm", "state"); strings.Contains(states, "proto esp") {
		t.Errorf("states are left: %s", states)
	}
	if after := policiesOf(t, l.ns[0]); !slices.Equal(before, after) {
		t.Errorf("policies changed: %v", after)
	}
	l.send(0, 1)
	l.expect(c, 0) // and nothing leaves in clear
	set(t, next, l.policy(0, true))
	l.send(0, 1)
	nextEvent[ipsec.Acquire](t, next)
}

// Every algorithm that the kernel has a name for is carried by it, but for those
// whose modules Debian does not build.
func TestAlgorithms(t *testing.T) {
	debianLacks := map[string]bool{"cbc(sm4)": true, "hmac(sm3)": true}
	l := newLink(t)
	c := l.receiver(1)
	for side := range 2 {
		set(t, l.p[side], l.policy(side, true))
	}
	next := spi
	try := func(protocol ipsec.Protocol, encr, integ ipsec.Transform, esn bool) {
		encrLen, integLen, err := suite.KeyLengths(encr, integ)
		if err != nil {
			t.Fatal(err)
		}
		w := Wish{Protocol: protocol, Encr: encr, Integ: integ}
		for side := range 2 {
			p := l.policy(side, true)
			p.Protocol = protocol
			set(t, l.p[side], p)
		}
		next += 16
		var added []func()
		for side, d := range []ipsec.Direction{ipsec.Out, ipsec.In} {
			sa := l.sa(side, d, next)
			sa.Protocol, sa.Encr, sa.Integ, sa.ESN = protocol, encr, integ, esn
			sa.EncrKey, sa.IntegKey = secret.New(probeKey(encrLen)), secret.New(probeKey(integLen))
			err := l.p[side].AddSA(sa)
			if missing, ok := errors.AsType[*MissingError](err); ok && (debianLacks[ciphers[encr.ID].name] || debianLacks[macs[integ.ID].name]) {
				t.Logf("%s: %v", w.Name(), missing)
				return
			}
			if err != nil {
				t.Errorf("%s: %v", w.Name(), err)
				return
			}
			added = append(added, func() { _ = l.p[side].DeleteSA(sa.ID()) })
		}
		l.send(0, 3)
		l.expect(c, 3)
		for _, remove := range added {
			remove()
		}
	}
	integs := map[uint16]ipsec.Transform{}
	for id := range macs {
		integs[id] = ipsec.Transform{Type: ipsec.TypeInteg, ID: id}
	}
	for id, cipher := range ciphers {
		for _, bits := range []uint16{0, 128, 192, 256} {
			encr := ipsec.Transform{Type: ipsec.TypeEncr, ID: id, KeyBits: bits}
			if !suite.Supported(encr) {
				continue
			}
			if cipher.icv != 0 {
				try(ipsec.ESP, encr, ipsec.Transform{}, bits == 256)
			} else {
				try(ipsec.ESP, encr, integs[ipsec.IntegHMACSHA256128], bits == 256)
			}
		}
	}
	for _, integ := range integs {
		try(ipsec.ESP, ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128}, integ, false)
		try(ipsec.AH, ipsec.Transform{}, integ, true)
	}
}

func TestProbeOfAWholeKernel(t *testing.T) {
	ns := newNamespace(t)
	var features []Feature
	if err := ns.Do(func() (err error) {
		gcm := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}
		sm4 := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
		sha := ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}
		features, err = Probe([]Wish{
			{Protocol: ipsec.ESP, Encr: gcm},
			{Protocol: ipsec.ESP, IPv6: true, Encr: gcm},
			{Protocol: ipsec.AH, Integ: sha},
			{Protocol: ipsec.AH, IPv6: true, Integ: sha},
			{Protocol: ipsec.ESP, Encr: sm4, Integ: sha},
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(features) != 7 {
		t.Errorf("features %+v", features)
	}
	for _, f := range features {
		if missing, is := errors.AsType[*MissingError](f.Err); is != strings.HasPrefix(f.Name, "sm4") || is && !strings.Contains(missing.Needs, "sm4_generic") {
			t.Errorf("%s: %v", f.Name, f.Err)
		}
	}
	if states := ipText(t, ns, "xfrm", "state"); strings.TrimSpace(states) != "" {
		t.Errorf("the probe left %s", states)
	}
}

func TestKernelParameters(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	sa := espSA(ipsec.Out, 0x1000)
	sa.Kernel = ipsec.KernelSA{Mark: ipsec.Mark{Value: 0x42, Mask: 0xff}, OutputMark: ipsec.Mark{Value: 0x99}, IfID: 7}
	sa.Outer = ipsec.Outer{DF: ipsec.ClearDF, DSCP: ipsec.DSCPIn, NoECN: true}
	if err := p.AddSA(sa); err != nil {
		t.Fatal(err)
	}
	states := ipText(t, ns, "-s", "xfrm", "state")
	for _, want := range []string{
		"mark 0x42/0xff", "output-mark 0x99", "if_id 0x7", "flag noecn decap-dscp nopmtudisc", "extra_flag dont-encap-dscp",
		"sel src 10.1.0.0/16 dst 10.2.0.0/16",
	} {
		if !strings.Contains(states, want) {
			t.Errorf("no %q in %s", want, states)
		}
	}
	if len(p.SAs()) != 1 {
		t.Errorf("%+v", p.SAs())
	}
	cpu := espSA(ipsec.Out, 0x1001)
	cpu.Kernel.CPU = 1
	err := p.AddSA(cpu)
	if missing, is := errors.AsType[*MissingError](err); !is || !strings.Contains(missing.Needs, "6.13") {
		t.Errorf("a CPU for an SA on Linux 6.1: %v", err)
	}
	offload := espSA(ipsec.Out, 0x1002)
	offload.Kernel.Offload = "lo"
	if err := p.AddSA(offload); !errors.Is(err, dataplane.ErrTransform) {
		t.Errorf("offload to the loopback device: %v", err)
	}
	df := espSA(ipsec.Out, 0x1003)
	df.Outer.DF = ipsec.SetDF
	if err := p.AddSA(df); !errors.Is(err, dataplane.ErrTransform) {
		t.Errorf("DF always set: %v", err)
	}
	sharing := espSA(ipsec.Out, 0x1004)
	sharing.Aggfrag.On = true
	if err := p.AddSA(sharing); !errors.Is(err, dataplane.ErrTransform) {
		t.Errorf("AGGFRAG mode: %v", err)
	}
	if n := len(p.SAs()); n != 1 {
		t.Errorf("%d SAs after four refusals", n)
	}
}
