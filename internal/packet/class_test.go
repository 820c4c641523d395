package packet

import (
	"encoding/binary"
	"strings"
	"testing"

	"caponier/internal/ipsec"
)

// figure4 is RFC 6040, Figure 4. "!" marks what is currently unused.
const figure4 = `
           Not-ECT  ECT(0)   ECT(1)   CE
Not-ECT    Not-ECT  Not-ECT! Not-ECT! drop
ECT(0)     ECT(0)   ECT(0)   ECT(1)   CE
ECT(1)     ECT(1)   ECT(1)!  ECT(1)   CE
CE         CE       CE       CE!      CE
`

func TestInnerClass(t *testing.T) {
	number := map[string]uint8{"Not-ECT": NotECT, "ECT(0)": ECT0, "ECT(1)": ECT1, "CE": CE}
	lines := strings.Split(strings.TrimSpace(figure4), "\n")
	outers := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		row := strings.Fields(line)
		for i, cell := range row[1:] {
			want, unused := strings.CutSuffix(cell, "!")
			inner, outer := number[row[0]], number[outers[i]]
			for _, dscp := range []uint8{0, 46 << 2} {
				got, fault := InnerClass(dscp|inner, 10<<2|outer, ipsec.Outer{})
				switch {
				case want == "drop":
					if fault != ECNLost {
						t.Errorf("inner %s, outer %s: not dropped", row[0], outers[i])
					}
				case fault == ECNLost, (fault == ECNUnused) != unused, got != dscp|number[want]:
					t.Errorf("inner %s, outer %s: class %#x, fault %d", row[0], outers[i], got, fault)
				}
			}
			if got, fault := InnerClass(inner, outer, ipsec.Outer{NoECN: true}); got != inner || fault != ECNFine {
				t.Errorf("compatibility mode, inner %s, outer %s: %#x, fault %d", row[0], outers[i], got, fault)
			}
		}
	}
}

func TestClassesAtTheBorder(t *testing.T) {
	const inner, outer = 46<<2 | ECT0, 10<<2 | CE
	for _, tt := range []struct {
		o       ipsec.Outer
		out, in uint8
	}{
		{ipsec.Outer{}, 46<<2 | ECT0, 46<<2 | CE},
		{ipsec.Outer{DSCP: ipsec.DSCPIn}, ECT0, 10<<2 | CE},
		{ipsec.Outer{DSCP: ipsec.DSCPBoth}, 46<<2 | ECT0, 10<<2 | CE},
		{ipsec.Outer{DSCP: ipsec.DSCPNone}, ECT0, 46<<2 | CE},
		{ipsec.Outer{NoECN: true}, 46 << 2, 46<<2 | ECT0},
		{ipsec.Outer{DSCP: ipsec.DSCPNone, NoECN: true}, 0, 46<<2 | ECT0},
	} {
		if got := OuterClass(inner, tt.o); got != tt.out {
			t.Errorf("%+v: outer class %#x, want %#x", tt.o, got, tt.out)
		}
		if got, _ := InnerClass(inner, outer, tt.o); got != tt.in {
			t.Errorf("%+v: inner class %#x, want %#x", tt.o, got, tt.in)
		}
	}
}

func TestOuterDF(t *testing.T) {
	v4, whole, v6 := Info{Version: 4}, Info{Version: 4, DontFragment: true}, Info{Version: 6}
	for _, tt := range []struct {
		df             ipsec.DF
		v4, whole, six bool
	}{{ipsec.CopyDF, false, true, true}, {ipsec.SetDF, true, true, true}, {ipsec.ClearDF, false, false, false}} {
		o := ipsec.Outer{DF: tt.df}
		if OuterDF(&v4, o) != tt.v4 || OuterDF(&whole, o) != tt.whole || OuterDF(&v6, o) != tt.six {
			t.Errorf("%s: %v, %v, %v", tt.df, OuterDF(&v4, o), OuterDF(&whole, o), OuterDF(&v6, o))
		}
	}
}

func TestSetTrafficClass(t *testing.T) {
	for _, f := range testFlows() {
		b := f.make([]byte("payload"), tcpACK)
		for class := range 256 {
			SetTrafficClass(b, uint8(class))
			var p Info
			if p.Decode(b); p.TrafficClass != uint8(class) || p.Src != f.src {
				t.Fatalf("class %#x became %#x", class, p.TrafficClass)
			}
			if p.Version == 4 && Checksum(b[:p.HeaderLen]) != 0 {
				t.Fatalf("class %#x: wrong checksum", class)
			}
			if p.Version == 6 && binary.BigEndian.Uint32(b)&0xfffff != 0x12345 {
				t.Fatalf("class %#x: another flow label", class)
			}
		}
	}
}

// The example of RFC 1624, Section 4, where the older equation goes wrong.
func TestUpdateChecksum(t *testing.T) {
	if got := UpdateChecksum(0xdd2f, 0x5555, 0x3285); got != 0x0000 {
		t.Errorf("%#04x, want 0x0000", got)
	}
}
