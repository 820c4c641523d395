package operations

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attacker sends packets with whatever source it likes.
type attacker struct {
	t    *testing.T
	fd   int
	rand *rand.Rand
}

func newAttacker(t *testing.T, s *site) *attacker {
	t.Helper()
	a := &attacker{t: t, rand: rand.New(rand.NewPCG(1, 2))}
	err := s.strange.Do(func() error {
		var err error
		a.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(a.fd) })
	return a
}

// raw sends a whole IPv4 packet.
func (a *attacker) raw(packet []byte) {
	a.t.Helper()
	o, ok := parse(packet)
	if !ok {
		a.t.Fatalf("not an IPv4 packet: %x", packet)
	}
	if err := unix.Sendto(a.fd, packet, 0, &unix.SockaddrInet4{Addr: o.dst.As4()}); err != nil {
		a.t.Fatal(err)
	}
}

func (a *attacker) ip(src, dst netip.Addr, protocol byte, payload []byte) {
	a.t.Helper()
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	from, to := src.As4(), dst.As4()
	copy(b[12:], from[:])
	copy(b[16:], to[:])
	a.raw(append(b, payload...)) // the kernel fills in the checksum
}

func (a *attacker) udp(src, dst netip.AddrPort, payload []byte) {
	a.t.Helper()
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	a.ip(src.Addr(), dst.Addr(), unix.IPPROTO_UDP, append(b, payload...)) // no checksum
}

func (a *attacker) garbage(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(a.rand.Uint32())
	}
	return b
}

// pause lets the gateway's sockets drain now and then.
func pause(i int) {
	if i%100 == 99 {
		time.Sleep(5 * time.Millisecond)
	}
}

// TestHostileDatagrams has a stranger, in his own name and in the peer's, send
// everything but the right thing, while a tunnel is in use.
func TestHostileDatagrams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, g := range []*gateway{s.gwA, s.gwB} {
		// Only what the test sends is to be counted; protocol 50 is what it forges.
		g.configure(nil, peers([]string{"dpd: 0s", "encapsulation: never"}, through(net4in4), through(net6in4)))
		g.start()
	}
	mustPing(t, s.hostA, net6in4.hostA, net6in4.hostB, 20)
	mustPing(t, s.hostA, net4in4.hostA, net4in4.hostB, 1)
	s.gwA.do("rekey", "peer/6in4") // more of IKE to be captured
	a := newAttacker(t, s)
	s.tap.arm()
	f := startFlow(t, s.hostA, net4in4.hostA, s.hostB, net4in4.hostB, 5*time.Millisecond, 100)

	victim := s.gwB
	memory, logged := victim.resident(), len(victim.logText())
	before := victim.status()
	const sas = 4 // two tunnels, each way
	// rise waits for a counter to have gone up by exactly n, since the last call.
	last := before.Counters
	rise := func(what string, want map[string]uint64) {
		t.Helper()
		var now map[string]uint64
		ok := func() bool {
			now = victim.status().Counters
			for name, n := range want {
				if now[name]-last[name] < n {
					return false
				}
			}
			return true
		}
		for deadline := time.Now().Add(3 * time.Second); !ok() && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
		}
		for name, n := range want {
			if got := now[name] - last[name]; got != n {
				t.Errorf("%s: %s has gone up by %d, not by %d", what, name, got, n)
			}
		}
		last = now
	}
	peer, own := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(outer4A, port) },
		func(port uint16) netip.AddrPort { return netip.AddrPortFrom(outer4B, port) }
	strangers := netip.AddrPortFrom(stranger4, 500)

	// Garbage of all lengths, to everything that listens.
	const each = 300
	for i := range each {
		b := a.garbage(i)
		for _, src := range []netip.Addr{stranger4, outer4A} {
			a.udp(netip.AddrPortFrom(src, 500), own(500), b)
			a.udp(netip.AddrPortFrom(src, 4500), own(4500), b)
			a.udp(netip.AddrPortFrom(src, 4500), own(4500), append(make([]byte, 4), b...))
			a.ip(src, outer4B, 50, b)
		}
		pause(i)
	}
	time.Sleep(300 * time.Millisecond)
	last = victim.status().Counters
	if last["ike-drop-malformed"] == before.Counters["ike-drop-malformed"] || last["sa-not-found"] == before.Counters["sa-not-found"] {
		t.Errorf("garbage is not counted: %v", last)
	}

	// Every message of IKE that was seen, cut everywhere: an answered one may be
	// answered again, none changes anything.
	messages := s.tap.captured(outer4A, true)
	if len(messages) < 4 {
		t.Fatalf("only %d IKE messages of the peer were captured", len(messages))
	}
	for _, m := range messages {
		for i := 28; i < len(m); i++ {
			cut := append([]byte(nil), m[:i]...)
			binary.BigEndian.PutUint16(cut[2:], uint16(i))
			binary.BigEndian.PutUint16(cut[24:], uint16(i-20))
			cut[26], cut[27] = 0, 0
			a.raw(cut)
			pause(i)
		}
	}
	// And whole, again and again, as the peer and as somebody else.
	for range 20 {
		for _, m := range messages {
			a.raw(m)
			o, _ := parse(m)
			a.udp(strangers, own(500), o.payload[8:])
		}
		time.Sleep(5 * time.Millisecond)
	}

	// ESP that was seen: each packet is a replay, counted, and nothing else.
	time.Sleep(300 * time.Millisecond)
	in := victim.onlySA("peer", "4in4").In.SPI
	last = victim.status().Counters
	var replayed uint64
	for _, p := range s.tap.captured(outer4A, false) {
		if o, _ := parse(p); hexSPI(o.payload) != in {
			continue
		}
		for range 3 {
			a.raw(p)
			replayed++
		}
	}
	if replayed < 100 {
		t.Fatalf("only %d packets to replay", replayed)
	}
	rise("replayed ESP", map[string]uint64{"esp-replay": replayed, "esp-integrity": 0})

	// Forged: the SPI is right, the sequence number far ahead, the ICV cannot be.
	const forged = 500
	spi := spiOctets(t, in)
	for i := range forged {
		b := append(append([]byte(nil), spi...), a.garbage(4+8+64)...)
		binary.BigEndian.PutUint32(b[4:], 1<<20+uint32(i))
		src := outer4A
		if i%2 == 0 {
			src = stranger4
		}
		a.ip(src, outer4B, 50, b)
		pause(i)
	}
	rise("forged ESP", map[string]uint64{"esp-integrity": forged, "esp-replay": 0})
	for i := range forged {
		b := append([]byte{0xde, 0xad, 0, byte(i)}, a.garbage(80)...)
		a.ip(stranger4, outer4B, 50, b)
		pause(i)
	}
	rise("ESP without an SA", map[string]uint64{"sa-not-found": forged})

	// A flood of beginnings: from addresses that no connection allows, and in the
	// peer's name.
	first := messages[0]
	o, _ := parse(first)
	begin := append([]byte(nil), o.payload[8:]...)
	if begin[18] != 34 { // IKE_SA_INIT
		t.Fatalf("the first message is of exchange type %d", begin[18])
	}
	const flood = 3000
	for i := range flood {
		copy(begin, a.garbage(8))
		a.udp(netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), uint16(1024+i)), own(500), begin)
		pause(i)
	}
	rise("a flood from everywhere", map[string]uint64{"ike-drop-no-connection": flood})
	for i := range flood {
		copy(begin, a.garbage(8))
		a.udp(peer(uint16(1024+i)), own(500), begin)
		pause(i)
	}
	time.Sleep(500 * time.Millisecond)
	now := victim.status()
	if half := now.Counters["ike-half-open"]; half > 64 {
		t.Errorf("one address has %d half-open IKE SAs", half)
	}
	refused := now.Counters["ike-drop-half-open"] + now.Counters["ike-cookies-out"]
	if refused-last["ike-drop-half-open"]-last["ike-cookies-out"] < flood-200 {
		t.Errorf("the flood is not counted: %v", now.Counters)
	}

	// What was up has not noticed.
	for _, what := range []string{"peer/4in4", "peer"} {
		s.gwA.do("rekey", what)
		victim.do("rekey", what)
	}
	f.mustBeWhole("under attack")
	s.tap.mustBeTight(t, "under attack")
	mustPing(t, s.hostA, net6in4.hostA, net6in4.hostB, 3)
	for deadline := time.Now().Add(8 * time.Second); len(victim.sas()) != sas && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	if now := victim.sas(); len(now) != sas {
		t.Errorf("there are %d SAs, not %d as before the attack: %+v", len(now), sas, now)
	}
	if got := now.Connections[0].IKE; len(got) != 1 {
		t.Errorf("there are %d IKE SAs of the connection after the attack, not one", len(got))
	}
	if panics := victim.status().Counters["worker-panics"]; panics != 0 || strings.Contains(victim.logText(), "level=ERROR") {
		t.Errorf("%d panics, and the log has:\n%s", panics, tail(victim.logText(), 20))
	}
	if grown := len(victim.logText()) - logged; grown > 64<<10 {
		t.Errorf("the log has grown by %d octets", grown)
	} else {
		t.Logf("the log has grown by %d octets", grown)
	}
	if kb := victim.resident(); kb > memory+(16<<10) {
		t.Errorf("the memory has grown from %d to %d KiB", memory, kb)
	} else {
		t.Logf("the memory has grown from %d to %d KiB", memory, kb)
	}
}

func hexSPI(esp []byte) string {
	const digits = "0123456789abcdef"
	var b strings.Builder
	for _, c := range esp[:4] {
		b.WriteByte(digits[c>>4])
		b.WriteByte(digits[c&15])
	}
	return b.String()
}

func spiOctets(t *testing.T, text string) []byte {
	t.Helper()
	var b []byte
	for i := 0; i+1 < len(text); i += 2 {
		b = append(b, byte(strings.IndexByte("0123456789abcdef", text[i])<<4|strings.IndexByte("0123456789abcdef", text[i+1])))
	}
	if len(b) != 4 {
		t.Fatalf("%q is not an SPI", text)
	}
	return b
}

// TestControlSocketKeepsStrangersOut: only root and the daemon's own user may
// give orders.
func TestControlSocketKeepsStrangersOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.gwA.configure(nil, peers(nil, through(net4in4)))
	s.gwA.start()
	// Even where the socket's mode was loosened.
	if err := os.Chmod(s.gwA.sock, 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := s.strange.Run(within(t, commandTimeout), "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		program, "--control", s.gwA.sock, "status")
	if err == nil || !strings.Contains(out, "forbidden") {
		t.Errorf("a stranger asked for the status: %v, %s", err, out)
	}
}
