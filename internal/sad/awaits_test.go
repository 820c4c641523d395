package sad

import (
	"crypto/rand"
	dice "math/rand/v2"
	"testing"
	"time"

	"caponier/internal/ipsec"
)

// Whoever asks knows of every SPI that is reserved or has an inbound SA, and of no
// other: before there can be packets for it, and no longer than that.
func TestAwaits(t *testing.T) {
	awaited := make(map[inKey]bool)
	db := New(Config{Workers: 2, Rand: rand.Reader, Awaits: func(p ipsec.Protocol, spi ipsec.SPI, may bool) {
		key := inKey{p, spi}
		if awaited[key] == may {
			t.Errorf("SPI %s is told to be awaited = %v twice", spi, may)
		}
		if awaited[key] = may; !may {
			delete(awaited, key)
		}
	}})
	var spis []ipsec.SPI
	now := start
	for range 3000 {
		var spi ipsec.SPI
		if len(spis) > 0 {
			spi = spis[dice.IntN(len(spis))]
		}
		switch dice.IntN(8) {
		case 0, 1:
			got, err := db.AllocateSPI(ipsec.ESP)
			if err != nil {
				t.Fatal(err)
			}
			spis = append(spis, got)
		case 2:
			db.ReleaseSPI(ipsec.ESP, spi)
		case 3, 4:
			sa := newSA(t, ipsec.In, spi|ipsec.MinSPI)
			if dice.IntN(4) == 0 {
				sa.Lifetime.Hard.Time = time.Minute
			}
			if dice.IntN(10) == 0 {
				sa.LocalTS = nil // which is refused
			}
			_ = db.Add(sa, now)
		case 5:
			_ = db.Add(newSA(t, ipsec.Out, spi|ipsec.MinSPI), now)
		case 6:
			_ = db.Delete(ipsec.SAID{Direction: ipsec.In, Protocol: ipsec.ESP, SPI: spi})
		default:
			now = now.Add(7 * time.Second)
			db.Expire(now)
		}
		if len(awaited) != len(db.ins)+len(db.reserved) {
			t.Fatalf("%d are awaited; %d reserved, %d SAs", len(awaited), len(db.reserved), len(db.ins))
		}
		for key := range db.ins {
			if !awaited[key] {
				t.Fatalf("the SA %s is not awaited", key.spi)
			}
		}
		for key := range db.reserved {
			if !awaited[key] {
				t.Fatalf("the SPI %s is not awaited", key.spi)
			}
		}
	}
	if len(awaited) == 0 {
		t.Error("nothing was awaited")
	}
	db.Close()
	if len(awaited) != 0 {
		t.Errorf("%d are awaited after the end", len(awaited))
	}
}
