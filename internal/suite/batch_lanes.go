package suite

import (
	"crypto/hmac"

	"caponier/internal/lanes"
)

// batchMode is a cipherMode that encrypts packets side by side.
type batchMode interface {
	cipherMode
	encryptBatch(l *lanes.Lanes, jobs []lanes.CBCJob)
}

// maxHead is room for what stands before the ciphertext: SPI, sequence number and
// IV, or more of additional data than ESP ever has.
const maxHead = 40

// inLanes is the Protector of a cipher and an integrity algorithm, at least one of
// which works on packets side by side: first all packets pass one, then the
// other.
type inLanes struct {
	*composed
	mode batchMode  // nil: each packet alone
	hmac *hmacLanes // nil: each packet alone
}

var _ Batcher = (*inLanes)(nil)

// MinBatch is 2 for a cipher, which gains from the second packet on.
func (b *inLanes) MinBatch() int {
	if b.mode != nil {
		return 2
	}
	return b.hmac.least
}

func (b *inLanes) SealBatch(l *Lanes, jobs []Job) {
	for len(jobs) > 0 {
		n := min(len(jobs), atOnce)
		b.encryptAll(l, jobs[:n])
		for i := range n {
			j := &jobs[i]
			size := len(j.Src)
			l.addMAC(i, j, j.Dst[:size], j.Dst[size:size+b.icvLen])
		}
		b.authenticate(l, n)
		jobs = jobs[n:]
	}
}

func (b *inLanes) encryptAll(l *Lanes, jobs []Job) {
	if b.mode == nil {
		for i := range jobs {
			j := &jobs[i]
			b.encrypt(j.Dst[:len(j.Src)], j.IV, j.Src)
		}
		return
	}
	for i := range jobs {
		j := &jobs[i]
		l.cbc[i] = lanes.CBCJob{IV: j.IV, Dst: j.Dst[:len(j.Src)], Src: j.Src}
	}
	b.mode.encryptBatch(l.many, l.cbc[:len(jobs)])
	clear(l.cbc[:len(jobs)])
}

// addMAC makes message i of a batch: what the ICV of a packet covers.
func (l *Lanes) addMAC(i int, j *Job, ciphertext, sum []byte) {
	m := lanes.MACJob{Body: ciphertext, Tail: j.Tail, Sum: sum}
	if h := &l.heads[i]; len(j.AAD)+len(j.IV) <= len(h) && len(j.Tail) <= lanes.MaxTail {
		n := copy(h[:], j.AAD)
		n += copy(h[n:], j.IV)
		m.Head = h[:n]
	}
	l.mac[i] = m
	l.jobs[i] = j
}

// authenticate computes the sums of the first n messages.
func (b *inLanes) authenticate(l *Lanes, n int) {
	side := b.hmac != nil && n >= b.hmac.least
	for i := range n {
		// In ESP every packet of an SA has a head of the same length.
		side = side && l.mac[i].Head != nil
	}
	if side {
		b.hmac.key.Sum(l.many, l.mac[:n])
	} else {
		for i := range n {
			copy(l.mac[i].Sum, b.icv(l.jobs[i].AAD, l.jobs[i].IV, l.mac[i].Body, l.mac[i].Tail))
		}
	}
	clear(l.mac[:n])
	clear(l.jobs[:n])
}

func (b *inLanes) OpenBatch(l *Lanes, jobs []Job) {
	for len(jobs) > 0 {
		n := min(len(jobs), atOnce)
		m := 0
		for i := range n {
			j := &jobs[i]
			size := len(j.Src) - b.icvLen
			if j.Err = nil; size < 0 || size%b.BlockSize() != 0 || len(j.IV) != b.IVLen() {
				j.Err = ErrAuth
				continue
			}
			l.addMAC(m, j, j.Src[:size], l.sums[m][:b.icvLen])
			m++
		}
		b.authenticate(l, m)
		m = 0
		for i := range n {
			j := &jobs[i]
			if j.Err != nil {
				continue
			}
			size := len(j.Src) - b.icvLen
			if hmac.Equal(l.sums[m][:b.icvLen], j.Src[size:]) {
				b.decrypt(j.Dst[:size], j.IV, j.Src[:size])
			} else {
				j.Err = ErrAuth
			}
			m++
		}
		jobs = jobs[n:]
	}
}

func (b *inLanes) Wipe() {
	b.composed.Wipe()
	b.mode, b.hmac = nil, nil
}
