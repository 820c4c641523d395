package sm

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"hash"
	"sync"

	"github.com/emmansun/gmsm/sm3"
	"golang.org/x/sys/cpu"
)

// hashWorth is from how many octets on the way through gmsm is shorter.
const hashWorth = 4 * HashBlockSize

// hashInstructions reports whether gmsm hashes by instructions for SM3 and does
// it right. Elsewhere its assembly is no faster than the code of this package.
var hashInstructions = sync.OnceValue(func() bool { return cpu.ARM64.HasSM3 && gmsmHashTest() == nil })

// hashBlocks hashes whole blocks into s, the fastest way that this machine has.
func hashBlocks(s *[8]uint32, p []byte) {
	if len(p) >= hashWorth && hashInstructions() {
		gmsmHash(s, p)
		return
	}
	sm3Blocks(s, p)
}

// gmsmHasher is a hash of gmsm and the form in which it takes and gives its
// state: a word of four octets, the state, a block that is not full, and the
// number of octets hashed.
type gmsmHasher struct {
	hash  hash.Hash
	state [4 + HashSize + HashBlockSize + 8]byte
	buf   [2048]byte // a copy of the input, which would have to be allocated otherwise
}

var gmsmHashers = sync.Pool{New: func() any { return &gmsmHasher{hash: sm3.New()} }}

// gmsmHash hashes whole blocks into s by gmsm.
func gmsmHash(s *[8]uint32, p []byte) {
	h := gmsmHashers.Get().(*gmsmHasher)
	b := append(h.state[:0], "sm3\x03"...)
	for _, v := range s {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	if err := h.hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(h.state[:]); err != nil {
		panic("sm: " + err.Error())
	}
	for len(p) > 0 {
		n := copy(h.buf[:], p)
		h.hash.Write(h.buf[:n])
		clear(h.buf[:n])
		p = p[n:]
	}
	b, _ = h.hash.(encoding.BinaryAppender).AppendBinary(h.state[:0]) // never fails
	for i := range s {
		s[i] = binary.BigEndian.Uint32(b[4+4*i:])
	}
	h.hash.Reset() // nothing else is left in it, as the blocks were whole
	h.state = [len(h.state)]byte{}
	gmsmHashers.Put(h)
}

// gmsmHashTest compares gmsm with the code of this package.
func gmsmHashTest() error {
	msg := bytes.Repeat([]byte(known.plain), 9)[:1024]
	want, got := sm3IV, sm3IV
	sm3Blocks(&want, msg)
	gmsmHash(&got, msg)
	if want != got {
		return errKnownAnswer
	}
	return nil
}
