package v2

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"caponier/internal/ike/v2/fault"

	"caponier/internal/ike/message"
	"caponier/internal/ike/v2/rules"
	"caponier/internal/ipsec"
)

// sealRaw makes a message of arbitrary octets inside the encryption, as the peer
// of m could send it.
func sealRaw(from *Machine, h message.Header, first message.PayloadType, inner []byte) []byte {
	p := from.session.Seal()
	msg := message.Message{Header: h}
	raw, _ := msg.Append(nil)
	raw[16] = byte(message.TypeEncrypted)
	pad := (p.BlockSize() - (len(inner)+1)%p.BlockSize()) % p.BlockSize()
	plain := append(slices.Clone(inner), make([]byte, pad+1)...)
	plain[len(plain)-1] = byte(pad)
	total := 4 + p.IVLen() + len(plain) + p.ICVLen()
	raw = append(raw, byte(first), 0)
	raw = binary.BigEndian.AppendUint16(raw, uint16(total))
	binary.BigEndian.PutUint32(raw[24:], uint32(28+total))
	aad := slices.Clone(raw)
	from.session.Sealed++
	iv := make([]byte, p.IVLen())
	p.NextIV(iv, from.session.Sealed)
	sealed := make([]byte, len(plain)+p.ICVLen())
	p.Seal(sealed, iv, plain, aad, nil)
	return append(append(raw, iv...), sealed...)
}

// ask sends a request of the right machine to the left one, and returns the
// answer's notifications.
func (w *world) ask(kind message.ExchangeType, payloads ...message.Payload) *message.Message {
	w.t.Helper()
	l, r := w.left.machine(), w.right.machine()
	raw, err := r.seal(r.header(kind, r.sendID, 0), payloads)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.askRaw(l, r, raw[0])
}

func (w *world) askRaw(l, r *Machine, raw []byte) *message.Message {
	w.t.Helper()
	r.sendID++
	actions := l.Step(w.now, Received{Raw: raw, Local: l.local, Remote: l.remote})
	var answer *message.Message
	for _, a := range actions {
		if s, ok := a.(Send); ok && answer == nil {
			msg, err := message.Parse(s.Data)
			if err == nil {
				err = msg.Open(s.Data, r.session.Open())
			}
			if err != nil {
				w.t.Fatal(err)
			}
			answer = msg
			continue
		}
		w.left.perform(l, a)
	}
	if answer == nil {
		w.t.Fatalf("no answer, but %v", actions)
	}
	return answer
}

func established(t testing.TB) *world {
	w := newWorld(t, 1)
	w.pskPair()
	w.up(Initiate{})
	return w
}

func mustNotify(t *testing.T, msg *message.Message, kind message.NotifyType) {
	t.Helper()
	if _, ok := msg.Notify(kind); !ok {
		t.Errorf("the answer has no %s: %v", kind, fault.Refusal(msg))
	}
}

func TestMalformedInsideEncryption(t *testing.T) {
	w := established(t)
	l, r := w.left.machine(), w.right.machine()
	raw := sealRaw(r, r.header(message.Informational, r.sendID, 0), message.TypeNotify, []byte{1, 2, 3})
	mustNotify(t, w.askRaw(l, r, raw), message.InvalidSyntax)
	w.left.mustReport(t, IKEDown, "invalid-syntax")
	if len(w.left.sad) != 0 || l.state != Closed {
		t.Errorf("state %s with %d SAs", l.state, len(w.left.sad))
	}
}

func TestUnsupportedCritical(t *testing.T) {
	w := established(t)
	msg := w.ask(message.Informational, &message.Unknown{Kind: 200, Critical: true})
	n, ok := msg.Notify(message.UnsupportedCriticalPayload)
	if !ok || len(n.Data) != 1 || n.Data[0] != 200 {
		t.Errorf("answer %v", n)
	}
	msg = w.ask(message.Informational, &message.Unknown{Kind: 200})
	if len(msg.Payloads) != 0 {
		t.Errorf("answer %v", msg.Payloads)
	}
	w.left.mustBe(t, Established)
}

func TestDeleteOfUnknownSPI(t *testing.T) {
	w := established(t)
	msg := w.ask(message.Informational, &message.Delete{Protocol: message.ProtocolESP, SPIs: []ipsec.SPI{0, 1, 0xdeadbeef}})
	if len(msg.Payloads) != 0 {
		t.Errorf("answer %v", msg.Payloads)
	}
	w.check(1)
}

func TestRekeyOfUnknownSPI(t *testing.T) {
	w := established(t)
	r := w.right.machine()
	o, f := r.newOffer(w.right.conns[0].Children[0], nil)
	if f != nil {
		t.Fatal(f)
	}
	payloads, f := o.request(r, rules.PreferredKE(o.proposals), &message.Notify{
		Protocol: message.ProtocolESP, SPI: []byte{0xde, 0xad, 0xbe, 0xef}, Kind: message.RekeySA,
	})
	if f != nil {
		t.Fatal(f)
	}
	msg := w.ask(message.CreateChildSA, payloads...)
	n, ok := msg.Notify(message.ChildSANotFound)
	if !ok || !slices.Equal(n.SPI, []byte{0xde, 0xad, 0xbe, 0xef}) {
		t.Errorf("answer %v", fault.Refusal(msg))
	}
	o.discard(r)
	w.check(1)
}

// The peer has lost the CHILD SA: a new one takes its place.
func TestChildSANotFound(t *testing.T) {
	w := established(t)
	m := w.right.machine()
	w.right.step(m, Timeout{})
	m.forget(m.children[0])
	for _, a := range m.actions {
		w.right.perform(m, a)
	}
	m.actions = nil
	w.left.order1(RekeyChild{})
	w.run(10 * time.Second)
	w.check(1)
	w.left.mustReport(t, ChildDown, "child-sa-not-found")
	if w.left.count(ChildUp) != 2 {
		t.Errorf("left reported %v", w.left.notices)
	}
}

func TestChildrenAreBounded(t *testing.T) {
	w := established(t)
	r := w.right.machine()
	refused := false
	for range 100 {
		o, f := r.newOffer(w.right.conns[0].Children[1], nil)
		if f != nil {
			t.Fatal(f)
		}
		payloads, f := o.request(r, rules.PreferredKE(o.proposals))
		if f != nil {
			t.Fatal(f)
		}
		if _, refused = w.ask(message.CreateChildSA, payloads...).Notify(message.NoAdditionalSAs); refused {
			break
		}
	}
	if !refused || len(w.left.machine().children) > w.left.machine().maxChildren() {
		t.Errorf("%d CHILD SAs", len(w.left.machine().children))
	}
}

func TestQueueIsBounded(t *testing.T) {
	w := established(t)
	w.right.dead = true
	m := w.left.machine()
	for range 2 * maxQueue {
		w.left.step(m, CheckLiveness{})
	}
	if len(m.queue) > maxQueue {
		t.Errorf("%d requests wait", len(m.queue))
	}
	// What is given up names its tunnel.
	child := *m.conn.Children[0]
	child.Name = "one more"
	named := false
	for _, a := range m.Step(w.now, CreateChild{Child: &child}) {
		r, ok := a.(Report)
		named = named || ok && r.What.Code == fault.CodeQueueFull && r.What.Child == child.Name
	}
	if !named {
		t.Error("a tunnel that cannot be asked for is not reported")
	}
	// The end finds room.
	m.Step(w.now, Close{})
	if len(m.queue) != 1 {
		t.Errorf("%d requests wait at the end", len(m.queue))
	}
}

// An SPI that another SA of the peer has, or that is reserved, is refused.
func TestPeerSPI(t *testing.T) {
	w := established(t)
	r := w.right.machine()
	for _, spi := range []ipsec.SPI{0, 255, r.children[0].in} {
		o, f := r.newOffer(w.right.conns[0].Children[1], nil)
		if f != nil {
			t.Fatal(f)
		}
		kept := o.spi
		o.spi = spi
		payloads, f := o.request(r, rules.PreferredKE(o.proposals))
		if f != nil {
			t.Fatal(f)
		}
		mustNotify(t, w.ask(message.CreateChildSA, payloads...), message.NoProposalChosen)
		o.spi = kept
		o.discard(r)
	}
	w.check(1)
}

// A bad public value is answered, and leaves everything as it was.
func TestBadPublicValue(t *testing.T) {
	for _, data := range [][]byte{nil, make([]byte, 32), make([]byte, 31), slices.Repeat([]byte{0xff}, 33)} {
		w := established(t)
		r := w.right.machine()
		o, f := r.newOffer(w.right.conns[0].Children[1], nil)
		if f != nil {
			t.Fatal(f)
		}
		payloads, f := o.request(r, rules.PreferredKE(o.proposals))
		if f != nil {
			t.Fatal(f)
		}
		for i, p := range payloads {
			if ke, ok := p.(*message.KE); ok {
				payloads[i] = &message.KE{Method: ke.Method, Data: data}
			}
		}
		mustNotify(t, w.ask(message.CreateChildSA, payloads...), message.InvalidKEPayload)
		o.discard(r)
		w.check(1)
	}
}

// FuzzSealed gives an established machine arbitrary payloads of an authentic
// peer, as requests and as responses to what it asks. It may close the IKE SA,
// but neither panic, nor leave an SA or SPI behind, nor stop keeping time.
func FuzzSealed(f *testing.F) {
	seed := func(kind message.ExchangeType, response bool, payloads ...message.Payload) {
		msg := message.Message{Payloads: payloads}
		raw, err := msg.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(kind), response, uint8(0), raw[16], raw[28:])
		f.Add(uint8(kind), response, uint8(1), raw[16], raw[28:])
		f.Add(uint8(kind), response, uint8(2), raw[16], raw[28:])
	}
	w := established(f)
	r := w.right.machine()
	o, _ := r.newOffer(w.right.conns[0].Children[1], nil)
	child, _ := o.request(r, rules.PreferredKE(o.proposals))
	rekey, _ := o.request(r, rules.PreferredKE(o.proposals), &message.Notify{
		Protocol: message.ProtocolESP, SPI: spiOctets(r.children[0].in), Kind: message.RekeySA,
	})
	_, ike, _ := (&rekeyIKE{}).request(r)
	for _, response := range []bool{false, true} {
		seed(message.CreateChildSA, response, child...)
		seed(message.CreateChildSA, response, rekey...)
		seed(message.CreateChildSA, response, ike...)
		seed(message.CreateChildSA, response, &message.Notify{Kind: message.InvalidKEPayload, Data: []byte{0, 19}})
		seed(message.CreateChildSA, response, &message.Notify{Kind: message.TemporaryFailure})
		seed(message.CreateChildSA, response, &message.Notify{Kind: message.ChildSANotFound})
		seed(message.Informational, response)
		seed(message.Informational, response, &message.Delete{Protocol: message.ProtocolIKE})
		seed(message.Informational, response, &message.Delete{Protocol: message.ProtocolESP, SPIs: []ipsec.SPI{r.children[0].in}})
	}
	f.Fuzz(func(t *testing.T, kind uint8, response bool, order, first uint8, inner []byte) {
		if len(inner) > 60_000 {
			return
		}
		w := established(t)
		l, r := w.left.machine(), w.right.machine()
		w.right.dead = true
		h := r.header(message.ExchangeType(kind), 0, 0)
		switch order % 4 {
		case 1:
			w.left.order1(RekeyChild{})
		case 2:
			w.left.order1(RekeyIKE{})
		case 3:
			w.left.order1(CreateChild{Child: w.left.conns[0].Children[1]})
		}
		if response {
			h.Flags |= message.FlagResponse
			h.MessageID = l.sendID
		} else {
			h.MessageID = l.recvID
		}
		w.left.step(l, Received{Raw: sealRaw(r, h, message.PayloadType(first), inner), Local: l.local, Remote: l.remote})
		for _, m := range w.left.machines {
			_ = m.Status()
			if m.state != Established && m.Deadline().IsZero() {
				t.Errorf("state %s without a deadline", m.state)
			}
		}
		for _, m := range slices.Clone(w.left.machines) {
			w.left.step(m, Close{})
		}
		w.run(5 * time.Minute)
		if len(w.left.machines) != 0 || len(w.left.sad) != 0 || len(w.left.reserved) != 0 {
			t.Errorf("%d machines, %d SAs and %d SPIs remain", len(w.left.machines), len(w.left.sad), len(w.left.reserved))
		}
	})
}

// FuzzDatagram gives machines in every state raw datagrams, half of them with
// the right SPIs. Nothing of it is authentic: nothing but IKE_SA_INIT may change
// anything.
func FuzzDatagram(f *testing.F) {
	w := newWorld(f, 1)
	w.pskPair()
	w.mangle = func(x flight) []flight {
		f.Add(slices.Clone(x.ike), true, uint8(0))
		f.Add(slices.Clone(x.ike), false, uint8(1))
		return []flight{x}
	}
	w.up(Initiate{})
	f.Fuzz(func(t *testing.T, raw []byte, patch bool, age uint8) {
		w := newWorld(t, 7)
		w.pskPair()
		w.initiate(Initiate{})
		w.run(time.Duration(age%5) * 10 * time.Millisecond)
		for _, g := range []*gateway{w.left, w.right} {
			for _, m := range slices.Clone(g.machines) {
				x := slices.Clone(raw)
				if patch && len(x) >= 16 {
					binary.BigEndian.PutUint64(x, uint64(m.spiI))
					binary.BigEndian.PutUint64(x[8:], uint64(m.spiR))
				}
				before := m.state
				g.step(m, Received{Raw: x, Local: m.local, Remote: m.remote})
				if before == Established && m.state != Established {
					t.Errorf("an unauthenticated datagram ended an IKE SA: %v", g.notices)
				}
			}
		}
		w.run(5 * time.Minute)
		if n := len(w.left.machines); n != len(w.right.machines) {
			t.Errorf("%d machines left, %d right", n, len(w.right.machines))
		}
	})
}

// answer sends a response of the right machine to the left one's outstanding
// request.
func (w *world) answer(first message.PayloadType, inner []byte) {
	l, r := w.left.machine(), w.right.machine()
	h := r.header(l.outstanding.kind, l.sendID, message.FlagResponse)
	w.left.step(l, Received{Raw: sealRaw(r, h, first, inner), Local: l.local, Remote: l.remote})
}

// An authentic response that cannot be read: nobody knows what was agreed on, so
// the IKE SA is deleted.
func TestMalformedResponse(t *testing.T) {
	w := established(t)
	w.mangle = func(f flight) []flight {
		if f.dst.Addr() == leftAddr {
			return nil
		}
		return []flight{f}
	}
	w.left.order1(RekeyChild{})
	w.run(100 * time.Millisecond)
	w.answer(message.TypeNonce, []byte{0, 0, 0, 5, 1})
	w.mangle = nil
	w.run(20 * time.Second)
	w.check(0)
	w.left.mustReport(t, IKEDown, "invalid-syntax")
	w.right.mustReport(t, IKEDown, "deleted")
}

// A peer that answers more than was asked for: the CHILD SA is deleted again.
func TestWiderAnswer(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.pskPair()
	w.up(Initiate{})
	l.Children[1].Remote = sel(t, "10.12.1.0/24")
	w.mangle = func(f flight) []flight {
		// What the left side checks the answer against is less than what it sent.
		if o, ok := w.left.machine().outstanding.task.(*createChild); ok {
			o.offer.remoteTS = sel(t, "10.12.1.7/32")
		}
		return []flight{f}
	}
	w.left.order1(CreateChild{Child: l.Children[1]})
	w.mangle = nil
	w.run(20 * time.Second)
	w.check(1)
	w.left.mustReport(t, ChildFailed, "ts-unacceptable")
	w.right.mustReport(t, ChildDown, "deleted")
}

// A tunnel is deleted while it is being set up, or rekeyed.
func TestDeleteDuringExchange(t *testing.T) {
	for _, e := range []Event{RekeyChild{}, CreateChild{}} {
		w := newWorld(t, 1)
		l, _ := w.pskPair()
		w.up(Initiate{})
		name := "lan"
		if _, ok := e.(CreateChild); ok {
			e, name = CreateChild{Child: l.Children[1]}, "dmz"
		}
		w.left.order1(e)
		w.left.order1(DeleteChild{Name: name})
		w.run(20 * time.Second)
		if name == "lan" {
			w.check(0)
		} else {
			w.check(1)
		}
	}
}

func TestCannotSign(t *testing.T) {
	for _, side := range []string{"left", "right"} {
		w := newWorld(t, 1)
		l, r := w.certPair("ed25519")
		rsa := credentials()["rsa-l"].key // not the certificate's: the scheme does not fit it
		if side == "left" {
			w.left.keys[l] = rsa
		} else {
			w.right.keys[r] = rsa
		}
		w.initiate(Initiate{})
		w.run(time.Minute)
		w.left.mustReport(t, IKEFailed, "authentication-failed")
		w.check(0)
		if len(w.left.machines)+len(w.right.machines) != 0 {
			t.Errorf("%s cannot sign: machines remain", side)
		}
	}
}

// INITIAL_CONTACT is sent unless the peer is known already.
func TestInitialContact(t *testing.T) {
	for _, known := range []bool{false, true} {
		w := newWorld(t, 1)
		w.pskPair()
		m := w.initiate(Initiate{Known: known})
		seen := false
		w.mangle = func(f flight) []flight {
			msg, err := message.Parse(f.ike)
			if err == nil && msg.Header.Exchange == message.IKEAuth && !msg.Header.Flags.Has(message.FlagResponse) {
				if err := msg.Open(f.ike, w.right.machines[0].session.Open()); err != nil {
					t.Fatal(err)
				}
				_, seen = msg.Notify(message.InitialContact)
			}
			return []flight{f}
		}
		w.run(time.Second)
		if m.state != Established || seen == known {
			t.Errorf("known %v: state %s, INITIAL_CONTACT %v", known, m.state, seen)
		}
	}
}

type noRandom struct{}

func (noRandom) Read([]byte) (int, error) { return 0, errNoRandom }

var errNoRandom = errors.New("no random octets")

func TestNoRandom(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	w.left.env.Rand = noRandom{}
	w.initiate(Initiate{})
	w.left.mustReport(t, IKEFailed, "internal-error")
	w.check(0)

	w = established(t)
	for _, g := range []*gateway{w.left, w.right} {
		g.machine().env.Rand = noRandom{}
		g.order1(RekeyChild{})
		g.order1(RekeyIKE{})
	}
	w.run(10 * time.Second)
	w.left.mustReport(t, ChildFailed, "internal-error")
	w.left.mustReport(t, IKERekeyFailed, "internal-error")
	if len(w.left.sad) != 2 || len(w.left.reserved)+len(w.right.reserved) != 0 {
		t.Errorf("%d SAs, %d SPIs", len(w.left.sad), len(w.left.reserved))
	}
}

func TestHardLifetime(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair(func(l, r *Connection) {
		l.Lifetime = time.Hour
		r.Proposals = r.Proposals[:1:1]
	})
	w.up(Initiate{})
	w.right.conns[0].Proposals = w.right.conns[0].Proposals[:0] // refuses every rekeying
	w.run(61 * time.Minute)
	w.left.mustReport(t, IKEDown, "lifetime-expired")
	w.right.mustReport(t, IKEDown, "deleted")
	w.check(0)
	if w.left.count(IKERekeyFailed) < 3 {
		t.Error("the rekeying was not tried again")
	}
}
