package dataplanetest

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"caponier/internal/dataplane"
	"caponier/internal/ipsec"
)

var controlTests = map[string]func(*testing.T, *Instance){
	"SPIs are unique and random":               testSPIs,
	"a reserved SPI stays reserved":            testReservation,
	"SAs are added once and deleted once":      testAddDelete,
	"a refused SA leaves nothing":              testRefusedSA,
	"keys that were used before go on":         testSequence,
	"an SA moves to other addresses":           testUpdate,
	"SAs of AH stand beside those of ESP":      testAHControl,
	"policies are replaced as a whole":         testPolicies,
	"Close ends everything and wipes the keys": testClose,
}

func testSPIs(t *testing.T, b *Instance) {
	seen := make(map[ipsec.SPI]bool)
	var last ipsec.SPI
	steps := make(map[ipsec.SPI]int)
	for range 500 {
		spi, err := b.AllocateSPI(ipsec.ESP)
		if err != nil {
			t.Fatal(err)
		}
		if spi < ipsec.MinSPI || seen[spi] {
			t.Fatalf("SPI %s is reserved or was given out twice", spi)
		}
		seen[spi] = true
		steps[(spi-last)&0xffff]++
		last = spi
	}
	sequential := steps[1] + steps[2] + steps[3] + steps[4]
	if sequential > 10 {
		t.Errorf("%d of 500 SPIs follow the one before", sequential)
	}
}

func testReservation(t *testing.T, b *Instance) {
	spi, err := b.AllocateSPI(ipsec.ESP)
	if err != nil {
		t.Fatal(err)
	}
	b.ReleaseSPI(ipsec.ESP, spi)
	b.ReleaseSPI(ipsec.ESP, spi) // does nothing
	spi, err = b.AllocateSPI(ipsec.ESP)
	if err != nil {
		t.Fatal(err)
	}
	sa := newSA(ipsec.In, spi, 0)
	if err := b.AddSA(sa); err != nil {
		t.Fatalf("add an SA with its reserved SPI: %v", err)
	}
	b.ReleaseSPI(ipsec.ESP, spi) // the SA has taken it
	if len(b.SAs()) != 1 {
		t.Error("releasing the SPI of an SA removed it")
	}
}

func testAddDelete(t *testing.T, b *Instance) {
	in, out := newSA(ipsec.In, 0xc0000001, 0), newSA(ipsec.Out, 0xc0000001, 0)
	for _, sa := range []ipsec.SA{in, out} {
		if err := b.AddSA(sa); err != nil {
			t.Fatal(err)
		}
		again := newSA(sa.Direction, sa.SPI, 0)
		if err := b.AddSA(again); !errors.Is(err, dataplane.ErrExists) {
			t.Errorf("adding %v twice: %v", sa.ID(), err)
		}
		if !bytes.ContainsFunc(again.EncrKey.Bytes(), func(r rune) bool { return r != 0 }) {
			t.Error("the keys of an SA that was refused were wiped")
		}
	}
	got := b.SAs()
	if len(got) != 2 {
		t.Fatalf("%d SAs, want 2", len(got))
	}
	for i, sa := range []ipsec.SA{in, out} {
		s := got[i]
		if s.ID != sa.ID() || s.Local != sa.Local || s.Remote != sa.Remote || s.Encap != sa.Encap || s.Encr != sa.Encr ||
			s.ReqID != sa.ReqID || !slices.Equal(s.LocalTS, sa.LocalTS) || s.Connection != sa.Connection || s.Tunnel != sa.Tunnel {
			t.Errorf("status %+v does not tell of %v", s, sa.ID())
		}
		if s.Added.IsZero() || !s.Used.IsZero() || s.Packets != 0 {
			t.Errorf("a new SA has status %+v", s)
		}
	}
	for _, sa := range []ipsec.SA{in, out} {
		if err := b.DeleteSA(sa.ID()); err != nil {
			t.Fatal(err)
		}
		if err := b.DeleteSA(sa.ID()); !errors.Is(err, dataplane.ErrNotFound) {
			t.Errorf("deleting %v twice: %v", sa.ID(), err)
		}
	}
	if n := len(b.SAs()); n != 0 {
		t.Errorf("%d SAs are left", n)
	}
}

func testRefusedSA(t *testing.T, b *Instance) {
	unknown := newSA(ipsec.Out, 0xc0000001, 0)
	unknown.Encr = ipsec.Transform{ID: 65000}
	if err := b.AddSA(unknown); !errors.Is(err, dataplane.ErrTransform) {
		t.Errorf("an unknown cipher: %v", err)
	}
	noTS := newSA(ipsec.In, 0xc0000001, 0)
	noTS.LocalTS = nil
	if err := b.AddSA(noTS); err == nil {
		t.Error("an SA without traffic selectors was added")
	}
	if n := len(b.SAs()); n != 0 {
		t.Errorf("%d SAs after two refusals", n)
	}
}

// testSequence: RFC 4303, Section 3.3.3, for keys that outlive their SA.
func testSequence(t *testing.T, b *Instance) {
	sa := newSA(ipsec.Out, 0xc0000001, 0)
	sa.Sequence = 1 << 20
	if err := b.AddSA(sa); err != nil {
		t.Fatal(err)
	}
	if all := b.SAs(); len(all) != 1 || all[0].Sequence != 1<<20 || all[0].Packets != 0 {
		t.Errorf("the SA does not begin after the numbers that were used: %+v", all)
	}
}

func testUpdate(t *testing.T, b *Instance) {
	sa := newSA(ipsec.Out, 0xc0000001, 0)
	if err := b.AddSA(sa); err != nil {
		t.Fatal(err)
	}
	u := dataplane.AddressUpdate{
		Local:  netip.MustParseAddrPort("198.51.100.1:4500"),
		Remote: netip.MustParseAddrPort("198.51.100.2:61000"),
		Encap:  true,
	}
	if err := b.UpdateSA(sa.ID(), u); err != nil {
		t.Fatal(err)
	}
	got := b.SAs()[0]
	if got.Local != u.Local || got.Remote != u.Remote || !got.Encap || got.ID.Peer != u.Remote.Addr() {
		t.Errorf("after the update: %+v", got)
	}
	if err := b.UpdateSA(sa.ID(), u); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("the old name still works: %v", err)
	}
	if err := b.DeleteSA(got.ID); err != nil {
		t.Error(err)
	}
}

func testPolicies(t *testing.T, b *Instance) {
	list := []ipsec.Policy{protect(0, true), {
		Name: "rest", Action: ipsec.Discard, Priority: -1,
		Local: []ipsec.Selector{ipsec.FromPrefix(net4[0])}, Remote: []ipsec.Selector{ipsec.FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))},
	}}
	for range 2 {
		if err := b.SetPolicies(list); err != nil {
			t.Fatal(err)
		}
		got := b.Policies()
		if len(got) != 2 || got[0].Name != list[0].Name || got[1].Name != list[1].Name {
			t.Fatalf("policies are %+v", got)
		}
	}
	if err := b.SetPolicies([]ipsec.Policy{list[0], list[0]}); err == nil {
		t.Error("a name was taken twice")
	}
	if n := len(b.Policies()); n != 2 {
		t.Errorf("%d policies after a refused list, want the 2 of before", n)
	}
	if err := b.SetPolicies(nil); err != nil || len(b.Policies()) != 0 {
		t.Errorf("emptying the SPD: %v, %d policies left", err, len(b.Policies()))
	}
}

func testClose(t *testing.T, b *Instance) {
	in, out := newSA(ipsec.In, 0xc0000001, 0), newSA(ipsec.Out, 0xc0000002, 0)
	for _, sa := range []ipsec.SA{in, out} {
		if err := b.AddSA(sa); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for _, sa := range []ipsec.SA{in, out} {
		for _, octet := range sa.EncrKey.Bytes() {
			if octet != 0 {
				t.Fatalf("the key of %v is still there", sa.ID())
			}
		}
	}
	if err := b.AddSA(newSA(ipsec.In, 0xc0000003, 0)); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("AddSA after Close: %v", err)
	}
	if _, err := b.AllocateSPI(ipsec.ESP); !errors.Is(err, dataplane.ErrClosed) {
		t.Errorf("AllocateSPI after Close: %v", err)
	}
	select {
	case e, ok := <-b.Events():
		if ok {
			t.Errorf("an event after Close: %+v", e)
		}
	case <-time.After(time.Second):
		t.Error("Close leaves the channel of events open")
	}
}
