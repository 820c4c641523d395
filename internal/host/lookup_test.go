package host

import (
	"net/netip"
	"testing"
)

func TestLookup(t *testing.T) {
	g := newGateway(t)
	var h *Host
	open := func() (err error) { h, err = Open(Options{Device: "capo0", MTU: 1400}); return err }
	if err := g.ns.Do(open); err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	desired := Desired{Protect: []Route{{To: netip.MustParsePrefix("10.2.0.0/16"), Local: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}}}}
	if err := h.Set(desired); err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddr
	for _, test := range []struct {
		name     string
		src, dst netip.Addr
		mark     uint32
		want     Way
	}{
		{"own and protected", addr("10.1.0.1"), addr("10.2.0.9"), 0, Way{Device: "capo0", Captured: true, Kind: "unicast", Table: TableProtect, MTU: 1400}},
		{"forwarded and protected", addr("10.1.0.7"), addr("10.2.0.9"), 0, Way{Device: "capo0", Captured: true, Kind: "unicast", Table: TableProtect, MTU: 1400}},
		{"forwarded past the gateway", addr("10.1.0.7"), addr("198.51.100.9"), 0, Way{Device: "wan", Kind: "unicast", Table: 254, Via: addr("192.0.2.254"), MTU: 1500}},
		{"to this host", addr("10.1.0.7"), addr("10.1.0.1"), 0, Way{Kind: "local", Table: 255}},
		{"the gateway's own", netip.Addr{}, addr("10.2.0.9"), Mark, Way{Device: "wan", Kind: "unicast", Table: 254, Via: addr("192.0.2.254"), MTU: 1500}},
		{"IPv6", addr("fd00:1::7"), addr("2001:db8:1::9"), 0, Way{Device: "wan", Kind: "unicast", Table: 254, Via: addr("2001:db8::fe"), MTU: 1500}},
	} {
		got, err := h.Lookup(test.src, test.dst, test.mark)
		if err != nil || got != test.want {
			t.Errorf("%s: %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
	g.ip("route", "add", "unreachable", "198.51.100.0/24")
	g.ip("route", "del", "default")
	for dst, want := range map[string]string{"198.51.100.9": "unreachable", "203.0.113.9": "none"} {
		if got, err := h.Lookup(addr("10.1.0.1"), addr(dst), 0); err != nil || got != (Way{Kind: want}) {
			t.Errorf("%s: %+v, %v, want %s", dst, got, err, want)
		}
	}
}
