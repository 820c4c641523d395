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
		slow[k].portable.planes.encryptCBC(out, j.IV, j.Src)
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
	s["long"] = []int{3000, 1, 2047, 1024}
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

// sealedOf makes packets of the given lengths in blocks with so many cipher keys,
// a part of them changed on the way, and their plaintexts; those of the changed
// ones are nil. The portable code seals them.
func sealedOf(r *rand.Rand, e *engine, blocks []int, keys int) (jobs []OpenJob, plain [][]byte) {
	var encrypters []*CBCEncrypter
	var decrypters []*CBCDecrypter
	for range keys {
		key := random(r, KeySize)
		c, _ := newCBCEncrypter(&portableEngine, key)
		d, _ := newCBCDecrypter(e, key)
		encrypters, decrypters = append(encrypters, c), append(decrypters, d)
	}
	for _, n := range blocks {
		k, p := r.IntN(keys), random(r, 16*n)
		j := OpenJob{
			Cipher: decrypters[k], MAC: NewHMACKey(random(r, 32)), Head: random(r, []int{8, 8, 8, 8, 8, 20}[r.IntN(6)]), IV: random(r, 16),
			Src: make([]byte, len(p)), Tail: random(r, []int{0, 0, 4, 9, 31, 40}[r.IntN(6)]), ICV: make([]byte, []int{32, 16, 12}[r.IntN(3)]),
		}
		encrypters[k].portable.planes.encryptCBC(j.Src, j.IV, p)
		var sum [HashSize]byte
		j.MAC.Sum(&sum, j.Head, j.IV, j.Src, j.Tail)
		copy(j.ICV, sum[:])
		if r.IntN(4) == 0 {
			parts := [][]byte{j.Head, j.IV, j.ICV}
			for _, part := range [][]byte{j.Src, j.Tail} {
				if len(part) > 0 {
					parts = append(parts, part)
				}
			}
			part := parts[r.IntN(len(parts))]
			part[r.IntN(len(part))] ^= 1 << r.IntN(8)
			p = nil
		}
		if r.IntN(2) == 0 {
			j.Dst = j.Src
		} else {
			j.Dst = make([]byte, len(j.Src)+r.IntN(3)*16)
		}
		jobs, plain = append(jobs, j), append(plain, p)
	}
	return jobs, plain
}

// checkOpen opens what sealedOf has made.
func checkOpen(t *testing.T, l *Lanes, jobs []OpenJob, plain [][]byte) {
	t.Helper()
	var before [][]byte
	for _, j := range jobs {
		before = append(before, bytes.Clone(j.Dst))
	}
	l.Open(jobs)
	for i, j := range jobs {
		n := len(j.Src)
		switch {
		case !bytes.Equal(j.Dst[n:], before[i][n:]):
			t.Fatalf("packet %d of %d: wrote behind %d octets", i, len(jobs), n)
		case plain[i] == nil && j.Err != ErrAuth:
			t.Fatalf("changed packet %d of %d: %v", i, len(jobs), j.Err)
		case plain[i] == nil && !bytes.Equal(j.Dst, before[i]) && !bytes.Equal(j.Dst[:n], make([]byte, n)):
			t.Fatalf("changed packet %d of %d has left something", i, len(jobs))
		case plain[i] != nil && (j.Err != nil || !bytes.Equal(j.Dst[:n], plain[i])):
			t.Fatalf("packet %d of %d, %d octets: %v", i, len(jobs), n, j.Err)
		}
	}
}

func TestOpenBatches(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(15, 16))
		l := newLanes(e)
		for _, keys := range []int{1, 3} {
			for _, blocks := range shapes(r) {
				jobs, plain := sealedOf(r, e, blocks, keys)
				checkOpen(t, l, jobs, plain)
			}
			for range 20 {
				blocks := make([]int, r.IntN(100))
				for i := range blocks {
					blocks[i] = r.IntN(30)
				}
				jobs, plain := sealedOf(r, e, blocks, keys)
				checkOpen(t, l, jobs, plain)
			}
		}
	})
}

func TestMisuse(t *testing.T) {
	key := make([]byte, 16)
	c, _ := NewCBCEncrypter(key)
	d, _ := NewCBCDecrypter(key)
	b, _ := NewCipher(key)
	g, _ := NewGCM(key)
	mac := NewHMACKey(key)
	l := NewLanes()
	buf := make([]byte, 64)
	for name, f := range map[string]func(){
		"CBC with part of a block":  func() { c.Encrypt(buf, key, buf[:17]) },
		"CBC with a short IV":       func() { c.Encrypt(buf, key[:15], buf[:16]) },
		"CBC without room":          func() { c.Encrypt(buf[:16], key, make([]byte, 32)) },
		"CBC with overlap":          func() { c.Encrypt(buf[8:], key, buf[:32]) },
		"CBC batch with a short IV": func() { l.EncryptCBC([]CBCJob{{Key: c, IV: key[:8], Dst: buf, Src: buf}}) },
		"decrypt with a short IV":   func() { d.Decrypt(buf, key[:15], buf) },
		"decrypt with overlap":      func() { d.Decrypt(buf[1:33], key, buf[:32]) },
		"block with too little":     func() { b.Encrypt(buf, buf[:15]) },
		"GCM with a short nonce":    func() { g.Seal(nil, key[:11], buf, nil) },
		"GCM open, long nonce":      func() { g.Open(nil, key[:13], buf, nil) },
		"GCM with overlap":          func() { g.Seal(buf[1:1], key[:12], buf[:32], nil) },
		"GCM with data in output":   func() { g.Seal(buf[:0], key[:12], buf[:16], buf[20:24]) },
		"seal with part of a block": func() { l.Seal([]SealJob{{Cipher: c, MAC: mac, IV: key, Dst: buf, Src: buf[:9]}}) },
		"open without a code":       func() { l.Open([]OpenJob{{Cipher: d, MAC: mac, IV: key, Dst: buf, Src: buf}}) },
		"open with too long a code": func() { l.Open([]OpenJob{{Cipher: d, MAC: mac, IV: key, Dst: buf, Src: buf, ICV: buf[:33]}}) },
		"CTR with a short IV":       func() { b.CTR(key[:8]) },
		"CTR without room":          func() { b.CTR(key).XORKeyStream(buf[:1], buf[:2]) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	for _, n := range []int{0, 15, 17, 32} {
		_, e1 := NewGCM(make([]byte, n))
		_, e2 := NewCipher(make([]byte, n))
		_, e3 := NewCBCEncrypter(make([]byte, n))
		_, e4 := NewCBCDecrypter(make([]byte, n))
		for _, err := range []error{e1, e2, e3, e4} {
			if err != ErrKeySize {
				t.Errorf("key of %d octets: %v", n, err)
			}
		}
	}
	if _, err := g.Open(nil, key[:12], buf[:15], nil); err != ErrAuth {
		t.Errorf("GCM open of less than a tag: %v", err)
	}
}
