package pki

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"caponier/internal/cert"
	"caponier/internal/dn"
	"caponier/internal/keystore"
)

// run runs a tool and returns what it prints.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is missing: apt install openssl strongswan-pki", name)
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func initCA(t testing.TB, key KeyType) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Init(dir, Request{Subject: "C=FI, O=netsecvpn, CN=rootca", Key: key}, time.Now()); err != nil {
		t.Fatal(err)
	}
	return dir
}

var agw = Request{Subject: "C=FI, O=netsecvpn, CN=agw", SANs: []string{"agw.example", "192.0.2.2", "2001:db8::2", "admin@agw.example"}}

func TestOthersAcceptWhatIsIssued(t *testing.T) {
	for _, key := range KeyTypes() {
		if testing.Short() && key == RSA4096 {
			continue
		}
		t.Run(string(key), func(t *testing.T) {
			t.Parallel()
			dir := initCA(t, key)
			r := agw
			r.Key = key
			if _, err := Issue(dir, "agw", r, time.Now()); err != nil {
				t.Fatal(err)
			}
			root, leaf := filepath.Join(dir, "rootca.pem"), filepath.Join(dir, "agw.pem")

			// OpenSSL has to be told what SM2's signers call themselves.
			verify := []string{"verify", "-x509_strict", "-CAfile", root}
			if key == SM2 {
				verify = append(verify, "-vfyopt", "distid:1234567812345678")
			}
			for _, purpose := range []string{"sslserver", "sslclient"} {
				run(t, "openssl", append(verify, "-purpose", purpose, leaf)...)
			}

			// The key belongs to the certificate, in openssl's eyes.
			if a, b := run(t, "openssl", "x509", "-in", leaf, "-noout", "-pubkey"), run(t, "openssl", "pkey", "-in", filepath.Join(dir, "agw.key"), "-pubout"); a != b {
				t.Errorf("certificate has key %s, file has %s", a, b)
			}
			text := run(t, "openssl", "x509", "-in", leaf, "-noout", "-text")
			for _, want := range []string{
				"Subject: C = FI, O = netsecvpn, CN = agw",
				"X509v3 Basic Constraints: critical\n                CA:FALSE",
				"X509v3 Key Usage: critical\n                Digital Signature\n",
				"ipsec Internet Key Exchange",
				"DNS:agw.example, email:admin@agw.example, IP Address:192.0.2.2, IP Address:2001:DB8:0:0:0:0:0:2",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("openssl does not show %q in\n%s", want, text)
				}
			}
			text = run(t, "openssl", "x509", "-in", root, "-noout", "-text")
			for _, want := range []string{
				"X509v3 Basic Constraints: critical\n                CA:TRUE\n",
				"X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign\n",
			} {
				if !strings.Contains(text, want) {
					t.Errorf("openssl does not show %q in\n%s", want, text)
				}
			}
			if key == SM2 { // which strongSwan does not know
				return
			}
			run(t, "pki", "--verify", "--in", leaf, "--cacert", root)
			printed := run(t, "pki", "--print", "--in", leaf)
			for _, want := range []string{`subject:  "C=FI, O=netsecvpn, CN=agw"`, "serverAuth clientAuth", "192.0.2.2"} {
				if !strings.Contains(printed, want) {
					t.Errorf("pki does not show %q in\n%s", want, printed)
				}
			}
		})
	}
}

func TestIssuedCertificate(t *testing.T) {
	dir := initCA(t, ECDSAP256)
	now := time.Now()
	cert, err := Issue(dir, "agw", agw, now)
	if err != nil {
		t.Fatal(err)
	}
	subject, err := dn.ParseDN(agw.Subject)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(cert.RawSubject, subject) {
		t.Errorf("subject is %x, the identity %x", cert.RawSubject, subject)
	}
	if bits := cert.SerialNumber.BitLen(); bits != 159 || cert.SerialNumber.Sign() < 0 {
		t.Errorf("serial number has %d bits", bits)
	}
	if !cert.NotBefore.Before(now) || now.Sub(cert.NotBefore) > 2*time.Hour {
		t.Errorf("valid from %v, now is %v", cert.NotBefore, now)
	}
	root, err := LoadCertificates(filepath.Join(dir, "rootca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(cert.AuthorityKeyId, root[0].SubjectKeyId) || len(cert.SubjectKeyId) != 20 {
		t.Errorf("key ids: %x issued by %x, the root's is %x", cert.SubjectKeyId, cert.AuthorityKeyId, root[0].SubjectKeyId)
	}
	key, err := keystore.Open(filepath.Join(dir, "agw.key"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err := keyID(key.Public()); err != nil || !bytes.Equal(id, cert.SubjectKeyId) {
		t.Errorf("key id of the file is %x", id)
	}

	// It does not outlive the authority.
	long := agw
	long.Validity = 100 * 365 * 24 * time.Hour
	cert, err = Issue(dir, "long", long, now)
	if err != nil {
		t.Fatal(err)
	}
	if !cert.NotAfter.Equal(root[0].NotAfter) {
		t.Errorf("certificate ends %v, its authority %v", cert.NotAfter, root[0].NotAfter)
	}
	if _, err := Issue(dir, "late", agw, root[0].NotAfter.Add(time.Hour)); err == nil || !strings.Contains(err.Error(), "renew") {
		t.Errorf("an expired authority issues: %v", err)
	}
}

func TestFilesOfTheAuthority(t *testing.T) {
	dir := initCA(t, Ed25519)
	if _, err := Issue(dir, "agw", agw, time.Now()); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{".": 0o700, "rootca.key": 0o600, "rootca.pem": 0o644, "agw.key": 0o600, "agw.pem": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, error %v", name, info.Mode(), err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 4 {
		t.Errorf("files %v, error %v", entries, err)
	}

	before := contents(t, dir)
	if _, err := Issue(dir, "agw", agw, time.Now()); !errors.Is(err, ErrExists) {
		t.Errorf("second Issue: %v", err)
	}
	if _, err := Init(dir, Request{Subject: "CN=x"}, time.Now()); !errors.Is(err, ErrExists) {
		t.Errorf("second Init: %v", err)
	}
	if after := contents(t, dir); after != before {
		t.Error("a refused order changed the files")
	}
	force := agw
	force.Force = true
	if _, err := Issue(dir, "agw", force, time.Now()); err != nil {
		t.Errorf("Issue with force: %v", err)
	}
	if after := contents(t, dir); after == before {
		t.Error("force changed nothing")
	}
	// A file of one half is not overwritten either.
	if err := os.Remove(filepath.Join(dir, "agw.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := Issue(dir, "agw", agw, time.Now()); !errors.Is(err, ErrExists) {
		t.Errorf("Issue beside a key: %v", err)
	}
}

func contents(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(e.Name() + string(data))
	}
	return b.String()
}

func TestIssueRefuses(t *testing.T) {
	dir := initCA(t, ECDSAP256)
	before := contents(t, dir)
	for _, name := range []string{"", "rootca", "RootCA", "../x", "a/b", ".x", "-x", "a b", "ä", strings.Repeat("x", 101)} {
		if _, err := Issue(dir, name, agw, time.Now()); !errors.Is(err, ErrRequest) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	for _, r := range []Request{
		{Subject: ""},
		{Subject: "agw"},
		{Subject: "C=FI, O=netsecvpn, CN=ROOTCA"},
		{Subject: "CN=agw", Validity: -time.Hour},
		{Subject: "CN=agw", SANs: []string{""}},
		{Subject: "CN=agw", SANs: []string{"*.example"}},
		{Subject: "CN=agw", SANs: []string{"@example"}},
		{Subject: "CN=agw", SANs: []string{"a@"}},
		{Subject: "CN=agw", SANs: []string{"192.0.2.0/24"}},
		{Subject: "CN=agw", SANs: []string{"fe80::1%eth0"}},
		{Subject: "CN=agw", SANs: []string{"ä.example"}},
	} {
		if _, err := Issue(dir, "x", r, time.Now()); !errors.Is(err, ErrRequest) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := Issue(dir, "x", Request{Subject: "CN=x", Key: "dsa"}, time.Now()); err == nil {
		t.Error("key type dsa is accepted")
	}
	if _, err := Issue(filepath.Join(dir, "none"), "agw", agw, time.Now()); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "init") {
		t.Errorf("no authority: %v", err)
	}
	if after := contents(t, dir); after != before {
		t.Error("a refused order changed the files")
	}
	// The key of another authority.
	data, err := os.ReadFile(filepath.Join(initCA(t, ECDSAP256), "rootca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rootca.key"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Issue(dir, "agw", agw, time.Now()); err == nil || !strings.Contains(err.Error(), "is not the private key") {
		t.Errorf("foreign key: %v", err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(open, Request{Subject: "CN=x"}, time.Now()); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("directory that all may write to: %v", err)
	}
}

func TestParseKeyType(t *testing.T) {
	for _, want := range KeyTypes() {
		if got, err := ParseKeyType(strings.ToUpper(string(want))); err != nil || got != want {
			t.Errorf("ParseKeyType(%s) = %v, %v", want, got, err)
		}
		key, err := want.generate()
		if err != nil || describeKey(key.Public()) != string(want) {
			t.Errorf("%s generates %s, %v", want, describeKey(key.Public()), err)
		}
	}
	if _, err := ParseKeyType("rsa-1024"); err == nil || !strings.Contains(err.Error(), "rsa-2048") {
		t.Errorf("rsa-1024: %v", err)
	}
}

func TestLoadCertificates(t *testing.T) {
	dir := initCA(t, ECDSAP256)
	cert, err := Issue(dir, "agw", agw, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	put := func(data []byte) string {
		path := filepath.Join(t.TempDir(), "certs")
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct {
		data []byte
		n    int
	}{
		"one":       {read("agw.pem"), 1},
		"chain":     {append(read("agw.pem"), read("rootca.pem")...), 2},
		"key first": {append(read("agw.key"), read("agw.pem")...), 1},
		"DER":       {cert.Raw, 1},
	} {
		certs, err := LoadCertificates(put(tt.data))
		if err != nil || len(certs) != tt.n || !certs[0].Equal(cert) {
			t.Errorf("%s: %d certificates, error %v", name, len(certs), err)
		}
	}
	for name, data := range map[string][]byte{
		"key only": read("agw.key"),
		"empty":    nil,
		"noise":    []byte("noise"),
		"broken":   []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
		"large":    make([]byte, maxFile+1),
	} {
		if certs, err := LoadCertificates(put(data)); err == nil {
			t.Errorf("%s: %d certificates", name, len(certs))
		}
	}
	if _, err := LoadCertificates(dir); err == nil || !strings.Contains(err.Error(), "regular file") {
		t.Errorf("directory: %v", err)
	}
}

// What a certificate says is shown whatever it says.
func FuzzDescribe(f *testing.F) {
	for _, key := range []KeyType{Ed25519, SM2} {
		c, err := Issue(initCA(f, key), "agw", agw, time.Now())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(c.Raw)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := cert.Parse(data)
		if err != nil {
			return
		}
		d := describe("x", c, time.Unix(0, 0))
		if err := d.WriteText(new(bytes.Buffer)); err != nil {
			t.Fatal(err)
		}
	})
}
