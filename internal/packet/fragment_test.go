package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// python is the interpreter for which the system's packages are installed; another
// one may come first in PATH.
const python = "/usr/bin/python3"

type scapyCase struct {
	Packet    string   `json:"packet"`
	MTU       int      `json:"mtu,omitempty"`
	Fragments []string `json:"fragments,omitempty"`
}

type scapyAnswer struct {
	Fragments []string `json:"fragments"`
	Whole     string   `json:"whole"`
	Checksum  bool     `json:"checksum"`
}

// scapy has all cases judged by one process.
func scapy(t *testing.T, cases []scapyCase) (answers []scapyAnswer) {
	t.Helper()
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("testdata", "scapy_fragments.py"))
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scapy (package python3-scapy) is needed as a judge: %v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(out, &answers); err != nil || len(answers) != len(cases) {
		t.Fatalf("scapy gave %d answers for %d cases: %v", len(answers), len(cases), err)
	}
	return answers
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// long makes a packet of the flow with n octets of payload that differ.
func (f *flow) long(n int) []byte {
	payload := make([]byte, n)
	for i := range payload {
		payload[i] = byte(i * 7 >> 3)
	}
	b := f.make(payload, tcpACK)
	if f.src.Is4() {
		b[6] &^= 0x40 // may be fragmented
		b[ipv4ChecksumAt], b[ipv4ChecksumAt+1] = 0, 0
		binary.BigEndian.PutUint16(b[ipv4ChecksumAt:], Checksum(b[:int(b[0]&15)*4]))
	}
	return b
}

// fragments cuts b.
func fragments(t testing.TB, b []byte, mtu int) (out [][]byte) {
	t.Helper()
	var p Info
	var f Fragmenter
	if p.Decode(b); p.Version == 0 {
		t.Fatal("not a packet")
	}
	n, ok := f.Start(b, &p, mtu, 7)
	if !ok {
		t.Fatalf("cannot cut a packet of %d octets to %d", len(b), mtu)
	}
	dst := make([]byte, mtu)
	for m := f.Next(dst); m > 0; m = f.Next(dst) {
		out = append(out, slices.Clone(dst[:m]))
	}
	if len(out) != n {
		t.Fatalf("%d fragments, said were %d", len(out), n)
	}
	return out
}

// reassemble gives fragments to r and returns the packets that come out.
func reassemble(r *Reassembler, now time.Time, list [][]byte) (out [][]byte, last ReassemblyDrop) {
	var p Info
	for _, b := range list {
		p.Decode(b)
		whole, drop := r.Add(now, b, &p)
		if whole != nil {
			out = append(out, slices.Clone(whole))
		}
		last = drop
	}
	return out, last
}

var longAgo = time.Unix(1_000_000_000, 0)

func TestFragmentsMakeThePacketAgain(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for i, f := range testFlows() {
		for _, size := range []int{1, 8, 1400, 5000, 65000} {
			for _, mtu := range []int{76, 576, 1280, 1491, 1500} {
				b := f.long(size)
				r := NewReassembler(ReassemblyLimits{Datagrams: 10, PerSource: 10, Octets: 1 << 20, Fragments: 10000, Timeout: time.Minute})
				list := fragments(t, b, mtu)
				for j, x := range list {
					var p Info
					if p.Decode(x); p.Version == 0 || p.TotalLen != len(x) || len(x) > mtu {
						t.Fatalf("fragment %d: %+v", j, p)
					}
					if p.Version == 4 && Checksum(x[:int(x[0]&15)*4]) != 0 {
						t.Fatal("wrong header checksum")
					}
				}
				if len(list) == 1 && f.src.Is4() {
					if !bytes.Equal(list[0], b) {
						t.Fatal("a packet that needs no cutting differs")
					}
					continue
				}
				rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
				got, _ := reassemble(r, longAgo, list)
				if len(got) != 1 || !bytes.Equal(got[0], b) {
					t.Fatalf("flow %d, %d octets, MTU %d: %d packets, or others", i, size, mtu, len(got))
				}
				if r.Pending() != 0 || r.octets != 0 || len(r.source) != 0 {
					t.Fatalf("%d datagrams and %d octets are left", r.Pending(), r.octets)
				}
			}
		}
	}
}

// A router cuts fragments again.
func TestFragmentsOfFragments(t *testing.T) {
	for _, f := range testFlows() {
		if !f.src.Is4() {
			continue
		}
		b := f.long(4000)
		var list [][]byte
		for _, x := range fragments(t, b, 1500) {
			list = append(list, fragments(t, x, 576)...)
		}
		slices.Reverse(list)
		if got, _ := reassemble(NewReassembler(DefaultReassemblyLimits()), longAgo, list); len(got) != 1 || !bytes.Equal(got[0], b) {
			t.Errorf("%+v: %d packets, or others", f, len(got))
		}
	}
}

func TestFragmentsAgainstScapy(t *testing.T) {
	var cases []scapyCase
	var packets [][]byte
	for _, f := range testFlows() {
		if f.ipOptions != 0 {
			continue // scapy copies all options to all fragments
		}
		for _, size := range []int{1400, 3000, 8000} {
			for _, mtu := range []int{576, 1280, 1500} {
				b := f.long(size)
				c := scapyCase{Packet: hex.EncodeToString(b), MTU: mtu}
				for _, x := range fragments(t, b, mtu) {
					c.Fragments = append(c.Fragments, hex.EncodeToString(x))
				}
				cases, packets = append(cases, c), append(packets, b)
			}
		}
	}
	for i, a := range scapy(t, cases) {
		name := fmt.Sprintf("IPv%d, %d octets, MTU %d", packets[i][0]>>4, len(packets[i]), cases[i].MTU)
		if a.Whole != cases[i].Packet {
			t.Errorf("%s: scapy makes another packet of our fragments", name)
		}
		var theirs [][]byte
		for _, x := range a.Fragments {
			theirs = append(theirs, unhex(t, x))
		}
		if len(theirs) == 1 && packets[i][0]>>4 == 4 {
			continue
		}
		slices.Reverse(theirs)
		if got, _ := reassemble(NewReassembler(DefaultReassemblyLimits()), longAgo, theirs); len(got) != 1 || !bytes.Equal(got[0], packets[i]) {
			t.Errorf("%s: we make %d packets of scapy's %d fragments, or another", name, len(got), len(theirs))
		}
	}
}

// RFC 791, Section 3.1: of the options, only those with the copied flag stand in
// later fragments.
func TestFragmentOptions(t *testing.T) {
	f := *testFlows()[0]
	f.ipOptions = 16
	b := f.long(1000)
	copy(b[IPv4HeaderLen:], []byte{1, 0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0}) // router alert is copied, a recorded route not
	b[ipv4ChecksumAt], b[ipv4ChecksumAt+1] = 0, 0
	binary.BigEndian.PutUint16(b[ipv4ChecksumAt:], Checksum(b[:36]))
	list := fragments(t, b, 300)
	if list[0][0] != 0x49 || !bytes.Equal(list[0][20:36], b[20:36]) {
		t.Errorf("first fragment: % x", list[0][:36])
	}
	for _, x := range list[1:] {
		if x[0] != 0x46 || !bytes.Equal(x[20:24], []byte{0x94, 4, 0, 0}) {
			t.Errorf("later fragment: % x", x[:28])
		}
	}
	got, _ := reassemble(NewReassembler(DefaultReassemblyLimits()), longAgo, list)
	if len(got) != 1 || !bytes.Equal(got[0], b) {
		t.Error("not the same packet")
	}
}

// part makes a fragment of an IPv6 packet, or with four of IPv4.
func part(version, from, to int, more bool, id uint32, ecn uint8, fill byte) []byte {
	f := testFlows()[3]
	if version == 4 {
		f = testFlows()[1]
	}
	ipLen := IPv6HeaderLen + fragmentHeaderLen
	if version == 4 {
		ipLen = IPv4HeaderLen
	}
	b := make([]byte, ipLen+to-from)
	for i := range b[ipLen:] {
		b[ipLen+i] = fill
	}
	field := uint16(from)
	if more {
		field |= 1
	}
	if version == 4 {
		PutIPv4(b, &IPv4Header{Src: f.src, Dst: f.dst, TotalLen: len(b), ID: uint16(id), TTL: 9, Protocol: ProtocolUDP, TrafficClass: ecn})
		field = uint16(from / 8)
		if more {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(b[6:], field)
		return b
	}
	PutIPv6(b, &IPv6Header{Src: f.src, Dst: f.dst, PayloadLen: len(b) - IPv6HeaderLen, NextHeader: ProtocolFragment, HopLimit: 9, TrafficClass: ecn})
	b[40] = ProtocolUDP
	binary.BigEndian.PutUint16(b[42:], field)
	binary.BigEndian.PutUint32(b[44:], id)
	return b
}

func TestReassemblyRefuses(t *testing.T) {
	for _, v := range []int{4, 6} {
		p := func(from, to int, more bool) []byte { return part(v, from, to, more, 9, 0, 1) }
		for name, tt := range map[string]struct {
			list [][]byte
			why  ReassemblyDrop
		}{
			"overlapping tail":      {[][]byte{p(0, 16, true), p(8, 24, true), p(24, 32, false)}, FragmentOverlap},
			"overlapping head":      {[][]byte{p(16, 32, false), p(0, 24, true)}, FragmentOverlap},
			"covering":              {[][]byte{p(8, 16, true), p(0, 24, true), p(24, 32, false)}, FragmentOverlap},
			"inside, other content": {[][]byte{p(0, 32, true), part(v, 8, 16, true, 9, 0, 2), p(32, 40, false)}, FragmentOverlap},
			"two ends":              {[][]byte{p(8, 16, false), p(8, 24, false), p(0, 8, true)}, FragmentOverlap},
			"past the end":          {[][]byte{p(8, 16, false), p(16, 24, true), p(0, 8, true)}, FragmentOverlap},
			"end before the rest":   {[][]byte{p(24, 32, true), p(8, 20, false)}, FragmentOverlap},
			"half a unit":           {[][]byte{p(0, 12, true)}, FragmentMalformed},
			"empty":                 {[][]byte{p(8, 8, true)}, FragmentMalformed},
			"too long":              {[][]byte{p(65528, 65528+100, false)}, FragmentMalformed},
			"ECN":                   {[][]byte{part(v, 0, 8, true, 9, CE, 1), part(v, 8, 16, false, 9, NotECT, 1)}, FragmentECN},
		} {
			r := NewReassembler(DefaultReassemblyLimits())
			got, why := reassemble(r, longAgo, tt.list)
			if len(got) != 0 || why != tt.why || r.Drops(why) == 0 {
				t.Errorf("IPv%d, %s: %d packets, %s, want %s", v, name, len(got), why.Name(), tt.why.Name())
			}
		}
	}
}

func TestReassemblyTakes(t *testing.T) {
	for _, v := range []int{4, 6} {
		p := func(from, to int, more bool, ecn uint8) []byte { return part(v, from, to, more, 9, ecn, 1) }
		for name, tt := range map[string]struct {
			list [][]byte
			ecn  uint8
		}{
			"repeated":           {[][]byte{p(0, 16, true, 0), p(0, 16, true, 0), p(8, 16, true, 0), p(16, 24, false, 0)}, 0},
			"repeated last":      {[][]byte{p(16, 24, false, 0), p(16, 24, false, 0), p(0, 16, true, 0)}, 0},
			"congestion":         {[][]byte{p(0, 16, true, ECT0), p(16, 24, false, CE)}, CE},
			"congestion at once": {[][]byte{p(0, 16, true, CE), p(16, 24, false, ECT0)}, CE},
		} {
			got, _ := reassemble(NewReassembler(DefaultReassemblyLimits()), longAgo, tt.list)
			if len(got) != 1 {
				t.Errorf("IPv%d, %s: %d packets", v, name, len(got))
				continue
			}
			var info Info
			if info.Decode(got[0]); info.TotalLen-info.HeaderLen != 24 || info.IsFragment() || info.TrafficClass != tt.ecn {
				t.Errorf("IPv%d, %s: %+v", v, name, info)
			}
		}
	}
	// RFC 6946: an atomic fragment is a packet, whatever else has its identification.
	r := NewReassembler(DefaultReassemblyLimits())
	got, _ := reassemble(r, longAgo, [][]byte{part(6, 0, 16, true, 9, 0, 1), part(6, 0, 30, false, 9, 2, 5)})
	var info Info
	if len(got) != 1 || r.Pending() != 1 {
		t.Fatalf("atomic fragment: %d packets", len(got))
	}
	if info.Decode(got[0]); info.Protocol != ProtocolUDP || info.HeaderLen != IPv6HeaderLen || info.TotalLen != 70 || info.TrafficClass != 2 {
		t.Errorf("atomic fragment: %+v", info)
	}
}

func TestReassemblyHasBounds(t *testing.T) {
	limits := ReassemblyLimits{Datagrams: 20, PerSource: 10, Octets: 50_000, Fragments: 4, Timeout: 30 * time.Second}
	r := NewReassembler(limits)
	check := func() {
		t.Helper()
		if r.Pending() > limits.Datagrams || r.octets > limits.Octets {
			t.Fatalf("%d datagrams with %d octets", r.Pending(), r.octets)
		}
	}
	for id := range uint32(1000) {
		for _, v := range []int{4, 6} {
			reassemble(r, longAgo, [][]byte{part(v, 8*int(id%500), 8*int(id%500)+800, true, id, 0, 1)})
			check()
		}
	}
	if r.Drops(FragmentEvicted) < 1900 || r.Pending() == 0 {
		t.Errorf("%d evicted, %d pending", r.Drops(FragmentEvicted), r.Pending())
	}
	// One source does not take the place of others.
	if len(r.source) != 2 {
		t.Errorf("fragments of %d sources wait, want 2", len(r.source))
	}
	// Too many holes.
	r = NewReassembler(limits)
	var list [][]byte
	for i := range 6 {
		list = append(list, part(4, 16*i, 16*i+8, true, 3, 0, 1))
	}
	if got, why := reassemble(r, longAgo, list[:5]); len(got) != 0 || why != FragmentTooMany {
		t.Errorf("holes: %s", why.Name())
	}
	// What was given up swallows what follows, and then its time is over.
	if _, why := reassemble(r, longAgo.Add(29*time.Second), list[5:]); why != FragmentOverlap || r.Pending() != 1 {
		t.Errorf("after it was given up: %s", why.Name())
	}
	reassemble(r, longAgo.Add(29*time.Second), [][]byte{part(4, 0, 8, true, 4, 0, 1)})
	r.Expire(longAgo.Add(30 * time.Second))
	if r.Pending() != 1 || r.Drops(FragmentLate) != 0 {
		t.Errorf("after 30 s: %d pending, %d late", r.Pending(), r.Drops(FragmentLate))
	}
	r.Expire(longAgo.Add(59 * time.Second))
	if r.Pending() != 0 || r.Drops(FragmentLate) != 1 {
		t.Errorf("after 59 s: %d pending, %d late", r.Pending(), r.Drops(FragmentLate))
	}
	// A datagram that is too long for the bound by itself.
	big := DefaultReassemblyLimits()
	big.Octets = 1000
	r = NewReassembler(big)
	if _, why := reassemble(r, longAgo, [][]byte{part(6, 0, 1200, true, 1, 0, 1)}); why != FragmentEvicted || r.octets != 0 {
		t.Errorf("too long: %s, %d octets", why.Name(), r.octets)
	}
}

func TestFragmentingDoesNotAllocate(t *testing.T) {
	for _, f := range []*flow{testFlows()[0], testFlows()[3]} {
		b := f.long(4000)
		list := fragments(t, b, 1280)
		r := NewReassembler(DefaultReassemblyLimits())
		var p Info
		var cutter Fragmenter
		dst := make([]byte, 1280)
		reassemble(r, longAgo, list)
		if n := testing.AllocsPerRun(100, func() {
			p.Decode(b)
			cutter.Start(b, &p, 1280, 7)
			for cutter.Next(dst) > 0 {
			}
			for _, x := range list {
				p.Decode(x)
				r.Add(longAgo, x, &p)
			}
		}); n != 0 && inlines {
			t.Errorf("%v allocations", n)
		}
	}
}

func FuzzReassembler(f *testing.F) {
	for _, x := range []*flow{testFlows()[0], testFlows()[3], testFlows()[5]} {
		list := fragments(f, x.long(1500), 700)
		f.Add(list[0], list[1], list[2])
	}
	f.Add(part(6, 0, 16, true, 9, 0, 1), part(6, 8, 24, true, 9, 0, 1), part(6, 0, 30, false, 9, 2, 5))
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		r := NewReassembler(ReassemblyLimits{Datagrams: 2, PerSource: 2, Octets: 4000, Fragments: 3, Timeout: time.Minute})
		for _, x := range [][]byte{a, b, c, b, a} {
			var p, q Info
			if p.Decode(x); p.Version == 0 {
				continue
			}
			before := slices.Clone(x)
			whole, _ := r.Add(longAgo, x, &p)
			if !bytes.Equal(x, before) {
				t.Fatal("the fragment was changed")
			}
			if whole == nil {
				continue
			}
			if q.Decode(whole); q.Version != p.Version || q.TotalLen != len(whole) || q.FragmentOffset != 0 {
				t.Fatalf("made % x", whole)
			}
		}
		if r.octets > 4000 || r.Pending() > 2 {
			t.Fatalf("%d datagrams with %d octets", r.Pending(), r.octets)
		}
		r.Expire(longAgo.Add(time.Hour))
		if r.octets != 0 || r.Pending() != 0 || len(r.source) != 0 {
			t.Fatalf("%d octets are left", r.octets)
		}
	})
}

func FuzzFragmenter(f *testing.F) {
	for _, x := range testFlows() {
		f.Add(x.long(300), uint16(100))
	}
	f.Fuzz(func(t *testing.T, b []byte, mtu uint16) {
		var p Info
		var c Fragmenter
		if p.Decode(b); p.Version == 0 {
			return
		}
		n, ok := c.Start(b, &p, int(mtu), 1)
		if !ok {
			return
		}
		dst := make([]byte, mtu)
		total := 0
		for m := c.Next(dst); m > 0; m = c.Next(dst) {
			var q Info
			if q.Decode(dst[:m]); q.Version != p.Version || q.TotalLen != m || p.FragmentOffset+total > 0xffff {
				if p.FragmentOffset+len(b) <= 0xffff {
					t.Fatalf("fragment % x", dst[:m])
				}
			}
			total += m - q.HeaderLen // of payload: headers are repeated
			n--
		}
		if n != 0 {
			t.Fatalf("%d fragments are missing", n)
		}
	})
}
