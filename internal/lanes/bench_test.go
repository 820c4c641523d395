package lanes

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"fmt"
	"testing"
)

// Benchmarks name the implementation last, so that benchstat -col /impl compares
// them; go is what there is without lanes.

const size = 1400

var batches = []int{1, 2, 4, 8, 16, 32, 64}

// packets returns so many buffers of n octets.
func packets(count, n int) [][]byte {
	out := make([][]byte, count)
	for i := range out {
		out[i] = make([]byte, n)
	}
	return out
}

func BenchmarkEncrypt(b *testing.B) {
	block := func(c cipher.Block, err error) cipher.Block {
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	a128, _ := NewAES(make([]byte, 16))
	a256, _ := NewAES(make([]byte, 32))
	d, _ := NewTripleDES(testKey(24))
	for _, c := range []struct {
		name  string
		batch func(*Lanes, []CBCJob)
		block cipher.Block
	}{
		{"aes128", a128.EncryptCBC, block(aes.NewCipher(make([]byte, 16)))},
		{"aes256", a256.EncryptCBC, block(aes.NewCipher(make([]byte, 32)))},
		{"3des", d.EncryptCBC, block(des.NewTripleDESCipher(testKey(24)))},
	} {
		iv := make([]byte, c.block.BlockSize())
		for _, batch := range batches {
			bufs := packets(batch, 1408)
			b.Run(fmt.Sprintf("cipher=%s/batch=%d/impl=lanes", c.name, batch), func(b *testing.B) {
				var jobs []CBCJob
				for _, p := range bufs {
					jobs = append(jobs, CBCJob{IV: iv, Dst: p, Src: p})
				}
				l := NewLanes()
				b.SetBytes(int64(batch * 1408))
				for b.Loop() {
					c.batch(l, jobs)
				}
			})
			b.Run(fmt.Sprintf("cipher=%s/batch=%d/impl=go", c.name, batch), func(b *testing.B) {
				b.SetBytes(int64(batch * 1408))
				for b.Loop() {
					for _, p := range bufs {
						cipher.NewCBCEncrypter(c.block, iv).CryptBlocks(p, p)
					}
				}
			})
		}
	}
}

func BenchmarkDecrypt(b *testing.B) {
	a128, _ := NewAES(make([]byte, 16))
	d, _ := NewTripleDES(testKey(24))
	goAES, _ := aes.NewCipher(make([]byte, 16))
	goDES, _ := des.NewTripleDESCipher(testKey(24))
	for _, c := range []struct {
		name  string
		lanes func(dst, iv, src []byte)
		block cipher.Block
	}{{"aes128", a128.DecryptCBC, goAES}, {"3des", d.DecryptCBC, goDES}} {
		iv := make([]byte, c.block.BlockSize())
		for _, n := range []int{64, 256, 1408, 9008} {
			p := make([]byte, n)
			b.Run(fmt.Sprintf("cipher=%s/size=%d/impl=lanes", c.name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					c.lanes(p, iv, p)
				}
			})
			b.Run(fmt.Sprintf("cipher=%s/size=%d/impl=go", c.name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				for b.Loop() {
					cipher.NewCBCDecrypter(c.block, iv).CryptBlocks(p, p)
				}
			})
		}
	}
}

func BenchmarkHMAC(b *testing.B) {
	for _, f := range []*function{&md5, &sha1, &sha256} {
		for _, batch := range batches {
			bufs := packets(batch, size)
			head := make([]byte, 24)
			b.Run(fmt.Sprintf("hash=%s/batch=%d/impl=lanes", f.feature, batch), func(b *testing.B) {
				k := newHMACKey(f, head)
				var jobs []MACJob
				for _, p := range bufs {
					jobs = append(jobs, MACJob{Head: head, Body: p, Sum: make([]byte, 16)})
				}
				l := NewLanes()
				b.SetBytes(int64(batch * size))
				for b.Loop() {
					k.Sum(l, jobs)
				}
			})
			b.Run(fmt.Sprintf("hash=%s/batch=%d/impl=go", f.feature, batch), func(b *testing.B) {
				h := hmac.New(f.new, head)
				var sum [32]byte
				b.SetBytes(int64(batch * size))
				for b.Loop() {
					for _, p := range bufs {
						h.Reset()
						h.Write(head)
						h.Write(p)
						h.Sum(sum[:0])
					}
				}
			})
		}
	}
}

// BenchmarkNewKey is what a new SA costs.
func BenchmarkNewKey(b *testing.B) {
	b.Run("of=aes256", func(b *testing.B) {
		for b.Loop() {
			NewAES(testKey(32))
		}
	})
	b.Run("of=3des", func(b *testing.B) {
		for b.Loop() {
			NewTripleDES(testKey(24))
		}
	})
}

func testKey(n int) []byte {
	k := make([]byte, n)
	for i := range k {
		k[i] = byte(i*37 + 11)
	}
	return k
}
