package lanes

import (
	"fmt"
	"unsafe"
)

// CBCJob is one packet to encrypt. Dst and Src have the same length, a multiple
// of the block length; they are the same octets or do not overlap, and no two
// jobs of a batch overlap in what they write.
type CBCJob struct {
	IV       []byte
	Dst, Src []byte
}

func (j *CBCJob) check(block int) { checkCBC(j.Dst, j.IV, j.Src, block) }

// checkCBC panics where crypto/cipher's CBC does.
func checkCBC(dst, iv, src []byte, block int) {
	switch {
	case len(iv) != block:
		panic("lanes: IV length must equal block size")
	case len(src)%block != 0:
		panic("lanes: input not full blocks")
	case len(dst) < len(src):
		panic("lanes: output smaller than input")
	case inexactOverlap(dst[:len(src)], src):
		panic("lanes: invalid buffer overlap")
	}
}

// inexactOverlap reports whether x and y share memory at different indexes.
func inexactOverlap(x, y []byte) bool {
	if len(x) == 0 || len(y) == 0 || &x[0] == &y[0] {
		return false
	}
	x0, y0 := uintptr(unsafe.Pointer(&x[0])), uintptr(unsafe.Pointer(&y[0]))
	return x0 < y0+uintptr(len(y)) && y0 < x0+uintptr(len(x))
}

// KeySizeError is returned for a key of the wrong length, which is its value.
type KeySizeError int

func (e KeySizeError) Error() string { return fmt.Sprintf("lanes: invalid key size %d", int(e)) }
