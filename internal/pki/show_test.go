package pki

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The certificates in testdata were made once, by Init and Issue in 2026, so that the
// output never changes.
func TestShowGolden(t *testing.T) {
	for name, now := range map[string]time.Time{
		"valid":   time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC),
		"lastday": time.Date(2028, 10, 31, 6, 0, 0, 0, time.UTC),
		"expired": time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		dir := t.TempDir()
		key, err := x509.MarshalPKCS8PrivateKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "agw.key"), key, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, f := range []string{"agw.pem", "rootca.pem"} {
			data, err := os.ReadFile(filepath.Join("testdata", "show", f))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		all, err := Show(dir, now)
		if err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		for i, d := range all {
			if d.File, err = filepath.Rel(dir, d.File); err != nil {
				t.Fatal(err)
			}
			all[i] = d
			if err := d.WriteText(&text); err != nil {
				t.Fatal(err)
			}
		}
		j, err := json.MarshalIndent(all, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", text.Bytes())
		golden(t, name+".json", append(j, '\n'))
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", "show", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

// What Show says of a certificate is what openssl says.
func TestShowAgreesWithOpenSSL(t *testing.T) {
	dir := initCA(t, ECDSAP256)
	if _, err := Issue(dir, "agw", agw, time.Now()); err != nil {
		t.Fatal(err)
	}
	all, err := Show(dir, time.Now())
	if err != nil || len(all) != 4 {
		t.Fatalf("%d descriptions, error %v", len(all), err)
	}
	byName := make(map[string]Description)
	for _, d := range all {
		byName[filepath.Base(d.File)] = d
	}
	d, key := byName["agw.pem"], byName["agw.key"]
	print := strings.ToLower(run(t, "openssl", "x509", "-in", d.File, "-noout", "-fingerprint", "-sha256", "-serial"))
	for _, want := range []string{d.Certificate.SHA256, strings.ReplaceAll(d.Certificate.Serial, ":", "")} {
		if !strings.Contains(print, want) {
			t.Errorf("openssl says %s, not %s", print, want)
		}
	}
	if key.Certificate != nil || key.KeyID != d.KeyID || key.Key != d.Key {
		t.Errorf("key %+v, certificate %+v", key, d)
	}
	if d.Certificate.IssuerKeyID != byName["rootca.pem"].KeyID || !byName["rootca.pem"].Certificate.Authority || d.Certificate.Authority {
		t.Errorf("authority %+v, certificate %+v", byName["rootca.pem"], d)
	}
}

// Nothing of a private key is shown, not even in part.
func TestShowTellsNoSecret(t *testing.T) {
	dir := initCA(t, Ed25519)
	path := filepath.Join(dir, "rootca.key")
	text := run(t, "openssl", "pkey", "-in", path, "-noout", "-text")
	private, _, ok := strings.Cut(text, "pub:")
	if !ok {
		t.Fatalf("openssl prints %s", text)
	}
	_, private, _ = strings.Cut(private, "priv:")
	octets := strings.Split(strings.Join(strings.Fields(private), ""), ":")
	all, err := Show(path, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := all[0].WriteText(&out); err != nil {
		t.Fatal(err)
	}
	j, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	shown := strings.ReplaceAll(out.String(), ":", "")
	for i := 0; i+4 <= len(octets); i++ {
		if part := strings.Join(octets[i:i+4], ""); len(part) == 8 && strings.Contains(shown, part) {
			t.Errorf("part %d of the private key is shown", i)
		}
	}
}

func TestShowErrors(t *testing.T) {
	dir := initCA(t, Ed25519)
	if err := os.Chmod(filepath.Join(dir, "rootca.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "noise.pem"), []byte("noise"), 0o644); err != nil {
		t.Fatal(err)
	}
	all, err := Show(dir, time.Now())
	if len(all) != 1 || err == nil || !strings.Contains(err.Error(), "chmod 600") || !strings.Contains(err.Error(), "noise.pem") {
		t.Errorf("%d descriptions, error %v", len(all), err)
	}
	if _, err := Show(filepath.Join(dir, "none"), time.Now()); !os.IsNotExist(err) {
		t.Errorf("missing file: %v", err)
	}
}
