package sm

import (
	"math/rand/v2"
	"testing"
)

func TestNoAllocations(t *testing.T) {
	forEach(t, func(t *testing.T, e *engine) {
		r := rand.New(rand.NewPCG(31, 32))
		key, nonce, iv, aad := random(r, 16), random(r, 12), random(r, 16), random(r, 8)
		g, _ := newGCM(e, key)
		c, _ := newCBCEncrypter(e, key)
		d, _ := newCBCDecrypter(e, key)
		b, _ := newCipher(e, key)
		stream := b.CTR(iv)
		mac := NewHMACKey(key)
		buf, plain := make([]byte, 2000), random(r, 1408)
		l := newLanes(e)
		seal, _, _ := batchOf(r, e, []int{88, 3, 12, 40, 1, 88}, true)
		var cbc []CBCJob
		var macs []MACJob
		for _, j := range seal {
			cbc = append(cbc, j.cbc())
			macs = append(macs, MACJob{Key: j.MAC, Head: j.Head, Body: j.Src, Sum: j.ICV})
		}
		sealed := g.Seal(nil, nonce, plain, aad)
		var sum [HashSize]byte
		var open []OpenJob
		for _, j := range seal {
			open = append(open, OpenJob{Cipher: d, MAC: j.MAC, Head: j.Head, IV: j.IV, Dst: j.Dst, Src: j.Dst, Tail: j.Tail, ICV: j.ICV})
		}
		var gcm []GCMJob
		for range 7 {
			gcm = append(gcm, GCMJob{Key: g, Nonce: nonce, AAD: aad, Src: plain[:100], Dst: make([]byte, 116)})
		}
		for name, f := range map[string]func(){
			"GCM seal":    func() { g.Seal(buf[:0], nonce, plain, aad) },
			"GCM open":    func() { g.Open(buf[:0], nonce, sealed, aad) },
			"CBC encrypt": func() { c.Encrypt(buf, iv, plain) },
			"CBC decrypt": func() { d.Decrypt(buf, iv, plain) },
			"ECB":         func() { b.EncryptBlocks(buf, plain) },
			"CTR":         func() { stream.XORKeyStream(buf, plain) },
			"CBC batch":   func() { l.EncryptCBC(cbc) },
			"HMAC batch":  func() { l.HMAC(macs) },
			"seal batch":  func() { l.Seal(seal) },
			"open batch":  func() { l.Open(open) },
			"GCM batch":   func() { l.SealGCM(gcm) },
			"HMAC":        func() { mac.Sum(&sum, aad, plain) },
		} {
			if n := testing.AllocsPerRun(20, f); n != 0 && (poolKeeps || e.gmsm == gmsmTables) {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	})
}
