package sm

import (
	"bytes"
	"encoding/hex"
	"errors"
)

var errKnownAnswer = errors.New("wrong answer to a known question")

// known has, for the key of GB/T 32907-2016, Appendix A: the block that is the
// key itself, encrypted; the packet of RFC 8998, Appendix A.1, sealed; and SM3 of
// "abc" (GB/T 32905-2016, Appendix A).
var known = struct{ key, block, nonce, aad, plain, sealed, hash string }{
	key:   "0123456789abcdeffedcba9876543210",
	block: "681edf34d206965e86b3e94f536e4246",
	nonce: "00001234567800000000abcd",
	aad:   "feedfacedeadbeeffeedfacedeadbeefabaddad2",
	plain: "aaaaaaaaaaaaaaaabbbbbbbbbbbbbbbbccccccccccccccccdddddddddddddddd" +
		"eeeeeeeeeeeeeeeeffffffffffffffffeeeeeeeeeeeeeeeeaaaaaaaaaaaaaaaa",
	sealed: "17f399f08c67d5ee19d0dc9969c4bb7d5fd46fd3756489069157b282bb200735" +
		"d82710ca5c22f0ccfa7cbf93d496ac15a56834cbcf98c397b4024a2691233b8d" +
		"83de3541e4c2b58177e065a9bf7b62ec",
	hash: "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
}

// test asks an engine known questions, and the portable code, which answers them
// too, those that reach all kernels.
func (e *engine) test() error {
	bin := func(s string) []byte { b, _ := hex.DecodeString(s); return b }
	key, nonce, aad, plain := bin(known.key), bin(known.nonce), bin(known.aad), bin(known.plain)
	g, err := newGCM(e, key)
	if err != nil {
		return err
	}
	c, err := newCipher(e, key)
	if err != nil {
		return err
	}
	block := make([]byte, BlockSize)
	c.Encrypt(block, key)
	sum := Sum([]byte("abc"))
	if !bytes.Equal(block, bin(known.block)) || !bytes.Equal(sum[:], bin(known.hash)) ||
		!bytes.Equal(g.Seal(nil, nonce, plain, aad), bin(known.sealed)) {
		return errKnownAnswer
	}
	if e == &portableEngine {
		return nil
	}
	slow, err := newGCM(&portableEngine, key)
	if err != nil {
		return err
	}
	long := bytes.Repeat(plain, 26)
	d, err := newCBCDecrypter(e, key)
	if err != nil {
		return err
	}
	l := newLanes(e)
	for _, n := range []int{100, 200, 400, 900, 1400, 1600} {
		want := slow.Seal(nil, nonce, long[:n], aad)
		got, err := g.Open(nil, nonce, want, aad)
		if err != nil || !bytes.Equal(got, long[:n]) || !bytes.Equal(g.Seal(nil, nonce, long[:n], aad), want) {
			return errKnownAnswer
		}
		jobs := make([]GCMJob, 2)
		for i := range jobs {
			jobs[i] = GCMJob{Key: g, Nonce: nonce, AAD: aad, Src: long[:n], Dst: make([]byte, n+TagSize)}
		}
		l.SealGCM(jobs)
		if !bytes.Equal(jobs[1].Dst, want) {
			return errKnownAnswer
		}
	}
	return e.testLanes(l, d, key, long)
}

func (e *engine) testLanes(l *Lanes, d *CBCDecrypter, key, text []byte) error {
	c, err := newCBCEncrypter(e, key)
	if err != nil {
		return err
	}
	rk := schedule(key)
	var slow portableKey
	slow.spread(&rk)
	mac := NewHMACKey(text[:20])
	for _, count := range []int{5, groupLanes + 3} { // both widths
		var jobs []SealJob
		for i := range count {
			n := (1 + i%7) * BlockSize
			jobs = append(jobs, SealJob{Cipher: c, MAC: mac, Head: text[i : i+8], IV: text[i : i+16], Src: text[i : i+n], Dst: make([]byte, n), ICV: make([]byte, HashSize)})
		}
		for _, seal := range []func([]SealJob){l.Seal, l.sealApart} {
			seal(jobs)
			if err := l.testOpen(d, jobs); err != nil {
				return err
			}
			for _, j := range jobs {
				want, back := make([]byte, len(j.Src)), make([]byte, len(j.Src))
				slow.encryptCBC(want, j.IV, j.Src)
				d.Decrypt(back, j.IV, want)
				var sum [HashSize]byte
				mac.Sum(&sum, j.Head, j.IV, want, j.Tail)
				if !bytes.Equal(j.Dst, want) || !bytes.Equal(back, j.Src) || !bytes.Equal(j.ICV, sum[:]) {
					return errKnownAnswer
				}
				clear(j.Dst)
				clear(j.ICV)
			}
		}
	}
	return nil
}

// testOpen opens what has been sealed, and refuses it once changed.
func (l *Lanes) testOpen(d *CBCDecrypter, sealed []SealJob) error {
	for _, change := range []byte{0, 1} {
		var jobs []OpenJob
		for _, s := range sealed {
			jobs = append(jobs, OpenJob{
				Cipher: d, MAC: s.MAC, Head: s.Head, IV: s.IV, Src: s.Dst, Dst: make([]byte, len(s.Dst)), ICV: bytes.Clone(s.ICV),
			})
			jobs[len(jobs)-1].ICV[HashSize-1] ^= change
		}
		l.Open(jobs)
		for i, j := range jobs {
			want := sealed[i].Src
			if change != 0 {
				want = make([]byte, len(j.Dst))
			}
			if (j.Err == nil) != (change == 0) || !bytes.Equal(j.Dst, want) {
				return errKnownAnswer
			}
		}
	}
	return nil
}
