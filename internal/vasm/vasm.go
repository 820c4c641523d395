// Package vasm writes vector assembly for Go: the generators of internal/sm and
// internal/lanes describe functions over any number of virtual registers, and
// vasm gives them real ones and writes the text. It is not linked into the
// program.
package vasm

import (
	"fmt"
	"strings"
)

// V is a virtual vector register.
type V int

// view is a virtual register used at another width than the function's own.
type view struct {
	v     V
	width byte // 'X', 'Y' or 'Z'
}

// As is the operand v at another width than the function's own.
func (v V) As(width byte) any { return view{v, width} }

type instr struct {
	op    string
	args  []any // string, V or view; in the order of Go's assembler
	read  bool  // the last argument is read besides being written
	store bool  // the last argument is not a register that is written
	label string
	jump  string
	ends  bool // nothing follows: RET or JMP
	depth int
	tern  uint8 // for opTern: the truth table
}

// Names for users of Fn: an instruction of no machine, and a register.
const (
	Zero    = "ZERO" // its one register becomes zero
	Scratch = "R13"  // base of the function's aligned scratch memory
)

const (
	opMove  = "MOVE"  // between virtual registers; vanishes if both get the same
	opTern  = "TERN"  // args a, b, c, d: d = table(a, b, c); becomes VPTERNLOGD
	maxSave = 1 << 16 // sanity limit of a frame
)

// Fn is one assembly function under construction: instructions over virtual
// vector registers, and general registers and masks by their names.
type Fn struct {
	File  *File // where it goes
	Width byte  // of its registers: 'X', 'Y' or 'Z'
	EVEX  bool  // 32 registers, three-operand logic and rotation
	Depth int   // of loops, which says how much a spill costs

	name   string
	regs   int // how many vector registers there are
	code   []instr
	next   V
	mem    int // bytes of scratch given out
	labels int
}

// File is an output file: functions and their constants.
type File struct {
	Funcs  []string // names of the functions, in order
	out    strings.Builder
	consts strings.Builder
	syms   map[string]string
}

// NewFile returns an empty file.
func NewFile() *File { return &File{syms: map[string]string{}} }

// Fn starts a function with the one parameter p, a pointer that is loaded into
// DI.
func (f *File) Fn(name string, width byte, evex bool) *Fn {
	fn := &Fn{File: f, Width: width, EVEX: evex, name: name, regs: 16}
	if evex {
		fn.regs = 32
	}
	fn.Raw("MOVQ p+0(FP), DI")
	return fn
}

// Const returns the operand of a constant in read-only memory.
func (f *File) Const(b []byte) string {
	key := string(b)
	if s, ok := f.syms[key]; ok {
		return s
	}
	for len(b)%8 != 0 {
		b = append(b, 0)
	}
	name := fmt.Sprintf("const%d", len(f.syms))
	for i := 0; i < len(b); i += 8 {
		var v uint64
		for j := range 8 {
			v |= uint64(b[i+j]) << (8 * j)
		}
		fmt.Fprintf(&f.consts, "DATA %s<>+%d(SB)/8, $0x%016x\n", name, i, v)
	}
	fmt.Fprintf(&f.consts, "GLOBL %s<>(SB), NOPTR|RODATA, $%d\n\n", name, len(b))
	s := name + "<>+0(SB)"
	f.syms[key] = s
	return s
}

// New makes a virtual register.
func (f *Fn) New() V { f.next++; return f.next }

// I adds an instruction whose last argument is written.
func (f *Fn) I(op string, args ...any) {
	f.code = append(f.code, instr{op: op, args: args, depth: f.Depth})
}

// D is I with a new destination, which it returns.
func (f *Fn) D(op string, args ...any) V {
	d := f.New()
	f.I(op, append(args, any(d))...)
	return d
}

// RW adds an instruction whose last argument is read and written.
func (f *Fn) RW(op string, args ...any) {
	f.code = append(f.code, instr{op: op, args: args, read: true, depth: f.Depth})
}

// Store adds an instruction that reads all its vector arguments.
func (f *Fn) Store(op string, args ...any) {
	f.code = append(f.code, instr{op: op, args: args, store: true, depth: f.Depth})
}

// Raw adds an instruction without vector registers.
func (f *Fn) Raw(format string, a ...any) { f.Store(fmt.Sprintf(format, a...)) }

// Move copies s to d.
func (f *Fn) Move(s, d V) { f.I(opMove, s, d) }

// Tern sets d to the function of three given by its truth table. c may be
// memory, with a broadcast doubleword if bcst says so in op.
func (f *Fn) Tern(table uint8, a, b, c any, d V) {
	f.code = append(f.code, instr{op: opTern, args: []any{a, b, c, d}, tern: table, depth: f.Depth})
}

// Label makes a label.
func (f *Fn) Label() string { f.labels++; return fmt.Sprintf("l%d", f.labels) }

// Place puts a label here.
func (f *Fn) Place(label string) { f.code = append(f.code, instr{label: label, depth: f.Depth}) }

// Jump goes to a label; after JMP nothing follows.
func (f *Fn) Jump(op, label string) {
	f.code = append(f.code, instr{op: op, jump: label, ends: op == "JMP", depth: f.Depth})
}

// Loop runs body count times; reg counts down.
func (f *Fn) Loop(reg string, count int, body func()) {
	f.Raw("MOVQ $%d, %s", count, reg)
	f.While(reg, body)
}

// While runs body reg times, at least once.
func (f *Fn) While(reg string, body func()) {
	top := f.Label()
	f.Place(top)
	f.Depth++
	body()
	f.Depth--
	f.Raw("DECQ %s", reg)
	f.Jump("JNZ", top)
}

// Ret leaves the function.
func (f *Fn) Ret() {
	f.Raw("VZEROUPPER")
	f.RetScalar()
}

// RetScalar leaves a function that has not touched vector registers.
func (f *Fn) RetScalar() {
	f.code = append(f.code, instr{op: "RET", ends: true})
}

// Mem gives out n bytes of aligned scratch memory and returns their offset.
func (f *Fn) Mem(n int) int {
	at := f.mem
	f.mem += (n + 63) &^ 63
	return at
}

// At is the operand of memory off bytes behind the register base.
func At(base string, off int) string { return fmt.Sprintf("%d(%s)", off, base) }

// At is the operand of scratch memory.
func (f *Fn) At(off int) string { return At(Scratch, off) }

func regOf(a any) (V, bool) {
	switch a := a.(type) {
	case V:
		return a, true
	case view:
		return a.v, true
	}
	return 0, false
}

func (in *instr) uses(yield func(V)) {
	last := len(in.args) - 1
	for i, a := range in.args {
		if v, ok := regOf(a); ok && (i < last || in.read || in.store) {
			yield(v)
		}
	}
}

func (in *instr) def() (V, bool) {
	if in.store || len(in.args) == 0 {
		return 0, false
	}
	return regOf(in.args[len(in.args)-1])
}

// Done allocates registers and writes the function to its file.
func (f *Fn) Done() {
	color := f.allocate()
	frame := f.mem
	if frame > maxSave {
		panic(f.name + ": frame too large")
	}
	o := &f.File.out
	size := 0
	if frame > 0 {
		size = frame + 64
	}
	f.File.Funcs = append(f.File.Funcs, f.name)
	fmt.Fprintf(o, "// func %s(p unsafe.Pointer)\nTEXT ·%s(SB), 0, $%d-8\n", f.name, f.name, size)
	if frame > 0 {
		fmt.Fprintf(o, "\tLEAQ buf-%d(SP), %s\n\tADDQ $63, %s\n\tANDQ $~63, %s\n", size, Scratch, Scratch, Scratch)
	}
	for i := range f.code {
		in := &f.code[i]
		switch {
		case in.label != "":
			fmt.Fprintf(o, "%s:\n", in.label)
			continue
		case in.jump != "":
			fmt.Fprintf(o, "\t%s %s\n", in.op, in.jump)
			continue
		}
		args := make([]string, len(in.args))
		for j, a := range in.args {
			switch a := a.(type) {
			case string:
				args[j] = a
			case V:
				args[j] = fmt.Sprintf("%c%d", f.Width, color[a])
			case view:
				args[j] = fmt.Sprintf("%c%d", a.width, color[a.v])
			default:
				panic(fmt.Sprintf("%s: argument %v of %s", f.name, a, in.op))
			}
		}
		op := in.op
		if op == opMove {
			if args[0] == args[1] {
				continue
			}
			op = "VMOVDQA"
			if f.EVEX {
				op = "VMOVDQA64"
			}
		}
		if op == Zero {
			op = "VPXOR"
			if f.EVEX {
				op = "VPXORD"
			}
			args = []string{args[0], args[0], args[0]}
		}
		fmt.Fprintf(o, "\t%s %s\n", op, strings.Join(args, ", "))
	}
	fmt.Fprintln(o)
}

// Text returns the file, which generator has made for the build constraint.
func (f *File) Text(generator, build string) string {
	return "// Code generated by " + generator + "; DO NOT EDIT.\n\n//go:build " + build +
		"\n\n#include \"textflag.h\"\n\n" + f.consts.String() + f.out.String()
}
