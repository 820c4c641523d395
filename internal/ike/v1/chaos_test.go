package v1

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/step"
	"caponier/internal/ike/v2/conf"
	"caponier/internal/ipsec"
)

var chaosSeeds = flag.Int("chaos-seeds", 0, "how many seeds TestChaos tries, instead of its few")

// up sets up everything between the two gateways.
func up(t *testing.T, seed uint64) (*world, *Machine) {
	t.Helper()
	w := newWorld(t, seed)
	w.connect()
	m := w.left.initiate(false)
	w.run(2 * time.Second)
	w.mustMatch(1)
	if t.Failed() {
		t.FailNow()
	}
	return w, m
}

// isUp reports whether both gateways have an IKE SA and a pair of IPsec SAs.
func (w *world) isUp() bool {
	for _, g := range []*gateway{w.left, w.right} {
		if !slices.ContainsFunc(g.machines, func(m *Machine) bool {
			return m.state == established && slices.ContainsFunc(m.children, func(c *child) bool { return c.outUp })
		}) {
			return false
		}
	}
	return true
}

// live returns the one established machine of a gateway.
func (g *gateway) live() *Machine {
	g.w.t.Helper()
	var found *Machine
	for _, m := range g.machines {
		if m.state == established {
			if found != nil {
				g.w.t.Fatalf("%s has several IKE SAs", g.name)
			}
			found = m
		}
	}
	if found == nil {
		g.w.t.Fatalf("%s has no IKE SA: %s", g.name, g.failure())
	}
	return found
}

// TestEveryMessageLostOnce loses each of the first messages in turn: repetitions
// bring both ends to the same SAs (RFC 2408, Section 5.1).
func TestEveryMessageLostOnce(t *testing.T) {
	for lost := range 9 {
		t.Run(fmt.Sprint(lost+1), func(t *testing.T) {
			w := newWorld(t, 7)
			w.connect()
			n := 0
			w.mangle = func(f flight) []flight {
				n++
				if n == lost+1 {
					return nil
				}
				return []flight{f}
			}
			w.left.initiate(true)
			w.run(20 * time.Second)
			w.mustMatch(1)
		})
	}
}

// TestEveryMessageTwice sends each message again at once and after a second: no
// copy is taken for a new message.
func TestEveryMessageTwice(t *testing.T) {
	w := newWorld(t, 8)
	w.connect()
	w.mangle = func(f flight) []flight {
		late := f
		late.at = late.at.Add(time.Second)
		return []flight{f, f, late}
	}
	m := w.left.initiate(false)
	w.run(5 * time.Second)
	w.left.step(m, step.RekeyChild{})
	w.run(30 * time.Second)
	w.mustMatch(1)
	for _, g := range []*gateway{w.left, w.right} {
		if g.count(step.ChildUp) != 1 || g.count(step.ChildRekeyed) != 1 || g.count(step.IKEUp) != 1 {
			t.Errorf("%s: %+v", g.name, g.notices)
		}
	}
}

// TestChaos loses, delays, repeats and damages messages at random while both ends
// rekey everything, often at once. Packets flow all the while, and none is lost; at
// the end both have the same one pair.
func TestChaos(t *testing.T) {
	seeds := 200
	if testing.Short() {
		seeds = 20
	}
	if *chaosSeeds > 0 {
		seeds = *chaosSeeds
	}
	neverUp := 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, uint64(seed))
			l, r := w.connect()
			for _, c := range []*Connection{l, r} {
				c.DPD = 20 * time.Second
				if seed%3 == 0 {
					c.GM.QuickHash = keys.QuickRFC
				}
			}
			if seed%2 == 0 {
				w.natShift = 1000
			}
			w.mangle = func(f flight) []flight {
				switch x := w.rng.IntN(100); {
				case x < 15:
					return nil
				case x < 25:
					f.at = f.at.Add(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
					return []flight{f}
				case x < 33:
					again := f
					again.at = again.at.Add(time.Duration(w.rng.IntN(5000)) * time.Millisecond)
					return []flight{f, again}
				case x < 38:
					// Damage behind the first four messages, which nothing protects: what is wrong
					// in those ends a set-up.
					if h := header(t, f.ike); h.Flags.Has(isakmp.FlagEncrypted) && h.Exchange != isakmp.MainMode {
						bad := f
						bad.ike = bytes.Clone(f.ike)
						bad.ike[28+w.rng.IntN(len(bad.ike)-28)] ^= 1 << w.rng.IntN(8)
						return []flight{bad, f}
					}
				}
				return []flight{f}
			}
			w.left.initiate(false)
			w.run(40 * time.Second)
			if !w.isUp() {
				// The link was too bad to begin with: then nothing may be left.
				neverUp++
				w.mangle = nil
				w.run(5 * time.Minute)
				if len(w.left.machines)+len(w.right.machines) > 0 {
					w.mustMatch(1)
				}
				return
			}
			for range 12 {
				for _, g := range []*gateway{w.left, w.right} {
					for _, m := range slices.Clone(g.machines) {
						switch w.rng.IntN(5) {
						case 0:
							g.step(m, step.RekeyIKE{})
						case 1, 2:
							g.step(m, step.RekeyChild{})
						}
					}
				}
				for range 20 {
					w.run(time.Second)
					w.left.sendESP()
					w.right.sendESP()
				}
			}
			w.mangle = nil
			w.run(3 * time.Minute)
			for _, g := range []*gateway{w.left, w.right} {
				if g.lost+g.count(step.ChildDown) > 0 {
					t.Errorf("%s: %v", g.name, reported(g))
				}
			}
			w.mustMatch(1)
			w.left.live()
			w.right.live()
			if w.espSent < 400 || w.espLost > 0 {
				t.Errorf("%d of %d packets were lost", w.espLost, w.espSent)
			}
		})
	}
	if neverUp > seeds/10 {
		t.Errorf("%d of %d seeds never came up: the test says little", neverUp, seeds)
	}
}

// TestCrossedQuickModes lets both ends replace the same pair at the same moment:
// one new pair remains, the same at both.
func TestCrossedQuickModes(t *testing.T) {
	for seed := range uint64(20) {
		w, _ := up(t, seed)
		left, right := w.left.live(), w.right.live()
		w.left.step(left, step.RekeyChild{})
		w.right.step(right, step.RekeyChild{})
		for range 200 {
			w.run(100 * time.Millisecond)
			w.left.sendESP()
			w.right.sendESP()
		}
		w.run(2 * time.Minute)
		w.mustMatch(1)
		if w.espLost > 0 {
			t.Errorf("seed %d: %d of %d packets were lost", seed, w.espLost, w.espSent)
		}
	}
}

// TestCrossedMainModes lets both ends set up a new IKE SA at the same moment: one
// remains, the same at both, and the IPsec SAs with it.
func TestCrossedMainModes(t *testing.T) {
	for seed := range uint64(20) {
		w, _ := up(t, seed)
		left, right := w.left.live(), w.right.live()
		w.left.step(left, step.RekeyIKE{})
		w.right.step(right, step.RekeyIKE{})
		w.run(2 * time.Minute)
		w.mustMatch(1)
		l, r := w.left.live(), w.right.live()
		if l.spiI != r.spiI || l.spiR != r.spiR {
			t.Errorf("seed %d: %s/%s here, %s/%s there", seed, l.spiI, l.spiR, r.spiI, r.spiR)
		}
		if l == left || r == right || len(l.children) != 1 || len(r.children) != 1 || len(w.left.machines)+len(w.right.machines) != 2 {
			t.Errorf("seed %d: %d and %d machines", seed, len(w.left.machines), len(w.right.machines))
		}
		w.left.step(l, step.RekeyChild{})
		w.run(time.Minute)
		w.mustMatch(1)
	}
}

// TestInitiatedByBoth lets both ends begin at once, without an IKE SA before.
func TestInitiatedByBoth(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed)
		w.connect()
		w.left.initiate(true)
		w.right.initiate(true)
		w.run(3 * time.Minute)
		w.left.live()
		w.right.live()
		w.mustMatch(1)
	}
}

// TestCrossedLate lets both ends begin main mode at about the same time, first without
// an IKE SA and then to replace it, over a link on which every message takes up to
// three seconds, so that it is repeated and the ends see things in different orders.
// The same one IKE SA remains at both ends, and from then on nothing changes.
func TestCrossedLate(t *testing.T) {
	settled := func(w *world) {
		w.t.Helper()
		w.mangle = nil
		w.run(2 * time.Minute)
		w.mustMatch(1)
		l, r := w.left.live(), w.right.live()
		if l.spiI != r.spiI || l.spiR != r.spiR || len(w.left.machines)+len(w.right.machines) != 2 {
			w.t.Errorf("%s/%s here, %s/%s there, %d and %d machines", l.spiI, l.spiR, r.spiI, r.spiR, len(w.left.machines), len(w.right.machines))
		}
		before := [2]int{len(reported(w.left)), len(reported(w.right))}
		w.run(20 * time.Minute)
		if after := [2]int{len(reported(w.left)), len(reported(w.right))}; after != before {
			w.t.Errorf("it goes on: %v; %v", reported(w.left)[before[0]:], reported(w.right)[before[1]:])
		}
	}
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed)
			l, r := w.connect()
			l.DPD, r.DPD = 30*time.Second, 30*time.Second
			late := func(f flight) []flight {
				f.at = f.at.Add(time.Duration(w.rng.IntN(3000)) * time.Millisecond)
				return []flight{f}
			}
			w.mangle = late
			w.left.initiate(true)
			w.after(time.Duration(w.rng.IntN(6000))*time.Millisecond, func() { w.right.initiate(true) })
			w.run(time.Minute)
			settled(w)
			w.mangle = late
			for _, g := range []*gateway{w.left, w.right} {
				m := g.live()
				w.after(time.Duration(w.rng.IntN(6000))*time.Millisecond, func() { g.step(m, step.RekeyIKE{}) })
			}
			for range 60 {
				w.run(time.Second)
				w.left.sendESP()
				w.right.sendESP()
			}
			settled(w)
			if w.left.lost+w.right.lost+w.espLost > 0 {
				t.Errorf("%d packets were lost: %v; %v", w.espLost, reported(w.left), reported(w.right))
			}
		})
	}
}

// TestLifetimes lets the clocks do everything for a day: IPsec SAs are replaced
// within the hour, and the IKE SA within the day.
func TestLifetimes(t *testing.T) {
	w := newWorld(t, 11)
	l, _ := w.connect()
	l.Lifetime = 2 * time.Hour
	w.left.initiate(false)
	w.run(time.Second)
	for range 30 {
		w.run(45 * time.Minute)
		for _, g := range []*gateway{w.left, w.right} {
			for id, sa := range g.sad {
				if id.Direction == ipsec.Out && sa.Lifetime.Soft.Time >= sa.Lifetime.Hard.Time {
					t.Errorf("SA %s: soft %s, hard %s", id.SPI, sa.Lifetime.Soft.Time, sa.Lifetime.Hard.Time)
				}
				g.tell(step.Expired{ID: id})
				break
			}
		}
	}
	w.run(3 * time.Minute)
	w.mustMatch(1)
	if n := w.left.count(step.IKERekeyed); n < 10 || w.left.count(step.IKEDown)+w.right.count(step.IKEDown) > 0 {
		t.Errorf("%d new IKE SAs, %s", n, w.left.failure())
	}
}

// TestDeadPeer gives a peer up that does not answer R-U-THERE (RFC 3706, Section
// 5.5), and removes its SAs.
func TestDeadPeer(t *testing.T) {
	w := newWorld(t, 12)
	l, _ := w.connect()
	l.DPD = 10 * time.Second
	w.left.initiate(false)
	w.run(15 * time.Second)
	w.mustMatch(1)
	w.right.dead = true
	w.run(5 * time.Minute)
	if len(w.left.sad) > 0 || len(w.left.machines) > 0 || w.left.count(step.IKEDown) != 1 {
		t.Errorf("%d SAs, %+v", len(w.left.sad), w.left.notices)
	}
	if w.left.notices[len(w.left.notices)-1].Code != "peer-not-responding" {
		t.Error(w.left.failure())
	}
}

// TestSilentPeer gives up a set-up that is not answered, in each state.
func TestSilentPeer(t *testing.T) {
	for after := range 6 {
		w := newWorld(t, 13)
		w.connect()
		n := 0
		w.mangle = func(f flight) []flight {
			if n++; n > after {
				return nil
			}
			return []flight{f}
		}
		w.left.initiate(false)
		w.run(10 * time.Minute)
		if len(w.left.machines)+len(w.right.machines) > 1 || len(w.left.sad)+len(w.right.sad) > 0 {
			t.Errorf("after %d messages: %d and %d machines, %d SAs", after, len(w.left.machines), len(w.right.machines), len(w.left.sad)+len(w.right.sad))
		}
		if w.left.failure() == "" {
			t.Errorf("after %d messages: no failure", after)
		}
	}
}

// TestInstallRefused deletes at both ends what the data plane of one does not take.
func TestInstallRefused(t *testing.T) {
	for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		for _, side := range []string{"left", "right"} {
			w := newWorld(t, 14)
			w.connect()
			g := w.left
			if side == "right" {
				g = w.right
			}
			g.refuse = func(sa ipsec.SA) error {
				if sa.Direction == d {
					return errors.New("no room")
				}
				return nil
			}
			w.left.initiate(false)
			w.run(time.Minute)
			for _, g := range []*gateway{w.left, w.right} {
				for id := range g.sad {
					t.Errorf("%s refuses %s: %s has %v", side, d, g.name, id)
				}
			}
			if g.count(step.ChildDown) == 0 && g.count(step.ChildFailed) == 0 {
				t.Errorf("%s refuses %s: %+v", side, d, g.notices)
			}
		}
	}
}

// TestSeveralPairs sets up one pair of IPsec SAs for each pair of selectors, for
// quick mode has one identity for each side (RFC 2409, Section 5.5).
func TestSeveralPairs(t *testing.T) {
	w := newWorld(t, 15)
	l, r := w.connect()
	l.Children[0].Local = sel(t, "10.1.0.0/16", "10.3.0.0/16")
	r.Children[0].Remote = l.Children[0].Local
	l.Children[0].Remote = sel(t, "10.2.0.0/16", "10.4.0.5-10.4.0.20", "10.5.0.1/32:tcp/80")
	r.Children[0].Local = l.Children[0].Remote
	w.left.initiate(false)
	w.run(10 * time.Second)
	w.mustMatch(6)
	w.left.step(w.left.live(), step.DeleteChild{Name: "lan"})
	w.run(time.Second)
	w.mustMatch(0)
}

// TestRefusedByResponder reports at both ends what is not acceptable, and leaves the
// IKE SA up.
func TestRefusedByResponder(t *testing.T) {
	for _, test := range []struct {
		code   string
		change func(l, r *Connection)
	}{
		{"ts-unacceptable", func(l, _ *Connection) { l.Children[0].Remote = sel(t, "10.9.0.0/16") }},
		{"no-proposal-chosen", func(l, _ *Connection) { l.Children[0].Proposals = []ipsec.Proposal{{sm4gcm}} }},
		{"no-proposal-chosen", func(l, r *Connection) {
			for _, c := range []*Connection{l, r} {
				c.Children[0].Local, c.Children[0].Remote = nil, nil
			}
			l.Children[0].Mode = ipsec.Transport
		}},
	} {
		w := newWorld(t, 16)
		l, r := w.connect()
		test.change(l, r)
		w.left.initiate(false)
		w.run(20 * time.Second)
		w.mustMatch(0)
		for _, g := range []*gateway{w.left, w.right} {
			g.live()
			if g.count(step.ChildFailed) != 1 || g.notices[len(g.notices)-1].Code != test.code {
				t.Errorf("%s, %s: %s %v", test.code, g.name, g.failure(), g.notices)
			}
		}
	}
}

// TestEncapsulation travels in UDP where that is asked for, or a NAT is there, and
// moves to port 4500 (RFC 3947, Section 4). Keepalives are the daemon's to send.
func TestEncapsulation(t *testing.T) {
	for _, test := range []struct {
		left, right conf.Encapsulation
		shift       uint16
		want        bool
	}{
		{conf.EncapAuto, conf.EncapAuto, 0, false},
		{conf.EncapAuto, conf.EncapAuto, 1000, true},
		{conf.EncapAlways, conf.EncapAuto, 0, true},
		{conf.EncapAuto, conf.EncapAlways, 0, true},
		{conf.EncapNever, conf.EncapAuto, 0, false},
		{conf.EncapNever, conf.EncapNever, 1000, false},
	} {
		w := newWorld(t, 17)
		l, r := w.connect()
		l.Encapsulation, r.Encapsulation = test.left, test.right
		w.natShift = test.shift
		if test.shift > 0 {
			r.RemoteAddrs = nil
		}
		w.left.initiate(false)
		w.run(10 * time.Second)
		w.mustMatch(1)
		for _, g := range []*gateway{w.left, w.right} {
			if m := g.live(); m.nat.Encap != test.want {
				t.Errorf("%v: %s has %+v", test, g.name, m.nat)
			}
			for id, sa := range g.sad {
				if sa.Encap != test.want {
					t.Errorf("%v: %s SA %v in UDP: %v", test, g.name, id, sa.Encap)
				}
			}
		}
	}
}

// TestMovedPeer follows a peer whose NAT has a new mapping: its next authentic
// message, or ESP, shows the address.
func TestMovedPeer(t *testing.T) {
	w := newWorld(t, 18)
	_, r := w.connect()
	r.RemoteAddrs = nil
	w.natShift = 1000
	w.left.initiate(false)
	w.run(5 * time.Second)
	w.mustMatch(1)
	w.natShift = 2000
	w.left.step(w.left.live(), step.CheckLiveness{})
	w.run(5 * time.Second)
	w.mustMatch(1)
	if _, remote := w.right.live().Addrs(); remote.Port() != 4500+2000 {
		t.Errorf("the peer is at %s", remote)
	}
	for id, sa := range w.right.sad {
		if sa.Remote.Port() != 4500+2000 {
			t.Errorf("SA %v goes to %s", id, sa.Remote)
		}
	}
}

// reported lists the notices of a gateway, without those of dropped messages.
func reported(g *gateway) (out []string) {
	for _, n := range g.notices {
		if n.Kind != step.PeerDropped {
			out = append(out, fmt.Sprintf("%d %s %v", n.Kind, n.Code, n.Err))
		}
	}
	return out
}
