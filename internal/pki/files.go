package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"caponier/internal/cert"
)

// maxFile bounds a file of certificates, in octets.
const maxFile = 1 << 20

// LoadCertificates reads the certificates in a file, in their order: any number
// of them in PEM, or one in DER.
func LoadCertificates(path string) ([]*x509.Certificate, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	certs, err := cert.ParseAll(data)
	if err != nil {
		return nil, fmt.Errorf("certificates %s: %w", path, err)
	}
	return certs, nil
}

func readFile(path string) ([]byte, error) {
	// O_NONBLOCK: opening a named pipe by mistake must not wait for its writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d octets", path, maxFile)
	}
	return data, nil
}

// writeFile writes a file that is there whole or not at all, also after a
// crash. Without force it does not replace one.
func writeFile(path string, data []byte, mode fs.FileMode, force bool) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // it is gone already where it was renamed
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if force {
		err = os.Rename(f.Name(), path)
	} else {
		// Unlike a rename, a link fails where there is a file already.
		err = os.Link(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// prepareDir makes the directory of an authority, or checks that nobody else
// could exchange the files in it.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("%s has mode %#o, so that others can exchange the keys in it: chmod go-w %[1]s", dir, info.Mode().Perm())
	}
	return nil
}

// WriteSecret writes what Export made, readable for its owner only. Without
// force it does not replace a file.
func WriteSecret(path string, data []byte, force bool) error {
	err := writeFile(path, data, 0o600, force)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w: force replaces it", path, ErrExists)
	}
	return err
}
