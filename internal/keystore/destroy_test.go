package keystore

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestDestroy(t *testing.T) {
	secret := []byte("the octets of a private key")
	path := write(t, "key", secret, 0o600)
	// A second name for the same octets shows what became of them.
	again := filepath.Join(filepath.Dir(path), "again")
	if err := os.Link(path, again); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(path), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if err := Destroy(link); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []string{path, link} {
		if _, err := os.Lstat(gone); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", gone, err)
		}
	}
	if left, err := os.ReadFile(again); err != nil || len(left) != 0 {
		t.Errorf("%d octets are left, %v", len(left), err)
	}
	if err := Destroy(path); err != nil {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := Destroy(t.TempDir()); err == nil {
		t.Error("a directory is destroyed")
	}
}

func TestOverwrite(t *testing.T) {
	secret := bytes.Repeat([]byte("secret "), 1000)
	path := write(t, "key", secret, 0o600)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	watch, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if err := overwrite(f); err != nil {
		t.Fatal(err)
	}
	if info, err := watch.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestWipe(t *testing.T) {
	for name, data := range map[string][]byte{
		"RSA":     openssl(t, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
		"ECDSA":   openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
		"Ed25519": openssl(t, "genpkey", "-algorithm", "ED25519"),
		"SM2":     openssl(t, "genpkey", "-algorithm", "SM2"),
	} {
		key, err := Open(write(t, "key", data, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		before, err := Encode(key, nil)
		if err != nil {
			t.Fatal(err)
		}
		Wipe(key)
		if after, err := Encode(key, nil); err == nil && bytes.Equal(before, after) {
			t.Errorf("%s: the key is still there", name)
		}
	}
}
