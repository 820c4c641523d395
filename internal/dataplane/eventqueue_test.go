package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"caponier/internal/ipsec"
)

func TestEventsHaveABound(t *testing.T) {
	q := NewEventQueue(4)
	hard := func(spi ipsec.SPI) ipsec.Expire { return ipsec.Expire{ID: ipsec.SAID{SPI: spi}, Hard: true} }
	for range 10 {
		q.Push(ipsec.Acquire{})
	}
	for spi := range ipsec.SPI(10) {
		q.Push(hard(spi))
	}
	for range 4 {
		<-q.ch
	}
	q.Push(ipsec.Acquire{}) // must not overtake
	var got []ipsec.SPI
	for len(got) < 10 {
		q.Flush()
		for len(q.ch) > 0 {
			e := <-q.ch
			x, ok := e.(ipsec.Expire)
			if !ok {
				t.Fatalf("got %+v", e)
			}
			got = append(got, x.ID.SPI)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint([]ipsec.SPI{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}) {
		t.Errorf("hard expiries: %v", got)
	}
	if q.Lost() != 7 {
		t.Errorf("%d lost, want 7", q.Lost())
	}
	q.Close()
	q.Close()
	q.Push(hard(1)) // must not panic
}

func TestAddressChangesAreLimited(t *testing.T) {
	q := NewEventQueue(16)
	moved := func(port uint16) ipsec.AddressChanged {
		return ipsec.AddressChanged{ID: ipsec.SAID{SPI: 1000}, Remote: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port)}
	}
	for port := uint16(1); port <= 100; port++ {
		q.Push(moved(port))
	}
	q.Flush()
	if len(q.ch) != 2 || <-q.ch != ipsec.Event(moved(1)) || <-q.ch != ipsec.Event(moved(100)) {
		t.Fatal("want the first move and the last")
	}
	q.Flush()
	q.Push(moved(200))
	if len(q.ch) != 1 || len(q.moved) != 1 {
		t.Errorf("%d events and %d SAs remembered", len(q.ch), len(q.moved))
	}
	q.Flush()
	if len(q.moved) != 0 {
		t.Error("an SA is remembered for ever")
	}
}
