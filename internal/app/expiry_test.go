package app

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"
	"time"
)

func TestExpiring(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	c := &credentials{validities: validities("remote.ca", []*x509.Certificate{
		{Subject: pkix.Name{CommonName: "gone"}, NotAfter: now.Add(-time.Hour)},
		{Subject: pkix.Name{CommonName: "soon"}, NotAfter: now.Add(29 * 24 * time.Hour)},
		{Subject: pkix.Name{CommonName: "late"}, NotAfter: now.Add(31 * 24 * time.Hour)},
	})}
	got := c.expiring(now)
	if len(got) != 2 || got[0].Code != "certificate-expired" || got[1].Code != "certificate-expires" ||
		got[1].Message != "the certificate of CN=soon expires on 2030-01-30" || got[1].Cure == "" {
		t.Errorf("%+v", got)
	}
}
