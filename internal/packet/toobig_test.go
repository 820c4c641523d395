package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// tooBig makes the ICMP message about b that says mtu.
func tooBig(t testing.TB, b []byte, mtu int) ([]byte, Info) {
	t.Helper()
	var p Info
	p.Decode(b)
	dst := make([]byte, TooBigLen)
	n, ok := PutTooBig(dst, b, &p, mtu)
	if !ok {
		t.Fatalf("no message about %+v", p)
	}
	return dst[:n], p
}

func TestTooBigRoundTrip(t *testing.T) {
	for _, f := range testFlows() {
		b := f.long(1400)
		m, p := tooBig(t, b, 1300)
		got, ok := ParseTooBig(m, p.Version)
		if !ok {
			t.Fatalf("%+v: not read", p)
		}
		if got.MTU != 1300 || got.Src != p.Src || got.Dst != p.Dst || got.Protocol != p.Protocol || got.Len != len(b) {
			t.Errorf("read %+v of %+v", got, p)
		}
		if p.Protocol == ProtocolUDP && (got.SrcPort != p.SrcPort || got.DstPort != p.DstPort) {
			t.Errorf("ports %d and %d", got.SrcPort, got.DstPort)
		}
		if !bytes.HasPrefix(b[p.HeaderLen:], got.Payload) && !bytes.HasPrefix(b[p.HeaderLen+UDPHeaderLen:], got.Payload) {
			t.Errorf("%+v: payload % x", p, got.Payload[:20])
		}
		for n := range len(m) {
			if x, ok := ParseTooBig(m[:n], p.Version); ok && (p.Version == 4 || n < 48 || x.Len != len(b)) {
				t.Errorf("%+v: read of %d octets: %+v", p, n, x)
			}
		}
		if p.Version == 4 {
			m[20] ^= 1
			if _, ok := ParseTooBig(m, 4); ok {
				t.Error("damage was not noticed")
			}
		}
	}
}

func TestTooBigEffective(t *testing.T) {
	v4, v6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	for _, tt := range []struct {
		dst       netip.Addr
		mtu, size int
		want      int
	}{
		{v4, 1400, 1500, 1400},
		{v4, 1500, 1500, 0}, // it would have passed
		{v4, 9000, 1500, 0},
		{v4, 68, 1500, 552},
		{v4, 68, 552, 0},
		{v4, 0, 1500, 1492},
		{v4, 0, 1492, 1006},
		{v4, 0, 900, 552},
		{v6, 1400, 1500, 1400},
		{v6, 600, 1500, 1280}, // RFC 8201, Section 4
		{v6, 600, 1280, 0},
		{v6, 1 << 20, 1500, 0},
	} {
		m := TooBig{MTU: tt.mtu, Dst: tt.dst, Len: tt.size}
		if got := m.Effective(); got != tt.want {
			t.Errorf("%d of a packet of %d octets to %s: %d, want %d", tt.mtu, tt.size, tt.dst, got, tt.want)
		}
	}
}

// RFC 1812, Section 4.3.2.7, and RFC 4443, Section 2.4 (e).
func TestTooBigIsNotSaidToAll(t *testing.T) {
	v4, v6 := *testFlows()[1], *testFlows()[3]
	icmp := func(f flow, protocol, kind uint8) []byte {
		b := f.long(1400)
		var p Info
		p.Decode(b)
		if p.Version == 4 {
			b[9] = protocol
		} else {
			b[6] = protocol
		}
		b[p.HeaderLen] = kind
		return b
	}
	changed := func(f flow, change func(*flow)) []byte { change(&f); return f.long(1400) }
	later := fragments(t, v4.long(3000), 1000)[1]
	for name, tt := range map[string]struct {
		b  []byte
		ok bool
	}{
		"IPv4":                     {v4.long(1400), true},
		"IPv6":                     {v6.long(1400), true},
		"a ping":                   {icmp(v4, ProtocolICMP, 8), true},
		"an ICMP error":            {icmp(v4, ProtocolICMP, 3), false},
		"an IPv6 ping":             {icmp(v6, ProtocolICMPv6, 128), true},
		"an ICMPv6 error":          {icmp(v6, ProtocolICMPv6, 1), false},
		"a later fragment":         {later, false},
		"from nowhere":             {changed(v4, func(f *flow) { f.src = netip.IPv4Unspecified() }), false},
		"from a group":             {changed(v6, func(f *flow) { f.src = netip.MustParseAddr("ff02::1") }), false},
		"to a group":               {changed(v4, func(f *flow) { f.dst = netip.MustParseAddr("224.0.0.1") }), false},
		"to a group of IPv6 hosts": {changed(v6, func(f *flow) { f.dst = netip.MustParseAddr("ff0e::1") }), true},
	} {
		var p Info
		p.Decode(tt.b)
		if _, ok := PutTooBig(make([]byte, TooBigLen), tt.b, &p, 1300); ok != tt.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
}

func FuzzParseTooBig(f *testing.F) {
	for _, x := range testFlows() {
		m, p := tooBig(f, x.long(1400), 1300)
		f.Add(m, p.Version)
	}
	f.Fuzz(func(t *testing.T, b []byte, version uint8) {
		if version != 4 {
			version = 6
		} else if len(b) >= 8 { // get past the checksum
			b[2], b[3] = 0, 0
			binary.BigEndian.PutUint16(b[2:], Checksum(b))
		}
		m, ok := ParseTooBig(b, version)
		if !ok {
			return
		}
		if mtu := m.Effective(); mtu != 0 && (mtu < MinMTU4 || mtu >= m.Len || version == 6 && mtu < MinMTU6) {
			t.Fatalf("%+v: path MTU %d", m, mtu)
		}
	})
}
