package app

import (
	"net/netip"
	"testing"

	"caponier/internal/capture"
	"caponier/internal/ipsec"
	"caponier/internal/netio/overhear"
)

func TestOverhearing(t *testing.T) {
	local, remote := netip.MustParseAddrPort("192.0.2.1:0"), netip.MustParseAddrPort("192.0.2.2:0")
	in := ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: 0x1001}
	out := ipsec.SAID{Direction: ipsec.Out, Protocol: ipsec.ESP, SPI: 0x1002, Peer: remote.Addr()}
	own := map[ipsec.SAID]string{in: "lan", out: "lan"}
	var tap capture.Tap
	session, err := tap.Open("peer")
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	l := listening{
		listeners: capture.Listeners{session}, at: make(map[ipsec.SAID]sighting),
		owner: func(id ipsec.SAID) (string, string, bool) { tunnel, ok := own[id]; return "peer", tunnel, ok },
	}
	hear := func(src, dst netip.AddrPort, outgoing bool, spi ipsec.SPI, sequence uint32, device int) {
		l.hear(&overhear.Packet{Outgoing: outgoing, Src: src, Dst: dst, Protocol: ipsec.ESP, SPI: spi, Sequence: sequence, Device: device, Data: []byte{byte(sequence)}})
	}
	hear(local, remote, true, 0x1002, 1, 7) // a VLAN
	hear(local, remote, true, 0x1002, 1, 3) // and the device below it
	hear(remote, local, false, 0x1001, 2, 3)
	hear(remote, local, false, 0x1001, 2, 7)
	hear(remote, local, false, 0x1001, 2, 3) // replayed
	hear(remote, local, false, 0x1001, 2, 7)
	hear(local, remote, true, 0x1002, 4, 7)
	hear(local, remote, true, 0x1001, 5, 3)  // somebody else's
	hear(remote, local, false, 0x1003, 6, 3) // likewise
	got := session.Read(t.Context(), 1<<20)
	if len(got) != 4 {
		t.Fatalf("%d packets: %+v", len(got), got)
	}
	for i, want := range []struct {
		d    ipsec.Direction
		data byte
	}{{ipsec.Out, 1}, {ipsec.In, 2}, {ipsec.In, 2}, {ipsec.Out, 4}} {
		if p := got[i]; p.Direction != want.d || p.Data[0] != want.data || p.Connection != "peer" || p.Tunnel != "lan" || p.Side != capture.Outer {
			t.Errorf("packet %d is %+v", i, p)
		}
	}
}
