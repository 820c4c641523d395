package lanes

import (
	"fmt"

	"caponier/internal/buffer"
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
	case buffer.InexactOverlap(dst[:len(src)], src):
		panic("lanes: invalid buffer overlap")
	}
}

// KeySizeError is returned for a key of the wrong length, which is its value.
type KeySizeError int

func (e KeySizeError) Error() string { return fmt.Sprintf("lanes: invalid key size %d", int(e)) }
