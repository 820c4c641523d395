package suite

import (
	"bytes"
	"encoding/hex"
	"hash"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/suite/cbcmac"
)

// TestAESPRFVectors runs the test cases of RFC 4434, Section 3, and RFC 4615,
// Section 4.
func TestAESPRFVectors(t *testing.T) {
	for _, tt := range []struct {
		id        uint16
		key, want string
	}{
		{ipsec.PRFAESXCBC, xcbcKey, "47f51b4564966215b8985c63055ed308"},
		{ipsec.PRFAESXCBC, xcbcKey[:2*10], "0fa087af7d866e7653434e602fdde835"},
		{ipsec.PRFAESXCBC, xcbcKey + "edcb", "8cd3c93ae598a9803006ffb67c40e9e4"},
		{ipsec.PRFAESCMAC, xcbcKey, "980ae87b5f4c9c5214f5b6a8455e4c2d"},
		{ipsec.PRFAESCMAC, xcbcKey[:2*10], "290d9e112edb09ee141fcf64c0b72f3d"},
		{ipsec.PRFAESCMAC, xcbcKey + "edcb", "84a348a4a45d235babfffc0d2b4da09a"},
	} {
		p, err := NewPRF(ipsec.Transform{Type: ipsec.TypePRF, ID: tt.id})
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(p.Sum(unhex(tt.key), unhex(xcbcData))); got != tt.want {
			t.Errorf("PRF %d with key %s: %s, want %s", tt.id, tt.key, got, tt.want)
		}
	}
}

// python is the interpreter for which the system's packages are installed;
// another one may come first in PATH.
const python = "/usr/bin/python3"

// xcbcByDefinition is AES-XCBC-MAC written from RFC 3566, Section 4, alone.
// OpenSSL does not have it.
const xcbcByDefinition = `
import sys
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
def aes(k, b): return Cipher(algorithms.AES(k), modes.ECB()).encryptor().update(b)
def xor(*bs): return bytes(a ^ b for a, b in zip(bs[0], bs[1])) if len(bs) == 2 else xor(bs[0], xor(*bs[1:]))
def xcbc(k, m):
    k1, k2, k3 = (aes(k, bytes([i]) * 16) for i in (1, 2, 3))
    e, blocks = bytes(16), [m[i:i + 16] for i in range(0, len(m), 16)] or [b""]
    for b in blocks[:-1]: e = aes(k1, xor(e, b))
    last = blocks[-1]
    return aes(k1, xor(last, e, k2) if len(last) == 16 else xor((last + b"\x80").ljust(16, b"\0"), e, k3))
`

const xcbcOfLines = xcbcByDefinition + `
for line in sys.stdin:
    k, m = (bytes.fromhex(x) for x in line.rstrip("\n").split(" "))
    print(xcbc(k, m).hex())
`

func TestXCBCAgainstPython(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{6})
	var questions, got strings.Builder
	for i := range 200 {
		key, data := random(rng, 16), random(rng, i*i/20)
		questions.WriteString(hex.EncodeToString(key) + " " + hex.EncodeToString(data) + "\n")
		m, err := cbcmac.NewXCBC(key)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(hex.EncodeToString(inPieces(rng, m, data)) + "\n")
	}
	cmd := exec.Command(python, "-c", xcbcOfLines)
	cmd.Stdin = strings.NewReader(questions.String())
	want, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3-cryptography, which this test needs as its judge: %v", err)
	}
	if got.String() != string(want) {
		t.Error("AES-XCBC-MAC differs from its definition")
	}
}

func TestCMACAgainstOpenSSL(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{7})
	for _, n := range []int{1, 15, 16, 17, 31, 32, 33, 512, 527, 528, 529, 1400} {
		key, data := random(rng, 16), random(rng, n)
		m, err := cbcmac.NewCMAC(key)
		if err != nil {
			t.Fatal(err)
		}
		got := inPieces(rng, m, data)
		if want := openssl(t, data, "mac", "-binary", "-cipher", "AES-128-CBC", "-macopt", "hexkey:"+hex.EncodeToString(key), "CMAC"); !bytes.Equal(got, want) {
			t.Errorf("%d octets: %x, want %x", n, got, want)
		}
	}
}

// inPieces writes data as callers do, in parts of any length.
func inPieces(rng *rand.ChaCha8, m hash.Hash, data []byte) []byte {
	for len(data) > 0 {
		n := min(int(rng.Uint64()%40), len(data))
		if rng.Uint64()%4 == 0 {
			n = len(data)
		}
		m.Write(data[:n])
		data = data[n:]
	}
	return m.Sum(nil)
}
