package suite

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"

	"caponier/internal/secret"
)

func sm2Key(t testing.TB) *sm2.PrivateKey {
	t.Helper()
	key, err := sm2.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestSM2Signature checks a signature that OpenSSL 3.0.22 made over "GM/T 0022"
// with the default id, and its being told from others.
func TestSM2Signature(t *testing.T) {
	public, err := sm2.NewPublicKey(unhex("0448721200" +
		"0ab91c6399aea78e186e4282626b9ea9155f1710dd50eed00f232a3c83e2db1bab01e79cdd1ed43ab2820c18549f35ba9233ddf33ed6fb59c0aa1061"))
	if err != nil {
		t.Fatal(err)
	}
	sig := unhex("304502210094f5d49005514783d4ac144fc37a0a85e2ecdf5bf029bc7d29fc2ae27462fcb3" +
		"022004557bbdbf026d59b0113231a6a077bbcb4cffdbb7a2fe6abfce29daf869906e")
	if style, err := SM2Verify(public, "", []byte("GM/T 0022"), sig); err != nil || style != (SM2Style{}) {
		t.Errorf("OpenSSL's signature: %v, %v", style, err)
	}
	if _, err := SM2Verify(public, "another id", []byte("GM/T 0022"), sig); !errors.Is(err, ErrSM2) {
		t.Errorf("under another id: %v", err)
	}
	key := sm2Key(t)
	for _, style := range []SM2Style{
		{SM2DER, SM2WithID}, {SM2DER, SM2PreHash}, {SM2DER, SM2Twice}, {SM2Raw, SM2WithID}, {SM2Raw, SM2PreHash}, {SM2Raw, SM2Twice},
	} {
		sig, err := SM2Sign(rand.Reader, key, "", style, []byte("octets"))
		if err != nil {
			t.Fatal(err)
		}
		if style.Encoding == SM2Raw && len(sig) != 64 {
			t.Errorf("%v: %d octets", style, len(sig))
		}
		if got, err := SM2Verify(key.Public(), "", []byte("octets"), sig); err != nil || got != style {
			t.Errorf("%v is taken for %v, %v", style, got, err)
		}
		if _, err := SM2Verify(key.Public(), "", []byte("Octets"), sig); !errors.Is(err, ErrSM2) {
			t.Errorf("%v over other octets: %v", style, err)
		}
		for i := range sig {
			if _, err := SM2Verify(key.Public(), "", []byte("octets"), sig[:i]); !errors.Is(err, ErrSM2) {
				t.Errorf("%v: %d of %d octets: %v", style, i, len(sig), err)
			}
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := SM2Sign(rand.Reader, other, "", SM2Style{}, nil); !errors.Is(err, ErrSM2) {
		t.Errorf("a key of another curve: %v", err)
	}
	if _, err := SM2Verify(&other.PublicKey, "", nil, nil); !errors.Is(err, ErrSM2) || sm2.IsSM2PublicKey(&other.PublicKey) {
		t.Errorf("a public key of another curve: %v", err)
	}
}

func TestSM2Encryption(t *testing.T) {
	key := sm2Key(t)
	plain := secret.Copy([]byte("sixteen octets!!"))
	for _, encoding := range []SM2Encoding{SM2DER, SM2C1C3C2, SM2C1C2C3} {
		sealed, err := SM2Encrypt(rand.Reader, key.Public(), plain, encoding)
		if err != nil {
			t.Fatal(err)
		}
		if encoding != SM2DER && len(sealed) != 113 {
			t.Errorf("%s: %d octets", encoding, len(sealed))
		}
		got, as, err := SM2Decrypt(rand.Reader, key, sealed)
		if err != nil || as != encoding || !got.Equal(plain) {
			t.Errorf("%s is taken for %s, %v", encoding, as, err)
		}
		for i := range sealed {
			if _, _, err := SM2Decrypt(rand.Reader, key, sealed[:i]); !errors.Is(err, ErrSM2) {
				t.Errorf("%s: %d of %d octets: %v", encoding, i, len(sealed), err)
			}
			bad := bytes.Clone(sealed)
			bad[i] ^= 0x80
			if got, _, err := SM2Decrypt(rand.Reader, key, bad); err == nil && !got.Equal(plain) {
				t.Errorf("%s: octet %d changed, and another key came out", encoding, i)
			}
		}
		if _, _, err := SM2Decrypt(rand.Reader, sm2Key(t), sealed); !errors.Is(err, ErrSM2) {
			t.Errorf("%s with another key: %v", encoding, err)
		}
	}
	if _, err := SM2Encrypt(rand.Reader, key.Public(), plain, SM2Raw); !errors.Is(err, ErrSM2) {
		t.Errorf("a ciphertext of two numbers: %v", err)
	}
	if _, _, err := SM2Decrypt(rand.Reader, key, make([]byte, 2000)); !errors.Is(err, ErrSM2) {
		t.Errorf("too long: %v", err)
	}
}

func FuzzSM2Decrypt(f *testing.F) {
	key := sm2Key(f)
	for _, encoding := range []SM2Encoding{SM2DER, SM2C1C3C2, SM2C1C2C3} {
		sealed, err := SM2Encrypt(rand.Reader, key.Public(), secret.Copy(make([]byte, 16)), encoding)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := SM2Decrypt(rand.Reader, key, b); err != nil && !errors.Is(err, ErrSM2) {
			t.Fatal(err)
		}
		if _, err := SM2Verify(key.Public(), "", b, b); err == nil {
			t.Fatal("a signature of itself")
		}
	})
}

// TestSM2AuthAgainstOpenSSL has OpenSSL check the signature of an AUTH payload,
// and checks one of OpenSSL's.
func TestSM2AuthAgainstOpenSSL(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if data != nil {
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	openssl := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("openssl", args...).CombinedOutput(); err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	openssl("genpkey", "-algorithm", "SM2", "-out", file("key", nil))
	openssl("pkey", "-in", file("key", nil), "-pubout", "-outform", "DER", "-out", file("pub", nil))
	data, err := os.ReadFile(file("key", nil))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	parsed, err := smx509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key := parsed.(crypto.Signer)
	scheme, err := ChooseSignature(key.Public(), []uint16{HashSM3})
	if err != nil {
		t.Fatal(err)
	}
	auth, err := scheme.Sign(key, octets)
	if err != nil {
		t.Fatal(err)
	}
	message, options := file("octets", octets), []string{"-rawin", "-digest", "sm3", "-pkeyopt", "distid:1234567812345678", "-in"}
	openssl(append([]string{"pkeyutl", "-verify", "-pubin", "-inkey", file("pub", nil), "-keyform", "DER", "-sigfile", file("sig", auth[1+int(auth[0]):])}, append(options, message)...)...)
	openssl(append([]string{"pkeyutl", "-sign", "-inkey", file("key", nil), "-out", file("theirs", nil)}, append(options, message)...)...)
	theirs, err := os.ReadFile(file("theirs", nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyAuth(key.Public(), AuthSignature, append(slices.Clone(auth[:1+int(auth[0])]), theirs...), octets); err != nil {
		t.Errorf("OpenSSL's signature: %v", err)
	}
	raw, err := SM2Sign(rand.Reader, key, "", SM2Style{Encoding: SM2Raw}, octets)
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyAuth(key.Public(), AuthSignature, append(slices.Clone(auth[:1+int(auth[0])]), raw...), octets); !errors.Is(err, ErrSignature) {
		t.Errorf("a signature that is not in DER: %v", err)
	}
}
