package ipsec

import (
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func mustSelector(t testing.TB, s string) Selector {
	t.Helper()
	got, err := ParseSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestParseSelector(t *testing.T) {
	for _, tc := range []struct{ in, out string }{
		{"10.1.0.0/16", "10.1.0.0/16"},
		{"10.1.0.7", "10.1.0.7/32"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"10.1.0.7/32:tcp/80", "10.1.0.7/32:tcp/80"},
		{"10.1.0.7:tcp/80-90", "10.1.0.7/32:tcp/80-90"},
		{"10.1.0.0/24:icmp", "10.1.0.0/24:icmp"},
		{"10.1.0.0/24:47", "10.1.0.0/24:47"},
		{"10.1.0.7/32:icmp/8", "10.1.0.7/32:icmp/8"},
		{"10.1.0.7:icmp/0-8", "10.1.0.7/32:icmp/0-8"},
		{"10.1.0.7:icmp/3.4", "10.1.0.7/32:icmp/3.4"},
		{"10.1.0.7:icmp/3.0-5", "10.1.0.7/32:icmp/3.0-5"},
		{"10.1.0.7:icmp/0-255", "10.1.0.7/32:icmp"},
		{"10.1.0.7:icmp/3.0-255", "10.1.0.7/32:icmp/3"},
		{"[2001:db8::]/64:icmpv6/128-129", "[2001:db8::]/64:icmpv6/128-129"},
		{"10.1.0.1-10.1.0.6", "10.1.0.1-10.1.0.6"},
		{"10.1.0.0-10.1.0.255", "10.1.0.0/24"},
		{"2001:db8::/32", "2001:db8::/32"},
		{"2001:db8::1", "2001:db8::1/128"},
		{"::/0", "::/0"},
		{"[2001:db8::]/64:udp/53", "[2001:db8::]/64:udp/53"},
		{"[2001:db8::1-2001:db8::9]:tcp", "[2001:db8::1-2001:db8::9]:tcp"},
	} {
		got, err := ParseSelector(tc.in)
		if err != nil || got.String() != tc.out {
			t.Errorf("ParseSelector(%q) = %v, %v; want %s", tc.in, got, err, tc.out)
			continue
		}
		if again := mustSelector(t, got.String()); again != got {
			t.Errorf("%s does not read back: %v", got, again)
		}
	}
}

func TestParseSelectorErrors(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"", "neither a prefix nor an address"},
		{"10.1.0.0/33", "neither a prefix nor an address"},
		{"10.1.0.1/16", "did you mean 10.1.0.0/16"},
		{"10.1.0.9-10.1.0.1", "not a range"},
		{"10.1.0.9-2001:db8::1", "not a range"},
		{"::ffff:10.1.0.0/112", "IPv4-mapped"},
		{"10.1.0.0/16:", "protocol is missing"},
		{"10.1.0.0/16:tpc/80", `"tpc" is not a protocol`},
		{"10.1.0.0/16:icmp/256", "neither an ICMP type nor a range"},
		{"10.1.0.0/16:icmp/9-8", "neither an ICMP type nor a range"},
		{"10.1.0.0/16:icmp/3-4.1", "not an ICMP type with a code"},
		{"10.1.0.0/16:icmp/3.", "not an ICMP type with a code"},
		{"10.1.0.0/16:icmp/3.256", "not an ICMP type with a code"},
		{"10.1.0.0/16:gre/1", "not a protocol"},
		{"10.1.0.0/16:47/1", "47 has no ports"},
		{"10.1.0.0/16:tcp/90-80", "neither a port nor a range"},
		{"10.1.0.0/16:tcp/65536", "neither a port nor a range"},
		{"[2001:db8::", "no closing bracket"},
		{"fe80::1%eth0", "neither a prefix nor an address"},
	} {
		if got, err := ParseSelector(tc.in); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("ParseSelector(%q) = %v, %v; want an error with %q", tc.in, got, err, tc.want)
		}
	}
}

// RFC 4301, Section 4.4.1.1: the type is the high octet, the code the low one.
func TestICMPSelectors(t *testing.T) {
	for text, want := range map[string][2]uint16{
		"10.1.0.7:icmp/8":     {0x0800, 0x08ff},
		"10.1.0.7:icmp/3.4":   {0x0304, 0x0304},
		"10.1.0.7:icmp/3.0-5": {0x0300, 0x0305},
		"10.1.0.7:icmp/8-13":  {0x0800, 0x0dff},
		"10.1.0.7:icmp":       {0, 0xffff},
	} {
		s := mustSelector(t, text)
		if s.FirstPort != want[0] || s.LastPort != want[1] {
			t.Errorf("%s is %04x to %04x", text, s.FirstPort, s.LastPort)
		}
	}
	odd := mustSelector(t, "10.1.0.7:icmp")
	odd.FirstPort, odd.LastPort = 0x0304, 0x0805
	if got := odd.String(); got != "10.1.0.7/32:icmp/3.4-8.5" {
		t.Errorf("what a peer may say is printed %s", got)
	}
}

func TestSelectorContains(t *testing.T) {
	web := mustSelector(t, "10.1.0.0/24:tcp/80-81")
	any4 := mustSelector(t, "0.0.0.0/0")
	for _, tc := range []struct {
		s       Selector
		addr    string
		proto   uint8
		port    uint16
		hasPort bool
		want    bool
	}{
		{web, "10.1.0.9", 6, 80, true, true},
		{web, "10.1.0.9", 6, 82, true, false},
		{web, "10.1.0.9", 17, 80, true, false},
		{web, "10.1.1.9", 6, 80, true, false},
		{web, "10.1.0.9", 6, 0, false, false}, // a later fragment must not slip through
		{any4, "10.1.0.9", 6, 0, false, true},
		{any4, "2001:db8::1", 6, 80, true, false},
	} {
		if got := tc.s.Contains(netip.MustParseAddr(tc.addr), tc.proto, tc.port, tc.hasPort); got != tc.want {
			t.Errorf("%s.Contains(%s, %d, %d, %t) = %t", tc.s, tc.addr, tc.proto, tc.port, tc.hasPort, got)
		}
	}
}

// Intersect and Covers against the definition, point by point, in a small world.
func TestIntersectAgainstDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	addr := func(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}) }
	random := func() Selector {
		a, b, p, q := r.IntN(6), r.IntN(6), r.IntN(4), r.IntN(4)
		s := Selector{
			First: addr(min(a, b)), Last: addr(max(a, b)), Protocol: []uint8{0, 6, 17}[r.IntN(3)],
			FirstPort: uint16(min(p, q)), LastPort: uint16(max(p, q)),
		}
		if r.IntN(3) == 0 {
			s.FirstPort, s.LastPort = 0, 0xffff
		}
		return s
	}
	for range 2000 {
		s, o := random(), random()
		got, ok := s.Intersect(o)
		nonEmpty, covered := false, true
		for a := range 6 {
			for _, proto := range []uint8{6, 17, 47} {
				for port := range uint16(5) {
					inS := s.Contains(addr(a), proto, port, true)
					inO := o.Contains(addr(a), proto, port, true)
					nonEmpty = nonEmpty || inS && inO
					covered = covered && (!inO || inS)
					if ok && got.Contains(addr(a), proto, port, true) != (inS && inO) {
						t.Fatalf("%v ∩ %v = %v is wrong at %v/%d/%d", s, o, got, addr(a), proto, port)
					}
				}
			}
		}
		if nonEmpty && !ok {
			t.Fatalf("%v ∩ %v: found nothing", s, o)
		}
		if s.Covers(o) && !covered {
			t.Fatalf("%v does not cover %v", s, o)
		}
	}
}

func TestPrefixesCoverExactly(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"10.1.0.0/16", "[10.1.0.0/16]"},
		{"10.0.0.1-10.0.0.6", "[10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32]"},
		{"0.0.0.0-255.255.255.255", "[0.0.0.0/0]"},
		{"255.255.255.254-255.255.255.255", "[255.255.255.254/31]"},
		{"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "[::/0]"},
	} {
		got := "["
		for i, p := range mustSelector(t, tc.in).Prefixes() {
			if i > 0 {
				got += " "
			}
			got += p.String()
		}
		if got += "]"; got != tc.want {
			t.Errorf("%s: prefixes %s, want %s", tc.in, got, tc.want)
		}
	}
}

func TestVocabularyAsText(t *testing.T) {
	type all struct {
		SPI       SPI
		Protocol  Protocol
		Mode      Mode
		Direction Direction
		Action    Action
		Selector  Selector
	}
	in := all{0xc0ffee01, AH, Transport, Out, Protect, mustSelector(t, "10.1.0.0/16:udp/53")}
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"SPI":"c0ffee01","Protocol":"ah","Mode":"transport","Direction":"out","Action":"protect","Selector":"10.1.0.0/16:udp/53"}`
	if string(b) != want {
		t.Errorf("marshalled\n%s, want\n%s", b, want)
	}
	var out all
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("read back %+v, %v", out, err)
	}
}

func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{"10.1.0.7/32:tcp/80", "[2001:db8::]/64:udp/53", "10.0.0.1-10.0.0.6", "::/0", "10.1.0.0/16:"} {
		for i := range len(s) + 1 {
			f.Add(s[:i])
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelector(text)
		if err != nil {
			return
		}
		if !s.IsValid() {
			t.Fatalf("%q gave an invalid selector", text)
		}
		if again, err := ParseSelector(s.String()); err != nil || again != s {
			t.Fatalf("%q printed as %q, read back as %v, %v", text, s, again, err)
		}
	})
}

func TestRate(t *testing.T) {
	for text, want := range map[string]Rate{"8k": 8, "64k": 64, "10M": 10_000, "100G": 100_000_000} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); got != want || err != nil || got.Bits() != uint64(want)*1000 || got.String() != text {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "k", "7k", "8", "8000", "101G", "1T", "-1M", "1.5M", "4294967295G", "10 M"} {
		var got Rate
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
