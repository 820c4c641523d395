package afxdp

import (
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/netio/frame"
	"caponier/internal/netio/frame/frametest"
)

// listed are the SAs that the tests admit, and that some of the frames ask for.
var listed = map[frame.SA]bool{
	{Protocol: ipsec.ESP, SPI: 0x100}:      true,
	{Protocol: ipsec.ESP, SPI: 0xfffffffe}: true,
	{Protocol: ipsec.AH, SPI: 0x200}:       true,
}

// sealed are frames that ask for an SA by all ways that there are.
func (l pair) sealed(protocol ipsec.Protocol, spi uint32) map[string][]byte {
	b := []byte{byte(spi >> 24), byte(spi >> 16), byte(spi >> 8), byte(spi), 0, 0, 0, 1}
	if protocol == ipsec.AH {
		b = append([]byte{50, 4, 0, 0}, b...)
		return map[string][]byte{
			"AH":           l.Framed(frametest.To("192.0.2.1", 51, 64, b...)),
			"AH over IPv6": l.Framed(frametest.To("2001:db8::1", 51, 64, b...), 9),
		}
	}
	return map[string][]byte{
		"ESP":                  l.Framed(frametest.To("192.0.2.1", 50, 64, b...)),
		"ESP over IPv6":        l.Framed(frametest.To("2001:db8::1", 50, 64, b...)),
		"ESP in UDP":           l.Framed(frametest.To("192.0.2.1", 17, 64, frametest.UDP(4500, b...)...)),
		"ESP in UDP over IPv6": l.Framed(frametest.To("2001:db8::1", 17, 64, frametest.UDP(4500, b...)...), 10),
	}
}

// sifted is what the program is to do while it sifts.
func (l pair) sifted(p *port, b []byte) uint32 {
	want := l.wants(p, b)
	if sa, asks := rule.Asks(l.MAC[0], p.tagged, b); want == xdpRedirect && asks && !listed[sa] {
		return xdpDrop
	}
	return want
}

// The program drops what asks for an SA that was not admitted, and treats everything
// else, each beginning of it, and what random changes make of it, as without.
func TestProgramSifts(t *testing.T) {
	l := newPair(t)
	l.stripVLAN(false)
	c := l.capture(Options{}, rule)
	p := c.ports[0]
	frames := l.Frames()
	for name, b := range l.sealed(ipsec.ESP, 0x100) {
		if verdict(t, p.program, b) != xdpRedirect {
			t.Errorf("%s: dropped before anybody asked for it", name)
		}
		frames[name+" of an SA"] = b
	}
	for sa := range listed {
		l.Must(c.Admit(sa))
	}
	l.Must(c.Sift(true))
	for i, x := range []struct {
		protocol ipsec.Protocol
		spi      uint32
	}{
		{ipsec.ESP, 0xfffffffe},
		{ipsec.AH, 0x200},
		{ipsec.ESP, 0x200},
		{ipsec.AH, 0x100},
		{ipsec.ESP, 0x10000},
		{ipsec.ESP, 255},
		{ipsec.ESP, 1},
		{ipsec.AH, 0},
		{ipsec.ESP, 0x101},
	} {
		for name, b := range l.sealed(x.protocol, x.spi) {
			frames[name+string(rune('a'+i))] = b
		}
	}
	dice := rand.New(rand.NewPCG(3, 4))
	seen := make(map[uint32]int)
	for name, b := range frames {
		seen[verdict(t, p.program, b)]++
		for n := shortest; n <= min(len(b), 96); n++ {
			if got, want := verdict(t, p.program, b[:n]), l.sifted(p, b[:n]); got != want {
				t.Errorf("%s, %d octets of %d: verdict %d, want %d", name, n, len(b), got, want)
			}
		}
		for range 50 {
			x := slices.Clone(b)
			x[12+dice.IntN(min(len(x), 80)-12)] = byte(dice.Uint32())
			if got, want := verdict(t, p.program, x), l.sifted(p, x); got != want {
				t.Errorf("%x: verdict %d, want %d", x, got, want)
			}
		}
	}
	for _, v := range []uint32{xdpDrop, xdpPass, xdpRedirect} {
		if seen[v] < 10 {
			t.Errorf("only %d frames have the verdict %d", seen[v], v)
		}
	}
}

// What is dropped is counted as the data plane counts it, and SAs come and go.
func TestSiftFollows(t *testing.T) {
	l := newPair(t)
	l.stripVLAN(false)
	c := l.capture(Options{}, rule)
	p := c.ports[0]
	sa := frame.SA{Protocol: ipsec.ESP, SPI: 0x12345678}
	see := func(when string, spi uint32, want uint32) {
		t.Helper()
		for name, b := range l.sealed(ipsec.ESP, spi) {
			if got := verdict(t, p.program, b); got != want {
				t.Errorf("%s: verdict on %s %d, want %d", when, name, got, want)
			}
		}
	}
	count := func(noSA, reserved uint64) {
		t.Helper()
		if n := c.Counters(); n["sa-not-found"] != noSA || n["reserved-spi"] != reserved {
			t.Errorf("counters %v, want %d and %d", n, noSA, reserved)
		}
	}
	see("at first", 0x12345678, xdpRedirect)
	count(0, 0)
	l.Must(c.Sift(true))
	see("sifting", 0x12345678, xdpDrop)
	see("sifting", 255, xdpDrop)
	count(4, 4)
	l.Must(c.Admit(sa))
	see("admitted", 0x12345678, xdpRedirect)
	see("its octets turned around", 0x78563412, xdpDrop)
	c.Dismiss(sa)
	see("dismissed", 0x12345678, xdpDrop)
	l.Must(c.Sift(false))
	see("no longer sifting", 0x12345678, xdpRedirect)
	l.Must(c.Close())
	l.Must(c.Admit(sa))
	c.Dismiss(sa)
	if err := c.Sift(true); err != net.ErrClosed {
		t.Errorf("sift after the end: %v", err)
	}
}

// An SA that finds no room is not shut out: nothing is dropped until it has some.
func TestSieveIsFull(t *testing.T) {
	r, err := newRules(3)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	s := newSieve(&r)
	if err := s.sift(true); err != nil {
		t.Fatal(err)
	}
	sifts := func(when string, want bool) {
		t.Helper()
		var word uint32
		if err := r.words.Lookup(wordSift, &word); err != nil || (word == 1) != want || s.on != want {
			t.Errorf("%s: sifting is %d, %v", when, word, err)
		}
	}
	there := make(map[frame.SA]bool)
	admit := func(i int) error {
		sa := frame.SA{Protocol: ipsec.ESP, SPI: ipsec.SPI(1000 + i)}
		there[sa] = true
		return s.admit(sa)
	}
	dismiss := func(sa frame.SA) {
		delete(there, sa)
		s.dismiss(sa)
	}
	for i := range 3 {
		if err := admit(i); err != nil {
			t.Fatal(err)
		}
	}
	sifts("full", true)
	if err := admit(3); err == nil || !strings.Contains(err.Error(), "list the SA") {
		t.Errorf("an SA too many: %v", err)
	}
	if err := admit(4); err != nil || s.noRoom != 2 {
		t.Errorf("another: %v, %d times no room", err, s.noRoom)
	}
	sifts("two too many", false)
	dismiss(frame.SA{Protocol: ipsec.ESP, SPI: 1000})
	sifts("one too many", false)
	dismiss(slices.Collect(maps.Keys(s.outside))[0])
	sifts("none too many", true)
	for sa := range there {
		var one uint8
		if err := r.sas.Lookup(saKey(sa), &one); err != nil {
			t.Errorf("%+v is not there: %v", sa, err)
		}
		dismiss(sa)
	}
	if len(there) != 0 || len(s.outside) != 0 {
		t.Errorf("left: %v and %v", there, s.outside)
	}
	var key [saKeyLen]byte
	if err := r.sas.NextKey(nil, &key); err == nil {
		t.Errorf("an entry is left: %x", key)
	}
}

// TestManySAs lists as many SAs as a gateway may have.
func TestManySAs(t *testing.T) {
	r, err := newRules(maxSAs)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	s := newSieve(&r)
	for i := range uint32(maxSAs) {
		if err := s.admit(frame.SA{Protocol: ipsec.ESP, SPI: ipsec.SPI(i*0x9e3779b1 | 256)}); err != nil {
			t.Fatalf("SA %d: %v", i, err)
		}
	}
}
