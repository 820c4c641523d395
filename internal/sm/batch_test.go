package sm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// batchOf makes jobs of the given lengths in blocks, with some keys shared, and
// the answers of the portable code.
func batchOf(r *rand.Rand, e *engine, blocks []int, tails bool) (jobs []SealJob, want [][]byte, codes [][]byte) {
	var ciphers, slow []*CBCEncrypter
	var macs []*HMACKey
	for range 3 {
		key := random(r, KeySize)
		fast, _ := newCBCEncrypter(e, key)
		p, _ := newCBCEncrypter(&portableEngine, key)
		ciphers, slow = append(ciphers, fast), append(slow, p)
		macs = append(macs, NewHMACKey(random(r, 32)))
	}
	for _, n := range blocks {
		k, m := r.IntN(3), r.IntN(3)
		j := SealJob{Cipher: ciphers[k], MAC: macs[m], Head: random(r, 8), IV: random(r, 16), Src: random(r, 16*n), ICV: make([]byte, []int{32, 16, 12}[r.IntN(3)])}
		if tails && r.IntN(2) == 0 {
			j.Tail = random(r, 4)
		}
		if r.IntN(2) == 0 {
			j.Dst = j.Src
		} else {
			j.Dst = random(r, 16*n+r.IntN(3)*16)[:16*n]
		}
		out := make([]byte, 16*n)
		slow[k].portable.encryptCBC(out, j.IV, j.Src)
		var sum [HashSize]byte
		j.MAC.Sum(&sum, j.Head, j.IV, out, j.Tail)
		jobs, want, codes = append(jobs, j), append(want, out), append(codes, sum[:len(j.ICV)])
	}
	return jobs, want, codes
}

func shapes(r *rand.Rand) map[string][]int {
	s := map[string][]int{"none": nil}
	for _, count := range []int{1, 2, 15, 16, 17, 31, 32, 33, 64} {
		same, mixed := make([]int, count), make([]int, count)
		for i := range count {
			same[i], mixed[i] = 88, r.IntN(30)
			if r.IntN(8) == 0 {
				mixed[i] = r.IntN(120)
			}
		}
		s[fmt.Sprintf("same%d", count)] = same
		s[fmt.Sprintf("mixed%d", count)] = mixed
	}
	for n := range 10 {
		s[fmt.Sprintf("length%d", n)] = []int{n, n, n}
	}
	return s
}

func TestSealBatches(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(3, 4))
		l := newLanes(e)
		for name, blocks := range shapes(r) {
			jobs, want, codes := batchOf(r, e, blocks, true)
			l.Seal(jobs)
			for i := range jobs {
				if !bytes.Equal(jobs[i].Dst, want[i]) {
					t.Fatalf("%s: packet %d of %d blocks: wrong ciphertext", name, i, blocks[i])
				}
				if !bytes.Equal(jobs[i].ICV, codes[i]) {
					t.Fatalf("%s: packet %d of %d blocks: ICV %x, want %x", name, i, blocks[i], jobs[i].ICV, codes[i])
				}
			}
		}
	})
}

func TestCBCBatches(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(5, 6))
		l := newLanes(e)
		for name, blocks := range shapes(r) {
			seal, want, _ := batchOf(r, e, blocks, false)
			var jobs []CBCJob
			for i := range seal {
				jobs = append(jobs, seal[i].cbc())
			}
			l.EncryptCBC(jobs)
			for i := range jobs {
				if !bytes.Equal(jobs[i].Dst, want[i]) {
					t.Fatalf("%s: packet %d of %d blocks: wrong ciphertext", name, i, blocks[i])
				}
			}
		}
	})
}

func TestHMACBatches(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(7, 8))
		l := newLanes(e)
		for round := range 60 {
			var jobs []MACJob
			var want [][]byte
			for range r.IntN(70) {
				j := MACJob{
					Key: NewHMACKey(random(r, r.IntN(80))), Head: random(r, r.IntN(70)), Body: random(r, r.IntN(300)),
					Tail: random(r, r.IntN(35)), Sum: make([]byte, []int{32, 16, 12}[r.IntN(3)]),
				}
				var sum [HashSize]byte
				j.Key.Sum(&sum, j.Head, j.Body, j.Tail)
				jobs, want = append(jobs, j), append(want, sum[:len(j.Sum)])
			}
			l.HMAC(jobs)
			for i := range jobs {
				if !bytes.Equal(jobs[i].Sum, want[i]) {
					t.Fatalf("round %d: message %d of %d: %x, want %x", round, i, len(jobs), jobs[i].Sum, want[i])
				}
			}
		}
	})
}
