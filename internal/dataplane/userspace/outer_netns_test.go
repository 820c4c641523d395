package userspace

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/packet"
)

// header is what tshark says of an IP header.
type header struct {
	version    int
	class      uint8 // DSCP and ECN
	ttl        int
	df         bool
	isFragment bool
	length     int // for IPv6 without this header
}

// readHeaders has tshark read what a capture file holds: the outermost headers of
// what passes the filter.
func readHeaders(t *testing.T, file, filter string) (out []header) {
	t.Helper()
	args := []string{"-r", file, "-Y", filter, "-o", "ip.defragment:FALSE", "-T", "fields", "-E", "occurrence=f", "-E", "separator=,"}
	for _, field := range []string{"ip.dsfield", "ip.ttl", "ip.flags.df", "ip.flags.mf", "ip.frag_offset", "ipv6.tclass", "ipv6.hlim", "ipv6.fraghdr.offset", "ip.len", "ipv6.plen"} {
		args = append(args, "-e", field)
	}
	cmd := exec.CommandContext(t.Context(), "tshark", args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark is needed as a judge: %v\n%s", err, stderr.String())
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ",")
		number := func(i int) int {
			n, err := strconv.ParseInt(f[i], 0, 64)
			if err != nil {
				t.Fatalf("tshark says %q where a number is", line)
			}
			return int(n)
		}
		if f[0] != "" {
			out = append(out, header{4, uint8(number(0)), number(1), number(2) != 0, number(3) != 0 || number(4) != 0, number(8)})
		} else {
			out = append(out, header{6, uint8(number(5)), number(6), false, f[7] != "", number(9)})
		}
	}
	return out
}

// record captures a device of a namespace with tcpdump while do runs.
func record(t *testing.T, ns netns.NS, dev string, do func()) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "capture.pcap")
	cmd := ns.Command(t.Context(), "tcpdump", "-i", dev, "-U", "-w", file, "--immediate-mode")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("tcpdump is needed as a judge: %v", err)
	}
	for range 100 { // until it listens
		if _, err := os.Stat(file); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	do()
	time.Sleep(100 * time.Millisecond)
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	return file
}

// TestOuterHeaders lets hosts of the kernel send with each DSCP, ECN and DF, and
// has tshark read what is between the gateways, and what arrives.
func TestOuterHeaders(t *testing.T) {
	for _, c := range []struct {
		name, wan string
		encap     bool
		outer     ipsec.Outer
		class     uint8 // of the outer header for 0xb8 | ECT(0) inside
		df        [2]bool
	}{
		{"UDP over IPv4", "192.0.2.%d", true, ipsec.Outer{}, 0xba, [2]bool{false, true}},
		{"protocol 50 over IPv4", "192.0.2.%d", false, ipsec.Outer{}, 0xba, [2]bool{false, true}},
		{"UDP over IPv6", "2001:db8::%d", true, ipsec.Outer{}, 0xba, [2]bool{}},
		{"protocol 50 over IPv6", "2001:db8::%d", false, ipsec.Outer{}, 0xba, [2]bool{}},
		{"nothing crosses", "192.0.2.%d", true, ipsec.Outer{DF: ipsec.ClearDF, DSCP: ipsec.DSCPNone, NoECN: true}, 0, [2]bool{}},
		{"DF set, ECN only", "192.0.2.%d", true, ipsec.Outer{DF: ipsec.SetDF, DSCP: ipsec.DSCPIn}, 0x02, [2]bool{true, true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, router := newRoutedLab(t, 1500)
			l.start(1, 0)
			l.outer = c.outer
			l.connect(c.wan, c.encap, gcm128, 20, ipsec.Transform{}, 0)
			// Each kind of packet has a length of its own.
			kinds := []struct {
				address, do string
				size        int
				df          bool
			}{
				{"10.2.0.2", "dont", 100, c.df[0]},
				{"10.2.0.2", "do", 300, c.df[1]},
				{"fd00:2::2", "dont", 500, c.df[1]}, // IPv6 counts as having DF
			}
			l.warm()
			var arrived string
			wire := record(t, router, "eth0", func() {
				arrived = record(t, l.hosts[1], "eth0", func() {
					for _, k := range kinds {
						if out, err := l.hosts[0].Run(t.Context(), "ping", "-M", k.do, "-Q", "0xba", "-t", "77", "-c", "3", "-i", "0.05", "-W", "1", "-s", strconv.Itoa(k.size), k.address); err != nil {
							t.Errorf("ping: %v, %s; counters %v", err, out, l.plane[1].Counters())
						}
					}
				})
			})
			var seen [3]int
			for _, h := range readHeaders(t, wire, "(udp.port == 4500 || esp) && (ip.src == 192.0.2.1 || ipv6.src == 2001:db8::1)") {
				i := min(max(h.length-100, 0)/200, 2)
				seen[i]++
				if h.class != c.class || h.df != kinds[i].df || h.isFragment || h.ttl != 64 {
					t.Errorf("%+v: outer header %+v, want class %#x, TTL 64", kinds[i], h, c.class)
				}
			}
			if seen != [3]int{3, 3, 3} {
				t.Errorf("%v packets on the wire", seen)
			}
			list := readHeaders(t, arrived, "icmp.type == 8 || icmpv6.type == 128")
			for _, h := range list {
				// Each gateway forwards once (RFC 4301, Section 5.1.2).
				want := uint8(0xba)
				if c.outer.DSCP == ipsec.DSCPIn {
					want = 0x02
				}
				if h.ttl != 75 || h.class != want {
					t.Errorf("arrived with %+v, want class %#x, TTL 75", h, want)
				}
			}
			if len(list) != 9 {
				t.Errorf("%d packets arrived", len(list))
			}
		})
	}
}

// TestCongestionCrosses has the kernel of the router in between mark congestion,
// with nftables.
func TestCongestionCrosses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		wan   string
		encap bool
	}{{"192.0.2.%d", true}, {"2001:db8::%d", false}} {
		l, router := newRoutedLab(t, 1500)
		l.start(1, 0)
		l.connect(c.wan, c.encap, gcm128, 20, ipsec.Transform{}, 0)
		l.warm()
		rules := "table inet marker { chain forward { type filter hook forward priority 0; ip ecn set ce; ip6 ecn set ce; }; }"
		if _, err := router.Run(t.Context(), "nft", rules); err != nil {
			t.Fatal(err)
		}
		for _, inner := range []string{"10.2.0.2", "fd00:2::2"} {
			// ECN-capable senders hear of it.
			file := record(t, l.hosts[1], "eth0", func() {
				l.hosts[0].Run(t.Context(), "ping", "-Q", "0x2", "-c", "3", "-i", "0.05", "-W", "0.5", inner)
			})
			list := readHeaders(t, file, "icmp.type == 8 || icmpv6.type == 128")
			for _, h := range list {
				if h.class != packet.CE {
					t.Errorf("%s: arrived with class %#x, want CE", inner, h.class)
				}
			}
			// For others it is a loss.
			file = record(t, l.hosts[1], "eth0", func() {
				l.hosts[0].Run(t.Context(), "ping", "-Q", "0", "-c", "3", "-i", "0.05", "-W", "0.5", inner)
			})
			lost := readHeaders(t, file, "icmp.type == 8 || icmpv6.type == 128")
			if len(list) < 3 || len(lost) != 0 {
				t.Errorf("%s: %d packets with ECT arrived, %d without", inner, len(list), len(lost))
			}
		}
		if n := l.plane[1].Counters()["ecn-lost"]; n != 6 {
			t.Errorf("%d packets were lost for want of ECN, want 6", n)
		}
	}
}

// TestOuterFragmentsAreReceived has the kernel of gwA cut sealed packets, of IPv4,
// and the plane itself, of IPv6; gwB gets them whole.
func TestOuterFragmentsAreReceived(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		wan   string
		encap bool
	}{{"192.0.2.%d", true}, {"192.0.2.%d", false}, {"2001:db8::%d", true}, {"2001:db8::%d", false}} {
		l, _ := newRoutedLab(t, 1300)
		l.start(1, 0)
		l.fit = ipsec.Fit{Fragment: ipsec.FragmentAfter}
		l.outer = ipsec.Outer{DF: ipsec.ClearDF}
		l.connect(c.wan, c.encap, gcm128, 20, ipsec.Transform{}, 0)
		l.untilTold6(1340)
		for _, inner := range []string{"10.2.0.2", "fd00:2::2"} {
			for _, size := range []int{1200, 1340, 3000} {
				if out, err := l.pings(3, size, false, inner); err != nil {
					t.Errorf("%s inside %s, %d octets: %v, %s; counters %v and %v", inner, c.wan, size, err, out, l.plane[0].Counters(), l.plane[1].Counters())
				}
			}
		}
		l.onWire()
		if l.fragments() == 0 {
			t.Errorf("%s: no fragment was on the wire", c.wan)
		}
	}
}

// warm waits until both families get through: neighbours are to be found first.
func (l *lab) warm() {
	l.t.Helper()
	for _, address := range []string{"10.2.0.2", "fd00:2::2"} {
		err := l.ping(address, 10)
		for range 10 {
			if err == nil {
				break
			}
			err = l.ping(address, 10)
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
}

// untilTold6 lets gwA learn the path MTU of IPv6, where no router cuts.
func (l *lab) untilTold6(size int) {
	for range 10 {
		if _, err := l.pings(1, size, false, "fd00:2::2"); err == nil {
			return
		}
	}
}
