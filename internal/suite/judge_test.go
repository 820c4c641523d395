package suite

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"testing"
)

// opensslSeals seals with OpenSSL, through python3-cryptography, what a
// Protector should, from the numbers of the IANA registry. GMAC and the layout
// of nonces are written from the RFCs, and AES-XCBC is from its definition.
const opensslSeals = xcbcByDefinition + `
import json
from cryptography.hazmat.primitives import cmac, hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
def crypt(mode, key, data):
    return Cipher(algorithms.AES(key), mode).encryptor().update(data)
def encrypt(c, key, iv, plain):
    if c["encr"] == 11: return plain
    if c["encr"] == 12: return crypt(modes.CBC(iv), key, plain)
    if c["encr"] == 13: return crypt(modes.CTR(key[-4:] + iv + b"\0\0\0\1"), key[:-4], plain)
def mac(c, key, data):
    sha = {2: hashes.SHA1, 12: hashes.SHA256, 13: hashes.SHA384, 14: hashes.SHA512}
    if c["integ"] == 5: return xcbc(key, data)[:12]
    m = cmac.CMAC(algorithms.AES(key)) if c["integ"] == 8 else hmac.HMAC(key, sha[c["integ"]]())
    m.update(data)
    return m.finalize()[:{2: 12, 8: 12, 12: 16, 13: 24, 14: 32}[c["integ"]]]
def seal(c):
    key, ikey, iv, plain, aad, tail = (bytes.fromhex(c[x]) for x in ("key", "ikey", "iv", "plain", "aad", "tail"))
    e = c["encr"]
    if e in (14, 15, 16):
        return AESCCM(key[:-3], {14: 8, 15: 12, 16: 16}[e]).encrypt(key[-3:] + iv, plain, aad)
    if e in (18, 19, 20):
        return AESGCM(key[:-4]).encrypt(key[-4:] + iv, plain, aad)[:len(plain) + {18: 8, 19: 12, 20: 16}[e]]
    if e == 21:
        return plain + AESGCM(key[:-4]).encrypt(key[-4:] + iv, b"", aad + iv + plain)
    if e == 28:
        return ChaCha20Poly1305(key[:-4]).encrypt(key[-4:] + iv, plain, aad)
    sealed = encrypt(c, key, iv, plain)
    return sealed + mac(c, ikey, aad + iv + sealed + tail)
json.dump([seal(c).hex() for c in json.load(sys.stdin)], sys.stdout)
`

// TestSealAgainstOpenSSL covers every combination of the registry.
func TestSealAgainstOpenSSL(t *testing.T) {
	type question struct {
		Encr  uint16 `json:"encr"`
		Integ uint16 `json:"integ"`
		Key   string `json:"key"`
		IKey  string `json:"ikey"`
		IV    string `json:"iv"`
		Plain string `json:"plain"`
		AAD   string `json:"aad"`
		Tail  string `json:"tail"`
	}
	rng := rand.NewChaCha8([32]byte{5})
	var questions []question
	var names, got []string
	for _, pair := range pairs() {
		encrLen, integLen, err := KeyLengths(pair.encr, pair.integ)
		if err != nil {
			t.Fatal(err)
		}
		key, ikey := random(rng, encrLen), random(rng, integLen)
		p, err := NewProtector(pair.encr, pair.integ, key, ikey)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 1, 15, 16, 17, 31, 32, 47, 48, 49, 64, 79, 513, 1408, 65000} {
			n -= n % p.BlockSize()
			plain, aad, iv, tail := random(rng, n), random(rng, 8), random(rng, p.IVLen()), []byte(nil)
			if n%3 == 0 && !p.Combined() {
				tail = random(rng, 4)
			} else if n%3 == 0 {
				aad = random(rng, []int{0, 12, 65535}[n%7%3])
			}
			sealed := make([]byte, n+p.ICVLen())
			p.Seal(sealed, iv, plain, aad, tail)
			names = append(names, pair.String())
			got = append(got, hex.EncodeToString(sealed))
			questions = append(questions, question{pair.encr.ID, pair.integ.ID, hex.EncodeToString(key), hex.EncodeToString(ikey),
				hex.EncodeToString(iv), hex.EncodeToString(plain), hex.EncodeToString(aad), hex.EncodeToString(tail)})
		}
	}
	stdin, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", opensslSeals)
	cmd.Stdin = bytes.NewReader(stdin)
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3-cryptography, which this test needs as its judge: %v", err)
	}
	var want []string
	if err := json.Unmarshal(stdout, &want); err != nil || len(want) != len(got) {
		t.Fatalf("%d answers to %d questions: %v", len(want), len(got), err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s, %d octets:\n%.200s, want\n%.200s", names[i], len(questions[i].Plain)/2, got[i], want[i])
		}
	}
}
