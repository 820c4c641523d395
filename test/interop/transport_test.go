package interop

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"caponier/internal/ipsec"
)

// hosts is a network whose gateways protect what they send each other, both
// caponier, and transport mode between them.
type hosts struct {
	near, far *Caponier
	a, b      *Site
	// seen are the addresses that the other end knows each by.
	nearSeen, farSeen netip.Addr
}

// startHosts starts a caponier at both sites: A's calls B's. narrow comes behind
// the addresses in selectors.
func startHosts(t testing.TB, n *Network, v6 bool, encapsulation, narrow string) *hosts {
	t.Helper()
	h := &hosts{a: n.A, b: n.B, nearSeen: n.A.Seen, farSeen: n.B.Seen}
	own := [2]netip.Addr{n.A.Outside, n.B.Outside}
	if v6 {
		own = [2]netip.Addr{n.A.Outside6, n.B.Outside6}
		h.nearSeen, h.farSeen = own[0], own[1]
	}
	config := func(local, remote netip.Addr, id, peer string) CaponierConfig {
		return CaponierConfig{
			PSK: "correct horse battery staple",
			Connections: map[string]Peer{connName: {
				Local:         Party{Address: []string{local.String()}, ID: id, Auth: "psk", PSKFile: PSKFile},
				Remote:        Party{Address: []string{remote.String()}, ID: peer, Auth: "psk", PSKFile: PSKFile},
				Encapsulation: encapsulation,
				Tunnels: map[string]Tunnel{tunnelName: {
					Mode: "transport", Local: []string{selector(local, narrow)}, Remote: []string{selector(remote, narrow)}, Start: "trap",
				}},
			}},
		}
	}
	h.near = StartCaponier(t, n.A.Gateway, config(own[0], h.farSeen, "a.example", "b.example"))
	h.far = StartCaponier(t, n.B.Gateway, config(own[1], h.nearSeen, "b.example", "a.example"))
	return h
}

// selector narrows an address in the configuration's form.
func selector(a netip.Addr, narrow string) string {
	switch {
	case narrow == "":
		return a.String()
	case a.Is6():
		return "[" + a.String() + "]:" + narrow
	default:
		return a.String() + ":" + narrow
	}
}

// TestTransportBetweenHosts has two caponiers protect their own packets: the
// kernel hands them over by routes, and gets them back, without a loop.
func TestTransportBetweenHosts(t *testing.T) {
	t.Parallel()
	for _, v6 := range []bool{false, true} {
		for _, encapsulation := range []string{"never", "always"} {
			t.Run(fmt.Sprintf("v6=%v/udp=%s", v6, encapsulation), func(t *testing.T) {
				t.Parallel()
				n := NewNetwork(t)
				h := startHosts(t, n, v6, encapsulation, "")
				outside := StartCapture(t, n.A.Gateway, Outside)
				h.exchange(t)
				outside.Stop(t)
				// Nothing of what was sent is in clear, and ESP no more than that: nothing
				// goes round in circles.
				if leaked := outside.Packets(t, "icmp or tcp or icmp6 and ip6[40] < 133"); len(leaked) > 0 {
					t.Errorf("in clear:\n%s", strings.Join(leaked[:min(10, len(leaked))], "\n"))
				}
				kind := map[string]string{"never": "esp", "always": "udp port 4500"}[encapsulation]
				if esp := outside.Packets(t, kind); len(esp) < 20 || len(esp) > 20000 {
					t.Errorf("%d packets of %s", len(esp), kind)
				}
				for _, sa := range h.near.SAs(t) {
					if sa.Mode != ipsec.Transport || sa.Packets == 0 {
						t.Errorf("an SA is %+v", sa)
					}
				}
			})
		}
	}
}

// exchange sends packets of all sizes between the two ends themselves.
func (h *hosts) exchange(t testing.TB) {
	t.Helper()
	for _, size := range []int{0, 56, 1300, 1472, 4000} {
		PingSize(t, h.a.Gateway, h.farSeen, size)
	}
	if h.nearSeen == h.a.Outside || h.nearSeen == h.a.Outside6 {
		PingSize(t, h.b.Gateway, h.nearSeen, 56)
	}
	own := h.b.Outside
	if h.farSeen.Is6() {
		own = h.b.Outside6
	}
	transfer(t, h.a.Gateway, h.b.Gateway, own, h.farSeen, 1<<20)
}

// TestTransportThroughNAT has checksums mended, which the kernels at both ends
// verify: RFC 7296, Section 2.23.1.
func TestTransportThroughNAT(t *testing.T) {
	t.Parallel()
	n := NewNATNetwork(t)
	h := startHosts(t, n, false, "auto", "")
	h.exchange(t)
	for _, sa := range h.far.SAs(t) {
		if sa.Mode != ipsec.Transport || !sa.Encap || sa.Packets == 0 {
			t.Errorf("an SA is %+v", sa)
		}
	}
	h.near.Rekey(t, target)
	h.exchange(t)
	h.far.Rekey(t, target)
	h.exchange(t)
}

// TestTransportOfOneProtocol protects TCP to a range of ports and drops the rest,
// which no policy lets pass.
func TestTransportOfOneProtocol(t *testing.T) {
	t.Parallel()
	n := NewNetwork(t)
	h := startHosts(t, n, false, "never", "tcp")
	if Reaches(t, n.A.Gateway, h.farSeen) {
		t.Error("an echo request passes, which no policy is for")
	}
	transfer(t, n.A.Gateway, n.B.Gateway, n.B.Outside, h.farSeen, 1<<16)
}
