package keystore

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func TestParseSAKey(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"digits", "00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeeff"},
		{"digits and a newline", "00112233\n", "00112233"},
		{"with 0x", "0x00112233\n", "00112233"},
		{"capitals", "0xAABB", "aabb"},
		{"groups", "0011 2233\n4455:6677\n", "0011223344556677"},
		{"raw", "\x00\x01\xfe\xff", "0001feff"},
		{"raw that ends in a newline", "\x80\x01\x0a", "80010a"},
		{"raw that begins like white space", "\x20\xff", "20ff"},
	} {
		got, err := ParseSAKey([]byte(tc.in))
		if err != nil || hex.EncodeToString(got.Bytes()) != tc.want {
			t.Errorf("%s: %x, %v; want %s", tc.name, got.Bytes(), err, tc.want)
		}
	}
	for _, in := range []string{"", "\n \n", "0x", "0x0g", "abc", "0xabc", strings.Repeat("a", maxSAKey+1)} {
		if _, err := ParseSAKey([]byte(in)); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", in, err)
		} else if len(in) > 3 && strings.Contains(err.Error(), in) {
			t.Errorf("%v quotes the key", err)
		}
	}
}

func TestReadSAKeyRefusesWhatOthersRead(t *testing.T) {
	for _, mode := range []uint32{0o644, 0o640, 0o604} {
		path := write(t, "sa.key", []byte("0x00112233"), 0o600)
		if err := os.Chmod(path, fs.FileMode(mode)); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSAKey(path); err == nil {
			t.Errorf("mode %#o is accepted", mode)
		} else if _, ok := errors.AsType[*ModeError](err); !ok || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %#o: %v", mode, err)
		}
	}
	key, err := ReadSAKey(write(t, "sa.key", []byte("0x00112233\n"), 0o600))
	if err != nil || key.Len() != 4 {
		t.Errorf("%d octets, %v", key.Len(), err)
	}
}

func FuzzParseSAKey(f *testing.F) {
	for _, s := range []string{"0x0011", "00 11:22\n", "\x00\xff", ""} {
		for i := range len(s) + 1 {
			f.Add([]byte(s[:i]))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		key, err := ParseSAKey(data)
		if err != nil && key.Len() != 0 {
			t.Fatal("a key beside an error")
		}
		if key.Len() > len(data) {
			t.Fatal("more octets than given")
		}
	})
}
