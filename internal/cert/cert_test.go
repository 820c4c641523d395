package cert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/emmansun/gmsm/sm2"
	"github.com/emmansun/gmsm/smx509"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// make2 makes an authority and a certificate below it.
func make2(t testing.TB, national bool) (ca, leaf *x509.Certificate, caKey crypto.Signer) {
	t.Helper()
	generate := func() crypto.Signer {
		var key crypto.Signer
		var err error
		if national {
			key, err = sm2.GenerateKey(rand.Reader)
		} else {
			key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	template := func(name string, isCA bool) *x509.Certificate {
		c := &x509.Certificate{
			Subject: pkix.Name{CommonName: name}, SerialNumber: big.NewInt(77), BasicConstraintsValid: true, IsCA: isCA,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), SubjectKeyId: []byte(name),
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			DNSNames: []string{"gw.example"},
		}
		if isCA {
			c.KeyUsage, c.ExtKeyUsage = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
		}
		return c
	}
	create := func(c, parent *x509.Certificate, key, signer crypto.Signer) *x509.Certificate {
		der, err := Create(c, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		made, err := Parse(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	caKey = generate()
	ca = create(template("root", true), template("root", true), caKey, caKey)
	return ca, create(template("leaf", false), ca, generate(), caKey), caKey
}

func write(t testing.TB, dir, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The judge of what is made here is OpenSSL, which has to be told the identifier
// of signers in certificates.
func TestOpenSSLAccepts(t *testing.T) {
	for _, national := range []bool{false, true} {
		ca, leaf, key := make2(t, national)
		dir := t.TempDir()
		root := write(t, dir, "root.pem", "CERTIFICATE", ca.Raw)
		args := []string{"verify", "-attime", "1780315200", "-CAfile", root}
		if national {
			args = append(args, "-vfyopt", "distid:1234567812345678")
		}
		out, err := exec.Command("openssl", append(args, write(t, dir, "leaf.pem", "CERTIFICATE", leaf.Raw))...).CombinedOutput()
		if err != nil {
			t.Errorf("national %t: openssl verify: %v\n%s", national, err, out)
		}
		der, err := CreateCRL(&x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(77), RevocationTime: now}},
		}, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		out, err = exec.Command("openssl", "crl", "-noout", "-text", "-in", write(t, dir, "crl.pem", "X509 CRL", der)).CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("Serial Number: 4D")) {
			t.Errorf("national %t: openssl crl: %v\n%s", national, err, out)
		}
		list, err := ParseCRL(der)
		if err != nil || CheckCRL(list, ca) != nil {
			t.Errorf("national %t: the list is not good: %v, %v", national, err, CheckCRL(list, ca))
		}
		if err := CheckCRL(list, leaf); err == nil {
			t.Errorf("national %t: another key passes for the list's", national)
		}
	}
}

func TestVerify(t *testing.T) {
	for _, national := range []bool{false, true} {
		ca, leaf, _ := make2(t, national)
		other, stranger, _ := make2(t, national)
		ways, err := Verify(leaf, nil, []*x509.Certificate{other, ca}, now)
		if err != nil || len(ways) != 1 || len(ways[0]) != 2 || !ways[0][1].Equal(ca) {
			t.Errorf("national %t: %d ways, %v", national, len(ways), err)
		}
		if _, err := Verify(stranger, []*x509.Certificate{leaf}, []*x509.Certificate{ca}, now); err == nil {
			t.Errorf("national %t: a stranger passes", national)
		}
		_, err = Verify(leaf, nil, []*x509.Certificate{ca}, now.Add(2*time.Hour))
		if e, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || e.Reason != x509.Expired || e.Cert == nil {
			t.Errorf("national %t: expired: %#v", national, err)
		}
		if CheckSignature(ca, leaf) != nil || CheckSignature(other, leaf) == nil {
			t.Errorf("national %t: signature by its authority %v, by another %v", national, CheckSignature(ca, leaf), CheckSignature(other, leaf))
		}
		if IsSM2(leaf.PublicKey) != national || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 1 || leaf.DNSNames[0] != "gw.example" {
			t.Errorf("national %t: read as %+v", national, leaf)
		}
	}
}

// The fork counts its constants as crypto/x509 does, which standard and fork
// rely on.
func TestSameNumbers(t *testing.T) {
	for _, same := range []bool{
		int(smx509.PureEd25519) == int(x509.PureEd25519),
		int(smx509.ExtKeyUsageMicrosoftKernelCodeSigning) == int(x509.ExtKeyUsageMicrosoftKernelCodeSigning),
		int(smx509.KeyUsageDecipherOnly) == int(x509.KeyUsageDecipherOnly),
		int(smx509.NoValidChains) == int(x509.NoValidChains),
		int(smx509.TooManyConstraints) == int(x509.TooManyConstraints),
		int(smx509.Ed25519) == int(x509.Ed25519),
	} {
		if !same {
			t.Error("smx509 counts otherwise than crypto/x509")
		}
	}
}

func TestParseEveryPrefix(t *testing.T) {
	for _, national := range []bool{false, true} {
		ca, leaf, key := make2(t, national)
		for n := range leaf.Raw {
			if _, err := ParseAll(leaf.Raw[:n]); err == nil {
				t.Errorf("national %t: %d of %d octets are a certificate", national, n, len(leaf.Raw))
			}
		}
		der, err := CreateCRL(&x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, ca, key)
		if err != nil {
			t.Fatal(err)
		}
		for n := range der {
			if _, err := ParseCRL(der[:n]); err == nil {
				t.Errorf("national %t: %d of %d octets are a revocation list", national, n, len(der))
			}
		}
	}
}

func FuzzParseAll(f *testing.F) {
	for _, national := range []bool{false, true} {
		ca, leaf, _ := make2(f, national)
		f.Add(leaf.Raw)
		f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		certs, err := ParseAll(data)
		if (err == nil) != (len(certs) > 0) {
			t.Fatalf("%d certificates, error %v", len(certs), err)
		}
		for _, c := range certs {
			if _, err := Parse(c.Raw); err != nil {
				t.Fatal(err)
			}
			_, _ = Verify(c, certs, certs, now)
			_ = CheckSignature(c, c)
		}
	})
}

func FuzzParseCRL(f *testing.F) {
	for _, national := range []bool{false, true} {
		ca, _, key := make2(f, national)
		der, err := CreateCRL(&x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, ca, key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der, ca.Raw)
	}
	f.Fuzz(func(t *testing.T, data, issuer []byte) {
		list, err := ParseCRL(data)
		if err != nil {
			return
		}
		if c, err := Parse(issuer); err == nil {
			_ = CheckCRL(list, c)
		}
	})
}
