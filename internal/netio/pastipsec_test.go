package netio

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"caponier/internal/lab/netns"
)

// A port of IKE speaks past policies that block everything, and takes the
// non-ESP marker off and puts it before messages (RFC 3948, Section 2.2).
func TestIKEPassesPolicies(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var ns [2]netns.NS
	for i := range ns {
		var err error
		ns[i], err = netns.Create(fmt.Sprintf("cpnetio-%d-%d", os.Getpid(), i))
		must(err)
		t.Cleanup(func() { _ = ns[i].Delete() })
	}
	must(ns[0].IP("link", "add", "w0", "type", "veth", "peer", "name", "w0", "netns", ns[1].Name))
	addrs := [2][2]netip.Addr{
		{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
	}
	for i := range ns {
		must(ns[i].Addr("w0", netip.PrefixFrom(addrs[i][0], 24)))
		must(ns[i].Addr("w0", netip.PrefixFrom(addrs[i][1], 64)))
		must(ns[i].IP("link", "set", "w0", "up"))
	}
	var ports [2]*IKEPort
	for i := range ns {
		must(ns[i].Do(func() (err error) {
			ports[i], err = ListenNAT(4500, SocketOptions{PastIPsec: true, UDPEncap: true})
			return err
		}))
		t.Cleanup(func() { ports[i].Close() })
	}
	exchange := func(v int, what string) {
		t.Helper()
		for i := range ports {
			message := []byte(what)
			must(ports[i].Send(Datagram{
				Data: message, Local: netip.AddrPortFrom(addrs[i][v], 4500), Remote: netip.AddrPortFrom(addrs[1-i][v], 4500),
			}))
			got := make(chan Datagram, 1)
			go func() {
				d, _ := ports[1-i].Receive()
				got <- d
			}()
			select {
			case d := <-got:
				if !bytes.Equal(d.Data, message) || d.Remote.Addr() != addrs[i][v] {
					t.Errorf("%s: got %q from %v", what, d.Data, d.Remote)
				}
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: nothing comes from %v", what, addrs[i][v])
			}
		}
	}
	for v := range 2 { // neighbours are found before the policies block them
		exchange(v, "before")
	}
	for _, dir := range []string{"in", "out"} {
		for _, all := range []string{"0.0.0.0/0", "::/0"} {
			must(ns[0].IP("xfrm", "policy", "add", "src", all, "dst", all, "dir", dir, "action", "block"))
		}
	}
	exchange(0, "through IPv4")
	must(ns[0].IP("neigh", "replace", addrs[1][1].String(), "dev", "w0", "nud", "permanent", "lladdr", mac(t, ns[1])))
	must(ns[1].IP("neigh", "replace", addrs[0][1].String(), "dev", "w0", "nud", "permanent", "lladdr", mac(t, ns[0])))
	exchange(1, "through IPv6")
}

// mac is the address of w0 on its link.
func mac(t *testing.T, ns netns.NS) string {
	t.Helper()
	var out string
	if err := ns.Do(func() error {
		dev, err := net.InterfaceByName("w0")
		if err == nil {
			out = dev.HardwareAddr.String()
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return out
}
