package lanes

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"math"
	"unsafe"
)

const (
	maxLanes = 32
	// cbcSteps is how many blocks a call encrypts of each packet at most. The
	// scheduler cannot interrupt it, and idle lanes need memory for them.
	cbcSteps = 128
)

// AES is an AES key for CBC mode. It may be used by several goroutines at once.
type AES struct {
	rounds   int
	enc, dec aesKeys // dec: of the equivalent inverse cipher
}

// NewAES expands a key of 16, 24 or 32 octets.
func NewAES(key []byte) (*AES, error) {
	if n := len(key); n != 16 && n != 24 && n != 32 {
		return nil, KeySizeError(n)
	}
	a := &AES{rounds: len(key)/4 + 6}
	a.enc = expandAES(key)
	for r := range a.rounds + 1 {
		k := &a.dec[a.rounds-r]
		*k = a.enc[r]
		if r > 0 && r < a.rounds {
			kAesInvMixColumns.call(unsafe.Pointer(k))
		}
	}
	return a, nil
}

// aesKeys are the round keys of AES, as many as there are rounds and one.
type aesKeys [15][aes.BlockSize]byte

// expandAES makes the round keys (FIPS 197, Section 5.2).
func expandAES(key []byte) (enc aesKeys) {
	n := len(key) / 4
	rounds := n + 6
	var w [60]uint32
	defer clear(w[:])
	for i := range n {
		w[i] = binary.BigEndian.Uint32(key[4*i:])
	}
	rcon := uint32(1)
	for i := n; i < 4*(rounds+1); i++ {
		t := w[i-1]
		switch {
		case i%n == 0:
			t = subWord(t<<8|t>>24) ^ rcon<<24
			rcon = rcon<<1 ^ rcon>>7*0x11b
		case n > 6 && i%n == 4:
			t = subWord(t)
		}
		w[i] = w[i-n] ^ t
	}
	for r := range rounds + 1 {
		for c := range 4 {
			binary.BigEndian.PutUint32(enc[r][4*c:], w[4*r+c])
		}
	}
	return enc
}

// subWord is the S-box on four octets, without a table.
func subWord(w uint32) uint32 {
	var b [aes.BlockSize]byte
	for c := range 4 {
		binary.BigEndian.PutUint32(b[4*c:], w)
	}
	kAesSubBytes.call(unsafe.Pointer(&b))
	return binary.BigEndian.Uint32(b[:])
}

// Wipe overwrites the key, which must not be used after it.
func (a *AES) Wipe() { *a = AES{rounds: a.rounds} }

// cbcCall is what the kernels for encryption get. The layout is known to their
// generator.
type cbcCall struct {
	keys    *aesKeys
	rounds  uint64 // without the first and the last
	steps   uint64
	chain   *[maxLanes][aes.BlockSize]byte // the blocks before
	in, out [maxLanes]unsafe.Pointer
}

// blocksCall is what the kernel for decryption gets.
type blocksCall struct {
	keys    *aesKeys
	rounds  uint64
	in, out unsafe.Pointer
	n       uint64
	iv      unsafe.Pointer
}

// Lanes is scratch space for batches, for one goroutine at a time. Its methods
// and those that take it do not allocate. It holds parts of packets and states of
// keys until Wipe.
type Lanes struct {
	cbc   cbcCall
	job   [maxLanes]int // -1: idle
	todo  [maxLanes]int // steps until the lane's message, or the part of it at hand, ends
	idle  [cbcSteps * aes.BlockSize]byte
	hash  hashLanes
	des   desLanes
	chain [maxLanes][aes.BlockSize]byte
	// Which parts have been used since the last Wipe.
	dirtyAES, dirtyHash, dirtyDES bool
}

// NewLanes returns scratch space.
func NewLanes() *Lanes {
	l := &Lanes{}
	l.hash.init()
	l.cbc.chain = &l.chain
	return l
}

// Wipe overwrites what l holds; it can be used again.
func (l *Lanes) Wipe() {
	if l.dirtyAES {
		clear(l.chain[:])
		clear(l.idle[:])
	}
	if l.dirtyHash {
		l.hash.wipe()
	}
	if l.dirtyDES {
		l.des.wipe()
	}
	l.dirtyAES, l.dirtyHash, l.dirtyDES = false, false, false
}

const forever = math.MaxInt // steps of an idle lane

// EncryptCBC encrypts a batch of packets of any lengths. It panics where
// crypto/cipher's CBC encrypter does.
func (a *AES) EncryptCBC(l *Lanes, jobs []CBCJob) {
	for i := range jobs {
		jobs[i].check(aes.BlockSize)
	}
	l.dirtyAES = true
	c := &l.cbc
	c.keys, c.rounds = &a.enc, uint64(a.rounds-1)
	next, busy := 0, 0
	for busy < maxLanes && l.startCBC(busy, jobs, &next) {
		busy++
	}
	k := kAesEncrypt32
	if busy <= maxLanes/2 {
		k = kAesEncrypt16
	}
	for i := busy; i < maxLanes; i++ {
		l.park(i)
	}
	for active := busy; busy > 0; {
		steps := cbcSteps
		for _, n := range l.todo[:active] {
			steps = min(steps, n)
		}
		c.steps = uint64(steps)
		k.call(unsafe.Pointer(c))
		for i := range active {
			if l.job[i] < 0 {
				continue
			}
			if l.todo[i] -= steps; l.todo[i] > 0 {
				c.in[i] = unsafe.Add(c.in[i], steps*aes.BlockSize)
				c.out[i] = unsafe.Add(c.out[i], steps*aes.BlockSize)
				continue
			}
			if !l.startCBC(i, jobs, &next) {
				l.park(i)
				busy--
			}
		}
	}
	c.keys = nil
	for i := range c.in {
		c.in[i], c.out[i] = nil, nil
	}
}

func (l *Lanes) park(i int) {
	l.job[i], l.todo[i] = -1, forever
	l.cbc.in[i], l.cbc.out[i] = unsafe.Pointer(&l.idle), unsafe.Pointer(&l.idle)
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
		l.job[i], l.todo[i] = n, len(j.Src)/aes.BlockSize
		l.chain[i] = [aes.BlockSize]byte(j.IV)
		l.cbc.in[i], l.cbc.out[i] = unsafe.Pointer(&j.Src[0]), unsafe.Pointer(&j.Dst[0])
		return true
	}
	return false
}

// DecryptCBC decrypts one packet, whose blocks do not wait for each other. It
// panics where crypto/cipher's CBC decrypter does.
func (a *AES) DecryptCBC(dst, iv, src []byte) {
	checkCBC(dst, iv, src, aes.BlockSize)
	if len(src) == 0 {
		return
	}
	c := blocksCall{
		keys: &a.dec, rounds: uint64(a.rounds - 1), n: uint64(len(src)),
		in: unsafe.Pointer(&src[0]), out: unsafe.Pointer(&dst[0]), iv: unsafe.Pointer(&iv[0]),
	}
	kAesDecrypt.call(unsafe.Pointer(&c))
}

// testAES asks for what crypto/aes, which has tested itself, answers.
func testAES() error {
	text := make([]byte, 40*aes.BlockSize)
	for i := range text {
		text[i] = byte(i * i)
	}
	for _, n := range []int{16, 24, 32} {
		key := text[100 : 100+n]
		a, err := NewAES(key)
		if err != nil {
			return err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		for _, count := range []int{3, maxLanes/2 + 1} {
			jobs := make([]CBCJob, count)
			for i := range jobs {
				size := len(text) - i*aes.BlockSize
				jobs[i] = CBCJob{IV: text[i : i+aes.BlockSize], Src: text[:size], Dst: make([]byte, size)}
			}
			a.EncryptCBC(NewLanes(), jobs)
			for _, j := range jobs {
				want, back := make([]byte, len(j.Src)), make([]byte, len(j.Src))
				cipher.NewCBCEncrypter(block, j.IV).CryptBlocks(want, j.Src)
				a.DecryptCBC(back, j.IV, want)
				if !bytes.Equal(j.Dst, want) || !bytes.Equal(back, j.Src) {
					return errKnownAnswer
				}
			}
		}
	}
	return nil
}
