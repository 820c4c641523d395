package sm

import (
	"crypto/subtle"
	"encoding/binary"
	"math/bits"
	"unsafe"

	"caponier/internal/buffer"
)

// Short packets of one key share a run of the cipher, which takes as long for
// one block as for many.
const (
	poolBlocks = 96 // of keystream
	poolMax    = 32 // of one packet
)

// GCMJob is one packet to seal or to open. Sealing writes the ciphertext and the
// tag to Dst, TagSize octets more than Src; opening takes both from Src and
// writes the plaintext, and its result is Err. Dst and Src begin at the same
// octet or do not overlap. Nonce has NonceSize octets.
type GCMJob struct {
	Key        *GCM
	Nonce, AAD []byte
	Dst, Src   []byte
	Err        error
}

// SealGCM seals a batch. It panics where GCM's Seal does, and where there is not
// enough room.
func (l *Lanes) SealGCM(jobs []GCMJob) { l.gcm(jobs, false) }

// OpenGCM opens a batch. Where a packet is not genuine, Err is ErrAuth and Dst
// is zero.
func (l *Lanes) OpenGCM(jobs []GCMJob) { l.gcm(jobs, true) }

func (l *Lanes) gcm(jobs []GCMJob, open bool) {
	for len(jobs) > 0 {
		n, blocks := 0, 0
		for n < len(jobs) && jobs[n].Key == jobs[0].Key {
			b := jobs[n].blocks(open)
			if b > poolMax || blocks+b > poolBlocks {
				break
			}
			blocks += b
			n++
		}
		if n < 2 || jobs[0].Key.key.engine.pooled[0] == 0 {
			jobs[0].alone(open)
			jobs = jobs[1:]
			continue
		}
		l.gcmPool(jobs[:n], blocks, open)
		jobs = jobs[n:]
	}
}

// blocks is how much keystream a packet needs; far too much where it is not one.
func (j *GCMJob) blocks(open bool) int {
	n := len(j.Src)
	if open {
		n -= TagSize
	}
	if n < 0 || (len(j.AAD)+15)/16+poolMax > powers {
		return poolMax + 1
	}
	return (n+BlockSize-1)/BlockSize + 1
}

func (j *GCMJob) alone(open bool) {
	if open {
		_, j.Err = j.Key.Open(j.Dst[:0], j.Nonce, j.Src, j.AAD)
		return
	}
	_ = j.Dst[:len(j.Src)+TagSize]
	j.Key.Seal(j.Dst[:0:len(j.Dst)], j.Nonce, j.Src, j.AAD)
}

func (l *Lanes) gcmPool(jobs []GCMJob, blocks int, open bool) {
	g := jobs[0].Key
	e := g.key.engine
	ks := l.pool[:blocks*BlockSize]
	at := 0
	for i := range jobs {
		j := &jobs[i]
		if len(j.Nonce) != NonceSize {
			panic("sm: incorrect nonce length given to GCM")
		}
		lo, hi := binary.LittleEndian.Uint64(j.Nonce), uint64(binary.LittleEndian.Uint32(j.Nonce[8:]))
		for ctr := range uint32(j.blocks(open)) {
			b := ks[at : at+BlockSize]
			binary.LittleEndian.PutUint64(b, lo)
			binary.LittleEndian.PutUint64(b[8:], hi|uint64(bits.ReverseBytes32(ctr+1))<<32)
			at += BlockSize
		}
	}
	g.key.ecb(ks, ks)
	kernel := e.pooled[0]
	if open {
		kernel = e.pooled[1]
	}
	var c wideCall
	var got, want [TagSize]byte
	c.final = 1
	at = 0
	for i := range jobs {
		j := &jobs[i]
		src, dst := j.Src, j.Dst
		if open {
			src = src[:len(src)-TagSize]
			dst = dst[:len(src)]
			copy(want[:], j.Src[len(src):])
			c.tag = unsafe.Pointer(&got)
		} else {
			dst = dst[:len(src)+TagSize]
			c.tag = unsafe.Pointer(&dst[len(src)])
		}
		if buffer.InexactOverlap(dst, j.Src) || buffer.Overlap(dst, j.AAD) {
			panic("sm: invalid buffer overlap")
		}
		binary.LittleEndian.PutUint64(c.lens[:], uint64(len(src))*8)
		binary.LittleEndian.PutUint64(c.lens[8:], uint64(len(j.AAD))*8)
		g.aim(&c, j.AAD, len(src), 1)
		c.in, c.out, c.n = unsafe.Pointer(unsafe.SliceData(src)), unsafe.Pointer(unsafe.SliceData(dst)), uint64(len(src))
		c.data = unsafe.Pointer(&l.pool[at])
		kernel.call(unsafe.Pointer(&c))
		at += j.blocks(open) * BlockSize
		if !open {
			continue
		}
		j.Err = nil
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			clear(dst)
			j.Err = ErrAuth
		}
	}
	clear(ks)
}
