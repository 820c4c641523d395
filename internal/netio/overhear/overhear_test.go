package overhear

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/packet"
)

var (
	ends4 = [2]netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}
	ends6 = [2]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}
)

// whole puts an IP header before a payload.
func whole(ends [2]netip.Addr, protocol uint8, payload []byte) []byte {
	if ends[0].Is4() {
		b := make([]byte, packet.IPv4HeaderLen)
		packet.PutIPv4(b, &packet.IPv4Header{Src: ends[0], Dst: ends[1], TotalLen: len(b) + len(payload), TTL: 64, Protocol: protocol})
		return append(b, payload...)
	}
	b := make([]byte, packet.IPv6HeaderLen)
	packet.PutIPv6(b, &packet.IPv6Header{Src: ends[0], Dst: ends[1], PayloadLen: len(payload), NextHeader: protocol, HopLimit: 64})
	return append(b, payload...)
}

func udp(src, dst uint16, payload []byte) []byte {
	b := make([]byte, packet.UDPHeaderLen)
	packet.PutUDP(b, src, dst, len(b)+len(payload), 0)
	return append(b, payload...)
}

var esp = append([]byte{0xc0, 0xff, 0xee, 1, 0, 0, 0, 9}, make([]byte, 40)...)

type sample struct {
	name     string
	protocol uint8
	payload  []byte
	passes   bool // the filter
	is       bool // a packet of an SA
}

func samples() []sample {
	ah := append([]byte{50, 4, 0, 0}, esp...)
	return []sample{
		{"ESP", packet.ProtocolESP, esp, true, true},
		{"AH", packet.ProtocolAH, ah, true, true},
		{"ESP in UDP, from here", packet.ProtocolUDP, udp(4500, 61000, esp), true, true},
		{"ESP in UDP, to here", packet.ProtocolUDP, udp(61000, 4500, esp), true, true},
		{"IKE", packet.ProtocolUDP, udp(4500, 4500, make([]byte, 40)), true, false},
		{"keepalive", packet.ProtocolUDP, udp(4500, 4500, []byte{0xff}), true, false},
		{"other UDP", packet.ProtocolUDP, udp(53, 61000, esp), false, true},
		{"TCP", 6, make([]byte, 40), false, false},
	}
}

func TestWhatIsTaken(t *testing.T) {
	vm, err := bpf.NewVM(filter(4500))
	if err != nil {
		t.Fatal(err)
	}
	for _, ends := range [][2]netip.Addr{ends4, ends6} {
		for _, s := range samples() {
			data := whole(ends, s.protocol, s.payload)
			if n, err := vm.Run(data); err != nil || n > 0 != s.passes {
				t.Errorf("%s, %v: the filter says %d, %v", s.name, ends[0], n, err)
			}
			p, ok := parse(data)
			if ok != s.is {
				t.Errorf("%s, %v: read %+v, %t", s.name, ends[0], p, ok)
			}
			if ok && (p.SPI != 0xc0ffee01 || p.Sequence != 9 || p.Src.Addr() != ends[0] || p.Dst.Addr() != ends[1] ||
				p.UDP != (s.protocol == packet.ProtocolUDP) || (p.Protocol == ipsec.AH) != (s.protocol == packet.ProtocolAH)) {
				t.Errorf("%s, %v: read %+v", s.name, ends[0], p)
			}
			for n := range data {
				if p, ok := parse(bytes.Clone(data[:n])); ok && n < len(data)-len(esp)+8 {
					t.Errorf("%s cut to %d octets: %+v", s.name, n, p)
				}
			}
		}
	}
	later := whole(ends4, packet.ProtocolESP, esp)
	binary.BigEndian.PutUint16(later[6:], 100)
	if n, err := vm.Run(later); err != nil || n != 0 {
		t.Errorf("a later fragment: the filter says %d, %v", n, err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range samples() {
		f.Add(whole(ends4, s.protocol, s.payload))
		f.Add(whole(ends6, s.protocol, s.payload))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, ok := parse(data); ok && (p.SPI < ipsec.MinSPI || len(p.Data) > len(data)) {
			t.Errorf("read %+v", p)
		}
	})
}

// The kernel shows what leaves at one end of a wire and what enters at the other.
func TestBothDirections(t *testing.T) {
	var ns [2]netns.NS
	var err error
	for i := range ns {
		if ns[i], err = netns.Create(fmt.Sprintf("overhear-%d-%d", os.Getpid(), i)); err != nil {
			t.Fatal(err)
		}
		defer ns[i].Delete()
	}
	if err := netns.Link(ns[0], "w", ns[1], "w"); err != nil {
		t.Fatal(err)
	}
	heard := [2]chan Packet{make(chan Packet, 16), make(chan Packet, 16)}
	for i := range ns {
		if err := ns[i].Addr("w", netip.PrefixFrom(ends4[i], 24)); err != nil {
			t.Fatal(err)
		}
		if err := ns[i].Do(func() error {
			l, err := Listen(4500)
			if err != nil {
				return err
			}
			ended := make(chan error, 1)
			go func() {
				ended <- l.Run(func(p *Packet) {
					q := *p
					q.Data = bytes.Clone(p.Data)
					heard[i] <- q
				})
			}()
			t.Cleanup(func() {
				if err := errors.Join(l.Close(), <-ended); err != nil {
					t.Error(err)
				}
			})
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := ns[0].Do(func() error {
		c, err := net.DialUDP("udp4", &net.UDPAddr{Port: 4500}, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ends4[1], 61000)))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(esp)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for i := range ns {
		select {
		case p := <-heard[i]:
			if p.Outgoing != (i == 0) || p.SPI != 0xc0ffee01 || !p.UDP || p.Device == 0 || !bytes.HasSuffix(p.Data, esp) {
				t.Errorf("heard %+v", p)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is heard")
		}
	}
}
