package v1

import (
	"testing"
	"time"

	"caponier/internal/ike/step"
)

// TestMainAndQuickMode sets up an IKE SA with the digital envelope and a pair of
// IPsec SAs.
func TestMainAndQuickMode(t *testing.T) {
	w := newWorld(t, 1)
	w.connect()
	w.left.initiate(false)
	w.run(2 * time.Second)
	w.mustMatch(1)
	for _, g := range []*gateway{w.left, w.right} {
		if g.count(step.IKEUp) != 1 || g.count(step.ChildUp) != 1 || g.failure() != "" {
			t.Errorf("%s: %+v", g.name, g.notices)
		}
	}
}
