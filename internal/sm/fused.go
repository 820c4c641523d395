package sm

import (
	"encoding/binary"
	"unsafe"
)

// fusedHead is the length of the octets before the IV that the fused kernels
// are made for: SPI and sequence number of ESP (RFC 4303, Section 2).
const fusedHead = 8

// SealJob is one packet to encrypt with SM4-CBC and to authenticate with
// HMAC-SM3 over Head, IV, ciphertext and Tail. Dst and Src are as in CBCJob. ICV
// takes as much of the code as it has room for, at most HashSize; it may follow
// Dst directly.
type SealJob struct {
	Cipher   *CBCEncrypter
	MAC      *HMACKey
	Head     []byte
	IV       []byte
	Dst, Src []byte
	Tail     []byte
	ICV      []byte
}

func (j *SealJob) cbc() CBCJob { return CBCJob{Key: j.Cipher, IV: j.IV, Dst: j.Dst, Src: j.Src} }

// regular reports whether the packet has the form the fused kernels take.
func (j *SealJob) regular() bool {
	return len(j.Head) == fusedHead && len(j.Tail) <= maxTail && len(j.Src) > 0
}

func (j *SealJob) authenticate() {
	var sum [HashSize]byte
	j.MAC.Sum(&sum, j.Head, j.IV, j.Dst[:len(j.Src)], j.Tail)
	copy(j.ICV, sum[:])
}

// Seal encrypts and authenticates a batch of packets of any lengths and keys.
func (l *Lanes) Seal(jobs []SealJob) {
	for i := range jobs {
		c := jobs[i].cbc()
		c.check()
	}
	e := l.engine
	if e.fused[0] == 0 {
		l.sealApart(jobs)
		return
	}
	l.reset()
	next, busy := 0, 0
	for busy < maxLanes && l.startSeal(busy, jobs, &next) {
		busy++
	}
	fresh := busy
	for active := busy; busy > 0; active = l.narrow(active) {
		steps := l.steps(active)
		l.call.steps, l.call.cold = uint64(steps), 0
		if fresh == busy {
			l.call.cold = 1
		}
		fresh = 0
		e.fused[width(active)].call(unsafe.Pointer(&l.call))
		for g := range l.call.groups {
			l.call.groups[g].fresh = laneRow{}
		}
		for i := range active {
			if !l.walk(i, steps) {
				continue
			}
			j := &jobs[l.job[i]]
			if l.goOn(i, j.Src, j.Dst) {
				continue
			}
			l.endSeal(i, j)
			if l.startSeal(i, jobs, &next) {
				fresh++
				continue
			}
			l.park(i)
			busy--
		}
	}
	l.finish.flush(e)
}

// startSeal puts the next job into lane i; false if there is none. Packets of
// unusual form are sealed alone.
func (l *Lanes) startSeal(i int, jobs []SealJob, next *int) bool {
	for *next < len(jobs) {
		j := &jobs[*next]
		*next++
		if !j.regular() {
			j.Cipher.Encrypt(j.Dst, j.IV, j.Src)
			j.authenticate()
			continue
		}
		l.job[i] = *next - 1
		l.setKey(i, &j.Cipher.key)
		g, lane := l.lane(i)
		loadIV(g, lane, j.IV)
		j.MAC.begin(g, lane)
		for w := range 2 {
			g.carry[w][lane] = binary.BigEndian.Uint32(j.Head[4*w:])
		}
		for w := range 4 {
			g.carry[2+w][lane] = g.prev[w][lane]
		}
		l.point(i, j.Src, j.Dst)
		return true
	}
	return false
}

// endSeal hands the end of a message to the finisher: the block that the kernel
// has not hashed yet and the octets after it.
func (l *Lanes) endSeal(i int, j *SealJob) {
	g, lane := l.lane(i)
	f := l.collect(g, lane)
	t := f.tail[f.n][:]
	steps := (len(j.Src) + stepSize - 1) / stepSize
	n, from := 0, 0
	if steps == 1 {
		n = copy(t, j.Head)
		n += copy(t[n:], j.IV)
	} else {
		from = (steps-1)*stepSize - fusedHead - BlockSize
	}
	n += copy(t[n:], j.Dst[from:len(j.Src)])
	n += copy(t[n:], j.Tail)
	f.end(n, HashBlockSize+uint64(fusedHead+BlockSize+len(j.Src)+len(j.Tail)), j.MAC, j.ICV)
}

// sealApart encrypts all packets, then authenticates them.
func (l *Lanes) sealApart(jobs []SealJob) {
	cbc, mac, head := &l.cbc, &l.mac, &l.head
	for len(jobs) > 0 {
		n := min(len(jobs), maxLanes)
		for i := range n {
			cbc[i] = jobs[i].cbc()
		}
		l.EncryptCBC(cbc[:n])
		m := 0
		for i := range n {
			j := &jobs[i]
			if len(j.Head) != fusedHead {
				j.authenticate()
				continue
			}
			copy(head[m][:], j.Head)
			copy(head[m][fusedHead:], j.IV)
			mac[m] = MACJob{Key: j.MAC, Head: head[m][:], Body: j.Dst[:len(j.Src)], Tail: j.Tail, Sum: j.ICV}
			m++
		}
		l.HMAC(mac[:m])
		jobs = jobs[n:]
	}
	clear(l.cbc[:])
	clear(l.mac[:])
}
