package netio

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func loopback(f Family) netip.Addr {
	if f == IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

func udpPair(t *testing.T, f Family) (a, b *Socket) {
	t.Helper()
	for _, s := range []**Socket{&a, &b} {
		socks, err := ListenUDP(f, 0, 1, SocketOptions{})
		if err != nil {
			t.Fatal(err)
		}
		*s = socks[0]
		t.Cleanup(func() { socks[0].Close() })
	}
	return a, b
}

func outgoing(n, size int, local, remote netip.AddrPort) []Packet {
	pkts := NewBatch(n, size)
	for i := range pkts {
		p := &pkts[i]
		p.Len, p.Local, p.Remote = size, local, remote
		for j := range p.Data() {
			p.Data()[j] = byte(i + j)
		}
	}
	return pkts
}

func TestUDPBatchKeepsDataAndAddresses(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		t.Run(f.String(), func(t *testing.T) {
			a, b := udpPair(t, f)
			local := netip.AddrPortFrom(loopback(f), 0)
			if f == IPv4 { // another address than the one the kernel would choose
				local = netip.MustParseAddrPort("127.0.0.7:0")
			}
			const count = 200 // more than one system call takes
			out := outgoing(count, 100, local, netip.AddrPortFrom(loopback(f), b.LocalPort()))
			if n, err := a.WriteBatch(out); n != count || err != nil {
				t.Fatalf("WriteBatch = %d, %v", n, err)
			}
			in := NewBatch(64, 2000)
			for got := 0; got < count; {
				n, err := b.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				for i := range in[:n] {
					p := &in[i]
					if !bytes.Equal(p.Data(), out[got].Data()) || p.Off != Headroom || p.Truncated {
						t.Fatalf("packet %d: got % x", got, p.Data())
					}
					if want := netip.AddrPortFrom(local.Addr(), a.LocalPort()); p.Remote != want {
						t.Fatalf("packet %d came from %v, want %v", got, p.Remote, want)
					}
					if want := netip.AddrPortFrom(loopback(f), b.LocalPort()); p.Local != want {
						t.Fatalf("packet %d came to %v, want %v", got, p.Local, want)
					}
					got++
				}
			}
		})
	}
}

func TestUDPTruncation(t *testing.T) {
	a, b := udpPair(t, IPv4)
	remote := netip.AddrPortFrom(loopback(IPv4), b.LocalPort())
	if _, err := a.WriteBatch(outgoing(1, 301, netip.AddrPort{}, remote)); err != nil {
		t.Fatal(err)
	}
	in := []Packet{{Buf: make([]byte, Headroom+300+Tailroom)}}
	if n, err := b.ReadBatch(in); n != 1 || err != nil || !in[0].Truncated || in[0].Len != 300 {
		t.Fatalf("ReadBatch = %d, %v; truncated %v, %d octets", n, err, in[0].Truncated, in[0].Len)
	}
}

func TestWriteBatchStopsAtTheFailingPacket(t *testing.T) {
	a, b := udpPair(t, IPv4)
	good := netip.AddrPortFrom(loopback(IPv4), b.LocalPort())
	for name, bad := range map[string]netip.AddrPort{
		"other family": netip.MustParseAddrPort("[::1]:9"),
		"no address":   {},
		"refused":      netip.MustParseAddrPort("255.255.255.255:9"), // no route, or no permission to broadcast
	} {
		t.Run(name, func(t *testing.T) {
			out := outgoing(5, 50, netip.AddrPort{}, good)
			out[2].Remote = bad
			if name == "refused" {
				out[2].Local = netip.MustParseAddrPort("192.0.2.250:0") // not ours
			}
			n, err := a.WriteBatch(out)
			if n != 2 || err == nil {
				t.Fatalf("WriteBatch = %d, %v; want 2 and an error", n, err)
			}
			if n, err := a.WriteBatch(out[3:]); n != 2 || err != nil {
				t.Fatalf("WriteBatch of the rest = %d, %v", n, err)
			}
			in := NewBatch(8, 100)
			for got := 0; got < 4; {
				n, err := b.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		})
	}
}

func TestBatchesDoNotAllocate(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		a, b := udpPair(t, f)
		out := outgoing(32, 1400, netip.AddrPortFrom(loopback(f), 0), netip.AddrPortFrom(loopback(f), b.LocalPort()))
		in := NewBatch(64, 2000)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := a.WriteBatch(out); err != nil {
				t.Fatal(err)
			}
			for got := 0; got < len(out); {
				n, err := b.ReadBatch(in)
				if err != nil {
					t.Fatal(err)
				}
				got += n
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per batch", f, n)
		}
	}
	a, b := NewMemPair(64, 1500)
	out, in := outgoing(32, 1400, netip.AddrPort{}, netip.AddrPort{}), NewBatch(64, 2000)
	if n := testing.AllocsPerRun(100, func() {
		a.WriteBatch(out)
		b.ReadBatch(in)
	}); n != 0 {
		t.Errorf("memory: %v allocations per batch", n)
	}
}

func TestSteeringBySPI(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, workers := range []int{2, 3} {
			socks, err := ListenUDP(f, 0, workers, SocketOptions{})
			if err != nil {
				t.Fatal(err)
			}
			from, _ := udpPair(t, f)
			remote := netip.AddrPortFrom(loopback(f), socks[0].LocalPort())
			payloads := map[string]int{
				"\x00\x00\x00\x00ike message": 0,
				"\xff":                        0,
				"\xc0\xff\xee":                0,
			}
			for spi := uint32(0xc0000000); spi < 0xc0000010; spi++ {
				payloads[string([]byte{byte(spi >> 24), byte(spi >> 16), byte(spi >> 8), byte(spi), 1, 2, 3, 4})] = OwnerOf(spi, workers)
			}
			want := make([]int, workers)
			for payload, owner := range payloads {
				want[owner]++
				if _, err := from.WriteBatch([]Packet{{Buf: []byte(payload), Len: len(payload), Remote: remote}}); err != nil {
					t.Fatal(err)
				}
			}
			in := NewBatch(64, 100)
			for owner, s := range socks {
				for got := 0; got < want[owner]; {
					n, err := s.ReadBatch(in)
					if err != nil {
						t.Fatal(err)
					}
					for i := range in[:n] {
						if payloads[string(in[i].Data())] != owner {
							t.Errorf("%s: worker %d of %d received % x", f, owner, workers, in[i].Data())
						}
					}
					got += n
				}
				s.Close()
			}
		}
	}
}

func TestCloseWakesReaders(t *testing.T) {
	socks, err := ListenUDP(IPv4, 0, 1, SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	esp, err := ListenESP(IPv6, SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tuns, err := OpenTUN("cptest%d", TUNOptions{Queues: 2, MTU: 1400})
	if err != nil {
		t.Fatal(err)
	}
	mem, _ := NewMemPair(1, 1)
	for name, d := range map[string]Device{"udp": socks[0], "esp": esp, "tun": tuns[1], "mem": mem} {
		t.Run(name, func(t *testing.T) {
			got := make(chan error)
			go func() {
				_, err := d.ReadBatch(NewBatch(4, 100))
				got <- err
			}()
			time.Sleep(20 * time.Millisecond)
			for range 2 {
				if err := d.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			select {
			case err := <-got:
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("ReadBatch returned %v", err)
				}
			case <-time.After(5 * time.Second):
				t.Fatal("the reader sleeps on")
			}
			if _, err := d.WriteBatch(outgoing(1, 20, netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:9"))); name != "esp" && !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteBatch returned %v", err)
			}
		})
	}
	tuns[0].Close()
}

func TestRawESPBothFamilies(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		s, err := ListenESP(f, SocketOptions{Mark: 0xcafe})
		if err != nil {
			t.Fatal(err)
		}
		here := netip.AddrPortFrom(loopback(f), 0)
		out := outgoing(3, 60, here, here)
		if n, err := s.WriteBatch(out); n != 3 || err != nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
		in := NewBatch(8, MaxPacket)
		for got := 0; got < 3; {
			n, err := s.ReadBatch(in)
			if err != nil {
				t.Fatal(err)
			}
			for i := range in[:n] {
				if !bytes.Equal(in[i].Data(), out[got].Data()) || in[i].Local != here || in[i].Remote != here {
					t.Errorf("%s: packet %d: % x from %v to %v", f, got, in[i].Data(), in[i].Remote, in[i].Local)
				}
				got++
			}
		}
		s.Close()
	}
}

// TestClearSendsThePacketAsItIs sends an IP packet with a foreign source.
func TestClearSendsThePacketAsItIs(t *testing.T) {
	s, err := OpenClear(IPv4, SocketOptions{Mark: 0xcafe})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, rx := udpPair(t, IPv4)
	pkt := []byte{
		0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 127, 0, 0, 9, 127, 0, 0, 1,
		0x12, 0x34, byte(rx.LocalPort() >> 8), byte(rx.LocalPort()), 0, 12, 0, 0, 'c', 'l', 'e', 'a',
	}
	if n, err := s.WriteBatch([]Packet{{Buf: pkt, Len: len(pkt)}}); n != 1 || err != nil {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
	in := NewBatch(4, 100)
	if _, err := rx.ReadBatch(in); err != nil {
		t.Fatal(err)
	}
	if got := in[0]; string(got.Data()) != "clea" || got.Remote != netip.MustParseAddrPort("127.0.0.9:4660") {
		t.Errorf("got %q from %v", got.Data(), got.Remote)
	}
	if _, err := s.WriteBatch([]Packet{{Buf: []byte{1, 2}, Len: 2}}); err == nil {
		t.Error("sent what is no IP packet")
	}
}

func TestIKESocket(t *testing.T) {
	a, err := ListenIKE(0, SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := ListenIKE(0, SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, f := range []Family{IPv4, IPv6} {
		remote := netip.AddrPortFrom(loopback(f), b.LocalPort())
		if err := a.SendKeepAlive(netip.AddrPort{}, remote); err != nil {
			t.Fatal(err)
		}
		if err := a.Send(Datagram{Data: []byte("hello"), Remote: remote}); err != nil {
			t.Fatal(err)
		}
		d, err := b.Receive()
		if err != nil || string(d.Data) != "hello" || d.Local != remote || d.Remote.Port() != a.LocalPort() {
			t.Fatalf("%s: received %q from %v to %v, %v", f, d.Data, d.Remote, d.Local, err)
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := a.Receive(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Receive returned %v", err)
		}
	})
	time.Sleep(20 * time.Millisecond)
	a.Close()
	a.Close()
	wg.Wait()
	if err := a.Send(Datagram{Data: []byte("x"), Remote: netip.MustParseAddrPort("127.0.0.1:9")}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Send returned %v", err)
	}
}

func TestIKEPortMarkerAndBound(t *testing.T) {
	near, far := NewMemPair(8, 100)
	s := NewIKEPort(near, nil, 4500, true)
	remote := netip.MustParseAddrPort("192.0.2.2:4500")
	if err := s.Send(Datagram{Data: []byte("msg"), Local: netip.MustParseAddrPort("192.0.2.1:0"), Remote: remote}); err != nil {
		t.Fatal(err)
	}
	in := NewBatch(4, 100)
	if _, err := far.ReadBatch(in); err != nil || string(in[0].Data()) != "\x00\x00\x00\x00msg" {
		t.Fatalf("on the wire: %q, %v", in[0].Data(), err)
	}
	if in[0].Remote != netip.MustParseAddrPort("192.0.2.1:4500") {
		t.Errorf("came from %v", in[0].Remote)
	}
	if err := s.Send(Datagram{Remote: netip.MustParseAddrPort("[2001:db8::1]:4500")}); err == nil || !strings.Contains(err.Error(), "IPv6") {
		t.Errorf("Send without IPv6 returned %v", err)
	}
	data := []byte("flood")
	for range inboxDepth {
		if !s.Deliver(data, netip.AddrPort{}, remote) {
			t.Fatal("a message was dropped before the bound")
		}
	}
	if n := testing.AllocsPerRun(10, func() { s.Deliver(data, netip.AddrPort{}, remote) }); n != 0 {
		t.Errorf("%v allocations to drop a message", n)
	}
	if s.Dropped() != 11 {
		t.Errorf("counted %d drops, want 11", s.Dropped())
	}
	data[0] = 'F'
	if d, err := s.Receive(); err != nil || string(d.Data) != "flood" {
		t.Errorf("Receive = %q, %v; want a copy of its own", d.Data, err)
	}
}

// TestMissingPrivilegeIsNamed drops the capabilities of one thread, which ends
// with its goroutine.
func TestMissingPrivilegeIsNamed(t *testing.T) {
	errs := make(map[string]error)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&hdr, &none[0]); err != nil {
			done <- err
			return
		}
		_, errs["CAP_NET_ADMIN"] = OpenTUN("cptest%d", TUNOptions{Queues: 1, MTU: 1400})
		_, errs["CAP_NET_RAW"] = ListenESP(IPv4, SocketOptions{})
		if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil && strings.TrimSpace(string(b)) == "1024" {
			_, errs["CAP_NET_BIND_SERVICE"] = ListenUDP(IPv4, 500, 1, SocketOptions{})
		}
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for capability, err := range errs {
		if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), "needs "+capability) {
			t.Errorf("got %v, want it to name %s", err, capability)
		}
	}
}
