package vm

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/internal/lab/netns"
	"caponier/internal/packet"
	"caponier/test/interop"
)

// pairOf starts two caponiers with the kernel's data plane and one tunnel between
// the networks of n. The near one asks for it as start says.
func pairOf(t *testing.T, n *interop.Network, start string, interfaces bool) (near, far *interop.Caponier) {
	t.Helper()
	return pairFor(t, n, start, interfaces, n.B.LAN)
}

// pairFor is pairOf where the near one asks for all of a network that holds the far
// one's.
func pairFor(t *testing.T, n *interop.Network, start string, interfaces bool, all netip.Prefix) (near, far *interop.Caponier) {
	t.Helper()
	party := func(s *interop.Site, id string) interop.Party {
		return interop.Party{Address: []string{s.Outside.String()}, ID: id, Auth: "psk", PSKFile: interop.PSKFile}
	}
	config := func(own, other *interop.Site, remote netip.Prefix, ownID, otherID, start string, interfaces bool) interop.CaponierConfig {
		return interop.CaponierConfig{
			PSK: "correct horse battery staple", DataPlane: "kernel", XfrmInterfaces: interfaces,
			Connections: map[string]interop.Peer{"peer": {
				Local: party(own, ownID), Remote: party(other, otherID),
				Tunnels: map[string]interop.Tunnel{"lan": {
					Local: []string{own.LAN.String()}, Remote: []string{remote.String()}, Start: start,
				}},
			}},
		}
	}
	far = interop.StartCaponier(t, n.B.Gateway, config(n.B, n.A, n.A.LAN, "b.example", "a.example", "none", false))
	near = interop.StartCaponier(t, n.A.Gateway, config(n.A, n.B, all, "a.example", "b.example", start, interfaces))
	return near, far
}

// output runs a command in a namespace and returns what it prints.
func output(t *testing.T, in netns.NS, args ...string) string {
	t.Helper()
	out, err := in.Run(t.Context(), args[0], args[1:]...)
	must(t, err)
	return out
}

// leads reports whether the gateway's route to a network leads to a device whose
// name begins so.
func leads(t *testing.T, gateway netns.NS, to netip.Prefix, device string) bool {
	t.Helper()
	route := output(t, gateway, "ip", "route", "show", "table", "220", to.String())
	return strings.Contains(route, "dev "+device)
}

// received is how many packets a device has counted.
func received(t *testing.T, in netns.NS, device string) string {
	t.Helper()
	return strings.TrimSpace(output(t, in, "cat", "/sys/class/net/"+device+"/statistics/rx_packets"))
}

// forge sends a UDP datagram from the far host to the near one as a frame on the
// wire between the gateways, past all policies.
func forge(t *testing.T, n *interop.Network, payload []byte, port uint16) {
	t.Helper()
	const ethernet, size = 14, packet.IPv4HeaderLen + packet.UDPHeaderLen
	mac, err := net.ParseMAC(strings.TrimSpace(output(t, n.A.Gateway, "cat", "/sys/class/net/"+interop.Outside+"/address")))
	must(t, err)
	b := make([]byte, ethernet+size, ethernet+size+len(payload))
	copy(b, mac)
	b[12], b[13] = 0x08, 0x00
	packet.PutIPv4(b[ethernet:], &packet.IPv4Header{
		Src: n.B.HostAddr(), Dst: n.A.HostAddr(), TotalLen: size + len(payload), TTL: 64, Protocol: packet.ProtocolUDP,
	})
	packet.PutUDP(b[ethernet+packet.IPv4HeaderLen:], 7, port, packet.UDPHeaderLen+len(payload), 0)
	output(t, n.B.Gateway, "python3", "-c", fmt.Sprintf(
		"import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind((%q, 0)); s.send(bytes.fromhex('%x'))",
		interop.Outside, append(b, payload...)))
}

// TestXfrmInterface has a connection with an interface of its own: the route
// follows the tunnel there and back, and what it protects is never outside in
// clear. It is part of the long form only.
func TestXfrmInterface(t *testing.T) {
	if !*long {
		return
	}
	n := interop.NewNetwork(t)
	near, _ := pairOf(t, n, "none", true)
	wire := interop.StartCapture(t, n.A.Gateway, interop.Outside)
	links := output(t, n.A.Gateway, "ip", "-d", "link", "show", "type", "xfrm")
	name := regexp.MustCompile(`capx[0-9]+`).FindString(links)
	if name == "" || !strings.Contains(links, "caponier peer") {
		t.Fatalf("no interface for the connection: %s", links)
	}
	if leads(t, n.A.Gateway, n.B.LAN, "capx") || interop.Reaches(t, n.A.Host, n.B.HostAddr()) {
		t.Error("packets find a way before the tunnel is up")
	}
	for range 2 {
		near.MustConnect(t, "peer/lan")
		interop.Eventually(t, 20*time.Second, "route through the interface", func() bool { return leads(t, n.A.Gateway, n.B.LAN, name) })
		before := received(t, n.A.Gateway, name)
		inside := interop.StartCapture(t, n.A.Gateway, name)
		interop.Ping(t, n.A.Host, n.B.HostAddr())
		interop.Ping(t, n.B.Host, n.A.HostAddr())
		interop.Transfer(t, n.A.Host, n.B.Host, n.B.HostAddr(), 1<<18)
		inside.Stop(t)
		if len(inside.Packets(t, fmt.Sprintf("icmp[icmptype] == icmp-echo and src %s", n.A.HostAddr()))) == 0 {
			t.Error("a capture of the interface shows nothing of what it carries")
		}
		if received(t, n.A.Gateway, name) == before {
			t.Error("the interface counts nothing")
		}
		near.Rekey(t, "peer/lan")
		interop.Ping(t, n.A.Host, n.B.HostAddr())
		near.Disconnect(t, "peer")
		interop.Eventually(t, 20*time.Second, "route away from the interface", func() bool { return !leads(t, n.A.Gateway, n.B.LAN, "capx") })
		if interop.Reaches(t, n.A.Host, n.B.HostAddr()) || interop.Reaches(t, n.B.Host, n.A.HostAddr()) {
			t.Error("packets find a way when the tunnel is down")
		}
	}
	wire.Stop(t)
	const clear = "icmp or tcp"
	if leaks := wire.Packets(t, clear); len(leaks) != 0 {
		t.Errorf("outside, in clear: %q", leaks)
	}
	if len(wire.Packets(t, "esp")) == 0 {
		t.Error("no ESP outside")
	}
	near.Restart(t)
	if again := output(t, n.A.Gateway, "ip", "-d", "link", "show", "type", "xfrm"); !strings.Contains(again, name) {
		t.Errorf("after a restart the connection has another interface than %s: %s", name, again)
	}
}

// overheard has caponier itself capture ESP of both directions, which the kernel
// carries.
func overheard(t *testing.T, n *interop.Network, near *interop.Caponier) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "esp.pcapng")
	cmd := n.A.Gateway.Command(t.Context(), os.Getenv(interop.ProgramVariable), "--control", filepath.Join(near.Dir, "control"),
		"capture", "peer", "--count", "2", "-o", file)
	ended := make(chan error, 1)
	must(t, cmd.Start())
	go func() { ended <- cmd.Wait() }()
	interop.Eventually(t, 20*time.Second, "capture", func() bool { _, err := os.Stat(file); return err == nil })
	interop.Ping(t, n.A.Host, n.B.HostAddr())
	select {
	case err := <-ended:
		must(t, err)
	case <-time.After(time.Minute):
		t.Fatal("caponier capture shows no ESP")
	}
	read := exec.CommandContext(t.Context(), "tshark", "-r", file, "-Y", "esp", "-T", "fields", "-e", "ip.src", "-e", "frame.interface_name")
	read.Env = append(os.Environ(), "WIRESHARK_CONFIG_DIR="+t.TempDir())
	seen, err := read.Output()
	must(t, err)
	for _, from := range []netip.Addr{n.A.Outside, n.B.Outside} {
		if !strings.Contains(string(seen), from.String()+"\touter") {
			t.Errorf("a capture of caponier has no ESP from %s: %q", from, seen)
		}
	}
}

// TestKilledKernelGateway kills a gateway whose packets the kernel carries, looks
// what passes, and starts it again. It is part of the long form only.
func TestKilledKernelGateway(t *testing.T) {
	if !*long {
		return
	}
	n := interop.NewNetwork(t)
	near, far := pairOf(t, n, "start", false)
	interop.Eventually(t, time.Minute, "tunnel", func() bool { return interop.Reaches(t, n.A.Host, n.B.HostAddr()) })
	overheard(t, n, near)
	near.Crash(t)

	wire := interop.StartCapture(t, n.A.Gateway, interop.Outside)
	inside := interop.StartCapture(t, n.A.Host, "eth0")
	if interop.Reaches(t, n.A.Host, n.B.HostAddr()) {
		t.Error("packets leave a gateway that was killed")
	}
	// The peer knows nothing yet: what it sends is still opened, and answered with
	// nothing.
	if interop.Reaches(t, n.B.Host, n.A.HostAddr()) {
		t.Error("a gateway that was killed answers")
	}
	// Somebody on the way sends in clear what should have come through the tunnel.
	forge(t, n, []byte("forged"), 4242)
	inside.Stop(t)
	wire.Stop(t)
	// What came sealed is shown once more when it is opened.
	if leaks := wire.Packets(t, fmt.Sprintf("icmp and src %s", n.A.HostAddr())); len(leaks) != 0 {
		t.Errorf("outside, in clear: %q", leaks)
	}
	if len(wire.Packets(t, "udp port 4242")) == 0 {
		t.Fatal("the forged packets did not come")
	}
	if in := inside.Packets(t, "udp port 4242"); len(in) != 0 {
		t.Errorf("taken in, in clear: %q", in)
	}
	if len(inside.Packets(t, fmt.Sprintf("icmp and src %s", n.B.HostAddr()))) == 0 {
		t.Error("the kernel does not open what the peer sends")
	}

	began := time.Now()
	near.Restart(t)
	interop.Eventually(t, time.Minute, "tunnel after the next start", func() bool { return interop.Reaches(t, n.A.Host, n.B.HostAddr()) })
	t.Logf("the next run carries packets after %s", time.Since(began).Round(10*time.Millisecond))
	interop.Ping(t, n.B.Host, n.A.HostAddr())
	// The kernel has nothing of before, and the peer sends through what is new. Its
	// own end of the old tunnel goes when it is deleted, or found dead.
	theirs := make(map[ipsec.SPI]bool)
	for _, sa := range far.SAs(t) {
		theirs[sa.ID.SPI] = true
	}
	sas := near.SAs(t)
	for _, sa := range sas {
		if !theirs[sa.ID.SPI] {
			t.Errorf("the peer has no SA %s", sa.ID.SPI)
		}
	}
	if len(sas) != 2 {
		t.Errorf("the next run has %d SAs", len(sas))
	}
	if states := strings.Count(output(t, n.A.Gateway, "ip", "xfrm", "state"), "proto esp"); states != 2 {
		t.Errorf("the kernel has %d states", states)
	}
}

// TestOutboundRefused has the kernel take the inbound SA of a CHILD SA and not the
// outbound one: somebody else's policy is where those of the SA go, after the peer
// has narrowed the tunnel. The CHILD SA goes, at both ends, and comes when the
// place is free.
func TestOutboundRefused(t *testing.T) {
	n := interop.NewNetwork(t)
	near, _ := pairFor(t, n, "none", false, netip.PrefixFrom(n.B.LAN.Addr(), 16).Masked())
	policy := func(args ...string) {
		t.Helper()
		selector := []string{"ip", "xfrm", "policy", args[0], "src", n.A.LAN.String(), "dst", n.B.LAN.String(), "dir", "out"}
		output(t, n.A.Gateway, append(selector, args[1:]...)...)
	}
	policy("add", "priority", "99999999")
	if err := near.Connect(t, "peer/lan"); err == nil || !strings.Contains(err.Error(), "install-failed") {
		t.Errorf("got %v", err)
	}
	for name, gateway := range map[string]netns.NS{"near": n.A.Gateway, "far": n.B.Gateway} {
		interop.Eventually(t, 20*time.Second, "no state in the kernel of the "+name+" end", func() bool {
			return !strings.Contains(output(t, gateway, "ip", "xfrm", "state"), "proto esp")
		})
	}
	if sas := near.SAs(t); len(sas) != 0 {
		t.Errorf("SAs are left: %v", sas)
	}
	policy("delete")
	near.MustConnect(t, "peer/lan")
	interop.Ping(t, n.A.Host, n.B.HostAddr())
	if sas := near.SAs(t); len(sas) != 2 {
		t.Errorf("%d SAs, want 2", len(sas))
	}
}
