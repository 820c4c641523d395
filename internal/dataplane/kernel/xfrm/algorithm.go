package xfrm

import (
	"bytes"
	"fmt"

	"caponier/internal/secret"
)

// Algorithm is struct xfrm_algo, xfrm_algo_auth or xfrm_algo_aead: the name of
// an algorithm in the kernel's cryptography, and its key. The zero value is
// none.
type Algorithm struct {
	Name string
	Key  secret.Key
	// ICVBits is the length of the ICV in bits; 0 for ciphers, which have none.
	ICVBits uint32
}

const (
	algNameLen = 64
	algoLen    = algNameLen + 4 // struct xfrm_algo without the key
	algoICVLen = algoLen + 4    // struct xfrm_algo_auth and xfrm_algo_aead
	maxKeyLen  = 4096 / 8       // more than any algorithm of the kernel takes
)

func (a *Algorithm) isZero() bool { return a.Name == "" }

func (a *Algorithm) append(b []byte, kind uint16, withICV bool) ([]byte, error) {
	if a.isZero() {
		return b, nil
	}
	if len(a.Name) >= algNameLen || a.Key.Len() > maxKeyLen {
		return b, fmt.Errorf("%w: algorithm %q with a key of %d octets", ErrInvalid, a.Name, a.Key.Len())
	}
	header := algoLen
	if withICV {
		header = algoICVLen
	}
	b, v := appendAttr(b, kind, header+a.Key.Len())
	copy(v, a.Name)
	native.PutUint32(v[algNameLen:], uint32(a.Key.Len())*8)
	if withICV {
		native.PutUint32(v[algoLen:], a.ICVBits)
	}
	copy(v[header:], a.Key.Bytes())
	return b, nil
}

func parseAlgorithm(a *Algorithm, v []byte, withICV bool) error {
	header := algoLen
	if withICV {
		header = algoICVLen
	}
	if err := need(v, header, "algorithm"); err != nil {
		return err
	}
	name, _, ok := bytes.Cut(v[:algNameLen], []byte{0})
	if !ok || len(name) == 0 {
		return fmt.Errorf("%w: algorithm without a name, or without an end of it", ErrInvalid)
	}
	octets := (uint64(native.Uint32(v[algNameLen:])) + 7) / 8
	if octets > maxKeyLen || octets > uint64(len(v)-header) {
		return fmt.Errorf("%w: key of %d octets", ErrShort, octets)
	}
	a.Key.Wipe() // of an attribute that came twice
	*a = Algorithm{Name: string(name), Key: secret.Copy(v[header : header+int(octets)])}
	if withICV {
		a.ICVBits = native.Uint32(v[algoLen:])
	}
	return nil
}
