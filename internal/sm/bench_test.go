package sm

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"fmt"
	"hash"
	"math/rand/v2"
	"testing"

	gmsm3 "github.com/emmansun/gmsm/sm3"
	gmsm4 "github.com/emmansun/gmsm/sm4"
)

// Benchmarks name the implementation last, so that benchstat -col /impl
// compares them; peer is gmsm by itself, single blocks by tables included.

const packet = 1400

func BenchmarkSM4CBCEncrypt(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	key, iv := random(r, 16), random(r, 16)
	const size = 1408
	for _, batch := range []int{1, 2, 4, 8, 16, 32, 46, 64} {
		for _, e := range engines() {
			b.Run(fmt.Sprintf("batch=%d/impl=%s", batch, e.name), func(b *testing.B) {
				c, _ := newCBCEncrypter(e, key)
				var jobs []CBCJob
				for range batch {
					buf := random(r, size)
					jobs = append(jobs, CBCJob{Key: c, IV: iv, Dst: buf, Src: buf})
				}
				l := newLanes(e)
				b.SetBytes(int64(batch * size))
				for b.Loop() {
					l.EncryptCBC(jobs)
				}
			})
		}
		b.Run(fmt.Sprintf("batch=%d/impl=peer", batch), func(b *testing.B) {
			c, _ := gmsm4.NewCipher(key)
			var bufs [][]byte
			for range batch {
				bufs = append(bufs, random(r, size))
			}
			b.SetBytes(int64(batch * size))
			for b.Loop() {
				for _, p := range bufs {
					cipher.NewCBCEncrypter(c, iv).CryptBlocks(p, p)
				}
			}
		})
	}
}

func BenchmarkHMACSM3(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	key := random(r, 32)
	for _, batch := range []int{1, 2, 4, 8, 16, 32, 46, 64} {
		for _, e := range engines() {
			b.Run(fmt.Sprintf("batch=%d/impl=%s", batch, e.name), func(b *testing.B) {
				k := NewHMACKey(key)
				var jobs []MACJob
				for range batch {
					jobs = append(jobs, MACJob{Key: k, Body: random(r, packet), Sum: make([]byte, 32)})
				}
				l := newLanes(e)
				b.SetBytes(int64(batch * packet))
				for b.Loop() {
					l.HMAC(jobs)
				}
			})
		}
		b.Run(fmt.Sprintf("batch=%d/impl=peer", batch), func(b *testing.B) {
			h := hmac.New(func() hash.Hash { return gmsm3.New() }, key)
			var bufs [][]byte
			for range batch {
				bufs = append(bufs, random(r, packet))
			}
			var sum [32]byte
			b.SetBytes(int64(batch * packet))
			for b.Loop() {
				for _, p := range bufs {
					h.Reset()
					h.Write(p)
					h.Sum(sum[:0])
				}
			}
		})
	}
}

func BenchmarkSeal(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	key, mac, iv, head := random(r, 16), random(r, 32), random(r, 16), random(r, 8)
	const size = 1408
	for _, batch := range []int{1, 2, 4, 8, 16, 32, 46, 64} {
		for _, e := range engines() {
			b.Run(fmt.Sprintf("batch=%d/impl=%s", batch, e.name), func(b *testing.B) {
				c, _ := newCBCEncrypter(e, key)
				m := NewHMACKey(mac)
				var jobs []SealJob
				for range batch {
					buf := random(r, size)
					jobs = append(jobs, SealJob{Cipher: c, MAC: m, Head: head, IV: iv, Dst: buf, Src: buf, ICV: make([]byte, 16)})
				}
				l := newLanes(e)
				b.SetBytes(int64(batch * size))
				for b.Loop() {
					l.Seal(jobs)
				}
			})
		}
		b.Run(fmt.Sprintf("batch=%d/impl=peer", batch), func(b *testing.B) {
			c, _ := gmsm4.NewCipher(key)
			h := hmac.New(func() hash.Hash { return gmsm3.New() }, mac)
			var bufs [][]byte
			for range batch {
				bufs = append(bufs, random(r, size))
			}
			var sum [32]byte
			b.SetBytes(int64(batch * size))
			for b.Loop() {
				for _, p := range bufs {
					cipher.NewCBCEncrypter(c, iv).CryptBlocks(p, p)
					h.Reset()
					h.Write(head)
					h.Write(iv)
					h.Write(p)
					h.Sum(sum[:0])
				}
			}
		})
	}
}

var sizes = []int{64, 256, 512, 1400, 9000}

func benchGCM(b *testing.B, open bool) {
	r := rand.New(rand.NewPCG(1, 1))
	key, nonce, aad := random(r, 16), random(r, 12), random(r, 8)
	for _, size := range sizes {
		run := func(name string, a cipher.AEAD) {
			b.Run(fmt.Sprintf("size=%d/impl=%s", size, name), func(b *testing.B) {
				plain, buf := random(r, size), make([]byte, 0, size+16)
				sealed := a.Seal(nil, nonce, plain, aad)
				b.SetBytes(int64(size))
				for b.Loop() {
					if open {
						if _, err := a.Open(buf, nonce, sealed, aad); err != nil {
							b.Fatal(err)
						}
					} else {
						a.Seal(buf, nonce, plain, aad)
					}
				}
			})
		}
		for _, e := range engines() {
			g, _ := newGCM(e, key)
			run(e.name, g)
		}
		run("peer", peerGCM(b, key))
		block, _ := aes.NewCipher(key)
		a, _ := cipher.NewGCM(block)
		run("aes128", a)
	}
}

func BenchmarkSM4GCMSeal(b *testing.B) { benchGCM(b, false) }
func BenchmarkSM4GCMOpen(b *testing.B) { benchGCM(b, true) }

func BenchmarkSM4CBCDecrypt(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	key, iv := random(r, 16), random(r, 16)
	for _, size := range []int{64, 256, 1408, 9008} {
		src, dst := random(r, size), make([]byte, size)
		for _, e := range engines() {
			b.Run(fmt.Sprintf("size=%d/impl=%s", size, e.name), func(b *testing.B) {
				d, _ := newCBCDecrypter(e, key)
				b.SetBytes(int64(size))
				for b.Loop() {
					d.Decrypt(dst, iv, src)
				}
			})
		}
		b.Run(fmt.Sprintf("size=%d/impl=peer", size), func(b *testing.B) {
			c, _ := gmsm4.NewCipher(key)
			b.SetBytes(int64(size))
			for b.Loop() {
				cipher.NewCBCDecrypter(c, iv).CryptBlocks(dst, src)
			}
		})
	}
}

// BenchmarkOpen checks and decrypts packets of ESP with SM4-CBC and HMAC-SM3.
func BenchmarkOpen(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	key, mac, iv, head := random(r, 16), random(r, 32), random(r, 16), random(r, 8)
	const size = 1408
	for _, batch := range []int{1, 2, 4, 8, 16, 32, 46, 64} {
		for _, e := range engines() {
			b.Run(fmt.Sprintf("batch=%d/impl=%s", batch, e.name), func(b *testing.B) {
				c, _ := newCBCEncrypter(e, key)
				d, _ := newCBCDecrypter(e, key)
				m := NewHMACKey(mac)
				l := newLanes(e)
				var jobs []OpenJob
				for range batch {
					s := SealJob{Cipher: c, MAC: m, Head: head, IV: iv, Dst: make([]byte, size), Src: random(r, size), ICV: make([]byte, 16)}
					l.Seal([]SealJob{s})
					jobs = append(jobs, OpenJob{Cipher: d, MAC: m, Head: head, IV: iv, Dst: make([]byte, size), Src: s.Dst, ICV: s.ICV})
				}
				b.SetBytes(int64(batch * size))
				for b.Loop() {
					l.Open(jobs)
				}
				for i := range jobs {
					if jobs[i].Err != nil {
						b.Fatal(jobs[i].Err)
					}
				}
			})
		}
		b.Run(fmt.Sprintf("batch=%d/impl=peer", batch), func(b *testing.B) {
			c, _ := gmsm4.NewCipher(key)
			h := hmac.New(func() hash.Hash { return gmsm3.New() }, mac)
			src, dst := random(r, size), make([]byte, size)
			var sum [32]byte
			b.SetBytes(int64(batch * size))
			for b.Loop() {
				for range batch {
					h.Reset()
					h.Write(head)
					h.Write(iv)
					h.Write(src)
					hmac.Equal(h.Sum(sum[:0])[:16], sum[:16])
					cipher.NewCBCDecrypter(c, iv).CryptBlocks(dst, src)
				}
			}
		})
	}
}

// BenchmarkNewKey is what a new SA costs.
func BenchmarkNewKey(b *testing.B) {
	key := make([]byte, KeySize)
	for _, e := range engines() {
		b.Run("of=GCM/impl="+e.name, func(b *testing.B) {
			for b.Loop() {
				newGCM(e, key)
			}
		})
		b.Run("of=CBC/impl="+e.name, func(b *testing.B) {
			for b.Loop() {
				newCBCEncrypter(e, key)
			}
		})
	}
}

// BenchmarkSM4GCMBatch seals batches of 32 packets.
func BenchmarkSM4GCMBatch(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	key := random(r, 16)
	for _, size := range []int{64, 256, 1400} {
		for _, e := range engines() {
			b.Run(fmt.Sprintf("size=%d/impl=%s", size, e.name), func(b *testing.B) {
				g, _ := newGCM(e, key)
				l := newLanes(e)
				var jobs []GCMJob
				for range 32 {
					jobs = append(jobs, GCMJob{Key: g, Nonce: random(r, 12), AAD: random(r, 8), Src: random(r, size), Dst: make([]byte, size+16)})
				}
				b.SetBytes(int64(32 * size))
				for b.Loop() {
					l.SealGCM(jobs)
				}
			})
		}
		b.Run(fmt.Sprintf("size=%d/impl=peer", size), func(b *testing.B) {
			a, nonce, aad := peerGCM(b, key), random(r, 12), random(r, 8)
			src, dst := random(r, size), make([]byte, size+16)
			b.SetBytes(int64(32 * size))
			for b.Loop() {
				for range 32 {
					a.Seal(dst[:0], nonce, src, aad)
				}
			}
		})
	}
}
