package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"caponier/internal/pki"
)

const gmLocal = "local: { address: 192.0.2.1, sign-cert: a-sign.pem, sign-key: a-sign.key, encrypt-cert: a-encrypt.pem, encrypt-key: a-encrypt.key }"

// gmFile is a configuration with one connection of GM/T 0022.
func gmFile(local, remote, keys, tunnel string) string {
	return "connections:\n  a:\n    version: gm\n    " + local + "\n    remote: { address: 192.0.2.2, id: b.example" + remote + " }\n" +
		keys + "    tunnels: { lan: { local: 10.1.0.0/16, remote: 10.2.0.0/16" + tunnel + " } }\n"
}

func TestGM(t *testing.T) {
	c, warnings, err := Parse("c.yaml", []byte(gmFile(gmLocal, ", ca: root.pem",
		"    lifetime: 24h\n    gm: { isakmp-version: 1.0, quick-mode-hash: rfc, envelope: c1c2c3, signature: raw, pre-hash: bare,\n"+
			"      signed-certificate: der, ike-sm4-id: 127, esp-sm4-id: 129, key-length: yes, id-from: signature, nat-hash: sha1 }\n", ", proposals: [sm4gcm16, sm4cbc-sm3_96]")))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	conn := c.Connections[0]
	want := &GM{
		ISAKMP: 1, QuickHash: 2, Envelope: 2, Signature: 1, PreHash: 1, SignedCert: 1,
		IKESM4: 127, ESPSM4: 129, KeyLength: true, IDFrom: 1, NATHash: 1,
	}
	if diff := cmp.Diff(want, conn.GM); diff != "" || conn.Version != VersionGM || conn.Lifetime != 24*time.Hour {
		t.Errorf("%s %s (-want +got):\n%s", conn.Version, conn.Lifetime, diff)
	}
	if got := ProposalText(conn.Tunnels[0].Proposals); got != "sm4gcm16-noesn, sm4cbc-sm3_96-noesn" {
		t.Errorf("proposals %s", got)
	}
	c, _, err = Parse("c.yaml", []byte(gmFile(gmLocal, ", ca: root.pem", "", "")))
	if err != nil {
		t.Fatal(err)
	}
	if got := ProposalText(c.Connections[0].Tunnels[0].Proposals); got != "sm4cbc-sm3-noesn" || c.Connections[0].GM == nil {
		t.Errorf("by default: proposals %s, settings %v", got, c.Connections[0].GM)
	}
}

func TestGMRefuses(t *testing.T) {
	const ca = ", ca: root.pem"
	for _, tt := range []struct{ name, text, cause string }{
		{"a pre-shared key", gmFile(gmLocal, ", auth: psk, psk-file: x", "", ""), "both ends prove themselves by certificates"},
		{"no CA", gmFile(gmLocal, "", "", ""), "ca is missing"},
		{"one pair", gmFile("local: { sign-cert: a.pem, sign-key: a.key }", ca, "", ""), "encrypt-cert is missing"},
		{"a certificate of IKEv2", gmFile("local: { cert: a.pem, key: a.key }", ca, "", ""), "no meaning with version: gm"},
		{"proposals of IKEv2", gmFile(gmLocal, ca, "    proposals: [aes128gcm16-prfsha256-x25519]\n", ""), "no meaning with version: gm"},
		{"AES", gmFile(gmLocal, ca, "", ", proposals: [aes128gcm16]"), "version gm has sm4cbc-sm3"},
		{"PFS", gmFile(gmLocal, ca, "", ", proposals: [sm4cbc-sm3-x25519]"), "version gm has sm4cbc-sm3"},
		{"two days", gmFile(gmLocal, ca, "    lifetime: 48h\n", ""), "1d at most"},
		{"two hours", gmFile(gmLocal, ca, "", ", lifetime: 2h"), "1h at most"},
		{"a number", gmFile(gmLocal, ca, "    gm: { ike-sm4-id: 128 }\n", ""), "neither 127 nor 129"},
		{"a word", gmFile(gmLocal, ca, "    gm: { quick-mode-hash: rcf }\n", ""), `did you mean "rfc"?`},
		{"IKEv2", strings.ReplaceAll(gmFile(gmLocal, ca, "    gm: { key-length: yes }\n", ""), "version: gm", "version: 2"), "with version: gm only"},
	} {
		if _, _, err := Parse("c.yaml", []byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.cause) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestGMFiles(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := pki.Init(dir, pki.Request{Subject: "CN=root", Key: pki.SM2}, now)
	must(err)
	for _, name := range []string{"a", "b"} {
		_, _, err = pki.IssueDual(dir, name, pki.Request{Subject: "CN=" + name}, now)
		must(err)
	}
	_, err = pki.Issue(dir, "p256", pki.Request{Subject: "CN=a", Key: pki.ECDSAP256}, now)
	must(err)
	for _, tt := range []struct{ name, local, cause string }{
		{"good", gmLocal, ""},
		{"exchanged", strings.NewReplacer("a-sign", "a-encrypt", "a-encrypt", "a-sign").Replace(gmLocal), "does not allow signatures"},
		{"signing twice", strings.ReplaceAll(gmLocal, "a-encrypt", "a-sign"), "does not allow encryption"},
		{"other key", strings.Replace(gmLocal, "sign-key: a-sign", "sign-key: b-sign", 1), "not that of the certificate"},
		{"ECDSA", strings.ReplaceAll(gmLocal, "a-sign", "p256"), "not one of SM2"},
		{"nothing there", strings.ReplaceAll(gmLocal, "a-sign", "c-sign"), "no such file"},
	} {
		path := filepath.Join(dir, "c.yaml")
		must(os.WriteFile(path, []byte(gmFile(tt.local, ", ca: rootca.pem", "", "")), 0o600))
		_, warnings, err := Load(path, Checks{Now: now})
		if tt.cause == "" && (err != nil || len(warnings) > 0) || tt.cause != "" && (err == nil || !strings.Contains(err.Error(), tt.cause)) {
			t.Errorf("%s: %v, %v", tt.name, err, warnings)
		}
	}
}
