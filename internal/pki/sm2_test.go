package pki

import (
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"caponier/internal/keystore"
)

// dual makes an authority of SM2 and the two certificates of agw.
func dual(t testing.TB) (dir string, ca, sign, encrypt *x509.Certificate) {
	t.Helper()
	dir = initCA(t, SM2)
	certs, err := LoadCertificates(filepath.Join(dir, RootName+".pem"))
	if err != nil {
		t.Fatal(err)
	}
	sign, encrypt, err = IssueDual(dir, "agw", agw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return dir, certs[0], sign, encrypt
}

func TestDual(t *testing.T) {
	dir, ca, sign, encrypt := dual(t)
	v := verifier(t, nil, ca)
	id := sign.RawSubject
	now := time.Now()
	signKey, encryptKey, err := v.VerifyDual(sign.Raw, encrypt.Raw, nil, idDERASN1DN, id, now)
	if err != nil || !signKey.Equal(sign.PublicKey) || !encryptKey.Equal(encrypt.PublicKey) {
		t.Fatalf("the pair is refused: %v", err)
	}
	key, err := v.Verify(raws(sign), idDERASN1DN, id, now)
	wantCode(t, "alone, for signatures", key, err, "")
	key, err = v.Verify(raws(encrypt), idDERASN1DN, id, now)
	wantCode(t, "encryption certificate, for signatures", key, err, CodeKeyUsage)

	request := agw
	request.Subject = "C=FI, O=netsecvpn, CN=bgw"
	signB, encryptB, err := IssueDual(dir, "bgw", request, now)
	if err != nil {
		t.Fatal(err)
	}
	_, _, signOther, encryptOther := dual(t)
	plain, err := Issue(dir, "plain", Request{Subject: agw.Subject, Key: SM2}, now)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := Issue(dir, "p256", Request{Subject: agw.Subject, Key: ECDSAP256}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name          string
		sign, encrypt []byte
		id            []byte
		now           time.Time
		code          Code
	}{
		{"the same twice", sign.Raw, sign.Raw, id, now, CodeKeyUsage},
		{"exchanged", encrypt.Raw, sign.Raw, id, now, CodeKeyUsage},
		{"encryption twice", encrypt.Raw, encrypt.Raw, id, now, CodeKeyUsage},
		{"encryption of another", sign.Raw, encryptB.Raw, id, now, CodeIdentityMismatch},
		{"of another identity", signB.Raw, encryptB.Raw, id, now, CodeIdentityMismatch},
		{"of another authority", signOther.Raw, encryptOther.Raw, id, now, CodeUnknownCA},
		{"encryption of another authority", sign.Raw, encryptOther.Raw, id, now, CodeUnknownCA},
		{"encryption with another usage", sign.Raw, plain.Raw, id, now, CodeKeyUsage},
		{"signature key of ECDSA", p256.Raw, encrypt.Raw, id, now, CodeWeakKey},
		{"malformed", sign.Raw[:99], encrypt.Raw, id, now, CodeMalformed},
		{"late", sign.Raw, encrypt.Raw, id, now.AddDate(9, 0, 0), CodeExpired},
	} {
		s, e, err := v.VerifyDual(tt.sign, tt.encrypt, nil, idDERASN1DN, tt.id, tt.now)
		if s != nil || e != nil {
			t.Errorf("%s: keys are returned", tt.name)
		}
		wantCode(t, tt.name, nil, err, tt.code)
	}
}

func TestIssueDualIsWholeOrNot(t *testing.T) {
	dir := initCA(t, SM2)
	if err := os.WriteFile(filepath.Join(dir, "agw"+EncryptSuffix+".pem"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := IssueDual(dir, "agw", agw, time.Now()); !errors.Is(err, ErrExists) {
		t.Errorf("error %v", err)
	}
	for _, ext := range []string{".key", ".pem"} {
		if _, err := os.Lstat(filepath.Join(dir, "agw"+SignSuffix+ext)); err == nil {
			t.Errorf("half a pair is left: %s", ext)
		}
	}
	if _, _, err := IssueDual(dir, "bgw", Request{Subject: "CN=b", Key: RSA2048}, time.Now()); !errors.Is(err, ErrRequest) {
		t.Errorf("with RSA: %v", err)
	}
}

func TestRevocation(t *testing.T) {
	for _, kind := range []KeyType{ECDSAP256, SM2} {
		dir := initCA(t, kind)
		r := agw
		r.Key = kind
		now := time.Now()
		c, err := Issue(dir, "agw", r, now)
		if err != nil {
			t.Fatal(err)
		}
		r.Subject = "CN=bgw"
		if _, err := Issue(dir, "bgw", r, now); err != nil {
			t.Fatal(err)
		}
		certs, err := LoadCertificates(filepath.Join(dir, RootName+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		list := func(name string) *x509.RevocationList {
			if _, err := Revoke(dir, name, time.Hour, now); err != nil {
				t.Fatal(err)
			}
			l, err := LoadCRL(filepath.Join(dir, CRLName))
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		empty, both := list(""), list("agw")
		if _, err := Revoke(dir, "agw", time.Hour, now); !errors.Is(err, ErrExists) {
			t.Errorf("%s: revoked twice: %v", kind, err)
		}
		if n := list("bgw"); len(n.RevokedCertificateEntries) != 2 || n.Number.Int64() != 3 {
			t.Errorf("%s: list %v has %d entries", kind, n.Number, len(n.RevokedCertificateEntries))
		}
		foreignDir := initCA(t, kind)
		if _, err := Revoke(foreignDir, "", time.Hour, now); err != nil {
			t.Fatal(err)
		}
		foreign, err := LoadCRL(filepath.Join(foreignDir, CRLName))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name   string
			lists  []*x509.RevocationList
			strict bool
			after  time.Duration
			code   Code
		}{
			{"relaxed, no list", nil, false, 0, ""},
			{"strict, no list", nil, true, 0, CodeRevocationUnknown},
			{"strict, current list", []*x509.RevocationList{empty}, true, 0, ""},
			{"strict, old list", []*x509.RevocationList{empty}, true, 2 * time.Hour, CodeRevocationUnknown},
			{"relaxed, old list", []*x509.RevocationList{empty}, false, 2 * time.Hour, ""},
			{"revoked", []*x509.RevocationList{both}, false, 0, CodeRevoked},
			{"revoked on an old list", []*x509.RevocationList{empty, both}, true, 2 * time.Hour, CodeRevoked},
			{"list of another key of that name", []*x509.RevocationList{foreign}, true, 0, CodeRevocationUnknown},
		} {
			v := verifier(t, nil, certs...).WithRevocation(tt.lists, tt.strict)
			key, err := v.Verify(raws(c), idDERASN1DN, c.RawSubject, now.Add(tt.after))
			wantCode(t, string(kind)+" "+tt.name, key, err, tt.code)
		}
	}
}

func TestRevokeRefuses(t *testing.T) {
	dir := initCA(t, SM2)
	other := initCA(t, SM2)
	if _, err := Issue(other, "agw", agw, time.Now()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(other, "agw.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agw.pem"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"agw", "nobody", "../agw"} {
		if _, err := Revoke(dir, name, time.Hour, time.Now()); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, CRLName)); err == nil {
		t.Error("a list was made")
	}
}

// What one authority exports another imports, and OpenSSL reads what is
// exported.
func TestTransfer(t *testing.T) {
	passphrase := []byte("correct horse battery staple")
	dir, _, _, encrypt := dual(t)
	other := initCA(t, SM2)
	file := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate := filepath.Join(dir, "agw"+EncryptSuffix+".pem")
	for _, tt := range []struct {
		format  Format
		openssl []string
	}{
		{PKCS12, []string{"pkcs12", "-passin", "pass:" + string(passphrase), "-nodes", "-in"}},
		{PKCS8, []string{"pkey", "-passin", "pass:" + string(passphrase), "-in"}},
		{Envelope, nil},
	} {
		name := string(tt.format)
		out := Transfer{Format: tt.format, Passphrase: passphrase, With: "agw" + SignSuffix}
		data, err := Export(dir, "agw"+EncryptSuffix, out)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if tt.openssl != nil {
			if got, err := exec.Command("openssl", append(tt.openssl, file(name, data))...).CombinedOutput(); err != nil {
				t.Errorf("%s: openssl: %v\n%s", name, err, got)
			}
		}
		in := out
		if tt.format != PKCS12 {
			in.Certificate = certificate
		}
		c, err := Import(dir, name, data, in)
		if err != nil || !c.Equal(encrypt) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		key, err := keystore.Open(filepath.Join(dir, name+".key"))
		if err != nil || !sm2Key(encrypt).Equal(key.Public()) {
			t.Errorf("%s: another key came: %v", name, err)
		}
		in.Certificate = filepath.Join(dir, "agw"+SignSuffix+".pem")
		if _, err := Import(dir, name+"2", data, in); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: with another certificate: %v", name, err)
		}
		in.Certificate, in.Passphrase = certificate, []byte("wrong")
		if tt.format != Envelope {
			if _, err := Import(dir, name+"3", data, in); !errors.Is(err, keystore.ErrPassphrase) {
				t.Errorf("%s: with the wrong passphrase: %v", name, err)
			}
		} else {
			in.With = RootName
			if _, err := Import(other, name+"3", data, in); !errors.Is(err, keystore.ErrFormat) {
				t.Errorf("%s: to the wrong key: %v", name, err)
			}
		}
		for n := range data {
			if _, err := Import(dir, name+"4", data[:n], in); err == nil {
				t.Fatalf("%s: %d of %d octets pass", name, n, len(data))
			}
		}
	}
}

// OpenSSL's own PKCS #12 and encrypted PKCS #8, of keys of every kind.
func TestImportFromOpenSSL(t *testing.T) {
	for _, kind := range []KeyType{ECDSAP384, RSA2048, Ed25519, SM2} {
		dir := initCA(t, kind)
		r := agw
		r.Key = kind
		c, err := Issue(dir, "agw", r, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		path := func(name string) string { return filepath.Join(dir, name) }
		run(t, "openssl", "pkcs12", "-export", "-inkey", path("agw.key"), "-in", path("agw.pem"), "-passout", "pass:word", "-out", path("agw.p12"))
		run(t, "openssl", "pkcs8", "-topk8", "-in", path("agw.key"), "-passout", "pass:word", "-out", path("agw.p8"))
		for name, in := range map[string]Transfer{
			"agw.p12": {Format: PKCS12, Passphrase: []byte("word")},
			"agw.p8":  {Format: PKCS8, Passphrase: []byte("word"), Certificate: path("agw.pem")},
		} {
			data, err := os.ReadFile(path(name))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Import(dir, "again-"+name, data, in)
			if err != nil || !got.Equal(c) {
				t.Errorf("%s of %s: %v", name, kind, err)
			}
		}
	}
}
