package lanes

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"
)

func random(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// require ends a test early where the machine has no lanes: there is nothing to
// call then, and the suite uses Go's crypto.
func require(t testing.TB, f Feature) bool {
	if !Supported(f) {
		t.Logf("%s: %v", f, results()[f])
	}
	return Supported(f)
}

// mode is a cipher of this package, and Go's with the same key.
type mode struct {
	name    string
	openssl string
	encrypt func(*Lanes, []CBCJob)
	decrypt func(dst, iv, src []byte)
	block   cipher.Block
	key     []byte
}

func modes(t testing.TB, r *rand.Rand) (out []mode) {
	for _, n := range []int{16, 24, 32} {
		if !require(t, AESCBC) {
			break
		}
		key := random(r, n)
		a, err := NewAES(key)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := aes.NewCipher(key)
		name := fmt.Sprintf("aes-%d-cbc", 8*n)
		out = append(out, mode{name, name, a.EncryptCBC, a.DecryptCBC, block, key})
	}
	if require(t, TripleDESCBC) {
		key := random(r, 24)
		d, err := NewTripleDES(key)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := des.NewTripleDESCipher(key)
		alone := func(_ *Lanes, jobs []CBCJob) {
			for _, j := range jobs {
				d.Encrypt(j.Dst, j.IV, j.Src)
			}
		}
		out = append(out, mode{"3des", "des-ede3-cbc", d.EncryptCBC, d.DecryptCBC, block, key},
			mode{"3des alone", "des-ede3-cbc", alone, d.DecryptCBC, block, key})
	}
	return out
}

// batchOf makes jobs of the given lengths in blocks, in place or not, and what Go
// makes of them.
func batchOf(r *rand.Rand, m *mode, blocks []int) (jobs []CBCJob, want [][]byte) {
	size := m.block.BlockSize()
	for _, n := range blocks {
		j := CBCJob{IV: random(r, size), Src: random(r, n*size)}
		out := make([]byte, n*size)
		cipher.NewCBCEncrypter(m.block, j.IV).CryptBlocks(out, j.Src)
		if j.Dst = j.Src; r.IntN(2) == 0 {
			j.Dst = random(r, n*size+r.IntN(3))[:n*size]
		}
		jobs, want = append(jobs, j), append(want, out)
	}
	return jobs, want
}

func checkCipher(t *testing.T, r *rand.Rand, m *mode, l *Lanes, blocks []int) {
	t.Helper()
	jobs, want := batchOf(r, m, blocks)
	plain := make([][]byte, len(jobs))
	for i := range jobs {
		plain[i] = bytes.Clone(jobs[i].Src)
	}
	m.encrypt(l, jobs)
	for i, j := range jobs {
		if !bytes.Equal(j.Dst, want[i]) {
			t.Fatalf("packet %d of lengths %v: wrong ciphertext", i, blocks)
		}
		back := j.Dst
		if i%2 == 0 {
			back = make([]byte, len(j.Dst))
		}
		m.decrypt(back, j.IV, j.Dst)
		if !bytes.Equal(back, plain[i]) {
			t.Fatalf("packet %d of lengths %v: wrong plaintext", i, blocks)
		}
	}
}

func shapes(r *rand.Rand) [][]int {
	out := [][]int{nil, {0}, {0, 0, 3}, {600, 1, 129, 128, 127}}
	for _, count := range []int{1, 2, 15, 16, 17, 31, 32, 33, 64, 65, 130} {
		same, mixed := make([]int, count), make([]int, count)
		for i := range count {
			same[i], mixed[i] = 31, r.IntN(40)
		}
		out = append(out, same, mixed)
	}
	for n := range 34 {
		out = append(out, []int{n, n + 1})
	}
	return out
}

func TestCiphers(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	l := NewLanes()
	for _, m := range modes(t, r) {
		t.Run(m.name, func(t *testing.T) {
			for _, blocks := range shapes(r) {
				checkCipher(t, r, &m, l, blocks)
			}
		})
	}
}

var functions = []*function{&md5, &sha1, &sha256}

func TestHMAC(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	l := NewLanes()
	for _, f := range functions {
		if !require(t, f.feature) {
			continue
		}
		t.Run(f.feature.String(), func(t *testing.T) {
			for round := range 80 {
				key := random(r, r.IntN(100))
				k := newHMACKey(f, key)
				var jobs []MACJob
				var want [][]byte
				for range r.IntN(80) {
					j := MACJob{Head: random(r, r.IntN(64)), Body: random(r, r.IntN(400)), Tail: random(r, r.IntN(MaxTail+1)), Sum: make([]byte, 1+r.IntN(f.size))}
					h := hmac.New(f.new, key)
					h.Write(j.Head)
					h.Write(j.Body)
					h.Write(j.Tail)
					jobs, want = append(jobs, j), append(want, h.Sum(nil)[:len(j.Sum)])
				}
				k.Sum(l, jobs)
				for i := range jobs {
					if !bytes.Equal(jobs[i].Sum, want[i]) {
						t.Fatalf("round %d: message %d of %d: %x, want %x", round, i, len(jobs), jobs[i].Sum, want[i])
					}
				}
			}
		})
	}
}

// TestOpenSSL compares batches with what others have written.
func TestOpenSSL(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	run := func(in []byte, args ...string) []byte {
		cmd := exec.Command("openssl", args...)
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return out
	}
	l := NewLanes()
	for _, m := range modes(t, r) {
		jobs, _ := batchOf(r, &m, []int{1, 5, 88, 200, 33, 64, 65})
		var want [][]byte
		for _, j := range jobs {
			want = append(want, run(j.Src, "enc", "-"+m.openssl, "-nopad", "-K", hex.EncodeToString(m.key), "-iv", hex.EncodeToString(j.IV)))
		}
		m.encrypt(l, jobs)
		for i, j := range jobs {
			if !bytes.Equal(j.Dst, want[i]) {
				t.Errorf("%s, packet %d: not what OpenSSL makes of it", m.name, i)
			}
		}
	}
	for f, digest := range map[*function]string{&md5: "md5", &sha1: "sha1", &sha256: "sha256"} {
		if !require(t, f.feature) {
			continue
		}
		key := random(r, 20)
		var jobs []MACJob
		for _, n := range []int{0, 1, 40, 100, 1400, 55, 64, 2000} {
			jobs = append(jobs, MACJob{Head: random(r, 24), Body: random(r, n), Tail: random(r, 4), Sum: make([]byte, f.size)})
		}
		newHMACKey(f, key).Sum(l, jobs)
		for i, j := range jobs {
			text := bytes.Join([][]byte{j.Head, j.Body, j.Tail}, nil)
			if want := run(text, "dgst", "-"+digest, "-binary", "-mac", "HMAC", "-macopt", "hexkey:"+hex.EncodeToString(key)); !bytes.Equal(j.Sum, want) {
				t.Errorf("%s, message %d: %x, OpenSSL has %x", digest, i, j.Sum, want)
			}
		}
	}
}

func TestMisuse(t *testing.T) {
	l := NewLanes()
	buf := make([]byte, 64)
	cases := map[string]func(){
		"HMAC of a cipher": func() { NewHMACKey(AESCBC, nil) },
	}
	for _, m := range modes(t, rand.New(rand.NewPCG(7, 8))) {
		n := m.block.BlockSize()
		cases[m.name+" with part of a block"] = func() { m.encrypt(l, []CBCJob{{IV: buf[:n], Dst: buf, Src: buf[:n+1]}}) }
		cases[m.name+" with a short IV"] = func() { m.encrypt(l, []CBCJob{{IV: buf[:n-1], Dst: buf, Src: buf}}) }
		cases[m.name+" without room"] = func() { m.encrypt(l, []CBCJob{{IV: buf[:n], Dst: buf[:n], Src: buf}}) }
		cases[m.name+" with overlap"] = func() { m.encrypt(l, []CBCJob{{IV: make([]byte, n), Dst: buf[1:], Src: buf[:32]}}) }
		cases[m.name+" decrypts with a long IV"] = func() { m.decrypt(buf, buf[:n+1], buf) }
		cases[m.name+" decrypts with overlap"] = func() { m.decrypt(buf[n:], make([]byte, n), buf[:48]) }
		cases[m.name+" decrypts part of a block"] = func() { m.decrypt(buf, buf[:n], buf[:n-1]) }
	}
	if require(t, HMACMD5) {
		k := NewHMACKey(HMACMD5, buf)
		cases["HMAC with a long head"] = func() { k.Sum(l, []MACJob{{Head: buf}}) }
		cases["HMAC with a long tail"] = func() { k.Sum(l, []MACJob{{Tail: buf}}) }
	}
	for name, f := range cases {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	for _, n := range []int{0, 15, 17, 25, 33} {
		if _, err := NewAES(make([]byte, n)); err == nil {
			t.Errorf("AES takes a key of %d octets", n)
		}
		if _, err := NewTripleDES(make([]byte, n)); err == nil {
			t.Errorf("Triple DES takes a key of %d octets", n)
		}
	}
}

func TestSelfTest(t *testing.T) {
	if err := SelfTest(); err != nil {
		t.Error(err)
	}
}

// FuzzBatch takes the shape of a batch from its input: a length for every octet.
func FuzzBatch(f *testing.F) {
	f.Add(uint64(1), []byte{88, 88, 88})
	f.Add(uint64(2), bytes.Repeat([]byte{4, 5, 0, 30}, 12))
	f.Add(uint64(3), []byte{1})
	f.Fuzz(func(t *testing.T, seed uint64, shape []byte) {
		r := rand.New(rand.NewPCG(seed, 0))
		var blocks []int
		for _, n := range shape[:min(len(shape), 80)] {
			blocks = append(blocks, int(n))
		}
		l := NewLanes()
		for _, m := range modes(t, r) {
			checkCipher(t, r, &m, l, blocks)
		}
		for _, fn := range functions {
			if !Supported(fn.feature) {
				continue
			}
			key := random(r, 20)
			h := hmac.New(fn.new, key)
			var jobs []MACJob
			for _, n := range blocks {
				jobs = append(jobs, MACJob{Head: random(r, n%64), Body: random(r, n), Tail: random(r, n%32), Sum: make([]byte, fn.size)})
			}
			newHMACKey(fn, key).Sum(l, jobs)
			for i, j := range jobs {
				h.Reset()
				h.Write(j.Head)
				h.Write(j.Body)
				h.Write(j.Tail)
				if !bytes.Equal(j.Sum, h.Sum(nil)) {
					t.Fatalf("%s: message %d of %v", fn.feature, i, blocks)
				}
			}
		}
	})
}

func TestNothingIsAllocated(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	l := NewLanes()
	for _, m := range modes(t, r) {
		jobs, _ := batchOf(r, &m, []int{10, 20, 88})
		p, iv := make([]byte, 1408), random(r, m.block.BlockSize())
		if n := testing.AllocsPerRun(10, func() { m.encrypt(l, jobs); m.decrypt(p, iv, p) }); n != 0 {
			t.Errorf("%s: %v allocations", m.name, n)
		}
	}
	for _, f := range functions {
		if !Supported(f.feature) {
			continue
		}
		k := newHMACKey(f, make([]byte, 20))
		jobs := []MACJob{{Head: make([]byte, 24), Body: make([]byte, 1400), Sum: make([]byte, 12)}, {Body: make([]byte, 3), Sum: make([]byte, 12)}}
		if n := testing.AllocsPerRun(10, func() { k.Sum(l, jobs) }); n != 0 {
			t.Errorf("%s: %v allocations", f.feature, n)
		}
	}
}
