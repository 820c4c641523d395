package sad

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"caponier/internal/ah"
	"caponier/internal/drop"
	"caponier/internal/ipsec"
	"caponier/internal/packet"
	"caponier/internal/secret"
)

// newAH makes one direction of an AH SA, as newSA does of ESP.
func newAH(t testing.TB, d ipsec.Direction, spi ipsec.SPI, m ipsec.Mode) ipsec.SA {
	t.Helper()
	sa := newSA(t, d, spi)
	sa.Protocol, sa.Mode, sa.Encap = ipsec.AH, m, false
	sa.Encr, sa.EncrKey = ipsec.Transform{}, secret.Key{}
	sa.Integ = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}
	sa.IntegKey = secret.New(bytes.Repeat([]byte{byte(spi) | 0x80}, 32))
	return sa
}

// sealAH seals n packets of transport mode in a batch of their own.
func sealAH(t testing.TB, w *Worker, n int) ([]ah.SealItem, []ipsec.Event) {
	t.Helper()
	w.Begin(start)
	out := w.Outbound(ipsec.AH, 7, info(inner(100)))
	if out == nil {
		t.Fatal("no outbound SA")
	}
	list := make([]ah.SealItem, n)
	for i := range list {
		b := make([]byte, 100+out.AHLen(4))
		_, next, err := out.Insert(b, inner(100))
		if err != nil {
			t.Fatal(err)
		}
		list[i] = ah.SealItem{Packet: b, NextHeader: next}
	}
	w.SealAH(out, list)
	return list, w.End()
}

func openAH(w *Worker, pkt []byte) ([]byte, []ipsec.Event, error) {
	w.Begin(start.Add(time.Second))
	spi, _ := ah.PeekSPI(pkt)
	in := w.Inbound(ipsec.AH, spi)
	if in == nil {
		return nil, w.End(), drop.NoSA
	}
	got, err := w.OpenAH(in, pkt)
	return got, w.End(), err
}

func TestTrafficOfAH(t *testing.T) {
	db := newDB(2)
	// ESP SAs of the same SPI and ReqID are others.
	add(t, db, newSA(t, ipsec.Out, 0x1000))
	add(t, db, newSA(t, ipsec.In, 0x1000))
	outID := add(t, db, newAH(t, ipsec.Out, 0x1000, ipsec.Transport))
	inID := add(t, db, newAH(t, ipsec.In, 0x1000, ipsec.Transport))
	for i, sealing := range []*Worker{db.Worker(0), db.Worker(1)} {
		list, events := sealAH(t, sealing, 3)
		if len(events) != 0 {
			t.Errorf("events %v", events)
		}
		for j, it := range list {
			if it.Err != nil || it.Seq != uint64(3*i+j+1) {
				t.Fatalf("item %d: seq %d, %v", j, it.Seq, it.Err)
			}
			again := bytes.Clone(it.Packet)
			got, events, err := openAH(db.Worker(0), it.Packet)
			if err != nil || !bytes.Equal(got, inner(100)) {
				t.Fatalf("item %d: %x, %v", j, got, err)
			}
			if first := i == 0 && j == 0; first != (len(events) == 1) {
				t.Errorf("item %d: events %v", j, events)
			}
			if _, _, err := openAH(db.Worker(0), again); err != drop.Replay {
				t.Errorf("item %d again: %v", j, err)
			}
		}
	}
	list, _ := sealAH(t, db.Worker(0), 1)
	list[0].Packet[99] ^= 1
	if _, _, err := openAH(db.Worker(0), list[0].Packet); err != drop.Integrity {
		t.Errorf("forged: %v", err)
	}
	for _, s := range db.Status() {
		switch s.ID {
		case outID:
			if s.Packets != 7 || s.Bytes != 700 || s.Sequence != 7 || s.Mode != ipsec.Transport {
				t.Errorf("out: %+v", s)
			}
		case inID:
			if s.Packets != 6 || s.Bytes != 600 || s.Sequence != 6 || s.ReplayDrops != 6 || s.IntegrityDrops != 1 || s.ReplayWindow != 4096 {
				t.Errorf("in: %+v", s)
			}
		default:
			if s.Packets != 0 {
				t.Errorf("the ESP SA has carried packets: %+v", s)
			}
		}
	}
}

func TestLimitsOfAH(t *testing.T) {
	db := newDB(1)
	sa := newAH(t, ipsec.Out, 0x1000, ipsec.Transport)
	sa.Lifetime = ipsec.Lifetime{Soft: ipsec.Limit{Packets: 2}, Hard: ipsec.Limit{Packets: 3}}
	add(t, db, sa)
	sa = newAH(t, ipsec.In, 0x1000, ipsec.Transport)
	sa.Lifetime.Hard.Bytes = 150
	add(t, db, sa)
	list, events := sealAH(t, db.Worker(0), 5)
	if len(events) != 2 {
		t.Errorf("events %v", events)
	}
	for i, want := range []error{nil, nil, nil, drop.Lifetime, drop.Lifetime} {
		if list[i].Err != want {
			t.Errorf("item %d: %v", i, list[i].Err)
		}
	}
	for i, want := range []error{nil, nil, drop.Lifetime} {
		if _, _, err := openAH(db.Worker(0), list[i].Packet); err != want {
			t.Errorf("opening %d: %v", i, err)
		}
	}
	if s := status(t, db, ipsec.Out); s.OutOfLifetimeDrops != 2 || s.Packets != 3 {
		t.Errorf("out: %+v", s)
	}
}

func TestAHStaysOutOfUDP(t *testing.T) {
	db := newDB(1)
	for _, d := range []ipsec.Direction{ipsec.In, ipsec.Out} {
		id := add(t, db, newAH(t, d, 0x1000, ipsec.Tunnel))
		if err := db.Update(id, Endpoint{Local: local, Remote: moved, Encap: true}); !errors.Is(err, ErrEncap) {
			t.Errorf("%s: into UDP: %v", d, err)
		}
		if err := db.Update(id, Endpoint{Local: local, Remote: remote}); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
}

// TestAHWithoutAllocations carries packets of tunnel mode.
func TestAHWithoutAllocations(t *testing.T) {
	db := newDB(1)
	add(t, db, newAH(t, ipsec.Out, 0x1000, ipsec.Tunnel))
	add(t, db, newAH(t, ipsec.In, 0x1000, ipsec.Tunnel))
	w := db.Worker(0)
	p := info(inner(1300))
	items := make([]ah.SealItem, 16)
	for i := range items {
		items[i].Packet = make([]byte, 1400)
	}
	batch := func() {
		w.Begin(start)
		out := w.Outbound(ipsec.AH, 7, p)
		for i := range items {
			b := items[i].Packet[:cap(items[i].Packet)]
			n := packet.IPv4HeaderLen + out.AHLen(4)
			b = b[:n+copy(b[n:], inner1300)]
			packet.PutIPv4(b, &packet.IPv4Header{
				Src: local.Addr(), Dst: remote.Addr(), ID: 1, TotalLen: len(b), TTL: 64, Protocol: packet.ProtocolAH,
			})
			items[i].Packet, items[i].NextHeader = b, packet.ProtocolIPv4
		}
		w.SealAH(out, items)
		for i := range items {
			in := w.Inbound(ipsec.AH, 0x1000)
			got, err := w.OpenAH(in, items[i].Packet)
			if err != nil || len(got) != 1300 {
				t.Fatal(err)
			}
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

var inner1300 = inner(1300)
