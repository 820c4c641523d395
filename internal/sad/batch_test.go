package sad

import (
	"net/netip"
	"testing"

	"caponier/internal/esp"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
)

// TestOpenBatch: a limit that is reached in the middle of a batch stops the
// rest of it, and what is not genuine is counted as for packets alone.
func TestOpenBatch(t *testing.T) {
	db := newDB(1)
	out, in := newSA(t, ipsec.Out, 0x1000), newSA(t, ipsec.In, 0x1000)
	for _, sa := range []*ipsec.SA{&out, &in} {
		sa.Encr = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
		sa.Integ = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSM3}
		sa.EncrKey, sa.IntegKey = secret.New(make([]byte, 16)), secret.New(make([]byte, 32))
	}
	in.Lifetime = ipsec.Lifetime{Soft: ipsec.Limit{Packets: 2}, Hard: ipsec.Limit{Packets: 4}}
	add(t, db, out)
	add(t, db, in)
	w := db.Worker(0)
	list := items(8, 60)
	for i := range list {
		list[i].Dst = make([]byte, 200)
	}
	seal(t, w, list)
	var batch []esp.OpenItem
	for _, it := range list {
		if it.Err != nil {
			t.Fatal(it.Err)
		}
		batch = append(batch, esp.OpenItem{Packet: it.Dst[:it.Len]})
	}
	batch[1].Packet[20] ^= 1
	w.Begin(start)
	sa := w.Inbound(ipsec.ESP, 0x1000)
	if !sa.Serial() {
		t.Fatal("SM4-CBC with HMAC-SM3 is not serial")
	}
	from := make([]netip.AddrPort, len(batch))
	w.OpenBatch(sa, batch, from)
	for i, want := range []error{nil, esp.ErrIntegrity, nil, nil, nil, esp.ErrLifetime, esp.ErrLifetime, esp.ErrLifetime} {
		if batch[i].Err != want || (batch[i].Inner != nil) != (want == nil) {
			t.Errorf("item %d: %d octets, %v, want %v", i, len(batch[i].Inner), batch[i].Err, want)
		}
	}
	w.OpenBatch(sa, batch[:2], from)
	if batch[0].Err != esp.ErrLifetime || batch[0].Inner != nil {
		t.Errorf("after the limit: %v", batch[0].Err)
	}
	if got := expiries(w.End()); got != "soft hard " {
		t.Errorf("events %q", got)
	}
	if s := status(t, db, ipsec.In); s.Packets != 4 || s.IntegrityDrops != 1 || s.OutOfLifetimeDrops != 5 {
		t.Errorf("%+v", s)
	}
}
