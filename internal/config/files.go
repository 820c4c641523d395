package config

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"caponier/internal/secret"
)

// Checks is what Load needs to look at the files that a configuration names.
type Checks struct {
	// Now is the time at which certificates must be valid; zero leaves their
	// validity alone.
	Now time.Time
	// KeyPair reports whether the key file holds the private key of the
	// certificate in the other. nil knows what crypto/tls knows.
	KeyPair func(cert, key File) error
}

const (
	maxNamedFile  = 1 << 20
	maxPSK        = 4096
	minPSK        = 16 // octets: 128 bits, if they are random
	expiryWarning = 30 * 24 * time.Hour
)

// checkFiles reads the files that a connection names.
func (d *decoder) checkFiles(c *Connection, path string, checks *Checks) {
	certOK := d.certificate(&c.Local.Cert, path+".local.cert", checks)
	keyOK := d.privateKey(&c.Local.Key, path+".local.key")
	if certOK && keyOK {
		match := checks.KeyPair
		if match == nil {
			match = matchKeyPair
		}
		if err := match(c.Local.Cert, c.Local.Key); err != nil {
			d.errorf(d.at(path+".local.key"), "the key does not fit the certificate: %v", err)
		}
	}
	for i := range c.Remote.CA {
		at := path + ".remote.ca"
		if len(c.Remote.CA) > 1 {
			at = fmt.Sprintf("%s[%d]", at, i)
		}
		d.certificate(&c.Remote.CA[i], at, checks)
	}
	d.certificate(&c.Remote.Pin, path+".remote.pin", checks)
	d.psk(&c.Remote, path+".remote.psk-file", path+".local.psk-file")
	if c.Local.PSKFile == c.Remote.PSKFile {
		c.Local.PSK = c.Remote.PSK
	} else {
		d.psk(&c.Local, path+".local.psk-file", path+".remote.psk-file")
	}
}

// read returns the contents of a file that is named at n.
func (d *decoder) read(f *File, n *node) ([]byte, bool) {
	data, err := readFile(f.Path, maxNamedFile)
	if err != nil {
		d.errorf(n, "%s: %s", f.Path, reason(err))
		return nil, false
	}
	f.Digest = sha256.Sum256(data)
	return data, true
}

func (d *decoder) certificate(f *File, path string, checks *Checks) bool {
	if f.IsZero() {
		return false
	}
	n := d.at(path)
	data, ok := d.read(f, n)
	if !ok {
		return false
	}
	certs, err := parseCertificates(data)
	if err != nil {
		d.errorf(n, "%s: %v", f.Path, err)
		return false
	}
	if checks.Now.IsZero() {
		return true
	}
	for _, cert := range certs {
		day := cert.NotAfter.UTC().Format(time.DateOnly)
		switch {
		case checks.Now.After(cert.NotAfter):
			d.warnf(n, "the certificate of %s expired on %s", cert.Subject, day)
		case checks.Now.Before(cert.NotBefore):
			d.warnf(n, "the certificate of %s is not valid before %s", cert.Subject, cert.NotBefore.UTC().Format(time.DateOnly))
		case cert.NotAfter.Sub(checks.Now) < expiryWarning:
			d.warnf(n, "the certificate of %s expires on %s", cert.Subject, day)
		}
	}
	return true
}

// parseCertificates reads PEM, or one certificate in DER.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	if !bytes.Contains(data, []byte("-----BEGIN")) {
		cert, err := x509.ParseCertificate(data)
		if err != nil {
			return nil, errors.New("not a certificate in PEM or DER")
		}
		return []*x509.Certificate{cert}, nil
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate in the file")
	}
	return out, nil
}

func (d *decoder) privateKey(f *File, path string) bool {
	if f.IsZero() {
		return false
	}
	n := d.at(path)
	data, ok := d.read(f, n)
	clear(data)
	return ok && d.guarded(f.Path, n)
}

// guarded checks that nobody else on the machine can read a secret.
func (d *decoder) guarded(name string, n *node) bool {
	info, err := os.Stat(name)
	if err != nil {
		d.errorf(n, "%s: %s", name, reason(err))
		return false
	}
	switch mode := info.Mode().Perm(); {
	case mode&0o007 != 0:
		d.errorf(n, "%s is open to every user of this machine (mode %04o): chmod 600 it, and replace the secret if others were here", name, mode)
		return false
	case mode&0o070 != 0:
		d.warnf(n, "%s is open to its group (mode %04o)", name, mode)
	}
	return true
}

func (d *decoder) psk(p *Party, path, other string) {
	if p.PSKFile == "" {
		return
	}
	n := d.nodes[path]
	if n == nil {
		n = d.at(other)
	}
	data, err := readFile(p.PSKFile, maxPSK)
	if err != nil {
		d.errorf(n, "%s: %s", p.PSKFile, reason(err))
		return
	}
	d.guarded(p.PSKFile, n)
	key := bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	switch {
	case len(key) == 0:
		d.errorf(n, "%s: the pre-shared key is empty", p.PSKFile)
		return
	case len(key) < minPSK:
		d.warnf(n, "the pre-shared key has %d octets: one of fewer than %d can be guessed from a recorded exchange", len(key), minPSK)
	}
	p.PSK = secret.Copy(key)
	clear(data)
}

func matchKeyPair(cert, key File) error {
	certPEM, err := os.ReadFile(cert.Path)
	if err != nil {
		return err
	}
	if !bytes.Contains(certPEM, []byte("-----BEGIN")) {
		certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certPEM})
	}
	keyPEM, err := os.ReadFile(key.Path)
	if err != nil {
		return err
	}
	defer clear(keyPEM)
	if !bytes.Contains(keyPEM, []byte("-----BEGIN")) {
		keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyPEM})
		defer clear(keyPEM)
	}
	_, err = tls.X509KeyPair(certPEM, keyPEM)
	return err
}
