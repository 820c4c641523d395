package suite

import (
	"caponier/internal/lanes"
	"caponier/internal/sm"
)

// Batcher is a Protector that works on packets side by side, which are
// independent of each other where the blocks of one are not.
type Batcher interface {
	Protector
	// MinBatch is from how many packets on a batch is faster than each alone.
	MinBatch() int
	// SealBatch does what Seal does to each packet.
	SealBatch(l *Lanes, jobs []Job)
	// OpenBatch does what Open does to each packet. Err is the result. SM4-CBC with
	// HMAC-SM3 decrypts while it checks, and clears Dst where the check fails.
	OpenBatch(l *Lanes, jobs []Job)
}

// Job is one packet of a batch: the arguments of Seal, with the plaintext in Src,
// or of Open, with what was sealed in Src. No two jobs overlap in what they
// write.
type Job struct {
	Dst, IV, Src, AAD, Tail []byte
	Err                     error // result of OpenBatch
}

// atOnce is how many packets go to the kernels together: enough for the widest
// of them, and to refill its lanes.
const atOnce = 64

// Lanes is scratch space for batches of any Batcher, for one goroutine at a
// time. It holds key material until Wipe, and nothing of the packets.
type Lanes struct {
	lanes  *sm.Lanes
	used   bool // lanes, since the last Wipe
	many   *lanes.Lanes
	seal   [atOnce]sm.SealJob
	open   [atOnce]sm.OpenJob
	gcm    [atOnce]sm.GCMJob
	nonces [atOnce][sm.NonceSize]byte
	cbc    [atOnce]lanes.CBCJob
	mac    [atOnce]lanes.MACJob
	jobs   [atOnce]*Job // of mac
	heads  [atOnce][maxHead]byte
	sums   [atOnce][maxMAC]byte
}

// NewLanes returns scratch space for batches.
func NewLanes() *Lanes { return &Lanes{lanes: sm.NewLanes(), many: lanes.NewLanes()} }

// Wipe overwrites the key material in l, which can be used again.
func (l *Lanes) Wipe() {
	if l.used {
		l.lanes.Wipe()
		l.used = false
	}
	l.many.Wipe()
}

// national returns the lanes for SM4 and SM3.
func (l *Lanes) national() *sm.Lanes {
	l.used = true
	return l.lanes
}

// sm4Batch is the Protector of SM4-GCM.
type sm4Batch struct {
	*combined
	gcm *sm.GCM
}

var _ Batcher = (*sm4Batch)(nil)

// MinBatch is 4: short packets share a run of the cipher, but long ones have
// nothing to gain, and the batch costs something to set up.
func (*sm4Batch) MinBatch() int { return 4 }

func (b *sm4Batch) SealBatch(l *Lanes, jobs []Job) {
	for len(jobs) > 0 {
		n := min(len(jobs), atOnce)
		for i := range n {
			j := &jobs[i]
			if len(j.Tail) != 0 || len(j.IV) != explicitIVLen {
				panic("suite: a combined mode takes an IV of 8 octets and no tail")
			}
			l.gcm[i] = sm.GCMJob{
				Key: b.gcm, Nonce: b.nonceOf(l, i, j.IV), AAD: j.AAD,
				Dst: j.Dst[:len(j.Src)+sm.TagSize], Src: j.Src,
			}
		}
		l.national().SealGCM(l.gcm[:n])
		l.forgetGCM(n)
		jobs = jobs[n:]
	}
}

func (b *sm4Batch) OpenBatch(l *Lanes, jobs []Job) {
	for len(jobs) > 0 {
		n := min(len(jobs), atOnce)
		m := 0
		for i := range n {
			j := &jobs[i]
			size := len(j.Src) - sm.TagSize
			if j.Err = nil; len(j.Tail) != 0 || len(j.IV) != explicitIVLen || size < 0 {
				j.Err = ErrAuth
				continue
			}
			l.gcm[m] = sm.GCMJob{Key: b.gcm, Nonce: b.nonceOf(l, m, j.IV), AAD: j.AAD, Dst: j.Dst[:size], Src: j.Src}
			m++
		}
		l.national().OpenGCM(l.gcm[:m])
		for i, m := 0, 0; i < n; i++ {
			if jobs[i].Err != nil {
				continue
			}
			if l.gcm[m].Err != nil {
				jobs[i].Err = ErrAuth
			}
			m++
		}
		l.forgetGCM(m)
		jobs = jobs[n:]
	}
}

// forgetGCM drops what the first n jobs of GCM refer to.
func (l *Lanes) forgetGCM(n int) {
	clear(l.gcm[:n])
	clear(l.nonces[:n])
}

// nonceOf puts the salt and an IV together.
func (b *sm4Batch) nonceOf(l *Lanes, i int, iv []byte) []byte {
	n := l.nonces[i][:]
	copy(n, b.nonce)
	copy(n[gcmSaltLen:], iv)
	return n
}

func (b *sm4Batch) Wipe() {
	b.combined.Wipe()
	b.gcm = nil
}

// sideBySide returns c, or what works on batches too where there is something
// for its algorithms.
func sideBySide(c *composed) Protector {
	if mode, ok := c.cipherMode.(*sm4CBC); ok {
		if mac, ok := c.mac.(*hmacSM3); ok {
			return &sm4HMAC{composed: c, mode: mode, key: mac.key}
		}
	}
	mode, inMode := c.cipherMode.(batchMode)
	mac, inMAC := c.mac.(*hmacLanes)
	if !inMode && !inMAC {
		return c
	}
	return &inLanes{composed: c, mode: mode, hmac: mac}
}

// sm4HMAC is the Protector of SM4-CBC with HMAC-SM3, which pass over a packet
// together.
type sm4HMAC struct {
	*composed
	mode *sm4CBC
	key  *sm.HMACKey
}

var _ Batcher = (*sm4HMAC)(nil)

// MinBatch is 1: even one packet is encrypted and authenticated in one pass.
func (*sm4HMAC) MinBatch() int { return 1 }

func (b *sm4HMAC) SealBatch(l *Lanes, jobs []Job) {
	for len(jobs) > 0 {
		n := min(len(jobs), atOnce)
		for i := range n {
			j := &jobs[i]
			size := len(j.Src)
			l.seal[i] = sm.SealJob{
				Cipher: b.mode.encrypter, MAC: b.key, Head: j.AAD, IV: j.IV,
				Dst: j.Dst[:size], Src: j.Src, Tail: j.Tail, ICV: j.Dst[size : size+b.icvLen],
			}
		}
		l.national().Seal(l.seal[:n])
		clear(l.seal[:n])
		jobs = jobs[n:]
	}
}

func (b *sm4HMAC) OpenBatch(l *Lanes, jobs []Job) {
	for len(jobs) > 0 {
		n := min(len(jobs), atOnce)
		m := 0
		for i := range n {
			j := &jobs[i]
			size := len(j.Src) - b.icvLen
			if j.Err = nil; size < 0 || size%sm.BlockSize != 0 || len(j.IV) != sm.BlockSize {
				j.Err = ErrAuth
				continue
			}
			l.open[m] = sm.OpenJob{
				Cipher: b.mode.decrypter, MAC: b.key, Head: j.AAD, IV: j.IV,
				Dst: j.Dst[:size], Src: j.Src[:size], Tail: j.Tail, ICV: j.Src[size:],
			}
			m++
		}
		l.national().Open(l.open[:m])
		for i, m := 0, 0; i < n; i++ {
			if jobs[i].Err != nil {
				continue
			}
			if l.open[m].Err != nil {
				jobs[i].Err = ErrAuth
			}
			m++
		}
		clear(l.open[:m])
		jobs = jobs[n:]
	}
}

func (b *sm4HMAC) Wipe() {
	b.composed.Wipe()
	b.mode, b.key = nil, nil
}
