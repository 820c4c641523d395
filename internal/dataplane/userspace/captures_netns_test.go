package userspace

import (
	"strconv"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
)

// opened is how many packets the lanes of frames have opened.
func (l *lab) opened(side int) (n uint64) {
	for _, f := range l.plane[side].framed {
		for _, in := range []*inbound{f.udp, f.esp, f.ah} {
			n += in.tally.public[inPackets].Load()
		}
	}
	return n
}

// TestCaptures has both captures carry over networks of other MTUs than 1,500 octets,
// and AH.
func TestCaptures(t *testing.T) {
	const esp, ah = ipsec.ESP, ipsec.AH
	for _, c := range []struct {
		name     string
		capture  string
		mtu      int
		protocol ipsec.Protocol
		wan      string
	}{
		{"AF_XDP, 1400 octets", "afxdp", 1400, esp, "192.0.2.%d"},
		{"AF_XDP, 3000 octets", "afxdp", 3000, esp, "2001:db8::%d"},
		{"packet sockets, 1400 octets", "afpacket", 1400, esp, "2001:db8::%d"},
		{"packet sockets, 9000 octets", "afpacket", 9000, esp, "192.0.2.%d"},
		{"AF_XDP, AH", "afxdp", 1500, ah, "192.0.2.%d"},
		{"AF_XDP, AH over IPv6", "afxdp", 1500, ah, "2001:db8::%d"},
		{"packet sockets, AH", "afpacket", 1500, ah, "192.0.2.%d"},
		{"packet sockets, AH over IPv6", "afpacket", 1500, ah, "2001:db8::%d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			l.capture, l.protocol = c.capture, c.protocol
			for i := range 2 {
				for _, x := range []struct {
					ns  netns.NS
					dev string
				}{{l.hosts[i], "eth0"}, {l.gws[i], "lan"}, {l.gws[i], "wan"}} {
					if err := x.ns.IP("link", "set", x.dev, "mtu", strconv.Itoa(c.mtu)); err != nil {
						t.Fatal(err)
					}
				}
			}
			l.start(1, 0)
			if c.protocol == ah {
				sha256 := ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}
				l.connect(c.wan, false, ipsec.Transform{}, 0, sha256, 32)
			} else {
				l.connect(c.wan, true, gcm128, 20, ipsec.Transform{}, 0)
			}
			l.warm()
			before := [2]uint64{l.opened(0), l.opened(1)}
			for _, address := range []string{"10.2.0.2", "fd00:2::2"} {
				// The longest that travels whole, or nearly, and one that its sender cuts.
				for _, size := range []int{56, c.mtu - 200, 2*c.mtu - 100} {
					if out, err := l.pings(4, size, false, address); err != nil {
						t.Errorf("%s, %d octets: %v, %s; counters %v and %v", address, size, err, out, l.plane[0].Counters(), l.plane[1].Counters())
					}
				}
				if out, err := l.pings(2, c.mtu-200, true, address); err != nil {
					t.Errorf("%s, %d octets that must not be cut: %v, %s", address, c.mtu-200, err, out)
				}
			}
			l.transfer("10.2.0.2:5000", 1<<20)
			for side, was := range before {
				n := l.plane[side].Counters()
				if as := l.opened(side) - was; as < 30 {
					t.Errorf("gateway %d has opened %d packets that came as frames: %v", side, as, n)
				}
				if n["frames-sent"] == 0 || n["frames-unsent"] != 0 || n["frames-foreign"] != 0 {
					t.Errorf("gateway %d: %v", side, n)
				}
			}
		})
	}
}
