package main

import (
	"fmt"
	"math"
	"math/bits"

	"caponier/internal/vasm"
)

// Offsets of the structures of package lanes that the hash kernels work on.
const (
	groupState = 0
	groupPend  = 8 * row
	groupHold  = 16 * row
	groupSize  = 17 * row

	hashGroups = 0
	hashSteps  = 8
	hashIn     = 16
	hashStride = hashIn + 256
)

// hashing is a hash function of 32-bit words with blocks of 64 octets, of 16
// messages a register.
type hashing struct {
	name   string
	words  int // of its state
	little bool
	keys   []uint32
	// compress runs the rounds over all groups.
	compress func(h []*hasher)
}

// hasher is one group of messages in a kernel. A message word is in memory, or in
// a register where one group leaves enough of them.
type hasher struct {
	b    *vasm.Fn
	s    []vasm.V
	held []vasm.V
	mem  int    // where 16 rows of words are
	keys string // base register of the round constants
}

// word is message word i, modulo 16, where an instruction may take it from
// memory.
func (h *hasher) word(i int) any {
	if h.held != nil {
		return h.held[i&15]
	}
	return h.b.At(h.mem + i&15*row)
}

// load is word in a register.
func (h *hasher) load(i int) vasm.V {
	if h.held != nil {
		return h.held[i&15]
	}
	return h.b.Load(h.b.At(h.mem + i&15*row))
}

// renew replaces word i.
func (h *hasher) renew(i int, v vasm.V) {
	if h.held != nil {
		h.b.Move(v, h.held[i&15])
		return
	}
	h.b.Save(v, h.b.At(h.mem+i&15*row))
}

func (h *hasher) addKey(i int, v vasm.V) vasm.V {
	return h.b.D("VPADDD.BCST", vasm.At(h.keys, 4*i), v)
}

// turns lets groups do a round each in turn: what waits must not fill the
// scheduler.
func turns(h []*hasher, rounds int, round func(h *hasher, i int)) {
	for i := range rounds {
		for _, g := range h {
			round(g, i)
		}
	}
}

// rotated returns the state as round i sees it: each round moves it on by a
// word, by renaming.
func (h *hasher) rotated(i int) []vasm.V {
	n := len(h.s)
	out := make([]vasm.V, n)
	for k := range out {
		out[k] = h.s[((k-i)%n+n)%n]
	}
	return out
}

// --- MD5 (RFC 1321, Section 3.4)

var md5 = hashing{name: "md5", words: 4, little: true, keys: sines(), compress: func(h []*hasher) {
	turns(h, 64, (*hasher).md5Round)
}}

func sines() (k []uint32) {
	for i := range 64 {
		k = append(k, uint32(math.Floor(math.Ldexp(math.Abs(math.Sin(float64(i+1))), 32))))
	}
	return k
}

// Truth tables of b, c, d and the way through the message, by quarter.
var (
	md5Functions = [4]uint8{0xca, 0xe4, 0x96, 0x39}
	md5Steps     = [4]struct{ from, by int }{{0, 1}, {1, 5}, {5, 3}, {0, 7}}
	md5Shifts    = [4][4]int{{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}}
)

func (h *hasher) md5Round(i int) {
	b, q := h.b, i/16
	s := h.rotated(i)
	a, x, y, z := s[0], s[1], s[2], s[3]
	v := b.Add(h.word(md5Steps[q].from+md5Steps[q].by*i), h.addKey(i, a))
	f := b.New()
	b.Tern(md5Functions[q], x, y, z, f)
	b.I("VPADDD", x, b.Rol(b.Add(f, v), md5Shifts[q][i%4]), a)
}

// --- SHA-1 (FIPS 180-4, Section 6.1.2)

var sha1 = hashing{name: "sha1", words: 5, keys: []uint32{0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6}, compress: func(h []*hasher) {
	turns(h, 80, (*hasher).sha1Round)
}}

func (h *hasher) sha1Round(i int) {
	b, s := h.b, h.rotated(i)
	a, x, y, z, e := s[0], s[1], s[2], s[3], s[4]
	w := h.word(i)
	if i >= 16 {
		v := b.Rol(b.Xor(b.Xor3(h.load(i-3), h.load(i-8), h.word(i-14)), h.load(i)), 1)
		h.renew(i, v)
		w = v
	}
	f := b.New()
	b.Tern([4]uint8{0xca, 0x96, 0xe8, 0x96}[i/20], x, y, z, f)
	rest := b.Add(f, b.Add(w, h.addKey(i/20, e)))
	b.I("VPADDD", rest, b.Rol(a, 5), e)
	b.RolTo(x, 30, x)
}

// --- SHA-256 (FIPS 180-4, Section 6.2.2)

var sha256 = hashing{name: "sha256", words: 8, keys: roots(), compress: func(h []*hasher) {
	b := h[0].b
	b.Loop("BX", 3, func() {
		turns(h, 16, func(h *hasher, i int) { h.sha256Round(i, true) })
		b.Raw("ADDQ $64, %s", h[0].keys)
	})
	turns(h, 16, func(h *hasher, i int) { h.sha256Round(i, false) })
	b.Raw("SUBQ $192, %s", h[0].keys)
}}

// roots are the fractions of the cube roots of the first primes: the largest k
// with k^3 not above p 2^96.
func roots() (k []uint32) {
	for p := uint64(2); len(k) < 64; p++ {
		prime := true
		for d := uint64(2); d*d <= p; d++ {
			prime = prime && p%d != 0
		}
		if !prime {
			continue
		}
		var r uint64 // below 2^35
		for bit := 34; bit >= 0; bit-- {
			if t := r | 1<<bit; cubeFits(t, p) {
				r = t
			}
		}
		k = append(k, uint32(r))
	}
	return k
}

// cubeFits reports whether t^3 is at most p 2^96, for t below 2^35.
func cubeFits(t, p uint64) bool {
	h, l := bits.Mul64(t, t) // t^2, below 2^70
	h1, l1 := bits.Mul64(l, t)
	_, h2 := bits.Mul64(h, t)
	mid, carry := bits.Add64(h1, h2, 0)
	if carry != 0 {
		return false
	}
	limit := p << 32 // in units of 2^64
	return mid < limit || mid == limit && l1 == 0
}

// sha256Round also replaces the round's message word by the one of 16 rounds
// later, if extend.
func (h *hasher) sha256Round(i int, extend bool) {
	b, s := h.b, h.rotated(i)
	a, x, y, z := s[0], s[1], s[2], s[3]
	e, f, g, hh := s[4], s[5], s[6], s[7]
	sigma := func(v vasm.V, r1, r2, r3 int) vasm.V {
		return b.Xor3(b.Rol(v, 32-r1), b.Rol(v, 32-r2), b.Rol(v, 32-r3))
	}
	t := b.Add(b.Choose(e, f, g), b.Add(h.word(i), h.addKey(i, hh)))
	t = b.Add(t, sigma(e, 6, 11, 25))
	u := b.Add(b.Majority(a, x, y), sigma(a, 2, 13, 22))
	b.I("VPADDD", t, z, z)
	b.I("VPADDD", t, u, hh)
	if !extend {
		return
	}
	small := func(v vasm.V, r1, r2, shift int) vasm.V {
		return b.Xor3(b.Rol(v, 32-r1), b.Rol(v, 32-r2), b.D("VPSRLD", fmt.Sprintf("$%d", shift), v))
	}
	w := b.Add(h.word(i), b.Add(h.word(i+9), small(h.load(i+1), 7, 18, 3)))
	h.renew(i, b.Add(w, small(h.load(i+14), 17, 19, 10)))
}

// --- kernels

func (x hashing) start(f *vasm.File, kind string, groups int) (*vasm.Fn, []*hasher) {
	b := f.Fn(fmt.Sprintf("%s%s%d", x.name, kind, 16*groups), 'Z', true)
	b.Raw("MOVQ %s, SI", vasm.At("DI", hashGroups))
	b.Raw("LEAQ %s, R8", f.Const(vasm.Words(x.keys...)))
	h := make([]*hasher, groups)
	for g := range h {
		h[g] = &hasher{b: b, mem: b.Mem(16 * row), keys: "R8"}
	}
	return b, h
}

// kernel generates the function of so many groups of 16 messages, a block of each
// a step. In the first step the lanes on hold keep their state.
func (x hashing) kernel(f *vasm.File, groups int) {
	b, h := x.start(f, "Lanes", groups)
	b.Raw("MOVQ %s, CX", vasm.At("DI", hashSteps))
	ptrs := b.Mem(groups * 256) // addresses, which advance, and strides
	for i := 0; i < groups*128; i += row {
		b.Save(b.Load(vasm.At("DI", hashIn+i)), b.At(ptrs+i))
		b.Save(b.Load(vasm.At("DI", hashStride+i)), b.At(ptrs+groups*128+i))
	}
	hold := b.Mem(groups * row)
	for g := range h {
		b.Save(b.Load(vasm.At("SI", g*groupSize+groupHold)), b.At(hold+g*row))
	}
	b.While("CX", func() {
		for g := range h {
			rows := make([]vasm.V, 16)
			for i := range rows {
				b.Raw("MOVQ %s, AX", b.At(ptrs+8*(16*g+i)))
				rows[i] = b.Load("(AX)")
			}
			if !x.little {
				swap := b.Row(vasm.Swap32)
				for i := range rows {
					rows[i] = b.Shuf(swap, rows[i])
				}
			}
			b.Square(rows, false)
			if groups == 1 && !x.little {
				h[g].held = rows
				continue
			}
			for i := range rows {
				b.Save(rows[i], b.At(h[g].mem+i*row))
			}
		}
		state := func(g, i int) string { return vasm.At("SI", g*groupSize+groupState+i*row) }
		for g := range h {
			h[g].s = nil
			for i := range x.words {
				h[g].s = append(h[g].s, b.Load(state(g, i)))
			}
		}
		x.compress(h)
		for g := range h {
			held := b.Load(b.At(hold + g*row))
			for i, v := range h[g].s {
				b.Save(b.Add(state(g, i), b.AndNot(held, v)), state(g, i))
			}
			b.Save(b.D(vasm.Zero), b.At(hold+g*row))
		}
		for i := 0; i < groups*128; i += row {
			p := b.At(ptrs + i)
			b.Save(b.D("VPADDQ", p, b.Load(b.At(ptrs+groups*128+i))), p)
		}
	})
	b.Ret()
	b.Done()
}

// outer generates the last compression of HMAC: the message is the state and
// padding, the new state starts from the rows in pend.
func (x hashing) outer(f *vasm.File, groups int) {
	b, h := x.start(f, "Outer", groups)
	length := uint32(8 * (64 + 4*x.words))
	end, at := uint32(0x80000000), 15
	if x.little {
		end, at = 0x80, 14
	}
	constant := func(v uint32) vasm.V { return b.Broadcast32(f.Const(vasm.Words(v, 0))) }
	for g, p := range h {
		zero := b.D(vasm.Zero)
		for i := range 16 {
			switch {
			case i < x.words:
				b.Save(b.Load(vasm.At("SI", g*groupSize+groupState+i*row)), b.At(p.mem+i*row))
				p.s = append(p.s, b.Load(vasm.At("SI", g*groupSize+groupPend+i*row)))
			case i == x.words:
				b.Save(constant(end), b.At(p.mem+i*row))
			case i == at:
				b.Save(constant(length), b.At(p.mem+i*row))
			default:
				b.Save(zero, b.At(p.mem+i*row))
			}
		}
	}
	x.compress(h)
	for g, p := range h {
		for i, v := range p.s {
			b.Save(b.Add(vasm.At("SI", g*groupSize+groupPend+i*row), v), vasm.At("SI", g*groupSize+groupState+i*row))
		}
	}
	b.Ret()
	b.Done()
}
