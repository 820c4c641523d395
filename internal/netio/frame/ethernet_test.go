package frame

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var (
	macA = [6]byte{0x02, 0, 0, 0, 0, 0x0a}
	macB = [6]byte{0x02, 0, 0, 0, 0, 0x0b}
)

// framed puts the header before the payload.
func framed(h Header, payload []byte) []byte {
	b := make([]byte, h.Size(), h.Size()+len(payload))
	h.Put(b)
	return append(b, payload...)
}

func TestHeaderRoundTrip(t *testing.T) {
	for name, h := range map[string]Header{
		"plain":         {Dst: macA, Src: macB, Type: TypeIPv4, Len: 14},
		"tagged":        {Dst: macA, Src: macB, Type: TypeIPv6, Tagged: true, VLAN: 4094, Len: 18},
		"priority only": {Dst: macB, Src: macA, Type: 0x0806, Tagged: true, Len: 18},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := Parse(framed(h, []byte("payload")))
			if diff := cmp.Diff(h, got); !ok || diff != "" {
				t.Errorf("parsed %v (-want +got):\n%s", ok, diff)
			}
		})
	}
}

// What scapy makes: Ether(dst="02:00:00:00:00:0a", src="02:00:00:00:00:0b") /
// Dot1Q(vlan=10, prio=5) / IP(dst="198.51.100.1", src="192.0.2.1", id=7)
var scapyTagged = []byte{
	0x02, 0, 0, 0, 0, 0x0a, 0x02, 0, 0, 0, 0, 0x0b, 0x81, 0x00, 0xa0, 0x0a, 0x08, 0x00,
	0x45, 0, 0, 0x14, 0, 7, 0, 0, 0x40, 0, 0x8e, 0xad, 0xc0, 0, 2, 1, 0xc6, 0x33, 0x64, 1,
}

func TestParseWhatScapyTags(t *testing.T) {
	got, ok := Parse(scapyTagged)
	want := Header{Dst: macA, Src: macB, Tagged: true, VLAN: 10, Type: TypeIPv4, Len: 18}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("parsed %v (-want +got):\n%s", ok, diff)
	}
}

func TestParseOfEveryPrefix(t *testing.T) {
	for _, whole := range [][]byte{scapyTagged[:18], framed(Header{Type: TypeIPv4}, nil)} {
		for n := range whole {
			if h, ok := Parse(whole[:n]); ok {
				t.Errorf("%d octets of %x are a header: %+v", n, whole, h)
			}
		}
		if _, ok := Parse(whole); !ok {
			t.Errorf("%x is no header", whole)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(scapyTagged)
	f.Add(framed(Header{Dst: macA, Src: macB, Type: TypeIPv6}, make([]byte, 40)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := Parse(b)
		if !ok {
			return
		}
		again := make([]byte, h.Size())
		h.Put(again)
		b = bytes.Clone(b[:h.Len])
		if h.Tagged {
			b[14] &= 0x0f // the priority is not kept
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x is written as %x", b, again)
		}
	})
}
