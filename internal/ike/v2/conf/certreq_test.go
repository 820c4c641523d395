package conf

import (
	"bytes"
	"slices"
	"testing"

	"caponier/internal/ike/message"
)

// RFC 7296, Section 3.7: one request with the hashes of all CAs that any of the
// connections trusts, and none where certificates are of no use.
func TestCertReqs(t *testing.T) {
	hash := func(b byte) []byte { return bytes.Repeat([]byte{b}, 20) }
	trusting := func(kind AuthKind, hashes ...[]byte) *Connection {
		return &Connection{Remote: Party{Auth: kind, Authorities: hashes}}
	}
	if got := CertReqs(trusting(AuthPSK, hash(1)), trusting(AuthCert)); got != nil {
		t.Errorf("%d requests for nothing", len(got))
	}
	got := CertReqs(trusting(AuthCert, hash(1), hash(2)), trusting(AuthPSK, hash(3)), trusting(AuthCert, hash(2), hash(4)))
	if len(got) != 1 {
		t.Fatalf("%d requests", len(got))
	}
	req := got[0].(*message.CertReq)
	if req.Encoding != message.CertX509Signature || !slices.Equal(req.Data, slices.Concat(hash(1), hash(2), hash(4))) {
		t.Errorf("the request is %+v", req)
	}
}

// RFC 7296, Section 3.6: the leaf first, and nothing with a pre-shared key.
func TestCertPayloads(t *testing.T) {
	p := Party{Auth: AuthCert, Certificates: [][]byte{[]byte("leaf"), []byte("intermediate")}}
	got := p.CertPayloads()
	if len(got) != 2 || string(got[0].(*message.Cert).Data) != "leaf" || string(got[1].(*message.Cert).Data) != "intermediate" {
		t.Errorf("the certificates are %v", got)
	}
	p.Auth = AuthPSK
	if got := p.CertPayloads(); got != nil {
		t.Errorf("with a pre-shared key the certificates are %v", got)
	}
}
