package sm

import "unsafe"

// maxTail is how much may follow the body of a message in a batch, so that what
// a lane leaves over fits two blocks with the padding.
const maxTail = 31

// finisher does the ends of HMAC-SM3 messages side by side: the last one or two
// blocks and the outer hash. Messages end at different times; they wait here
// until there are enough or no more come.
type finisher struct {
	call  laneCall
	store []byte
	n     int
	two   bool // some message has two blocks left
	tail  [maxLanes][2 * HashBlockSize]byte
	dst   [maxLanes][]byte
	keys  [maxLanes]*HMACKey // whose outer states the lanes have
}

func (f *finisher) init() {
	f.store = make([]byte, unsafe.Sizeof([2]group{})+stepSize)
	off := -uintptr(unsafe.Pointer(&f.store[0])) % stepSize
	f.call.groups = (*[2]group)(unsafe.Pointer(&f.store[off]))
	for i := range f.call.in {
		f.call.in[i] = unsafe.Pointer(&f.tail[i])
	}
}

func (f *finisher) reset() {
	f.n, f.two = 0, false
	f.call.stride = [maxLanes]uint64{}
	for g := range f.call.groups {
		f.call.groups[g].hold = laneRow{}
	}
}

// end ends message n, whose last have octets are in its tail and which has
// total octets with the inner pad. The caller has set the state.
func (f *finisher) end(have int, total uint64, key *HMACKey, dst []byte) {
	n := f.n
	f.n++
	f.dst[n] = dst
	g, lane := &f.call.groups[n/groupLanes], n%groupLanes
	if f.keys[n] != key {
		f.keys[n] = key
		for i, v := range &key.outer {
			g.pend[i][lane] = v
		}
	}
	if pad(&f.tail[n], have, total) == 2*HashBlockSize {
		f.call.stride[n] = stepSize
		f.two = true
	} else {
		g.hold[lane] = ^uint32(0)
	}
}

// flush computes what has been collected and writes the codes to their places.
func (f *finisher) flush(e *engine) {
	if f.n == 0 {
		return
	}
	w := width(f.n)
	f.call.steps = 1
	if f.two {
		f.call.steps = 2
	} else {
		for g := range f.call.groups {
			f.call.groups[g].hold = laneRow{}
		}
	}
	e.hash[w].call(unsafe.Pointer(&f.call))
	e.outer[w].call(unsafe.Pointer(&f.call))
	for i := range f.n {
		copy(f.dst[i], f.call.groups[i/groupLanes].code(i%groupLanes))
		f.dst[i] = nil
	}
	f.reset()
}

// code is the HMAC of a lane of the finisher.
func (g *group) code(lane int) []byte {
	return (*[groupLanes][stepSize]byte)(unsafe.Pointer(&g.rounds))[lane][:HashSize]
}

// MACJob is one message to authenticate: Head, Body and Tail one after another.
// Sum takes as much of the HMAC as it has room for, at most HashSize.
type MACJob struct {
	Key              *HMACKey
	Head, Body, Tail []byte
	Sum              []byte
}

// HMAC computes HMAC-SM3 of a batch of messages of any lengths and keys.
func (l *Lanes) HMAC(jobs []MACJob) {
	if l.engine.hash[0] == 0 || len(jobs) < l.engine.minHash {
		for i := range jobs {
			jobs[i].alone()
		}
		return
	}
	l.reset()
	next, busy := 0, 0
	for busy < maxLanes && l.startMAC(busy, jobs, &next) {
		busy++
	}
	for active := busy; busy > 0; active = l.narrow(active) {
		steps := l.steps(active)
		l.call.steps = uint64(steps)
		l.engine.hash[width(active)].call(unsafe.Pointer(&l.call))
		for i := range active {
			if !l.walk(i, steps) {
				continue
			}
			j := &jobs[l.job[i]]
			rest := j.Body[len(j.Body)-l.left[i]:]
			if len(rest) >= stepSize {
				l.body(i, rest)
				continue
			}
			l.endMAC(i, j, nil, rest)
			if !l.startMAC(i, jobs, &next) {
				l.park(i)
				busy--
			}
		}
	}
	l.finish.flush(l.engine)
}

// body directs lane i at the whole blocks of a message.
func (l *Lanes) body(i int, b []byte) {
	l.todo[i], l.left[i] = len(b)/stepSize, len(b)%stepSize
	l.call.in[i], l.call.out[i], l.call.stride[i] = unsafe.Pointer(&b[0]), unsafe.Pointer(&b[0]), stepSize
}

func (j *MACJob) alone() {
	var sum [HashSize]byte
	j.Key.Sum(&sum, j.Head, j.Body, j.Tail)
	copy(j.Sum, sum[:])
}

// startMAC puts the next job into lane i; false if there is none. Messages that
// fill no block go to the finisher at once, and those of unusual form are
// computed alone.
func (l *Lanes) startMAC(i int, jobs []MACJob, next *int) bool {
	for *next < len(jobs) {
		j := &jobs[*next]
		*next++
		if len(j.Head) >= HashBlockSize || len(j.Tail) > maxTail {
			j.alone()
			continue
		}
		j.Key.begin(l.lane(i))
		if len(j.Head)+len(j.Body) < HashBlockSize {
			l.endMAC(i, j, j.Head, j.Body)
			continue
		}
		l.job[i] = *next - 1
		if len(j.Head) == 0 {
			l.body(i, j.Body)
			return true
		}
		b := &l.block[i]
		n := copy(b[:], j.Head)
		l.todo[i], l.left[i] = 1, len(j.Body)-copy(b[n:], j.Body)
		l.call.in[i], l.call.stride[i] = unsafe.Pointer(b), 0
		return true
	}
	return false
}

// begin sets the state behind the inner pad.
func (k *HMACKey) begin(g *group, lane int) {
	for w, v := range &k.inner {
		g.state[w][lane] = v
	}
}

// endMAC hands what is left of lane i's message to the finisher.
func (l *Lanes) endMAC(i int, j *MACJob, head, rest []byte) {
	g, lane := l.lane(i)
	f := l.collect(g, lane)
	t := f.tail[f.n][:]
	n := 0
	if len(head) > 0 {
		n = copy(t, head)
	}
	if len(rest) > 0 {
		n += copy(t[n:], rest)
	}
	if len(j.Tail) > 0 {
		n += copy(t[n:], j.Tail)
	}
	f.end(n, HashBlockSize+uint64(len(j.Head)+len(j.Body)+len(j.Tail)), j.Key, j.Sum)
}

// collect makes room in the finisher and gives it the hash state of a lane.
func (l *Lanes) collect(g *group, lane int) *finisher {
	f := &l.finish
	if f.n == maxLanes {
		f.flush(l.engine)
	}
	f.tail[f.n] = [2 * HashBlockSize]byte{}
	to, n := &f.call.groups[f.n/groupLanes], f.n%groupLanes
	for w := range g.state {
		to.state[w][n] = g.state[w][lane]
	}
	return f
}
