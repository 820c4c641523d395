package keys

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"testing"

	"caponier/internal/ike/message"
	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

var (
	sm4cbc  = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrSM4CBC}
	hmacSM3 = ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSM3}
)

func mustHash(t testing.TB, prf ipsec.Transform) Hash {
	t.Helper()
	h, err := NewHash(prf)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestGMAnswers compares the keys, IVs and hashes of GM/T 0022, which are those of
// RFC 2409, Section 5 and Appendix B, with what test/gm/kat.py computes by OpenSSL.
func TestGMAnswers(t *testing.T) {
	text, err := os.ReadFile("testdata/gm.json")
	if err != nil {
		t.Fatal(err)
	}
	var answers []map[string]string
	if err := json.Unmarshal(text, &answers); err != nil {
		t.Fatal(err)
	}
	if len(answers) != 2 {
		t.Fatalf("%d sets of answers", len(answers))
	}
	for _, answer := range answers {
		v := func(name string) []byte { return unhex(t, answer[name]) }
		check := func(name string, got []byte) {
			t.Helper()
			if want := v(name); len(want) == 0 || !bytes.Equal(got, want) {
				t.Errorf("%s is %x, want %x", name, got, want)
			}
		}
		h := mustHash(t, hmacSM3)
		c := Cookies{I: message.SPI(binary.BigEndian.Uint64(v("cky_i"))), R: message.SPI(binary.BigEndian.Uint64(v("cky_r")))}
		k := DeriveSKEYID(h, EnvelopeSeed(h, v("ni"), v("nr"), c), secret.Key{}, c)
		check("skeyid", k.ID.Bytes())
		check("skeyid_d", k.D.Bytes())
		check("skeyid_a", k.A.Bytes())
		check("skeyid_e", k.E.Bytes())
		key, err := EncryptionKey(h, k.E, sm4cbc)
		if err != nil {
			t.Fatal(err)
		}
		check("key", key.Bytes())
		iv := Phase1IV(h, v("ski"), v("skr"), 16)
		check("iv", iv)
		check("hash_i", Phase1Hash(h, k.ID, c, false, nil, nil, v("sa"), v("idi")))
		check("hash_r", Phase1Hash(h, k.ID, c, true, nil, nil, v("sa"), v("idr")))

		cbc, err := suite.NewCBC(sm4cbc, key.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		sealed := append(v("plain"), 0, 0, 0, 0, 0, 0, 0, 7)
		cbc.Encrypt(sealed, iv, sealed)
		check("sealed", sealed)
		id := binary.BigEndian.Uint32(v("msgid"))
		check("iv2", Phase2IV(h, sealed[len(sealed)-16:], id))

		q := Quick{Hash: h, A: k.A, MessageID: id, Ni: v("qi"), SA: v("qsa"), IDs: [][]byte{v("id_ci"), v("id_cr")}, Rest: v("rest")}
		for _, f := range []QuickForm{QuickStandard, QuickBodies, QuickRFC} {
			check("hash_1_"+f.String(), q.Sum(f))
			if got, ok := q.Form(q.Sum(f)); !ok || got != f {
				t.Errorf("HASH_1 of the form %s is taken for %s", f, got)
			}
		}
		q.Nr, q.Rest = v("qr"), v("rest2")
		for _, f := range []QuickForm{QuickStandard, QuickBodies, QuickRFC} {
			check("hash_2_"+f.String(), q.Sum(f))
		}
		check("hash_3", q.Third())
		if _, ok := q.Form(q.Third()); ok {
			t.Error("HASH_3 passes for HASH_2")
		}
		check("info", InformationalHash(h, k.A, id, v("rest")))
		spi := ipsec.SPI(binary.BigEndian.Uint32(v("spi")))
		check("keymat", Keymat(h, k.D, secret.Key{}, message.ProtocolESP, spi, v("qi"), v("qr"), 48).Bytes())
		check("keymat_gcm", Keymat(h, k.D, secret.Key{}, message.ProtocolESP, spi, v("qi"), v("qr"), 20).Bytes())
		check("keymat_ah", Keymat(h, k.D, secret.Key{}, message.ProtocolAH, spi, v("qi"), v("qr"), 32).Bytes())
		k.Wipe()
		if !bytes.Equal(k.D.Bytes(), make([]byte, 32)) || !bytes.Equal(k.ID.Bytes(), make([]byte, 32)) {
			t.Error("keys are there after Wipe")
		}
	}
}

// TestLongEncryptionKey feeds a key longer than SKEYID_e: K1 = prf(SKEYID_e, 0),
// K2 = prf(SKEYID_e, K1) (RFC 2409, Appendix B).
func TestLongEncryptionKey(t *testing.T) {
	h := mustHash(t, ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA1})
	e := secret.Copy(bytes.Repeat([]byte{5}, 20))
	got, err := EncryptionKey(h, e, ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 256})
	if err != nil {
		t.Fatal(err)
	}
	k1 := h.Sum(e.Bytes(), []byte{0})
	if want := append(k1, h.Sum(e.Bytes(), k1)...)[:32]; !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%x, want %x", got.Bytes(), want)
	}
	if _, err := EncryptionKey(h, e, ipsec.Transform{Type: ipsec.TypeEncr, ID: 9999}); err == nil {
		t.Error("a key for an unknown cipher")
	}
	if _, err := NewHash(ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFAESXCBC}); err == nil {
		t.Error("AES-XCBC has a hash")
	}
}
