package sm

import (
	"crypto/subtle"
	"encoding/binary"
	"unsafe"
)

// maxOpen is how many packets Open works on before it looks at their codes.
const maxOpen = 64

// OpenJob is one packet to check and to decrypt: the inverse of SealJob. Dst and
// Src are the same octets or do not overlap. ICV is the code to compare with, in
// the length that was agreed on. Err is the result.
type OpenJob struct {
	Cipher   *CBCDecrypter
	MAC      *HMACKey
	Head     []byte
	IV       []byte
	Dst, Src []byte
	Tail     []byte
	ICV      []byte
	Err      error
}

func (j *OpenJob) check() {
	if len(j.IV) != BlockSize {
		panic("sm: IV length must equal block size")
	}
	if len(j.ICV) == 0 || len(j.ICV) > HashSize {
		panic("sm: wrong length of an integrity check value")
	}
	checkBlocks(j.Dst, j.Src)
}

// regular reports whether the packet has the form the kernel takes.
func (j *OpenJob) regular() bool {
	return len(j.Head) == fusedHead && len(j.Tail) <= maxTail && len(j.Src) > 0
}

func (j *OpenJob) decrypt() { j.Cipher.key.crypt(j.Dst[:len(j.Src)], j.Src, j.IV) }

// Open checks a batch of packets and decrypts them. Those that are not genuine
// get ErrAuth, and their Dst is zero or as it was: packets are decrypted while
// their code is being computed, and what has been written to Dst is overwritten
// before Open returns. It panics where crypto/cipher's CBC decrypter does, and for
// a code that is empty or longer than HashSize.
func (l *Lanes) Open(jobs []OpenJob) {
	for i := range jobs {
		jobs[i].check()
	}
	for len(jobs) > 0 {
		n := min(len(jobs), maxOpen)
		if l.engine.open != 0 && n >= l.engine.minOpen && oneCipher(jobs[:n]) {
			l.openTogether(jobs[:n])
		} else {
			n = min(n, maxLanes)
			l.openApart(jobs[:n])
		}
		jobs = jobs[n:]
	}
}

// oneCipher reports whether all packets have the same cipher key.
func oneCipher(jobs []OpenJob) bool {
	for i := range jobs {
		if jobs[i].Cipher != jobs[0].Cipher {
			return false
		}
	}
	return true
}

// genuine compares the code of job i with what was computed, and sets its result.
func (l *Lanes) genuine(i int, j *OpenJob) bool {
	j.Err = ErrAuth
	if subtle.ConstantTimeCompare(l.sums[i][:len(j.ICV)], j.ICV) == 1 {
		j.Err = nil
	}
	return j.Err == nil
}

// openApart checks all packets, then decrypts those that are genuine.
func (l *Lanes) openApart(jobs []OpenJob) {
	for i := range jobs {
		l.mac[i] = l.openMAC(i, &jobs[i])
	}
	l.HMAC(l.mac[:len(jobs)])
	clear(l.mac[:])
	for i := range jobs {
		if j := &jobs[i]; l.genuine(i, j) {
			j.decrypt()
		}
	}
}

func (l *Lanes) openMAC(i int, j *OpenJob) MACJob {
	m := MACJob{Key: j.MAC, Body: j.Src, Tail: j.Tail, Sum: l.sums[i][:]}
	if len(j.Head) == fusedHead {
		h := &l.head[i]
		copy(h[:], j.Head)
		copy(h[fusedHead:], j.IV)
		m.Head = h[:]
		return m
	}
	j.MAC.Sum(&l.sums[i], j.Head, j.IV, j.Src, j.Tail)
	m.Key, m.Body, m.Tail, m.Sum = j.MAC, nil, nil, nil // done: an empty message, whose code nobody takes
	return m
}

// openTogether hashes and decrypts packets of one cipher key in one pass, then
// compares all codes and overwrites what is not genuine.
func (l *Lanes) openTogether(jobs []OpenJob) {
	l.reset()
	l.call.key = &jobs[0].Cipher.key.wide
	next, busy := 0, 0
	for busy < groupLanes && l.startOpen(busy, jobs, &next) {
		busy++
	}
	for active := busy; busy > 0; active = l.narrow(active) {
		steps := l.steps(active)
		l.call.steps = uint64(steps)
		l.engine.open.call(unsafe.Pointer(&l.call))
		for i := range active {
			if !l.walk(i, steps) || l.goOnOpen(i, jobs) || l.startOpen(i, jobs, &next) {
				continue
			}
			l.park(i)
			busy--
		}
	}
	l.call.key = nil
	l.finish.flush(l.engine)
	for i := range jobs {
		if j := &jobs[i]; !l.genuine(i, j) {
			clear(j.Dst[:len(j.Src)])
		}
	}
}

// startOpen puts the next job into lane i; false if there is none. Packets of
// unusual form are opened alone.
func (l *Lanes) startOpen(i int, jobs []OpenJob, next *int) bool {
	for *next < len(jobs) {
		n := *next
		*next++
		j := &jobs[n]
		if !j.regular() {
			j.MAC.Sum(&l.sums[n], j.Head, j.IV, j.Src, j.Tail)
			j.decrypt()
			continue
		}
		l.job[i] = n
		g, lane := l.lane(i)
		j.MAC.begin(g, lane)
		for w := range 2 {
			g.carry[w][lane] = binary.BigEndian.Uint32(j.Head[4*w:])
		}
		iv := (*[BlockSize]byte)(j.IV)
		for w := range 4 {
			g.carry[2+w][lane] = binary.BigEndian.Uint32(iv[4*w:])
		}
		*(*[BlockSize]byte)(unsafe.Pointer(&g.pend[lane][groupLanes-4])) = *iv
		l.pointOpen(i, j, 0)
		return true
	}
	return false
}

// pointOpen directs lane i at what follows the first at octets of its packet. If
// that is less than a step, all whole blocks of the message have been hashed, and
// its end is taken before it is decrypted.
func (l *Lanes) pointOpen(i int, j *OpenJob, at int) {
	if len(j.Src)-at < stepSize {
		l.endOpen(i, j, at)
	}
	l.point(i, j.Src[at:], j.Dst[at:])
}

// goOnOpen takes up what follows the part of a packet that has ended in lane i,
// and reports whether anything does.
func (l *Lanes) goOnOpen(i int, jobs []OpenJob) bool {
	j := &jobs[l.job[i]]
	if n := l.left[i]; n > 0 {
		l.pointOpen(i, j, len(j.Src)-n)
		return true
	}
	if l.call.stride[i] != 0 {
		l.endOpen(i, j, len(j.Src))
		return false
	}
	n := len(j.Src) % stepSize
	copy(j.Dst[len(j.Src)-n:], l.block[i][:n])
	clear(l.block[i][:])
	return false
}

// endOpen hands the end of a message to the finisher: the words that are carried
// and the octets from at on.
func (l *Lanes) endOpen(i int, j *OpenJob, at int) {
	g, lane := l.lane(i)
	f := l.collect(g, lane)
	t := f.tail[f.n][:]
	for w := range g.carry {
		binary.BigEndian.PutUint32(t[4*w:], g.carry[w][lane])
	}
	n := 4 * len(g.carry)
	if at < len(j.Src) {
		n += copy(t[n:], j.Src[at:])
	}
	if len(j.Tail) > 0 {
		n += copy(t[n:], j.Tail)
	}
	f.end(n, HashBlockSize+uint64(fusedHead+BlockSize+len(j.Src)+len(j.Tail)), j.MAC, l.sums[l.job[i]][:])
}
