package v2

import (
	"testing"
	"time"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

// aggfragPair is a pair whose tunnels have these settings.
func (w *world) aggfragPair(left, right ipsec.Aggfrag) {
	w.pskPair(func(l, r *Connection) {
		l.Children[0].Aggfrag, r.Children[0].Aggfrag = left, right
	})
}

// TestAggfragIsAgreedOn: both ends use AGGFRAG mode, or neither (RFC 9347, Section
// 5.1), also after each has rekeyed, and when the SA comes by CREATE_CHILD_SA.
func TestAggfragIsAgreedOn(t *testing.T) {
	for _, c := range []struct {
		left, right ipsec.Aggfrag
		on          bool
	}{
		{ipsec.AggfragOff, ipsec.AggfragOff, false},
		{ipsec.AggfragOn, ipsec.AggfragOff, false},
		{ipsec.AggfragOff, ipsec.AggfragOn, false},
		{ipsec.AggfragOn, ipsec.AggfragOn, true},
		{ipsec.AggfragRequired, ipsec.AggfragOn, true},
		{ipsec.AggfragOn, ipsec.AggfragRequired, true},
	} {
		t.Run(c.left.String()+"-"+c.right.String(), func(t *testing.T) {
			w := newWorld(t, 1)
			w.aggfragPair(c.left, c.right)
			w.up(Initiate{})
			same := func() {
				t.Helper()
				for _, g := range []*gateway{w.left, w.right} {
					if len(g.sad) != 2 {
						t.Errorf("%s has %d SAs", g.name, len(g.sad))
					}
					for _, sa := range g.sad {
						sa.Aggfrag.Back = 0
						if sa.Aggfrag != (ipsec.AggfragSA{On: c.on}) {
							t.Errorf("%s: an SA has %+v", g.name, sa.Aggfrag)
						}
					}
				}
			}
			same()
			for _, g := range []*gateway{w.left, w.right} {
				g.order1(RekeyChild{Name: "lan"})
				w.run(30 * time.Second)
				w.check(1)
				same()
			}
			w.left.order1(DeleteChild{Name: "lan"})
			w.run(30 * time.Second)
			w.right.order1(CreateChild{Child: w.right.conns[0].Children[0]})
			w.run(30 * time.Second)
			w.check(1)
			same()
		})
	}
}

// TestAggfragIsRequired: an end that requires it takes no SA without, whichever end
// asks, and deletes what the peer has set up (RFC 9347, Section 5.1).
func TestAggfragIsRequired(t *testing.T) {
	for _, c := range []struct {
		left, right         ipsec.Aggfrag
		leftCode, rightCode string
	}{
		{ipsec.AggfragRequired, ipsec.AggfragOff, fault.CodeAggfrag, ""},
		{ipsec.AggfragOff, ipsec.AggfragRequired, "no-proposal-chosen", fault.CodeAggfrag},
	} {
		t.Run(c.left.String()+"-"+c.right.String(), func(t *testing.T) {
			w := newWorld(t, 1)
			w.aggfragPair(c.left, c.right)
			w.initiate(Initiate{})
			w.run(30 * time.Second)
			w.left.mustBe(t, Established)
			w.left.mustReport(t, ChildFailed, c.leftCode)
			if c.rightCode != "" {
				w.right.mustReport(t, ChildFailed, c.rightCode)
			}
			w.check(0)
		})
	}
}

// TestPaceIsOfOneEnd: each end sends at its own rate, which the other need not know.
func TestPaceIsOfOneEnd(t *testing.T) {
	w := newWorld(t, 1)
	pace := ipsec.Pace{Rate: 10_000, Size: 1000}
	w.pskPair(func(l, r *Connection) {
		l.Children[0].Aggfrag, l.Children[0].Pace = ipsec.AggfragRequired, pace
		r.Children[0].Aggfrag = ipsec.AggfragOn
	})
	w.up(Initiate{})
	for g, want := range map[*gateway]ipsec.Pace{w.left: pace, w.right: {}} {
		for _, sa := range g.sad {
			if sa.Direction == ipsec.Out && sa.Aggfrag.Pace != want {
				t.Errorf("%s sends at %+v", g.name, sa.Aggfrag.Pace)
			}
		}
	}
}

// TestReportsAreAgreedOn: an end with a limit for losses requires reports, which the
// peer brings where it sends at a constant rate; otherwise it declines (RFC 9347,
// Section 5.1).
func TestReportsAreAgreedOn(t *testing.T) {
	limited := ipsec.Pace{Rate: 10_000, LossLimit: 10, LossTime: time.Minute}
	for name, c := range map[string]struct {
		left, right ipsec.Pace
		up          bool
		reports     [2]bool // of left, of right
	}{
		"both":              {limited, limited, true, [2]bool{true, true}},
		"left":              {limited, ipsec.Pace{Rate: 1000}, true, [2]bool{false, true}},
		"right":             {ipsec.Pace{Rate: 1000}, limited, true, [2]bool{true, false}},
		"neither":           {ipsec.Pace{Rate: 1000}, ipsec.Pace{Rate: 1000}, true, [2]bool{}},
		"right has no rate": {limited, ipsec.Pace{}, false, [2]bool{}},
		"left has no rate":  {ipsec.Pace{}, limited, false, [2]bool{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.pskPair(func(l, r *Connection) {
				l.Children[0].Aggfrag, l.Children[0].Pace = ipsec.AggfragRequired, c.left
				r.Children[0].Aggfrag, r.Children[0].Pace = ipsec.AggfragRequired, c.right
			})
			if !c.up {
				w.initiate(Initiate{})
				w.run(30 * time.Second)
				w.check(0)
				return
			}
			w.up(Initiate{})
			for side, g := range []*gateway{w.left, w.right} {
				in := map[ipsec.SPI]bool{}
				for _, sa := range g.sad {
					in[sa.SPI] = in[sa.SPI] || sa.Direction == ipsec.In
				}
				for _, sa := range g.sad {
					if sa.Aggfrag.Reports != c.reports[side] {
						t.Errorf("%s: an SA has %+v", g.name, sa.Aggfrag)
					}
					if sa.Direction == ipsec.Out && !in[sa.Aggfrag.Back] {
						t.Errorf("%s: %s is no inbound SA", g.name, sa.Aggfrag.Back)
					}
				}
			}
		})
	}
}

// TestAggfragFlags: the D flag is for what this end sends. Of a peer that requires
// more, congestion information where no constant rate brings it, or what has no
// name yet, a request is declined, and its response is no agreement (RFC 9347, Section 5.1; RFC 9347, Section 6.1.4).
func TestAggfragFlags(t *testing.T) {
	tunnel := Child{Aggfrag: ipsec.AggfragOn}
	off, on, whole := ipsec.AggfragSA{}, ipsec.AggfragSA{On: true}, ipsec.AggfragSA{On: true, Whole: true}
	for name, c := range map[string]struct {
		notify  *message.Notify
		accept  ipsec.AggfragSA
		agreed  ipsec.AggfragSA
		refused bool
	}{
		"none":                  {nil, off, off, false},
		"no flag":               {&message.Notify{Kind: message.UseAggfrag, Data: []byte{0}}, on, on, false},
		"a flag of later times": {&message.Notify{Kind: message.UseAggfrag, Data: []byte{4}}, off, off, true},
		"and another":           {&message.Notify{Kind: message.UseAggfrag, Data: []byte{0x81}}, off, off, true},
		"D":                     {&message.Notify{Kind: message.UseAggfrag, Data: []byte{1}}, whole, whole, false},
		"C":                     {&message.Notify{Kind: message.UseAggfrag, Data: []byte{2}}, off, off, true},
		"without flags":         {&message.Notify{Kind: message.UseAggfrag}, on, on, false},
		"two octets":            {&message.Notify{Kind: message.UseAggfrag, Data: []byte{0, 0}}, off, off, true},
		"another notification":  {&message.Notify{Kind: message.UseTransportMode}, off, off, false},
		"with a protocol and 0": {&message.Notify{Protocol: message.ProtocolESP, Kind: message.UseAggfrag, Data: []byte{0}}, on, on, false},
	} {
		msg := &message.Message{}
		if c.notify != nil {
			msg.Payloads = append(msg.Payloads, c.notify)
		}
		if a, ok := tunnel.AcceptAggfrag(msg); a != c.accept || !ok {
			t.Errorf("%s in a request: %+v, %v", name, a, ok)
		}
		if a, ok := tunnel.AgreedAggfrag(msg); a != c.agreed || ok == c.refused {
			t.Errorf("%s in a response: %+v, %v", name, a, ok)
		}
	}
	paced := Child{Aggfrag: ipsec.AggfragRequired, Pace: ipsec.Pace{Rate: 1000}}
	msg := &message.Message{Payloads: []message.Payload{&message.Notify{Kind: message.UseAggfrag, Data: []byte{3}}}}
	want := ipsec.AggfragSA{On: true, Whole: true, Reports: true, Pace: paced.Pace}
	if a, ok := paced.AcceptAggfrag(msg); a != want || !ok {
		t.Errorf("C and D where there is a constant rate: %+v, %v", a, ok)
	}
	unasked := &message.Message{Payloads: []message.Payload{&message.Notify{Kind: message.UseAggfrag, Data: []byte{0}}}}
	if _, ok := new(Child).AgreedAggfrag(unasked); ok {
		t.Error("a response may take what was not offered")
	}
	hosts := Child{Mode: ipsec.Transport, Aggfrag: ipsec.AggfragOn}
	for _, p := range hosts.Notifies() {
		if n, ok := p.(*message.Notify); ok && n.Kind == message.UseAggfrag {
			t.Error("USE_AGGFRAG with USE_TRANSPORT_MODE")
		}
	}
}
