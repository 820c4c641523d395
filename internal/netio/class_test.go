package netio

import (
	"errors"
	"net/netip"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestTrafficClassTravels(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		a, b := udpPair(t, f)
		reader := NewReader(b, 2000)
		// Runs of one length: only the class keeps them from being one train.
		classes := []uint8{0, 0, 0x02, 0x02, 0xb8, 0xb8, 0xb8, 0x03, 0}
		out := outgoing(len(classes), 800, netip.AddrPort{}, netip.AddrPortFrom(loopback(f), b.LocalPort()))
		for i, class := range classes {
			out[i].TrafficClass = class
			out[i].DontFragment = i%3 == 0
		}
		if n, err := a.WriteBatch(out); n != len(out) || err != nil {
			t.Fatalf("%s: WriteBatch = %d, %v", f, n, err)
		}
		var got []uint8
		for len(got) < len(classes) {
			pkts, err := reader.Read()
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range pkts {
				got = append(got, p.TrafficClass)
			}
		}
		if string(got) != string(classes) {
			t.Errorf("%s: classes % x, want % x", f, got, classes)
		}
	}
}

func TestTrafficClassOfRawPackets(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		s, err := ListenESP(f, SocketOptions{Address: loopback(f)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		out := outgoing(1, 100, netip.AddrPort{}, netip.AddrPortFrom(loopback(f), 0))
		out[0].TrafficClass = 0x2a
		if _, err := s.WriteBatch(out); err != nil {
			t.Fatal(err)
		}
		in := NewBatch(1, 2000)
		if _, err := s.ReadBatch(in); err != nil {
			t.Fatal(err)
		}
		if in[0].TrafficClass != 0x2a || in[0].Len != 100 {
			t.Errorf("%s: class %#x, %d octets", f, in[0].TrafficClass, in[0].Len)
		}
	}
}

// TestDontFragment sends datagrams that are longer than the MTU of a TUN device,
// and looks what the kernel makes of them.
func TestDontFragment(t *testing.T) {
	tuns, err := OpenTUN("cpdf%d", TUNOptions{Queues: 1, MTU: 1280, Without: NoOffload})
	if err != nil {
		t.Fatal(err)
	}
	tun := tuns[0]
	defer tun.Close()
	for _, args := range [][]string{
		{"addr", "add", "198.51.100.1/24", "dev", tun.Name()},
		{"link", "set", tun.Name(), "up"},
		{"-6", "addr", "add", "2001:db8:57::1/64", "dev", tun.Name(), "nodad"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	sent := make(chan []byte, 64)
	go func() {
		pkts := NewBatch(16, 2000)
		for {
			n, err := tun.ReadBatch(pkts)
			if err != nil {
				return
			}
			for i := range pkts[:n] {
				sent <- append([]byte(nil), pkts[i].Data()...)
			}
		}
	}()
	next := func(version byte) []byte {
		for {
			select {
			case b := <-sent:
				if b[0]>>4 == version && (version == 4 || b[6] != 58 && b[6] != 0) { // no ICMPv6
					return b
				}
			case <-time.After(5 * time.Second):
				t.Fatal("nothing was sent")
			}
		}
	}
	for _, far := range []string{"198.51.100.2", "2001:db8:57::2"} {
		remote := netip.AddrPortFrom(netip.MustParseAddr(far), 4500)
		f := FamilyOf(remote.Addr())
		socks, err := ListenUDP(f, 0, 1, SocketOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer socks[0].Close()
		out := outgoing(4, 900, netip.AddrPort{}, remote)
		long := outgoing(1, 1400, netip.AddrPort{}, remote)
		out[1].DontFragment, out[2].DontFragment = true, true
		if n, err := socks[0].WriteBatch(out); n != 4 || err != nil {
			t.Fatalf("%s: WriteBatch = %d, %v", f, n, err)
		}
		for i := range out {
			b := next(byte(f))
			if df := b[6]&0x40 != 0; f == IPv4 && df != out[i].DontFragment {
				t.Errorf("packet %d: DF is %v", i, df)
			}
		}
		long[0].DontFragment = true
		if n, err := socks[0].WriteBatch(long); n != 0 || !errors.Is(err, unix.EMSGSIZE) {
			t.Errorf("%s: a long packet with DF: %d, %v", f, n, err)
		}
		long[0].DontFragment = false
		if n, err := socks[0].WriteBatch(long); n != 1 || err != nil {
			t.Errorf("%s: a long packet without DF: %d, %v", f, n, err)
		}
		for range 2 {
			if b := next(byte(f)); len(b) > 1280 || f == IPv4 && b[6]&0x20 == 0 && b[7] == 0 || f == IPv6 && b[6] != 44 {
				t.Errorf("%s: not a fragment: % x", f, b[:8])
			}
		}
	}
}
