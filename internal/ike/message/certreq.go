package message

// CertReq is the Certificate Request payload (RFC 7296, Section 3.7). For
// X.509, Data is a list of SHA-1 hashes of the CAs' SubjectPublicKeyInfo.
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| Cert Encoding |                                               |
//	+-+-+-+-+-+-+-+-+                                               +
//	~                    Certification Authority                    ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
type CertReq struct {
	Encoding CertEncoding
	Data     []byte
}

// Type is TypeCertReq.
func (*CertReq) Type() PayloadType { return TypeCertReq }

func parseCertReq(b []byte) (*CertReq, error) {
	if len(b) == 0 {
		return nil, syntaxf("no encoding")
	}
	return &CertReq{Encoding: CertEncoding(b[0]), Data: clip(b[1:])}, nil
}

func (p *CertReq) appendBody(dst []byte) ([]byte, error) {
	dst = append(dst, byte(p.Encoding))
	return append(dst, p.Data...), nil
}
