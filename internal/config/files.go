package config

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"caponier/internal/cert"
	"caponier/internal/keystore"
)

// Checks is what Load needs to look at the files that a configuration names.
type Checks struct {
	// Now is the time at which certificates must be valid; zero leaves their
	// validity alone.
	Now time.Time
}

const maxNamedFile = 1 << 20

// ExpiryWarning is how long before its end a certificate is warned of.
const ExpiryWarning = 30 * 24 * time.Hour

// checkFiles reads the files that a connection names.
func (d *decoder) checkFiles(c *Connection, path string, checks *Checks) {
	own, key := d.certificate(c.Local.Cert, path+".local.cert", checks), d.privateKey(c.Local.Key, path+".local.key")
	if own != nil && key != nil {
		d.belongs(key, own, path+".local.key")
	}
	if c.Version == VersionGM {
		d.checkGMFiles(c, path, checks)
	}
	for i := range c.Remote.CA {
		d.certificate(c.Remote.CA[i], item(path+".remote.ca", i, len(c.Remote.CA)), checks)
	}
	for i := range c.Remote.CRL {
		d.revocationList(c.Remote.CRL[i], item(path+".remote.crl", i, len(c.Remote.CRL)), checks)
	}
	d.certificate(c.Remote.Pin, path+".remote.pin", checks)
	d.psk(&c.Remote, path+".remote.psk-file", path+".local.psk-file")
	if c.Local.PSKFile == c.Remote.PSKFile {
		c.Local.PSK = c.Remote.PSK
	} else {
		d.psk(&c.Local, path+".local.psk-file", path+".remote.psk-file")
	}
}

// item is where the i-th of n files stands: one alone need not be in a list.
func item(path string, i, n int) string {
	if n == 1 {
		return path
	}
	return fmt.Sprintf("%s[%d]", path, i)
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

// certificate reads and checks a file of certificates and returns the first.
func (d *decoder) certificate(f *File, path string, checks *Checks) *x509.Certificate {
	if f == nil {
		return nil
	}
	n := d.at(path)
	data, ok := d.read(f, n)
	if !ok {
		return nil
	}
	certs, err := cert.ParseAll(data)
	if err != nil {
		d.errorf(n, "%s: %v", f.Path, err)
		return nil
	}
	if checks.Now.IsZero() {
		return certs[0]
	}
	for _, cert := range certs {
		day := cert.NotAfter.UTC().Format(time.DateOnly)
		switch {
		case checks.Now.After(cert.NotAfter):
			d.warnf(n, "the certificate of %s expired on %s", cert.Subject, day)
		case checks.Now.Before(cert.NotBefore):
			d.warnf(n, "the certificate of %s is not valid before %s", cert.Subject, cert.NotBefore.UTC().Format(time.DateOnly))
		case cert.NotAfter.Sub(checks.Now) < ExpiryWarning:
			d.warnf(n, "the certificate of %s expires on %s", cert.Subject, day)
		}
	}
	return certs[0]
}

// revocationList reads a revocation list, and warns of an old one.
func (d *decoder) revocationList(f *File, path string, checks *Checks) {
	n := d.at(path)
	data, ok := d.read(f, n)
	if !ok {
		return
	}
	list, err := cert.ParseCRL(data)
	switch {
	case err != nil:
		d.errorf(n, "%s: %v", f.Path, err)
	case !checks.Now.IsZero() && checks.Now.After(list.NextUpdate):
		d.warnf(n, "the revocation list of %s has been out of date since %s", list.Issuer, list.NextUpdate.UTC().Format(time.DateOnly))
	}
}

// privateKey opens a private key as the gateway will.
func (d *decoder) privateKey(f *File, path string) crypto.Signer {
	if f == nil {
		return nil
	}
	n := d.at(path)
	data, ok := d.read(f, n)
	clear(data)
	if !ok {
		return nil
	}
	key, err := keystore.Open(f.Path)
	if err != nil {
		d.errorf(n, "%v", err)
		return nil
	}
	return key
}

func (d *decoder) psk(p *Party, path, other string) {
	if p.PSKFile == "" {
		return
	}
	n := d.nodes[path]
	if n == nil {
		n = d.at(other)
	}
	var err error
	if p.PSK, err = keystore.ReadPSK(p.PSKFile); err != nil {
		d.errorf(n, "%v", err)
		return
	}
	if err := keystore.CheckPSK(p.PSK); err != nil {
		d.warnf(n, "%s: %v", p.PSKFile, err)
	}
}
