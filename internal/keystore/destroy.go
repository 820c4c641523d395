package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"syscall"

	"github.com/emmansun/gmsm/sm2"
)

// Wipe overwrites a private key that Open returned, as far as its parts can be
// reached; it cannot be used any more. What the cryptographic library keeps of
// its own ends with the process.
func Wipe(key crypto.Signer) {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		wipe(k.D, k.Precomputed.Dp, k.Precomputed.Dq, k.Precomputed.Qinv)
		wipe(k.Primes...)
	case *ecdsa.PrivateKey:
		wipe(k.D) //nolint:staticcheck // there is no other way to the octets
	case ed25519.PrivateKey:
		clear(k)
	case *sm2.PrivateKey:
		wipe(k.D)
	}
}

func wipe(numbers ...*big.Int) {
	for _, x := range numbers {
		if x != nil {
			clear(x.Bits())
			x.SetInt64(0)
		}
	}
}

// Destroy overwrites a file that holds a secret with random octets and removes
// it. Where path is a symbolic link, its target is destroyed as well. A file that
// is not there is no error. What a file system that copies on write, a flash
// drive or a backup has kept is out of its reach.
func Destroy(path string) error {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return remove(path) // a link to nowhere
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_WRONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return errors.Join(err, remove(target))
	}
	err = errors.Join(overwrite(f), f.Close(), remove(target))
	if target != path {
		err = errors.Join(err, remove(path))
	}
	return err
}

func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.Name())
	}
	if _, err := io.CopyN(f, rand.Reader, info.Size()); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Truncate(0))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
