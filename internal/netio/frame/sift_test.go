package frame

import (
	"testing"

	"caponier/internal/ipsec"
)

func TestAsks(t *testing.T) {
	none := SA{}
	for name, x := range map[string]struct {
		packet []byte
		want   SA
	}{
		"ESP":                  {to("192.0.2.1", 50, 64, 1, 2, 3, 4, 5), SA{ipsec.ESP, 0x01020304}},
		"ESP over IPv6":        {to("2001:db8::1", 50, 64, 0, 0, 0, 7), SA{ipsec.ESP, 7}},
		"ESP, cut short":       {to("192.0.2.1", 50, 64, 1, 2, 3), none},
		"AH":                   {to("192.0.2.1", 51, 64, 50, 4, 0, 0, 1, 2, 3, 4), SA{ipsec.AH, 0x01020304}},
		"AH, cut short":        {to("192.0.2.1", 51, 64, 50, 4, 0, 0, 1, 2, 3), none},
		"ESP in UDP":           {to("192.0.2.1", 17, 64, udp(4500, 1, 2, 3, 4, 5)...), SA{ipsec.ESP, 0x01020304}},
		"ESP in UDP over IPv6": {to("2001:db8::1", 17, 64, udp(4500, 0, 0, 1, 0)...), SA{ipsec.ESP, 256}},
		"IKE":                  {to("192.0.2.1", 17, 64, udp(4500, 0, 0, 0, 0, 1)...), none},
		"inside":               {to("10.2.0.7", 50, 64, 1, 2, 3, 4), none},
		"ESP to others":        {to("192.0.2.9", 50, 64, 1, 2, 3, 4), none},
	} {
		for _, h := range []Header{{Dst: macA, Src: macB}, {Dst: macA, Src: macB, Tagged: true, VLAN: 10}} {
			h.Type = TypeIPv4
			if x.packet[0]>>4 == 6 {
				h.Type = TypeIPv6
			}
			b := framed(h, x.packet)
			got, ok := steering.Asks(macA, true, b)
			if got != x.want || ok != (x.want != none) {
				t.Errorf("%s, tagged %v: asks for %+v, %v; want %+v", name, h.Tagged, got, ok, x.want)
			}
			for n := range b {
				if sa, ok := steering.Asks(macA, true, b[:n]); ok && sa != x.want {
					t.Errorf("%s, %d octets: asks for %+v", name, n, sa)
				}
			}
		}
	}
}
