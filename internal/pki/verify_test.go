package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/dn"
	"caponier/internal/keystore"
)

// forge makes certificates with openssl, good ones and bad ones.
type forge struct {
	t   testing.TB
	dir string
}

func newForge(t testing.TB) forge {
	f := forge{t, t.TempDir()}
	// Without a configuration of its own openssl adds extensions of its choice.
	conf := "[req]\ndistinguished_name=dn\nstring_mask=utf8only\n[dn]\n"
	if err := os.WriteFile(f.path("conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f forge) path(name string) string { return filepath.Join(f.dir, name) }

// order is a certificate to forge.
type order struct {
	name   string
	issuer string   // empty: self-signed
	key    string   // openssl's -newkey; empty: ec
	days   string   // empty: 100
	args   []string // more arguments of openssl req
	ext    []string
}

var (
	caExt   = []string{"basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash"}
	leafExt = []string{"basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", "subjectAltName=DNS:agw.example"}
)

func (f forge) make(o order) *x509.Certificate {
	f.t.Helper()
	args := []string{
		"req", "-x509", "-config", f.path("conf"), "-nodes", "-subj", "/C=FI/O=netsecvpn/CN=" + o.name,
		"-keyout", f.path(o.name + ".key"), "-out", f.path(o.name + ".pem"),
	}
	if o.days == "" {
		o.days = "100"
	}
	args = append(args, "-days", o.days)
	if o.key == "" {
		o.key = "ec"
	}
	args = append(args, "-newkey", o.key)
	if o.key == "ec" {
		args = append(args, "-pkeyopt", "ec_paramgen_curve:P-256")
	}
	if o.issuer != "" {
		args = append(args, "-CA", f.path(o.issuer+".pem"), "-CAkey", f.path(o.issuer+".key"))
	}
	for _, e := range o.ext {
		args = append(args, "-addext", e)
	}
	run(f.t, "openssl", append(args, o.args...)...)
	certs, err := LoadCertificates(f.path(o.name + ".pem"))
	if err != nil {
		f.t.Fatal(err)
	}
	return certs[0]
}

func verifier(t testing.TB, pin *x509.Certificate, anchors ...*x509.Certificate) *Verifier {
	t.Helper()
	v, err := NewVerifier(anchors, pin)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func raws(certs ...*x509.Certificate) [][]byte {
	var out [][]byte
	for _, c := range certs {
		out = append(out, c.Raw)
	}
	return out
}

// wantCode checks that err is an *Error with the code, and fit for an operator.
func wantCode(t *testing.T, what string, key crypto.PublicKey, err error, code Code) {
	t.Helper()
	if code == "" {
		if err != nil || key == nil {
			t.Errorf("%s: refused: %v", what, err)
		}
		return
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != code || key != nil {
		t.Errorf("%s: error %v (%+v), want code %s", what, err, e, code)
		return
	}
	if e.Cure() == "" || e.Error() == "" || strings.ContainsAny(e.Error(), "\n\x1b") {
		t.Errorf("%s: error %q, cure %q", what, e.Error(), e.Cure())
	}
}

// Chains that openssl makes, and openssl accepts, are accepted.
func TestVerifyOpenSSLChains(t *testing.T) {
	for _, key := range []string{"rsa:2048", "ec", "ed25519"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			f := newForge(t)
			root := f.make(order{name: "root", key: key, ext: caExt})
			sub := f.make(order{name: "sub", issuer: "root", key: key, ext: caExt})
			leaf := f.make(order{name: "agw", issuer: "sub", key: key, ext: leafExt})
			run(t, "openssl", "verify", "-CAfile", f.path("root.pem"), "-untrusted", f.path("sub.pem"), f.path("agw.pem"))

			now := time.Now()
			id := leaf.RawSubject
			for name, tt := range map[string]struct {
				v     *Verifier
				chain [][]byte
				code  Code
			}{
				"complete":                 {verifier(t, nil, root), raws(leaf, sub), ""},
				"with the root":            {verifier(t, nil, root), raws(leaf, sub, root), ""},
				"in another order":         {verifier(t, nil, root), raws(leaf, root, sub), ""},
				"repeated":                 {verifier(t, nil, root), raws(leaf, leaf, sub, sub), ""},
				"intermediate as anchor":   {verifier(t, nil, sub), raws(leaf), ""},
				"intermediate configured":  {verifier(t, nil, root, sub), raws(leaf), ""},
				"intermediate missing":     {verifier(t, nil, root), raws(leaf), CodeUnknownCA},
				"intermediate first":       {verifier(t, nil, root), raws(sub, leaf), CodeKeyUsage},
				"pinned":                   {verifier(t, leaf, root), raws(leaf, sub), ""},
				"pinned, no anchor":        {verifier(t, leaf), raws(leaf), ""},
				"pinned, path missing":     {verifier(t, leaf, root), raws(leaf), CodeUnknownCA},
				"another one pinned":       {verifier(t, sub, root), raws(leaf, sub), CodePinMismatch},
				"root as peer":             {verifier(t, nil, root), raws(root), CodeAnchorAsPeer},
				"root as peer, no signing": {verifier(t, root, root), raws(root), CodeKeyUsage},
			} {
				got, err := tt.v.Verify(tt.chain, idDERASN1DN, id, now)
				wantCode(t, name, got, err, tt.code)
				if pub, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); err == nil && (!ok || !pub.Equal(got)) {
					t.Errorf("%s: another key than the certificate's", name)
				}
			}
		})
	}
}

func TestVerifyTime(t *testing.T) {
	f := newForge(t)
	root := f.make(order{name: "root", days: "30", ext: caExt})
	sub := f.make(order{name: "sub", issuer: "root", days: "10", ext: caExt})
	leaf := f.make(order{name: "agw", issuer: "sub", days: "20", ext: leafExt})
	short := f.make(order{name: "short", issuer: "root", days: "5", ext: leafExt})
	v := verifier(t, nil, root)
	day := 24 * time.Hour
	for name, tt := range map[string]struct {
		chain [][]byte
		id    []byte
		now   time.Time
		code  Code
		who   string
	}{
		"first second":         {raws(short), short.RawSubject, short.NotBefore, "", ""},
		"before":               {raws(short), short.RawSubject, short.NotBefore.Add(-time.Second), CodeNotYetValid, "CN=short"},
		"last second":          {raws(short), short.RawSubject, short.NotAfter, "", ""},
		"after":                {raws(short), short.RawSubject, short.NotAfter.Add(time.Second), CodeExpired, "CN=short"},
		"no time":              {raws(short), short.RawSubject, time.Time{}, CodeNotYetValid, "CN=short"},
		"intermediate expired": {raws(leaf, sub), leaf.RawSubject, leaf.NotBefore.Add(15 * day), CodeExpired, "CN=sub"},
		"all":                  {raws(leaf, sub), leaf.RawSubject, leaf.NotBefore.Add(50 * day), CodeExpired, "CN=agw"},
	} {
		key, err := v.Verify(tt.chain, idDERASN1DN, tt.id, tt.now)
		wantCode(t, name, key, err, tt.code)
		if e, ok := errors.AsType[*Error](err); ok && !strings.Contains(e.Subject, tt.who) {
			t.Errorf("%s: %q is blamed", name, e.Subject)
		}
	}
	// A root that ends before what it issued.
	old := f.make(order{name: "old", days: "3", ext: caExt})
	young := f.make(order{name: "young", issuer: "old", days: "20", ext: leafExt})
	key, err := verifier(t, nil, old).Verify(raws(young), idDERASN1DN, young.RawSubject, young.NotBefore.Add(5*day))
	wantCode(t, "root expired", key, err, CodeExpired)
}

func TestVerifyRefusesBadChains(t *testing.T) {
	f := newForge(t)
	root := f.make(order{name: "root", ext: caExt})
	leaf := f.make(order{name: "agw", issuer: "root", ext: leafExt})
	with := func(ext ...string) []string { return append([]string{"basicConstraints=critical,CA:FALSE"}, ext...) }

	// An authority of the same name with another key.
	g := newForge(t)
	twin := g.make(order{name: "root", ext: caExt})
	other := g.make(order{name: "other", ext: caExt})

	// A leaf that issues.
	byLeaf := f.make(order{name: "byleaf", issuer: "agw", ext: leafExt})
	// An authority that may not sign certificates.
	noSign := f.make(order{name: "nosign", issuer: "root", ext: []string{"basicConstraints=critical,CA:TRUE", "keyUsage=critical,cRLSign"}})
	byNoSign := f.make(order{name: "bynosign", issuer: "nosign", ext: leafExt})
	// A path that is longer than allowed.
	short := f.make(order{name: "short", issuer: "root", ext: []string{"basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign"}})
	below := f.make(order{name: "below", issuer: "short", ext: caExt})
	tooDeep := f.make(order{name: "toodeep", issuer: "below", ext: leafExt})
	// An authority for some names only.
	narrow := f.make(order{name: "narrow", issuer: "root", ext: append([]string{"nameConstraints=critical,permitted;DNS:.inside.example"}, caExt...)})
	outside := f.make(order{name: "outside", issuer: "narrow", ext: leafExt})
	// An authority for other trades.
	coder := f.make(order{name: "coder", issuer: "root", ext: append([]string{"extendedKeyUsage=codeSigning"}, caExt...)})
	byCoder := f.make(order{name: "bycoder", issuer: "coder", ext: leafExt})

	tests := []struct {
		name  string
		chain []*x509.Certificate
		code  Code
	}{
		{"good", []*x509.Certificate{leaf}, ""},
		{"bystanders", []*x509.Certificate{leaf, twin, other}, ""},
		{"self-signed", []*x509.Certificate{f.make(order{name: "self", ext: leafExt})}, CodeUnknownCA},
		{"unknown authority", []*x509.Certificate{g.make(order{name: "agw2", issuer: "other", ext: leafExt}), other}, CodeUnknownCA},
		{"authority of the same name", []*x509.Certificate{g.make(order{name: "agw3", issuer: "root", ext: leafExt}), twin}, CodeUnknownCA},
		{"issued by a leaf", []*x509.Certificate{byLeaf, leaf}, CodeNotCA},
		{"issued without keyCertSign", []*x509.Certificate{byNoSign, noSign}, CodeNotCA},
		{"path length", []*x509.Certificate{tooDeep, below, short}, CodePathLength},
		{"name constraint", []*x509.Certificate{outside, narrow}, CodeNameConstraint},
		{"critical extension", []*x509.Certificate{f.make(order{name: "critical", issuer: "root", ext: append([]string{"1.2.3.4=critical,ASN1:NULL"}, leafExt...)})}, CodeCriticalExtension},
		{"extension", []*x509.Certificate{f.make(order{name: "noncritical", issuer: "root", ext: append([]string{"1.2.3.4=ASN1:NULL"}, leafExt...)})}, ""},
		{"no key usage", []*x509.Certificate{f.make(order{name: "ku0", issuer: "root", ext: with()})}, ""},
		{"nonRepudiation", []*x509.Certificate{f.make(order{name: "ku1", issuer: "root", ext: with("keyUsage=nonRepudiation")})}, ""},
		{"keyEncipherment", []*x509.Certificate{f.make(order{name: "ku2", issuer: "root", ext: with("keyUsage=keyEncipherment")})}, CodeKeyUsage},
		{"ipsecIKE", []*x509.Certificate{f.make(order{name: "eku1", issuer: "root", ext: with("extendedKeyUsage=critical,ipsecIKE")})}, ""},
		{"anyExtendedKeyUsage", []*x509.Certificate{f.make(order{name: "eku2", issuer: "root", ext: with("extendedKeyUsage=anyExtendedKeyUsage")})}, ""},
		{"serverAuth", []*x509.Certificate{f.make(order{name: "eku3", issuer: "root", ext: with("extendedKeyUsage=serverAuth")})}, ""},
		{"clientAuth and others", []*x509.Certificate{f.make(order{name: "eku4", issuer: "root", ext: with("extendedKeyUsage=codeSigning,clientAuth,1.2.3")})}, ""},
		{"codeSigning", []*x509.Certificate{f.make(order{name: "eku5", issuer: "root", ext: with("extendedKeyUsage=codeSigning")})}, CodeKeyUsage},
		{"unknown usage", []*x509.Certificate{f.make(order{name: "eku6", issuer: "root", ext: with("extendedKeyUsage=1.2.3")})}, CodeKeyUsage},
		{"authority for codeSigning", []*x509.Certificate{byCoder, coder}, CodeKeyUsage},
		{"short RSA key", []*x509.Certificate{f.make(order{name: "rsa1", issuer: "root", key: "rsa:1024", ext: leafExt})}, CodeWeakKey},
	}
	v := verifier(t, nil, root)
	for _, tt := range tests {
		key, err := v.Verify(raws(tt.chain...), idDERASN1DN, tt.chain[0].RawSubject, time.Now())
		wantCode(t, tt.name, key, err, tt.code)
	}
}

func TestVerifyWeakSignature(t *testing.T) {
	f := newForge(t)
	root := f.make(order{name: "root", key: "rsa:2048", ext: caExt})
	leaf := f.make(order{name: "agw", issuer: "root", key: "rsa:2048", ext: leafExt, args: []string{"-sha1"}})
	key, err := verifier(t, nil, root).Verify(raws(leaf), idDERASN1DN, leaf.RawSubject, time.Now())
	wantCode(t, "SHA-1", key, err, CodeWeakSignature)
}

func TestVerifyLimits(t *testing.T) {
	f := newForge(t)
	root := f.make(order{name: "root", ext: caExt})
	leaf := f.make(order{name: "agw", issuer: "root", ext: leafExt})
	v := verifier(t, nil, root)
	many := raws(leaf)
	for len(many) <= MaxChain {
		many = append(many, root.Raw)
	}
	for name, tt := range map[string]struct {
		chain [][]byte
		code  Code
	}{
		"most":           {many[:MaxChain], ""},
		"too many":       {many, CodeTooMany},
		"none":           {nil, CodeNoCertificate},
		"empty":          {[][]byte{{}}, CodeMalformed},
		"too large":      {[][]byte{make([]byte, MaxCertificate+1)}, CodeTooLarge},
		"noise behind":   {[][]byte{append(bytes.Clone(leaf.Raw), 0)}, CodeMalformed},
		"broken one too": {[][]byte{leaf.Raw, {0x30, 0x80}}, CodeMalformed},
	} {
		key, err := v.Verify(tt.chain, idDERASN1DN, leaf.RawSubject, time.Now())
		wantCode(t, name, key, err, tt.code)
	}
	for n := range leaf.Raw {
		key, err := v.Verify([][]byte{leaf.Raw[:n]}, idDERASN1DN, leaf.RawSubject, time.Now())
		wantCode(t, "truncated", key, err, CodeMalformed)
	}
	for i := range leaf.Raw {
		broken := bytes.Clone(leaf.Raw)
		broken[i] ^= 0x01
		if key, err := v.Verify([][]byte{broken}, idDERASN1DN, leaf.RawSubject, time.Now()); err == nil || key != nil {
			t.Fatalf("accepted with octet %d changed", i)
		}
	}
	// A modulus that takes seconds to check.
	signer, err := keystore.Open(f.path("root.key"))
	if err != nil {
		t.Fatal(err)
	}
	modulus := new(big.Int).Add(new(big.Int).Lsh(big.NewInt(1), maxRSA), big.NewInt(1))
	long, err := x509.CreateCertificate(rand.Reader, leaf, root, &rsa.PublicKey{N: modulus, E: 65537}, signer)
	if err != nil {
		t.Fatal(err)
	}
	key, err := v.Verify([][]byte{long}, idDERASN1DN, leaf.RawSubject, time.Now())
	wantCode(t, "long RSA key", key, err, CodeWeakKey)
}

func TestVerifyIdentity(t *testing.T) {
	f := newForge(t)
	root := f.make(order{name: "root", ext: caExt})
	leaf := f.make(order{name: "agw", issuer: "root", ext: []string{
		"keyUsage=digitalSignature",
		"subjectAltName=DNS:agw.Example,DNS:*.wild.example,IP:192.0.2.2,IP:2001:db8::2,email:Admin@agw.example",
	}})
	nameless := f.make(order{name: "nameless", issuer: "root", args: []string{"-subj", "/"}, ext: []string{"subjectAltName=critical,DNS:nameless.example"}})
	parse := func(s string) []byte {
		der, err := dn.ParseDN(s)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	addr := func(s string) []byte { return netip.MustParseAddr(s).AsSlice() }
	tests := []struct {
		name string
		kind uint8
		data []byte
		ok   bool
	}{
		{"subject", idDERASN1DN, leaf.RawSubject, true},
		{"subject in other strings", idDERASN1DN, parse("C=fi, O=#130a4e65745365635650" + "4e20, CN=AGW"), true},
		{"subject in PrintableString", idDERASN1DN, parse("C=FI, O=#13096e6574736563" + "76706e, CN=AGW"), true},
		{"other subject", idDERASN1DN, parse("C=FI, O=netsecvpn, CN=cloudgw"), false},
		{"part of the subject", idDERASN1DN, parse("CN=agw"), false},
		{"wildcard", idDERASN1DN, parse("C=FI, O=netsecvpn, CN=*"), false},
		{"subject of the issuer", idDERASN1DN, root.RawSubject, false},
		{"empty subject", idDERASN1DN, []byte{0x30, 0}, false},
		{"malformed subject", idDERASN1DN, leaf.RawSubject[:10], false},
		{"host", idFQDN, []byte("agw.example"), true},
		{"host in capitals", idFQDN, []byte("AGW.EXAMPLE"), true},
		{"common name", idFQDN, []byte("agw"), false},
		{"other host", idFQDN, []byte("cloudgw.example"), false},
		{"host and NUL", idFQDN, []byte("agw.example\x00"), false},
		{"wildcard host", idFQDN, []byte("a.wild.example"), false},
		{"no host", idFQDN, nil, false},
		{"KELVIN SIGN", idFQDN, []byte("agw.examp\u212ae"), false},
		{"mail", idRFC822, []byte("Admin@AGW.example"), true},
		{"other case of the mailbox", idRFC822, []byte("admin@agw.example"), false},
		{"host as mail", idRFC822, []byte("agw.example"), false},
		{"mail as host", idFQDN, []byte("Admin@agw.example"), false},
		{"IPv4", idIPv4Addr, addr("192.0.2.2"), true},
		{"other IPv4", idIPv4Addr, addr("192.0.2.3"), false},
		{"IPv6", idIPv6Addr, addr("2001:db8::2"), true},
		{"IPv4 of wrong type", idIPv6Addr, addr("192.0.2.2"), false},
		{"IPv4 in IPv6", idIPv6Addr, addr("::ffff:192.0.2.2"), false},
		{"IPv4 of wrong length", idIPv4Addr, []byte{192, 0, 2}, false},
		{"key id", idKeyID, leaf.SubjectKeyId, false},
		{"unknown type", 99, leaf.RawSubject, false},
		{"no type", 0, nil, false},
	}
	now := time.Now()
	v, pinned := verifier(t, nil, root), verifier(t, leaf, root)
	for _, tt := range tests {
		code := CodeIdentityMismatch
		if tt.ok {
			code = ""
		}
		key, err := v.Verify(raws(leaf), tt.kind, tt.data, now)
		wantCode(t, tt.name, key, err, code)
		if tt.kind == idKeyID {
			code = ""
		}
		key, err = pinned.Verify(raws(leaf), tt.kind, tt.data, now)
		wantCode(t, tt.name+", pinned", key, err, code)
	}
	key, err := v.Verify(raws(nameless), idFQDN, []byte("nameless.example"), now)
	wantCode(t, "certificate without a subject", key, err, "")
	key, err = v.Verify(raws(nameless), idDERASN1DN, nameless.RawSubject, now)
	wantCode(t, "empty subject for an empty name", key, err, CodeIdentityMismatch)
}

// A peer that is its own authority, as two gateways without a PKI do.
func TestVerifyPinnedSelfSigned(t *testing.T) {
	f := newForge(t)
	self := f.make(order{name: "self", ext: leafExt})
	other := f.make(order{name: "self2", ext: leafExt})
	v := verifier(t, self)
	if n := len(v.Authorities()); n != 0 {
		t.Errorf("%d authorities", n)
	}
	key, err := v.Verify(raws(self), idDERASN1DN, self.RawSubject, time.Now())
	wantCode(t, "pinned", key, err, "")
	key, err = v.Verify(raws(other), idDERASN1DN, other.RawSubject, time.Now())
	wantCode(t, "not pinned", key, err, CodePinMismatch)
	key, err = v.Verify(raws(self), idDERASN1DN, self.RawSubject, self.NotAfter.Add(time.Hour))
	wantCode(t, "pinned and expired", key, err, CodeExpired)
}

func TestNewVerifierRefuses(t *testing.T) {
	if _, err := NewVerifier(nil, nil); err == nil {
		t.Error("a verifier that trusts nobody, and therefore perhaps everybody")
	}
	f := newForge(t)
	leaf := f.make(order{name: "agw", ext: leafExt})
	if _, err := NewVerifier([]*x509.Certificate{leaf}, nil); err == nil || !strings.Contains(err.Error(), "CN=agw") {
		t.Errorf("leaf as an anchor: %v", err)
	}
}

// The hash in CERTREQ is that of the public key as openssl writes it.
func TestAuthorityHash(t *testing.T) {
	f := newForge(t)
	root := f.make(order{name: "root", key: "rsa:2048", ext: caExt})
	run(t, "openssl", "pkey", "-in", f.path("root.key"), "-pubout", "-outform", "DER", "-out", f.path("spki"))
	spki, err := os.ReadFile(f.path("spki"))
	if err != nil {
		t.Fatal(err)
	}
	want := sha1.Sum(spki)
	got := verifier(t, nil, root).Authorities()
	if len(got) != 1 || !bytes.Equal(got[0], want[:]) {
		t.Errorf("Authorities() = %x, want %x", got, want)
	}
	// So does strongSwan, which is to recognize it.
	if out := run(t, "pki", "--print", "--in", f.path("root.pem")); !strings.Contains(strings.ReplaceAll(out, ":", ""), hex.EncodeToString(want[:])) {
		t.Errorf("pki does not show %x in\n%s", want, out)
	}
}

func FuzzVerify(f *testing.F) {
	fo := newForge(f)
	root := fo.make(order{name: "root", ext: caExt})
	leaf := fo.make(order{name: "agw", issuer: "root", ext: leafExt})
	v := verifier(f, nil, root)
	f.Add(leaf.Raw, root.Raw, idDERASN1DN, leaf.RawSubject)
	f.Add(leaf.Raw, []byte{}, idFQDN, []byte("agw.example"))
	now := time.Now()
	f.Fuzz(func(t *testing.T, a, b []byte, kind uint8, data []byte) {
		key, err := v.Verify([][]byte{a, b}, kind, data, now)
		if err != nil {
			e, ok := errors.AsType[*Error](err)
			if !ok || key != nil || strings.ContainsAny(e.Error(), "\n\x1b") {
				t.Fatalf("key %v, error %q", key, err)
			}
			return
		}
		if !bytes.Equal(a, leaf.Raw) {
			t.Fatal("accepted a certificate that was not issued")
		}
	})
}
