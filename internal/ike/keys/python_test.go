package keys

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// python is the interpreter for which the system's packages are installed;
// another one may come first in PATH.
const python = "/usr/bin/python3"

// independent derives the same with Python's hmac module and OpenSSL's CMAC,
// written from the formulas of RFC 7296 and RFC 4615 alone.
const independent = `
import hashlib, hmac, json, sys
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC
def cmac(k, d):
    m = CMAC(algorithms.AES(k if len(k) == 16 else cmac(bytes(16), k))); m.update(d)
    return m.finalize()
def run(c):
    h = lambda name: bytes.fromhex(c[name])
    special = c["hash"] == "cmac"
    prf = cmac if special else lambda k, d: hmac.new(k, d, getattr(hashlib, c["hash"])).digest()
    def plus(k, s, n):
        t, out, i = b"", b"", 1
        while len(out) < n:
            t = prf(k, t + s + bytes([i])); out += t; i += 1
        return out[:n]
    seed = prf(h("ni")[:8] + h("nr")[:8] if special else h("ni") + h("nr"), h("shared"))
    size = len(seed)
    keys = plus(seed, h("ni") + h("nr") + h("spis"), 3 * size + 2 * (c["encr"] + c["integ"]))
    d, pr = keys[:size], keys[-size:]
    auth = h("message") + h("ni") + prf(pr, h("id"))
    return {
        "keys": keys.hex(),
        "child": plus(d, h("ni") + h("nr"), 2 * (c["encr"] + c["integ"])).hex(),
        "childKE": plus(d, h("fresh") + h("ni") + h("nr"), 2 * (c["encr"] + c["integ"])).hex(),
        "rekey": prf(d, h("fresh") + h("ni") + h("nr")).hex(),
        "auth": auth.hex(),
        "psk": prf(prf(h("secret"), b"Key Pad for IKEv2"), auth).hex(),
    }
json.dump([run(c) for c in json.load(sys.stdin)], sys.stdout)
`

func TestAgainstPython(t *testing.T) {
	rng := rand.NewChaCha8([32]byte{1})
	octets := func(most int) []byte {
		b := make([]byte, 1+rng.Uint64()%uint64(most))
		_, _ = rng.Read(b)
		return b
	}
	prfs := []struct {
		hash string
		id   uint16
	}{
		{"sha1", ipsec.PRFHMACSHA1},
		{"sha256", ipsec.PRFHMACSHA256},
		{"sha384", ipsec.PRFHMACSHA384},
		{"sha512", ipsec.PRFHMACSHA512},
		{"cmac", ipsec.PRFAESCMAC},
	}
	ciphers := []struct{ encr, integ ipsec.Transform }{{gcm128, ipsec.Transform{}}, {cbc128, mac256}}

	type answer struct{ Keys, Child, ChildKE, Rekey, Auth, PSK string }
	var questions []map[string]any
	var got []answer
	for round := range 60 {
		p, c := prfs[round%len(prfs)], ciphers[round%len(ciphers)]
		prf, err := suite.NewPRF(ipsec.Transform{Type: ipsec.TypePRF, ID: p.id})
		if err != nil {
			t.Fatal(err)
		}
		encrLen, integLen, err := suite.KeyLengths(c.encr, c.integ)
		if err != nil {
			t.Fatal(err)
		}
		spiI, spiR := rng.Uint64(), rng.Uint64()
		in := map[string][]byte{
			"ni": octets(256), "nr": octets(256), "shared": octets(256), "fresh": octets(256),
			"message": octets(1000), "id": octets(100), "secret": octets(150),
			"spis": bytes.Join([][]byte{be(spiI), be(spiR)}, nil),
		}
		q := map[string]any{"hash": p.hash, "encr": encrLen, "integ": integLen}
		for name, b := range in {
			q[name] = hex.EncodeToString(b)
		}
		questions = append(questions, q)

		seed := Seed(prf, in["ni"], in["nr"], secret.Copy(in["shared"]))
		k, err := DeriveIKE(prf, seed, in["ni"], in["nr"], spiI, spiR, c.encr, c.integ)
		if err != nil {
			t.Fatal(err)
		}
		fresh := secret.Copy(in["fresh"])
		child, err := DeriveChild(prf, k.D, secret.Key{}, in["ni"], in["nr"], c.encr, c.integ)
		if err != nil {
			t.Fatal(err)
		}
		childKE, err := DeriveChild(prf, k.D, fresh, in["ni"], in["nr"], c.encr, c.integ)
		if err != nil {
			t.Fatal(err)
		}
		auth := AuthOctets(prf, in["message"], in["ni"], k.Pr, in["id"])
		got = append(got, answer{
			Keys:    hex.EncodeToString(concat(k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr)),
			Child:   hex.EncodeToString(concat(child.Ei, child.Ai, child.Er, child.Ar)),
			ChildKE: hex.EncodeToString(concat(childKE.Ei, childKE.Ai, childKE.Er, childKE.Ar)),
			Rekey:   hex.EncodeToString(RekeySeed(prf, k.D, fresh, in["ni"], in["nr"]).Bytes()),
			Auth:    hex.EncodeToString(auth),
			PSK:     hex.EncodeToString(PSKAuth(prf, secret.Copy(in["secret"]), auth)),
		})
	}

	stdin, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", independent)
	cmd.Stdin = bytes.NewReader(stdin)
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("python3-cryptography, which this test needs as its judge: %v", err)
	}
	var want []answer
	if err := json.Unmarshal(stdout, &want); err != nil {
		t.Fatal(err)
	}
	if len(want) != len(got) {
		t.Fatalf("%d answers to %d questions", len(want), len(got))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("round %d: got %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

func be(v uint64) []byte {
	var out []byte
	for shift := 56; shift >= 0; shift -= 8 {
		out = append(out, byte(v>>shift))
	}
	return out
}
