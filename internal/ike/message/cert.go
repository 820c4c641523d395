package message

// Cert is the Certificate payload (RFC 7296, Section 3.6).
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Cert Encoding |                                               |
//	+-+-+-+-+-+-+-+-+                                               +
//	~                       Certificate Data                        ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type Cert struct {
	Encoding CertEncoding
	Data     []byte
}

// CertEncoding is a certificate encoding (RFC 7296, Section 3.6).
type CertEncoding uint8

// CertX509Signature is a DER encoded X.509 certificate.
const CertX509Signature CertEncoding = 4

// Type is TypeCert.
func (*Cert) Type() PayloadType { return TypeCert }

func parseCert(b []byte) (*Cert, error) {
	if len(b) == 0 {
		return nil, syntaxf("no encoding")
	}
	return &Cert{Encoding: CertEncoding(b[0]), Data: clip(b[1:])}, nil
}

func (p *Cert) appendBody(dst []byte) ([]byte, error) {
	dst = append(dst, byte(p.Encoding))
	return append(dst, p.Data...), nil
}
