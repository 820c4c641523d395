package v1

import (
	"testing"
	"time"
)

// BenchmarkSetUp sets up an IKE SA and a pair of IPsec SAs: the work of both ends, with
// all SM2 operations, on one core.
func BenchmarkSetUp(b *testing.B) {
	pairs()
	for b.Loop() {
		w := newWorld(b, 1)
		w.connect()
		w.left.initiate(true)
		w.run(time.Second)
		if len(w.left.sad) != 2 || len(w.right.sad) != 2 {
			b.Fatal("no SAs")
		}
	}
}
