package v1

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"caponier/internal/ike/isakmp"
	"caponier/internal/ike/keys"
	"caponier/internal/ike/step"
)

var update = flag.Bool("update", false, "rewrite the recorded transcript")

func (w *world) feed(m *Machine, raw []byte) []step.Action {
	return m.Step(w.now, step.Received{Raw: raw, Local: netip.AddrPortFrom(rightAddr, ikePort), Remote: netip.AddrPortFrom(leftAddr, ikePort)})
}

// recorded lists the datagrams of a simulation in order.
func recorded(t testing.TB, w *world) [][]byte {
	t.Helper()
	out := make([][]byte, 0, len(w.trace))
	for _, line := range w.trace {
		fields := strings.Fields(line)
		raw := make([]byte, len(fields[2])/2)
		for i := range raw {
			raw[i] = unhexDigit(fields[2][2*i])<<4 | unhexDigit(fields[2][2*i+1])
		}
		out = append(out, raw)
	}
	return out
}

func unhexDigit(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// onlyDrops reports whether actions change nothing.
func onlyDrops(actions []step.Action) bool {
	return !slices.ContainsFunc(actions, func(a step.Action) bool {
		r, ok := a.(step.Report)
		return !ok || r.What.Kind != step.PeerDropped
	})
}

// TestNothingFromStrangers gives an established IKE SA everything that a stranger can
// make: damaged messages, messages of other IKE SAs and of other exchanges, what was
// recorded, and notifications in clear. Nothing comes of it.
func TestNothingFromStrangers(t *testing.T) {
	w, left := up(t, 3)
	w.left.step(left, step.RekeyChild{})
	w.run(10 * time.Second)
	right := w.right.live()
	before := right.Status()
	for i, raw := range recorded(t, w) {
		for n := range len(raw) {
			bad := bytes.Clone(raw)
			bad[n] ^= 0x40
			if actions := w.feed(right, bad); !onlyDrops(actions) {
				// A flag or the minor version of a message that was taken already changes
				// nothing that is authenticated, but then it is no repetition either.
				t.Fatalf("message %d with octet %d changed: %#v", i, n, actions)
			}
		}
		for _, n := range []int{0, 1, 27, 28, len(raw) - 1} {
			if actions := w.feed(right, raw[:n]); !onlyDrops(actions) {
				t.Errorf("%d octets of message %d: %#v", n, i, actions)
			}
		}
	}
	for _, kind := range []isakmp.NotifyType{isakmp.AuthenticationFailed, isakmp.InvalidCookie, isakmp.InitialContact} {
		n := &isakmp.Notify{Protocol: 1, SPI: right.cookies(), Kind: kind}
		msg := isakmp.Message{Header: right.header(isakmp.Informational, 5), Payloads: []isakmp.Payload{{Type: isakmp.TypeNotify, Body: n.Body()}}}
		raw, err := msg.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if actions := w.feed(right, raw); !onlyDrops(actions) {
			t.Errorf("%s in clear: %#v", kind, actions)
		}
	}
	after := right.Status()
	if len(after.Children) != len(before.Children) || after.State != before.State {
		t.Errorf("%+v became %+v", before, after)
	}
	w.run(10 * time.Second)
	w.mustMatch(1)
}

// TestReplayed plays everything that the left gateway has sent once more, when the
// exchanges are long over.
func TestReplayed(t *testing.T) {
	w, left := up(t, 4)
	w.left.step(left, step.RekeyChild{})
	w.left.step(left, step.CheckLiveness{})
	w.run(10 * time.Minute)
	right := w.right.live()
	sads, notices := len(w.right.sad), w.right.count(step.ChildUp)+w.right.count(step.ChildRekeyed)+w.right.count(step.ChildDown)
	for _, raw := range recorded(t, w) {
		for _, a := range w.feed(right, raw) {
			if s, ok := a.(step.Send); ok && header(t, s.Data).Exchange != isakmp.MainMode {
				t.Errorf("answered %s with %s", header(t, raw), header(t, s.Data))
				continue
			}
			w.right.perform(right, a)
		}
	}
	w.run(10 * time.Second)
	if n := w.right.count(step.ChildUp) + w.right.count(step.ChildRekeyed) + w.right.count(step.ChildDown); len(w.right.sad) != sads || n != notices {
		t.Errorf("%d SAs became %d, %d notices became %d", sads, len(w.right.sad), notices, n)
	}
}

// TestDestroy leaves nothing at once, in whatever state; a peer that is there hears
// of it.
func TestDestroy(t *testing.T) {
	for name, after := range map[string]time.Duration{"set-up": 12 * time.Millisecond, "hashes": 45 * time.Millisecond, "established": 10 * time.Second} {
		w := newWorld(t, 5)
		w.connect()
		m := w.left.initiate(false)
		w.run(after)
		session := m.session
		w.left.step(m, step.Destroy{})
		if len(w.left.machines) != 0 || len(w.left.sad) != 0 || len(w.left.reserved) != 0 {
			t.Errorf("%s: %d machines, %d SAs, %d SPIs remain", name, len(w.left.machines), len(w.left.sad), len(w.left.reserved))
		}
		if session != nil && (!bytes.Equal(session.keys.D.Bytes(), make([]byte, 32)) || !bytes.Equal(session.keys.A.Bytes(), make([]byte, 32))) {
			t.Errorf("%s: a key is left", name)
		}
		w.run(time.Minute)
		if len(w.right.sad) > 0 {
			t.Errorf("%s: the peer still has %d SAs", name, len(w.right.sad))
		}
	}
}

// TestReconfigured gives the next exchange the new settings.
func TestReconfigured(t *testing.T) {
	w, left := up(t, 6)
	changed := *left.conn
	gm := *changed.GM
	gm.QuickHash = keys.QuickRFC
	changed.GM = &gm
	w.left.step(left, step.Reconfigure{Connection: &changed})
	w.left.step(left, step.RekeyChild{})
	w.run(time.Minute)
	w.mustMatch(1)
	if f := w.right.live().peerForm; f == nil || *f != keys.QuickRFC {
		t.Errorf("the peer saw %v", f)
	}
}

// TestTwoConnections lets the peer's identity choose among connections with the same
// addresses, and refuses one that none permits.
func TestTwoConnections(t *testing.T) {
	for name, permitted := range map[string]bool{"left": true, "somebody else": false} {
		w := newWorld(t, 9)
		l, r := w.connect()
		id, err := l.GM.Identity()
		if err != nil {
			t.Fatal(err)
		}
		other := *r
		other.Name = "by name"
		if permitted {
			other.Remote.ID = id
		} else {
			other.Remote.ID = Identity{Kind: id.Kind, Data: "0\x00"}
			r.Remote.ID = other.Remote.ID
		}
		w.right.conns = append(w.right.conns, &other)
		w.left.initiate(false)
		w.run(30 * time.Second)
		if permitted {
			w.mustMatch(1)
			if got := w.right.live().Connection().Name; got != "by name" {
				t.Errorf("%s: connection %q", name, got)
			}
			continue
		}
		w.mustMatch(0)
		if w.right.count(step.IKEFailed) != 1 || !strings.Contains(w.right.failure(), "no connection fits") {
			t.Errorf("%s: %s", name, w.right.failure())
		}
	}
}

// TestTranscript holds every octet that is not SM2 to what was recorded.
func TestTranscript(t *testing.T) {
	w := newWorld(t, 42)
	w.connect()
	m := w.left.initiate(false)
	w.run(2 * time.Second)
	w.left.step(m, step.CheckLiveness{})
	w.left.step(m, step.Close{})
	w.run(time.Second)
	var out strings.Builder
	for i, raw := range recorded(t, w) {
		msg, err := isakmp.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		line := strings.Fields(w.trace[i])
		out.WriteString(line[0] + " " + line[1] + " " + msg.Header.String() + "\n")
		if msg.Encrypted != nil {
			out.WriteString("  encrypted " + hexText(msg.Encrypted) + "\n")
		}
		for _, p := range msg.Payloads {
			text := hexText(p.Body)
			if p.Type == isakmp.TypeSymmetricKey || p.Type == isakmp.TypeSignature || p.Type == isakmp.TypeCert {
				text = "by SM2"
			}
			out.WriteString("  " + p.Type.String() + " " + text + "\n")
		}
	}
	const file = "testdata/transcript.txt"
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != out.String() {
		t.Errorf("the transcript has changed (go test -run Transcript -update):\n%s", out.String())
	}
}

func hexText(b []byte) string {
	const digits = "0123456789abcdef"
	var out strings.Builder
	for _, c := range b {
		out.WriteByte(digits[c>>4])
		out.WriteByte(digits[c&15])
	}
	return out.String()
}

// FuzzClear gives a responder two datagrams that nothing protects, the second with
// the cookies that it waits for.
func FuzzClear(f *testing.F) {
	w := newWorld(f, 1)
	w.connect()
	w.left.initiate(false)
	w.run(2 * time.Second)
	raws := recorded(f, w)
	f.Add(raws[0], raws[2])
	f.Add(raws[2], raws[4])
	f.Fuzz(func(t *testing.T, first, second []byte) {
		w := newWorld(t, 2)
		w.connect()
		m := NewResponder(w.right.env, w.right.conns, netip.AddrPortFrom(rightAddr, ikePort), netip.AddrPortFrom(leftAddr, ikePort))
		w.right.machines = append(w.right.machines, m)
		for _, a := range w.feed(m, first) {
			w.right.perform(m, a)
		}
		if m.state != gone && len(second) >= isakmp.HeaderLen {
			second = bytes.Clone(second)
			copy(second, m.cookies())
			for _, a := range w.feed(m, second) {
				w.right.perform(m, a)
			}
		}
		w.run(time.Minute)
		if len(w.right.sad) > 0 || m.state != gone {
			t.Errorf("state %d, %d SAs", m.state, len(w.right.sad))
		}
	})
}

// FuzzDecrypted gives an established IKE SA what a peer that has the keys could send:
// any payloads behind a hash that is right.
func FuzzDecrypted(f *testing.F) {
	f.Add(uint8(0), byte(isakmp.TypeNotify), (&isakmp.Notify{Protocol: 1, SPI: make([]byte, 16), Kind: isakmp.RUThere, Data: []byte{0, 0, 0, 1}}).Body(), []byte{})
	f.Add(uint8(0), byte(isakmp.TypeDelete), []byte{0, 0, 0, 1, 3, 4, 0, 1, 0, 0, 16, 0}, []byte{})
	f.Add(uint8(1), byte(isakmp.TypeSA), []byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 12, 1, 3, 4, 0, 0, 0, 16, 0}, make([]byte, 16))
	f.Fuzz(func(t *testing.T, kind uint8, payload byte, body, nonce []byte) {
		w := newWorld(t, 1)
		w.connect()
		w.left.initiate(false)
		w.run(2 * time.Second)
		left, right := w.left.live(), w.right.live()
		if len(body) > 4000 || len(nonce) > 1000 {
			return
		}
		payloads := []isakmp.Payload{{Type: isakmp.PayloadType(payload), Body: body}}
		if payload == 0 {
			return
		}
		exchange, id := isakmp.Informational, uint32(0x01020304)
		if kind%2 == 1 {
			exchange = isakmp.QuickMode
			payloads = append(payloads, isakmp.Payload{Type: isakmp.TypeNonce, Body: nonce})
		}
		rest, err := isakmp.AppendChain(nil, payloads)
		if err != nil {
			return
		}
		hash := keys.InformationalHash(left.session.hash, left.session.keys.A, id, rest) // HASH(1) of RFC 2409 is the same
		raw, _, err := left.session.seal(left.header(exchange, id), left.session.iv2(id),
			append([]isakmp.Payload{{Type: isakmp.TypeHash, Body: hash}}, payloads...))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range w.feed(right, raw) {
			w.right.perform(right, a)
		}
		w.run(2 * time.Minute)
		if len(w.right.sad) > 2 {
			t.Errorf("%d SAs", len(w.right.sad))
		}
	})
}

// FuzzEnvelope gives a responder an envelope whose key decrypts: what stands inside
// nonce and identity is any octets.
func FuzzEnvelope(f *testing.F) {
	f.Add(make([]byte, 32), make([]byte, 32))
	f.Add(make([]byte, 16), make([]byte, 48))
	f.Fuzz(func(t *testing.T, nonce, id []byte) {
		w := newWorld(t, 1)
		w.connect()
		w.mangle = func(fl flight) []flight {
			msg, err := isakmp.Parse(fl.ike)
			if err != nil || isakmp.First(msg.Payloads, isakmp.TypeSymmetricKey) == nil {
				return []flight{fl}
			}
			for i, p := range msg.Payloads {
				switch p.Type {
				case isakmp.TypeNonce:
					msg.Payloads[i].Body = nonce
				case isakmp.TypeID:
					msg.Payloads[i].Body = id
				default:
				}
			}
			raw, err := msg.Append(nil)
			if err != nil {
				return nil
			}
			fl.ike = raw
			return []flight{fl}
		}
		w.left.initiate(false)
		w.run(5 * time.Minute)
		if len(w.left.sad)+len(w.right.sad) > 0 || len(w.left.machines)+len(w.right.machines) > 0 {
			t.Errorf("%d SAs, %d machines", len(w.left.sad)+len(w.right.sad), len(w.left.machines)+len(w.right.machines))
		}
		if w.right.count(step.IKEFailed) != 1 {
			t.Errorf("%+v", w.right.notices)
		}
	})
}
