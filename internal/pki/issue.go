package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"caponier/internal/cert"
	"caponier/internal/dn"
	"caponier/internal/keystore"
)

// RootName is the name of the authority itself: its files are rootca.key and
// rootca.pem.
const RootName = "rootca"

// Validity where a Request says nothing.
const (
	RootValidity = 10 * 365 * 24 * time.Hour
	LeafValidity = 2 * 365 * 24 * time.Hour
)

// backdate is how far before now certificates begin, so that a peer whose clock
// is slow accepts a new one.
const backdate = time.Hour

// Errors of Init and Issue.
var (
	// ErrExists is returned for a name that has files already.
	ErrExists = errors.New("exists already")
	// ErrRequest is wrapped by the errors of a Request.
	ErrRequest = errors.New("invalid certificate request")
)

// Request says what certificate to make.
type Request struct {
	Subject string // distinguished name, "C=FI, O=netsecvpn, CN=agw", encoded in this order
	// SANs are the alternative names: host names, IP addresses, mail addresses.
	SANs     []string
	Key      KeyType       // empty: ECDSAP256
	Validity time.Duration // from now; 0: RootValidity or LeafValidity
	// Force replaces what is there.
	Force bool
}

// id-kp-ipsecIKE (RFC 4945, Section 5.1.3.12).
var oidIPsecIKE = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 17}

// Init makes a certification authority in dir, which it creates: rootca.key,
// readable for its owner only, and rootca.pem. now begins the validity.
func Init(dir string, r Request, now time.Time) (*x509.Certificate, error) {
	t, key, err := r.prepare(RootValidity, now)
	if err != nil {
		return nil, err
	}
	t.IsCA = true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return store(dir, RootName, r.Force, t, t, key, key)
}

// Issue makes a key pair and a certificate for a gateway or a user, signed by
// the authority that Init made in dir: NAME.key, readable for its owner only,
// and NAME.pem. The certificate ends with the authority's at the latest.
func Issue(dir, name string, r Request, now time.Time) (*x509.Certificate, error) {
	return issue(dir, name, r, now, x509.KeyUsageDigitalSignature)
}

// The names of the two certificates of IssueDual begin with the name given, and
// end in these.
const (
	SignSuffix    = "-sign"
	EncryptSuffix = "-encrypt"
)

// IssueDual makes the two key pairs and certificates of a gateway of GM/T 0022,
// of one subject: NAME-sign for signatures, NAME-encrypt to receive the keys of
// a digital envelope (GM/T 0015; GM/T 0034). They have keys of SM2.
func IssueDual(dir, name string, r Request, now time.Time) (sign, encrypt *x509.Certificate, err error) {
	if r.Key != "" && r.Key != SM2 {
		return nil, nil, fmt.Errorf("%w: dual certificates have keys of sm2, not %s", ErrRequest, r.Key)
	}
	r.Key = SM2
	sign, err = issue(dir, name+SignSuffix, r, now, x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment)
	if err != nil {
		return nil, nil, err
	}
	encrypt, err = issue(dir, name+EncryptSuffix, r, now,
		x509.KeyUsageKeyEncipherment|x509.KeyUsageDataEncipherment|x509.KeyUsageKeyAgreement)
	if err != nil && !r.Force {
		path := filepath.Join(dir, name+SignSuffix)
		err = errors.Join(err, os.Remove(path+".key"), os.Remove(path+".pem")) // ours: half a pair is of no use
	}
	return sign, encrypt, err
}

func issue(dir, name string, r Request, now time.Time, usage x509.KeyUsage) (*x509.Certificate, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	ca, caKey, err := openAuthority(dir)
	if err != nil {
		return nil, err
	}
	if now.Before(ca.NotBefore) || now.After(ca.NotAfter) {
		return nil, fmt.Errorf("the authority in %s is valid from %s to %s only: renew it with init and force",
			dir, date(ca.NotBefore), date(ca.NotAfter))
	}
	t, key, err := r.prepare(LeafValidity, now)
	if err != nil {
		return nil, err
	}
	if dn.Equal(t.RawSubject, ca.RawSubject) {
		return nil, fmt.Errorf("%w: subject %q is the authority's own", ErrRequest, r.Subject)
	}
	if t.NotAfter.After(ca.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	if t.NotBefore.Before(ca.NotBefore) {
		t.NotBefore = ca.NotBefore
	}
	t.KeyUsage = usage
	// RFC 4945, Section 5.1.3.12 asks of IKE no more than ipsecIKE. The clients of
	// Windows and Apple look for serverAuth in a gateway's certificate, and some
	// gateways for clientAuth in a client's; a gateway here is both.
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	t.UnknownExtKeyUsage = []asn1.ObjectIdentifier{oidIPsecIKE}
	return store(dir, name, r.Force, t, ca, key, caKey)
}

// checkName accepts names that are file names in every directory and in every
// shell.
func checkName(name string) error {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-@", r)
	})
	switch {
	case name == "" || len(name) > 100 || bad >= 0 || name[0] == '.' || name[0] == '-':
		return fmt.Errorf("%w: name %q is not of letters, digits, and . _ - @ inside", ErrRequest, name)
	case strings.EqualFold(name, RootName):
		return fmt.Errorf("%w: name %q is the authority's", ErrRequest, name)
	default:
		return nil
	}
}

func openAuthority(dir string) (*x509.Certificate, crypto.Signer, error) {
	path := filepath.Join(dir, RootName)
	certs, err := LoadCertificates(path + ".pem")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("there is no authority in %s: make one with init: %w", dir, err)
	}
	if err != nil {
		return nil, nil, err
	}
	key, err := keystore.Open(path + ".key")
	if err != nil {
		return nil, nil, err
	}
	ca := certs[0]
	if pub, ok := ca.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(key.Public()) {
		return nil, nil, fmt.Errorf("%s.key is not the private key of %s.pem", path, path)
	}
	return ca, key, nil
}

// prepare fills in what the certificates of authorities and of others have in
// common.
func (r Request) prepare(validity time.Duration, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	subject, err := dn.ParseDN(r.Subject)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: subject: %w", ErrRequest, err)
	}
	if r.Validity < 0 {
		return nil, nil, fmt.Errorf("%w: validity %v is negative", ErrRequest, r.Validity)
	}
	if r.Validity > 0 {
		validity = r.Validity
	}
	t := &x509.Certificate{
		RawSubject:            subject,
		NotBefore:             now.Add(-backdate).UTC().Truncate(time.Second),
		NotAfter:              now.Add(validity).UTC().Truncate(time.Second),
		BasicConstraintsValid: true,
	}
	for _, san := range r.SANs {
		if err := addSAN(t, san); err != nil {
			return nil, nil, err
		}
	}
	if t.SerialNumber, err = serialNumber(); err != nil {
		return nil, nil, err
	}
	key, err := r.Key.generate()
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	if t.SubjectKeyId, err = keyID(key.Public()); err != nil {
		return nil, nil, err
	}
	return t, key, nil
}

// addSAN tells by its form what kind of name san is.
func addSAN(t *x509.Certificate, san string) error {
	if a, err := netip.ParseAddr(san); err == nil {
		if a.Zone() != "" || a.Is4In6() {
			return fmt.Errorf("%w: alternative name %q has a zone or is IPv4-mapped", ErrRequest, san)
		}
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
		return nil
	}
	user, host, mail := strings.Cut(san, "@")
	if !mail {
		host = san
	}
	// A wildcard would never match: RFC 4945, Section 3.1.2 wants the name itself.
	if host == "" || mail && user == "" || strings.ContainsFunc(san, func(r rune) bool { return r <= ' ' || r > '~' }) ||
		strings.ContainsAny(host, "@*/:,\"\\()<>[];%") {
		return fmt.Errorf("%w: alternative name %q is neither a host name, an IP address nor a mail address", ErrRequest, san)
	}
	if mail {
		t.EmailAddresses = append(t.EmailAddresses, san)
	} else {
		t.DNSNames = append(t.DNSNames, san)
	}
	return nil
}

// serialNumber returns 158 random bits behind a one: positive, and of 20 octets,
// which is the most there may be (RFC 5280, Section 4.1.2.2).
func serialNumber() (*big.Int, error) {
	b := make([]byte, 20)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	b[0] = b[0]&0x3f | 0x40
	return new(big.Int).SetBytes(b), nil
}

// keyID is the subject key identifier by method 1 of RFC 5280, Section 4.2.1.2,
// which other tools compute as well. SHA-1 is a name here, not a protection.
func keyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := cert.MarshalPublicKey(pub)
	if err != nil {
		return nil, err
	}
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &spki); err != nil {
		return nil, err
	}
	sum := sha1.Sum(spki.Key.Bytes)
	return sum[:], nil
}

// store signs the certificate and writes it with its key.
func store(dir, name string, force bool, t, parent *x509.Certificate, key, signer crypto.Signer) (*x509.Certificate, error) {
	der, err := cert.Create(t, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	c, err := cert.Parse(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return c, storePair(dir, name, force, key, c)
}

// storePair writes NAME.key and NAME.pem: both, or none.
func storePair(dir, name string, force bool, key crypto.Signer, c *x509.Certificate) error {
	if err := prepareDir(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, name)
	if !force {
		for _, p := range []string{path + ".key", path + ".pem"} {
			if _, err := os.Lstat(p); err == nil {
				return fmt.Errorf("%s %w: force replaces it", p, ErrExists)
			}
		}
	}
	keyPEM, err := keystore.Encode(key, nil)
	if err != nil {
		return err
	}
	defer clear(keyPEM)
	if err := writeFile(path+".key", keyPEM, 0o600, force); err != nil {
		return fmt.Errorf("write private key: %w", err)
	}
	if err := writeFile(path+".pem", pemCertificates(c), 0o644, force); err != nil {
		if !force {
			err = errors.Join(err, os.Remove(path+".key")) // ours: it was not there before
		}
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}

func pemCertificates(certs ...*x509.Certificate) []byte {
	var b []byte
	for _, c := range certs {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return b
}

func pemCRL(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func date(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
