//go:build linux

package sm

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"
)

// guarded returns n octets with a page that cannot be touched right behind them,
// or right before them.
func guarded(t testing.TB, n int, before bool) []byte {
	t.Helper()
	const page = 4096
	size := (n + page - 1) / page * page
	m, err := syscall.Mmap(-1, 0, size+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(m) })
	for _, edge := range [][]byte{m[:page], m[page+size:]} {
		if err := syscall.Mprotect(edge, syscall.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	if before {
		return m[page : page+n : page+n]
	}
	return m[page+size-n : page+size : page+size]
}

func clone(t testing.TB, b []byte, before bool) []byte {
	g := guarded(t, len(b), before)
	copy(g, b)
	return g
}

// Every buffer ends, or begins, where memory does: a kernel that reads or writes
// past one dies.
func TestBuffersAtTheEdgeOfMemory(t *testing.T) {
	lengths := []int{0, 1, 15, 16, 17, 31, 48, 63, 64, 65, 79, 80, 100, 127, 128, 200, 239, 240, 241, 256, 496, 500, 512, 1000, 1024, 1040, 1400, 1408, 1520, 1521, 1536, 1600, 3100}
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(21, 22))
		for _, before := range []bool{false, true} {
			edge := func(n int) []byte { return clone(t, random(r, n), before) }
			key := random(r, 16)
			g, _ := newGCM(e, key)
			d, _ := newCBCDecrypter(e, key)
			c, _ := newCBCEncrypter(e, key)
			l := newLanes(e)
			mac := NewHMACKey(random(r, 16))
			for _, n := range lengths {
				nonce, aad, plain := edge(12), edge(r.IntN(40)), edge(n)
				sealed := edge(n + 16)
				g.Seal(sealed[:0], nonce, plain, aad)
				out := edge(n)
				if got, err := g.Open(out[:0], nonce, sealed, aad); err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("GCM of %d octets: %v", n, err)
				}
				seal := make([]GCMJob, 3)
				open := make([]GCMJob, 3)
				for i := range seal {
					seal[i] = GCMJob{Key: g, Nonce: nonce, AAD: aad, Src: plain, Dst: edge(n + 16)}
					open[i] = GCMJob{Key: g, Nonce: nonce, AAD: aad, Src: seal[i].Dst, Dst: edge(n)}
				}
				l.SealGCM(seal)
				l.OpenGCM(open)
				for i := range open {
					if open[i].Err != nil || !bytes.Equal(open[i].Dst, plain) {
						t.Fatalf("batch of GCM of %d octets: %v", n, open[i].Err)
					}
				}
				if n%16 != 0 {
					continue
				}
				iv := edge(16)
				var jobs []SealJob
				for i := range 6 {
					src := plain[:n-min(n, 16*(i%3))]
					j := SealJob{Cipher: c, MAC: mac, Head: edge(8), IV: iv, Src: clone(t, src, before), Dst: edge(len(src)), Tail: edge(4), ICV: edge(12)}
					jobs = append(jobs, j)
				}
				l.Seal(jobs)
				d.Decrypt(out, iv, jobs[0].Dst)
				if !bytes.Equal(out, plain) {
					t.Fatalf("CBC of %d octets", n)
				}
				for _, count := range []int{1, len(jobs)} { // apart and together
					var open []OpenJob
					for _, j := range jobs[:count] {
						open = append(open, OpenJob{
							Cipher: d, MAC: mac, Head: j.Head, IV: j.IV, Src: clone(t, j.Dst, before), Dst: edge(len(j.Dst)),
							Tail: j.Tail, ICV: j.ICV,
						})
					}
					for _, inPlace := range []bool{false, true} {
						for i := range open {
							if inPlace {
								open[i].Dst = open[i].Src
							}
						}
						l.Open(open)
						for i := range open {
							if open[i].Err != nil || !bytes.Equal(open[i].Dst, jobs[i].Src) {
								t.Fatalf("open packet %d of %d octets: %v", i, n, open[i].Err)
							}
						}
					}
				}
				var macs []MACJob
				for range 5 {
					macs = append(macs, MACJob{Key: mac, Head: edge(24), Body: plain, Tail: edge(4), Sum: edge(32)})
				}
				l.HMAC(macs)
			}
		}
	})
}
