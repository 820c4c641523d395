package sm

import (
	"crypto/cipher"
	"reflect"
	"runtime"
	"sync"

	"github.com/emmansun/gmsm/sm4"
)

// gmsmPath is how the library gmsm computes SM4 on a machine.
type gmsmPath int

const (
	// gmsmTables looks S-boxes up by secret octets; it is not used.
	gmsmTables gmsmPath = iota
	// gmsmAES computes the S-box by instructions for that of AES. The key schedule
	// and ECB of any number of blocks are constant in time; a block alone is not,
	// nor are the modes that encrypt one (GCM hides its tag with it).
	gmsmAES
	// gmsmSM4 is arm64 with instructions for SM4: all is constant in time.
	gmsmSM4
)

// gmsmEngines returns the engine that has its blocks from gmsm, if gmsm computes
// them in constant time here. It asks gmsm rather than the processor, because
// gmsm decides on more than instructions (build tags, the environment).
func gmsmEngines() []*engine {
	b, err := sm4.NewCipher(make([]byte, KeySize))
	if err != nil {
		return nil
	}
	if path := gmsmPathOf(runtime.GOARCH, b); path != gmsmTables {
		return []*engine{{name: "gmsm", gmsm: path}}
	}
	return nil
}

// gmsmPathOf tells from a key of gmsm v0.44.0 which code it runs. Only these
// architectures have assembly whose key schedule and tails use no tables:
// loong64 has assembly for eight blocks, but expands keys and encrypts what is
// left over with tables.
func gmsmPathOf(arch string, b cipher.Block) gmsmPath {
	switch arch {
	case "amd64", "arm64", "ppc64le":
	default:
		return gmsmTables
	}
	if _, ok := b.(gmsmECB); ok {
		return gmsmAES
	}
	// The portable code of gmsm has no modes; that for SM4's instructions has CTR,
	// and no ECB, as single blocks are as good.
	if _, ok := b.(interface{ NewCTR([]byte) cipher.Stream }); ok && arch == "arm64" {
		return gmsmSM4
	}
	return gmsmTables
}

// gmsmECB is a key whose blocks are computed by assembly however many they are.
type gmsmECB interface {
	NewECBEncrypter() cipher.BlockMode
	NewECBDecrypter() cipher.BlockMode
}

// gmsmKey is one direction of the cipher, computed by gmsm.
type gmsmKey struct {
	block   cipher.Block
	ecb     cipher.BlockMode // nil: single blocks
	inverse bool
}

func newGMSMKey(path gmsmPath, key []byte, inverse bool) *gmsmKey {
	b, err := sm4.NewCipher(key)
	if err != nil {
		panic("sm: " + err.Error()) // keys have been checked
	}
	k := &gmsmKey{block: b, inverse: inverse}
	if path == gmsmAES {
		if inverse {
			k.ecb = b.(gmsmECB).NewECBDecrypter()
		} else {
			k.ecb = b.(gmsmECB).NewECBEncrypter()
		}
	}
	return k
}

// gcm returns gmsm's own GCM if it is constant in time, otherwise nil.
func (k *gmsmKey) gcm() cipher.AEAD {
	if _, ok := k.block.(interface {
		NewGCM(nonceSize, tagSize int) (cipher.AEAD, error)
	}); !ok || k.ecb != nil {
		return nil
	}
	a, err := cipher.NewGCM(k.block)
	if err != nil {
		return nil
	}
	return a
}

// inPlace runs whole blocks through the cipher. They escape to the heap.
func (k *gmsmKey) inPlace(b []byte) {
	switch {
	case k.ecb != nil:
		k.ecb.CryptBlocks(b, b)
	case k.inverse:
		for ; len(b) > 0; b = b[BlockSize:] {
			k.block.Decrypt(b, b)
		}
	default:
		for ; len(b) > 0; b = b[BlockSize:] {
			k.block.Encrypt(b, b)
		}
	}
}

var gmsmScratch = sync.Pool{New: func() any { return new([softBlocks * BlockSize]byte) }}

// crypt runs src, at most softBlocks, through the cipher to dst. It goes through
// a copy, because what is given to an interface would have to be allocated.
func (k *gmsmKey) crypt(dst, src []byte) {
	s := gmsmScratch.Get().(*[softBlocks * BlockSize]byte)
	n := copy(s[:], src)
	k.inPlace(s[:n])
	copy(dst, s[:n])
	clear(s[:n])
	gmsmScratch.Put(s)
}

func (k *gmsmKey) wipe() { wipeObject(k.block) }

// wipeObject overwrites what p, a pointer to a type of another package, points
// to.
func wipeObject(p any) { reflect.ValueOf(p).Elem().SetZero() }
