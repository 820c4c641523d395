package sm

import (
	"encoding/binary"
	"sync/atomic"
	"unsafe"
)

const (
	groupLanes = 16
	maxLanes   = 2 * groupLanes
	stepSize   = 64  // octets of each packet that a kernel handles in a step
	maxSteps   = 256 // of one call, which the scheduler cannot interrupt
)

type laneRow [groupLanes]uint32

// group is the state of 16 lanes, a word of each in a row. The layout is known
// to the generator of the kernels.
type group struct {
	rounds [32]laneRow
	chain  [4]laneRow
	out    [4]laneRow
	cout   [4]laneRow
	prev   [4]laneRow  // the block before; an IV as it is in lanes that are fresh
	state  [8]laneRow  // of SM3
	pend   [16]laneRow // message words that are not hashed yet; the state behind the outer pad
	carry  [6]laneRow  // the words after them
	fresh  laneRow     // all ones in lanes that begin
	hold   laneRow     // all ones in lanes whose SM3 state skips the first step
}

// laneCall is what a kernel gets.
type laneCall struct {
	groups *[2]group
	steps  uint64
	cold   uint64 // not 0: all lanes are fresh
	in     [maxLanes]unsafe.Pointer
	out    [maxLanes]unsafe.Pointer
	stride [maxLanes]uint64 // stepSize, or 0 for lanes that stand still
}

// engine is a set of kernels. Those that take a pointer work on a laneCall; the
// first of a pair on 16 lanes, the second on 32.
type engine struct {
	name  string
	keys  keyForm
	cbc   [2]kernel // none: portable
	hash  [2]kernel
	outer [2]kernel
	fused [2]kernel // none: CBC of all packets, then HMAC
	// Kernels for one packet, smallest unit first; none: portable.
	units  []unit
	whole  bool // they take whole units only, and hash apart
	ghash  kernel
	pooled [2]kernel // none: packets of GCM one at a time
	powers kernel
	// How many messages make a batch worthwhile.
	minHash int
	spare   atomic.Pointer[Lanes] // for packets that come alone
}

// Lanes works on many packets at once, which are independent of each other
// while the blocks of one packet are not: SM4-CBC encryption and HMAC-SM3 of up
// to 32 packets side by side, lanes being refilled as short packets finish.
//
// Lanes is scratch space for one goroutine at a time. Its methods do not
// allocate. It holds key material until Wipe or the next use.
type Lanes struct {
	engine *engine
	call   laneCall
	store  []byte // what groups points into
	keys   [maxLanes]*wordKey
	job    [maxLanes]int // -1: idle
	left   [maxLanes]int // octets of the packet that have not been handed to a kernel
	phase  [maxLanes]int
	block  [maxLanes][stepSize]byte // last, partial step of a lane
	idle   [stepSize]byte
	finish finisher
	one    [1]CBCJob
	cbc    [maxLanes]CBCJob
	mac    [maxLanes]MACJob
	sums   [maxLanes][HashSize]byte
	pool   [(poolBlocks + 4) * BlockSize]byte // kernels read a register's worth
	head   [maxLanes][fusedHead + BlockSize]byte
}

// NewLanes returns scratch space for batches.
func NewLanes() *Lanes { return newLanes(best()) }

func newLanes(e *engine) *Lanes {
	l := &Lanes{engine: e}
	// The kernels want rows that do not cross cache lines.
	l.store = make([]byte, unsafe.Sizeof([2]group{})+stepSize)
	off := -uintptr(unsafe.Pointer(&l.store[0])) % stepSize
	l.call.groups = (*[2]group)(unsafe.Pointer(&l.store[off]))
	l.finish.init()
	return l
}

// Wipe overwrites the key material and message parts in l, which can be used
// again.
func (l *Lanes) Wipe() {
	clear(l.sums[:])
	clear(l.pool[:])
	clear(l.store)
	clear(l.block[:])
	clear(l.finish.tail[:])
	clear(l.finish.store)
}

func (l *Lanes) lane(i int) (*group, int) { return &l.call.groups[i/groupLanes], i % groupLanes }

// reset makes all lanes idle and forgets which keys they have.
func (l *Lanes) reset() {
	if l.finish.n != 0 { // a panic cut the batch before short
		l.finish.reset()
	}
	for i := range l.job {
		l.park(i)
		l.keys[i] = nil
	}
	for g := range l.call.groups {
		l.call.groups[g].fresh, l.call.groups[g].hold = laneRow{}, laneRow{}
	}
}

func (l *Lanes) park(i int) {
	l.job[i], l.left[i] = -1, 0
	l.call.in[i], l.call.out[i], l.call.stride[i] = unsafe.Pointer(&l.idle), unsafe.Pointer(&l.idle), 0
}

// setKey gives lane i its cipher key, if it has another.
func (l *Lanes) setKey(i int, k *wordKey) {
	if l.keys[i] == k {
		return
	}
	l.keys[i] = k
	g, n := l.lane(i)
	for r := range g.rounds {
		g.rounds[r][n] = k.rounds[r]
	}
	for w := range 4 {
		g.chain[w][n], g.out[w][n], g.cout[w][n] = k.chain[w], k.out[w], k.cout[w]
	}
}

// point directs lane i at the next octets of in and out: the packet itself
// while a whole step is left, then a copy of its end.
func (l *Lanes) point(i int, in, out []byte) {
	if len(in) >= stepSize {
		l.call.in[i], l.call.out[i], l.call.stride[i] = unsafe.Pointer(&in[0]), unsafe.Pointer(&out[0]), stepSize
		return
	}
	b := &l.block[i]
	copy(b[:], in)
	l.call.in[i], l.call.out[i], l.call.stride[i] = unsafe.Pointer(b), unsafe.Pointer(b), 0
}

// width returns which of the two kernel sizes n lanes need.
func width(n int) int {
	if n > groupLanes {
		return 1
	}
	return 0
}

func loadIV(g *group, n int, iv []byte) {
	for w := range 4 {
		g.prev[w][n] = binary.BigEndian.Uint32(iv[4*w:])
	}
	g.fresh[n] = ^uint32(0)
}

// CBCJob is one packet to encrypt. Dst and Src have the same length, a multiple
// of BlockSize; they are the same octets or do not overlap, and no two jobs of a
// batch overlap in what they write.
type CBCJob struct {
	Key      *CBCEncrypter
	IV       []byte
	Dst, Src []byte
}

func (j *CBCJob) check() {
	switch {
	case len(j.IV) != BlockSize:
		panic("sm: IV length must equal block size")
	case len(j.Src)%BlockSize != 0:
		panic("sm: input not full blocks")
	case len(j.Dst) < len(j.Src):
		panic("sm: output smaller than input")
	case inexactOverlap(j.Dst[:len(j.Src)], j.Src):
		panic("sm: invalid buffer overlap")
	}
}

// EncryptCBC encrypts a batch of packets of any lengths and keys. It panics
// where crypto/cipher's CBC encrypter does.
func (l *Lanes) EncryptCBC(jobs []CBCJob) {
	for i := range jobs {
		jobs[i].check()
	}
	if l.engine.cbc[0] == 0 {
		for i := range jobs {
			j := &jobs[i]
			j.Key.portable.encryptCBC(j.Dst, j.IV, j.Src)
		}
		return
	}
	l.reset()
	next, active := 0, 0
	for i := range maxLanes {
		for next < len(jobs) && !l.startCBC(i, jobs, &next) {
		}
		if l.job[i] >= 0 {
			active = i + 1
		}
	}
	wide := width(active)
	for {
		steps, busy := 0, 0
		for i := range active {
			if l.job[i] < 0 {
				continue
			}
			busy++
			n := max(1, l.left[i]/stepSize)
			if steps == 0 || n < steps {
				steps = n
			}
		}
		if busy == 0 {
			break
		}
		steps = min(steps, maxSteps)
		l.call.steps = uint64(steps)
		l.engine.cbc[wide].call(unsafe.Pointer(&l.call))
		for g := range l.call.groups {
			l.call.groups[g].fresh = laneRow{}
		}
		for i := range active {
			if l.job[i] < 0 {
				continue
			}
			j := &jobs[l.job[i]]
			if l.left[i] < stepSize {
				copy(j.Dst[len(j.Src)-l.left[i]:], l.block[i][:l.left[i]])
				l.left[i] = 0
			} else {
				l.left[i] -= steps * stepSize
			}
			if l.left[i] > 0 {
				at := len(j.Src) - l.left[i]
				l.point(i, j.Src[at:], j.Dst[at:])
				continue
			}
			l.park(i)
			for next < len(jobs) && !l.startCBC(i, jobs, &next) {
			}
		}
	}
}

// startCBC puts the next job into lane i; false if there was nothing to do in
// it.
func (l *Lanes) startCBC(i int, jobs []CBCJob, next *int) bool {
	n := *next
	*next++
	j := &jobs[n]
	if len(j.Src) == 0 {
		return false
	}
	l.job[i], l.left[i] = n, len(j.Src)
	l.setKey(i, &j.Key.key)
	g, lane := l.lane(i)
	loadIV(g, lane, j.IV)
	l.point(i, j.Src, j.Dst)
	return true
}
