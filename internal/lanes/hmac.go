package lanes

import (
	"bytes"
	"crypto/hmac"
	gomd5 "crypto/md5"   // for peers that have nothing newer
	gosha1 "crypto/sha1" // and for their contemporaries
	gosha256 "crypto/sha256"
	"encoding"
	"encoding/binary"
	"hash"
	"unsafe"
)

const (
	hashBlock  = 64
	groupLanes = 16
	maxDigest  = 32
	hashSteps  = 256 // of one call, which the scheduler cannot interrupt
)

// What may stand around the body of a message: what a lane leaves over must fit
// two blocks with the padding.
const (
	MaxHead = hashBlock - 1
	MaxTail = 31
)

// function is a hash function with kernels for 16 and for 32 messages.
type function struct {
	feature       Feature
	size          int // of a digest
	new           func() hash.Hash
	lanes, outers [2]kernel
	little        bool // byte order of words and length
}

var (
	md5 = function{
		HMACMD5, gomd5.Size, gomd5.New,
		[2]kernel{kMd5Lanes16, kMd5Lanes32},
		[2]kernel{kMd5Outer16, kMd5Outer32},
		true,
	}
	sha1 = function{
		HMACSHA1, gosha1.Size, gosha1.New,
		[2]kernel{kSha1Lanes16, kSha1Lanes32},
		[2]kernel{kSha1Outer16, kSha1Outer32},
		false,
	}
	sha256 = function{
		HMACSHA256, gosha256.Size, gosha256.New,
		[2]kernel{kSha256Lanes16, kSha256Lanes32},
		[2]kernel{kSha256Outer16, kSha256Outer32},
		false,
	}
)

// HMACKey is an HMAC key (RFC 2104) as the hash states behind its two pads. It may
// be used by several goroutines at once.
type HMACKey struct {
	function     *function
	inner, outer [8]uint32
}

// NewHMACKey prepares a key of any length for HMACMD5, HMACSHA1 or HMACSHA256. It
// panics for another feature.
func NewHMACKey(f Feature, key []byte) *HMACKey {
	for _, fn := range []*function{&md5, &sha1, &sha256} {
		if fn.feature == f {
			return newHMACKey(fn, key)
		}
	}
	panic("lanes: " + f.String() + " is no HMAC")
}

func newHMACKey(f *function, key []byte) *HMACKey {
	k := &HMACKey{function: f}
	var block [hashBlock]byte
	defer clear(block[:])
	if len(key) > hashBlock {
		h := f.new()
		h.Write(key)
		h.Sum(block[:0])
	} else {
		copy(block[:], key)
	}
	for i := range block {
		block[i] ^= 0x36
	}
	f.state(&k.inner, block[:])
	for i := range block {
		block[i] ^= 0x36 ^ 0x5c
	}
	f.state(&k.outer, block[:])
	return k
}

// magic is the length of what stands before the state in the marshalled hashes of
// Go; the words are big-endian in all of them.
const magic = 4

// state sets s to the state behind a block.
func (f *function) state(s *[8]uint32, block []byte) {
	h := f.new()
	h.Write(block)
	b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic("lanes: " + err.Error()) // a fresh hash can be marshalled
	}
	for i := range f.size / 4 {
		s[i] = binary.BigEndian.Uint32(b[magic+4*i:])
	}
	clear(b)
}

// Wipe overwrites the key, which must not be used after it.
func (k *HMACKey) Wipe() { k.inner, k.outer = [8]uint32{}, [8]uint32{} }

// MACJob is one message to authenticate: Head, Body and Tail one after another,
// Head of at most MaxHead octets and Tail of at most MaxTail. Sum takes as much of the
// HMAC as it has room for.
type MACJob struct {
	Head, Body, Tail []byte
	Sum              []byte
}

type laneRow [groupLanes]uint32

// hashGroup is the state of 16 lanes, a word of each in a row. The layout is known
// to the generator of the kernels.
type hashGroup struct {
	state [8]laneRow
	pend  [8]laneRow // the state behind the outer pad
	hold  laneRow    // all ones in lanes whose state skips the first step
}

// hashCall is what a kernel gets.
type hashCall struct {
	groups *[2]hashGroup
	steps  uint64
	in     [maxLanes]unsafe.Pointer
	stride [maxLanes]uint64 // hashBlock, or 0 for lanes that stand still
}

// hashLanes is scratch space for messages on their way, and for those that have
// come to their end: the last one or two blocks and the outer hash wait in a call
// of their own until there are enough, or no more come.
type hashLanes struct {
	store []byte // what the groups point into: rows must not cross cache lines
	call  hashCall
	job   [maxLanes]int // -1: idle
	todo  [maxLanes]int // steps until the part of the message at hand ends
	left  [maxLanes]int // octets of the body after it
	first [maxLanes][hashBlock]byte
	idle  [hashBlock]byte

	ends hashCall
	n    int
	two  bool // some message has two blocks left
	tail [maxLanes][2 * hashBlock]byte
	sum  [maxLanes][]byte
}

func (s *hashLanes) init() {
	const size = unsafe.Sizeof([2]hashGroup{})
	s.store = make([]byte, 2*size+hashBlock)
	off := -uintptr(unsafe.Pointer(&s.store[0])) % hashBlock
	s.call.groups = (*[2]hashGroup)(unsafe.Pointer(&s.store[off]))
	s.ends.groups = (*[2]hashGroup)(unsafe.Pointer(&s.store[off+size]))
}

func (s *hashLanes) wipe() {
	clear(s.store)
	clear(s.first[:])
	clear(s.tail[:])
}

// Sum computes the HMAC of a batch of messages of any lengths, up to 32 side by
// side; lanes are refilled as messages end.
func (k *HMACKey) Sum(l *Lanes, jobs []MACJob) {
	for i := range jobs {
		if j := &jobs[i]; len(j.Head) > MaxHead || len(j.Tail) > MaxTail {
			panic("lanes: no room for so long a head or tail")
		}
	}
	l.dirtyHash = true
	s := &l.hash
	s.resetEnds()
	next, active := 0, 0
	for active < maxLanes && s.start(active, k, jobs, &next) {
		active++
	}
	for i := active; i < maxLanes; i++ {
		s.park(i)
	}
	c := &s.call
	for busy := active; busy > 0; {
		steps := hashSteps
		for _, n := range s.todo[:active] {
			steps = min(steps, n)
		}
		c.steps = uint64(steps)
		k.function.lanes[wide(active)].call(unsafe.Pointer(c))
		for i := range active {
			if s.job[i] < 0 {
				continue
			}
			if s.todo[i] -= steps; s.todo[i] > 0 {
				c.in[i] = unsafe.Add(c.in[i], steps*hashBlock)
				continue
			}
			j := &jobs[s.job[i]]
			if n := s.left[i]; n >= hashBlock {
				s.body(i, j.Body[len(j.Body)-n:])
				continue
			}
			s.end(i, k, j, nil, j.Body[len(j.Body)-s.left[i]:])
			if !s.start(i, k, jobs, &next) {
				s.park(i)
				busy--
			}
		}
	}
	s.flush(k)
	for i := range c.in {
		c.in[i] = nil
	}
}

// wide chooses the kernel for n lanes.
func wide(n int) int {
	if n > groupLanes {
		return 1
	}
	return 0
}

func (s *hashLanes) park(i int) {
	s.job[i], s.todo[i] = -1, forever
	s.call.in[i], s.call.stride[i] = unsafe.Pointer(&s.idle), 0
}

// start puts the next message into lane i; false if there is none. Messages that
// fill no block have come to their end at once.
func (s *hashLanes) start(i int, k *HMACKey, jobs []MACJob, next *int) bool {
	for *next < len(jobs) {
		j := &jobs[*next]
		*next++
		g, lane := &s.call.groups[i/groupLanes], i%groupLanes
		for w := range k.function.size / 4 {
			g.state[w][lane] = k.inner[w]
		}
		if len(j.Head)+len(j.Body) < hashBlock {
			s.end(i, k, j, j.Head, j.Body)
			continue
		}
		s.job[i] = *next - 1
		if len(j.Head) == 0 {
			s.body(i, j.Body)
			return true
		}
		b := &s.first[i]
		n := copy(b[:], j.Head)
		s.todo[i], s.left[i] = 1, len(j.Body)-copy(b[n:], j.Body)
		s.call.in[i], s.call.stride[i] = unsafe.Pointer(b), 0
		return true
	}
	return false
}

// body directs lane i at the whole blocks of a message.
func (s *hashLanes) body(i int, b []byte) {
	s.todo[i], s.left[i] = len(b)/hashBlock, len(b)%hashBlock
	s.call.in[i], s.call.stride[i] = unsafe.Pointer(&b[0]), hashBlock
}

// end hands what is left of the message in lane i, with its state, to those that
// wait for their end.
func (s *hashLanes) end(i int, k *HMACKey, j *MACJob, head, rest []byte) {
	if s.n == maxLanes {
		s.flush(k)
	}
	n := s.n
	s.n++
	s.sum[n] = j.Sum
	from, to := &s.call.groups[i/groupLanes], &s.ends.groups[n/groupLanes]
	for w := range k.function.size / 4 {
		to.state[w][n%groupLanes] = from.state[w][i%groupLanes]
		to.pend[w][n%groupLanes] = k.outer[w]
	}
	t := &s.tail[n]
	have := 0
	for _, part := range [...][]byte{head, rest, j.Tail} {
		if len(part) > 0 {
			have += copy(t[have:], part)
		}
	}
	s.ends.in[n], s.ends.stride[n] = unsafe.Pointer(t), 0
	total := uint64(hashBlock + len(j.Head) + len(j.Body) + len(j.Tail))
	if k.function.pad(t, have, total) == 2*hashBlock {
		s.ends.stride[n] = hashBlock
		s.two = true
	} else {
		to.hold[n%groupLanes] = ^uint32(0)
	}
}

// pad ends a message of total octets whose last have are in tail, and returns how
// much of tail is to be hashed.
func (f *function) pad(tail *[2 * hashBlock]byte, have int, total uint64) int {
	tail[have] = 0x80
	end := hashBlock
	if have+9 > hashBlock {
		end = 2 * hashBlock
	}
	clear(tail[have+1 : end-8])
	if f.little {
		binary.LittleEndian.PutUint64(tail[end-8:end], total*8)
	} else {
		binary.BigEndian.PutUint64(tail[end-8:end], total*8)
	}
	return end
}

func (s *hashLanes) resetEnds() {
	s.n, s.two = 0, false
	for i := range maxLanes {
		s.ends.in[i], s.ends.stride[i] = unsafe.Pointer(&s.idle), 0
	}
	for g := range s.call.groups {
		s.call.groups[g].hold, s.ends.groups[g].hold = laneRow{}, laneRow{}
	}
}

// flush computes what has come to its end and writes the codes to their places.
// A message with one block left skips the first of two steps.
func (s *hashLanes) flush(k *HMACKey) {
	if s.n == 0 {
		return
	}
	f := k.function
	s.ends.steps = 2
	if !s.two {
		s.ends.steps = 1
		for g := range s.ends.groups {
			s.ends.groups[g].hold = laneRow{}
		}
	}
	w := wide(s.n)
	f.lanes[w].call(unsafe.Pointer(&s.ends))
	f.outers[w].call(unsafe.Pointer(&s.ends))
	for i := range s.n {
		g := &s.ends.groups[i/groupLanes]
		var sum [maxDigest]byte
		for w := range f.size / 4 {
			v := g.state[w][i%groupLanes]
			if f.little {
				binary.LittleEndian.PutUint32(sum[4*w:], v)
			} else {
				binary.BigEndian.PutUint32(sum[4*w:], v)
			}
		}
		copy(s.sum[i], sum[:f.size])
		s.sum[i] = nil
	}
	s.resetEnds()
}

// test asks for what crypto/hmac answers.
func (f *function) test() error {
	text := make([]byte, 600)
	for i := range text {
		text[i] = byte(i * i)
	}
	k := newHMACKey(f, text[:f.size])
	h := hmac.New(f.new, text[:f.size])
	for _, count := range []int{5, groupLanes + 3} { // both widths
		jobs := make([]MACJob, count)
		for i := range jobs {
			jobs[i] = MACJob{Head: text[:i], Body: text[:40*i%len(text)], Tail: text[:i%5], Sum: make([]byte, f.size)}
		}
		k.Sum(NewLanes(), jobs)
		for _, j := range jobs {
			h.Reset()
			h.Write(j.Head)
			h.Write(j.Body)
			h.Write(j.Tail)
			if !bytes.Equal(j.Sum, h.Sum(nil)) {
				return errKnownAnswer
			}
		}
	}
	return nil
}
