package v2

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
)

// longChains makes IKE_AUTH of both ends longer than one datagram.
func (w *world) longChains(n int) {
	l, r := w.certPair("ed25519")
	for i := range n {
		for _, c := range []*Connection{l, r} {
			c.Local.Certificates = append(c.Local.Certificates, make([]byte, 1500+i))
		}
	}
}

// narrow makes the link lose what does not fit an IPv4 datagram of mtu octets.
func (w *world) narrow(mtu int) {
	mangle := w.mangle
	w.mangle = func(f flight) []flight {
		n := len(f.ike) + 20 + 8
		if f.dst.Port() != 500 {
			n += 4
		}
		switch {
		case n > mtu:
			return nil
		case mangle != nil:
			return mangle(f)
		default:
			return []flight{f}
		}
	}
}

func isFragment(t testing.TB, raw []byte) (number int, ok bool) {
	t.Helper()
	msg, err := message.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if msg.Encrypted == nil || !msg.Encrypted.IsFragment() {
		return 0, false
	}
	return int(msg.Encrypted.Fragment), true
}

// RFC 7383, Section 2.5: long messages go in fragments, which IP need not cut.
func TestFragmentation(t *testing.T) {
	for _, size := range []int{0, 576, 1500} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := newWorld(t, 1)
			w.longChains(4)
			mtu := size
			for _, g := range []*gateway{w.left, w.right} {
				g.conns[0].FragmentSize = size
				g.conns[0].Encapsulation = EncapAlways
			}
			if size == 0 {
				mtu = 1280
			}
			w.narrow(mtu)
			w.up(Initiate{})
			w.left.order1(RekeyIKE{})
			w.run(10 * time.Second)
			w.check(1)
			if !w.left.machine().fragments || !w.right.machine().fragments {
				t.Error("the new IKE SA has forgotten that both ends can fragment")
			}
		})
	}
}

// RFC 7383, Section 2.3: a peer that does not announce fragmentation gets its
// messages in one piece.
func TestFragmentationIsNegotiated(t *testing.T) {
	w := newWorld(t, 1)
	w.longChains(4)
	whole := 0
	w.mangle = func(f flight) []flight {
		if _, ok := isFragment(t, f.ike); !ok && len(f.ike) > 1500 {
			whole++
		}
		return []flight{f}
	}
	w.initiate(Initiate{})
	for w.left.machines[0].state != Signing {
		w.run(latency / 10)
	}
	w.left.machines[0].fragments, w.right.machines[0].fragments = false, false
	w.run(10 * time.Second)
	w.check(1)
	if whole != 2 {
		t.Errorf("%d long messages in one piece, want IKE_AUTH both ways", whole)
	}
}

// TestFragmentsInChaos sets up connections whose messages are long over links
// that lose, repeat and reorder.
func TestFragmentsInChaos(t *testing.T) {
	for seed := range 60 {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, uint64(seed))
			w.longChains(1 + seed%5)
			w.chaos(1 + seed%8)
			w.narrow(1280)
			w.initiate(Initiate{})
			w.run(100 * time.Second)
			w.mangle = nil
			w.run(60 * time.Second)
			w.left.mustBe(t, Established)
			w.right.mustBe(t, Established)
			w.check(1)
		})
	}
}

// TestFragmentedAnswerIsRepeated loses all answers for a while. RFC 7383,
// Section 2.6.1: each try of the
// initiator, of all fragments, is answered once, with the same octets.
func TestFragmentedAnswerIsRepeated(t *testing.T) {
	w := newWorld(t, 1)
	w.longChains(4)
	var asked, answered [][]byte
	w.mangle = func(f flight) []flight {
		if _, ok := isFragment(t, f.ike); !ok {
			return []flight{f}
		}
		if f.src.Addr() == leftAddr {
			asked = append(asked, f.ike)
			return []flight{f}
		}
		answered = append(answered, f.ike)
		if len(answered) < 3*6 {
			return nil
		}
		return []flight{f}
	}
	w.initiate(Initiate{})
	w.run(20 * time.Second)
	w.check(1)
	tries := 0
	for i, raw := range asked {
		if n, _ := isFragment(t, raw); n == 1 {
			tries++
		}
		if per := len(asked) / max(1, tries); i >= per && tries > 1 && !slices.ContainsFunc(asked[:i], func(x []byte) bool { return slices.Equal(x, raw) }) {
			t.Errorf("datagram %d is not a repetition", i)
		}
	}
	ones := 0
	for i, raw := range answered {
		n, _ := isFragment(t, raw)
		if n == 1 {
			ones++
		}
		if first := slices.IndexFunc(answered, func(x []byte) bool { m, _ := isFragment(t, x); return m == n }); !slices.Equal(answered[first], raw) {
			t.Errorf("fragment %d of the answer, datagram %d, has other octets than before", n, i)
		}
	}
	if tries < 3 || ones != tries {
		t.Errorf("%d tries, %d answers", tries, ones)
	}
}

// fragmentsFrom makes a request of the right machine in fragments.
func fragmentsFrom(t *testing.T, m *Machine, size int, id uint32) [][]byte {
	t.Helper()
	msg := message.Message{
		Header:   m.header(message.Informational, id, 0),
		Payloads: []message.Payload{&message.VendorID{Data: make([]byte, 3000)}},
	}
	raws, err := msg.SealFragments(m.session.Seal(), m.nextSeq, size)
	if err != nil {
		t.Fatal(err)
	}
	return raws
}

// give gives datagrams to the left machine and returns how many it answers.
func (w *world) give(raws ...[]byte) (answers int) {
	l := w.left.machine()
	for _, raw := range raws {
		for _, a := range l.Step(w.now, Received{Raw: raw, Local: l.local, Remote: l.remote}) {
			if _, ok := a.(Send); ok {
				answers++
				continue
			}
			w.left.perform(l, a)
		}
	}
	return answers
}

// RFC 7383, Section 2.6: what is kept, what is dropped, and what starts again.
func TestHostileFragments(t *testing.T) {
	w := established(t)
	l, r := w.left.machine(), w.right.machine()
	good := fragmentsFrom(t, r, 1000, r.sendID)
	last := len(good) - 1

	// What is not authentic is not kept, and does not disturb.
	for i := range 1000 {
		forged := slices.Clone(good[i%len(good)])
		forged[len(forged)-1-i%16] ^= byte(1 + i%255)
		w.give(forged)
	}
	if l.requests.Total() != 0 {
		t.Fatal("forged fragments are kept")
	}
	w.left.mustReport(t, PeerDropped, fault.DropNotAuthentic)

	// Fragments for other messages than the next.
	w.give(fragmentsFrom(t, r, 1000, r.sendID+1)...)
	w.left.mustReport(t, PeerDropped, fault.DropReplayed)
	w.give(fragmentsFrom(t, r, 1000, r.sendID-1)...)
	if l.requests.Total() != 0 {
		t.Fatal("fragments outside the window are kept")
	}

	// The first come, late and double, and then the peer cuts anew.
	if w.give(good[last], good[last], good[0]) != 0 || l.requests.Total() != len(good) {
		t.Fatal("the fragments are not kept")
	}
	w.left.mustReport(t, PeerDropped, fault.DropFragment)
	again := fragmentsFrom(t, r, 500, r.sendID)
	if w.give(again[1:]...) != 0 || l.requests.Total() != len(again) {
		t.Fatalf("the assembly is of %d fragments", l.requests.Total())
	}
	if n := w.give(good...); n != 0 || l.requests.Total() != len(again) {
		t.Fatalf("fewer fragments in all: %d answers", n)
	}
	w.left.mustReport(t, PeerDropped, fault.DropFragment)
	if n := w.give(again[0]); n != 1 {
		t.Fatalf("%d answers to the whole message", n)
	}
	if l.requests != nil {
		t.Error("the assembly is not empty")
	}
	// Each repetition is answered once, however it is cut.
	if n := w.give(again...); n != 1 {
		t.Errorf("%d answers to a repetition", n)
	}
	if n := w.give(good...); n != 1 {
		t.Errorf("%d answers to a repetition that is cut anew", n)
	}
	forged := slices.Clone(fragmentsFrom(t, r, 700, r.sendID)[0])
	forged[len(forged)-1] ^= 1
	if n := w.give(forged); n != 0 {
		t.Errorf("%d answers to a forged repetition", n)
	}
	r.sendID++
	w.check(1)
}

func TestFragmentsOfAMessageNeverCompleted(t *testing.T) {
	w := established(t)
	l, r := w.left.machine(), w.right.machine()
	w.give(fragmentsFrom(t, r, 1000, r.sendID)[1:]...)
	if l.requests.Total() == 0 {
		t.Fatal("the fragments are not kept")
	}
	// The peer sends the same request in one piece after all.
	msg := w.ask(message.Informational)
	if len(msg.Payloads) != 0 {
		t.Errorf("answer %v", msg.Payloads)
	}
	if l.requests.Total() != 0 {
		t.Error("the fragments are still kept")
	}
}

func TestMalformedInFragments(t *testing.T) {
	w := established(t)
	l, r := w.left.machine(), w.right.machine()
	bad := message.Message{
		Header:   r.header(message.Informational, r.sendID, 0),
		Payloads: []message.Payload{&message.Unknown{Kind: 200, Data: make([]byte, 2000)}, &message.KE{Method: 19, Data: make([]byte, 65)}},
	}
	raws, err := bad.SealFragments(r.session.Seal(), r.nextSeq, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if n := w.give(raws...); n != 1 {
		t.Errorf("%d answers", n)
	}
	w.left.mustReport(t, IKEDown, "invalid-syntax")
	if l.state != Closed || len(w.left.sad) != 0 {
		t.Errorf("state %s with %d SAs", l.state, len(w.left.sad))
	}
}

func TestFragmentsUnannounced(t *testing.T) {
	w := established(t)
	l, r := w.left.machine(), w.right.machine()
	l.fragments = false
	if n := w.give(fragmentsFrom(t, r, 1000, r.sendID)...); n != 0 || l.requests.Total() != 0 {
		t.Errorf("%d answers, %d fragments kept", n, l.requests.Total())
	}
	w.left.mustReport(t, PeerDropped, fault.DropUnexpected)
}
