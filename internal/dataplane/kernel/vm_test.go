//go:build vm

// These tests need a kernel with ESP and AH:
//
//	go test -tags vm -exec "$PWD/scripts/vm.sh" ./internal/dataplane/kernel
package kernel

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

func espSA(d ipsec.Direction, spi ipsec.SPI) ipsec.SA {
	return ipsec.SA{
		SPI: spi, Protocol: ipsec.ESP, Direction: d,
		Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("192.0.2.2:4500"),
		Encr:    ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
		EncrKey: secret.New(slices.Repeat([]byte{byte(spi)}, 20)), ReqID: 7,
		LocalTS: selectors("10.1.0.0/16"), RemoteTS: selectors("10.2.0.0/16"), Connection: "peer", Tunnel: "lan",
	}
}

func TestStatesServePolicies(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	set(t, p, lan(false))
	shows := func(want string) {
		t.Helper()
		i := slices.IndexFunc(policiesOf(t, ns), func(s string) bool { return strings.Contains(s, "dir out") })
		if i < 0 || !strings.Contains(policiesOf(t, ns)[i], want) {
			t.Errorf("policies %q, want out with %q", policiesOf(t, ns), want)
		}
	}
	shows("action block")
	for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		if err := p.AddSA(espSA(d, 0x1000)); err != nil {
			t.Fatal(err)
		}
	}
	shows("tmpl src 192.0.2.1 dst 192.0.2.2")
	if err := p.DeleteSA(ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: 0x1000, Peer: netip.MustParseAddr("192.0.2.2")}); err != nil {
		t.Fatal(err)
	}
	shows("action block")
}

// An SA that cannot have its policies is not left in the kernel: somebody else's
// policy is in the very place of one that it needs.
func TestNothingIsHalfInstalled(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	set(t, p, lan(true))
	ipText(t, ns, "xfrm", "policy", "add", "src", "10.1.9.0/24", "dst", "10.2.0.0/16", "dir", "out", "priority", "99999999")
	before := policiesOf(t, ns)
	sa := espSA(ipsec.Out, 0x1000)
	sa.LocalTS = selectors("10.1.9.0/24")
	err := p.AddSA(sa)
	if _, is := errors.AsType[*ForeignError](err); !is {
		t.Errorf("got %v", err)
	}
	if states := ipText(t, ns, "xfrm", "state"); strings.Contains(states, "proto esp") || len(p.SAs()) != 0 {
		t.Errorf("a state is left: %s", states)
	}
	if after := policiesOf(t, ns); !slices.Equal(before, after) {
		t.Errorf("policies changed: %v", after)
	}
	// Where it goes, the SA comes.
	ipText(t, ns, "xfrm", "policy", "delete", "src", "10.1.9.0/24", "dst", "10.2.0.0/16", "dir", "out")
	if err := p.AddSA(sa); err != nil {
		t.Error(err)
	}
}
