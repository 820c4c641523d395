package sm

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"unsafe"

	"caponier/internal/buffer"
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
	rounds [32]laneRow // of the finisher: the codes, 32 octets at the beginning of each lane's 64
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
	key    *wideKey         // of all packets that are opened
}

// engine is a set of kernels. Those that take a pointer work on a laneCall; the
// first of a pair on 16 lanes, the second on 32.
type engine struct {
	name  string
	keys  keyForm
	cbc   [2]kernel // none: in Go
	hash  [2]kernel
	outer [2]kernel
	fused [2]kernel // none: CBC of all packets, then HMAC
	open  kernel    // 16 lanes with one cipher key; none: HMAC of all packets, then CBC
	// Kernels for one packet, smallest unit first; none: in Go.
	units  []unit
	gmsm   gmsmPath // whether gmsm has the blocks for what is in Go
	whole  bool     // they take whole units only, and hash apart
	ghash  kernel
	pooled [2]kernel // none: packets of GCM one at a time
	powers kernel
	// How many messages make a batch worthwhile.
	minHash int
	minOpen int                   // where open is set
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
	job    [maxLanes]int            // -1: idle
	todo   [maxLanes]int            // steps until the lane's packet, or the part of it at hand, ends
	left   [maxLanes]int            // octets of the packet after them
	block  [maxLanes][stepSize]byte // last, partial step of a lane
	idle   [stepSize]byte
	finish finisher
	one    [1]CBCJob
	cbc    [maxLanes]CBCJob
	mac    [maxLanes]MACJob
	sums   [maxOpen][HashSize]byte
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
	clear(l.finish.keys[:])
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

const forever = math.MaxInt // steps of an idle lane

func (l *Lanes) park(i int) {
	l.job[i], l.todo[i] = -1, forever
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

// steps returns how many steps the lanes can go together.
func (l *Lanes) steps(active int) int {
	n := maxSteps
	for _, t := range l.todo[:active] {
		n = min(n, t)
	}
	return n
}

// walk counts steps that lane i has gone, and reports whether its part of a
// packet has ended.
func (l *Lanes) walk(i, steps int) bool {
	l.todo[i] -= steps
	if l.todo[i] > 0 && l.job[i] >= 0 {
		n := steps * stepSize
		l.call.in[i], l.call.out[i] = unsafe.Add(l.call.in[i], n), unsafe.Add(l.call.out[i], n)
	}
	return l.todo[i] == 0
}

// point directs lane i at the next octets of in and out: the packet itself
// while a whole step is left, then a copy of its end.
func (l *Lanes) point(i int, in, out []byte) {
	if n := len(in) / stepSize; n > 0 {
		l.todo[i], l.left[i] = n, len(in)%stepSize
		l.call.in[i], l.call.out[i], l.call.stride[i] = unsafe.Pointer(&in[0]), unsafe.Pointer(&out[0]), stepSize
		return
	}
	b := &l.block[i]
	copy(b[:], in)
	l.todo[i], l.left[i] = 1, 0
	l.call.in[i], l.call.out[i], l.call.stride[i] = unsafe.Pointer(b), unsafe.Pointer(b), 0
}

// goOn takes up what follows the part of a packet that has ended in lane i, and
// reports whether anything does.
func (l *Lanes) goOn(i int, in, out []byte) bool {
	if n := l.left[i]; n > 0 {
		at := len(in) - n
		l.point(i, in[at:], out[at:])
		return true
	}
	if l.call.stride[i] == 0 {
		n := len(in) % stepSize
		copy(out[len(in)-n:], l.block[i][:n])
	}
	return false
}

// narrow returns how many of the active lanes remain, without those at the end
// that have become idle: a batch that does not fill the lanes again may go on in
// the narrower kernel.
func (l *Lanes) narrow(active int) int {
	for active > 0 && l.job[active-1] < 0 {
		active--
	}
	return active
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
	case buffer.InexactOverlap(j.Dst[:len(j.Src)], j.Src):
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
		l.cbcSoft(jobs)
		return
	}
	l.reset()
	next, busy := 0, 0
	for busy < maxLanes && l.startCBC(busy, jobs, &next) {
		busy++
	}
	for active := busy; busy > 0; active = l.narrow(active) {
		steps := l.steps(active)
		l.call.steps = uint64(steps)
		l.engine.cbc[width(active)].call(unsafe.Pointer(&l.call))
		for g := range l.call.groups {
			l.call.groups[g].fresh = laneRow{}
		}
		for i := range active {
			if !l.walk(i, steps) {
				continue
			}
			if j := &jobs[l.job[i]]; l.goOn(i, j.Src, j.Dst) || l.startCBC(i, jobs, &next) {
				continue
			}
			l.park(i)
			busy--
		}
	}
}

// startCBC puts the next job that has something to do into lane i; false if
// there is none.
func (l *Lanes) startCBC(i int, jobs []CBCJob, next *int) bool {
	for *next < len(jobs) {
		n := *next
		*next++
		j := &jobs[n]
		if len(j.Src) == 0 {
			continue
		}
		l.job[i] = n
		l.setKey(i, &j.Key.key)
		g, lane := l.lane(i)
		loadIV(g, lane, j.IV)
		l.point(i, j.Src, j.Dst)
		return true
	}
	return false
}
