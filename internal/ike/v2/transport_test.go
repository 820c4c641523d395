package v2

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

func oneHost(a netip.Addr) []ipsec.Selector {
	return []ipsec.Selector{ipsec.FromPrefix(netip.PrefixFrom(a, a.BitLen()))}
}

// hostPair configures one tunnel in transport mode between the gateways, which
// know each other by these addresses.
func (w *world) hostPair(leftSeen, rightSeen netip.Addr, change ...func(l, r *Connection)) (l, r *Connection) {
	return w.pskPair(append([]func(l, r *Connection){func(l, r *Connection) {
		l.Children, r.Children = l.Children[:1], r.Children[:1]
		a, b := l.Children[0], r.Children[0]
		a.Mode, a.Local, a.Remote = ipsec.Transport, oneHost(leftAddr), oneHost(rightSeen)
		b.Mode, b.Local, b.Remote = ipsec.Transport, oneHost(rightAddr), oneHost(leftSeen)
	}}, change...)...)
}

// RFC 7296, Section 1.3.1.
func TestTransportMode(t *testing.T) {
	w := newWorld(t, 1)
	w.hostPair(leftAddr, rightAddr)
	w.up(Initiate{})
	modes := func() {
		t.Helper()
		for _, g := range []*gateway{w.left, w.right} {
			for _, sa := range g.sad {
				if sa.Mode != ipsec.Transport || sa.Original != nil || !slices.Equal(sa.LocalTS, oneHost(g.addr)) {
					t.Errorf("%s has %s mode for %v, original %v", g.name, sa.Mode, sa.LocalTS, sa.Original)
				}
			}
			if c := g.machine().Status().Children[0]; c.Mode != ipsec.Transport {
				t.Errorf("%s shows %s mode", g.name, c.Mode)
			}
		}
	}
	modes()
	for _, g := range []*gateway{w.left, w.right} {
		g.order1(RekeyChild{Name: "lan"})
		w.run(30 * time.Second)
		w.check(1)
		modes()
	}
	w.left.order1(DeleteChild{Name: "lan"})
	w.run(30 * time.Second)
	w.right.order1(CreateChild{Child: w.right.conns[0].Children[0]})
	w.run(30 * time.Second)
	w.check(1)
	modes()
}

// The policies of the ends differ: neither takes another mode than configured.
func TestModesDiffer(t *testing.T) {
	for name, c := range map[string]struct {
		change      func(l, r *Connection)
		left, right string
		notify      message.NotifyType
	}{
		// The responder declines, and the initiator leaves it.
		"responder in tunnel mode": {func(_, r *Connection) { r.Children[0].Mode = ipsec.Tunnel }, fault.CodeMode, "", 0},
		"initiator in tunnel mode": {func(l, _ *Connection) { l.Children[0].Mode = ipsec.Tunnel }, "no-proposal-chosen", fault.CodeMode, 0},
		"selectors of others":      {func(_, r *Connection) { r.Children[0].Local = sel(t, "10.9.0.1/32") }, "ts-unacceptable", "ts-unacceptable", 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.hostPair(leftAddr, rightAddr, c.change)
			w.initiate(Initiate{})
			w.run(30 * time.Second)
			w.left.mustBe(t, Established)
			w.left.mustReport(t, ChildFailed, c.left)
			if c.right != "" {
				w.right.mustReport(t, ChildFailed, c.right)
			}
			w.check(0)
		})
	}
}

// An initiator whose tunnel is not for itself says so, and asks nobody.
func TestTransportModeIsForHosts(t *testing.T) {
	w := newWorld(t, 1)
	w.hostPair(leftAddr, rightAddr, func(l, _ *Connection) { l.Children[0].Local = sel(t, "10.1.0.0/16") })
	w.initiate(Initiate{})
	w.run(30 * time.Second)
	w.left.mustReport(t, IKEFailed, "ts-unacceptable")
}

// A policy for a network is narrowed to the very host that calls.
func TestTransportModeNarrowsToHosts(t *testing.T) {
	w := newWorld(t, 1)
	w.hostPair(leftAddr, rightAddr, func(_, r *Connection) {
		p, _ := leftAddr.Prefix(16)
		r.Children[0].Remote = []ipsec.Selector{ipsec.FromPrefix(p)}
	})
	w.up(Initiate{})
	for _, sa := range w.right.sad {
		if !slices.Equal(sa.RemoteTS, oneHost(leftAddr)) {
			t.Errorf("the SA is for %v", sa.RemoteTS)
		}
	}
}

// RFC 7296, Section 2.23.1, with its example: a NAT on one side, and on both.
func TestTransportModeThroughNAT(t *testing.T) {
	for _, both := range []bool{false, true} {
		w := newWorld(t, 1)
		w.nat = &natBox{shift: 20000, both: both}
		rightSeen := rightAddr
		if both {
			rightSeen = farNATAddr
		}
		w.hostPair(natAddr, rightSeen)
		m := NewInitiator(&w.left.env, w.left.conns[0], netip.AddrPortFrom(leftAddr, 500), netip.AddrPortFrom(rightSeen, 500))
		w.left.machines = append(w.left.machines, m)
		w.left.step(m, Initiate{})
		w.run(20 * time.Second)
		w.left.mustBe(t, Established)
		w.right.mustBe(t, Established)
		as := func() {
			t.Helper()
			for _, c := range []struct {
				g             *gateway
				local, remote netip.Addr // as this end sees them
				original      ipsec.Pair // as the peer does
			}{
				{w.left, leftAddr, rightSeen, ipsec.Pair{Local: natAddr, Remote: rightAddr}},
				{w.right, rightAddr, natAddr, ipsec.Pair{Local: rightSeen, Remote: leftAddr}},
			} {
				if len(c.g.sad) != 2 {
					t.Errorf("both %v: %s has %d SAs", both, c.g.name, len(c.g.sad))
				}
				for _, sa := range c.g.sad {
					if sa.Mode != ipsec.Transport || !sa.Encap || sa.Original == nil || *sa.Original != c.original ||
						!slices.Equal(sa.LocalTS, oneHost(c.local)) || !slices.Equal(sa.RemoteTS, oneHost(c.remote)) {
						t.Errorf("both %v: %s has %v === %v, original %v", both, c.g.name, sa.LocalTS, sa.RemoteTS, sa.Original)
					}
				}
			}
		}
		as()
		for _, g := range []*gateway{w.left, w.right} {
			g.order1(RekeyChild{Name: "lan"})
			w.run(30 * time.Second)
			as()
		}
	}
}

// A tunnel that goes on in tunnel mode keeps the peer's own addresses: they are
// not substituted for it.
func TestTunnelModeThroughNATKeepsAddresses(t *testing.T) {
	w := newWorld(t, 1)
	w.nat = &natBox{shift: 20000}
	w.hostPair(natAddr, rightAddr, func(l, r *Connection) {
		l.Children[0].Mode, r.Children[0].Mode = ipsec.Tunnel, ipsec.Tunnel
		r.Children[0].Remote = oneHost(leftAddr)
	})
	w.initiate(Initiate{})
	w.run(20 * time.Second)
	for _, sa := range w.right.sad {
		if !slices.Equal(sa.RemoteTS, oneHost(leftAddr)) || sa.Original != nil {
			t.Errorf("the SA is for %v, original %v", sa.RemoteTS, sa.Original)
		}
	}
	w.check(1)
}

// What a peer says of TFC padding and of later fragments changes nothing here,
// and is no error (RFC 7296, Section 3.10.1 and 1.3.1).
func TestNotificationsThatAskForNothing(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	w.up(Initiate{})
	l := w.left.machine()
	lan := w.left.conns[0].Children[1]
	task := &createChild{conf: lan}
	kind, payloads, ok := task.request(l)
	if !ok {
		t.Fatal("no request")
	}
	payloads = append(payloads,
		&message.Notify{Kind: message.ESPTFCPaddingNotSupported},
		&message.Notify{Kind: message.NonFirstFragmentsAlso},
		&message.Notify{Kind: message.NotifyType(40000)},
		&message.VendorID{Data: []byte("somebody")})
	l.now = w.now
	l.launch(kind, payloads, task)
	w.left.step(l, CheckLiveness{}) // carries out what was launched
	w.run(20 * time.Second)
	w.check(2)
}
