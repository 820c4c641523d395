package sm

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// FuzzGCM compares all implementations with the peer and with each other.
func FuzzGCM(f *testing.F) {
	f.Add([]byte("0123456789abcdef"), []byte("nonce nonce "), []byte("header"), []byte("payload"))
	f.Add(make([]byte, 16), make([]byte, 12), []byte{}, make([]byte, 1400))
	f.Add(make([]byte, 16), make([]byte, 12), make([]byte, 2100), make([]byte, 1521))
	f.Fuzz(func(t *testing.T, key, nonce, aad, plain []byte) {
		if len(key) != 16 || len(nonce) != 12 {
			return
		}
		want := peerGCM(t, key).Seal(nil, nonce, plain, aad)
		for _, e := range engines() {
			g, err := newGCM(e, key)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.Seal(nil, nonce, plain, aad); !bytes.Equal(got, want) {
				t.Fatalf("%s seals\n%x, the peer\n%x", e.name, got, want)
			}
			if got, err := g.Open(nil, nonce, want, aad); err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%s opens %x: %v", e.name, got, err)
			}
		}
	})
}

// FuzzBatch takes the shape of a batch from its input: a length in blocks for
// every octet.
func FuzzBatch(f *testing.F) {
	f.Add(uint64(1), []byte{88, 88, 88})
	f.Add(uint64(2), bytes.Repeat([]byte{4, 5, 0, 30}, 12))
	f.Add(uint64(3), []byte{1})
	f.Fuzz(func(t *testing.T, seed uint64, shape []byte) {
		var blocks []int
		for _, n := range shape[:min(len(shape), 80)] {
			blocks = append(blocks, int(n))
		}
		for _, e := range engines() {
			jobs, want, codes := batchOf(rand.New(rand.NewPCG(seed, 0)), e, blocks, true)
			l := newLanes(e)
			l.Seal(jobs)
			for i := range jobs {
				if !bytes.Equal(jobs[i].Dst, want[i]) || !bytes.Equal(jobs[i].ICV, codes[i]) {
					t.Fatalf("%s: packet %d of shape %v is wrong", e.name, i, blocks)
				}
			}
			sealed, plain := sealedOf(rand.New(rand.NewPCG(seed, 1)), e, blocks, 1+int(seed%2))
			checkOpen(t, l, sealed, plain)
		}
	})
}
