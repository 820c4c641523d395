package lanes

import (
	"bytes"
	"crypto/cipher"
	"crypto/des" // what the known-answer test compares with
	"crypto/subtle"
	"encoding/binary"
	"unsafe"
)

// desWidth is how many blocks the kernel works on together.
const desWidth = 64

const desUnit = desWidth * des.BlockSize

// desKeys is a schedule as the kernel takes it: for each of 48 rounds and each
// S-box the six bits of the key, in the places of the S-box's input, four times.
type desKeys [48][8]uint32

// desCall is what the kernel gets. The layout is known to its generator.
type desCall struct {
	keys   *desKeys
	blocks *[desUnit]byte // in place
}

// TripleDES is a Triple DES key for CBC mode (RFC 2451). It may be used by
// several goroutines at once.
type TripleDES struct{ enc, dec desKeys }

// NewTripleDES expands a key of 24 octets. As in RFC 2405, the low bit of each
// octet has no influence.
func NewTripleDES(key []byte) (*TripleDES, error) {
	if len(key) != 3*des.BlockSize {
		return nil, KeySizeError(len(key))
	}
	d := &TripleDES{}
	for i := range 3 {
		rounds := desSchedule(binary.BigEndian.Uint64(key[8*i:]))
		for r, k := range rounds {
			back := rounds[15-r]
			if i == 1 { // encrypt, decrypt, encrypt
				k, back = back, k
			}
			d.enc[16*i+r], d.dec[16*(2-i)+r] = k, back
		}
		clear(rounds[:])
	}
	return d, nil
}

// Wipe overwrites the key, which must not be used after it.
func (d *TripleDES) Wipe() { *d = TripleDES{} }

// The tables of the key schedule (FIPS 46-3, Appendix 1), with bits counted from
// 1 at the most significant.
var (
	desPC1 = [56]uint8{
		57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3, 60, 52, 44, 36,
		63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13, 5, 28, 20, 12, 4,
	}
	desPC2 = [48]uint8{
		14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2,
		41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29, 32,
	}
	desShifts = [16]uint8{1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1}
)

// desSchedule returns the keys of 16 rounds in the form of desKeys. Which bits go
// where does not depend on the key.
func desSchedule(key uint64) (out [16][8]uint32) {
	const half = 1<<28 - 1
	var v uint64
	for _, n := range desPC1 {
		v = v<<1 | key>>(64-n)&1
	}
	c, d := v>>28, v&half
	for r := range out {
		s := desShifts[r]
		c, d = (c<<s|c>>(28-s))&half, (d<<s|d>>(28-s))&half
		v = c<<28 | d
		for i, n := range desPC2 {
			out[r][i/6] |= uint32(v>>(56-n)&1) << desPlaces[i/6][i%6] * 0x01010101
		}
	}
	return out
}

// desLanes is scratch space for batches of Triple DES: packet i is in block i of
// unit, and chain has the blocks before.
type desLanes struct {
	unit  [desUnit]byte
	chain [desWidth]uint64
	job   [desWidth]int // -1: idle
	at    [desWidth]int // octets of the packet that are done
}

func (s *desLanes) wipe() { *s = desLanes{} }

// EncryptCBC encrypts a batch of packets of any lengths, up to 64 side by side.
// It panics where crypto/cipher's CBC encrypter does.
func (d *TripleDES) EncryptCBC(l *Lanes, jobs []CBCJob) {
	l.dirtyDES = true
	l.des.encrypt(d, jobs)
}

// Encrypt encrypts one packet, whose blocks wait for each other: in a batch it
// costs a fraction. It panics where crypto/cipher's CBC encrypter does.
func (d *TripleDES) Encrypt(dst, iv, src []byte) {
	var s desLanes
	s.encrypt(d, []CBCJob{{IV: iv, Dst: dst, Src: src}})
	s.wipe()
}

func (s *desLanes) encrypt(d *TripleDES, jobs []CBCJob) {
	for i := range jobs {
		jobs[i].check(des.BlockSize)
	}
	next, active := 0, 0
	for active < desWidth && s.start(active, jobs, &next) {
		active++
	}
	call := desCall{keys: &d.enc, blocks: &s.unit}
	for busy := active; busy > 0; {
		for i := range active {
			if s.job[i] < 0 {
				continue
			}
			block := binary.LittleEndian.Uint64(jobs[s.job[i]].Src[s.at[i]:])
			binary.LittleEndian.PutUint64(s.unit[8*i:], block^s.chain[i])
		}
		kDesBlocks.call(unsafe.Pointer(&call))
		for i := range active {
			if s.job[i] < 0 {
				continue
			}
			j := &jobs[s.job[i]]
			s.chain[i] = binary.LittleEndian.Uint64(s.unit[8*i:])
			binary.LittleEndian.PutUint64(j.Dst[s.at[i]:], s.chain[i])
			if s.at[i] += des.BlockSize; s.at[i] < len(j.Src) {
				continue
			}
			if !s.start(i, jobs, &next) {
				s.job[i] = -1
				busy--
			}
		}
	}
}

// start puts the next job that has something to do into lane i; false if there
// is none.
func (s *desLanes) start(i int, jobs []CBCJob, next *int) bool {
	for *next < len(jobs) {
		n := *next
		*next++
		if j := &jobs[n]; len(j.Src) > 0 {
			s.job[i], s.at[i], s.chain[i] = n, 0, binary.LittleEndian.Uint64(j.IV)
			return true
		}
	}
	return false
}

// DecryptCBC decrypts one packet, 64 blocks at a time. It panics where
// crypto/cipher's CBC decrypter does.
func (d *TripleDES) DecryptCBC(dst, iv, src []byte) {
	checkCBC(dst, iv, src, des.BlockSize)
	var unit, before [desUnit]byte
	call := desCall{keys: &d.dec, blocks: &unit}
	copy(before[:], iv)
	for len(src) > 0 {
		n := copy(unit[:], src)
		copy(before[des.BlockSize:], src[:n])
		last := [des.BlockSize]byte(src[n-des.BlockSize:])
		kDesBlocks.call(unsafe.Pointer(&call))
		subtle.XORBytes(dst, unit[:n], before[:n])
		copy(before[:], last[:])
		dst, src = dst[n:], src[n:]
	}
	clear(unit[:])
}

// testTripleDES asks for what crypto/des answers.
func testTripleDES() error {
	text := make([]byte, 100*des.BlockSize)
	for i := range text {
		text[i] = byte(i * i)
	}
	key := text[100 : 100+3*des.BlockSize]
	d, err := NewTripleDES(key)
	if err != nil {
		return err
	}
	block, err := des.NewTripleDESCipher(key)
	if err != nil {
		return err
	}
	jobs := make([]CBCJob, desWidth+1)
	for i := range jobs {
		size := len(text) - i*des.BlockSize
		jobs[i] = CBCJob{IV: text[i : i+des.BlockSize], Src: text[:size], Dst: make([]byte, size)}
	}
	d.EncryptCBC(NewLanes(), jobs)
	for _, j := range jobs {
		want, back := make([]byte, len(j.Src)), make([]byte, len(j.Src))
		cipher.NewCBCEncrypter(block, j.IV).CryptBlocks(want, j.Src)
		d.DecryptCBC(back, j.IV, want)
		if !bytes.Equal(j.Dst, want) || !bytes.Equal(back, j.Src) {
			return errKnownAnswer
		}
	}
	return nil
}
