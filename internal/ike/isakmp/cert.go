package isakmp

// Cert is the Certificate payload, and the Certificate Request payload, which
// has the same shape (RFC 2408, Sections 3.9 and 3.10).
type Cert struct {
	Encoding CertEncoding
	Data     []byte
}

// CertEncoding is a certificate encoding (RFC 2408, Section 3.9).
type CertEncoding uint8

// The encodings of X.509 certificates: a key that signs, and a key that is
// encrypted to.
const (
	CertX509Signature   CertEncoding = 4
	CertX509KeyExchange CertEncoding = 5
)

// ParseCert reads the body of a CERT or CR payload.
func ParseCert(b []byte) (*Cert, error) {
	if len(b) == 0 {
		return nil, syntaxf("certificate without encoding")
	}
	return &Cert{Encoding: CertEncoding(b[0]), Data: clip(b[1:])}, nil
}

// Body returns the octets of the payload behind its generic header, which are
// CERT_enc_b in signatures.
func (c *Cert) Body() []byte { return append([]byte{byte(c.Encoding)}, c.Data...) }
