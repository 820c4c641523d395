package vm

import (
	"strings"
	"testing"
	"time"

	"caponier/internal/ipsec"
	"caponier/test/interop"
)

// transportCase is caponier's plane in user space at one end of transport mode,
// and strongSwan with the kernel at the other.
type transportCase struct {
	name          string
	v6, nat       bool
	encapsulation string
}

var transportCases = []transportCase{
	{"IPv4", false, false, "never"},
	{"IPv6", true, false, "never"},
	{"IPv4 in UDP", false, false, "always"},
	{"caponier behind a NAT", false, true, "auto"},
}

// TestTransportWithStrongSwan negotiates transport mode in both roles, and has
// the kernel's own ESP at the far end of pings of many sizes and of TCP.
func TestTransportWithStrongSwan(t *testing.T) {
	for _, c := range transportCases {
		if !*long && c.name != "IPv4" && !c.nat {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(t) })
	}
}

func (c transportCase) run(t *testing.T) {
	n := newTransportNetwork(t, c.nat)
	// What the kernel needs is loaded before somebody waits for it.
	for _, src := range []string{"192.0.2.8", "2001:db8::8"} {
		_, err := n.B.Gateway.Run(t.Context(), "ip", "xfrm", "state", "add", "src", src, "dst", src, "proto", "esp", "spi", "0x999",
			"mode", "transport", "aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("7a", 36), "128")
		must(t, err)
	}
	_, err := n.B.Gateway.Run(t.Context(), "ip", "xfrm", "state", "flush")
	must(t, err)
	a, b := n.A.Outside, n.B.Outside
	aSeen := n.A.Seen
	if c.v6 {
		a, b, aSeen = n.A.Outside6, n.B.Outside6, n.A.Outside6
	}
	const connection, tunnel, secret = "hosts", "all", "correct horse battery staple"
	near := interop.StartCaponier(t, n.A.Gateway, interop.CaponierConfig{
		PSK: secret,
		Connections: map[string]interop.Peer{connection: {
			Local:         interop.Party{Address: []string{a.String()}, ID: "a.example", Auth: "psk", PSKFile: interop.PSKFile},
			Remote:        interop.Party{Address: []string{b.String()}, ID: "b.example", Auth: "psk", PSKFile: interop.PSKFile},
			Encapsulation: c.encapsulation,
			Tunnels: map[string]interop.Tunnel{tunnel: {
				Mode: "transport", Local: []string{a.String()}, Remote: []string{b.String()},
				Proposals: []string{"aes256gcm16"},
			}},
		}},
	})
	far := interop.StartStrongSwan(t, n.B.Gateway, interop.Config{
		Kernel: true,
		PSKs:   []interop.PSK{{IDs: []string{"a.example", "b.example"}, Secret: secret}},
		Connections: []interop.Connection{{
			Name: connection, LocalAddrs: []string{b.String()}, RemoteAddrs: []string{aSeen.String()},
			Encap: c.encapsulation == "always",
			Local: interop.Auth{Auth: "psk", ID: "b.example"}, Remote: interop.Auth{Auth: "psk", ID: "a.example"},
			Children: []interop.Child{{Name: tunnel, Proposals: "aes256gcm16", Extra: []string{"mode = transport"}}},
		}},
	})
	for _, initiator := range []string{"caponier", "strongSwan"} {
		if initiator == "strongSwan" && c.nat {
			continue // it could not reach the other
		}
		if initiator == "caponier" {
			near.MustConnect(t, connection+"/"+tunnel)
		} else {
			far.MustInitiate(t, tunnel)
		}
		sas := near.SAs(t)
		for _, sa := range sas {
			if sa.Mode != ipsec.Transport {
				t.Errorf("caponier's SA is %+v", sa)
			}
		}
		if len(sas) != 2 {
			t.Errorf("caponier has %d SAs", len(sas))
		}
		for _, size := range []int{56, 1300, 1472, 4000} {
			interop.PingSize(t, n.A.Gateway, b, size)
		}
		interop.Transfer(t, n.A.Gateway, n.B.Gateway, b, 1<<18)
		near.Rekey(t, connection+"/"+tunnel)
		interop.Transfer(t, n.A.Gateway, n.B.Gateway, b, 1<<16)
		if initiator == "caponier" {
			near.Disconnect(t, connection)
		}
		interop.Eventually(t, 10*time.Second, "the tunnel is gone", func() bool {
			return initiator != "caponier" || len(near.SAs(t)) == 0
		})
	}
}

func newTransportNetwork(t *testing.T, nat bool) *interop.Network {
	if nat {
		return interop.NewNATNetwork(t)
	}
	return interop.NewNetwork(t)
}
