package netio

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"caponier/internal/packet"
)

// mixed makes datagrams of which some can travel as trains.
func mixed(local, remote netip.AddrPort) []Packet {
	var out []Packet
	for _, run := range []struct{ n, size int }{
		{70, 1400}, {3, 1400}, {1, 60}, {5, 60}, {1, 61}, {1, 59}, {2, 60}, {1, 0}, {2, 0}, {1, 1}, {10, 9}, {1, 5}, {1, 9},
	} {
		for _, p := range outgoing(run.n, run.size, local, remote) {
			for i := range p.Data() {
				p.Data()[i] = byte(i * (len(out) + 1))
			}
			out = append(out, p)
		}
	}
	return out
}

func TestTrainsAreTheSameDatagrams(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, without := range []Offload{0, OffloadUDPSend, OffloadUDPReceive, NoOffload} {
			t.Run(fmt.Sprintf("%s without %#x", f, without), func(t *testing.T) {
				open := func() *Socket {
					socks, err := ListenUDP(f, 0, 1, SocketOptions{Without: without})
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { socks[0].Close() })
					return socks[0]
				}
				a, b := open(), open()
				if a.wr.trains != (without&OffloadUDPSend == 0) {
					t.Fatalf("trains are sent: %v", a.wr.trains)
				}
				reader := NewReader(b, 2000)
				remote := netip.AddrPortFrom(loopback(f), b.LocalPort())
				out := mixed(netip.AddrPort{}, remote)
				if n, err := a.WriteBatch(out); n != len(out) || err != nil {
					t.Fatalf("WriteBatch = %d, %v", n, err)
				}
				if a.wr.trains != (without&OffloadUDPSend == 0) {
					t.Error("trains were given up")
				}
				reads := 0
				for got := 0; got < len(out); reads++ {
					in, err := reader.Read()
					if err != nil {
						t.Fatal(err)
					}
					for i := range in {
						p := &in[i]
						if !bytes.Equal(p.Data(), out[got].Data()) || p.Segment != 0 || p.Truncated {
							t.Fatalf("datagram %d: got %d octets, want %d", got, p.Len, out[got].Len)
						}
						if p.Remote.Port() != a.LocalPort() || p.Local != remote {
							t.Fatalf("datagram %d came from %v to %v", got, p.Remote, p.Local)
						}
						got++
					}
				}
			})
		}
	}
}

func TestTrainOf(t *testing.T) {
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.1:2")
	for _, c := range []struct {
		want int
		pkts []Packet
	}{
		{1, outgoing(1, 100, a, a)},
		{3, outgoing(3, 100, a, a)},
		{maxTrain, outgoing(100, 100, a, a)},
		{46, outgoing(60, 1421, a, a)}, // 46 * 1421 = 65366
		{3, slices.Concat(outgoing(2, 100, a, a), outgoing(3, 99, a, a))},
		{2, slices.Concat(outgoing(2, 100, a, a), outgoing(3, 101, a, a))},
		{2, slices.Concat(outgoing(2, 100, a, a), outgoing(3, 0, a, a))},
		{2, slices.Concat(outgoing(2, 100, a, a), outgoing(3, 100, a, b))},
		{2, slices.Concat(outgoing(2, 100, a, a), outgoing(3, 100, b, a))},
	} {
		if got := trainOf(c.pkts); got != c.want {
			t.Errorf("train of %d, want %d", got, c.want)
		}
	}
}

// TestTrainsFallBack sends trains that the kernel refuses: those of a socket
// without checksums, and those with an address that is not ours.
func TestTrainsFallBack(t *testing.T) {
	a, b := udpPair(t, IPv4)
	reader := NewReader(b, MaxPacket)
	remote := netip.AddrPortFrom(loopback(IPv4), b.LocalPort())
	receive := func(want int) {
		t.Helper()
		for got := 0; got < want; {
			in, err := reader.Read()
			if err != nil {
				t.Fatal(err)
			}
			got += len(in)
		}
	}
	out := outgoing(6, 500, netip.AddrPort{}, remote)
	for i := range out[:3] {
		out[i].Local = netip.MustParseAddrPort("192.0.2.250:0")
	}
	for i := range 3 {
		if n, err := a.WriteBatch(out[i:]); n != 0 || err == nil {
			t.Fatalf("WriteBatch = %d, %v", n, err)
		}
	}
	if n, err := a.WriteBatch(out[3:]); n != 3 || err != nil {
		t.Fatalf("WriteBatch of the rest = %d, %v", n, err)
	}
	receive(3)

	var optErr error
	err := a.raw.Control(func(fd uintptr) { optErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) })
	if err != nil || optErr != nil {
		t.Fatal(err, optErr)
	}
	out = mixed(netip.AddrPort{}, remote)
	if n, err := a.WriteBatch(out); n != len(out) || err != nil {
		t.Fatalf("WriteBatch = %d, %v", n, err)
	}
	receive(len(out))
	if !a.wr.trains {
		t.Error("an error about one train was taken for one about all")
	}
}

func TestTrainsDoNotAllocate(t *testing.T) {
	a, b := udpPair(t, IPv6)
	reader := NewReader(b, MaxPacket)
	out := outgoing(64, 1000, netip.AddrPort{}, netip.AddrPortFrom(loopback(IPv6), b.LocalPort()))
	if n := testing.AllocsPerRun(100, func() {
		if _, err := a.WriteBatch(out); err != nil {
			t.Fatal(err)
		}
		for got := 0; got < len(out); {
			in, err := reader.Read()
			if err != nil {
				t.Fatal(err)
			}
			got += len(in)
		}
	}); n != 0 {
		t.Errorf("%v allocations per batch", n)
	}
}

func TestKernelsThatCorruptTrains(t *testing.T) {
	for release, want := range map[string]bool{
		"6.18.44-fc-v657": false, "6.1.0-18-amd64": false, "7.0.0": true, "7.0.12-1-arch": true, "7.1.4": true, "7.1.5": false,
		"7.2.0-rc1": false, "": false, "strange": false, "8": false,
	} {
		if got := corruptsTrains(release); got != want {
			t.Errorf("%q: %v, want %v", release, got, want)
		}
	}
}

// udpSuper is a super-packet of n UDP datagrams of size octets, in pieces.
func udpSuper(src, dst netip.Addr, port uint16, n, size int) Packet {
	total := packet.IPv4HeaderLen + packet.UDPHeaderLen + n*size
	b := make([]byte, packet.IPv4HeaderLen+packet.UDPHeaderLen+size)
	packet.PutIPv4(b, &packet.IPv4Header{Src: src, Dst: dst, TotalLen: total, TTL: 64, Protocol: packet.ProtocolUDP})
	length := packet.UDPHeaderLen + n*size
	packet.PutUDP(b[packet.IPv4HeaderLen:], 1234, port, length,
		packet.Fold(packet.PseudoHeaderSum(src, dst, packet.ProtocolUDP, length)))
	p := Packet{Buf: b, Len: len(b), Segment: size}
	for i := 1; i < n; i++ {
		p.Pieces = append(p.Pieces, bytes.Repeat([]byte{byte(i)}, size))
	}
	return p
}

// TestTUNTakesSuperPackets writes one to a TUN device and receives its datagrams
// from a socket, with the kernel's help and without.
func TestTUNTakesSuperPackets(t *testing.T) {
	for _, without := range []Offload{0, OffloadTCP, OffloadUDP, NoOffload} {
		tuns, err := OpenTUN("cpoff%d", TUNOptions{Queues: 1, MTU: 1400, Without: without})
		if err != nil {
			t.Fatal(err)
		}
		tun := tuns[0]
		if tcp, udp := tun.Joins(); tcp != (without&OffloadTCP == 0) || udp != (without&OffloadUDP == 0) {
			t.Errorf("without %#x: joins TCP %v, UDP %v", without, tcp, udp)
		}
		const here = "198.51.100.1"
		for _, args := range [][]string{{"addr", "add", here + "/24", "dev", tun.Name()}, {"link", "set", tun.Name(), "up"}} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		socks, err := ListenUDP(IPv4, 0, 1, SocketOptions{Address: netip.MustParseAddr(here)})
		if err != nil {
			t.Fatal(err)
		}
		p := udpSuper(netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr(here), socks[0].LocalPort(), 5, 300)
		if n, err := tun.WriteBatch([]Packet{p}); n != 1 || err != nil {
			t.Fatalf("without %#x: WriteBatch = %d, %v", without, n, err)
		}
		in := NewBatch(8, 2000)
		for got := 0; got < 5; {
			n, err := socks[0].ReadBatch(in)
			if err != nil {
				t.Fatal(err)
			}
			for i := range in[:n] {
				if want := bytes.Repeat([]byte{byte(got)}, 300); !bytes.Equal(in[i].Data(), want) {
					t.Fatalf("without %#x: datagram %d: % x", without, got, in[i].Data())
				}
				got++
			}
		}
		// What is no super-packet is refused, and reported.
		bad := p
		bad.Len = 10
		if n, err := tun.WriteBatch([]Packet{bad}); n != 0 || err == nil {
			t.Errorf("without %#x: wrote rubbish: %d, %v", without, n, err)
		}
		socks[0].Close()
		tun.Close()
	}
}

func FuzzVnetHeader(f *testing.F) {
	p := udpSuper(netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), 5, 3, 100)
	var h VnetHeader
	h.Encode(&p, 0)
	f.Add(h[:], p.Data(), uint16(100))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 20, 0, 6, 0}, p.Data(), uint16(0))
	f.Add([]byte{1, 1, 54, 0, 100, 0, 20, 0, 16, 0}, p.Data(), uint16(0))
	f.Fuzz(func(t *testing.T, head, data []byte, segment uint16) {
		if len(head) < VnetLen {
			return
		}
		p := Packet{Buf: slices.Clone(data), Len: len(data)}
		if (*VnetHeader)(head).Decode(&p) && p.Segment != int(binary.NativeEndian.Uint16(head[4:])) && p.Segment != 0 {
			t.Errorf("segment %d", p.Segment)
		}
		// What is written is within the packet.
		p.Segment = int(segment)
		var h VnetHeader
		if !h.Encode(&p, 0) || segment == 0 {
			return
		}
		headerLen, start, offset := binary.NativeEndian.Uint16(h[2:]), binary.NativeEndian.Uint16(h[6:]), binary.NativeEndian.Uint16(h[8:])
		if int(headerLen) >= len(data) || start+offset+2 > headerLen {
			t.Errorf("header of %d octets, checksum at %d+%d, packet of %d", headerLen, start, offset, len(data))
		}
	})
}
