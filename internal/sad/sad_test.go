package sad

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"caponier/internal/ah"
	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/replay"
	"caponier/internal/secret"

	"github.com/google/go-cmp/cmp"
)

var (
	start  = time.Unix(1_700_000_000, 0)
	local  = netip.MustParseAddrPort("192.0.2.1:4500")
	remote = netip.MustParseAddrPort("192.0.2.2:4500")
	moved  = netip.MustParseAddrPort("198.51.100.9:61000")
)

func sel(t testing.TB, text string) []ipsec.Selector {
	t.Helper()
	s, err := ipsec.ParseSelector(text)
	if err != nil {
		t.Fatal(err)
	}
	return []ipsec.Selector{s}
}

// newSA makes one direction; with the same SPI the other direction has the same
// keys, and the selectors fit, as if it were at the other gateway.
func newSA(t testing.TB, d ipsec.Direction, spi ipsec.SPI) ipsec.SA {
	t.Helper()
	sa := ipsec.SA{
		SPI: spi, Protocol: ipsec.ESP, Direction: d, Local: local, Remote: remote, Encap: true,
		Encr:    ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128},
		EncrKey: secret.New(bytes.Repeat([]byte{byte(spi) | 0x80}, 20)), ReqID: 7,
		LocalTS: sel(t, "10.1.0.0/16"), RemoteTS: sel(t, "10.2.0.0/16"), Connection: "agw", Tunnel: "lan",
	}
	if d == ipsec.In {
		sa.LocalTS, sa.RemoteTS = sa.RemoteTS, sa.LocalTS
	}
	return sa
}

func newDB(workers int) *DB { return New(Config{Workers: workers, Rand: rand.Reader}) }

func add(t testing.TB, db *DB, sa ipsec.SA) ipsec.SAID {
	t.Helper()
	if err := db.Add(sa, start); err != nil {
		t.Fatal(err)
	}
	return sa.ID()
}

func inner(n int) []byte {
	b := make([]byte, n)
	packet.PutIPv4(b, &packet.IPv4Header{
		Src: netip.MustParseAddr("10.1.0.7"), Dst: netip.MustParseAddr("10.2.0.1"), TotalLen: n, TTL: 64, Protocol: 99,
	})
	return b
}

func info(b []byte) *packet.Info {
	var p packet.Info
	p.Decode(b)
	return &p
}

// items makes n packets to seal, of size octets each.
func items(n, size int) []esp.SealItem {
	all := make([]esp.SealItem, n)
	for i := range all {
		all[i] = esp.SealItem{Dst: make([]byte, size+64), Inner: inner(size), NextHeader: esp.NextIPv4}
	}
	return all
}

// seal seals in a batch of its own.
func seal(t testing.TB, w *Worker, list []esp.SealItem) []ipsec.Event {
	t.Helper()
	w.Begin(start)
	out := w.Outbound(ipsec.ESP, 7, info(list[0].Inner))
	if out == nil {
		t.Fatal("no outbound SA")
	}
	w.Seal(out, list)
	return w.End()
}

// open opens one packet in a batch of its own.
func open(w *Worker, pkt []byte, from netip.AddrPort) ([]byte, []ipsec.Event, error) {
	w.Begin(start.Add(time.Second))
	spi, _ := esp.PeekSPI(pkt)
	in := w.Inbound(ipsec.ESP, spi)
	if in == nil {
		return nil, w.End(), esp.ErrNoSA
	}
	got, _, err := w.Open(in, pkt, from)
	if err == nil && !w.Admit(in, info(got)) {
		err = esp.ErrSelector
	}
	return got, w.End(), err
}

func status(t testing.TB, db *DB, d ipsec.Direction) ipsec.SAStatus {
	t.Helper()
	for _, s := range db.Status() {
		if s.ID.Direction == d {
			return s
		}
	}
	t.Fatalf("no SA of direction %s", d)
	return ipsec.SAStatus{}
}

func TestTraffic(t *testing.T) {
	db := newDB(1)
	outID := add(t, db, newSA(t, ipsec.Out, 0x1000))
	inID := add(t, db, newSA(t, ipsec.In, 0x1000))
	w := db.Worker(0)
	list := items(3, 100)
	if events := seal(t, w, list); len(events) != 0 {
		t.Errorf("events %v", events)
	}
	for i, it := range list {
		if it.Err != nil || it.Seq != uint64(i+1) {
			t.Fatalf("item %d: seq %d, %v", i, it.Seq, it.Err)
		}
		got, events, err := open(w, bytes.Clone(it.Dst[:it.Len]), remote)
		if err != nil || !bytes.Equal(got, it.Inner) {
			t.Fatalf("item %d: %v", i, err)
		}
		var want []ipsec.Event
		if i == 0 {
			want = []ipsec.Event{ipsec.FirstUse{ID: inID, Connection: "agw", Tunnel: "lan"}}
		}
		if diff := cmp.Diff(want, events, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("events (-want +got)\n%s", diff)
		}
	}
	if _, _, err := open(w, bytes.Clone(list[1].Dst[:list[1].Len]), remote); err != esp.ErrReplay {
		t.Errorf("replay: %v", err)
	}
	forged := bytes.Clone(list[1].Dst[:list[1].Len])
	forged[7] = 99
	if _, _, err := open(w, forged, remote); err != esp.ErrIntegrity {
		t.Errorf("forged: %v", err)
	}
	in, out := status(t, db, ipsec.In), status(t, db, ipsec.Out)
	if in.ID != inID || in.Packets != 3 || in.Bytes != 300 || in.ReplayDrops != 1 || in.IntegrityDrops != 1 || in.Sequence != 3 ||
		in.ReplayWindow != 4096 || !in.Used.Equal(start.Add(time.Second)) || !in.Added.Equal(start) {
		t.Errorf("inbound %+v", in)
	}
	if out.ID != outID || out.Packets != 3 || out.Bytes != 300 || out.Sequence != 3 || !out.Used.Equal(start) || out.Remote != remote {
		t.Errorf("outbound %+v", out)
	}
}

func TestSelectorsOfTheSADecide(t *testing.T) {
	db := newDB(1)
	add(t, db, newSA(t, ipsec.Out, 0x1000))
	narrow := newSA(t, ipsec.In, 0x1000)
	narrow.LocalTS = sel(t, "10.2.5.0/24")
	add(t, db, narrow)
	list := items(1, 100)
	seal(t, db.Worker(0), list)
	if _, _, err := open(db.Worker(0), list[0].Dst[:list[0].Len], remote); err != esp.ErrSelector {
		t.Errorf("packet beside the selectors: %v", err)
	}
	if s := status(t, db, ipsec.In); s.SelectorDrops != 1 {
		t.Errorf("selector drops %d", s.SelectorDrops)
	}
}

func TestNewestOutboundThatCovers(t *testing.T) {
	db := newDB(1)
	w := db.Worker(0)
	find := func() ipsec.SPI {
		w.Begin(start)
		defer w.End()
		if out := w.Outbound(ipsec.ESP, 7, info(inner(40))); out != nil {
			return out.SA().SPI
		}
		return 0
	}
	if find() != 0 {
		t.Error("found an SA in an empty database")
	}
	first := add(t, db, newSA(t, ipsec.Out, 0x1001))
	second := add(t, db, newSA(t, ipsec.Out, 0x1002))
	other := newSA(t, ipsec.Out, 0x1003)
	other.RemoteTS = sel(t, "10.3.0.0/16")
	add(t, db, other)
	another := newSA(t, ipsec.Out, 0x1004)
	another.ReqID = 8
	add(t, db, another)
	for _, step := range []struct {
		remove ipsec.SAID
		want   ipsec.SPI
	}{{first, 0x1002}, {second, 0}} {
		if got := find(); step.want != 0 && got != 0x1002 {
			t.Errorf("found %s", got)
		}
		if err := db.Delete(step.remove); err != nil {
			t.Fatal(err)
		}
		if got := find(); got != step.want {
			t.Errorf("after %s went: found %s, want %s", step.remove.SPI, got, step.want)
		}
	}
}

func TestAddRefuses(t *testing.T) {
	for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		for _, tt := range []struct {
			name   string
			change func(*ipsec.SA)
			want   error
		}{
			{"twice", func(*ipsec.SA) {}, ErrExists},
			{"no selectors", func(sa *ipsec.SA) { sa.SPI, sa.LocalTS = 0x2000, nil }, ErrNoSelectors},
			{"no address", func(sa *ipsec.SA) { sa.SPI, sa.Remote = 0x2000, netip.AddrPort{} }, ErrAddress},
			{"AH with encryption", func(sa *ipsec.SA) { sa.Protocol, sa.SPI, sa.Encap = ipsec.AH, 0x2000, false }, ah.ErrUnsupported},
			{"AH in UDP", func(sa *ipsec.SA) { sa.Protocol, sa.SPI = ipsec.AH, 0x2000 }, ErrEncap},
			{"no protocol", func(sa *ipsec.SA) { sa.Protocol, sa.SPI = 0, 0x2000 }, esp.ErrUnsupported},
			{"limit", func(sa *ipsec.SA) { sa.SPI = 0x3000 }, ErrLimit},
		} {
			db := New(Config{Workers: 1, Rand: rand.Reader, MaxSAs: 2})
			add(t, db, newSA(t, d, 0x1000))
			if tt.want == ErrLimit {
				add(t, db, newSA(t, d, 0x1001))
			}
			sa := newSA(t, d, 0x1000)
			tt.change(&sa)
			if err := db.Add(sa, start); !errors.Is(err, tt.want) {
				t.Errorf("%s, %s: %v", tt.name, d, err)
			}
			if sa.EncrKey.Bytes()[0] == 0 {
				t.Errorf("%s, %s: the keys were wiped though Add failed", tt.name, d)
			}
		}
	}
}

func TestUpdateKeepsTheSequence(t *testing.T) {
	db := newDB(1)
	id := add(t, db, newSA(t, ipsec.Out, 0x1000))
	other := newSA(t, ipsec.Out, 0x1000)
	other.Remote = netip.MustParseAddrPort("203.0.113.1:4500")
	otherID := add(t, db, other)
	seal(t, db.Worker(0), items(5, 40)) // by the newer one
	if err := db.Update(otherID, Endpoint{Local: local, Remote: remote}); !errors.Is(err, ErrExists) {
		t.Errorf("update to the peer of another: %v", err)
	}
	to := Endpoint{Local: local, Remote: moved, Encap: true}
	if err := db.Update(otherID, to); err != nil {
		t.Fatal(err)
	}
	if err := db.Update(otherID, to); !errors.Is(err, ErrNotFound) {
		t.Errorf("update by the old name: %v", err)
	}
	list := items(1, 40)
	seal(t, db.Worker(0), list)
	if list[0].Seq != 6 {
		t.Errorf("sequence number %d after the update", list[0].Seq)
	}
	s := db.Status()[1]
	if s.ID.Peer != moved.Addr() || s.Remote != moved {
		t.Errorf("status %+v", s)
	}
	if err := db.Delete(s.ID); err != nil {
		t.Error(err)
	}
	if err := db.Delete(id); err != nil || len(db.Status()) != 0 {
		t.Errorf("delete: %v", err)
	}
}

func TestAddressChanged(t *testing.T) {
	db := newDB(1)
	add(t, db, newSA(t, ipsec.Out, 0x1000))
	id := add(t, db, newSA(t, ipsec.In, 0x1000))
	w := db.Worker(0)
	list := items(6, 60)
	seal(t, w, list)
	for _, step := range []struct {
		packet int
		from   netip.AddrPort
		want   bool
	}{
		{1, remote, false},
		{2, moved, true},
		{3, moved, false},
		{0, remote, false}, // late
		{4, moved, false},
		{5, remote, false},
	} {
		it := list[step.packet]
		_, events, err := open(w, it.Dst[:it.Len], step.from)
		if err != nil {
			t.Fatal(err)
		}
		got := false
		for _, e := range events {
			if c, ok := e.(ipsec.AddressChanged); ok {
				got = c.Remote == moved && c.ID == id
			}
		}
		if got != step.want {
			t.Errorf("packet %d from %s: %v", step.packet, step.from, events)
		}
	}
}

func expiries(events []ipsec.Event) string {
	s := ""
	for _, e := range events {
		if x, ok := e.(ipsec.Expire); ok {
			s += map[bool]string{false: "soft ", true: "hard "}[x.Hard]
		}
	}
	return s
}

func TestLimitsOfPackets(t *testing.T) {
	db := newDB(1)
	out, in := newSA(t, ipsec.Out, 0x1000), newSA(t, ipsec.In, 0x1000)
	out.Lifetime = ipsec.Lifetime{Soft: ipsec.Limit{Packets: 3}, Hard: ipsec.Limit{Packets: 6}}
	in.Lifetime = ipsec.Lifetime{Soft: ipsec.Limit{Bytes: 120}, Hard: ipsec.Limit{Bytes: 200}}
	add(t, db, out)
	add(t, db, in)
	w := db.Worker(0)
	list := items(8, 60)
	var got []string
	got = append(got, expiries(seal(t, w, list[:2])), expiries(seal(t, w, list[2:4])), expiries(seal(t, w, list[4:])), expiries(seal(t, w, items(1, 60))))
	if diff := cmp.Diff([]string{"", "soft ", "hard ", ""}, got); diff != "" {
		t.Errorf("outbound (-want +got)\n%s", diff)
	}
	got = nil
	for i, it := range list {
		if i >= 6 {
			if it.Err != esp.ErrLifetime {
				t.Errorf("item %d: %v", i, it.Err)
			}
			continue
		}
		_, events, err := open(w, it.Dst[:it.Len], netip.AddrPort{})
		if want := map[bool]error{false: nil, true: esp.ErrLifetime}[i >= 4]; err != want {
			t.Errorf("packet %d: %v", i, err)
		}
		got = append(got, expiries(events))
	}
	if diff := cmp.Diff([]string{"", "soft ", "", "hard ", "", ""}, got); diff != "" {
		t.Errorf("inbound (-want +got)\n%s", diff)
	}
	if s := status(t, db, ipsec.Out); s.Packets != 6 || s.OutOfLifetimeDrops != 3 || s.Bytes != 360 {
		t.Errorf("outbound %+v", s)
	}
	if s := status(t, db, ipsec.In); s.Packets != 4 || s.OutOfLifetimeDrops != 2 {
		t.Errorf("inbound %+v", s)
	}
}

func TestSequenceNumbersEnd(t *testing.T) {
	db := newDB(1)
	add(t, db, newSA(t, ipsec.Out, 0x1000))
	w := db.Worker(0)
	w.Begin(start)
	out := w.Outbound(ipsec.ESP, 7, info(inner(40)))
	out.sequence.Store(1<<32 - 3)
	w.End()
	list := items(4, 40)
	if got := expiries(seal(t, w, list)); got != "soft hard " {
		t.Errorf("events %q", got)
	}
	for i, want := range []error{nil, nil, esp.ErrSequence, esp.ErrSequence} {
		if list[i].Err != want {
			t.Errorf("item %d: %v", i, list[i].Err)
		}
	}
	seal(t, w, list)
	if list[0].Err != esp.ErrSequence {
		t.Errorf("after the end: %v", list[0].Err)
	}
}

// Keys that were used before go on with the numbers that were not, and the limits
// count from there (RFC 4303, Section 3.3.3).
func TestSequenceGoesOn(t *testing.T) {
	db := newDB(1)
	sa := newSA(t, ipsec.Out, 0x1000)
	sa.Sequence = 1 << 20
	sa.Lifetime.Hard.Packets = 3
	add(t, db, sa)
	if s := status(t, db, ipsec.Out); s.Packets != 0 || s.Sequence != 1<<20 {
		t.Errorf("before the first packet: %+v", s)
	}
	list := items(4, 60)
	seal(t, db.Worker(0), list)
	for i := range 3 {
		if got := binary.BigEndian.Uint32(list[i].Dst[4:]); list[i].Err != nil || got != 1<<20+uint32(i)+1 {
			t.Errorf("packet %d has number %d, %v", i, got, list[i].Err)
		}
	}
	if s := status(t, db, ipsec.Out); list[3].Err != esp.ErrLifetime || s.Packets != 3 {
		t.Errorf("past the limit: %v, %+v", list[3].Err, s)
	}
}

func TestLimitsOfTime(t *testing.T) {
	db := newDB(1)
	for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		sa := newSA(t, d, 0x1000)
		sa.Lifetime = ipsec.Lifetime{Soft: ipsec.Limit{Time: time.Minute}, Hard: ipsec.Limit{Time: time.Hour}}
		add(t, db, sa)
	}
	add(t, db, newSA(t, ipsec.In, 0x2000))
	for _, step := range []struct {
		after time.Duration
		want  string
		left  int
	}{
		{time.Second, "", 3},
		{time.Minute, "soft soft ", 3},
		{2 * time.Minute, "", 3},
		{time.Hour - 1, "", 3},
		{time.Hour, "hard hard ", 1},
		{2 * time.Hour, "", 1},
	} {
		if got := expiries(db.Expire(start.Add(step.after))); got != step.want || len(db.Status()) != step.left {
			t.Errorf("after %s: %q, %d SAs left", step.after, got, len(db.Status()))
		}
	}
}

func TestKeysAreWipedWhenNoWorkerUsesThem(t *testing.T) {
	db := newDB(2)
	inSA := newSA(t, ipsec.In, 0x1000)
	add(t, db, inSA)
	if !inSA.EncrKey.Equal(secret.New(make([]byte, 20))) {
		t.Error("the key of the inbound SA is kept")
	}
	sa := newSA(t, ipsec.Out, 0x1001)
	id := add(t, db, sa)
	wiped := func() bool { return sa.EncrKey.Bytes()[0] == 0 }
	w := db.Worker(1)
	w.Begin(start)
	out := w.Outbound(ipsec.ESP, 7, info(inner(40)))
	if err := db.Delete(id); err != nil {
		t.Fatal(err)
	}
	if db.Reclaim() != 1 || wiped() {
		t.Fatal("wiped in the middle of a batch")
	}
	list := items(1, 40)
	w.Seal(out, list) // also makes the worker's sealer, from the keys
	if list[0].Err != nil {
		t.Error(list[0].Err)
	}
	if w.Outbound(ipsec.ESP, 7, info(inner(40))) != nil {
		t.Error("a deleted SA is found")
	}
	// Another worker's later batch does not hold it back.
	db.Worker(0).Begin(start)
	w.End()
	if db.Reclaim() != 0 || !wiped() {
		t.Error("not wiped after the batch")
	}
}

func TestClose(t *testing.T) {
	db := newDB(1)
	sa := newSA(t, ipsec.Out, 0x1001)
	add(t, db, sa)
	add(t, db, newSA(t, ipsec.In, 0x1001))
	db.Close()
	db.Close()
	if len(db.Status()) != 0 || sa.EncrKey.Bytes()[0] != 0 {
		t.Error("something is left")
	}
	if err := db.Add(newSA(t, ipsec.In, 0x1001), start); !errors.Is(err, ErrClosed) {
		t.Errorf("Add: %v", err)
	}
	if _, err := db.AllocateSPI(ipsec.ESP); !errors.Is(err, ErrClosed) {
		t.Errorf("AllocateSPI: %v", err)
	}
}

func TestAllocateSPI(t *testing.T) {
	const workers = 3
	db := New(Config{Workers: workers, Rand: rand.Reader, MaxReserved: 300})
	seen := map[ipsec.SPI]bool{}
	owners := make([]int, workers)
	for range 300 {
		spi, err := db.AllocateSPI(ipsec.ESP)
		if err != nil || spi < ipsec.MinSPI || seen[spi] {
			t.Fatalf("%s, %v", spi, err)
		}
		seen[spi] = true
		owners[db.Owner(spi)]++
	}
	if diff := cmp.Diff([]int{100, 100, 100}, owners); diff != "" {
		t.Errorf("the workers' shares: %s", diff)
	}
	if _, err := db.AllocateSPI(ipsec.ESP); !errors.Is(err, ErrLimit) {
		t.Errorf("beyond the cap: %v", err)
	}
	for spi := range seen {
		sa := newSA(t, ipsec.In, spi)
		if err := db.Add(sa, start); err != nil {
			t.Fatal(err)
		}
		if w := db.Worker((db.Owner(spi) + 1) % workers); w.Inbound(ipsec.ESP, spi) != nil {
			t.Error("another worker finds the SA")
		}
		if w := db.Worker(db.Owner(spi)); w.Inbound(ipsec.ESP, spi) == nil {
			t.Error("the owner does not find the SA")
		}
		db.ReleaseSPI(ipsec.ESP, spi) // must not free the SPI of an SA
		if err := db.Add(newSA(t, ipsec.In, spi), start); !errors.Is(err, ErrExists) {
			t.Fatal(err)
		}
		break
	}
	if _, err := db.AllocateSPI(ipsec.ESP); err != nil {
		t.Errorf("after Add took one: %v", err)
	}
	for spi := range seen {
		db.ReleaseSPI(ipsec.ESP, spi)
	}
	if got := len(db.reserved); got != 1 {
		t.Errorf("%d reserved", got)
	}
}

func TestAllocateSPISkipsWhatIsTaken(t *testing.T) {
	random := bytes.NewReader([]byte{0, 0, 0, 255, 0, 0, 0x10, 0, 0, 0, 0x10, 0, 0, 0, 0x10, 1})
	db := New(Config{Workers: 1, Rand: random})
	for _, want := range []ipsec.SPI{0x1000, 0x1001} {
		if got, err := db.AllocateSPI(ipsec.ESP); err != nil || got != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
	if _, err := db.AllocateSPI(ipsec.ESP); !errors.Is(err, io.EOF) {
		t.Errorf("without randomness: %v", err)
	}
}

func TestNoAllocs(t *testing.T) {
	db := newDB(1)
	add(t, db, newSA(t, ipsec.Out, 0x1000))
	add(t, db, newSA(t, ipsec.In, 0x1000))
	w := db.Worker(0)
	list := items(32, 1400)
	p := info(list[0].Inner)
	batch := func() {
		w.Begin(start)
		out := w.Outbound(ipsec.ESP, 7, p)
		w.Seal(out, list)
		for i := range list {
			pkt := list[i].Dst[:list[i].Len]
			spi, _ := esp.PeekSPI(pkt)
			in := w.Inbound(ipsec.ESP, spi)
			got, _, err := w.Open(in, pkt, remote)
			if err != nil {
				t.Fatal(err)
			}
			p.Decode(got)
			if !w.Admit(in, p) {
				t.Fatal("not admitted")
			}
		}
		w.End()
	}
	batch()
	if n := testing.AllocsPerRun(50, batch); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestMemoryOfAnSA guards the memory of an SA, with everything that it and the
// maps keep on the heap: about 1,050 octets of ours, 800 of key schedule and GHASH
// tables in crypto/cipher, and inbound the 512 of the window's bitmap.
func TestMemoryOfAnSA(t *testing.T) {
	const n = 4000
	for d, budget := range map[ipsec.Direction]uint64{ipsec.In: 1850 + replay.DefaultSize/8, ipsec.Out: 1950} {
		db := newDB(1)
		shared := newSA(t, d, 0x1000)
		heap := func() uint64 {
			var m runtime.MemStats
			runtime.GC()
			runtime.GC()
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before := heap()
		for i := range n {
			sa := shared
			sa.SPI, sa.ReqID, sa.EncrKey = ipsec.SPI(0x1000+i), uint32(i), secret.New(make([]byte, 20))
			add(t, db, sa)
		}
		got := (heap() - before) / n
		if got > budget {
			t.Errorf("%s: an SA takes %d octets, the budget is %d", d, got, budget)
		}
		runtime.KeepAlive(db)
	}
}

func BenchmarkInbound(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("sas=%d", n), func(b *testing.B) {
			db := newDB(1)
			for i := range n {
				add(b, db, newSA(b, ipsec.In, ipsec.SPI(0x1000+i)))
			}
			w := db.Worker(0)
			w.Begin(start)
			for b.Loop() {
				if w.Inbound(ipsec.ESP, 0x1000) == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}
