package keystore

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func write(t testing.TB, name string, data []byte, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// openssl makes a key file and returns its contents.
func openssl(t testing.TB, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("openssl", args...).Output()
	if err != nil {
		t.Fatalf("openssl %s (apt install openssl): %v", strings.Join(args, " "), err)
	}
	return out
}

func convert(t testing.TB, in []byte, args ...string) []byte {
	t.Helper()
	return openssl(t, append(args, "-in", write(t, "in", in, 0o600))...)
}

// Keys in every form that openssl writes sign what their public half accepts.
func TestOpenReadsWhatOpenSSLWrites(t *testing.T) {
	rsaKey := openssl(t, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
	ec := openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	ed := openssl(t, "genpkey", "-algorithm", "ED25519")
	tests := map[string][]byte{
		"RSA PKCS8 PEM":     rsaKey,
		"RSA PKCS8 DER":     convert(t, rsaKey, "pkcs8", "-topk8", "-nocrypt", "-outform", "DER"),
		"RSA PKCS1 PEM":     convert(t, rsaKey, "rsa", "-traditional"),
		"RSA PKCS1 DER":     convert(t, rsaKey, "rsa", "-traditional", "-outform", "DER"),
		"P-256 PKCS8 PEM":   ec,
		"P-256 SEC1 PEM":    convert(t, ec, "ec"),
		"P-256 SEC1 DER":    convert(t, ec, "ec", "-outform", "DER"),
		"P-256 parameters":  openssl(t, "ecparam", "-name", "prime256v1", "-genkey"),
		"P-384 PKCS8 PEM":   openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
		"P-521 PKCS8 PEM":   openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"),
		"Ed25519 PKCS8 PEM": ed,
		"Ed25519 PKCS8 DER": convert(t, ed, "pkey", "-outform", "DER"),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			key, err := Open(write(t, "key", data, 0o600))
			if err != nil {
				t.Fatal(err)
			}
			msg := []byte("signed octets")
			digest := sha256.Sum256(msg)
			switch pub := key.Public().(type) {
			case *rsa.PublicKey:
				sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
				if err != nil || rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) != nil {
					t.Errorf("signature does not verify: %v", err)
				}
			case *ecdsa.PublicKey:
				sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
				if err != nil || !ecdsa.VerifyASN1(pub, digest[:], sig) {
					t.Errorf("signature does not verify: %v", err)
				}
			case ed25519.PublicKey:
				sig, err := key.Sign(rand.Reader, msg, crypto.Hash(0))
				if err != nil || !ed25519.Verify(pub, msg, sig) {
					t.Errorf("signature does not verify: %v", err)
				}
			default:
				t.Errorf("public key is a %T", pub)
			}
			if !strings.HasPrefix(name, keyName(key)) {
				t.Errorf("key is of %s", keyName(key))
			}
		})
	}
}

func keyName(k crypto.Signer) string {
	switch pub := k.Public().(type) {
	case *rsa.PublicKey:
		return "RSA"
	case *ecdsa.PublicKey:
		return pub.Params().Name
	default:
		return "Ed25519"
	}
}

func TestOpenRefuses(t *testing.T) {
	ed := openssl(t, "genpkey", "-algorithm", "ED25519")
	ec := openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
	tests := []struct {
		name string
		data []byte
		is   error
	}{
		{"encrypted PKCS8", convert(t, ed, "pkcs8", "-topk8", "-passout", "pass:hunter2"), ErrEncrypted},
		{"encrypted SEC1", convert(t, ec, "ec", "-aes128", "-passout", "pass:hunter2"), ErrEncrypted},
		{"X25519", openssl(t, "genpkey", "-algorithm", "X25519"), ErrAlgorithm},
		{"P-224", openssl(t, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-224"), ErrAlgorithm},
		{"RSA 1024", openssl(t, "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"), ErrAlgorithm},
		{"public key", convert(t, ed, "pkey", "-pubout"), ErrFormat},
		{"two keys", append(append([]byte(nil), ed...), ec...), ErrFormat},
		{"empty", nil, ErrFormat},
		{"noise", []byte("not a key"), ErrFormat},
		{"noise in PEM", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hunter2")}), ErrFormat},
	}
	for _, tt := range tests {
		_, err := Open(write(t, "key", tt.data, 0o600))
		if !errors.Is(err, tt.is) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.is)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error quotes the file: %v", tt.name, err)
		}
	}
}

func TestOpenRefusesOtherStores(t *testing.T) {
	for _, ref := range []string{"pkcs11:token=hsm;object=agw?pin-value=hunter2", "PKCS11:x", "sdf:1/2"} {
		_, err := Open(ref)
		if !errors.Is(err, ErrScheme) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%q): %v", ref, err)
		}
	}
}

func TestSecretsThatOthersCanReadAreRefused(t *testing.T) {
	ed := openssl(t, "genpkey", "-algorithm", "ED25519")
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o644, 0o620, 0o601} {
		path := write(t, "key", ed, 0o600)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, errKey := Open(path)
		_, errPSK := ReadPSK(path)
		for _, err := range []error{errKey, errPSK} {
			me, ok := errors.AsType[*ModeError](err)
			if !ok || me.Mode.Perm() != mode || !strings.Contains(err.Error(), "chmod 600 "+path) {
				t.Errorf("mode %o: error %v", mode, err)
			}
		}
	}
	path := write(t, "key", ed, 0o400)
	if _, err := Open(path); err != nil {
		t.Errorf("mode 400: %v", err)
	}
}

func TestOpenRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, pipe} {
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "regular file") {
			t.Errorf("Open(%s): %v", path, err)
		}
	}
	if _, err := Open(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := Open(write(t, "large", make([]byte, maxFile+1), 0o600)); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("large file: %v", err)
	}
}

func TestReadPSK(t *testing.T) {
	tests := []struct{ file, key string }{
		{"correct horse battery", "correct horse battery"},
		{"correct horse battery\n", "correct horse battery"},
		{"correct horse battery\r\n", "correct horse battery"},
		{" spaces count \n", " spaces count "},
		{"0x00ffAB\n", "\x00\xff\xab"},
		{"0saGVsbG8gd29ybGQ=\n", "hello world"},
		{"0saGVsbG8gd29ybGQ", "hello world"},
		{"ä\n", "ä"},
	}
	for _, tt := range tests {
		key, err := ReadPSK(write(t, "psk", []byte(tt.file), 0o600))
		if err != nil || string(key.Bytes()) != tt.key {
			t.Errorf("%q: key %q, error %v", tt.file, key.Bytes(), err)
		}
	}
}

func TestReadPSKRefuses(t *testing.T) {
	for _, file := range []string{
		"", "\n", "\n\n", "hunter2\n\n", "hunter2\nhunter3\n", "hunter2\x00", "0x", "0s", "0x123", "0xhunter2",
		"0s*hunter2*", "0saGVsbG9=x", strings.Repeat("hunter2", 200),
	} {
		key, err := ReadPSK(write(t, "psk", []byte(file), 0o600))
		if !errors.Is(err, ErrFormat) || !key.IsZero() {
			t.Errorf("%q: error %v", file, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("%q: error quotes the key: %v", file, err)
		}
	}
}

func TestCheckPSK(t *testing.T) {
	for text, want := range map[string]error{"fifteen octets.": ErrShortPSK, "sixteen octets..": nil} {
		key, err := parsePSK([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckPSK(key); !errors.Is(err, want) {
			t.Errorf("CheckPSK of %d octets: %v", len(text), err)
		}
	}
}

// Parsers of files never panic, and say nothing of what was in the file.
func FuzzParse(f *testing.F) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(ed)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	f.Add(openssl(f, "ecparam", "-name", "prime256v1", "-genkey"))
	f.Add([]byte("0x00ff\n"))
	f.Add([]byte("0saGVsbG8=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if key, err := parseKey(append([]byte(nil), data...)); (key == nil) == (err == nil) {
			t.Errorf("key %v with error %v", key != nil, err)
		}
		if key, err := parsePSK(data); key.IsZero() == (err == nil) {
			t.Errorf("PSK %v with error %v", !key.IsZero(), err)
		}
	})
}

func TestTruncatedKeysAreRefused(t *testing.T) {
	der := convert(t, openssl(t, "genpkey", "-algorithm", "ED25519"), "pkey", "-outform", "DER")
	for n := range der {
		if _, err := parseKey(der[:n]); !errors.Is(err, ErrFormat) {
			t.Errorf("%d of %d octets: %v", n, len(der), err)
		}
	}
}
