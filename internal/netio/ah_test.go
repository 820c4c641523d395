package netio

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"caponier/internal/packet"
)

// whole builds an IP packet to this machine: headers, then n octets of what AH
// would be.
func whole(f Family, headers []byte, first uint8, n int) []byte {
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = byte(i)
	}
	addr := loopback(f)
	if f == IPv6 {
		b := make([]byte, packet.IPv6HeaderLen)
		packet.PutIPv6(b, &packet.IPv6Header{
			Src: addr, Dst: addr, PayloadLen: len(headers) + n, TrafficClass: 0xb8, NextHeader: first, HopLimit: 17,
		})
		return append(append(b, headers...), payload...)
	}
	b := make([]byte, packet.IPv4HeaderLen, 100)
	b = append(append(b, headers...), payload...)
	packet.PutIPv4(b, &packet.IPv4Header{
		Src: addr, Dst: addr, TotalLen: len(b), ID: 0x1234, TrafficClass: 0xb8, TTL: 17, Protocol: packet.ProtocolAH,
	})
	b[0] = 4<<4 | byte((packet.IPv4HeaderLen+len(headers))/4)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], packet.Checksum(b[:packet.IPv4HeaderLen+len(headers)]))
	return b
}

// TestAHKeepsHeaders: what AH covers arrives as it was sent, also in fragments.
func TestAHKeepsHeaders(t *testing.T) {
	const ah, hop, route, dest = packet.ProtocolAH, packet.ProtocolHopByHop, packet.ProtocolRouting, packet.ProtocolDestination
	padN := func(next uint8) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }
	done := append([]byte{ah, 2, 253, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{0xfd}, 16)...) // a route that is done
	to := func(next uint8, header []byte) []byte { return append([]byte{next}, header[1:]...) }
	chain := bytes.Join([][]byte{padN(dest), padN(route), to(dest, done), padN(ah)}, nil)
	long := append([]byte{ah, 31}, bytes.Repeat([]byte{0x1e, 62}, 1)...)
	long = append(long, make([]byte, 256-len(long))...)
	for i := 2; i < 256; { // options that nobody knows, to be skipped
		size := min(256-i-2, 100)
		long[i], long[i+1] = 0x1e, byte(size)
		i += 2 + size
	}
	for _, tt := range []struct {
		name    string
		family  Family
		headers []byte
		first   uint8
		n       int
	}{
		{"IPv4", IPv4, nil, 0, 60},
		{"IPv4 with options", IPv4, []byte{0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0}, 0, 61},
		{"IPv6", IPv6, nil, ah, 60},
		{"IPv6 with hop-by-hop", IPv6, padN(ah), hop, 61},
		{"IPv6 with destination options", IPv6, padN(ah), dest, 62},
		{"IPv6 with a route", IPv6, done, route, 63},
		{"IPv6 with all", IPv6, chain, hop, 64},
		{"IPv6 with more than there is room for before", IPv6, long, dest, 1000},
	} {
		in, err := ListenAH(tt.family, SocketOptions{Address: loopback(tt.family)})
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := OpenClear(tt.family, SocketOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		want := whole(tt.family, tt.headers, tt.first, tt.n)
		for range 3 {
			if _, err := out.WriteBatch([]Packet{{Buf: bytes.Clone(want), Len: len(want)}}); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			pkts := NewBatch(4, 2000)
			n, err := in.ReadBatch(pkts)
			if err != nil || n != 1 {
				t.Fatalf("%s: %d packets, %v", tt.name, n, err)
			}
			got := pkts[0].Data()
			if tt.name == "IPv4 with options" { // the kernel has recorded its route
				copy(got[24:32], want[24:32])
				copy(got[10:12], want[10:12])
			}
			if pkts[0].Truncated || !bytes.Equal(got, want) {
				t.Errorf("%s: truncated %t\n% x, want\n% x", tt.name, pkts[0].Truncated, got, want)
			}
		}
	}
}

// TestAHHeadersThatAreTooLong are marked as truncated.
func TestAHHeadersThatAreTooLong(t *testing.T) {
	in, err := ListenAH(IPv6, SocketOptions{Address: loopback(IPv6)})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := OpenClear(IPv6, SocketOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	header := make([]byte, 8*100)
	header[0], header[1] = packet.ProtocolAH, 99
	for i := 2; i < len(header); {
		size := min(len(header)-i-2, 250)
		header[i], header[i+1] = 0x1e, byte(size)
		i += 2 + size
	}
	b := whole(IPv6, header, packet.ProtocolDestination, 50)
	if _, err := out.WriteBatch([]Packet{{Buf: b, Len: len(b)}}); err != nil {
		t.Fatal(err)
	}
	pkts := NewBatch(1, 2000)
	if n, err := in.ReadBatch(pkts); n != 1 || err != nil || !pkts[0].Truncated {
		t.Errorf("%d packets, %v, truncated %t", n, err, pkts[0].Truncated)
	}
}

func TestAHWithoutAllocations(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		in, err := ListenAH(f, SocketOptions{Address: loopback(f)})
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := OpenClear(f, SocketOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		b := whole(f, nil, packet.ProtocolAH, 1000)
		send, read := []Packet{{Buf: b, Len: len(b)}}, NewBatch(8, 2000)
		if n := testing.AllocsPerRun(50, func() {
			if _, err := out.WriteBatch(send); err != nil {
				t.Fatal(err)
			}
			if _, err := in.ReadBatch(read); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", f, n)
		}
	}
}

// FuzzRestore takes control messages that no kernel sends.
func FuzzRestore(f *testing.F) {
	c := make([]byte, 256)
	n := 0
	for _, kind := range []int32{54, 59, 57, 52} {
		data := putControl(c[n:], 41, kind, 8)
		copy(data, []byte{51, 0, 1, 4})
		n += 24
	}
	f.Add(c[:n], 40, true)
	f.Add(c[:n/2], 40, false)
	f.Add([]byte{}, 0, false)
	v := newVector()
	v.long = new([maxBatch]longControl)
	f.Fuzz(func(t *testing.T, controls []byte, size int, addressed bool) {
		pkts := NewBatch(1, 1500)
		p := &pkts[0]
		p.Len = min(max(size, 0), 1500)
		if addressed {
			p.Local = netip.AddrPortFrom(loopback(IPv6), 0)
			p.Remote = p.Local
		}
		room := v.long[0].octets()
		v.hdrs[0].hdr.SetControllen(copy(room, controls))
		v.restore(0, p)
		if p.Off < 0 || p.Off+p.Len > len(p.Buf) {
			t.Fatalf("packet at %d of %d octets", p.Off, p.Len)
		}
		if b := p.Data(); !p.Truncated && (b[0] != 0x60|p.TrafficClass>>4 || 40+int(binary.BigEndian.Uint16(b[4:])) != len(b)) {
			t.Fatalf("%d octets: % x", len(b), b[:40])
		}
	})
}
