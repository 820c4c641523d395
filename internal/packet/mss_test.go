package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"
)

// synOptions are TCP options with an MSS of 1460 at different places.
var synOptions = map[string][]byte{
	"first":          {2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7},
	"at an odd one":  {1, 2, 4, 5, 180, 0, 0, 0},
	"last":           {4, 2, 1, 1, 2, 4, 5, 180},
	"behind unknown": {254, 6, 1, 2, 3, 4, 2, 4, 5, 180, 0, 0},
}

func syn(f *flow, options []byte) []byte {
	g := *f
	g.protocol, g.options = ProtocolTCP, len(options)
	b := g.make([]byte("data"), tcpSYN)
	at := len(b) - 4 - len(options)
	copy(b[at:], options)
	g.finish(b, at-TCPHeaderLen)
	return b
}

func TestClampMSS(t *testing.T) {
	var cases []scapyCase
	for _, f := range testFlows() {
		for name, options := range synOptions {
			for _, most := range []uint16{88, 1240, 1459, 1460, 1461} {
				b := syn(f, options)
				before := slices.Clone(b)
				var p Info
				p.Decode(b)
				if got := ClampMSS(b, &p, most); got != (most < 1460) {
					t.Errorf("%s, %d: %v", name, most, got)
				}
				if TransportChecksum(p.Src, p.Dst, ProtocolTCP, b[p.HeaderLen:]) != 0 {
					t.Errorf("%s, %d: wrong checksum", name, most)
				}
				want := binary.BigEndian.AppendUint16([]byte{2, 4}, min(most, 1460))
				if !bytes.Contains(b[p.HeaderLen+TCPHeaderLen:], want) {
					t.Errorf("%s, %d: options % x", name, most, b[p.HeaderLen+TCPHeaderLen:])
				}
				if most >= 1460 && !bytes.Equal(b, before) {
					t.Errorf("%s, %d: the packet was changed", name, most)
				}
				cases = append(cases, scapyCase{Packet: hex.EncodeToString(b)})
			}
		}
	}
	for i, a := range scapy(t, cases) {
		if !a.Checksum {
			t.Errorf("scapy finds a wrong checksum in %s", cases[i].Packet)
		}
	}
}

func TestClampMSSLeavesAlone(t *testing.T) {
	f := testFlows()[1]
	for name, b := range map[string][]byte{
		"no SYN":              f.make(make([]byte, 100), tcpACK),
		"no option":           syn(f, []byte{1, 1, 1, 0}),
		"behind the end":      syn(f, []byte{0, 2, 4, 5, 180, 0, 0, 0}),
		"length 0":            syn(f, []byte{3, 0, 0, 0, 2, 4, 5, 180}),
		"length past the end": syn(f, []byte{3, 40, 0, 0, 2, 4, 5, 180}),
		"cut":                 syn(f, []byte{1, 1, 1, 2}),
		"MSS of length 3":     syn(f, []byte{2, 3, 5, 1, 1, 1, 1, 1}),
	} {
		before := slices.Clone(b)
		var p Info
		p.Decode(b)
		if ClampMSS(b, &p, 88) || !bytes.Equal(b, before) {
			t.Errorf("%s: changed", name)
		}
	}
}

func FuzzClampMSS(f *testing.F) {
	for _, x := range testFlows() {
		for _, options := range synOptions {
			f.Add(syn(x, options), uint16(1000))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, most uint16) {
		var p Info
		if p.Decode(b); p.Version == 0 {
			return
		}
		before := slices.Clone(b)
		right := p.HeaderLen < p.TotalLen && TransportChecksum(p.Src, p.Dst, ProtocolTCP, b[p.HeaderLen:p.TotalLen]) == 0
		changed := ClampMSS(b, &p, most)
		if changed == bytes.Equal(b, before) && changed {
			t.Fatal("said to be changed, but is not")
		}
		if changed && right && p.TotalLen == len(b) && TransportChecksum(p.Src, p.Dst, ProtocolTCP, b[p.HeaderLen:]) != 0 {
			t.Fatalf("wrong checksum: % x", b)
		}
	})
}
