package v2

import (
	"slices"
	"testing"
	"time"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
)

// fourSubnets gives the left side one tunnel with two subnets at each side, and
// the right one a tunnel for each pair, as gateways have that take one pair of
// subnets in an SA.
func fourSubnets(t *testing.T, w *world) *Child {
	l, r := w.pskPair()
	l.Children[0].Local, l.Children[0].Remote = sel(t, "10.1.0.0/16", "10.3.0.0/16"), sel(t, "10.2.0.0/16", "10.4.0.0/16")
	l.Children = l.Children[:1]
	template := *r.Children[0]
	r.Children = nil
	for _, ours := range l.Children[0].Remote {
		for _, theirs := range l.Children[0].Local {
			c := template
			c.Name, c.Local, c.Remote = "lan", []ipsec.Selector{ours}, []ipsec.Selector{theirs}
			r.Children = append(r.Children, &c)
		}
	}
	return l.Children[0]
}

func packetBetween(t *testing.T, src, dst string) *ipsec.Flow {
	return &ipsec.Flow{Src: sel(t, src)[0].First, Dst: sel(t, dst)[0].First, Protocol: 6, SrcPort: 1000, DstPort: 80}
}

// RFC 7296, Section 2.9: the peer narrows to what fits the packet, and further
// packets get CHILD SAs of their own.
func TestOneSubnetForEachChild(t *testing.T) {
	w := newWorld(t, 1)
	lan := fourSubnets(t, w)
	w.up(Initiate{Flow: packetBetween(t, "10.3.0.7", "10.2.0.9")})
	w.check(1)
	if c := w.left.machine().children[0]; !slices.Equal(c.localTS, sel(t, "10.3.0.0/16")) || !slices.Equal(c.remoteTS, sel(t, "10.2.0.0/16")) {
		t.Errorf("narrowed to %v === %v", c.localTS, c.remoteTS)
	}
	for i, p := range [][2]string{{"10.1.0.7", "10.2.0.9"}, {"10.1.0.7", "10.4.0.9"}, {"10.3.0.7", "10.4.0.9"}} {
		flow := packetBetween(t, p[0], p[1])
		w.left.order1(CreateChild{Child: lan, Flow: flow})
		w.run(time.Second)
		w.check(i + 2)
		w.left.order1(CreateChild{Child: lan, Flow: flow}) // there is one now
		w.run(time.Second)
		w.check(i + 2)
	}
	w.left.order1(RekeyChild{Name: "lan"})
	w.run(30 * time.Second)
	w.check(4)
}

// A peer that takes the first of its tunnels that meets what is proposed, whatever
// the packet in front says, gets a pair that leaves it no choice.
func TestPeerThatIgnoresThePacket(t *testing.T) {
	w := newWorld(t, 1)
	lan := fourSubnets(t, w)
	w.up(Initiate{})
	r := w.right.machine()
	// Only the first tunnel covers what is in front.
	for i, flow := range []*ipsec.Flow{packetBetween(t, "10.3.0.7", "10.4.0.9"), packetBetween(t, "10.3.0.7", "10.2.0.9")} {
		w.left.order1(CreateChild{Child: lan, Flow: flow})
		w.run(time.Second)
		w.check(i + 2)
		c := r.children[i+1]
		if len(c.localTS) != 1 || len(c.remoteTS) != 1 || !c.remoteTS[0].Contains(flow.Src, 6, 1000, true) || !c.localTS[0].Contains(flow.Dst, 6, 80, true) {
			t.Errorf("narrowed to %v === %v", c.localTS, c.remoteTS)
		}
	}
	if o, f := w.left.machine().newOffer(lan, packetBetween(t, "10.1.0.7", "10.4.0.9")); f != nil || len(o.localTS) != 1 || len(o.remoteTS) != 1 {
		t.Errorf("proposed %v === %v", o.localTS, o.remoteTS)
	}
}

// A peer says SINGLE_PAIR_REQUIRED instead of narrowing.
func TestSinglePairRequired(t *testing.T) {
	w := established(t)
	l, r := w.left.machine(), w.right.machine()
	lan := w.left.conns[0].Children[0]
	lan.Local, lan.Remote = sel(t, "10.1.0.0/16", "10.11.0.0/16"), sel(t, "10.2.0.0/16", "10.12.0.0/16")
	refusals := 0
	w.mangle = func(f flight) []flight {
		h, err := message.ParseHeader(f.ike)
		if err != nil {
			t.Fatal(err)
		}
		if h.Exchange != message.CreateChildSA || h.Flags.Has(message.FlagResponse) || refusals == 1 {
			return []flight{f}
		}
		refusals++
		raw, err := r.seal(r.header(message.CreateChildSA, r.recvID, message.FlagResponse), []message.Payload{&message.Notify{Kind: message.SinglePairRequired}})
		if err != nil {
			t.Fatal(err)
		}
		r.recvID++
		return []flight{{at: f.at, src: f.dst, dst: f.src, ike: raw[0]}}
	}
	w.left.order1(CreateChild{Child: lan, Flow: packetBetween(t, "10.11.0.7", "10.12.0.9")})
	w.run(5 * time.Second)
	if refusals != 1 || !l.onePair {
		t.Fatalf("%d refusals", refusals)
	}
	c := l.children[len(l.children)-1]
	if len(l.children) != 2 || !slices.Equal(c.localTS, sel(t, "10.11.0.0/16")) || !slices.Equal(c.remoteTS, sel(t, "10.12.0.0/16")) {
		t.Errorf("%d CHILD SAs, the last with %v === %v; %v", len(l.children), c.localTS, c.remoteTS, w.left.notices)
	}
	w.left.order1(RekeyIKE{})
	w.run(5 * time.Second)
	if !w.left.machine().onePair {
		t.Error("the new IKE SA has forgotten what the peer requires")
	}
}

// A peer that gives less than is asked for is asked for the rest when a packet
// needs it. What it answers then adds no second SA for the same.
func TestPacketThatThePeerDoesNotTake(t *testing.T) {
	w := newWorld(t, 1)
	l, r := w.pskPair()
	l.Children, r.Children = l.Children[:1], r.Children[:1]
	r.Children[0].Local = sel(t, "10.2.0.9/32")
	w.up(Initiate{Flow: packetBetween(t, "10.1.0.7", "10.2.0.9")})
	w.check(1)
	for range 3 {
		w.left.order1(CreateChild{Child: l.Children[0], Flow: packetBetween(t, "10.1.0.7", "10.2.0.10")})
		w.run(20 * time.Second)
		w.check(1)
	}
	w.left.mustReport(t, ChildFailed, "ts-unacceptable")
	if n := len(w.right.machine().children); n != 1 {
		t.Errorf("the peer keeps %d CHILD SAs", n)
	}
}

// Packets from inside cannot make CHILD SAs without end.
func TestNarrowChildrenAreBounded(t *testing.T) {
	w := established(t)
	l := w.left.machine()
	lan := w.left.conns[0].Children[0]
	for range l.maxChildren() + 5 {
		w.left.order1(CreateChild{Child: lan})
		w.run(time.Second)
	}
	if n := len(l.children); n != l.maxChildren() {
		t.Errorf("%d CHILD SAs, want %d", n, l.maxChildren())
	}
	w.left.mustReport(t, ChildFailed, "no-additional-sas")
}

// What a peer says of padding, fragments and itself changes nothing: this side
// never pads for traffic flow confidentiality, and an SA for certain ports does
// not carry fragments that show none (RFC 7296, Section 1.3.1 and 3.12).
func TestIndifferentNotifications(t *testing.T) {
	w := established(t)
	r := w.right.machine()
	o, f := r.newOffer(w.right.conns[0].Children[1], nil)
	if f != nil {
		t.Fatal(f)
	}
	payloads, f := o.request(r, ipsec.Transform{Type: ipsec.TypeKE, ID: ipsec.KEX25519})
	if f != nil {
		t.Fatal(f)
	}
	payloads = append(payloads,
		&message.Notify{Kind: message.NonFirstFragmentsAlso},
		&message.Notify{Kind: message.ESPTFCPaddingNotSupported},
		&message.Notify{Kind: message.AdditionalTSPossible},
		&message.VendorID{Data: []byte("somebody else's gateway")},
		&message.Notify{Kind: 40_960, Data: []byte{1, 2, 3}})
	msg := w.ask(message.CreateChildSA, payloads...)
	if f := fault.Refusal(msg); f != nil {
		t.Fatal(f)
	}
	for _, kind := range []message.NotifyType{message.NonFirstFragmentsAlso, message.ESPTFCPaddingNotSupported} {
		if _, ok := msg.Notify(kind); ok {
			t.Errorf("the answer has %s", kind)
		}
	}
	if _, ok := message.Find[*message.VendorID](msg); ok {
		t.Error("the answer says what makes this gateway")
	}
	w.left.mustBe(t, Established)
}
