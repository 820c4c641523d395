package userspace

import (
	"slices"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/netio"
	"caponier/internal/packet"
)

// cutDatagram cuts an inner datagram of n octets into fragments.
func cutDatagram(t testing.TB, n int, id byte) (list [][]byte) {
	t.Helper()
	b := datagram(n, false)
	b[5] = id
	b[10], b[11] = 0, 0
	sum := packet.Checksum(b[:20])
	b[10], b[11] = byte(sum>>8), byte(sum)
	var p packet.Info
	var f packet.Fragmenter
	p.Decode(b)
	if _, ok := f.Start(b, &p, 600, 0); !ok {
		t.Fatal("cannot cut it")
	}
	dst := make([]byte, 600)
	for m := f.Next(dst); m > 0; m = f.Next(dst) {
		list = append(list, slices.Clone(dst[:m]))
	}
	return list
}

// TestFragmentsFollowTheFirst has a tunnel for one port, and a policy that lets all
// else pass in clear: later fragments show no port.
func TestFragmentsFollowTheFirst(t *testing.T) {
	f := newFitPlanes(t, 1400, func(sa *ipsec.SA) { sa.LocalTS, sa.RemoteTS = ports(sa.LocalTS), ports(sa.RemoteTS) })
	clear, clearFar := netio.NewMemPair(64, 9000)
	f.plane[0].out[0].exits[exitClear4] = clear
	policy := testPolicy(0)
	policy.Local, policy.Remote = ports(policy.Local), ports(policy.Remote)
	rest := testPolicy(0)
	rest.Name, rest.Action = "rest", ipsec.Bypass
	if err := f.plane[0].SetPolicies([]ipsec.Policy{policy, rest}); err != nil {
		t.Fatal(err)
	}
	offered := func(list [][]byte) (out []offer) {
		for _, b := range list {
			out = append(out, plain(b))
		}
		return out
	}
	leaked := func() int { return len(drain(t, clear, clearFar)) }

	// The other plane gets the whole, or fragments of what is sealed.
	list := cutDatagram(t, 1500, 1)
	wire, _ := f.send(offered(list)...)
	if got := f.arrive(wire); len(got) != 1 || len(got[0]) != 1500 || leaked() != 0 {
		t.Errorf("%d packets arrive; counters %v", len(got), f.plane[0].Counters())
	}
	// Without the first, nobody knows where the others belong.
	list = cutDatagram(t, 1500, 2)
	if wire, _ = f.send(offered(list[1:])...); len(wire) != 0 || leaked() != 0 {
		t.Errorf("%d fragments left sealed", len(wire))
	}
	// The first of another datagram does not tell.
	if wire, _ = f.send(plain(cutDatagram(t, 1500, 3)[0])); len(wire) != 0 || leaked() != 0 {
		t.Errorf("%d fragments left sealed", len(wire))
	}
	// What is for the other policy passes in clear, cut as the link wants it.
	other := cutDatagram(t, 12000, 4)
	other[0][20] = 0xff // another port
	if wire, _ = f.send(offered(other)...); len(wire) != 0 || leaked() != 2 {
		t.Errorf("a datagram of the other policy: %d left sealed", len(wire))
	}
}

// The receiver admits later fragments by the first too (RFC 4301, Section 7.3).
func TestFragmentsAreAdmittedByTheFirst(t *testing.T) {
	f := newFitPlanes(t, 1400, nil) // plane 0 sends whatever it likes
	in := testSA(ipsec.In, 1001, 1, true)
	if err := f.plane[1].DeleteSA(in.ID()); err != nil {
		t.Fatal(err)
	}
	in.LocalTS, in.RemoteTS = ports(in.LocalTS), ports(in.RemoteTS)
	if err := f.plane[1].AddSA(in); err != nil {
		t.Fatal(err)
	}
	send := func(list ...[]byte) int {
		var offers []offer
		for _, b := range list {
			offers = append(offers, plain(b))
		}
		wire, _ := f.send(offers...)
		if len(wire) != len(list) {
			t.Fatalf("%d of %d packets left", len(wire), len(list))
		}
		return len(f.arrive(wire))
	}
	list := cutDatagram(t, 1500, 1)
	if n := send(list...); n != len(list) {
		t.Errorf("%d of %d fragments were admitted", n, len(list))
	}
	other := cutDatagram(t, 1500, 2)
	other[0][20] = 0xff // a port that the SA is not for
	if n := send(other...); n != 0 {
		t.Errorf("%d fragments of another port were admitted", n)
	}
	if n := send(cutDatagram(t, 1500, 3)[1:]...); n != 0 {
		t.Errorf("%d fragments without a first were admitted", n)
	}
}
