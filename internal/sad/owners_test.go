package sad

import (
	"crypto/rand"
	"testing"

	"caponier/internal/ipsec"
)

// TestOwnersAreTheFirstWorkers checks that workers past Config.Owners, which
// only seal, get no inbound SA.
func TestOwnersAreTheFirstWorkers(t *testing.T) {
	db := New(Config{Workers: 5, Owners: 2, Rand: rand.Reader})
	got := make(map[int]int)
	for range 20 {
		spi, err := db.AllocateSPI(ipsec.ESP)
		if err != nil {
			t.Fatal(err)
		}
		got[db.Owner(spi)]++
	}
	if got[0] != 10 || got[1] != 10 {
		t.Errorf("inbound SAs by owner: %v, want 10 for 0 and for 1", got)
	}
}
