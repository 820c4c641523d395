package suite

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/emmansun/gmsm/sm2"
)

type testKeys struct {
	rsa              *rsa.PrivateKey
	p256, p384, p521 *ecdsa.PrivateKey
	ed25519          ed25519.PrivateKey
	sm2              *sm2.PrivateKey
}

var keysOnce = sync.OnceValues(func() (k testKeys, err error) {
	var errs [6]error
	k.rsa, errs[0] = rsa.GenerateKey(rand.Reader, 2048)
	k.p256, errs[1] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k.p384, errs[2] = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	k.p521, errs[3] = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	_, k.ed25519, errs[4] = ed25519.GenerateKey(rand.Reader)
	k.sm2, errs[5] = sm2.GenerateKey(rand.Reader)
	return k, errors.Join(errs[:]...)
})

func makeKeys(t testing.TB) testKeys {
	t.Helper()
	k, err := keysOnce()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var octets = []byte("message, nonce and prf(SK_p, ID)")

// The DER is that of RFC 7427, Appendix A, and RFC 8420, Appendix A; that of SM2
// by the same rules from GM/T 0006.
func TestChooseSignSignatures(t *testing.T) {
	k := makeKeys(t)
	all := SignatureHashes()
	for _, tt := range []struct {
		key    crypto.Signer
		hashes []uint16
		name   string
		method uint8
		der    string
		length int // of r | s
	}{
		{k.rsa, nil, "rsa-sha1", 1, "", 0},
		{k.rsa, all, "rsa-sha256", 14, "300d06092a864886f70d01010b0500", 0},
		{k.rsa, []uint16{1, 3}, "rsa-sha384", 14, "300d06092a864886f70d01010c0500", 0},
		{k.rsa, []uint16{4}, "rsa-sha512", 14, "300d06092a864886f70d01010d0500", 0},
		{k.p256, nil, "ecdsa-256", 9, "", 64},
		{k.p384, nil, "ecdsa-384", 10, "", 96},
		{k.p521, nil, "ecdsa-521", 11, "", 132},
		{k.p256, all, "ecdsa-sha256", 14, "300a06082a8648ce3d040302", 0},
		{k.p384, all, "ecdsa-sha384", 14, "300a06082a8648ce3d040303", 0},
		{k.p521, all, "ecdsa-sha512", 14, "300a06082a8648ce3d040304", 0},
		{k.p521, []uint16{2}, "ecdsa-sha256", 14, "300a06082a8648ce3d040302", 0},
		{k.ed25519, all, "ed25519", 14, "300506032b6570", 0},
		{k.sm2, []uint16{HashSHA256, HashSM3}, "sm2-sm3", 14, "300a06082a811ccf55018375", 0},
	} {
		s, err := ChooseSignature(tt.key.Public(), tt.hashes)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if s.Name != tt.name || s.Method != tt.method || hex.EncodeToString([]byte(s.identifier)) != tt.der {
			t.Errorf("%s: chose %s, method %d, %x", tt.name, s.Name, s.Method, s.identifier)
		}
		for range 8 { // r and s vary in length
			data, err := s.Sign(tt.key, octets)
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			if tt.length != 0 && len(data) != tt.length {
				t.Errorf("%s: %d octets, want %d", tt.name, len(data), tt.length)
			}
			if prefix, _ := hex.DecodeString(tt.der); tt.der != "" &&
				(int(data[0]) != len(prefix) || !bytes.HasPrefix(data[1:], prefix)) {
				t.Errorf("%s: starts %x", tt.name, data[:16])
			}
			if err := VerifyAuth(tt.key.Public(), s.Method, data, octets); err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			if err := VerifyAuth(tt.key.Public(), s.Method, data, octets[1:]); !errors.Is(err, ErrSignature) {
				t.Errorf("%s over other octets: %v", tt.name, err)
			}
			last := slices.Clone(data)
			last[len(last)-1] ^= 1
			if err := VerifyAuth(tt.key.Public(), s.Method, last, octets); !errors.Is(err, ErrSignature) {
				t.Errorf("%s, changed: %v", tt.name, err)
			}
			for n := range data {
				if err := VerifyAuth(tt.key.Public(), s.Method, data[:n], octets); err == nil {
					t.Errorf("%s: %d of %d octets pass", tt.name, n, len(data))
				}
			}
		}
	}
}

// RFC 7427, Appendix A.4: the DER of the parameters, and who uses them.
func TestChoosePSS(t *testing.T) {
	k := makeKeys(t)
	for _, tt := range []struct {
		key    crypto.Signer
		hashes []uint16
		name   string
		der    string
	}{
		{k.rsa, SignatureHashes(), "rsa-pss-sha256", pssSHA256},
		{k.rsa, []uint16{HashSHA1, HashSHA512}, "rsa-pss-sha512", ""},
		{k.p256, SignatureHashes(), "ecdsa-sha256", ""},
		{k.p256, nil, "ecdsa-256", ""},
	} {
		s, err := ChoosePSS(tt.key.Public(), tt.hashes)
		if err != nil || s.Name != tt.name {
			t.Errorf("%s: chose %q, %v", tt.name, s.Name, err)
			continue
		}
		data, err := s.Sign(tt.key, octets)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if der := unhex(tt.der); tt.der != "" && !bytes.Equal(data[1:1+len(der)], der) {
			t.Errorf("%s: identifier %x", tt.name, data[1:1+int(data[0])])
		}
		if err := VerifyAuth(tt.key.Public(), s.Method, data, octets); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := VerifyAuth(tt.key.Public(), s.Method, data, octets[1:]); !errors.Is(err, ErrSignature) {
			t.Errorf("%s over other octets: %v", tt.name, err)
		}
	}
	// Never SHA-1, for want of something better.
	for _, hashes := range [][]uint16{nil, {HashSHA1}, {HashIdentity}} {
		if s, err := ChoosePSS(k.rsa.Public(), hashes); !errors.Is(err, ErrSignatureAlgorithm) {
			t.Errorf("hashes %v: %v, %v", hashes, s, err)
		}
	}
}

func TestChooseRefuses(t *testing.T) {
	k := makeKeys(t)
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		pub    crypto.PublicKey
		hashes []uint16
	}{
		{"SHA-1 alone", k.rsa.Public(), []uint16{HashSHA1}},
		{"no hash for ECDSA", k.p256.Public(), []uint16{HashIdentity}},
		{"no Identity", k.ed25519.Public(), []uint16{HashSHA256}},
		{"Ed25519 without RFC 7427", k.ed25519.Public(), nil},
		{"P-224 without RFC 7427", p224.Public(), nil},
		{"X25519", x25519.PublicKey(), SignatureHashes()},
		{"no key", nil, SignatureHashes()},
	} {
		if s, err := ChooseSignature(tt.pub, tt.hashes); !errors.Is(err, ErrSignatureAlgorithm) {
			t.Errorf("%s: %v, %v", tt.name, s, err)
		}
	}
	if slices.Contains(SignatureHashes(), HashSHA1) {
		t.Error("SHA-1 is announced")
	}
}

// method14 puts signature behind the DER of an AlgorithmIdentifier.
func method14(der string, signature []byte) []byte {
	id := unhex(der)
	return slices.Concat([]byte{byte(len(id))}, id, signature)
}

const (
	pssSHA256 = "304106092a864886f70d01010a3034a00f300d06096086480165030402010500" +
		"a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"
	// pssHugeSalt has the salt length 2^63-1, which no sum with it survives.
	pssHugeSalt = "304806092a864886f70d01010a303ba00f300d06096086480165030402010500" +
		"a11c301a06092a864886f70d010108300d06096086480165030402010500a20a02087fffffffffffffff"
	pssSHA1 = "300d06092a864886f70d01010a3000"
)

func TestVerifyAuthAcceptsVariants(t *testing.T) {
	k := makeKeys(t)
	digest := mustDigest(t, crypto.SHA256)
	rsaSig := mustSign(t, k.rsa, digest, crypto.SHA256)
	ecSig := mustSign(t, k.p256, digest, crypto.SHA256)
	pss := mustSign(t, k.rsa, digest, &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256})
	for _, tt := range []struct {
		name string
		pub  crypto.PublicKey
		data []byte
	}{
		{"RSA without NULL", k.rsa.Public(), method14("300b06092a864886f70d01010b", rsaSig)},
		{"ECDSA with NULL", k.p256.Public(), method14("300c06082a8648ce3d0403020500", ecSig)},
		{"RSASSA-PSS", k.rsa.Public(), method14(pssSHA256, pss)},
	} {
		if err := VerifyAuth(tt.pub, AuthSignature, tt.data, octets); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := VerifyAuth(tt.pub, AuthSignature, tt.data, octets[1:]); !errors.Is(err, ErrSignature) {
			t.Errorf("%s over other octets: %v", tt.name, err)
		}
	}
}

func mustDigest(t testing.TB, h crypto.Hash) []byte {
	t.Helper()
	d, err := digest(h, octets)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustSign(t testing.TB, s crypto.Signer, digest []byte, opts crypto.SignerOpts) []byte {
	t.Helper()
	sig, err := s.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

func TestVerifyAuthRefuses(t *testing.T) {
	k := makeKeys(t)
	sha1 := mustSign(t, k.rsa, mustDigest(t, crypto.SHA1), crypto.SHA1)
	sha256 := mustSign(t, k.rsa, mustDigest(t, crypto.SHA256), crypto.SHA256)
	pss := mustSign(t, k.rsa, mustDigest(t, crypto.SHA256), &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256})
	for _, tt := range []struct {
		name   string
		pub    crypto.PublicKey
		method uint8
		data   []byte
		want   error
	}{
		{"SHA-1 in method 14", k.rsa.Public(), 14, method14("300d06092a864886f70d0101050500", sha1), ErrSignatureAlgorithm},
		{"ECDSA with SHA-1", k.p256.Public(), 14, method14("300906072a8648ce3d0401", sha1), ErrSignatureAlgorithm},
		{"PSS with the default SHA-1", k.rsa.Public(), 14, method14(pssSHA1, sha1), ErrSignatureAlgorithm},
		{"PSS without parameters", k.rsa.Public(), 14, method14("300b06092a864886f70d01010a", pss), ErrSignatureFormat},
		{"PSS with another MGF hash", k.rsa.Public(), 14, method14(pssWith("a1", "02"), pss), ErrSignatureAlgorithm},
		{"PSS with no salt", k.rsa.Public(), 14, method14(pssWith("salt", "00"), pss), ErrSignatureAlgorithm},
		{"PSS with a salt longer than the key", k.rsa.Public(), 14, method14(pssHugeSalt, pss), ErrSignatureAlgorithm},
		{"PSS by ECDSA", k.p256.Public(), 14, method14(pssSHA256, pss), ErrSignatureAlgorithm},
		{"RSA by ECDSA", k.p256.Public(), 14, method14("300d06092a864886f70d01010b0500", sha256), ErrSignatureAlgorithm},
		{"parameters", k.rsa.Public(), 14, method14("300e06092a864886f70d01010b020100", sha256), ErrSignatureFormat},
		{"rubbish behind", k.rsa.Public(), 14, method14("300d06092a864886f70d01010b050000", sha256), ErrSignatureFormat},
		{"no signature", k.rsa.Public(), 14, method14("300d06092a864886f70d01010b0500", nil), ErrSignatureFormat},
		{"no identifier", k.rsa.Public(), 14, append([]byte{0}, sha256...), ErrSignatureFormat},
		{"nothing", k.rsa.Public(), 14, nil, ErrSignatureFormat},
		{"method 1 by ECDSA", k.p256.Public(), 1, sha1, ErrSignatureAlgorithm},
		{"method 1 with SHA-256", k.rsa.Public(), 1, sha256, ErrSignature},
		{"method 9 by RSA", k.rsa.Public(), 9, sha256, ErrSignatureAlgorithm},
		{"method 9 on P-384", k.p384.Public(), 9, make([]byte, 64), ErrSignatureAlgorithm},
		{"method 9, zeros", k.p256.Public(), 9, make([]byte, 64), ErrSignature},
		{"method 9, long", k.p256.Public(), 9, make([]byte, 65), ErrSignatureFormat},
		{"method 2 is no signature", k.rsa.Public(), 2, sha256, ErrSignatureAlgorithm},
		{"no key", nil, 14, method14("300d06092a864886f70d01010b0500", sha256), ErrSignatureAlgorithm},
		{"short Ed25519 key", ed25519.PublicKey{1}, 14, method14("300506032b6570", sha256), ErrSignatureAlgorithm},
	} {
		if err := VerifyAuth(tt.pub, tt.method, tt.data, octets); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
}

// pssWith changes one octet of pssSHA256: the hash inside MGF1, or the length
// of the salt.
func pssWith(what, octet string) string {
	at := len(pssSHA256) - 2
	if what == "a1" {
		at = len(pssSHA256) - len("010500a203020120")
	}
	return pssSHA256[:at] + octet + pssSHA256[at+2:]
}

// TestOpenSSLSignatures has openssl sign what VerifyAuth reads.
func TestOpenSSLSignatures(t *testing.T) {
	k := makeKeys(t)
	for _, tt := range []struct {
		name string
		key  crypto.Signer
		der  string
		args []string
	}{
		{"rsa", k.rsa, "300d06092a864886f70d01010c0500", []string{"dgst", "-sha384", "-sign"}},
		{"pss", k.rsa, pssSHA256, []string{"dgst", "-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32", "-sign"}},
		{"ecdsa", k.p384, "300a06082a8648ce3d040303", []string{"dgst", "-sha384", "-sign"}},
	} {
		der, err := x509.MarshalPKCS8PrivateKey(tt.key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "key.pem")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		signature := openssl(t, octets, append(tt.args, path)...)
		if err := VerifyAuth(tt.key.Public(), AuthSignature, method14(tt.der, signature), octets); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func FuzzVerifyAuth(f *testing.F) {
	k := makeKeys(f)
	publics := []crypto.PublicKey{k.rsa.Public(), k.p256.Public(), k.p384.Public(), k.p521.Public(), k.ed25519.Public()}
	for i, key := range []crypto.Signer{k.rsa, k.p256, k.p384, k.p521, k.ed25519} {
		for _, hashes := range [][]uint16{nil, SignatureHashes()} {
			s, err := ChooseSignature(publics[i], hashes)
			if err != nil {
				continue
			}
			data, err := s.Sign(key, octets)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(i), s.Method, data)
		}
	}
	f.Add(uint8(0), AuthSignature, method14(pssSHA256, make([]byte, 256)))
	// No signature is over these octets, so nothing may pass.
	other := []byte("something else")
	f.Fuzz(func(t *testing.T, which, method uint8, data []byte) {
		err := VerifyAuth(publics[int(which)%len(publics)], method, data, other)
		if !errors.Is(err, ErrSignature) && !errors.Is(err, ErrSignatureFormat) && !errors.Is(err, ErrSignatureAlgorithm) {
			t.Errorf("error %v", err)
		}
	})
}
