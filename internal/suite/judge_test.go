package suite

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/ipsec"
)

// opensslSeals seals with OpenSSL, through python3-cryptography, what a
// Protector should, from the numbers of the IANA registry. GMAC and the layout
// of nonces are written from the RFCs, and AES-XCBC is from its definition, as is
// GCM with SM4, of which OpenSSL 3.0 has ECB, CBC and CTR (NIST SP 800-38D).
const opensslSeals = xcbcByDefinition + `
import json
from cryptography.hazmat.primitives import cmac, hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
def crypt(mode, key, data):
    return Cipher(algorithms.AES(key), mode).encryptor().update(data)
def encrypt(c, key, iv, plain):
    if c["encr"] == 11: return plain
    if c["encr"] == 12: return crypt(modes.CBC(iv), key, plain)
    if c["encr"] in (2, 3): return Cipher(algorithms.TripleDES(key), modes.CBC(iv)).encryptor().update(plain)
    if c["encr"] == 32907: return Cipher(algorithms.SM4(key), modes.CBC(iv)).encryptor().update(plain)
    if c["encr"] == 13: return crypt(modes.CTR(key[-4:] + iv + b"\0\0\0\1"), key[:-4], plain)
def mac(c, key, data):
    sha = {1: hashes.MD5, 2: hashes.SHA1, 12: hashes.SHA256, 13: hashes.SHA384, 14: hashes.SHA512}
    sha.update(dict.fromkeys((32905, 32906, 32907), hashes.SM3))
    if c["integ"] == 5: return xcbc(key, data)[:12]
    m = cmac.CMAC(algorithms.AES(key)) if c["integ"] == 8 else hmac.HMAC(key, sha[c["integ"]]())
    m.update(data)
    return m.finalize()[:{1: 12, 2: 12, 8: 12, 12: 16, 13: 24, 14: 32, 32905: 32, 32906: 16, 32907: 12}[c["integ"]]]
def ghash(h, data):
    y, h = 0, int.from_bytes(h, "big")
    for i in range(0, len(data), 16):
        y, v, z = y ^ int.from_bytes(data[i:i + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            if y >> bit & 1: z ^= v
            v = v >> 1 ^ (0xe1 << 120 if v & 1 else 0)
        y = z
    return y.to_bytes(16, "big")
def sm4gcm(key, nonce, plain, aad):
    ecb = lambda data: Cipher(algorithms.SM4(key), modes.ECB()).encryptor().update(data)
    out = Cipher(algorithms.SM4(key), modes.CTR(nonce + b"\0\0\0\2")).encryptor().update(plain)
    pad = lambda data: data + bytes(-len(data) % 16)
    sizes = (8 * len(aad)).to_bytes(8, "big") + (8 * len(out)).to_bytes(8, "big")
    return out + xor(ecb(nonce + b"\0\0\0\1"), ghash(ecb(bytes(16)), pad(aad) + pad(out) + sizes))
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
    if e == 32908: return sm4gcm(key[:-4], key[-4:] + iv, plain, aad)
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
			questions = append(questions, question{
				pair.encr.ID, pair.integ.ID, hex.EncodeToString(key), hex.EncodeToString(ikey),
				hex.EncodeToString(iv), hex.EncodeToString(plain), hex.EncodeToString(aad), hex.EncodeToString(tail),
			})
		}
	}
	var want []string
	askPython(t, opensslSeals, questions, &want)
	if len(want) != len(got) {
		t.Fatalf("%d answers to %d questions", len(want), len(got))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%s, %d octets:\n%.200s, want\n%.200s", names[i], len(questions[i].Plain)/2, got[i], want[i])
		}
	}
}

// opensslExchanges computes public values and shared secrets with OpenSSL.
const opensslExchanges = `
import json, sys
from cryptography.hazmat.primitives.asymmetric import ec, x25519, x448
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
curves = {19: ec.SECP256R1(), 20: ec.SECP384R1(), 21: ec.SECP521R1()}
def exchange(group, own, peer):
    own, peer = bytes.fromhex(own), bytes.fromhex(peer)
    if group in (31, 32):
        m, k = (x25519, "X25519") if group == 31 else (x448, "X448")
        key = getattr(m, k + "PrivateKey").from_private_bytes(own)
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return public, key.exchange(getattr(m, k + "PublicKey").from_public_bytes(peer))
    key = ec.derive_private_key(int.from_bytes(own, "big"), curves[group])
    n, point = key.public_key().public_numbers(), ec.EllipticCurvePublicKey.from_encoded_point(curves[group], b"\4" + peer)
    size = (key.key_size + 7) // 8
    return n.x.to_bytes(size, "big") + n.y.to_bytes(size, "big"), key.exchange(ec.ECDH(), point)
json.dump([[x.hex() for x in exchange(*q)] for q in json.load(sys.stdin)], sys.stdout)
`

func TestExchangeAgainstOpenSSL(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{8})
	var questions [][3]any
	var got [][2]string
	for id, size := range map[uint16]int{ipsec.KEECP256: 32, ipsec.KEECP384: 48, ipsec.KEECP521: 66, ipsec.KEX25519: 32, ipsec.KEX448: 56} {
		k := newKE(t, id)
		for range 10 {
			private := random(rng, size)
			private[0] &= 1 // below the order of every curve
			i, err := k.Initiate(bytes.NewReader(private))
			if err != nil {
				t.Fatal(err)
			}
			public, shared, err := k.Respond(rng, i.Public())
			if err != nil {
				t.Fatal(err)
			}
			questions = append(questions, [3]any{id, hex.EncodeToString(private), hex.EncodeToString(public)})
			got = append(got, [2]string{hex.EncodeToString(i.Public()), hex.EncodeToString(shared.Bytes())})
		}
	}
	var want [][2]string
	askPython(t, opensslExchanges, questions, &want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// askPython gives a script the questions as JSON, and reads the answers.
func askPython(t *testing.T, script string, questions, answers any) {
	t.Helper()
	stdin, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", script)
	cmd.Stdin = bytes.NewReader(stdin)
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3-cryptography, which this test needs as its judge: %v", err)
	}
	if err := json.Unmarshal(stdout, answers); err != nil {
		t.Fatal(err)
	}
}
