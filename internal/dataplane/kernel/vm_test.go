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

	"caponier/internal/dataplane"
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

// Where an SA moves, what a packet has asked for gives way. Somebody else's state
// does not: the SA stays where it is.
func TestMoveMeetsAnotherState(t *testing.T) {
	ns := newNamespace(t)
	p := newPlane(t, ns)
	set(t, p, lan(false))
	state := func(verb, dst string, args ...string) {
		t.Helper()
		ipText(t, ns, slices.Concat([]string{"xfrm", "state", verb, "src", "192.0.2.9", "dst", dst, "proto", "esp"}, args)...)
	}
	sa := espSA(ipsec.Out, 0x1000)
	id := sa.ID()
	carries := func(peer string, states int) {
		t.Helper()
		want := "tmpl src 192.0.2.1 dst " + peer + " proto esp spi 0x00001000 reqid 7 mode tunnel"
		if all := policiesOf(t, ns); !slices.ContainsFunc(all, func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("policies %q, want one with %q", all, want)
		}
		id.Peer = netip.MustParseAddr(peer)
		if all := p.SAs(); len(all) != 1 || all[0].ID != id {
			t.Errorf("SAs %+v, want %v", all, id)
		}
		if text := ipText(t, ns, "xfrm", "state"); strings.Count(text, "proto esp") != states {
			t.Errorf("want %d states: %s", states, text)
		}
	}
	to := func(peer string) dataplane.AddressUpdate {
		return dataplane.AddressUpdate{Local: sa.Local, Remote: netip.AddrPortFrom(netip.MustParseAddr(peer), 4500)}
	}

	state("allocspi", "192.0.2.3", "mode", "tunnel", "min", "0x1000", "max", "0x1000")
	if err := p.AddSA(sa); err != nil {
		t.Fatal(err)
	}
	carries("192.0.2.2", 2)
	if err := p.UpdateSA(id, to("192.0.2.3")); err != nil {
		t.Fatal(err)
	}
	carries("192.0.2.3", 1)

	state("add", "192.0.2.4", "spi", "0x1000", "mode", "tunnel", "aead", "rfc4106(gcm(aes))", "0x"+strings.Repeat("5a", 20), "128")
	if err := p.UpdateSA(id, to("192.0.2.4")); !errors.Is(err, dataplane.ErrExists) {
		t.Errorf("got %v", err)
	}
	carries("192.0.2.3", 2)
}
