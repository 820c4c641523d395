package ah

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"testing"

	"caponier/internal/drop"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// algorithms are all that an AH SA may have.
var algorithms = []uint16{
	ipsec.IntegHMACMD596, ipsec.IntegHMACSHA196, ipsec.IntegHMACSHA256128, ipsec.IntegHMACSHA384192, ipsec.IntegHMACSHA512256,
	ipsec.IntegAESCMAC96, ipsec.IntegAESXCBC96, ipsec.IntegHMACSM3, ipsec.IntegHMACSM3128, ipsec.IntegHMACSM396,
}

func transform(id uint16) ipsec.Transform { return ipsec.Transform{Type: ipsec.TypeInteg, ID: id} }

func name(id uint16) string { return suite.Name(transform(id)) }

const testSPI ipsec.SPI = 0xc0ffee01

// testSA has the key 0x80, 0x81, ...
func testSA(t testing.TB, id uint16, m ipsec.Mode, d ipsec.Direction) *ipsec.SA {
	t.Helper()
	_, n, err := suite.KeyLengths(ipsec.Transform{}, transform(id))
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, n)
	for i := range key {
		key[i] = 0x80 + byte(i)
	}
	return &ipsec.SA{SPI: testSPI, Protocol: ipsec.AH, Mode: m, Direction: d, Integ: transform(id), IntegKey: secret.New(key)}
}

func pair(t testing.TB, id uint16, m ipsec.Mode, esn bool) (*Outbound, *Inbound) {
	t.Helper()
	sa := testSA(t, id, m, ipsec.Out)
	sa.ESN = esn
	out, err := NewOutbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	sa.Direction = ipsec.In
	in, err := NewInbound(sa)
	if err != nil {
		t.Fatal(err)
	}
	return out, in
}

// shape is an IP packet in the making.
type shape struct {
	name    string
	version uint8
	options string // of IPv4, padded here
	// headers are IPv6 extension headers, by protocol.
	headers []extension
}

type extension struct {
	protocol uint8
	body     string // without next header and length, padded to 8 octets here
}

func make4(s shape, payload []byte, protocol uint8) []byte {
	head := packet.IPv4HeaderLen + (len(s.options)+3)/4*4
	b := make([]byte, head+len(payload))
	packet.PutIPv4(b, &packet.IPv4Header{
		Src: netip.MustParseAddr("10.1.0.7"), Dst: netip.MustParseAddr("10.2.0.1"), ID: 0xbeef,
		TotalLen: len(b), TTL: 64, Protocol: protocol, TrafficClass: 0xb9, DontFragment: true,
	})
	b[0] = 4<<4 | byte(head/4)
	copy(b[packet.IPv4HeaderLen:], s.options)
	copy(b[head:], payload)
	resize(b[:head], len(b))
	return b
}

func make6(s shape, payload []byte, protocol uint8) []byte {
	b := make([]byte, packet.IPv6HeaderLen)
	pointer := 6
	for _, h := range s.headers {
		size := (2 + len(h.body) + 7) / 8 * 8
		head := make([]byte, size)
		head[1] = byte(size/8 - 1)
		copy(head[2:], h.body)
		if pad := size - 2 - len(h.body); h.protocol != packet.ProtocolRouting && pad > 1 {
			head[size-pad], head[size-pad+1] = 1, byte(pad-2) // PadN
		}
		b[pointer] = h.protocol
		pointer = len(b)
		b = append(b, head...)
	}
	next := protocol
	if pointer != 6 {
		b[pointer] = protocol
		next = b[6]
	}
	packet.PutIPv6(b, &packet.IPv6Header{
		Src: netip.MustParseAddr("2001:db8:1::7"), Dst: netip.MustParseAddr("2001:db8:2::1"), FlowLabel: 0xabcde,
		PayloadLen: len(b) - packet.IPv6HeaderLen + len(payload), NextHeader: next, HopLimit: 64, TrafficClass: 0xb9,
	})
	return append(b, payload...)
}

// build makes a UDP packet with n octets behind the IP headers.
func (s shape) build(n int) []byte {
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	if n >= packet.UDPHeaderLen {
		packet.PutUDP(payload, 1111, 2222, n, 0)
	}
	if s.version == 6 {
		return make6(s, payload, packet.ProtocolUDP)
	}
	return make4(s, payload, packet.ProtocolUDP)
}

var (
	plain4 = shape{name: "IPv4", version: 4}
	plain6 = shape{name: "IPv6", version: 6}
)

// Addresses of a route.
const (
	hopA = "\x20\x01\x0d\xb8\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
	hopB = "\x20\x01\x0d\xb8\x00\x0b\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"
)

// shapes are packets as they come to be sealed, with what may stand in them.
var shapes = []shape{
	plain4,
	plain6,
	{name: "security", version: 4, options: "\x82\x0b\xab\xcd\x00\x00\x00\x00\x00\x00\x00\x00"},
	{name: "extended security", version: 4, options: "\x85\x04\x01\x02"},
	{name: "commercial security", version: 4, options: "\x86\x08\x00\x00\x00\x01\x01\x02"},
	{name: "router alert", version: 4, options: "\x01\x94\x04\x00\x00\x00"},
	{name: "directed multicast", version: 4, options: "\x95\x06\x0a\x00\x00\x01"},
	{name: "record route", version: 4, options: "\x07\x0b\x04\x00\x00\x00\x00\x00\x00\x00\x00"},
	{name: "time stamp", version: 4, options: "\x44\x0c\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
	{name: "traceroute", version: 4, options: "\x52\x0c\x00\x01\x00\x00\x00\x00\x0a\x00\x00\x01"},
	{name: "loose source route", version: 4, options: "\x83\x0b\x04\x0a\x03\x00\x01\x0a\x03\x00\x02"},
	{name: "strict source route", version: 4, options: "\x89\x07\x04\x0a\x03\x00\x01"},
	{name: "stream ID", version: 4, options: "\x88\x04\x12\x34"},
	{name: "unknown option", version: 4, options: "\x1e\x06\x01\x02\x03\x04"},
	{name: "several options", version: 4, options: "\x01\x94\x04\x00\x00\x44\x0c\x05\x00\x00\x00\x00\x00\x00\x00\x00\x00\x85\x03\x07"},
	{name: "hop by hop", version: 6, headers: []extension{{0, "\x05\x02\x00\x00\x3e\x04\x01\x02\x03\x04"}}},
	{name: "destination options", version: 6, headers: []extension{{60, "\x1e\x02\x01\x02\x3e\x02\x03\x04"}}},
	{name: "routing", version: 6, headers: []extension{{43, "\x00\x02\x00\x00\x00\x00" + hopA + hopB}}},
	{name: "routing underway", version: 6, headers: []extension{{43, "\x00\x01\x00\x00\x00\x00" + hopA + hopB}}},
	{name: "routing done", version: 6, headers: []extension{{43, "\x00\x00\x00\x00\x00\x00" + hopA + hopB}}},
	{name: "home address route", version: 6, headers: []extension{{43, "\x02\x01\x00\x00\x00\x00" + hopA}}},
	{
		name: "all headers", version: 6,
		headers: []extension{{0, "\x05\x02\x00\x00"}, {60, "\x3e\x02\x03\x04"}, {43, "\x00\x01\x00\x00\x00\x00" + hopA}, {60, "\x1e\x02\x01\x02"}},
	},
}

// seal returns pkt with AH in it, sealed for transport mode.
func seal(t testing.TB, out *Outbound, pkt []byte, seq uint64) []byte {
	t.Helper()
	dst := make([]byte, len(pkt)+out.HeaderLen(pkt[0]>>4))
	n, next, err := out.Insert(dst, pkt)
	if err != nil || n != len(dst) {
		t.Fatalf("Insert: %d of %d octets, %v", n, len(dst), err)
	}
	if err := out.Seal(dst, seq, next); err != nil {
		t.Fatalf("Seal: %v", err)
	}
	return dst
}

// sealTunnel returns inner behind AH and an outer header of the version.
func sealTunnel(t testing.TB, out *Outbound, version uint8, inner []byte, seq uint64) []byte {
	t.Helper()
	next := packet.ProtocolIPv4
	if inner[0]>>4 == 6 {
		next = packet.ProtocolIPv6
	}
	payload := append(make([]byte, out.HeaderLen(version)), inner...)
	var pkt []byte
	if version == 6 {
		pkt = make6(plain6, payload, packet.ProtocolAH)
	} else {
		pkt = make4(plain4, payload, packet.ProtocolAH)
	}
	if len(pkt) != len(inner)+out.Overhead(ipsec.Tunnel, version) {
		t.Fatalf("overhead of %d octets, want %d", len(pkt)-len(inner), out.Overhead(ipsec.Tunnel, version))
	}
	if err := out.Seal(pkt, seq, next); err != nil {
		t.Fatalf("Seal: %v", err)
	}
	return pkt
}

// travel does to a packet what routers may, until it arrives.
func travel(pkt []byte) []byte { return travelBefore(pkt, len(pkt)) }

// travelBefore changes nothing from the octet end on, where AH covers all.
func travelBefore(pkt []byte, end int) []byte {
	b := bytes.Clone(pkt)
	if b[0]>>4 == 4 {
		b[1] ^= 0xff
		b[6] ^= 0x40 // DF
		b[8] = 3
		for o := b[20 : int(b[0]&0xf)*4]; len(o) > 0 && o[0] != 0; {
			if o[0] == 1 {
				o = o[1:]
				continue
			}
			switch option := o[:o[1]]; option[0] {
			case 0x83, 0x89: // each hop writes its address in, and takes the next
				for i := int(option[2]) - 1; i+4 <= len(option); i += 4 {
					var hop [4]byte
					copy(hop[:], option[i:])
					copy(option[i:], "\x0a\x09\x09\x09")
					copy(b[16:20], hop[:])
					option[2] += 4
				}
			case 0x07, 0x44, 0x52, 0x88, 0x1e:
				for i := range option[2:] {
					option[2+i] ^= 0x55
				}
			}
			o = o[o[1]:]
		}
		resize(b[:int(b[0]&0xf)*4], len(b))
		return b
	}
	b[0], b[1], b[2], b[3], b[7] = 0x6f, 0xff, 0x12, 0x34, 2
	next := b[6]
	for at := 40; at < end && (next == 0 || next == 43 || next == 60); {
		h := b[at : at+8+int(b[at+1])*8]
		if next == 43 {
			for ; h[3] > 0; h[3]-- {
				n := (len(h) - 8) / 16
				a := h[8+(n-int(h[3]))*16:][:16]
				for i := range a {
					a[i], b[24+i] = b[24+i], a[i]
				}
			}
		} else {
			for o := h[2:]; len(o) > 0; {
				if o[0] == 0 {
					o = o[1:]
					continue
				}
				if o[0]&0x20 != 0 {
					for i := range int(o[1]) {
						o[2+i] ^= 0x55
					}
				}
				o = o[2+int(o[1]):]
			}
		}
		next = h[0]
		at += len(h)
	}
	return b
}

func TestTransportRoundTrip(t *testing.T) {
	for _, id := range algorithms {
		for _, s := range shapes {
			out, in := pair(t, id, ipsec.Transport, false)
			for n := range 70 {
				want := s.build(n)
				sealed := seal(t, out, want, uint64(n+1))
				arrived := travel(sealed)
				l, err := locate(sealed)
				if err != nil {
					t.Fatal(err)
				}
				if spi, err := PeekSPI(arrived); err != nil || spi != testSPI {
					t.Fatalf("%s, %s: SPI %s, %v", name(id), s.name, spi, err)
				}
				again := bytes.Clone(arrived)
				got, seq, err := in.Open(arrived)
				if err != nil || seq != uint64(n+1) {
					t.Fatalf("%s, %s, %d octets: seq %d, %v", name(id), s.name, n, seq, err)
				}
				if want := travelBefore(want, l.at); !bytes.Equal(got, want) {
					t.Fatalf("%s, %s:\n%x, want\n%x", name(id), s.name, got, want)
				}
				if _, _, err := in.Open(again); err != drop.Replay {
					t.Fatalf("%s: replay gives %v", name(id), err)
				}
			}
		}
	}
}

func TestTunnelRoundTrip(t *testing.T) {
	for _, id := range algorithms {
		for _, outer := range []uint8{4, 6} {
			for _, esn := range []bool{false, true} {
				out, in := pair(t, id, ipsec.Tunnel, esn)
				seq := uint64(0)
				if esn {
					seq = 1<<32 - 20 // rolls over on the way
					in.window.Update(seq)
				}
				for _, s := range shapes {
					for _, n := range []int{0, 1, 8, 100} {
						seq++
						want := s.build(n)
						got, gotSeq, err := in.Open(travel(sealTunnel(t, out, outer, want, seq)))
						if err != nil || gotSeq != seq || !bytes.Equal(got, want) {
							t.Fatalf("%s in IPv%d, %s: seq %d of %d, %v", name(id), outer, s.name, gotSeq, seq, err)
						}
					}
				}
				if in.Top() != seq {
					t.Errorf("%s: top %d, want %d", name(id), in.Top(), seq)
				}
			}
		}
	}
}

// TestWhatTheICVCovers flips every bit of a packet: those of RFC 4302, Section
// 3.3.3.1, that may change do not matter, and all others do.
func TestWhatTheICVCovers(t *testing.T) {
	alert := shape{name: "alert and record route", version: 4, options: "\x94\x04\x00\x00\x07\x07\x04\x00\x00\x00\x00"}
	options := shape{name: "options", version: 6, headers: []extension{{0, "\x1e\x02\x01\x02\x3e\x02\x03\x04"}}}
	for _, tt := range []struct {
		shape
		mayChange map[int]byte // bits by octet
	}{
		{plain4, map[int]byte{1: 0xff, 6: 0xc0, 8: 0xff, 10: 0xff, 11: 0xff}},
		// A record route is one option, zeroed whole: but its type and length
		// say where it ends.
		{alert, map[int]byte{
			1: 0xff, 6: 0xc0, 8: 0xff, 10: 0xff, 11: 0xff,
			26: 0xff, 27: 0xff, 28: 0xff, 29: 0xff, 30: 0xff,
		}},
		{plain6, map[int]byte{0: 0x0f, 1: 0xff, 2: 0xff, 3: 0xff, 7: 0xff}},
		{options, map[int]byte{0: 0x0f, 1: 0xff, 2: 0xff, 3: 0xff, 7: 0xff, 48: 0xff, 49: 0xff}},
	} {
		out, in := pair(t, ipsec.IntegHMACSHA256128, ipsec.Transport, false)
		pkt := seal(t, out, tt.build(20), 5)
		for bit := range len(pkt) * 8 {
			octet, mask := bit/8, byte(1)<<(bit%8)
			bad := bytes.Clone(pkt)
			bad[octet] ^= mask
			in.window.Init(0)
			_, _, err := in.Open(bad)
			switch covered := tt.mayChange[octet]&mask == 0; {
			case !covered && err != nil:
				t.Errorf("%s: bit %#x of octet %d may change: %v", tt.name, mask, octet, err)
			case covered && tt.shape.version == 4 && octet >= 24 && octet <= 25 && tt.options != "":
				// The type of a mutable option may become that of another.
			case covered && err == nil:
				t.Errorf("%s: bit %#x of octet %d does not matter", tt.name, mask, octet)
			case covered && in.Top() != 0:
				t.Errorf("%s: a forged packet moved the window", tt.name)
			}
		}
		for n := range pkt {
			if _, _, err := in.Open(bytes.Clone(pkt[:n])[:n:n]); err != drop.Short {
				t.Errorf("%s: %d of %d octets: %v", tt.name, n, len(pkt), err)
			}
			if _, err := PeekSPI(pkt[:n:n]); err != drop.Short {
				t.Errorf("%s: an SPI in %d of %d octets", tt.name, n, len(pkt))
			}
		}
		in.window.Init(0)
		if _, _, err := in.Open(append(pkt, "link padding"...)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestHeaderForm is about RFC 4302, Sections 2.2 and 2.6.
func TestHeaderForm(t *testing.T) {
	for _, tt := range []struct {
		id     uint16
		v4, v6 int
	}{
		{ipsec.IntegHMACMD596, 24, 24},
		{ipsec.IntegHMACSHA196, 24, 24},
		{ipsec.IntegHMACSHA256128, 28, 32},
		{ipsec.IntegHMACSHA384192, 36, 40},
		{ipsec.IntegHMACSHA512256, 44, 48},
	} {
		out, _ := pair(t, tt.id, ipsec.Transport, false)
		for version, want := range map[uint8]int{4: tt.v4, 6: tt.v6} {
			pkt := seal(t, out, shape{version: version}.build(9), 0x01020304)
			at := map[uint8]int{4: 20, 6: 40}[version]
			head := pkt[at : at+want]
			if len(pkt) != at+want+9 || out.HeaderLen(version) != want {
				t.Errorf("%s in IPv%d: %d octets of header, want %d", name(tt.id), version, len(pkt)-at-9, want)
			}
			if !bytes.Equal(head[:fixedLen], []byte{17, byte(want/4 - 2), 0, 0, 0xc0, 0xff, 0xee, 1, 1, 2, 3, 4}) {
				t.Errorf("%s: header %x", name(tt.id), head[:fixedLen])
			}
			if !bytes.Equal(head[fixedLen+out.icvLen:], make([]byte, want-fixedLen-out.icvLen)) {
				t.Errorf("%s: padding %x", name(tt.id), head[fixedLen+out.icvLen:])
			}
		}
	}
}

// TestPlaceOfAH is about RFC 4302, Section 3.1.1.
func TestPlaceOfAH(t *testing.T) {
	out, _ := pair(t, ipsec.IntegHMACSHA196, ipsec.Transport, false)
	hop, dest := extension{0, "\x05\x02\x00\x00"}, extension{60, "\x1e\x02\x01\x02"}
	route := extension{43, "\x00\x00\x00\x00\x00\x00" + hopA}
	for _, tt := range []struct {
		name    string
		headers []extension
		at      int
	}{
		{"none", nil, 40},
		{"hop by hop", []extension{hop}, 48},
		{"final destination", []extension{dest}, 40},
		{"hop by hop, final destination", []extension{hop, dest}, 48},
		{"route", []extension{route}, 64},
		{"destinations on the route", []extension{hop, dest, route}, 80},
		{"route, final destination", []extension{route, dest}, 64},
		{"both kinds", []extension{hop, dest, route, dest}, 80},
	} {
		pkt := seal(t, out, shape{version: 6, headers: tt.headers}.build(10), 1)
		if l, err := locate(pkt); err != nil || l.at != tt.at {
			t.Errorf("%s: AH at %d, want %d: %v", tt.name, l.at, tt.at, err)
		}
	}
}

// TestInsertInPlace: where the packet lies at the right distance, its payload is
// not moved, and nothing else is touched.
func TestInsertInPlace(t *testing.T) {
	for _, s := range shapes {
		out, in := pair(t, ipsec.IntegHMACSHA256128, ipsec.Transport, false)
		want := s.build(50)
		room := out.HeaderLen(s.version)
		slab := append(append(make([]byte, room), want...), "behind"...)
		n, next, err := out.Insert(slab, slab[room:room+len(want)])
		if err != nil || string(slab[n:]) != "behind" {
			t.Fatalf("%s: %v, then %q", s.name, err, slab[n:])
		}
		if err := out.Seal(slab[:n], 1, next); err != nil {
			t.Fatal(err)
		}
		l, err := locate(slab[:n])
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err := in.Open(travel(slab[:n])); err != nil || !bytes.Equal(got, travelBefore(want, l.at)) {
			t.Errorf("%s: %v", s.name, err)
		}
	}
}

func TestInsertRefuses(t *testing.T) {
	out, _ := pair(t, ipsec.IntegHMACSHA196, ipsec.Transport, false)
	good := plain4.build(30)
	change := func(b []byte, at int, v ...byte) []byte {
		b = bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	fragment := shape{version: 6, headers: []extension{{44, "\x00\x01\x00\x00\x00\x01"}}}.build(16)
	for _, tt := range []struct {
		name string
		pkt  []byte
		room int
		want error
	}{
		{"nothing", nil, 100, drop.Header},
		{"header cut", good[:19], 100, drop.Header},
		{"packet cut", good[:49], 100, drop.Header},
		{"header length below the least", change(good, 0, 0x44), 100, drop.Header},
		{"total length below the header's", change(good, 2, 0, 19), 100, drop.Header},
		{"version 5", change(good, 0, 0x55), 100, drop.Header},
		{"first fragment", change(good, 6, 0x20), 100, drop.Fragment},
		{"later fragment", change(good, 6, 0x00, 0x01), 100, drop.Fragment},
		{"IPv6 fragment", fragment, 200, drop.Fragment},
		{"IPv6 header cut", fragment[:39], 200, drop.Header},
		{"no room", good, len(good) + 23, drop.Space},
		{"longest packet", change(append(bytes.Clone(good), make([]byte, 65485)...), 2, 0xff, 0xff), 70000, drop.Space},
		{"extension header cut", change(shapes[15].build(0), 41, 9), 200, drop.Header},
	} {
		if n, _, err := out.Insert(make([]byte, tt.room), tt.pkt); err != tt.want || n != 0 {
			t.Errorf("%s: %d, %v, want %v", tt.name, n, err, tt.want)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	out, _ := pair(t, ipsec.IntegHMACSHA196, ipsec.Transport, false)
	ready := func(s shape) []byte {
		pkt := s.build(20)
		dst := make([]byte, len(pkt)+24)
		if _, _, err := out.Insert(dst, pkt); err != nil {
			t.Fatal(err)
		}
		return dst
	}
	option := func(text string) []byte { return ready(shape{version: 4, options: text}) }
	route := func(text string) []byte { return ready(shape{version: 6, headers: []extension{{43, text}}}) }
	for _, tt := range []struct {
		name string
		pkt  []byte
		seq  uint64
		want error
	}{
		{"number 0", ready(plain4), 0, drop.Sequence},
		{"number past the last", ready(plain4), 1 << 32, drop.Sequence},
		{"last number", ready(plain4), math.MaxUint32, nil},
		{"no AH", plain4.build(50), 1, drop.Header},
		{"no AH in IPv6", plain6.build(50), 1, drop.Header},
		{"no room", make4(plain4, make([]byte, 23), packet.ProtocolAH), 1, drop.Short},
		{"option of no length", option("\x94\x00\x00\x00"), 1, drop.Header},
		{"option past the header", option("\x94\x05\x00\x00"), 1, drop.Header},
		{"option without length", option("\x01\x01\x01\x94"), 1, drop.Header},
		{"route without a pointer", option("\x01\x01\x83\x02"), 1, drop.Header},
		{"route of half an address", option("\x83\x05\x04\x0a\x00\x00"), 1, drop.Header},
		{"route that is done", option("\x83\x07\x08\x0a\x00\x00\x01"), 1, nil},
		{"end of options, and rubbish", option("\x00\xff\xff\xff"), 1, nil},
		{"headers longer than we keep", ready(shape{version: 6, headers: []extension{
			{60, string(make([]byte, 350))}, {43, "\x00\x00\x00\x00\x00\x00" + hopA},
		}}), 1, drop.Header},
		{"unknown routing type", route("\x09\x01\x00\x00\x00\x00" + hopA), 1, drop.Header},
		{"unknown routing type, done", route("\x09\x00\x00\x00\x00\x00" + hopA), 1, nil},
		{"more segments than addresses", route("\x00\x02\x00\x00\x00\x00" + hopA), 1, drop.Header},
		{"half an address", route("\x00\x01\x00\x00\x00\x00" + hopA[:8]), 1, drop.Header},
		{"IPv6 option past its header", ready(shape{version: 6, headers: []extension{{0, "\x1e\x05\x00\x00\x00\x00"}}}), 1, drop.Header},
	} {
		if err := out.Seal(tt.pkt, tt.seq, packet.ProtocolUDP); err != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestOpenRefuses what is authentic and yet wrong, and what cannot be.
func TestOpenRefuses(t *testing.T) {
	out, tunnel := pair(t, ipsec.IntegHMACSHA256128, ipsec.Tunnel, false)
	_, transport := pair(t, ipsec.IntegHMACSHA256128, ipsec.Transport, false)
	inner := plain4.build(10)
	wrap := func(next uint8, payload []byte) []byte {
		pkt := make4(plain4, append(make([]byte, out.HeaderLen(4)), payload...), packet.ProtocolAH)
		if err := out.Seal(pkt, 9, next); err != nil {
			t.Fatal(err)
		}
		return pkt
	}
	change := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	underway := seal(t, out, shapes[17].build(10), 9)
	for _, tt := range []struct {
		name string
		in   *Inbound
		pkt  []byte
		want error
	}{
		{"good", tunnel, wrap(4, inner), nil},
		{"followed by rubbish", tunnel, wrap(4, append(bytes.Clone(inner), 1, 2, 3)), nil},
		{"TCP in tunnel mode", tunnel, wrap(6, inner), drop.NextHeader},
		{"IPv4 said to be IPv6", tunnel, wrap(41, inner), drop.NextHeader},
		{"nothing inside", tunnel, wrap(4, nil), drop.NextHeader},
		{"cut inside", tunnel, wrap(4, inner[:29]), drop.Inner},
		{"IPv6 cut inside", tunnel, wrap(41, plain6.build(5)[:44]), drop.Inner},
		{"IP in transport mode", transport, wrap(4, inner), nil},
		{"fragment", transport, change(wrap(17, inner), 6, 0x20), drop.Fragment},
		{"payload length of another algorithm", transport, change(wrap(17, inner), 21, 4), drop.Header},
		{"payload length past the packet", transport, change(wrap(17, inner), 21, 255), drop.Short},
		{"segments left", transport, underway, drop.Header},
		{"no AH", transport, plain4.build(50), drop.Header},
	} {
		tt.in.window.Init(0)
		got, _, err := tt.in.Open(tt.pkt)
		if err != tt.want || (err == nil) != (got != nil) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		authentic := err == nil || errors.Is(err, drop.NextHeader) || errors.Is(err, drop.Inner)
		if (tt.in.Top() == 9) != authentic {
			t.Errorf("%s: top %d", tt.name, tt.in.Top())
		}
	}
}

// TestLinuxPadding: in IPv4 Linux pads AH to 8 octets unless it is told to follow
// RFC 4302, Section 2.6. That is opened too.
func TestLinuxPadding(t *testing.T) {
	out, in := pair(t, ipsec.IntegHMACSHA256128, ipsec.Transport, false)
	pkt := make4(plain4, append(make([]byte, 32), "payload"...), packet.ProtocolAH)
	copy(pkt[20:], []byte{17, 6, 0, 0, 0xc0, 0xff, 0xee, 1, 0, 0, 0, 1})
	l, err := locate(pkt)
	if err != nil {
		t.Fatal(err)
	}
	masked, err := out.mask(pkt, l, true)
	if err != nil {
		t.Fatal(err)
	}
	out.authenticate(masked, pkt, l.at, 1)
	copy(pkt[32:], out.mac.ICV())
	got, _, err := in.Open(pkt)
	if err != nil || !bytes.Equal(got, make4(plain4, []byte("payload"), packet.ProtocolUDP)) {
		t.Errorf("%x, %v", got, err)
	}
}

// TestICVByDefinition computes an ICV as RFC 4302, Section 3.3.3, describes it,
// with the high half of an extended sequence number behind the packet (Section
// 2.5.1).
func TestICVByDefinition(t *testing.T) {
	out, _ := pair(t, ipsec.IntegHMACSHA256128, ipsec.Transport, true)
	pkt := seal(t, out, plain4.build(33), 7<<32|9)
	icv := bytes.Clone(pkt[32:48])
	data := bytes.Clone(pkt)
	for _, i := range []int{1, 6, 7, 8, 10, 11} {
		data[i] = 0
	}
	clear(data[32:48])
	key := make([]byte, 32)
	for i := range key {
		key[i] = 0x80 + byte(i)
	}
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	mac.Write([]byte{0, 0, 0, 7})
	if !bytes.Equal(mac.Sum(nil)[:16], icv) {
		t.Error("the ICV does not cover the packet and the high half")
	}
	for _, id := range algorithms {
		out, in := pair(t, id, ipsec.Transport, true)
		in.window.Update(6 << 32) // infers 6 where the sender had 7
		if _, _, err := in.Open(seal(t, out, plain4.build(60), 7<<32|9)); err != drop.Integrity {
			t.Errorf("%s: wrong high half: %v", name(id), err)
		}
		in.window.Init(64)
		if _, seq, err := in.Open(seal(t, out, plain4.build(60), 0xfffffff0)); err != drop.Replay || seq != 0 {
			t.Errorf("%s: a number before the first: %d, %v", name(id), seq, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*ipsec.SA)
		want   error
	}{
		{"ESP", func(sa *ipsec.SA) { sa.Protocol = ipsec.ESP }, ErrUnsupported},
		{"encryption", func(sa *ipsec.SA) { sa.Encr = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrNull} }, ErrUnsupported},
		{"key for encryption", func(sa *ipsec.SA) { sa.EncrKey = secret.New([]byte{1}) }, ErrUnsupported},
		{"reserved SPI", func(sa *ipsec.SA) { sa.SPI = 255 }, nil},
		{"other direction", func(sa *ipsec.SA) { sa.Direction = 1 - sa.Direction }, nil},
		{"key too short", func(sa *ipsec.SA) { sa.IntegKey = secret.Copy(sa.IntegKey.Bytes()[1:]) }, suite.ErrKeyLength},
		{"no algorithm", func(sa *ipsec.SA) { sa.Integ = ipsec.Transform{} }, suite.ErrUnknown},
		{"unknown algorithm", func(sa *ipsec.SA) { sa.Integ.ID = 9999 }, suite.ErrUnknown},
	} {
		for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
			sa := testSA(t, ipsec.IntegHMACSHA196, ipsec.Tunnel, d)
			tt.change(sa)
			var err error
			if d == ipsec.In {
				_, err = NewInbound(sa)
			} else {
				_, err = NewOutbound(sa)
			}
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%s, %s: %v", tt.name, d, err)
			}
		}
	}
	sa := testSA(t, ipsec.IntegHMACSHA196, ipsec.Tunnel, ipsec.In)
	sa.ReplayWindow = 31
	if _, err := NewInbound(sa); err == nil {
		t.Error("a replay window of 31 is accepted")
	}
	sa.ReplayWindow = 0
	if in, err := NewInbound(sa); err != nil || in.ReplayWindow() != 4096 || in.SPI() != testSPI {
		t.Error("a replay window of 0 is not the default")
	}
}

func TestBatch(t *testing.T) {
	out, in := pair(t, ipsec.IntegHMACSHA256128, ipsec.Transport, false)
	want := plain4.build(60)
	items := make([]SealItem, 4)
	for i := range items {
		dst := make([]byte, len(want)+28)
		_, next, err := out.Insert(dst, want)
		if err != nil {
			t.Fatal(err)
		}
		items[i] = SealItem{Packet: dst, Seq: uint64(i + 1), NextHeader: next}
	}
	items[1].Seq = 0
	out.SealBatch(items)
	for i, it := range items {
		if wantErr := map[bool]error{true: drop.Sequence}[i == 1]; it.Err != wantErr {
			t.Errorf("item %d: %v", i, it.Err)
		}
	}
	open := []OpenItem{
		{Packet: bytes.Clone(items[3].Packet)}, {Packet: items[3].Packet}, {Packet: items[1].Packet}, {Packet: items[0].Packet},
	}
	in.OpenBatch(open)
	for i, wantErr := range []error{nil, drop.Replay, drop.Header, nil} {
		if open[i].Err != wantErr || wantErr == nil && !bytes.Equal(open[i].Inner, want) {
			t.Errorf("item %d: %v", i, open[i].Err)
		}
	}
	if open[0].Seq != 4 || open[3].Seq != 1 {
		t.Errorf("numbers %d and %d", open[0].Seq, open[3].Seq)
	}
}

func TestNoAllocs(t *testing.T) {
	for _, id := range algorithms {
		for _, s := range shapes {
			out, in := pair(t, id, ipsec.Transport, true)
			pkt := s.build(1400)
			slab := make([]byte, len(pkt)+64)
			seq := uint64(0)
			if n := testing.AllocsPerRun(20, func() {
				seq++
				n, next, err := out.Insert(slab, pkt)
				if err != nil {
					t.Fatal(err)
				}
				if err := out.Seal(slab[:n], seq, next); err != nil {
					t.Fatal(err)
				}
				if _, err := PeekSPI(slab[:n]); err != nil {
					t.Fatal(err)
				}
				slab[n-1] ^= 1
				if _, _, err := in.Open(slab[:n]); err == nil {
					t.Fatal("a forged packet passes")
				}
			}); n != 0 {
				t.Errorf("%s, %s: %v allocations", name(id), s.name, n)
			}
		}
	}
}

// FuzzOpen takes raw as a packet, and seals it where it is one.
func FuzzOpen(f *testing.F) {
	out, _ := pair(f, ipsec.IntegHMACSHA256128, ipsec.Transport, false)
	for _, s := range shapes {
		f.Add(s.build(20))
		f.Add(seal(f, out, s.build(20), 1))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, m := range []ipsec.Mode{ipsec.Tunnel, ipsec.Transport} {
			out, in := pair(t, ipsec.IntegHMACSHA256128, m, false)
			if _, _, err := in.Open(bytes.Clone(raw)); err != nil {
				if _, ok := err.(drop.Reason); !ok {
					t.Fatalf("error %v is not a reason", err)
				}
			}
			dst := make([]byte, len(raw)+32)
			n, next, err := out.Insert(dst, raw)
			if err != nil {
				continue
			}
			if err := out.Seal(dst[:n], 1, next); err != nil {
				continue
			}
			if _, err := PeekSPI(dst[:n]); err != nil {
				t.Fatalf("what was sealed has no SPI: %v", err)
			}
			inner, _, err := in.Open(dst[:n])
			if m == ipsec.Transport && err == nil {
				var before, after packet.Info
				before.Decode(raw)
				after.Decode(inner)
				if before.Version != 0 && (before.Protocol != after.Protocol || before.TotalLen != after.TotalLen) {
					t.Fatalf("%+v became %+v", before, after)
				}
			}
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	for _, id := range algorithms {
		for _, size := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("integ=%s/size=%d", name(id), size), func(b *testing.B) {
				out, _ := pair(b, id, ipsec.Transport, false)
				pkt := make4(plain4, make([]byte, size-20), packet.ProtocolAH)
				binary.BigEndian.PutUint32(pkt[24:], uint32(testSPI))
				b.SetBytes(int64(size))
				seq := uint64(0)
				for b.Loop() {
					seq++
					if err := out.Seal(pkt, seq, packet.ProtocolIPv4); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, id := range algorithms {
		for _, size := range []int{64, 512, 1400} {
			b.Run(fmt.Sprintf("integ=%s/size=%d", name(id), size), func(b *testing.B) {
				out, in := pair(b, id, ipsec.Transport, false)
				pkt := seal(b, out, plain4.build(size-20), 1)
				work := make([]byte, len(pkt))
				b.SetBytes(int64(size))
				for b.Loop() {
					copy(work, pkt)
					in.window.Init(0)
					if _, _, err := in.Open(work); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
