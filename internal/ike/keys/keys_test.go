package keys

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"caponier/internal/ipsec"
	"caponier/internal/secret"
	"caponier/internal/suite"
)

// hmacSHA1 is the PRF of the NIST vectors below.
var hmacSHA1 = mustPRF(ipsec.PRFHMACSHA1)

func mustPRF(id uint16) suite.PRF {
	prf, err := suite.NewPRF(ipsec.Transform{Type: ipsec.TypePRF, ID: id})
	if err != nil {
		panic(err)
	}
	return prf
}

var (
	gcm128 = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESGCM16, KeyBits: 128}
	cbc128 = ipsec.Transform{Type: ipsec.TypeEncr, ID: ipsec.EncrAESCBC, KeyBits: 128}
	mac256 = ipsec.Transform{Type: ipsec.TypeInteg, ID: ipsec.IntegHMACSHA256128}
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func concat(keys ...secret.Key) []byte {
	var out []byte
	for _, k := range keys {
		out = append(out, k.Bytes()...)
	}
	return out
}

// TestNIST runs the first vector for HMAC-SHA-1 of NIST's CAVP file for the key
// derivation of IKEv2 (SP 800-135, ikev2.zip).
func TestNIST(t *testing.T) {
	ni, nr := unhex(t, "3651fef5c9c35e93"), unhex(t, "c09a8b90a3f04d59")
	const spiI, spiR = 0x8e5c3ae507221684, 0xb1f201bb155c3acd
	shared := secret.New(unhex(t, "d084a30166a50fb7325c3960874a839449ef9741c2f4f947d0201dd8c1269273d79509f37e3ca3eb4fa2fe2a28254e28"+
		"9cd3f34dad4eb4df1a07685a4b8a94fa61e2491f7598b3ce65547ff133b3f63d1ac4175eaa695033f3cedb026a6873a3"+
		"6455172a8540b8a5d23a0143bed0390ee49b168269d75fffee9fb62be965993c"))
	newShared := secret.New(unhex(t, "52f00ab174c25d5b7139ae5ff4e8e9eddee5992d2e36adf8a559ffd90dab1442e4fbe429d320c0f33552a17d1557fa41"+
		"ea70e8fb916c4fa27ed52b5f8ebd8461afa78f1159159a64055ac5f6319e29c28eae58cbc6847770f32c3fed1d047504"+
		"84f854790f95e9ec01bc5bc461f24966462e359511329305038e94deb6dd42c2"))
	dkm := unhex(t, "6f1b12cad3cbe097b35430356d869d54cddb0198ec859174d53ceb92dddedbe2436db69f60977c58fa63bbb667f8d369"+
		"20b109baae8f6c61a9ac49feda01843225d080ec5539d5881a25521ffb2a0a91874a9c0a27fcc2d717eb8963a9e3a89c"+
		"7ab264757284c28cf8c3ca40576f4220b052b1fb8e9ad60ba3c80557323331a8cbb89f20")
	childDKM := unhex(t, "4727dc0ef94eb326ce131cf282fb652faa638ad0ddae3786a11bcc0309876009f8c485de011ad962c5b1ca8a41ff8145"+
		"445749079c5686e26ffebbc342f06981f3da745e11ca0976424d1f8caec623d59dc7186deb20a27b411d1dcb70a36544"+
		"0bf7de905088b0692e8addc094e18d1939bdb67e89798ca6b239e2ccb81c2409dac0106c")
	childKEDKM := unhex(t, "b109c21ad4c0797768c1cec9e63554681e48f224bca7f23c20c4ea7041983451e9aa1d5408656c8a975ff1b9d9a12c75"+
		"ffeb64bdecb30174664cccb4e14f1c377b7f6d1525af77c7092aac3e47f917ebae8297fb5539d2008ce830823a09cc19"+
		"7361d4a289c72745f6ce9fefe812be5bf55b3200fbb82e41a4a40877d3fe106db909707b")

	prf := hmacSHA1
	seed := Seed(prf, ni, nr, shared)
	if want := unhex(t, "cd2e8050137832245f1dbacc6e4f0a92f94d45d6"); !bytes.Equal(seed.Bytes(), want) {
		t.Fatalf("SKEYSEED %x, want %x", seed.Bytes(), want)
	}
	k, err := DeriveIKE(prf, seed, ni, nr, spiI, spiR, gcm128, ipsec.Transform{})
	if err != nil {
		t.Fatal(err)
	}
	got := concat(k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr)
	if len(got) != 100 || !bytes.Equal(got, dkm[:100]) {
		t.Errorf("keys of the IKE SA %x, want %x", got, dkm[:100])
	}
	for _, tt := range []struct {
		name   string
		shared secret.Key
		want   []byte
	}{{"without KE", secret.Key{}, childDKM}, {"with KE", newShared, childKEDKM}} {
		c, err := DeriveChild(prf, k.D, tt.shared, ni, nr, cbc128, mac256)
		if err != nil {
			t.Fatal(err)
		}
		if got := concat(c.Ei, c.Ai, c.Er, c.Ar); len(got) != 96 || !bytes.Equal(got, tt.want[:96]) {
			t.Errorf("%s: keys of the CHILD SA %x, want %x", tt.name, got, tt.want[:96])
		}
		if c.Ei.Len() != 16 || c.Ai.Len() != 32 || c.Er.Len() != 16 || c.Ar.Len() != 32 {
			t.Errorf("%s: wrong lengths %d %d %d %d", tt.name, c.Ei.Len(), c.Ai.Len(), c.Er.Len(), c.Ar.Len())
		}
	}
	all, err := PRFPlus(prf, k.D.Bytes(), len(childDKM), ni, nr)
	if err != nil || !bytes.Equal(all, childDKM) {
		t.Errorf("prf+ %x, %v, want %x", all, err, childDKM)
	}
	rekeyed := RekeySeed(prf, k.D, newShared, ni, nr)
	if want := unhex(t, "3b03bce748c96d5e8306918d2ff89b68f0648da3"); !bytes.Equal(rekeyed.Bytes(), want) {
		t.Errorf("SKEYSEED of the rekeyed SA %x, want %x", rekeyed.Bytes(), want)
	}
}

// TestSeedOfFixedKeyPRFs covers the two PRFs whose SKEYSEED takes 64 bits of
// each nonce, and only there (RFC 7296, Section 2.14).
func TestSeedOfFixedKeyPRFs(t *testing.T) {
	ni, nr := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	shared, d := secret.Copy([]byte("shared")), secret.Copy(bytes.Repeat([]byte{3}, 16))
	for _, tt := range []struct {
		name string
		id   uint16
		all  bool
	}{
		{"HMAC-SHA-1", ipsec.PRFHMACSHA1, true},
		{"HMAC-SHA-256", ipsec.PRFHMACSHA256, true},
		{"AES-XCBC", ipsec.PRFAESXCBC, false},
		{"AES-CMAC", ipsec.PRFAESCMAC, false},
	} {
		prf := mustPRF(tt.id)
		want := prf.Sum(slices.Concat(ni[:8], nr[:8]), shared.Bytes())
		if got := bytes.Equal(Seed(prf, ni, nr, shared).Bytes(), want); got == tt.all {
			t.Errorf("%s: 64 bits of each nonce: %v", tt.name, got)
		}
		if same := Seed(prf, ni, nr, shared).Equal(Seed(prf, changed(ni, 8), changed(nr, 8), shared)); same == tt.all {
			t.Errorf("%s: SKEYSEED is the same whatever stands behind the first 64 bits: %v", tt.name, same)
		}
		if RekeySeed(prf, d, shared, ni, nr).Equal(RekeySeed(prf, d, shared, ni, changed(nr, 8))) {
			t.Errorf("%s: SKEYSEED of a rekeyed SA does not take all of the nonces", tt.name)
		}
		if Seed(prf, ni, nr, shared).Equal(Seed(prf, changed(ni, 7), nr, shared)) ||
			Seed(prf, ni, nr, shared).Equal(Seed(prf, ni, changed(nr, 7), shared)) {
			t.Errorf("%s: SKEYSEED does not depend on the first 64 bits", tt.name)
		}
		before, err := DeriveIKE(prf, d, ni, nr, 1, 2, gcm128, ipsec.Transform{})
		if err != nil {
			t.Fatal(err)
		}
		after, err := DeriveIKE(prf, d, ni, changed(nr, 8), 1, 2, gcm128, ipsec.Transform{})
		if err != nil {
			t.Fatal(err)
		}
		if before.D.Equal(after.D) {
			t.Errorf("%s: prf+ does not take all of the nonces", tt.name)
		}
		// Nonces shorter than the RFC allows must not panic.
		Seed(prf, []byte{1}, nil, shared)
	}
}

// changed returns b with octet i changed.
func changed(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 1
	return b
}

func TestPRFPlusLengths(t *testing.T) {
	prf := hmacSHA1
	longest, err := PRFPlus(prf, []byte("key"), 255*20, []byte("seed"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 64 {
		got, err := PRFPlus(prf, []byte("key"), n, []byte("se"), nil, []byte("ed"))
		if err != nil || !bytes.Equal(got, longest[:n]) || cap(got) != n {
			t.Errorf("%d octets: %x, %v", n, got, err)
		}
	}
	if _, err := PRFPlus(prf, []byte("key"), 255*20+1, []byte("seed")); !errors.Is(err, ErrTooLong) {
		t.Errorf("one octet more than 255 blocks: %v", err)
	}
}

func TestLengthsAndWipe(t *testing.T) {
	prf, err := suite.NewPRF(ipsec.Transform{Type: ipsec.TypePRF, ID: ipsec.PRFHMACSHA384})
	if err != nil {
		t.Fatal(err)
	}
	seed := secret.Copy(bytes.Repeat([]byte{7}, 48))
	k, err := DeriveIKE(prf, seed, []byte("ni"), []byte("nr"), 1, 2, cbc128, mac256)
	if err != nil {
		t.Fatal(err)
	}
	all := []secret.Key{k.D, k.Ai, k.Ar, k.Ei, k.Er, k.Pi, k.Pr}
	var lengths []int
	for _, key := range all {
		lengths = append(lengths, key.Len())
	}
	if want := []int{48, 32, 32, 16, 16, 48, 48}; !slices.Equal(lengths, want) {
		t.Errorf("lengths %v, want %v", lengths, want)
	}
	k.Ei.Wipe()
	if bytes.Equal(k.Er.Bytes(), make([]byte, 16)) {
		t.Error("wiping one key wiped another")
	}
	k.Wipe()
	for i, key := range all {
		if !bytes.Equal(key.Bytes(), make([]byte, key.Len())) {
			t.Errorf("key %d is there after Wipe", i)
		}
	}
	c, err := DeriveChild(prf, seed, secret.Key{}, []byte("ni"), []byte("nr"), gcm128, ipsec.Transform{})
	if err != nil {
		t.Fatal(err)
	}
	if c.Ei.Len() != 20 || !c.Ai.IsZero() || !c.Ar.IsZero() || c.Ei.Equal(c.Er) {
		t.Errorf("AES-GCM: lengths %d %d %d", c.Ei.Len(), c.Ai.Len(), c.Ar.Len())
	}
	c.Wipe()
	if !bytes.Equal(c.Er.Bytes(), make([]byte, 20)) {
		t.Error("key is there after Wipe")
	}
}

func TestUnknownTransform(t *testing.T) {
	bad := ipsec.Transform{Type: ipsec.TypeEncr, ID: 999}
	if _, err := DeriveIKE(hmacSHA1, secret.Key{}, nil, nil, 1, 2, bad, mac256); !errors.Is(err, suite.ErrUnknown) {
		t.Errorf("DeriveIKE: %v", err)
	}
	if _, err := DeriveChild(hmacSHA1, secret.Key{}, secret.Key{}, nil, nil, cbc128, ipsec.Transform{}); !errors.Is(err, suite.ErrUnknown) {
		t.Errorf("DeriveChild: %v", err)
	}
}

func TestNATDetection(t *testing.T) {
	want := sha1.Sum(unhex(t, "0102030405060708"+"0000000000000000"+"c0000201"+"01f4"))
	got := NATDetection(0x0102030405060708, 0, netip.MustParseAddrPort("192.0.2.1:500"))
	if !bytes.Equal(got, want[:]) {
		t.Errorf("IPv4: %x, want %x", got, want)
	}
	mapped := NATDetection(0x0102030405060708, 0, netip.MustParseAddrPort("[::ffff:192.0.2.1]:500"))
	if !bytes.Equal(mapped, want[:]) {
		t.Errorf("IPv4-mapped: %x, want %x", mapped, want)
	}
	want = sha1.Sum(unhex(t, "0102030405060708"+"1112131415161718"+"20010db8000000000000000000000001"+"1194"))
	got = NATDetection(0x0102030405060708, 0x1112131415161718, netip.MustParseAddrPort("[2001:db8::1]:4500"))
	if !bytes.Equal(got, want[:]) {
		t.Errorf("IPv6: %x, want %x", got, want)
	}
}
