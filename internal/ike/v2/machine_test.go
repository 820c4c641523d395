package v2

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

func secretOf(b []byte) secret.Key { return secret.Copy(b) }

func TestSharedKey(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	w.up(Initiate{})
	for _, g := range []*gateway{w.left, w.right} {
		if g.count(IKEUp) != 1 || g.count(ChildUp) != 1 || g.count(PeerDropped) != 0 {
			t.Errorf("%s reported %v", g.name, g.notices)
		}
	}
	s := w.right.machine().Status()
	if s.RemoteID != "left.example" || s.LocalID != "right.example" || s.Connection != "to-left" || s.State != Established ||
		len(s.Children) != 1 || s.Children[0].Name != "lan" || !s.Children[0].Sending {
		t.Errorf("status %+v", s)
	}
}

func TestCertificates(t *testing.T) {
	for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, 1)
			w.certPair(kind)
			w.up(Initiate{})
			if got := w.right.machine().Status().RemoteID; got != "CN=left" {
				t.Errorf("peer is %q", got)
			}
		})
	}
}

func TestPSS(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.certPair("rsa")
	l.Local.PSS = true
	var schemes []string
	note := func(a *Sign) { schemes = append(schemes, a.Scheme.Name) }
	w.left.resign, w.right.resign = note, note
	w.up(Initiate{})
	if !slices.Equal(schemes, []string{"rsa-pss-sha256", "rsa-sha256"}) {
		t.Errorf("signed by %v", schemes)
	}
}

// RFC 7427 lets an RSA key sign with better than SHA-1: a peer that knows it and
// does not has been talked down.
func TestSHA1Signatures(t *testing.T) {
	for name, tt := range map[string]struct {
		use         SHA1Use
		older, want bool
	}{
		"auto, RFC 7427":     {SHA1Auto, false, false},
		"auto, older peer":   {SHA1Auto, true, true},
		"never, older peer":  {SHA1Never, true, false},
		"always, RFC 7427":   {SHA1Always, false, true},
		"always, older peer": {SHA1Always, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			l, r := w.certPair("rsa")
			l.Remote.SHA1, r.Remote.SHA1 = SHA1Always, tt.use
			w.left.resign = func(a *Sign) {
				leaf, err := x509.ParseCertificate(a.Connection.Local.Certificates[0])
				if err == nil {
					a.Scheme, err = suite.ChooseSignature(leaf.PublicKey, nil)
				}
				if err != nil {
					t.Error(err)
				}
				if tt.older {
					w.right.machines[0].setup.peerHashes = nil
				}
			}
			w.initiate(Initiate{})
			w.run(20 * time.Second)
			if up := w.right.machine() != nil; up != tt.want {
				t.Errorf("established: %v; %v", up, w.right.notices)
			}
			if !tt.want {
				w.right.mustReport(t, IKEFailed, "authentication-failed")
			}
		})
	}
}

func TestMixedAuthentication(t *testing.T) {
	w := newWorld(t, 1)
	l, r := w.certPair("ed25519")
	l.Local = Party{ID: Identity{Kind: message.IDRFC822, Data: "carol@example.org"}, Auth: AuthPSK, PSK: secretOf([]byte("k"))}
	r.Remote = Party{Auth: AuthPSK, PSK: secretOf([]byte("k"))}
	w.up(Initiate{})
}

func TestIdentities(t *testing.T) {
	for _, id := range []Identity{
		{Kind: message.IDIPv4, Data: "\xc0\x00\x02\x01"},
		{Kind: message.IDIPv6, Data: string(netip.MustParseAddr("2001:db8::1").AsSlice())},
		{Kind: message.IDFQDN, Data: "a.example"},
		{Kind: message.IDRFC822, Data: "a@example"},
		{Kind: message.IDKeyID, Data: "\x00\x01key"},
		{}, // the address
	} {
		t.Run(id.String(), func(t *testing.T) {
			w := newWorld(t, 1)
			w.pskPair(func(l, r *Connection) {
				l.Local.ID, r.Remote.ID = id, id
				if id == (Identity{}) {
					r.Remote.ID = Identity{Kind: message.IDIPv4, Data: "\xc0\x00\x02\x01"}
				}
			})
			w.up(Initiate{})
		})
	}
}

func TestProposals(t *testing.T) {
	for _, encr := range []string{"aes128gcm16-prfsha256", "aes256gcm16-prfsha384", "aes128-sha256", "aes192-sha384", "aes256-sha512"} {
		for _, ke := range []string{"x25519", "ecp256", "ecp384", "modp2048"} {
			for _, esn := range []string{"esn", "noesn"} {
				t.Run(encr+"-"+ke+"-"+esn, func(t *testing.T) {
					w := newWorld(t, 1)
					w.pskPair(func(l, r *Connection) {
						l.Proposals = proposals(t, suite.ParseIKE, encr+"-"+ke)
						r.Proposals = l.Proposals
						for _, c := range []*Child{l.Children[0], r.Children[0]} {
							c.Proposals = proposals(t, suite.ParseESP, encr+"-"+ke+"-"+esn)
						}
					})
					w.up(Initiate{})
					w.left.order1(RekeyChild{})
					w.run(20 * time.Second)
					w.right.order1(RekeyIKE{})
					w.run(20 * time.Second)
					w.check(1)
					for _, sa := range w.left.sad {
						if sa.ESN != (esn == "esn") {
							t.Errorf("ESN is %v", sa.ESN)
						}
					}
					if w.left.count(ChildRekeyed) != 1 || w.right.count(IKERekeyed) != 1 {
						t.Errorf("left %v, right %v", w.left.notices, w.right.notices)
					}
				})
			}
		}
	}
}

func TestSeveralChildren(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.pskPair()
	w.up(Initiate{Children: l.Children})
	if len(w.left.sad) != 4 {
		t.Fatalf("%d SAs", len(w.left.sad))
	}
	// Asking for what is being made already makes no second one.
	w.left.order1(DeleteChild{Name: "dmz"})
	w.run(10 * time.Second)
	w.check(1)
	w.right.mustReport(t, ChildDown, "deleted")
	w.right.order1(CreateChild{Child: w.right.conns[0].Children[1]})
	w.right.order1(CreateChild{Child: w.right.conns[0].Children[1]})
	w.run(10 * time.Second)
	w.check(2)
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name                  string
		change                func(l, r *Connection)
		leftCode, rightCode   string
		leftKind              NoticeKind
		rightKind             NoticeKind
		ikeStays, rightSilent bool
	}{
		{
			name: "wrong PSK", change: func(l, r *Connection) { r.Remote.PSK = secretOf([]byte("other")) },
			leftKind: IKEFailed, leftCode: "authentication-failed", rightKind: IKEFailed, rightCode: "authentication-failed",
		},
		{
			name: "wrong PSK of the responder", change: func(l, r *Connection) { r.Local.PSK = secretOf([]byte("other")) },
			leftKind: IKEFailed, leftCode: "authentication-failed", rightKind: IKEDown, rightCode: "authentication-failed",
		},
		{
			name: "wrong IDi", change: func(l, r *Connection) { l.Local.ID.Data = "mallory" },
			leftKind: IKEFailed, leftCode: "authentication-failed", rightKind: IKEFailed, rightCode: "authentication-failed",
		},
		{
			name: "wrong IDr", change: func(l, r *Connection) { l.Remote.ID.Data = "mallory" },
			leftKind: IKEFailed, leftCode: "authentication-failed", rightKind: IKEFailed, rightCode: "authentication-failed",
		},
		{
			name: "no IKE proposal",
			change: func(l, r *Connection) {
				r.Proposals = []ipsec.Proposal{{
					{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 192},
					{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA512256},
					{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA512},
					{Type: ipsec.TypeKE, ID: ipsec.KEX25519},
				}}
			},
			leftKind: IKEFailed, leftCode: "no-proposal-chosen", rightKind: IKEFailed, rightCode: "no-proposal-chosen",
		},
		{
			name: "no ESP proposal",
			change: func(l, r *Connection) {
				r.Children[0].Proposals = []ipsec.Proposal{{
					{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 192}, {Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA512256},
				}}
			},
			leftKind: ChildFailed, leftCode: "no-proposal-chosen", rightKind: ChildFailed, rightCode: "no-proposal-chosen", ikeStays: true,
		},
		{
			name: "no common selector",
			change: func(l, r *Connection) {
				r.Children = r.Children[1:]
			},
			leftKind: ChildFailed, leftCode: "ts-unacceptable", rightKind: ChildFailed, rightCode: "ts-unacceptable", ikeStays: true,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, 1)
			w.pskPair(test.change)
			w.initiate(Initiate{})
			w.run(60 * time.Second)
			w.left.mustReport(t, test.leftKind, test.leftCode)
			w.right.mustReport(t, test.rightKind, test.rightCode)
			w.check(0)
			if !test.ikeStays && len(w.left.machines)+len(w.right.machines) != 0 {
				t.Errorf("%d machines left, %d right remain", len(w.left.machines), len(w.right.machines))
			}
			if test.ikeStays {
				w.left.mustBe(t, Established)
				w.right.mustBe(t, Established)
			}
		})
	}
}

func TestWrongCertificateKey(t *testing.T) {
	for _, side := range []string{"left", "right"} {
		w := newWorld(t, 1)
		l, r := w.certPair("ed25519")
		other := credentials()["ed25519-r"].key
		if side == "left" {
			w.left.keys[l] = other
		} else {
			w.right.keys[r] = credentials()["ed25519-l"].key
		}
		w.initiate(Initiate{})
		w.run(60 * time.Second)
		w.left.mustReport(t, IKEFailed, "authentication-failed")
		w.check(0)
		if len(w.left.machines)+len(w.right.machines) != 0 {
			t.Errorf("%s lies: machines remain", side)
		}
	}
}

func TestInvalidKEPayload(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair(func(l, r *Connection) {
		l.Proposals = proposals(t, suite.ParseIKE, "aes256gcm16-prfsha256-x25519-ecp384")
		r.Proposals = proposals(t, suite.ParseIKE, "aes256gcm16-prfsha256-ecp384")
		l.Children[0].Proposals = proposals(t, suite.ParseESP, "aes256gcm16-x25519-ecp384")
		r.Children[0].Proposals = proposals(t, suite.ParseESP, "aes256gcm16-ecp384")
	})
	w.up(Initiate{})
	w.left.order1(RekeyChild{Name: "lan"})
	w.run(10 * time.Second)
	w.left.order1(RekeyIKE{})
	w.run(20 * time.Second)
	w.check(1)
	if w.left.count(ChildRekeyed) != 1 || w.left.count(IKERekeyed) != 1 {
		t.Errorf("left reported %v", w.left.notices)
	}
}

// A forged INVALID_KE_PAYLOAD must not choose a method that was not offered, nor
// make the initiator run in circles.
func TestInvalidKEPayloadIsBounded(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.pskPair()
	m := NewInitiator(&w.left.env, l, netip.AddrPortFrom(leftAddr, 500), netip.AddrPortFrom(rightAddr, 500))
	sent := 0
	step := func(e Event) {
		for _, a := range m.Step(w.now, e) {
			if _, ok := a.(Send); ok {
				sent++
			}
		}
	}
	step(Initiate{})
	for i := range 20 {
		group := []byte{0, byte([]uint16{19, 31}[i%2])}
		if i == 0 {
			group = []byte{0, 14} // not offered
		}
		msg := message.Message{
			Header: message.Header{
				InitiatorSPI: m.spiI, Exchange: message.IKESAInit, Flags: message.FlagResponse,
			},
			Payloads: []message.Payload{&message.Notify{Kind: message.InvalidKEPayload, Data: group}},
		}
		raw, err := msg.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		step(Received{Raw: raw, Local: m.local, Remote: m.remote})
	}
	if sent != 1+maxKERetries || m.state != InitSent {
		t.Errorf("%d requests sent in state %s", sent, m.state)
	}
}

// The IKE SA cannot be rekeyed: that is reported, and it goes on.
func TestRekeyIKERefused(t *testing.T) {
	w := newWorld(t, 1)
	_, r := w.pskPair()
	w.up(Initiate{})
	good := r.Proposals
	r.Proposals = proposals(t, suite.ParseIKE, "aes192-sha512-modp2048")
	w.left.order1(RekeyIKE{})
	w.run(10 * time.Second)
	w.left.mustReport(t, IKERekeyFailed, "no-proposal-chosen")
	r.Proposals = good
	w.run(time.Minute)
	w.check(1)
	if w.left.count(IKERekeyed) != 1 {
		t.Errorf("left reported %v", w.left.notices)
	}
}

func TestCookie(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	cookie := []byte("a cookie of the daemon")
	refused := 0
	w.mangle = func(f flight) []flight {
		msg, err := message.Parse(f.ike)
		if err != nil || msg.Header.Exchange != message.IKESAInit || msg.Header.Flags.Has(message.FlagResponse) {
			return []flight{f}
		}
		n, ok := msg.Payloads[0].(*message.Notify)
		if ok && n.Kind == message.Cookie && bytes.Equal(n.Data, cookie) {
			return []flight{f}
		}
		refused++
		answer := message.Message{
			Header: message.Header{
				InitiatorSPI: msg.Header.InitiatorSPI, Exchange: message.IKESAInit, Flags: message.FlagResponse,
			},
			Payloads: []message.Payload{&message.Notify{Kind: message.Cookie, Data: cookie}},
		}
		raw, err := answer.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return []flight{{at: f.at.Add(latency), src: f.dst, dst: f.src, ike: raw}}
	}
	w.up(Initiate{})
	if refused != 1 {
		t.Errorf("%d requests without the cookie", refused)
	}
}

func TestDeadPeer(t *testing.T) {
	t.Run("before IKE_SA_INIT", func(t *testing.T) {
		w := newWorld(t, 1)
		w.pskPair()
		w.right.dead = true
		w.initiate(Initiate{})
		w.run(5 * time.Minute)
		w.left.mustReport(t, IKEFailed, "peer-not-responding")
		w.check(0)
	})
	t.Run("established", func(t *testing.T) {
		w := newWorld(t, 1)
		w.pskPair(func(l, r *Connection) { l.DPD = 30 * time.Second })
		w.up(Initiate{})
		w.right.dead = true
		w.run(5 * time.Minute)
		w.left.mustReport(t, IKEDown, "peer-not-responding")
		if len(w.left.machines) != 0 || len(w.left.sad) != 0 {
			t.Errorf("%d machines and %d SAs remain", len(w.left.machines), len(w.left.sad))
		}
	})
	t.Run("alive", func(t *testing.T) {
		w := newWorld(t, 1)
		w.pskPair(func(l, r *Connection) { l.DPD = 30 * time.Second })
		w.up(Initiate{})
		before := len(w.trace)
		w.run(10 * time.Minute)
		w.check(1)
		if n := len(w.trace) - before; n < 30 || n > 50 {
			t.Errorf("%d messages in ten minutes", n)
		}
	})
}

func TestHalfOpenEnds(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	w.mangle = func(f flight) []flight {
		if h, _ := message.ParseHeader(f.ike); h.Exchange == message.IKEAuth {
			return nil
		}
		return []flight{f}
	}
	w.initiate(Initiate{})
	w.run(20 * time.Second)
	w.right.mustBe(t, HalfOpen)
	w.run(15 * time.Second)
	w.right.mustReport(t, IKEFailed, "timeout")
	if len(w.right.machines) != 0 {
		t.Error("the half-open IKE SA remains")
	}
}

func TestClose(t *testing.T) {
	for _, side := range []string{"left", "right", "both"} {
		t.Run(side, func(t *testing.T) {
			w := newWorld(t, 1)
			w.pskPair()
			w.up(Initiate{})
			if side != "right" {
				w.left.order1(Close{})
			}
			if side != "left" {
				w.right.order1(Close{})
			}
			w.run(30 * time.Second)
			w.check(0)
			if len(w.left.machines)+len(w.right.machines) != 0 || w.left.count(IKEDown) != 1 || w.right.count(IKEDown) != 1 {
				t.Errorf("left %v, right %v", w.left.notices, w.right.notices)
			}
			if n := w.left.last(t, IKEDown); n.Err != nil {
				t.Errorf("an orderly end reports %v", n.Err)
			}
		})
	}
}

// Close at every moment of the set-up leaves nothing at either end.
func TestCloseDuringSetup(t *testing.T) {
	for ms := range 60 {
		w := newWorld(t, uint64(ms))
		w.certPair("ed25519")
		m := w.initiate(Initiate{})
		w.run(time.Duration(ms) * time.Millisecond)
		w.left.step(m, Close{})
		w.run(2 * time.Minute)
		w.check(0)
		if len(w.left.machines)+len(w.right.machines) != 0 {
			t.Fatalf("after %d ms: left %v, right %v", ms, w.left.notices, w.right.notices)
		}
	}
}

func TestRetransmissionIsTheSameOctets(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	seen := map[string][][]byte{}
	dropped := map[string]bool{}
	w.mangle = func(f flight) []flight {
		h, _ := message.ParseHeader(f.ike)
		key := h.String()
		seen[key] = append(seen[key], f.ike)
		if !dropped[key] {
			dropped[key] = true
			return nil
		}
		return []flight{f}
	}
	w.up(Initiate{})
	w.right.order1(CheckLiveness{})
	w.run(10 * time.Second)
	for key, all := range seen {
		if len(all) < 2 {
			t.Errorf("%s was sent %d times", key, len(all))
		}
		for _, raw := range all {
			if !bytes.Equal(raw, all[0]) {
				t.Errorf("%s was repeated with other octets", key)
			}
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d messages", len(seen))
	}
}

// Every message that was ever sent is replayed at both ends, from a stranger's
// address: nothing changes.
func TestReplay(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	var recorded []flight
	w.mangle = func(f flight) []flight {
		recorded = append(recorded, f)
		return []flight{f}
	}
	w.up(Initiate{})
	w.left.order1(RekeyChild{})
	w.run(20 * time.Second)
	w.right.order1(CheckLiveness{})
	w.run(time.Second)
	w.mangle = func(f flight) []flight {
		if f.dst.Addr() != leftAddr && f.dst.Addr() != rightAddr {
			return nil // an answer to the stranger
		}
		return []flight{f}
	}
	before := [2]string{fmt.Sprint(w.left.machine().Status().Children), fmt.Sprint(w.right.machine().Status().Children)}
	for _, f := range recorded {
		for _, src := range []netip.AddrPort{f.src, netip.MustParseAddrPort("203.0.113.66:500")} {
			f.src = src
			w.left.receive(f)
			w.right.receive(f)
		}
	}
	w.run(40 * time.Second) // the half-open IKE SA of the replayed IKE_SA_INIT ends
	w.check(1)
	after := [2]string{fmt.Sprint(w.left.machine().Status().Children), fmt.Sprint(w.right.machine().Status().Children)}
	if before != after {
		t.Errorf("before %v, after %v", before, after)
	}
	if w.left.machine().remote != netip.AddrPortFrom(rightAddr, 500) {
		t.Errorf("the peer is now at %s", w.left.machine().remote)
	}
}

func TestInstallFailed(t *testing.T) {
	for _, direction := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		w := newWorld(t, 1)
		w.pskPair()
		w.right.refuse = func(sa ipsec.SA) error {
			if sa.Direction == direction {
				return errors.New("no room")
			}
			return nil
		}
		w.initiate(Initiate{})
		w.run(20 * time.Second)
		w.check(0)
		w.right.mustReport(t, ChildDown, "install-failed")
		w.left.mustReport(t, ChildDown, "deleted")
	}
}

func TestLifetimes(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.pskPair(func(l, r *Connection) {
		l.Lifetime, r.Lifetime = time.Hour, 2*time.Hour
		l.Children[0].Lifetime = ipsec.Limit{Time: 10 * time.Minute, Bytes: 1000, Packets: 10}
	})
	w.up(Initiate{})
	for _, sa := range w.left.sad {
		soft, hard := sa.Lifetime.Soft, sa.Lifetime.Hard
		if hard != l.Children[0].Lifetime || soft.Time < hard.Time*8/10 || soft.Time > hard.Time*9/10 ||
			soft.Bytes < 800 || soft.Bytes > 900 || soft.Packets < 8 || soft.Packets > 9 {
			t.Errorf("soft %v, hard %v", soft, hard)
		}
	}
	w.run(55 * time.Minute)
	if w.left.count(IKERekeyed) != 1 || w.left.count(IKEDown) != 0 {
		t.Errorf("left reported %v", w.left.notices)
	}
	w.check(1)
}

func TestExpiry(t *testing.T) {
	for _, hard := range []bool{false, true} {
		for _, direction := range []ipsec.Direction{ipsec.In, ipsec.Out} {
			w := newWorld(t, 1)
			w.pskPair()
			w.up(Initiate{})
			for id := range w.left.sad {
				if id.Direction == direction {
					if hard {
						delete(w.left.sad, id)
					}
					w.left.tell(Expired{ID: id, Hard: hard})
					w.left.tell(Expired{ID: id, Hard: hard})
				}
			}
			w.run(20 * time.Second)
			if hard {
				w.check(0)
				w.left.mustReport(t, ChildDown, "lifetime-expired")
			} else {
				w.check(1)
				if w.left.count(ChildRekeyed) != 1 || w.right.count(ChildRekeyed) != 1 {
					t.Errorf("left %v, right %v", w.left.notices, w.right.notices)
				}
			}
		}
	}
}

func TestNAT(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	w.nat = &natBox{shift: 20000}
	w.initiate(Initiate{})
	w.run(20 * time.Second)
	w.check(1)
	l, r := w.left.machine(), w.right.machine()
	if !l.nat.Local || l.nat.Remote || !r.nat.Remote || r.nat.Local || !l.nat.Encap || !r.nat.Encap {
		t.Errorf("left %+v, right %+v", l.nat, r.nat)
	}
	if l.local.Port() != 4500 || l.remote.Port() != 4500 || r.remote != netip.AddrPortFrom(natAddr, 24500) {
		t.Errorf("left %s to %s, right to %s", l.local, l.remote, r.remote)
	}
	// A new mapping: the responder follows IKE, and ESP.
	w.nat.shift = 30000
	w.left.order1(CheckLiveness{})
	w.run(time.Second)
	moved := func(port uint16) {
		t.Helper()
		want := netip.AddrPortFrom(natAddr, port)
		if r.remote != want {
			t.Errorf("IKE goes to %s, want %s", r.remote, want)
		}
		for id, sa := range w.right.sad {
			if sa.Remote != want {
				t.Errorf("%v goes to %s, want %s", id, sa.Remote, want)
			}
		}
	}
	moved(34500)
	for id := range w.right.sad {
		if id.Direction == ipsec.In {
			w.right.tell(PeerMoved{ID: id, Remote: netip.AddrPortFrom(natAddr, 1234)})
			break
		}
	}
	moved(1234)
	// The side behind the NAT stays with the address that it knows.
	for id := range w.left.sad {
		if id.Direction == ipsec.In {
			w.left.tell(PeerMoved{ID: id, Remote: netip.AddrPortFrom(natAddr, 99)})
			break
		}
	}
	if l.remote != netip.AddrPortFrom(rightAddr, 4500) {
		t.Errorf("left goes to %s", l.remote)
	}
}

func TestKeepAlive(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair(func(l, r *Connection) { l.KeepAlive = 10 * time.Second })
	w.nat = &natBox{shift: 1}
	w.initiate(Initiate{})
	w.run(time.Second)
	m, n := w.left.machine(), 0
	for end := w.now.Add(60 * time.Second); m.Deadline().Before(end); {
		w.now = m.Deadline()
		for _, a := range m.Step(w.now, Timeout{}) {
			if k, ok := a.(SendKeepAlive); ok && k.Remote.Port() == 4500 {
				n++
			}
		}
	}
	if n != 6 {
		t.Errorf("%d keepalives in a minute, want 6", n)
	}
}

func TestEncapsulation(t *testing.T) {
	for _, test := range []struct {
		left, right Encapsulation
		nat, encap  bool
	}{
		{EncapAuto, EncapAuto, false, false},
		{EncapAlways, EncapAuto, false, true},
		{EncapAuto, EncapAlways, false, true},
		{EncapAlways, EncapAlways, true, true},
		{EncapNever, EncapAuto, false, false},
		{EncapNever, EncapNever, true, false},
		{EncapAsk, EncapAsk, false, true},
		{EncapAsk, EncapAuto, false, true},
		{EncapAuto, EncapAsk, false, true},
		{EncapAsk, EncapAsk, true, true},
		{EncapAsk, EncapNever, false, false},
		{EncapNever, EncapAsk, false, false},
		{EncapNever, EncapAsk, true, false},
	} {
		w := newWorld(t, 1)
		w.pskPair(func(l, r *Connection) { l.Encapsulation, r.Encapsulation = test.left, test.right })
		if test.nat {
			w.nat = &natBox{}
		}
		w.initiate(Initiate{})
		w.run(10 * time.Second)
		w.check(1)
		for id, sa := range w.left.sad {
			if sa.Encap != test.encap || sa.Encap && (sa.Local.Port() != 4500 || sa.Remote.Port() != 4500) {
				t.Errorf("%+v: %v has encap %v from %s to %s", test, id, sa.Encap, sa.Local, sa.Remote)
			}
		}
	}
}

func TestCustomPort(t *testing.T) {
	w := newWorld(t, 1)
	l, _ := w.pskPair()
	m := NewInitiator(&w.left.env, l, netip.AddrPortFrom(leftAddr, 500), netip.AddrPortFrom(rightAddr, 4500))
	w.left.machines = append(w.left.machines, m)
	w.left.step(m, Initiate{})
	w.run(10 * time.Second)
	w.check(1)
	if local, remote := m.Addrs(); local.Port() != 4500 || remote.Port() != 4500 {
		t.Errorf("%s to %s", local, remote)
	}
}

func TestConnectionChoice(t *testing.T) {
	w := newWorld(t, 1)
	l, r := w.pskPair()
	anyone := *r
	anyone.Name, anyone.Remote.ID, anyone.Remote.PSK = "anyone", Identity{}, secretOf([]byte("shared by all"))
	anyone.Local.PSK = anyone.Remote.PSK
	cert := *r
	cert.Name, cert.Remote, cert.Local = "cert", Party{Auth: AuthCert}, Party{Auth: AuthCert, ID: r.Local.ID}
	w.right.conns = []*Connection{&cert, &anyone, r}
	w.up(Initiate{})
	if got := w.right.machine().Connection().Name; got != "to-left" {
		t.Errorf("%s was chosen", got)
	}
	w.right.order1(Close{})
	w.run(20 * time.Second)
	l.Local.ID.Data = "stranger"
	l.Local.PSK, l.Remote.PSK = anyone.Local.PSK, anyone.Local.PSK
	w.up(Initiate{})
	if got := w.right.machine().Connection().Name; got != "anyone" {
		t.Errorf("%s was chosen", got)
	}
}

func TestExportKeys(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	w.up(Initiate{})
	l, okL := w.left.machine().ExportKeys()
	r, okR := w.right.machine().ExportKeys()
	if !okL || !okR || !l.Ei.Equal(r.Ei) || !l.Er.Equal(r.Er) || l.Ei.Equal(l.Er) || l.Encr != r.Encr || l.InitiatorSPI != r.InitiatorSPI {
		t.Error("both ends export different keys")
	}
	l.Ei.Wipe()
	w.left.order1(CheckLiveness{})
	w.run(time.Second)
	w.check(1)
}

func TestDeterminism(t *testing.T) {
	run := func() []string {
		w := newWorld(t, 42)
		w.pskPair()
		w.up(Initiate{})
		w.left.order1(RekeyIKE{})
		w.right.order1(RekeyChild{})
		w.run(time.Minute)
		return w.trace
	}
	if a, b := run(), run(); !slices.Equal(a, b) {
		t.Error("two runs with the same random octets differ")
	}
}

func TestKeysAreWiped(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair()
	w.up(Initiate{})
	old := w.left.machine()
	k := old.session.Keys
	if !k.Pi.IsZero() || !k.Pr.IsZero() || slices.Max(k.D.Bytes()) == 0 {
		t.Error("SK_p is kept, or SK_d is not")
	}
	w.left.order1(RekeyIKE{})
	w.run(time.Minute)
	if old.state != Gone || slices.Max(k.D.Bytes()) != 0 || slices.Max(k.Ei.Bytes()) != 0 {
		t.Error("the keys of the old IKE SA are kept")
	}
}
