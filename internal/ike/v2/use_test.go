package v2

import (
	"testing"
	"time"

	"caponier/internal/ike/v2/fault"
	"caponier/internal/ipsec"
)

// The IKE SA is rekeyed before it has carried as much as it may, by octets or by
// datagrams, by the side that has the limit.
func TestIKELifetimeByUse(t *testing.T) {
	for name, limit := range map[string]ipsec.Limit{"bytes": {Bytes: 4000}, "packets": {Packets: 40}} {
		w := newWorld(t, 1)
		w.pskPair(func(l, _ *Connection) { l.Use = limit })
		w.up(Initiate{})
		for range 100 {
			w.left.order1(CheckLiveness{})
			w.run(2 * time.Second)
		}
		if n := w.left.count(IKERekeyed); n < 3 || n > 40 {
			t.Errorf("%s: rekeyed %d times", name, n)
		}
		if n := w.left.count(IKEDown) + w.right.count(IKEDown); n != 0 {
			t.Errorf("%s: %d IKE SAs ended", name, n)
		}
		w.check(1)
	}
}

// One that cannot be rekeyed ends at the limit.
func TestIKELifetimeByUseEnds(t *testing.T) {
	w := newWorld(t, 1)
	w.pskPair(func(l, _ *Connection) { l.Use = ipsec.Limit{Packets: 30} })
	w.up(Initiate{})
	m := w.left.machine()
	m.use.rekeyed = true // as if its rekeying waited for ever
	for range 40 {
		w.left.order1(CheckLiveness{})
		w.run(time.Second)
	}
	w.left.mustReport(t, IKEDown, fault.CodeLifetime)
}
