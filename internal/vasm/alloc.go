package vasm

import (
	"fmt"
	"math/bits"
	"strings"
)

// set is a set of virtual registers.
type set []uint64

func (s set) has(v V) bool { return s[v>>6]>>(v&63)&1 == 1 }
func (s set) add(v V)      { s[v>>6] |= 1 << (v & 63) }
func (s set) drop(v V)     { s[v>>6] &^= 1 << (v & 63) }
func (s set) each(do func(V)) {
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			do(V(i*64 + bits.TrailingZeros64(w)))
		}
	}
}

func (s set) merge(o set) (grew bool) {
	for i, w := range o {
		if w&^s[i] != 0 {
			s[i] |= w
			grew = true
		}
	}
	return grew
}

// liveness returns, for every instruction, the registers that are live after it.
func (f *Fn) liveness() []set {
	n := len(f.code)
	words := int(f.next)/64 + 1
	back := make([]uint64, 2*n*words)
	row := func() set { s := set(back[:words:words]); back = back[words:]; return s }
	in, out := make([]set, n), make([]set, n)
	for i := range n {
		in[i], out[i] = row(), row()
	}
	labels := map[string]int{}
	for i := range f.code {
		if l := f.code[i].label; l != "" {
			labels[l] = i
		}
	}
	for changed := true; changed; {
		changed = false
		for i := n - 1; i >= 0; i-- {
			c := &f.code[i]
			if !c.ends && i+1 < n {
				out[i].merge(in[i+1])
			}
			if c.jump != "" {
				out[i].merge(in[labels[c.jump]])
			}
			s := make(set, words)
			s.merge(out[i])
			if d, ok := c.def(); ok && !c.read {
				s.drop(d)
			}
			c.uses(func(v V) { s.add(v) })
			if in[i].merge(s) {
				changed = true
			}
		}
	}
	return out
}

// lowerTernaries turns three-operand logic into VPTERNLOGD, which overwrites
// one of its sources: the one that is not needed any more, if there is one.
func (f *Fn) lowerTernaries() {
	out := f.liveness()
	var code []instr
	for i, in := range f.code {
		if in.op != opTern {
			code = append(code, in)
			continue
		}
		d := in.args[3].(V)
		pick, best := 0, -1
		for j := range 3 {
			v, ok := regOf(in.args[j])
			if !ok {
				continue
			}
			score := 0
			if !out[i].has(v) {
				score = 1
			}
			if v == d {
				score = 2
			}
			if score > best {
				best, pick = score, j
			}
		}
		order := []int{pick}
		for j := range 3 {
			if j != pick {
				order = append(order, j)
			}
		}
		if _, ok := regOf(in.args[order[1]]); !ok { // memory must come last
			order[1], order[2] = order[2], order[1]
		}
		var table uint8
		for k := range 8 { // bit k: first<<2 | second<<1 | third
			var was [3]int
			for p, j := range order {
				was[j] = k >> (2 - p) & 1
			}
			table |= in.tern >> (was[0]<<2 | was[1]<<1 | was[2]) & 1 << k
		}
		first := in.args[order[0]].(V)
		if first != d {
			code = append(code, instr{op: opMove, args: []any{first, d}, depth: in.depth})
		}
		op := "VPTERNLOGD"
		third := in.args[order[2]]
		if s, ok := third.(string); ok && strings.HasPrefix(s, "bcst ") {
			op, third = "VPTERNLOGD.BCST", strings.TrimPrefix(s, "bcst ")
		} else if ok && strings.HasPrefix(s, "bcstq ") {
			op, third = "VPTERNLOGQ.BCST", strings.TrimPrefix(s, "bcstq ")
		}
		code = append(code, instr{op: op, args: []any{fmt.Sprintf("$0x%02x", table), third, in.args[order[1]], d}, read: true, depth: in.depth})
	}
	f.code = code
}

// allocate gives every virtual register a real one, spilling to scratch memory
// those that find none, cheapest first.
func (f *Fn) allocate() []int {
	f.lowerTernaries()
	unspillable := map[V]bool{}
	for range 1000 {
		color, victim := f.color(unspillable)
		if victim == 0 {
			return color
		}
		f.spill(victim, unspillable)
	}
	panic(f.name + ": register allocation does not end")
}

func (f *Fn) color(unspillable map[V]bool) ([]int, V) {
	out := f.liveness()
	n := int(f.next) + 1
	words := n/64 + 1
	adj := make([]set, n)
	for i := range adj {
		adj[i] = make(set, words)
	}
	cost := make([]float64, n)
	span := make([]int, n)
	friends := make([][]V, n)
	var order []V
	seen := make(set, words)
	for i := range f.code {
		c := &f.code[i]
		weight := 1.0
		for range c.depth {
			weight *= 10
		}
		c.uses(func(v V) { cost[v] += weight })
		out[i].each(func(v V) { span[v]++ })
		d, ok := c.def()
		if !ok {
			continue
		}
		cost[d] += weight
		if !seen.has(d) {
			seen.add(d)
			order = append(order, d)
		}
		var source V
		if c.op == opMove {
			source = c.args[0].(V)
			friends[d] = append(friends[d], source)
			friends[source] = append(friends[source], d)
		}
		out[i].each(func(v V) {
			if v != d && v != source {
				adj[d].add(v)
				adj[v].add(d)
			}
		})
	}
	color := make([]int, n)
	for i := range color {
		color[i] = -1
	}
	for _, v := range order {
		used := make([]bool, f.regs)
		adj[v].each(func(o V) {
			if color[o] >= 0 {
				used[color[o]] = true
			}
		})
		pick := -1
		for _, fr := range friends[v] {
			if c := color[fr]; c >= 0 && !used[c] {
				pick = c
				break
			}
		}
		for c := 0; pick < 0 && c < f.regs; c++ {
			if !used[c] {
				pick = c
			}
		}
		if pick >= 0 {
			color[v] = pick
			continue
		}
		var victim V
		best := 0.0
		consider := func(o V) {
			if unspillable[o] || color[o] < 0 && o != v {
				return
			}
			if score := float64(span[o]) / cost[o]; score > best {
				best, victim = score, o
			}
		}
		consider(v)
		adj[v].each(consider)
		if victim == 0 {
			panic(fmt.Sprintf("%s: no register for %d and nothing to spill", f.name, v))
		}
		return nil, victim
	}
	return color, 0
}

// folds lists the instructions whose first source may be memory.
func folds(op string) bool {
	switch op {
	case "VPXORD", "VPXOR", "VPADDD", "VPAND", "VPOR", "VPTERNLOGD", "VPSHUFB", "VPXORQ":
		return true
	}
	return false
}

func (f *Fn) spill(v V, unspillable map[V]bool) {
	slot := f.At(f.mem)
	f.mem += 64
	move := "VMOVDQU"
	if f.EVEX {
		move = "VMOVDQU64"
	}
	var code []instr
	for _, in := range f.code {
		count := 0
		for _, a := range in.args {
			if r, ok := regOf(a); ok && r == v {
				count++
			}
		}
		if count == 0 {
			code = append(code, in)
			continue
		}
		args := append([]any(nil), in.args...)
		last := len(args) - 1
		d, writes := in.def()
		writes = writes && d == v
		first := 0
		if s, ok := args[0].(string); ok && strings.HasPrefix(s, "$") {
			first = 1
		}
		if in.op == opMove {
			if writes {
				code = append(code, instr{op: move, args: []any{args[0], slot}, store: true, depth: in.depth})
			} else {
				code = append(code, instr{op: move, args: []any{slot, args[1]}, depth: in.depth})
			}
			continue
		}
		if r, ok := args[first].(V); ok && r == v && count == 1 && folds(in.op) && first < last {
			args[first] = slot
			in.args = args
			code = append(code, in)
			continue
		}
		tmp := f.New()
		unspillable[tmp] = true
		for i, a := range args {
			if r, ok := a.(V); ok && r == v {
				args[i] = tmp
			} else if w, ok := a.(view); ok && w.v == v {
				args[i] = view{tmp, w.width}
			}
		}
		reads := false
		in.uses(func(r V) { reads = reads || r == v })
		if reads {
			code = append(code, instr{op: move, args: []any{slot, tmp}, depth: in.depth})
		}
		in.args = args
		code = append(code, in)
		if writes {
			code = append(code, instr{op: move, args: []any{tmp, slot}, store: true, depth: in.depth})
		}
	}
	f.code = code
}
