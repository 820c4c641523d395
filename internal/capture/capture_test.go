package capture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

var (
	near4 = netip.MustParseAddrPort("192.0.2.1:4500")
	far4  = netip.MustParseAddrPort("192.0.2.2:4501")
	near6 = netip.MustParseAddrPort("[2001:db8::1]:500")
	far6  = netip.MustParseAddrPort("[2001:db8::2]:500")
)

func read(t *testing.T, s *Session) []Packet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	var all []Packet
	for {
		got := s.Read(ctx, 1<<20)
		if len(got) == 0 {
			return all
		}
		all = append(all, got...)
	}
}

func open(t *testing.T, tap *Tap, connection string) *Session {
	t.Helper()
	s, err := tap.Open(connection)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNobodyListens(t *testing.T) {
	var none *Tap
	tap := new(Tap)
	if none.Listeners() != nil || tap.Listeners() != nil {
		t.Error("somebody listens")
	}
	if n := testing.AllocsPerRun(100, func() { tap.Listeners() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	s := open(t, tap, "")
	s.Close()
	s.Close()
	if tap.Listeners() != nil {
		t.Error("a closed session listens")
	}
}

func TestSessionsHaveALimit(t *testing.T) {
	tap := new(Tap)
	for range maxSessions {
		defer open(t, tap, "").Close()
	}
	if _, err := tap.Open(""); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
}

// TestWhoHearsWhat shows what each session gets of packets of three kinds.
func TestWhoHearsWhat(t *testing.T) {
	tap := new(Tap)
	all, agw, bgw := open(t, tap, ""), open(t, tap, "agw"), open(t, tap, "bgw")
	l := tap.Listeners()
	l.Inner(ipsec.Out, "agw", "lan", []byte{0x45}, 0)
	l.IPsec(ipsec.In, "", "", &Sealed{Local: near4, Remote: far4, Protocol: ipsec.ESP, UDP: true, Data: make([]byte, 16)})
	l.IKE(ipsec.Out, []string{"agw", "bgw"}, near4, far4, make([]byte, 28))
	l.IKE(ipsec.Out, []string{"bgw"}, near6, far6, make([]byte, 28))
	counts := func() [3]int { return [3]int{len(read(t, all)), len(read(t, agw)), len(read(t, bgw))} }
	if got := counts(); got != [3]int{4, 2, 2} {
		t.Errorf("all, agw and bgw get %v packets", got)
	}
	all.Close()
	tap.Listeners().Inner(ipsec.In, "agw", "lan", []byte{0x45}, 0)
	if got := counts(); got != [3]int{0, 1, 0} {
		t.Errorf("after the end of one, all, agw and bgw get %v packets", got)
	}
}

func TestQueueHasBounds(t *testing.T) {
	for _, tt := range []struct {
		name string
		size int
		most int
	}{{"packets", 1, queuePackets}, {"octets", 60000, queueOctets / 60000}} {
		t.Run(tt.name, func(t *testing.T) {
			tap := new(Tap)
			s := open(t, tap, "")
			b := make([]byte, tt.size)
			var wg sync.WaitGroup
			for range 4 {
				wg.Go(func() {
					for range tt.most {
						tap.Listeners().Inner(ipsec.Out, "a", "b", b, 0)
					}
				})
			}
			wg.Wait()
			got := len(read(t, s))
			if got > tt.most+4 || got < tt.most-4 || got+int(s.Dropped()) != 4*tt.most {
				t.Errorf("%d packets got through and %d were dropped, of %d", got, s.Dropped(), 4*tt.most)
			}
			if n := s.octets.Load(); n != 0 {
				t.Errorf("%d octets in an empty queue", n)
			}
		})
	}
}

// TestHeaders has our own decoder read the headers that are rebuilt.
func TestHeaders(t *testing.T) {
	tap := new(Tap)
	s := open(t, tap, "")
	l := tap.Listeners()
	l.IPsec(ipsec.Out, "", "", &Sealed{Local: near4, Remote: far4, Protocol: ipsec.ESP, UDP: true, Data: make([]byte, 33)})
	l.IPsec(ipsec.In, "", "", &Sealed{Local: near6, Remote: far6, Protocol: ipsec.ESP, UDP: false, Data: make([]byte, 33)})
	l.IKE(ipsec.In, nil, near6, far6, make([]byte, 33))
	l.IKE(ipsec.In, nil, near4, far4, make([]byte, 33))
	l.IPsec(ipsec.In, "", "", &Sealed{Local: netip.AddrPort{}, Remote: far4, Protocol: ipsec.AH, UDP: false, Data: make([]byte, 33)})
	l.IPsec(ipsec.In, "", "", &Sealed{Local: netip.AddrPort{}, Remote: netip.AddrPort{}, Protocol: ipsec.ESP, UDP: true, Data: make([]byte, 33)})
	var got []string
	for _, p := range read(t, s) {
		var info packet.Info
		info.Decode(p.Data)
		got = append(got, fmt.Sprintf("%d octets: %s.%d > %s.%d protocol %d", len(p.Data), info.Src, info.SrcPort, info.Dst, info.DstPort, info.Protocol))
		if info.Protocol == protocolUDP && info.Version == 6 && packet.TransportChecksum(info.Src, info.Dst, protocolUDP, p.Data[40:]) != 0 {
			t.Errorf("wrong checksum in %x", p.Data)
		}
	}
	want := []string{
		"61 octets: 192.0.2.1.4500 > 192.0.2.2.4501 protocol 17",
		"73 octets: 2001:db8::2.0 > 2001:db8::1.0 protocol 50",
		"81 octets: 2001:db8::2.500 > 2001:db8::1.500 protocol 17",
		"65 octets: 192.0.2.2.4501 > 192.0.2.1.4500 protocol 17",
		"53 octets: 192.0.2.2.0 > 0.0.0.0.0 protocol 51",
		"81 octets: ::.0 > ::.0 protocol 17",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func key(n int) secret.Key { return secret.Copy(make([]byte, n)) }

func testSA(d ipsec.Direction) ipsec.SA {
	return ipsec.SA{
		SPI: 0xc0ffee01, Protocol: ipsec.ESP, Direction: d, Local: near4, Remote: far4, Connection: "agw", Tunnel: "lan",
		LocalTS: []ipsec.Selector{{}}, RemoteTS: []ipsec.Selector{{}},
		Encr: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128}, EncrKey: key(16),
		Integ: ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}, IntegKey: key(32),
	}
}

func ikeKeys() IKEKeys {
	return IKEKeys{
		InitiatorSPI: 1, ResponderSPI: 2, Ei: key(20), Er: key(20),
		Encr: ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
	}
}

func lines(l *KeyListener) int { got, _, _ := l.Take(); return len(got) }

// TestKeyring follows keys from their SAs to those who listen, and to their end.
func TestKeyring(t *testing.T) {
	ring := new(Keyring)
	fake := dataplane.NewFake()
	backend := ring.Backend(fake)
	add := func(sa ipsec.SA) ipsec.SAID {
		t.Helper()
		if err := backend.AddSA(sa); err != nil {
			t.Fatal(err)
		}
		return sa.ID()
	}
	forbidden := add(testSA(ipsec.In))
	if _, ok := ring.Listen(""); ok || len(ring.esp) != 0 || (*Keyring)(nil).Allowed() {
		t.Fatal("keys are kept though nobody has allowed it")
	}
	if err := backend.DeleteSA(forbidden); err != nil {
		t.Fatal(err)
	}

	ring.Allow(true)
	in, out := testSA(ipsec.In), testSA(ipsec.Out)
	add(in)
	outID := add(out)
	ring.PutIKE(7, "", ikeKeys())
	all, ok := ring.Listen("")
	agw, _ := ring.Listen("agw")
	bgw, _ := ring.Listen("bgw")
	if !ok || lines(all) != 3 || lines(agw) != 2 || lines(bgw) != 0 {
		t.Error("wrong keys for those who begin to listen")
	}
	keys := ikeKeys()
	ring.PutIKE(7, "agw", keys) // the peer has said who it is
	if lines(all) != 1 || lines(agw) != 1 || lines(bgw) != 0 {
		t.Error("wrong keys of an IKE SA whose peer is known")
	}
	moved := dataplane.AddressUpdate{Local: near4, Remote: netip.MustParseAddrPort("192.0.2.9:9999"), Encap: true}
	if err := backend.UpdateSA(outID, moved); err != nil {
		t.Fatal(err)
	}
	if got, _, _ := agw.Take(); len(got) != 1 || !strings.Contains(got[0].Text, "192.0.2.9") {
		t.Errorf("after the peer has moved: %v", got)
	}
	outID.Peer = moved.Remote.Addr()
	kept := ring.esp[outID].EncrKey
	copy(kept.Bytes(), "not all zero")
	if err := backend.DeleteSA(outID); err != nil {
		t.Fatal(err)
	}
	ring.ForgetIKE(7)
	if len(ring.esp) != 1 || len(ring.ike) != 0 || !kept.Equal(key(16)) || !keys.Ei.Equal(key(20)) {
		t.Error("keys outlive their SAs")
	}
	ring.Allow(false)
	add(testSA(ipsec.Out))
	if lines(all) != 0 || len(ring.esp) != 0 || len(ring.listeners) != 0 {
		t.Error("keys are kept though it is no longer allowed")
	}
	agw.Close()
}

// TestUnreadable counts the SAs that Wireshark could not decrypt, once each, and gives
// none of their keys.
func TestUnreadable(t *testing.T) {
	ring := new(Keyring)
	backend := ring.Backend(dataplane.NewFake())
	ring.Allow(true)
	sm4 := ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
	before, _ := ring.Listen("agw")
	for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		sa := testSA(d)
		sa.Encr = sm4
		if err := backend.AddSA(sa); err != nil {
			t.Fatal(err)
		}
	}
	keys := ikeKeys()
	keys.Encr = sm4
	ring.PutIKE(7, "agw", keys)
	ring.PutIKE(7, "agw", keys)
	after, _ := ring.Listen("agw")
	other, _ := ring.Listen("bgw")
	for l, want := range map[*KeyListener]uint64{before: 3, after: 3, other: 0} {
		if lines, lost, unknown := l.Take(); len(lines) > 0 || lost > 0 || unknown != want {
			t.Errorf("%d lines, %d lost, %d unknown, want %d", len(lines), lost, unknown, want)
		}
	}
}

// TestLines compares with what Wireshark's own dialogue writes.
func TestLines(t *testing.T) {
	out, in := testSA(ipsec.Out), testSA(ipsec.In)
	in.Encr, in.Integ = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}, ipsec.Transform{}
	in.EncrKey, in.IntegKey = key(20), secret.Key{}
	in.Local, in.Remote = near6, far6
	sm4, ah := testSA(ipsec.Out), testSA(ipsec.Out)
	sm4.Encr.ID, ah.Protocol = ipsec.EncrSM4CBC, ipsec.AH
	ike := ikeKeys()
	unknown := ikeKeys()
	unknown.Encr.ID = ipsec.EncrSM4GCM16
	zeros := strings.Repeat("00", 20)
	want := []Line{
		{TableESP, `"IPv4","192.0.2.1","192.0.2.2","0xc0ffee01","AES-CBC [RFC3602]","0x` + strings.Repeat("00", 16) + `","HMAC-SHA-256-128 [RFC4868]","0x` + strings.Repeat("00", 32) + `"`},
		{TableESP, `"IPv6","2001:db8::2","2001:db8::1","0xc0ffee01","AES-GCM with 16 octet ICV [RFC4106]","0x` + zeros + `","NULL",""`},
		{},
		{},
		{TableIKE, "0000000000000001,0000000000000002," + zeros + "," + zeros + `,"AES-GCM-128 with 16 octet ICV [RFC5282]",,,"NONE [RFC4306]"`},
		{},
	}
	got := []Line{espLine(&out), espLine(&in), espLine(&sm4), espLine(&ah), ikeLine(&ike), ikeLine(&unknown)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "line", got[0])
	if text := log.String() + fmt.Sprintf("%v %s %+v %#v", got[0], got[0], got[0], got[0]); strings.Contains(text, "0000000000") {
		t.Errorf("a line shows its keys: %s", text)
	}
}

func TestSideAsText(t *testing.T) {
	for _, s := range []Side{Inner, Outer} {
		b, err := json.Marshal(s)
		var got Side
		if err := errors.Join(err, json.Unmarshal(b, &got)); err != nil || got != s {
			t.Errorf("%s: %s, %v", s, got, err)
		}
	}
	if err := new(Side).UnmarshalText([]byte("under")); err == nil {
		t.Error("there are only two sides")
	}
}
