//go:build linux

package lanes

import (
	"bytes"
	"crypto/hmac"
	"math/rand/v2"
	"syscall"
	"testing"
)

// edges gives out memory that ends, or begins, where a page begins that cannot be
// touched.
type edges struct {
	t      *testing.T
	before bool
}

func (e edges) clone(b []byte) []byte {
	e.t.Helper()
	const page = 4096
	size := (len(b) + page - 1) / page * page
	m, err := syscall.Mmap(-1, 0, size+2*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { syscall.Munmap(m) })
	for _, edge := range [][]byte{m[:page], m[page+size:]} {
		if err := syscall.Mprotect(edge, syscall.PROT_NONE); err != nil {
			e.t.Fatal(err)
		}
	}
	from := page + size - len(b)
	if e.before {
		from = page
	}
	out := m[from : from+len(b) : from+len(b)]
	copy(out, b)
	return out
}

// Every buffer ends, or begins, where memory does: a kernel that reads or writes
// past one dies.
func TestBuffersAtTheEdgeOfMemory(t *testing.T) {
	r := rand.New(rand.NewPCG(21, 22))
	l := NewLanes()
	for _, e := range []edges{{t, false}, {t, true}} {
		for _, m := range modes(t, r) {
			for _, blocks := range [][]int{{1}, {2, 3, 31}, {32, 33, 64}, {88, 176, 5, 1}} {
				jobs, want := batchOf(r, &m, blocks)
				for i := range jobs {
					jobs[i] = CBCJob{IV: e.clone(jobs[i].IV), Src: e.clone(jobs[i].Src), Dst: e.clone(jobs[i].Dst)}
				}
				m.encrypt(l, jobs)
				for i, j := range jobs {
					if !bytes.Equal(j.Dst, want[i]) {
						t.Fatalf("%s: packet %d of %v", m.name, i, blocks)
					}
					back := e.clone(j.Dst)
					m.decrypt(back, j.IV, j.Dst)
					if !bytes.Equal(back, j.Src) {
						t.Fatalf("%s: packet %d of %v decrypted", m.name, i, blocks)
					}
				}
			}
		}
		if require(t, AESGCM) {
			for _, n := range []int{0, 1, 15, 16, 17, 63, 64, 100, 255, 256, 257, 496, 500, 512, 513, 1024, 1400, 1535} {
				g, judge := gcms(t, r, 16)
				nonce, plain, aad := e.clone(random(r, 12)), e.clone(random(r, n)), e.clone(random(r, r.IntN(40)))
				sealed := e.clone(make([]byte, n+TagSize))
				if got := g.Seal(sealed[:0], nonce, plain, aad); !bytes.Equal(got, judge.Seal(nil, nonce, plain, aad)) {
					t.Fatalf("GCM of %d octets", n)
				}
				if got, err := g.Open(e.clone(plain)[:0], nonce, sealed, aad); err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("GCM of %d octets does not open: %v", n, err)
				}
			}
		}
		for _, f := range functions {
			if !require(t, f.feature) {
				continue
			}
			key := random(r, 20)
			var jobs []MACJob
			for _, n := range []int{0, 1, 40, 63, 64, 65, 128, 200, 1400} {
				jobs = append(jobs, MACJob{Head: e.clone(random(r, 24)), Body: e.clone(random(r, n)), Tail: e.clone(random(r, 4)), Sum: e.clone(make([]byte, 12))})
			}
			newHMACKey(f, key).Sum(l, jobs)
			for i, j := range jobs {
				h := hmac.New(f.new, key)
				h.Write(bytes.Join([][]byte{j.Head, j.Body, j.Tail}, nil))
				if !bytes.Equal(j.Sum, h.Sum(nil)[:12]) {
					t.Fatalf("%s: message %d", f.feature, i)
				}
			}
		}
	}
}

// TestWipe looks for what a batch leaves.
func TestWipe(t *testing.T) {
	r := rand.New(rand.NewPCG(23, 24))
	l := NewLanes()
	for _, m := range modes(t, r) {
		jobs, _ := batchOf(r, &m, []int{5, 6, 7})
		m.encrypt(l, jobs)
	}
	for _, f := range functions {
		if Supported(f.feature) {
			newHMACKey(f, make([]byte, 20)).Sum(l, []MACJob{{Head: random(r, 24), Body: random(r, 100), Sum: make([]byte, 12)}})
		}
	}
	l.Wipe()
	zero := func(what string, b []byte) {
		if len(bytes.Trim(b, "\x00")) != 0 {
			t.Errorf("%s is left", what)
		}
	}
	for i := range l.chain {
		zero("a chain of AES", l.chain[i][:])
		zero("the first block of a message", l.hash.first[i][:])
		zero("the end of a message", l.hash.tail[i][:])
	}
	zero("what idle lanes wrote", l.idle[:])
	zero("the state of a hash", l.hash.store)
	zero("blocks of Triple DES", l.des.unit[:])
}
