// Package buffer has what every cipher asks of its buffers: whether they overlap,
// and room behind what is there.
package buffer

import (
	"slices"
	"unsafe"
)

// Overlap reports whether x and y share memory.
func Overlap(x, y []byte) bool {
	return len(x) > 0 && len(y) > 0 &&
		uintptr(unsafe.Pointer(&x[0])) <= uintptr(unsafe.Pointer(&y[len(y)-1])) &&
		uintptr(unsafe.Pointer(&y[0])) <= uintptr(unsafe.Pointer(&x[len(x)-1]))
}

// InexactOverlap reports whether x and y share memory at different indexes, which
// package cipher allows to none of its modes.
func InexactOverlap(x, y []byte) bool {
	return Overlap(x, y) && &x[0] != &y[0]
}

// Extend returns b with n octets more, and those octets. It allocates only
// where the capacity of b does not do, as cipher.AEAD asks for.
func Extend(b []byte, n int) (all, more []byte) {
	all = slices.Grow(b, n)[:len(b)+n]
	return all, all[len(b):]
}
